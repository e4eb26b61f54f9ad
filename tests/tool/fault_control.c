// SPDX-License-Identifier: Apache-2.0
//
// The functions of the fault proxy: each takes the mutex, changes or reads something, and wakes the
// thread. They run in the test's own thread and may fail the test, but never while they have the
// mutex.

#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/tool/fault_proxy_state.h"

enum {
    BACKLOG = 64,
};

// ---- Life ----
static int listen_unix(struct fault_proxy *proxy)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    static int number;
    char name[32];

    snprintf(name, sizeof name, "proxy%d.sock", number++);
    strcpy(address.sun_path, scratch_path(name));
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    snprintf(proxy->url, sizeof proxy->url, "unix://%s", address.sun_path);
    return fd;
}

static int listen_tcp(struct fault_proxy *proxy)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    proxy->port = ntohs(address.sin_port);
    snprintf(proxy->url, sizeof proxy->url, "redis://127.0.0.1:%d", proxy->port);
    return fd;
}

struct fault_proxy *fault_proxy_new(const char *redis_socket, bool tcp)
{
    struct fault_proxy *proxy = calloc(1, sizeof *proxy);

    ck_assert_ptr_nonnull(proxy);
    proxy->records = calloc(FAULT_MAX_RECORDS, sizeof *proxy->records);
    ck_assert_ptr_nonnull(proxy->records);
    snprintf(proxy->redis_socket, sizeof proxy->redis_socket, "%s", redis_socket);
    for (int i = 0; i < FAULT_DIRECTIONS; i++)
        proxy->modes[i].dribble_us = -1;
    proxy->listener = tcp ? listen_tcp(proxy) : listen_unix(proxy);
    ck_assert_int_eq(listen(proxy->listener, BACKLOG), 0);
    proxy->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ck_assert_int_ge(proxy->wake, 0);
    pthread_mutex_init(&proxy->mutex, NULL);
    pthread_cond_init(&proxy->fired_changed, NULL);
    ck_assert_int_eq(pthread_create(&proxy->thread, NULL, fault_proxy_run, proxy), 0);
    return proxy;
}

static void begin(struct fault_proxy *proxy)
{
    pthread_mutex_lock(&proxy->mutex);
}

static void end(struct fault_proxy *proxy)
{
    uint64_t one = 1;

    (void)!write(proxy->wake, &one, sizeof one);
    pthread_mutex_unlock(&proxy->mutex);
}

struct fault_proxy *fault_proxy_free(struct fault_proxy *proxy)
{
    if (!proxy)
        return NULL;
    begin(proxy);
    proxy->ending = true;
    end(proxy);
    pthread_join(proxy->thread, NULL);
    close(proxy->listener);
    close(proxy->wake);
    for (size_t i = 0; i < proxy->record_count; i++)
        free(proxy->records[i].text);
    for (int i = 0; i < proxy->rule_count; i++)
        free((void *)(uintptr_t)proxy->rules[i].bytes);
    free(proxy->records);
    pthread_cond_destroy(&proxy->fired_changed);
    pthread_mutex_destroy(&proxy->mutex);
    free(proxy);
    return NULL;
}

const char *fault_proxy_url(const struct fault_proxy *proxy)
{
    return proxy->url;
}

int fault_proxy_port(const struct fault_proxy *proxy)
{
    return proxy->port;
}

// ---- Rules ----

void fault_proxy_arm(struct fault_proxy *proxy, const struct fault_rule *rule)
{
    char *bytes = NULL;

    if (rule->length) {
        bytes = malloc(rule->length);
        ck_assert_ptr_nonnull(bytes);
        memcpy(bytes, rule->bytes, rule->length);
    }
    begin(proxy);
    assert(proxy->rule_count < FAULT_MAX_RULES);
    proxy->rules[proxy->rule_count] = *rule;
    proxy->rules[proxy->rule_count++].bytes = bytes;
    end(proxy);
}

void fault_proxy_await_fired(struct fault_proxy *proxy, int count, int64_t timeout_ms)
{
    struct timespec until;
    int fired;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    begin(proxy);
    while (proxy->fired < count &&
           pthread_cond_timedwait(&proxy->fired_changed, &proxy->mutex, &until) == 0)
        ;
    fired = proxy->fired;
    end(proxy);
    ck_assert_msg(fired >= count, "%d of %d rules have fired", fired, count);
}

void fault_proxy_flush(struct fault_proxy *proxy)
{
    begin(proxy);
    for (int i = 0; i < FAULT_MAX_LINKS * FAULT_DIRECTIONS; i++)
        proxy->links[i / FAULT_DIRECTIONS].pipes[i % FAULT_DIRECTIONS].not_before_us = 0;
    end(proxy);
}

// ---- Modes ----

void fault_proxy_hold(struct fault_proxy *proxy, enum fault_direction direction, bool on)
{
    begin(proxy);
    proxy->modes[direction].hold = on;
    end(proxy);
}

void fault_proxy_drop(struct fault_proxy *proxy, enum fault_direction direction, bool on)
{
    begin(proxy);
    proxy->modes[direction].drop = on;
    end(proxy);
}

void fault_proxy_delay(struct fault_proxy *proxy, enum fault_direction direction, int64_t ms)
{
    begin(proxy);
    proxy->modes[direction].delay_us = ms * 1000;
    end(proxy);
}

void fault_proxy_dribble(struct fault_proxy *proxy, enum fault_direction direction, int64_t us)
{
    begin(proxy);
    proxy->modes[direction].dribble_us = us;
    end(proxy);
}

void fault_proxy_redirect(struct fault_proxy *proxy, const char *redis_socket)
{
    begin(proxy);
    snprintf(proxy->redis_socket, sizeof proxy->redis_socket, "%s", redis_socket);
    end(proxy);
}

void fault_proxy_refuse(struct fault_proxy *proxy, bool on)
{
    begin(proxy);
    proxy->refusing = on;
    end(proxy);
}

void fault_proxy_cut(struct fault_proxy *proxy)
{
    begin(proxy);
    for (int i = 0; i < FAULT_MAX_LINKS; i++) {
        if (proxy->links[i].used)
            fault_proxy_close_link(proxy, &proxy->links[i]);
    }
    end(proxy);
}

void fault_proxy_strand(struct fault_proxy *proxy)
{
    begin(proxy);
    for (int i = 0; i < FAULT_MAX_LINKS; i++)
        proxy->links[i].stranded = proxy->links[i].used;
    end(proxy);
}

void fault_proxy_inject(struct fault_proxy *proxy, const char *bytes, size_t length)
{
    begin(proxy);
    for (int i = 0; i < FAULT_MAX_LINKS; i++) {
        if (proxy->links[i].used && proxy->links[i].fd[FAULT_DOWN] >= 0)
            fault_proxy_add_chunk(&proxy->links[i].pipes[FAULT_DOWN], bytes, length, 0);
    }
    end(proxy);
}

// ---- What was seen ----

int fault_proxy_count(struct fault_proxy *proxy, enum resp_kind kind, const char *text,
                      int64_t since_ms)
{
    int count = 0;

    begin(proxy);
    for (size_t i = 0; i < proxy->record_count; i++) {
        const struct fault_record *record = &proxy->records[i];

        count += record->at_ms >= since_ms && (kind == RESP_ANY || record->kind == kind) &&
                 (!text || strstr(record->text, text));
    }
    end(proxy);
    return count;
}

static int read_counter(struct fault_proxy *proxy, const int *counter)
{
    int value;

    begin(proxy);
    value = *counter;
    end(proxy);
    return value;
}

int fault_proxy_connections(struct fault_proxy *proxy)
{
    return read_counter(proxy, &proxy->connections);
}

int fault_proxy_late_written(struct fault_proxy *proxy)
{
    return read_counter(proxy, &proxy->late_written);
}

int fault_proxy_late_lost(struct fault_proxy *proxy)
{
    return read_counter(proxy, &proxy->late_lost);
}
