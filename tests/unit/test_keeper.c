// SPDX-License-Identifier: Apache-2.0
//
// The keeper's acquires: what the store is asked for, what each outcome makes of it, the queue of
// those who asked for a key while it was being asked for, and the caps.

#include <stdio.h>
#include <string.h>

#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

#define OUR_VALUE                                                                                  \
    "00112233445566778899aabbccddeeff 0123456789abcdef lk1 77 30000 1790000000000000 "             \
    "1789999999000000 812 1000 pod-9 resume it"

static struct rig rig;
static struct rig_client a, b, c, d;

static void begin(void)
{
    rig_open(&rig);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
    rig_connect(&rig, &c, 1000);
    rig_connect(&rig, &d, 2000);
}

static void end(void)
{
    rig_close(&rig);
}

static struct fake_call *ask(struct rig_client *client, const char *key)
{
    rig_send(client, "{'op':'acquire','key':'%s'}", key);
    return fake_store_expect(&rig.fake, STORE_ACQUIRE);
}

static void complete(struct fake_call *call, enum store_outcome outcome)
{
    fake_store_complete(&rig.fake, call, outcome, rig.now_ms);
}

// ---- One acquire ----

START_TEST(the_store_is_asked)
{
    struct fake_call *call;
    char digits[WIRE_LEASE_DIGITS];

    rig_send(&a, "{'op':'acquire','key':'actor:42','label':'resume it'}");
    rig_expect_nothing(&a);
    call = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    ck_assert_str_eq(call->key, "actor:42");
    ck_assert_int_eq(call->acquire.ttl_ms, RIG_T);
    ck_assert_int_eq(call->acquire.deadline_ms, 300000);
    ck_assert_int_eq(call->acquire.fence_floor, 0);
    ck_assert_int_eq(call->acquire.pid, 5000);
    ck_assert_int_eq(call->acquire.uid, 1000);
    ck_assert_str_eq(call->host, "pod-7");
    ck_assert_str_eq(call->label, "resume it");
    ck_assert_int_eq(call->acquire.timeout_ms, RIG_C);
    ck_assert_mem_eq(call->token.instance, rig.keeper.instance, WIRE_INSTANCE_DIGITS);

    rig_pass(&rig, 40);
    fake_store_grant(&rig.fake, call, 1790000000000000, rig.now_ms);
    rig_expect_exact(&a,
                     "{'ok':true,'id':1,'op':'acquire','key':'actor:42','lease':'<hex:32>',"
                     "'fence':1790000000000000,'ttl_ms':30000,'deadline_ms':300000,"
                     "'valid_until_ms':%d,'waited_ms':40}",
                     RIG_START + RIG_VALID);
    message_token_format(&call->token.token, digits);
    ck_assert_mem_eq(rig_string(&a, "lease"), digits, sizeof digits);
    rig_expect_nothing(&a);
    rig_expect_no_call(&rig);

    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// Validity counts from the write, never from the submission or the answer.
START_TEST(validity_counts_from_the_write)
{
    struct fake_call *call = ask(&a, "k");

    rig_pass(&rig, 30);
    fake_store_write(&rig.fake, call, rig.now_ms);
    rig_pass(&rig, 900);
    complete(call, STORE_OK);
    rig_expect(&a, "{'ok':true,'valid_until_ms':%d,'waited_ms':930}", RIG_START + 30 + RIG_VALID);
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

static const struct asked_case {
    const char *members;
    int64_t ttl_ms;
    int64_t deadline_ms;
} asked_cases[] = {
    {"", 30000, 300000},
    {",'ttl_ms':500", 500, 300000},
    {",'ttl_ms':300000", 300000, 300000},
    {",'deadline_ms':1", 30000, 1},
    {",'deadline_ms':3600000", 30000, 3600000},
    {",'deadline_ms':3600001", 30000, 3600000},
    {",'deadline_ms':9007199254740991", 30000, 3600000},
    {",'wait_ms':0,'bind':'connection','on_disconnect':'release','notify':[]", 30000, 300000},
    {",'x_note':{'any':['thing']}", 30000, 300000},
};

START_TEST(ttl_and_deadline_as_asked)
{
    const struct asked_case *asked = &asked_cases[_i];
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", asked->members);
    ck_assert_int_eq(lease.call->acquire.ttl_ms, asked->ttl_ms);
    ck_assert_int_eq(lease.call->acquire.deadline_ms, asked->deadline_ms);
    ck_assert_int_eq(lease.call->acquire.timeout_ms, asked->ttl_ms / 12);
    ck_assert_int_eq(rig_int(&a, "ttl_ms"), asked->ttl_ms);
    ck_assert_int_eq(rig_int(&a, "deadline_ms"), asked->deadline_ms);
    ck_assert_int_eq(lease.valid_until_ms, RIG_START + asked->ttl_ms - asked->ttl_ms / 100 - 2);
    rig_release(&a, &lease);
}
END_TEST

static const struct refusal_case {
    struct store_completion completion;
    const char *pattern; // "waited_ms" apart
    bool owes;           // a compare-and-delete follows
} refusal_cases[] = {
    {{.outcome = STORE_HELD,
      .pttl_ms = 21430,
      .value = OUR_VALUE,
      .value_length = sizeof OUR_VALUE - 1},
     "{'ok':false,'id':1,'op':'acquire','error':'errLockHeld','message':'<string>','key':'k',"
     "'holder':{'host':'pod-9','pid':812,'uid':1000,'label':'resume it','fence':77},"
     "'retry_after_ms':21430,'waited_ms':7}",
     false},
    {{.outcome = STORE_HELD, .pttl_ms = -1, .value = "somebody's secret", .value_length = 17},
     "{'ok':false,'id':1,'op':'acquire','error':'errLockHeld','message':'<string>','key':'k',"
     "'holder':{'foreign':true,'bytes':17},'retry_after_ms':null,'waited_ms':7}",
     false},
    {{.outcome = STORE_HELD, .pttl_ms = 0, .value = NULL, .value_length = 100000},
     "{'ok':false,'id':1,'op':'acquire','error':'errLockHeld','message':'<string>','key':'k',"
     "'holder':{'foreign':true,'bytes':100000},'retry_after_ms':0,'waited_ms':7}",
     false},
    {{.outcome = STORE_HELD, .pttl_ms = 5, .type = "hash"},
     "{'ok':false,'id':1,'op':'acquire','error':'errLockHeld','message':'<string>','key':'k',"
     "'holder':{'foreign':true,'type':'hash'},'retry_after_ms':5,'waited_ms':7}",
     false},
    {{.outcome = STORE_UNAVAILABLE, .error = "LOADING Redis is loading"},
     "{'ok':false,'id':1,'op':'acquire','error':'errRedisUnavailable','message':"
     "'Redis is not available: LOADING Redis is loading; try again later','key':'k','waited_ms':7}",
     false},
    {{.outcome = STORE_UNAVAILABLE},
     "{'ok':false,'id':1,'op':'acquire','error':'errRedisUnavailable','message':'<string>',"
     "'key':'k','waited_ms':7}",
     false},
    {{.outcome = STORE_REFUSED, .error = "OOM command not allowed"},
     "{'ok':false,'id':1,'op':'acquire','error':'errRedisRefused','message':"
     "'Redis refused: OOM command not allowed','key':'k','waited_ms':7}",
     false},
    {{.outcome = STORE_UNSENT, .error = "connection refused"},
     "{'ok':false,'id':1,'op':'acquire','error':'errRedisUnavailable','message':"
     "'Redis is not available: connection refused; try again later','key':'k','waited_ms':7}",
     false},
    {{.outcome = STORE_TIMEOUT},
     "{'ok':false,'id':1,'op':'acquire','error':'errRedisUnavailable','message':"
     "'Redis did not answer in time; try again later','key':'k','waited_ms':7}",
     true},
    {{.outcome = STORE_LOST, .error = "connection reset"},
     "{'ok':false,'id':1,'op':'acquire','error':'errRedisUnavailable','message':"
     "'Redis is not available: connection reset; try again later','key':'k','waited_ms':7}",
     true},
};

// Each refusal; and the key is free to be asked for at once.
START_TEST(every_refusal)
{
    const struct refusal_case *refusal = &refusal_cases[_i];
    struct fake_call *call = ask(&a, "k");
    struct fake_call *owed = NULL;

    rig_pass(&rig, 7);
    fake_store_complete_with(&rig.fake, call, refusal->completion, rig.now_ms);
    rig_expect_exact(&a, "%s", refusal->pattern);
    rig_expect_nothing(&a);
    if (refusal->owes) {
        owed = fake_store_expect(&rig.fake, STORE_RELEASE);
        ck_assert_mem_eq(&owed->token, &call->token, sizeof owed->token);
        ck_assert_str_eq(owed->key, "k");
    }
    rig_expect_no_call(&rig);
    complete(ask(&b, "k"), STORE_HELD);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    if (owed)
        complete(owed, STORE_NOT_OWNER);
    rig_check_idle(&rig);
}
END_TEST

// An owed delete that may have been overtaken is repeated until it is certain.
START_TEST(an_owed_delete_is_repeated)
{
    complete(ask(&a, "k"), STORE_LOST);
    rig_expect(&a, "{'ok':false,'error':'errRedisUnavailable'}");
    fake_store_complete_with(&rig.fake, fake_store_expect(&rig.fake, STORE_RELEASE),
                             (struct store_completion){.outcome = STORE_NOT_OWNER}, rig.now_ms);
    rig_pass(&rig, RIG_R - 1);
    rig_expect_no_call(&rig);
    rig_pass(&rig, 1);
    rig_complete(&rig, STORE_RELEASE, STORE_TIMEOUT);
    rig_pass(&rig, RIG_R);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(an_owed_delete_is_given_up_when_nothing_can_live)
{
    struct fake_call *call;

    complete(ask(&a, "k"), STORE_TIMEOUT);
    rig_expect(&a, "{'ok':false,'error':'errRedisUnavailable'}");
    call = fake_store_expect(&rig.fake, STORE_RELEASE);
    rig_at(&rig, RIG_START + RIG_T + RIG_C + 1);
    ck_assert_uint_eq(rig.keeper.owed, 1); // not without an answer
    fake_store_complete_with(&rig.fake, call, (struct store_completion){.outcome = STORE_NOT_OWNER},
                             rig.now_ms);
    rig_at(&rig, rig.now_ms);
    rig_check_idle(&rig);
}
END_TEST

// A grant is announced only while now < D, else it is undone.
START_TEST(a_grant_at_its_revoke_time_is_undone)
{
    struct fake_call *call = ask(&a, "k");

    rig_at(&rig, RIG_START + RIG_D - 1 + _i);
    complete(call, STORE_OK);
    if (_i == 0) {
        rig_expect(&a, "{'ok':true,'op':'acquire'}");
        rig_gone(&a);
    } else {
        rig_expect(&a, "{'ok':false,'error':'errRedisUnavailable','key':'k'}");
    }
    ck_assert_mem_eq(&rig_complete(&rig, STORE_RELEASE, STORE_OK)->token, &call->token,
                     sizeof call->token);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_client_that_left_frees_its_grant)
{
    static const enum store_outcome outcomes[] = {STORE_OK, STORE_TIMEOUT, STORE_LOST};
    struct fake_call *call = ask(&a, "k");

    if (_i / 3)
        rig_cut(&a);
    else
        rig_gone(&a);
    rig_expect_no_call(&rig);
    complete(call, outcomes[_i % 3]);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(the_fence_floor_is_the_highest_seen)
{
    static const int64_t fences[] = {5, 9, 7, 1790000000000000, 8};
    int64_t floor = 0;

    for (int i = 0; i < 5; i++) {
        char key[16];
        struct fake_call *call;
        snprintf(key, sizeof key, "k%d", i);
        call = ask(&a, key);
        ck_assert_int_eq(call->acquire.fence_floor, floor);
        fake_store_grant(&rig.fake, call, fences[i], rig.now_ms);
        rig_expect(&a, "{'ok':true,'fence':%lld}", (long long)fences[i]);
        floor = fences[i] > floor ? fences[i] : floor;
    }
    rig_gone(&a);
    for (int i = 0; i < 5; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// The floor rises with grants that nobody waits for any more, too.
START_TEST(an_abandoned_grant_raises_the_floor)
{
    struct fake_call *call = ask(&a, "k");

    rig_gone(&a);
    fake_store_grant(&rig.fake, call, 33, rig.now_ms);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    call = ask(&b, "k");
    ck_assert_int_eq(call->acquire.fence_floor, 33);
    complete(call, STORE_REFUSED);
    rig_expect(&b, "{'ok':false}");
}
END_TEST

START_TEST(tokens_are_unique)
{
    enum { GRANTS = 400 };
    static struct rig_lease leases[GRANTS];

    for (int i = 0; i < GRANTS; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i % 10);
        rig_acquire(&a, &leases[i], key, "");
        for (int j = 0; j < i; j++)
            if (strcmp(leases[i].lease, leases[j].lease) == 0)
                ck_abort_msg("a token came twice");
        rig_release(&a, &leases[i]);
    }
}
END_TEST

// ---- A key that is held, or being asked for ----

START_TEST(a_key_that_is_held_here_is_refused_here)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", ",'label':'resume'");
    rig_pass(&rig, 1000);
    rig_send(&d, "{'op':'acquire','key':'k'}");
    rig_expect_exact(&d,
                     "{'ok':false,'id':1,'op':'acquire','error':'errLockHeld','message':'<string>',"
                     "'key':'k','holder':{'host':'pod-7','pid':5000,'uid':1000,'label':'resume',"
                     "'fence':1},'retry_after_ms':%d,'waited_ms':0}",
                     RIG_VALID - 1000);
    rig_send(&a, "{'op':'acquire','key':'k'}"); // its own holder as well
    rig_expect(&a, "{'ok':false,'error':'errLockHeld'}");
    rig_expect_no_call(&rig);
    rig_release(&a, &lease);
}
END_TEST

static void queue_three(void)
{
    rig_pass(&rig, 100);
    rig_send(&b, "{'op':'acquire','key':'k','label':'second'}");
    rig_pass(&rig, 100);
    rig_send(&c, "{'op':'acquire','key':'k'}");
    rig_pass(&rig, 100);
    rig_send(&d, "{'op':'acquire','key':'k'}");
    rig_expect_no_call(&rig);
}

START_TEST(a_denial_is_shared)
{
    const struct refusal_case *refusal = &refusal_cases[_i];
    struct fake_call *call = ask(&a, "k");
    json_t *said;

    queue_three();
    fake_store_complete_with(&rig.fake, call, refusal->completion, rig.now_ms);
    rig_expect(&a, "{'ok':false,'id':1,'waited_ms':300}");
    said = json_incref(json_object_get(a.line, "error"));
    rig_expect(&b, "{'ok':false,'id':1,'key':'k','error':'%s','waited_ms':200}",
               json_string_value(said));
    rig_expect(&c, "{'ok':false,'id':1,'key':'k','error':'%s','waited_ms':100}",
               json_string_value(said));
    rig_expect(&d, "{'ok':false,'id':1,'key':'k','error':'%s','waited_ms':0}",
               json_string_value(said));
    json_decref(said);
    if (refusal->owes)
        rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_grant_refuses_the_queue)
{
    struct fake_call *call = ask(&a, "k");

    queue_three();
    fake_store_grant(&rig.fake, call, 4, rig.now_ms);
    rig_expect(&a, "{'ok':true,'id':1,'waited_ms':300}");
    rig_expect(&b,
               "{'ok':false,'id':1,'op':'acquire','error':'errLockHeld','key':'k',"
               "'holder':{'pid':5000,'fence':4},'retry_after_ms':%d,'waited_ms':200}",
               RIG_VALID - 300);
    rig_expect(&c, "{'ok':false,'id':1,'error':'errLockHeld','waited_ms':100}");
    rig_expect(&d, "{'ok':false,'id':1,'error':'errLockHeld','waited_ms':0}");
    rig_expect_no_call(&rig);
    ck_assert_uint_eq(rig.keeper.table.live, 1);
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// The next in the queue is asked for, in the place of the one before it.
static struct fake_call *expect_handed_over(const struct fake_call *before)
{
    struct fake_call *next = fake_store_expect(&rig.fake, STORE_ACQUIRE);

    ck_assert_uint_eq(next->acquire.replaces, before->lease);
    ck_assert_uint_eq(next->acquire.replaces_generation, before->generation);
    ck_assert_mem_eq(&next->acquire.replaces_token, &before->token, sizeof before->token);
    return next;
}

// A grant that nobody waits for is undone, and then the next in the queue is asked for.
START_TEST(the_queue_moves_up_behind_an_abandoned_grant)
{
    struct fake_call *first = ask(&a, "k");
    struct fake_call *second, *third;

    queue_three();
    rig_gone(&a);
    rig_expect_no_call(&rig);
    complete(first, STORE_OK);
    second = expect_handed_over(first); // which deletes the first one's key
    ck_assert_str_eq(second->label, "second");
    ck_assert_int_eq(second->acquire.timeout_ms, RIG_C - 200); // what is left of its C
    rig_expect_no_call(&rig);

    rig_gone(&b);
    fake_store_grant(&rig.fake, second, 2, rig.now_ms);
    ck_assert_uint_eq(rig.keeper.table.live, 3); // the first one is done with
    third = expect_handed_over(second);
    fake_store_grant(&rig.fake, third, 3, rig.now_ms);
    rig_expect(&c, "{'ok':true,'id':1,'key':'k','fence':3}");
    rig_expect(&d, "{'ok':false,'id':1,'error':'errLockHeld'}");
    rig_gone(&c);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_grant_undone_at_its_revoke_time_moves_the_queue_up)
{
    struct fake_call *first = ask(&a, "k");
    struct fake_call *second;

    rig_at(&rig, RIG_START + RIG_D - 10);
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_pass(&rig, 10);
    complete(first, STORE_OK);
    rig_expect(&a, "{'ok':false,'error':'errRedisUnavailable'}");
    second = expect_handed_over(first);
    ck_assert_int_eq(second->acquire.timeout_ms, RIG_C - 10);
    complete(second, STORE_HELD); // and so the first one's key is gone, too
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_turn_that_comes_late_still_gets_a_moment)
{
    struct fake_call *first = ask(&a, "k");

    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_gone(&a);
    rig_pass(&rig, RIG_C + 5);
    complete(first, STORE_OK);
    first = expect_handed_over(first);
    ck_assert_int_eq(first->acquire.timeout_ms, 1);
    complete(first, STORE_UNSENT);
    rig_expect(&b, "{'ok':false,'error':'errRedisUnavailable'}");
    rig_expect_no_call(&rig);
    rig_pass(&rig, RIG_R); // the delete is still owed
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// Whoever leaves the queue, from any place and in any way, the others keep theirs.
START_TEST(leaving_the_queue)
{
    struct rig_client *queued[] = {&b, &c, &d};
    struct rig_client *leaver = queued[_i % 3];
    struct fake_call *first = ask(&a, "k");

    queue_three();
    if (_i / 3 == 0) {
        rig_gone(leaver);
    } else if (_i / 3 == 1) {
        rig_cut(leaver);
    } else {
        rig_half_close(leaver);
        rig_expect(leaver,
                   "{'ok':false,'id':1,'op':'acquire','error':'errCancelled','key':'k',"
                   "'waited_ms':%d}",
                   200 - _i % 3 * 100);
        rig_finish(leaver);
    }
    ck_assert_uint_eq(rig.keeper.table.live, 3);
    rig_gone(&a);
    complete(first, STORE_OK);
    for (int i = 0; i < 3; i++) {
        if (queued[i] == leaver)
            continue;
        first = expect_handed_over(first);
        rig_gone(queued[i]);
        fake_store_grant(&rig.fake, first, 2, rig.now_ms);
    }
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(one_client_may_queue_behind_itself)
{
    struct fake_call *call = ask(&a, "k");

    rig_send(&a, "{'op':'acquire','key':'k'}");
    rig_send(&a, "{'op':'acquire','key':'k'}");
    rig_send(&b, "{'op':'acquire','key':'k'}");
    if (_i == 0) {
        complete(call, STORE_OK);
        rig_expect(&a, "{'ok':true,'id':1}");
        rig_expect(&a, "{'ok':false,'id':2,'error':'errLockHeld'}");
        rig_expect(&a, "{'ok':false,'id':3,'error':'errLockHeld'}");
        rig_expect(&b, "{'ok':false,'id':1,'error':'errLockHeld'}");
        rig_gone(&a);
    } else { // all of its acquires end with it; the other's is asked for
        rig_gone(&a);
        ck_assert_uint_eq(rig.keeper.table.live, 2);
        complete(call, STORE_OK);
        fake_store_grant(&rig.fake, expect_handed_over(call), 2, rig.now_ms);
        rig_expect(&b, "{'ok':true,'id':1}");
        rig_gone(&b);
    }
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// An acquire whose client left is refused by the store: those behind it are answered with it.
START_TEST(an_abandoned_denial_is_shared)
{
    struct fake_call *call = ask(&a, "k");

    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_gone(&a);
    fake_store_hold(&rig.fake, call, OUR_VALUE, 99, rig.now_ms);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld','holder':{'pid':812},'retry_after_ms':99}");
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

// ---- Caps and refusals of the sidecar itself ----

START_TEST(leases_are_capped_per_uid)
{
    struct keeper_options options;
    struct rig_lease first, second;

    rig_close(&rig);
    options = rig_options(&rig);
    options.caps[ACCOUNT_LEASES] = 2;
    rig_open_with(&rig, &options);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
    rig_connect(&rig, &d, 2000);
    rig_acquire(&a, &first, "k1", "");
    rig_acquire(&b, &second, "k2", "");
    rig_send(&a, "{'op':'acquire','key':'k3'}");
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errLimitExceeded'}");
    rig_expect_no_call(&rig);
    complete(ask(&d, "k3"), STORE_OK); // another uid has its own
    rig_expect(&d, "{'ok':true}");
    // A key that is held costs nothing: the holder is named, as it would be under the cap.
    rig_send(&a, "{'op':'acquire','key':'k3'}");
    rig_expect(&a, "{'ok':false,'error':'errLockHeld'}");

    // A lease counts until its key is done with, not only until it is released.
    rig_send(&a, "{'op':'release','lease':'%s'}", first.lease);
    rig_send(&a, "{'op':'acquire','key':'k4'}");
    rig_expect(&a, "{'ok':false,'error':'errLimitExceeded'}");
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'release'}");
    rig_acquire(&a, &first, "k4", "");
    rig_gone(&a);
    rig_gone(&b);
    rig_gone(&d);
    for (int i = 0; i < 3; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

START_TEST(connections_are_capped_per_uid)
{
    struct keeper_options options;
    struct session refused = {.uid = 1000};

    rig_close(&rig);
    options = rig_options(&rig);
    options.caps[ACCOUNT_CONNECTIONS] = 2;
    rig_open_with(&rig, &options);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
    ck_assert_int_eq(keeper_open_session(&rig.keeper, &refused), KEEPER_E_FULL);
    ck_assert_uint_eq(refused.number, 0);
    rig_connect(&rig, &d, 2000);
    rig_gone(&a);
    rig_connect(&rig, &a, 1000);
}
END_TEST

// Sessions are numbered, and numbers found again, through growth.
START_TEST(many_sessions)
{
    enum { SESSIONS = 300 };
    static struct session sessions[SESSIONS];

    for (uint32_t i = 0; i < SESSIONS; i++) {
        sessions[i] = (struct session){.uid = i % 7};
        ck_assert_int_eq(keeper_open_session(&rig.keeper, &sessions[i]), 0);
        ck_assert_ptr_eq(rig.keeper.sessions[sessions[i].number], &sessions[i]);
    }
    for (uint32_t i = 0; i < SESSIONS; i += 3) {
        uint32_t number = sessions[i].number;
        keeper_close_session(&rig.keeper, &sessions[i], true, rig.now_ms);
        ck_assert_ptr_null(rig.keeper.sessions[number]);
    }
    for (uint32_t i = 0; i < SESSIONS; i += 3)
        ck_assert_int_eq(keeper_open_session(&rig.keeper, &sessions[i]), 0);
    for (uint32_t i = 0; i < SESSIONS; i++) {
        ck_assert_uint_le(sessions[i].number, SESSIONS + 4); // holes were filled
        ck_assert_ptr_eq(rig.keeper.sessions[sessions[i].number], &sessions[i]);
    }
    for (uint32_t i = 0; i < SESSIONS; i++)
        keeper_close_session(&rig.keeper, &sessions[i], i & 1, rig.now_ms);
}
END_TEST

static const char *const bad_ttls[] = {"300001", "499", "0", "-1", "9007199254740991"};

START_TEST(a_ttl_out_of_bounds_never_reaches_the_store)
{
    rig_send(&a, "{'op':'acquire','key':'k','ttl_ms':%s}", bad_ttls[_i]);
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errBadRequest'}");
    ck_assert_ptr_nonnull(strstr(a.text, "ttl_ms"));
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

// A fixed margin that suits the default TTL may not suit another one.
START_TEST(a_ttl_must_suit_the_margin)
{
    struct keeper_options options;

    rig_close(&rig);
    options = rig_options(&rig);
    options.rules.revoke_margin_ms = 5000;
    rig_open_with(&rig, &options);
    rig_connect(&rig, &a, 1000);
    rig_send(&a, "{'op':'acquire','key':'k','ttl_ms':6000}");
    rig_expect(&a, "{'ok':false,'error':'errBadRequest'}");
    rig_send(&a, "{'op':'acquire','key':'k','ttl_ms':60000}"); // under a tenth
    rig_expect(&a, "{'ok':false,'error':'errBadRequest'}");
    complete(ask(&a, "k"), STORE_REFUSED);
    rig_expect(&a, "{'ok':false,'error':'errRedisRefused'}");
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("keeper");
    TCase *tcase = tcase_create("acquire");
    const int refusals = sizeof refusal_cases / sizeof refusal_cases[0];

    tcase_set_timeout(tcase, 20);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, the_store_is_asked);
    tcase_add_test(tcase, validity_counts_from_the_write);
    tcase_add_loop_test(tcase, ttl_and_deadline_as_asked, 0,
                        sizeof asked_cases / sizeof asked_cases[0]);
    tcase_add_loop_test(tcase, every_refusal, 0, refusals);
    tcase_add_test(tcase, an_owed_delete_is_repeated);
    tcase_add_test(tcase, an_owed_delete_is_given_up_when_nothing_can_live);
    tcase_add_loop_test(tcase, a_grant_at_its_revoke_time_is_undone, 0, 2);
    tcase_add_loop_test(tcase, a_client_that_left_frees_its_grant, 0, 6);
    tcase_add_test(tcase, the_fence_floor_is_the_highest_seen);
    tcase_add_test(tcase, an_abandoned_grant_raises_the_floor);
    tcase_add_test(tcase, tokens_are_unique);
    tcase_add_test(tcase, a_key_that_is_held_here_is_refused_here);
    tcase_add_loop_test(tcase, a_denial_is_shared, 0, refusals);
    tcase_add_test(tcase, a_grant_refuses_the_queue);
    tcase_add_test(tcase, the_queue_moves_up_behind_an_abandoned_grant);
    tcase_add_test(tcase, a_grant_undone_at_its_revoke_time_moves_the_queue_up);
    tcase_add_test(tcase, a_turn_that_comes_late_still_gets_a_moment);
    tcase_add_loop_test(tcase, leaving_the_queue, 0, 9);
    tcase_add_loop_test(tcase, one_client_may_queue_behind_itself, 0, 2);
    tcase_add_test(tcase, an_abandoned_denial_is_shared);
    tcase_add_test(tcase, leases_are_capped_per_uid);
    tcase_add_test(tcase, connections_are_capped_per_uid);
    tcase_add_test(tcase, many_sessions);
    tcase_add_loop_test(tcase, a_ttl_out_of_bounds_never_reaches_the_store, 0,
                        sizeof bad_ttls / sizeof bad_ttls[0]);
    tcase_add_test(tcase, a_ttl_must_suit_the_margin);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
