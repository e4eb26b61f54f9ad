// SPDX-License-Identifier: Apache-2.0
//
// How late the loop wakes. A histogram for whoever looks, and the amount by which the revoke margin
// must be widened when the loop is later than the timing rules assume.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LATENESS_BUCKETS = 16,    // bucket i counts latenesses in [2^(i-1), 2^i) ms, 0 those under 1 ms
    LATENESS_ASSUMED_MS = 25, // half of the least revoke margin: what every margin covers
    LATENESS_MEMORY_MS = 600000 // for so long the worst one widens the margin
};

struct lateness {
    uint64_t histogram[LATENESS_BUCKETS];
    int64_t worst_ms;     // since the start
    int64_t widen_ms;     // what the margin is to be widened by now
    int64_t widen_end_ms; // when that is forgotten
    int64_t stop_ms; // a lateness from here on means that the process was stopped: no margin helps
};

void lateness_init(struct lateness *lateness, int64_t stop_ms);

// The loop should have woken at due_ms and it is now_ms. True when widen_ms has changed.
bool lateness_observe(struct lateness *lateness, int64_t due_ms, int64_t now_ms);

// The histogram in words, "<1ms:120 <2ms:3", buckets that are not empty only; NUL-terminated. A line
// that does not fit is cut after a bucket.
void lateness_format(const struct lateness *lateness, char *text, size_t size);
