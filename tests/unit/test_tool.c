// SPDX-License-Identifier: Apache-2.0
//
// The test tools themselves: what everything else believes. A pattern must refuse what differs, a
// private Redis must come back with or without its keys, and a test that fails must leave nothing
// behind.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/tool/pattern.h"
#include "tests/tool/private_redis.h"
#include "tests/tool/scratch.h"

static const struct pattern_case {
    const char *pattern;
    const char *value;
    bool exact;
    const char *why; // NULL: fits
} pattern_cases[] = {
    {"{}", "{\"a\":1}", false, NULL},
    {"{}", "{\"a\":1}", true, "(top): unexpected member a"},
    {"{}", "[]", false, "(top): no object"},
    {"{\"a\":1}", "{\"b\":2,\"a\":1}", false, NULL},
    {"{\"a\":1}", "{\"a\":2}", false, ".a: 2, expected 1"},
    {"{\"a\":1}", "{\"a\":1.0}", false, ".a: 1.0, expected 1"},
    {"{\"a\":true}", "{\"a\":false}", false, ".a: false, expected true"},
    {"{\"a\":null}", "{}", false, ".a: missing"},
    {"{\"a\":null}", "{\"a\":null}", false, NULL},
    {"{\"a\":{\"b\":\"x\"}}", "{\"a\":{\"b\":\"y\"}}", false, ".a.b: \"y\", expected \"x\""},
    {"{\"a\":{}}", "{\"a\":{\"b\":1}}", true, ".a: unexpected member b"},
    {"[1,2]", "[1,2]", false, NULL},
    {"[1,2]", "[1,3]", false, "[1]: 3, expected 2"},
    {"[1,2]", "[1,2,3]", false, "(top): no array of 2"},
    {"\"<int>\"", "7", false, NULL},
    {"\"<int>\"", "\"7\"", false, "(top): no integer"},
    {"\"<int>\"", "7.0", false, "(top): no integer"},
    {"\"<string>\"", "\"\"", false, NULL},
    {"\"<string>\"", "7", false, "(top): no string"},
    {"\"<bool>\"", "false", false, NULL},
    {"\"<bool>\"", "null", false, "(top): neither true nor false"},
    {"\"<any>\"", "null", false, NULL},
    {"\"<hex:4>\"", "\"00af\"", false, NULL},
    {"\"<hex:4>\"", "\"00aF\"", false, "(top): not 4 hex digits"},
    {"\"<hex:4>\"", "\"00af0\"", false, "(top): not 4 hex digits"},
    {"[\"<x>\",\"<x>\"]", "[\"k\",\"k\"]", false, NULL},
    {"[\"<x>\",\"<x>\"]", "[\"k\",\"l\"]", false, "[1]: not the <x> of before"},
    {"[\"<x>\",\"<y>\"]", "[\"k\",\"l\"]", false, NULL},
    {"\"<x>\"", "7", false, "(top): no string"},
    {"[\"<int:n>\",\"<int:n>\"]", "[7,7]", false, NULL},
    {"[\"<int:n>\",\"<int:n>\"]", "[7,8]", false, "[1]: not the <n> of before"},
    {"\"<int:n>\"", "\"7\"", false, "(top): no integer"},
};

START_TEST(pattern_fits_or_says_why)
{
    const struct pattern_case *c = &pattern_cases[_i];
    json_t *pattern = pattern_parse(c->pattern);
    json_t *value = pattern_parse(c->value);
    json_t *names = json_object();
    char why[200] = "";

    if (c->why) {
        ck_assert(!pattern_matches(pattern, value, names, c->exact, why, sizeof why));
        ck_assert_str_eq(why, c->why);
    } else {
        ck_assert_msg(pattern_matches(pattern, value, names, c->exact, why, sizeof why), "%s", why);
    }
    json_decref(names);
    json_decref(value);
    json_decref(pattern);
}
END_TEST

START_TEST(redis_forgets_when_killed)
{
    struct private_redis redis = {.tcp = true, .password = "secret word"};

    private_redis_start(&redis, "--maxmemory", "8mb", NULL);
    private_redis_run(&redis, "SET %s %s PX 60000", "a key", "a value");
    ck_assert_str_eq(private_redis_string(&redis, "GET %s", "a key"), "a value");
    ck_assert_int_gt(private_redis_int(&redis, "PTTL %s", "a key"), 50000);
    private_redis_restart(&redis);
    ck_assert_ptr_null(private_redis_string(&redis, "GET %s", "a key"));
    private_redis_deinit(&redis);
}
END_TEST

START_TEST(redis_remembers_with_append_only)
{
    struct private_redis redis = {.append_only = true};

    private_redis_start(&redis, NULL);
    private_redis_run(&redis, "SET k v");
    private_redis_kill(&redis);
    private_redis_restart(&redis);
    ck_assert_str_eq(private_redis_string(&redis, "GET k"), "v");
    private_redis_stop(&redis);
    private_redis_continue(&redis);
    ck_assert_int_eq(private_redis_int(&redis, "DEL k"), 1);
    private_redis_deinit(&redis);
}
END_TEST

START_TEST(descriptors_are_counted)
{
    int before = scratch_descriptors(0);
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(scratch_descriptors(0), before + 1);
    close(fd);
    ck_assert_int_eq(scratch_descriptors(0), before);
}
END_TEST

// A process stands in for a test that fails: it starts a child and leaves by _exit.
START_TEST(a_failed_test_leaves_no_process)
{
    int ends[2];
    char byte;
    pid_t test;

    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    test = scratch_fork();
    if (test == 0) {
        if (scratch_fork() == 0)
            for (;;)
                pause();
        _exit(1);
    }
    ck_assert_int_eq(scratch_exit_code(test, 5000), 1);
    close(ends[1]);
    // The grandchild held the other end of the pipe; it closes when it dies.
    ck_assert_int_eq(read(ends[0], &byte, 1), 0);
    close(ends[0]);
}
END_TEST

START_TEST(exit_codes_are_told)
{
    pid_t child = scratch_fork();

    if (child == 0)
        _exit(7);
    ck_assert_int_eq(scratch_exit_code(child, 5000), 7);
    child = scratch_fork();
    if (child == 0)
        for (;;)
            pause();
    ck_assert(!scratch_reap(child, 1, NULL));
    kill(child, SIGTERM);
    ck_assert_int_eq(scratch_exit_code(child, 5000), -SIGTERM);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("tool");
    TCase *tests = tcase_create("tool");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, scratch_open, scratch_close);
    tcase_add_loop_test(tests, pattern_fits_or_says_why, 0,
                        (int)(sizeof pattern_cases / sizeof pattern_cases[0]));
    tcase_add_test(tests, redis_forgets_when_killed);
    tcase_add_test(tests, redis_remembers_with_append_only);
    tcase_add_test(tests, descriptors_are_counted);
    tcase_add_test(tests, a_failed_test_leaves_no_process);
    tcase_add_test(tests, exit_codes_are_told);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
