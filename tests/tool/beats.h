// SPDX-License-Identifier: Apache-2.0
//
// What the beater (beater.c) writes, and how a test reads it.
//
//     struct beat *beats = beats_open("beats");        // the file's name in the scratch folder
//     ... lockctl run KEY -- BEATER_PATH <scratch_path("beats")> 2 ...
//     beats_await(beats, 3);                           // it and both children run
//     ... a fault ...
//     beats_await_end(beats, 3, 3000);                 // none of them runs any more
//     ck_assert_int_lt(beats_last_ms(beats, 3), rival_await(rival, 5000));
#pragma once

#include <stdint.h>
#include <sys/types.h>

enum {
    BEATS_SLOTS = 8,
};

struct beat {
    volatile int64_t at_ms; // CLOCK_BOOTTIME; 0: never ran
    volatile pid_t pid;
};

struct beat *beats_open(const char *name);
void beats_await(const struct beat *beats, int count);
// All of them have ended (zombies too), within timeout_ms.
void beats_await_end(const struct beat *beats, int count, int64_t timeout_ms);
// When the last of them ran last.
int64_t beats_last_ms(const struct beat *beats, int count);
