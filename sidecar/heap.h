// SPDX-License-Identifier: Apache-2.0
//
// A min-heap of instants for items named by small numbers. An item's instant can be changed or
// removed in O(log n).
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct heap_entry {
    int64_t at_ms;
    uint32_t item;
} __attribute__((packed, aligned(4)));

struct heap {
    struct heap_entry *entries; // owned
    uint32_t *places;           // owned; of each item below `known`: its index, plus 1; 0 for none
    uint32_t count;
    uint32_t known;
    uint32_t capacity; // of both
};

void heap_init(struct heap *heap);
void heap_deinit(struct heap *heap);

// Room for all items below bound, so that heap_set cannot fail for them: 0 or -ENOMEM.
int heap_reserve(struct heap *heap, uint32_t bound);

// Sets the instant of an item; INT64_MAX takes it out.
void heap_set(struct heap *heap, uint32_t item, int64_t at_ms);

static inline bool heap_has(const struct heap *heap, uint32_t item)
{
    return item < heap->known && heap->places[item] > 0;
}

// The instant of an item, INT64_MAX for none.
static inline int64_t heap_at(const struct heap *heap, uint32_t item)
{
    return heap_has(heap, item) ? heap->entries[heap->places[item] - 1].at_ms : INT64_MAX;
}

// The earliest instant, INT64_MAX when empty; and its item (only when not empty).
static inline int64_t heap_earliest(const struct heap *heap)
{
    return heap->count ? heap->entries[0].at_ms : INT64_MAX;
}

static inline uint32_t heap_first(const struct heap *heap)
{
    return heap->entries[0].item;
}
