// SPDX-License-Identifier: Apache-2.0
//
// Ends: of a client (gone, cut off, half-closed) in every state of its lease, of the sidecar (drain,
// shutdown), of an outage (the walk when the store is up again); and a client that cannot be told.

#include <stdio.h>
#include <string.h>

#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

static struct rig rig;
static struct rig_client a, b;
static struct rig_lease lease;

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

static void complete(struct fake_call *call, enum store_outcome outcome)
{
    fake_store_complete(&rig.fake, call, outcome, rig.now_ms);
}

// ---- A client's end, in every state ----

enum state {
    ACQUIRING,
    HELD,
    RENEWING,
    ENDING, // past its deadline
    ZOMBIE, // past its deadline, with a renewal on its way
    LOST,
    RELEASING,
};

enum way { GONE, CUT, HALF_CLOSED };

static struct fake_call *in_flight; // acquire, renewal or delete

static void renew(void)
{
    rig_at(&rig, RIG_START + RIG_P);
    in_flight = fake_store_expect(&rig.fake, STORE_RENEW);
    fake_store_write(&rig.fake, in_flight, rig.now_ms);
}

static void bring_into(enum state state, bool expires)
{
    char more[80];

    in_flight = NULL;
    snprintf(more, sizeof more, ",'deadline_ms':%d%s", state == ZOMBIE ? 12000 : 15000,
             expires ? ",'on_disconnect':'expire'" : "");
    if (state == ACQUIRING) {
        rig_send(&a, "{'op':'acquire','key':'k'%s}", more);
        in_flight = fake_store_expect(&rig.fake, STORE_ACQUIRE);
        return;
    }
    rig_acquire(&a, &lease, "k", more);
    if (state == HELD)
        return;
    if (state == RELEASING) {
        rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
        in_flight = fake_store_expect(&rig.fake, STORE_RELEASE);
        return;
    }
    renew();
    if (state == RENEWING)
        return;
    if (state == LOST) {
        complete(in_flight, STORE_NOT_OWNER);
    } else if (state == ENDING) {
        complete(in_flight, STORE_OK);
        rig_at(&rig, RIG_START + 15000);
    } else {
        rig_at(&rig, RIG_START + 12000);
    }
    rig_expect(&a, "{'event':'revoked','reason':'%s'}", state == LOST ? "lost" : "deadline");
}

// What becomes of the key: deleted at once; by a delete that is on its way; at valid_until; left alone,
// being somebody else's (and the lease forgotten at valid_until, or at once).
enum fate { DELETED, BEING_DELETED, DELETED_LATE, LEFT_ALONE, FORGOTTEN };

static const struct end_case {
    enum state state;
    bool expires;
    enum way way;
    const char *said; // to a half-closed client, "reason" of revoked, or NULL
    enum fate fate;
} end_cases[] = {
    {HELD, false, GONE, NULL, DELETED},
    {HELD, false, CUT, NULL, DELETED_LATE},
    {HELD, false, HALF_CLOSED, "eof", DELETED},
    {HELD, true, GONE, NULL, DELETED_LATE},
    {HELD, true, CUT, NULL, DELETED_LATE},
    {HELD, true, HALF_CLOSED, "eof", DELETED_LATE},
    {RENEWING, false, GONE, NULL, DELETED},
    {RENEWING, false, CUT, NULL, DELETED_LATE},
    {RENEWING, false, HALF_CLOSED, "eof", DELETED},
    {RENEWING, true, GONE, NULL, DELETED_LATE},
    {RENEWING, true, HALF_CLOSED, "eof", DELETED_LATE},
    {ENDING, false, GONE, NULL, DELETED},
    {ENDING, false, CUT, NULL, DELETED_LATE},
    {ENDING, false, HALF_CLOSED, NULL, DELETED},
    {ENDING, true, GONE, NULL, DELETED_LATE},
    {ENDING, true, HALF_CLOSED, NULL, DELETED_LATE},
    {ZOMBIE, false, GONE, NULL, DELETED},
    {ZOMBIE, false, CUT, NULL, DELETED_LATE},
    {ZOMBIE, true, GONE, NULL, DELETED_LATE},
    {LOST, false, GONE, NULL, FORGOTTEN},
    {LOST, false, CUT, NULL, LEFT_ALONE},
    {LOST, true, GONE, NULL, FORGOTTEN},
    {LOST, false, HALF_CLOSED, NULL, FORGOTTEN},
    {RELEASING, false, GONE, NULL, BEING_DELETED},
    {RELEASING, false, CUT, NULL, BEING_DELETED},
    {RELEASING, true, GONE, NULL, BEING_DELETED},
};

static void leave_by(enum way way, const char *said)
{
    if (way == GONE) {
        rig_gone(&a);
    } else if (way == CUT) {
        rig_cut(&a);
    } else {
        rig_half_close(&a);
        if (said)
            rig_expect(&a, "{'event':'revoked','reason':'%s','key':'k','safe_ms':0}", said);
        rig_expect_nothing(&a);
        rig_finish(&a);
    }
}

static void check_fate(enum fate fate, int64_t valid_until_ms)
{
    if (fate == DELETED)
        in_flight = fake_store_expect(&rig.fake, STORE_RELEASE);
    rig_expect_no_call(&rig);
    if (fate == DELETED_LATE || fate == LEFT_ALONE) {
        rig_at(&rig, valid_until_ms - 1);
        rig_expect_no_call(&rig);
        ck_assert_uint_eq(rig.keeper.table.live, 1);
        rig_pass(&rig, 1);
        if (fate == DELETED_LATE)
            in_flight = fake_store_expect(&rig.fake, STORE_RELEASE);
    }
    rig_expect_no_call(&rig);
    if (fate != LEFT_ALONE && fate != FORGOTTEN) {
        ck_assert_uint_eq(rig.keeper.owed, fate != BEING_DELETED);
        complete(in_flight, STORE_OK);
    }
    rig_check_idle(&rig);
}

START_TEST(a_clients_end)
{
    const struct end_case *c = &end_cases[_i];
    int64_t valid_until_ms;

    bring_into(c->state, c->expires);
    valid_until_ms = lease.valid_until_ms;
    if (c->state == ENDING)
        valid_until_ms += RIG_P;
    leave_by(c->way, c->said);
    check_fate(c->fate, valid_until_ms);
}
END_TEST

// The key is somebody else's at once, wherever the lease was left to run out.
START_TEST(a_key_left_behind_is_asked_for_in_redis)
{
    bring_into(HELD, false);
    rig_cut(&a);
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_complete(&rig, STORE_ACQUIRE, STORE_HELD);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    check_fate(DELETED_LATE, RIG_START + RIG_VALID);
}
END_TEST

// ---- Half-closed, with something still to be answered ----

START_TEST(half_closed_while_it_is_asked_for)
{
    static const enum store_outcome outcomes[] = {STORE_HELD,        STORE_REFUSED, STORE_UNSENT,
                                                  STORE_UNAVAILABLE, STORE_TIMEOUT, STORE_LOST};

    bring_into(ACQUIRING, false);
    rig_half_close(&a);
    rig_expect_nothing(&a);
    ck_assert_uint_eq(a.session.unanswered, 1);
    complete(in_flight, outcomes[_i]);
    rig_expect(&a, "{'ok':false,'id':1,'op':'acquire'}");
    rig_finish(&a);
    if (outcomes[_i] == STORE_TIMEOUT || outcomes[_i] == STORE_LOST)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// Granted to a client that has half-closed: it is told both.
START_TEST(half_closed_and_then_granted)
{
    bring_into(ACQUIRING, _i == 1);
    rig_send(&b, "{'op':'acquire','key':'k'}");
    rig_half_close(&a);
    complete(in_flight, STORE_OK);
    rig_expect(&a, "{'ok':true,'id':1,'op':'acquire','key':'k'}");
    rig_expect(&a, "{'event':'revoked','reason':'eof','key':'k','held_ms':0}");
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    rig_finish(&a);
    check_fate(_i == 1 ? DELETED_LATE : DELETED, RIG_START + RIG_VALID);
}
END_TEST

START_TEST(half_closed_while_it_releases)
{
    bring_into(RELEASING, false);
    rig_half_close(&a);
    rig_expect_nothing(&a);
    if (_i == 0) {
        complete(in_flight, STORE_OK);
        rig_expect(&a, "{'ok':true,'op':'release'}");
        rig_finish(&a);
    } else {
        rig_pass(&rig, RIG_C);
        rig_expect(&a, "{'ok':false,'op':'release','error':'errRedisUnavailable'}");
        rig_finish(&a);
        complete(in_flight, STORE_OK);
    }
    rig_check_idle(&rig);
}
END_TEST

// All of a client's leases, in all states at once, and the list of them holds.
START_TEST(half_closed_with_many_leases)
{
    struct rig_lease many[6];

    for (int i = 0; i < 6; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        rig_acquire(&a, &many[i], key, i & 1 ? ",'on_disconnect':'expire'" : "");
    }
    rig_send(&b, "{'op':'acquire','key':'q'}");
    in_flight = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    rig_send(&a, "{'op':'acquire','key':'q'}");
    rig_send(&a, "{'op':'release','lease':'%s'}", many[3].lease);
    rig_half_close(&a);
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errCancelled','key':'q'}");
    for (int i = 5; i >= 0; i--)
        if (i != 3)
            rig_expect(&a, "{'event':'revoked','reason':'eof','lease':'%s'}", many[i].lease);
    rig_expect_nothing(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'release','lease':'%s'}", many[3].lease);
    for (int i = 0; i < 3; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_finish(&a);
    complete(in_flight, STORE_OK);
    rig_expect(&b, "{'ok':true,'key':'q'}");
    rig_gone(&b);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect_no_call(&rig);
    rig_at(&rig, RIG_START + RIG_VALID); // k1 and k5 expire
    for (int i = 0; i < 2; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_NOT_OWNER);
    rig_check_idle(&rig);
}
END_TEST

// ---- Who cannot be told ----

START_TEST(a_revoked_event_is_to_be_taken_in_time)
{
    struct rig_lease second;
    int64_t by_ms;

    rig_acquire(&a, &lease, "k1", ",'deadline_ms':1000");
    rig_acquire(&a, &second, "k2", ",'deadline_ms':2000");
    ck_assert_int_eq(a.session.tell_by_ms, INT64_MAX);
    rig_at(&rig, RIG_START + 1000);
    by_ms = RIG_START + 1000 + RIG_C;
    ck_assert_int_eq(a.session.tell_by_ms, by_ms);
    rig_at(&rig, RIG_START + 2000);
    ck_assert_int_eq(a.session.tell_by_ms, by_ms); // the oldest counts
    session_took(&a.session, 10);
    ck_assert_int_eq(a.session.tell_by_ms, by_ms);
    session_took(&a.session, buf_length(&a.session.out));
    ck_assert_int_eq(a.session.tell_by_ms, INT64_MAX);
    ck_assert_uint_eq(a.session.tell_offset, a.session.taken);
    rig_send(&a, "{'op':'ping'}"); // other lines have no such bound
    ck_assert_int_eq(a.session.tell_by_ms, INT64_MAX);
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// Memory for `out` is gone: lines are dropped, nothing else breaks, and the owner cuts it off.
START_TEST(a_session_that_ran_out_of_memory)
{
    rig_acquire(&a, &lease, "held", ",'deadline_ms':1000");
    rig_send(&a, "{'op':'acquire','key':'asked'}");
    in_flight = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    a.may_fail = true;
    a.session.out.failed = true;
    rig_send(&a, "{'op':'acquire','key':'asked'}");
    rig_send(&a, "{'op':'ping'}");
    rig_send(&a, "{'op':'list'}");
    rig_send(&a, "{'op':'release','lease':'00112233445566778899aabbccddeeff'}");
    complete(in_flight, STORE_OK);
    rig_pass(&rig, 1000); // revoked, into nothing
    ck_assert_uint_eq(buf_length(&a.session.out), 0);
    ck_assert_uint_eq(a.session.unanswered, 0);
    rig_cut(&a);
    rig_expect_no_call(&rig); // nobody was told
    rig_at(&rig, RIG_START + RIG_VALID);
    for (int i = 0; i < 2; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_check_idle(&rig);
}
END_TEST

// ---- The store comes back ----

// Owed deletes first, then a renewal of each lease that is held and has none with the store; all
// while the store says that it is up, before it writes what has waited in it.
START_TEST(the_walk_when_the_store_is_up)
{
    struct rig_lease held[3];
    struct fake_call *deletes[2], *pending;

    for (int i = 0; i < 3; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        rig_acquire(&a, &held[i], key, "");
    }
    rig_acquire(&a, &lease, "ending", ",'deadline_ms':1000");
    rig_send(&b, "{'op':'acquire','key':'owed'}");
    rig_complete(&rig, STORE_ACQUIRE, STORE_LOST);
    rig_expect(&b, "{'ok':false}");
    rig_send(&b, "{'op':'release','lease':'%s'}", held[1].lease);
    rig_expect(&a, "{'event':'revoked','reason':'released'}");
    rig_send(&b, "{'op':'acquire','key':'asked'}");
    for (int i = 0; i < 2; i++)
        deletes[i] = fake_store_expect(&rig.fake, STORE_RELEASE);
    pending = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    fake_store_set_down(&rig.fake, "gone away", rig.now_ms);
    for (int i = 0; i < 2; i++)
        complete(deletes[i], STORE_LOST);
    rig_pass(&rig, 100); // less than R
    rig_expect_no_call(&rig);

    fake_store_set_up(&rig.fake, rig.now_ms);
    for (int i = 0; i < 2; i++)
        deletes[i] = fake_store_expect(&rig.fake, STORE_RELEASE);
    for (int i = 0; i < 3; i++) // k0, k2 and the one whose deadline is near
        complete(fake_store_expect(&rig.fake, STORE_RENEW), STORE_OK);
    rig_expect_no_call(&rig);
    ck_assert_int_gt(keeper_next_wake(&rig.keeper), rig.now_ms);
    for (int i = 0; i < 2; i++)
        complete(deletes[i], STORE_OK);
    rig_expect(&b, "{'ok':true,'op':'release','lease':'%s'}", held[1].lease);

    // Up once more while renewals and deletes are with the store: nothing twice.
    rig_at(&rig, RIG_START + 1000);
    rig_expect(&a, "{'event':'revoked','reason':'deadline'}");
    rig_at(&rig, RIG_START + 100 + RIG_P);
    for (int i = 0; i < 2; i++)
        fake_store_expect(&rig.fake, STORE_RENEW);
    fake_store_set_up(&rig.fake, rig.now_ms);
    rig_at(&rig, rig.now_ms);
    rig_expect_no_call(&rig);
    complete(pending, STORE_REFUSED);
    rig_expect(&b, "{'ok':false,'error':'errRedisRefused'}");
    rig_gone(&a);
    for (int i = 0; i < 3; i++)
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// ---- The sidecar's end ----

START_TEST(draining_lets_work_finish)
{
    rig_acquire(&a, &lease, "k", "");
    rig_send(&a, "{'op':'acquire','key':'asked'}");
    in_flight = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    rig_send(&b, "{'op':'acquire','key':'asked'}");
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    keeper_drain(&rig.keeper, rig.now_ms);
    rig_send(&a, "{'op':'acquire','key':'other'}");
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errShuttingDown'}");
    rig_send(&a, "{'op':'acquire','key':'k'}");
    rig_expect(&a, "{'ok':false,'op':'acquire','error':'errShuttingDown'}");
    complete(in_flight, STORE_HELD); // what was asked before is answered
    rig_expect(&a, "{'ok':false,'error':'errLockHeld'}");
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    rig_at(&rig, RIG_START + RIG_P);
    rig_complete(&rig, STORE_RENEW, STORE_OK); // heartbeats go on
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    rig_release(&a, &lease);
    ck_assert(keeper_is_drained(&rig.keeper, rig.now_ms));
}
END_TEST

START_TEST(an_empty_keeper_is_drained_once_it_drains)
{
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    keeper_drain(&rig.keeper, rig.now_ms);
    ck_assert(keeper_is_drained(&rig.keeper, rig.now_ms));
}
END_TEST

START_TEST(shutdown_revokes_what_is_held)
{
    struct rig_lease second;

    rig_acquire(&a, &lease, "k1", "");
    rig_acquire(&b, &second, "k2", "");
    rig_pass(&rig, 500);
    keeper_drain(&rig.keeper, rig.now_ms);
    keeper_shutdown(&rig.keeper, rig.now_ms);
    rig_expect(&a,
               "{'event':'revoked','reason':'shutdown','lease':'%s','safe_ms':%d,"
               "'valid_until_ms':%d,'held_ms':500}",
               lease.lease, RIG_VALID - 500, RIG_START + RIG_VALID);
    rig_expect(&b, "{'event':'revoked','reason':'shutdown','lease':'%s'}", second.lease);
    keeper_shutdown(&rig.keeper, rig.now_ms); // twice is as once
    rig_at(&rig, rig.now_ms);
    rig_expect_nothing(&a);
    rig_expect_no_call(&rig); // the keys stay
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':false,'error':'errLostActorLock','freed':true}");
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    if (_i == 0) { // all are acknowledged
        rig_gone(&b);
        ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    } else { // at the latest when the last valid_until has passed
        rig_at(&rig, RIG_START + RIG_VALID - 1);
        ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
        rig_pass(&rig, 1);
        ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
        rig_complete(&rig, STORE_RELEASE, STORE_OK);
    }
    ck_assert(keeper_is_drained(&rig.keeper, rig.now_ms));
    rig_check_idle(&rig);
}
END_TEST

// Asked for before, granted while stopping: told both, and waited for.
START_TEST(a_grant_while_stopping)
{
    rig_send(&a, "{'op':'acquire','key':'k'}");
    in_flight = fake_store_expect(&rig.fake, STORE_ACQUIRE);
    rig_send(&b, "{'op':'acquire','key':'k'}");
    keeper_drain(&rig.keeper, rig.now_ms);
    keeper_shutdown(&rig.keeper, rig.now_ms);
    rig_at(&rig, rig.now_ms);
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    complete(in_flight, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'acquire','key':'k'}");
    rig_expect(&a, "{'event':'revoked','reason':'shutdown','key':'k','safe_ms':%d,'held_ms':0}",
               RIG_VALID);
    rig_expect(&b, "{'ok':false,'error':'errLockHeld'}");
    rig_expect_no_call(&rig);
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    ck_assert(keeper_is_drained(&rig.keeper, rig.now_ms));
}
END_TEST

// Lost leases hold nothing up; owed deletes do, for one call's time.
START_TEST(only_deletes_are_owed)
{
    rig_acquire(&a, &lease, "lost", "");
    rig_at(&rig, RIG_START + RIG_P);
    rig_complete(&rig, STORE_RENEW, STORE_NOT_OWNER);
    rig_expect(&a, "{'event':'revoked','reason':'lost'}");
    rig_send(&b, "{'op':'acquire','key':'owed'}");
    rig_complete(&rig, STORE_ACQUIRE, STORE_TIMEOUT);
    rig_expect(&b, "{'ok':false}");
    in_flight = fake_store_expect(&rig.fake, STORE_RELEASE);
    keeper_drain(&rig.keeper, rig.now_ms);
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    ck_assert_int_eq(keeper_next_wake(&rig.keeper), rig.now_ms + RIG_C);
    rig_pass(&rig, RIG_C - 1);
    ck_assert(!keeper_is_drained(&rig.keeper, rig.now_ms));
    if (_i == 0) {
        complete(in_flight, STORE_OK);
        ck_assert(keeper_is_drained(&rig.keeper, rig.now_ms));
    } else {
        rig_pass(&rig, 1);
        ck_assert(keeper_is_drained(&rig.keeper, rig.now_ms));
        complete(in_flight, STORE_OK);
    }
}
END_TEST

// The store comes up while the walk of the shutdown is on: no renewal of what is to be revoked.
START_TEST(shutdown_and_the_store)
{
    rig_acquire(&a, &lease, "k", "");
    fake_store_set_down(&rig.fake, "away", rig.now_ms);
    keeper_drain(&rig.keeper, rig.now_ms);
    if (_i == 0)
        fake_store_set_up(&rig.fake, rig.now_ms);
    keeper_shutdown(&rig.keeper, rig.now_ms);
    if (_i == 1)
        fake_store_set_up(&rig.fake, rig.now_ms);
    rig_at(&rig, rig.now_ms);
    rig_expect(&a, "{'event':'revoked','reason':'shutdown'}");
    while (fake_store_unseen(&rig.fake) > 0) // at most one, from before the shutdown
        ck_assert(
            !fake_store_write(&rig.fake, fake_store_expect(&rig.fake, STORE_RENEW), rig.now_ms));
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

// The walk takes so many slots a turn; the store that comes up meanwhile does not end it.
START_TEST(the_walk_of_a_shutdown_goes_on)
{
    struct table *table = &rig.keeper.table;
    struct message_token token = {{1}};

    for (uint16_t i = 0; i < KEEPER_SWEEP + 100; i++) {
        memcpy(token.bytes + 1, &i, sizeof i);
        if (table_open(table, &token, "k", 1, "", 0) != i + 1u)
            ck_abort_msg("slot %d", i);
    }
    for (uint32_t i = 0; i < KEEPER_SWEEP + 100; i++)
        table_close(table, i + 1);
    table->free_first = table->free_last = SLOT_NONE; // so that the next slot is a new one
    rig_acquire(&a, &lease, "k", "");
    keeper_drain(&rig.keeper, rig.now_ms);
    keeper_shutdown(&rig.keeper, rig.now_ms);
    rig_expect_nothing(&a);
    ck_assert_int_eq(keeper_next_wake(&rig.keeper), INT64_MIN);
    fake_store_set_up(&rig.fake, rig.now_ms);
    rig_at(&rig, rig.now_ms);
    rig_expect(&a, "{'event':'revoked','reason':'shutdown','lease':'%s'}", lease.lease);
    rig_expect_no_call(&rig);
    rig_gone(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("keeper_end");
    TCase *tcase = tcase_create("end");

    tcase_set_timeout(tcase, 20);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_loop_test(tcase, a_clients_end, 0, sizeof end_cases / sizeof end_cases[0]);
    tcase_add_test(tcase, a_key_left_behind_is_asked_for_in_redis);
    tcase_add_loop_test(tcase, half_closed_while_it_is_asked_for, 0, 6);
    tcase_add_loop_test(tcase, half_closed_and_then_granted, 0, 2);
    tcase_add_loop_test(tcase, half_closed_while_it_releases, 0, 2);
    tcase_add_test(tcase, half_closed_with_many_leases);
    tcase_add_test(tcase, a_revoked_event_is_to_be_taken_in_time);
    tcase_add_test(tcase, a_session_that_ran_out_of_memory);
    tcase_add_test(tcase, the_walk_when_the_store_is_up);
    tcase_add_test(tcase, draining_lets_work_finish);
    tcase_add_test(tcase, an_empty_keeper_is_drained_once_it_drains);
    tcase_add_loop_test(tcase, shutdown_revokes_what_is_held, 0, 2);
    tcase_add_test(tcase, a_grant_while_stopping);
    tcase_add_loop_test(tcase, only_deletes_are_owed, 0, 2);
    tcase_add_loop_test(tcase, shutdown_and_the_store, 0, 2);
    tcase_add_test(tcase, the_walk_of_a_shutdown_goes_on);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
