// SPDX-License-Identifier: Apache-2.0
//
// The rival. A thread with a connection of its own.
//
// When it won: Redis says so itself, by TIME in the script that takes the key, and wall clock and
// CLOCK_BOOTTIME are read together to convert it; the answer may be late on a busy machine, and may
// have waited in a stopped Redis. A Redis whose clock is faked cannot say anything outside the time
// between question and answer. It waits for each answer without end: an attempt that was given up
// would be executed all the same, by a Redis that stood still.

#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "tests/tool/rival.h"
#include "tests/tool/scratch.h"

enum {
    EVERY_MS = 2,
};

struct rival {
    pthread_t thread;
    char redis_socket[SCRATCH_MAX_PATH];
    char key[64];
    redisContext *redis; // of the thread
    atomic_int fd;       // its socket, to be shut down at the end
    atomic_llong attempts;
    atomic_llong won_ms;
    atomic_bool ending;
};

static const char script[] = "if redis.call('SET', KEYS[1], 'rival', 'NX', 'PX', 60000) then "
                             "return redis.call('TIME') end return false";

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void connect_redis(struct rival *rival)
{
    rival->redis = redisConnectUnix(rival->redis_socket);
    if (rival->redis && rival->redis->err == 0) {
        rival->fd = rival->redis->fd;
        return;
    }
    if (rival->redis)
        redisFree(rival->redis);
    rival->redis = NULL;
}

static int64_t execution_ms(const redisReply *time, int64_t sent_ms, int64_t answered_ms)
{
    int64_t wall_us = clock_us(CLOCK_REALTIME), boot_us = clock_us(CLOCK_BOOTTIME);
    int64_t at_us = strtoll(time->element[0]->str, NULL, 10) * 1000000 +
                    strtoll(time->element[1]->str, NULL, 10);
    int64_t at_ms = (at_us - wall_us + boot_us) / 1000;

    return at_ms < sent_ms ? sent_ms : at_ms > answered_ms ? answered_ms : at_ms;
}

static void attempt(struct rival *rival)
{
    int64_t sent_ms = scratch_boottime_ms();
    redisReply *reply;

    if (!rival->redis)
        connect_redis(rival);
    if (!rival->redis)
        return;
    reply = redisCommand(rival->redis, "EVAL %s 1 lock:%s", script, rival->key);
    if (!reply) {
        rival->fd = -1;
        redisFree(rival->redis);
        rival->redis = NULL;
        return;
    }
    if (reply->type == REDIS_REPLY_ARRAY)
        rival->won_ms = execution_ms(reply, sent_ms, scratch_boottime_ms());
    freeReplyObject(reply);
}

static void *run(void *context)
{
    struct rival *rival = context;

    while (!rival->ending && !rival->won_ms) {
        attempt(rival);
        rival->attempts++;
        scratch_pause_ms(EVERY_MS);
    }
    if (rival->redis)
        redisFree(rival->redis);
    return NULL;
}

struct rival *rival_new(const char *redis_socket, const char *key)
{
    struct rival *rival = calloc(1, sizeof *rival);

    ck_assert_ptr_nonnull(rival);
    strcpy(rival->redis_socket, redis_socket);
    strcpy(rival->key, key);
    rival->fd = -1;
    ck_assert_int_eq(pthread_create(&rival->thread, NULL, run, rival), 0);
    SCRATCH_UNTIL(5000, rival->attempts > 0);
    return rival;
}

struct rival *rival_free(struct rival *rival)
{
    if (!rival)
        return NULL;
    rival->ending = true;
    shutdown(rival->fd, SHUT_RDWR); // it may wait for a Redis that stands still
    pthread_join(rival->thread, NULL);
    free(rival);
    return NULL;
}

int64_t rival_won_ms(struct rival *rival)
{
    return rival->won_ms;
}

int64_t rival_await(struct rival *rival, int64_t timeout_ms)
{
    SCRATCH_UNTIL(timeout_ms, rival->won_ms != 0);
    return rival->won_ms;
}
