// SPDX-License-Identifier: Apache-2.0
//
// Replies into completions.
//
// A reply must have exactly the shape that our scripts return. Any other means that the two sides do
// not speak of the same call: the connection is ended and the call counts as lost, for its effect is
// unknown. An error, on the other hand, means that nothing was done; it passes (UNAVAILABLE) or
// needs somebody to act (REFUSED). Errors that the next connection may not have (a demoted master
// behind a name, a restart that loads) retire this one, with a pause before the next.
#include <stdio.h>
#include <string.h>

#include "sidecar/clock.h"
#include "sidecar/log.h"
#include "sidecar/store_redis_state.h"

static const char *const passing_codes[] = {
    "LOADING",  "BUSY",   "READONLY",  "MASTERDOWN", "CLUSTERDOWN",
    "TRYAGAIN", "NOAUTH", "WRONGPASS", "NOSCRIPT",
};

static const char *const retiring_codes[] = {"LOADING", "READONLY", "MASTERDOWN", "NOAUTH"};

static bool has_code(const struct redis_reply *reply, const char *const *codes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (redis_reply_is_error(reply, codes[i]))
            return true;
    }
    return false;
}

#define HAS_CODE(reply, codes) has_code(reply, codes, sizeof(codes) / sizeof((codes)[0]))

// The outcome of an error, with its words.
static enum store_outcome take_error(struct store_redis *store, const struct redis_reply *reply,
                                     char words[REDIS_REPLY_WORDS_SIZE])
{
    redis_reply_words(reply, words);
    if (HAS_CODE(reply, retiring_codes) && !store->retiring) {
        store->retiring = true;
        snprintf(store->error, sizeof store->error, "%s", words);
    }
    return HAS_CODE(reply, passing_codes) ? STORE_UNAVAILABLE : STORE_REFUSED;
}

static bool is_array(const struct redis_reply *reply, size_t length)
{
    return redis_reply_is(reply, REDIS_REPLY_IS_ARRAY) && reply->length == length;
}

static bool is_integer(const struct redis_reply *reply)
{
    return redis_reply_is(reply, REDIS_REPLY_IS_INTEGER);
}

static bool is_string(const struct redis_reply *reply)
{
    return redis_reply_is(reply, REDIS_REPLY_IS_STRING);
}

// ---- Acquire ----

// {0, PTTL, value or its length, ...}
static bool read_held(const struct redis_reply *reply, struct store_completion *completion)
{
    const struct redis_reply *value = &reply->elements[2];

    if (!is_integer(&reply->elements[1]))
        return false;
    completion->outcome = STORE_HELD;
    completion->pttl_ms = reply->elements[1].integer;
    if (is_string(value)) {
        completion->value = value->string;
        completion->value_length = value->length;
        return true;
    }
    completion->value_length = (size_t)value->integer;
    return is_integer(value) && value->integer > 0;
}

// {2, PTTL, type, ...}
static bool read_held_type(const struct redis_reply *reply, struct store_completion *completion)
{
    if (!is_integer(&reply->elements[1]) || !is_string(&reply->elements[2]))
        return false;
    completion->outcome = STORE_HELD;
    completion->pttl_ms = reply->elements[1].integer;
    completion->type = reply->elements[2].string;
    return true;
}

static bool read_acquired(const struct redis_reply *reply, struct store_completion *completion)
{
    completion->outcome = STORE_OK;
    completion->fence = reply->elements[1].integer;
    return is_integer(&reply->elements[1]) && completion->fence > 0 &&
           completion->fence <= WIRE_MAX_INTEGER;
}

// {1, fence} or {1, fence, 1}
static bool read_acquire(const struct redis_reply *reply, struct store_completion *completion)
{
    bool pair = is_array(reply, 2);

    if ((!pair && !is_array(reply, 3)) || !is_integer(&reply->elements[0]))
        return false;
    switch (reply->elements[0].integer) {
    case 0:
        return !pair && read_held(reply, completion);
    case 1:
        completion->replaced = !pair && is_integer(&reply->elements[2]);
        return (pair || (completion->replaced && completion->replaces)) &&
               read_acquired(reply, completion);
    case 2:
        return !pair && read_held_type(reply, completion);
    default:
        return false;
    }
}

// ---- Queries ----

static bool read_clock(const struct redis_reply *reply, struct store_completion *completion)
{
    completion->now_us = reply->integer;
    return is_integer(reply) && reply->integer > 0;
}

// 0, -1, or {1, value, clock}
static bool read_adopt(const struct redis_reply *reply, struct store_completion *completion)
{
    if (is_integer(reply)) {
        completion->outcome = reply->integer == 0 ? STORE_NOT_OWNER : STORE_NOT_YOURS;
        return reply->integer == 0 || reply->integer == -1;
    }
    if (!is_array(reply, 3) || !is_integer(&reply->elements[0]) || !is_string(&reply->elements[1]))
        return false;
    completion->outcome = STORE_OK;
    completion->value = reply->elements[1].string;
    completion->value_length = reply->elements[1].length;
    return reply->elements[0].integer == 1 && read_clock(&reply->elements[2], completion);
}

// {1, clock}, or as acquire, and clock
static bool read_inspect(const struct redis_reply *reply, struct store_completion *completion)
{
    bool pair = is_array(reply, 2);

    if ((!pair && !is_array(reply, 4)) || !is_integer(&reply->elements[0]) ||
        !read_clock(&reply->elements[reply->length - 1], completion))
        return false;
    completion->outcome = STORE_OK;
    switch (reply->elements[0].integer) {
    case 0:
        return !pair && read_held(reply, completion);
    case 1:
        return pair;
    case 2:
        return !pair && read_held_type(reply, completion);
    default:
        return false;
    }
}

// ---- One call ----

// 1 or 0: release, extend, break
static bool read_done(const struct redis_reply *reply, struct store_completion *completion)
{
    completion->outcome = reply->integer == 1 ? STORE_OK : STORE_NOT_OWNER;
    return is_integer(reply) && (reply->integer == 0 || reply->integer == 1);
}

static bool (*const readers[])(const struct redis_reply *, struct store_completion *) = {
    [REDIS_CALL_ACQUIRE] = read_acquire, [REDIS_CALL_RELEASE] = read_done,
    [REDIS_CALL_ADOPT] = read_adopt,     [REDIS_CALL_EXTEND] = read_done,
    [REDIS_CALL_INSPECT] = read_inspect, [REDIS_CALL_BREAK] = read_done,
};

static void malformed(struct store_redis *store, struct redis_call *call, int64_t now_ms)
{
    // Back among what is due, so that it is lost like the rest.
    redis_due_push(&store->connection.due, call, call->sent_at_ms);
    store_redis_lose(store, "protocol error: a reply of another shape", now_ms);
}

static void answer_single(struct store_redis *store, struct redis_call *call,
                          const struct redis_reply *reply, int64_t now_ms)
{
    struct store_completion completion = store_redis_completion(call);
    char words[REDIS_REPLY_WORDS_SIZE];

    if (redis_reply_is(reply, REDIS_REPLY_IS_ERROR)) {
        completion.outcome = take_error(store, reply, words);
        completion.error = words;
    } else if (!readers[call->kind](reply, &completion)) {
        malformed(store, call, now_ms);
        return;
    }
    if (call->kind <= REDIS_CALL_RELEASE)
        completion.certain =
            call->sequence > store->reordered && redis_lost_is_certain(&store->lost, now_ms);
    // A replica answers an inspection as well as a master does.
    store->succeeded |= completion.outcome == STORE_OK && call->kind != REDIS_CALL_INSPECT;
    store_redis_drop_call(store, call);
    store_redis_report(store, &completion, now_ms);
}

// ---- Batches ----

static enum store_outcome read_member(struct store_redis *store, const struct redis_reply *reply,
                                      char words[REDIS_REPLY_WORDS_SIZE])
{
    if (redis_reply_is(reply, REDIS_REPLY_IS_ERROR)) {
        take_error(store, reply, words);
        return STORE_UNAVAILABLE;
    }
    if (!is_integer(reply))
        return STORE_UNAVAILABLE;
    return reply->integer == 1                           ? STORE_OK
           : reply->integer == 0 || reply->integer == -1 ? STORE_NOT_OWNER
                                                         : STORE_UNAVAILABLE;
}

static void answer_members(struct store_redis *store, const struct redis_call *call,
                           const struct redis_reply *reply, int64_t now_ms)
{
    struct store_completion completion = {
        .op = STORE_RENEW,
        .sent_at_ms = call->sent_at_ms,
        .late = call->answered,
    };
    char words[REDIS_REPLY_WORDS_SIZE];

    for (uint32_t i = 0; i < call->count; i++) {
        words[0] = '\0';
        completion.outcome = read_member(store, &reply->elements[i], words);
        completion.error = words[0] ? words : NULL;
        completion.lease = call->members[i].lease;
        completion.generation = call->members[i].generation;
        store->succeeded |= completion.outcome == STORE_OK;
        // Late, only what Redis did or found is worth saying: the attempt has failed already.
        if (!completion.late || completion.outcome != STORE_UNAVAILABLE)
            store_redis_report(store, &completion, now_ms);
    }
}

static void answer_batch(struct store_redis *store, struct redis_call *call,
                         const struct redis_reply *reply, int64_t now_ms)
{
    char words[REDIS_REPLY_WORDS_SIZE];
    bool is_error = redis_reply_is(reply, REDIS_REPLY_IS_ERROR);

    if (!is_error && !is_array(reply, call->count)) {
        malformed(store, call, now_ms);
        return;
    }
    if (!call->answered)
        store->batches--;
    if (is_error) {
        take_error(store, reply, words);
        if (!call->answered)
            store_redis_complete(store, call, STORE_UNAVAILABLE, words, now_ms);
    } else {
        answer_members(store, call, reply, now_ms);
    }
    store_redis_drop_call(store, call);
}

// ---- What answers what ----

// The script's text, at once, under the same timeout. What was written in between overtakes this
// call: a release among it proves nothing about an acquire that comes after it.
static void answer_noscript(struct store_redis *store, struct redis_call *call)
{
    call->whole = true;
    if (call->kind == REDIS_CALL_ACQUIRE)
        store->reordered = store->sequence;
    redis_call_write(call, &store->connection.output);
    store_redis_written(store, call, clock_boottime_ms());
}

static void answer_kill(struct store_redis *store, struct redis_call *call,
                        const struct redis_reply *reply)
{
    if (is_integer(reply)) {
        redis_lost_confirm(&store->lost, call->number);
    } else {
        char words[REDIS_REPLY_WORDS_SIZE] = "unexpected reply";

        if (redis_reply_is(reply, REDIS_REPLY_IS_ERROR))
            redis_reply_words(reply, words);
        log_warn("Redis refuses CLIENT KILL: deletes are repeated instead",
                 LOG_FIELD_STR("error", words));
        redis_lost_spare(&store->lost, call->number);
    }
    store_redis_drop_call(store, call);
}

void store_redis_answer(struct store_redis *store, struct redis_call *call,
                        const struct redis_reply *reply, int64_t now_ms)
{
    enum redis_handshake_step step;

    if (call->kind <= REDIS_CALL_BATCH && !call->answered && !call->whole &&
        redis_reply_is_error(reply, "NOSCRIPT")) {
        answer_noscript(store, call);
        return;
    }
    store_redis_stop_timeout(store, call);
    switch (call->kind) {
    case REDIS_CALL_ACQUIRE:
    case REDIS_CALL_RELEASE:
    case REDIS_CALL_ADOPT:
    case REDIS_CALL_EXTEND:
    case REDIS_CALL_INSPECT:
    case REDIS_CALL_BREAK:
        if (call->answered)
            store_redis_drop_call(store, call);
        else
            answer_single(store, call, reply, now_ms);
        break;
    case REDIS_CALL_BATCH:
        answer_batch(store, call, reply, now_ms);
        break;
    case REDIS_CALL_HANDSHAKE:
        step = (enum redis_handshake_step)call->number;
        store_redis_drop_call(store, call);
        store_redis_greeted(store, step, reply, now_ms);
        break;
    case REDIS_CALL_KILL:
        answer_kill(store, call, reply);
        break;
    }
}
