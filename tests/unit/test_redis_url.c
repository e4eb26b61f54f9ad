// SPDX-License-Identifier: Apache-2.0
//
// Redis URLs: what is taken, what is refused, and that no refusal shows a password.
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/redis_url.h"

struct good {
    const char *text, *host, *path, *user, *password;
    int port, database;
    const char *formatted;
};

static const struct good goods[] = {
    {"redis://h", "h", NULL, NULL, NULL, 6379, 0, "redis://h:6379"},
    {"redis://h/", "h", NULL, NULL, NULL, 6379, 0, "redis://h:6379"},
    {"redis://h:1", "h", NULL, NULL, NULL, 1, 0, "redis://h:1"},
    {"redis://h:65535/15", "h", NULL, NULL, NULL, 65535, 15, "redis://h:65535/15"},
    {"redis://10.0.0.1:7000", "10.0.0.1", NULL, NULL, NULL, 7000, 0, "redis://10.0.0.1:7000"},
    {"redis://[::1]", "::1", NULL, NULL, NULL, 6379, 0, "redis://[::1]:6379"},
    {"redis://[fe80::1%eth0]:7000/2", "fe80::1%eth0", NULL, NULL, NULL, 7000, 2,
     "redis://[fe80::1%eth0]:7000/2"},
    {"redis://:secret@h", "h", NULL, NULL, "secret", 6379, 0, "redis://h:6379"},
    {"redis://me@h", "h", NULL, "me", NULL, 6379, 0, "redis://h:6379"},
    {"redis://me:secret@h:7/3", "h", NULL, "me", "secret", 7, 3, "redis://h:7/3"},
    {"redis://me:@h", "h", NULL, "me", NULL, 6379, 0, "redis://h:6379"},
    {"redis://m%65:%40%2f%25:x@h", "h", NULL, "me", "@/%:x", 6379, 0, "redis://h:6379"},
    {"redis://me:a@b@h", "h", NULL, "me", "a@b", 6379, 0, "redis://h:6379"},
    {"unix:///run/r.sock", NULL, "/run/r.sock", NULL, NULL, 0, 0, "unix:///run/r.sock"},
    {"unix:///r%20s?db=7", NULL, "/r s", NULL, NULL, 0, 7, "unix:///r s?db=7"},
};

static void assert_string(const char *got, const char *expected)
{
    if (expected)
        ck_assert_pstr_eq(got, expected);
    else
        ck_assert_ptr_null(got);
}

START_TEST(good)
{
    const struct good *expected = &goods[_i];
    struct redis_url url;
    char error[256] = "";
    char text[256];

    ck_assert_msg(redis_url_parse(expected->text, &url, error, sizeof error) == 0, "%s: %s",
                  expected->text, error);
    assert_string(url.host, expected->host);
    assert_string(url.path, expected->path);
    assert_string(url.user, expected->user);
    assert_string(url.password, expected->password);
    ck_assert_int_eq(url.port, expected->port);
    ck_assert_int_eq(url.database, expected->database);
    ck_assert_str_eq(redis_url_format(&url, text, sizeof text), expected->formatted);
    redis_url_deinit(&url);
    ck_assert_ptr_null(url.host);
}
END_TEST

// Each holds "secret" where a password could be; part: a word of the message.
static const struct {
    const char *text, *part;
} bads[] = {
    {"", "redis://"},
    {"secret", "redis://"},
    {"http://h", "redis://"},
    {"rediss://:secret@h", "TLS"},
    {"redis://", "host"},
    {"redis://:6379", "host"},
    {"redis://h h", "host"},
    {"redis://h\r\n", "host"},
    {"redis://:secret@", "host"},
    {"redis://::1", "host"},
    {"redis://[::1", "]"},
    {"redis://[::1]x", "port"},
    {"redis://h:", "port"},
    {"redis://h:0", "port"},
    {"redis://h:65536", "port"},
    {"redis://h:-1", "port"},
    {"redis://h:secret", "port"},
    {"redis://h:6379x", "port"},
    {"redis://:pa/secret@h", "%2F"},
    {"redis://:secret?x@h", "%3F"},
    {"redis://:secret#x@h", "%23"},
    {"redis://:secret%@h", "%25"},
    {"redis://:secret%4@h", "%25"},
    {"redis://:secret%zz@h", "%25"},
    {"redis://:secret%00@h", "%25"},
    {"redis://secret%0:x@h", "%25"},
    {"redis://h/secret", "database"},
    {"redis://h/1/2", "database"},
    {"redis://h/-1", "database"},
    {"redis://h/99999999999", "database"},
    {"redis://h?db=1", "'?'"},
    {"unix://r.sock", "absolute"},
    {"unix:///r.sock?password=secret", "db=N"},
    {"unix:///r.sock?db=", "database"},
    {"unix:///r.sock?db=x", "database"},
    {"unix:///%2", "%25"},
    {"unix:///"
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
     "aaaaaaaaaaaaaaaaaaaa",
     "107"},
};

START_TEST(bad)
{
    struct redis_url url;
    char error[256] = "";

    ck_assert_int_eq(redis_url_parse(bads[_i].text, &url, error, sizeof error), -EINVAL);
    ck_assert_msg(strstr(error, bads[_i].part), "%s: %s", bads[_i].text, error);
    ck_assert_msg(!strstr(error, "secret"), "%s: %s", bads[_i].text, error);
    ck_assert_ptr_null(url.host);
    ck_assert_ptr_null(url.password);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("redis_url");
    TCase *tests = tcase_create("redis_url");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, good, 0, sizeof goods / sizeof goods[0]);
    tcase_add_loop_test(tests, bad, 0, sizeof bads / sizeof bads[0]);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
