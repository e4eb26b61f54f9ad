// SPDX-License-Identifier: Apache-2.0
//
// Rows 10 to 12: a Redis that answers, but refuses: it is full, demoted, loading, or the password or
// the permissions are wrong.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fault/rows.h"

static void take_warning(const char *text)
{
    char *log;

    if (rows_log_has(text))
        return;
    log = sidecar_process_read_log(&sidecar);
    ck_abort_msg("the log does not say \"%s\": %s", text, log);
}

// ---- Row 10 ----

START_TEST(row_10_full)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;

    rows_start("1s");
    rows_hold(&holder, "full", "");
    client = rows_connect();
    rows_acquire(&client, &lease, "second", "");
    private_redis_run(&redis, "CONFIG SET maxmemory 1");
    rows_expect_refused(&client, "more", "errRedisRefused", 1000 / 12 + ROWS_NOISE_MS);
    ck_assert_ptr_nonnull(strstr(line_client_string(&client, "message"), "OOM"));
    for (int i = 0; i < 4; i++)
        rows_await_renewed(&holder);
    ck_assert_int_eq(holder.at_risk, 0);
    line_client_release(&client, &lease);
    ck_assert(!bench_exists("second"));
    rows_release(&holder);
    ck_assert(!bench_exists("full"));
    private_redis_run(&redis, "CONFIG SET maxmemory 0");
    ck_assert(!bench_exists("more"));
    rows_acquire(&client, &lease, "more", "");
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

START_TEST(row_10_evicted)
{
    struct rows_holder holder;

    private_redis_start(&redis, "--maxmemory-policy", "allkeys-lru", NULL);
    rows_start("1s");
    rows_hold(&holder, "evicted", "");
    take_warning("allkeys-lru");
    private_redis_run(&redis, "CONFIG SET maxmemory 1");
    rows_await_revoked(&holder, 1000 / 3 + 1000 / 12 + 2 * ROWS_NOISE_MS);
    ck_assert_str_eq(holder.reason, "lost");
    ck_assert_int_eq(holder.safe_ms, 0);
    ck_assert(!bench_exists("evicted"));
    rows_leave(&holder);
}
END_TEST

// ---- Row 11 ----

static void not_a_master(void)
{
    private_redis_run(&redis, "REPLICAOF 127.0.0.1 1");
}

static void master_down(void)
{
    private_redis_run(&redis, "CONFIG SET replica-serve-stale-data no");
    private_redis_run(&redis, "REPLICAOF 127.0.0.1 1");
}

static void master_again(void)
{
    private_redis_run(&redis, "REPLICAOF NO ONE");
}

static void no_replicas(void)
{
    private_redis_run(&redis, "CONFIG SET min-replicas-to-write 1");
}

static void no_replicas_needed(void)
{
    private_redis_run(&redis, "CONFIG SET min-replicas-to-write 0");
}

// A folder where the file would be: saving fails, and writes are refused from then on.
static void misconfigured(void)
{
    char path[SCRATCH_MAX_PATH + 16];

    snprintf(path, sizeof path, "%s/dump.rdb", redis.folder);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    private_redis_run(&redis, "CONFIG SET save %s", "3600 1");
    private_redis_run(&redis, "BGSAVE");
    SCRATCH_UNTIL(3000, strstr(private_redis_string(&redis, "INFO persistence"),
                               "rdb_last_bgsave_status:err"));
}

static void configured(void)
{
    private_redis_run(&redis, "CONFIG SET stop-writes-on-bgsave-error no");
}

static const struct {
    const char *code;
    void (*begin)(void);
    void (*end)(void);
    const char *error; // of an acquire meanwhile
} refusals[] = {
    {"READONLY", not_a_master, master_again, "errRedisUnavailable"},
    {"MASTERDOWN", master_down, master_again, "errRedisUnavailable"},
    {"NOREPLICAS", no_replicas, no_replicas_needed, "errRedisRefused"},
    {"MISCONF", misconfigured, configured, "errRedisRefused"},
};

// For a while in which a heartbeat falls: transient, without a busy loop.
START_TEST(row_11_refuses_for_a_while)
{
    struct rows_holder holder;
    struct line_client client;
    int64_t began_ms, cpu_ms;
    int connections;

    rows_start("3s");
    rows_hold(&holder, "refused", "");
    client = rows_connect();
    refusals[_i].begin();
    began_ms = scratch_boottime_ms();
    connections = fault_proxy_connections(proxy);
    cpu_ms = scratch_cpu_ms(sidecar.pid);
    rows_expect_refused(&client, "more", refusals[_i].error, 250 + ROWS_NOISE_MS);
    ck_assert_ptr_nonnull(strstr(line_client_string(&client, "message"), refusals[_i].code));
    rows_expect_held(&holder, 1200);
    cpu_ms = scratch_cpu_ms(sidecar.pid) - cpu_ms;
    ck_assert_int_lt(cpu_ms, 400);
    // Either stays on the connection and repeats every R, or reconnects with growing pauses.
    ck_assert_int_le(fault_proxy_connections(proxy) - connections, 12);
    ck_assert_int_le(fault_proxy_count(proxy, RESP_RENEW, NULL, began_ms), 1200 / 50 + 10);
    refusals[_i].end();
    rows_await_renewed(&holder);
    rows_await_renewed(&holder);
    rows_await_up(&client);
    ck_assert(!bench_exists("more"));
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

// For longer: the D-rule, by the sidecar's own clock.
START_TEST(row_11_refuses_for_good)
{
    struct rows_holder holder;
    int64_t began_ms;

    rows_start("2s");
    rows_hold(&holder, "refused", "");
    refusals[_i].begin();
    began_ms = scratch_boottime_ms();
    rows_await_revoked(&holder, 3000);
    rows_check_unreachable(&holder);
    ck_assert_int_eq(holder.at_risk, 1);
    ck_assert_int_le(fault_proxy_count(proxy, RESP_RENEW, NULL, began_ms), 2000 / 33 + 10);
    refusals[_i].end();
    rows_leave(&holder);
}
END_TEST

// A restart that takes a second to load: LOADING to whoever connects meanwhile.
START_TEST(row_11_loading)
{
    struct rows_holder holder;

    redis.append_only = true;
    private_redis_start(&redis, "--key-load-delay", "2000",
                        "--loading-process-events-interval-bytes", "1024", NULL);
    rows_start_proxy(false);
    private_redis_run(
        &redis, "EVAL %s 0",
        "for i = 1, 400 do redis.call('SET', 'filler:' .. i, string.rep('x', 200)) end");
    rows_start("8s");
    rows_hold(&holder, "loading", "");
    private_redis_restart(&redis);
    rows_await_renewed(&holder);
    rows_await_renewed(&holder);
    take_warning("LOADING");
    ck_assert_int_le(fault_proxy_connections(proxy), 20);
    rows_release(&holder);
    rows_leave(&holder);
}
END_TEST

// A real failover: the replica becomes the master, the old master its replica, the name follows.
START_TEST(row_11_failover)
{
    struct private_redis second = {.name = "second", .tcp = true};
    struct rows_holder holder;
    char port[16];

    redis.tcp = true;
    private_redis_start(&redis, NULL);
    rows_start_proxy(false);
    snprintf(port, sizeof port, "%d", redis.port);
    private_redis_start(&second, "--replicaof", "127.0.0.1", port, "--repl-diskless-sync-delay",
                        "0", NULL);
    SCRATCH_UNTIL(
        10000, strstr(private_redis_string(&second, "INFO replication"), "master_link_status:up"));
    rows_start("3s");
    rows_hold(&holder, "moved", "");
    SCRATCH_UNTIL(2000, private_redis_int(&second, "EXISTS lock:moved") == 1);
    private_redis_run(&second, "REPLICAOF NO ONE");
    private_redis_run(&redis, "REPLICAOF 127.0.0.1 %d", second.port);
    fault_proxy_redirect(proxy, second.socket);
    // The old one answers READONLY; that ends the connection, and the next one finds the new master.
    rows_await_renewed(&holder);
    rows_await_renewed(&holder);
    ck_assert_int_gt(private_redis_int(&second, "PTTL lock:moved"), 3000 - 1000 - 250 - 100);
    rows_release(&holder);
    ck_assert_int_eq(private_redis_int(&second, "EXISTS lock:moved"), 0);
    rows_leave(&holder);
    private_redis_deinit(&second);
}
END_TEST

// ---- Row 12 ----

static const char password[] = "swordfish-41", rotated[] = "marlin-59";

static void start_with_password_file(const char *user)
{
    char url[SCRATCH_MAX_PATH + 32];

    if (user)
        private_redis_run(&redis, "ACL SETUSER %s on >%s ~* &* +@all", user, password);
    else
        private_redis_run(&redis, "CONFIG SET requirepass %s", password);
    scratch_write(scratch_path("password"), password);
    snprintf(url, sizeof url, "%s", fault_proxy_url(proxy));
    sidecar_process_start(&sidecar, url, "--redis-password-file", scratch_path("password"),
                          "--lock-ttl", "3s", "--log-level", "debug", NULL);
}

// Ends the sidecar, since what it logs last counts, too.
static void expect_no_password_in_log(void)
{
    bench_stop(&sidecar);
    ck_assert(!rows_log_has(password));
    ck_assert(!rows_log_has(rotated));
}

START_TEST(row_12_rotated_password)
{
    struct rows_holder holder;
    int before;

    start_with_password_file(NULL);
    rows_hold(&holder, "rotated", "");
    private_redis_run(&redis, "CONFIG SET requirepass %s", rotated);
    before = fault_proxy_connections(proxy);
    fault_proxy_cut(proxy);
    SCRATCH_UNTIL(1000, rows_redis_is(&holder.client, "down") &&
                            strstr(line_client_string(&holder.client, "redis_error"), "WRONGPASS"));
    rows_expect_refused(&holder.client, "more", "errRedisUnavailable", 250 + ROWS_NOISE_MS);
    ck_assert_ptr_nonnull(strstr(line_client_string(&holder.client, "message"), "WRONGPASS"));
    rows_expect_held(&holder, 500);
    // Attempts with growing pauses: a dozen would be 10 ms, 20 ms, ... 20 s.
    ck_assert_int_le(fault_proxy_connections(proxy) - before, 10);
    scratch_write(scratch_path("password"), rotated);
    rows_await_up(&holder.client);
    rows_await_renewed(&holder);
    rows_release(&holder);
    rows_leave(&holder);
    expect_no_password_in_log();
}
END_TEST

START_TEST(row_12_wrong_password)
{
    struct rows_holder holder;

    start_with_password_file(NULL);
    rows_hold(&holder, "wrong", "");
    rows_await_renewed(&holder);
    scratch_write(scratch_path("password"), "not-it-at-all");
    fault_proxy_cut(proxy);
    rows_await_revoked(&holder, 4000);
    rows_check_unreachable(&holder);
    rows_leave(&holder);
    expect_no_password_in_log();
    ck_assert(!rows_log_has("not-it-at-all"));
}
END_TEST

START_TEST(row_12_user_deleted)
{
    struct rows_holder holder;
    char url[SCRATCH_MAX_PATH + 64];

    private_redis_run(&redis, "ACL SETUSER keeper on >%s ~* &* +@all", password);
    // unix:// has no place for a user.
    rows_start_proxy(true);
    snprintf(url, sizeof url, "redis://keeper:%s@127.0.0.1:%d", password, fault_proxy_port(proxy));
    sidecar_process_start(&sidecar, url, "--lock-ttl", "2s", "--log-level", "debug", NULL);
    rows_hold(&holder, "deleted", "");
    private_redis_run(&redis, "ACL DELUSER keeper");
    rows_await_revoked(&holder, 3000);
    rows_check_unreachable(&holder);
    take_warning("WRONGPASS");
    rows_leave(&holder);
    expect_no_password_in_log();
}
END_TEST

// Commands that the sidecar cannot do without, for its scripts or itself.
static const char *const missing[] = {"evalsha", "pexpire", "getrange", "del",
                                      "set",     "incr",    "get",      "time",
                                      "pttl",    "type",    "eval",     "client|kill"};

// The warning that names it: the handshake's own command, or one that the scripts need.
static bool is_named(const char *command)
{
    char alone[64], first[64], words[64];

    snprintf(alone, sizeof alone, "commands=%s\n", command);
    snprintf(first, sizeof first, "commands=\"%s ", command);
    snprintf(words, sizeof words, "'%s' command", command);
    return rows_log_has(alone) || rows_log_has(first) || rows_log_has(words);
}

START_TEST(row_12_permission_missing)
{
    struct line_client client;

    private_redis_run(&redis, "ACL SETUSER default -%s", missing[_i]);
    rows_start("1s");
    client = rows_connect();
    // At the start, before anybody has asked for anything; by name.
    SCRATCH_UNTIL(3000, is_named(missing[_i]));
    SCRATCH_UNTIL(2000, bench_count("*") == 0); // by its own TTL, where DEL is what is missing
    line_client_close(&client);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of refusals");
    TCase *tests = rows_case(suite, "refusals", rows_setup);
    int count = (int)(sizeof refusals / sizeof refusals[0]);

    rows_add(tests, row_10_full);
    rows_add_loop(tests, row_11_refuses_for_a_while, count);
    rows_add_loop(tests, row_11_refuses_for_good, count);
    rows_add(tests, row_12_rotated_password);
    rows_add(tests, row_12_wrong_password);
    rows_add(tests, row_12_user_deleted);
    rows_add_loop(tests, row_12_permission_missing, (int)(sizeof missing / sizeof missing[0]));
    tests = rows_case(suite, "refusals of a Redis of their own", rows_setup_bare);
    rows_add(tests, row_10_evicted);
    rows_add(tests, row_11_loading);
    rows_add(tests, row_11_failover);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
