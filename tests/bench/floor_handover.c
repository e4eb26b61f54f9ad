// SPDX-License-Identifier: Apache-2.0
//
// What Redis alone can do for a hand-over. Among waiters of one program: BLPOP, to whose first waiter
// Redis gives what is pushed. Between two: compare-and-delete, PUBLISH, and SET NX by who hears it.
#include <stdlib.h>
#include <string.h>

#include "tests/bench/load.h"

enum { KEY_LENGTH = 24 };

static redisReply *next_reply(redisContext *redis, const char *what)
{
    redisReply *reply = NULL;

    if (redisGetReply(redis, (void **)&reply) != REDIS_OK)
        load_fail("%s: %s", what, redis->errstr);
    floor_check(reply, what);
    return reply;
}

static void write_now(redisContext *redis, const char *what)
{
    int done = 0;

    while (!done)
        if (redisBufferWrite(redis, &done) != REDIS_OK)
            load_fail("%s: %s", what, redis->errstr);
}

static void send_command(redisContext *redis, const char *command)
{
    redisAppendCommand(redis, command);
    write_now(redis, command);
}

// A reply to a command of another connection that came later: the server has seen the wait.
static void settle(redisContext *redis)
{
    freeReplyObject(redisCommand(redis, "PING"));
}

int floor_handover(int argc, char **argv)
{
    long waiters = load_number(argc > 1 ? argv[1] : NULL);
    int64_t ms = load_number(argc > 2 ? argv[2] : NULL), end_ns;
    redisContext **redis = calloc((size_t)waiters + 1, sizeof(*redis));
    redisContext *other = floor_connect(argv[0]);
    struct load_samples samples = {0};
    int64_t total_ns = 0;
    uint64_t done = 0;

    for (long i = 0; i <= waiters; i++) {
        redis[i] = floor_connect(argv[0]);
        if (i > 0)
            send_command(redis[i], "BLPOP floor:list 0");
        settle(other);
    }
    end_ns = load_now_ns() + ms * 1000000;
    for (long at = 0; load_now_ns() < end_ns; at = (at + 1) % (waiters + 1)) {
        redisContext *next = redis[(at + 1) % (waiters + 1)];
        int64_t start_ns = load_now_ns();
        int64_t ns;

        send_command(redis[at], "LPUSH floor:list x");
        freeReplyObject(next_reply(next, "BLPOP"));
        ns = load_now_ns() - start_ns;
        freeReplyObject(next_reply(redis[at], "LPUSH"));
        if (done++ >= 3)
            load_samples_add(&samples, ns);
        total_ns += ns;
        send_command(redis[at], "BLPOP floor:list 0");
        settle(other);
    }
    load_report(done, total_ns, &samples);
    return 0;
}

// ---- Between two ----

struct side {
    redisContext *calls;
    redisContext *heard; // subscribed
    char head[LOAD_HEAD_LENGTH + 1];
};

static char key[LOAD_KEY_MAX + 5] = "lock:";

static void take(struct side *side)
{
    redisReply *reply;

    floor_head(side->head);
    reply = redisCommand(side->calls, "SET %s %s NX PX 30000", key, side->head);
    floor_check(reply, "SET");
    if (reply->type != REDIS_REPLY_STATUS)
        load_fail("SET NX: the key is held");
    freeReplyObject(reply);
}

static int64_t hand_over(struct side *from, struct side *to)
{
    const char *argv[FLOOR_ARGV];
    size_t sizes[FLOOR_ARGV];
    int64_t start_ns = load_now_ns();
    int64_t ns;

    redisAppendCommandArgv(from->calls, floor_release_argv(argv, sizes, key, from->head), argv,
                           sizes);
    write_now(from->calls, "release");
    freeReplyObject(next_reply(to->heard, "message"));
    take(to);
    ns = load_now_ns() - start_ns;
    freeReplyObject(next_reply(from->calls, "release"));
    freeReplyObject(next_reply(from->heard, "message"));
    return ns;
}

int floor_handover_between(int argc, char **argv)
{
    int64_t ms = load_number(argc > 1 ? argv[1] : NULL), end_ns;
    struct load_samples samples = {0};
    struct side sides[2];
    int64_t total_ns = 0;
    uint64_t done = 0;

    load_key(key + 5, KEY_LENGTH, "floor", 1);
    for (int i = 0; i < 2; i++) {
        sides[i].calls = floor_connect(argv[0]);
        sides[i].heard = floor_connect(argv[0]);
        freeReplyObject(redisCommand(sides[i].heard, "SUBSCRIBE %s\x1f%s", key, "freed"));
    }
    take(&sides[0]);
    end_ns = load_now_ns() + ms * 1000000;
    for (int at = 0; load_now_ns() < end_ns; at = !at) {
        int64_t ns;

        load_sleep_ms(2); // as between two sidecars
        ns = hand_over(&sides[at], &sides[!at]);
        if (done++ >= 3)
            load_samples_add(&samples, ns);
        total_ns += ns;
    }
    load_report(done, total_ns, &samples);
    return 0;
}
