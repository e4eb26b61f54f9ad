// SPDX-License-Identifier: Apache-2.0
//
// The callback only disarms: what is due is swept by the loop's check watcher, which runs first in
// every turn.

#include <assert.h>
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "sidecar/wakeup.h"

static void on_fired(struct ev_loop *loop, struct ev_io *io, int events)
{
    struct wakeup *wakeup = (struct wakeup *)io;
    uint64_t times;

    (void)loop;
    (void)events;
    if (read(io->fd, &times, sizeof times) > 0)
        wakeup->armed_ms = INT64_MAX;
}

int wakeup_init(struct wakeup *wakeup, struct ev_loop *loop)
{
    int fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);

    if (fd < 0)
        return -errno;
    wakeup->armed_ms = INT64_MAX;
    ev_io_init(&wakeup->io, on_fired, fd, EV_READ);
    ev_set_priority(&wakeup->io, EV_MAXPRI);
    ev_io_start(loop, &wakeup->io);
    return 0;
}

void wakeup_deinit(struct wakeup *wakeup, struct ev_loop *loop)
{
    ev_io_stop(loop, &wakeup->io);
    close(wakeup->io.fd);
}

void wakeup_arm(struct wakeup *wakeup, int64_t at_ms)
{
    int64_t when = at_ms > 1 ? at_ms : 1; // 0 would disarm
    struct itimerspec spec = {
        .it_value = {.tv_sec = when / 1000, .tv_nsec = when % 1000 * 1000000},
    };
    int r;

    if (at_ms >= wakeup->armed_ms)
        return;
    r = timerfd_settime(wakeup->io.fd, TFD_TIMER_ABSTIME, &spec, NULL);
    assert(r == 0);
    wakeup->armed_ms = at_ms;
}
