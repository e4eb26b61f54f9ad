// SPDX-License-Identifier: Apache-2.0
//
// Rows 13, 14, 21, 27 and 28 where clients wait for a key, hand it over or adopt it.

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/fault/rows.h"

enum { SOON_MS = 150 }; // milliseconds, on a busy machine; every T here is far longer

static void wait_for(struct line_client *client, const char *key, int64_t wait_ms)
{
    line_client_send(client, "{'id':'waits','op':'acquire','key':'%s','wait_ms':%lld}", key,
                     (long long)wait_ms);
    line_client_ping(client);
}

static void expect_granted(struct line_client *client, const char *key, struct line_lease *lease)
{
    line_client_await(client, "{'ok':true,'id':'waits','op':'acquire','key':'%s'}", key);
    strcpy(lease->lease, line_client_string(client, "lease"));
    lease->fence = line_client_int(client, "fence");
}

static void expect_no_leases(struct line_client *client)
{
    line_client_send(client, "{'op':'list'}");
    line_client_expect(client, "{'ok':true,'op':'list','leases':[]}");
}

// ---- Row 13 ----

// The reply is lost and the lock is had: the wait goes on, on the next connection, with the same token,
// and finds its own key. The fencing token is the one that was stored the first time.
START_TEST(row_13_longer_waits_ask_with_the_same_token)
{
    struct line_client client;
    struct line_lease lease;
    char stored[512];
    int64_t sent_ms;
    int before;

    rows_start("3s");
    client = rows_connect();
    rows_acquire(&client, &lease, "before", "");
    for (int i = 0; i < 5; i++) {
        sent_ms = scratch_boottime_ms();
        before = fault_proxy_count(proxy, RESP_ACQUIRE, NULL, 0);
        fault_proxy_arm(proxy,
                        &(struct fault_rule){RESP_ACQUIRE, .at = FAULT_REPLY, .act = FAULT_CUT});
        wait_for(&client, "again", 10000);
        fault_proxy_await_fired(proxy, i + 1, 1000);
        snprintf(stored, sizeof stored, "%s", private_redis_string(&redis, "GET lock:again"));
        expect_granted(&client, "again", &lease);
        ck_assert_int_le(client.received_ms - sent_ms, 500 + 2 * ROWS_NOISE_MS);
        ck_assert_int_eq(strncmp(stored, lease.lease, 32), 0);
        ck_assert_int_eq(strtoll(stored + 54, NULL, 10), lease.fence);
        ck_assert_str_eq(private_redis_string(&redis, "GET lock:again"), stored);
        ck_assert_int_eq(fault_proxy_count(proxy, RESP_ACQUIRE, NULL, 0) - before, 2);
        ck_assert_int_eq(fault_proxy_count(proxy, RESP_ACQUIRE, lease.lease, 0), 2);
        line_client_release(&client, &lease);
        ck_assert(!bench_exists("again"));
    }
    line_client_close(&client);
}
END_TEST

// ---- Row 14 ----

// The wait is granted by its second attempt, and released; the bytes of the first one come after that.
START_TEST(row_14_late_bytes_of_a_wait)
{
    enum { LATE = 1200 };
    struct line_client client;
    struct line_lease lease;
    int64_t until_ms;

    rows_start("2s");
    client = rows_connect();
    rows_acquire(&client, &lease, "before", "");
    fault_proxy_arm(proxy, &(struct fault_rule){RESP_ACQUIRE, .act = FAULT_LATE, .after_ms = LATE});
    until_ms = scratch_boottime_ms() + LATE + 500;
    wait_for(&client, "late", 10000);
    expect_granted(&client, "late", &lease);
    ck_assert_int_lt(client.received_ms, until_ms - 500);
    line_client_release(&client, &lease);
    while (scratch_boottime_ms() < until_ms) {
        ck_assert(!bench_exists("late"));
        scratch_pause_ms(5);
    }
    ck_assert_int_gt(fault_proxy_late_lost(proxy) + fault_proxy_late_written(proxy), 0);
    line_client_close(&client);
}
END_TEST

// ---- Row 21 ----

// A child that waits for the key: its acquire is read when this returns.
static pid_t fork_waiter(const char *key)
{
    struct line_client client;
    int ready[2];
    char byte = 'w';
    pid_t pid;

    ck_assert_int_eq(pipe(ready), 0);
    pid = scratch_fork();
    if (pid == 0) {
        client = rows_connect();
        wait_for(&client, key, -1);
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

START_TEST(row_21_killed_while_waiting)
{
    struct line_client holder, other;
    struct line_lease lease;
    pid_t first, second;

    rows_start("30s");
    holder = rows_connect();
    other = rows_connect();
    rows_acquire(&holder, &lease, "waits", "");
    first = fork_waiter("waits");
    second = fork_waiter("waits");
    scratch_kill(first);
    scratch_kill(second);
    SCRATCH_UNTIL(SOON_MS, (line_client_send(&other, "{'op':'list'}"),
                            line_client_expect(&other, "{'ok':true,'op':'list'}"),
                            json_array_size(line_client_member(&other, "leases")) == 1));
    line_client_release(&holder, &lease);
    ck_assert(!bench_exists("waits"));
    expect_no_leases(&other);
    line_client_close(&other);
    line_client_close(&holder);
}
END_TEST

// Redis has given it the key already, by a hand-over; the answer is on its way. The next one in the
// queue has it instead, or nobody.
START_TEST(row_21_killed_as_it_is_handed_the_key)
{
    struct line_client holder, next;
    struct line_lease lease;
    int64_t released_ms;
    char value[64];
    pid_t waiter;

    rows_start("30s");
    holder = rows_connect();
    next = rows_connect();
    rows_acquire(&holder, &lease, "handed", "");
    waiter = fork_waiter("handed");
    if (_i)
        wait_for(&next, "handed", -1);
    snprintf(value, sizeof value, "%.32s", private_redis_string(&redis, "GET lock:handed"));
    fault_proxy_hold(proxy, FAULT_DOWN, true);
    line_client_send(&holder, "{'id':'r','op':'release','lease':'%s'}", lease.lease);
    SCRATCH_UNTIL(2000, strncmp(private_redis_string(&redis, "GET lock:handed"), value, 32) != 0);
    scratch_kill(waiter);
    line_client_ping(&next);
    fault_proxy_hold(proxy, FAULT_DOWN, false);
    released_ms = scratch_boottime_ms();
    line_client_await(&holder, "{'ok':true,'id':'r','op':'release'}");
    if (_i) {
        expect_granted(&next, "handed", &lease);
        ck_assert_int_le(next.received_ms, released_ms + SOON_MS + ROWS_NOISE_MS);
        line_client_release(&next, &lease);
    }
    ck_assert_int_le(bench_await_gone("handed", 5000), released_ms + SOON_MS + ROWS_NOISE_MS);
    expect_no_leases(&next);
    line_client_close(&next);
    line_client_close(&holder);
}
END_TEST

// ---- Row 27 ----

enum { WAITERS = 8, GRANTS = 200 };

// Who acts, in memory that is shared: 0 nobody.
static atomic_int *acting;

static void begin_acting(int who)
{
    int nobody = 0;

    ck_assert_msg(atomic_compare_exchange_strong(acting, &nobody, who), "%d acts while %d does",
                  who, nobody);
}

// A locker that knows nothing of us: SET NX PX, and compare-and-delete. Exits 0 after it has had the key
// 20 times.
static pid_t fork_foreign_locker(void)
{
    static const char delete[] = "if redis.call('get',KEYS[1])==ARGV[1] then return "
                                 "redis.call('del',KEYS[1]) else return 0 end";
    pid_t pid = scratch_fork();

    if (pid == 0) {
        redisContext *context = redisConnectUnix(redis.socket);

        for (int had = 0; had < 20;) {
            redisReply *reply = redisCommand(context, "SET lock:wanted its-capability NX PX 60000");
            if (reply->type == REDIS_REPLY_NIL) {
                freeReplyObject(reply);
                scratch_pause_ms(1);
                continue;
            }
            freeReplyObject(reply);
            begin_acting(-1);
            scratch_pause_ms(2);
            atomic_store(acting, 0);
            reply = redisCommand(context, "EVAL %s 1 lock:wanted its-capability", delete);
            if (reply->integer != 1) // somebody touched it
                _exit(2);
            freeReplyObject(reply);
            had++;
        }
        redisFree(context);
        _exit(0);
    }
    return pid;
}

static void ask(struct line_client *client)
{
    line_client_send(client, "{'op':'acquire','key':'wanted','wait_ms':60000}");
}

// The waiters of two sidecars and a foreign locker: never two at a time, and each gets it.
START_TEST(row_27_waiters_and_a_foreign_locker)
{
    struct sidecar_process second = {.name = "second"};
    struct line_client clients[WAITERS];
    struct pollfd sockets[WAITERS];
    int granted = 0, had[WAITERS] = {0};
    bool foreign_done = false;
    int64_t fence = 0;
    pid_t foreign;

    acting = mmap(NULL, sizeof *acting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(acting != MAP_FAILED);
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", NULL);
    sidecar_process_start(&second, redis.url, "--lock-ttl", "30s", NULL);
    for (int i = 0; i < WAITERS; i++) {
        line_client_connect(&clients[i], i % 2 ? second.socket : sidecar.socket);
        sockets[i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
        ask(&clients[i]);
    }
    foreign = fork_foreign_locker();
    for (int64_t deadline = scratch_deadline(30000); granted < GRANTS || !foreign_done;) {
        ck_assert_msg(scratch_left(deadline) > 0, "%d grants", granted);
        poll(sockets, WAITERS, 100);
        if (!foreign_done && scratch_reap(foreign, 0, &(int){0}))
            foreign_done = true;
        for (int i = 0; i < WAITERS; i++) {
            if (!line_client_wait(&clients[i], 0))
                continue;
            line_client_expect(&clients[i], "{'ok':true}");
            if (strcmp(line_client_string(&clients[i], "op"), "release") == 0) {
                ask(&clients[i]);
                continue;
            }
            begin_acting(i + 1);
            ck_assert_int_gt(line_client_int(&clients[i], "fence"), fence);
            fence = line_client_int(&clients[i], "fence");
            granted++;
            had[i]++;
            scratch_pause_ms(1);
            atomic_store(acting, 0);
            line_client_send(&clients[i], "{'op':'release','lease':'%s'}",
                             line_client_string(&clients[i], "lease"));
        }
    }
    for (int i = 0; i < WAITERS; i++) {
        ck_assert_int_ge(had[i], GRANTS / WAITERS / 4);
        line_client_close(&clients[i]);
    }
    bench_await_gone("wanted", 1000);
    bench_stop(&second);
}
END_TEST

// ---- Row 28 ----

// A renewal is under way, its answer held up, when the client releases and somebody waits: the key is
// handed over, and nothing of the old lease lengthens it afterwards.
START_TEST(row_28_hand_over_and_a_renewal_in_flight)
{
    struct rows_holder holder;
    struct line_client waiter;
    struct line_lease lease;
    int64_t since_ms;

    rows_start("3s");
    rows_hold(&holder, "racing", "");
    waiter = rows_connect();
    wait_for(&waiter, "racing", -1);
    since_ms = scratch_boottime_ms();
    fault_proxy_hold(proxy, FAULT_DOWN, true);
    SCRATCH_UNTIL(2000, fault_proxy_count(proxy, RESP_RENEW, NULL, since_ms) > 0);
    line_client_send(&holder.client, "{'id':1,'op':'release','lease':'%s'}", holder.lease.lease);
    line_client_ping(&waiter);
    since_ms = scratch_boottime_ms() + 1;
    fault_proxy_hold(proxy, FAULT_DOWN, false);
    line_client_expect(&holder.client, "{'ok':true,'id':1,'op':'release'}");
    expect_granted(&waiter, "racing", &lease);
    ck_assert_int_gt(lease.fence, holder.lease.fence);
    scratch_pause_ms(1200); // a period
    rows_expect_silence(&holder);
    line_client_ping(&waiter);
    ck_assert_int_eq(fault_proxy_count(proxy, RESP_RENEW, holder.lease.lease, since_ms), 0);
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:racing"), lease.lease, 32), 0);
    rows_leave(&holder);
    line_client_close(&waiter);
}
END_TEST

// The holder releases while another sidecar adopts: one of the two has it, the other one is told.
START_TEST(row_28_release_and_an_adoption)
{
    struct sidecar_process second = {.name = "second"};
    struct line_client holder, adopter;
    struct line_lease lease;
    int released = 0, adopted = 0;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", NULL);
    sidecar_process_start(&second, redis.url, "--lock-ttl", "30s", NULL);
    holder = rows_connect();
    line_client_connect(&adopter, second.socket);
    for (int i = 0; i < 60; i++) {
        int64_t began_us;
        bool freed, got;

        rows_acquire(&holder, &lease, "racing", "");
        line_client_send(i % 2 ? &holder : &adopter,
                         i % 2 ? "{'op':'release','lease':'%s'}"
                               : "{'op':'adopt','key':'racing','lease':'%s'}",
                         lease.lease);
        began_us = scratch_monotonic_us();
        while (scratch_monotonic_us() - began_us < i * 10)
            ;
        line_client_send(i % 2 ? &adopter : &holder,
                         i % 2 ? "{'op':'adopt','key':'racing','lease':'%s'}"
                               : "{'op':'release','lease':'%s'}",
                         lease.lease);
        line_client_await(&holder, "{'op':'release'}");
        freed = json_is_true(line_client_member(&holder, "ok"));
        line_client_await(&adopter, "{'op':'adopt'}");
        got = json_is_true(line_client_member(&adopter, "ok"));
        ck_assert_int_ne(freed, got);
        ck_assert_int_eq(bench_exists("racing"), got);
        if (!freed)
            ck_assert_str_eq(line_client_string(&holder, "error"), "errLostActorLock");
        if (got)
            line_client_release(&adopter, &lease);
        else
            ck_assert_str_eq(line_client_string(&adopter, "error"), "errLostActorLock");
        ck_assert(!bench_exists("racing"));
        line_client_ping(&holder);
        line_client_ping(&adopter);
        released += freed;
        adopted += got;
    }
    ck_assert_int_gt(released, 0);
    ck_assert_int_gt(adopted, 0);
    line_client_close(&adopter);
    line_client_close(&holder);
    bench_stop(&second);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of waiting and adoption");
    TCase *tests = rows_case(suite, "waits", rows_setup);

    rows_add(tests, row_13_longer_waits_ask_with_the_same_token);
    rows_add(tests, row_14_late_bytes_of_a_wait);
    rows_add(tests, row_21_killed_while_waiting);
    rows_add_loop(tests, row_21_killed_as_it_is_handed_the_key, 2);
    rows_add(tests, row_27_waiters_and_a_foreign_locker);
    rows_add(tests, row_28_hand_over_and_a_renewal_in_flight);
    rows_add(tests, row_28_release_and_an_adoption);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
