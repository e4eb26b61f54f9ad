// SPDX-License-Identifier: Apache-2.0
//
// Durations both ways, as tables; and every short duration through both.
#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/duration.h"

#define YEAR INT64_C(31536000000)

static const struct {
    const char *text;
    int result;
    int64_t ms;
} parses[] = {
    {"0", 0, 0},
    {"+0", 0, 0},
    {"-0", 0, 0},
    {"0s", 0, 0},
    {"-0s", 0, 0},
    {"30s", 0, 30000},
    {"+30s", 0, 30000},
    {"030s", 0, 30000},
    {"5m", 0, 300000},
    {"1h", 0, 3600000},
    {"500ms", 0, 500},
    {"1m30s", 0, 90000},
    {"1h0m0.001s", 0, 3600001},
    {"1s1s", 0, 2000},
    {"1.5s", 0, 1500},
    {"1.s", 0, 1000},
    {".5s", 0, 500},
    {"0.001s", 0, 1},
    {"1.50000000000000000000000s", 0, 1500},
    {"0.0000025h", 0, 9},
    {"1000us", 0, 1},
    {"1000\xc2\xb5s", 0, 1},
    {"1000\xce\xbcs", 0, 1},
    {"1000000ns", 0, 1},
    {"0.5ms500us", 0, 1},
    {"8760h", 0, YEAR},
    {"", -EINVAL, 0},
    {"30", -EINVAL, 0},
    {"+", -EINVAL, 0},
    {"-", -EINVAL, 0},
    {"s", -EINVAL, 0},
    {".s", -EINVAL, 0},
    {"-.s", -EINVAL, 0},
    {"1.2.3s", -EINVAL, 0},
    {"1x", -EINVAL, 0},
    {"1d", -EINVAL, 0},
    {"1S", -EINVAL, 0},
    {" 1s", -EINVAL, 0},
    {"1s ", -EINVAL, 0},
    {"1 s", -EINVAL, 0},
    {"1s30", -EINVAL, 0},
    {"1s-1s", -EINVAL, 0},
    {"--1s", -EINVAL, 0},
    {"1e3s", -EINVAL, 0},
    {"0x10s", -EINVAL, 0},
    {"1us!", -EINVAL, 0},
    {"9999999999999999999999h?", -EINVAL, 0},
    {"-1s", -ERANGE, 0},
    {"1us", -ERANGE, 0},
    {"1ns", -ERANGE, 0},
    {"1.5ms", -ERANGE, 0},
    {"0.0005s", -ERANGE, 0},
    {"1.00000000000000000000001s", -ERANGE, 0},
    {"0.00000000000000001h", -ERANGE, 0},
    {"8760h1ms", -ERANGE, 0},
    {"8760h0.5s", -ERANGE, 0},
    {"8761h", -ERANGE, 0},
    {"9223372036854775807ns", -ERANGE, 0},
    {"9223372036854775808ns", -ERANGE, 0},
    {"99999999999999999999999999999999h", -ERANGE, 0},
    {"5000h5000h", -ERANGE, 0},
};

START_TEST(parses_as_go_does)
{
    int64_t ms;

    for (size_t i = 0; i < sizeof parses / sizeof parses[0]; i++) {
        ms = -77;
        ck_assert_msg(duration_parse(parses[i].text, &ms) == parses[i].result, "\"%s\"",
                      parses[i].text);
        if (parses[i].result == 0)
            ck_assert_msg(ms == parses[i].ms, "\"%s\": %" PRId64, parses[i].text, ms);
        else
            ck_assert_msg(ms == -77, "\"%s\" was refused and stored", parses[i].text);
    }
}
END_TEST

static const struct {
    int64_t ms;
    const char *text;
} formats[] = {
    {0, "0"},
    {1, "1ms"},
    {500, "500ms"},
    {1000, "1s"},
    {1500, "1.5s"},
    {1050, "1.05s"},
    {1005, "1.005s"},
    {30000, "30s"},
    {60000, "1m"},
    {60001, "1m1ms"},
    {90000, "1m30s"},
    {300000, "5m"},
    {1234567, "20m34.567s"},
    {3600000, "1h"},
    {3600500, "1h500ms"},
    {5400000, "1h30m"},
    {90061500, "25h1m1.5s"},
    {YEAR, "8760h"},
    {INT64_MAX, "2562047788015h12m55.807s"},
};

START_TEST(formats_the_shortest_form)
{
    char text[32];

    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        ck_assert_str_eq(duration_format(formats[i].ms, text, sizeof text), formats[i].text);
}
END_TEST

START_TEST(what_is_formatted_parses_back)
{
    char text[32];
    int64_t ms;

    for (int64_t value = 0; value <= YEAR; value += value < 5000 ? 1 : value / 997 + 1) {
        duration_format(value, text, sizeof text);
        ck_assert_msg(duration_parse(text, &ms) == 0 && ms == value, "%" PRId64 " became %s", value,
                      text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("duration");
    TCase *tcase = tcase_create("duration");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tcase, parses_as_go_does);
    tcase_add_test(tcase, formats_the_shortest_form);
    tcase_add_test(tcase, what_is_formatted_parses_back);
    suite_add_tcase(suite, tcase);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
