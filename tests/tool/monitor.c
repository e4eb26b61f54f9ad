// SPDX-License-Identifier: Apache-2.0
//
// Reading MONITOR.
//
// A command is one line: +1790000000.123456 [0 lua] "SET" "lock:h1" "..." "PX" "1000". What a script
// does is marked lua; a command on a lock's key that is not is somebody's by hand, and the key is
// lost. The end is a command of our own that comes back: everything before it has been read then.

#include <check.h>
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "sidecar/value.h"
#include "tests/tool/monitor.h"
#include "tests/tool/scratch.h"

#define LAST_WORD "end-of-monitor"

enum { MAX_WORDS = 8 };

// What is in the key now.
struct stored {
    bool held;
    struct message_token token;
    int64_t expires_at_us;
    int64_t ttl_ms;
};

struct monitor {
    pthread_t thread;
    redisContext *redis;
    char socket[SCRATCH_MAX_PATH];
    char prefix[32];
    int64_t to_boottime_us;
    struct stored stored[MONITOR_KEYS];
    struct history_record *records;
    size_t count;
    size_t room;
};

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

// ---- Records ----

static void record(struct monitor *monitor, struct history_record what)
{
    if (monitor->count == monitor->room) {
        monitor->room = monitor->room ? monitor->room * 2 : 1024;
        monitor->records = realloc(monitor->records, monitor->room * sizeof *monitor->records);
        if (!monitor->records)
            abort();
    }
    monitor->records[monitor->count++] = what;
}

static void note_expiry(struct monitor *monitor, uint32_t key, int64_t now_us)
{
    struct stored *stored = &monitor->stored[key];

    if (!stored->held || now_us < stored->expires_at_us)
        return;
    record(monitor, (struct history_record){
                        .at_us = stored->expires_at_us, .kind = HISTORY_EXPIRED, .key = key});
    stored->held = false;
}

static void note_set(struct monitor *monitor, uint32_t key, const char *text, int64_t ttl_ms,
                     int64_t at_us)
{
    struct stored *stored = &monitor->stored[key];
    struct value value;

    if (value_parse(text, strlen(text), &value) != 0)
        return;
    if (stored->held && memcmp(&stored->token, &value.token.token, sizeof stored->token) == 0)
        return;       // extended, or adopted: the same lease
    if (stored->held) // handed over
        record(monitor,
               (struct history_record){
                   .at_us = at_us, .kind = HISTORY_DELETED, .key = key, .token = stored->token});
    *stored = (struct stored){
        .held = true,
        .token = value.token.token,
        .expires_at_us = at_us + ttl_ms * 1000,
        .ttl_ms = ttl_ms,
    };
    record(monitor, (struct history_record){.at_us = at_us,
                                            .kind = HISTORY_SET,
                                            .key = key,
                                            .token = stored->token,
                                            .fence = value.fence,
                                            .ttl_ms = ttl_ms});
}

static void note(struct monitor *monitor, uint32_t key, enum history_kind kind, int64_t at_us)
{
    struct stored *stored = &monitor->stored[key];

    if (!stored->held)
        return;
    record(monitor, (struct history_record){
                        .at_us = at_us, .kind = kind, .key = key, .token = stored->token});
    if (kind == HISTORY_EXTENDED)
        stored->expires_at_us = at_us + stored->ttl_ms * 1000;
    else
        stored->held = false;
}

// ---- Lines ----

// The words in quotes; ours have no quotes in them. Changes the line.
static int split(char *line, char *words[MAX_WORDS])
{
    int count = 0;

    while (count < MAX_WORDS && (line = strchr(line, '"'))) {
        char *end = strchr(line + 1, '"');
        if (!end)
            break;
        *end = '\0';
        words[count++] = line + 1;
        line = end + 1;
    }
    return count;
}

static uint32_t key_of(const struct monitor *monitor, const char *name)
{
    size_t length = strlen(monitor->prefix);
    unsigned long key =
        strncmp(name, monitor->prefix, length) == 0 ? strtoul(name + length, NULL, 10) : 0;
    return key < MONITOR_KEYS ? (uint32_t)key : 0;
}

static void take_line(struct monitor *monitor, char *line)
{
    char *fraction;
    int64_t at_us = strtoll(line, &fraction, 10) * 1000000;
    bool in_script = strstr(line, " lua] ") != NULL;
    char *words[MAX_WORDS];
    uint32_t key;
    int count;

    at_us += strtoll(fraction + 1, NULL, 10) + monitor->to_boottime_us;
    count = split(line, words);
    key = count >= 2 ? key_of(monitor, words[1]) : 0;
    if (key == 0)
        return;
    note_expiry(monitor, key, at_us);
    if (in_script && strcasecmp(words[0], "SET") == 0 && count >= 5)
        note_set(monitor, key, words[2], strtoll(words[4], NULL, 10), at_us);
    else if (in_script && strcasecmp(words[0], "PEXPIRE") == 0)
        note(monitor, key, HISTORY_EXTENDED, at_us);
    else if (in_script && strcasecmp(words[0], "DEL") == 0)
        note(monitor, key, HISTORY_DELETED, at_us);
    else if (!in_script && strcasecmp(words[0], "DEL") == 0)
        note(monitor, key, HISTORY_LOST, at_us);
}

static void *run(void *context)
{
    struct monitor *monitor = context;
    redisReply *reply = NULL;
    bool last = false;

    while (!last && redisGetReply(monitor->redis, (void **)&reply) == REDIS_OK) {
        last = strstr(reply->str, LAST_WORD) != NULL;
        if (!last)
            take_line(monitor, reply->str);
        freeReplyObject(reply);
    }
    return last ? monitor : NULL;
}

// ---- Life ----

struct monitor *monitor_new(const char *redis_socket, const char *prefix)
{
    struct monitor *monitor = calloc(1, sizeof *monitor);
    redisReply *reply;

    ck_assert_ptr_nonnull(monitor);
    snprintf(monitor->prefix, sizeof monitor->prefix, "lock:%s", prefix);
    snprintf(monitor->socket, sizeof monitor->socket, "%s", redis_socket);
    monitor->to_boottime_us = clock_us(CLOCK_BOOTTIME) - clock_us(CLOCK_REALTIME);
    monitor->redis = redisConnectUnix(redis_socket);
    ck_assert(monitor->redis && monitor->redis->err == 0);
    reply = redisCommand(monitor->redis, "MONITOR");
    ck_assert(reply && reply->type == REDIS_REPLY_STATUS);
    freeReplyObject(reply);
    ck_assert_int_eq(pthread_create(&monitor->thread, NULL, run, monitor), 0);
    return monitor;
}

size_t monitor_stop(struct monitor *monitor, const struct history_record **records)
{
    redisContext *other = redisConnectUnix(monitor->socket);
    void *finished;
    int64_t now_us;

    ck_assert(other && other->err == 0);
    freeReplyObject(redisCommand(other, "ECHO " LAST_WORD));
    redisFree(other);
    pthread_join(monitor->thread, &finished);
    ck_assert_ptr_nonnull(finished);
    now_us = clock_us(CLOCK_BOOTTIME);
    for (uint32_t key = 1; key < MONITOR_KEYS; key++)
        note_expiry(monitor, key, now_us);
    *records = monitor->records;
    return monitor->count;
}

struct monitor *monitor_free(struct monitor *monitor)
{
    redisFree(monitor->redis);
    free(monitor->records);
    free(monitor);
    return NULL;
}
