// SPDX-License-Identifier: Apache-2.0
//
// The buffer against what a reader sees of it: its bytes in order, whatever was done to get there.
#include <check.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/buf.h"

static void assert_holds(const struct buf *buf, const char *expected)
{
    ck_assert_uint_eq(buf_length(buf), strlen(expected));
    ck_assert_mem_eq(buf_bytes(buf), expected, strlen(expected));
}

START_TEST(a_fresh_buffer_owns_nothing)
{
    struct buf buf = BUF_INIT;

    ck_assert_uint_eq(buf_length(&buf), 0);
    ck_assert_ptr_null(buf_bytes(&buf));
    ck_assert_ptr_null(buf.data);
    buf_append(&buf, "", 0);
    ck_assert_ptr_null(buf.data);
    buf_deinit(&buf);
}
END_TEST

START_TEST(appends_line_up)
{
    struct buf buf = BUF_INIT;

    buf_append(&buf, "ab\0c", 4);
    buf_append_string(&buf, "de");
    ck_assert_uint_eq(buf_length(&buf), 6);
    ck_assert_mem_eq(buf_bytes(&buf), "ab\0cde", 6);
    buf_deinit(&buf);
    ck_assert_ptr_null(buf.data);
    ck_assert_uint_eq(buf_length(&buf), 0);
}
END_TEST

static const struct {
    long long value;
    const char *text;
} integers[] = {
    {0, "0"},
    {7, "7"},
    {-1, "-1"},
    {10, "10"},
    {1790000000000000, "1790000000000000"},
    {-9007199254740991, "-9007199254740991"},
    {LLONG_MAX, "9223372036854775807"},
    {LLONG_MIN, "-9223372036854775808"},
};

START_TEST(integers_are_written_in_full)
{
    struct buf buf = BUF_INIT;

    buf_append_int(&buf, integers[_i].value);
    assert_holds(&buf, integers[_i].text);
    buf_deinit(&buf);
}
END_TEST

START_TEST(reserve_gives_room_and_commit_takes_some_of_it)
{
    struct buf buf = BUF_INIT;
    char *room = buf_reserve(&buf, 1000);

    ck_assert_ptr_nonnull(room);
    memset(room, 'x', 1000);
    buf_commit(&buf, 3);
    assert_holds(&buf, "xxx");
    ck_assert_ptr_eq(buf_reserve(&buf, 1), buf.data + 3);
    buf_deinit(&buf);
}
END_TEST

START_TEST(consume_reads_from_the_front)
{
    struct buf buf = BUF_INIT;

    buf_append_string(&buf, "hello world");
    buf_consume(&buf, 6);
    assert_holds(&buf, "world");
    buf_append_string(&buf, "!");
    assert_holds(&buf, "world!");
    buf_consume(&buf, 6);
    ck_assert_uint_eq(buf_length(&buf), 0);
    ck_assert_uint_eq(buf.start, 0);
    buf_deinit(&buf);
}
END_TEST

START_TEST(truncate_takes_back_what_was_appended)
{
    struct buf buf = BUF_INIT;
    size_t before;

    buf_append_string(&buf, "xxkept");
    buf_consume(&buf, 2);
    before = buf_length(&buf);
    buf_append_string(&buf, " and not this");
    buf_truncate(&buf, before);
    assert_holds(&buf, "kept");
    buf_deinit(&buf);
}
END_TEST

START_TEST(trim_frees_an_empty_buffer_only)
{
    struct buf buf = BUF_INIT;

    buf_append_string(&buf, "abc");
    buf_trim(&buf);
    assert_holds(&buf, "abc");
    buf_consume(&buf, 3);
    buf_trim(&buf);
    ck_assert_ptr_null(buf.data);
    ck_assert_uint_eq(buf.capacity, 0);
    buf_append_string(&buf, "again");
    assert_holds(&buf, "again");
    buf_deinit(&buf);
}
END_TEST

// A queue of a steady length must not grow for ever, and must keep its bytes in order.
START_TEST(a_steady_queue_reuses_its_room)
{
    struct buf buf = BUF_INIT;
    unsigned char written = 0;
    unsigned char read = 0;
    char chunk[97];

    for (int turn = 0; turn < 2000; turn++) {
        for (size_t i = 0; i < sizeof chunk; i++)
            chunk[i] = (char)written++;
        buf_append(&buf, chunk, sizeof chunk);
        if (turn < 2)
            continue;
        for (size_t i = 0; i < sizeof chunk; i++)
            chunk[i] = (char)read++;
        ck_assert_mem_eq(buf_bytes(&buf), chunk, sizeof chunk);
        buf_consume(&buf, sizeof chunk);
    }
    ck_assert_uint_eq(buf_length(&buf), 2 * sizeof chunk);
    ck_assert_uint_le(buf.capacity, 1024);
    buf_deinit(&buf);
}
END_TEST

START_TEST(growth_keeps_the_unread_bytes)
{
    struct buf buf = BUF_INIT;
    char big[5000];

    memset(big, 'z', sizeof big);
    buf_append_string(&buf, "drop");
    buf_append_string(&buf, "keep");
    buf_consume(&buf, 4);
    buf_append(&buf, big, sizeof big);
    ck_assert_uint_eq(buf_length(&buf), 4 + sizeof big);
    ck_assert_mem_eq(buf_bytes(&buf), "keepz", 5);
    ck_assert_int_eq(buf_bytes(&buf)[4 + sizeof big - 1], 'z');
    buf_deinit(&buf);
}
END_TEST

START_TEST(running_out_of_memory_is_sticky)
{
    struct buf buf = BUF_INIT;

    buf_append_string(&buf, "before");
    ck_assert(!buf.failed);
    ck_assert_ptr_null(buf_reserve(&buf, SIZE_MAX - 2));
    ck_assert(buf.failed);
    ck_assert_ptr_null(buf_reserve(&buf, 1));
    buf_append_string(&buf, "after");
    buf_append_int(&buf, 1);
    assert_holds(&buf, "before");
    buf_deinit(&buf);
    ck_assert(!buf.failed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("buf");
    TCase *tcase = tcase_create("buf");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tcase, a_fresh_buffer_owns_nothing);
    tcase_add_test(tcase, appends_line_up);
    tcase_add_loop_test(tcase, integers_are_written_in_full, 0,
                        (int)(sizeof integers / sizeof integers[0]));
    tcase_add_test(tcase, reserve_gives_room_and_commit_takes_some_of_it);
    tcase_add_test(tcase, consume_reads_from_the_front);
    tcase_add_test(tcase, truncate_takes_back_what_was_appended);
    tcase_add_test(tcase, trim_frees_an_empty_buffer_only);
    tcase_add_test(tcase, a_steady_queue_reuses_its_room);
    tcase_add_test(tcase, growth_keeps_the_unread_bytes);
    tcase_add_test(tcase, running_out_of_memory_is_sticky);
    suite_add_tcase(suite, tcase);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
