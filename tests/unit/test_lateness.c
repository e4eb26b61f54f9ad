// SPDX-License-Identifier: Apache-2.0
//
// How much a late loop widens the margin, for how long, and what does not widen it.
#include <check.h>
#include <stdlib.h>

#include "sidecar/lateness.h"

enum {
    STOP = 6000,
    NOW = 1000000,
    OVER = 40, // ms over what every margin covers
};

static struct lateness lateness;

static void setup(void)
{
    lateness_init(&lateness, STOP);
}

// Woken at now_ms, so late.
static bool late(int64_t late_ms, int64_t now_ms)
{
    return lateness_observe(&lateness, now_ms - late_ms, now_ms);
}

START_TEST(what_the_margin_covers_changes_nothing)
{
    ck_assert(!late(-7, NOW)); // early: a timer may be
    ck_assert(!late(0, NOW));
    ck_assert(!late(LATENESS_ASSUMED_MS, NOW));
    ck_assert_int_eq(lateness.widen_ms, 0);
    ck_assert_int_eq(lateness.worst_ms, LATENESS_ASSUMED_MS);
}
END_TEST

START_TEST(the_worst_one_widens_by_what_is_over)
{
    ck_assert(late(LATENESS_ASSUMED_MS + OVER, NOW));
    ck_assert_int_eq(lateness.widen_ms, OVER);
    ck_assert(!late(LATENESS_ASSUMED_MS + OVER - 1, NOW + 1));
    ck_assert_int_eq(lateness.widen_ms, OVER);
    ck_assert(late(LATENESS_ASSUMED_MS + OVER + 1, NOW + 2));
    ck_assert_int_eq(lateness.widen_ms, OVER + 1);
    ck_assert(late(STOP - 1, NOW + 3));
    ck_assert_int_eq(lateness.widen_ms, STOP - 1 - LATENESS_ASSUMED_MS);
}
END_TEST

// It counts from the newest that was too late.
START_TEST(it_is_forgotten_in_time)
{
    int64_t again_ms = NOW + LATENESS_MEMORY_MS - 1;

    ck_assert(late(LATENESS_ASSUMED_MS + OVER, NOW));
    ck_assert(!late(LATENESS_ASSUMED_MS + 1, again_ms));
    ck_assert_int_eq(lateness.widen_ms, OVER);
    ck_assert(!late(0, again_ms + LATENESS_MEMORY_MS - 1));
    ck_assert_int_eq(lateness.widen_ms, OVER);
    ck_assert(late(0, again_ms + LATENESS_MEMORY_MS));
    ck_assert_int_eq(lateness.widen_ms, 0);
    ck_assert_int_eq(lateness.worst_ms, LATENESS_ASSUMED_MS + OVER);
}
END_TEST

// No margin helps against a stop, and the next wake-up is not late because of it.
START_TEST(a_stop_widens_nothing)
{
    ck_assert(!late(STOP, NOW));
    ck_assert(!late(60000, NOW + 1));
    ck_assert_int_eq(lateness.widen_ms, 0);
    ck_assert_int_eq(lateness.worst_ms, 60000);
}
END_TEST

START_TEST(the_histogram)
{
    static const struct {
        int64_t late_ms;
        int bucket;
    } cases[] = {
        {-1, 0}, {0, 0},  {1, 1},     {2, 2},      {3, 2},      {4, 3},      {7, 3},
        {8, 4},  {24, 5}, {1000, 10}, {16383, 14}, {16384, 15}, {32768, 15}, {INT64_C(1) << 40, 15},
    };
    uint64_t expected[LATENESS_BUCKETS] = {0};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        late(cases[i].late_ms, NOW);
        expected[cases[i].bucket]++;
        ck_assert_mem_eq(lateness.histogram, expected, sizeof expected);
    }
}
END_TEST

START_TEST(the_histogram_in_words)
{
    char text[64];

    lateness_format(&lateness, text, sizeof text);
    ck_assert_str_eq(text, "");
    late(0, NOW);
    late(0, NOW);
    late(5, NOW);
    late(1 << 20, NOW);
    lateness_format(&lateness, text, sizeof text);
    ck_assert_str_eq(text, "<1ms:2 <8ms:1 >=16384ms:1");
    lateness_format(&lateness, text, 13); // a byte too few for the second
    ck_assert_str_eq(text, "<1ms:2");
    lateness_format(&lateness, text, 1);
    ck_assert_str_eq(text, "");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("lateness");
    TCase *tc = tcase_create("lateness");

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, what_the_margin_covers_changes_nothing);
    tcase_add_test(tc, the_worst_one_widens_by_what_is_over);
    tcase_add_test(tc, it_is_forgotten_in_time);
    tcase_add_test(tc, a_stop_widens_nothing);
    tcase_add_test(tc, the_histogram);
    tcase_add_test(tc, the_histogram_in_words);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    SRunner *sr = srunner_create(suite());
    int failed;

    srunner_set_tap(sr, "-");
    srunner_run_all(sr, CK_SILENT);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
