// SPDX-License-Identifier: Apache-2.0
//
// A network of the test's own, where root allows it: two namespaces and a cable between them.
//
//     if (!net_open(why)) { skip }
//     net_far(true);  private_redis_start(&redis, "--bind", NET_FAR, ..., NULL);  net_far(false);
//     sidecar_process_start(&sidecar, "redis://" NET_FAR ":port", ...);
//     net_blackhole(NET_FROM_FAR, true);   // what Redis sends is lost; nobody is told
//
// Only the test's process is in it; it leaves nothing behind when the test ends.
#pragma once

#include <stdbool.h>

#define NET_NEAR "10.77.0.2"
#define NET_FAR "10.77.0.1"

enum net_way { NET_TO_FAR, NET_FROM_FAR };

// False: it cannot be had here; why says so, for rows_skip.
bool net_open(const char **why);
// What is started from now on is on the far side, or on the near one again.
void net_far(bool far);
void net_blackhole(enum net_way way, bool on);
