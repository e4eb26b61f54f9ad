// SPDX-License-Identifier: Apache-2.0
//
// Rows 18 and 19: Redis' wall clock jumps or goes wrong, and a sidecar that stood still. (The suspend
// of the machine looks to the sidecar as SIGSTOP does: CLOCK_BOOTTIME, and its timer, went on.)

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/fault/rows.h"
#include "tests/tool/fake_clock.h"

static struct fake_clock wall;

static void setup_fake_clock(void)
{
    rows_setup_bare();
    fake_clock_begin(&wall);
    private_redis_start(&redis, NULL);
    fake_clock_end_start(&wall);
    rows_start_proxy(false);
}

static int64_t redis_time_ms(void)
{
    const redisReply *reply = private_redis_reply(&redis, "TIME");

    return strtoll(reply->element[0]->str, NULL, 10) * 1000 +
           strtoll(reply->element[1]->str, NULL, 10) / 1000;
}

// The default T of the matrix is 30 s, and its steps are 25, 31 and -31 s; scaled by T.
static int64_t scaled(int64_t ms)
{
    return rows_long() ? ms : ms / 15;
}

static const char *ttl(void)
{
    return rows_long() ? "30s" : "2s";
}

// ---- Row 18 ----

// Forward, by less than the key has left: noticed, nothing else.
START_TEST(row_18_step_within_the_ttl)
{
    struct rows_holder holder;
    int64_t before_ms;

    rows_start(ttl());
    rows_hold(&holder, "step", "");
    rows_await_renewed(&holder);
    before_ms = redis_time_ms();
    fake_clock_step(&wall, scaled(25000) / 2);
    ck_assert_int_ge(redis_time_ms(), before_ms + scaled(25000) / 2); // the fault is real
    rows_await_renewed(&holder);
    rows_await_renewed(&holder);
    ck_assert_int_le(bench_pttl("step"), scaled(30000));
    // The next connection compares the clocks.
    fault_proxy_cut(proxy);
    rows_await_up(&holder.client);
    SCRATCH_UNTIL(1000, rows_log_has("clock"));
    rows_release(&holder);
    rows_leave(&holder);
}
END_TEST

// Forward, by 25 s: the key may be gone or not, and the holder is told what is true.
START_TEST(row_18_step_about_the_ttl)
{
    struct rows_holder holder;

    rows_start(ttl());
    rows_hold(&holder, "about", "");
    rows_await_renewed(&holder);
    fake_clock_step(&wall, scaled(25000));
    line_client_receive(&holder.client);
    if (strcmp(line_client_string(&holder.client, "event"), "renewed") == 0) {
        ck_assert_int_gt(bench_pttl("about"), scaled(30000) / 2);
    } else {
        ck_assert_str_eq(line_client_string(&holder.client, "event"), "revoked");
        ck_assert_str_eq(line_client_string(&holder.client, "reason"), "lost");
        ck_assert(!bench_exists("about"));
    }
    rows_leave(&holder);
}
END_TEST

START_TEST(row_18_step_beyond_the_ttl)
{
    struct rows_holder holder;
    struct rival *rival;

    rows_start(ttl());
    rows_hold(&holder, "gone", "");
    rows_await_renewed(&holder);
    fake_clock_step(&wall, scaled(31000));
    rival = rival_new(redis.socket, "gone");
    rival_await(rival, 1000);
    rows_await_revoked(&holder, scaled(10000 + 2500) + ROWS_NOISE_MS);
    ck_assert_str_eq(holder.reason, "lost");
    ck_assert_int_eq(holder.safe_ms, 0);
    rows_expect_silence(&holder);
    ck_assert_str_eq(private_redis_string(&redis, "GET lock:gone"), "rival");
    rival_free(rival);
    rows_leave(&holder);
}
END_TEST

// Backward: the key lives longer in Redis, but the sidecar's own arithmetic does not know.
START_TEST(row_18_step_backward)
{
    struct rows_holder holder;
    int64_t valid_until_ms, left_ms;

    rows_start(ttl());
    rows_hold(&holder, "back", "");
    rows_await_renewed(&holder);
    fake_clock_step(&wall, -scaled(31000));
    ck_assert_int_gt(bench_pttl("back"), scaled(31000));
    for (int i = 0; i < 3; i++) {
        rows_await_renewed(&holder);
        left_ms = holder.valid_until_ms - holder.client.received_ms;
        ck_assert_int_le(left_ms, scaled(30000));
        ck_assert_int_gt(left_ms, scaled(30000) - scaled(30000) / 12 - ROWS_NOISE_MS);
        ck_assert_int_le(bench_pttl("back"), scaled(30000)); // mended by the renewal
    }
    valid_until_ms = holder.valid_until_ms;
    fault_proxy_refuse(proxy, true);
    fault_proxy_cut(proxy);
    rows_await_revoked(&holder, scaled(30000));
    rows_check_unreachable(&holder);
    ck_assert_int_eq(holder.valid_until_ms, valid_until_ms);
    rows_leave(&holder);
}
END_TEST

// 5 % too fast or too slow, for ten heartbeats: heartbeats make nothing of it.
static const int64_t rates[] = {50000, -50000};

START_TEST(row_18_rate)
{
    struct rows_holder holder;
    int64_t began_ms, redis_began_ms;

    rows_start("1s");
    fake_clock_rate(&wall, rates[_i]);
    began_ms = scratch_boottime_ms();
    redis_began_ms = redis_time_ms();
    rows_hold(&holder, "rate", "");
    while (holder.renewed < 10) {
        rows_await_renewed(&holder);
        ck_assert_int_gt(bench_pttl("rate"), 1000 / 2);
    }
    ck_assert_int_eq(holder.at_risk, 0);
    // The fault was real: some 3 s, of which 5 % are missing or too many.
    ck_assert_int_gt(llabs((redis_time_ms() - redis_began_ms) - (scratch_boottime_ms() - began_ms)),
                     50);
    rows_release(&holder);
    rows_leave(&holder);
}
END_TEST

// The sidecar's own wall clock jumps: nothing that it decides may depend on it.
START_TEST(row_18_step_of_the_sidecars_clock)
{
    static const int64_t steps_ms[] = {31000, -62000, 3600000, -7200000};
    const char *options = getenv("ASAN_OPTIONS");
    struct fake_clock own;
    struct rows_holder holder;
    char text[256];
    const char *environment[3] = {0};
    char preload[256], page[SCRATCH_MAX_PATH + 32];

    private_redis_start(&redis, NULL);
    rows_start_proxy(false);
    snprintf(text, sizeof text, "%s%sverify_asan_link_order=0", options ? options : "",
             options ? ":" : "");
    setenv("ASAN_OPTIONS", text, 1);
    fake_clock_begin(&own);
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", getenv("LD_PRELOAD"));
    snprintf(page, sizeof page, "FAKE_CLOCK_PAGE=%s", getenv("FAKE_CLOCK_PAGE"));
    fake_clock_end_start(&own);
    environment[0] = preload;
    environment[1] = page;
    sidecar.environment = environment;
    rows_start("1s");
    rows_hold(&holder, "own", "");
    for (size_t i = 0; i < sizeof steps_ms / sizeof steps_ms[0]; i++) {
        fake_clock_step(&own, steps_ms[i]);
        for (int beat = 0; beat < 3; beat++) {
            rows_await_renewed(&holder);
            ck_assert_int_le(holder.valid_until_ms, holder.client.received_ms + 1000);
            ck_assert_int_gt(bench_pttl("own"), 1000 / 2);
        }
    }
    ck_assert_int_eq(holder.at_risk, 0);
    fault_proxy_refuse(proxy, true);
    fault_proxy_cut(proxy);
    fake_clock_step(&own, 31000);
    rows_await_revoked(&holder, 2000);
    rows_check_unreachable(&holder);
    rows_leave(&holder);
}
END_TEST

// ---- Row 19 ----

static void stop_sidecar(void)
{
    siginfo_t info;

    sidecar_process_signal(&sidecar, SIGSTOP);
    ck_assert_int_eq(waitid(P_PID, (id_t)sidecar.pid, &info, WSTOPPED | WNOWAIT), 0);
}

static void wait_until(int64_t at_ms)
{
    int64_t left_ms = at_ms - scratch_boottime_ms();

    if (left_ms > 0)
        scratch_pause_ms(left_ms);
}

// For less than what was left: renewed at once.
START_TEST(row_19_stopped_for_less)
{
    struct rows_holder holder;
    int64_t woken_ms;

    rows_start(ttl());
    rows_hold(&holder, "short", "");
    rows_await_renewed(&holder);
    stop_sidecar();
    wait_until(holder.valid_until_ms - scaled(30000) / 5 - scaled(3000) - 50);
    sidecar_process_signal(&sidecar, SIGCONT);
    woken_ms = scratch_boottime_ms();
    rows_await_renewed(&holder);
    ck_assert_int_le(holder.client.received_ms, woken_ms + ROWS_NOISE_MS);
    rows_await_renewed(&holder);
    rows_release(&holder);
    rows_leave(&holder);
}
END_TEST

// A renewal is on its way when the sidecar stops; its answer waits in the socket past D. It must not
// be believed then: the key is still there, and nobody may say "renewed".
START_TEST(row_19_buffered_reply_past_the_revoke_time)
{
    struct rows_holder holder;
    struct rival *rival;
    int64_t since_ms, woken_ms;

    rows_start(ttl());
    fault_proxy_delay(proxy, FAULT_DOWN, 40);
    rows_hold(&holder, "buffered", "");
    rows_await_renewed(&holder);
    since_ms = scratch_boottime_ms();
    SCRATCH_UNTIL(scaled(15000), fault_proxy_count(proxy, RESP_RENEW, NULL, since_ms) > 0);
    stop_sidecar();
    rival = rival_new(redis.socket, "buffered");
    wait_until(holder.valid_until_ms - scaled(30000) / 5 + 20);
    ck_assert_int_gt(bench_pttl("buffered"), scaled(30000) / 5); // it was renewed in Redis
    sidecar_process_signal(&sidecar, SIGCONT);
    woken_ms = scratch_boottime_ms();
    line_client_receive(&holder.client);
    ck_assert_str_eq(line_client_string(&holder.client, "event"), "revoked");
    ck_assert_str_eq(line_client_string(&holder.client, "reason"), "unreachable");
    ck_assert_int_eq(line_client_int(&holder.client, "valid_until_ms"), holder.valid_until_ms);
    ck_assert_int_le(holder.client.received_ms, woken_ms + ROWS_NOISE_MS);
    // The zombie is cleaned at the old valid_until: not before, and not a T after.
    rival_await(rival, scaled(30000));
    ck_assert_int_ge(rival_won_ms(rival), holder.valid_until_ms);
    ck_assert_int_le(rival_won_ms(rival), holder.valid_until_ms + ROWS_NOISE_MS);
    rows_expect_silence(&holder);
    rival_free(rival);
    rows_leave(&holder);
}
END_TEST

// For longer than the key lives: 15 s and 60 s, scaled by T. The rival has it by then, and the instant
// that was published has covered it.
static const int64_t stops_ms[] = {15000, 60000};

START_TEST(row_19_stopped_for_longer)
{
    struct rows_holder holder;
    struct rival *rival;
    int64_t until_ms;

    rows_start(rows_long() ? "10s" : "1s");
    rows_hold(&holder, "long", "");
    rows_await_renewed(&holder);
    rival = rival_new(redis.socket, "long");
    stop_sidecar();
    until_ms = scratch_boottime_ms() + (rows_long() ? stops_ms[_i] : stops_ms[_i] / 10);
    rival_await(rival, 15000);
    wait_until(until_ms);
    sidecar_process_signal(&sidecar, SIGCONT);
    // No "renewed" comes, whatever is buffered: the first word is the end.
    line_client_receive(&holder.client);
    ck_assert_str_eq(line_client_string(&holder.client, "event"), "revoked");
    ck_assert_int_eq(line_client_int(&holder.client, "safe_ms"), 0);
    ck_assert_int_eq(line_client_int(&holder.client, "valid_until_ms"), holder.valid_until_ms);
    ck_assert_int_ge(rival_won_ms(rival), holder.valid_until_ms);
    rows_expect_silence(&holder);
    ck_assert_str_eq(private_redis_string(&redis, "GET lock:long"), "rival");
    rival_free(rival);
    rows_leave(&holder);
}
END_TEST

// Many stops, each as short as may be: none of them is a reason to revoke.
START_TEST(row_19_stopped_often)
{
    struct rows_holder holder;

    rows_start("2s");
    rows_hold(&holder, "often", "");
    for (int i = 0; i < 10; i++) {
        stop_sidecar();
        scratch_pause_ms(200);
        sidecar_process_signal(&sidecar, SIGCONT);
        rows_expect_held(&holder, 50);
    }
    rows_await_renewed(&holder);
    rows_release(&holder);
    rows_leave(&holder);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of clocks");
    TCase *tests = rows_case(suite, "clock of Redis'", setup_fake_clock);

    rows_add(tests, row_18_step_within_the_ttl);
    rows_add(tests, row_18_step_about_the_ttl);
    rows_add(tests, row_18_step_beyond_the_ttl);
    rows_add(tests, row_18_step_backward);
    rows_add_loop(tests, row_18_rate, 2);
    tests = rows_case(suite, "clock of the sidecar's", rows_setup_bare);
    rows_add(tests, row_18_step_of_the_sidecars_clock);
    tests = rows_case(suite, "sidecar that stood still", rows_setup);
    rows_add(tests, row_19_stopped_for_less);
    rows_add(tests, row_19_buffered_reply_past_the_revoke_time);
    rows_add_loop(tests, row_19_stopped_for_longer, 2);
    rows_add(tests, row_19_stopped_often);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
