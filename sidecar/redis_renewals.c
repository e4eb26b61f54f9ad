// SPDX-License-Identifier: Apache-2.0
//
// The heap orders slots. Free slots are a stack.
#include <stdlib.h>

#include "sidecar/redis_renewals.h"

enum {
    RENEWALS_MIN = 64,
};

void redis_renewals_init(struct redis_renewals *renewals)
{
    *renewals = (struct redis_renewals){0};
    heap_init(&renewals->heap);
}

void redis_renewals_deinit(struct redis_renewals *renewals)
{
    heap_deinit(&renewals->heap);
    free(renewals->slots);
    free(renewals->spare);
}

static void grow(struct redis_renewals *renewals)
{
    uint32_t capacity = renewals->capacity ? renewals->capacity * 2 : RENEWALS_MIN;

    renewals->slots = reallocarray(renewals->slots, capacity, sizeof *renewals->slots);
    renewals->spare = reallocarray(renewals->spare, capacity, sizeof *renewals->spare);
    if (!renewals->slots || !renewals->spare || heap_reserve(&renewals->heap, capacity) < 0)
        abort(); // a renewal that could be neither made nor answered
    for (uint32_t slot = capacity; slot > renewals->capacity; slot--)
        renewals->spare[renewals->spares++] = slot - 1;
    renewals->capacity = capacity;
}

void redis_renewals_push(struct redis_renewals *renewals, uint32_t lease, uint32_t generation,
                         int64_t due_by_ms)
{
    uint32_t slot;

    if (renewals->spares == 0)
        grow(renewals);
    slot = renewals->spare[--renewals->spares];
    renewals->slots[slot] = (struct redis_renewal){lease, generation};
    // INT64_MAX would mean "take it out".
    heap_set(&renewals->heap, slot, due_by_ms < INT64_MAX ? due_by_ms : INT64_MAX - 1);
}

bool redis_renewals_pop(struct redis_renewals *renewals, struct redis_renewal *renewal)
{
    uint32_t slot;

    if (renewals->heap.count == 0)
        return false;
    slot = heap_first(&renewals->heap);
    *renewal = renewals->slots[slot];
    heap_set(&renewals->heap, slot, INT64_MAX);
    renewals->spare[renewals->spares++] = slot;
    return true;
}
