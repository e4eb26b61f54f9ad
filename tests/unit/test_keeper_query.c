// SPDX-License-Identifier: Apache-2.0
//
// adopt, extend, inspect, break and binding to a process: what is asked of the store, what each
// answer does to the lease here, what is told to whom; and a session that goes meanwhile.

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

#define DIGITS "00112233445566778899aabbccddeeff"
#define SINCE_US INT64_C(1790000000000000)
// Of another instance: granted at SINCE_US with a deadline of 300 s.
#define VALUE_OF(instance, uid)                                                                    \
    DIGITS " " instance " lk1 77 30000 1790000300000000 1790000000000000 812 " uid                 \
           " pod-9 resume it"
#define THEIR_VALUE VALUE_OF("0123456789abcdef", "1000")

static struct rig rig;
static struct rig_client a, b, root;
static struct keeper_options options;

static void begin_with(void)
{
    rig_open_with(&rig, &options);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
    rig_connect(&rig, &root, 0);
}

static void begin(void)
{
    options = rig_options(&rig);
    options.uid = 4321;
    begin_with();
}

static void end(void)
{
    for (int i = 0; i < RIG_CLIENTS; i++)
        if (rig.clients[i])
            rig_gone(rig.clients[i]);
    while (fake_store_unseen(&rig.fake) > 0) { // what the last ones held is deleted
        struct fake_call *call = NULL;
        for (size_t i = 0; i < rig.fake.count && !call; i++)
            if (!rig.fake.calls[i].seen)
                call = &rig.fake.calls[i];
        call->seen = true;
        fake_store_complete(&rig.fake, call, STORE_OK, rig.now_ms);
    }
    rig_close(&rig);
}

static void complete(struct fake_call *call, enum store_outcome outcome)
{
    fake_store_complete(&rig.fake, call, outcome, rig.now_ms);
}

static struct fake_call *ask_to_adopt(struct rig_client *client, const char *more)
{
    rig_send(client, "{'op':'adopt','key':'k','lease':'" DIGITS "'%s}", more);
    return fake_store_expect(&rig.fake, STORE_ADOPT);
}

// The lease is adopted, 60 s after its grant.
static void adopt(struct rig_client *client, const char *more)
{
    struct fake_call *call = ask_to_adopt(client, more);

    fake_store_adopt(&rig.fake, call, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    rig_expect(client, "{'ok':true,'op':'adopt','key':'k','lease':'" DIGITS "','fence':77}");
}

static void expect_deleted(void)
{
    struct fake_call *call = rig_complete(&rig, STORE_RELEASE, STORE_OK);

    ck_assert_str_eq(call->key, "k");
    ck_assert_mem_eq(call->token.instance, rig.keeper.instance, WIRE_INSTANCE_DIGITS);
}

// ---- adopt: from elsewhere ----

START_TEST(adoption_makes_a_lease_that_is_held)
{
    struct fake_call *call = ask_to_adopt(&a, ",'notify':['renewed']");

    ck_assert_str_eq(call->key, "k");
    ck_assert_int_eq(call->query.uid, 1000);
    ck_assert_int_eq(call->query.pid, 5000);
    ck_assert_str_eq(call->query.host, "pod-7");
    ck_assert_mem_eq(call->query.token.instance, rig.keeper.instance, WIRE_INSTANCE_DIGITS);
    rig_expect_nothing(&a);
    fake_store_adopt(&rig.fake, call, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    rig_expect_exact(&a,
                     "{'ok':true,'id':1,'op':'adopt','key':'k','lease':'" DIGITS "','fence':77,"
                     "'ttl_ms':30000,'deadline_ms':300000,'valid_until_ms':%lld,'waited_ms':0}",
                     (long long)rig.now_ms + RIG_VALID);
    rig_send(&b, "{'op':'list'}");
    rig_expect(&b, "{'leases':[{'state':'held','key':'k','held_ms':60000,'fence':77,"
                   "'holder':{'uid':1000,'pid':5000,'label':'resume it'}}]}");
    rig_pass(&rig, RIG_P);
    rig_complete(&rig, STORE_RENEW, STORE_OK);
    rig_expect(&a, "{'event':'renewed','lease':'" DIGITS "'}");
    rig_send(&a, "{'op':'release','lease':'" DIGITS "'}");
    expect_deleted();
    rig_expect(&a, "{'ok':true,'op':'release'}");
}
END_TEST

// The deadline is where it was: 300 s after the grant, 240 s after the adoption.
START_TEST(the_deadline_goes_on)
{
    int64_t granted_ms = rig.now_ms - 60000;

    adopt(&a, "");
    while (rig.now_ms < granted_ms + 299000) {
        rig_pass(&rig, 1000);
        while (fake_store_unseen(&rig.fake) > 0)
            rig_complete(&rig, STORE_RENEW, STORE_OK);
    }
    rig_expect_nothing(&a);
    rig_at(&rig, granted_ms + 300000);
    rig_expect(&a, "{'event':'revoked','reason':'deadline','held_ms':300000}");
}
END_TEST

START_TEST(grants_after_an_adoption_have_a_higher_fence)
{
    struct fake_call *call;

    adopt(&a, "");
    rig_send(&b, "{'op':'acquire','key':'other'}");
    call = rig_complete(&rig, STORE_ACQUIRE, STORE_OK);
    ck_assert_int_eq(call->acquire.fence_floor, 77);
    rig_expect(&b, "{'ok':true}");
}
END_TEST

static const struct {
    enum store_outcome outcome;
    const char *error;
} not_adopted[] = {
    {STORE_NOT_OWNER, "errLostActorLock"},      {STORE_NOT_YOURS, "errNotPermitted"},
    {STORE_UNAVAILABLE, "errRedisUnavailable"}, {STORE_TIMEOUT, "errRedisUnavailable"},
    {STORE_LOST, "errRedisUnavailable"},        {STORE_UNSENT, "errRedisUnavailable"},
    {STORE_REFUSED, "errRedisRefused"},
};

START_TEST(an_adoption_that_fails_leaves_nothing)
{
    complete(ask_to_adopt(&a, ""), not_adopted[_i].outcome);
    rig_expect(&a, "{'ok':false,'id':1,'op':'adopt','error':'%s'}", not_adopted[_i].error);
    ck_assert_ptr_null(strstr(a.text, DIGITS));
    ck_assert_ptr_null(strstr(a.text, "holder"));
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

// At D the answer is of no use; and whoever adopts has not stopped, so nothing is deleted.
START_TEST(an_adoption_answered_too_late)
{
    struct fake_call *call = ask_to_adopt(&a, "");

    fake_store_write(&rig.fake, call, rig.now_ms);
    rig_pass(&rig, RIG_D);
    fake_store_adopt(&rig.fake, call, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    rig_expect(&a, "{'ok':false,'op':'adopt','error':'errLostActorLock'}");
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_value_that_is_no_lease_is_not_adopted)
{
    fake_store_adopt(&rig.fake, ask_to_adopt(&a, ""), "00112233445566778899aabbccddeeff", SINCE_US,
                     rig.now_ms);
    rig_expect(&a, "{'ok':false,'op':'adopt','error':'errLostActorLock'}");
    rig_check_idle(&rig);
}
END_TEST

// Redis would not move it back, so the cap is asked first.
START_TEST(the_cap_comes_before_redis)
{
    struct rig_lease lease;
    struct fake_call *first;

    end();
    options.caps[ACCOUNT_LEASES] = 2;
    begin_with();
    rig_acquire(&a, &lease, "other", "");
    first = ask_to_adopt(&a, "");
    rig_send(&b, "{'op':'adopt','key':'k2','lease':'ffffffffffffffffffffffffffffffff'}");
    rig_expect(&b, "{'ok':false,'op':'adopt','error':'errLimitExceeded'}");
    ck_assert_ptr_nonnull(strstr(b.text, "--max-leases-per-uid"));
    rig_expect_no_call(&rig);
    complete(first, STORE_NOT_OWNER); // and its place is free again
    rig_expect(&a, "{'ok':false,'error':'errLostActorLock'}");
    adopt(&b, "");
    rig_send(&a, "{'op':'acquire','key':'third'}");
    rig_expect(&a, "{'ok':false,'error':'errLimitExceeded'}");
}
END_TEST

START_TEST(whoever_adopts_and_dies_frees_the_key)
{
    struct fake_call *call = ask_to_adopt(&a, "");

    rig_gone(&a);
    fake_store_adopt(&rig.fake, call, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    expect_deleted();
    rig_check_idle(&rig);
}
END_TEST

START_TEST(whoever_adopts_and_is_cut_off_keeps_the_key)
{
    struct fake_call *call = ask_to_adopt(&a, "");

    rig_cut(&a);
    fake_store_adopt(&rig.fake, call, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    rig_expect_no_call(&rig); // no heartbeat either: it runs out, unless it is adopted again
    rig_check_idle(&rig);
}
END_TEST

START_TEST(an_adoption_finds_another_lease_of_the_key_here)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&b, &lease, "k", "");
    call = ask_to_adopt(&a, "");
    fake_store_adopt(&rig.fake, call, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    rig_expect(&b, "{'event':'revoked','reason':'lost','lease':'%s'}", lease.lease);
    rig_expect(&a, "{'ok':true,'op':'adopt','fence':77}");
    rig_send(&root, "{'op':'acquire','key':'k'}");
    rig_expect(&root, "{'ok':false,'error':'errLockHeld','holder':{'pid':5000,'fence':77}}");
}
END_TEST

START_TEST(no_adoption_while_draining)
{
    keeper_drain(&rig.keeper, rig.now_ms);
    rig_send(&a, "{'op':'adopt','key':'k','lease':'" DIGITS "'}");
    rig_expect(&a, "{'ok':false,'op':'adopt','error':'errShuttingDown'}");
    rig_expect_no_call(&rig);
}
END_TEST

// ---- adopt: from another connection of this sidecar ----

START_TEST(a_lease_moves_between_connections)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&a, &lease, "k", ",'notify':['renewed']");
    rig_pass(&rig, 1000);
    rig_send(&b, "{'op':'adopt','key':'k','lease':'%s'}", lease.lease);
    call = fake_store_expect(&rig.fake, STORE_ADOPT);
    complete(call, STORE_OK);
    rig_expect(&a, "{'event':'renewed','valid_until_ms':%lld}", (long long)rig.now_ms + RIG_VALID);
    rig_expect(&a, "{'event':'revoked','reason':'moved','safe_ms':0,'lease':'%s'}", lease.lease);
    rig_expect(&b, "{'ok':true,'op':'adopt','lease':'%s','valid_until_ms':%lld}", lease.lease,
               (long long)rig.now_ms + RIG_VALID);
    rig_gone(&a);
    rig_expect_no_call(&rig); // it is b's
    rig_gone(&b);
    expect_deleted();
}
END_TEST

START_TEST(adopted_by_its_own_connection)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&a, "{'op':'adopt','key':'k','lease':'%s','bind':'none'}", lease.lease);
    rig_complete(&rig, STORE_ADOPT, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'adopt','lease':'%s'}", lease.lease);
    rig_gone(&a);
    rig_expect_no_call(&rig);
    rig_send(&b, "{'op':'release','lease':'%s'}", lease.lease);
    expect_deleted();
    rig_expect(&b, "{'ok':true,'op':'release'}");
}
END_TEST

START_TEST(who_may_move_a_lease)
{
    struct rig_lease lease;
    static struct rig_client stranger;

    rig_connect(&rig, &stranger, 1001);
    rig_acquire(&a, &lease, "k", "");
    rig_send(&stranger, "{'op':'adopt','key':'k','lease':'%s'}", lease.lease);
    rig_expect(&stranger, "{'ok':false,'op':'adopt','error':'errNotPermitted'}");
    rig_send(&b, "{'op':'adopt','key':'other','lease':'%s'}", lease.lease);
    rig_expect(&b, "{'ok':false,'op':'adopt','error':'errLostActorLock'}");
    rig_expect_no_call(&rig);
    rig_send(&root, "{'op':'adopt','key':'k','lease':'%s'}", lease.lease);
    rig_complete(&rig, STORE_ADOPT, STORE_OK);
    rig_expect(&a, "{'event':'revoked','reason':'moved'}");
    rig_expect(&root, "{'ok':true,'op':'adopt'}");
}
END_TEST

START_TEST(a_lease_that_is_over_is_not_adopted)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", ",'deadline_ms':100");
    rig_pass(&rig, 100);
    rig_expect(&a, "{'event':'revoked','reason':'deadline'}");
    rig_send(&b, "{'op':'adopt','key':'k','lease':'%s'}", lease.lease);
    rig_expect(&b, "{'ok':false,'op':'adopt','error':'errLostActorLock'}");
    rig_expect_no_call(&rig);
}
END_TEST

START_TEST(two_adopt_the_same_lease)
{
    struct fake_call *first = ask_to_adopt(&a, ""), *second = ask_to_adopt(&b, "");

    fake_store_adopt(&rig.fake, first, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    rig_expect(&a, "{'ok':true,'op':'adopt'}");
    fake_store_adopt(&rig.fake, second, THEIR_VALUE, SINCE_US + 60000000, rig.now_ms);
    rig_expect(&a, "{'event':'revoked','reason':'moved'}");
    rig_expect(&b, "{'ok':true,'op':'adopt','fence':77}");
    ck_assert_uint_eq(rig.keeper.table.live, 1);
}
END_TEST

// ---- extend ----

START_TEST(extend_asks_redis_first)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&a, &lease, "k", ",'deadline_ms':1000");
    rig_pass(&rig, 400);
    rig_send(&b, "{'op':'extend','lease':'%s','deadline_ms':5000}", lease.lease);
    call = fake_store_expect(&rig.fake, STORE_EXTEND);
    ck_assert_int_eq(call->query.deadline_ms, 5000);
    rig_expect_nothing(&b);
    complete(call, STORE_OK);
    rig_expect_exact(&b,
                     "{'ok':true,'id':1,'op':'extend','lease':'%s','key':'k','deadline_ms':5000,"
                     "'deadline_in_ms':4600}",
                     lease.lease);
    rig_pass(&rig, 4599);
    rig_expect_nothing(&a);
    rig_pass(&rig, 1);
    rig_expect(&a, "{'event':'revoked','reason':'deadline','held_ms':5000}");
}
END_TEST

START_TEST(extend_can_shorten)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&a, "{'op':'extend','lease':'%s','deadline_ms':50}", lease.lease);
    rig_complete(&rig, STORE_EXTEND, STORE_OK);
    rig_expect(&a, "{'ok':true,'deadline_in_ms':50}");
    rig_pass(&rig, 50);
    rig_expect(&a, "{'event':'revoked','reason':'deadline'}");
}
END_TEST

START_TEST(extend_is_capped_and_checked)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&a, &lease, "k", ",'deadline_ms':1000");
    rig_pass(&rig, 500);
    rig_send(&a, "{'op':'extend','lease':'%s','deadline_ms':500}", lease.lease);
    rig_expect(&a, "{'ok':false,'op':'extend','error':'errBadRequest'}");
    rig_send(&a, "{'op':'extend','lease':'" DIGITS "','deadline_ms':500}");
    rig_expect(&a, "{'ok':false,'op':'extend','error':'errUnknownLease'}");
    rig_expect_no_call(&rig);
    rig_send(&a, "{'op':'extend','lease':'%s','deadline_ms':99999999}", lease.lease);
    call = rig_complete(&rig, STORE_EXTEND, STORE_OK);
    ck_assert_int_eq(call->query.deadline_ms, 3600000);
    rig_expect(&a, "{'ok':true,'deadline_ms':3600000}");
    rig_pass(&rig, 1);
}
END_TEST

START_TEST(an_extend_without_an_answer_changes_nothing)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", ",'deadline_ms':1000");
    rig_send(&a, "{'op':'extend','lease':'%s','deadline_ms':5000}", lease.lease);
    rig_complete(&rig, STORE_EXTEND, STORE_TIMEOUT);
    rig_expect(&a, "{'ok':false,'op':'extend','error':'errRedisUnavailable'}");
    rig_pass(&rig, 1000);
    rig_expect(&a, "{'event':'revoked','reason':'deadline'}");
    rig_send(&a, "{'op':'extend','lease':'%s','deadline_ms':5000}", lease.lease);
    rig_expect(&a, "{'ok':false,'op':'extend','error':'errLostActorLock'}");
}
END_TEST

START_TEST(an_extend_finds_the_key_lost)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&b, "{'op':'extend','lease':'%s','deadline_ms':5000}", lease.lease);
    rig_complete(&rig, STORE_EXTEND, STORE_NOT_OWNER);
    rig_expect(&a, "{'event':'revoked','reason':'lost'}");
    rig_expect(&b, "{'ok':false,'op':'extend','error':'errLostActorLock'}");
}
END_TEST

START_TEST(a_lease_ends_while_it_is_extended)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&b, "{'op':'extend','lease':'%s','deadline_ms':5000}", lease.lease);
    call = fake_store_expect(&rig.fake, STORE_EXTEND);
    rig_release(&a, &lease);
    complete(call, STORE_OK);
    rig_expect(&b, "{'ok':false,'op':'extend','error':'errLostActorLock'}");
    rig_check_idle(&rig);
}
END_TEST

// ---- inspect ----

static struct fake_call *inspect(void)
{
    rig_send(&a, "{'op':'inspect','key':'k'}");
    return fake_store_expect(&rig.fake, STORE_INSPECT);
}

static void answer(struct fake_call *call, const char *value, const char *type, int64_t pttl_ms)
{
    fake_store_complete_with(&rig.fake, call,
                             (struct store_completion){
                                 .outcome = STORE_HELD,
                                 .value = value,
                                 .value_length = value ? strlen(value) : 0,
                                 .type = type,
                                 .pttl_ms = pttl_ms,
                                 .now_us = SINCE_US + 60000000,
                             },
                             rig.now_ms);
}

START_TEST(inspect_shows_the_holder)
{
    char mine[256];

    answer(inspect(), THEIR_VALUE, NULL, 20000);
    rig_expect_exact(&a, "{'ok':true,'id':1,'op':'inspect','key':'k','held':true,'here':false,"
                         "'holder':{'host':'pod-9','pid':812,'uid':1000,'label':'resume it',"
                         "'fence':77},'ttl_left_ms':20000,'deadline_in_ms':240000,"
                         "'since_ms':60000}");
    ck_assert_ptr_null(strstr(a.text, DIGITS));
    snprintf(mine, sizeof mine,
             DIGITS " %.16s"
                    "%s",
             rig.keeper.instance, " lk1 77 30000 1790000300000000 1790000000000000 812 1000 pod-7");
    answer(inspect(), mine, NULL, 1);
    rig_expect(&a, "{'ok':true,'held':true,'here':true,'holder':{'host':'pod-7'}}");
}
END_TEST

START_TEST(inspect_of_what_is_not_ours)
{
    complete(inspect(), STORE_OK);
    rig_expect_exact(&a, "{'ok':true,'id':1,'op':'inspect','key':'k','held':false}");
    answer(inspect(), "secret", NULL, -1);
    rig_expect_exact(&a, "{'ok':true,'id':2,'op':'inspect','key':'k','held':true,'here':false,"
                         "'holder':{'foreign':true,'bytes':6},'ttl_left_ms':null}");
    answer(inspect(), NULL, "hash", 7);
    rig_expect_exact(&a, "{'ok':true,'id':3,'op':'inspect','key':'k','held':true,'here':false,"
                         "'holder':{'foreign':true,'type':'hash'},'ttl_left_ms':7}");
    answer(inspect(), DIGITS, NULL, 7); // redis-py's are 32 hex digits
    rig_expect(&a, "{'holder':{'foreign':true,'bytes':32}}");
    ck_assert_ptr_null(strstr(a.text, DIGITS));
    complete(inspect(), STORE_TIMEOUT);
    rig_expect(&a, "{'ok':false,'op':'inspect','error':'errRedisUnavailable','key':'k'}");
}
END_TEST

START_TEST(queries_of_a_session_that_went)
{
    struct fake_call *inspected = inspect();
    struct fake_call *adopting = ask_to_adopt(&a, "");

    rig_gone(&a);
    answer(inspected, THEIR_VALUE, NULL, 20000);
    complete(adopting, STORE_NOT_OWNER);
    rig_check_idle(&rig);
}
END_TEST

// ---- break ----

START_TEST(break_is_for_operators)
{
    static struct rig_client own;

    rig_connect(&rig, &own, 4321);
    rig_send(&a, "{'op':'break','key':'k'}");
    rig_expect(&a, "{'ok':false,'op':'break','error':'errNotPermitted'}");
    rig_expect_no_call(&rig);
    rig_send(&own, "{'op':'break','key':'k'}");
    rig_complete(&rig, STORE_BREAK, STORE_OK);
    rig_expect_exact(&own, "{'ok':true,'id':1,'op':'break','key':'k','broken':true}");
    rig_send(&root, "{'op':'break','key':'k'}");
    rig_complete(&rig, STORE_BREAK, STORE_NOT_OWNER);
    rig_expect(&root, "{'ok':true,'broken':false}");
    rig_send(&root, "{'op':'break','key':'k'}");
    rig_complete(&rig, STORE_BREAK, STORE_REFUSED);
    rig_expect(&root, "{'ok':false,'op':'break','error':'errRedisRefused'}");
}
END_TEST

START_TEST(a_holder_here_is_told_before_its_key_goes)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&root, "{'op':'break','key':'k'}");
    rig_expect(&a, "{'event':'revoked','reason':'broken','safe_ms':0,'lease':'%s'}", lease.lease);
    ck_assert_uint_eq(a.calls_at_output, 1); // before the delete was submitted
    call = fake_store_expect(&rig.fake, STORE_RELEASE);
    rig_expect_nothing(&root);
    fake_store_complete_with(&rig.fake, call,
                             (struct store_completion){.outcome = STORE_OK, .certain = true},
                             rig.now_ms);
    rig_expect(&root, "{'ok':true,'op':'break','broken':true}");
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_grace_is_waited_for)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&root, "{'op':'break','key':'k','grace_ms':700}");
    rig_expect(&a, "{'event':'revoked','reason':'broken','safe_ms':700,'valid_until_ms':%lld}",
               (long long)rig.now_ms + 700);
    rig_pass(&rig, 699);
    rig_expect_no_call(&rig);
    rig_expect_nothing(&root);
    rig_pass(&rig, 1);
    fake_store_complete_with(&rig.fake, fake_store_expect(&rig.fake, STORE_RELEASE),
                             (struct store_completion){.outcome = STORE_OK, .certain = true},
                             rig.now_ms);
    rig_expect(&root, "{'ok':true,'op':'break','broken':true}");
}
END_TEST

// Its holder says sooner that it has stopped.
START_TEST(a_release_within_the_grace)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&root, "{'op':'break','key':'k','grace_ms':60000}");
    rig_expect(&a, "{'event':'revoked','reason':'broken'}");
    ck_assert_int_le(rig_int(&a, "safe_ms"), RIG_VALID); // no promise beyond the validity
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':false,'op':'release','error':'errLostActorLock','freed':true}");
    rig_expect(&root, "{'ok':true,'op':'break','broken':true}");
    rig_check_idle(&rig);
}
END_TEST

START_TEST(who_breaks_and_leaves)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    rig_send(&root, "{'op':'break','key':'k','grace_ms':100}");
    rig_expect(&a, "{'event':'revoked','reason':'broken'}");
    rig_gone(&root);
    rig_pass(&rig, 100);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// ---- Binding to a process ----

struct watched {
    pid_t pid;
    int watches;
    int unwatches;
    const char *refusal;
};

static struct watched watched;

static const char *watch_process(void *context, struct session *session, pid_t *pid, void **watch)
{
    (void)context;
    if (watched.refusal)
        return watched.refusal;
    *pid = *pid ? *pid : session->pid;
    watched.pid = *pid;
    watched.watches++;
    *watch = &watched;
    return NULL;
}

static void unwatch_process(void *context, void *watch)
{
    (void)context;
    ck_assert_ptr_eq(watch, &watched);
    watched.unwatches++;
}

static void begin_bound(void)
{
    options = rig_options(&rig);
    options.watch_process = watch_process;
    options.unwatch_process = unwatch_process;
    watched = (struct watched){0};
    begin_with();
}

START_TEST(a_lease_outlives_its_connection_and_ends_with_its_process)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", ",'bind':'pid'");
    ck_assert_int_eq(watched.pid, 5000);
    rig_gone(&a);
    rig_expect_no_call(&rig);
    keeper_process_ended(&rig.keeper, &watched, rig.now_ms);
    expect_deleted();
    rig_check_idle(&rig);
    ck_assert_int_eq(watched.watches, watched.unwatches);
}
END_TEST

// A grant that is still in the sidecar's buffer when its connection ends is nobody's, under any bind.
START_TEST(a_grant_that_nobody_read_is_freed)
{
    static const char *const more[] = {"'bind':'none'", "'bind':'pid'", "'on_disconnect':'expire'"};

    rig_send(&a, "{'op':'acquire','key':'k',%s}", more[_i / 2]);
    fake_store_grant(&rig.fake, fake_store_expect(&rig.fake, STORE_ACQUIRE), 7, rig.now_ms);
    a.may_fail = true; // nothing is taken from it
    if (_i % 2)
        rig_cut(&a);
    else
        rig_gone(&a);
    expect_deleted();
    rig_check_idle(&rig);
}
END_TEST

START_TEST(whoever_still_reads_is_told)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", ",'bind':'pid','pid':77");
    ck_assert_int_eq(watched.pid, 77);
    keeper_process_ended(&rig.keeper, &watched, rig.now_ms);
    rig_expect(&a, "{'event':'revoked','reason':'eof','lease':'%s'}", lease.lease);
    expect_deleted();
}
END_TEST

START_TEST(a_process_that_cannot_be_watched)
{
    watched.refusal = "no such process";
    rig_send(&a, "{'op':'acquire','key':'k','bind':'pid','pid':77}");
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errBadRequest'}");
    ck_assert_ptr_nonnull(strstr(a.text, "no such process"));
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(one_process_is_watched_once)
{
    struct rig_lease lease, other;

    rig_acquire(&a, &lease, "k", ",'bind':'pid'");
    rig_acquire(&a, &other, "k2", ",'bind':'pid'");
    ck_assert_int_eq(watched.watches - watched.unwatches, 1);
    rig_release(&a, &lease);
    ck_assert_int_eq(watched.watches - watched.unwatches, 1);
    rig_release(&a, &other);
    ck_assert_int_eq(watched.watches, watched.unwatches);
}
END_TEST

START_TEST(an_adopted_lease_is_bound_as_its_adopter_says)
{
    adopt(&a, ",'bind':'pid'");
    rig_gone(&a);
    rig_expect_no_call(&rig);
    keeper_process_ended(&rig.keeper, &watched, rig.now_ms);
    expect_deleted();
}
END_TEST

START_TEST(a_bound_process_ends_while_its_lease_is_asked_for)
{
    struct fake_call *call;

    rig_send(&a, "{'op':'acquire','key':'k','bind':'pid','pid':77}");
    call = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    keeper_process_ended(&rig.keeper, &watched, rig.now_ms);
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errCancelled'}");
    fake_store_grant(&rig.fake, call, 9, rig.now_ms);
    expect_deleted();
    rig_check_idle(&rig);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("keeper_query");
    TCase *tcase = tcase_create("queries");

    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, adoption_makes_a_lease_that_is_held);
    tcase_add_test(tcase, the_deadline_goes_on);
    tcase_add_test(tcase, grants_after_an_adoption_have_a_higher_fence);
    tcase_add_loop_test(tcase, an_adoption_that_fails_leaves_nothing, 0,
                        (int)(sizeof not_adopted / sizeof *not_adopted));
    tcase_add_test(tcase, an_adoption_answered_too_late);
    tcase_add_test(tcase, a_value_that_is_no_lease_is_not_adopted);
    tcase_add_test(tcase, the_cap_comes_before_redis);
    tcase_add_test(tcase, whoever_adopts_and_dies_frees_the_key);
    tcase_add_test(tcase, whoever_adopts_and_is_cut_off_keeps_the_key);
    tcase_add_test(tcase, an_adoption_finds_another_lease_of_the_key_here);
    tcase_add_test(tcase, no_adoption_while_draining);
    tcase_add_test(tcase, a_lease_moves_between_connections);
    tcase_add_test(tcase, adopted_by_its_own_connection);
    tcase_add_test(tcase, who_may_move_a_lease);
    tcase_add_test(tcase, a_lease_that_is_over_is_not_adopted);
    tcase_add_test(tcase, two_adopt_the_same_lease);
    tcase_add_test(tcase, extend_asks_redis_first);
    tcase_add_test(tcase, extend_can_shorten);
    tcase_add_test(tcase, extend_is_capped_and_checked);
    tcase_add_test(tcase, an_extend_without_an_answer_changes_nothing);
    tcase_add_test(tcase, an_extend_finds_the_key_lost);
    tcase_add_test(tcase, a_lease_ends_while_it_is_extended);
    tcase_add_test(tcase, inspect_shows_the_holder);
    tcase_add_test(tcase, inspect_of_what_is_not_ours);
    tcase_add_test(tcase, queries_of_a_session_that_went);
    tcase_add_test(tcase, break_is_for_operators);
    tcase_add_test(tcase, a_holder_here_is_told_before_its_key_goes);
    tcase_add_test(tcase, a_grace_is_waited_for);
    tcase_add_test(tcase, a_release_within_the_grace);
    tcase_add_test(tcase, who_breaks_and_leaves);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("processes");
    tcase_add_checked_fixture(tcase, begin_bound, end);
    tcase_add_test(tcase, a_lease_outlives_its_connection_and_ends_with_its_process);
    tcase_add_loop_test(tcase, a_grant_that_nobody_read_is_freed, 0, 6);
    tcase_add_test(tcase, whoever_still_reads_is_told);
    tcase_add_test(tcase, a_process_that_cannot_be_watched);
    tcase_add_test(tcase, one_process_is_watched_once);
    tcase_add_test(tcase, an_adopted_lease_is_bound_as_its_adopter_says);
    tcase_add_test(tcase, a_bound_process_ends_while_its_lease_is_asked_for);
    suite_add_tcase(suite, tcase);
    return scratch_main(suite);
}
