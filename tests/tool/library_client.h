// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper as its tests use it. What does not come within 5 s fails the test.
#pragma once

#include "client/lock_keeper.h"

// A key that is free: its lease.
struct lock_keeper_lease *library_acquired(struct lock_keeper *keeper, const char *key);

// The next event of a kind, whatever comes before it.
const struct lock_keeper_event *library_event(struct lock_keeper *keeper,
                                              enum lock_keeper_event_kind kind);
// The same, of leases that live: `revoked` before it fails the test.
const struct lock_keeper_event *library_event_alive(struct lock_keeper *keeper,
                                                    enum lock_keeper_event_kind kind);
