// SPDX-License-Identifier: Apache-2.0
//
// The validity page under faults: a client checks it without pause, in a thread of its own, while a
// rival waits for the key. Whatever becomes of the sidecar, no check is true after the rival's grant.
// These are rows 5, 19 and 32 of the matrix, seen by a client that only looks at its page.

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/fault/rows.h"

enum { TTL = 2000 };

struct checker {
    pthread_t thread;
    const int64_t *slot;
    atomic_llong checks;
    atomic_llong last_true_ns; // the clock of the newest check that was true
    atomic_bool ending;
};

static struct rows_holder holder;
static struct checker checker;
static struct rival *rival;
static int64_t slot;

static void *check(void *context)
{
    struct checker *own = context;

    while (!own->ending) {
        int64_t until_ns = __atomic_load_n(own->slot, __ATOMIC_ACQUIRE), now_ns;
        struct timespec now;

        clock_gettime(CLOCK_BOOTTIME, &now);
        now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        if (now_ns < until_ns)
            own->last_true_ns = now_ns;
        own->checks++;
    }
    return NULL;
}

static void begin(void)
{
    rows_setup();
    rows_start("2s");
    holder = (struct rows_holder){.client = rows_connect(), .ttl_ms = TTL};
    line_client_open_page(&holder.client);
    rows_await_up(&holder.client);
    rows_acquire(&holder.client, &holder.lease, "k", ""); // without `renewed`
    holder.valid_until_ms = holder.lease.valid_until_ms;
    slot = line_client_int(&holder.client, "slot");
    checker = (struct checker){.slot = holder.client.page + slot};
    ck_assert_int_eq(pthread_create(&checker.thread, NULL, check, &checker), 0);
    rival = rival_new(redis.socket, "k");
    // A heartbeat has moved it, and nothing was said of that.
    SCRATCH_UNTIL(2 * TTL, line_client_slot(&holder.client, slot) >
                               holder.lease.valid_until_ms * INT64_C(1000000));
}

static void end(void)
{
    checker.ending = true;
    pthread_join(checker.thread, NULL);
    rival_free(rival);
    rows_leave(&holder);
    rows_teardown();
}

// The rival has the key; checks have gone on since. When the last of them that was true was made.
static int64_t check_nobody_overlaps(void)
{
    int64_t won_ms = rival_await(rival, 4 * TTL), last_ns;
    long long checks = checker.checks;

    SCRATCH_UNTIL(2000, checker.checks > checks + 1000);
    last_ns = checker.last_true_ns;
    ck_assert_msg(last_ns < won_ms * 1000000, "valid %lld us after the rival's grant",
                  (long long)(last_ns / 1000 - won_ms * 1000));
    return last_ns;
}

// It stays as it was, and the clock alone makes it false.
static void check_until_the_end(int64_t until_ns)
{
    int64_t last_ns = check_nobody_overlaps();

    ck_assert_int_eq(line_client_slot(&holder.client, slot), until_ns);
    ck_assert_int_lt(last_ns, until_ns);
    ck_assert_int_ge(last_ns, until_ns - ROWS_NOISE_MS * 1000000);
}

// Stopped past its TTL, it can tell nobody anything. When it goes on, it is 0 before `revoked`.
START_TEST(page_of_a_stopped_sidecar)
{
    siginfo_t info;
    int64_t last_ns;

    sidecar_process_signal(&sidecar, SIGSTOP);
    ck_assert_int_eq(waitid(P_PID, (id_t)sidecar.pid, &info, WSTOPPED | WNOWAIT), 0);
    check_until_the_end(line_client_slot(&holder.client, slot));
    last_ns = checker.last_true_ns;
    sidecar_process_signal(&sidecar, SIGCONT);
    line_client_expect(&holder.client, "{'event':'revoked','lease':'%s'}", holder.lease.lease);
    ck_assert_int_eq(line_client_slot(&holder.client, slot), 0);
    ck_assert_int_eq(checker.last_true_ns, last_ns); // nothing brings it back
}
END_TEST

START_TEST(page_of_a_killed_sidecar)
{
    int64_t until_ns;

    sidecar_process_kill(&sidecar);
    until_ns = line_client_slot(&holder.client, slot);
    line_client_expect_eof(&holder.client);
    check_until_the_end(until_ns);
}
END_TEST

// Redis is away: false from the revoke time on, a margin before the end, by the time that is told.
START_TEST(page_when_redis_is_away)
{
    int64_t until_ms, last_ms;

    fault_proxy_refuse(proxy, true);
    fault_proxy_cut(proxy);
    line_client_expect(&holder.client,
                       "{'event':'revoked','reason':'unreachable','valid_until_ms':'<int>'}");
    ck_assert_int_eq(line_client_slot(&holder.client, slot), 0);
    until_ms = line_client_int(&holder.client, "valid_until_ms");
    last_ms = check_nobody_overlaps() / 1000000;
    ck_assert_int_lt(last_ms, until_ms - TTL / 5 + ROWS_NOISE_MS);
}
END_TEST

// Killed and started again: the old page is right until the lease is adopted, and from then on the
// new one; at no moment is the work without one that says so.
START_TEST(page_across_a_restart)
{
    struct line_client next;
    int64_t next_slot;

    sidecar_process_kill(&sidecar);
    line_client_expect_eof(&holder.client);
    sidecar_process_restart(&sidecar);
    next = rows_connect();
    line_client_open_page(&next);
    rows_await_up(&next);
    line_client_send(&next, "{'op':'adopt','key':'k','lease':'%s'}", holder.lease.lease);
    line_client_expect(&next, "{'ok':true,'op':'adopt','key':'k'}");
    next_slot = line_client_int(&next, "slot");
    ck_assert(line_client_valid(&next, next_slot));
    ck_assert_msg(line_client_valid(&holder.client, slot), "the restart took too long");
    ck_assert_int_gt(line_client_slot(&next, next_slot), line_client_slot(&holder.client, slot));
    SCRATCH_UNTIL(2 * TTL, !line_client_valid(&holder.client, slot)); // the old one is over
    ck_assert(line_client_valid(&next, next_slot));
    ck_assert_int_eq(rival_won_ms(rival), 0);
    line_client_send(&next, "{'op':'release','lease':'%s'}", holder.lease.lease);
    line_client_expect(&next, "{'ok':true,'op':'release'}");
    ck_assert_int_eq(line_client_slot(&next, next_slot), 0);
    check_nobody_overlaps();
    line_client_close(&next);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("the validity page under faults");
    TCase *tests = tcase_create("page");

    tcase_set_timeout(tests, 40);
    tcase_add_checked_fixture(tests, begin, end);
    suite_add_tcase(suite, tests);
    rows_add(tests, page_of_a_stopped_sidecar);
    rows_add(tests, page_of_a_killed_sidecar);
    rows_add(tests, page_when_redis_is_away);
    rows_add(tests, page_across_a_restart);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
