// SPDX-License-Identifier: Apache-2.0
//
// The page through which a test sets the wall clock of a process that has fake_clock_preload.so:
//
//     shown = real + offset_us + (real - since_us) * rate_ppm / 1000000
//
// sequence is odd while the page is being written.
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define FAKE_CLOCK_VARIABLE "FAKE_CLOCK_PAGE"

struct fake_clock_page {
    atomic_uint sequence;
    _Atomic int64_t offset_us;
    _Atomic int64_t since_us;
    _Atomic int64_t rate_ppm;
};
