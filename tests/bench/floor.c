// SPDX-License-Identifier: Apache-2.0
//
// The floors that wait for each reply: hiredis' synchronous client and the kernel, running the
// scripts of sidecar/lua with the arguments that the sidecar sends.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/redis_scripts.h"
#include "tests/bench/load.h"

enum { KEY_LENGTH = 24 };

static const char counter[] = "lock-keeper:fence\x1flock:";

void floor_head(char head[LOAD_HEAD_LENGTH + 1])
{
    static uint64_t state;

    if (!state)
        state = (uint64_t)load_now_ns() * 2654435761u | 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    snprintf(head, LOAD_HEAD_LENGTH + 1, "%016llx%016llx f1002f1002f1002f lk1 ",
             (unsigned long long)state, (unsigned long long)(state ^ 0x5bd1e995));
}

static void put(const char **argv, size_t *sizes, int *n, const char *text, size_t size)
{
    argv[*n] = text;
    sizes[(*n)++] = size;
}

#define PUT(text) put(argv, sizes, &n, text, strlen(text))

int floor_acquire_argv(const char **argv, size_t *sizes, const char *key, const char *head)
{
    int n = 0;

    PUT("EVALSHA");
    PUT(redis_scripts[REDIS_SCRIPT_ACQUIRE].sha);
    PUT("2");
    PUT(key);
    put(argv, sizes, &n, counter, sizeof counter - 1);
    put(argv, sizes, &n, head, LOAD_HEAD_LENGTH);
    PUT("30000");
    PUT("300000");
    PUT("0");
    PUT("4711 0 host");
    return n;
}

int floor_release_argv(const char **argv, size_t *sizes, const char *key, const char *head)
{
    int n = 0;

    PUT("EVALSHA");
    PUT(redis_scripts[REDIS_SCRIPT_RELEASE].sha);
    PUT("1");
    PUT(key);
    put(argv, sizes, &n, head, LOAD_HEAD_LENGTH);
    return n;
}

void floor_check(const redisReply *reply, const char *what)
{
    if (!reply)
        load_fail("%s: the connection to Redis is gone", what);
    if (reply->type == REDIS_REPLY_ERROR)
        load_fail("%s: %s", what, reply->str);
}

redisContext *floor_connect(const char *path)
{
    redisContext *redis = redisConnectUnix(path);

    if (!redis || redis->err)
        load_fail("%s: %s", path, redis ? redis->errstr : "out of memory");
    for (int i = 0; i < REDIS_SCRIPT_COUNT; i++) {
        redisReply *reply =
            redisCommand(redis, "SCRIPT LOAD %b", redis_scripts[i].text, redis_scripts[i].length);
        floor_check(reply, "SCRIPT LOAD");
        freeReplyObject(reply);
    }
    return redis;
}

// ---- Acquire and release ----

static void run_pair(redisContext *redis, const char *key)
{
    const char *argv[FLOOR_ARGV];
    size_t sizes[FLOOR_ARGV];
    char head[LOAD_HEAD_LENGTH + 1];
    redisReply *reply;
    int n;

    floor_head(head);
    n = floor_acquire_argv(argv, sizes, key, head);
    reply = redisCommandArgv(redis, n, argv, sizes);
    floor_check(reply, "acquire");
    if (reply->type != REDIS_REPLY_ARRAY || reply->element[0]->integer != 1)
        load_fail("acquire: not granted");
    freeReplyObject(reply);
    n = floor_release_argv(argv, sizes, key, head);
    reply = redisCommandArgv(redis, n, argv, sizes);
    floor_check(reply, "release");
    if (reply->integer != 1)
        load_fail("release: not freed");
    freeReplyObject(reply);
}

static void make_key(char *key, const char *name, long number)
{
    memcpy(key, "lock:", 5);
    load_key(key + 5, KEY_LENGTH, name, number);
}

int floor_latency(int argc, char **argv)
{
    redisContext *redis = floor_connect(argv[0]);
    struct load_samples samples = {0};
    int64_t ms = argc > 1 ? load_number(argv[1]) : 1000;
    int64_t start_ns, now_ns;
    char key[LOAD_KEY_MAX + 5];
    uint64_t pairs = 0;

    make_key(key, "floor", 1);
    for (int i = 0; i < 50; i++)
        run_pair(redis, key);
    start_ns = now_ns = load_now_ns();
    for (; now_ns < start_ns + ms * 1000000; pairs++) {
        int64_t before_ns = now_ns;
        run_pair(redis, key);
        now_ns = load_now_ns();
        load_samples_add(&samples, now_ns - before_ns);
    }
    load_report(pairs, now_ns - start_ns, &samples);
    return 0;
}

static void one_process(const char *path, long number, uint64_t *sum)
{
    redisContext *redis = floor_connect(path);
    char key[LOAD_KEY_MAX + 5];

    make_key(key, "floor", number);
    for (;;) {
        run_pair(redis, key);
        __atomic_add_fetch(sum, 1, __ATOMIC_RELAXED);
    }
}

int floor_processes(int argc, char **argv)
{
    return load_count_processes(argc, argv, one_process);
}
