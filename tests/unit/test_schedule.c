// SPDX-License-Identifier: Apache-2.0
//
// The schedule against a model: an array of instants, one per item, whose least is looked for by
// hand. Items of a block are often due together, as heartbeats are; what is due is taken out as the
// keeper takes it.
#include <check.h>
#include <stdbool.h>
#include <stdint.h>

#include "sidecar/schedule.h"
#include "tests/tool/scratch.h"

// check notes every assertion that holds in a file, which is slow a million times over.
#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

// Some blocks, of which the last is not full.
enum { ITEMS = 3 * SCHEDULE_BLOCK + 50, STEPS = 30000, PERIOD_MS = 1000 };

struct owner {
    struct schedule schedule;
    int64_t instants[ITEMS]; // the model; INT64_MAX: not scheduled
    int64_t now_ms;
    uint64_t seed;
};

static struct owner owner;

static uint32_t draw(uint32_t bound)
{
    owner.seed = owner.seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(owner.seed >> 33) % bound;
}

static void begin(uint64_t seed)
{
    owner = (struct owner){.seed = seed};
    schedule_init(&owner.schedule);
    for (int i = 0; i < ITEMS; i++)
        owner.instants[i] = INT64_MAX;
}

static void set(uint32_t item, int64_t at_ms)
{
    HOLDS(schedule_reserve(&owner.schedule, item + 1) == 0);
    schedule_set(&owner.schedule, item, at_ms);
    owner.instants[item] = at_ms;
}

static int64_t model_least(void)
{
    int64_t least = INT64_MAX;

    for (int i = 0; i < ITEMS; i++)
        least = owner.instants[i] < least ? owner.instants[i] : least;
    return least;
}

static void check_all(void)
{
    uint32_t count = 0;

    for (int i = 0; i < ITEMS; i++)
        count += owner.instants[i] != INT64_MAX;
    HOLDS(owner.schedule.count == count);
    HOLDS(schedule_earliest(&owner.schedule) == model_least());
    if (count > 0)
        HOLDS(owner.instants[schedule_first(&owner.schedule)] == model_least());
}

// Later by something of the item's own, or with its block.
static int64_t draw_next(uint32_t item)
{
    int64_t beat_ms = owner.now_ms - owner.now_ms % PERIOD_MS + PERIOD_MS;
    return draw(3) ? beat_ms + item / SCHEDULE_BLOCK : owner.now_ms + 1 + draw(3 * PERIOD_MS);
}

static void run_due(void)
{
    while (schedule_earliest(&owner.schedule) <= owner.now_ms) {
        uint32_t item = schedule_first(&owner.schedule);
        HOLDS(owner.instants[item] == model_least());
        set(item, draw(3) ? draw_next(item) : INT64_MAX);
    }
}

START_TEST(random_operations)
{
    begin((uint64_t)_i + 1);
    for (int step = 0; step < STEPS; step++) {
        uint32_t item = draw(ITEMS);
        bool leave = draw(10) < (step / 5000 % 2 ? 6u : 2u);
        // Now and then one that is due already, or for ever.
        set(item, leave ? INT64_MAX : draw(20) ? draw_next(item) : owner.now_ms - draw(5));
        if (draw(4) == 0) {
            owner.now_ms += draw(draw(10) ? 20 : 5000);
            run_due();
        }
        check_all();
    }
    schedule_deinit(&owner.schedule);
}
END_TEST

// All in one block and due at once: in their order, and each once.
START_TEST(due_together)
{
    begin(1);
    for (uint32_t item = 0; item < SCHEDULE_BLOCK; item++)
        set(item, 7);
    for (uint32_t item = 0; item < SCHEDULE_BLOCK; item++) {
        ck_assert_int_eq(schedule_earliest(&owner.schedule), 7);
        ck_assert_uint_eq(schedule_first(&owner.schedule), item);
        set(item, 1000);
    }
    ck_assert_int_eq(schedule_earliest(&owner.schedule), 1000);
    schedule_deinit(&owner.schedule);
}
END_TEST

START_TEST(empty)
{
    begin(1);
    ck_assert_int_eq(schedule_earliest(&owner.schedule), INT64_MAX);
    set(ITEMS - 1, 5);
    set(ITEMS - 1, INT64_MAX);
    ck_assert_int_eq(schedule_earliest(&owner.schedule), INT64_MAX);
    ck_assert_uint_eq(owner.schedule.count, 0);
    schedule_deinit(&owner.schedule);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("schedule");
    TCase *tcase = tcase_create("schedule");

    tcase_add_loop_test(tcase, random_operations, 0, 4);
    tcase_add_test(tcase, due_together);
    tcase_add_test(tcase, empty);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
