// SPDX-License-Identifier: Apache-2.0
//
// The scripted Redis.
//
// Model: commands are parsed whole (arrays of bulk strings, nothing else is ever sent by the store),
// logged, and answered at once with write(2); replies are small, so the socket always takes them. A
// test that wants an answer later queues NULL and sends the bytes itself.
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sidecar/redis_scripts.h"
#include "tests/tool/fake_redis.h"
#include "tests/tool/scratch.h"

enum {
    MAX_WORDS = 512,
};

struct word {
    const char *bytes;
    size_t length;
};

static void close_connection(struct fake_redis_connection *connection)
{
    if (connection->fd < 0)
        return;
    ev_io_stop(connection->fake->loop, &connection->readable);
    close(connection->fd);
    connection->fd = -1;
    buf_deinit(&connection->input);
    buf_deinit(&connection->output);
}

static void send_bytes(struct fake_redis_connection *connection, const char *bytes, size_t size)
{
    if (connection->fake->dribbles) {
        buf_append(&connection->output, bytes, size);
        ev_idle_start(connection->fake->loop, &connection->fake->dribble);
    } else if (send(connection->fd, bytes, size, MSG_NOSIGNAL) < 0) {
        ck_assert_msg(errno == EPIPE || errno == ECONNRESET, "%s", strerror(errno));
    }
}

// One byte of each connection, once nothing else is to be done: the reader has taken the last one.
static void on_dribble(struct ev_loop *loop, ev_idle *watcher, int events)
{
    struct fake_redis *fake = watcher->data;
    bool more = false;

    (void)events;
    for (int i = 0; i < fake->accepted; i++) {
        struct fake_redis_connection *connection = &fake->connections[i];

        if (connection->fd < 0 || buf_length(&connection->output) == 0)
            continue;
        more = true;
        if (send(connection->fd, buf_bytes(&connection->output), 1, MSG_NOSIGNAL) < 0)
            ck_assert_msg(errno == EPIPE || errno == ECONNRESET, "%s", strerror(errno));
        buf_consume(&connection->output, 1);
    }
    if (!more)
        ev_idle_stop(loop, watcher);
}

static void send_text(struct fake_redis_connection *connection, const char *text)
{
    send_bytes(connection, text, strlen(text));
}

static bool is(const struct word *word, const char *text)
{
    return word->length == strlen(text) && memcmp(word->bytes, text, word->length) == 0;
}

static void send_info(struct fake_redis_connection *connection, const struct word *section)
{
    const struct fake_redis *fake = connection->fake;
    char text[256];
    char reply[300];

    if (!fake->run_id) {
        send_text(connection, "-NOPERM no INFO\r\n");
        return;
    }
    if (is(section, "server"))
        snprintf(text, sizeof text, "# Server\r\nredis_version:7.0.15\r\nrun_id:%s\r\n",
                 fake->run_id);
    else
        snprintf(text, sizeof text, "# Replication\r\nrole:%s\r\n", fake->role);
    snprintf(reply, sizeof reply, "$%zu\r\n%s\r\n", strlen(text), text);
    send_text(connection, reply);
}

static void log_words(struct fake_redis *fake, int number, const struct word *words, int count)
{
    buf_append_int(&fake->log, number);
    for (int i = 0; i < count; i++) {
        buf_append_string(&fake->log, i == 0 ? ":" : " ");
        buf_append(&fake->log, words[i].bytes, words[i].length);
    }
    buf_append_string(&fake->log, ";");
}

static const char *script_name(const struct word *which)
{
    for (int i = 0; i < REDIS_SCRIPT_COUNT; i++) {
        if (is(which, redis_scripts[i].sha) || is(which, redis_scripts[i].text))
            return redis_scripts[i].name;
    }
    ck_abort_msg("unknown script");
}

static void answer_script(struct fake_redis_connection *connection, const struct word *words)
{
    struct fake_redis *fake = connection->fake;
    const char *name = script_name(&words[1]);
    int keys = atoi(words[2].bytes);
    struct word line[MAX_WORDS] = {words[0], {name, strlen(name)}};
    char reply[1024] = "";

    keys = strcmp(name, "renew") == 0 ? keys : 1;
    for (int i = 0; i < keys; i++)
        line[2 + i] = words[3 + i];
    log_words(fake, connection->number, line, 2 + keys);
    fake->calls++;
    if (fake->noscript && is(&words[0], "EVALSHA")) {
        send_text(connection, "-NOSCRIPT No matching script. Please use EVAL.\r\n");
        return;
    }
    if (buf_length(&fake->replies) > 0) {
        ck_assert_uint_lt(strlen(buf_bytes(&fake->replies)), sizeof reply);
        strcpy(reply, buf_bytes(&fake->replies));
        buf_consume(&fake->replies, strlen(reply) + 1);
    }
    send_text(connection, reply);
}

// What the handshake asks by commands that calls use, too.
static bool is_check(const struct word *words, int count)
{
    if (is(&words[0], "EVALSHA"))
        return is(&words[1], redis_scripts[REDIS_SCRIPT_CHECK].sha);
    if (is(&words[0], "EVAL"))
        return is(&words[1], "return 0");
    return count == 4 && is(&words[1], "KILL") && is(&words[3], "9223372036854775807");
}

static void answer(struct fake_redis_connection *connection, const struct word *words, int count)
{
    struct fake_redis *fake = connection->fake;

    if (is_check(words, count)) {
        if (fake->greets)
            send_text(connection, is(&words[0], "EVALSHA") ? "$0\r\n\r\n" : ":0\r\n");
        return;
    }
    if (is(&words[0], "EVALSHA") || is(&words[0], "EVAL")) {
        answer_script(connection, words);
        return;
    }
    if (is(&words[0], "CLIENT") && is(&words[1], "KILL")) {
        log_words(fake, connection->number, words, count);
        send_text(connection, fake->kill_reply);
        return;
    }
    if (!fake->greets)
        return;
    if (is(&words[0], "AUTH"))
        send_text(connection, fake->auth_reply);
    else if (is(&words[0], "PING"))
        send_text(connection, fake->ping_reply);
    else if (is(&words[0], "INFO"))
        send_info(connection, &words[1]);
    else if (is(&words[0], "CLIENT") && is(&words[1], "ID")) {
        char reply[32];

        snprintf(reply, sizeof reply, ":%d\r\n", connection->number);
        send_text(connection, reply);
    } else
        send_text(connection, "+OK\r\n");
}

// The length of one whole command at the front, 0 when it is not whole.
static size_t parse(const struct buf *input, struct word words[MAX_WORDS], int *count)
{
    const char *start = buf_bytes(input);
    const char *end = start + buf_length(input);
    const char *at = memchr(start, '\n', buf_length(input));

    if (!at)
        return 0;
    ck_assert_int_eq(*start, '*');
    *count = atoi(start + 1);
    ck_assert_int_le(*count, MAX_WORDS);
    at++;
    for (int i = 0; i < *count; i++) {
        const char *line = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;

        if (!line)
            return 0;
        ck_assert_int_eq(*at, '$');
        words[i] = (struct word){line + 1, (size_t)atoi(at + 1)};
        at = line + 1 + words[i].length + 2;
        if (at > end)
            return 0;
    }
    return (size_t)(at - start);
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct fake_redis_connection *connection = watcher->data;
    struct word words[MAX_WORDS];
    char bytes[65536];
    ssize_t n;
    int count;

    (void)loop;
    (void)events;
    if (connection->fake->deaf)
        return;
    n = read(connection->fd, bytes, sizeof bytes);
    if (n <= 0) {
        close_connection(connection);
        return;
    }
    buf_append(&connection->input, bytes, (size_t)n);
    while (connection->fd >= 0 && buf_length(&connection->input) > 0) {
        size_t length = parse(&connection->input, words, &count);

        if (length == 0)
            return;
        answer(connection, words, count);
        if (connection->fd >= 0)
            buf_consume(&connection->input, length);
    }
}

static void on_acceptable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct fake_redis *fake = watcher->data;
    struct fake_redis_connection *connection = &fake->connections[fake->accepted];

    (void)events;
    ck_assert_int_lt(fake->accepted, FAKE_REDIS_CONNECTIONS);
    *connection = (struct fake_redis_connection){.fake = fake, .number = ++fake->accepted};
    connection->fd = accept4(watcher->fd, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(connection->fd, 0);
    ev_io_init(&connection->readable, on_readable, connection->fd, EV_READ);
    connection->readable.data = connection;
    ev_io_start(loop, &connection->readable);
    if (fake->drops)
        close_connection(connection);
}

void fake_redis_open(struct fake_redis *fake, struct ev_loop *loop)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    *fake = (struct fake_redis){
        .loop = loop,
        .run_id = "0123456789abcdef0123456789abcdef01234567",
        .role = "master",
        .kill_reply = ":1\r\n",
        .auth_reply = "+OK\r\n",
        .ping_reply = "+PONG\r\n",
        .greets = true,
    };
    snprintf(fake->socket, sizeof fake->socket, "%s", scratch_path("fake.sock"));
    strcpy(address.sun_path, fake->socket);
    unlink(fake->socket);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(fd, 16), 0);
    ev_io_init(&fake->acceptable, on_acceptable, fd, EV_READ);
    fake->acceptable.data = fake;
    ev_io_start(loop, &fake->acceptable);
    ev_idle_init(&fake->dribble, on_dribble);
    fake->dribble.data = fake;
}

void fake_redis_close(struct fake_redis *fake)
{
    for (int i = 0; i < fake->accepted; i++)
        close_connection(&fake->connections[i]);
    ev_io_stop(fake->loop, &fake->acceptable);
    ev_idle_stop(fake->loop, &fake->dribble);
    close(fake->acceptable.fd);
    buf_deinit(&fake->replies);
    buf_deinit(&fake->log);
}

void fake_redis_reply(struct fake_redis *fake, const char *reply)
{
    buf_append(&fake->replies, reply ? reply : "", reply ? strlen(reply) + 1 : 1);
}

void fake_redis_send(struct fake_redis *fake, const char *bytes)
{
    send_text(&fake->connections[fake->accepted - 1], bytes);
}

void fake_redis_cut(struct fake_redis *fake)
{
    close_connection(&fake->connections[fake->accepted - 1]);
}

const char *fake_redis_log(struct fake_redis *fake)
{
    buf_append(&fake->log, "", 1);
    buf_truncate(&fake->log, buf_length(&fake->log) - 1);
    return buf_bytes(&fake->log);
}

void fake_redis_clear_log(struct fake_redis *fake)
{
    buf_consume(&fake->log, buf_length(&fake->log));
}

bool fake_redis_said(struct fake_redis *fake, const char *words)
{
    return strstr(fake_redis_log(fake), words) != NULL;
}
