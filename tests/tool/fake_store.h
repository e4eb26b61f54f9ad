// SPDX-License-Identifier: Apache-2.0
//
// A store for unit tests: it does nothing but record what the keeper asks for. The test completes
// each call by hand, with any outcome, in any order, as often as the contract of store.h allows
// (which is asserted).
//
//     struct fake_store fake;
//     fake_store_init(&fake);
//     ... give &fake.store to the keeper, which sets its hooks ...
//     fake_store_set_up(&fake, now);
//     struct fake_call *call = fake_store_expect(&fake, STORE_ACQUIRE);
//     fake_store_grant(&fake, call, 7, now);
//     fake_store_expect_none(&fake);
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sidecar/store.h"

enum {
    FAKE_STORE_CALLS = 4096, // calls recorded in one test, at most
};

struct fake_call {
    enum store_op op;
    uint32_t lease;
    uint32_t generation;
    int64_t now_ms;             // the caller's clock at the submission
    int64_t due_by_ms;          // renew
    int64_t sent_at_ms;         // 0 until written
    bool seen;                  // taken by fake_store_expect
    bool done;                  // completed
    bool late_allowed;          // renew: completed with STORE_TIMEOUT, may be answered once more
    char key[WIRE_MAX_KEY + 1]; // renew: once it is written
    size_t key_length;
    struct store_token token; // likewise
    int64_t ttl_ms;           // acquire; renew once written
    int64_t timeout_ms;
    struct store_acquire acquire; // acquire: as submitted, its strings borrowed from this call
    struct store_query query;     // adopt, extend, inspect, break: likewise
    char host[256];
    char label[WIRE_MAX_LABEL + 1];
};

// What hooks->freed is to tell of.
struct fake_watch {
    char key[WIRE_MAX_KEY + 1];
    size_t key_length;
};

struct fake_store {
    struct store store;
    struct fake_watch *watches; // owned; of now
    size_t watch_count;
    size_t watched;          // since the beginning
    struct fake_call *calls; // FAKE_STORE_CALLS of them, so that pointers to them stay valid
    size_t count;
    size_t completed;
    int64_t next_timeout_ms; // what the store answers; a test may set it. INT64_MAX at first
    int64_t swept_at_ms;     // the clock of the last sweep, -1 before the first
};

void fake_store_init(struct fake_store *fake);
void fake_store_deinit(struct fake_store *fake);

// Reports the store's status through its hooks and sets store.up.
void fake_store_set_up(struct fake_store *fake, int64_t now_ms);
void fake_store_set_down(struct fake_store *fake, const char *error, int64_t now_ms);

// The oldest call not yet seen, which must be of this kind. It stays valid until the deinit.
struct fake_call *fake_store_expect(struct fake_store *fake, enum store_op op);
// Fails the test when a call was made that no fake_store_expect has taken.
void fake_store_expect_none(struct fake_store *fake);
size_t fake_store_unseen(const struct fake_store *fake);

// The write of a renewal: asks hooks->describe. True, and the call's key, token and ttl are set;
// false when it is no longer wanted, and then it has completed as STORE_UNSENT. For the other kinds
// it only notes the moment of the write.
bool fake_store_write(struct fake_store *fake, struct fake_call *call, int64_t now_ms);

// Completes a call (written at its submission unless fake_store_write came first) with an outcome.
// hooks->believe is called first, as by a store that got input, for outcomes that are answers; its
// clock is what the completion is delivered with. `now_ms` is the clock of the others.
void fake_store_complete(struct fake_store *fake, struct fake_call *call,
                         enum store_outcome outcome, int64_t now_ms);
// The same with every member of the completion but op, lease, generation, replaces and sent_at_ms as
// given.
void fake_store_complete_with(struct fake_store *fake, struct fake_call *call,
                              struct store_completion completion, int64_t now_ms);
// An adoption that Redis has made: STORE_OK with the value as it is then, and Redis' clock.
void fake_store_adopt(struct fake_store *fake, struct fake_call *call, const char *value,
                      int64_t now_us, int64_t now_ms);

bool fake_store_is_watched(const struct fake_store *fake, const char *key);
// The key, which must be watched, was freed. Calls hooks->believe first.
void fake_store_free_key(struct fake_store *fake, const char *key);

// STORE_OK with a fencing token (of a hand-over: `replaced`); STORE_HELD by value (NULL: none).
void fake_store_grant(struct fake_store *fake, struct fake_call *call, int64_t fence,
                      int64_t now_ms);
void fake_store_hold(struct fake_store *fake, struct fake_call *call, const char *value,
                     int64_t pttl_ms, int64_t now_ms);
