// SPDX-License-Identifier: Apache-2.0
//
// Processes that leases are bound to, watched through pidfds.
#pragma once

#include <ev.h>
#include <sys/types.h>

#include "sidecar/keeper.h"

struct processes {
    struct ev_loop *loop;
    struct keeper *keeper;
    pid_t unseen; // names given to processes without a number here: -1, -2, ...
};

// The keeper's watch_process and unwatch_process; context is the struct processes. socket: the
// session's, for its own process.
const char *process_watch(struct processes *processes, int socket, const struct session *session,
                          pid_t *pid, void **watch);
void process_unwatch(struct processes *processes, void *watch);
