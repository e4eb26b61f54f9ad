// SPDX-License-Identifier: Apache-2.0
//
// The workflow deadline: told in time, and the key kept until its holder says that it has stopped.

#include <stdio.h>
#include <string.h>

#include "tests/tool/bench.h"

enum {
    T = 1000,
    LATE_MS = 300, // how late the event may be, on a busy machine
};

static void start(struct line_client *client)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    line_client_connect(client, sidecar.socket);
}

// The newest line: the event of this lease, granted at granted_ms with this deadline.
static void check_deadline(const struct line_client *client, const struct line_lease *lease,
                           int64_t deadline_ms, int64_t granted_ms)
{
    ck_assert_str_eq(line_client_string(client, "lease"), lease->lease);
    // Counted from the grant, which lies between the request and its reply.
    ck_assert_int_ge(client->received_ms, lease->sent_ms + deadline_ms);
    ck_assert_int_le(client->received_ms, granted_ms + deadline_ms + LATE_MS);
    ck_assert_int_ge(line_client_int(client, "held_ms"), deadline_ms);
    ck_assert_int_le(line_client_int(client, "held_ms"), deadline_ms + LATE_MS);
    ck_assert_int_gt(line_client_int(client, "safe_ms"), 0);
}

static void expect_deadline(struct line_client *client, const struct line_lease *lease,
                            int64_t deadline_ms, int64_t granted_ms)
{
    line_client_expect(client, "{'event':'revoked','error':'errLostActorLock','reason':'deadline',"
                               "'lease':'<string>','safe_ms':'<int>','valid_until_ms':'<int>',"
                               "'held_ms':'<int>','message':'<string>'}");
    check_deadline(client, lease, deadline_ms, granted_ms);
    ck_assert_int_le(line_client_int(client, "valid_until_ms"), client->received_ms + T);
}

START_TEST(acknowledged_deadline_frees_the_key)
{
    struct line_client client;
    struct line_lease lease;

    start(&client);
    line_client_acquire(&client, &lease, "acknowledged", ",'deadline_ms':1500");
    ck_assert_int_eq(line_client_int(&client, "deadline_ms"), 1500);
    expect_deadline(&client, &lease, 1500, client.received_ms);
    ck_assert(bench_exists("acknowledged"));
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client,
                       "{'ok':false,'op':'release','error':'errLostActorLock','lease':'%s',"
                       "'key':'acknowledged','freed':true}",
                       lease.lease);
    ck_assert(!bench_exists("acknowledged"));
    line_client_close(&client);
}
END_TEST

START_TEST(unacknowledged_deadline_leaves_the_key_to_its_ttl)
{
    struct line_client client;
    struct line_lease lease;
    int64_t told_ms, valid_until, gone_ms;

    start(&client);
    line_client_acquire(&client, &lease, "silent", ",'deadline_ms':700");
    expect_deadline(&client, &lease, 700, client.received_ms);
    told_ms = client.received_ms;
    valid_until = line_client_int(&client, "valid_until_ms");
    ck_assert(bench_exists("silent"));
    // The work is still stopping, and another cannot have it.
    line_client_send(&client, "{'op':'acquire','key':'silent'}");
    line_client_expect(&client, "{'ok':false,'error':'errLockHeld'}");
    gone_ms = bench_await_gone("silent", T + BENCH_NOISE_MS);
    ck_assert_int_ge(gone_ms, valid_until);
    ck_assert_int_le(gone_ms, told_ms + T + BENCH_NOISE_MS);
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_receive(&client);
    ck_assert(json_is_false(line_client_member(&client, "ok")));
    ck_assert(!json_is_true(line_client_member(&client, "freed")));
    line_client_close(&client);
}
END_TEST

START_TEST(end_of_the_connection_acknowledges_too)
{
    struct line_client client;
    struct line_lease lease;
    int64_t closed_ms;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "20s", NULL);
    line_client_connect(&client, sidecar.socket);
    line_client_acquire(&client, &lease, "closed", ",'deadline_ms':300");
    line_client_expect(&client, "{'event':'revoked','reason':'deadline'}");
    ck_assert(bench_exists("closed"));
    closed_ms = scratch_boottime_ms();
    line_client_close(&client);
    ck_assert_int_le(bench_await_gone("closed", 5000), closed_ms + 500);
}
END_TEST

START_TEST(default_deadline_is_the_flag)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", "--actor-workflow-deadline",
                          "600ms", NULL);
    line_client_connect(&client, sidecar.socket);
    line_client_acquire(&client, &lease, "flag", "");
    ck_assert_int_eq(line_client_int(&client, "deadline_ms"), 600);
    expect_deadline(&client, &lease, 600, client.received_ms);
    line_client_close(&client);
}
END_TEST

// More busy loops than processors, while the deadlines of many leases come. A TTL that lets Redis be
// slow: this is about the sidecar.
START_TEST(deadline_is_in_time_on_a_busy_machine)
{
    struct line_client client;
    struct line_lease leases[20];
    int64_t granted_ms[20];
    pid_t busy[4];
    char key[16];

    start(&client);
    for (int i = 0; i < 4; i++) {
        busy[i] = scratch_fork();
        if (busy[i] == 0)
            for (;;)
                ;
    }
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "busy:%d", i);
        line_client_acquire(&client, &leases[i], key, ",'deadline_ms':1200,'ttl_ms':9000");
        granted_ms[i] = client.received_ms;
    }
    for (int n = 0; n < 20; n++) { // those of one moment come in any order
        int i;

        line_client_expect(&client, "{'event':'revoked','reason':'deadline'}");
        ck_assert_int_eq(sscanf(line_client_string(&client, "key"), "busy:%d", &i), 1);
        check_deadline(&client, &leases[i], 1200, granted_ms[i]);
        ck_assert(bench_exists(line_client_string(&client, "key")));
        leases[i].lease[0] = '\0'; // never twice
    }
    for (int i = 0; i < 4; i++)
        scratch_kill(busy[i]);
    line_client_close(&client);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("deadline");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, acknowledged_deadline_frees_the_key);
    tcase_add_test(tests, unacknowledged_deadline_leaves_the_key_to_its_ttl);
    tcase_add_test(tests, end_of_the_connection_acknowledges_too);
    tcase_add_test(tests, default_deadline_is_the_flag);
    tcase_add_test(tests, deadline_is_in_time_on_a_busy_machine);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
