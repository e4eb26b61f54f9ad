// SPDX-License-Identifier: Apache-2.0
//
// Somebody else who wants the key: asks Redis for it every 2 ms, past the sidecar and past the fault
// proxy, and notes when it got it. What a holder was promised is measured against that instant.
//
//     struct rival *rival = rival_new(redis.socket, "actor:42");
//     ... a fault; the holder reads `revoked` at received_ms ...
//     ck_assert_int_ge(rival_await(rival, 5000), received_ms + safe_ms - 60);
//     rival_free(rival);
#pragma once

#include <stdint.h>

struct rival;

// key without the prefix "lock:". Its first attempt has been answered when it returns.
struct rival *rival_new(const char *redis_socket, const char *key);
struct rival *rival_free(struct rival *rival);

// When Redis let it have the key, ms of CLOCK_BOOTTIME; it holds it for a minute then. 0: not yet.
int64_t rival_won_ms(struct rival *rival);
// The same; fails the test when that does not come.
int64_t rival_await(struct rival *rival, int64_t timeout_ms);
