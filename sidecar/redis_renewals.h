// SPDX-License-Identifier: Apache-2.0
//
// Renewals that wait to be written, the one that must be confirmed earliest first.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "sidecar/heap.h"

struct redis_renewal {
    uint32_t lease;
    uint32_t generation;
};

struct redis_renewals {
    struct heap heap; // its items are slots
    struct redis_renewal *slots;
    uint32_t *spare; // slots that are free, a stack
    uint32_t spares;
    uint32_t capacity;
};

void redis_renewals_init(struct redis_renewals *renewals);
void redis_renewals_deinit(struct redis_renewals *renewals);
// Out of memory ends the process.
void redis_renewals_push(struct redis_renewals *renewals, uint32_t lease, uint32_t generation,
                         int64_t due_by_ms);
bool redis_renewals_pop(struct redis_renewals *renewals, struct redis_renewal *renewal);
