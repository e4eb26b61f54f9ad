// SPDX-License-Identifier: Apache-2.0
//
// The floor of throughput: hiredis' asynchronous client on libev, running our two scripts, or SET NX
// PX and DEL, with so many keys in flight on so many connections.
#include <errno.h>
#include <ev.h>
#include <hiredis/adapters/libev.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/load.h"

enum { KEY_LENGTH = 24 };

struct key {
    redisAsyncContext *redis;
    int64_t asked_ns;
    char head[LOAD_HEAD_LENGTH + 1];
    char name[LOAD_KEY_MAX + 5];
};

static struct load_samples samples;
static uint64_t pairs;
static int64_t start_ns, end_ns;
static bool is_plain;

static void on_acquired(redisAsyncContext *redis, void *reply, void *data);
static void on_released(redisAsyncContext *redis, void *reply, void *data);

static void acquire(struct key *key)
{
    const char *argv[FLOOR_ARGV];
    size_t sizes[FLOOR_ARGV];
    int n;

    key->asked_ns = load_now_ns();
    floor_head(key->head);
    if (is_plain) {
        redisAsyncCommand(key->redis, on_acquired, key, "SET %s %s NX PX 30000", key->name,
                          key->head);
        return;
    }
    n = floor_acquire_argv(argv, sizes, key->name, key->head);
    redisAsyncCommandArgv(key->redis, on_acquired, key, n, argv, sizes);
}

static void release(struct key *key)
{
    const char *argv[FLOOR_ARGV];
    size_t sizes[FLOOR_ARGV];
    int n;

    if (is_plain) {
        redisAsyncCommand(key->redis, on_released, key, "DEL %s", key->name);
        return;
    }
    n = floor_release_argv(argv, sizes, key->name, key->head);
    redisAsyncCommandArgv(key->redis, on_released, key, n, argv, sizes);
}

static void on_acquired(redisAsyncContext *redis, void *data, void *context)
{
    redisReply *reply = data;

    (void)redis;
    floor_check(reply, "acquire");
    if (is_plain ? reply->type != REDIS_REPLY_STATUS
                 : reply->type != REDIS_REPLY_ARRAY || reply->element[0]->integer != 1)
        load_fail("acquire: not granted");
    release(context);
}

static void on_released(redisAsyncContext *redis, void *data, void *context)
{
    redisReply *reply = data;
    struct key *key = context;
    int64_t now_ns = load_now_ns();

    (void)redis;
    floor_check(reply, "release");
    if (reply->integer != 1)
        load_fail("release: not freed");
    if (now_ns >= end_ns) {
        ev_break(EV_DEFAULT_ EVBREAK_ALL);
        return;
    }
    if (now_ns >= start_ns) {
        pairs++;
        load_samples_add(&samples, now_ns - key->asked_ns);
    }
    acquire(key);
}

static redisAsyncContext *connect_async(const char *path)
{
    redisAsyncContext *redis = redisAsyncConnectUnix(path);

    // A socket that does not block is refused while Redis' backlog is full.
    while (redis && redis->err == REDIS_ERR_IO && errno == EAGAIN) {
        redisAsyncFree(redis);
        load_sleep_ms(1);
        redis = redisAsyncConnectUnix(path);
    }
    if (!redis || redis->err)
        load_fail("%s: %s", path, redis ? redis->errstr : "out of memory");
    redisLibevAttach(EV_DEFAULT_ redis);
    return redis;
}

int floor_pairs(int argc, char **argv)
{
    long connections = load_number(argc > 4 ? argv[2] : NULL);
    long in_flight = load_number(argv[3]);
    int64_t ms = load_number(argv[4]);
    size_t key_length = argc > 5 ? (size_t)load_number(argv[5]) : KEY_LENGTH;
    struct key *keys = calloc((size_t)(connections * in_flight), sizeof *keys);

    is_plain = strcmp(argv[1], "set") == 0;
    redisFree(floor_connect(argv[0]));
    start_ns = load_now_ns() + ms * 100000; // a tenth, to warm up
    end_ns = start_ns + ms * 1000000;
    for (long i = 0; i < connections; i++) {
        redisAsyncContext *redis = connect_async(argv[0]);
        for (long at = i * in_flight; at < (i + 1) * in_flight; at++) {
            keys[at].redis = redis;
            memcpy(keys[at].name, "lock:", 5);
            load_key(keys[at].name + 5, key_length, "floor", at);
            acquire(&keys[at]);
        }
    }
    ev_run(EV_DEFAULT_ 0);
    load_report(pairs, load_now_ns() - start_ns, &samples);
    return 0;
}
