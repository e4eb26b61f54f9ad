// SPDX-License-Identifier: Apache-2.0
//
// A heap of four children a node, in one array of 12-byte entries; beside it, by item, where each
// stands. With a million items a sift is bound by cache misses: four children share a line or two,
// ten levels are half as many as of a binary heap, and the places are an array of their own, dense
// enough to stay in a cache, instead of a member of the items.
//
// Invariants: entries[0..count) satisfy the heap order; places tells the index of each.

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/heap.h"

enum { HEAP_MIN_CAPACITY = 64, HEAP_CHILDREN = 4 };

void heap_init(struct heap *heap)
{
    *heap = (struct heap){0};
}

void heap_deinit(struct heap *heap)
{
    free(heap->entries);
    free(heap->places);
    *heap = (struct heap){0};
}

int heap_reserve(struct heap *heap, uint32_t bound)
{
    uint32_t capacity = heap->capacity ? heap->capacity : HEAP_MIN_CAPACITY;
    struct heap_entry *entries;
    uint32_t *places;

    if (bound <= heap->capacity)
        return 0;
    while (capacity < bound)
        capacity *= 2;
    entries = reallocarray(heap->entries, capacity, sizeof *entries);
    if (!entries)
        return -ENOMEM;
    heap->entries = entries;
    places = reallocarray(heap->places, capacity, sizeof *places);
    if (!places)
        return -ENOMEM;
    heap->places = places;
    heap->capacity = capacity;
    return 0;
}

static void put(struct heap *heap, uint32_t place, struct heap_entry entry)
{
    heap->entries[place] = entry;
    heap->places[entry.item] = place + 1;
}

static void sift_up(struct heap *heap, uint32_t place, struct heap_entry entry)
{
    while (place > 0) {
        uint32_t parent = (place - 1) / HEAP_CHILDREN;
        if (heap->entries[parent].at_ms <= entry.at_ms)
            break;
        put(heap, place, heap->entries[parent]);
        place = parent;
    }
    put(heap, place, entry);
}

static uint32_t earliest_of(const struct heap *heap, uint32_t first, uint32_t end)
{
    uint32_t least = first;

    for (uint32_t at = first + 1; at < end; at++)
        if (heap->entries[at].at_ms < heap->entries[least].at_ms)
            least = at;
    return least;
}

static void sift_down(struct heap *heap, uint32_t place, struct heap_entry entry)
{
    for (;;) {
        uint32_t first = HEAP_CHILDREN * place + 1;
        uint32_t end = first + HEAP_CHILDREN < heap->count ? first + HEAP_CHILDREN : heap->count;
        uint32_t child;

        if (first >= heap->count)
            break;
        child = earliest_of(heap, first, end);
        if (entry.at_ms <= heap->entries[child].at_ms)
            break;
        put(heap, place, heap->entries[child]);
        place = child;
    }
    put(heap, place, entry);
}

// Fills the gap at place with entry, whichever way it has to go.
static void settle(struct heap *heap, uint32_t place, struct heap_entry entry)
{
    if (place > 0 && entry.at_ms < heap->entries[(place - 1) / HEAP_CHILDREN].at_ms)
        sift_up(heap, place, entry);
    else
        sift_down(heap, place, entry);
}

static void take_out(struct heap *heap, uint32_t place)
{
    struct heap_entry last = heap->entries[--heap->count];

    heap->places[heap->entries[place].item] = 0;
    if (place < heap->count)
        settle(heap, place, last);
}

static void put_in(struct heap *heap, struct heap_entry entry)
{
    assert(entry.item < heap->capacity);
    if (entry.item >= heap->known) {
        memset(heap->places + heap->known, 0,
               (entry.item + 1 - heap->known) * sizeof *heap->places);
        heap->known = entry.item + 1;
    }
    sift_up(heap, heap->count++, entry);
}

void heap_set(struct heap *heap, uint32_t item, int64_t at_ms)
{
    struct heap_entry entry = {.at_ms = at_ms, .item = item};
    uint32_t place;

    if (!heap_has(heap, item)) {
        if (at_ms != INT64_MAX)
            put_in(heap, entry);
        return;
    }
    place = heap->places[item] - 1;
    assert(place < heap->count && heap->entries[place].item == item);
    if (at_ms == INT64_MAX)
        take_out(heap, place);
    else if (at_ms != heap->entries[place].at_ms)
        settle(heap, place, entry);
}
