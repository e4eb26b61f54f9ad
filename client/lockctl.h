// SPDX-License-Identifier: Apache-2.0
//
// What the commands of lockctl share: the exit codes, their arguments, and how they speak.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/lock_keeper.h"

enum lockctl_exit {
    LOCKCTL_DONE = 0,
    LOCKCTL_USAGE = 64,       // EX_USAGE; also what the sidecar refused as errBadRequest
    LOCKCTL_UNAVAILABLE = 69, // EX_UNAVAILABLE: no sidecar, or no Redis
    LOCKCTL_SOFTWARE = 70,    // EX_SOFTWARE: out of memory, or a bug
    LOCKCTL_OUTPUT = 74,      // EX_IOERR: standard output can't be written
    LOCKCTL_HELD = 75,        // EX_TEMPFAIL: the lock is held by somebody else
    LOCKCTL_FORBIDDEN = 77,   // EX_NOPERM: the sidecar does not allow it to this user
    LOCKCTL_LOST = 123,       // the lease was lost
    LOCKCTL_DEADLINE = 124,   // the workflow deadline came, as timeout(1)
    LOCKCTL_FAILED = 125,     // lockctl itself failed, as timeout(1)
    LOCKCTL_NO_EXEC = 126,    // the command was found and can't be run
    LOCKCTL_NOT_FOUND = 127,
    LOCKCTL_SIGNALLED = 128, // and the signal that ended the command
};

// What the command line says; times in ms.
struct lockctl_arguments {
    const struct lockctl_command *command;
    const char *socket; // NULL: as the library finds it
    int64_t wait;       // -1: without end
    int64_t ttl;        // 0: the sidecar's default
    int64_t deadline;   // 0: the sidecar's default
    int64_t kill_after; // -1: as long as it is safe
    int64_t grace;
    int64_t interval;
    int64_t held_code;
    const char *label; // NULL: none
    bool detach;
    bool shell;
    bool json;
    bool redis;
    bool help;
    bool version;

    const char *key; // the operand, whatever it is of this command; NULL: none
    char **rest;     // what follows it, the last one NULL

    // The whole command line as the kernel shows it, for the guardian to cover.
    int argc;
    char **argv;
};

// One line on standard error, "lockctl: " before it and a newline after it.
void lockctl_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A handle, not yet connected; says why and returns NULL where there is none.
struct lock_keeper *lockctl_open(const struct lockctl_arguments *arguments);
// What is to be acquired; its strings are borrowed from the arguments.
struct lock_keeper_acquire lockctl_wanted(const struct lockctl_arguments *arguments);
// Blocks the signals and returns a descriptor to read them from, or -1 with errno.
int lockctl_take_signals(const int *signals, size_t count);
// The exit code for the result of a call of the library.
int lockctl_exit_code(const struct lockctl_arguments *arguments, int result);
// The same, having said what is wrong (with what the newest reply of keeper tells).
int lockctl_refused(const struct lockctl_arguments *arguments, const struct lock_keeper *keeper,
                    int result);
// The path of the socket that is used.
const char *lockctl_socket(const struct lockctl_arguments *arguments);
// Why a lease ended, for people: "its workflow deadline has come".
const char *lockctl_reason(enum lock_keeper_reason reason);
// LOCKCTL_DEADLINE or LOCKCTL_LOST.
int lockctl_lost_code(enum lock_keeper_reason reason);

// The commands. Each returns the exit code.
int lockctl_run(const struct lockctl_arguments *arguments);
int lockctl_acquire(const struct lockctl_arguments *arguments);
int lockctl_release(const struct lockctl_arguments *arguments);
int lockctl_list(const struct lockctl_arguments *arguments);
int lockctl_inspect(const struct lockctl_arguments *arguments);
int lockctl_break(const struct lockctl_arguments *arguments);
int lockctl_ping(const struct lockctl_arguments *arguments);
int lockctl_call(const struct lockctl_arguments *arguments);
int lockctl_watch(const struct lockctl_arguments *arguments);
