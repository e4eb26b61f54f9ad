// SPDX-License-Identifier: Apache-2.0
//
// The process group that a command and its children form: signalled as a whole, and waited for until
// none of them can run any more. A zombie can't: it counts as gone, reaped or not.
#pragma once

#include <signal.h>
#include <stddef.h>
#include <sys/types.h>

enum {
    GROUP_WATCHED = 16, // members that are waited for at a time
};

// Up to GROUP_WATCHED live members, each by a pidfd that becomes readable at its end.
struct group_watch {
    size_t count;
    int pidfds[GROUP_WATCHED];
    pid_t first; // the pid of the first of them, to be named; 0: none
};

// 0, -ESRCH where nobody is left, or -EPERM where no member may be signalled.
int group_signal(pid_t group, int signal);

// Looks for live members once. 0, with count 0 where there is none; or a negative errno where that
// can't be told. watch must be zeroed or closed.
int group_watch_open(struct group_watch *watch, pid_t group);
void group_watch_close(struct group_watch *watch);
