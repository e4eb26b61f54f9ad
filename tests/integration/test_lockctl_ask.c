// SPDX-License-Identifier: Apache-2.0
//
// lockctl acquire, release, list, inspect, break, ping and call.

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/tool/bench.h"
#include "tests/tool/lockctl_process.h"

static char output[1 << 20];
static struct lockctl_process lockctl;

static void setup(void)
{
    bench_setup();
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
}

#define RUN(...) lockctl_process_run(output, sizeof output, sidecar.socket, __VA_ARGS__, NULL)
#define START(...) lockctl_process_start(&lockctl, sidecar.socket, __VA_ARGS__, NULL)

static void expect_output(const char *text)
{
    ck_assert_msg(strstr(output, text) != NULL, "no \"%s\" in: %.2000s", text, output);
}

// What was printed, one line of JSON; to be decref'd.
static json_t *parsed(const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);

    ck_assert_msg(json != NULL, "%s: %.500s", error.text, text);
    return json;
}

START_TEST(acquire_holds_until_its_input_ends)
{
    json_t *grant;
    char *text;

    START("acquire", "--label", "by hand", "key");
    lockctl_process_await(&lockctl, "\n");
    text = scratch_read(lockctl.output);
    grant = parsed(text);
    ck_assert_str_eq(json_string_value(json_object_get(grant, "key")), "key");
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:key"),
                             json_string_value(json_object_get(grant, "lease")), 32),
                     0);
    json_decref(grant);
    free(text);
    lockctl_process_write(&lockctl, "words\nthat mean nothing");
    ck_assert_int_eq(RUN("acquire", "-n", "key"), 75);
    ck_assert_int_eq(RUN("acquire", "-n", "-E", "3", "key"), 3);
    ck_assert(bench_exists("key"));
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 0);
    ck_assert(!bench_exists("key"));
}
END_TEST

START_TEST(acquire_holds_until_a_signal)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};

    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        START("acquire", "key");
        lockctl_process_await(&lockctl, "\n");
        ck_assert_int_eq(kill(lockctl.pid, signals[i]), 0);
        ck_assert_int_eq(scratch_exit_code(lockctl.pid, 5000), 0);
        lockctl_process_end_input(&lockctl);
        ck_assert(!bench_exists("key"));
    }
    START("acquire", "key");
    lockctl_process_await(&lockctl, "\n");
    ck_assert_int_eq(kill(lockctl.pid, SIGKILL), 0);
    bench_await_gone("key", 1000);
    lockctl_process_wait(&lockctl, 5000);
}
END_TEST

// The mask of signals that a process has blocked.
static unsigned long long blocked_by(pid_t pid)
{
    char path[32], *text, *line;
    unsigned long long mask;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    text = scratch_read(path);
    line = strstr(text, "SigBlk:");
    ck_assert(line != NULL);
    mask = strtoull(line + strlen("SigBlk:"), NULL, 16);
    free(text);
    return mask;
}

// Who reads the grant may send the signal at once. So it is taken before a byte of it can be read:
// here none can, since the pipe is full.
START_TEST(acquire_takes_signals_before_it_tells_of_the_grant)
{
    int input[2], full[2];
    size_t length = 0;
    ssize_t count;
    pid_t pid;

    ck_assert_int_eq(pipe2(input, O_CLOEXEC), 0);
    scratch_full_pipe(full);
    pid = scratch_fork();
    if (pid == 0) {
        dup2(input[0], STDIN_FILENO);
        dup2(full[1], STDOUT_FILENO);
        setenv("LOCK_KEEPER_SOCKET", sidecar.socket, 1);
        execl(lockctl_binary(), "lockctl", "acquire", "key", NULL);
        _exit(99);
    }
    close(full[1]);
    SCRATCH_UNTIL(5000, bench_exists("key"));
    SCRATCH_UNTIL(5000, blocked_by(pid) & 1ull << (SIGTERM - 1));
    ck_assert_int_eq(kill(pid, SIGTERM), 0);
    while ((count = read(full[0], output + length, sizeof output - 1 - length)) > 0)
        length += (size_t)count;
    output[length] = '\0';
    expect_output("\"lease\":\"");
    ck_assert_int_eq(scratch_exit_code(pid, 5000), 0);
    ck_assert(!bench_exists("key"));
    close(input[0]);
    close(input[1]);
    close(full[0]);
}
END_TEST

// It ends at once, and the key stays for as long as it was promised: who reads us may still work.
START_TEST(acquire_tells_of_a_loss)
{
    int64_t begin, gone;

    START("acquire", "--deadline", "500ms", "key");
    lockctl_process_await(&lockctl, "\n");
    begin = scratch_boottime_ms();
    ck_assert_int_eq(scratch_exit_code(lockctl.pid, 2000), 124);
    lockctl_process_await_error(&lockctl, "its workflow deadline has come");
    gone = bench_await_gone("key", 5000);
    ck_assert_int_ge(gone, begin + 1500); // T less a third of it at most, from the last heartbeat
    lockctl_process_end_input(&lockctl);
    START("acquire", "key");
    lockctl_process_await(&lockctl, "\n");
    private_redis_run(&redis, "DEL lock:key");
    ck_assert_int_eq(scratch_exit_code(lockctl.pid, 5000), 123);
    lockctl_process_end_input(&lockctl);
}
END_TEST

START_TEST(detached_and_released)
{
    char lease[33], both[64];
    json_t *grant;

    ck_assert_int_eq(RUN("acquire", "--detach", "a/key"), 0);
    grant = parsed(output);
    snprintf(lease, sizeof lease, "%s", json_string_value(json_object_get(grant, "lease")));
    json_decref(grant);
    ck_assert(bench_exists("a/key"));
    ck_assert_int_eq(RUN("release", "nonsense"), 64);
    ck_assert_int_eq(RUN("release", "a/key"), 64);
    ck_assert_int_eq(RUN("release", lease), 0);
    ck_assert_str_eq(output, "");
    ck_assert(!bench_exists("a/key"));
    ck_assert_int_eq(RUN("release", lease), 123);
    expect_output("errUnknownLease");
    // With its key, also after a restart that nobody adopted it in.
    ck_assert_int_eq(RUN("acquire", "--detach", "a/key"), 0);
    grant = parsed(output);
    snprintf(both, sizeof both, "a/key/%s", json_string_value(json_object_get(grant, "lease")));
    json_decref(grant);
    sidecar_process_kill(&sidecar);
    sidecar_process_restart(&sidecar);
    ck_assert_int_eq(RUN("release", "--json", both), 0);
    expect_output("\"held_ms\":");
    ck_assert(!bench_exists("a/key"));
}
END_TEST

START_TEST(a_shell_takes_the_grant)
{
    char script[512];

    snprintf(
        script, sizeof script,
        "eval \"$(%s acquire --detach --shell \"it's\")\" && echo \"<$LOCK_KEEPER_KEY>\" && "
        "%s release \"$LOCK_KEEPER_KEY/$LOCK_KEEPER_LEASE\" && [ \"$LOCK_KEEPER_FENCE\" -gt 0 ]",
        lockctl_binary(), lockctl_binary());
    ck_assert_int_eq(RUN("run", "other", "--", "sh", "-c", script), 0);
    ck_assert_str_eq(output, "<it's>\n");
}
END_TEST

START_TEST(list_shows_all_pages)
{
    enum { COUNT = 1203 };
    struct line_client client;
    struct line_lease lease;
    json_t *reply, *rows;
    size_t lines = 0;

    line_client_connect(&client, sidecar.socket);
    for (int i = 0; i < COUNT; i++) {
        char key[32];

        snprintf(key, sizeof key, "key:%d", i);
        line_client_acquire(&client, &lease, key, ",'label':'l\\u00e4bel'");
    }
    ck_assert_int_eq(RUN("list", "--json"), 0);
    reply = parsed(output);
    ck_assert(json_is_true(json_object_get(reply, "ok")));
    rows = json_object_get(reply, "leases");
    ck_assert_uint_eq(json_array_size(rows), COUNT);
    ck_assert_str_eq(json_string_value(json_object_get(
                         json_object_get(json_array_get(rows, 7), "holder"), "label")),
                     "l\xc3\xa4"
                     "bel");
    ck_assert_int_gt(json_integer_value(json_object_get(json_array_get(rows, 7), "deadline_in_ms")),
                     0);
    ck_assert(json_is_string(json_object_get(json_array_get(rows, COUNT - 1), "state")));
    json_decref(reply);
    ck_assert_int_eq(RUN("list"), 0);
    for (const char *at = output; *at; at++)
        lines += *at == '\n';
    ck_assert_uint_eq(lines, COUNT + 1);
    expect_output("STATE");
    expect_output("key:1202");
    line_client_close(&client);
}
END_TEST

START_TEST(inspect_tells_who_holds_it)
{
    struct line_client client;
    struct line_lease lease;
    json_t *reply;

    ck_assert_int_eq(RUN("inspect", "key"), 0);
    expect_output("\"held\":false");
    line_client_connect(&client, sidecar.socket);
    line_client_acquire(&client, &lease, "key", ",'label':'nightly'");
    ck_assert_int_eq(RUN("inspect", "key"), 0);
    reply = parsed(output);
    ck_assert(json_is_true(json_object_get(reply, "held")));
    ck_assert(json_is_true(json_object_get(reply, "here")));
    json_decref(reply);
    line_client_close(&client);
    ck_assert_int_eq(RUN("inspect", "a\x01"
                                    "b"),
                     64);
}
END_TEST

START_TEST(break_takes_it_away)
{
    struct line_client client;
    struct line_lease lease;

    ck_assert_int_eq(RUN("break", "key"), 0);
    ck_assert_str_eq(output, "nobody held the lock on 'key'\n");
    line_client_connect(&client, sidecar.socket);
    line_client_acquire(&client, &lease, "key", "");
    ck_assert_int_eq(RUN("break", "--json", "key"), 0);
    expect_output("\"broken\":true");
    line_client_expect(&client, "{'event':'revoked','reason':'broken'}");
    ck_assert(!bench_exists("key"));
    line_client_close(&client);
}
END_TEST

static bool is_redis_down(void)
{
    return RUN("ping") == 0 && strstr(output, "Redis is down") != NULL;
}

START_TEST(ping_is_liveness_and_redis_readiness)
{
    ck_assert_int_eq(RUN("ping"), 0);
    ck_assert_str_eq(output, "lock-keeper answers, Redis is up\n");
    ck_assert_int_eq(RUN("ping", "--redis"), 0);
    ck_assert_int_eq(RUN("ping", "--json"), 0);
    expect_output("{\"ok\":true,");
    private_redis_kill(&redis);
    SCRATCH_UNTIL(5000, is_redis_down());
    ck_assert_int_eq(RUN("ping", "--redis"), 69);
    ck_assert_int_eq(RUN("ping", "--socket", scratch_path("nobody")), 69);
    expect_output("nobody");
    sidecar_process_signal(&sidecar, SIGSTOP);
    ck_assert_int_eq(RUN("ping"), 69);
    sidecar_process_signal(&sidecar, SIGCONT);
}
END_TEST

START_TEST(call_is_raw)
{
    ck_assert_int_eq(RUN("call", "{\"op\":\"ping\",\"id\":\"x\"}"), 0);
    expect_output("{\"ok\":true,\"id\":\"x\",\"op\":\"ping\",\"redis\":\"up\"}\n");
    ck_assert_int_eq(RUN("call", "{\"op\":\"stroll\"}"), 69);
    expect_output("\"error\":\"errUnknownOp\"");
    ck_assert_int_eq(RUN("call", "{"), 64);
    expect_output("errBadRequest");
}
END_TEST

START_TEST(version_and_help_need_no_sidecar)
{
    ck_assert_int_eq(lockctl_process_run(output, sizeof output, NULL, "--version", NULL), 0);
    ck_assert_int_eq(strncmp(output, "lockctl ", 8), 0);
    ck_assert_int_eq(lockctl_process_run(output, sizeof output, NULL, "list", "--help", NULL), 0);
    expect_output("usage: lockctl list");
}
END_TEST

START_TEST(watch_is_for_a_terminal)
{
    ck_assert_int_eq(RUN("watch"), 64);
    expect_output("lockctl list --json");
}
END_TEST

// A grant that nobody reads is given back, and said to have failed.
START_TEST(full_output_is_a_failure)
{
    char script[512];

    snprintf(script, sizeof script, "%s acquire --detach key >/dev/full; echo $?",
             lockctl_binary());
    ck_assert_int_eq(RUN("run", "other", "--", "sh", "-c", script), 0);
    expect_output("74\n");
    ck_assert(!bench_exists("key"));
    snprintf(script, sizeof script, "%s list >/dev/full; echo $?", lockctl_binary());
    ck_assert_int_eq(RUN("run", "other", "--", "sh", "-c", script), 0);
    expect_output("74\n");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lockctl_ask");
    TCase *tests = tcase_create("ask");

    tcase_add_checked_fixture(tests, setup, bench_teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, acquire_holds_until_its_input_ends);
    tcase_add_test(tests, acquire_holds_until_a_signal);
    tcase_add_test(tests, acquire_takes_signals_before_it_tells_of_the_grant);
    tcase_add_test(tests, acquire_tells_of_a_loss);
    tcase_add_test(tests, detached_and_released);
    tcase_add_test(tests, a_shell_takes_the_grant);
    tcase_add_test(tests, list_shows_all_pages);
    tcase_add_test(tests, inspect_tells_who_holds_it);
    tcase_add_test(tests, break_takes_it_away);
    tcase_add_test(tests, ping_is_liveness_and_redis_readiness);
    tcase_add_test(tests, call_is_raw);
    tcase_add_test(tests, version_and_help_need_no_sidecar);
    tcase_add_test(tests, watch_is_for_a_terminal);
    tcase_add_test(tests, full_output_is_a_failure);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
