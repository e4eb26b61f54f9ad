// SPDX-License-Identifier: Apache-2.0
//
// A line from a client to the handler of its op.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "sidecar/keeper.h"

// Handles one line (without its newline). Every line gets exactly one reply, now or later.
void dispatch_line(struct keeper *keeper, struct session *session, const char *line, size_t length,
                   int64_t now_ms);

// An over-long line was skipped.
void dispatch_too_long(struct session *session);
// An unfinished line was given up for its age.
void dispatch_too_slow(struct session *session);
