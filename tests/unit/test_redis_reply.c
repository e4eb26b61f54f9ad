// SPDX-License-Identifier: Apache-2.0
//
// Replies: what Redis says is read in any cut, and what no Redis should say fails the reader within
// its fixed memory.
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/buf.h"
#include "sidecar/redis_reply.h"

// A reply as text: i1 "s" !"e" _ [..]
static void print(struct buf *out, const struct redis_reply *reply)
{
    switch (reply->type) {
    case REDIS_REPLY_IS_NIL:
        buf_append_string(out, "_");
        return;
    case REDIS_REPLY_IS_INTEGER:
        buf_append_string(out, "i");
        buf_append_int(out, reply->integer);
        return;
    case REDIS_REPLY_IS_ERROR:
        buf_append_string(out, "!");
        // fall through
    case REDIS_REPLY_IS_STRING:
        ck_assert_int_eq(reply->string[reply->length], '\0');
        buf_append_string(out, "\"");
        buf_append(out, reply->string, reply->length);
        buf_append_string(out, "\"");
        return;
    case REDIS_REPLY_IS_ARRAY:
        buf_append_string(out, "[");
        for (size_t i = 0; i < reply->length; i++)
            print(out, &reply->elements[i]);
        buf_append_string(out, "]");
        return;
    }
}

static const struct {
    const char *bytes, *text;
} goods[] = {
    {"+OK\r\n", "\"OK\""},
    {"+\r\n", "\"\""},
    {"-ERR no\r\n", "!\"ERR no\""},
    {":0\r\n", "i0"},
    {":-9223372036854775808\r\n", "i-9223372036854775808"},
    {"$-1\r\n", "_"},
    {"*-1\r\n", "_"},
    {"$0\r\n\r\n", "\"\""},
    {"$4\r\na\r\nb\r\n", "\"a\r\nb\""},
    {"*0\r\n", "[]"},
    {"*2\r\n:1\r\n:1790000000000000\r\n", "[i1i1790000000000000]"},
    {"*3\r\n:0\r\n:-1\r\n$3\r\nabc\r\n", "[i0i-1\"abc\"]"},
    {"*3\r\n:1\r\n-READONLY x\r\n:-1\r\n", "[i1!\"READONLY x\"i-1]"},
    {"*2\r\n*2\r\n:1\r\n*1\r\n:2\r\n*0\r\n", "[[i1[i2]][]]"},
    {"*2\r\n*1\r\n:1\r\n*2\r\n$-1\r\n$1\r\nx\r\n", "[[i1][_\"x\"]]"},
    {":1\r\n*1\r\n:2\r\n+x\r\n", "i1[i2]\"x\""},
};

// The same replies come out, whatever the size of the pieces that went in.
START_TEST(good_in_any_cut)
{
    const char *bytes = goods[_i].bytes;
    size_t length = strlen(bytes);

    for (size_t piece = 1; piece <= length; piece++) {
        struct redis_reader *reader = redis_reader_new();
        struct buf text = BUF_INIT;
        const struct redis_reply *reply;

        for (size_t at = 0; at < length; at += piece) {
            size_t size = length - at < piece ? length - at : piece;

            ck_assert_int_eq(redis_reader_feed(reader, bytes + at, size), 0);
            while (redis_reader_next(reader, &reply) > 0)
                print(&text, reply);
        }
        buf_append(&text, "", 1);
        ck_assert_str_eq(buf_bytes(&text), goods[_i].text);
        ck_assert_int_eq(redis_reader_next(reader, &reply), 0);
        buf_deinit(&text);
        redis_reader_free(reader);
    }
}
END_TEST

static const struct {
    const char *bytes, *why;
} bads[] = {
    {"$-5\r\n", ""},
    {"*-2\r\n", ""},
    {"*2147483647\r\n", "elements"},
    {"*4294967297\r\n", ""},
    {"*1025\r\n", "elements"},
    {":x\r\n", ""},
    {":99999999999999999999\r\n", ""},
    {"$x\r\n", ""},
    {"hello\r\n", ""},
    {"\r\n", ""},
    {"%1\r\n+a\r\n+b\r\n", ""},
    {">1\r\n+a\r\n", ""},
    {"_\r\n", ""},
    {",1.5\r\n", ""},
    {"#t\r\n", ""},
    {"(1\r\n", ""},
    {"~1\r\n:1\r\n", ""},
    {"*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "deep"},
    {"*1\r\n*1\r\n*1\r\n*0\r\n", "deep"},
};

START_TEST(bad_fails_for_good)
{
    struct redis_reader *reader = redis_reader_new();
    const struct redis_reply *reply;

    ck_assert_int_eq(redis_reader_feed(reader, bads[_i].bytes, strlen(bads[_i].bytes)), 0);
    ck_assert_int_eq(redis_reader_next(reader, &reply), -EPROTO);
    ck_assert_ptr_nonnull(strstr(redis_reader_error(reader), bads[_i].why));
    ck_assert_str_ne(redis_reader_error(reader), "");
    redis_reader_feed(reader, "+OK\r\n", 5);
    ck_assert_int_eq(redis_reader_next(reader, &reply), -EPROTO);
    redis_reader_free(reader);
}
END_TEST

static int feed_text(struct redis_reader *reader, struct buf *bytes,
                     const struct redis_reply **reply)
{
    int r = 0;

    while (r == 0 && buf_length(bytes) > 0) {
        size_t size = buf_length(bytes) < 5000 ? buf_length(bytes) : 5000;

        r = redis_reader_feed(reader, buf_bytes(bytes), size);
        if (r == 0)
            r = redis_reader_next(reader, reply);
        buf_consume(bytes, size);
    }
    return r;
}

// The arena has room for one largest array and some more, over all arrays together.
START_TEST(many_elements)
{
    struct redis_reader *reader = redis_reader_new();
    const struct redis_reply *reply;
    struct buf bytes = BUF_INIT;

    buf_append_string(&bytes, "*1024\r\n");
    for (int i = 0; i < 1024; i++)
        buf_append_string(&bytes, ":7\r\n");
    for (int round = 0; round < 3; round++) {
        struct buf copy = BUF_INIT;

        buf_append(&copy, buf_bytes(&bytes), buf_length(&bytes));
        ck_assert_int_eq(feed_text(reader, &copy, &reply), 1);
        ck_assert_uint_eq(reply->length, 1024);
        ck_assert_int_eq(reply->elements[1023].integer, 7);
        buf_deinit(&copy);
    }
    buf_consume(&bytes, buf_length(&bytes));
    buf_append_string(&bytes, "*2\r\n*1000\r\n");
    for (int i = 0; i < 1000; i++)
        buf_append_string(&bytes, ":7\r\n");
    buf_append_string(&bytes, "*1000\r\n");
    ck_assert_int_eq(feed_text(reader, &bytes, &reply), -EPROTO);
    buf_deinit(&bytes);
    redis_reader_free(reader);
}
END_TEST

static void bulk(struct buf *bytes, size_t announced, size_t size)
{
    buf_append_string(bytes, "$");
    buf_append_int(bytes, (long long)announced);
    buf_append_string(bytes, "\r\n");
    for (size_t i = 0; i < size; i++)
        buf_append(bytes, "x", 1);
    if (size == announced)
        buf_append_string(bytes, "\r\n");
}

START_TEST(bytes_are_bounded)
{
    static const struct {
        size_t announced, size;
        int r;
    } cases[] = {
        {65000, 65000, 1},
        {65536, 65536, -EPROTO},
        {10485760, 70000, -EPROTO},
        {10485760, 60000, 0},
    };
    struct redis_reader *reader = redis_reader_new();
    const struct redis_reply *reply;
    struct buf bytes = BUF_INIT;

    bulk(&bytes, cases[_i].announced, cases[_i].size);
    ck_assert_int_eq(feed_text(reader, &bytes, &reply), cases[_i].r);
    if (cases[_i].r == 1)
        ck_assert_uint_eq(reply->length, cases[_i].size);
    buf_deinit(&bytes);
    redis_reader_free(reader);
}
END_TEST

// Strings of one reply share the arena's bytes; an endless line is cut off at its bound.
START_TEST(sums_are_bounded)
{
    struct redis_reader *reader = redis_reader_new();
    const struct redis_reply *reply;
    struct buf bytes = BUF_INIT;

    buf_append_string(&bytes, "*2\r\n");
    bulk(&bytes, 40000, 40000);
    bulk(&bytes, 40000, 40000);
    ck_assert_int_eq(feed_text(reader, &bytes, &reply), -EPROTO);
    redis_reader_free(reader);

    reader = redis_reader_new();
    buf_consume(&bytes, buf_length(&bytes));
    buf_append_string(&bytes, "+");
    for (int i = 0; i < 70000; i++)
        buf_append_string(&bytes, "x");
    ck_assert_int_eq(feed_text(reader, &bytes, &reply), -EPROTO);
    ck_assert_ptr_nonnull(strstr(redis_reader_error(reader), "64 KiB"));
    buf_deinit(&bytes);
    redis_reader_free(reader);
}
END_TEST

static const struct {
    const char *text, *code;
    bool is;
    const char *words;
} errors[] = {
    {"ERR no", "ERR", true, "ERR no"},
    {"ERRX no", "ERR", false, "ERRX no"},
    {"NOSCRIPT", "NOSCRIPT", true, "NOSCRIPT"},
    {"ERR unknown command 'AUTH', with args beginning with: 'me' 'secret' ", "ERR", true,
     "ERR unknown command 'AUTH'"},
    {"ERR unknown command `EVALSHA`, with args beginning with: `0011`", "BUSY", false,
     "ERR unknown command `EVALSHA`"},
    {"ERR a\tb\x80", "ERR", true, "ERR a?b?"},
    {"", "ERR", false, "an error without words"},
    {", with args beginning with: 'secret'", "ERR", false, "an error without words"},
};

START_TEST(error_words)
{
    struct redis_reply reply = {
        .type = REDIS_REPLY_IS_ERROR, .string = errors[_i].text, .length = strlen(errors[_i].text)};
    char words[REDIS_REPLY_WORDS_SIZE];

    ck_assert_int_eq(redis_reply_is_error(&reply, errors[_i].code), errors[_i].is);
    ck_assert_str_eq(redis_reply_words(&reply, words), errors[_i].words);
    reply.type = REDIS_REPLY_IS_STRING;
    ck_assert(!redis_reply_is_error(&reply, errors[_i].code));
}
END_TEST

START_TEST(long_error_is_cut)
{
    char text[1000];
    char words[REDIS_REPLY_WORDS_SIZE];
    struct redis_reply reply = {
        .type = REDIS_REPLY_IS_ERROR, .string = text, .length = sizeof text - 1};

    memset(text, 'e', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    ck_assert_uint_eq(strlen(redis_reply_words(&reply, words)), REDIS_REPLY_WORDS_SIZE - 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("redis_reply");
    TCase *tests = tcase_create("redis_reply");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, good_in_any_cut, 0, sizeof goods / sizeof goods[0]);
    tcase_add_loop_test(tests, bad_fails_for_good, 0, sizeof bads / sizeof bads[0]);
    tcase_add_test(tests, many_elements);
    tcase_add_loop_test(tests, bytes_are_bounded, 0, 4);
    tcase_add_test(tests, sums_are_bounded);
    tcase_add_loop_test(tests, error_words, 0, sizeof errors / sizeof errors[0]);
    tcase_add_test(tests, long_error_is_cut);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
