// SPDX-License-Identifier: Apache-2.0
//
// Clients that die, leave in the middle, half-close, or do not read: what becomes of their keys,
// and of the others.

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"
#include "tests/tool/holder_process.h"

enum {
    RUNS = 20,
    PIPELINED = 2000,
};

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static struct line_client connected(void)
{
    struct line_client client;

    line_client_connect(&client, sidecar.socket);
    return client;
}

static void expect_empty_list(struct line_client *client)
{
    line_client_send(client, "{'op':'list'}");
    line_client_expect(client, "{'ok':true,'op':'list','leases':[]}");
}

START_TEST(killed_holder_frees_its_key_at_once)
{
    int64_t took_us[RUNS];
    char key[32];

    sidecar_process_start(&sidecar, redis.url, NULL); // T of 30 s: nothing expires in this test
    for (int i = 0; i < RUNS; i++) {
        pid_t holder;
        int64_t killed_us;

        snprintf(key, sizeof key, "killed:%d", i);
        holder = holder_process_start(key, line_client_acquire, "", NULL);
        ck_assert(bench_exists(key));
        killed_us = scratch_monotonic_us();
        kill(holder, SIGKILL);
        while (bench_exists(key))
            ck_assert_int_lt(scratch_monotonic_us() - killed_us, 5000000);
        took_us[i] = scratch_monotonic_us() - killed_us;
        scratch_kill(holder);
    }
    qsort(took_us, RUNS, sizeof took_us[0], compare);
    ck_assert_int_lt(took_us[RUNS * 9 / 10], 50000);
}
END_TEST

START_TEST(half_close_ends_the_lease_with_last_words)
{
    struct line_client client, other;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, NULL);
    client = connected();
    other = connected();
    line_client_acquire(&client, &lease, "half", "");
    line_client_half_close(&client);
    line_client_expect(&client,
                       "{'event':'revoked','error':'errLostActorLock','reason':'eof',"
                       "'lease':'%s','key':'half','safe_ms':0}",
                       lease.lease);
    line_client_expect_eof(&client);
    bench_await_gone("half", 1000);
    expect_empty_list(&other);
    line_client_acquire(&other, &lease, "half", "");
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

// Requests already read are answered; the lease that they took ends all the same.
START_TEST(half_close_right_after_the_acquire)
{
    struct line_client client;
    char lease[33] = "";

    sidecar_process_start(&sidecar, redis.url, NULL);
    client = connected();
    line_client_send(&client, "{'id':1,'op':'acquire','key':'right'}");
    line_client_send(&client, "{'id':2,'op':'ping'}");
    line_client_half_close(&client);
    // The ping may overtake: an acquire asks Redis.
    for (int answers = 0; answers < 2; answers++) {
        line_client_receive(&client);
        if (line_client_int(&client, "id") == 1 && json_is_true(line_client_member(&client, "ok")))
            strcpy(lease, line_client_string(&client, "lease"));
    }
    if (lease[0])
        line_client_expect(&client, "{'event':'revoked','reason':'eof','lease':'%s'}", lease);
    line_client_expect_eof(&client);
    SCRATCH_UNTIL(1000, !bench_exists("right"));
    line_client_close(&client);
}
END_TEST

static void send_acquires(struct line_client *client, int first, int end)
{
    for (int i = first; i < end; i++)
        line_client_send(client, "{'id':%d,'op':'acquire','key':'pipelined:%d'}", i, i);
}

// The connection closes while acquires are unread, asked of Redis, and granted. None leaves a key.
static void close_in_the_middle(int answers)
{
    struct line_client client, other;
    int baseline;

    other = connected();
    line_client_ping(&other);
    baseline = sidecar_process_descriptors(&sidecar);
    client = connected();
    client.deaf = true;
    send_acquires(&client, 0, PIPELINED / 2);
    for (int i = 0; i < answers; i++)
        line_client_expect(&client, "{'ok':true,'op':'acquire'}");
    send_acquires(&client, PIPELINED / 2, PIPELINED);
    line_client_close(&client);
    SCRATCH_UNTIL(10000, sidecar_process_descriptors(&sidecar) == baseline);
    SCRATCH_UNTIL(5000, bench_count("lock:pipelined:*") == 0);
    expect_empty_list(&other);
    // And none comes later: whatever was on its way to Redis is before this one's.
    line_client_send(&other, "{'op':'acquire','key':'last'}");
    line_client_expect(&other, "{'ok':true}");
    ck_assert_int_eq(bench_count("lock:pipelined:*"), 0);
    line_client_close(&other);
}

START_TEST(two_thousand_acquires_closed_in_the_middle)
{
    sidecar_process_start(&sidecar, redis.url, NULL);
    close_in_the_middle(1);
    close_in_the_middle(500);
}
END_TEST

START_TEST(two_thousand_acquires_answered_in_order_of_the_ids)
{
    struct line_client client;

    sidecar_process_start(&sidecar, redis.url, NULL);
    client = connected();
    send_acquires(&client, 0, PIPELINED);
    for (int i = 0; i < PIPELINED; i++)
        line_client_expect(&client, "{'ok':true,'id':%d,'op':'acquire','key':'pipelined:%d'}", i,
                           i);
    ck_assert_int_eq(bench_count("lock:pipelined:*"), PIPELINED);
    line_client_close(&client);
    SCRATCH_UNTIL(5000, bench_count("lock:pipelined:*") == 0);
}
END_TEST

// Floods with requests whose replies it never reads, until it is cut off. Its key stays until the
// newest validity that was confirmed to it or not: nobody told it to stop.
START_TEST(deaf_client_is_cut_off_and_its_key_kept)
{
    static const char request[] = "{\"op\":\"list\",\"limit\":500}\n";
    struct line_client client, other;
    struct line_lease lease;
    int64_t cut_ms, left, gone_ms;
    bool open = true;
    char key[32];

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
    other = connected();
    client = connected();
    for (int i = 0; i < 300; i++) {
        snprintf(key, sizeof key, "others:%d", i);
        line_client_acquire(&other, &lease, key, "");
    }
    line_client_acquire(&client, &lease, "deaf", ",'notify':['renewed']");
    client.deaf = true;
    while (open) {
        struct pollfd socket = {.fd = client.fd, .events = POLLOUT};

        line_client_send_some(&client, request, sizeof request - 1);
        line_client_ping(&other);
        poll(&socket, 1, 20);
        open = !(socket.revents & (POLLHUP | POLLERR));
    }
    cut_ms = scratch_boottime_ms();
    left = bench_pttl("deaf");
    ck_assert_int_gt(left, 0);
    gone_ms = bench_await_gone("deaf", 3000 + BENCH_NOISE_MS);
    // valid_until is T/100 + 2 before the key's own end; no heartbeat came after the cut.
    ck_assert_int_ge(gone_ms, cut_ms + left - 32 - 10);
    ck_assert_int_le(gone_ms, cut_ms + left + BENCH_NOISE_MS);
    // The others are as they were.
    line_client_ping(&other);
    ck_assert_int_eq(bench_count("lock:others:*"), 300);
    line_client_close(&client);
    line_client_close(&other);
}
END_TEST

// Not even its revoked can be written: it is cut off C later, and the key stays to its end.
START_TEST(client_that_cannot_be_told_is_cut_off)
{
    static const char request[] = "{\"op\":\"list\",\"limit\":500}\n";
    struct line_client client, other;
    struct line_lease lease;
    int64_t left, cut_ms, gone_ms;
    char key[32];

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1200ms", NULL);
    other = connected();
    client = connected();
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "others:%d", i);
        line_client_acquire(&other, &lease, key, "");
    }
    line_client_acquire(&client, &lease, "untold", ",'deadline_ms':600");
    client.deaf = true;
    // Enough for the socket's buffer to be full of replies; too little to pass a cap of megabytes.
    for (int i = 0; i < 16; i++)
        ck_assert(line_client_send_bytes(&client, request, sizeof request - 1));
    for (;;) {
        struct pollfd socket = {.fd = client.fd, .events = 0};

        if (poll(&socket, 1, 5) > 0 && (socket.revents & POLLHUP))
            break;
        ck_assert_int_lt(scratch_boottime_ms(), lease.sent_ms + 600 + 100 + 300 + BENCH_NOISE_MS);
    }
    cut_ms = scratch_boottime_ms();
    ck_assert_int_ge(cut_ms, lease.sent_ms + 600);
    left = bench_pttl("untold");
    ck_assert_int_gt(left, 0);
    gone_ms = bench_await_gone("untold", 1200 + BENCH_NOISE_MS);
    ck_assert_int_ge(gone_ms, cut_ms + left - 14 - 10);
    line_client_ping(&other);
    line_client_close(&client);
    line_client_close(&other);
}
END_TEST

START_TEST(last_client_leaves_nothing)
{
    struct line_client clients[50], other;
    struct line_lease lease;
    int before, with_one;
    char key[32];

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    other = connected();
    line_client_acquire(&other, &lease, "first", "");
    line_client_release(&other, &lease);
    with_one = sidecar_process_descriptors(&sidecar);
    line_client_close(&other);
    SCRATCH_UNTIL(5000, sidecar_process_descriptors(&sidecar) == with_one - 1);
    before = sidecar_process_descriptors(&sidecar);
    for (int i = 0; i < 50; i++) {
        clients[i] = connected();
        for (int k = 0; k < 4; k++) {
            snprintf(key, sizeof key, "leaving:%d:%d", i, k);
            line_client_acquire(&clients[i], &lease, key, "");
        }
    }
    ck_assert_int_eq(sidecar_process_descriptors(&sidecar), before + 50);
    for (int i = 0; i < 50; i++)
        line_client_close(&clients[i]);
    SCRATCH_UNTIL(5000, sidecar_process_descriptors(&sidecar) == before);
    SCRATCH_UNTIL(5000, bench_count("lock:leaving:*") == 0);
    other = connected();
    expect_empty_list(&other);
    line_client_close(&other);
    SCRATCH_UNTIL(5000, sidecar_process_descriptors(&sidecar) == before);
}
END_TEST

// Neither the log at its most talkative, nor list, nor a refusal shows a lease's digits.
START_TEST(no_token_is_shown)
{
    struct line_client client, other;
    struct line_lease lease;
    char *log;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", "--log-level", "debug", NULL);
    client = connected();
    other = connected();
    line_client_acquire(&client, &lease, "secret", ",'deadline_ms':700,'notify':['renewed']");
    line_client_send(&other, "{'op':'acquire','key':'secret'}");
    line_client_expect(&other, "{'ok':false,'error':'errLockHeld'}");
    ck_assert_ptr_null(strstr(other.line, lease.lease));
    line_client_send(&other, "{'op':'list'}");
    line_client_expect(&other, "{'ok':true,'leases':[{'key':'secret','state':'held'}]}");
    ck_assert_ptr_null(strstr(other.line, lease.lease));
    line_client_await(&client, "{'event':'revoked','reason':'deadline'}");
    line_client_send(&other, "{'op':'release','lease':'%s','oops':1}", lease.lease);
    line_client_expect(&other, "{'ok':false,'error':'errBadRequest'}");
    ck_assert_ptr_null(strstr(other.line, lease.lease));
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':false,'freed':true}");
    line_client_close(&other);
    line_client_close(&client);
    bench_await_gone("secret", 5000);
    bench_stop(&sidecar);
    log = sidecar_process_read_log(&sidecar);
    ck_assert_str_ne(log, "");
    ck_assert_ptr_null(strstr(log, lease.lease));
    free(log);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("clients");

    tcase_set_timeout(tests, 40);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, killed_holder_frees_its_key_at_once);
    tcase_add_test(tests, half_close_ends_the_lease_with_last_words);
    tcase_add_test(tests, half_close_right_after_the_acquire);
    tcase_add_test(tests, two_thousand_acquires_closed_in_the_middle);
    tcase_add_test(tests, two_thousand_acquires_answered_in_order_of_the_ids);
    tcase_add_test(tests, deaf_client_is_cut_off_and_its_key_kept);
    tcase_add_test(tests, client_that_cannot_be_told_is_cut_off);
    tcase_add_test(tests, last_client_leaves_nothing);
    tcase_add_test(tests, no_token_is_shown);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
