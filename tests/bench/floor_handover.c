// SPDX-License-Identifier: Apache-2.0
//
// What Redis alone can do for a hand-over. Among waiters of one list: BLPOP, to whose first waiter
// Redis gives what is pushed. Between two lock clients: compare-and-delete with PUBLISH (our script),
// and SET NX by who hears it.
#include <stdlib.h>
#include <string.h>

#include "tests/bench/load.h"

enum { KEY_LENGTH = 24 };

struct floor {
    const char *path;
    char key[LOAD_KEY_MAX + 5];
    char channel[LOAD_KEY_MAX + 16];
};

static redisReply *next_reply(redisContext *redis, const char *what)
{
    redisReply *reply = NULL;

    if (redisGetReply(redis, (void **)&reply) != REDIS_OK)
        load_fail("%s: %s", what, redis->errstr);
    floor_check(reply, what);
    return reply;
}

static void write_now(redisContext *redis)
{
    int done = 0;

    while (!done)
        if (redisBufferWrite(redis, &done) != REDIS_OK)
            load_fail("write: %s", redis->errstr);
}

static void pop(struct load_relay *relay, long number, void *context)
{
    const struct floor *floor = context;
    redisContext *redis = floor_connect(floor->path);

    if (number == 0)
        freeReplyObject(redisCommand(redis, "LPUSH %s x", floor->key));
    redisAppendCommand(redis, "BLPOP %s 0", floor->key);
    for (;;) {
        freeReplyObject(next_reply(redis, "BLPOP"));
        load_relay_taken(relay);
        load_sleep_ms(LOAD_HOLD_MS);
        redisAppendCommand(redis, "LPUSH %s x", floor->key);
        redisAppendCommand(redis, "BLPOP %s 0", floor->key);
        load_relay_hand_over(relay);
        write_now(redis);
        freeReplyObject(next_reply(redis, "LPUSH"));
    }
}

static int run(const char *path, long count, int64_t ms,
               void (*contend)(struct load_relay *relay, long number, void *context))
{
    struct floor floor = {.path = path, .key = "lock:"};

    load_key(floor.key + 5, KEY_LENGTH, "floor", 1);
    strcpy(floor.channel, floor.key);
    strcat(floor.channel, "\x1f"
                          "freed");
    redisFree(floor_connect(path));
    return load_relay_run(count, ms, contend, &floor);
}

int floor_handover(int argc, char **argv)
{
    long waiters = load_number(argc > 2 ? argv[1] : NULL);

    return run(argv[0], waiters + 1, load_number(argv[2]), pop);
}

// ---- Between two ----

static bool set(redisContext *redis, const struct floor *floor, char *head)
{
    redisReply *reply;
    bool taken;

    floor_head(head);
    reply = redisCommand(redis, "SET %s %s NX PX 30000", floor->key, head);
    floor_check(reply, "SET");
    taken = reply->type == REDIS_REPLY_STATUS;
    freeReplyObject(reply);
    return taken;
}

static void hear(struct load_relay *relay, long number, void *context)
{
    const struct floor *floor = context;
    redisContext *redis = floor_connect(floor->path);
    redisContext *heard = floor_connect(floor->path);
    char head[LOAD_HEAD_LENGTH + 1];
    const char *argv[FLOOR_ARGV];
    size_t sizes[FLOOR_ARGV];

    (void)number;
    freeReplyObject(redisCommand(heard, "SUBSCRIBE %s", floor->channel));
    for (;;) {
        while (!set(redis, floor, head))
            freeReplyObject(next_reply(heard, "message"));
        load_relay_taken(relay);
        load_sleep_ms(LOAD_HOLD_MS);
        redisAppendCommandArgv(redis, floor_release_argv(argv, sizes, floor->key, head), argv,
                               sizes);
        load_relay_hand_over(relay);
        write_now(redis);
        freeReplyObject(next_reply(redis, "release"));
        freeReplyObject(next_reply(heard, "message")); // our own
        load_sleep_ms(LOAD_HOLD_MS / 2);
    }
}

int floor_handover_between(int argc, char **argv)
{
    return run(argv[0], 2, load_number(argc > 1 ? argv[1] : NULL), hear);
}
