// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the fault matrix stand on: the bench (a Redis and a sidecar), a fault proxy
// between them, and a holder that notes what it is told.
//
// A row of docs/FAULTS.md is tested by the functions named row_NN_...; scripts/check-matrix sees to
// it that each has one. Times of what happened are CLOCK_BOOTTIME, read by whoever saw it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/tool/bench.h"
#include "tests/tool/fault_proxy.h"
#include "tests/tool/rival.h"

// What times are asserted with. A thread that wakes every other millisecond measures how late wake-ups
// are while the test runs; on a machine that is idle these are 60 and 100.
#define ROWS_SLACK_MS (60 + rows_lateness_ms())      // from a write to its reading
#define ROWS_NOISE_MS (100 + 3 * rows_lateness_ms()) // from a cause to its effect
int64_t rows_lateness_ms(void);

extern struct fault_proxy *proxy;

// Fixtures: bench_setup and its proxy; the same without a Redis yet; nothing but the scratch. The
// teardown ends all that there is.
void rows_setup(void);
void rows_setup_bare(void);
void rows_teardown(void);
// A test case with fixtures and time-out, added to the suite.
TCase *rows_case(Suite *suite, const char *name, void (*setup)(void));

// Most of these tests wait most of the time, so a program runs its suite in shards, side by side
// (LOCK_KEEPER_SHARDS, by default 2; CK_FORK=no: none). make is called in each and adds its tests by
// the macros. The program's exit code; TAP on stdout.
int rows_main(Suite *(*make)(void));
bool rows_turn(void); // whether the next test is this shard's
#define rows_add_loop(tests, name, count)                                                          \
    for (int turn_ = 0; turn_ < (int)(count); turn_++)                                             \
        if (rows_turn())                                                                           \
    tcase_add_loop_test(tests, name, turn_, turn_ + 1)
#define rows_add(tests, name) rows_add_loop(tests, name, 1)

// The proxy for `redis`, by hand; it takes the place of the one before.
void rows_start_proxy(bool tcp);
// The sidecar behind the proxy, or without one: its TTL, and further flags as for
// sidecar_process_start.
void rows_start(const char *ttl);

// LOCK_KEEPER_LONG is set: the times of the matrix as they stand, instead of scaled ones.
bool rows_long(void);
// Says that this test cannot be made here, and why. The test returns after it.
void rows_skip(const char *why);

struct line_client rows_connect(void);
// As line_client_acquire, but asks again where Redis was too slow for a C of milliseconds: for what a
// test begins with.
void rows_acquire(struct line_client *client, struct line_lease *lease, const char *key,
                  const char *more);
// Asks by ping, passing over events.
bool rows_redis_is(struct line_client *client, const char *state);
void rows_await_up(struct line_client *client);
// Pings for so long, and asserts that each is answered at once.
void rows_expect_lively(struct line_client *client, int64_t ms);
// One acquire that must be answered with this error, within ms; no key is held by it.
void rows_expect_refused(struct line_client *client, const char *key, const char *error,
                         int64_t ms);

// A command that takes its time in Redis: sent, not waited for.
void rows_fire(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Whether the sidecar's log has this text (case is ignored).
bool rows_log_has(const char *text);
int64_t rows_memory_kib(pid_t pid); // resident

// ---- A holder ----

struct rows_holder {
    struct line_client client;
    struct line_lease lease;
    int64_t ttl_ms;
    int64_t valid_until_ms; // the newest it was told
    int renewed;            // how often
    int at_risk;
    // Of revoked:
    char reason[16];
    int64_t revoked_ms, safe_ms;
};

// Connects, and acquires with all optional events. more: as for line_client_acquire.
void rows_hold(struct rows_holder *holder, const char *key, const char *more);
// Takes what comes until the next renewed (nothing but at_risk may come before), or until revoked.
void rows_await_renewed(struct rows_holder *holder);
void rows_await_revoked(struct rows_holder *holder, int64_t timeout_ms);
// Until all are; each is read as soon as there is something.
void rows_await_all_revoked(struct rows_holder *holders, int count, int64_t timeout_ms);
// Takes what comes for so long: no revoked.
void rows_expect_held(struct rows_holder *holder, int64_t ms);
// The release, with success, passing over events; its key is gone.
void rows_release(struct rows_holder *holder);
// Nothing more comes for this lease: asks, and expects the answer next.
void rows_expect_silence(struct rows_holder *holder);
void rows_leave(struct rows_holder *holder);

// After rows_await_revoked: by the D-rule (reason unreachable, at D, with the safe_ms that is left).
void rows_check_unreachable(const struct rows_holder *holder);
// After rows_await_revoked: nobody had the key before what was promised. Waits for the rival.
void rows_check_slack(const struct rows_holder *holder, struct rival *rival, int64_t timeout_ms);
