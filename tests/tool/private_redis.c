// SPDX-License-Identifier: Apache-2.0
//
// A private redis-server.
//
// Model: the server is a child of the test (scratch_fork), with its working folder, log and data in
// a folder of its own. The helpers keep one synchronous connection, closed when the server is
// killed and opened again by the next command; no command is ever tried twice.
//
// Redis says nothing when it is ready, so the start asks: connect and PING, every millisecond,
// until PONG; while it loads its append-only file it answers LOADING, and is asked again.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/tool/private_redis.h"

enum {
    READY_MS = 10000,
    REPLY_S = 10,
};

static void disconnect(struct private_redis *redis)
{
    if (redis->reply)
        freeReplyObject(redis->reply);
    redis->reply = NULL;
    if (redis->connection)
        redisFree(redis->connection);
    redis->connection = NULL;
}

// The server's own argv. Runs in the child, so it may use static memory.
static void exec_server(const struct private_redis *redis)
{
    const char *argv[PRIVATE_REDIS_ARGUMENTS + 32] = {
        "redis-server", "--unixsocket", redis->socket, "--save",           "",    "--dir",
        redis->folder,  "--logfile",    "redis.log",   "--daemonize",      "no",  "--bind",
        "127.0.0.1",    "--databases",  "16",          "--unixsocketperm", "700", "--port",
    };
    static char port[12];
    size_t n = 18;

    snprintf(port, sizeof port, "%d", redis->port);
    argv[n++] = port;
    argv[n++] = "--appendonly";
    argv[n++] = redis->append_only ? "yes" : "no";
    argv[n++] = "--appendfsync";
    argv[n++] = redis->append_only ? "always" : "no";
    if (redis->password) {
        argv[n++] = "--requirepass";
        argv[n++] = redis->password;
    }
    for (size_t i = 0; redis->arguments[i]; i++)
        argv[n++] = redis->arguments[i];
    argv[n] = NULL;
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static bool open_connection(struct private_redis *redis)
{
    struct timeval timeout = {.tv_sec = REPLY_S};

    redis->connection = redisConnectUnix(redis->socket);
    if (!redis->connection || redis->connection->err) {
        disconnect(redis);
        return false;
    }
    fcntl(redis->connection->fd, F_SETFD, FD_CLOEXEC);
    redisSetTimeout(redis->connection, timeout);
    if (redis->password) {
        redis->reply = redisCommand(redis->connection, "AUTH %s", redis->password);
        if (!redis->reply) {
            disconnect(redis);
            return false;
        }
        freeReplyObject(redis->reply);
        redis->reply = NULL;
    }
    return true;
}

static bool answers(struct private_redis *redis)
{
    bool pong;

    if (!open_connection(redis))
        return false;
    redis->reply = redisCommand(redis->connection, "PING");
    pong = redis->reply && redis->reply->type == REDIS_REPLY_STATUS &&
           strcmp(redis->reply->str, "PONG") == 0;
    if (!pong)
        disconnect(redis);
    return pong;
}

static void fail_with_log(const struct private_redis *redis, const char *what)
{
    char path[SCRATCH_MAX_PATH + 16];

    snprintf(path, sizeof path, "%s/redis.log", redis->folder);
    ck_abort_msg("redis-server %s: %s", what, scratch_read(path));
}

static void launch(struct private_redis *redis)
{
    int64_t deadline = scratch_deadline(READY_MS);

    redis->pid = scratch_fork();
    if (redis->pid == 0)
        exec_server(redis);
    while (!answers(redis)) {
        if (scratch_reap(redis->pid, 0, NULL)) {
            redis->pid = 0;
            fail_with_log(redis, "ended");
        }
        if (scratch_left(deadline) == 0)
            fail_with_log(redis, "is not ready");
        scratch_pause_ms(1);
    }
}

void private_redis_start(struct private_redis *redis, ...)
{
    const char *name = redis->name ? redis->name : "redis";
    char file[64];
    va_list arguments;
    size_t n = 0;

    snprintf(file, sizeof file, "%s.sock", name);
    snprintf(redis->socket, sizeof redis->socket, "%s", scratch_path(file));
    snprintf(redis->url, sizeof redis->url, "unix://%s", redis->socket);
    snprintf(redis->folder, sizeof redis->folder, "%s", scratch_path(name));
    ck_assert_int_eq(mkdir(redis->folder, 0700), 0);
    redis->port = redis->tcp ? scratch_free_port() : 0;
    snprintf(redis->tcp_url, sizeof redis->tcp_url, "redis://127.0.0.1:%d", redis->port);
    va_start(arguments, redis);
    while ((redis->arguments[n] = va_arg(arguments, const char *)) != NULL)
        ck_assert_uint_lt(++n, PRIVATE_REDIS_ARGUMENTS);
    va_end(arguments);
    launch(redis);
}

void private_redis_kill(struct private_redis *redis)
{
    ck_assert_int_ne(redis->pid, 0);
    scratch_kill(redis->pid);
    redis->pid = 0;
    disconnect(redis);
}

void private_redis_restart(struct private_redis *redis)
{
    if (redis->pid)
        private_redis_kill(redis);
    launch(redis);
}

void private_redis_stop(struct private_redis *redis)
{
    siginfo_t info;

    ck_assert_int_eq(kill(redis->pid, SIGSTOP), 0);
    ck_assert_int_eq(waitid(P_PID, (id_t)redis->pid, &info, WSTOPPED | WNOWAIT), 0);
}

void private_redis_continue(struct private_redis *redis)
{
    ck_assert_int_eq(kill(redis->pid, SIGCONT), 0);
}

void private_redis_deinit(struct private_redis *redis)
{
    if (redis->pid)
        private_redis_kill(redis);
    disconnect(redis);
}

static redisReply *command(struct private_redis *redis, const char *format, va_list arguments)
{
    if (!redis->connection)
        ck_assert_msg(open_connection(redis), "redis-server does not accept");
    if (redis->reply)
        freeReplyObject(redis->reply);
    redis->reply = redisvCommand(redis->connection, format, arguments);
    if (!redis->reply) {
        char error[128];

        snprintf(error, sizeof error, "%s", redis->connection->errstr);
        disconnect(redis);
        ck_abort_msg("%s: %s", format, error);
    }
    ck_assert_msg(redis->reply->type != REDIS_REPLY_ERROR, "%s: %s", format, redis->reply->str);
    return redis->reply;
}

redisReply *private_redis_reply(struct private_redis *redis, const char *format, ...)
{
    va_list arguments;
    redisReply *reply;

    va_start(arguments, format);
    reply = command(redis, format, arguments);
    va_end(arguments);
    return reply;
}

void private_redis_run(struct private_redis *redis, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    command(redis, format, arguments);
    va_end(arguments);
}

long long private_redis_int(struct private_redis *redis, const char *format, ...)
{
    va_list arguments;
    redisReply *reply;

    va_start(arguments, format);
    reply = command(redis, format, arguments);
    va_end(arguments);
    ck_assert_msg(reply->type == REDIS_REPLY_INTEGER, "%s: no integer", format);
    return reply->integer;
}

const char *private_redis_string(struct private_redis *redis, const char *format, ...)
{
    va_list arguments;
    redisReply *reply;

    va_start(arguments, format);
    reply = command(redis, format, arguments);
    va_end(arguments);
    if (reply->type == REDIS_REPLY_NIL)
        return NULL;
    ck_assert_msg(reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS,
                  "%s: no string", format);
    return reply->str;
}
