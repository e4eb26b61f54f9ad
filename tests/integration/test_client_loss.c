// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper when the sidecar dies, stands still, or comes back: leases that are adopted without
// anybody noticing, and ends that are told in time.

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "client/lock_keeper.h"
#include "tests/tool/bench.h"
#include "tests/tool/library_client.h"
#include "tests/tool/rival.h"

enum { WAIT_MS = 8000, TTL_MS = 1500, MARGIN_MS = TTL_MS / 5 };
#define TTL "1500ms"

static struct lock_keeper *keeper;

static void begin(void)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", TTL, NULL);
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_ptr_nonnull(keeper);
}

static void teardown(void)
{
    keeper = lock_keeper_free(keeper);
    bench_teardown();
}

static struct lock_keeper_lease *acquired_as(const struct lock_keeper_acquire *options)
{
    struct lock_keeper_lease *lease = NULL;
    int r = lock_keeper_acquire(keeper, options, &lease);

    ck_assert_msg(r == 0, "%d %s", r, lock_keeper_get_reply(keeper)->message);
    return lease;
}

// Goes on until the kind comes, and counts how often the lease was found not valid.
static int invalid_until(const struct lock_keeper_lease *lease, enum lock_keeper_event_kind kind)
{
    int64_t deadline = scratch_deadline(WAIT_MS);
    int invalid = 0;

    for (;;) {
        const struct lock_keeper_event *event = lock_keeper_next_event(keeper);

        invalid += !lock_keeper_valid(lease);
        if (event && event->kind == kind)
            return invalid;
        if (event)
            ck_assert_int_ne(event->kind, LOCK_KEEPER_EVENT_REVOKED);
        ck_assert_int_gt(scratch_left(deadline), 0);
        lock_keeper_wait(keeper, 5);
    }
}

static void kill_sidecar(void)
{
    sidecar_process_kill(&sidecar);
}

// ---- It comes back in time ----

static void survives(struct lock_keeper_lease *lease, struct rival *rival)
{
    int64_t fence = lock_keeper_lease_fence(lease);
    const struct lock_keeper_event *event;

    sidecar_process_restart(&sidecar);
    ck_assert_int_eq(invalid_until(lease, LOCK_KEEPER_EVENT_DISCONNECTED), 0);
    event = library_event_alive(keeper, LOCK_KEEPER_EVENT_CONNECTED);
    ck_assert(event->again);
    ck_assert_int_eq(invalid_until(lease, LOCK_KEEPER_EVENT_ADOPTED), 0);
    for (int i = 0; i < 4; i++) // longer than what the first sidecar had renewed
        ck_assert_int_eq(invalid_until(lease, LOCK_KEEPER_EVENT_RENEWED), 0);
    ck_assert_int_eq(rival_won_ms(rival), 0);
    ck_assert_int_eq(lock_keeper_lease_fence(lease), fence);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
    rival_await(rival, 1000);
    rival_free(rival);
}

START_TEST(killed_and_restarted)
{
    struct lock_keeper_lease *lease;
    struct rival *rival;

    begin();
    lease = library_acquired(keeper, "k");
    library_event_alive(keeper, LOCK_KEEPER_EVENT_CONNECTED);
    rival = rival_new(redis.socket, "k");
    kill_sidecar();
    survives(lease, rival);
}
END_TEST

START_TEST(ended_by_sigusr2_and_restarted)
{
    struct lock_keeper_lease *lease;
    struct rival *rival;

    begin();
    lease = library_acquired(keeper, "k");
    library_event_alive(keeper, LOCK_KEEPER_EVENT_CONNECTED);
    rival = rival_new(redis.socket, "k");
    sidecar_process_signal(&sidecar, SIGUSR2);
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 5000), 0);
    survives(lease, rival);
}
END_TEST

START_TEST(leases_with_other_bindings)
{
    struct lock_keeper_lease *none, *pid;
    int adopted = 0;

    begin();
    none = acquired_as(&(struct lock_keeper_acquire){.key = "n", .bind = LOCK_KEEPER_BIND_NONE});
    pid = acquired_as(
        &(struct lock_keeper_acquire){.key = "p", .bind = LOCK_KEEPER_BIND_PID, .pid = getpid()});
    kill_sidecar();
    sidecar_process_restart(&sidecar);
    while (adopted < 2)
        adopted += library_event_alive(keeper, LOCK_KEEPER_EVENT_ADOPTED) != NULL;
    ck_assert(lock_keeper_valid(none) && lock_keeper_valid(pid));
    keeper = lock_keeper_free(keeper);
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(lock_keeper_inspect(keeper, "n"), 0);
    ck_assert(lock_keeper_get_reply(keeper)->here);
    ck_assert_int_eq(lock_keeper_inspect(keeper, "p"), 0);
    ck_assert(lock_keeper_get_reply(keeper)->here);
}
END_TEST

// The release finds no sidecar, waits for one, and frees the key there.
START_TEST(released_while_the_sidecar_is_away)
{
    struct lock_keeper_lease *lease;
    uint64_t request;
    const struct lock_keeper_event *event;

    begin();
    lease = library_acquired(keeper, "k");
    kill_sidecar();
    library_event_alive(keeper, LOCK_KEEPER_EVENT_DISCONNECTED);
    ck_assert_int_eq(lock_keeper_start_release(keeper, lease, &request), 0);
    ck_assert(!lock_keeper_valid(lease));
    sidecar_process_restart(&sidecar);
    event = library_event_alive(keeper, LOCK_KEEPER_EVENT_REPLY);
    ck_assert_uint_eq(event->request, request);
    ck_assert_msg(event->reply->code == 0, "%s", event->reply->message);
    ck_assert(!bench_exists("k"));
    ck_assert(!lock_keeper_valid(lease)); // the adoption brought nothing back
    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), 0);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
}
END_TEST

START_TEST(an_acquire_that_waits_survives_a_restart)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;
    int64_t began = scratch_boottime_ms();

    begin();
    private_redis_run(&redis, "SET lock:k somebody PX 1500");
    ck_assert_int_eq(lock_keeper_start_acquire(
                         keeper, &(struct lock_keeper_acquire){.key = "k", .wait_ms = 6000}, NULL),
                     0);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    kill_sidecar();
    sidecar_process_restart(&sidecar);
    event = library_event_alive(keeper, LOCK_KEEPER_EVENT_REPLY);
    ck_assert_msg(event->reply->code == 0, "%s", event->reply->message);
    lease = event->lease;
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_lt(scratch_boottime_ms() - began, 6000);
}
END_TEST

START_TEST(calls_are_asked_again)
{
    begin();
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    kill_sidecar();
    sidecar_process_restart(&sidecar);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
}
END_TEST

// ---- It does not ----

// What was told, when, and when the rival got the key.
static void told_in_time(const struct lock_keeper_event *event, int64_t until_ms,
                         struct rival *rival)
{
    int64_t told_ms = scratch_boottime_ms();

    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_UNCONFIRMED);
    ck_assert_str_eq(event->reason_name, "unconfirmed");
    ck_assert_int_le(event->safe_ms, MARGIN_MS);
    ck_assert_int_gt(event->safe_ms, 0);
    ck_assert_int_lt(told_ms, until_ms);
    ck_assert_int_eq(rival_won_ms(rival), 0);
    ck_assert_int_ge(rival_await(rival, WAIT_MS), told_ms + event->safe_ms - 1);
    rival_free(rival);
}

START_TEST(killed_for_good)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;
    struct rival *rival;
    int64_t until;

    begin();
    lease = library_acquired(keeper, "k");
    rival = rival_new(redis.socket, "k");
    library_event_alive(keeper, LOCK_KEEPER_EVENT_RENEWED);
    kill_sidecar();
    library_event_alive(keeper, LOCK_KEEPER_EVENT_DISCONNECTED);
    until = lock_keeper_lease_valid_until_ms(lease);
    event = library_event_alive(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_int_ge(scratch_boottime_ms(), until - MARGIN_MS);
    ck_assert(!lock_keeper_valid(lease));
    told_in_time(event, until, rival);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert_int_eq(lock_keeper_lease_reason(lease), LOCK_KEEPER_REASON_UNCONFIRMED);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, LOCK_KEEPER_E_LOST_ACTOR_LOCK);
}
END_TEST

START_TEST(a_sidecar_that_stands_still)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;
    struct rival *rival;
    int64_t until;

    begin();
    lease = library_acquired(keeper, "k");
    rival = rival_new(redis.socket, "k");
    library_event_alive(keeper, LOCK_KEEPER_EVENT_RENEWED);
    sidecar_process_signal(&sidecar, SIGSTOP);
    until = lock_keeper_lease_valid_until_ms(lease);
    event = library_event_alive(keeper, LOCK_KEEPER_EVENT_REVOKED);
    until = event->valid_until_ms;
    told_in_time(event, until, rival);
    ck_assert(lock_keeper_is_connected(keeper));
    sidecar_process_signal(&sidecar, SIGCONT);
    // What it says when it goes on is not told again.
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_ptr_null(lock_keeper_next_event(keeper));
    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
}
END_TEST

// lock_keeper_valid by itself: nobody processes anything.
START_TEST(valid_needs_no_message)
{
    struct lock_keeper_lease *lease;
    struct rival *rival;
    int64_t last_valid = 0;

    begin();
    lease = library_acquired(keeper, "k");
    rival = rival_new(redis.socket, "k");
    sidecar_process_signal(&sidecar, SIGSTOP);
    while (rival_won_ms(rival) == 0) {
        int64_t now = scratch_boottime_ms();

        if (lock_keeper_valid(lease))
            last_valid = now;
    }
    ck_assert_int_gt(last_valid, 0);
    ck_assert_int_lt(last_valid, rival_won_ms(rival));
    ck_assert(!lock_keeper_valid(lease));
    rival_free(rival);
    sidecar_process_signal(&sidecar, SIGCONT);
}
END_TEST

// Lost while the sidecar stood still, or was away; meanwhile somebody adopts it. What the old holder
// says when the work has stopped concerns nobody.
START_TEST(an_unconfirmed_lease_that_somebody_adopted)
{
    bool is_killed = _i & 1, is_freed = _i & 2;
    struct lock_keeper *other;
    struct lock_keeper_lease *lease, *held;
    int64_t deadline = scratch_deadline(WAIT_MS);
    int r;

    begin();
    lock_keeper_set_margin(keeper, TTL_MS - 300); // early enough for others to adopt it
    lease = library_acquired(keeper, "k");
    sidecar_process_signal(&sidecar, is_killed ? SIGKILL : SIGSTOP);
    ck_assert_int_eq(library_event_alive(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_UNCONFIRMED);
    if (is_killed) {
        ck_assert_int_eq(sidecar_process_wait(&sidecar, 5000), -SIGKILL);
        sidecar_process_restart(&sidecar);
    } else {
        sidecar_process_signal(&sidecar, SIGCONT);
    }
    other = lock_keeper_new(sidecar.socket);
    do
        r = lock_keeper_adopt(
            other, &(struct lock_keeper_adopt){.key = "k", .token = lock_keeper_lease_token(lease)},
            &held);
    while (r == LOCK_KEEPER_E_REDIS_UNAVAILABLE && scratch_left(deadline) > 0);
    ck_assert_msg(r == 0, "%s", lock_keeper_get_reply(other)->message);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0); // connected again
    if (is_freed)
        ck_assert_ptr_null(lock_keeper_lease_free(lease));
    else
        ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0); // behind whatever was sent
    for (int renewed = 0; renewed < 3;) {
        const struct lock_keeper_event *event = lock_keeper_next_event(other);

        ck_assert_int_gt(scratch_left(deadline), 0);
        if (!event)
            lock_keeper_wait(other, 10);
        else
            ck_assert_int_ne(event->kind, LOCK_KEEPER_EVENT_REVOKED);
        renewed += event && event->kind == LOCK_KEEPER_EVENT_RENEWED;
    }
    ck_assert(lock_keeper_valid(held));
    ck_assert(bench_exists("k"));
    ck_assert_int_eq(lock_keeper_release(other, held), 0);
    lock_keeper_free(other);
}
END_TEST

START_TEST(a_margin_of_ones_own)
{
    struct lock_keeper_lease *lease;
    int64_t until;

    begin();
    lease = library_acquired(keeper, "k");
    lock_keeper_set_margin(keeper, 700);
    kill_sidecar();
    library_event_alive(keeper, LOCK_KEEPER_EVENT_DISCONNECTED);
    until = lock_keeper_lease_valid_until_ms(lease);
    library_event_alive(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_int_ge(scratch_boottime_ms(), until - 700);
    ck_assert_int_lt(scratch_boottime_ms(), until - 700 + 3 * BENCH_NOISE_MS);
}
END_TEST

START_TEST(without_reconnecting)
{
    struct lock_keeper_lease *lease;

    begin();
    lock_keeper_set_reconnect(keeper, false);
    lease = library_acquired(keeper, "k");
    kill_sidecar();
    ck_assert_int_eq(library_event_alive(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_UNCONFIRMED);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_get_timeout(keeper), -1);
    ck_assert_int_eq(lock_keeper_ping(keeper), -ECONNREFUSED);
    sidecar_process_restart(&sidecar);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
}
END_TEST

START_TEST(the_key_is_taken_while_it_is_away)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;

    begin();
    lease = library_acquired(keeper, "k");
    kill_sidecar();
    private_redis_run(&redis, "SET lock:k somebody");
    sidecar_process_restart(&sidecar);
    event = library_event_alive(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_ptr_eq(event->lease, lease);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_LOST);
    ck_assert_int_eq(event->safe_ms, 0);
    ck_assert(bench_exists("k"));
}
END_TEST

START_TEST(the_deadline_comes_while_it_is_away)
{
    struct lock_keeper_lease *lease;

    begin();
    lease = acquired_as(&(struct lock_keeper_acquire){.key = "k", .deadline_ms = 400});
    kill_sidecar();
    ck_assert_int_eq(library_event_alive(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_DEADLINE);
    ck_assert(!lock_keeper_valid(lease));
}
END_TEST

START_TEST(nobody_comes_back)
{
    struct lock_keeper_lease *lease, *more;
    const struct lock_keeper_event *event;
    int64_t began;
    uint64_t request;

    begin();
    lock_keeper_set_timeout(keeper, 300);
    lease = library_acquired(keeper, "k");
    kill_sidecar();
    library_event_alive(keeper, LOCK_KEEPER_EVENT_DISCONNECTED);
    began = scratch_boottime_ms();
    ck_assert_int_eq(lock_keeper_acquire(
                         keeper, &(struct lock_keeper_acquire){.key = "l", .wait_ms = -1}, &more),
                     -ENOTCONN);
    ck_assert_int_ge(scratch_boottime_ms() - began, 299);
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errNoSidecar");
    ck_assert_int_eq(lock_keeper_connect(keeper), -ECONNREFUSED);
    ck_assert_int_eq(lock_keeper_start_release(keeper, lease, &request), 0);
    event = library_event_alive(keeper, LOCK_KEEPER_EVENT_REPLY);
    ck_assert_int_eq(event->reply->code, -ENOTCONN);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_UNKNOWN_LEASE);
}
END_TEST

// The answer to an acquire comes after it was given up: what it grants is given back.
START_TEST(a_grant_that_comes_too_late)
{
    struct lock_keeper_lease *lease;

    begin();
    SCRATCH_UNTIL(WAIT_MS,
                  lock_keeper_ping(keeper) == 0 && lock_keeper_get_reply(keeper)->redis_up);
    lock_keeper_set_timeout(keeper, 200);
    sidecar_process_signal(&sidecar, SIGSTOP);
    ck_assert_int_eq(lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k"}, &lease),
                     -ETIMEDOUT);
    ck_assert_ptr_null(lease);
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errTimeout");
    sidecar_process_signal(&sidecar, SIGCONT);
    lock_keeper_set_timeout(keeper, 0);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0); // behind the acquire and its cancel
    SCRATCH_UNTIL(WAIT_MS, lock_keeper_list(keeper, 0, NULL) == 0 &&
                               lock_keeper_get_reply(keeper)->row_count == 0);
    bench_await_gone("k", 1000); // what is being released has no row any more
}
END_TEST

START_TEST(a_copy_of_the_handle_after_a_fork)
{
    struct lock_keeper_lease *lease;
    pid_t pid;

    begin();
    lease = library_acquired(keeper, "k");
    pid = scratch_fork();
    if (pid == 0) {
        lock_keeper_free(keeper);
        _exit(0);
    }
    ck_assert_int_eq(scratch_exit_code(pid, WAIT_MS), 0);
    for (int i = 0; i < 4; i++)
        library_event_alive(keeper, LOCK_KEEPER_EVENT_RENEWED);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("client_loss");
    TCase *tests = tcase_create("loss");

    tcase_add_checked_fixture(tests, bench_setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, killed_and_restarted);
    tcase_add_test(tests, ended_by_sigusr2_and_restarted);
    tcase_add_test(tests, leases_with_other_bindings);
    tcase_add_test(tests, released_while_the_sidecar_is_away);
    tcase_add_test(tests, an_acquire_that_waits_survives_a_restart);
    tcase_add_test(tests, calls_are_asked_again);
    tcase_add_test(tests, killed_for_good);
    tcase_add_test(tests, a_sidecar_that_stands_still);
    tcase_add_test(tests, valid_needs_no_message);
    tcase_add_loop_test(tests, an_unconfirmed_lease_that_somebody_adopted, 0, 4);
    tcase_add_test(tests, a_margin_of_ones_own);
    tcase_add_test(tests, without_reconnecting);
    tcase_add_test(tests, the_key_is_taken_while_it_is_away);
    tcase_add_test(tests, the_deadline_comes_while_it_is_away);
    tcase_add_test(tests, nobody_comes_back);
    tcase_add_test(tests, a_grant_that_comes_too_late);
    tcase_add_test(tests, a_copy_of_the_handle_after_a_fork);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
