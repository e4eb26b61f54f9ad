// SPDX-License-Identifier: Apache-2.0
//
// A client that is a process of its own, to be killed: it asks `sidecar` (bench.h) for a key and then
// does nothing.
#pragma once

#include <sys/types.h>

#include "tests/tool/line_client.h"

typedef void holder_acquire(struct line_client *client, struct line_lease *lease, const char *key,
                            const char *more);

// Returns its pid when the key was granted to it by acquire (line_client_acquire, or one like it);
// with acquire NULL, when it has only asked. keeper: NULL, or gets the pid of a child of it that
// keeps the connection open, too, and ends by itself after 20 s.
pid_t holder_process_start(const char *key, holder_acquire *acquire, const char *more,
                           pid_t *keeper);
