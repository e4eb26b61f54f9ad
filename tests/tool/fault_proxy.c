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

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/tool/fault_proxy_state.h"

static int64_t now_us(void)
{
    return scratch_monotonic_us();
}

// ---- Chunks ----

void fault_proxy_add_chunk(struct fault_pipe *pipe, const char *bytes, size_t length,
                           int64_t due_us)
{
    struct fault_chunk *chunk = malloc(sizeof *chunk + length);

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

static void drop_chunk(struct fault_pipe *pipe)
{
    struct fault_chunk *chunk = pipe->first;

    pipe->first = chunk->next;
    free(chunk);
}

// ---- Links ----

static void close_side(struct fault_proxy *proxy, struct fault_link *link,
                       enum fault_direction direction)
{
    bool late = direction == FAULT_UP && link->fd[FAULT_DOWN] < 0;

    if (link->fd[direction] >= 0)
        close(link->fd[direction]);
    link->fd[direction] = -1;
    // What came from there has ended; what would go there goes nowhere.
    link->pipes[!direction].ended = true;
    while (link->pipes[direction].first) {
        proxy->late_lost += late;
        drop_chunk(&link->pipes[direction]);
    }
}

void fault_proxy_close_link(struct fault_proxy *proxy, struct fault_link *link)
{
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        close_side(proxy, link, (enum fault_direction)i);
        buf_deinit(&link->pipes[i].message);
    }
    free(link->due);
    *link = (struct fault_link){0};
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

static struct fault_link *free_link(struct fault_proxy *proxy)
{
    for (int i = 0; i < FAULT_MAX_LINKS; i++) {
        if (!proxy->links[i].used)
            return &proxy->links[i];
    }
    return NULL;
}

static void accept_link(struct fault_proxy *proxy)
{
    int one = 1, server = -1, client;
    struct fault_link *link = free_link(proxy);

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
    struct fault_record *record = &proxy->records[proxy->record_count];

    if (proxy->record_count == FAULT_MAX_RECORDS)
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

static void push_due(struct fault_link *link, enum resp_kind kind)
{
    if (link->due_count == link->due_room) {
        link->due_room = link->due_room ? link->due_room * 2 : 64;
        link->due = reallocarray(link->due, link->due_room, sizeof *link->due);
        if (!link->due)
            abort();
    }
    link->due[link->due_count++] = kind;
}

static enum resp_kind pop_due(struct fault_link *link)
{
    enum resp_kind kind;

    if (link->due_count == 0)
        return RESP_OTHER;
    kind = link->due[0];
    memmove(link->due, link->due + 1, --link->due_count * sizeof *link->due);
    return kind;
}

// False: the link is gone.
static bool carry_out(struct fault_proxy *proxy, struct fault_link *link,
                      enum fault_direction direction, const struct fault_rule *rule,
                      const char *bytes, size_t length)
{
    struct fault_pipe *pipe = &link->pipes[direction];

    if (rule->act == FAULT_CUT) {
        fault_proxy_close_link(proxy, link);
        return false;
    }
    if (rule->act == FAULT_STALL || rule->act == FAULT_LATE)
        pipe->not_before_us = rule->after_ms ? now_us() + rule->after_ms * 1000 : INT64_MAX;
    if (rule->act != FAULT_REPLACE)
        fault_proxy_add_chunk(pipe, bytes, length, 0);
    if (rule->length)
        fault_proxy_add_chunk(pipe, rule->bytes, rule->length, 0);
    free((void *)(uintptr_t)rule->bytes);
    if (rule->act == FAULT_LATE)
        close_side(proxy, link, FAULT_DOWN);
    return true;
}

static bool take_message(struct fault_proxy *proxy, struct fault_link *link,
                         enum fault_direction direction, const char *bytes, size_t length)
{
    const struct fault_mode *mode = &proxy->modes[direction];
    bool reply = direction == FAULT_DOWN;
    enum resp_kind kind = reply ? pop_due(link) : resp_kind_of(bytes, length);
    struct fault_rule rule;

    if (!reply)
        record(proxy, kind, bytes, length);
    if (mode->drop || link->fd[direction] < 0)
        return true;
    if (!reply)
        push_due(link, kind);
    if (take_rule(proxy, kind, reply, &rule))
        return carry_out(proxy, link, direction, &rule, bytes, length);
    fault_proxy_add_chunk(&link->pipes[direction], bytes, length, now_us() + mode->delay_us);
    return true;
}

static void take_bytes(struct fault_proxy *proxy, struct fault_link *link,
                       enum fault_direction direction, const char *bytes, size_t length)
{
    struct fault_pipe *pipe = &link->pipes[direction];

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

static void read_side(struct fault_proxy *proxy, struct fault_link *link,
                      enum fault_direction direction)
{
    ssize_t length = recv(link->fd[!direction], proxy->input, sizeof proxy->input, 0);

    if (length > 0)
        take_bytes(proxy, link, direction, proxy->input, (size_t)length);
    else if (length == 0 || errno != EAGAIN)
        close_side(proxy, link, !direction);
}

static bool may_write(const struct fault_proxy *proxy, const struct fault_link *link,
                      enum fault_direction direction, int64_t *due_us)
{
    const struct fault_pipe *pipe = &link->pipes[direction];

    *due_us = INT64_MAX;
    if (!pipe->first || link->fd[direction] < 0 || proxy->modes[direction].hold)
        return false;
    *due_us = pipe->first->due_us > pipe->not_before_us ? pipe->first->due_us : pipe->not_before_us;
    return *due_us <= now_us();
}

static void write_side(struct fault_proxy *proxy, struct fault_link *link,
                       enum fault_direction direction)
{
    struct fault_pipe *pipe = &link->pipes[direction];
    int64_t dribble_us = proxy->modes[direction].dribble_us;
    int64_t due_us;

    while (may_write(proxy, link, direction, &due_us)) {
        struct fault_chunk *chunk = pipe->first;
        size_t length = dribble_us >= 0 ? 1 : chunk->length - chunk->written;
        ssize_t n = send(link->fd[direction], chunk->bytes + chunk->written, length, MSG_NOSIGNAL);

        if (n < 0) {
            if (errno != EAGAIN)
                close_side(proxy, link, direction);
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
static void settle(struct fault_proxy *proxy, struct fault_link *link)
{
    if (link->stranded)
        return;
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        if (link->pipes[i].ended && !link->pipes[i].first) {
            fault_proxy_close_link(proxy, link);
            return;
        }
    }
}

// ---- The thread ----

// For ppoll: NULL waits for ever. Bytes of a dribble are microseconds apart.
static const struct timespec *poll_timeout(int64_t due_us, struct timespec *timeout)
{
    int64_t left_us = due_us - now_us();

    if (due_us == INT64_MAX)
        return NULL;
    left_us = left_us > 0 ? left_us : 0;
    *timeout = (struct timespec){.tv_sec = left_us / 1000000, .tv_nsec = left_us % 1000000 * 1000};
    return timeout;
}

static void poll_link(const struct fault_proxy *proxy, const struct fault_link *link,
                      struct pollfd polled[FAULT_DIRECTIONS], int64_t *due_us)
{
    for (int i = 0; i < FAULT_DIRECTIONS; i++) {
        int64_t at_us;

        polled[i] = (struct pollfd){.fd = -1};
        if (!link->used || link->stranded || link->fd[i] < 0)
            continue;
        polled[i] = (struct pollfd){.fd = link->fd[i], .events = POLLIN};
        if (may_write(proxy, link, (enum fault_direction)i, &at_us))
            polled[i].events |= POLLOUT;
        else if (at_us < *due_us)
            *due_us = at_us;
    }
}

static void serve_link(struct fault_proxy *proxy, struct fault_link *link,
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
            write_side(proxy, link, (enum fault_direction)i);
    }
    if (link->used)
        settle(proxy, link);
}

void *fault_proxy_run(void *context)
{
    struct fault_proxy *proxy = context;
    struct pollfd polled[2 + FAULT_MAX_LINKS * FAULT_DIRECTIONS];
    struct timespec timeout;
    uint64_t count;

    pthread_mutex_lock(&proxy->mutex);
    while (!proxy->ending) {
        int64_t due_us = INT64_MAX;

        polled[0] = (struct pollfd){.fd = proxy->wake, .events = POLLIN};
        polled[1] = (struct pollfd){.fd = proxy->listener, .events = POLLIN};
        for (int i = 0; i < FAULT_MAX_LINKS; i++)
            poll_link(proxy, &proxy->links[i], &polled[2 + i * FAULT_DIRECTIONS], &due_us);
        pthread_mutex_unlock(&proxy->mutex);
        (void)ppoll(polled, sizeof polled / sizeof polled[0], poll_timeout(due_us, &timeout), NULL);
        pthread_mutex_lock(&proxy->mutex);
        if (polled[0].revents)
            (void)!read(proxy->wake, &count, sizeof count);
        for (int i = 0; i < FAULT_MAX_LINKS; i++) {
            if (proxy->links[i].used)
                serve_link(proxy, &proxy->links[i], &polled[2 + i * FAULT_DIRECTIONS]);
        }
        if (polled[1].revents & POLLIN)
            accept_link(proxy);
    }
    for (int i = 0; i < FAULT_MAX_LINKS; i++) {
        if (proxy->links[i].used)
            fault_proxy_close_link(proxy, &proxy->links[i]);
    }
    pthread_mutex_unlock(&proxy->mutex);
    return NULL;
}
