// SPDX-License-Identifier: Apache-2.0
//
// The frame against a naive splitter that has all the bytes at once, for every way of cutting them
// into equal chunks; and what the splitter cannot see: when errors come, what memory is held.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/wire.h"

enum { SMALL_LIMIT = 8, READ_SIZE = 64 * 1024 };

// What came out, as text: each line in brackets, "!" for one that was too long.
struct log {
    struct buf text;
};

static void log_line(struct log *log, const char *line, size_t length)
{
    buf_append_string(&log->text, "[");
    buf_append(&log->text, line, length);
    buf_append_string(&log->text, "]");
}

static void log_too_long(struct log *log)
{
    buf_append_string(&log->text, "!");
}

static const char *log_string(struct log *log)
{
    buf_append(&log->text, "", 1);
    return buf_bytes(&log->text);
}

// The reference: an unfinished line at the end counts as too long by what is certain already.
static void split(const char *bytes, size_t length, size_t limit, struct log *log)
{
    size_t begin = 0;

    for (size_t i = 0; i <= length; i++) {
        size_t size = i - begin;

        if (i == length) {
            bool may_end = size == limit + 1 && bytes[i - 1] == '\r';

            if (size > limit && !may_end)
                log_too_long(log);
            return;
        }
        if (bytes[i] != '\n')
            continue;
        if (size > 0 && bytes[i - 1] == '\r')
            size--;
        if (size > limit)
            log_too_long(log);
        else if (size > 0)
            log_line(log, bytes + begin, size);
        begin = i + 1;
    }
}

// turns: how many lines are asked for between two saves; the rest stays over as backlog.
static void frame_all(const char *bytes, size_t length, size_t limit, size_t chunk, size_t turns,
                      struct log *log)
{
    struct frame frame;

    frame_init(&frame, limit);
    for (size_t at = 0; at < length || frame_has_backlog(&frame);) {
        size_t size = length - at < chunk ? length - at : chunk;
        // A copy of its own, so that ASan sees a look at a chunk after its save.
        char *copy = malloc(size + 1);
        int r = 1;

        if (copy == NULL)
            ck_abort_msg("out of memory");
        memcpy(copy, bytes + at, size);
        frame_feed(&frame, copy, size);
        at += size;
        for (size_t turn = 0; turn < turns && r != 0; turn++) {
            const char *line = NULL;
            size_t line_length = 0;

            r = frame_next(&frame, &line, &line_length);
            if (r == 1)
                log_line(log, line, line_length);
            else if (r == FRAME_E_TOO_LONG)
                log_too_long(log);
            else if (r != 0)
                ck_abort_msg("frame_next answered %d", r);
        }
        if (frame_save(&frame) != 0)
            ck_abort_msg("frame_save failed");
        free(copy);
    }
    frame_deinit(&frame);
}

static void assert_same(const char *bytes, size_t length, size_t limit, size_t chunk, size_t turns)
{
    struct log expected = {BUF_INIT};
    struct log actual = {BUF_INIT};

    split(bytes, length, limit, &expected);
    frame_all(bytes, length, limit, chunk, turns, &actual);
    ck_assert_msg(strcmp(log_string(&expected), log_string(&actual)) == 0,
                  "chunks of %zu, %zu turns: expected %s, got %s", chunk, turns,
                  buf_bytes(&expected.text), buf_bytes(&actual.text));
    buf_deinit(&expected.text);
    buf_deinit(&actual.text);
}

static const char *const streams[] = {
    "",
    "\n",
    "a\n",
    "a",
    "a\nb\n",
    "a\r\nb\r\n",
    "\n\n\r\n\na\n\n\r\n",
    "a\rb\n\r\r\n",
    "12345678\n12345678\r\n",
    "123456789\nok\n",
    "123456789\r\nok\r\n",
    "12345678\r",
    "12345678\rx\nok\n",
    "12345678\r\r\nok\n",
    "123456789",
    "1234567\r9\n1234567\r\n",
    "ok\n1234567890123456789012345678901234567890\nok\n123456789012345678901234567890",
    "1234567890\n1234567890\n\n1234567890\r\n12345678\n",
    "\r",
    "\r\r\r\r\r\r\r\r\r\r\r\r\n",
    "\xff\xfe\x80\nb\n",
};

START_TEST(lines_do_not_depend_on_the_chunks)
{
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
        size_t length = strlen(streams[i]);

        for (size_t chunk = 1; chunk <= length + 1; chunk++) {
            for (size_t turns = 1; turns <= 4; turns++)
                assert_same(streams[i], length, SMALL_LIMIT, chunk, turns);
        }
    }
}
END_TEST

// Streams of the bytes that matter, from a small generator with a fixed seed.
START_TEST(random_streams_split_alike)
{
    static const char alphabet[] = "aaaaaab\0\n\n\r";
    unsigned state = 1;
    char bytes[120];

    for (int round = 0; round < 150; round++) {
        size_t length;

        for (size_t i = 0; i < sizeof bytes; i++) {
            state = state * 1103515245u + 12345u;
            bytes[i] = alphabet[(state >> 16) % (sizeof alphabet - 1)];
            if (bytes[i] == '\0')
                bytes[i] = 'n'; // the log is a string; NUL has a test of its own
        }
        length = sizeof bytes - (size_t)(round % 30);
        for (size_t chunk = 1; chunk <= length; chunk += 1 + chunk / 8)
            assert_same(bytes, length, SMALL_LIMIT, chunk, 1 + (size_t)round % 5);
    }
}
END_TEST

START_TEST(a_nul_is_a_byte_like_others)
{
    struct frame frame;
    const char *line;
    size_t length;

    frame_init(&frame, SMALL_LIMIT);
    frame_feed(&frame, "a\0b\nc", 5);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_uint_eq(length, 3);
    ck_assert_mem_eq(line, "a\0b", 3);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 0);
    frame_deinit(&frame);
}
END_TEST

static const struct {
    size_t length;
    const char *end;
    int result;
} limits[] = {
    {WIRE_MAX_LINE - 1, "\n", 1},
    {WIRE_MAX_LINE, "\n", 1},
    {WIRE_MAX_LINE + 1, "\n", FRAME_E_TOO_LONG},
    {WIRE_MAX_LINE, "\r\n", 1},
    {WIRE_MAX_LINE + 1, "\r\n", FRAME_E_TOO_LONG},
    {WIRE_MAX_LINE, "\r", 0}, // a newline may follow yet
    {WIRE_MAX_LINE, "", 0},
    {WIRE_MAX_LINE + 1, "", FRAME_E_TOO_LONG}, // known before its newline
    {WIRE_MAX_LINE, "\r\r", FRAME_E_TOO_LONG},
    {WIRE_MAX_LINE + 2, "", FRAME_E_TOO_LONG},
};

START_TEST(the_limit_is_exact)
{
    static const size_t chunks[] = {1, 7, 4095, 4096, 4097, 4098, 100000};
    char bytes[WIRE_MAX_LINE + 8];
    size_t length = limits[_i].length + strlen(limits[_i].end);

    memset(bytes, 'a', sizeof bytes);
    memcpy(bytes + limits[_i].length, limits[_i].end, strlen(limits[_i].end));
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        struct frame frame;
        const char *line = NULL;
        size_t line_length = 0;
        int r = 0;

        frame_init(&frame, WIRE_MAX_LINE);
        for (size_t at = 0; at < length && r == 0; at += chunks[i]) {
            if (frame_save(&frame) != 0)
                ck_abort_msg("frame_save failed");
            frame_feed(&frame, bytes + at, length - at < chunks[i] ? length - at : chunks[i]);
            r = frame_next(&frame, &line, &line_length);
        }
        ck_assert_int_eq(r, limits[_i].result);
        if (r == 1)
            ck_assert_uint_eq(line_length, limits[_i].length);
        frame_deinit(&frame);
    }
}
END_TEST

START_TEST(an_over_long_line_is_told_once_and_skipped)
{
    struct frame frame;
    const char *line;
    size_t length;

    frame_init(&frame, SMALL_LIMIT);
    frame_feed(&frame, "aaaaaaaaaaaa", 12);
    ck_assert_int_eq(frame_next(&frame, &line, &length), FRAME_E_TOO_LONG);
    for (int i = 0; i < 1000; i++) {
        ck_assert_int_eq(frame_next(&frame, &line, &length), 0);
        ck_assert(!frame_has_backlog(&frame));
        ck_assert(frame_is_partial(&frame));
        ck_assert_int_eq(frame_save(&frame), 0);
        ck_assert_ptr_null(frame.rest.data);
        frame_feed(&frame, "aaaaaaaaaaaa", 12);
    }
    ck_assert_int_eq(frame_next(&frame, &line, &length), 0);
    ck_assert_int_eq(frame_save(&frame), 0);
    // Fed and saved without being looked at: what is skipped stays skipped.
    frame_feed(&frame, "aa\nok", 5);
    ck_assert_int_eq(frame_save(&frame), 0);
    frame_feed(&frame, "\n", 1);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_uint_eq(length, 2);
    ck_assert_mem_eq(line, "ok", 2);
    ck_assert(!frame_is_partial(&frame));
    frame_deinit(&frame);
}
END_TEST

START_TEST(an_endless_line_costs_bounded_memory)
{
    char *chunk = malloc(READ_SIZE);
    struct frame frame;
    const char *line;
    size_t length;
    int told = 0;

    ck_assert_ptr_nonnull(chunk);
    memset(chunk, 'x', READ_SIZE);
    frame_init(&frame, WIRE_MAX_LINE);
    for (size_t size = 1; size <= READ_SIZE; size += size / 4 + 1) {
        frame_feed(&frame, chunk, size);
        told += frame_next(&frame, &line, &length) == FRAME_E_TOO_LONG;
        ck_assert_int_eq(frame_save(&frame), 0);
        ck_assert_uint_le(frame.rest.capacity, 2 * WIRE_MAX_LINE);
    }
    ck_assert_int_eq(told, 1);
    frame_deinit(&frame);
    free(chunk);
}
END_TEST

START_TEST(backlog_survives_a_save)
{
    struct frame frame;
    char chunk[] = "one\ntwo\nthree\npart";
    const char *line;
    size_t length;

    frame_init(&frame, SMALL_LIMIT);
    frame_feed(&frame, chunk, strlen(chunk));
    ck_assert(frame_has_backlog(&frame));
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_mem_eq(line, "one", length);
    ck_assert(frame_has_backlog(&frame));
    ck_assert_int_eq(frame_save(&frame), 0);
    memset(chunk, '#', sizeof chunk);

    ck_assert(frame_has_backlog(&frame));
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_uint_eq(length, 3);
    ck_assert_mem_eq(line, "two", 3);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_uint_eq(length, 5);
    ck_assert_mem_eq(line, "three", 5);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 0);
    ck_assert(!frame_has_backlog(&frame));
    ck_assert(frame_is_partial(&frame));

    frame_feed(&frame, "ial\n", 4);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_uint_eq(length, 7);
    ck_assert_mem_eq(line, "partial", 7);
    ck_assert_int_eq(frame_save(&frame), 0);
    frame_deinit(&frame);
}
END_TEST

START_TEST(a_line_in_one_chunk_is_lent_without_a_copy)
{
    static const char chunk[] = "one\ntwo\n";
    struct frame frame;
    const char *line;
    size_t length;

    frame_init(&frame, SMALL_LIMIT);
    frame_feed(&frame, chunk, strlen(chunk));
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_ptr_eq(line, chunk);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_ptr_eq(line, chunk + 4);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 0);
    ck_assert_int_eq(frame_save(&frame), 0);
    ck_assert_ptr_null(frame.rest.data);
    frame_deinit(&frame);
}
END_TEST

START_TEST(an_unfinished_line_can_be_given_up)
{
    struct frame frame;
    const char *line;
    size_t length;

    frame_init(&frame, SMALL_LIMIT);
    frame_give_up(&frame); // nothing to give up: the next line is whole
    frame_feed(&frame, "a\nbc", 4);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 0);
    ck_assert_int_eq(frame_save(&frame), 0);
    frame_give_up(&frame);
    ck_assert_ptr_null(frame.rest.data);
    ck_assert(frame_is_partial(&frame));
    frame_feed(&frame, "d\nok\n", 5);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_uint_eq(length, 2);
    ck_assert_mem_eq(line, "ok", 2);
    ck_assert_int_eq(frame_save(&frame), 0);
    ck_assert(!frame_is_partial(&frame));
    frame_deinit(&frame);
}
END_TEST

START_TEST(an_idle_frame_owns_no_memory)
{
    struct frame frame;
    const char *line;
    size_t length;

    frame_init(&frame, SMALL_LIMIT);
    frame_feed(&frame, "ab", 2);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 0);
    ck_assert(frame_is_partial(&frame));
    ck_assert_int_eq(frame_save(&frame), 0);
    ck_assert_ptr_nonnull(frame.rest.data);
    frame_feed(&frame, "c\n", 2);
    ck_assert_int_eq(frame_next(&frame, &line, &length), 1);
    ck_assert_mem_eq(line, "abc", 3);
    ck_assert_int_eq(frame_save(&frame), 0);
    ck_assert(!frame_is_partial(&frame));
    ck_assert_ptr_null(frame.rest.data);
    frame_deinit(&frame);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("frame");
    TCase *tcase = tcase_create("frame");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, lines_do_not_depend_on_the_chunks);
    tcase_add_test(tcase, random_streams_split_alike);
    tcase_add_test(tcase, a_nul_is_a_byte_like_others);
    tcase_add_loop_test(tcase, the_limit_is_exact, 0, (int)(sizeof limits / sizeof limits[0]));
    tcase_add_test(tcase, an_over_long_line_is_told_once_and_skipped);
    tcase_add_test(tcase, an_endless_line_costs_bounded_memory);
    tcase_add_test(tcase, backlog_survives_a_save);
    tcase_add_test(tcase, a_line_in_one_chunk_is_lent_without_a_copy);
    tcase_add_test(tcase, an_unfinished_line_can_be_given_up);
    tcase_add_test(tcase, an_idle_frame_owns_no_memory);
    suite_add_tcase(suite, tcase);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
