// SPDX-License-Identifier: Apache-2.0
//
// Starts the lockers: our own plain one as a fork, the others as programs. What they need was looked
// for by tests/interop/run, which puts into the environment where it is.

#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/interop/locker.h"
#include "tests/tool/scratch.h"

enum { PATIENCE_MS = 20000 };

const char *const locker_names[LOCKER_KINDS] = {
    [LOCKER_PLAIN] = "plain",
    [LOCKER_REDIS_PY] = "redis-py",
    [LOCKER_REDLOCK] = "redlock",
    [LOCKER_SEMAPHORE] = "redis-semaphore",
};

// ---- The plain one: SET NX PX, and compare-and-delete ----

static bool plain_set(redisContext *context, const char *key)
{
    redisReply *reply = redisCommand(context, "SET %s plain-capability NX PX 60000", key);
    bool locked = reply->type == REDIS_REPLY_STATUS;

    freeReplyObject(reply);
    return locked;
}

static bool plain_delete(redisContext *context, const char *key)
{
    static const char script[] = "if redis.call('get', KEYS[1]) == ARGV[1] then "
                                 "return redis.call('del', KEYS[1]) else return 0 end";
    redisReply *reply = redisCommand(context, "EVAL %s 1 %s plain-capability", script, key);
    bool deleted = reply->integer == 1;

    freeReplyObject(reply);
    return deleted;
}

static void say(const char *word)
{
    printf("%s\n", word);
    fflush(stdout);
}

static void run_plain(const char *socket, const char *key)
{
    redisContext *context = redisConnectUnix(socket);
    char command[16];

    say("ready");
    while (fgets(command, sizeof command, stdin)) {
        if (strcmp(command, "lock\n") == 0) {
            while (!plain_set(context, key))
                scratch_pause_ms(3);
            say("locked");
        } else if (strcmp(command, "try\n") == 0) {
            say(plain_set(context, key) ? "locked" : "refused");
        } else {
            say("unlocking");
            say(plain_delete(context, key) ? "unlocked" : "lost");
        }
    }
    redisFree(context);
    _exit(0);
}

// ---- The programs ----

static bool is_here(enum locker_kind kind)
{
    const char *name = kind == LOCKER_REDIS_PY ? "LOCK_KEEPER_INTEROP_PYTHON" : "NODE_PATH";
    const char *value = getenv(name);

    if (kind == LOCKER_PLAIN || (value && *value))
        return true;
    printf("# skipped: %s is not here (tests/interop/run says why)\n", locker_names[kind]);
    fflush(stdout);
    return false;
}

static void run(enum locker_kind kind, const char *socket, const char *key)
{
    const char *name = locker_names[kind];

    if (kind == LOCKER_PLAIN)
        run_plain(socket, key);
    if (kind == LOCKER_REDIS_PY)
        execlp(getenv("LOCK_KEEPER_INTEROP_PYTHON"), "python3", INTEROP_FOLDER "/locker.py", name,
               socket, key, NULL);
    else
        execlp("node", "node", INTEROP_FOLDER "/locker.js", name, socket, key, NULL);
    _exit(127);
}

bool locker_start(struct locker *locker, enum locker_kind kind, const char *redis_socket,
                  const char *key)
{
    int in[2], out[2];

    if (!is_here(kind))
        return false;
    ck_assert_int_eq(pipe(in), 0);
    ck_assert_int_eq(pipe(out), 0);
    fflush(stdout); // a fork would say it again
    locker->pid = scratch_fork();
    if (locker->pid == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        close(in[1]);
        close(out[0]);
        run(kind, redis_socket, key);
    }
    close(in[0]);
    close(out[1]);
    locker->in = in[1];
    locker->out = out[0];
    locker_expect(locker, "ready");
    return true;
}

void locker_stop(struct locker *locker)
{
    close(locker->in);
    ck_assert_int_eq(scratch_exit_code(locker->pid, PATIENCE_MS), 0);
    close(locker->out);
}

void locker_tell(struct locker *locker, const char *command)
{
    char line[16];
    int length = snprintf(line, sizeof line, "%s\n", command);

    ck_assert_int_eq(write(locker->in, line, (size_t)length), length);
}

const char *locker_hear(struct locker *locker, int ms)
{
    static char word[64];
    struct pollfd readable = {.fd = locker->out, .events = POLLIN};
    size_t length = 0;

    if (poll(&readable, 1, ms) == 0)
        return NULL;
    do {
        ck_assert_uint_lt(length, sizeof word - 1);
        ck_assert_msg(read(locker->out, word + length, 1) == 1, "the locker has ended");
    } while (word[length++] != '\n');
    word[length - 1] = '\0';
    return word;
}

void locker_expect(struct locker *locker, const char *word)
{
    const char *heard = locker_hear(locker, PATIENCE_MS);

    ck_assert_msg(heard && strcmp(heard, word) == 0, "the locker said %s, not %s",
                  heard ? heard : "nothing", word);
}
