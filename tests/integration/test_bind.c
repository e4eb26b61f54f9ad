// SPDX-License-Identifier: Apache-2.0
//
// What ends a lease: its connection, a process, or nothing; and what becomes of the key then.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/tool/holder_process.h"
#include "tests/tool/pair.h"

enum {
    SOON_MS = 1000, // every T here that matters is far longer
};

// A child that does nothing until it is killed.
static pid_t fork_idle(void)
{
    pid_t pid = scratch_fork();

    if (pid == 0)
        for (;;)
            pause();
    return pid;
}

static void expect_refused(struct line_client *client, const char *pid, const char *why)
{
    line_client_send(client, "{'op':'acquire','key':'refused','bind':'pid','pid':%s}", pid);
    line_client_expect(client, "{'ok':false,'op':'acquire','error':'errBadRequest'}");
    ck_assert_msg(strstr(line_client_string(client, "message"), why) != NULL, "%s", client->line);
    ck_assert(!bench_exists("refused"));
}

// ---- bind "pid" ----

// From SIGKILL to the key's end, bound to the connection and to the process itself.
START_TEST(killed_and_gone)
{
    enum { RUNS = 50 };
    static const char *const more[] = {"", ",'bind':'pid'"};
    int64_t took_us[RUNS];
    char key[32];

    pair_start_one("30s");
    for (int i = 0; i < RUNS; i++) {
        pid_t holder;
        int64_t killed_us;

        snprintf(key, sizeof key, "killed:%d", i);
        holder = holder_process_start(key, line_client_acquire, more[_i], NULL);
        ck_assert(bench_exists(key));
        killed_us = scratch_monotonic_us();
        kill(holder, SIGKILL);
        while (bench_exists(key))
            ck_assert_int_lt(scratch_monotonic_us() - killed_us, 5000000);
        took_us[i] = scratch_monotonic_us() - killed_us;
        scratch_kill(holder);
    }
    ck_assert_int_lt(
        pair_report(_i ? "SIGKILL to key gone, bind pid" : "SIGKILL to key gone", took_us, RUNS),
        250000);
}
END_TEST

// The connection's end is never seen: a child of the holder has the descriptor, too.
START_TEST(a_child_keeps_the_descriptor)
{
    struct line_client other;
    pid_t holder, keeper;

    pair_start_one("30s");
    other = pair_connect(&sidecar);
    holder = holder_process_start("inherited", line_client_acquire, ",'bind':'pid'", &keeper);
    line_client_send(&other, "{'op':'list'}");
    line_client_expect(&other,
                       "{'ok':true,'leases':[{'state':'held','key':'inherited',"
                       "'holder':{'pid':%d}}]}",
                       (int)holder);
    scratch_kill(holder);
    bench_await_gone("inherited", SOON_MS);
    ck_assert_int_eq(kill(keeper, SIGKILL), 0); // it was there to the end
    pair_expect_no_leases(&other);
    line_client_close(&other);
}
END_TEST

// A lease that is bound to another process of the same user, such as a shell's.
START_TEST(another_process)
{
    struct line_client client, other;
    struct line_lease lease, kept;
    char more[64];
    pid_t pid, survivor;

    pair_start_one("1s");
    client = pair_connect(&sidecar);
    other = pair_connect(&sidecar);
    pid = fork_idle();
    survivor = fork_idle();
    snprintf(more, sizeof more, ",'bind':'pid','pid':%d", (int)pid);
    line_client_acquire(&client, &lease, "named", more);
    line_client_acquire(&client, &kept, "kept", more);
    snprintf(more, sizeof more, ",'bind':'pid','pid':%d", (int)survivor);
    line_client_acquire(&other, &kept, "survives", more);
    // It outlives the connection, heartbeated.
    line_client_close(&client);
    line_client_close(&other);
    other = pair_connect(&sidecar);
    for (int64_t deadline = scratch_deadline(2500); scratch_left(deadline) > 0;)
        ck_assert_int_gt(bench_pttl("named"), 1000 - 333 - 83 - 3 * BENCH_NOISE_MS);
    scratch_kill(pid);
    bench_await_gone("named", SOON_MS);
    bench_await_gone("kept", SOON_MS);
    ck_assert(bench_exists("survives"));
    scratch_kill(survivor);
    bench_await_gone("survives", SOON_MS);
    pair_expect_no_leases(&other);
    line_client_close(&other);
}
END_TEST

// While the connection is open it is told.
START_TEST(the_connection_is_told_of_the_process_end)
{
    struct line_client client;
    struct line_lease lease;
    char more[64];
    pid_t pid;

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    pid = fork_idle();
    snprintf(more, sizeof more, ",'bind':'pid','pid':%d", (int)pid);
    line_client_acquire(&client, &lease, "told", more);
    scratch_kill(pid);
    line_client_expect(&client, "{'event':'revoked','lease':'%s','key':'told','safe_ms':0}",
                       lease.lease);
    bench_await_gone("told", SOON_MS);
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':false,'op':'release'}");
    line_client_close(&client);
}
END_TEST

START_TEST(who_waits_is_cancelled_with_the_process)
{
    struct line_client holder, waiter;
    struct line_lease lease;
    pid_t pid;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    waiter = pair_connect(&sidecar);
    pid = fork_idle();
    line_client_acquire(&holder, &lease, "waits", "");
    line_client_send(&waiter,
                     "{'id':1,'op':'acquire','key':'waits','wait_ms':-1,'bind':'pid','pid':%d}",
                     (int)pid);
    line_client_ping(&waiter);
    scratch_kill(pid);
    line_client_expect(&waiter, "{'ok':false,'id':1,'op':'acquire','error':'errCancelled'}");
    line_client_release(&holder, &lease);
    ck_assert(!bench_exists("waits"));
    pair_expect_no_leases(&waiter);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

// A process that has ended and is not waited for yet: it gets no lease that lasts.
START_TEST(a_zombie)
{
    struct line_client client;
    siginfo_t info;
    pid_t pid;

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    pid = scratch_fork();
    if (pid == 0)
        _exit(0);
    ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    line_client_send(&client, "{'op':'acquire','key':'zombie','bind':'pid','pid':%d}", (int)pid);
    line_client_expect(&client, "{'op':'acquire'}");
    bench_await_gone("zombie", SOON_MS);
    line_client_send(&client, "{'op':'list'}");
    line_client_await(&client, "{'ok':true,'op':'list','leases':[]}");
    line_client_close(&client);
}
END_TEST

START_TEST(processes_that_there_are_not)
{
    struct line_client client;
    struct line_lease lease;
    char number[16];
    pid_t pid;

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    expect_refused(&client, "2147483647", "no process has this");
    pid = fork_idle();
    scratch_kill(pid);
    snprintf(number, sizeof number, "%d", (int)pid);
    expect_refused(&client, number, "no process has this");
    expect_refused(&client, "0", "pid");
    // A refusal changes nothing for the next one.
    line_client_acquire(&client, &lease, "refused", ",'bind':'pid'");
    line_client_release(&client, &lease);
    line_client_close(&client);
}
END_TEST

// Another user may bind to its own processes, and to no others'; root to all.
START_TEST(processes_of_another_user)
{
    struct line_client client;
    struct line_lease lease;
    char more[64];
    pid_t pid;

    pair_start_one("30s");
    pid = pair_fork_other_user();
    if (pid == 0) {
        char number[16];

        client = pair_connect(&sidecar);
        snprintf(number, sizeof number, "%d", (int)getppid());
        line_client_send(&client, "{'op':'acquire','key':'users','bind':'pid','pid':%s}", number);
        line_client_expect(&client, "{'ok':false,'op':'acquire','error':'errBadRequest'}");
        ck_assert_ptr_nonnull(strstr(line_client_string(&client, "message"), "another uid"));
        line_client_send(&client, "{'op':'acquire','key':'users','bind':'pid','pid':1}");
        line_client_expect(&client, "{'ok':false,'op':'acquire','error':'errBadRequest'}");
        line_client_acquire(&client, &lease, "users", ",'bind':'pid'");
        for (;;)
            pause();
    }
    if (pid < 0)
        return;
    SCRATCH_UNTIL(5000, bench_exists("users"));
    client = pair_connect(&sidecar);
    snprintf(more, sizeof more, ",'bind':'pid','pid':%d", (int)pid);
    line_client_acquire(&client, &lease, "roots", more);
    scratch_kill(pid);
    bench_await_gone("users", SOON_MS);
    bench_await_gone("roots", SOON_MS);
    line_client_close(&client);
}
END_TEST

// ---- bind "none" ----

START_TEST(bound_to_nothing)
{
    struct line_client client, other;
    struct line_lease lease;

    pair_start_one("1s");
    client = pair_connect(&sidecar);
    line_client_acquire(&client, &lease, "none", ",'bind':'none','deadline_ms':4000");
    line_client_close(&client);
    for (int64_t deadline = scratch_deadline(2500); scratch_left(deadline) > 0;)
        ck_assert_int_gt(bench_pttl("none"), 1000 - 333 - 83 - 3 * BENCH_NOISE_MS);
    other = pair_connect(&sidecar);
    line_client_send(&other, "{'op':'acquire','key':'none'}");
    line_client_expect(&other, "{'ok':false,'error':'errLockHeld'}");
    line_client_release(&other, &lease);
    ck_assert(!bench_exists("none"));
    // Without a release it has its deadline.
    line_client_acquire(&other, &lease, "none", ",'bind':'none','deadline_ms':500");
    line_client_close(&other);
    bench_await_gone("none", 500 + 1000 + 3 * BENCH_NOISE_MS);
}
END_TEST

// ---- on_disconnect ----

START_TEST(left_to_expire)
{
    struct line_client client, other;
    struct line_lease lease;
    int64_t closed_ms, left_ms, last_ms;

    pair_start_one("1s");
    client = pair_connect(&sidecar);
    other = pair_connect(&sidecar);
    line_client_acquire(&client, &lease, "expires", ",'on_disconnect':'expire'");
    line_client_close(&client);
    closed_ms = scratch_boottime_ms();
    line_client_send(&other, "{'op':'list'}");
    line_client_await(&other, "{'ok':true,'op':'list'}");
    last_ms = bench_pttl("expires");
    ck_assert_int_gt(last_ms, 0);
    while ((left_ms = bench_pttl("expires")) > 0) { // it is not lengthened any more
        ck_assert_int_le(left_ms, last_ms);
        last_ms = left_ms;
    }
    ck_assert_int_ge(scratch_boottime_ms(), lease.valid_until_ms);
    ck_assert_int_le(scratch_boottime_ms() - closed_ms, 1000 + BENCH_NOISE_MS);
    SCRATCH_UNTIL(1000, (line_client_send(&other, "{'op':'list'}"),
                         line_client_expect(&other, "{'ok':true,'op':'list'}"),
                         json_array_size(line_client_member(&other, "leases")) == 0));
    line_client_close(&other);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("binding");
    TCase *tests = tcase_create("binding");

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, bench_setup, pair_teardown);
    tcase_add_loop_test(tests, killed_and_gone, 0, 2);
    tcase_add_test(tests, a_child_keeps_the_descriptor);
    tcase_add_test(tests, another_process);
    tcase_add_test(tests, the_connection_is_told_of_the_process_end);
    tcase_add_test(tests, who_waits_is_cancelled_with_the_process);
    tcase_add_test(tests, a_zombie);
    tcase_add_test(tests, processes_that_there_are_not);
    tcase_add_test(tests, processes_of_another_user);
    tcase_add_test(tests, bound_to_nothing);
    tcase_add_test(tests, left_to_expire);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
