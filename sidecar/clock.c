// SPDX-License-Identifier: Apache-2.0
//
// See clock.h.

#include <assert.h>
#include <time.h>

#include "sidecar/clock.h"

int64_t clock_boottime_ms(void)
{
    struct timespec now;
    int r = clock_gettime(CLOCK_BOOTTIME, &now);

    assert(r == 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
