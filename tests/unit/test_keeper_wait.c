// SPDX-License-Identifier: Apache-2.0
//
// Who waits for a key: the order, the one contender, hand-over, and every way in which a wait ends.
// At the end of each test no key is watched and nothing is left (rig_close).

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

#define OUR_VALUE                                                                                  \
    "00112233445566778899aabbccddeeff 0123456789abcdef lk1 77 30000 1790000000000000 "             \
    "1789999999000000 812 1000 pod-9 resume it"

static struct rig rig;
static struct rig_client a, b, c, d;
static struct rig_client many[KEEPER_MAX_HOPS + 4];

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
    size_t watch_count;

    for (int i = 0; i < RIG_CLIENTS; i++)
        if (rig.clients[i])
            rig_gone(rig.clients[i]);
    watch_count = rig.fake.watch_count;
    rig_close(&rig);
    ck_assert_uint_eq(watch_count, 0);
}

static int64_t wait_for(struct rig_client *client, int64_t wait_ms)
{
    return rig_send(client, "{'op':'acquire','key':'k','wait_ms':%lld}", (long long)wait_ms);
}

static struct fake_call *expect_acquire(void)
{
    struct fake_call *call = fake_store_expect(&rig.fake, STORE_ACQUIRE);

    ck_assert_str_eq(call->key, "k");
    ck_assert_uint_eq(call->acquire.replaces, SLOT_NONE);
    return call;
}

// The acquire of the next in the queue, in the place of the one before it.
static struct fake_call *expect_handed_over(const struct fake_call *before)
{
    struct fake_call *next = fake_store_expect(&rig.fake, STORE_ACQUIRE);

    ck_assert_uint_eq(next->acquire.replaces, before->lease);
    ck_assert_uint_eq(next->acquire.replaces_generation, before->generation);
    ck_assert_mem_eq(&next->acquire.replaces_token, &before->token, sizeof before->token);
    ck_assert_mem_ne(&next->token.token, &before->token.token, sizeof before->token.token);
    return next;
}

static void complete(struct fake_call *call, enum store_outcome outcome)
{
    fake_store_complete(&rig.fake, call, outcome, rig.now_ms);
}

static void grant(struct fake_call *call, int64_t fence)
{
    fake_store_grant(&rig.fake, call, fence, rig.now_ms);
}

static void deny(struct fake_call *call, int64_t pttl_ms)
{
    fake_store_hold(&rig.fake, call, OUR_VALUE, pttl_ms, rig.now_ms);
}

// The lease of the newest line.
static void release(struct rig_client *client)
{
    char lease[WIRE_LEASE_DIGITS + 1];

    memcpy(lease, rig_string(client, "lease"), sizeof lease);
    rig_send(client, "{'op':'release','lease':'%s'}", lease);
}

// Client a holds the key; b, c and d wait for it.
static struct fake_call *hold_and_queue(void)
{
    struct rig_lease lease;

    rig_acquire(&a, &lease, "k", "");
    wait_for(&b, 60000);
    rig_pass(&rig, 10);
    wait_for(&c, 60000);
    rig_pass(&rig, 10);
    wait_for(&d, -1);
    return lease.call;
}

// ---- The order ----

START_TEST(first_come_first_served)
{
    struct rig_client *waiters[] = {&b, &c, &d};
    struct rig_client *holder = &a;
    struct fake_call *call = hold_and_queue(), *next;

    rig_pass(&rig, 100);
    for (int i = 0; i < 3; i++) {
        rig_expect_no_call(&rig);
        rig_expect_nothing(waiters[i]);
        release(holder);
        rig_expect_nothing(holder); // not before Redis has answered
        next = expect_handed_over(call);
        rig_expect_no_call(&rig); // the hand-over is the delete
        grant(next, 10 + i);
        rig_expect(holder, "{'ok':true,'op':'release'}");
        rig_expect(waiters[i], "{'ok':true,'id':1,'op':'acquire','fence':%d,'waited_ms':%d}",
                   10 + i, 120 - 10 * i);
        holder = waiters[i];
        call = next;
    }
    ck_assert_uint_eq(rig.fake.watched, 0); // the key was never another's
    release(&d);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&d, "{'ok':true,'op':'release'}");
    rig_check_idle(&rig);
}
END_TEST

// Whoever dies hands over as well.
START_TEST(the_end_of_a_connection_hands_over)
{
    struct fake_call *next, *call = hold_and_queue();

    rig_gone(&a);
    next = expect_handed_over(call);
    rig_expect_no_call(&rig);
    grant(next, 2);
    rig_expect(&b, "{'ok':true,'op':'acquire'}");
    rig_half_close(&b);
    rig_expect(&b, "{'event':'revoked','reason':'eof'}");
    call = next;
    next = expect_handed_over(call);
    grant(next, 3);
    rig_finish(&b);
    rig_expect(&c, "{'ok':true,'op':'acquire','fence':3}");
    ck_assert_uint_eq(rig.keeper.table.live, 2);
    rig_gone(&d);
    rig_gone(&c);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// A holder that was cut off may still act: its key stays, and who waits asks and is denied.
START_TEST(a_cut_off_holder_hands_nothing_over)
{
    struct fake_call *call;

    hold_and_queue();
    rig_cut(&a);
    call = expect_acquire();
    ck_assert_uint_eq(call->acquire.replaces, SLOT_NONE);
    deny(call, 3000);
    rig_expect_nothing(&b);
    ck_assert(fake_store_is_watched(&rig.fake, "k"));
    rig_gone(&b);
    complete(expect_acquire(), STORE_HELD);
    rig_gone(&c);
    complete(expect_acquire(), STORE_HELD);
    rig_gone(&d);
    rig_at(&rig, RIG_START + RIG_VALID);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// However many wait, one asks, and one watches.
START_TEST(one_contender)
{
    enum { MANY = 12 };
    struct fake_call *call;

    for (int i = 0; i < MANY; i++) {
        rig_connect(&rig, &many[i], 1000);
        wait_for(&many[i], 60000);
    }
    for (int i = 0; i < 3; i++) {
        call = expect_acquire();
        ck_assert_int_eq(call->timeout_ms, RIG_C); // of each attempt
        rig_expect_no_call(&rig);
        deny(call, 20000);
        ck_assert_uint_eq(rig.fake.watch_count, 1);
        ck_assert_uint_eq(rig.fake.watched, 1);
        rig_pass(&rig, KEEPER_POLL_MS - 1);
        rig_expect_no_call(&rig);
        rig_pass(&rig, 1);
    }
    deny(expect_acquire(), 299);
    rig_pass(&rig, 299);
    rig_expect_no_call(&rig);
    rig_pass(&rig, 1); // the key runs out before the next poll
    grant(expect_acquire(), 5);
    rig_expect(&many[0], "{'ok':true,'fence':5,'waited_ms':%d}", 3 * KEEPER_POLL_MS + 300);
    for (int i = MANY - 1; i >= 0; i--)
        rig_gone(&many[i]);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    ck_assert_uint_eq(rig.fake.watch_count, 0);
}
END_TEST

START_TEST(a_freed_key_is_asked_for_at_once)
{
    struct fake_call *call;

    wait_for(&a, 60000);
    deny(expect_acquire(), -1);
    rig_pass(&rig, 7);
    fake_store_free_key(&rig.fake, "k");
    call = expect_acquire();
    fake_store_free_key(&rig.fake, "k"); // after it was asked for: what it answers may be older
    fake_store_free_key(&rig.fake, "k");
    rig_expect_no_call(&rig);
    deny(call, 5000);
    rig_pass(&rig, 0);
    grant(expect_acquire(), 3);
    rig_expect(&a, "{'ok':true,'fence':3,'waited_ms':7}");
    ck_assert_uint_eq(rig.fake.watch_count, 0);
    rig_expect_no_call(&rig);
    release(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

START_TEST(a_store_that_is_back_is_asked_at_once)
{
    wait_for(&a, 60000);
    complete(expect_acquire(), STORE_UNSENT);
    rig_expect_nothing(&a);
    fake_store_set_down(&rig.fake, "gone", rig.now_ms);
    rig_pass(&rig, 100);
    rig_expect_no_call(&rig);
    fake_store_set_up(&rig.fake, rig.now_ms);
    grant(expect_acquire(), 3);
    rig_expect(&a, "{'ok':true,'waited_ms':100}");
    release(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// ---- Those who try once ----

START_TEST(who_tries_once_does_not_overtake)
{
    wait_for(&a, -1);
    rig_send(&b, "{'op':'acquire','key':'k'}"); // nothing is known of the key yet
    rig_expect(&b, "{'ok':false,'error':'errLockHeld','holder':{'host':'pod-7','pid':5000},"
                   "'retry_after_ms':null,'waited_ms':0}");
    deny(expect_acquire(), 900);
    rig_pass(&rig, 100);
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_expect(&b, "{'ok':false,'error':'errLockHeld','holder':{'host':'pod-9','pid':812},"
                   "'retry_after_ms':800,'waited_ms':0}");
    rig_expect_no_call(&rig);
    fake_store_free_key(&rig.fake, "k");
    grant(expect_acquire(), 4);
    rig_expect(&a, "{'ok':true}");
    wait_for(&c, 1000);
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_expect(&b,
               "{'ok':false,'error':'errLockHeld','holder':{'host':'pod-7','fence':4},"
               "'retry_after_ms':%d}",
               RIG_VALID - 100 + 100);
    rig_gone(&c);
    release(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

START_TEST(who_tries_once_is_answered_with_the_one_before)
{
    struct fake_call *first;

    rig_send(&a, "{'op':'acquire','key':'k'}");
    first = expect_acquire();
    rig_send(&b, "{'op':'acquire','key':'k'}");
    wait_for(&c, 5000);
    rig_send(&d, "{'op':'acquire','key':'k'}"); // behind c
    rig_expect(&d, "{'ok':false,'error':'errLockHeld'}");
    deny(first, 700);
    rig_expect(&a, "{'ok':false,'error':'errLockHeld','holder':{'pid':812}}");
    rig_expect(&b, "{'ok':false,'error':'errLockHeld','holder':{'pid':812}}");
    rig_expect_nothing(&c);
    grant(expect_acquire(), 2);
    rig_expect(&c, "{'ok':true}");
    release(&c);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// ---- Time-out ----

START_TEST(times_out_at_the_head)
{
    wait_for(&a, 1500);
    deny(expect_acquire(), 5000);
    rig_pass(&rig, 1000);
    if (_i == 0)
        deny(expect_acquire(), 4000);
    else // an outage says nothing about the key
        complete(expect_acquire(), STORE_UNAVAILABLE);
    rig_pass(&rig, 499);
    rig_expect_nothing(&a);
    rig_pass(&rig, 1);
    rig_expect(&a, "{'ok':false,'id':1,'error':'errLockHeld','holder':{'host':'pod-9','pid':812,"
                   "'uid':1000,'label':'resume it','fence':77},'retry_after_ms':3500,"
                   "'waited_ms':1500}");
    rig_expect_no_call(&rig);
    ck_assert_uint_eq(rig.fake.watch_count, 0);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(times_out_in_the_queue)
{
    wait_for(&a, 10000);
    deny(expect_acquire(), 5000);
    wait_for(&b, 700);
    wait_for(&c, 800);
    rig_pass(&rig, 700);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld','holder':{'pid':812},'retry_after_ms':4300,"
                   "'waited_ms':700}");
    rig_expect_nothing(&c);
    fake_store_free_key(&rig.fake, "k");
    grant(expect_acquire(), 2);
    rig_expect(&a, "{'ok':true}");
    rig_pass(&rig, 100);
    rig_expect(&c,
               "{'ok':false,'error':'errLockHeld','holder':{'host':'pod-7','fence':2},"
               "'retry_after_ms':%d,'waited_ms':800}",
               RIG_VALID - 100);
    rig_expect_no_call(&rig);
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(times_out_while_redis_is_asked)
{
    struct fake_call *call;

    wait_for(&a, 300);
    call = expect_acquire();
    wait_for(&b, 200);
    rig_pass(&rig, 200);
    rig_expect(&b, "{'ok':false,'error':'errRedisUnavailable','waited_ms':200}");
    rig_pass(&rig, 200);
    rig_expect_nothing(&a); // it has an attempt of its own under way, which may be granted
    switch (_i) {
    case 0:
        deny(call, 50);
        rig_expect(&a, "{'ok':false,'error':'errLockHeld','retry_after_ms':50,'waited_ms':400}");
        break;
    case 1:
        grant(call, 8);
        rig_expect(&a, "{'ok':true,'fence':8,'waited_ms':400}");
        release(&a);
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
        break;
    default:
        complete(call, STORE_TIMEOUT);
        rig_expect(&a, "{'ok':false,'error':'errRedisUnavailable','waited_ms':400}");
        rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
    }
    rig_check_idle(&rig);
}
END_TEST

START_TEST(times_out_in_an_outage)
{
    wait_for(&a, 300);
    fake_store_complete_with(&rig.fake, expect_acquire(),
                             (struct store_completion){.outcome = STORE_UNSENT, .error = "refused"},
                             rig.now_ms);
    rig_pass(&rig, 300);
    rig_expect(&a, "{'ok':false,'error':'errRedisUnavailable','message':'<string>'}");
    ck_assert_ptr_nonnull(strstr(a.text, "refused"));
    rig_check_idle(&rig);
}
END_TEST

START_TEST(waiting_does_not_help_against_a_refusal)
{
    struct fake_call *call;

    wait_for(&a, -1);
    call = expect_acquire();
    wait_for(&b, -1);
    fake_store_complete_with(&rig.fake, call,
                             (struct store_completion){.outcome = STORE_REFUSED, .error = "OOM no"},
                             rig.now_ms);
    rig_expect(&a, "{'ok':false,'error':'errRedisRefused'}");
    rig_expect_nothing(&b); // asks for itself
    grant(expect_acquire(), 1);
    rig_expect(&b, "{'ok':true}");
    release(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// ---- Asked more than once with the same token ----

static struct fake_call *ask_twice(void)
{
    wait_for(&a, 60000);
    complete(expect_acquire(), STORE_LOST);
    rig_pass(&rig, RIG_R);
    return expect_acquire();
}

// The first one may still set the key, after the second one's lease was released.
START_TEST(granted_while_an_older_acquire_may_come)
{
    struct fake_call *call = ask_twice(), *delete;

    fake_store_complete_with(
        &rig.fake, call, (struct store_completion){.outcome = STORE_OK, .fence = 7}, rig.now_ms);
    rig_expect(&a, "{'ok':true,'fence':7}");
    release(&a);
    delete = fake_store_expect(&rig.fake, STORE_RELEASE);
    fake_store_complete_with(&rig.fake, delete, (struct store_completion){.outcome = STORE_OK},
                             rig.now_ms);
    rig_expect(&a, "{'ok':true,'op':'release'}");
    delete = fake_store_expect(&rig.fake, STORE_RELEASE);
    ck_assert_mem_eq(&delete->token, &call->token, sizeof call->token);
    complete(delete, STORE_NOT_OWNER); // certain
    rig_check_idle(&rig);
}
END_TEST

// The first one may have set the key: that Redis refuses the second one says nothing about it.
START_TEST(an_error_after_an_acquire_without_an_answer)
{
    struct fake_call *call = ask_twice(), *delete;

    complete(call, _i == 0 ? STORE_UNAVAILABLE : STORE_REFUSED); // certain
    if (_i == 0)
        rig_send(&a, "{'op':'cancel','target':1}");
    rig_expect(&a, "{'ok':false,'id':1,'error':'%s'}",
               _i == 0 ? "errCancelled" : "errRedisRefused");
    if (_i == 0)
        rig_expect(&a, "{'ok':true,'op':'cancel','cancelled':true}");
    delete = fake_store_expect(&rig.fake, STORE_RELEASE);
    ck_assert_mem_eq(&delete->token, &call->token, sizeof call->token);
    complete(delete, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(granted_and_nothing_older_can_come)
{
    grant(ask_twice(), 7);
    rig_expect(&a, "{'ok':true,'fence':7}");
    release(&a);
    fake_store_complete_with(&rig.fake, fake_store_expect(&rig.fake, STORE_RELEASE),
                             (struct store_completion){.outcome = STORE_OK}, rig.now_ms);
    rig_expect(&a, "{'ok':true,'op':'release'}");
    rig_check_idle(&rig);
}
END_TEST

// ---- Whoever waits leaves: in every state, in every way ----

enum { QUEUED_BEHIND_HOLDER, QUEUED_BEHIND_WAITER, ASKING, WAITING, UNSETTLED, STATES };
enum { CANCELS, GOES, HALF_CLOSES, IS_CUT_OFF, WAYS };

// Client b waits in this state; the call under way, if there is one.
static struct fake_call *wait_in(int state)
{
    struct fake_call *call;
    struct rig_lease lease;

    if (state == QUEUED_BEHIND_HOLDER)
        rig_acquire(&a, &lease, "k", "");
    if (state == QUEUED_BEHIND_WAITER) {
        wait_for(&a, 60000);
        deny(expect_acquire(), 5000);
    }
    wait_for(&b, 60000);
    if (state <= QUEUED_BEHIND_WAITER)
        return NULL;
    call = expect_acquire();
    if (state == WAITING)
        deny(call, 5000);
    if (state == UNSETTLED)
        complete(call, STORE_TIMEOUT);
    return call;
}

static void leave(int way)
{
    static const char cancelled[] = "{'ok':false,'id':1,'op':'acquire','error':'errCancelled',"
                                    "'key':'k','waited_ms':250}";

    switch (way) {
    case CANCELS:
        rig_send(&b, "{'op':'cancel','target':1}");
        rig_expect(&b, "%s", cancelled);
        rig_expect_exact(&b, "{'ok':true,'id':2,'op':'cancel','cancelled':true}");
        rig_send(&b, "{'op':'cancel','target':1}");
        rig_expect_exact(&b, "{'ok':true,'id':3,'op':'cancel','cancelled':false}");
        break;
    case GOES:
        rig_gone(&b);
        break;
    case HALF_CLOSES:
        rig_half_close(&b);
        rig_expect(&b, "%s", cancelled);
        rig_finish(&b);
        break;
    default:
        rig_cut(&b);
    }
}

START_TEST(leaving)
{
    int state = _i / WAYS;
    struct fake_call *call = wait_in(state);

    rig_pass(&rig, 250);
    leave(_i % WAYS);
    ck_assert_uint_eq(rig.keeper.accounts.all[0].used[ACCOUNT_WAITERS], state == 1);
    ck_assert_uint_eq(rig.fake.watch_count, state == 1);
    if (state == ASKING) { // what is granted to nobody is freed
        rig_expect_no_call(&rig);
        grant(call, 3);
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    }
    if (state == UNSETTLED) // and so is what may be granted yet
        rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
    rig_expect_no_call(&rig);
    ck_assert_uint_eq(rig.keeper.table.live, state <= QUEUED_BEHIND_WAITER);
    rig_gone(&a);
    if (state == QUEUED_BEHIND_HOLDER)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// The same with somebody behind it, who takes its place.
START_TEST(leaving_with_somebody_behind)
{
    int state = _i / WAYS;
    struct fake_call *next, *call = wait_in(state);
    bool asks = state >= ASKING;

    wait_for(&c, 60000);
    rig_pass(&rig, 250);
    leave(_i % WAYS);
    if (state == UNSETTLED) // one call does both: the delete that is owed and the next acquire
        grant(expect_handed_over(call), 7);
    else if (state == WAITING)
        grant(expect_acquire(), 7);
    else if (state == ASKING) {
        rig_expect_no_call(&rig);
        grant(call, 6);
        next = expect_handed_over(call);
        grant(next, 7);
    }
    if (asks) {
        rig_expect(&c, "{'ok':true,'id':1,'fence':7,'waited_ms':250}");
        ck_assert_uint_eq(rig.keeper.table.live, 1);
        rig_gone(&c);
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    } else {
        rig_expect_no_call(&rig);
        rig_expect_nothing(&c);
        rig_gone(&c);
        rig_gone(&a);
        if (state == QUEUED_BEHIND_HOLDER)
            rig_complete(&rig, STORE_RELEASE, STORE_OK);
    }
    ck_assert_uint_eq(rig.fake.watch_count, 0);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(only_what_waits_can_be_cancelled)
{
    struct rig_lease lease;
    struct fake_call *call;

    rig_acquire(&a, &lease, "held", ",'wait_ms':1000"); // id 1
    wait_for(&b, 1000);                                 // id 1, of another connection
    rig_send(&a, "{'op':'acquire','key':'once'}");      // id 2
    call = expect_acquire();
    rig_send(&a, "{'op':'cancel','target':1}");
    rig_expect(&a, "{'ok':true,'id':3,'cancelled':false}");
    rig_send(&a, "{'op':'cancel','target':2}");
    rig_expect(&a, "{'ok':true,'id':4,'cancelled':false}");
    rig_send(&a, "{'op':'cancel','target':99}");
    rig_expect(&a, "{'ok':true,'id':5,'cancelled':false}");
    rig_send(&a, "{'op':'cancel','target':'1'}");
    rig_expect(&a, "{'ok':true,'id':6,'cancelled':false}");
    rig_expect_nothing(&b);
    grant(call, 1);
    rig_expect(&b, "{'ok':true}");
    rig_complete(&rig, STORE_ACQUIRE, STORE_HELD);
    rig_gone(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// ---- What hand-over means to the one who gave up ----

START_TEST(a_hand_over_that_finds_the_key_lost)
{
    struct fake_call *call = hold_and_queue();

    release(&a);
    call = expect_handed_over(call);
    if (_i == 0) // gone meanwhile, and taken
        complete(call, STORE_OK);
    else
        deny(call, 5000);
    rig_expect(&a, "{'ok':false,'op':'release','error':'errLostActorLock','freed':false}");
    if (_i == 0)
        rig_expect(&b, "{'ok':true}");
    else
        rig_expect_nothing(&b);
    ck_assert_uint_eq(rig.keeper.table.live, 3);
    rig_gone(&d);
    rig_gone(&c);
    rig_gone(&b);
    if (_i == 0)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// Both halves are unknown: the delete and the acquire are each repeated.
START_TEST(a_hand_over_without_an_answer)
{
    struct fake_call *call, *first = hold_and_queue(), *deletion = NULL, *again = NULL;

    release(&a);
    call = expect_handed_over(first);
    complete(call, _i == 0 ? STORE_TIMEOUT : _i == 1 ? STORE_LOST : STORE_UNSENT);
    rig_expect_nothing(&a);
    rig_pass(&rig, RIG_R);
    for (size_t i = rig.fake.count - 2; i < rig.fake.count; i++) {
        struct fake_call *it = &rig.fake.calls[i];
        it->seen = true;
        if (it->op == STORE_RELEASE)
            deletion = it;
        else
            again = it;
    }
    rig_expect_no_call(&rig);
    ck_assert_mem_eq(&deletion->token, &first->token, sizeof first->token);
    ck_assert_mem_eq(&again->token, &call->token, sizeof call->token);
    ck_assert_uint_eq(again->acquire.replaces, SLOT_NONE);
    complete(deletion, STORE_NOT_OWNER); // by which of the two nobody knows
    rig_expect(&a, "{'ok':false,'op':'release','error':'errRedisUnavailable'}");
    grant(again, 9);
    rig_expect(&b, "{'ok':true,'fence':9}");
    rig_gone(&d);
    rig_gone(&c);
    release(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&b, "{'ok':true}");
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_hand_over_that_takes_too_long)
{
    struct fake_call *call = hold_and_queue();

    release(&a);
    call = expect_handed_over(call);
    rig_pass(&rig, RIG_C);
    rig_expect(&a, "{'ok':false,'op':'release','error':'errRedisUnavailable'}");
    grant(call, 2);
    rig_expect(&b, "{'ok':true}");
    ck_assert_uint_eq(rig.keeper.owed, 0);
    rig_gone(&d);
    rig_gone(&c);
    rig_gone(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

START_TEST(no_hand_over_while_the_store_is_down)
{
    struct fake_call *call;

    hold_and_queue();
    fake_store_set_down(&rig.fake, "gone", rig.now_ms);
    release(&a);
    call = fake_store_expect(&rig.fake, STORE_RELEASE);
    complete(expect_acquire(), STORE_UNSENT);
    complete(call, STORE_OK);
    rig_expect(&a, "{'ok':true}");
    rig_gone(&b);
    complete(expect_acquire(), STORE_UNSENT);
    rig_gone(&c);
    complete(expect_acquire(), STORE_UNSENT);
    rig_gone(&d);
    rig_check_idle(&rig);
}
END_TEST

// So many hand-overs in a row, and others get their turn.
static struct fake_call *hand_over_until_the_bound(void)
{
    struct fake_call *call;
    struct rig_lease lease;
    struct rig_client *holder = &a;

    rig_acquire(&a, &lease, "k", "");
    call = lease.call;
    for (int i = 0; i < KEEPER_MAX_HOPS; i++) {
        rig_connect(&rig, &many[i], 1000);
        wait_for(&many[i], 60000);
        release(holder);
        call = expect_handed_over(call);
        if (i == KEEPER_MAX_HOPS - 1)
            break;
        grant(call, 2 + i);
        rig_expect(holder, "{'ok':true,'op':'release'}");
        holder = &many[i];
        rig_expect(holder, "{'ok':true,'op':'acquire'}");
    }
    return call;
}

START_TEST(others_get_their_turn)
{
    struct fake_call *call = hand_over_until_the_bound();
    struct rig_client *last = &many[KEEPER_MAX_HOPS - 1];

    wait_for(&b, 60000);
    wait_for(&c, 60000);
    grant(call, 50);
    rig_expect(last, "{'ok':true,'op':'acquire'}");
    release(last);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(last, "{'ok':true,'op':'release'}");
    ck_assert(fake_store_is_watched(&rig.fake, "k"));
    fake_store_free_key(&rig.fake, "k");
    rig_pass(&rig, KEEPER_YIELD_MS - 1);
    rig_expect_no_call(&rig);
    rig_pass(&rig, 1);
    call = expect_acquire();
    grant(call, 60);
    rig_expect(&b, "{'ok':true,'fence':60,'waited_ms':%d}", KEEPER_YIELD_MS);
    release(&b);
    grant(expect_handed_over(call), 61); // and the count begins anew
    rig_expect(&c, "{'ok':true,'fence':61}");
    release(&c);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// Who tries once cannot let others go first.
START_TEST(who_tries_once_asks_at_the_bound)
{
    struct fake_call *call = hand_over_until_the_bound();

    rig_gone(&many[KEEPER_MAX_HOPS - 1]);
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_expect_nothing(&b);
    grant(call, 50);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    grant(expect_acquire(), 51);
    rig_expect(&b, "{'ok':true,'fence':51}");
    release(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// ---- The drain, and the bounds ----

START_TEST(a_drain_answers_who_waits)
{
    struct fake_call *call = wait_in(_i);

    wait_for(&c, -1);
    keeper_drain(&rig.keeper, rig.now_ms);
    rig_expect(&b, "{'ok':false,'id':1,'op':'acquire','error':'errShuttingDown'}");
    rig_expect(&c, "{'ok':false,'id':1,'op':'acquire','error':'errShuttingDown'}");
    if (_i == QUEUED_BEHIND_WAITER)
        rig_expect(&a, "{'ok':false,'id':1,'op':'acquire','error':'errShuttingDown'}");
    if (_i == ASKING) {
        grant(call, 2);
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    }
    // One behind another may have come to ask for a moment.
    for (size_t i = 0; i < rig.fake.count; i++)
        if (!rig.fake.calls[i].done) {
            rig.fake.calls[i].seen = true;
            complete(&rig.fake.calls[i],
                     rig.fake.calls[i].op == STORE_ACQUIRE ? STORE_HELD : STORE_NOT_OWNER);
        }
    ck_assert_uint_eq(rig.keeper.table.live, _i == QUEUED_BEHIND_HOLDER);
    ck_assert_int_eq(keeper_is_drained(&rig.keeper, rig.now_ms), _i != QUEUED_BEHIND_HOLDER);
    wait_for(&d, -1);
    rig_expect(&d, "{'ok':false,'error':'errShuttingDown'}");
    rig_gone(&a);
    if (_i == QUEUED_BEHIND_HOLDER)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

START_TEST(waiters_are_capped_per_uid)
{
    struct keeper_options options;
    struct fake_call *call;

    rig_close(&rig);
    options = rig_options(&rig);
    options.caps[ACCOUNT_WAITERS] = 2;
    rig_open_with(&rig, &options);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
    rig_connect(&rig, &d, 2000);
    wait_for(&a, 60000);
    call = expect_acquire();
    wait_for(&a, 60000);
    wait_for(&b, 60000);
    rig_expect(&b, "{'ok':false,'op':'acquire','error':'errLimitExceeded'}");
    ck_assert_ptr_nonnull(strstr(b.text, "--max-waiters-per-uid"));
    wait_for(&d, 60000); // of another uid
    rig_expect_nothing(&d);
    rig_send(&b, "{'op':'acquire','key':'other'}"); // does not wait
    rig_complete(&rig, STORE_ACQUIRE, STORE_HELD);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    grant(call, 1); // waits no more
    rig_expect(&a, "{'ok':true,'id':1}");
    wait_for(&b, 60000);
    rig_expect_nothing(&b);
    wait_for(&b, 60000);
    rig_expect(&b, "{'ok':false,'error':'errLimitExceeded'}");
    ck_assert_uint_eq(rig.keeper.accounts.all[0].used[ACCOUNT_LEASES], 3);
    rig_gone(&b);
    rig_gone(&d);
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(an_id_that_waits_is_not_used_again)
{
    static const char again[] = "{\"id\":1,\"op\":\"acquire\",\"key\":\"k2\"}";

    wait_for(&a, 60000);
    deny(expect_acquire(), 100);
    rig_send_raw(&a, again, strlen(again));
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errBadRequest'}");
    ck_assert_ptr_null(json_object_get(a.line, "id")); // it would answer the one that waits
    rig_expect_no_call(&rig);
    wait_for(&b, 60000); // another connection's are its own
    rig_expect_nothing(&b);
    rig_gone(&b);
    rig_send(&a, "{'op':'cancel','target':1}");
    rig_expect(&a, "{'ok':false,'id':1,'error':'errCancelled'}");
    rig_expect(&a, "{'ok':true,'cancelled':true}");
}
END_TEST

START_TEST(a_wait_without_end)
{
    wait_for(&a, -1);
    rig_expect_nothing(&a);
    deny(expect_acquire(), -1);
    ck_assert_int_eq(keeper_next_wake(&rig.keeper), rig.now_ms + KEEPER_POLL_MS);
    wait_for(&b, -1);
    ck_assert_int_eq(keeper_next_wake(&rig.keeper), rig.now_ms + KEEPER_POLL_MS);
    for (int i = 0; i < 100; i++) {
        rig_pass(&rig, KEEPER_POLL_MS);
        deny(expect_acquire(), -1);
    }
    rig_expect_nothing(&a);
    rig_expect_nothing(&b);
    ck_assert_uint_eq(rig.fake.watched, 1);
    rig_gone(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("keeper_wait");
    TCase *tcase = tcase_create("wait");

    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, first_come_first_served);
    tcase_add_test(tcase, the_end_of_a_connection_hands_over);
    tcase_add_test(tcase, a_cut_off_holder_hands_nothing_over);
    tcase_add_test(tcase, one_contender);
    tcase_add_test(tcase, a_freed_key_is_asked_for_at_once);
    tcase_add_test(tcase, a_store_that_is_back_is_asked_at_once);
    tcase_add_test(tcase, who_tries_once_does_not_overtake);
    tcase_add_test(tcase, who_tries_once_is_answered_with_the_one_before);
    tcase_add_loop_test(tcase, times_out_at_the_head, 0, 2);
    tcase_add_test(tcase, times_out_in_the_queue);
    tcase_add_loop_test(tcase, times_out_while_redis_is_asked, 0, 3);
    tcase_add_test(tcase, times_out_in_an_outage);
    tcase_add_test(tcase, waiting_does_not_help_against_a_refusal);
    tcase_add_test(tcase, granted_while_an_older_acquire_may_come);
    tcase_add_loop_test(tcase, an_error_after_an_acquire_without_an_answer, 0, 2);
    tcase_add_test(tcase, granted_and_nothing_older_can_come);
    tcase_add_loop_test(tcase, leaving, 0, STATES * WAYS);
    tcase_add_loop_test(tcase, leaving_with_somebody_behind, 0, STATES * WAYS);
    tcase_add_test(tcase, only_what_waits_can_be_cancelled);
    tcase_add_loop_test(tcase, a_hand_over_that_finds_the_key_lost, 0, 2);
    tcase_add_loop_test(tcase, a_hand_over_without_an_answer, 0, 3);
    tcase_add_test(tcase, a_hand_over_that_takes_too_long);
    tcase_add_test(tcase, no_hand_over_while_the_store_is_down);
    tcase_add_test(tcase, others_get_their_turn);
    tcase_add_test(tcase, who_tries_once_asks_at_the_bound);
    tcase_add_loop_test(tcase, a_drain_answers_who_waits, 0, STATES);
    tcase_add_test(tcase, waiters_are_capped_per_uid);
    tcase_add_test(tcase, an_id_that_waits_is_not_used_again);
    tcase_add_test(tcase, a_wait_without_end);
    suite_add_tcase(suite, tcase);

    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
