// SPDX-License-Identifier: Apache-2.0
//
// Adoption of a lease that another sidecar granted: what is looked at before Redis is asked, and
// what becomes of it when its client has gone meanwhile.

#include <stdio.h>
#include <string.h>

#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

#define LEASE "00112233445566778899aabbccddeeff"
#define NOW_US 1790000000000000

static struct rig rig;
static struct rig_client a, b;

static void begin(void)
{
    rig_open(&rig);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
}

static void end(void)
{
    rig_close(&rig);
}

static void adopt(struct rig_client *client, const char *more)
{
    rig_send(client, "{'op':'adopt','key':'k','lease':'" LEASE "'%s}", more);
}

// Redis has moved the lease here: granted 60 s ago, for so long.
static void moved_for(struct fake_call *call, long long deadline_ms)
{
    long long since_us = NOW_US - 60000000LL;
    char value[256];

    snprintf(value, sizeof value, LEASE " %.16s lk1 77 30000 %lld %lld 812 1000 pod-7 resume it",
             rig.keeper.instance, since_us + deadline_ms * 1000, since_us);
    fake_store_adopt(&rig.fake, call, value, NOW_US, rig.now_ms);
}

static void moved(struct fake_call *call)
{
    moved_for(call, 300000);
}

static struct fake_call *expect_adopt(void)
{
    struct fake_call *call = fake_store_expect(&rig.fake, STORE_ADOPT);

    ck_assert_str_eq(call->key, "k");
    return call;
}

START_TEST(goes_on_where_it_was)
{
    adopt(&a, "");
    moved(expect_adopt());
    rig_expect(&a, "{'ok':true,'op':'adopt','key':'k','lease':'" LEASE "','fence':77,"
                   "'ttl_ms':30000,'deadline_ms':300000}");
    ck_assert_int_eq(rig_int(&a, "valid_until_ms"), RIG_START + RIG_VALID);
    ck_assert_int_eq(rig.keeper.fence_floor, 77);
    while (rig.now_ms < RIG_START + 240000) { // from its grant, not from the adoption
        rig_expect_nothing(&a);
        rig_pass(&rig, 1000);
        if (fake_store_unseen(&rig.fake) > 0 && rig.now_ms < RIG_START + 240000)
            rig_complete(&rig, STORE_RENEW, STORE_OK);
    }
    rig_expect(&a, "{'event':'revoked','reason':'deadline','lease':'" LEASE "'}");
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// Redis is not asked, so whoever has it keeps it.
START_TEST(over_the_cap_it_stays_where_it_is)
{
    rig.keeper.accounts.caps[ACCOUNT_LEASES] = 1;
    adopt(&a, "");
    adopt(&b, ""); // the first one's place is taken already
    rig_expect(&b, "{'ok':false,'op':'adopt','error':'errLimitExceeded'}");
    ck_assert_ptr_nonnull(strstr(rig_string(&b, "message"), "--max-leases-per-uid"));
    fake_store_complete(&rig.fake, expect_adopt(), STORE_NOT_OWNER, rig.now_ms);
    rig_expect(&a, "{'ok':false,'op':'adopt','error':'errLostActorLock','key':'k'}");
    rig_expect_no_call(&rig);
    // It is given back, whatever the answer was.
    adopt(&b, "");
    moved(expect_adopt());
    rig_expect(&b, "{'ok':true,'op':'adopt'}");
    rig_gone(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_process_that_cannot_be_watched_is_refused_first)
{
    adopt(&a, ",'bind':'pid','pid':812");
    rig_expect(&a, "{'ok':false,'op':'adopt','error':'errBadRequest'}");
    rig_expect_no_call(&rig);
}
END_TEST

// The client dies while Redis is asked: what was bound to its connection has lost its binding.
START_TEST(a_client_that_left_frees_what_it_adopted)
{
    struct fake_call *call;

    adopt(&a, "");
    call = expect_adopt();
    rig_gone(&a);
    moved(call);
    ck_assert_mem_eq(&rig_complete(&rig, STORE_RELEASE, STORE_OK)->token, &call->token,
                     sizeof call->token);
    rig_check_idle(&rig);
}
END_TEST

// Cut off, or bound to something else: it may still act, and adopt again. Nothing is deleted.
START_TEST(what_a_client_may_still_hold_is_left_to_run_out)
{
    struct fake_call *call;

    adopt(&a, _i == 0 ? "" : ",'bind':'none'");
    call = expect_adopt();
    if (_i == 0)
        rig_cut(&a);
    else
        rig_gone(&a);
    moved(call);
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

// on_disconnect "expire": no delete before it has run out.
START_TEST(a_client_that_left_lets_it_expire)
{
    struct fake_call *call;

    adopt(&a, ",'on_disconnect':'expire'");
    call = expect_adopt();
    rig_gone(&a);
    moved(call);
    rig_pass(&rig, RIG_VALID - 1);
    rig_expect_no_call(&rig);
    rig_pass(&rig, 1);
    rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
    rig_check_idle(&rig);
}
END_TEST

// It was adopted elsewhere meanwhile and extended there: what is in Redis counts.
START_TEST(it_comes_back_with_the_deadline_that_it_got_elsewhere)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&b, "{'op':'adopt','key':'k','lease':'%s','bind':'none'}", lease.lease);
    moved_for(expect_adopt(), 400000);
    rig_expect(&a, "{'event':'revoked','reason':'moved'}");
    rig_expect(&b, "{'ok':true,'op':'adopt','deadline_ms':400000}");
    while (rig.now_ms < RIG_START + 400000) {
        rig_expect_nothing(&b);
        rig_pass(&rig, 1000);
        if (fake_store_unseen(&rig.fake) > 0 && rig.now_ms < RIG_START + 400000)
            rig_complete(&rig, STORE_RENEW, STORE_OK);
    }
    rig_expect(&b, "{'event':'revoked','reason':'deadline'}");
    rig_send(&b, "{'op':'release','lease':'%s'}", lease.lease);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_take(&b);
}
END_TEST

// It was held here by another client, who goes on with what Redis has confirmed.
START_TEST(a_client_that_left_has_confirmed_it)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&a, &lease, "k", ",'notify':['renewed']");
    rig_pass(&rig, 1000);
    rig_send(&b, "{'op':'adopt','key':'k','lease':'%s'}", lease.lease);
    call = expect_adopt();
    rig_gone(&b);
    moved(call);
    rig_expect(&a, "{'event':'renewed','lease':'%s','valid_until_ms':%d}", lease.lease,
               RIG_START + 1000 + RIG_VALID);
    rig_release(&a, &lease);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("keeper, adoption");
    TCase *tests = tcase_create("adoption");

    tcase_add_checked_fixture(tests, begin, end);
    tcase_add_test(tests, goes_on_where_it_was);
    tcase_add_test(tests, over_the_cap_it_stays_where_it_is);
    tcase_add_test(tests, a_process_that_cannot_be_watched_is_refused_first);
    tcase_add_test(tests, a_client_that_left_frees_what_it_adopted);
    tcase_add_loop_test(tests, what_a_client_may_still_hold_is_left_to_run_out, 0, 2);
    tcase_add_test(tests, a_client_that_left_lets_it_expire);
    tcase_add_test(tests, a_client_that_left_has_confirmed_it);
    tcase_add_test(tests, it_comes_back_with_the_deadline_that_it_got_elsewhere);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
