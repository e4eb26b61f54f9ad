// SPDX-License-Identifier: Apache-2.0
//
// Rows 13 to 16: what the way between the sidecar and Redis can do to requests and replies.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/rows.h"
#include "tests/tool/net.h"

// Redis' own count: the fault is real only if the SET was executed.
static int64_t executed(const char *command)
{
    char name[64];
    const char *info = private_redis_string(&redis, "INFO commandstats");
    const char *at;

    snprintf(name, sizeof name, "cmdstat_%s:calls=", command);
    at = strstr(info, name);
    return at ? strtoll(at + strlen(name), NULL, 10) : 0;
}

// CLIENT KILLs, but for the one of nobody by which the handshake tries whether it may.
static int kills(void)
{
    return fault_proxy_count(proxy, RESP_OTHER, "\r\nKILL\r\n", 0) -
           fault_proxy_count(proxy, RESP_OTHER, "9223372036854775807", 0);
}

// ---- Row 13 ----

START_TEST(row_13_reply_lost_after_the_set)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    int64_t sets, sent_ms;

    rows_start("3s");
    rows_hold(&holder, "beside", "");
    client = rows_connect();
    for (int i = 0; i < 5; i++) {
        sets = executed("set");
        fault_proxy_arm(proxy,
                        &(struct fault_rule){RESP_ACQUIRE, .at = FAULT_REPLY, .act = FAULT_CUT});
        sent_ms = scratch_boottime_ms();
        rows_expect_refused(&client, "orphan", "errRedisUnavailable", 250 + ROWS_NOISE_MS);
        fault_proxy_await_fired(proxy, i + 1, 1000);
        ck_assert_int_gt(executed("set"), sets);
        // One reconnect and a round trip: a T of 3 s has nothing to do with it.
        SCRATCH_UNTIL(250 + ROWS_NOISE_MS, !bench_exists("orphan"));
        ck_assert_int_lt(scratch_boottime_ms() - sent_ms, 500 + 2 * ROWS_NOISE_MS);
    }
    // No conflict of our own making: asked for again, at once, it is granted.
    fault_proxy_arm(proxy, &(struct fault_rule){RESP_ACQUIRE, .at = FAULT_REPLY, .act = FAULT_CUT});
    rows_expect_refused(&client, "again", "errRedisUnavailable", 250 + ROWS_NOISE_MS);
    rows_await_up(&client);
    rows_acquire(&client, &lease, "again", "");
    // And not taken back by a delete that was owed to the first.
    rows_await_renewed(&holder);
    rows_await_renewed(&holder);
    line_client_release(&client, &lease);
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

// ---- Row 14 ----

// The bytes of the acquire are kept by the way, and come to Redis late on the old connection.
static void late_bytes(enum fault_act act, int64_t late_ms)
{
    struct line_client client;
    struct line_lease lease;
    int64_t until_ms;

    rows_start("2s");
    client = rows_connect();
    rows_acquire(&client, &lease, "before", "");
    fault_proxy_arm(proxy, &(struct fault_rule){RESP_ACQUIRE, .act = act, .after_ms = late_ms});
    until_ms = scratch_boottime_ms() + late_ms + 500;
    rows_expect_refused(&client, "late", "errRedisUnavailable", 2000 / 12 + ROWS_NOISE_MS);
    rows_await_up(&client);
    // Redis has closed the old connection, so there is nothing for the bytes to come to.
    SCRATCH_UNTIL(500 + ROWS_NOISE_MS, fault_proxy_late_lost(proxy) > 0);
    ck_assert_int_gt(kills(), 0);
    while (scratch_boottime_ms() < until_ms) {
        ck_assert(!bench_exists("late"));
        scratch_pause_ms(5);
    }
    ck_assert_int_eq(fault_proxy_late_written(proxy), 0);
    rows_acquire(&client, &lease, "late", "");
    line_client_close(&client);
}

START_TEST(row_14_late_bytes_of_a_stalled_connection)
{
    late_bytes(FAULT_STALL, rows_long() ? 12000 : 1200);
}
END_TEST

START_TEST(row_14_late_bytes_of_a_closed_connection)
{
    late_bytes(FAULT_LATE, rows_long() ? 12000 : 1200);
}
END_TEST

// Without the right to CLIENT KILL the bytes are executed, and the delete is repeated until T + C.
START_TEST(row_14_late_bytes_without_kill)
{
    struct line_client client;
    struct line_lease lease;

    private_redis_run(&redis, "ACL SETUSER default -client|kill");
    rows_start("2s");
    client = rows_connect();
    rows_acquire(&client, &lease, "before", "");
    fault_proxy_arm(proxy, &(struct fault_rule){RESP_ACQUIRE, .act = FAULT_LATE, .after_ms = 1000});
    rows_expect_refused(&client, "late", "errRedisUnavailable", 2000 / 12 + ROWS_NOISE_MS);
    SCRATCH_UNTIL(3000, fault_proxy_late_written(proxy) > 0);
    ck_assert(rows_log_has("CLIENT KILL"));
    // R apart, with time for the answer and the noise; T is far.
    SCRATCH_UNTIL(2000 / 60 + ROWS_NOISE_MS, executed("set") >= 2 && !bench_exists("late"));
    scratch_pause_ms(200);
    ck_assert(!bench_exists("late"));
    line_client_close(&client);
}
END_TEST

// A restart counts clients anew: an old id would be a stranger's.
START_TEST(row_14_no_kill_after_a_restart)
{
    struct line_client client;
    struct line_lease lease;

    rows_start("2s");
    client = rows_connect();
    rows_acquire(&client, &lease, "before", "");
    private_redis_stop(&redis);
    rows_expect_refused(&client, "late", "errRedisUnavailable", 2000 / 12 + ROWS_NOISE_MS);
    private_redis_restart(&redis);
    rows_await_up(&client);
    line_client_send(&client, "{'id':'new','op':'acquire','key':'late'}");
    line_client_await(&client, "{'ok':true,'id':'new'}");
    ck_assert_int_eq(kills(), 0);
    line_client_close(&client);
}
END_TEST

// Redis itself is what keeps the bytes, for longer than T + C: it stands still.
START_TEST(row_14_late_bytes_in_a_stopped_redis)
{
    struct line_client client;

    rows_start("2s");
    client = rows_connect();
    rows_await_up(&client);
    private_redis_stop(&redis);
    rows_expect_refused(&client, "late", "errRedisUnavailable", 2000 / 12 + ROWS_NOISE_MS);
    rows_expect_lively(&client, 2400);
    private_redis_continue(&redis);
    SCRATCH_UNTIL(1000, executed("incr") > 0);
    SCRATCH_UNTIL(1000, !bench_exists("late"));
    line_client_close(&client);
}
END_TEST

// Redis cannot be reached for longer than T + C, and the bytes come to it in the outage, or after.
static const int64_t outages[] = {1400, 2600};

START_TEST(row_14_late_bytes_of_a_long_outage)
{
    struct line_client client;
    int64_t until_ms;

    rows_start("1s");
    client = rows_connect();
    rows_await_up(&client);
    fault_proxy_refuse(proxy, true);
    fault_proxy_arm(proxy,
                    &(struct fault_rule){RESP_ACQUIRE, .act = FAULT_LATE, .after_ms = outages[_i]});
    until_ms = scratch_boottime_ms() + 2600 + 300;
    rows_expect_refused(&client, "late", "errRedisUnavailable", 1000 / 12 + ROWS_NOISE_MS);
    rows_expect_lively(&client, 1600);
    ck_assert_int_eq(fault_proxy_late_written(proxy), outages[_i] < 1600);
    fault_proxy_refuse(proxy, false);
    rows_await_up(&client);
    scratch_pause_ms(1000 / 12);
    while (scratch_boottime_ms() < until_ms) {
        ck_assert_msg(!bench_exists("late"), "an orphan, for %lld ms more",
                      (long long)bench_pttl("late"));
        scratch_pause_ms(2);
    }
    ck_assert_int_eq(fault_proxy_late_written(proxy), outages[_i] < 1600);
    line_client_close(&client);
}
END_TEST

// ---- Row 15 ----

START_TEST(row_15_half_open)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    int before;

    rows_start_proxy(true);
    rows_start("3s");
    rows_hold(&holder, "open", "");
    client = rows_connect();
    for (int i = 0; i < 3; i++) {
        before = fault_proxy_connections(proxy);
        fault_proxy_strand(proxy);
        rows_expect_refused(&client, "half", "errRedisUnavailable", 250 + ROWS_NOISE_MS);
        // A fresh connection C after the first request without an answer, not when TCP gives up.
        SCRATCH_UNTIL(250 + ROWS_NOISE_MS, fault_proxy_connections(proxy) > before);
        rows_await_up(&client);
        rows_acquire(&client, &lease, "whole", "");
        line_client_release(&client, &lease);
        rows_await_renewed(&holder);
    }
    SCRATCH_UNTIL(500, !bench_exists("half"));
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

START_TEST(row_15_one_direction_dropped)
{
    enum fault_direction direction = _i ? FAULT_DOWN : FAULT_UP;
    struct rows_holder holder;
    struct line_client client;
    int before;

    rows_start_proxy(true);
    rows_start("3s");
    rows_hold(&holder, "one", "");
    client = rows_connect();
    before = fault_proxy_connections(proxy);
    fault_proxy_drop(proxy, direction, true);
    rows_expect_refused(&client, "half", "errRedisUnavailable", 250 + ROWS_NOISE_MS);
    SCRATCH_UNTIL(250 + ROWS_NOISE_MS, fault_proxy_connections(proxy) > before);
    rows_expect_held(&holder, 400);
    fault_proxy_drop(proxy, direction, false);
    rows_await_up(&client);
    SCRATCH_UNTIL(500, !bench_exists("half"));
    rows_await_renewed(&holder);
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

// The same by the kernel: a blackhole route on either side of a cable.
START_TEST(row_15_blackhole)
{
    enum net_way way = _i ? NET_FROM_FAR : NET_TO_FAR;
    struct rows_holder holder;
    struct rival *rival;
    const char *why;
    char url[64];

    if (!net_open(&why)) {
        rows_skip(why);
        return;
    }
    net_far(true);
    redis.tcp = true;
    private_redis_start(&redis, "--bind", NET_FAR, "--protected-mode", "no", NULL);
    net_far(false);
    snprintf(url, sizeof url, "redis://" NET_FAR ":%d", redis.port);
    sidecar_process_start(&sidecar, url, "--lock-ttl", "3s", "--log-level", "debug", NULL);
    rows_hold(&holder, "black", "");
    rows_await_renewed(&holder);
    // For less than D: nothing.
    net_blackhole(way, true);
    rows_expect_held(&holder, 1000);
    net_blackhole(way, false);
    rows_await_renewed(&holder);
    // For more: in time.
    rival = rival_new(redis.socket, "black");
    net_blackhole(way, true);
    rows_await_revoked(&holder, 4000);
    rows_check_unreachable(&holder);
    rows_check_slack(&holder, rival, 4000);
    net_blackhole(way, false);
    rows_await_up(&holder.client);
    rival_free(rival);
    rows_leave(&holder);
}
END_TEST

// ---- Row 16 ----

START_TEST(row_16_dribbled)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    char key[16];

    fault_proxy_dribble(proxy, FAULT_UP, 0);
    fault_proxy_dribble(proxy, FAULT_DOWN, 20);
    rows_start("24s"); // a C in which the handshake comes through
    client = rows_connect();
    rows_await_up(&client);
    rows_hold(&holder, "dribbled", ",'ttl_ms':3000");
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "drop:%d", i);
        rows_acquire(&client, &lease, key, "");
        ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:%s", key), lease.lease, 32),
                         0);
        line_client_send(&client, "{'op':'acquire','key':'%s'}", key);
        line_client_expect(&client, "{'ok':false,'error':'errLockHeld'}");
    }
    rows_await_renewed(&holder);
    rows_release(&holder);
    ck_assert_int_eq(fault_proxy_connections(proxy), 1);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

// In place of the reply to an acquire. fill: so many bytes of it follow.
static const struct {
    const char *text;
    char fill;
    size_t filled;
} hostile[] = {
    {.text = "$-5\r\n"},
    {.text = "*-2\r\n"},
    {.text = "*2147483647\r\n"},
    {.text = "*9223372036854775808\r\n"},
    {.text = "$9223372036854775807\r\n"},
    {.text = ":12a\r\n"},
    {.text = "*2\r\n:1\r\n:0\r\n"},
    {.text = "*2\r\n:1\r\n:-5\r\n"},
    {.text = "*2\r\n:1\r\n$3\r\n123\r\n"},
    {.text = "*3\r\n:0\r\n:5\r\n*1\r\n:1\r\n"},
    {.text = "*0\r\n"},
    {.text = "*-1\r\n"},
    {.text = "$-1\r\n"},
    {.text = "+OK\r\n"},
    {.text = ":1\r\n"},
    {.text = "HTTP/1.1 400 Bad Request\r\n\r\n"},
    {.text = "%1\r\n+a\r\n+b\r\n"},
    {.text = ">2\r\n+a\r\n+b\r\n"},
    {.text = "\r\n\r\n\r\n"},
    {"$10485760\r\n", 'x', 10485760},
    {"+", 'y', 4 << 20},
    {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", '*', 4 << 20},
    {"*1024\r\n*1024\r\n*1024\r\n", ':', 1 << 20},
};

START_TEST(row_16_hostile_reply)
{
    size_t length = strlen(hostile[_i].text) + hostile[_i].filled;
    char *bytes = malloc(length + 1);
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    int64_t memory_kib;

    ck_assert_ptr_nonnull(bytes);
    memset(bytes, hostile[_i].fill, length);
    memcpy(bytes, hostile[_i].text, strlen(hostile[_i].text));
    rows_start("3s");
    rows_hold(&holder, "beside", "");
    client = rows_connect();
    rows_acquire(&client, &lease, "warm", "");
    memory_kib = rows_memory_kib(sidecar.pid);
    fault_proxy_arm(proxy,
                    &(struct fault_rule){RESP_ACQUIRE, .at = FAULT_REPLY, .act = FAULT_REPLACE,
                                         .bytes = bytes, .length = length});
    rows_expect_refused(&client, "hostile", "errRedisUnavailable", 250 + ROWS_NOISE_MS);
    // The connection was dropped; what the hostile reply may have left is cleaned, the rest goes on.
    // At once, or when it stays unfinished for four times C.
    SCRATCH_UNTIL(1000 + ROWS_NOISE_MS, fault_proxy_connections(proxy) >= 2);
    rows_await_up(&client);
    SCRATCH_UNTIL(500, !bench_exists("hostile"));
    line_client_release(&client, &lease);
    rows_acquire(&client, &lease, "hostile", "");
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:hostile"), lease.lease, 32), 0);
    ck_assert_int_lt(rows_memory_kib(sidecar.pid) - memory_kib, 8192);
    rows_await_renewed(&holder);
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
    free(bytes);
}
END_TEST

// A reply too many, that would do as the answer of the next acquire, or of the next renewal.
static const char *const extra[] = {
    "*2\r\n:1\r\n:1790000000000000\r\n",
    "*1\r\n:1\r\n",
    ":1\r\n",
    "*1\r\n:0\r\n",
};

START_TEST(row_16_extra_reply)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    char key[16];
    int before;

    rows_start("3s");
    rows_hold(&holder, "beside", "");
    client = rows_connect();
    for (int i = 0; i < 2; i++) {
        before = fault_proxy_connections(proxy);
        if (i == 0)
            fault_proxy_arm(proxy, &(struct fault_rule){RESP_ACQUIRE, .at = FAULT_REPLY,
                                                        .act = FAULT_APPEND, .bytes = extra[_i],
                                                        .length = strlen(extra[_i])});
        else
            fault_proxy_inject(proxy, extra[_i], strlen(extra[_i]));
        snprintf(key, sizeof key, "extra:%d", i);
        if (i == 0) {
            rows_acquire(&client, &lease, key, "");
            ck_assert_int_eq(
                strncmp(private_redis_string(&redis, "GET lock:%s", key), lease.lease, 32), 0);
        }
        SCRATCH_UNTIL(500, fault_proxy_connections(proxy) > before);
        rows_await_up(&client);
    }
    ck_assert(rows_log_has("nobody asked for"));
    rows_acquire(&client, &lease, "after", "");
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:after"), lease.lease, 32), 0);
    rows_await_renewed(&holder);
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of the wire");
    TCase *tests = rows_case(suite, "wire", rows_setup);

    rows_add(tests, row_13_reply_lost_after_the_set);
    rows_add(tests, row_14_late_bytes_of_a_stalled_connection);
    rows_add(tests, row_14_late_bytes_of_a_closed_connection);
    rows_add(tests, row_14_late_bytes_without_kill);
    rows_add(tests, row_14_no_kill_after_a_restart);
    rows_add(tests, row_14_late_bytes_in_a_stopped_redis);
    rows_add_loop(tests, row_14_late_bytes_of_a_long_outage, 2);
    rows_add(tests, row_16_dribbled);
    rows_add_loop(tests, row_16_hostile_reply, (int)(sizeof hostile / sizeof hostile[0]));
    rows_add_loop(tests, row_16_extra_reply, (int)(sizeof extra / sizeof extra[0]));
    tests = rows_case(suite, "wire over TCP", rows_setup);
    rows_add(tests, row_15_half_open);
    rows_add_loop(tests, row_15_one_direction_dropped, 2);
    tests = rows_case(suite, "wire of the kernel's", rows_setup_bare);
    rows_add_loop(tests, row_15_blackhole, 2);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
