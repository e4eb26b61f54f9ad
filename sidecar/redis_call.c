// SPDX-License-Identifier: Apache-2.0
//
// Calls as RESP.
//
// A call's arguments are encoded once, when it is submitted; what stands before them (EVALSHA and
// the digest, or EVAL and the text) when it is written. So the same bytes serve the queue, the
// write, and the repeat after NOSCRIPT, and nothing of the caller's is kept.
//
// The keys: prefix + key for a lock, and one counter of fencing tokens for each prefix. The counter's
// name holds a control character, which no client's key can; and it does not begin with the prefix,
// so that whoever lists the prefix sees locks alone.
#include <stdlib.h>
#include <string.h>

#include "sidecar/redis_call.h"
#include "sidecar/value.h"

const char redis_call_counter[] = "lock-keeper:fence\x1f";

static const enum redis_script_name scripts[] = {
    [REDIS_CALL_ACQUIRE] = REDIS_SCRIPT_ACQUIRE, [REDIS_CALL_RELEASE] = REDIS_SCRIPT_RELEASE,
    [REDIS_CALL_ADOPT] = REDIS_SCRIPT_ADOPT,     [REDIS_CALL_EXTEND] = REDIS_SCRIPT_EXTEND,
    [REDIS_CALL_INSPECT] = REDIS_SCRIPT_INSPECT, [REDIS_CALL_BREAK] = REDIS_SCRIPT_BREAK,
    [REDIS_CALL_BATCH] = REDIS_SCRIPT_RENEW,
};

static const enum store_op ops[] = {
    [REDIS_CALL_ACQUIRE] = STORE_ACQUIRE, [REDIS_CALL_RELEASE] = STORE_RELEASE,
    [REDIS_CALL_ADOPT] = STORE_ADOPT,     [REDIS_CALL_EXTEND] = STORE_EXTEND,
    [REDIS_CALL_INSPECT] = STORE_INSPECT, [REDIS_CALL_BREAK] = STORE_BREAK,
    [REDIS_CALL_BATCH] = STORE_RENEW,
};

// A break that a lost connection still carries to Redis would delete the next holder's key: so long
// such a connection is ended by CLIENT KILL.
enum { BREAK_LIVES_MS = 60000 };

// ---- Encoding ----

// Room is asked for once for each argument: a batch of renewals is hundreds of short ones.
enum { DIGITS_MAX = 20, HEADER_MAX = 1 + DIGITS_MAX + 2 };

static char *put_number(char *to, uint64_t number)
{
    char digits[DIGITS_MAX];
    size_t at = sizeof digits;

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    memcpy(to, digits + at, sizeof digits - at);
    return to + (sizeof digits - at);
}

static char *put_header(char *to, char type, size_t number)
{
    *to = type;
    to = put_number(to + 1, number);
    memcpy(to, "\r\n", 2);
    return to + 2;
}

static void append_header(struct buf *out, char type, size_t number)
{
    char *room = buf_reserve(out, HEADER_MAX);

    if (room)
        buf_commit(out, (size_t)(put_header(room, type, number) - room));
}

// One argument, but for its bytes, which go to the returned place at once; NULL: out of memory.
static char *append_room(struct buf *out, size_t size)
{
    char *room = buf_reserve(out, HEADER_MAX + size + 2);
    char *to;

    if (!room)
        return NULL;
    to = put_header(room, '$', size);
    memcpy(to + size, "\r\n", 2);
    buf_commit(out, (size_t)(to + size + 2 - room));
    return to;
}

static void append_bulk(struct buf *out, const char *bytes, size_t size)
{
    char *to = append_room(out, size);

    if (to)
        memcpy(to, bytes, size);
}

// prefix + key + end as one argument.
static void append_name(struct buf *out, const char *prefix, const char *key, size_t key_length,
                        const char *end)
{
    size_t prefix_length = strlen(prefix);
    size_t end_length = strlen(end);
    char *to = append_room(out, prefix_length + key_length + end_length);

    if (!to)
        return;
    memcpy(to, prefix, prefix_length);
    memcpy(to + prefix_length, key, key_length);
    memcpy(to + prefix_length + key_length, end, end_length);
}

static void append_key(struct buf *out, const char *prefix, const char *key, size_t key_length)
{
    append_name(out, prefix, key, key_length, "");
}

static void append_number(struct buf *out, int64_t number)
{
    char digits[1 + DIGITS_MAX];
    char *to = digits;

    if (number < 0)
        *to++ = '-';
    to = put_number(to, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
    append_bulk(out, digits, (size_t)(to - digits));
}

static void append_head(struct buf *out, const struct store_token *token)
{
    char head[VALUE_HEAD_LENGTH];

    append_bulk(out, head, value_format_head(token, head));
}

static void append_tail(struct buf *out, const struct store_acquire *acquire)
{
    char text[VALUE_TAIL_SIZE];
    struct value value = {
        .pid = acquire->pid,
        .uid = acquire->uid,
        .host = acquire->host,
        .host_length = strnlen(acquire->host, VALUE_MAX_HOST),
        .label = acquire->label,
        .label_length = acquire->label_length,
    };

    append_bulk(out, text, value_format_tail(&value, text));
}

void redis_call_write_words(struct buf *out, const char *const *words, int count)
{
    append_header(out, '*', (size_t)count);
    for (int i = 0; i < count; i++)
        append_bulk(out, words[i], strlen(words[i]));
}

void redis_call_write_subscription(struct buf *out, const char *command, const char *prefix,
                                   const char *key, size_t key_length)
{
    append_header(out, '*', 2);
    append_bulk(out, command, strlen(command));
    append_name(out, prefix, key, key_length, REDIS_CALL_CHANNEL_END);
}

void redis_call_write(const struct redis_call *call, struct buf *out)
{
    const struct redis_script *script = &redis_scripts[scripts[call->kind]];

    append_header(out, '*', 2 + (size_t)call->arguments);
    if (call->whole) {
        append_bulk(out, "EVAL", 4);
        append_bulk(out, script->text, script->length);
    } else {
        append_bulk(out, "EVALSHA", 7);
        append_bulk(out, script->sha, strlen(script->sha));
    }
    buf_append(out, buf_bytes(&call->tail), buf_length(&call->tail));
}

// ---- Calls ----

struct redis_call *redis_call_new(enum redis_call_kind kind)
{
    struct redis_call *call = calloc(1, sizeof *call);

    if (!call)
        abort();
    call->kind = kind;
    return call;
}

struct redis_call *redis_call_free(struct redis_call *call)
{
    if (call) {
        buf_deinit(&call->tail);
        free(call->members);
        free(call);
    }
    return NULL;
}

void redis_call_reset(struct redis_call *call, enum redis_call_kind kind)
{
    struct buf tail = call->tail;
    struct redis_call_member *members = call->members;

    buf_consume(&tail, buf_length(&tail));
    *call = (struct redis_call){.kind = kind, .tail = tail, .members = members};
}

static void check_tail(const struct redis_call *call)
{
    if (call->tail.failed)
        abort();
}

void redis_call_set_acquire(struct redis_call *call, const char *prefix,
                            const struct store_acquire *acquire)
{
    struct buf *tail = &call->tail;

    call->lease = acquire->lease;
    call->generation = acquire->generation;
    call->replaces = acquire->replaces;
    call->replaces_generation = acquire->replaces_generation;
    call->lives_ms = acquire->ttl_ms + acquire->timeout_ms;
    call->arguments = acquire->replaces ? 9 : 8;
    append_number(tail, 2);
    append_key(tail, prefix, acquire->key, acquire->key_length);
    append_key(tail, redis_call_counter, prefix, strlen(prefix));
    append_head(tail, &acquire->token);
    append_number(tail, acquire->ttl_ms);
    append_number(tail, acquire->deadline_ms);
    append_number(tail, acquire->fence_floor);
    append_tail(tail, acquire);
    if (acquire->replaces)
        append_head(tail, &acquire->replaces_token);
    check_tail(call);
}

void redis_call_set_release(struct redis_call *call, const char *prefix,
                            const struct store_release *release)
{
    struct buf *tail = &call->tail;

    call->lease = release->lease;
    call->generation = release->generation;
    call->arguments = 3;
    append_number(tail, 1);
    append_key(tail, prefix, release->key, release->key_length);
    append_head(tail, &release->token);
    check_tail(call);
}

static void append_adopt(struct redis_call *call, const struct store_query *query)
{
    char head[VALUE_HEAD_LENGTH];

    value_format_head(&query->token, head);
    append_bulk(&call->tail, head, WIRE_LEASE_DIGITS);
    append_number(&call->tail, query->uid);
    append_bulk(&call->tail, query->token.instance, WIRE_INSTANCE_DIGITS);
    append_number(&call->tail, query->pid);
    append_bulk(&call->tail, query->host, strnlen(query->host, VALUE_MAX_HOST));
    call->arguments += 5;
}

void redis_call_set_query(struct redis_call *call, const char *prefix,
                          const struct store_query *query)
{
    call->lease = query->lease;
    call->generation = query->generation;
    call->arguments = 2;
    append_number(&call->tail, 1);
    append_key(&call->tail, prefix, query->key, query->key_length);
    if (query->op == STORE_ADOPT) {
        append_adopt(call, query);
    } else if (query->op == STORE_EXTEND) {
        append_head(&call->tail, &query->token);
        append_number(&call->tail, query->deadline_ms);
        call->arguments += 2;
    } else if (query->op == STORE_BREAK) {
        call->lives_ms = BREAK_LIVES_MS;
    }
    check_tail(call);
}

enum store_op redis_call_op(const struct redis_call *call)
{
    return ops[call->kind];
}

enum redis_call_kind redis_call_kind_of(enum store_op op)
{
    switch (op) {
    case STORE_ADOPT:
        return REDIS_CALL_ADOPT;
    case STORE_EXTEND:
        return REDIS_CALL_EXTEND;
    case STORE_INSPECT:
        return REDIS_CALL_INSPECT;
    default:
        return REDIS_CALL_BREAK;
    }
}

// ---- Batches ----

void redis_batch_add(struct redis_batch *batch, struct redis_call_member member,
                     const struct store_subject *subject)
{
    struct redis_call *call = batch->call;

    if (!call->members) {
        call->members = calloc(REDIS_CALL_MAX_BATCH, sizeof *call->members);
        if (!call->members)
            abort();
    }
    call->members[call->count++] = member;
    append_key(&batch->keys, batch->prefix, subject->key, subject->key_length);
    append_head(&batch->values, &subject->token);
    append_number(&batch->values, subject->ttl_ms);
}

void redis_batch_end(struct redis_batch *batch)
{
    struct redis_call *call = batch->call;

    call->arguments = 1 + 3 * (int)call->count;
    append_number(&call->tail, call->count);
    buf_append(&call->tail, buf_bytes(&batch->keys), buf_length(&batch->keys));
    buf_append(&call->tail, buf_bytes(&batch->values), buf_length(&batch->values));
    if (batch->keys.failed || batch->values.failed)
        abort();
    check_tail(call);
    buf_consume(&batch->keys, buf_length(&batch->keys));
    buf_consume(&batch->values, buf_length(&batch->values));
    batch->call = NULL;
}
