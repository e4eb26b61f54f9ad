// SPDX-License-Identifier: Apache-2.0
//
// The guardian of a command: a process of its own that owns the connection to the sidecar, and with
// it the lease, so that lockctl may be killed or stopped and the promise holds: the command's group
// is dead before anybody else can have its lock.
//
//     lockctl --- parent of --> the command, in its group
//        |
//        +------ parent of --> the guardian -- connection --> the sidecar
//
// lockctl tells it, through a pipe, which group there is and that the command has ended. It answers
// with its exit code, when there is nothing left to guard:
//
//     LOCKCTL_DONE      the command had the lock to its end, and the lock is given back (or will be)
//     LOCKCTL_LOST,
//     LOCKCTL_DEADLINE  the lease ended before the command did; its group is dead
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "client/lock_keeper.h"

struct guardian_task {
    struct lock_keeper *keeper; // the guardian's from now on: not to be touched any more
    struct lock_keeper_lease *lease;
    int64_t kill_after; // -1: as late as is safe
    int argc;           // the command line of this process, covered up in the guardian
    char **argv;
};

// Starts it. Its pid, and the pipe's end to tell it through in *fd (CLOEXEC, and not to be copied: its
// last copy's end is lockctl's end); or a negative errno.
pid_t guardian_start(const struct guardian_task *task, int *fd);

// To be called by the command's process before it executes anything: tells that the caller leads a
// group. False: nobody listens, and the command must not be executed.
bool guardian_tell_group(int fd);
// The command has ended. Its pid must not be reaped before the guardian's end.
void guardian_tell_end(int fd);
