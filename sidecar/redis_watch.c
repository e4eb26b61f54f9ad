// SPDX-License-Identifier: Apache-2.0
//
// The connection of subscriptions.
//
//     CLOSED -> CONNECTING -> GREETING -> UP -> CLOSED ...
//
// In RESP2 a connection with subscriptions hears two kinds of replies: those to its own commands
// (SUBSCRIBE, UNSUBSCRIBE, PING), in order and so matched like any other, and messages, which come
// unasked. What is watched outlives the connection: each one subscribes to all of it anew, a bounded
// number at a time.
//
// Nothing depends on it. A message may be lost with its connection; a waiter asks again by itself
// within a second. So no failure here is told to anybody but the log, and none touches the main
// connection. A key that is freed before its subscription began is the one case in which that would
// be felt each time: hence the confirmation of a subscription counts as news of its key.
//
// A half-open connection is found by a PING when nothing has come for silence_ms.
#include <stdio.h>
#include <string.h>

#include "sidecar/clock.h"
#include "sidecar/log.h"
#include "sidecar/redis_call.h"
#include "sidecar/redis_watch.h"

enum {
    MAX_DUE = 1024, // subscriptions unanswered
    CHUNK = 128,    // subscriptions encoded for one write
    MAX_CHUNKS = 8, // written in one turn
    LINGER_MS = 10000,
    REFUSED_PAUSE_MS = 60000,
};

// What is due on the connection: a step of the handshake, or a subscription's (or PING's) reply.
static char steps_due[REDIS_HANDSHAKE_STEPS];
static char subscription_due;

// ---- Ends ----

static void close_connection(struct redis_watch *watch)
{
    redis_connection_close(&watch->connection);
    while (redis_due_pop(&watch->connection.due))
        continue;
    redis_channels_restart(&watch->channels);
    watch->state = REDIS_WATCH_CLOSED;
    watch->idle_until_ms = 0;
}

static void lose(struct redis_watch *watch, const char *error, int64_t now_ms)
{
    if (watch->state == REDIS_WATCH_UP &&
        now_ms - watch->up_since_ms >= watch->options->backoff_max_ms)
        watch->failures = 0;
    watch->until_ms = now_ms + watch->hooks->pause(watch->context, watch->failures);
    watch->failures++;
    // In a long outage the same words come with the 2nd, 4th, 8th, ... failure only.
    if ((watch->failures & (watch->failures - 1)) == 0)
        log_warn("the connection that hears of freed locks was lost: waiters ask by themselves",
                 LOG_FIELD_STR("error", error),
                 LOG_FIELD_INT("retry_ms", watch->until_ms - now_ms));
    close_connection(watch);
}

// An ACL forbids it. That may be changed, but hardly soon.
static void refuse(struct redis_watch *watch, const char *error, int64_t now_ms)
{
    if (!watch->refused)
        log_warn("Redis refuses SUBSCRIBE: waiters ask by themselves, each second",
                 LOG_FIELD_STR("error", error));
    watch->refused = true;
    watch->until_ms = now_ms + REFUSED_PAUSE_MS;
    close_connection(watch);
}

// ---- Beginnings ----

static void open_connection(struct redis_watch *watch, int64_t now_ms)
{
    watch->state = REDIS_WATCH_CONNECTING;
    watch->until_ms = now_ms + watch->options->silence_ms;
    if (redis_connection_open(&watch->connection, &watch->address, watch->options->silence_ms) < 0)
        lose(watch, watch->connection.error, now_ms);
}

static void on_opened(void *context, int64_t now_ms)
{
    struct redis_watch *watch = context;
    enum redis_handshake_step steps[REDIS_HANDSHAKE_MAX_REPLIES];
    char error[192];
    int count;

    watch->state = REDIS_WATCH_GREETING;
    count = redis_handshake_begin_watch(&watch->handshake, &watch->options->url,
                                        watch->options->password_file, &watch->connection.output,
                                        steps, error, sizeof error);
    if (count < 0) {
        lose(watch, error, now_ms);
        return;
    }
    for (int i = 0; i < count; i++)
        redis_connection_expect(&watch->connection, &steps_due[steps[i]], now_ms);
    redis_connection_write(&watch->connection);
}

static void take_step(struct redis_watch *watch, enum redis_handshake_step step,
                      const struct redis_reply *reply, int64_t now_ms)
{
    char error[192];

    if (redis_handshake_answer(&watch->handshake, step, reply, error, sizeof error) < 0) {
        lose(watch, error, now_ms);
    } else if (step == REDIS_HANDSHAKE_NAME) {
        watch->state = REDIS_WATCH_UP;
        watch->up_since_ms = now_ms;
    }
}

// ---- Subscriptions ----

// A chunk of them goes out as soon as the one before it did.
static bool can_subscribe(const struct redis_watch *watch)
{
    return watch->state == REDIS_WATCH_UP && redis_channels_have_next(&watch->channels) &&
           watch->connection.due.count < MAX_DUE && redis_connection_is_clear(&watch->connection);
}

static void expect_subscription(struct redis_watch *watch, int64_t now_ms)
{
    redis_connection_expect(&watch->connection, &subscription_due, now_ms);
}

static void subscribe(struct redis_watch *watch, int64_t now_ms)
{
    const struct redis_channel *channel;

    for (int i = 0; i < CHUNK && (channel = redis_channels_next(&watch->channels)); i++) {
        redis_call_write_subscription(&watch->connection.output, "SUBSCRIBE",
                                      watch->options->key_prefix, channel->key,
                                      channel->key_length);
        expect_subscription(watch, now_ms);
    }
    redis_connection_write(&watch->connection);
}

void redis_watch_add(struct redis_watch *watch, const char *key, size_t key_length)
{
    (void)redis_channels_add(&watch->channels, key, key_length);
}

void redis_watch_remove(struct redis_watch *watch, const char *key, size_t key_length)
{
    if (!redis_channels_remove(&watch->channels, key, key_length))
        return;
    redis_call_write_subscription(&watch->connection.output, "UNSUBSCRIBE",
                                  watch->options->key_prefix, key, key_length);
    expect_subscription(watch, clock_boottime_ms());
}

// ---- What Redis says ----

static bool says(const struct redis_reply *reply, size_t length, const char *word)
{
    return redis_reply_is(reply, REDIS_REPLY_IS_ARRAY) && reply->length == length &&
           redis_reply_is(&reply->elements[0], REDIS_REPLY_IS_STRING) &&
           strcmp(reply->elements[0].string, word) == 0 &&
           redis_reply_is(&reply->elements[1], REDIS_REPLY_IS_STRING);
}

// Tells of the channel's key, if it is (still) watched.
static void tell_channel(struct redis_watch *watch, const struct redis_reply *channel,
                         int64_t now_ms)
{
    size_t prefix = strlen(watch->options->key_prefix);
    size_t end = sizeof REDIS_CALL_CHANNEL_END - 1;
    const char *key;
    size_t key_length;

    if (channel->length <= prefix + end)
        return;
    key = channel->string + prefix;
    key_length = channel->length - prefix - end;
    if (redis_channels_have(&watch->channels, key, key_length))
        watch->hooks->freed(watch->context, key, key_length, now_ms);
}

static bool on_pushed(void *context, const struct redis_reply *reply, int64_t now_ms)
{
    struct redis_watch *watch = context;

    if (!says(reply, 3, "message"))
        return false;
    tell_channel(watch, &reply->elements[1], now_ms);
    return true;
}

static void take_subscription(struct redis_watch *watch, const struct redis_reply *reply,
                              int64_t now_ms)
{
    char words[REDIS_REPLY_WORDS_SIZE];

    if (says(reply, 3, "subscribe")) {
        watch->refused = false;
        tell_channel(watch, &reply->elements[1], now_ms);
    } else if (redis_reply_is_error(reply, "NOPERM")) {
        refuse(watch, redis_reply_words(reply, words), now_ms);
    } else if (redis_reply_is(reply, REDIS_REPLY_IS_ERROR)) {
        lose(watch, redis_reply_words(reply, words), now_ms);
    } else if (!says(reply, 3, "unsubscribe") && !says(reply, 2, "pong") &&
               !redis_reply_is(reply, REDIS_REPLY_IS_STRING)) { // PONG, nothing being subscribed
        lose(watch, "protocol error: a reply of another shape", now_ms);
    }
}

static void on_answered(void *context, void *call, const struct redis_reply *reply, int64_t now_ms)
{
    struct redis_watch *watch = context;

    if (call == &subscription_due)
        take_subscription(watch, reply, now_ms);
    else
        take_step(watch, (enum redis_handshake_step)((char *)call - steps_due), reply, now_ms);
}

// ---- The connection's other hooks ----

static int64_t on_begin(void *context)
{
    const struct redis_watch *watch = context;

    return watch->hooks->begin(watch->context);
}

static void on_end(void *context, int64_t now_ms)
{
    const struct redis_watch *watch = context;

    watch->hooks->end(watch->context, now_ms);
}

static void on_broke(void *context, int64_t now_ms)
{
    struct redis_watch *watch = context;

    lose(watch, watch->connection.error, now_ms);
}

static const struct redis_connection_hooks connection_hooks = {
    .begin = on_begin,
    .end = on_end,
    .opened = on_opened,
    .pushed = on_pushed,
    .answered = on_answered,
    .broke = on_broke,
};

// ---- The main connection ----

void redis_watch_main_up(struct redis_watch *watch, const struct resolver_address *address)
{
    watch->reachable = true;
    watch->address = *address;
    watch->failures = 0;
    if (!watch->refused)
        watch->until_ms = 0;
}

void redis_watch_main_down(struct redis_watch *watch)
{
    watch->reachable = false;
    if (watch->state != REDIS_WATCH_CLOSED)
        close_connection(watch);
}

// ---- Time ----

static bool is_wanted(const struct redis_watch *watch)
{
    return watch->reachable && watch->state == REDIS_WATCH_CLOSED && watch->channels.count > 0;
}

// When the connection itself needs something: INT64_MAX while it is closed.
static int64_t connection_wake(const struct redis_watch *watch)
{
    const struct redis_connection *connection = &watch->connection;
    int64_t silence_ms = watch->options->silence_ms;

    if (connection->state == REDIS_CONNECTION_BROKEN)
        return 0;
    if (watch->state == REDIS_WATCH_CLOSED)
        return INT64_MAX;
    if (watch->state != REDIS_WATCH_UP)
        return watch->until_ms;
    if (connection->due.count > 0)
        return redis_connection_silent_at(connection, silence_ms);
    return watch->channels.count > 0 ? connection->last_byte_ms + silence_ms : INT64_MAX;
}

int64_t redis_watch_wake(const struct redis_watch *watch)
{
    int64_t wake_ms = connection_wake(watch);

    if (can_subscribe(watch))
        return 0;
    if (is_wanted(watch))
        return watch->until_ms;
    if (watch->idle_until_ms > 0 && watch->idle_until_ms < wake_ms)
        return watch->idle_until_ms;
    return wake_ms;
}

void redis_watch_flush(struct redis_watch *watch, int64_t now_ms)
{
    if (is_wanted(watch) && now_ms >= watch->until_ms)
        open_connection(watch, now_ms);
    if (watch->state != REDIS_WATCH_CLOSED && watch->channels.count > 0)
        watch->idle_until_ms = 0;
    else if (watch->state != REDIS_WATCH_CLOSED && watch->idle_until_ms == 0)
        watch->idle_until_ms = now_ms + LINGER_MS;
    if (watch->state == REDIS_WATCH_UP && buf_length(&watch->connection.output) > 0)
        redis_connection_write(&watch->connection);
    for (int i = 0; i < MAX_CHUNKS && can_subscribe(watch); i++)
        subscribe(watch, now_ms);
}

static void ask_for_life(struct redis_watch *watch, int64_t now_ms)
{
    redis_call_write_words(&watch->connection.output, (const char *const[]){"PING"}, 1);
    expect_subscription(watch, now_ms);
    redis_connection_write(&watch->connection);
}

void redis_watch_sweep(struct redis_watch *watch, int64_t now_ms)
{
    if (watch->idle_until_ms > 0 && now_ms >= watch->idle_until_ms) {
        if (watch->channels.count == 0)
            close_connection(watch);
        watch->idle_until_ms = 0;
    }
    if (now_ms < connection_wake(watch))
        return;
    if (watch->connection.state == REDIS_CONNECTION_BROKEN)
        lose(watch, watch->connection.error, now_ms);
    else if (watch->state != REDIS_WATCH_UP)
        lose(watch, "connect: no answer in time", now_ms);
    else if (watch->connection.due.count == 0)
        ask_for_life(watch, now_ms);
    else if (redis_connection_is_silent(&watch->connection, watch->options->silence_ms, now_ms))
        lose(watch, "Redis did not answer in time", now_ms);
}

// ---- Life ----

int redis_watch_init(struct redis_watch *watch, struct ev_loop *loop,
                     const struct store_redis_options *options,
                     const struct redis_watch_hooks *hooks, void *context)
{
    watch->options = options;
    watch->hooks = hooks;
    watch->context = context;
    redis_connection_init(&watch->connection, loop, &connection_hooks, watch);
    return redis_channels_init(&watch->channels);
}

void redis_watch_deinit(struct redis_watch *watch)
{
    redis_connection_deinit(&watch->connection);
    redis_channels_deinit(&watch->channels);
}
