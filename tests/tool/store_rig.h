// SPDX-License-Identifier: Apache-2.0
//
// The Redis store on a loop, as the sidecar runs it, with a keeper that only writes down what it
// hears. A lease is a number: its key is "k<number>" and its token is made of the number, so that a
// test names all three by it.
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "sidecar/store_redis.h"
#include "tests/tool/scratch.h"

enum {
    STORE_RIG_MAX_LEASES = 4096,
    STORE_RIG_MAX_QUERIES = 64, // leases that are asked about
};

struct store_rig_result {
    int count; // of completions; late ones not counted
    int late;
    struct store_completion last; // its strings are the copies below
    char value[1100];
    char type[32];
    char error[200];
    int64_t now_ms;
    int order; // of all completions
};

struct store_rig {
    struct ev_loop *loop;
    ev_prepare prepare;
    ev_check check;
    ev_timer timer;
    ev_idle idle;
    struct store *store;
    struct redis_url url;
    struct store_redis_options options;

    int up;   // times it came up
    int down; // times it was said to be down
    char error[200];
    int completions;
    bool submitting; // a completion now is a fault
    int64_t ttl_ms;
    int64_t timeout_ms;
    int64_t fence_floor;
    const char *instance;                  // 16 digits; "feedfacefeedface" at first
    int64_t deadline_ms;                   // acquire, extend
    int64_t adopter_uid;                   // adopt: 1000, the uid of all leases, at first
    bool unwanted[STORE_RIG_MAX_LEASES];   // describe says no
    struct store_rig_result (*results)[3]; // by lease and enum store_op
    struct store_rig_result query_results[STORE_RIG_MAX_QUERIES][4]; // from STORE_ADOPT on
    int freed[STORE_RIG_MAX_LEASES]; // by key: times that it was said to be freed
    int all_freed;
    int64_t believed_ms;
    void (*on_completed)(struct store_rig *rig, const struct store_completion *completion);
    void (*on_up)(struct store_rig *rig);
    void (*on_freed)(struct store_rig *rig, uint32_t key);
};

// Fills rig->options; a test may change them before store_rig_start.
void store_rig_init(struct store_rig *rig, const char *url);
void store_rig_start(struct store_rig *rig);
// Frees the store, unless that is done, and the loop.
void store_rig_deinit(struct store_rig *rig);

void store_rig_acquire(struct store_rig *rig, uint32_t lease);
// Another token on the key of a lease.
void store_rig_acquire_key(struct store_rig *rig, uint32_t lease, uint32_t key);
void store_rig_renew(struct store_rig *rig, uint32_t lease, int64_t due_by_ms);
void store_rig_release(struct store_rig *rig, uint32_t lease);
// The key goes from the lease `replaces` to another.
void store_rig_hand_over(struct store_rig *rig, uint32_t lease, uint32_t key, uint32_t replaces);
// adopt (by pid 900 on pod-9), extend, inspect, break.
void store_rig_query(struct store_rig *rig, enum store_op op, uint32_t lease);
void store_rig_watch(struct store_rig *rig, uint32_t key);
void store_rig_unwatch(struct store_rig *rig, uint32_t key);
void store_rig_token(uint32_t lease, struct store_token *token);

// One turn of the loop, at most limit_ms long.
void store_rig_turn(struct store_rig *rig, int64_t limit_ms);

static inline const struct store_rig_result *store_rig_result(const struct store_rig *rig,
                                                              uint32_t lease, enum store_op op)
{
    return op >= STORE_ADOPT ? &rig->query_results[lease][op - STORE_ADOPT]
                             : &rig->results[lease][op];
}

#define STORE_RIG_UNTIL(rig, condition)                                                            \
    do {                                                                                           \
        int64_t rig_deadline_ = scratch_deadline(10000);                                           \
        while (!(condition)) {                                                                     \
            ck_assert_msg(scratch_left(rig_deadline_) > 0, "not within 10 s: %s (%s)", #condition, \
                          (rig)->error);                                                           \
            store_rig_turn(rig, 20);                                                               \
        }                                                                                          \
    } while (0)

// The single completion of a lease's call, waited for.
#define STORE_RIG_EXPECT(rig, lease, op, expected)                                                 \
    do {                                                                                           \
        STORE_RIG_UNTIL(rig, store_rig_result(rig, lease, op)->count > 0);                         \
        ck_assert_int_eq(store_rig_result(rig, lease, op)->count, 1);                              \
        ck_assert_int_eq(store_rig_result(rig, lease, op)->last.outcome, expected);                \
    } while (0)
