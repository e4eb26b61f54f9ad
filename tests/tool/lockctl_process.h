// SPDX-License-Identifier: Apache-2.0
//
// The real lockctl as a child of the test: LOCKCTL_BINARY in the environment, else the one of this
// build.
//
//     struct lockctl_process lockctl;
//     lockctl_process_start(&lockctl, sidecar.socket, "run", "key", "--", "cat", NULL);
//     lockctl_process_write(&lockctl, "hello\n");
//     lockctl_process_await(&lockctl, "hello\n");
//     lockctl_process_end_input(&lockctl);
//     ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 0);
//
// Its environment is the test's own, with LOCK_KEEPER_SOCKET set to socket (NULL: unset). Every helper
// that cannot do its work fails the test. scratch_close ends what still runs.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/tool/scratch.h"

struct lockctl_process {
    pid_t pid;                     // 0: not running
    int input;                     // its standard input, -1 where it has ended
    char output[SCRATCH_MAX_PATH]; // files
    char errors[SCRATCH_MAX_PATH];
};

// The program's path.
const char *lockctl_binary(void);

// Starts it with these arguments, the last one NULL. Its input is a pipe.
void lockctl_process_start(struct lockctl_process *lockctl, const char *socket, ...)
    __attribute__((sentinel));
void lockctl_process_write(struct lockctl_process *lockctl, const char *text);
void lockctl_process_end_input(struct lockctl_process *lockctl);
// Waits until its output (or errors) holds the text.
void lockctl_process_await(const struct lockctl_process *lockctl, const char *text);
void lockctl_process_await_error(const struct lockctl_process *lockctl, const char *text);
bool lockctl_process_has_error(const struct lockctl_process *lockctl, const char *text);
// Its exit code, or -signal. Ends its input first.
int lockctl_process_wait(struct lockctl_process *lockctl, int64_t timeout_ms);

// Runs it to its end, within 20 s: its exit code, or -signal. output gets what it printed on both,
// NUL-terminated.
int lockctl_process_run(char *output, size_t size, const char *socket, ...)
    __attribute__((sentinel));
