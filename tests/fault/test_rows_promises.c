// SPDX-License-Identifier: Apache-2.0
//
// What must hold whatever the row, at a TTL of 2 s: told before a rival can have the key, by safe_ms;
// no short blip revokes anything; nothing of an acquire without an answer is left; and the published
// valid_until_ms covers a frozen sidecar, too.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/fault/rows.h"

enum {
    T = 2000,
    P = T / 3,
    C = T / 12,
};

// ---- Faults, each with its undoing ----

static void refuse(bool on)
{
    fault_proxy_refuse(proxy, on);
    if (on)
        fault_proxy_cut(proxy);
}

static void cut(bool on)
{
    if (on)
        fault_proxy_cut(proxy);
}

static void strand(bool on)
{
    if (on)
        fault_proxy_strand(proxy);
}

static void strand_and_refuse(bool on)
{
    strand(on);
    fault_proxy_refuse(proxy, on);
}

static void hold_up(bool on)
{
    fault_proxy_hold(proxy, FAULT_UP, on);
}

static void hold_down(bool on)
{
    fault_proxy_hold(proxy, FAULT_DOWN, on);
}

static void drop_up(bool on)
{
    fault_proxy_drop(proxy, FAULT_UP, on);
}

static void drop_down(bool on)
{
    fault_proxy_drop(proxy, FAULT_DOWN, on);
}

static void slow(bool on)
{
    fault_proxy_delay(proxy, FAULT_UP, on ? C * 3 / 4 : 0);
    fault_proxy_delay(proxy, FAULT_DOWN, on ? C * 3 / 4 : 0);
}

static void a_little_slow(bool on)
{
    fault_proxy_delay(proxy, FAULT_UP, on ? C / 5 : 0);
    fault_proxy_delay(proxy, FAULT_DOWN, on ? C / 5 : 0);
}

static void trickle(bool on)
{
    fault_proxy_dribble(proxy, FAULT_DOWN, on ? 50000 : -1);
}

static void stop_redis(bool on)
{
    if (on)
        private_redis_stop(&redis);
    else
        private_redis_continue(&redis);
}

static void pause_redis(bool on)
{
    if (on) // and nobody can end it before its time
        private_redis_run(&redis, "CLIENT PAUSE 400 ALL");
}

static void pause_writes(bool on)
{
    private_redis_run(&redis, on ? "CLIENT PAUSE 10000 WRITE" : "CLIENT UNPAUSE");
}

static void demote(bool on)
{
    private_redis_run(&redis, on ? "REPLICAOF 127.0.0.1 1" : "REPLICAOF NO ONE");
}

// ---- Told in time ----

static const struct {
    const char *name;
    void (*fault)(bool on);
    bool ends; // with the revoke; so that Redis serves the rival
} outages[] = {
    {"refused", refuse, false},
    {"half-open and refused", strand_and_refuse, false},
    {"requests held", hold_up, false},
    {"replies held", hold_down, false},
    {"requests dropped", drop_up, false},
    {"replies dropped", drop_down, false},
    {"slower than C", slow, false},
    {"trickling replies", trickle, false},
    {"stopped", stop_redis, true},
    {"writes paused", pause_writes, true},
    {"demoted", demote, true},
    {"requests held, and then let go", hold_up, true},
    {"replies held, and then let go", hold_down, true},
};

START_TEST(must_hold_told_before_a_rival_can_have_the_key)
{
    enum { HOLDERS = 4 };
    struct rows_holder holders[HOLDERS];
    struct rival *rivals[HOLDERS];
    char key[16];

    rows_start("2s");
    for (int i = 0; i < HOLDERS; i++) {
        snprintf(key, sizeof key, "told:%d", i);
        rows_hold(&holders[i], key, "");
        rivals[i] = rival_new(redis.socket, key);
    }
    // The outage begins somewhere in each one's period.
    rows_expect_held(&holders[0], 300 + 50 * _i);
    outages[_i].fault(true);
    rows_await_all_revoked(holders, HOLDERS, T + 1000);
    for (int i = 0; i < HOLDERS; i++)
        rows_check_unreachable(&holders[i]);
    if (outages[_i].ends)
        outages[_i].fault(false);
    for (int i = 0; i < HOLDERS; i++) {
        rows_check_slack(&holders[i], rivals[i], 2 * T);
        rows_expect_silence(&holders[i]);
        rival_free(rivals[i]);
        rows_leave(&holders[i]);
    }
}
END_TEST

// ---- Short blips ----

static const struct {
    const char *name;
    void (*fault)(bool on);
    int ms, times, apart_ms;
} blips[] = {
    {"cut", cut, 1, 1, 0},
    {"cut again and again", cut, 20, 30, 20},
    {"refused", refuse, 400, 1, 0},
    {"refused, often", refuse, 60, 6, 200},
    {"half-open", strand, 1, 1, 0},
    {"half-open, often", strand, 1, 3, 600},
    {"requests held", hold_up, 400, 1, 0},
    {"replies held", hold_down, 400, 1, 0},
    {"requests dropped", drop_up, 350, 1, 0},
    {"replies dropped", drop_down, 350, 1, 0},
    {"a little slow", a_little_slow, 2500, 1, 0},
    {"stopped", stop_redis, 400, 1, 0},
    {"stopped, often", stop_redis, 60, 6, 150},
    {"paused", pause_redis, 400, 1, 0},
    {"demoted", demote, 300, 1, 0},
};

START_TEST(must_hold_no_short_blip_revokes)
{
    enum { HOLDERS = 6 };
    struct rows_holder holders[HOLDERS];
    char key[16];

    rows_start("2s");
    for (int i = 0; i < HOLDERS; i++) {
        snprintf(key, sizeof key, "blip:%d", i);
        rows_hold(&holders[i], key, "");
    }
    rows_expect_held(&holders[0], 200);
    for (int i = 0; i < blips[_i].times; i++) {
        blips[_i].fault(true);
        rows_expect_held(&holders[0], blips[_i].ms);
        blips[_i].fault(false);
        rows_expect_held(&holders[0], blips[_i].apart_ms);
    }
    for (int i = 0; i < HOLDERS; i++)
        rows_await_renewed(&holders[i]);
    for (int i = 0; i < HOLDERS; i++) {
        rows_release(&holders[i]);
        rows_leave(&holders[i]);
    }
    SCRATCH_UNTIL(1000, bench_count("lock:blip:*") == 0);
}
END_TEST

// ---- No orphan ----

static const struct fault_rule losses[] = {
    {RESP_ACQUIRE, .skip = 4, .at = FAULT_REQUEST, .act = FAULT_CUT},
    {RESP_ACQUIRE, .skip = 4, .at = FAULT_REPLY, .act = FAULT_CUT},
    {RESP_ACQUIRE, .skip = 4, .at = FAULT_REQUEST, .act = FAULT_STALL, .after_ms = 1000},
    {RESP_ACQUIRE, .skip = 4, .at = FAULT_REQUEST, .act = FAULT_LATE, .after_ms = 500},
    {RESP_ACQUIRE, .skip = 4, .at = FAULT_REPLY, .act = FAULT_STALL, .after_ms = 1000},
    {RESP_RELEASE, .skip = 0, .at = FAULT_REPLY, .act = FAULT_CUT},
    {RESP_RELEASE, .skip = 0, .at = FAULT_REQUEST, .act = FAULT_CUT},
};

// Ten acquires in one go, and a fault in the middle of them. What was not granted leaves nothing; what
// was granted is released, and leaves nothing either.
START_TEST(must_hold_no_orphan)
{
    enum { ACQUIRES = 10 };
    struct line_client client;
    struct line_lease warm;
    char leases[ACQUIRES][33], text[2048] = "";
    int granted = 0;
    size_t length = 0;

    rows_start("2s");
    client = rows_connect();
    rows_acquire(&client, &warm, "warm", "");
    fault_proxy_arm(proxy, &losses[_i]);
    for (int i = 0; i < ACQUIRES; i++)
        length += (size_t)snprintf(text + length, sizeof text - length,
                                   "{\"id\":%d,\"op\":\"acquire\",\"key\":\"many:%d\"}\n", i, i);
    ck_assert(line_client_send_bytes(&client, text, length));
    for (int i = 0; i < ACQUIRES; i++) {
        line_client_receive(&client);
        if (json_is_true(line_client_member(&client, "ok")))
            strcpy(leases[granted++], line_client_string(&client, "lease"));
        else
            ck_assert_str_eq(line_client_string(&client, "error"), "errRedisUnavailable");
    }
    ck_assert(losses[_i].kind == RESP_RELEASE ? granted == ACQUIRES : granted < ACQUIRES);
    rows_await_up(&client);
    // A reconnect later: C of silence, at most, and a round trip.
    SCRATCH_UNTIL(C + 2 * ROWS_NOISE_MS, bench_count("lock:many:*") == granted);
    for (int i = 0; i < granted; i++)
        line_client_send(&client, "{'id':%d,'op':'release','lease':'%s'}", i, leases[i]);
    for (int i = 0; i < granted; i++)
        line_client_await(&client, "{'op':'release'}");
    SCRATCH_UNTIL(C + 3 * ROWS_NOISE_MS, bench_count("lock:many:*") == 0);
    scratch_pause_ms(1200); // what comes late has come by now
    ck_assert_int_eq(bench_count("lock:many:*"), 0);
    fault_proxy_await_fired(proxy, 1, 100);
    line_client_send(&client, "{'op':'list'}");
    line_client_expect(&client, "{'ok':true,'leases':[{'key':'warm'}]}");
    line_client_close(&client);
}
END_TEST

// ---- The published instant ----

START_TEST(must_hold_published_validity_with_a_frozen_sidecar)
{
    enum { HOLDERS = 8 };
    struct rows_holder holders[HOLDERS];
    struct rival *rivals[HOLDERS];
    siginfo_t info;
    char key[16];

    rows_start("1s");
    for (int i = 0; i < HOLDERS; i++) {
        snprintf(key, sizeof key, "frozen:%d", i);
        rows_hold(&holders[i], key, "");
        rivals[i] = rival_new(redis.socket, key);
    }
    if (_i % 2)
        fault_proxy_delay(proxy, FAULT_DOWN, 30);
    rows_expect_held(&holders[0], 400 + 70 * _i);
    sidecar_process_signal(&sidecar, SIGSTOP);
    ck_assert_int_eq(waitid(P_PID, (id_t)sidecar.pid, &info, WSTOPPED | WNOWAIT), 0);
    for (int i = 0; i < HOLDERS; i++) {
        int64_t won_ms = rival_await(rivals[i], 3000);

        rows_expect_held(&holders[i], 1); // what had been written before
        ck_assert_msg(won_ms >= holders[i].valid_until_ms,
                      "the rival won %lld ms before the published instant",
                      (long long)(holders[i].valid_until_ms - won_ms));
    }
    sidecar_process_signal(&sidecar, SIGCONT);
    for (int i = 0; i < HOLDERS; i++) {
        rows_await_revoked(&holders[i], 1000);
        ck_assert_int_eq(holders[i].safe_ms, 0);
        rival_free(rivals[i]);
        rows_leave(&holders[i]);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("promises under faults");
    TCase *tests = rows_case(suite, "promises", rows_setup);

    rows_add_loop(tests, must_hold_told_before_a_rival_can_have_the_key,
                  (int)(sizeof outages / sizeof outages[0]));
    rows_add_loop(tests, must_hold_no_short_blip_revokes, (int)(sizeof blips / sizeof blips[0]));
    rows_add_loop(tests, must_hold_no_orphan, (int)(sizeof losses / sizeof losses[0]));
    rows_add_loop(tests, must_hold_published_validity_with_a_frozen_sidecar, 4);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
