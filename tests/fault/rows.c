// SPDX-License-Identifier: Apache-2.0
//
// The bench of the fault matrix. One test is one process, so what it has may be globals.

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/fault/rows.h"

enum {
    CASE_TIMEOUT_S = 40,
    CASE_TIMEOUT_LONG_S = 180,
    MAX_FIRED = 8,
};

struct fault_proxy *proxy;
static redisContext *fired[MAX_FIRED];
static int fired_count;

// ---- Shards ----

static int shards = 1, shard, turns;

bool rows_turn(void)
{
    return turns++ % shards == shard;
}

static pid_t start_shard(Suite *(*make)(void), int number, FILE *output)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    shard = number;
    dup2(fileno(output), STDOUT_FILENO);
    exit(scratch_main(make()));
}

// Copies a shard's TAP with numbers that go on. How many results there were.
static int copy_results(FILE *output, int before)
{
    char line[16384];
    int count = 0;

    rewind(output);
    while (fgets(line, sizeof line, output)) {
        bool bad = strncmp(line, "not ok ", 7) == 0;

        if (bad || strncmp(line, "ok ", 3) == 0)
            printf("%sok %d%s", bad ? "not " : "", before + ++count, strstr(line, " - "));
        else if (strncmp(line, "1..", 3) != 0)
            fputs(line, stdout);
    }
    return count;
}

int rows_main(Suite *(*make)(void))
{
    enum { MAX_SHARDS = 8 };
    const char *wanted = getenv("LOCK_KEEPER_SHARDS"), *forks = getenv("CK_FORK");
    FILE *outputs[MAX_SHARDS];
    pid_t pids[MAX_SHARDS];
    int count = 0, code = EXIT_SUCCESS, status;

    if (forks && strcmp(forks, "no") == 0)
        return scratch_main(make());
    shards = wanted ? atoi(wanted) : 2;
    shards = shards < 1 ? 1 : shards > MAX_SHARDS ? MAX_SHARDS : shards;
    for (int i = 0; i < shards; i++) {
        outputs[i] = tmpfile();
        if (!outputs[i] || (pids[i] = start_shard(make, i, outputs[i])) < 0)
            return EXIT_FAILURE;
    }
    for (int i = 0; i < shards; i++) {
        if (waitpid(pids[i], &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
            code = EXIT_FAILURE;
        count += copy_results(outputs[i], count);
        fclose(outputs[i]);
    }
    printf("1..%d\n", count);
    return code;
}

// ---- How late the machine is ----

static pthread_t meter;
static atomic_bool metering;
static atomic_llong lateness_us;

static void *measure(void *context)
{
    (void)context;
    while (metering) {
        int64_t before_us = scratch_monotonic_us(), late_us;

        scratch_pause_ms(2);
        late_us = scratch_monotonic_us() - before_us - 2000;
        if (late_us > lateness_us)
            lateness_us = late_us;
    }
    return NULL;
}

int64_t rows_lateness_ms(void)
{
    return lateness_us / 1000;
}

// ---- Fixtures ----

void rows_setup_bare(void)
{
    bench_setup_bare();
    proxy = NULL;
    fired_count = 0;
    metering = true;
    ck_assert_int_eq(pthread_create(&meter, NULL, measure, NULL), 0);
}

void rows_setup(void)
{
    rows_setup_bare();
    private_redis_start(&redis, NULL);
    rows_start_proxy(false);
}

void rows_teardown(void)
{
    for (int i = 0; i < fired_count; i++)
        redisFree(fired[i]);
    if (sidecar.pid)
        bench_stop(&sidecar);
    proxy = fault_proxy_free(proxy);
    metering = false;
    pthread_join(meter, NULL);
    bench_teardown();
}

TCase *rows_case(Suite *suite, const char *name, void (*setup)(void))
{
    TCase *tests = tcase_create(name);

    tcase_set_timeout(tests, rows_long() ? CASE_TIMEOUT_LONG_S : CASE_TIMEOUT_S);
    tcase_add_checked_fixture(tests, setup, rows_teardown);
    suite_add_tcase(suite, tests);
    return tests;
}

void rows_start_proxy(bool tcp)
{
    fault_proxy_free(proxy);
    proxy = fault_proxy_new(redis.socket, tcp);
}

void rows_start(const char *ttl)
{
    sidecar_process_start(&sidecar, proxy ? fault_proxy_url(proxy) : redis.url, "--lock-ttl", ttl,
                          "--log-level", "debug", NULL);
}

bool rows_long(void)
{
    const char *value = getenv("LOCK_KEEPER_LONG");

    return value && *value && strcmp(value, "0") != 0;
}

void rows_skip(const char *why)
{
    printf("# skipped: %s\n", why);
    fflush(stdout);
}

// ---- Asking ----

struct line_client rows_connect(void)
{
    struct line_client client;

    line_client_connect(&client, sidecar.socket);
    if (rows_long())
        client.timeout_ms = 60000;
    return client;
}

void rows_acquire(struct line_client *client, struct line_lease *lease, const char *key,
                  const char *more)
{
    char *members = strdup(more);

    for (char *at = members; *at; at++)
        *at = *at == '\'' ? '"' : *at;
    for (int64_t deadline = scratch_deadline(3000);;) {
        lease->sent_ms = scratch_boottime_ms();
        line_client_send(client, "{'op':'acquire','key':'%s'%s}", key, members);
        line_client_await(client, "{'op':'acquire','key':'%s'}", key);
        if (json_is_true(line_client_member(client, "ok")))
            break;
        ck_assert_msg(strcmp(line_client_string(client, "error"), "errRedisUnavailable") == 0 &&
                          scratch_left(deadline) > 0,
                      "%s", client->line);
    }
    free(members);
    strcpy(lease->lease, line_client_string(client, "lease"));
    lease->fence = line_client_int(client, "fence");
    lease->valid_until_ms = line_client_int(client, "valid_until_ms");
}

bool rows_redis_is(struct line_client *client, const char *state)
{
    line_client_send(client, "{'op':'ping'}");
    line_client_await(client, "{'ok':true,'op':'ping'}");
    return strcmp(line_client_string(client, "redis"), state) == 0;
}

void rows_await_up(struct line_client *client)
{
    SCRATCH_UNTIL(5000, rows_redis_is(client, "up"));
}

void rows_expect_lively(struct line_client *client, int64_t ms)
{
    int64_t until_ms = scratch_boottime_ms() + ms;

    while (scratch_boottime_ms() < until_ms) {
        int64_t began_ms = scratch_boottime_ms();

        rows_redis_is(client, "up");
        ck_assert_int_le(scratch_boottime_ms() - began_ms, ROWS_NOISE_MS);
        scratch_pause_ms(10);
    }
}

void rows_expect_refused(struct line_client *client, const char *key, const char *error, int64_t ms)
{
    int64_t began_ms = scratch_boottime_ms();

    line_client_send(client, "{'id':'refused','op':'acquire','key':'%s'}", key);
    line_client_await(client, "{'ok':false,'id':'refused','error':'%s','message':'<string>'}",
                      error);
    ck_assert_int_le(client->received_ms - began_ms, ms);
}

void rows_fire(const char *format, ...)
{
    redisContext *context = redisConnectUnix(redis.socket);
    va_list arguments;
    int done = 0;

    ck_assert(context && context->err == 0 && fired_count < MAX_FIRED);
    fired[fired_count++] = context;
    va_start(arguments, format);
    ck_assert_int_eq(redisvAppendCommand(context, format, arguments), REDIS_OK);
    va_end(arguments);
    while (!done)
        ck_assert_int_eq(redisBufferWrite(context, &done), REDIS_OK);
}

bool rows_log_has(const char *text)
{
    char *log = sidecar_process_read_log(&sidecar);
    bool found = strcasestr(log, text) != NULL;

    free(log);
    return found;
}

int64_t rows_memory_kib(pid_t pid)
{
    char path[32], *text, *line;
    long long kib;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    text = scratch_read(path);
    line = strstr(text, "VmRSS:");
    ck_assert_ptr_nonnull(line);
    kib = strtoll(line + 6, NULL, 10);
    free(text);
    return kib;
}

// ---- A holder ----

void rows_hold(struct rows_holder *holder, const char *key, const char *more)
{
    char members[256];

    *holder = (struct rows_holder){.client = rows_connect()};
    snprintf(members, sizeof members, ",'notify':['renewed','at_risk']%s", more);
    rows_await_up(&holder->client);
    rows_acquire(&holder->client, &holder->lease, key, members);
    holder->ttl_ms = line_client_int(&holder->client, "ttl_ms");
    holder->valid_until_ms = holder->lease.valid_until_ms;
}

// What one event says. True: it was the revoked.
static bool take_event(struct rows_holder *holder)
{
    const char *event = line_client_string(&holder->client, "event");

    ck_assert_str_eq(line_client_string(&holder->client, "lease"), holder->lease.lease);
    if (strcmp(event, "renewed") == 0) {
        ck_assert_int_gt(line_client_int(&holder->client, "valid_until_ms"),
                         holder->valid_until_ms);
        holder->valid_until_ms = line_client_int(&holder->client, "valid_until_ms");
        holder->renewed++;
    } else if (strcmp(event, "at_risk") == 0) {
        holder->at_risk++;
    } else {
        ck_assert_str_eq(event, "revoked");
        ck_assert_str_eq(line_client_string(&holder->client, "error"), "errLostActorLock");
        ck_assert_int_eq(line_client_int(&holder->client, "valid_until_ms"),
                         holder->valid_until_ms);
        snprintf(holder->reason, sizeof holder->reason, "%s",
                 line_client_string(&holder->client, "reason"));
        holder->revoked_ms = holder->client.received_ms;
        holder->safe_ms = line_client_int(&holder->client, "safe_ms");
        return true;
    }
    return false;
}

static void fail_revoked(const struct rows_holder *holder)
{
    ck_abort_msg("revoked (%s), and should not be: %s", holder->reason, holder->client.line);
}

void rows_await_renewed(struct rows_holder *holder)
{
    int before = holder->renewed;

    while (holder->renewed == before) {
        line_client_receive(&holder->client);
        if (take_event(holder))
            fail_revoked(holder);
    }
}

void rows_await_revoked(struct rows_holder *holder, int64_t timeout_ms)
{
    int64_t deadline = scratch_deadline(timeout_ms);

    do {
        ck_assert_msg(line_client_wait(&holder->client, scratch_left(deadline)),
                      "no revoked within %lld ms", (long long)timeout_ms);
        line_client_receive(&holder->client);
    } while (!take_event(holder));
}

void rows_await_all_revoked(struct rows_holder *holders, int count, int64_t timeout_ms)
{
    int64_t deadline = scratch_deadline(timeout_ms);
    int left = count;

    while (left > 0) {
        ck_assert_msg(scratch_left(deadline) > 0, "%d of %d are not revoked", left, count);
        for (int i = 0; i < count; i++) {
            if (holders[i].revoked_ms || !line_client_wait(&holders[i].client, 0))
                continue;
            line_client_receive(&holders[i].client);
            left -= take_event(&holders[i]);
        }
        scratch_pause_ms(1);
    }
}

void rows_expect_held(struct rows_holder *holder, int64_t ms)
{
    int64_t deadline = scratch_deadline(ms);

    while (line_client_wait(&holder->client, scratch_left(deadline))) {
        line_client_receive(&holder->client);
        if (take_event(holder))
            fail_revoked(holder);
    }
}

void rows_release(struct rows_holder *holder)
{
    line_client_send(&holder->client, "{'op':'release','lease':'%s'}", holder->lease.lease);
    for (;;) {
        line_client_receive(&holder->client);
        if (!line_client_member(&holder->client, "event"))
            break;
        if (take_event(holder))
            fail_revoked(holder);
    }
    ck_assert_msg(json_is_true(line_client_member(&holder->client, "ok")), "%s",
                  holder->client.line);
    rows_expect_silence(holder);
}

void rows_expect_silence(struct rows_holder *holder)
{
    line_client_ping(&holder->client);
}

void rows_leave(struct rows_holder *holder)
{
    line_client_close(&holder->client);
}

// ---- What was promised ----

// By how much the sidecar has widened its margins so far: the machine was busy.
static int64_t widened_ms(void)
{
    static const char name[] = "widened_by_ms=";
    char *log = sidecar_process_read_log(&sidecar);
    long long most = 0;

    for (char *at = strstr(log, name); at; at = strstr(at + 1, name)) {
        long long ms = strtoll(at + sizeof name - 1, NULL, 10);

        most = ms > most ? ms : most;
    }
    free(log);
    return most;
}

void rows_check_unreachable(const struct rows_holder *holder)
{
    int64_t margin_ms = holder->ttl_ms / 5;
    int64_t revoke_at_ms = holder->valid_until_ms - margin_ms;

    ck_assert_str_eq(holder->reason, "unreachable");
    ck_assert_int_ge(holder->revoked_ms, revoke_at_ms - widened_ms());
    ck_assert_int_le(holder->revoked_ms, revoke_at_ms + ROWS_NOISE_MS);
    ck_assert_int_le(holder->revoked_ms + holder->safe_ms, holder->valid_until_ms + ROWS_NOISE_MS);
    ck_assert_int_ge(holder->revoked_ms + holder->safe_ms, holder->valid_until_ms);
    ck_assert_int_ge(holder->safe_ms, margin_ms - ROWS_NOISE_MS);
}

void rows_check_slack(const struct rows_holder *holder, struct rival *rival, int64_t timeout_ms)
{
    int64_t won_ms = rival_await(rival, timeout_ms);

    ck_assert_msg(won_ms >= holder->valid_until_ms, "the rival had the key %lld ms too early",
                  (long long)(holder->valid_until_ms - won_ms));
    ck_assert_msg(won_ms >= holder->revoked_ms + holder->safe_ms - ROWS_SLACK_MS,
                  "revoked was read at %lld with safe_ms %lld, the rival won at %lld",
                  (long long)holder->revoked_ms, (long long)holder->safe_ms, (long long)won_ms);
}
