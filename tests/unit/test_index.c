// SPDX-License-Identifier: Apache-2.0
//
// The hash index against a model (who is in), through growth over many segments, and with hashes
// chosen to hurt: all alike, alike in the bits that linear hashing looks at first, or dense.
#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/index.h"

// check notes every assertion that holds in a file, which is slow a million times over.
#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

enum { ITEMS = 6000 };

struct owner {
    struct index index;
    uint64_t hashes[ITEMS + 1];
    uint32_t links[ITEMS + 1];
    bool inside[ITEMS + 1];
    uint64_t seed;
};

static uint64_t draw(struct owner *owner)
{
    owner->seed ^= owner->seed << 13;
    owner->seed ^= owner->seed >> 7;
    owner->seed ^= owner->seed << 17;
    return owner->seed;
}

static uint64_t hash_of(void *context, uint32_t item)
{
    return ((struct owner *)context)->hashes[item];
}

static uint32_t *link_of(void *context, uint32_t item)
{
    return &((struct owner *)context)->links[item];
}

static const struct index_ops ops = {.hash = hash_of, .link = link_of};

static bool is_found(const struct owner *owner, uint32_t item)
{
    uint32_t at = index_bucket(&owner->index, owner->hashes[item]);
    uint32_t steps = 0;

    while (at != INDEX_NONE && at != item) {
        at = owner->links[at];
        HOLDS(++steps <= ITEMS); // no circle
    }
    return at == item;
}

static void check_all(const struct owner *owner)
{
    uint32_t inside = 0;

    for (uint32_t item = 1; item <= ITEMS; item++) {
        if (is_found(owner, item) != owner->inside[item])
            ck_abort_msg("item %u %s", (unsigned)item,
                         owner->inside[item] ? "is missing" : "is still there");
        inside += owner->inside[item];
    }
    ck_assert_uint_eq(owner->index.items, inside);
}

static void toggle(struct owner *owner, uint32_t item)
{
    if (owner->inside[item])
        index_remove(&owner->index, item);
    else
        index_insert(&owner->index, item);
    owner->inside[item] = !owner->inside[item];
}

enum spread { RANDOM, DENSE, LOW_BITS_ALIKE, HIGH_BITS_ONLY, FEW, SPREADS };

static uint64_t choose_hash(struct owner *owner, enum spread spread, uint32_t item)
{
    switch (spread) {
    case DENSE:
        return item;
    case LOW_BITS_ALIKE:
        return (uint64_t)item << 12 | 0x5a5;
    case HIGH_BITS_ONLY:
        return (draw(owner) & 0x3f) << 32 | item % 64;
    case FEW:
        return draw(owner) % 7;
    default:
        return draw(owner);
    }
}

static struct owner *begin(enum spread spread)
{
    static struct owner owner;

    memset(&owner, 0, sizeof owner);
    owner.seed = 0x9e3779b97f4a7c15u;
    for (uint32_t item = 1; item <= ITEMS; item++)
        owner.hashes[item] = choose_hash(&owner, spread, item);
    ck_assert_int_eq(index_init(&owner.index, &ops, &owner), 0);
    return &owner;
}

// Long chains cost time by the square: those spreads get fewer items.
static uint32_t items_of(enum spread spread)
{
    return spread == RANDOM || spread == DENSE ? ITEMS : ITEMS / 6;
}

START_TEST(random_operations)
{
    struct owner *owner = begin((enum spread)_i);
    uint32_t items = items_of((enum spread)_i);

    for (uint32_t step = 0; step < 8 * items; step++) {
        uint32_t item = (uint32_t)(draw(owner) % items) + 1;
        toggle(owner, item);
        HOLDS(is_found(owner, item) == owner->inside[item]);
        if (step % items == 0)
            check_all(owner);
    }
    check_all(owner);
    for (uint32_t item = 1; item <= items; item++)
        if (owner->inside[item])
            toggle(owner, item);
    check_all(owner);
    HOLDS(owner->index.items == 0);
    index_deinit(&owner->index);
}
END_TEST

START_TEST(grows_with_its_items_one_bucket_at_a_time)
{
    struct owner *owner = begin(RANDOM);

    for (uint32_t item = 1; item <= ITEMS; item++) {
        uint32_t before = owner->index.buckets;
        toggle(owner, item);
        HOLDS(owner->index.buckets <= before + 1);
        HOLDS(owner->index.buckets == item);
    }
    HOLDS(owner->index.segment_count == (ITEMS + 1023) / 1024);
    check_all(owner);
    for (uint32_t item = 1; item <= ITEMS; item++)
        toggle(owner, item);
    HOLDS(owner->index.buckets == ITEMS); // it never shrinks
    check_all(owner);
    index_deinit(&owner->index);
}
END_TEST

// With one item per bucket on average no chain is long, at any point between two powers of two.
START_TEST(chains_stay_short)
{
    struct owner *owner = begin(RANDOM);

    for (uint32_t item = 1; item <= ITEMS; item++) {
        uint32_t length = 0;
        toggle(owner, item);
        for (uint32_t at = index_bucket(&owner->index, owner->hashes[item]); at; length++)
            at = owner->links[at];
        HOLDS(length <= 12);
    }
    index_deinit(&owner->index);
}
END_TEST

START_TEST(an_empty_index_finds_nothing)
{
    struct owner *owner = begin(RANDOM);

    ck_assert_uint_eq(index_bucket(&owner->index, 0), INDEX_NONE);
    ck_assert_uint_eq(index_bucket(&owner->index, UINT64_MAX), INDEX_NONE);
    check_all(owner);
    index_deinit(&owner->index);
    index_deinit(&owner->index);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("index");
    TCase *tcase = tcase_create("index");

    tcase_set_timeout(tcase, 20);
    tcase_add_loop_test(tcase, random_operations, 0, SPREADS);
    tcase_add_test(tcase, grows_with_its_items_one_bucket_at_a_time);
    tcase_add_test(tcase, chains_stay_short);
    tcase_add_test(tcase, an_empty_index_finds_nothing);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    int failed;

    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
