// SPDX-License-Identifier: Apache-2.0
//
// lockctl's words for people and for shells.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lockctl_print.h"
#include "tests/tool/scratch.h"

START_TEST(spans_are_short)
{
    static const struct {
        int64_t ms;
        const char *text;
    } spans[] = {
        {-1, "-"},          {0, "0ms"},         {999, "999ms"},      {1000, "1.0s"},
        {5250, "5.2s"},     {59999, "59.9s"},   {60000, "1m00s"},    {245000, "4m05s"},
        {3600000, "1h00m"}, {3725000, "1h02m"}, {86400000, "1d00h"}, {273600000, "3d04h"},
    };
    char text[PRINT_SPAN_SIZE];

    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++)
        ck_assert_str_eq(print_span(spans[i].ms, text), spans[i].text);
}
END_TEST

START_TEST(holders)
{
    struct lock_keeper_holder ours = {.pid = 812, .host = "pod-7", .label = "", .bytes = -1};
    struct lock_keeper_holder string = {.foreign = true, .bytes = 36};
    struct lock_keeper_holder hash = {.foreign = true, .bytes = -1, .type = "hash"};
    char text[PRINT_HOLDER_SIZE];

    ck_assert_str_eq(print_holder(&ours, text), "812@pod-7");
    ck_assert_str_eq(print_holder(&string, text), "(foreign: 36 bytes)");
    ck_assert_str_eq(print_holder(&hash, text), "(foreign: a hash)");
}
END_TEST

// What a shell makes of it is what was put in.
START_TEST(assignments_are_taken_as_they_are)
{
    static const char *const texts[] = {"", "plain", "it's", "$(touch no) `x` \"y\" \\ '", "a\nb"};

    scratch_open();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char command[512], *got;
        FILE *file = fopen(scratch_path("script"), "w");

        ck_assert_ptr_nonnull(file);
        print_assignment(file, "NAME", texts[i]);
        fprintf(file, "printf %%s \"$NAME\"\n");
        fclose(file);
        snprintf(command, sizeof command, "sh %s > %s", scratch_path("script"),
                 scratch_path("got"));
        ck_assert_int_eq(system(command), 0);
        got = scratch_read(scratch_path("got"));
        ck_assert_str_eq(got, texts[i]);
        free(got);
    }
    scratch_close();
}
END_TEST

static char *printed(size_t width)
{
    struct print_table table;
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);

    print_table_init(&table, 3);
    print_table_add(&table, (const char *[]){"KEY", "N", "LABEL"});
    print_table_add(&table, (const char *[]){"caf\xc3\xa9", "12", ""});
    print_table_add(&table, (const char *[]){"a", "", "last"});
    print_table_print(&table, file, width);
    ck_assert(!table.failed);
    print_table_deinit(&table);
    fclose(file);
    return text;
}

START_TEST(tables)
{
    char *text = printed(0);

    ck_assert_str_eq(text, "KEY   N   LABEL\ncaf\xc3\xa9  12\na         last\n");
    free(text);
    text = printed(4);
    ck_assert_str_eq(text, "KEY \ncaf\xc3\xa9\na   \n");
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lockctl_print");
    TCase *tests = tcase_create("print");

    tcase_add_test(tests, spans_are_short);
    tcase_add_test(tests, holders);
    tcase_add_test(tests, assignments_are_taken_as_they_are);
    tcase_add_test(tests, tables);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
