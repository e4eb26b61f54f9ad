// SPDX-License-Identifier: Apache-2.0
//
// The connection: IDLE until somebody asks for one, GREETING while hello is not answered, UP, and
// AWAY between attempts.
//
// It is closed in one place, client_link_step, after all that came in was read: the sidecar's last
// words count. What finds that the connection is no good (a write that failed, a line that is none,
// no memory) only says so by client_link_end.
//
// Pauses between attempts double up to a bound, which is a fraction of the TTL while leases are
// held, and are spread, so that the clients of a restarted sidecar do not come in step.
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/inside.h"

enum {
    CHUNK = 16384,
    CHUNKS_A_STEP = 64, // as much as the sidecar lets stand unread
    PAUSE_FIRST_MS = 10,
    PAUSE_MAX_MS = 1000,
    PAUSE_MAX_NEEDED_MS = 250, // while a request or a lease waits for it
    STEADY_MS = 1000,          // a connection that lasted so long was a good one
};

// ---- Pauses ----

static int64_t longest_pause_ms(const struct lock_keeper *keeper)
{
    int64_t ttl_ms = client_leases_least_ttl(keeper);
    int64_t pause_ms = keeper->pending.first ? PAUSE_MAX_NEEDED_MS : PAUSE_MAX_MS;

    if (ttl_ms != CLIENT_NEVER) {
        pause_ms = ttl_ms / 20 < PAUSE_MAX_NEEDED_MS ? ttl_ms / 20 : PAUSE_MAX_NEEDED_MS;
        pause_ms = pause_ms > PAUSE_FIRST_MS ? pause_ms : PAUSE_FIRST_MS;
    }
    return pause_ms;
}

// Three quarters to five quarters of it.
static int64_t spread(const struct lock_keeper *keeper, int64_t pause_ms)
{
    uint64_t mix = ((uint64_t)(uintptr_t)keeper >> 4) + (uint64_t)getpid() * 40503u +
                   (uint64_t)client_now_ms() * 2654435761u;

    return pause_ms * 3 / 4 + (int64_t)((mix >> 7) % (uint64_t)(pause_ms / 2 + 1));
}

static void try_later(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;
    int64_t longest_ms = longest_pause_ms(keeper);

    if (link->pause_ms > longest_ms)
        link->pause_ms = longest_ms;
    if (link->pause_ms < PAUSE_FIRST_MS)
        link->pause_ms = PAUSE_FIRST_MS;
    link->state = CLIENT_LINK_AWAY;
    link->retry_ms = client_now_ms() + spread(keeper, link->pause_ms);
    link->pause_ms *= 2;
}

// ---- Connecting ----

__attribute__((format(printf, 3, 0))) static void set_end(struct client_link *link, int code,
                                                          const char *format, va_list args)
{
    char words[CLIENT_WORDS];

    vsnprintf(words, sizeof words, format, args);
    client_copy(link->end_words, sizeof link->end_words, words);
    link->end_code = code;
}

__attribute__((format(printf, 3, 4))) static void say_end(struct client_link *link, int code,
                                                          const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_end(link, code, format, args);
    va_end(args);
}

void client_link_end(struct lock_keeper *keeper, int code, const char *format, ...)
{
    struct client_link *link = &keeper->link;
    va_list args;

    if (link->fd < 0 || link->ends)
        return;
    va_start(args, format);
    set_end(link, code, format, args);
    va_end(args);
    link->ends = true;
    if (code == -EPROTO || code == -ENOMEM)
        client_error(keeper, code, lock_keeper_code_name(code), link->end_words);
}

// An attempt has failed, as end_code and end_words say.
static void attempt_failed(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;

    link->failures++;
    if (link->persists) {
        try_later(keeper);
        return;
    }
    link->state = CLIENT_LINK_IDLE;
    client_requests_fail(keeper, link->end_code, link->end_words);
}

static int open_socket(const struct lock_keeper *keeper)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error;

    if (fd < 0)
        return -errno;
    memcpy(address.sun_path, keeper->path, strlen(keeper->path) + 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    error = errno;
    close(fd);
    return -error;
}

static int watch(const struct lock_keeper *keeper, int operation, bool output)
{
    struct epoll_event event = {.events = EPOLLIN | (output ? (uint32_t)EPOLLOUT : 0)};

    return epoll_ctl(keeper->epoll_fd, operation, keeper->link.fd, &event) == 0 ? 0 : -errno;
}

static void say_hello(struct lock_keeper *keeper)
{
    struct client_request *hello = client_request_new(keeper, WIRE_OP_HELLO, CLIENT_NOBODY);

    keeper->link.hello_ms = client_now_ms();
    if (!hello) {
        client_link_end(keeper, -ENOMEM, "no memory to say hello");
        return;
    }
    if (keeper->link.asks_page) {
        hello->ask.page = true;
        hello->ask.given |= UINT64_C(1) << WIRE_MEMBER_PAGE;
    }
    client_request_send(hello);
}

static void attempt(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;
    int r = open_socket(keeper);

    if (r == -EAGAIN) { // its queue of connections is full
        say_end(link, -ETIMEDOUT, "the sidecar takes no connection yet");
        try_later(keeper);
        return;
    }
    link->fd = r;
    if (r >= 0)
        r = watch(keeper, EPOLL_CTL_ADD, false);
    if (r < 0) {
        if (link->fd >= 0)
            close(link->fd);
        link->fd = -1;
        say_end(link, r, "cannot connect to %s: %s", keeper->path, strerror(-r));
        attempt_failed(keeper);
        return;
    }
    link->state = CLIENT_LINK_GREETING;
    link->ends = link->output_failed = link->watches_output = false;
    link->asks_page = true;
    frame_init(&link->frame, WIRE_MAX_REPLY);
    say_hello(keeper);
}

void client_link_open(struct lock_keeper *keeper, bool persists)
{
    struct client_link *link = &keeper->link;

    link->persists |= persists;
    if (link->state != CLIENT_LINK_IDLE)
        return;
    link->away_ms = client_now_ms();
    link->pause_ms = 0;
    attempt(keeper);
}

void client_link_hurry(struct lock_keeper *keeper)
{
    if (keeper->link.state == CLIENT_LINK_AWAY)
        attempt(keeper);
}

// ---- Hello ----

// The sidecar read its clock between our sending and now. Where that is not so, it runs in another
// time namespace, and the difference is taken such that no lease seems to be valid longer than it
// is.
static int64_t clock_offset_ms(const struct lock_keeper *keeper, int64_t there_ms)
{
    int64_t sent_ms = keeper->link.hello_ms;

    if (there_ms >= sent_ms - 1 && there_ms <= client_now_ms() + 1)
        return 0;
    return sent_ms - there_ms;
}

int64_t client_link_local_ms(const struct lock_keeper *keeper, int64_t instant_ms)
{
    return instant_ms + keeper->link.offset_ms;
}

static void greet(struct lock_keeper *keeper)
{
    const struct reply *hello = &keeper->hello;
    static const char *const no_caps[] = {NULL};

    keeper->greeting = (struct lock_keeper_hello){
        .protocol = hello->protocol,
        .server = hello->server ? hello->server : "",
        .instance = hello->instance ? hello->instance : "",
        .caps = hello->caps ? (const char *const *)hello->caps : no_caps,
        .lock_ttl_ms = hello->lock_ttl_ms,
        .heartbeat_ms = hello->heartbeat_ms,
        .revoke_margin_ms = hello->revoke_margin_ms,
        .deadline_ms = hello->deadline_ms,
        .max_deadline_ms = hello->max_deadline_ms,
        .redis_up = hello->redis && strcmp(hello->redis, "up") == 0,
        .line = keeper->hello_line ? keeper->hello_line : "",
    };
}

static void keep_hello(struct lock_keeper *keeper, struct client_request *request)
{
    if (keeper->has_hello)
        reply_deinit(&keeper->hello);
    free(keeper->hello_line);
    keeper->hello = request->reply;
    keeper->hello_line = request->line;
    request->has_reply = false;
    request->line = NULL;
    keeper->has_hello = true;
    greet(keeper);
}

// An older sidecar, or one that cannot make a page now.
static bool is_about_page(const struct reply *reply)
{
    return reply->error == WIRE_ERROR_BAD_REQUEST || reply->error == WIRE_ERROR_LIMIT_EXCEEDED ||
           reply->error == WIRE_ERROR_INTERNAL;
}

void client_link_greeted(struct lock_keeper *keeper, struct client_request *request)
{
    const struct reply *reply = &request->reply;
    struct client_link *link = &keeper->link;

    if (!reply->ok && link->asks_page && is_about_page(reply)) {
        link->asks_page = false;
        say_hello(keeper);
        return;
    }
    if (!reply->ok) {
        client_link_end(keeper, client_code(reply), "%s", reply->message ? reply->message : "");
        return;
    }
    if (reply->protocol != WIRE_PROTOCOL || reply->now_ms < 0) {
        client_link_end(keeper, -EPROTO, "what answers at %s does not speak version %d",
                        keeper->path, WIRE_PROTOCOL);
        return;
    }
    link->offset_ms = clock_offset_ms(keeper, reply->now_ms);
    client_page_greeted(keeper);
    keep_hello(keeper, request);
    link->state = CLIENT_LINK_UP;
    link->up_ms = client_now_ms();
    link->persists = keeper->reconnects;
    client_leases_adopt(keeper);
    keeper->is_unblocked = true;
}

const struct lock_keeper_hello *lock_keeper_get_hello(const struct lock_keeper *keeper)
{
    return keeper->has_hello ? &keeper->greeting : NULL;
}

bool lock_keeper_has_cap(const struct lock_keeper *keeper, const char *cap)
{
    for (const char *const *at = keeper->greeting.caps; at && *at; at++) {
        if (strcmp(*at, cap) == 0)
            return true;
    }
    return false;
}

// ---- Reading ----

// The one place where bytes come in.
static ssize_t receive(struct client_link *link, char *chunk, size_t size)
{
    ssize_t n;

    do
        n = link->state == CLIENT_LINK_GREETING ? client_page_receive(link, chunk, size)
                                                : recv(link->fd, chunk, size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static void take_line(struct lock_keeper *keeper, const char *line, size_t length)
{
    struct reply reply;
    int r = reply_parse(line, length, &reply);

    if (r != 0) {
        client_link_end(keeper, r < 0 ? r : -EPROTO, "the sidecar sent a line that cannot be read");
    } else if (reply.is_event) {
        client_lease_event(keeper, &reply);
        reply_deinit(&reply);
    } else {
        client_requests_answer(keeper, &reply, line, length);
    }
}

static void take_chunk(struct lock_keeper *keeper, const char *chunk, size_t size)
{
    struct client_link *link = &keeper->link;
    const char *line;
    size_t length;
    int r = 0;

    frame_feed(&link->frame, chunk, size);
    while (!link->ends && (r = frame_next(&link->frame, &line, &length)) == 1)
        take_line(keeper, line, length);
    if (r == FRAME_E_TOO_LONG)
        client_link_end(keeper, -EPROTO, "the sidecar sent a line of over %d bytes",
                        WIRE_MAX_REPLY);
    else if (r < 0 || frame_save(&link->frame) < 0)
        client_link_end(keeper, -ENOMEM, "no memory for the sidecar's replies");
}

static void read_all(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;
    char chunk[CHUNK];
    ssize_t n = 1;

    for (int i = 0; i < CHUNKS_A_STEP && n > 0 && !link->ends; i++) {
        n = receive(link, chunk, sizeof chunk);
        if (n > 0)
            take_chunk(keeper, chunk, (size_t)n);
    }
    if (n == 0)
        client_link_end(keeper, -ECONNRESET, "the sidecar closed the connection");
    else if (n < 0 && n != -EAGAIN)
        client_link_end(keeper, (int)n, "the connection broke: %s", strerror((int)-n));
}

void client_link_read(struct lock_keeper *keeper)
{
    if (keeper->link.fd < 0 || keeper->is_telling)
        return;
    read_all(keeper);
    if (keeper->is_unblocked)
        client_due(keeper, 0);
}

// ---- Writing ----

static void watch_output(struct lock_keeper *keeper, bool output)
{
    struct client_link *link = &keeper->link;

    if (link->watches_output == output)
        return;
    if (watch(keeper, EPOLL_CTL_MOD, output) == 0)
        link->watches_output = output;
}

void client_link_flush(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;
    ssize_t n = 0;

    if (link->fd < 0)
        return;
    while (buf_length(&link->out) > 0 && !link->output_failed) {
        n = send(link->fd, buf_bytes(&link->out), buf_length(&link->out),
                 MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            buf_consume(&link->out, (size_t)n);
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            link->output_failed = true;
    }
    watch_output(keeper, buf_length(&link->out) > 0 && !link->output_failed);
    buf_trim(&link->out);
}

// ---- The end ----

static void close_link(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;

    if (link->fd < 0)
        return;
    // By name: another process may have a copy of the socket, which would go on waking us.
    epoll_ctl(keeper->epoll_fd, EPOLL_CTL_DEL, link->fd, NULL);
    close(link->fd);
    link->fd = -1;
    client_page_disconnected(keeper);
    frame_deinit(&link->frame);
    buf_deinit(&link->out);
}

static void disconnect(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;
    bool was_up = link->state == CLIENT_LINK_UP;

    close_link(keeper);
    link->state = CLIENT_LINK_IDLE;
    link->ends = false;
    client_requests_interrupted(keeper);
    client_leases_interrupted(keeper);
    if (!was_up) {
        attempt_failed(keeper);
        return;
    }
    keeper->has_broken = true;
    link->away_ms = client_now_ms();
    if (link->away_ms - link->up_ms >= STEADY_MS)
        link->pause_ms = 0;
    link->persists &= keeper->reconnects;
    if (link->persists)
        try_later(keeper);
    else
        client_requests_fail(keeper, -ENOTCONN, link->end_words);
}

void client_link_step(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;

    if (link->fd >= 0) {
        read_all(keeper);
        if (keeper->is_unblocked)
            client_requests_send(keeper);
        client_link_flush(keeper);
        if (link->output_failed)
            client_link_end(keeper, -ECONNRESET, "the connection to the sidecar broke");
        if (link->ends)
            disconnect(keeper);
    }
    if (link->state == CLIENT_LINK_AWAY && client_now_ms() >= link->retry_ms)
        attempt(keeper);
}

int64_t client_link_due_ms(const struct lock_keeper *keeper)
{
    const struct client_link *link = &keeper->link;

    if (link->ends || link->output_failed)
        return 0;
    return link->state == CLIENT_LINK_AWAY ? link->retry_ms : CLIENT_NEVER;
}

void client_link_deinit(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;

    // Closed only: where the handle was copied by a fork, the other process has it still.
    if (link->fd >= 0)
        close(link->fd);
    frame_deinit(&link->frame);
    buf_deinit(&link->out);
    if (keeper->has_hello)
        reply_deinit(&keeper->hello);
    free(keeper->hello_line);
}
