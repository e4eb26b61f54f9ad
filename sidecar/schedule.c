// SPDX-License-Identifier: Apache-2.0
//
// A heap of a million entries costs some cache misses for each level of a sift, and a heartbeat
// sifts twice. A heap of blocks is a hundredth of that and stays in a cache; the instants of a block
// are 800 bytes in a row.
//
// Invariant: what the heap says of a block is not after any of its items. It is before all of them
// where the earliest has been set to a later instant since; that is put right when the block comes
// to the top, so each schedule_set costs one look through a block at most.

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "sidecar/schedule.h"

enum { SCHEDULE_MIN_CAPACITY = 128 };

void schedule_init(struct schedule *schedule)
{
    *schedule = (struct schedule){0};
    heap_init(&schedule->blocks);
}

void schedule_deinit(struct schedule *schedule)
{
    heap_deinit(&schedule->blocks);
    free(schedule->at_ms);
    schedule_init(schedule);
}

int schedule_reserve(struct schedule *schedule, uint32_t bound)
{
    uint32_t capacity = schedule->capacity ? schedule->capacity : SCHEDULE_MIN_CAPACITY;
    int64_t *at_ms;

    if (bound <= schedule->capacity)
        return 0;
    while (capacity < bound)
        capacity *= 2;
    if (heap_reserve(&schedule->blocks, capacity / SCHEDULE_BLOCK + 1) < 0)
        return -ENOMEM;
    at_ms = reallocarray(schedule->at_ms, capacity, sizeof *at_ms);
    if (!at_ms)
        return -ENOMEM;
    schedule->at_ms = at_ms;
    schedule->capacity = capacity;
    return 0;
}

static void know(struct schedule *schedule, uint32_t item)
{
    assert(item < schedule->capacity);
    while (schedule->known <= item)
        schedule->at_ms[schedule->known++] = INT64_MAX;
}

void schedule_set(struct schedule *schedule, uint32_t item, int64_t at_ms)
{
    uint32_t block = item / SCHEDULE_BLOCK;

    know(schedule, item);
    if (schedule->at_ms[item] != INT64_MAX)
        schedule->count--;
    if (at_ms != INT64_MAX)
        schedule->count++;
    schedule->at_ms[item] = at_ms;
    if (at_ms < heap_at(&schedule->blocks, block))
        heap_set(&schedule->blocks, block, at_ms);
}

// The earliest item of the block is `first` now. From the one found last on: those that are due
// together stand side by side, and nothing of the block is before at_ms.
static void look_through(struct schedule *schedule, uint32_t block, int64_t at_ms)
{
    uint32_t start = block * SCHEDULE_BLOCK;
    uint32_t end =
        start + SCHEDULE_BLOCK < schedule->known ? start + SCHEDULE_BLOCK : schedule->known;
    uint32_t item = schedule->first / SCHEDULE_BLOCK == block ? schedule->first : start;

    schedule->first = item;
    for (uint32_t left = end - start; left > 0 && schedule->at_ms[schedule->first] > at_ms;
         left--) {
        if (schedule->at_ms[item] < schedule->at_ms[schedule->first])
            schedule->first = item;
        item = item + 1 < end ? item + 1 : start;
    }
}

int64_t schedule_earliest(struct schedule *schedule)
{
    int64_t said_ms;

    while ((said_ms = heap_earliest(&schedule->blocks)) != INT64_MAX) {
        uint32_t block = heap_first(&schedule->blocks);
        look_through(schedule, block, said_ms);
        if (schedule->at_ms[schedule->first] == said_ms)
            break;
        heap_set(&schedule->blocks, block, schedule->at_ms[schedule->first]);
    }
    return said_ms;
}
