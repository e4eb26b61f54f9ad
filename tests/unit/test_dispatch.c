// SPDX-License-Identifier: Apache-2.0
//
// Lines to handlers: what is answered at once (hello, ping, list, refusals), each line with exactly
// one reply; and the pages of list, whose rows come once, fit a line and show no token.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/wire.h"
#include "sidecar/dispatch.h"
#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

static struct rig rig;
static struct rig_client a, b;

static void begin(void)
{
    rig_open(&rig);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 2000);
}

static void end(void)
{
    rig_close(&rig);
}

// ---- Answered at once ----

START_TEST(hello)
{
    rig_send(&a, "{'op':'hello'}");
    rig_expect_exact(&a,
                     "{'ok':true,'id':1,'op':'hello','protocol':1,'server':'lock-keeper/%s',"
                     "'instance':'<hex:16>','caps':['wait','adopt','bind','extend',"
                     "'inspect','break','notify','list','page'],'lock_ttl_ms':30000,"
                     "'heartbeat_ms':10000,'revoke_margin_ms':6000,'deadline_ms':300000,"
                     "'max_deadline_ms':3600000,'max_line':4096,'max_reply':65536,'now_ms':%d,"
                     "'redis':'up'}",
                     LOCK_KEEPER_VERSION, RIG_START);
    ck_assert_str_eq(rig_string(&a, "instance"), rig.keeper.instance);
    rig_expect_nothing(&a);
}
END_TEST

START_TEST(ping_says_why_redis_is_away)
{
    rig_send(&a, "{'op':'ping'}");
    rig_expect_exact(&a, "{'ok':true,'id':1,'op':'ping','redis':'up'}");
    fake_store_set_down(&rig.fake, "NOAUTH Authentication \"required\"", rig.now_ms);
    rig_send(&a, "{'op':'ping'}");
    rig_expect_exact(&a, "{'ok':true,'id':2,'op':'ping','redis':'down',"
                         "'redis_error':'NOAUTH Authentication \\'required\\''}");
    rig_send(&a, "{'op':'hello'}");
    rig_expect(&a, "{'ok':true,'redis':'down'}");
    fake_store_set_down(&rig.fake, NULL, rig.now_ms);
    rig_send(&a, "{'op':'ping'}");
    rig_expect_exact(&a, "{'ok':true,'id':4,'op':'ping','redis':'down'}");
    fake_store_set_up(&rig.fake, rig.now_ms);
    rig_send(&a, "{'op':'ping'}");
    rig_expect_exact(&a, "{'ok':true,'id':5,'op':'ping','redis':'up'}");
}
END_TEST

static const struct refused_case {
    const char *request;
    const char *error;
    const char *names; // in the message
} refused_cases[] = {
    {"'op':'acquire','key':'k','wait_ms':-2", "errBadRequest", "wait_ms"},
    {"'op':'acquire','key':'k','bind':'pid'", "errBadRequest", "bind"}, // the rig watches none
    {"'op':'acquire','key':'k','bind':'process'", "errBadRequest", "bind"},
    {"'op':'hello','page':1", "errBadRequest", "page"},
    {"'op':'cancel'", "errBadRequest", "target"},
    {"'op':'extend','lease':'00112233445566778899aabbccddeeff','deadline_ms':1", "errUnknownLease",
     "lease"},
    {"'op':'extend','lease':'00112233445566778899aabbccddeeff'", "errBadRequest", "deadline_ms"},
    {"'op':'adopt','key':'k'", "errBadRequest", "lease"},
    {"'op':'adopt','lease':'00112233445566778899aabbccddeeff'", "errBadRequest", "key"},
    {"'op':'inspect'", "errBadRequest", "key"},
    {"'op':'break'", "errBadRequest", "key"},
    {"'op':'break','key':'k'", "errNotPermitted", "root"},
    {"'op':'steal','key':'k'", "errUnknownOp", "steal"},
    {"'op':'acquire'", "errBadRequest", "key"},
    {"'op':'acquire','key':'k','wait':1", "errBadRequest", "wait"},
    {"'op':'acquire','key':''", "errBadRequest", "key"},
    {"'op':'release','lease':'xyz'", "errBadRequest", "lease"},
    {"'op':'list','limit':0", "errBadRequest", "limit"},
    {"'op':'list','limit':501", "errBadRequest", "limit"},
    {"'key':'k'", "errBadRequest", "op"},
};

START_TEST(refused_by_name)
{
    const struct refused_case *refused = &refused_cases[_i];

    rig_send(&a, "{%s}", refused->request);
    rig_expect(&a, "{'ok':false,'id':1,'error':'%s'}", refused->error);
    ck_assert_msg(strstr(rig_string(&a, "message"), refused->names) != NULL, "%s", a.text);
    rig_expect_nothing(&a);
    rig_expect_no_call(&rig);
    rig_send(&a, "{'op':'ping'}"); // and goes on
    rig_expect(&a, "{'ok':true,'op':'ping'}");
    rig_check_idle(&rig);
}
END_TEST

static const char *const no_requests[] = {"{",   "[]",       "7",         "\"op\"",
                                          "{}x", "nonsense", "{\"op\":7}"};

START_TEST(no_request_at_all)
{
    rig_send_raw(&a, no_requests[_i], strlen(no_requests[_i]));
    rig_expect(&a, "{'ok':false,'error':'errBadRequest','message':'<string>'}");
    rig_expect_nothing(&a);
}
END_TEST

START_TEST(lines_that_were_skipped)
{
    dispatch_too_long(&a.session);
    rig_expect_exact(&a, "{'ok':false,'error':'errLineTooLong','message':'<string>'}");
    ck_assert_ptr_nonnull(strstr(a.text, "4096"));
    dispatch_too_slow(&a.session);
    rig_expect_exact(&a, "{'ok':false,'error':'errLimitExceeded','message':'<string>'}");
    rig_expect_nothing(&a);
}
END_TEST

// Ids of both kinds come back as they were; none where none was.
START_TEST(ids_are_echoed)
{
    rig_send_raw(&a, "{\"id\":\"a-\\u00e9\",\"op\":\"ping\"}", 29);
    rig_expect(&a, "{'ok':true,'id':'a-\\u00e9'}");
    rig_send(&a, "{'op':'ping'}");
    rig_expect(&a, "{'ok':true,'id':1}");
    rig_send_raw(&a, "{\"op\":\"ping\"}", 13);
    rig_expect(&a, "{'ok':true}");
    ck_assert_ptr_null(json_object_get(a.line, "id"));
}
END_TEST

// One connection may have so many requests waiting, and no more; one is answered, one more may wait.
START_TEST(waiting_requests_are_bounded)
{
    struct fake_call *call;
    struct keeper_options options;

    rig_close(&rig);
    options = rig_options(&rig);
    options.caps[ACCOUNT_LEASES] = 2 * WIRE_MAX_UNANSWERED;
    rig_open_with(&rig, &options);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
    for (int i = 0; i < WIRE_MAX_UNANSWERED; i++)
        rig_send(&a, "{'op':'acquire','key':'k'}");
    call = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    rig_expect_nothing(&a);
    rig_send(&a, "{'op':'acquire','key':'other'}");
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errLimitExceeded'}");
    rig_send(&a, "{'op':'ping'}"); // what is answered at once may still be asked
    rig_expect(&a, "{'ok':true,'op':'ping'}");
    rig_expect_no_call(&rig);
    rig_send(&b, "{'op':'acquire','key':'other'}");
    rig_complete(&rig, STORE_ACQUIRE, STORE_HELD);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    fake_store_complete(&rig.fake, call, STORE_REFUSED, rig.now_ms);
    for (int i = 0; i < WIRE_MAX_UNANSWERED; i++) {
        if (!rig_take(&a))
            ck_abort_msg("reply %d is missing", i);
    }
    rig_expect_nothing(&a);
    rig_check_idle(&rig);
}
END_TEST

// ---- list ----

START_TEST(rows_of_every_state)
{
    struct rig_lease held, ending, gone;
    struct fake_call *asked, *deletion;

    rig_acquire(&a, &held, "held", ",'label':'caf\\u00e9'");
    rig_acquire(&a, &ending, "ending", ",'deadline_ms':300");
    rig_acquire(&b, &gone, "gone", "");
    rig_send(&b, "{'op':'release','lease':'%s'}", gone.lease);
    deletion = fake_store_expect(&rig.fake, STORE_RELEASE);
    rig_pass(&rig, 300);
    rig_expect(&a, "{'event':'revoked'}");
    rig_send(&b, "{'op':'acquire','key':'asked'}");
    asked = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    rig_pass(&rig, 25);
    rig_send(&a, "{'op':'acquire','key':'asked','label':'behind'}");
    rig_pass(&rig, 5);
    rig_send(&a, "{'op':'list'}");
    rig_expect_exact(
        &a,
        "{'ok':true,'id':4,'op':'list','leases':["
        "{'state':'held','key':'held','holder':{'host':'pod-7','pid':5000,'uid':1000,"
        "'label':'caf\\u00e9','fence':1},'held_ms':330,'valid_ms':%d,'fence':1,"
        "'deadline_in_ms':%d},"
        "{'state':'ending','key':'ending','holder':{'host':'pod-7','pid':5000,'uid':1000,"
        "'fence':1},'held_ms':300,'valid_ms':%d,'fence':1},"
        "{'state':'waiting','key':'asked','holder':{'host':'pod-7','pid':6000,'uid':2000},"
        "'waited_ms':30},"
        "{'state':'waiting','key':'asked','holder':{'host':'pod-7','pid':5000,'uid':1000,"
        "'label':'behind'},'waited_ms':5}]}",
        RIG_VALID - 330, 300000 - 330, RIG_VALID - 330);
    ck_assert_ptr_null(strstr(a.text, held.lease));
    ck_assert_ptr_null(strstr(a.text, ending.lease));
    fake_store_complete(&rig.fake, deletion, STORE_OK, rig.now_ms);
    fake_store_complete(&rig.fake, asked, STORE_REFUSED, rig.now_ms);
    rig_gone(&a);
    rig_gone(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

enum { LEASES = 1200 };

static char after[WIRE_MAX_CURSOR + 1]; // the next page's cursor, "" for none
static uint8_t seen[LEASES];

static void grant(int number, const char *format)
{
    char key[600];

    snprintf(key, sizeof key, "%s%d", format, number);
    rig_send(&b, "{'op':'acquire','key':'%s'}", key);
    rig_complete(&rig, STORE_ACQUIRE, STORE_OK);
    rig_expect(&b, "{'ok':true}");
}

// One page: its rows are counted in `seen` by the number at the end of their key.
static size_t page(int limit)
{
    json_t *rows, *next, *row;
    size_t i;

    if (after[0])
        rig_send(&a, "{'op':'list','limit':%d,'after':'%s'}", limit, after);
    else
        rig_send(&a, "{'op':'list','limit':%d}", limit);
    rig_expect(&a, "{'ok':true,'op':'list'}");
    rows = json_object_get(a.line, "leases");
    next = json_object_get(a.line, "next");
    json_array_foreach(rows, i, row)
    {
        const char *key = json_string_value(json_object_get(row, "key"));
        int number = atoi(key + strcspn(key, "0123456789"));
        if (number < 0 || number >= LEASES)
            ck_abort_msg("a key of nobody: %s", key);
        seen[number]++;
    }
    if (json_array_size(rows) > (size_t)limit)
        ck_abort_msg("more than %d rows", limit);
    if (next && strlen(json_string_value(next)) > WIRE_MAX_CURSOR)
        ck_abort_msg("a long cursor: %s", json_string_value(next));
    snprintf(after, sizeof after, "%s", next ? json_string_value(next) : "");
    return json_array_size(rows);
}

static void leave_with_all(size_t granted)
{
    rig_gone(&b);
    for (size_t i = 0; i < granted; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
}

START_TEST(pages_of_1200)
{
    static const int limits[] = {1, 7, 100, 500};
    size_t rows = 0, pages = 0;

    for (int i = 0; i < LEASES; i++)
        grant(i, "k");
    do {
        rows += page(limits[_i]);
        ck_assert_uint_le(++pages, LEASES);
    } while (after[0]);
    ck_assert_uint_eq(rows, LEASES);
    for (int i = 0; i < LEASES; i++)
        if (seen[i] != 1)
            ck_abort_msg("row %d came %d times", i, seen[i]);
    ck_assert_uint_ge(pages, (size_t)(LEASES / limits[_i]));
    leave_with_all(LEASES);
}
END_TEST

// Rows that are there from the first page to the last come once, whatever the others do.
START_TEST(pages_while_others_come_and_go)
{
    static struct rig_lease leases[LEASES];
    struct rig_lease fresh;
    char key[16];
    int released = 0;

    for (int i = 0; i < 600; i++) {
        snprintf(key, sizeof key, "k%d", i);
        rig_acquire(&b, &leases[i], key, "");
    }
    do {
        page(50);
        for (int i = 0; i < 20 && released < 600; i++, released += 3) {
            rig_release(&b, &leases[released]); // every third goes, before or after it was seen
            snprintf(key, sizeof key, "k%d", 600 + released);
            rig_acquire(&b, &fresh, key, "");
        }
    } while (after[0]);
    for (int i = 0; i < 600; i++)
        if (i % 3 ? seen[i] != 1 : seen[i] > 1)
            ck_abort_msg("row %d came %d times", i, seen[i]);
    leave_with_all(rig.keeper.table.live);
}
END_TEST

// Keys that take six bytes for two on the wire, of the greatest length: a page still fits a line
// (the rig checks each), holds fewer rows than asked for, and none is lost.
START_TEST(pages_fit_a_line)
{
    char long_key[600] = "";
    size_t rows = 0, pages = 0;

    for (int i = 0; i < 254; i++)
        strcat(long_key, "\xc3\xa9");
    for (int i = 0; i < 300; i++)
        grant(i, long_key);
    do {
        size_t now = page(500);
        ck_assert_uint_gt(now, 10);
        ck_assert_uint_lt(now, 65);
        ck_assert_uint_gt(strlen(a.text), after[0] ? 50000 : 0);
        rows += now;
        pages++;
    } while (after[0]);
    ck_assert_uint_eq(rows, 300);
    for (int i = 0; i < 300; i++)
        ck_assert_uint_eq(seen[i], 1);
    leave_with_all(300);
}
END_TEST

// An empty table, a table of nothing to show, a cursor past the end.
START_TEST(pages_of_nothing)
{
    ck_assert_uint_eq(page(500), 0);
    ck_assert_str_eq(after, "");
    grant(0, "k");
    leave_with_all(1);
    ck_assert_uint_eq(page(500), 0);
    ck_assert_str_eq(after, "");
    snprintf(after, sizeof after, "fffffffe");
    ck_assert_uint_eq(page(500), 0);
    ck_assert_str_eq(after, "");
}
END_TEST

static const char *const odd_cursors[] = {"x",
                                          "-1",
                                          "+1",
                                          " 1",
                                          "1 ",
                                          "1\\u0020",
                                          "G",
                                          "1g",
                                          "ffffffff",
                                          "100000000",
                                          "ffffffffffffffff",
                                          "fffffffffffffffffffffffffffffff",
                                          "0x",
                                          "\\u00e9"};

START_TEST(odd_cursors_are_refused)
{
    grant(0, "k");
    rig_send(&a, "{'op':'list','after':'%s'}", odd_cursors[_i]);
    rig_expect(&a, "{'ok':false,'id':1,'op':'list','error':'errBadRequest'}");
    ck_assert_ptr_nonnull(strstr(a.text, "after"));
    rig_expect_nothing(&a);
    rig_send(&a, "{'op':'list','after':''}"); // from the start
    rig_expect(&a, "{'ok':true,'leases':[{'key':'k0'}]}");
    leave_with_all(1);
}
END_TEST

// Over a long stretch of slots with nothing to show, a page may be empty, but leads on.
START_TEST(a_page_looks_at_so_many_slots)
{
    static struct rig_lease last;
    struct table *table = &rig.keeper.table;
    struct message_token token = {{1}};
    size_t rows = 0, pages = 0;

    for (uint32_t i = 0; i < 40000; i++) {
        token.bytes[1] = (uint8_t)i;
        token.bytes[2] = (uint8_t)(i >> 8);
        if (table_open(table, &token, "k", 1, "", 0) != i + 1)
            ck_abort_msg("slot %u", (unsigned)i);
    }
    for (uint32_t i = 0; i < 40000; i++)
        table_close(table, i + 1);
    table->free_first = table->free_last = SLOT_NONE; // so that the next slot is a new one
    rig_acquire(&b, &last, "k7", "");
    ck_assert_uint_eq(last.call->lease, 40001);
    do {
        rows += page(100);
        ck_assert_uint_le(++pages, 4);
    } while (after[0]);
    ck_assert_uint_eq(rows, 1);
    ck_assert_uint_eq(pages, 3);
    leave_with_all(1);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("dispatch");
    TCase *tcase = tcase_create("dispatch");

    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, hello);
    tcase_add_test(tcase, ping_says_why_redis_is_away);
    tcase_add_loop_test(tcase, refused_by_name, 0, sizeof refused_cases / sizeof refused_cases[0]);
    tcase_add_loop_test(tcase, no_request_at_all, 0, sizeof no_requests / sizeof no_requests[0]);
    tcase_add_test(tcase, lines_that_were_skipped);
    tcase_add_test(tcase, ids_are_echoed);
    tcase_add_test(tcase, waiting_requests_are_bounded);
    tcase_add_test(tcase, rows_of_every_state);
    tcase_add_loop_test(tcase, pages_of_1200, 0, 4);
    tcase_add_test(tcase, pages_while_others_come_and_go);
    tcase_add_test(tcase, pages_fit_a_line);
    tcase_add_test(tcase, pages_of_nothing);
    tcase_add_loop_test(tcase, odd_cursors_are_refused, 0,
                        sizeof odd_cursors / sizeof odd_cursors[0]);
    tcase_add_test(tcase, a_page_looks_at_so_many_slots);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
