// SPDX-License-Identifier: Apache-2.0
//
// The value of a lock: what is written is read back, and whatever would not have been written is
// foreign.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/value.h"

#define LEASE "00112233445566778899aabbccddeeff"
#define INSTANCE "0123456789abcdef"
#define HEAD LEASE " " INSTANCE " lk1 "
#define NUMBERS "1790000000000000 30000 1790000300000000 1790000000000001 812 1000 "

static struct value sample(const char *host, const char *label)
{
    struct value value = {
        .fence = 1790000000000000,
        .ttl_ms = 30000,
        .deadline_us = 1790000300000000,
        .since_us = 1790000000000001,
        .pid = 812,
        .uid = 1000,
        .host = host,
        .host_length = strlen(host),
        .label = label,
        .label_length = label ? strlen(label) : 0,
    };

    ck_assert(message_token_parse(LEASE, &value.token.token));
    memcpy(value.token.instance, INSTANCE, WIRE_INSTANCE_DIGITS);
    return value;
}

START_TEST(format)
{
    char text[VALUE_SIZE];
    char head[VALUE_HEAD_LENGTH];
    struct value value = sample("pod-7", "resume now");

    ck_assert_uint_eq(value_format(&value, text), strlen(HEAD NUMBERS "pod-7 resume now"));
    ck_assert_str_eq(text, HEAD NUMBERS "pod-7 resume now");
    ck_assert_int_eq(VALUE_HEAD_LENGTH, 54);
    ck_assert_uint_eq(value_format_head(&value.token, head), 54);
    ck_assert_mem_eq(head, HEAD, 54);
    value = sample("h", NULL);
    value_format(&value, text);
    ck_assert_str_eq(text, HEAD NUMBERS "h");
}
END_TEST

START_TEST(largest)
{
    char host[VALUE_MAX_HOST + 1];
    char label[WIRE_MAX_LABEL + 1];
    char text[VALUE_SIZE];
    struct value value, back;

    memset(host, 'h', sizeof host);
    memset(label, 'l', sizeof label);
    host[VALUE_MAX_HOST] = label[WIRE_MAX_LABEL] = '\0';
    value = sample(host, label);
    value.fence = value.ttl_ms = value.deadline_us = value.since_us = WIRE_MAX_INTEGER;
    value.pid = value.uid = WIRE_MAX_INTEGER;
    ck_assert_int_eq(value_parse(text, value_format(&value, text), &back), 0);
    ck_assert_int_eq(back.uid, WIRE_MAX_INTEGER);
    ck_assert_uint_eq(back.host_length, VALUE_MAX_HOST);
    ck_assert_uint_eq(back.label_length, WIRE_MAX_LABEL);
}
END_TEST

static const char *const labels[] = {
    NULL,
    "x",
    "two words",
    " lead",
    "trail ",
    "a  b",
    "\xc3\xa9",
    "\xed\x9f\xbf",
    "\xf0\x9f\x92\xa9",
};

START_TEST(round_trip)
{
    char text[VALUE_SIZE];
    struct value value = sample("host.example", labels[_i]);
    struct value back;

    ck_assert_int_eq(value_parse(text, value_format(&value, text), &back), 0);
    ck_assert_mem_eq(&back.token, &value.token, sizeof back.token);
    ck_assert_int_eq(back.fence, value.fence);
    ck_assert_int_eq(back.ttl_ms, value.ttl_ms);
    ck_assert_int_eq(back.deadline_us, value.deadline_us);
    ck_assert_int_eq(back.since_us, value.since_us);
    ck_assert_int_eq(back.pid, value.pid);
    ck_assert_int_eq(back.uid, value.uid);
    ck_assert_uint_eq(back.host_length, value.host_length);
    ck_assert_mem_eq(back.host, value.host, back.host_length);
    ck_assert_uint_eq(back.label_length, value.label_length);
    if (labels[_i])
        ck_assert_mem_eq(back.label, labels[_i], back.label_length);
}
END_TEST

static const char *const foreign[] = {
    "",
    "x",
    "6c7d0f5e-7d6b-4d0e-9b5a-2f0f6f0b2f6e",
    LEASE,
    HEAD,
    HEAD NUMBERS,
    HEAD NUMBERS "h ",
    HEAD NUMBERS " h",
    HEAD NUMBERS "h\tl",
    HEAD NUMBERS "h l\n",
    HEAD NUMBERS "h \x7f",
    HEAD NUMBERS "h \x80",
    HEAD NUMBERS "h \xc3",
    HEAD NUMBERS "h \xc0\xaf",
    HEAD NUMBERS "h \xed\xa0\x80",
    HEAD NUMBERS "h \xf4\x90\x80\x80",
    HEAD NUMBERS "h\xc3\xa9",
    " " HEAD NUMBERS "h",
    "00112233445566778899AABBCCDDEEFF " INSTANCE " lk1 " NUMBERS "h",
    "00112233445566778899aabbccddeef " INSTANCE " lk1 " NUMBERS "h",
    "00112233445566778899aabbccddeeffa " INSTANCE " lk1 " NUMBERS "h",
    LEASE " 0123456789abcdeF lk1 " NUMBERS "h",
    LEASE " 0123456789abcde lk1 " NUMBERS "h",
    LEASE "  " INSTANCE " lk1 " NUMBERS "h",
    LEASE " " INSTANCE " lk2 " NUMBERS "h",
    LEASE " " INSTANCE " LK1 " NUMBERS "h",
    HEAD "-1 30000 1 1 812 1000 h",
    HEAD "+1 30000 1 1 812 1000 h",
    HEAD "01 30000 1 1 812 1000 h",
    HEAD "1.0 30000 1 1 812 1000 h",
    HEAD "1e3 30000 1 1 812 1000 h",
    HEAD "0x1 30000 1 1 812 1000 h",
    HEAD "9007199254740992 30000 1 1 812 1000 h",
    HEAD "99999999999999999999999999 30000 1 1 812 1000 h",
    HEAD "1  30000 1 1 812 1000 h",
    HEAD "1 30000 1 1 812 h",
};

START_TEST(is_foreign)
{
    struct value value;

    ck_assert_int_eq(value_parse(foreign[_i], strlen(foreign[_i]), &value), VALUE_E_FOREIGN);
    ck_assert_int_eq(value.fence, 0);
    ck_assert_ptr_null(value.host);
}
END_TEST

// Every value cut short is either foreign or the same with a shorter host or label; a NUL is foreign.
START_TEST(cut_and_nul)
{
    static const char text[] = HEAD NUMBERS "h l";
    struct value value;
    char copy[sizeof text];

    for (size_t length = 0; length < sizeof text - 1; length++)
        ck_assert_int_eq(value_parse(text, length, &value),
                         length == sizeof text - 3 ? 0 : VALUE_E_FOREIGN);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        memcpy(copy, text, sizeof copy);
        copy[i] = '\0';
        ck_assert_int_eq(value_parse(copy, sizeof text - 1, &value), VALUE_E_FOREIGN);
    }
}
END_TEST

START_TEST(too_long)
{
    char text[1024];
    struct value value;
    int length = snprintf(text, sizeof text, HEAD NUMBERS "h %0*d", WIRE_MAX_LABEL + 1, 0);

    ck_assert_int_eq(value_parse(text, (size_t)length, &value), VALUE_E_FOREIGN);
    ck_assert_int_eq(value_parse(text, (size_t)length - 1, &value), 0);
    length = snprintf(text, sizeof text, HEAD NUMBERS "%0*d", VALUE_MAX_HOST + 1, 0);
    ck_assert_int_eq(value_parse(text, (size_t)length, &value), VALUE_E_FOREIGN);
    ck_assert_int_eq(value_parse(text, (size_t)length - 1, &value), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("value");
    TCase *tests = tcase_create("value");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, format);
    tcase_add_test(tests, largest);
    tcase_add_loop_test(tests, round_trip, 0, sizeof labels / sizeof labels[0]);
    tcase_add_loop_test(tests, is_foreign, 0, sizeof foreign / sizeof foreign[0]);
    tcase_add_test(tests, cut_and_nul);
    tcase_add_test(tests, too_long);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
