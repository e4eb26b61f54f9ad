// SPDX-License-Identifier: Apache-2.0
//
// Replies and events, byte for byte; and every code point through the writer and a JSON parser.
#include <check.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/text.h"
#include "protocol/writer.h"

static struct buf out;

static void setup(void)
{
    out = BUF_INIT;
}

static void teardown(void)
{
    buf_deinit(&out);
}

static void assert_wrote(const char *expected)
{
    buf_append(&out, "", 1);
    ck_assert_str_eq(buf_bytes(&out), expected);
    buf_consume(&out, buf_length(&out));
}

START_TEST(a_grant)
{
    struct message_id id = {.kind = MESSAGE_ID_INTEGER, .integer = 1};
    struct message_token token;

    ck_assert(message_token_parse("00112233445566778899aabbccddeeff", &token));
    writer_reply(&out, true, WIRE_OP_ACQUIRE, &id);
    writer_string(&out, WIRE_MEMBER_KEY, "actor:42", 8);
    writer_token(&out, WIRE_MEMBER_LEASE, &token);
    writer_int(&out, WIRE_MEMBER_FENCE, 1790000000000000);
    writer_int(&out, WIRE_MEMBER_WAITED_MS, 0);
    writer_end(&out);
    assert_wrote("{\"ok\":true,\"id\":1,\"op\":\"acquire\",\"key\":\"actor:42\","
                 "\"lease\":\"00112233445566778899aabbccddeeff\",\"fence\":1790000000000000,"
                 "\"waited_ms\":0}\n");
}
END_TEST

START_TEST(an_error_with_a_holder)
{
    struct message_id id = {.kind = MESSAGE_ID_STRING, .length = 4, .string = "a\"\n\xff"};

    writer_error(&out, WIRE_OP_ACQUIRE, &id, WIRE_ERROR_LOCK_HELD, "it is \"held\"");
    writer_open_object(&out, WIRE_MEMBER_HOLDER);
    writer_string(&out, WIRE_MEMBER_HOST, "pod-7", 5);
    writer_int(&out, WIRE_MEMBER_PID, 812);
    writer_close_object(&out);
    writer_null(&out, WIRE_MEMBER_RETRY_AFTER_MS);
    writer_end(&out);
    assert_wrote("{\"ok\":false,\"id\":\"a\\\"\\u000a\\ufffd\",\"op\":\"acquire\","
                 "\"error\":\"errLockHeld\",\"message\":\"it is \\\"held\\\"\","
                 "\"holder\":{\"host\":\"pod-7\",\"pid\":812},\"retry_after_ms\":null}\n");
}
END_TEST

START_TEST(id_and_op_are_left_out_where_there_is_none)
{
    struct message_id none = {.kind = MESSAGE_ID_NONE};
    struct message_id empty = {.kind = MESSAGE_ID_STRING};

    writer_reply(&out, false, WIRE_OP_COUNT, NULL);
    writer_end(&out);
    writer_reply(&out, true, WIRE_OP_PING, &none);
    writer_end(&out);
    writer_reply(&out, true, WIRE_OP_COUNT, &empty);
    writer_end(&out);
    assert_wrote("{\"ok\":false}\n{\"ok\":true,\"op\":\"ping\"}\n{\"ok\":true,\"id\":\"\"}\n");
}
END_TEST

START_TEST(an_event)
{
    writer_event(&out, WIRE_EVENT_REVOKED);
    writer_name(&out, WIRE_MEMBER_ERROR, wire_error_names[WIRE_ERROR_LOST_ACTOR_LOCK]);
    writer_name(&out, WIRE_MEMBER_REASON, wire_reason_names[WIRE_REASON_DEADLINE]);
    writer_bool(&out, WIRE_MEMBER_FREED, true);
    writer_bool(&out, WIRE_MEMBER_HERE, false);
    writer_int(&out, WIRE_MEMBER_SAFE_MS, INT64_MIN);
    writer_end(&out);
    assert_wrote("{\"event\":\"revoked\",\"error\":\"errLostActorLock\",\"reason\":\"deadline\","
                 "\"freed\":true,\"here\":false,\"safe_ms\":-9223372036854775808}\n");
}
END_TEST

START_TEST(arrays_and_objects_nest)
{
    writer_reply(&out, true, WIRE_OP_LIST, NULL);
    writer_open_array(&out, WIRE_MEMBER_CAPS);
    writer_close_array(&out);
    writer_open_array(&out, WIRE_MEMBER_NOTIFY);
    writer_item_name(&out, "renewed");
    writer_item_name(&out, "at_risk");
    writer_close_array(&out);
    writer_open_array(&out, WIRE_MEMBER_LEASES);
    for (int i = 0; i < 2; i++) {
        writer_open_item(&out);
        writer_name(&out, WIRE_MEMBER_STATE, "held");
        writer_open_object(&out, WIRE_MEMBER_HOLDER);
        writer_close_object(&out);
        writer_int(&out, WIRE_MEMBER_HELD_MS, i);
        writer_close_object(&out);
    }
    writer_open_item(&out);
    writer_close_object(&out);
    writer_close_array(&out);
    writer_string(&out, WIRE_MEMBER_NEXT, "", 0);
    writer_end(&out);
    assert_wrote("{\"ok\":true,\"op\":\"list\",\"caps\":[],\"notify\":[\"renewed\",\"at_risk\"],"
                 "\"leases\":[{\"state\":\"held\",\"holder\":{},\"held_ms\":0},"
                 "{\"state\":\"held\",\"holder\":{},\"held_ms\":1},{}],\"next\":\"\"}\n");
}
END_TEST

// A value whose last byte looks like an opening must not swallow the comma behind it.
START_TEST(brackets_in_strings_are_only_text)
{
    writer_reply(&out, true, WIRE_OP_PING, NULL);
    writer_string(&out, WIRE_MEMBER_KEY, "{", 1);
    writer_string(&out, WIRE_MEMBER_LABEL, "[", 1);
    writer_int(&out, WIRE_MEMBER_PID, 1);
    writer_end(&out);
    assert_wrote("{\"ok\":true,\"op\":\"ping\",\"key\":\"{\",\"label\":\"[\",\"pid\":1}\n");
}
END_TEST

// What is written is what message_parse reads, member by member.
static const char *const requests[] = {
    "{\"op\":\"hello\",\"page\":true}\n",
    "{\"op\":\"acquire\",\"id\":\"lk:1\",\"key\":\"k\"}\n",
    ("{\"op\":\"acquire\",\"id\":-7,\"key\":\"caf\\u00e9 \\\"\\\\\",\"ttl_ms\":500,"
     "\"deadline_ms\":1,\"wait_ms\":-1,\"label\":\"\",\"bind\":\"pid\",\"pid\":7,"
     "\"on_disconnect\":\"expire\",\"notify\":[\"renewed\",\"at_risk\"]}\n"),
    "{\"op\":\"release\",\"lease\":\"00112233445566778899aabbccddeeff\"}\n",
    "{\"op\":\"cancel\",\"target\":\"x\"}\n",
    "{\"op\":\"cancel\",\"target\":5}\n",
    "{\"op\":\"extend\",\"lease\":\"00112233445566778899aabbccddeeff\",\"deadline_ms\":9}\n",
    ("{\"op\":\"adopt\",\"key\":\"k\",\"lease\":\"00112233445566778899aabbccddeeff\","
     "\"bind\":\"none\",\"notify\":[]}\n"),
    "{\"op\":\"inspect\",\"key\":\"k\"}\n",
    "{\"op\":\"list\",\"limit\":500,\"after\":\"\"}\n",
    "{\"op\":\"ping\"}\n",
    "{\"op\":\"break\",\"key\":\"k\",\"grace_ms\":0}\n",
};

START_TEST(a_request_is_written_as_it_was_read)
{
    struct message_request request;
    struct message_error error;
    const char *line = requests[_i];

    ck_assert_msg(message_parse(line, strlen(line) - 1, &request, &error) == 0, "%s",
                  error.message);
    writer_request(&out, &request);
    assert_wrote(line);
}
END_TEST

static const struct {
    const char *utf8;
    const char *json;
} strings[] = {
    {"", ""},
    {"plain ~", "plain ~"},
    {"a\"b\\c/", "a\\\"b\\\\c/"},
    {"\t\r\n\x1f", "\\u0009\\u000d\\u000a\\u001f"},
    {"\x7f", "\\u007f"},
    {"\xc2\x80", "\\u0080"},
    {"\xc3\xa9t\xc3\xa9", "\\u00e9t\\u00e9"},
    {"\xe2\x82\xac", "\\u20ac"},
    {"\xef\xbf\xbf", "\\uffff"},
    {"\xf0\x90\x80\x80", "\\ud800\\udc00"},
    {"\xf0\x9f\x98\x80", "\\ud83d\\ude00"},
    {"\xf4\x8f\xbf\xbf", "\\udbff\\udfff"},
    {"\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"}, // above U+10FFFF
    {"\xff"
     "a",
     "\\ufffda"},
    {"\x80", "\\ufffd"},
    {"\xc0\xaf", "\\ufffd\\ufffd"}, // longer than needed
    {"\xe0\x9f\xbf", "\\ufffd\\ufffd\\ufffd"},
    {"\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd"}, // a surrogate
    {"\xe2\x82", "\\ufffd\\ufffd"},            // cut off
    {"\xe2"
     "ab",
     "\\ufffdab"},
    {"\xf0\x9f\x98", "\\ufffd\\ufffd\\ufffd"},
};

START_TEST(strings_become_ascii)
{
    char expected[128];

    writer_string(&out, WIRE_MEMBER_KEY, strings[_i].utf8, strlen(strings[_i].utf8));
    snprintf(expected, sizeof expected, "\"key\":\"%s\"", strings[_i].json);
    assert_wrote(expected);
}
END_TEST

START_TEST(a_nul_is_escaped_and_the_length_counts)
{
    writer_string(&out, WIRE_MEMBER_KEY, "a\0bcd", 3);
    assert_wrote("\"key\":\"a\\u0000b\"");
}
END_TEST

static size_t encode(uint32_t code, char *utf8)
{
    if (code < 0x80) {
        utf8[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        utf8[0] = (char)(0xc0 | code >> 6);
        utf8[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        utf8[0] = (char)(0xe0 | code >> 12);
        utf8[1] = (char)(0x80 | (code >> 6 & 0x3f));
        utf8[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    utf8[0] = (char)(0xf0 | code >> 18);
    utf8[1] = (char)(0x80 | (code >> 12 & 0x3f));
    utf8[2] = (char)(0x80 | (code >> 6 & 0x3f));
    utf8[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

START_TEST(every_code_point_comes_back)
{
    char utf8[4];

    for (uint32_t code = 1; code <= 0x10ffff; code += code < 0x1000 ? 1 : 97) {
        size_t length = encode(code, utf8);
        bool ascii = true;
        size_t decoded;
        json_t *root;

        if (code >= 0xd800 && code < 0xe000)
            continue;
        ck_assert_uint_eq(text_decode(utf8, length, &decoded), code);
        ck_assert_uint_eq(decoded, length);
        writer_reply(&out, true, WIRE_OP_COUNT, NULL);
        writer_string(&out, WIRE_MEMBER_KEY, utf8, length);
        writer_end(&out);
        for (size_t i = 0; i < buf_length(&out) - 1; i++)
            ascii = ascii && buf_bytes(&out)[i] >= 0x20 && buf_bytes(&out)[i] <= 0x7e;
        ck_assert(ascii);
        root = json_loadb(buf_bytes(&out), buf_length(&out), 0, NULL);
        ck_assert_ptr_nonnull(root);
        ck_assert_uint_eq(json_string_length(json_object_get(root, "key")), length);
        ck_assert_mem_eq(json_string_value(json_object_get(root, "key")), utf8, length);
        json_decref(root);
        buf_consume(&out, buf_length(&out));
    }
}
END_TEST

START_TEST(every_name_is_written_as_itself)
{
    char expected[64];

    for (int op = 0; op < WIRE_OP_COUNT; op++) {
        writer_reply(&out, true, (enum wire_op)op, NULL);
        snprintf(expected, sizeof expected, "{\"ok\":true,\"op\":\"%s\"", wire_op_names[op]);
        assert_wrote(expected);
    }
    for (int member = 0; member < WIRE_MEMBER_COUNT; member++) {
        writer_null(&out, (enum wire_member)member);
        snprintf(expected, sizeof expected, "\"%s\":null", wire_member_names[member]);
        assert_wrote(expected);
    }
    for (int event = 0; event < WIRE_EVENT_COUNT; event++) {
        writer_event(&out, (enum wire_event)event);
        snprintf(expected, sizeof expected, "{\"event\":\"%s\"", wire_event_names[event]);
        assert_wrote(expected);
    }
}
END_TEST

START_TEST(a_failed_buffer_stays_as_it_was)
{
    buf_append(&out, "x", 1);
    ck_assert_ptr_null(buf_reserve(&out, SIZE_MAX));
    writer_error(&out, WIRE_OP_PING, NULL, WIRE_ERROR_INTERNAL, "m");
    writer_open_array(&out, WIRE_MEMBER_CAPS);
    writer_item_name(&out, "a");
    writer_close_array(&out);
    writer_end(&out);
    ck_assert(out.failed);
    ck_assert_uint_eq(buf_length(&out), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer");
    TCase *tcase = tcase_create("writer");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, a_grant);
    tcase_add_test(tcase, an_error_with_a_holder);
    tcase_add_test(tcase, id_and_op_are_left_out_where_there_is_none);
    tcase_add_test(tcase, an_event);
    tcase_add_test(tcase, arrays_and_objects_nest);
    tcase_add_test(tcase, brackets_in_strings_are_only_text);
    tcase_add_loop_test(tcase, a_request_is_written_as_it_was_read, 0,
                        (int)(sizeof requests / sizeof requests[0]));
    tcase_add_loop_test(tcase, strings_become_ascii, 0, (int)(sizeof strings / sizeof strings[0]));
    tcase_add_test(tcase, a_nul_is_escaped_and_the_length_counts);
    tcase_add_test(tcase, every_code_point_comes_back);
    tcase_add_test(tcase, every_name_is_written_as_itself);
    tcase_add_test(tcase, a_failed_buffer_stays_as_it_was);
    suite_add_tcase(suite, tcase);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
