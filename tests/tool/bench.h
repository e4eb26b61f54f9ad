// SPDX-License-Identifier: Apache-2.0
//
// What most integration tests stand on: one private Redis and one sidecar, as a check fixture.
//
//     tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
//     ... in a test: sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
//
// Keys are named without the prefix "lock:" here, as clients name them.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/tool/line_client.h"
#include "tests/tool/private_redis.h"
#include "tests/tool/scratch.h"
#include "tests/tool/sidecar_process.h"

extern struct private_redis redis;
extern struct sidecar_process sidecar;

// The first opens the scratch and starts Redis without further arguments; the sidecar is the
// test's to start, with its flags. bench_setup_bare starts nothing. The teardown stops the sidecar
// by SIGUSR2 if it still runs, and fails the test unless it exits 0 and no sanitizer complained.
void bench_setup(void);
void bench_setup_bare(void);
void bench_teardown(void);
// What the teardown asserts, for a sidecar that is not `sidecar`, or has ended already.
void bench_stop(struct sidecar_process *process);
void bench_check_log(const struct sidecar_process *process);

bool bench_exists(const char *key);
int64_t bench_pttl(const char *key); // -2 no key, -1 without TTL
// CLOCK_BOOTTIME just after the answer that first said the key is gone. Fails after timeout_ms.
int64_t bench_await_gone(const char *key, int64_t timeout_ms);
// How many keys fit a pattern of Redis'.
long long bench_count(const char *pattern);
// The time that tests leave to a busy machine, in ms: timings are asserted with it.
#define BENCH_NOISE_MS 100
