// SPDX-License-Identifier: Apache-2.0
//
// Instants for up to millions of items named by small numbers, of which the earliest is wanted.
// Items whose numbers are in the same block of 100 share an entry of a heap; those of a block that
// are due together are found one after the other, at no cost but reading their instants in order.
#pragma once

#include <stdint.h>

#include "sidecar/heap.h"

enum { SCHEDULE_BLOCK = 100 };

struct schedule {
    struct heap blocks; // of each block its earliest instant, or one before it
    int64_t *at_ms;     // owned; by item, below `known`; INT64_MAX for none
    uint32_t count;     // items that have an instant
    uint32_t first;     // the item that was found last
    uint32_t known;
    uint32_t capacity;
};

void schedule_init(struct schedule *schedule);
void schedule_deinit(struct schedule *schedule);

// Room for all items below bound, so that schedule_set cannot fail for them: 0 or -ENOMEM.
int schedule_reserve(struct schedule *schedule, uint32_t bound);

// Sets the instant of an item; INT64_MAX takes it out.
void schedule_set(struct schedule *schedule, uint32_t item, int64_t at_ms);

// The earliest instant, INT64_MAX when empty.
int64_t schedule_earliest(struct schedule *schedule);

// The item of the instant that schedule_earliest has just returned.
static inline uint32_t schedule_first(const struct schedule *schedule)
{
    return schedule->first;
}
