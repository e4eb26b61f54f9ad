// SPDX-License-Identifier: Apache-2.0
//
// Lockers of others and lock-keeper on one key: each respects what the other holds, nobody touches or
// shows what is not its own, and under contention there is never more than one holder.

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/interop/locker.h"
#include "tests/tool/pair.h"

// A name that redis-semaphore can have, too.
#define KEY "mutex:wanted"

static struct locker foreign;

static bool begin(int kind)
{
    pair_start("30s");
    return locker_start(&foreign, (enum locker_kind)kind, redis.socket, "lock:" KEY);
}

START_TEST(what_we_hold_they_do_not_get)
{
    struct line_client client;
    struct line_lease lease;
    char value[1024];

    if (!begin(_i))
        return;
    client = pair_connect(&sidecar);
    line_client_acquire(&client, &lease, KEY, "");
    snprintf(value, sizeof value, "%s", pair_value(KEY));
    locker_tell(&foreign, "try");
    locker_expect(&foreign, "refused");
    locker_tell(&foreign, "lock");
    ck_assert_ptr_null(locker_hear(&foreign, 100));
    ck_assert_str_eq(pair_value(KEY), value);
    line_client_release(&client, &lease);
    locker_expect(&foreign, "locked"); // it asks again and again
    locker_tell(&foreign, "unlock");
    locker_expect(&foreign, "unlocking");
    locker_expect(&foreign, "unlocked");
    locker_stop(&foreign);
    line_client_close(&client);
}
END_TEST

static void expect_held_by_foreign(struct line_client *client, const char *value)
{
    line_client_expect(client,
                       "{'ok':false,'op':'acquire','error':'errLockHeld','retry_after_ms':'<int>',"
                       "'holder':{'foreign':true,'bytes':%d}}",
                       (int)strlen(value));
    ck_assert_ptr_null(strstr(client->line, value));
}

START_TEST(what_they_hold_we_do_not_get)
{
    struct line_client client, waiter;
    struct line_lease lease;
    char value[1024], cut[33];
    int64_t pttl_ms;

    if (!begin(_i))
        return;
    client = pair_connect(&sidecar);
    waiter = pair_connect(&second);
    locker_tell(&foreign, "try");
    locker_expect(&foreign, "locked");
    snprintf(value, sizeof value, "%s", pair_value(KEY));
    pttl_ms = bench_pttl(KEY);
    line_client_send(&client, "{'op':'acquire','key':'" KEY "'}");
    expect_held_by_foreign(&client, value);
    line_client_send(&client, "{'op':'acquire','key':'" KEY "','wait_ms':100}");
    expect_held_by_foreign(&client, value);
    line_client_send(&client, "{'op':'inspect','key':'" KEY "'}");
    line_client_expect(&client,
                       "{'ok':true,'op':'inspect','held':true,'here':false,"
                       "'holder':{'foreign':true,'bytes':%d}}",
                       (int)strlen(value));
    ck_assert_ptr_null(strstr(client.line, value));
    // Not even with the value itself: redis-py's looks like a lease of ours.
    snprintf(cut, sizeof cut, "%.32s", value);
    line_client_send(&client, "{'op':'adopt','key':'" KEY "','lease':'%s'}", cut);
    line_client_expect(&client, "{'ok':false,'op':'adopt','error':'%s'}",
                       strlen(cut) == 32 && strspn(cut, "0123456789abcdef") == 32
                           ? "errLostActorLock"
                           : "errBadRequest");
    pair_wait(&waiter, KEY, -1);
    ck_assert_str_eq(pair_value(KEY), value);
    ck_assert_int_le(bench_pttl(KEY), pttl_ms);
    ck_assert_int_gt(bench_pttl(KEY), pttl_ms - 10000);
    locker_tell(&foreign, "unlock");
    locker_expect(&foreign, "unlocking");
    locker_expect(&foreign, "unlocked"); // it found its own value
    pair_expect_granted(&waiter, KEY, &lease);
    locker_stop(&foreign);
    line_client_close(&waiter);
    line_client_close(&client);
}
END_TEST

// ---- Contention ----

enum { CLIENTS = 6, OUR_GRANTS = 240, THEIR_GRANTS = 15, FOREIGN = CLIENTS, NOBODY = -1 };

struct contention {
    struct line_client clients[CLIENTS];
    char lease[CLIENTS][WIRE_LEASE_DIGITS + 1];
    int acting; // NOBODY, one of ours, or FOREIGN
    int64_t until_us;
    int ours, theirs;
    bool unlocking;
};

static void begin_acting(struct contention *all, int who)
{
    ck_assert_msg(all->acting == NOBODY, "%d was granted while %d acts", who, all->acting);
    all->acting = who;
    all->until_us = scratch_monotonic_us() + rand() % 2000;
}

// It says that it stops before it asks Redis, so what it has said by now comes before what Redis does
// next.
static void hear_foreign(struct contention *all)
{
    const char *word;

    while ((word = locker_hear(&foreign, 0))) {
        if (strcmp(word, "locked") == 0) {
            all->theirs++;
            begin_acting(all, FOREIGN);
        } else if (strcmp(word, "unlocking") == 0) {
            ck_assert_int_eq(all->acting, FOREIGN);
            all->acting = NOBODY;
        } else {
            ck_assert_str_eq(word, "unlocked"); // nobody has touched its key
            all->unlocking = false;
            if (all->theirs < THEIR_GRANTS)
                locker_tell(&foreign, "lock");
        }
    }
}

static void ask(struct contention *all, int i)
{
    line_client_send(&all->clients[i], "{'op':'acquire','key':'" KEY "','wait_ms':60000}");
}

static void take_line(struct contention *all, int i)
{
    struct line_client *client = &all->clients[i];

    line_client_expect(client, "{'ok':true}");
    if (strcmp(line_client_string(client, "op"), "release") == 0) {
        if (all->ours < OUR_GRANTS)
            ask(all, i);
        return;
    }
    hear_foreign(all);
    begin_acting(all, i);
    strcpy(all->lease[i], line_client_string(client, "lease"));
    all->ours++;
}

static void stop_when_due(struct contention *all)
{
    int i = all->acting;

    if (i == NOBODY || all->unlocking || scratch_monotonic_us() < all->until_us)
        return;
    if (i == FOREIGN) {
        all->unlocking = true;
        locker_tell(&foreign, "unlock");
        return;
    }
    all->acting = NOBODY;
    line_client_send(&all->clients[i], "{'op':'release','lease':'%s'}", all->lease[i]);
}

static void await_something(const struct contention *all)
{
    struct pollfd polled[CLIENTS + 1];

    for (int i = 0; i < CLIENTS; i++)
        polled[i] = (struct pollfd){.fd = all->clients[i].fd, .events = POLLIN};
    polled[CLIENTS] = (struct pollfd){.fd = foreign.out, .events = POLLIN};
    poll(polled, CLIENTS + 1, 1);
}

START_TEST(contention)
{
    static struct contention all;
    int64_t deadline = scratch_deadline(50000);

    if (!begin(_i))
        return;
    all.acting = NOBODY;
    for (int i = 0; i < CLIENTS; i++) {
        all.clients[i] = pair_connect(i % 2 ? &second : &sidecar);
        ask(&all, i);
    }
    locker_tell(&foreign, "lock");
    while (all.ours < OUR_GRANTS || all.theirs < THEIR_GRANTS || all.acting != NOBODY ||
           all.unlocking) {
        ck_assert_msg(scratch_left(deadline) > 0, "%d grants of ours, %d of theirs", all.ours,
                      all.theirs);
        await_something(&all);
        hear_foreign(&all);
        for (int i = 0; i < CLIENTS; i++)
            if (line_client_wait(&all.clients[i], 0))
                take_line(&all, i);
        stop_when_due(&all);
    }
    printf("# %s: %d grants of ours, %d of theirs\n", locker_names[_i], all.ours, all.theirs);
    fflush(stdout);
    for (int i = 0; i < CLIENTS; i++)
        line_client_close(&all.clients[i]);
    locker_stop(&foreign);
    bench_await_gone(KEY, 1000);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("interop");
    TCase *tests = tcase_create("interop");

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, bench_setup, pair_teardown);
    tcase_add_loop_test(tests, what_we_hold_they_do_not_get, 0, LOCKER_KINDS);
    tcase_add_loop_test(tests, what_they_hold_we_do_not_get, 0, LOCKER_KINDS);
    tcase_add_loop_test(tests, contention, 0, LOCKER_KINDS);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
