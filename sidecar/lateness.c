// SPDX-License-Identifier: Apache-2.0
//
// A wake-up that came late by more than LATENESS_ASSUMED_MS says that the next revoked event may be
// as late: the excess is added to every margin until LATENESS_MEMORY_MS have passed without another
// such wake-up. A process that was stopped (SIGSTOP, suspend) is no sign of what comes: it is counted,
// and the leases are swept, but the margin stays.

#include <stdio.h>

#include "sidecar/lateness.h"

void lateness_init(struct lateness *lateness, int64_t stop_ms)
{
    *lateness = (struct lateness){.stop_ms = stop_ms};
}

static unsigned bucket_of(int64_t late_ms)
{
    unsigned bucket = late_ms > 0 ? 64 - (unsigned)__builtin_clzll((unsigned long long)late_ms) : 0;
    return bucket < LATENESS_BUCKETS ? bucket : LATENESS_BUCKETS - 1;
}

bool lateness_observe(struct lateness *lateness, int64_t due_ms, int64_t now_ms)
{
    int64_t late_ms = now_ms > due_ms ? now_ms - due_ms : 0;
    int64_t before = lateness->widen_ms;

    lateness->histogram[bucket_of(late_ms)]++;
    if (late_ms > lateness->worst_ms)
        lateness->worst_ms = late_ms;
    if (now_ms >= lateness->widen_end_ms)
        lateness->widen_ms = 0;
    if (late_ms > LATENESS_ASSUMED_MS && late_ms < lateness->stop_ms) {
        if (late_ms - LATENESS_ASSUMED_MS > lateness->widen_ms)
            lateness->widen_ms = late_ms - LATENESS_ASSUMED_MS;
        lateness->widen_end_ms = now_ms + LATENESS_MEMORY_MS;
    }
    return lateness->widen_ms != before;
}

void lateness_format(const struct lateness *lateness, char *text, size_t size)
{
    size_t length = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < LATENESS_BUCKETS; i++) {
        int added;
        if (lateness->histogram[i] == 0)
            continue;
        added = snprintf(text + length, size - length, "%s%s%ums:%llu", length ? " " : "",
                         i == LATENESS_BUCKETS - 1 ? ">=" : "<",
                         i == LATENESS_BUCKETS - 1 ? 1u << (i - 1) : 1u << i,
                         (unsigned long long)lateness->histogram[i]);
        if (added < 0 || (size_t)added >= size - length) {
            text[length] = '\0';
            return;
        }
        length += (size_t)added;
    }
}
