// SPDX-License-Identifier: Apache-2.0
//
// The fault proxy.
//
// Model: a link is a pair of sockets with a pipe in each direction. What comes in is cut into
// messages; each becomes a chunk with the instant before which it is not written. A pipe whose
// source has ended is closed when its chunks are written, so what is held outlives the side it came
// from: bytes of a dead connection are nothing but a held pipe.
//
// Replies belong to requests by their order; a link keeps the kinds of those that are due.
//
// One mutex covers everything. The thread holds it except in poll; a function of ours takes it,
// changes something and wakes the thread. The thread fails no assertion (only the test's own thread
// may leave by check's way out): what must not happen there aborts.

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "protocol/buf.h"
#include "tests/tool/fault_proxy.h"
#include "tests/tool/scratch.h"

enum {
    MAX_LINKS = 64,
    MAX_RULES = 16,
    MAX_RECORDS = 65536,
    BACKLOG = 64,
};

struct chunk {
    struct chunk *next;
    int64_t due_us;
    size_t length, written;
    char bytes[];
};

struct pipe {
    struct resp_scan scan;
    struct buf message; // in progress
    struct chunk *first, **last;
    int64_t not_before_us; // of the whole pipe: stalled, or the next byte of a dribble
    bool ended;            // its source
};

struct link {
    int fd[FAULT_DIRECTIONS]; // where that direction's bytes go; -1: that side is closed
    bool used;
    bool stranded;
    struct pipe pipes[FAULT_DIRECTIONS];
    enum resp_kind *due; // kinds of the requests whose replies are to come
    size_t due_count, due_room;
};

struct mode {
    bool hold, drop;
    int64_t delay_us, dribble_us;
};

struct record {
    int64_t at_ms;
    enum resp_kind kind;
    char *text; // NUL-terminated; NULs inside became blanks
};

struct fault_proxy {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t fired_changed;
    bool ending, refusing;
    int listener, wake;
    int port;
    char redis_socket[SCRATCH_MAX_PATH];
    char url[SCRATCH_MAX_PATH + 16];
    struct mode modes[FAULT_DIRECTIONS];
    struct link links[MAX_LINKS];
    struct fault_rule rules[MAX_RULES];
    int rule_count, fired;
    struct record *records;
    size_t record_count;
    int connections, late_written, late_lost;
};

static int64_t now_us(void)
{
    return scratch_monotonic_us();
}

// ---- Chunks ----

static void add_chunk(struct pipe *pipe, const char *bytes, size_t length, int64_t due_us)
{
    struct chunk *chunk = malloc(sizeof *chunk + length);

    if (!chunk)
        abort();
    chunk->next = NULL;
    chunk->due_us = due_us;
    chunk->length = length;
    chunk->written = 0;
    memcpy(chunk->bytes, bytes, length);
    if (!pipe->first)
        pipe->last = &pipe->first;
    *pipe->last = chunk;
    pipe->last = &chunk->next;
}

static void drop_chunk(struct pipe *pipe)
{
    struct chunk *chunk = pipe->first;

    pipe->first = chunk->next;
    free(chunk);
}

// ---- Links ----

static void close_side(struct link *link, enum fault_direction direction)
{
    if (link->fd[direction] >= 0)
        close(link->fd[direction]);
    link->fd[direction] = -1;
    // What came from there has ended; what would go there goes nowhere.
    link->pipes[!direction].ended = true;
    while (link->pipes[direction].first)
        drop_chunk(&link->pipes[direction]);
}

static void close_link(struct fault_proxy *proxy, struct link *link)
{
    if (link->fd[FAULT_DOWN] < 0) {
        for (struct chunk *chunk = link->pipes[FAULT_UP].first; chunk; chunk = chunk->next)
            proxy->late_lost++;
    }
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        close_side(link, i);
        buf_deinit(&link->pipes[i].message);
    }
    free(link->due);
    *link = (struct link){0};
}

static int connect_redis(const struct fault_proxy *proxy)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    strcpy(address.sun_path, proxy->redis_socket);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static struct link *free_link(struct fault_proxy *proxy)
{
    for (int i = 0; i < MAX_LINKS; i++) {
        if (!proxy->links[i].used)
            return &proxy->links[i];
    }
    return NULL;
}

static void accept_link(struct fault_proxy *proxy)
{
    int one = 1, server = -1, client;
    struct link *link = free_link(proxy);

    client = accept4(proxy->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0)
        return;
    proxy->connections++;
    if (!proxy->refusing && link)
        server = connect_redis(proxy);
    if (server < 0) {
        close(client);
        return;
    }
    if (proxy->port)
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    link->used = true;
    link->fd[FAULT_UP] = server;
    link->fd[FAULT_DOWN] = client;
}

// ---- Messages ----

static void record(struct fault_proxy *proxy, enum resp_kind kind, const char *bytes, size_t length)
{
    struct record *record = &proxy->records[proxy->record_count];

    if (proxy->record_count == MAX_RECORDS)
        abort();
    record->at_ms = scratch_boottime_ms();
    record->kind = kind;
    record->text = malloc(length + 1);
    if (!record->text)
        abort();
    for (size_t i = 0; i < length; i++)
        record->text[i] = bytes[i] ? bytes[i] : ' ';
    record->text[length] = '\0';
    proxy->record_count++;
}

// The rule that this message fires, taken off the list.
static bool take_rule(struct fault_proxy *proxy, enum resp_kind kind, bool reply,
                      struct fault_rule *taken)
{
    for (int i = 0; i < proxy->rule_count; i++) {
        struct fault_rule *rule = &proxy->rules[i];

        if ((rule->at == FAULT_REPLY) != reply || (rule->kind != RESP_ANY && rule->kind != kind) ||
            rule->skip-- > 0)
            continue;
        *taken = *rule;
        memmove(rule, rule + 1, (size_t)(--proxy->rule_count - i) * sizeof *rule);
        proxy->fired++;
        pthread_cond_broadcast(&proxy->fired_changed);
        return true;
    }
    return false;
}

static void push_due(struct link *link, enum resp_kind kind)
{
    if (link->due_count == link->due_room) {
        link->due_room = link->due_room ? link->due_room * 2 : 64;
        link->due = reallocarray(link->due, link->due_room, sizeof *link->due);
        if (!link->due)
            abort();
    }
    link->due[link->due_count++] = kind;
}

static enum resp_kind pop_due(struct link *link)
{
    enum resp_kind kind;

    if (link->due_count == 0)
        return RESP_OTHER;
    kind = link->due[0];
    memmove(link->due, link->due + 1, --link->due_count * sizeof *link->due);
    return kind;
}

// False: the link is gone.
static bool carry_out(struct fault_proxy *proxy, struct link *link, enum fault_direction direction,
                      const struct fault_rule *rule, const char *bytes, size_t length)
{
    struct pipe *pipe = &link->pipes[direction];

    if (rule->act == FAULT_CUT) {
        close_link(proxy, link);
        return false;
    }
    if (rule->act == FAULT_STALL || rule->act == FAULT_LATE)
        pipe->not_before_us = rule->after_ms ? now_us() + rule->after_ms * 1000 : INT64_MAX;
    if (rule->act != FAULT_REPLACE)
        add_chunk(pipe, bytes, length, 0);
    if (rule->length)
        add_chunk(pipe, rule->bytes, rule->length, 0);
    free((void *)(uintptr_t)rule->bytes);
    if (rule->act == FAULT_LATE)
        close_side(link, FAULT_DOWN);
    return true;
}

static bool take_message(struct fault_proxy *proxy, struct link *link,
                         enum fault_direction direction, const char *bytes, size_t length)
{
    const struct mode *mode = &proxy->modes[direction];
    bool reply = direction == FAULT_DOWN;
    enum resp_kind kind = reply ? pop_due(link) : resp_kind_of(bytes, length);
    struct fault_rule rule;

    if (!reply)
        record(proxy, kind, bytes, length);
    if (mode->drop)
        return true;
    if (!reply)
        push_due(link, kind);
    if (take_rule(proxy, kind, reply, &rule))
        return carry_out(proxy, link, direction, &rule, bytes, length);
    add_chunk(&link->pipes[direction], bytes, length, now_us() + mode->delay_us);
    return true;
}

static void take_bytes(struct fault_proxy *proxy, struct link *link, enum fault_direction direction,
                       const char *bytes, size_t length)
{
    struct pipe *pipe = &link->pipes[direction];

    for (size_t i = 0; i < length; i++) {
        int r = resp_scan_byte(&pipe->scan, bytes[i]);

        if (r < 0)
            abort(); // neither Redis nor the sidecar says such a thing
        buf_append(&pipe->message, &bytes[i], 1);
        if (r == 0)
            continue;
        if (!take_message(proxy, link, direction, buf_bytes(&pipe->message),
                          buf_length(&pipe->message)))
            return;
        buf_consume(&pipe->message, buf_length(&pipe->message));
    }
}

// ---- Reading and writing ----

static void read_side(struct fault_proxy *proxy, struct link *link, enum fault_direction direction)
{
    static char bytes[65536]; // of the one thread
    int fd = link->fd[!direction];
    ssize_t length = recv(fd, bytes, sizeof bytes, 0);

    if (length > 0)
        take_bytes(proxy, link, direction, bytes, (size_t)length);
    else if (length == 0 || errno != EAGAIN)
        close_side(link, !direction);
}

static bool may_write(const struct fault_proxy *proxy, const struct link *link,
                      enum fault_direction direction, int64_t *due_us)
{
    const struct pipe *pipe = &link->pipes[direction];

    *due_us = INT64_MAX;
    if (!pipe->first || link->fd[direction] < 0 || proxy->modes[direction].hold)
        return false;
    *due_us = pipe->first->due_us > pipe->not_before_us ? pipe->first->due_us : pipe->not_before_us;
    return *due_us <= now_us();
}

static void write_side(struct fault_proxy *proxy, struct link *link, enum fault_direction direction)
{
    struct pipe *pipe = &link->pipes[direction];
    int64_t dribble_us = proxy->modes[direction].dribble_us;
    int64_t due_us;

    while (may_write(proxy, link, direction, &due_us)) {
        struct chunk *chunk = pipe->first;
        size_t length = dribble_us >= 0 ? 1 : chunk->length - chunk->written;
        ssize_t n =
            send(link->fd[direction], chunk->bytes + chunk->written, length, MSG_NOSIGNAL);

        if (n < 0) {
            if (errno != EAGAIN)
                close_side(link, direction);
            return;
        }
        chunk->written += (size_t)n;
        if (dribble_us > 0)
            pipe->not_before_us = now_us() + dribble_us;
        if (chunk->written == chunk->length) {
            proxy->late_written += direction == FAULT_UP && link->fd[FAULT_DOWN] < 0;
            drop_chunk(pipe);
        }
    }
}

// A side whose source has ended is closed when all is written.
static void settle(struct fault_proxy *proxy, struct link *link)
{
    if (link->stranded)
        return;
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        if (link->fd[i] < 0 && link->pipes[!i].first && link->fd[!i] >= 0)
            continue; // what came from the closed side is still to be delivered
        if (link->pipes[i].ended && !link->pipes[i].first) {
            close_link(proxy, link);
            return;
        }
    }
}

// ---- The thread ----

static int poll_timeout(int64_t due_us)
{
    int64_t left_us = due_us - now_us();

    if (due_us == INT64_MAX)
        return -1;
    return left_us <= 0 ? 0 : (int)((left_us + 999) / 1000);
}

static void poll_link(const struct fault_proxy *proxy, const struct link *link,
                      struct pollfd polled[FAULT_DIRECTIONS], int64_t *due_us)
{
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        int64_t at_us;

        polled[i] = (struct pollfd){.fd = -1};
        if (!link->used || link->stranded || link->fd[i] < 0)
            continue;
        polled[i] = (struct pollfd){.fd = link->fd[i], .events = POLLIN};
        if (may_write(proxy, link, i, &at_us))
            polled[i].events |= POLLOUT;
        else if (at_us < *due_us)
            *due_us = at_us;
    }
}

static void serve_link(struct fault_proxy *proxy, struct link *link,
                       const struct pollfd polled[FAULT_DIRECTIONS])
{
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        if (polled[i].fd < 0 || link->stranded || link->fd[i] != polled[i].fd)
            continue;
        if (polled[i].revents & (POLLIN | POLLHUP | POLLERR))
            read_side(proxy, link, !i);
    }
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        if (link->used && !link->stranded)
            write_side(proxy, link, i);
    }
    if (link->used)
        settle(proxy, link);
}

static void *run(void *context)
{
    struct fault_proxy *proxy = context;
    struct pollfd polled[2 + MAX_LINKS * FAULT_DIRECTIONS];
    uint64_t count;

    pthread_mutex_lock(&proxy->mutex);
    while (!proxy->ending) {
        int64_t due_us = INT64_MAX;

        polled[0] = (struct pollfd){.fd = proxy->wake, .events = POLLIN};
        polled[1] = (struct pollfd){.fd = proxy->listener, .events = POLLIN};
        for (int i = 0; i < MAX_LINKS; i++)
            poll_link(proxy, &proxy->links[i], &polled[2 + i * FAULT_DIRECTIONS], &due_us);
        pthread_mutex_unlock(&proxy->mutex);
        (void)poll(polled, sizeof polled / sizeof polled[0], poll_timeout(due_us));
        pthread_mutex_lock(&proxy->mutex);
        if (polled[0].revents)
            (void)!read(proxy->wake, &count, sizeof count);
        for (int i = 0; i < MAX_LINKS; i++) {
            if (proxy->links[i].used)
                serve_link(proxy, &proxy->links[i], &polled[2 + i * FAULT_DIRECTIONS]);
        }
        if (polled[1].revents & POLLIN)
            accept_link(proxy);
    }
    for (int i = 0; i < MAX_LINKS; i++) {
        if (proxy->links[i].used)
            close_link(proxy, &proxy->links[i]);
    }
    pthread_mutex_unlock(&proxy->mutex);
    return NULL;
}

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
    proxy->records = calloc(MAX_RECORDS, sizeof *proxy->records);
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
    ck_assert_int_eq(pthread_create(&proxy->thread, NULL, run, proxy), 0);
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
    assert(proxy->rule_count < MAX_RULES);
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
    for (int i = 0; i < MAX_LINKS * FAULT_DIRECTIONS; i++)
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

void fault_proxy_refuse(struct fault_proxy *proxy, bool on)
{
    begin(proxy);
    proxy->refusing = on;
    end(proxy);
}

void fault_proxy_cut(struct fault_proxy *proxy)
{
    begin(proxy);
    for (int i = 0; i < MAX_LINKS; i++) {
        if (proxy->links[i].used)
            close_link(proxy, &proxy->links[i]);
    }
    end(proxy);
}

void fault_proxy_strand(struct fault_proxy *proxy)
{
    begin(proxy);
    for (int i = 0; i < MAX_LINKS; i++)
        proxy->links[i].stranded = proxy->links[i].used;
    end(proxy);
}

void fault_proxy_inject(struct fault_proxy *proxy, const char *bytes, size_t length)
{
    begin(proxy);
    for (int i = 0; i < MAX_LINKS; i++) {
        if (proxy->links[i].used && proxy->links[i].fd[FAULT_DOWN] >= 0)
            add_chunk(&proxy->links[i].pipes[FAULT_DOWN], bytes, length, 0);
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
        const struct record *record = &proxy->records[i];

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
