// SPDX-License-Identifier: Apache-2.0
//
// One command to Redis and what becomes of its reply; and the encoding of all our commands.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "protocol/buf.h"
#include "sidecar/redis_scripts.h"
#include "sidecar/store.h"

enum redis_call_kind {
    REDIS_CALL_ACQUIRE,
    REDIS_CALL_RELEASE,
    REDIS_CALL_ADOPT,
    REDIS_CALL_EXTEND,
    REDIS_CALL_INSPECT,
    REDIS_CALL_BREAK,
    REDIS_CALL_BATCH,     // renewals; the last of those that the keeper asks for
    REDIS_CALL_HANDSHAKE, // `number`: its step
    REDIS_CALL_KILL,      // `number`: the client's id
};

enum {
    REDIS_CALL_MAX_BATCH = 100,
};

// What stands behind prefix and key in the name of the channel that tells of the key's release; the
// scripts say so too. (No client's key can hold the control character.)
#define REDIS_CALL_CHANNEL_END                                                                     \
    "\x1f"                                                                                         \
    "freed"

struct redis_call_member {
    uint32_t lease;
    uint32_t generation;
};

struct redis_call {
    enum redis_call_kind kind;
    uint32_t slot; // in the store's table
    uint32_t lease;
    uint32_t generation;
    uint32_t replaces; // acquire: the lease that hands over, or 0
    uint32_t replaces_generation;
    bool pending;  // in the queue of what is not written yet
    bool answered; // completed by its timeout: its reply is still due, and mostly ignored
    bool whole;    // the script goes along (EVAL)
    int64_t number;
    int64_t timeout_at_ms;
    int64_t sent_at_ms;
    int64_t lives_ms;  // for how long the connection must be known to have ended, if it is lost
    uint64_t sequence; // the order in which calls were written
    struct redis_call *previous;
    struct redis_call *next;
    uint32_t count; // batch: its members
    struct redis_call_member *members;
    int arguments;   // after the script
    struct buf tail; // those arguments, as RESP
};

// Out of memory ends the process: what was submitted must be answered, and clients see the end.
struct redis_call *redis_call_new(enum redis_call_kind kind);
struct redis_call *redis_call_free(struct redis_call *call);
// Ready for another use, its memory kept.
void redis_call_reset(struct redis_call *call, enum redis_call_kind kind);

void redis_call_set_acquire(struct redis_call *call, const char *prefix,
                            const struct store_acquire *acquire);
void redis_call_set_release(struct redis_call *call, const char *prefix,
                            const struct store_release *release);
// The kind is that of query->op.
void redis_call_set_query(struct redis_call *call, const char *prefix,
                          const struct store_query *query);

// The operation that a call of the keeper's carries out, and the reverse for those of store_query.
enum store_op redis_call_op(const struct redis_call *call);
enum redis_call_kind redis_call_kind_of(enum store_op op);

// A batch is built key by key, and ended once it is full.
struct redis_batch {
    struct redis_call *call;
    const char *prefix;
    struct buf keys;
    struct buf values;
};

void redis_batch_add(struct redis_batch *batch, struct redis_call_member member,
                     const struct store_subject *subject);
// Puts what was added into call->tail, and empties the two buffers for the next one.
void redis_batch_end(struct redis_batch *batch);

// What stands before the prefix in the name of the counter of fencing tokens.
extern const char redis_call_counter[];

// EVALSHA (or EVAL) and the call's arguments.
void redis_call_write(const struct redis_call *call, struct buf *out);
// Another command: count NUL-terminated words.
void redis_call_write_words(struct buf *out, const char *const *words, int count);
// SUBSCRIBE or UNSUBSCRIBE, of the key's channel.
void redis_call_write_subscription(struct buf *out, const char *command, const char *prefix,
                                   const char *key, size_t key_length);
