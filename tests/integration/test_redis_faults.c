// SPDX-License-Identifier: Apache-2.0
//
// A Redis that dies, stands still, comes back, is full, or refuses: what holders are told and when,
// and what is left in it. (Rows of FAULTS' matrix are named where they are tested.)

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"

static struct line_client connected(void)
{
    struct line_client client;

    line_client_connect(&client, sidecar.socket);
    return client;
}

static bool redis_is(struct line_client *client, const char *state)
{
    line_client_send(client, "{'op':'ping'}");
    do
        line_client_receive(client);
    while (line_client_member(client, "event"));
    return strcmp(line_client_string(client, "redis"), state) == 0;
}

// ---- Row 1: killed, back empty ----

START_TEST(killed_and_back_empty)
{
    struct line_client client;
    struct line_lease leases[20];
    int64_t back_ms;
    char key[16];

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "6s", NULL);
    client = connected();
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "e:%d", i);
        line_client_acquire(&client, &leases[i], key, "");
    }
    private_redis_restart(&redis);
    back_ms = scratch_boottime_ms();
    for (int i = 0; i < 20; i++) {
        line_client_expect(&client, "{'event':'revoked','reason':'lost','safe_ms':0}");
        // At once: long before the next heartbeat would have been due.
        ck_assert_int_le(client.received_ms, back_ms + 1000);
    }
    ck_assert_int_eq(bench_count("lock:e:*"), 0);
    line_client_acquire(&client, &leases[0], "e:0", "");
    line_client_close(&client);
}
END_TEST

// ---- Row 3: killed, the keys survive ----

START_TEST(killed_and_back_with_its_keys)
{
    struct line_client client;
    struct line_lease lease;
    int64_t back_ms;

    redis.append_only = true;
    private_redis_start(&redis, NULL);
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "4s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "survives", ",'notify':['renewed']");
    private_redis_kill(&redis);
    SCRATCH_UNTIL(2000, redis_is(&client, "down"));
    private_redis_restart(&redis);
    back_ms = scratch_boottime_ms();
    // Renewed, for two TTLs to come; at no time revoked.
    do
        line_client_expect(&client, "{'event':'renewed','lease':'%s'}", lease.lease);
    while (client.received_ms < back_ms + 3000);
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:survives"), lease.lease, 32),
                     0);
    line_client_release(&client, &lease);
    ck_assert(!bench_exists("survives"));
    line_client_close(&client);
}
END_TEST

// ---- Row 2: down and staying so. Row 5: stopped past D, the zombie is cleaned, not too early ----

enum {
    T = 1200,
    C = T / 12,
    M = T / 5,
    DRIFT = T / 100 + 2,
};

static void start(void)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1200ms", NULL);
}

// M, and by how much the sidecar has widened it because the machine made its loop late.
static int64_t widest_margin(void)
{
    static const char name[] = "widened_by_ms=";
    char *log = sidecar_process_read_log(&sidecar);
    int64_t widest = 0;

    for (const char *at = log; (at = strstr(at, name)) != NULL; at += sizeof name - 1) {
        int64_t widened = atoll(at + sizeof name - 1);

        widest = widened > widest ? widened : widest;
    }
    free(log);
    return M + widest;
}

// at_risk at the first failed heartbeat, then revoked at D, which lies M before valid_until. Checks
// every promise, and returns the newest valid_until.
static int64_t expect_unreachable(struct line_client *client, const struct line_lease *lease)
{
    int64_t valid_until = lease->valid_until_ms, safe_ms, margin;

    do {
        line_client_receive(client);
        if (strcmp(line_client_string(client, "event"), "renewed") == 0)
            valid_until = line_client_int(client, "valid_until_ms");
    } while (strcmp(line_client_string(client, "event"), "renewed") == 0);
    ck_assert_str_eq(line_client_string(client, "event"), "at_risk");
    ck_assert_str_eq(line_client_string(client, "lease"), lease->lease);
    ck_assert_int_gt(line_client_int(client, "safe_ms"), M);
    ck_assert_int_lt(line_client_int(client, "safe_ms"), T);
    line_client_expect(client,
                       "{'event':'revoked','error':'errLostActorLock','reason':'unreachable',"
                       "'lease':'%s','valid_until_ms':%lld}",
                       lease->lease, (long long)valid_until);
    safe_ms = line_client_int(client, "safe_ms");
    margin = widest_margin();
    ck_assert_int_ge(client->received_ms, valid_until - margin);
    ck_assert_int_le(client->received_ms, valid_until - M + BENCH_NOISE_MS);
    // What it promises is true when it is read, but for the way to here.
    ck_assert_int_gt(safe_ms, M - BENCH_NOISE_MS);
    ck_assert_int_le(safe_ms, margin);
    return valid_until;
}

START_TEST(down_until_the_revoke_time)
{
    struct line_client client;
    struct line_lease lease;
    int64_t began;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "down", ",'notify':['renewed','at_risk']");
    private_redis_kill(&redis);
    expect_unreachable(&client, &lease);
    // Meanwhile an acquire does not hang, and says why.
    began = scratch_boottime_ms();
    line_client_send(&client, "{'id':1,'op':'acquire','key':'other'}");
    line_client_expect(&client, "{'ok':false,'id':1,'op':'acquire','error':'errRedisUnavailable',"
                                "'message':'<string>'}");
    ck_assert_int_le(client.received_ms, began + C + BENCH_NOISE_MS);
    line_client_send(&client, "{'op':'ping'}");
    line_client_expect(&client, "{'ok':true,'redis':'down','redis_error':'<string>'}");
    line_client_close(&client);
}
END_TEST

START_TEST(stopped_until_the_revoke_time)
{
    struct line_client client;
    struct line_lease lease;
    int64_t valid_until, gone_ms;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "zombie", ",'notify':['renewed','at_risk']");
    line_client_expect(&client, "{'event':'renewed'}");
    lease.valid_until_ms = line_client_int(&client, "valid_until_ms");
    private_redis_stop(&redis);
    valid_until = expect_unreachable(&client, &lease);
    // The renewals that waited are executed now, and lengthen a dead lease.
    private_redis_continue(&redis);
    ck_assert(bench_exists("zombie"));
    gone_ms = bench_await_gone("zombie", T + BENCH_NOISE_MS);
    ck_assert_int_ge(gone_ms, valid_until);
    ck_assert_int_le(gone_ms, valid_until + DRIFT + 2 * BENCH_NOISE_MS);
    // It does not come back, in no way.
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_receive(&client);
    ck_assert(json_is_false(line_client_member(&client, "ok")));
    scratch_pause_ms(T / 3);
    line_client_ping(&client);
    ck_assert(!bench_exists("zombie"));
    line_client_close(&client);
}
END_TEST

START_TEST(stopped_past_everything)
{
    struct line_client client;
    struct line_lease lease;
    int64_t valid_until;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "past", ",'notify':['renewed','at_risk']");
    private_redis_stop(&redis);
    valid_until = expect_unreachable(&client, &lease);
    while (scratch_boottime_ms() < valid_until + C)
        scratch_pause_ms(10);
    private_redis_continue(&redis);
    SCRATCH_UNTIL(2000, redis_is(&client, "up"));
    SCRATCH_UNTIL(500, !bench_exists("past"));
    line_client_acquire(&client, &lease, "past", "");
    line_client_release(&client, &lease);
    line_client_close(&client);
}
END_TEST

// ---- Row 4: stopped for less ----

START_TEST(short_stops_revoke_nothing)
{
    struct line_client client;
    struct line_lease leases[10];
    char key[16];

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
    client = connected();
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "short:%d", i);
        line_client_acquire(&client, &leases[i], key, "");
    }
    for (int i = 0; i < 4; i++) {
        private_redis_stop(&redis);
        scratch_pause_ms(300 + i * 100); // over C, under what a holder must be told of
        private_redis_continue(&redis);
        scratch_pause_ms(200);
    }
    SCRATCH_UNTIL(2000, redis_is(&client, "up"));
    for (int i = 0; i < 10; i++)
        line_client_release(&client, &leases[i]);
    ck_assert_int_eq(bench_count("lock:short:*"), 0);
    line_client_close(&client);
}
END_TEST

// ---- Row 6: transient errors ----

START_TEST(pause_and_busy_script_revoke_nothing)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "busy", ",'notify':['renewed']");
    private_redis_run(&redis, "CLIENT PAUSE 1200 ALL");
    line_client_expect(&client, "{'event':'renewed'}");
    // -BUSY for 1200 ms: the script outlives its limit, and everybody else is refused.
    private_redis_run(&redis, "CONFIG SET lua-time-limit 50");
    private_redis_run(&redis, "EVAL %s 0",
                      "local t = redis.call('TIME') local e = t[1] * 1000 + t[2] / 1000 + 1200 "
                      "repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > e return 1");
    for (int i = 0; i < 3; i++)
        line_client_expect(&client, "{'event':'renewed','lease':'%s'}", lease.lease);
    line_client_release(&client, &lease);
    line_client_close(&client);
}
END_TEST

// ---- Row 7 ----

START_TEST(flushed_scripts_miss_no_beat)
{
    struct line_client client;
    struct line_lease lease;
    int64_t least = 1000, until;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "flushed", "");
    until = scratch_boottime_ms() + 2000;
    while (scratch_boottime_ms() < until) {
        int64_t left = bench_pttl("flushed");

        least = left < least ? left : least;
        private_redis_run(&redis, "SCRIPT FLUSH");
        scratch_pause_ms(5);
    }
    ck_assert_int_ge(least, 1000 - 1000 / 3 - 1000 / 12 - BENCH_NOISE_MS);
    line_client_release(&client, &lease);
    line_client_acquire(&client, &lease, "flushed", "");
    line_client_close(&client);
}
END_TEST

// ---- Row 10 ----

START_TEST(full_redis_refuses_and_keeps_what_it_has)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "full", ",'notify':['renewed']");
    private_redis_run(&redis, "CONFIG SET maxmemory 1");
    line_client_send(&client, "{'id':'oom','op':'acquire','key':'more'}");
    line_client_await(&client, "{'ok':false,'id':'oom','error':'errRedisRefused'}");
    ck_assert_ptr_nonnull(strstr(line_client_string(&client, "message"), "OOM"));
    for (int i = 0; i < 4; i++)
        line_client_expect(&client, "{'event':'renewed'}");
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_await(&client, "{'ok':true,'op':'release'}");
    ck_assert(!bench_exists("full"));
    private_redis_run(&redis, "CONFIG SET maxmemory 0");
    ck_assert_int_eq(bench_count("lock:more"), 0);
    line_client_acquire(&client, &lease, "more", "");
    line_client_close(&client);
}
END_TEST

// ---- Row 11 ----

START_TEST(demoted_redis_is_transient)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "demoted", ",'notify':['renewed']");
    private_redis_run(&redis, "REPLICAOF 127.0.0.1 1");
    scratch_pause_ms(1200); // a heartbeat falls into it
    private_redis_run(&redis, "REPLICAOF NO ONE");
    for (int i = 0; i < 2; i++)
        line_client_expect(&client, "{'event':'renewed','lease':'%s'}", lease.lease);
    line_client_release(&client, &lease);
    line_client_close(&client);
}
END_TEST

// ---- Row 13: no reply to the acquire ----

START_TEST(acquire_without_a_reply_leaves_no_orphan)
{
    struct line_client client;
    int64_t began;

    start();
    client = connected();
    SCRATCH_UNTIL(2000, redis_is(&client, "up"));
    private_redis_stop(&redis);
    began = scratch_boottime_ms();
    line_client_send(&client, "{'id':1,'op':'acquire','key':'orphan'}");
    line_client_expect(&client, "{'ok':false,'id':1,'error':'errRedisUnavailable'}");
    ck_assert_int_le(client.received_ms, began + C + BENCH_NOISE_MS);
    // It is in Redis' buffer, and is executed now.
    private_redis_continue(&redis);
    SCRATCH_UNTIL(2000, redis_is(&client, "up"));
    // Within one round trip; without a delete it would live for T.
    SCRATCH_UNTIL(T / 4, !bench_exists("orphan"));
    scratch_pause_ms(T / 4);
    ck_assert(!bench_exists("orphan"));
    line_client_send(&client, "{'id':2,'op':'acquire','key':'orphan'}");
    line_client_expect(&client, "{'ok':true,'id':2}");
    line_client_close(&client);
}
END_TEST

// ---- Row 28, with Redis away: the release is over, the delete is owed ----

START_TEST(release_without_a_reply_is_owed)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "6s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "owed", "");
    private_redis_stop(&redis);
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':false,'op':'release','error':'errRedisUnavailable'}");
    private_redis_continue(&redis);
    bench_await_gone("owed", 2000);
    line_client_send(&client, "{'op':'list'}");
    line_client_expect(&client, "{'ok':true,'leases':[]}");
    line_client_close(&client);
}
END_TEST

// A client dies while Redis is away: its key goes when Redis is back.
START_TEST(client_that_died_in_the_outage_is_cleaned_up)
{
    struct line_client client, other;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "20s", NULL);
    client = connected();
    other = connected();
    line_client_acquire(&client, &lease, "died", "");
    private_redis_stop(&redis);
    line_client_close(&client);
    line_client_ping(&other);
    private_redis_continue(&redis);
    bench_await_gone("died", 4000);
    line_client_close(&other);
}
END_TEST

// ---- Starting while Redis is away ----

START_TEST(starts_before_its_redis)
{
    struct line_client client;
    struct line_lease lease;

    private_redis_kill(&redis);
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    client = connected();
    line_client_send(&client, "{'op':'acquire','key':'early'}");
    line_client_expect(&client, "{'ok':false,'error':'errRedisUnavailable'}");
    private_redis_restart(&redis);
    SCRATCH_UNTIL(5000, redis_is(&client, "up"));
    line_client_acquire(&client, &lease, "early", "");
    line_client_close(&client);
}
END_TEST

// ---- Row 12, TCP, databases ----

START_TEST(password_by_url_over_tcp)
{
    struct line_client client;
    struct line_lease lease;
    char url[128];

    redis.tcp = true;
    redis.password = "s3cr3t-w0rd";
    private_redis_start(&redis, NULL);
    snprintf(url, sizeof url, "redis://:%s@127.0.0.1:%d/5", redis.password, redis.port);
    sidecar_process_start(&sidecar, url, "--lock-ttl", "1s", "--log-level", "debug", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "tcp", "");
    private_redis_run(&redis, "SELECT 5");
    ck_assert(bench_exists("tcp"));
    line_client_release(&client, &lease);
    line_client_close(&client);
}
END_TEST

static void expect_no_password_in_log(const char *password)
{
    char *log;

    bench_stop(&sidecar);
    log = sidecar_process_read_log(&sidecar);
    ck_assert_str_ne(log, "");
    ck_assert_ptr_null(strstr(log, password));
    free(log);
}

START_TEST(wrong_password_is_unavailability)
{
    struct line_client client;

    redis.password = "the-right-one";
    private_redis_start(&redis, NULL);
    scratch_write(scratch_path("password"), "the-wrong-one\n");
    sidecar_process_start(&sidecar, redis.url, "--redis-password-file", scratch_path("password"),
                          "--lock-ttl", "2s", "--log-level", "debug", NULL);
    client = connected();
    line_client_send(&client, "{'op':'acquire','key':'k'}");
    line_client_expect(&client, "{'ok':false,'error':'errRedisUnavailable'}");
    SCRATCH_UNTIL(2000, redis_is(&client, "down") &&
                            strstr(line_client_string(&client, "redis_error"), "WRONGPASS"));
    // The file is read again at the next connect.
    scratch_write(scratch_path("password"), "the-right-one\n");
    SCRATCH_UNTIL(10000, redis_is(&client, "up"));
    line_client_send(&client, "{'op':'acquire','key':'k'}");
    line_client_expect(&client, "{'ok':true,'key':'k'}");
    line_client_close(&client);
    expect_no_password_in_log("the-wrong-one");
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("redis faults");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, killed_and_back_empty);
    tcase_add_test(tests, down_until_the_revoke_time);
    tcase_add_test(tests, stopped_until_the_revoke_time);
    tcase_add_test(tests, stopped_past_everything);
    tcase_add_test(tests, short_stops_revoke_nothing);
    tcase_add_test(tests, pause_and_busy_script_revoke_nothing);
    tcase_add_test(tests, flushed_scripts_miss_no_beat);
    tcase_add_test(tests, full_redis_refuses_and_keeps_what_it_has);
    tcase_add_test(tests, demoted_redis_is_transient);
    tcase_add_test(tests, acquire_without_a_reply_leaves_no_orphan);
    tcase_add_test(tests, release_without_a_reply_is_owed);
    tcase_add_test(tests, client_that_died_in_the_outage_is_cleaned_up);
    tcase_add_test(tests, starts_before_its_redis);
    suite_add_tcase(suite, tests);

    tests = tcase_create("redis of their own");
    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup_bare, bench_teardown);
    tcase_add_test(tests, killed_and_back_with_its_keys);
    tcase_add_test(tests, password_by_url_over_tcp);
    tcase_add_test(tests, wrong_password_is_unavailability);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
