// SPDX-License-Identifier: Apache-2.0
//
// What a real Redis executes, as records of a history (history.h): a thread that reads MONITOR, past
// the sidecars and past every proxy.
//
//     struct monitor *monitor = monitor_new(redis.socket, "h");
//     ... sidecars and clients at work on the keys h1, h2, ... ...
//     count = monitor_stop(monitor, &records); // records is the monitor's until it is freed
//     monitor_free(monitor);
//
// Key hN is key N of the history. Instants are those that Redis put on each command, moved to
// CLOCK_BOOTTIME. An expiry shows in no command: it is told, at its instant, before the next SET of
// the key, or at the end.
#pragma once

#include <stddef.h>

#include "tests/tool/history.h"

enum { MONITOR_KEYS = 16 };

struct monitor;

// Has begun to listen when it returns.
struct monitor *monitor_new(const char *redis_socket, const char *prefix);
// After Redis has executed everything that was sent to it before. The number of records.
size_t monitor_stop(struct monitor *monitor, const struct history_record **records);
struct monitor *monitor_free(struct monitor *monitor);
