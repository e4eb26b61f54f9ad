// SPDX-License-Identifier: Apache-2.0
//
// The keeper and a lease that is held: heartbeats and their outcomes, the revoke time and the
// workflow deadline, releases from its own and from other connections, with every outcome.

#include <stdio.h>
#include <string.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/redis_call.h"
#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

static struct rig rig;
static struct rig_client a, b;
static struct rig_lease lease;

#define NOTIFY ",'notify':['renewed','at_risk']"

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

// Held, and its first heartbeat with the store.
static struct fake_call *renewing(const char *more)
{
    rig_acquire(&a, &lease, "k", more);
    rig_at(&rig, RIG_START + RIG_P);
    return fake_store_expect(&rig.fake, STORE_RENEW);
}

static void complete(struct fake_call *call, enum store_outcome outcome)
{
    fake_store_complete(&rig.fake, call, outcome, rig.now_ms);
}

static void release(struct rig_client *client)
{
    rig_send(client, "{'op':'release','lease':'%s'}", lease.lease);
}

// Its client goes, and its key with it.
static void leave(void)
{
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}

// ---- Heartbeats ----

START_TEST(a_heartbeat)
{
    struct fake_call *call;

    rig_acquire(&a, &lease, "k", "");
    rig_at(&rig, RIG_START + RIG_P / 4 - 1);
    rig_expect_no_call(&rig); // anywhere in the last three quarters of P
    rig_at(&rig, RIG_START + RIG_P);
    call = fake_store_expect(&rig.fake, STORE_RENEW);
    rig_expect_no_call(&rig);
    ck_assert_int_eq(call->due_by_ms, RIG_START + RIG_D);
    ck_assert(fake_store_write(&rig.fake, call, rig.now_ms));
    ck_assert_str_eq(call->key, "k");
    ck_assert_mem_eq(&call->token, &lease.call->token, sizeof call->token);
    ck_assert_int_eq(call->ttl_ms, RIG_T);
    ck_assert_int_eq(call->timeout_ms, RIG_C);
    rig_pass(&rig, 10);
    complete(call, STORE_OK);
    rig_expect_nothing(&a); // "renewed" was not asked for

    // The next one between 7/8 P and P after the send; its D is the new one.
    rig_at(&rig, RIG_START + RIG_P + RIG_P - RIG_P / 8 - 1);
    rig_expect_no_call(&rig);
    rig_at(&rig, RIG_START + 2 * RIG_P);
    call = fake_store_expect(&rig.fake, STORE_RENEW);
    ck_assert_int_eq(call->due_by_ms, RIG_START + RIG_P + RIG_D);
    complete(call, STORE_OK);
    leave();
}
END_TEST

// Every heartbeat that comes in `periods` of P is answered; the calls of the last period, in order.
static size_t beat(int periods, struct fake_call *last)
{
    int64_t end_ms = rig.now_ms + periods * RIG_P;
    size_t count = 0;

    while (keeper_next_wake(&rig.keeper) <= end_ms) {
        rig_at(&rig, keeper_next_wake(&rig.keeper));
        while (rig.fake.completed < rig.fake.count) {
            struct fake_call *call = rig_complete(&rig, STORE_RENEW, STORE_OK);
            if (call->now_ms > end_ms - RIG_P)
                last[count++] = *call;
        }
    }
    return count;
}

_Static_assert((int)SCHEDULE_BLOCK <= (int)REDIS_CALL_MAX_BATCH, "one script renews a block");

// Leases in the same block come into step, whenever they were opened, so that one script renews them;
// those of another block keep their distance.
START_TEST(a_block_beats_at_once)
{
    struct rig_lease others[SCHEDULE_BLOCK];
    struct fake_call last[2 * SCHEDULE_BLOCK];
    char key[16];
    size_t count;

    for (int i = 0; i < SCHEDULE_BLOCK + 1; i++) {
        snprintf(key, sizeof key, "k%d", i);
        rig_acquire(&a, i == 0 ? &lease : &others[i - 1], key, ",'deadline_ms':3600000");
        rig_pass(&rig, i % 7 * 2);
    }
    beat(24, last);
    count = beat(1, last);
    ck_assert_uint_eq(count, SCHEDULE_BLOCK + 1);
    for (size_t i = 1; i < count; i++) {
        bool together = last[i].lease / SCHEDULE_BLOCK == last[0].lease / SCHEDULE_BLOCK;
        int64_t apart_ms = last[i].now_ms - last[0].now_ms;
        ck_assert_msg(together ? apart_ms == 0 : apart_ms > RIG_P / 4, "%lld ms apart",
                      (long long)apart_ms);
    }
    rig_gone(&a);
    for (size_t i = 0; i < SCHEDULE_BLOCK + 1; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// Of any number of blocks: no gap of more than twice their share.
START_TEST(the_phases_of_blocks_lie_evenly)
{
    static const uint32_t counts[] = {2, 3, 10, 100, 1000};
    uint32_t blocks = counts[_i];
    uint8_t taken[LEASE_PHASES] = {0};
    uint32_t gap = 0, first = LEASE_PHASES, most = 0;

    for (uint32_t i = 0; i < blocks; i++)
        taken[keeper_phase(&rig.keeper, i * SCHEDULE_BLOCK)] = 1;
    while (!taken[--first])
        gap++;
    for (uint32_t phase = 0; phase < LEASE_PHASES; phase++) {
        gap = taken[phase] ? 0 : gap + 1;
        most = gap > most ? gap : most;
    }
    ck_assert_uint_le(most, 2 * LEASE_PHASES / blocks);
}
END_TEST

START_TEST(renewed_is_told_where_it_was_asked_for)
{
    static const char *const notify[] = {"", ",'notify':[]", ",'notify':['at_risk']",
                                         ",'notify':['renewed']", NOTIFY};
    struct fake_call *call = renewing(notify[_i]);

    fake_store_write(&rig.fake, call, rig.now_ms);
    rig_pass(&rig, 20);
    complete(call, STORE_OK);
    if (_i >= 3)
        rig_expect_exact(&a, "{'event':'renewed','lease':'%s','key':'k','valid_until_ms':%d}",
                         lease.lease, RIG_START + RIG_P + RIG_VALID);
    rig_expect_nothing(&a);
    leave();
}
END_TEST

START_TEST(at_risk_is_told_once_where_it_was_asked_for)
{
    static const char *const notify[] = {"", ",'notify':['renewed']", ",'notify':['at_risk']",
                                         NOTIFY};
    static const enum store_outcome failures[] = {STORE_UNAVAILABLE, STORE_REFUSED, STORE_UNSENT,
                                                  STORE_TIMEOUT, STORE_LOST};
    enum store_outcome failure = failures[_i / 4];
    struct fake_call *call = renewing(notify[_i % 4]);

    complete(call, failure);
    if (_i % 4 >= 2)
        rig_expect_exact(&a,
                         "{'event':'at_risk','lease':'%s','key':'k','safe_ms':%d,"
                         "'valid_until_ms':%d,'message':'<string>'}",
                         lease.lease, RIG_VALID - RIG_P, RIG_START + RIG_VALID);
    rig_expect_nothing(&a);

    // Retried after R, and a second failure is not news.
    rig_pass(&rig, RIG_R - 1);
    rig_expect_no_call(&rig);
    rig_pass(&rig, 1);
    complete(fake_store_expect(&rig.fake, STORE_RENEW), failure);
    rig_expect_nothing(&a);
    rig_pass(&rig, RIG_R);
    call = fake_store_expect(&rig.fake, STORE_RENEW);
    fake_store_write(&rig.fake, call, rig.now_ms);
    complete(call, STORE_OK);
    if (_i % 4 & 1)
        rig_expect(&a, "{'event':'renewed','valid_until_ms':%d}",
                   RIG_START + RIG_P + 2 * RIG_R + RIG_VALID);
    rig_expect_nothing(&a);

    // After a success the next failure is news again.
    rig_pass(&rig, RIG_P);
    complete(fake_store_expect(&rig.fake, STORE_RENEW), failure);
    if (_i % 4 >= 2)
        rig_expect(&a, "{'event':'at_risk'}");
    leave();
}
END_TEST

// A store that says nothing at all: told after C, without any completion.
START_TEST(silence_is_a_risk)
{
    struct fake_call *call = renewing(NOTIFY);

    rig_at(&rig, call->now_ms + RIG_C - 1);
    rig_expect_nothing(&a);
    rig_pass(&rig, 1);
    rig_expect(&a, "{'event':'at_risk','safe_ms':%lld}",
               (long long)(RIG_START + RIG_VALID - rig.now_ms));
    rig_pass(&rig, RIG_C);
    rig_expect_nothing(&a);
    rig_expect_no_call(&rig);
    complete(call, STORE_OK);
    rig_expect(&a, "{'event':'renewed'}");
    leave();
}
END_TEST

START_TEST(a_late_answer_counts_while_it_is_in_time)
{
    struct fake_call *call = renewing(NOTIFY);
    struct fake_call *retry;
    int64_t written_ms = rig.now_ms;

    fake_store_write(&rig.fake, call, rig.now_ms);
    rig_pass(&rig, RIG_C);
    rig_expect(&a, "{'event':'at_risk'}");
    complete(call, STORE_TIMEOUT);
    rig_pass(&rig, RIG_R);
    retry = fake_store_expect(&rig.fake, STORE_RENEW);
    if (_i == 0) {
        complete(call, STORE_OK); // late
        rig_expect(&a, "{'event':'renewed','valid_until_ms':%lld}",
                   (long long)written_ms + RIG_VALID);
    } else if (_i == 1) {
        complete(call, STORE_UNAVAILABLE); // late: proves nothing, and the retry goes on
    } else {
        complete(call, STORE_NOT_OWNER);
        rig_expect(&a, "{'event':'revoked','reason':'lost'}");
    }
    rig_expect_nothing(&a);
    rig_expect_no_call(&rig);
    complete(retry, STORE_OK);
    if (_i < 2) {
        rig_expect(&a, "{'event':'renewed'}");
        leave();
    } else {
        rig_gone(&a);
    }
}
END_TEST

START_TEST(a_key_that_is_lost)
{
    complete(renewing(NOTIFY), STORE_NOT_OWNER);
    rig_expect_exact(&a,
                     "{'event':'revoked','error':'errLostActorLock','reason':'lost','lease':'%s',"
                     "'key':'k','safe_ms':0,'valid_until_ms':%d,'held_ms':%d,'message':'<string>'}",
                     lease.lease, RIG_START + RIG_VALID, RIG_P);
    rig_expect_nothing(&a);
    rig_expect_no_call(&rig); // somebody else's key is not touched
    ck_assert_uint_eq(rig.keeper.pending, 0);
    if (_i == 0) {
        release(&a); // acknowledged without asking Redis
        rig_expect_exact(&a,
                         "{'ok':false,'id':2,'op':'release','error':'errLostActorLock',"
                         "'message':'<string>','lease':'%s','key':'k','freed':false,'held_ms':%d}",
                         lease.lease, RIG_P);
    } else if (_i == 1) {
        rig_gone(&a);
    } else {
        rig_at(&rig, RIG_START + RIG_VALID);
        release(&a);
        rig_expect(&a, "{'ok':false,'error':'errUnknownLease'}");
    }
    rig_expect_no_call(&rig);
    rig_check_idle(&rig);
}
END_TEST

// ---- The revoke time and the deadline ----

START_TEST(unreachable_at_the_revoke_time)
{
    struct fake_call *call = renewing("");
    struct fake_call *owed;

    fake_store_write(&rig.fake, call, rig.now_ms);
    rig_at(&rig, RIG_START + RIG_D - 1);
    rig_expect_nothing(&a);
    rig_pass(&rig, 1);
    rig_expect(&a,
               "{'event':'revoked','reason':'unreachable','lease':'%s','key':'k','safe_ms':%d,"
               "'valid_until_ms':%d,'held_ms':%d}",
               lease.lease, RIG_M, RIG_START + RIG_VALID, RIG_D);
    rig_expect_no_call(&rig);
    complete(call, STORE_OK); // a zombie: it brings nothing back
    rig_expect_nothing(&a);
    rig_at(&rig, RIG_START + RIG_VALID - 1);
    rig_expect_no_call(&rig);
    rig_pass(&rig, 1);
    owed = fake_store_expect(&rig.fake, STORE_RELEASE); // it lengthened the key's life
    ck_assert_mem_eq(&owed->token, &lease.call->token, sizeof owed->token);
    complete(owed, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// An answer that arrives at D in the same turn: the sweep comes first, also when the clock jumped.
START_TEST(no_answer_is_believed_past_the_revoke_time)
{
    static const int after_ms[] = {0, 1, RIG_M, 600000};
    static const enum store_outcome outcomes[] = {STORE_OK, STORE_NOT_OWNER, STORE_UNAVAILABLE};
    struct fake_call *call = renewing(NOTIFY);
    bool over = after_ms[_i / 3] >= RIG_M;

    rig.now_ms = RIG_START + RIG_D + after_ms[_i / 3]; // not swept
    complete(call, outcomes[_i % 3]);
    rig_expect(&a, "{'event':'revoked','reason':'unreachable','safe_ms':%d}",
               over ? 0 : RIG_M - after_ms[_i / 3]);
    rig_expect_nothing(&a);
    if (over) { // valid_until has passed as well: what was written is undone
        rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
        rig_check_idle(&rig);
    }
    rig_gone(&a);
    if (!over && _i % 3 != 1)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

START_TEST(a_renewal_is_written_only_while_it_is_wanted)
{
    // So late a deadline that nothing but its state says that the lease is over.
    struct fake_call *call = renewing(",'deadline_ms':3600000");

    if (_i == 0) {
        rig.now_ms = RIG_START + RIG_D;
        ck_assert(!fake_store_write(&rig.fake, call, rig.now_ms));
        rig_expect(&a, "{'event':'revoked','reason':'unreachable'}");
        leave();
    } else if (_i == 1) {
        release(&a);
        ck_assert(!fake_store_write(&rig.fake, call, rig.now_ms));
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
        rig_expect(&a, "{'ok':true,'op':'release'}");
    } else if (_i == 2) {
        rig_gone(&a);
        ck_assert(!fake_store_write(&rig.fake, call, rig.now_ms));
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
        ck_assert(call->done);
    } else { // close to D its own bound is what is left
        rig_at(&rig, RIG_START + RIG_D - 77);
        ck_assert(fake_store_write(&rig.fake, call, rig.now_ms));
        ck_assert_int_eq(call->timeout_ms, 77);
        leave();
    }
}
END_TEST

START_TEST(the_workflow_deadline)
{
    rig_acquire(&a, &lease, "k", ",'deadline_ms':2000");
    rig_at(&rig, RIG_START + 1999);
    rig_expect_nothing(&a);
    rig_pass(&rig, 1);
    rig_expect_exact(&a,
                     "{'event':'revoked','error':'errLostActorLock','reason':'deadline',"
                     "'lease':'%s','key':'k','safe_ms':%d,'valid_until_ms':%d,'held_ms':2000,"
                     "'message':'<string>'}",
                     lease.lease, RIG_VALID - 2000, RIG_START + RIG_VALID);
    rig_expect_no_call(&rig); // the work is still stopping
    rig_pass(&rig, 500);
    rig_expect_no_call(&rig); // and nothing is renewed
    if (_i == 0) {
        release(&a);
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
        rig_expect_exact(&a,
                         "{'ok':false,'id':2,'op':'release','error':'errLostActorLock',"
                         "'message':'<string>','lease':'%s','key':'k','freed':true,"
                         "'held_ms':2000}",
                         lease.lease);
    } else if (_i == 1) {
        release(&a);
        rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
        rig_expect(&a, "{'ok':false,'error':'errLostActorLock','freed':false}");
    } else if (_i == 2) {
        leave();
    } else { // nobody says anything: nobody may act any more at valid_until
        rig_at(&rig, RIG_START + RIG_VALID - 1);
        rig_expect_no_call(&rig);
        rig_pass(&rig, 1);
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
        rig_expect_nothing(&a);
    }
    rig_check_idle(&rig);
}
END_TEST

// The key of a lease that is ending is asked for in Redis, which still has it.
START_TEST(an_ending_lease_does_not_hold_its_key_here)
{
    rig_acquire(&a, &lease, "k", ",'deadline_ms':2000");
    rig_pass(&rig, 2000);
    rig_expect(&a, "{'event':'revoked'}");
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_complete(&rig, STORE_ACQUIRE, STORE_HELD);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_complete(&rig, STORE_ACQUIRE, STORE_OK);
    rig_expect(&b, "{'ok':true}");
    ck_assert_uint_eq(rig.keeper.table.live, 2);
    rig_gone(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    leave();
}
END_TEST

// ---- Release ----

START_TEST(a_release)
{
    rig_acquire(&a, &lease, "k", "");
    rig_pass(&rig, 1210);
    release(&a);
    rig_expect_nothing(&a);
    rig_pass(&rig, 3);
    lease.call = rig_complete(&rig, STORE_RELEASE, STORE_OK);
    ck_assert_str_eq(lease.call->key, "k");
    ck_assert_int_eq(lease.call->timeout_ms, RIG_C);
    rig_expect_exact(&a, "{'ok':true,'id':2,'op':'release','lease':'%s','key':'k','held_ms':1210}",
                     lease.lease);
    rig_check_idle(&rig);
    release(&a);
    rig_expect_exact(&a, "{'ok':false,'id':3,'op':'release','error':'errUnknownLease',"
                         "'message':'<string>'}");
}
END_TEST

START_TEST(a_release_that_finds_nothing)
{
    rig_acquire(&a, &lease, "k", "");
    release(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
    rig_expect(&a, "{'ok':false,'op':'release','error':'errLostActorLock','key':'k',"
                   "'freed':false,'held_ms':0}");
    rig_check_idle(&rig);
}
END_TEST

static const enum store_outcome no_answers[] = {STORE_UNAVAILABLE, STORE_REFUSED, STORE_UNSENT,
                                                STORE_TIMEOUT, STORE_LOST};

// Tried again every R; answered within C, whatever Redis does; owed after that.
START_TEST(a_release_without_an_answer)
{
    enum store_outcome outcome = no_answers[_i % 5];
    bool answered_in_time = _i / 5 == 0;

    rig_acquire(&a, &lease, "k", "");
    release(&a);
    rig_complete(&rig, STORE_RELEASE, outcome);
    rig_expect_nothing(&a);
    rig_pass(&rig, RIG_R - 1);
    rig_expect_no_call(&rig);
    rig_pass(&rig, 1);
    lease.call = fake_store_expect(&rig.fake, STORE_RELEASE);
    if (answered_in_time) {
        complete(lease.call, STORE_OK);
        rig_expect(&a, "{'ok':true,'op':'release','held_ms':0}");
        rig_check_idle(&rig);
        return;
    }
    rig_at(&rig, RIG_START + RIG_C - 1);
    rig_expect_nothing(&a);
    rig_pass(&rig, 1);
    rig_expect_exact(&a,
                     "{'ok':false,'id':2,'op':'release','error':'errRedisUnavailable',"
                     "'message':'<string>','lease':'%s','key':'k','held_ms':0}",
                     lease.lease);
    rig_expect_no_call(&rig); // one is on its way
    complete(lease.call, outcome);
    rig_pass(&rig, RIG_R);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect_nothing(&a);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(a_release_of_nothing)
{
    rig_send(&a, "{'op':'release','lease':'00112233445566778899aabbccddeeff'}");
    rig_expect(&a, "{'ok':false,'op':'release','error':'errUnknownLease'}");
    rig_acquire(&a, &lease, "k", "");
    release(&a);
    release(&a); // the second of two
    rig_expect(&a, "{'ok':false,'id':4,'op':'release','error':'errUnknownLease'}");
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':true,'id':3,'op':'release'}");
}
END_TEST

START_TEST(a_release_with_a_heartbeat_on_its_way)
{
    static const enum store_outcome outcomes[] = {STORE_OK, STORE_NOT_OWNER, STORE_TIMEOUT};
    struct fake_call *call = renewing(NOTIFY);
    struct fake_call *deletion;

    fake_store_write(&rig.fake, call, rig.now_ms);
    release(&a);
    deletion = fake_store_expect(&rig.fake, STORE_RELEASE);
    complete(call, outcomes[_i]);
    rig_expect_nothing(&a);
    complete(deletion, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'release'}");
    if (outcomes[_i] == STORE_TIMEOUT)
        complete(call, STORE_OK); // late, after its lease is gone
    rig_expect_nothing(&a);
    rig_expect_no_call(&rig);
}
END_TEST

// The heartbeat's answer comes when its lease is gone, and its slot is another's.
START_TEST(an_answer_for_the_slots_former_lease)
{
    static const enum store_outcome outcomes[] = {STORE_NOT_OWNER, STORE_OK, STORE_LOST};
    struct fake_call *call = renewing("");
    struct rig_lease next;

    fake_store_write(&rig.fake, call, rig.now_ms);
    release(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'release'}");
    rig_acquire(&a, &next, "another", NOTIFY);
    ck_assert_int_eq(next.call->lease, call->lease);
    rig_pass(&rig, 1);
    complete(call, outcomes[_i]);
    rig_expect_nothing(&a);
    // Its own heartbeat comes in its own time.
    rig_at(&rig, RIG_START + 2 * RIG_P);
    call = fake_store_expect(&rig.fake, STORE_RENEW);
    rig_expect_no_call(&rig);
    ck_assert_int_eq(call->due_by_ms, RIG_START + RIG_P + RIG_D);
    complete(call, STORE_OK);
    rig_expect(&a, "{'event':'renewed','key':'another','valid_until_ms':%lld}",
               (long long)(RIG_START + 2 * RIG_P + RIG_VALID));
    rig_release(&a, &next);
}
END_TEST

START_TEST(another_connection_releases)
{
    size_t calls;

    rig_acquire(&a, &lease, "k", "");
    rig_pass(&rig, 50);
    calls = rig.fake.count;
    release(&b);
    ck_assert_uint_eq(a.calls_at_output, calls); // told before the delete was submitted
    rig_expect_exact(&a,
                     "{'event':'revoked','error':'errLostActorLock','reason':'released',"
                     "'lease':'%s','key':'k','safe_ms':0,'valid_until_ms':%d,'held_ms':50,"
                     "'message':'<string>'}",
                     lease.lease, RIG_START + RIG_VALID);
    rig_expect_nothing(&b);
    if (_i == 1)
        rig_gone(&a); // nothing of it is the holder's any more
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&b, "{'ok':true,'id':1,'op':'release','lease':'%s','key':'k','held_ms':50}",
               lease.lease);
    if (_i == 0)
        rig_expect_nothing(&a);
    rig_check_idle(&rig);
}
END_TEST

START_TEST(another_connection_releases_what_was_revoked)
{
    rig_acquire(&a, &lease, "k", ",'deadline_ms':1000");
    rig_pass(&rig, 1000);
    rig_expect(&a, "{'event':'revoked','reason':'deadline'}");
    release(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect_nothing(&a); // never told twice
    rig_expect(&b, "{'ok':false,'op':'release','error':'errLostActorLock','freed':true}");
    rig_check_idle(&rig);
}
END_TEST

// Who asked for the release goes, before it is answered: the delete goes on.
START_TEST(a_releaser_that_leaves)
{
    struct rig_client *releaser = _i & 1 ? &b : &a;

    rig_acquire(&a, &lease, "k", "");
    release(releaser);
    lease.call = fake_store_expect(&rig.fake, STORE_RELEASE);
    if (_i & 2)
        rig_cut(releaser);
    else
        rig_gone(releaser);
    ck_assert_uint_eq(rig.keeper.pending, 1);
    rig_expect_no_call(&rig);
    if (_i & 4) { // owed, when its time is over
        rig_pass(&rig, RIG_C);
        ck_assert_uint_eq(rig.keeper.owed, 1);
        complete(lease.call, STORE_LOST);
        rig_pass(&rig, RIG_R);
        lease.call = fake_store_expect(&rig.fake, STORE_RELEASE);
    }
    complete(lease.call, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// What is overdue comes first, though nothing was swept yet.
START_TEST(a_release_past_the_revoke_time)
{
    bool other = _i & 1;

    rig_acquire(&a, &lease, "k", "");
    rig.now_ms = RIG_START + RIG_D + (_i & 2 ? RIG_M : 0);
    release(other ? &b : &a);
    rig_expect(&a, "{'event':'revoked','reason':'unreachable','safe_ms':%d}", _i & 2 ? 0 : RIG_M);
    if (_i & 2) {
        rig_expect(other ? &b : &a, "{'ok':false,'error':'errUnknownLease'}");
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    } else {
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
        rig_expect(other ? &b : &a, "{'ok':false,'error':'errLostActorLock','freed':true}");
    }
    rig_expect_nothing(&a);
    rig_expect_nothing(&b);
    rig_check_idle(&rig);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("keeper_lease");
    TCase *tcase = tcase_create("lease");

    tcase_set_timeout(tcase, 20);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, a_heartbeat);
    tcase_add_test(tcase, a_block_beats_at_once);
    tcase_add_loop_test(tcase, the_phases_of_blocks_lie_evenly, 0, 5);
    tcase_add_loop_test(tcase, renewed_is_told_where_it_was_asked_for, 0, 5);
    tcase_add_loop_test(tcase, at_risk_is_told_once_where_it_was_asked_for, 0, 20);
    tcase_add_test(tcase, silence_is_a_risk);
    tcase_add_loop_test(tcase, a_late_answer_counts_while_it_is_in_time, 0, 3);
    tcase_add_loop_test(tcase, a_key_that_is_lost, 0, 3);
    tcase_add_test(tcase, unreachable_at_the_revoke_time);
    tcase_add_loop_test(tcase, no_answer_is_believed_past_the_revoke_time, 0, 12);
    tcase_add_loop_test(tcase, a_renewal_is_written_only_while_it_is_wanted, 0, 4);
    tcase_add_loop_test(tcase, the_workflow_deadline, 0, 4);
    tcase_add_test(tcase, an_ending_lease_does_not_hold_its_key_here);
    tcase_add_test(tcase, a_release);
    tcase_add_test(tcase, a_release_that_finds_nothing);
    tcase_add_loop_test(tcase, a_release_without_an_answer, 0, 10);
    tcase_add_test(tcase, a_release_of_nothing);
    tcase_add_loop_test(tcase, a_release_with_a_heartbeat_on_its_way, 0, 3);
    tcase_add_loop_test(tcase, an_answer_for_the_slots_former_lease, 0, 3);
    tcase_add_loop_test(tcase, another_connection_releases, 0, 2);
    tcase_add_test(tcase, another_connection_releases_what_was_revoked);
    tcase_add_loop_test(tcase, a_releaser_that_leaves, 0, 8);
    tcase_add_loop_test(tcase, a_release_past_the_revoke_time, 0, 4);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
