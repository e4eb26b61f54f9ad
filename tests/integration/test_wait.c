// SPDX-License-Identifier: Apache-2.0
//
// Waiting for a key: the order, every end of a wait, hand-over between clients and between sidecars,
// and the fencing tokens of all these grants.

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/pair.h"
#include "tests/tool/rival.h"

enum {
    FOR_LONG = 20000, // a wait whose end is not the point
};

// ---- One after the other ----

// A row of waiters behind a holder, each of which has been read before the next one asks.
static void queue_up(struct line_client *waiters, int count, const char *key)
{
    for (int i = 0; i < count; i++) {
        waiters[i] = pair_connect(&sidecar);
        pair_wait(&waiters[i], key, FOR_LONG);
    }
}

static void close_all(struct line_client *clients, int count)
{
    for (int i = 0; i < count; i++)
        line_client_close(&clients[i]);
}

START_TEST(twenty_waiters_one_at_a_time_in_order)
{
    enum { WAITERS = 20 };
    struct line_client holder, waiters[WAITERS];
    struct line_lease lease;
    int64_t fence;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "queue", "");
    fence = lease.fence;
    queue_up(waiters, WAITERS, "queue");
    line_client_send(&holder, "{'op':'list'}");
    line_client_expect(&holder, "{'ok':true,'op':'list'}");
    ck_assert_uint_eq(json_array_size(line_client_member(&holder, "leases")), WAITERS + 1);
    line_client_release(&holder, &lease);
    for (int i = 0; i < WAITERS; i++) {
        pair_expect_granted(&waiters[i], "queue", &lease);
        ck_assert_int_gt(lease.fence, fence);
        fence = lease.fence;
        for (int other = i + 1; other < WAITERS; other++)
            pair_expect_nothing(&waiters[other]);
        line_client_release(&waiters[i], &lease);
    }
    bench_await_gone("queue", 1000);
    pair_expect_no_leases(&holder);
    close_all(waiters, WAITERS);
    line_client_close(&holder);
}
END_TEST

// The end of a holder's connection hands over as its release does. Somebody else who asks Redis all
// the time never gets a turn in between.
START_TEST(a_hand_over_leaves_no_gap)
{
    enum { WAITERS = 12 };
    struct line_client holder, waiters[WAITERS];
    struct line_lease lease;
    struct rival *rival;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "gap", "");
    rival = rival_new(redis.socket, "gap");
    queue_up(waiters, WAITERS, "gap");
    line_client_close(&holder);
    for (int i = 0; i < WAITERS; i++) {
        pair_expect_granted(&waiters[i], "gap", &lease);
        scratch_pause_ms(5); // some attempts of the rival's
        ck_assert_int_eq(rival_won_ms(rival), 0);
        if (i % 2)
            line_client_release(&waiters[i], &lease);
        else
            line_client_close(&waiters[i]);
    }
    rival_await(rival, 1000); // and when nobody waits any more, it does
    rival_free(rival);
    close_all(waiters, WAITERS);
}
END_TEST

// ---- The end of a wait ----

// The key is free, and nobody has been granted anything since.
static void expect_nothing_left(struct line_client *other, const char *key)
{
    bench_await_gone(key, 1000);
    pair_expect_no_leases(other);
    line_client_send(other, "{'op':'inspect','key':'%s'}", key);
    line_client_expect(other, "{'ok':true,'op':'inspect','key':'%s','held':false}", key);
    ck_assert_int_eq(bench_count("lock:*"), 0);
}

// The holder is a client of the same sidecar (the waiter stands in the queue), or of another one (it
// is the contender, and asks Redis).
enum { SAME, OTHER, PLACES };

static struct line_client hold(int place, struct line_lease *lease, const char *key)
{
    struct line_client holder = pair_connect(place == SAME ? &sidecar : &second);

    // Where the last waiter was granted as it left, that is being taken back.
    line_client_acquire(&holder, lease, key, ",'wait_ms':4000");
    return holder;
}

START_TEST(cancelled)
{
    struct line_client holder, waiter, next;
    struct line_lease lease;

    pair_start("30s");
    holder = hold(_i, &lease, "cancel");
    waiter = pair_connect(&sidecar);
    next = pair_connect(&sidecar);
    pair_wait(&waiter, "cancel", -1);
    pair_wait(&next, "cancel", FOR_LONG);
    line_client_send(&waiter, "{'id':1,'op':'cancel','target':'waits'}");
    line_client_expect(&waiter, "{'ok':false,'id':'waits','op':'acquire','error':'errCancelled',"
                                "'key':'cancel','waited_ms':'<int>'}");
    line_client_expect(&waiter, "{'ok':true,'id':1,'op':'cancel','cancelled':true}");
    line_client_send(&waiter, "{'id':2,'op':'cancel','target':'waits'}");
    line_client_expect(&waiter, "{'ok':true,'id':2,'op':'cancel','cancelled':false}");
    line_client_release(&holder, &lease);
    pair_expect_granted(&next, "cancel", &lease);
    pair_expect_nothing(&waiter);
    line_client_release(&next, &lease);
    expect_nothing_left(&waiter, "cancel");
    line_client_close(&next);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

START_TEST(timed_out)
{
    struct line_client holder, waiter;
    struct line_lease lease;
    int64_t asked_ms;

    pair_start("30s");
    holder = hold(_i, &lease, "timeout");
    waiter = pair_connect(&sidecar);
    asked_ms = scratch_boottime_ms();
    pair_wait(&waiter, "timeout", 300);
    line_client_expect(&waiter,
                       "{'ok':false,'id':'waits','op':'acquire','error':'errLockHeld',"
                       "'key':'timeout','holder':{'pid':%d,'fence':%lld},"
                       "'retry_after_ms':'<int>','waited_ms':'<int>'}",
                       (int)getpid(), (long long)lease.fence);
    ck_assert_int_ge(line_client_int(&waiter, "waited_ms"), 300);
    ck_assert_int_ge(waiter.received_ms - asked_ms, 300);
    ck_assert_int_le(waiter.received_ms - asked_ms, 300 + 3 * BENCH_NOISE_MS);
    line_client_release(&holder, &lease);
    expect_nothing_left(&waiter, "timeout");
    pair_expect_nothing(&waiter);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

START_TEST(the_client_leaves)
{
    struct line_client holder, waiter, half;
    struct line_lease lease;

    pair_start("30s");
    holder = hold(_i, &lease, "leaves");
    waiter = pair_connect(&sidecar);
    half = pair_connect(&sidecar);
    pair_wait(&waiter, "leaves", -1);
    pair_wait(&half, "leaves", -1);
    line_client_close(&waiter);
    line_client_half_close(&half);
    line_client_expect(&half, "{'ok':false,'id':'waits','op':'acquire','error':'errCancelled'}");
    line_client_expect_eof(&half);
    line_client_release(&holder, &lease);
    waiter = pair_connect(&sidecar);
    expect_nothing_left(&waiter, "leaves");
    line_client_close(&half);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

// The release and the waiter's end cross, again and again: a grant to who has gone is taken back.
START_TEST(the_client_leaves_while_it_is_granted)
{
    enum { RUNS = 200 };
    struct line_client holder, waiter;
    struct line_lease lease;
    int64_t began_us;

    pair_start("30s");
    for (int i = 0; i < RUNS; i++) {
        holder = hold(_i, &lease, "crossing");
        waiter = pair_connect(&sidecar);
        pair_wait(&waiter, "crossing", -1);
        line_client_send(&holder, "{'op':'release','lease':'%s'}", lease.lease);
        began_us = scratch_monotonic_us();
        while (scratch_monotonic_us() - began_us < i * 20 % 2000)
            ;
        line_client_close(&waiter);
        line_client_expect(&holder, "{'ok':true,'op':'release'}");
        line_client_close(&holder);
    }
    holder = pair_connect(&sidecar);
    SCRATCH_UNTIL(1000, bench_count("lock:*") == 0);
    pair_expect_no_leases(&holder);
    line_client_close(&holder);
}
END_TEST

// ---- What frees a key ----

static long long scripts_run(void)
{
    const char *stats = private_redis_string(&redis, "INFO commandstats");
    const char *at = strstr(stats, "cmdstat_evalsha:calls=");

    return at ? strtoll(at + strlen("cmdstat_evalsha:calls="), NULL, 10) : 0;
}

// Sends a wait that is denied, and returns when Redis was asked again after the subscription began:
// from now on the waiter waits for news.
static void wait_for_news(struct line_client *waiter, const char *key)
{
    long long before = scripts_run();

    pair_wait(waiter, key, FOR_LONG);
    SCRATCH_UNTIL(2000, scripts_run() >= before + 2);
}

START_TEST(a_plain_del_is_noticed)
{
    struct line_client holder, waiter;
    struct line_lease lease;
    int64_t freed_ms;

    pair_start("30s");
    holder = hold(OTHER, &lease, "del");
    waiter = pair_connect(&sidecar);
    wait_for_news(&waiter, "del");
    private_redis_run(&redis, "DEL lock:del");
    freed_ms = scratch_boottime_ms();
    pair_expect_granted(&waiter, "del", &lease);
    printf("# a plain DEL was noticed after %lld ms\n", (long long)(waiter.received_ms - freed_ms));
    fflush(stdout);
    ck_assert_int_le(waiter.received_ms - freed_ms, 3000);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

// A foreign locker's key runs out: its PTTL is known, so nobody asks much later.
START_TEST(a_key_that_runs_out_is_noticed)
{
    struct line_client waiter;
    struct line_lease lease;
    int64_t set_ms;

    pair_start_one("30s");
    waiter = pair_connect(&sidecar);
    set_ms = scratch_boottime_ms();
    private_redis_run(&redis, "SET lock:out somebody PX 400");
    pair_wait(&waiter, "out", FOR_LONG);
    pair_expect_granted(&waiter, "out", &lease);
    ck_assert_int_ge(waiter.received_ms - set_ms, 399);
    ck_assert_int_le(waiter.received_ms - set_ms, 400 + 3 * BENCH_NOISE_MS);
    line_client_close(&waiter);
}
END_TEST

// ---- Between sidecars ----

START_TEST(hand_over_between_two_sidecars)
{
    enum { RUNS = 100 };
    struct line_client clients[2];
    struct line_lease lease, next;
    int64_t took_us[RUNS];

    pair_start("30s");
    clients[0] = pair_connect(&sidecar);
    clients[1] = pair_connect(&second);
    line_client_acquire(&clients[0], &lease, "across", "");
    for (int i = 0; i < RUNS; i++) {
        struct line_client *holder = &clients[i % 2], *waiter = &clients[(i + 1) % 2];
        int64_t released_us;

        wait_for_news(waiter, "across");
        released_us = scratch_monotonic_us();
        line_client_send(holder, "{'op':'release','lease':'%s'}", lease.lease);
        pair_expect_granted(waiter, "across", &next);
        took_us[i] = scratch_monotonic_us() - released_us;
        line_client_expect(holder, "{'ok':true,'op':'release'}");
        ck_assert_int_gt(next.fence, lease.fence);
        lease = next;
    }
    ck_assert_int_lt(pair_report("hand-over between two sidecars", took_us, RUNS), 250000);
    close_all(clients, 2);
}
END_TEST

// However many wait, Redis is asked by one of them, now and then.
START_TEST(one_contender_however_many_wait)
{
    enum { WAITERS = 20, FOR_MS = 2200 };
    struct line_client holder, waiters[WAITERS];
    struct line_lease lease;
    long long before;

    pair_start("30s");
    holder = hold(OTHER, &lease, "herd");
    before = scripts_run();
    queue_up(waiters, WAITERS, "herd");
    ck_assert(!line_client_wait(&waiters[0], FOR_MS)); // the time in which Redis is asked
    ck_assert_int_ge(scripts_run() - before, 2);
    ck_assert_int_le(scripts_run() - before, 6);
    // Nor does it become a herd when the key is freed.
    before = scripts_run();
    line_client_release(&holder, &lease);
    pair_expect_granted(&waiters[0], "herd", &lease);
    for (int i = 1; i < WAITERS; i++)
        pair_expect_nothing(&waiters[i]);
    ck_assert_int_le(scripts_run() - before, 4);
    close_all(waiters, WAITERS);
    line_client_close(&holder);
}
END_TEST

// ---- Contention ----

enum { CONTENDERS = 12, ROUNDS = 40, GRANTS = CONTENDERS * ROUNDS };

struct contention {
    struct line_client clients[CONTENDERS];
    char lease[CONTENDERS][WIRE_LEASE_DIGITS + 1];
    int rounds[CONTENDERS]; // granted to each
    int last[CONTENDERS];   // the number of its newest grant
    int holder;             // -1: nobody may act
    int64_t release_at_us;  // of the holder
    int64_t fence;
    int granted;
    int longest_wait; // grants of others between two of one client's
};

static void ask(struct contention *all, int i)
{
    line_client_send(&all->clients[i], "{'op':'acquire','key':'contended','wait_ms':60000}");
}

static void take_grant(struct contention *all, int i)
{
    struct line_client *client = &all->clients[i];

    ck_assert_msg(all->holder < 0, "client %d was granted while %d holds: %s", i, all->holder,
                  client->line);
    ck_assert_int_gt(line_client_int(client, "fence"), all->fence);
    all->fence = line_client_int(client, "fence");
    strcpy(all->lease[i], line_client_string(client, "lease"));
    all->holder = i;
    all->release_at_us = scratch_monotonic_us() + rand() % 2000;
    if (all->rounds[i]++ > 0 && all->granted - all->last[i] > all->longest_wait)
        all->longest_wait = all->granted - all->last[i];
    all->last[i] = all->granted++;
}

static void take_line(struct contention *all, int i)
{
    struct line_client *client = &all->clients[i];

    line_client_receive(client);
    ck_assert_msg(json_is_true(line_client_member(client, "ok")), "client %d: %s", i, client->line);
    if (strcmp(line_client_string(client, "op"), "acquire") == 0)
        take_grant(all, i);
    else if (all->rounds[i] < ROUNDS)
        ask(all, i);
}

static void release_when_due(struct contention *all)
{
    int holder = all->holder;

    if (holder < 0 || scratch_monotonic_us() < all->release_at_us)
        return;
    all->holder = -1; // from the send on it does not act
    line_client_send(&all->clients[holder], "{'op':'release','lease':'%s'}", all->lease[holder]);
}

static void await_something(struct contention *all)
{
    struct pollfd sockets[CONTENDERS];

    for (int i = 0; i < CONTENDERS; i++)
        sockets[i] = (struct pollfd){.fd = all->clients[i].fd, .events = POLLIN};
    poll(sockets, CONTENDERS, all->holder < 0 ? 100 : 1);
}

// 480 grants to 12 clients of two sidecars: nobody is granted before the one before has said that it
// stops, fencing tokens rise, and nobody starves.
START_TEST(contended_hand_overs_do_not_overlap)
{
    static struct contention all;
    int64_t deadline = scratch_deadline(50000);

    pair_start("30s");
    all.holder = -1;
    for (int i = 0; i < CONTENDERS; i++) {
        all.clients[i] = pair_connect(i % 2 ? &second : &sidecar);
        ask(&all, i);
    }
    while (all.granted < GRANTS || all.holder >= 0) {
        ck_assert_msg(scratch_left(deadline) > 0, "only %d grants", all.granted);
        await_something(&all);
        for (int i = 0; i < CONTENDERS; i++)
            while (line_client_wait(&all.clients[i], 0))
                take_line(&all, i);
        release_when_due(&all);
    }
    printf("# %d hand-overs, at most %d grants between two of one client\n", all.granted,
           all.longest_wait);
    fflush(stdout);
    ck_assert_int_le(all.longest_wait, GRANTS / 4);
    bench_await_gone("contended", 1000);
    close_all(all.clients, CONTENDERS);
}
END_TEST

// ---- Fencing ----

// Sixty grants of one key, some handed over, while everything that Redis knows is lost twice.
START_TEST(fences_rise_over_every_loss)
{
    enum { TAKEN = 60 };
    struct line_client client, waiter;
    struct line_lease lease;
    int64_t fence = 0;

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    waiter = pair_connect(&sidecar);
    for (int i = 0; i < TAKEN; i += 2) {
        if (i == 20)
            private_redis_run(&redis, "FLUSHALL");
        if (i == 40)
            private_redis_restart(&redis);
        pair_await_up(&client);
        line_client_acquire(&client, &lease, "fence", "");
        ck_assert_int_gt(lease.fence, fence);
        fence = lease.fence;
        pair_wait(&waiter, "fence", FOR_LONG);
        if (i == 10)
            private_redis_run(&redis, "FLUSHALL"); // under a holder: the hand-over finds nothing
        line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
        line_client_expect(&client, "{'op':'release'}");
        pair_expect_granted(&waiter, "fence", &lease);
        ck_assert_int_gt(lease.fence, fence);
        ck_assert_int_lt(lease.fence, 9007199254740992);
        fence = lease.fence;
        line_client_release(&waiter, &lease);
    }
    line_client_close(&waiter);
    line_client_close(&client);
}
END_TEST

START_TEST(no_key_is_left_per_lock)
{
    struct line_client client, waiter;
    struct line_lease lease;
    char key[32];

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    waiter = pair_connect(&sidecar);
    for (int i = 0; i < 500; i++) {
        snprintf(key, sizeof key, "taken:%d", i);
        line_client_acquire(&client, &lease, key, "");
        if (i % 10 == 0)
            pair_wait(&waiter, key, FOR_LONG);
        line_client_release(&client, &lease);
        if (i % 10 == 0) {
            pair_expect_granted(&waiter, key, &lease);
            line_client_release(&waiter, &lease);
        }
    }
    ck_assert_int_lt(private_redis_int(&redis, "DBSIZE"), 50);
    // Nor is a subscription left.
    SCRATCH_UNTIL(2000, private_redis_reply(&redis, "PUBSUB CHANNELS")->elements == 0);
    line_client_close(&waiter);
    line_client_close(&client);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("waiting");
    TCase *tests = tcase_create("waiting");

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, bench_setup, pair_teardown);
    tcase_add_test(tests, twenty_waiters_one_at_a_time_in_order);
    tcase_add_test(tests, a_hand_over_leaves_no_gap);
    tcase_add_loop_test(tests, cancelled, 0, PLACES);
    tcase_add_loop_test(tests, timed_out, 0, PLACES);
    tcase_add_loop_test(tests, the_client_leaves, 0, PLACES);
    tcase_add_loop_test(tests, the_client_leaves_while_it_is_granted, 0, PLACES);
    tcase_add_test(tests, a_plain_del_is_noticed);
    tcase_add_test(tests, a_key_that_runs_out_is_noticed);
    tcase_add_test(tests, hand_over_between_two_sidecars);
    tcase_add_test(tests, one_contender_however_many_wait);
    tcase_add_test(tests, contended_hand_overs_do_not_overlap);
    tcase_add_test(tests, fences_rise_over_every_loss);
    tcase_add_test(tests, no_key_is_left_per_lock);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
