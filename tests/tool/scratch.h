// SPDX-License-Identifier: Apache-2.0
//
// What one test owns: a temporary folder and the processes it started; and the small helpers every
// test of ours needs (clocks, waiting, ports, descriptor counts).
//
// One check test is one process (CK_FORK), so there is one scratch, without a handle:
//
//     static void setup(void)    { scratch_open(); }
//     static void teardown(void) { scratch_close(); }
//     int main(void)             { return scratch_main(suite()); }
//
// Every helper that can fail fails the test, with a message. Call them in the test's own process
// only, not in a child of it.
#pragma once

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

enum {
    SCRATCH_MAX_PATH = 100, // fits struct sockaddr_un
};

// Runs the suite with TAP output and removes the folders of every test, failed ones too. The
// program's exit code. Frees the suite. LOCK_KEEPER_TEST_KEEP set: the folders stay, and are named.
int scratch_main(Suite *suite);

// Begins and ends a test: the folder and the processes. scratch_close kills (by pid) and waits for
// every process that still runs. A test that fails or is timed out never comes to its close: its
// processes die with it (PR_SET_PDEATHSIG) and scratch_main removes its folder.
void scratch_open(void);
void scratch_close(void);

// The path of a file in the test's folder. In a static buffer of many: valid for the next 15 calls.
const char *scratch_path(const char *name);
// The whole file, NUL-terminated, to be freed; "" when it is missing.
char *scratch_read(const char *path);
void scratch_write(const char *path, const char *text);

// fork, with the child killed when the test's process ends, and known to scratch_close. 0 in the
// child, which must end with _exit or exec.
pid_t scratch_fork(void);
// SIGKILL, and waits. pid must come from scratch_fork.
void scratch_kill(pid_t pid);
// Waits at most timeout_ms for a child's end, by its pidfd: true and its wait status (may be NULL).
bool scratch_reap(pid_t pid, int64_t timeout_ms, int *status);
// The same, which must end in time, by itself: its exit code, or -signal.
int scratch_exit_code(pid_t pid, int64_t timeout_ms);

// CLOCK_BOOTTIME is what the sidecar speaks; CLOCK_MONOTONIC in us is for measuring.
int64_t scratch_boottime_ms(void);
int64_t scratch_monotonic_us(void);

// Deadlines on the monotonic clock: now + ms, and what is left of it, from 0, for poll.
int64_t scratch_deadline(int64_t ms);
int scratch_left(int64_t deadline);
void scratch_pause_ms(int64_t ms);

// Waits for a state that sends no event (a key in Redis, /proc): looks every ms until it holds, and
// fails the test when timeout_ms pass without.
#define SCRATCH_UNTIL(timeout_ms, condition)                                                       \
    do {                                                                                           \
        int64_t until_deadline_ = scratch_deadline(timeout_ms);                                    \
        while (!(condition)) {                                                                     \
            ck_assert_msg(scratch_left(until_deadline_) > 0, "not within %lld ms: %s",             \
                          (long long)(timeout_ms), #condition);                                    \
            scratch_pause_ms(1);                                                                   \
        }                                                                                          \
    } while (0)

// A loopback TCP port that was free a moment ago.
int scratch_free_port(void);
// A pipe that holds all it can: the next write to ends[1], which blocks, waits for a reader.
void scratch_full_pipe(int ends[2]);
// Open descriptors of a process; 0: of this one.
int scratch_descriptors(pid_t pid);
// CPU time that a process has used, in ms.
int64_t scratch_cpu_ms(pid_t pid);
