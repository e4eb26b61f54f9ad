// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper's lock_keeper_valid under faults: a thread calls it without pause while a rival waits
// for the key. Nothing is read of what the sidecar says, but where a test says so: no check is true
// after the rival's grant, by the page alone. These are rows 5, 19 and 32 of the matrix, as
// test_rows_page.c has them for whoever reads the page by hand.

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "client/lock_keeper.h"
#include "tests/fault/rows.h"

enum { TTL = 2000 };

static struct lock_keeper *keeper;
static struct lock_keeper_lease *lease;
static struct rival *rival;

static struct checker {
    pthread_t thread;
    atomic_llong checks;
    atomic_llong last_true_ns; // the clock just before the newest check that was true
    atomic_bool ending;
} checker;

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// The clock is read before the check: what was true was so at that instant or later.
static void *check(void *context)
{
    struct checker *own = context;

    while (!own->ending) {
        int64_t before_ns = now_ns();

        if (lock_keeper_valid(lease))
            own->last_true_ns = before_ns;
        own->checks++;
    }
    return NULL;
}

static void begin(void)
{
    int64_t granted_ms, deadline = scratch_deadline(10000);
    int r;

    rows_setup();
    rows_start("2s");
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_ptr_nonnull(keeper);
    do // Redis may not be reached yet
        r = lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k"}, &lease);
    while (r == LOCK_KEEPER_E_REDIS_UNAVAILABLE && scratch_left(deadline) > 0);
    ck_assert_msg(r == 0, "%s", lock_keeper_get_reply(keeper)->message);
    granted_ms = lock_keeper_lease_valid_until_ms(lease);
    ck_assert_int_eq(pthread_create(&checker.thread, NULL, check, &checker), 0);
    rival = rival_new(redis.socket, "k");
    // A heartbeat has moved it, and nothing was read of that.
    SCRATCH_UNTIL(2 * TTL, lock_keeper_lease_valid_until_ms(lease) > granted_ms);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(rival_won_ms(rival), 0);
}

static void end(void)
{
    checker.ending = true;
    pthread_join(checker.thread, NULL);
    rival_free(rival);
    keeper = lock_keeper_free(keeper);
    rows_teardown();
}

// The rival has the key, checks have gone on since, and none is true. When the last was.
static int64_t check_nobody_overlaps(void)
{
    int64_t won_ms = rival_await(rival, 4 * TTL), last_ns;
    long long checks = checker.checks;

    SCRATCH_UNTIL(2000, checker.checks > checks + 1000);
    ck_assert(!lock_keeper_valid(lease));
    last_ns = checker.last_true_ns;
    ck_assert_msg(last_ns < won_ms * 1000000, "valid %lld us after the rival's grant",
                  (long long)(last_ns / 1000 - won_ms * 1000));
    return last_ns;
}

// What stood there when the sidecar stopped: the clock alone ends it, and not before.
static void check_until_the_end(int64_t until_ms)
{
    int64_t last_ns = check_nobody_overlaps();

    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), until_ms);
    ck_assert_int_le(last_ns, (until_ms + 1) * 1000000); // it is cut to whole ms
    ck_assert_int_ge(last_ns, (until_ms - ROWS_NOISE_MS) * 1000000);
}

START_TEST(valid_with_a_stopped_sidecar)
{
    siginfo_t info;
    int64_t last_ns;

    sidecar_process_signal(&sidecar, SIGSTOP);
    ck_assert_int_eq(waitid(P_PID, (id_t)sidecar.pid, &info, WSTOPPED | WNOWAIT), 0);
    check_until_the_end(lock_keeper_lease_valid_until_ms(lease));
    last_ns = checker.last_true_ns;
    sidecar_process_signal(&sidecar, SIGCONT);
    SCRATCH_UNTIL(5000, lock_keeper_wait(keeper, 10) >= 0 && !lock_keeper_lease_is_held(lease));
    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), 0);
    ck_assert_int_eq(checker.last_true_ns, last_ns); // nothing brings it back
}
END_TEST

START_TEST(valid_with_a_killed_sidecar)
{
    sidecar_process_kill(&sidecar);
    check_until_the_end(lock_keeper_lease_valid_until_ms(lease));
}
END_TEST

// False from the revoke time on, a margin before the end, although nobody reads that.
START_TEST(valid_when_redis_is_away)
{
    int64_t until_ms, last_ms;

    fault_proxy_refuse(proxy, true);
    fault_proxy_cut(proxy);
    until_ms = lock_keeper_lease_valid_until_ms(lease);
    last_ms = check_nobody_overlaps() / 1000000;
    ck_assert_int_lt(last_ms, until_ms - TTL / 5 + ROWS_NOISE_MS);
    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), 0);
}
END_TEST

static bool is_adopted(void)
{
    const struct lock_keeper_event *event;

    ck_assert_int_ge(lock_keeper_wait(keeper, 10), 0);
    while ((event = lock_keeper_next_event(keeper))) {
        ck_assert_int_ne(event->kind, LOCK_KEEPER_EVENT_REVOKED);
        if (event->kind == LOCK_KEEPER_EVENT_ADOPTED)
            return true;
    }
    return false;
}

// Killed and started again: adopted while the old page still speaks for the lease; then nothing is
// read any more, and the second sidecar stops for good.
START_TEST(valid_across_a_restart)
{
    sidecar_process_kill(&sidecar);
    sidecar_process_restart(&sidecar);
    SCRATCH_UNTIL(TTL, is_adopted());
    for (int64_t deadline = scratch_deadline(2 * TTL); scratch_left(deadline) > 0;)
        ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(rival_won_ms(rival), 0);
    sidecar_process_signal(&sidecar, SIGSTOP);
    check_nobody_overlaps();
    sidecar_process_signal(&sidecar, SIGCONT);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("lock_keeper_valid under faults");
    TCase *tests = tcase_create("page");

    tcase_set_timeout(tests, 40);
    tcase_add_checked_fixture(tests, begin, end);
    suite_add_tcase(suite, tests);
    rows_add(tests, valid_with_a_stopped_sidecar);
    rows_add(tests, valid_with_a_killed_sidecar);
    rows_add(tests, valid_when_redis_is_away);
    rows_add(tests, valid_across_a_restart);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
