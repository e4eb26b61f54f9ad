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
    [REDIS_CALL_ACQUIRE] = REDIS_SCRIPT_ACQUIRE,
    [REDIS_CALL_RELEASE] = REDIS_SCRIPT_RELEASE,
    [REDIS_CALL_BATCH] = REDIS_SCRIPT_RENEW,
};

// ---- Encoding ----

static void append_header(struct buf *out, char type, size_t number)
{
    buf_append(out, &type, 1);
    buf_append_int(out, (long long)number);
    buf_append(out, "\r\n", 2);
}

static void append_bulk(struct buf *out, const char *bytes, size_t size)
{
    append_header(out, '$', size);
    buf_append(out, bytes, size);
    buf_append(out, "\r\n", 2);
}

static void append_key(struct buf *out, const char *prefix, const char *key, size_t key_length)
{
    size_t prefix_length = strlen(prefix);

    append_header(out, '$', prefix_length + key_length);
    buf_append(out, prefix, prefix_length);
    buf_append(out, key, key_length);
    buf_append(out, "\r\n", 2);
}

static void append_number(struct buf *out, int64_t number)
{
    char digits[24];
    struct buf text = {.data = digits, .capacity = sizeof digits};

    buf_append_int(&text, number);
    append_bulk(out, digits, buf_length(&text));
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
    call->lives_ms = acquire->ttl_ms + acquire->timeout_ms;
    call->arguments = 8;
    append_number(tail, 2);
    append_key(tail, prefix, acquire->key, acquire->key_length);
    append_key(tail, redis_call_counter, prefix, strlen(prefix));
    append_head(tail, &acquire->token);
    append_number(tail, acquire->ttl_ms);
    append_number(tail, acquire->deadline_ms);
    append_number(tail, acquire->fence_floor);
    append_tail(tail, acquire);
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
