// SPDX-License-Identifier: Apache-2.0
//
// The bench with a second sidecar on the same Redis, and what tests of waiting and adoption ask.
//
//     tcase_add_checked_fixture(tests, bench_setup, pair_teardown);
//     ... in a test: pair_start("2s"); a = pair_connect(&sidecar); b = pair_connect(&second);
#pragma once

#include "tests/tool/bench.h"

extern struct sidecar_process second;

// Both, with this --lock-ttl; or `sidecar` alone.
void pair_start(const char *ttl);
void pair_start_one(const char *ttl);
// Stops `second` if it runs, and does what bench_teardown does.
void pair_teardown(void);

struct line_client pair_connect(const struct sidecar_process *process);
// Returns when the sidecar says that Redis is up.
void pair_await_up(struct line_client *client);

// An acquire that waits, read by the sidecar when this returns. It is named 'waits'.
void pair_wait(struct line_client *client, const char *key, int64_t wait_ms);
// Its grant, and nothing before it.
void pair_expect_granted(struct line_client *client, const char *key, struct line_lease *lease);
// Nothing is there for this client: asks, and expects that answer next.
void pair_expect_nothing(struct line_client *client);
void pair_expect_no_leases(struct line_client *client);

// The value of the key in Redis, in a static buffer; "" where it is missing.
const char *pair_value(const char *key);

// Says "# what: p50 .. p90 .. p99 .. max" in the test's output. p90, us. Sorts.
int64_t pair_report(const char *what, int64_t *took_us, size_t count);

// A child that is another user (uid 65534), with the scratch and the sockets (--socket-mode 0666)
// open to it: 0 in it. It must end with _exit. -1, and a word why, where this takes root.
pid_t pair_fork_other_user(void);
