// SPDX-License-Identifier: Apache-2.0
//
// Replies and events as a client reads them: every member, what is missing, and what is none.
#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/reply.h"
#include "protocol/writer.h"

#define ROWS(table) (sizeof(table) / sizeof(table)[0])
#define LEASE "00112233445566778899aabbccddeeff"

static struct reply reply;

// ' stands for ". The line is in a block of its very size.
static int parse(const char *text)
{
    size_t length = strlen(text);
    char *line = malloc(length + 1);
    int r;

    for (size_t i = 0; i < length; i++)
        line[i] = text[i] == '\'' ? '"' : text[i];
    r = reply_parse(line, length, &reply);
    free(line);
    return r;
}

static void parsed(const char *text)
{
    ck_assert_msg(parse(text) == 0, "%s", text);
}

START_TEST(a_grant)
{
    struct message_token token;

    parsed("{'ok':true,'id':'x','op':'acquire','key':'caf\\u00e9','lease':'" LEASE
           "','fence':1790000000000000,'ttl_ms':30000,'deadline_ms':60000,"
           "'valid_until_ms':9007199254740991,'waited_ms':0,'slot':511}");
    ck_assert(reply.ok && !reply.is_event);
    ck_assert_int_eq(reply.op, WIRE_OP_ACQUIRE);
    ck_assert_int_eq(reply.id.kind, MESSAGE_ID_STRING);
    ck_assert_str_eq(reply.id.string, "x");
    ck_assert_str_eq(reply.key, "caf\xc3\xa9");
    ck_assert(message_token_parse(LEASE, &token));
    ck_assert(reply.has_lease && memcmp(&reply.lease, &token, sizeof token) == 0);
    ck_assert_int_eq(reply.fence, 1790000000000000);
    ck_assert_int_eq(reply.ttl_ms, 30000);
    ck_assert_int_eq(reply.deadline_ms, 60000);
    ck_assert_int_eq(reply.valid_until_ms, WIRE_MAX_INTEGER);
    ck_assert_int_eq(reply.waited_ms, 0);
    ck_assert_int_eq(reply.slot, 511);
    // What is not there.
    ck_assert_int_eq(reply.held_ms, -1);
    ck_assert_int_eq(reply.retry_after_ms, -1);
    ck_assert_ptr_null(reply.message);
    ck_assert_ptr_null(reply.rows);
    ck_assert_ptr_null(reply.caps);
    ck_assert(!reply.has_holder && !reply.freed);
    ck_assert_int_eq(reply.error, WIRE_ERROR_COUNT);
    ck_assert_int_eq(reply.reason, WIRE_REASON_COUNT);
    ck_assert_int_eq(reply.event, WIRE_EVENT_COUNT);
    reply_deinit(&reply);
    ck_assert_ptr_null(reply.key);
    reply_deinit(&reply);
}
END_TEST

START_TEST(refusals)
{
    parsed("{'ok':false,'id':-7,'op':'acquire','error':'errLockHeld','message':'m','key':'k',"
           "'holder':{'host':'pod-7','pid':812,'uid':1000,'label':'resume','fence':5,'new':1},"
           "'retry_after_ms':21430,'waited_ms':10000}");
    ck_assert(!reply.ok);
    ck_assert_int_eq(reply.id.kind, MESSAGE_ID_INTEGER);
    ck_assert_int_eq(reply.id.integer, -7);
    ck_assert_int_eq(reply.error, WIRE_ERROR_LOCK_HELD);
    ck_assert_str_eq(reply.error_name, "errLockHeld");
    ck_assert_str_eq(reply.holder.host, "pod-7");
    ck_assert_str_eq(reply.holder.label, "resume");
    ck_assert_int_eq(reply.holder.pid, 812);
    ck_assert_int_eq(reply.holder.uid, 1000);
    ck_assert_int_eq(reply.holder.fence, 5);
    ck_assert_int_eq(reply.holder.bytes, -1);
    ck_assert_int_eq(reply.slot, -1);
    ck_assert_int_eq(reply.retry_after_ms, 21430);
    reply_deinit(&reply);

    parsed("{'ok':false,'error':'errSomeday','holder':{'foreign':true,'type':'hash'},"
           "'retry_after_ms':null,'ttl_left_ms':null}");
    ck_assert_int_eq(reply.error, WIRE_ERROR_COUNT);
    ck_assert_str_eq(reply.error_name, "errSomeday");
    ck_assert_int_eq(reply.op, WIRE_OP_COUNT);
    ck_assert_int_eq(reply.id.kind, MESSAGE_ID_NONE);
    ck_assert(reply.holder.foreign);
    ck_assert_str_eq(reply.holder.type, "hash");
    ck_assert_int_eq(reply.retry_after_ms, -1);
    ck_assert_int_eq(reply.ttl_left_ms, -1);
    reply_deinit(&reply);
}
END_TEST

START_TEST(the_other_replies)
{
    parsed("{'ok':true,'op':'hello','protocol':1,'server':'s','instance':'0123456789abcdef',"
           "'caps':['wait','later'],'lock_ttl_ms':1,'heartbeat_ms':2,'revoke_margin_ms':3,"
           "'deadline_ms':4,'max_deadline_ms':5,'max_line':4096,'max_reply':65536,'now_ms':6,"
           "'redis':'up'}");
    ck_assert_int_eq(reply.protocol, 1);
    ck_assert_str_eq(reply.server, "s");
    ck_assert_str_eq(reply.instance, "0123456789abcdef");
    ck_assert_str_eq(reply.caps[0], "wait");
    ck_assert_str_eq(reply.caps[1], "later");
    ck_assert_ptr_null(reply.caps[2]);
    ck_assert_int_eq(reply.lock_ttl_ms, 1);
    ck_assert_int_eq(reply.heartbeat_ms, 2);
    ck_assert_int_eq(reply.revoke_margin_ms, 3);
    ck_assert_int_eq(reply.deadline_ms, 4);
    ck_assert_int_eq(reply.max_deadline_ms, 5);
    ck_assert_int_eq(reply.now_ms, 6);
    ck_assert_str_eq(reply.redis, "up");
    reply_deinit(&reply);

    parsed("{'ok':true,'op':'inspect','held':true,'here':true,'ttl_left_ms':7,'since_ms':8,"
           "'deadline_in_ms':9,'broken':true,'cancelled':true,'freed':true,'held_ms':10,"
           "'redis_error':'e','next':'n'}");
    ck_assert(reply.held && reply.here && reply.broken && reply.cancelled && reply.freed);
    ck_assert_int_eq(reply.ttl_left_ms, 7);
    ck_assert_int_eq(reply.since_ms, 8);
    ck_assert_int_eq(reply.deadline_in_ms, 9);
    ck_assert_int_eq(reply.held_ms, 10);
    ck_assert_str_eq(reply.redis_error, "e");
    ck_assert_str_eq(reply.next, "n");
    reply_deinit(&reply);
}
END_TEST

START_TEST(rows)
{
    parsed("{'ok':true,'op':'list','leases':[]}");
    ck_assert_ptr_nonnull(reply.rows);
    ck_assert_uint_eq(reply.row_count, 0);
    reply_deinit(&reply);

    parsed("{'ok':true,'op':'list','leases':[{'state':'held','key':'a','holder':{'host':'h',"
           "'pid':1,'uid':2},'held_ms':3,'valid_ms':4,'deadline_in_ms':5,'fence':6},"
           "{'state':'waiting','key':'b','waited_ms':7}]}");
    ck_assert_uint_eq(reply.row_count, 2);
    ck_assert_str_eq(reply.rows[0].state, "held");
    ck_assert_str_eq(reply.rows[0].key, "a");
    ck_assert(reply.rows[0].has_holder);
    ck_assert_int_eq(reply.rows[0].holder.uid, 2);
    ck_assert_int_eq(reply.rows[0].holder.fence, -1);
    ck_assert_int_eq(reply.rows[0].held_ms, 3);
    ck_assert_int_eq(reply.rows[0].valid_ms, 4);
    ck_assert_int_eq(reply.rows[0].deadline_in_ms, 5);
    ck_assert_int_eq(reply.rows[0].fence, 6);
    ck_assert_int_eq(reply.rows[0].waited_ms, -1);
    ck_assert(!reply.rows[1].has_holder);
    ck_assert_int_eq(reply.rows[1].waited_ms, 7);
    ck_assert_int_eq(reply.rows[1].held_ms, -1);
    reply_deinit(&reply);
}
END_TEST

START_TEST(events)
{
    parsed("{'event':'revoked','error':'errLostActorLock','reason':'deadline','lease':'" LEASE
           "','key':'k','safe_ms':24100,'valid_until_ms':8,'held_ms':60000,'message':'m'}");
    ck_assert(reply.is_event && !reply.ok);
    ck_assert_int_eq(reply.event, WIRE_EVENT_REVOKED);
    ck_assert_int_eq(reply.reason, WIRE_REASON_DEADLINE);
    ck_assert_str_eq(reply.reason_name, "deadline");
    ck_assert_int_eq(reply.safe_ms, 24100);
    reply_deinit(&reply);

    parsed("{'event':'eclipse','reason':'moon'}");
    ck_assert(reply.is_event);
    ck_assert_int_eq(reply.event, WIRE_EVENT_COUNT);
    ck_assert_int_eq(reply.reason, WIRE_REASON_COUNT);
    ck_assert_str_eq(reply.reason_name, "moon");
    reply_deinit(&reply);
}
END_TEST

static const char *const malformed[] = {
    "",
    " ",
    "x",
    "1",
    "[]",
    "{",
    "{}",
    "{'ok':true",
    "{'ok':true} x",
    "{'ok':true,}",
    "{'ok':1}",
    "{'ok':null}",
    "{'ok':'true'}",
    "{'ok':false}",
    "{'ok':false,'error':''}",
    "{'ok':false,'error':7}",
    "{'ok':true,'ok':true}",
    "{'event':7}",
    "{'event':'renewed','ok':true}",
    "{'ok':true,'id':1.5}",
    "{'ok':true,'id':[]}",
    "{'ok':true,'id':null}",
    "{'ok':true,'id':'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'}",
    "{'ok':true,'fence':-1}",
    "{'ok':true,'fence':1.0}",
    "{'ok':true,'fence':9007199254740992}",
    "{'ok':true,'fence':99999999999999999999}",
    "{'ok':true,'fence':null}",
    "{'ok':true,'key':7}",
    "{'ok':true,'key':'a\\u0000b'}",
    "{'ok':true,'key':'\xff'}",
    "{'ok':true,'freed':0}",
    "{'ok':true,'lease':'0011'}",
    "{'ok':true,'lease':'00112233445566778899AABBCCDDEEFF'}",
    "{'ok':true,'lease':7}",
    "{'ok':true,'lease':null}",
    "{'ok':true,'caps':'wait'}",
    "{'ok':true,'caps':['wait',7]}",
    "{'ok':true,'holder':'me'}",
    "{'ok':true,'holder':{'pid':'1'}}",
    "{'ok':true,'holder':{'pid':-1}}",
    "{'ok':true,'leases':{}}",
    "{'ok':true,'leases':[7]}",
    "{'ok':true,'leases':[{}]}",
    "{'ok':true,'leases':[{'state':'held','key':'k','fence':'x'}]}",
    "{'ok':true,'leases':[{'state':'held','key':'k','holder':7}]}",
};

START_TEST(what_is_no_reply)
{
    ck_assert_msg(parse(malformed[_i]) == REPLY_E_MALFORMED, "%s", malformed[_i]);
}
END_TEST

// Deep, wide and long ones end, and leave nothing behind.
START_TEST(what_is_far_too_much)
{
    static char line[1 << 16];

    memset(line, '[', sizeof line);
    ck_assert_int_eq(reply_parse(line, sizeof line, &reply), REPLY_E_MALFORMED);
    strcpy(line, "{\"ok\":true,\"caps\":[");
    for (size_t at = strlen(line); at + 8 < sizeof line; at += 3)
        strcpy(line + at, at + 11 < sizeof line ? "\"\"," : "\"\"]}");
    ck_assert_int_eq(reply_parse(line, strlen(line), &reply), 0);
    reply_deinit(&reply);
}
END_TEST

// What the sidecar's writer writes, a client reads.
START_TEST(what_is_written_is_read)
{
    struct buf out = BUF_INIT;
    struct message_id id = {.kind = MESSAGE_ID_STRING, .length = 4, .string = "a\"\\\n"};
    static const char label[] = "\xf0\x9f\x98\x80 \x7f";

    writer_error(&out, WIRE_OP_ACQUIRE, &id, WIRE_ERROR_LOCK_HELD, "m");
    writer_open_object(&out, WIRE_MEMBER_HOLDER);
    writer_string(&out, WIRE_MEMBER_LABEL, label, strlen(label));
    writer_close_object(&out);
    writer_end(&out);
    ck_assert_int_eq(reply_parse(buf_bytes(&out), buf_length(&out) - 1, &reply), 0);
    ck_assert(message_id_equal(&reply.id, &id));
    ck_assert_int_eq(reply.error, WIRE_ERROR_LOCK_HELD);
    ck_assert_str_eq(reply.holder.label, label);
    reply_deinit(&reply);
    buf_deinit(&out);
}
END_TEST

// Other people's programs have their own allocator, which is left alone.
static unsigned allocations;

static void *count_alloc(size_t size)
{
    allocations++;
    return malloc(size);
}

START_TEST(the_programs_allocator_stays)
{
    json_malloc_t used_malloc;
    json_free_t used_free;

    json_set_alloc_funcs(count_alloc, free);
    parsed("{'ok':true}");
    ck_assert_uint_gt(allocations, 0);
    reply_deinit(&reply);
    json_get_alloc_funcs(&used_malloc, &used_free);
    ck_assert(used_malloc == count_alloc && used_free == free);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reply");
    TCase *tcase = tcase_create("reply");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, a_grant);
    tcase_add_test(tcase, refusals);
    tcase_add_test(tcase, the_other_replies);
    tcase_add_test(tcase, rows);
    tcase_add_test(tcase, events);
    tcase_add_loop_test(tcase, what_is_no_reply, 0, (int)ROWS(malformed));
    tcase_add_test(tcase, what_is_far_too_much);
    tcase_add_test(tcase, what_is_written_is_read);
    tcase_add_test(tcase, the_programs_allocator_stays);
    suite_add_tcase(suite, tcase);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
