// SPDX-License-Identifier: Apache-2.0
//
// A binary heap in one array of 12-byte entries. The instants stand in the array, so a sift touches
// no item; only the places that changed are told to the owner.
//
// Invariants: entries[0..count) satisfy the heap order; for each, the owner was last told its index.

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "sidecar/heap.h"

void heap_init(struct heap *heap, void (*placed)(void *context, uint32_t item, uint32_t place),
               void *context)
{
    *heap = (struct heap){.placed = placed, .context = context};
}

void heap_deinit(struct heap *heap)
{
    free(heap->entries);
    *heap = (struct heap){0};
}

int heap_reserve(struct heap *heap, uint32_t count)
{
    uint32_t capacity = heap->capacity ? heap->capacity : 64;
    struct heap_entry *entries;

    if (count <= heap->capacity)
        return 0;
    while (capacity < count)
        capacity *= 2;
    entries = realloc(heap->entries, capacity * sizeof *entries);
    if (!entries)
        return -ENOMEM;
    heap->entries = entries;
    heap->capacity = capacity;
    return 0;
}

static void put(struct heap *heap, uint32_t place, struct heap_entry entry)
{
    heap->entries[place] = entry;
    heap->placed(heap->context, entry.item, place);
}

static void sift_up(struct heap *heap, uint32_t place, struct heap_entry entry)
{
    while (place > 0) {
        uint32_t parent = (place - 1) / 2;
        if (heap->entries[parent].at_ms <= entry.at_ms)
            break;
        put(heap, place, heap->entries[parent]);
        place = parent;
    }
    put(heap, place, entry);
}

static void sift_down(struct heap *heap, uint32_t place, struct heap_entry entry)
{
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && heap->entries[child + 1].at_ms < heap->entries[child].at_ms)
            child++;
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
    if (place > 0 && entry.at_ms < heap->entries[(place - 1) / 2].at_ms)
        sift_up(heap, place, entry);
    else
        sift_down(heap, place, entry);
}

static void take_out(struct heap *heap, uint32_t place)
{
    uint32_t item = heap->entries[place].item;
    struct heap_entry last = heap->entries[--heap->count];

    heap->placed(heap->context, item, HEAP_NONE);
    if (place < heap->count)
        settle(heap, place, last);
}

void heap_set(struct heap *heap, uint32_t item, uint32_t place, int64_t at_ms)
{
    struct heap_entry entry = {.at_ms = at_ms, .item = item};

    if (place == HEAP_NONE) {
        if (at_ms == INT64_MAX)
            return;
        assert(heap->count < heap->capacity);
        sift_up(heap, heap->count++, entry);
        return;
    }
    assert(place < heap->count && heap->entries[place].item == item);
    if (at_ms == INT64_MAX)
        take_out(heap, place);
    else if (at_ms != heap->entries[place].at_ms)
        settle(heap, place, entry);
}
