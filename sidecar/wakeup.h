// SPDX-License-Identifier: Apache-2.0
//
// One wake-up of the loop at an instant of CLOCK_BOOTTIME: a timerfd, since an ev_timer stands still
// while the machine is suspended.
#pragma once

#include <ev.h>
#include <stdint.h>

struct wakeup {
    struct ev_io io;
    int64_t armed_ms; // INT64_MAX: not armed
};

int wakeup_init(struct wakeup *wakeup, struct ev_loop *loop); // 0 or -errno
void wakeup_deinit(struct wakeup *wakeup, struct ev_loop *loop);

// The loop wakes at at_ms at the latest. An earlier arming stays: it costs one empty turn, less than
// a system call for each heartbeat that moves the earliest deadline back.
void wakeup_arm(struct wakeup *wakeup, int64_t at_ms);
