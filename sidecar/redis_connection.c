// SPDX-License-Identifier: Apache-2.0
//
// The connection.
//
// States: CLOSED -> CONNECTING -> OPEN, and from each of those back to CLOSED through close. A write
// may fail deep inside a call of the owner's user, who must not be called back from there; so a
// failure only sets BROKEN and feeds the loop an event for the read watcher, which tells the owner.
//
// A turn reads once, at most 64 KiB; epoll reports the rest. Then the owner reads the clock and
// sweeps (begin), and only then are replies believed, one by one. Since a hook may close this
// connection, or even open the next one in the same struct, the loop over replies compares `serial`
// after each. The reply in use lives in the reader, so that is freed at the end of the turn.
//
// A reply that nothing is due for, like every other sign that the two sides count differently, ends
// the connection: replies are matched by their order alone.
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sidecar/clock.h"
#include "sidecar/redis_connection.h"

enum {
    RING_MIN_CAPACITY = 64,
    SILENCES_FOR_ONE_REPLY = 4,
};

// ---- Replies due ----

void redis_due_push(struct redis_due_ring *ring, void *call, int64_t sent_at_ms)
{
    if (ring->count == ring->capacity) {
        size_t capacity = ring->capacity ? ring->capacity * 2 : RING_MIN_CAPACITY;
        struct redis_due *due = malloc(capacity * sizeof *due);

        if (!due)
            abort(); // a call that could be neither answered nor given back
        for (size_t i = 0; i < ring->count; i++)
            due[i] = ring->due[(ring->head + i) & (ring->capacity - 1)];
        free(ring->due);
        ring->due = due;
        ring->head = 0;
        ring->capacity = capacity;
    }
    ring->due[(ring->head + ring->count++) & (ring->capacity - 1)] =
        (struct redis_due){call, sent_at_ms};
}

void *redis_due_pop(struct redis_due_ring *ring)
{
    void *call;

    if (ring->count == 0)
        return NULL;
    call = ring->due[ring->head].call;
    ring->head = (ring->head + 1) & (ring->capacity - 1);
    ring->count--;
    return call;
}

void redis_due_deinit(struct redis_due_ring *ring)
{
    free(ring->due);
    *ring = (struct redis_due_ring){0};
}

// ---- Failure ----

static void set_error(struct redis_connection *connection, const char *what, const char *why)
{
    snprintf(connection->error, sizeof connection->error, "%s: %s", what, why);
}

// The owner hears of it from the loop.
static void break_later(struct redis_connection *connection, const char *what, const char *why)
{
    set_error(connection, what, why);
    connection->state = REDIS_CONNECTION_BROKEN;
    ev_io_stop(connection->loop, &connection->writable);
    ev_feed_event(connection->loop, &connection->readable, EV_READ);
}

static void break_now(struct redis_connection *connection, const char *what, const char *why,
                      int64_t now_ms)
{
    set_error(connection, what, why);
    connection->state = REDIS_CONNECTION_BROKEN;
    connection->hooks->broke(connection->context, now_ms);
}

// ---- Reading ----

static bool is_pushed(const struct redis_connection *connection, const struct redis_reply *reply,
                      int64_t now_ms)
{
    return connection->hooks->pushed &&
           connection->hooks->pushed(connection->context, reply, now_ms);
}

static void deliver(struct redis_connection *connection, size_t size, int64_t now_ms)
{
    uint64_t serial = connection->serial;
    const struct redis_reply *reply;
    int r = redis_reader_feed(connection->reader, connection->input, size);

    while (r == 0 && (r = redis_reader_next(connection->reader, &reply)) > 0) {
        void *call;

        if (!is_pushed(connection, reply, now_ms)) {
            call = redis_due_pop(&connection->due);
            if (!call) {
                break_now(connection, "protocol error", "a reply that nobody asked for", now_ms);
                return;
            }
            connection->hooks->answered(connection->context, call, reply, now_ms);
        }
        if (connection->serial != serial)
            return;
        r = 0;
    }
    if (r < 0)
        break_now(connection, "protocol error", redis_reader_error(connection->reader), now_ms);
}

static void take_input(struct redis_connection *connection, ssize_t size, int error, int64_t now_ms)
{
    struct redis_reader *reader = connection->reader;
    uint64_t serial = connection->serial;

    connection->in_use = reader;
    if (connection->state == REDIS_CONNECTION_BROKEN)
        connection->hooks->broke(connection->context, now_ms);
    else if (size > 0)
        deliver(connection, (size_t)size, now_ms);
    else if (size == 0)
        break_now(connection, "connection closed", "by Redis", now_ms);
    else if (error != EAGAIN && error != EINTR)
        break_now(connection, "read", strerror(error), now_ms);
    connection->in_use = NULL;
    if (connection->serial != serial)
        redis_reader_free(reader);
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct redis_connection *connection = watcher->data;
    uint64_t serial = connection->serial;
    ssize_t size = -1;
    int error = EAGAIN;
    int64_t now_ms;

    (void)loop;
    (void)events;
    if (connection->state == REDIS_CONNECTION_OPEN) {
        size = recv(connection->fd, connection->input, sizeof connection->input, 0);
        error = errno;
        if (size > 0)
            connection->last_byte_ms = clock_boottime_ms();
    }
    now_ms = connection->hooks->begin(connection->context);
    if (connection->serial == serial)
        take_input(connection, size, error, now_ms);
    connection->hooks->end(connection->context, now_ms);
}

// ---- Writing ----

void redis_connection_write(struct redis_connection *connection)
{
    struct buf *output = &connection->output;

    if (!redis_connection_is_clear(connection))
        return;
    if (output->failed) {
        break_later(connection, "write", "out of memory");
        return;
    }
    while (buf_length(output) > 0) {
        ssize_t n = send(connection->fd, buf_bytes(output), buf_length(output), MSG_NOSIGNAL);

        if (n > 0) {
            buf_consume(output, (size_t)n);
        } else if (n < 0 && errno == EAGAIN) {
            ev_io_start(connection->loop, &connection->writable);
            return;
        } else if (n < 0 && errno != EINTR) {
            break_later(connection, "write", strerror(errno));
            return;
        }
    }
}

static void finish_connect(struct redis_connection *connection)
{
    uint64_t serial = connection->serial;
    int error = 0;
    socklen_t size = sizeof error;
    int64_t now_ms;

    if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    now_ms = connection->hooks->begin(connection->context);
    if (connection->serial == serial) {
        if (error) {
            break_now(connection, "connect", strerror(error), now_ms);
        } else {
            connection->state = REDIS_CONNECTION_OPEN;
            ev_io_stop(connection->loop, &connection->writable);
            ev_io_start(connection->loop, &connection->readable);
            connection->hooks->opened(connection->context, now_ms);
        }
    }
    connection->hooks->end(connection->context, now_ms);
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct redis_connection *connection = watcher->data;

    (void)events;
    if (connection->state == REDIS_CONNECTION_CONNECTING) {
        finish_connect(connection);
    } else {
        ev_io_stop(loop, watcher);
        redis_connection_write(connection);
    }
}

// ---- Life ----

void redis_connection_init(struct redis_connection *connection, struct ev_loop *loop,
                           const struct redis_connection_hooks *hooks, void *context)
{
    memset(connection, 0, sizeof *connection);
    connection->loop = loop;
    connection->hooks = hooks;
    connection->context = context;
    connection->fd = -1;
    ev_init(&connection->readable, on_readable);
    ev_init(&connection->writable, on_writable);
    connection->readable.data = connection;
    connection->writable.data = connection;
    // What Redis says comes before what clients ask, as far as one round of epoll goes.
    ev_set_priority(&connection->readable, EV_MAXPRI - 1);
}

void redis_connection_deinit(struct redis_connection *connection)
{
    assert(connection->state == REDIS_CONNECTION_CLOSED && connection->due.count == 0);
    redis_due_deinit(&connection->due);
    buf_deinit(&connection->output);
}

static void set_option(int fd, int level, int option, int value)
{
    // Each only makes a dead peer known sooner: a system without one still has our own timeouts.
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

static int open_socket(const struct resolver_address *address, int64_t timeout_ms)
{
    int family = address->storage.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (family != AF_UNIX) {
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
                   timeout_ms > INT32_MAX ? INT32_MAX : (int)timeout_ms);
        set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 15);
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    }
    if (connect(fd, (const struct sockaddr *)&address->storage, address->length) < 0 &&
        errno != EINPROGRESS) {
        int error = errno;

        close(fd);
        return -error;
    }
    return fd;
}

int redis_connection_open(struct redis_connection *connection,
                          const struct resolver_address *address, int64_t timeout_ms)
{
    struct redis_reader *reader;
    int fd;

    assert(connection->state == REDIS_CONNECTION_CLOSED && connection->due.count == 0);
    fd = open_socket(address, timeout_ms);
    if (fd < 0) {
        set_error(connection, "connect", strerror(-fd));
        return fd;
    }
    reader = redis_reader_new();
    if (!reader) {
        close(fd);
        set_error(connection, "connect", "out of memory");
        return -ENOMEM;
    }
    connection->serial++;
    connection->state = REDIS_CONNECTION_CONNECTING;
    connection->fd = fd;
    connection->reader = reader;
    connection->last_byte_ms = 0;
    connection->checked_ms = 0;
    connection->graced_ms = 0;
    connection->error[0] = '\0';
    ev_io_set(&connection->readable, fd, EV_READ);
    ev_io_set(&connection->writable, fd, EV_WRITE);
    // A Unix socket is connected by now, and says so at once.
    ev_io_start(connection->loop, &connection->writable);
    return 0;
}

void redis_connection_close(struct redis_connection *connection)
{
    if (connection->state == REDIS_CONNECTION_CLOSED)
        return;
    connection->serial++;
    connection->state = REDIS_CONNECTION_CLOSED;
    ev_io_stop(connection->loop, &connection->readable);
    ev_io_stop(connection->loop, &connection->writable);
    close(connection->fd);
    connection->fd = -1;
    buf_deinit(&connection->output);
    if (connection->reader != connection->in_use)
        redis_reader_free(connection->reader);
    connection->reader = NULL;
}

void redis_connection_expect(struct redis_connection *connection, void *call, int64_t sent_at_ms)
{
    redis_due_push(&connection->due, call, sent_at_ms);
}

// ---- Silence ----

int64_t redis_connection_silent_at(const struct redis_connection *connection, int64_t limit_ms)
{
    const struct redis_due_ring *ring = &connection->due;
    int64_t sent_at_ms, at_ms, checked_ms;

    if (ring->count == 0)
        return INT64_MAX;
    sent_at_ms = ring->due[ring->head].sent_at_ms;
    at_ms =
        (connection->last_byte_ms > sent_at_ms ? connection->last_byte_ms : sent_at_ms) + limit_ms;
    if (at_ms > sent_at_ms + SILENCES_FOR_ONE_REPLY * limit_ms)
        at_ms = sent_at_ms + SILENCES_FOR_ONE_REPLY * limit_ms;
    checked_ms = connection->checked_ms + limit_ms;
    return at_ms > checked_ms ? at_ms : checked_ms;
}

bool redis_connection_is_silent(struct redis_connection *connection, int64_t limit_ms,
                                int64_t now_ms)
{
    int64_t sent_at_ms = connection->due.due[connection->due.head].sent_at_ms;
    char byte;

    if (recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
        return true;
    if (now_ms < sent_at_ms + SILENCES_FOR_ONE_REPLY * limit_ms) {
        connection->last_byte_ms = now_ms;
        return false;
    }
    // It is a byte that woke the loop, so there always is one here. Unless this reply is given time
    // only once, bytes that trickle without end would keep it alive.
    if (connection->graced_ms == sent_at_ms)
        return true;
    connection->graced_ms = sent_at_ms;
    connection->checked_ms = now_ms;
    return false;
}
