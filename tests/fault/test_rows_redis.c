// SPDX-License-Identifier: Apache-2.0
//
// Rows 1 to 9: a Redis that dies, stands still, is busy, forgets its scripts or its keys.
//
// T is chosen so that what must not revoke lies well within D, and what must lies beyond it. D is at
// least T - drift - T/5 - T/3 away when a fault begins: the last heartbeat may be a period old.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/rows.h"

static int64_t statistic(const char *command)
{
    char name[64];
    const char *info = private_redis_string(&redis, "INFO commandstats");
    const char *at;

    snprintf(name, sizeof name, "cmdstat_%s:calls=", command);
    at = strstr(info, name);
    return at ? strtoll(at + strlen(name), NULL, 10) : 0;
}

// ---- Row 1 ----

START_TEST(row_01_killed_and_back_empty)
{
    struct line_client client;
    struct line_lease leases[20];
    int64_t back_ms;
    char key[16];

    rows_start("6s");
    client = rows_connect();
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "empty:%d", i);
        rows_acquire(&client, &leases[i], key, "");
    }
    private_redis_restart(&redis);
    back_ms = scratch_boottime_ms();
    for (int i = 0; i < 20; i++) {
        line_client_expect(&client, "{'event':'revoked','error':'errLostActorLock',"
                                    "'reason':'lost','safe_ms':0}");
        // Long before a heartbeat would have been due anyway.
        ck_assert_int_le(client.received_ms, back_ms + 500 + ROWS_NOISE_MS);
    }
    ck_assert_int_gt(statistic("evalsha") + statistic("eval"), 0);
    // No lock was set, not even for a moment: each takes a fencing token.
    ck_assert_int_eq(bench_count("*"), 0);
    rows_acquire(&client, &leases[0], "empty:0", "");
    line_client_close(&client);
}
END_TEST

// ---- Row 2 ----

START_TEST(row_02_stays_down)
{
    struct rows_holder holder;
    struct line_client other;

    rows_start("2s");
    rows_hold(&holder, "down", "");
    other = rows_connect();
    private_redis_kill(&redis);
    // None of them hangs, whatever the connection is at: noticed, connecting, pausing.
    for (int i = 0; i < 5; i++)
        rows_expect_refused(&other, "other", "errRedisUnavailable", 2000 / 12 + ROWS_NOISE_MS);
    rows_await_revoked(&holder, 3000);
    ck_assert_int_eq(holder.at_risk, 1);
    rows_check_unreachable(&holder);
    rows_expect_refused(&other, "down", "errRedisUnavailable", 2000 / 12 + ROWS_NOISE_MS);
    rows_expect_silence(&holder);
    line_client_close(&other);
    rows_leave(&holder);
}
END_TEST

// ---- Row 3 ----

START_TEST(row_03_down_and_back_with_its_keys)
{
    struct rows_holder holders[3];
    char key[16];

    redis.append_only = true;
    private_redis_start(&redis, NULL);
    rows_start(rows_long() ? "15s" : "4s");
    for (int i = 0; i < 3; i++) {
        snprintf(key, sizeof key, "keeps:%d", i);
        rows_hold(&holders[i], key, "");
    }
    private_redis_kill(&redis);
    rows_expect_held(&holders[0], rows_long() ? 5000 : 1200);
    private_redis_restart(&redis);
    for (int i = 0; i < 3; i++) {
        rows_await_renewed(&holders[i]);
        rows_await_renewed(&holders[i]);
        rows_release(&holders[i]);
    }
    ck_assert_int_eq(bench_count("lock:keeps:*"), 0);
    for (int i = 0; i < 3; i++)
        rows_leave(&holders[i]);
}
END_TEST

// ---- Row 4 ----

static void expect_own_value(struct line_client *client, const struct line_lease *lease,
                             const char *key)
{
    const char *value = private_redis_string(&redis, "GET lock:%s", key);

    ck_assert_ptr_nonnull(value);
    ck_assert_int_eq(strncmp(value, lease->lease, 32), 0);
    ck_assert_int_eq(strtoll(value + 54, NULL, 10), lease->fence);
    ck_assert_str_eq(line_client_string(client, "key"), key);
}

START_TEST(row_04_stopped_for_less)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    char key[16];
    int before;

    rows_start("3s");
    rows_hold(&holder, "less", "");
    client = rows_connect();
    for (int round = 0; round < 2; round++) {
        before = fault_proxy_connections(proxy);
        private_redis_stop(&redis);
        // Calls that time out: their answers come later, or on no connection.
        for (int i = 0; i < 3; i++) {
            snprintf(key, sizeof key, "early:%d", i);
            rows_expect_refused(&client, key, "errRedisUnavailable", 250 + ROWS_NOISE_MS);
        }
        rows_expect_held(&holder, 200);
        private_redis_continue(&redis);
        rows_await_up(&client);
        ck_assert_int_gt(fault_proxy_connections(proxy), before);
        for (int i = 0; i < 6; i++) {
            snprintf(key, sizeof key, "later:%d:%d", round, i);
            rows_acquire(&client, &lease, key, "");
            expect_own_value(&client, &lease, key);
        }
        SCRATCH_UNTIL(500, bench_count("lock:early:*") == 0);
        rows_await_renewed(&holder);
    }
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

// ---- Row 5 ----

START_TEST(row_05_stopped_past_the_revoke_time)
{
    struct rows_holder holder;
    struct rival *rival;

    rows_start("2s");
    rows_hold(&holder, "zombie", "");
    rows_await_renewed(&holder);
    rival = rival_new(redis.socket, "zombie");
    private_redis_stop(&redis);
    rows_await_revoked(&holder, 3000);
    rows_check_unreachable(&holder);
    ck_assert_int_eq(rival_won_ms(rival), 0);
    // What waited in the socket is executed now, and lengthens a dead lease: the fault itself.
    private_redis_continue(&redis);
    SCRATCH_UNTIL(200, bench_pttl("zombie") > holder.valid_until_ms - scratch_boottime_ms() + 500);
    // It is cleaned once what was promised is spent, not a T later.
    rows_check_slack(&holder, rival, 3000);
    ck_assert_int_le(rival_won_ms(rival), holder.valid_until_ms + 22 + 2 * ROWS_NOISE_MS);
    rows_expect_silence(&holder);
    line_client_send(&holder.client, "{'op':'release','lease':'%s'}", holder.lease.lease);
    line_client_expect(&holder.client, "{'ok':false,'op':'release'}");
    ck_assert_str_eq(private_redis_string(&redis, "GET lock:zombie"), "rival");
    rival_free(rival);
    rows_leave(&holder);
}
END_TEST

// ---- Row 6 ----

static bool answers_busy(void)
{
    redisContext *context = redisConnectUnix(redis.socket);
    redisReply *reply = redisCommand(context, "PING");
    bool busy;

    ck_assert_ptr_nonnull(reply);
    busy = reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "BUSY", 4) == 0;
    freeReplyObject(reply);
    redisFree(context);
    return busy;
}

START_TEST(row_06_paused)
{
    struct rows_holder holder;
    struct line_client other;

    rows_start("3s");
    rows_hold(&holder, "paused", "");
    other = rows_connect();
    private_redis_run(&redis, "CLIENT PAUSE 1000 ALL");
    rows_expect_lively(&other, 900);
    for (int i = 0; i < 3; i++)
        rows_await_renewed(&holder);
    rows_release(&holder);
    line_client_close(&other);
    rows_leave(&holder);
}
END_TEST

START_TEST(row_06_busy_script)
{
    struct rows_holder holder;
    struct line_client other;

    rows_start("3s");
    rows_hold(&holder, "busy", "");
    other = rows_connect();
    private_redis_run(&redis, "CONFIG SET lua-time-limit 20");
    rows_fire("EVAL %s 0",
              "local t = redis.call('TIME') local e = t[1] * 1000 + t[2] / 1000 + 1000 "
              "repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > e return 1");
    SCRATCH_UNTIL(500, answers_busy());
    // BUSY is an answer: what asks for the lock is told at once.
    rows_expect_refused(&other, "more", "errRedisUnavailable", 250 + ROWS_NOISE_MS);
    rows_expect_lively(&other, 700);
    for (int i = 0; i < 3; i++)
        rows_await_renewed(&holder);
    rows_release(&holder);
    line_client_close(&other);
    rows_leave(&holder);
}
END_TEST

START_TEST(row_06_debug_sleep)
{
    struct rows_holder holder;
    struct line_client other;

    private_redis_start(&redis, "--enable-debug-command", "local", NULL);
    rows_start_proxy(false);
    rows_start("3s");
    rows_hold(&holder, "sleeps", "");
    other = rows_connect();
    rows_fire("DEBUG SLEEP 1");
    rows_expect_lively(&other, 900);
    for (int i = 0; i < 3; i++)
        rows_await_renewed(&holder);
    rows_release(&holder);
    line_client_close(&other);
    rows_leave(&holder);
}
END_TEST

// ---- Row 7 ----

START_TEST(row_07_scripts_flushed)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    int64_t least_ms = 1000, until_ms;

    rows_start("1s");
    rows_hold(&holder, "flushed", "");
    until_ms = scratch_boottime_ms() + 2000;
    while (scratch_boottime_ms() < until_ms) {
        int64_t left_ms = bench_pttl("flushed");

        least_ms = left_ms < least_ms ? left_ms : least_ms;
        private_redis_run(&redis, "SCRIPT FLUSH");
        scratch_pause_ms(3);
    }
    // No beat was missed, and no client was told of anything.
    ck_assert_int_ge(least_ms, 1000 - 1000 / 3 - 1000 / 12 - ROWS_NOISE_MS);
    rows_expect_held(&holder, 0);
    ck_assert_int_eq(holder.at_risk, 0);
    ck_assert_int_ge(holder.renewed, 5);
    ck_assert_int_gt(fault_proxy_count(proxy, RESP_RENEW, "\r\nEVAL\r\n", 0), 0);
    client = rows_connect();
    private_redis_run(&redis, "SCRIPT FLUSH");
    rows_acquire(&client, &lease, "more", "");
    private_redis_run(&redis, "SCRIPT FLUSH");
    line_client_release(&client, &lease);
    line_client_close(&client);
    rows_release(&holder);
    rows_leave(&holder);
}
END_TEST

// ---- Row 8 ----

static const struct {
    const char *commands[3];
    const char *left; // what must be there afterwards, and
    const char *is;   // its value; NULL: no key
} losses[] = {
    {{"FLUSHALL"}, "GET lock:lost", NULL},
    {{"DEL lock:lost"}, "GET lock:lost", NULL},
    {{"SET lock:lost somebody-else PX 60000"}, "GET lock:lost", "somebody-else"},
    {{"SET lock:lost somebody-else"}, "GET lock:lost", "somebody-else"},
    {{"DEL lock:lost", "HSET lock:lost f v"}, "HGET lock:lost f", "v"},
    {{"RENAME lock:lost lock:moved"}, "GET lock:lost", NULL},
};

START_TEST(row_08_lost)
{
    struct rows_holder holder;
    struct line_client other;
    struct line_lease lease;
    int64_t done_ms, ttl_ms;
    const char *value;

    rows_start("1s");
    rows_hold(&holder, "lost", "");
    other = rows_connect();
    rows_acquire(&other, &lease, "beside", ",'ttl_ms':30000");
    for (int i = 0; i < 3 && losses[_i].commands[i]; i++)
        private_redis_run(&redis, losses[_i].commands[i]);
    done_ms = scratch_boottime_ms();
    ttl_ms = bench_pttl("lost");
    rows_await_revoked(&holder, 2000);
    ck_assert_str_eq(holder.reason, "lost");
    ck_assert_int_eq(holder.safe_ms, 0);
    ck_assert_int_le(holder.revoked_ms - done_ms, 1000 / 3 + 1000 / 12 + ROWS_NOISE_MS);
    // Neither deleted nor renewed, by what is left of the lease, its acknowledgement and its end.
    line_client_send(&holder.client, "{'op':'release','lease':'%s'}", holder.lease.lease);
    line_client_expect(&holder.client,
                       "{'ok':false,'op':'release','error':'errLostActorLock','freed':false}");
    rows_leave(&holder);
    scratch_pause_ms(1000 / 3);
    value = private_redis_string(&redis, losses[_i].left);
    if (losses[_i].is)
        ck_assert_str_eq(value, losses[_i].is);
    else
        ck_assert_ptr_null(value);
    if (ttl_ms < 0)
        ck_assert_int_eq(bench_pttl("lost"), ttl_ms);
    else
        ck_assert_int_le(bench_pttl("lost"), ttl_ms - 1000 / 3);
    line_client_close(&other);
}
END_TEST

// ---- Row 9 ----

static const struct {
    const char *command;
    bool lost;
} expiries[] = {
    {"PERSIST lock:bent", false},
    {"PEXPIRE lock:bent 700", false},
    {"PEXPIRE lock:bent 3600000", false},
    {"PEXPIRE lock:bent 1", true},
};

START_TEST(row_09_expiry_changed_by_hand)
{
    struct rows_holder holder;

    rows_start("1s");
    rows_hold(&holder, "bent", "");
    rows_await_renewed(&holder);
    private_redis_run(&redis, expiries[_i].command);
    if (expiries[_i].lost) {
        rows_await_revoked(&holder, 1000);
        ck_assert_str_eq(holder.reason, "lost");
        ck_assert(!bench_exists("bent"));
    } else {
        rows_await_renewed(&holder);
        ck_assert_int_gt(bench_pttl("bent"), 1000 - 1000 / 3 - ROWS_NOISE_MS);
        ck_assert_int_le(bench_pttl("bent"), 1000);
        private_redis_run(&redis, "PERSIST lock:bent");
    }
    // Whatever was done to it, and when: it goes with its client.
    rows_leave(&holder);
    bench_await_gone("bent", 1000);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of Redis");
    TCase *tests = rows_case(suite, "redis", rows_setup);

    rows_add(tests, row_01_killed_and_back_empty);
    rows_add(tests, row_02_stays_down);
    rows_add(tests, row_04_stopped_for_less);
    rows_add(tests, row_05_stopped_past_the_revoke_time);
    rows_add(tests, row_06_paused);
    rows_add(tests, row_06_busy_script);
    rows_add(tests, row_07_scripts_flushed);
    rows_add_loop(tests, row_08_lost, (int)(sizeof losses / sizeof losses[0]));
    rows_add_loop(tests, row_09_expiry_changed_by_hand,
                  (int)(sizeof expiries / sizeof expiries[0]));
    tests = rows_case(suite, "redis of their own", rows_setup_bare);
    rows_add(tests, row_03_down_and_back_with_its_keys);
    rows_add(tests, row_06_debug_sleep);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
