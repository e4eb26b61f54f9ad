// SPDX-License-Identifier: Apache-2.0
//
// Linear hashing. With buckets b and the largest power of two 2^L <= b, a hash belongs to bucket
// hash mod 2^(L+1), or mod 2^L where that bucket does not exist yet. An insertion that makes more
// items than buckets adds bucket b and moves to it the part of bucket b - 2^L that belongs there.
// The index never shrinks: its size is bounded by the most items that were ever in it (4 bytes each).

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "sidecar/index.h"

enum { INDEX_SEGMENT = 1024 };

static uint32_t *bucket_at(const struct index *index, uint32_t bucket)
{
    return &index->segments[bucket / INDEX_SEGMENT][bucket % INDEX_SEGMENT];
}

static uint32_t floor_power(uint32_t n)
{
    return 1u << (31 - __builtin_clz(n));
}

static uint32_t bucket_of(const struct index *index, uint64_t hash)
{
    uint32_t power = floor_power(index->buckets);
    uint32_t bucket = (uint32_t)hash & (2 * power - 1);
    return bucket < index->buckets ? bucket : (uint32_t)hash & (power - 1);
}

static int add_segment(struct index *index)
{
    uint32_t **segments =
        realloc(index->segments, (index->segment_count + 1) * sizeof *index->segments);
    uint32_t *segment = calloc(INDEX_SEGMENT, sizeof *segment);

    if (segments)
        index->segments = segments;
    if (!segments || !segment) {
        free(segment);
        return -ENOMEM;
    }
    index->segments[index->segment_count++] = segment;
    return 0;
}

int index_init(struct index *index, const struct index_ops *ops, void *context)
{
    *index = (struct index){.ops = ops, .context = context, .buckets = 1};
    return add_segment(index);
}

void index_deinit(struct index *index)
{
    for (uint32_t i = 0; i < index->segment_count; i++)
        free(index->segments[i]);
    free(index->segments);
    *index = (struct index){0};
}

uint32_t index_bucket(const struct index *index, uint64_t hash)
{
    return *bucket_at(index, bucket_of(index, hash));
}

static void split(struct index *index)
{
    uint32_t added = index->buckets;
    uint32_t *from, *to, item;

    if (added == UINT32_MAX / 2 ||
        (added == index->segment_count * INDEX_SEGMENT && add_segment(index) < 0))
        return;
    index->buckets++;
    from = bucket_at(index, added - floor_power(added));
    to = bucket_at(index, added);
    while ((item = *from) != INDEX_NONE) {
        uint32_t *link = index->ops->link(index->context, item);
        if (bucket_of(index, index->ops->hash(index->context, item)) != added) {
            from = link;
            continue;
        }
        *from = *link;
        *link = *to;
        *to = item;
    }
}

void index_insert(struct index *index, uint32_t item)
{
    uint32_t *bucket;

    if (++index->items > index->buckets)
        split(index);
    bucket = bucket_at(index, bucket_of(index, index->ops->hash(index->context, item)));
    *index->ops->link(index->context, item) = *bucket;
    *bucket = item;
}

void index_remove(struct index *index, uint32_t item)
{
    uint32_t *at = bucket_at(index, bucket_of(index, index->ops->hash(index->context, item)));

    while (*at != item) {
        assert(*at != INDEX_NONE);
        at = index->ops->link(index->context, *at);
    }
    *at = *index->ops->link(index->context, item);
    index->items--;
}
