// SPDX-License-Identifier: Apache-2.0
//
// The real lock-keeper as a child of the test: LOCK_KEEPER_BINARY in the environment, else the one
// of this build.
//
//     struct sidecar_process sidecar = {0};         // options stand in the same struct
//     sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "600ms", NULL);
//     ... connect to sidecar.socket ...
//     ck_assert_int_eq(sidecar_process_terminate(&sidecar), 0);
//
// Its environment is clean: PATH, what the sanitizers need, NOTIFY_SOCKET and `environment`.
// Every helper that cannot do its work fails the test. scratch_close ends what still runs.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/tool/scratch.h"

enum {
    SIDECAR_PROCESS_ARGUMENTS = 48,
};

struct sidecar_process {
    // Options, before the start.
    const char *name;               // of its files in the scratch folder; NULL: "keeper"
    const char *const *environment; // more of it, "NAME=value", the last one NULL
    int descriptor_limit;           // RLIMIT_NOFILE; 0: as it is
    int listen_fd;                  // > 0: given as LISTEN_FDS=1 (as descriptor 3)
    int stderr_fd;                  // > 0: its stderr, instead of the log file

    pid_t pid;     // 0: not running
    int ready_ms;  // how long the start took
    int notify_fd; // where it says READY=1, -1 when not running
    char socket[SCRATCH_MAX_PATH];
    char log[SCRATCH_MAX_PATH];
    const char *redis_url; // borrowed, for the restart; as are the arguments
    const char *arguments[SIDECAR_PROCESS_ARGUMENTS];
};

// Starts it with --socket, --redis (left out where redis_url is NULL) and further arguments, the
// last one NULL, and returns when it has said READY=1 through NOTIFY_SOCKET.
void sidecar_process_start(struct sidecar_process *sidecar, const char *redis_url, ...)
    __attribute__((sentinel));
// The same with an array.
void sidecar_process_start_with(struct sidecar_process *sidecar, const char *redis_url,
                                const char *const *arguments);
// The same command line again, after an end. The log goes on in the same file.
void sidecar_process_restart(struct sidecar_process *sidecar);

void sidecar_process_signal(struct sidecar_process *sidecar, int signal);
// Sends SIGTERM or SIGUSR2, and returns when it has said STOPPING=1: the signal has taken effect.
void sidecar_process_stop(struct sidecar_process *sidecar, int signal);
// Waits for its end: its exit code, or -signal.
int sidecar_process_wait(struct sidecar_process *sidecar, int64_t timeout_ms);
// SIGTERM and the exit code, within 5 s.
int sidecar_process_terminate(struct sidecar_process *sidecar);
void sidecar_process_kill(struct sidecar_process *sidecar);

int sidecar_process_descriptors(const struct sidecar_process *sidecar);
// What it has logged, to be freed.
char *sidecar_process_read_log(const struct sidecar_process *sidecar);

// Runs the binary to its end, within 5 s, with exactly these arguments: its exit code, or -signal.
// output gets stdout and stderr, NUL-terminated. environment as above, or NULL.
int sidecar_process_run(char *output, size_t size, const char *const *environment, ...)
    __attribute__((sentinel));
