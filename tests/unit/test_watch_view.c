// SPDX-License-Identifier: Apache-2.0
//
// The view of lockctl watch: frames fit the screen, bars are right, losses are seen once.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/watch_view.h"
#include "tests/tool/scratch.h"

static struct watch_view view;

static void setup(void)
{
    setenv("TZ", "UTC", 1);
    watch_view_init(&view, "/run/s.sock");
}

static void teardown(void)
{
    watch_view_deinit(&view);
}

static void add(const char *state, const char *key, int64_t fence, int64_t valid_ms)
{
    bool waits = strcmp(state, "waiting") == 0;
    struct lock_keeper_row row = {
        .state = state,
        .key = key,
        .holder = {.pid = 812, .host = "pod-7", .label = "resume", .fence = fence},
        .held_ms = waits ? -1 : 30000,
        .valid_ms = valid_ms,
        .deadline_in_ms = strcmp(state, "held") == 0 ? 10000 : -1,
        .waited_ms = waits ? 2500 : -1,
        .fence = fence,
    };

    watch_view_add(&view, &row);
}

// A frame as a person sees it: without the codes.
static char *frame(size_t columns, size_t lines)
{
    struct buf out = BUF_INIT;
    char *text, *to;

    watch_view_render(&view, columns, lines, 3661, &out);
    buf_append(&out, "", 1);
    ck_assert(!out.failed);
    text = to = strdup(buf_bytes(&out));
    for (const char *from = text; *from; from++) {
        if (*from == '\033')
            from += strcspn(from, "HKJ");
        else if (*from != '\r')
            *to++ = *from;
    }
    *to = '\0';
    buf_deinit(&out);
    return text;
}

static void expect(const char *wanted)
{
    char *text = frame(120, 40);

    ck_assert_msg(strstr(text, wanted) != NULL, "no \"%s\" in:\n%s", wanted, text);
    free(text);
}

static void expect_not(const char *unwanted)
{
    char *text = frame(120, 40);

    ck_assert_msg(strstr(text, unwanted) == NULL, "\"%s\" in:\n%s", unwanted, text);
    free(text);
}

START_TEST(rows_show_what_is_left)
{
    add("waiting", "b", -1, -1);
    add("held", "b", 7, 5000);
    add("held", "a", 6, 3000);
    watch_view_commit(&view, true, 3661);
    expect("01:01:01  held 2  ending 0  waiting 1  Redis is up  /run/s.sock");
    expect("held    30.0s  [##########] 5.0s   [###.......] 10.0s  812@pod-7            resume");
    expect("waiting 2.5s ");
    // The next look: the bar is full at what was seen before.
    add("held", "b", 7, 2500);
    watch_view_commit(&view, false, 3661);
    expect("[#####.....] 2.5s ");
    expect("held 1  ending 0  waiting 0  Redis is DOWN");
}
END_TEST

START_TEST(rows_are_sorted)
{
    char *text, *a, *b, *waiter;

    add("waiting", "bbb", -1, -1);
    add("held", "bbb", 7, 5000);
    add("held", "aaa", 6, 3000);
    watch_view_commit(&view, true, 0);
    text = frame(120, 40);
    a = strstr(text, "aaa");
    b = strstr(text, "bbb");
    waiter = b ? strstr(b + 1, "bbb") : NULL;
    ck_assert(a && b && waiter && a < b);
    ck_assert_int_eq(strncmp(strchr(waiter, ' ') + strspn(strchr(waiter, ' '), " "), "waiting", 7),
                     0);
    free(text);
}
END_TEST

START_TEST(a_loss_is_told_once)
{
    add("ending", "old", 1, 100); // was over before we looked
    add("held", "lost", 2, 3000);
    add("held", "released", 3, 3000);
    watch_view_commit(&view, true, 0);
    expect_not("RECENTLY LOST");
    add("ending", "lost", 2, 500);
    watch_view_commit(&view, true, 7322);
    expect("RECENTLY LOST\n02:02:02  lost  812@pod-7\n");
    add("ending", "lost", 2, 100);
    watch_view_commit(&view, true, 7325);
    watch_view_commit(&view, true, 7326);
    ck_assert_uint_eq(view.loss_count, 1);
    // One that was granted and lost between two looks.
    add("ending", "quick", 9, 100);
    watch_view_commit(&view, true, 7327);
    expect("RECENTLY LOST\n02:02:07  quick  812@pod-7\n02:02:02  lost  812@pod-7\n");
}
END_TEST

START_TEST(losses_are_bounded)
{
    for (int i = 0; i < 20; i++) {
        char key[16];

        snprintf(key, sizeof key, "key%d", i);
        watch_view_commit(&view, true, 0);
        add("ending", key, i + 1, 100);
        watch_view_commit(&view, true, i);
    }
    ck_assert_uint_eq(view.loss_count, WATCH_VIEW_LOSSES);
    expect("key19 ");
    expect_not("key11 ");
}
END_TEST

START_TEST(a_failed_look_keeps_what_was)
{
    add("held", "kept", 1, 1000);
    watch_view_commit(&view, true, 0);
    add("held", "half", 2, 1000);
    watch_view_drop(&view, "there is no sidecar");
    expect("kept");
    expect_not("half");
    expect("there is no sidecar");
    add("held", "kept", 1, 1000);
    watch_view_commit(&view, true, 0);
    expect_not("there is no sidecar");
}
END_TEST

// Of any size: no line too many, none too wide, nothing written outside.
START_TEST(frames_fit)
{
    for (int i = 0; i < 30; i++) {
        char key[64];

        snprintf(key, sizeof key, "schl\xc3\xbcssel:%d:%0*d", i, i, 0);
        add(i % 3 ? "held" : "ending", key, i + 1, 1000);
    }
    view.has_snapshot = true;
    watch_view_commit(&view, true, 0);
    for (size_t columns = 1; columns < 140; columns += 7) {
        for (size_t lines = 1; lines < 50; lines++) {
            char *text = frame(columns, lines);
            size_t count = 0;

            for (char *line = text; line;
                 line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
                size_t width = 0;

                for (const char *c = line; *c && *c != '\n'; c++)
                    width += ((unsigned char)*c & 0xc0) != 0x80;
                ck_assert_uint_le(width, columns);
                count++;
            }
            ck_assert_uint_le(count, lines);
            free(text);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("watch_view");
    TCase *tests = tcase_create("view");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, rows_show_what_is_left);
    tcase_add_test(tests, rows_are_sorted);
    tcase_add_test(tests, a_loss_is_told_once);
    tcase_add_test(tests, losses_are_bounded);
    tcase_add_test(tests, a_failed_look_keeps_what_was);
    tcase_add_test(tests, frames_fit);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
