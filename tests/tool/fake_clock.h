// SPDX-License-Identifier: Apache-2.0
//
// A wall clock of Redis' own.
//
//     fake_clock_begin(&clock);           // processes started from now on have it
//     private_redis_start(&redis, NULL);
//     fake_clock_end_start(&clock);       // and from now on have not
//     fake_clock_step(&clock, 31000);     // the clock jumps
//     fake_clock_rate(&clock, 50000);     // and goes 5 % fast from now on
#pragma once

#include <stdint.h>

struct fake_clock_page;

struct fake_clock {
    struct fake_clock_page *page;
};

void fake_clock_begin(struct fake_clock *clock);
void fake_clock_end_start(struct fake_clock *clock);
void fake_clock_step(struct fake_clock *clock, int64_t ms);
void fake_clock_rate(struct fake_clock *clock, int64_t ppm); // too fast by so much, < 0: too slow
