// SPDX-License-Identifier: Apache-2.0
//
// The heap of deadlines against a model: an array of instants, one per item, whose least is looked
// for by hand. After every operation the earliest agrees; after many, the heap order and every place.
#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/heap.h"

// check notes every assertion that holds in a file, which is slow a million times over.
#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

enum { ITEMS = 500, STEPS = 40000 };

struct owner {
    struct heap heap;
    int64_t instants[ITEMS]; // the model; INT64_MAX: not in the heap
    uint64_t seed;
};

static uint32_t draw(struct owner *owner, uint32_t bound)
{
    owner->seed = owner->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(owner->seed >> 33) % bound;
}

static void begin(struct owner *owner)
{
    *owner = (struct owner){.seed = 1};
    heap_init(&owner->heap);
    for (int i = 0; i < ITEMS; i++)
        owner->instants[i] = INT64_MAX;
}

static void set(struct owner *owner, uint32_t item, int64_t at_ms)
{
    HOLDS(heap_reserve(&owner->heap, item + 1) == 0);
    heap_set(&owner->heap, item, at_ms);
    owner->instants[item] = at_ms;
}

static int64_t model_least(const struct owner *owner)
{
    int64_t least = INT64_MAX;

    for (int i = 0; i < ITEMS; i++)
        least = owner->instants[i] < least ? owner->instants[i] : least;
    return least;
}

static void check_all(const struct owner *owner)
{
    const struct heap *heap = &owner->heap;
    uint32_t inside = 0;

    for (uint32_t i = 0; i < ITEMS; i++) {
        HOLDS(heap_has(heap, i) == (owner->instants[i] != INT64_MAX));
        if (!heap_has(heap, i))
            continue;
        inside++;
        HOLDS(heap->places[i] <= heap->count);
        HOLDS(heap->entries[heap->places[i] - 1].item == i);
        HOLDS(heap->entries[heap->places[i] - 1].at_ms == owner->instants[i]);
    }
    HOLDS(heap->count == inside);
    for (uint32_t place = 1; place < heap->count; place++)
        HOLDS(heap->entries[(place - 1) / 4].at_ms <= heap->entries[place].at_ms);
}

START_TEST(random_operations)
{
    static struct owner owner;

    begin(&owner);
    owner.seed = (uint64_t)_i + 1;
    for (int step = 0; step < STEPS; step++) {
        // Few different instants, so that equal ones are common; now and then a phase of leaving.
        bool leave = draw(&owner, 10) < (step / 5000 % 2 ? 6u : 2u);
        set(&owner, draw(&owner, ITEMS), leave ? INT64_MAX : (int64_t)draw(&owner, 1000) - 500);
        HOLDS(heap_earliest(&owner.heap) == model_least(&owner));
        if (owner.heap.count)
            HOLDS(owner.instants[heap_first(&owner.heap)] == heap_earliest(&owner.heap));
        if (step % 97 == 0)
            check_all(&owner);
    }
    check_all(&owner);
    heap_deinit(&owner.heap);
}
END_TEST

START_TEST(taken_out_in_order)
{
    static struct owner owner;
    int64_t before = INT64_MIN;

    begin(&owner);
    for (uint32_t item = 0; item < ITEMS; item++)
        set(&owner, item, draw(&owner, 100));
    while (owner.heap.count > 0) {
        ck_assert_int_ge(heap_earliest(&owner.heap), before);
        before = heap_earliest(&owner.heap);
        set(&owner, heap_first(&owner.heap), INT64_MAX);
        check_all(&owner);
    }
    ck_assert_int_eq(heap_earliest(&owner.heap), INT64_MAX);
    heap_deinit(&owner.heap);
}
END_TEST

START_TEST(extremes_are_instants_too)
{
    static struct owner owner;

    begin(&owner);
    set(&owner, 1, INT64_MAX - 1);
    set(&owner, 2, INT64_MIN);
    set(&owner, 3, 0);
    ck_assert_uint_eq(heap_first(&owner.heap), 2);
    set(&owner, 2, INT64_MAX);
    set(&owner, 3, INT64_MAX);
    ck_assert_int_eq(heap_earliest(&owner.heap), INT64_MAX - 1);
    check_all(&owner);
    heap_deinit(&owner.heap);
}
END_TEST

START_TEST(room_is_kept)
{
    static struct owner owner;

    begin(&owner);
    ck_assert_int_eq(heap_reserve(&owner.heap, 200), 0);
    ck_assert_uint_ge(owner.heap.capacity, 200);
    for (uint32_t item = 0; item < 200; item++) {
        const struct heap_entry *entries = owner.heap.entries;
        heap_set(&owner.heap, item, -(int64_t)item);
        ck_assert_ptr_eq(owner.heap.entries, entries);
    }
    ck_assert_uint_eq(heap_first(&owner.heap), 199);
    heap_deinit(&owner.heap);
    heap_deinit(&owner.heap);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("heap");
    TCase *tcase = tcase_create("heap");

    tcase_add_loop_test(tcase, random_operations, 0, 4);
    tcase_add_test(tcase, taken_out_in_order);
    tcase_add_test(tcase, extremes_are_instants_too);
    tcase_add_test(tcase, room_is_kept);
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
