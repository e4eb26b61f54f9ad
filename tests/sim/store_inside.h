// SPDX-License-Identifier: Apache-2.0
//
// What the parts of a host's store share. Private to store*.c.
#pragma once

#include "tests/sim/sim.h"

enum { STORE_BACKOFF_MIN_MS = 5, STORE_BACKOFF_MAX_MS = 100 };

struct sim_host *store_host(const struct sim_store *store);
struct sim_conn *store_conn(const struct sim_store *store);
int64_t store_clock(const struct sim_store *store);
// The number of a key, from its name.
uint32_t store_key(const char *key, size_t length);

// Completes the call. It is free before its completion is told, which may submit others.
void store_complete(struct sim_store *store, struct sim_call *call,
                    struct store_completion *completion, int64_t now_ms);
void store_complete_as(struct sim_store *store, struct sim_call *call, enum store_outcome outcome,
                       const char *error, int64_t now_ms);
void store_close_call(struct sim_store *store, struct sim_call *call);
// The call is being written.
void store_record_sent(const struct sim_store *store, const struct sim_call *call);

// ---- store_link.c ----

void store_greet(struct sim_store *store, int64_t now_ms);
// The connection is given up; what was written on it may be done yet.
void store_lose(struct sim_store *store, const char *error, int64_t now_ms);
void store_send(struct sim_store *store, struct sim_message *message);

// ---- store_watch.c ----

void store_watch(struct store *store, const char *key, size_t key_length);
void store_unwatch(struct store *store, const char *key, size_t key_length);
// All that is watched is heard of from now on (anew), or nothing.
void store_subscribe(struct sim_store *store);
void store_unsubscribe(struct sim_store *store);
// Tells the keeper what was heard.
void store_tell_freed(struct sim_store *store, int64_t now_ms);
