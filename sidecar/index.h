// SPDX-License-Identifier: Apache-2.0
//
// A hash index of items named by 32-bit numbers, chained through a link in each item. It grows by
// linear hashing, one bucket for each item that comes in, so that no insertion ever pays for a
// rehash of the whole.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define INDEX_NONE 0u // no item has this number

struct index_ops {
    uint64_t (*hash)(void *context, uint32_t item);
    uint32_t *(*link)(void *context, uint32_t item); // the item's link to the next in its bucket
};

struct index {
    const struct index_ops *ops;
    void *context;
    uint32_t **segments; // owned; each of INDEX_SEGMENT buckets
    uint32_t segment_count;
    uint32_t buckets; // in use: 2^level <= buckets < 2^(level + 1)
    uint32_t items;
};

int index_init(struct index *index, const struct index_ops *ops, void *context); // 0 or -ENOMEM
void index_deinit(struct index *index);

// The first item of the bucket that hash falls into; the caller follows the links and compares.
uint32_t index_bucket(const struct index *index, uint64_t hash);

// The item must not be in the index. Cannot fail: where memory for a further bucket is missing, the
// chains grow longer instead.
void index_insert(struct index *index, uint32_t item);
// The item must be in the index.
void index_remove(struct index *index, uint32_t item);
