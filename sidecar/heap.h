// SPDX-License-Identifier: Apache-2.0
//
// A min-heap of instants for items named by 32-bit numbers. The heap tells each item's place to its
// owner as it moves, so that an item's instant can be changed or removed in O(log n).
#pragma once

#include <stdint.h>

#define HEAP_NONE UINT32_MAX // the place of an item that is not in the heap

struct heap_entry {
    int64_t at_ms;
    uint32_t item;
} __attribute__((packed, aligned(4)));

struct heap {
    struct heap_entry *entries; // owned
    uint32_t count;
    uint32_t capacity;
    void (*placed)(void *context, uint32_t item, uint32_t place);
    void *context;
};

void heap_init(struct heap *heap, void (*placed)(void *context, uint32_t item, uint32_t place),
               void *context);
void heap_deinit(struct heap *heap);

// Room for count items, so that heap_set cannot fail: 0 or -ENOMEM.
int heap_reserve(struct heap *heap, uint32_t count);

// Sets the instant of an item: at_ms INT64_MAX takes it out (and says HEAP_NONE). place is where
// the item is now, HEAP_NONE when it is not in the heap; then there must be room for it.
void heap_set(struct heap *heap, uint32_t item, uint32_t place, int64_t at_ms);

// The earliest instant, INT64_MAX when empty; and its item (only when not empty).
static inline int64_t heap_earliest(const struct heap *heap)
{
    return heap->count ? heap->entries[0].at_ms : INT64_MAX;
}

static inline uint32_t heap_first(const struct heap *heap)
{
    return heap->entries[0].item;
}
