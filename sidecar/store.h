// SPDX-License-Identifier: Apache-2.0
//
// Where leases live: the interface between the keeper (which decides) and Redis, or a fake of it
// in tests. Nothing here holds a pointer to a lease: a call carries (lease id, generation) and its
// completion brings them back.
//
// Contract
// - Every submitted operation completes exactly once, through hooks->completed, on a lost
//   connection too, and never from inside the call that submitted it.
// - A renewal that completed with STORE_TIMEOUT and is answered after all is reported once more,
//   with late set; nothing else is reported twice.
// - Operations on one connection reach Redis in the order of their submission, but for renewals,
//   which go out earliest due first, in batches.
// - Before any completion is delivered after input arrived, hooks->believe is called, and its
//   clock is the `now` of what follows.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/message.h"

// What a compare-and-set compares: the head of the value in Redis.
struct store_token {
    struct message_token token;
    char instance[WIRE_INSTANCE_DIGITS]; // not NUL-terminated
};

enum store_op {
    STORE_ACQUIRE,
    STORE_RENEW,
    STORE_RELEASE, // compare-and-delete
    STORE_ADOPT,   // moves a lease, compared by its token alone, to this instance; and lengthens it
    STORE_EXTEND,  // rewrites the workflow deadline in the value
    STORE_INSPECT, // who has the key
    STORE_BREAK,   // deletes the key, whoever's it is
};

enum store_outcome {
    STORE_OK,        // acquired; renewed; deleted; adopted; extended; inspect: answered
    STORE_HELD,      // acquire, inspect: the key is somebody's (value, type, pttl_ms); nothing set
    STORE_NOT_OWNER, // the others: the key is missing, another's, or of another type
    STORE_NOT_YOURS, // adopt: the lease is another uid's; nothing was done
    STORE_UNAVAILABLE, // Redis answered an error that passes (LOADING, READONLY, ...): nothing done
    STORE_REFUSED,     // Redis answered another error (OOM, NOPERM, ...): nothing done
    STORE_UNSENT,      // never written: nothing done, nothing to undo
    STORE_TIMEOUT,     // written, no answer in time: may be done yet
    STORE_LOST,        // written, and the connection went before the answer: may be done, or yet be
    STORE_OUTCOME_COUNT,
};

struct store_completion {
    enum store_op op;
    enum store_outcome outcome;
    uint32_t lease;
    uint32_t generation;
    int64_t sent_at_ms; // read just before the write that carried it; 0 when UNSENT
    bool late;          // renew: after its own STORE_TIMEOUT
    // acquire, release, answered: true when no earlier send of ours can be executed after this one
    // (all were on the same connection, or the old one was killed, or Redis was started anew).
    bool certain;
    // acquire: the call's `replaces` back; replaced: the key went straight from it to this lease.
    uint32_t replaces;
    uint32_t replaces_generation;
    bool replaced;
    int64_t now_us;    // inspect, adopt: Redis' clock
    int64_t fence;     // acquire, OK: the fencing token stored with the lease
    int64_t pttl_ms;   // HELD: the key's PTTL, -1 without one
    const char *value; // HELD: the value, borrowed; NULL when no string, or too long. adopt, OK: as
                       //   it is now
    size_t value_length; //   its length, also when value is NULL
    const char *type;    // HELD: the key's type where it is no string, else NULL
    const char *error;   // UNAVAILABLE, REFUSED, UNSENT, LOST: why, in words, or NULL
};

struct store_acquire {
    uint32_t lease;
    uint32_t generation;
    const char *key; // without prefix; copied
    size_t key_length;
    struct store_token token;
    int64_t ttl_ms;
    int64_t deadline_ms; // the workflow deadline, from the grant
    int64_t fence_floor; // the highest fencing token seen: the new one is above it
    int64_t pid;
    int64_t uid;
    const char *host; // without spaces
    const char *label;
    size_t label_length;
    int64_t timeout_ms; // from submission: UNSENT or TIMEOUT by then
    // Hand-over: where the key still holds this lease's value, it goes to the new one without being
    // free in between. replaces 0: none.
    uint32_t replaces;
    uint32_t replaces_generation;
    struct store_token replaces_token;
};

struct store_release {
    uint32_t lease;
    uint32_t generation;
    const char *key;
    size_t key_length;
    struct store_token token;
    int64_t timeout_ms; // from submission
};

// adopt, extend, inspect, break: (lease, generation) is the caller's name for the call.
struct store_query {
    enum store_op op;
    uint32_t lease;
    uint32_t generation;
    const char *key; // copied
    size_t key_length;
    struct store_token token; // adopt, extend
    int64_t deadline_ms;      // extend: from the grant
    int64_t pid;              // adopt: the new holder
    int64_t uid;              // adopt: must be the lease's, or 0
    const char *host;         // adopt
    int64_t timeout_ms;       // from submission
};

// What a renewal needs, asked for when it is written.
struct store_subject {
    const char *key; // borrowed until the hook is called again
    size_t key_length;
    struct store_token token;
    int64_t ttl_ms;
    int64_t timeout_ms; // from the write
};

struct store_hooks {
    // Input arrived: read the clock, sweep what is due, return the clock.
    int64_t (*believe)(void *context);
    void (*completed)(void *context, const struct store_completion *completion, int64_t now_ms);
    // The store came up (after its handshake, before anything else is written) or went down.
    // error: why it is down, borrowed; NULL when up.
    void (*status)(void *context, bool up, const char *error, int64_t now_ms);
    // The renewal of (lease, generation) is about to be written. False: it is no longer wanted; it
    // completes as STORE_UNSENT.
    bool (*describe)(void *context, uint32_t lease, uint32_t generation, int64_t now_ms,
                     struct store_subject *subject);
    // A watched key may have been freed: it was, or the watch has only just begun (anew).
    void (*freed)(void *context, const char *key, size_t key_length, int64_t now_ms);
};

struct store;

struct store_ops {
    void (*acquire)(struct store *store, const struct store_acquire *acquire, int64_t now_ms);
    // due_by_ms: the instant by which it must be confirmed; the earliest goes first. While the store
    // is down renewals are kept and go out when it is up again.
    void (*renew)(struct store *store, uint32_t lease, uint32_t generation, int64_t due_by_ms,
                  int64_t now_ms);
    void (*release)(struct store *store, const struct store_release *release, int64_t now_ms);
    void (*query)(struct store *store, const struct store_query *query, int64_t now_ms);
    // Asks to be told (hooks->freed) when the key is freed by a lock-keeper, until unwatch. A watch
    // outlives connections. Each key at most once.
    void (*watch)(struct store *store, const char *key, size_t key_length);
    void (*unwatch)(struct store *store, const char *key, size_t key_length);
    // The earliest instant at which a timeout of the store's is due, INT64_MAX for none; and its sweep.
    int64_t (*next_timeout)(const struct store *store);
    void (*sweep)(struct store *store, int64_t now_ms);
};

// Embedded first in every implementation.
struct store {
    const struct store_ops *ops;
    const struct store_hooks *hooks; // set, with its context, before the first call
    void *context;
    bool up;
};
