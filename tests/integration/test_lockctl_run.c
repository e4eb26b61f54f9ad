// SPDX-License-Identifier: Apache-2.0
//
// lockctl run while nothing is at fault: exit codes, what the command gets, signals, waiting.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"
#include "tests/tool/lockctl_process.h"

static char output[8192];
static struct lockctl_process lockctl;

static void start(void)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
}

static void setup(void)
{
    bench_setup();
    start();
}

#define RUN(...) lockctl_process_run(output, sizeof output, sidecar.socket, __VA_ARGS__, NULL)
#define START(...) lockctl_process_start(&lockctl, sidecar.socket, __VA_ARGS__, NULL)

static void expect_output(const char *text)
{
    ck_assert_msg(strstr(output, text) != NULL, "no \"%s\" in: %s", text, output);
}

static struct line_client held(const char *key)
{
    struct line_client client;
    struct line_lease lease;

    line_client_connect(&client, sidecar.socket);
    line_client_acquire(&client, &lease, key, ",'label':'first'");
    return client;
}

START_TEST(exit_code_is_the_commands)
{
    ck_assert_int_eq(RUN("run", "key", "--", "true"), 0);
    ck_assert_int_eq(RUN("run", "key", "--", "sh", "-c", "exit 7"), 7);
    ck_assert_int_eq(RUN("run", "key", "sh", "-c", "kill -9 $$"), 137);
    ck_assert_int_eq(RUN("run", "key", "sh", "-c", "kill -TERM $$"), 143);
    ck_assert_int_eq(RUN("run", "key", "--", "no-such-command"), 127);
    expect_output("no-such-command");
    ck_assert_int_eq(RUN("run", "key", "--", "/etc/passwd"), 126);
    expect_output("/etc/passwd: Permission denied");
    ck_assert_int_eq(RUN("run", "key", "--", "/"), 126);
    // Each has given the lock back before it ended.
    ck_assert(!bench_exists("key"));
}
END_TEST

START_TEST(a_held_lock_is_75_or_as_asked)
{
    struct line_client client = held("key");

    ck_assert_int_eq(RUN("run", "-n", "key", "--", "true"), 75);
    expect_output("the lock on 'key' is held by process");
    expect_output("(first)");
    ck_assert_int_eq(RUN("run", "-n", "-E", "9", "key", "--", "true"), 9);
    // 0 says that all is well, not that the lock is held: nothing runs, nothing is granted.
    ck_assert_int_eq(RUN("run", "-n", "-E", "0", "key", "--", "false"), 0);
    ck_assert_int_eq(RUN("acquire", "-n", "-E", "0", "key"), 0);
    ck_assert_ptr_null(strstr(output, "\"lease\""));
    ck_assert_int_eq(RUN("run", "-w", "100ms", "key", "--", "true"), 75);
    private_redis_run(&redis, "SET lock:foreign somebody");
    ck_assert_int_eq(RUN("run", "-n", "foreign", "--", "true"), 75);
    expect_output("not through lock-keeper");
    line_client_close(&client);
}
END_TEST

START_TEST(wrong_usage_is_64)
{
    ck_assert_int_eq(RUN("run"), 64);
    ck_assert_int_eq(RUN("run", "key"), 64);
    ck_assert_int_eq(RUN("run", "--ttl", "1", "key", "true"), 64);
    ck_assert_int_eq(RUN("run", "--ttl", "1h", "key", "true"), 64); // as the sidecar says
    expect_output("ttl_ms");
    ck_assert_int_eq(RUN("run", "", "true"), 64);
    ck_assert_int_eq(RUN("run", "a\nb", "true"), 64);
}
END_TEST

START_TEST(no_sidecar_is_69)
{
    ck_assert_int_eq(lockctl_process_run(output, sizeof output, scratch_path("nobody"), "run",
                                         "key", "--", "true", NULL),
                     69);
    expect_output("nobody");
    ck_assert_int_eq(RUN("run", "--socket", "/nowhere/at/all", "key", "--", "true"), 69);
    expect_output("/nowhere/at/all");
}
END_TEST

START_TEST(no_redis_is_69)
{
    private_redis_kill(&redis);
    ck_assert_int_eq(RUN("run", "-n", "key", "--", "true"), 69);
    expect_output("errRedisUnavailable");
}
END_TEST

START_TEST(the_command_knows_its_lease)
{
    struct line_client client;
    char *told, lease[33], fence[24], wanted[256];

    START("run", "--label", "a label", "key", "--", "sh", "-c",
          "echo \"$LOCK_KEEPER_LEASE $LOCK_KEEPER_FENCE\"; echo \"$LOCK_KEEPER_KEY "
          "$LOCK_KEEPER_SOCKET\";"
          "read x");
    snprintf(wanted, sizeof wanted, "key %s\n", sidecar.socket);
    lockctl_process_await(&lockctl, wanted);
    told = scratch_read(lockctl.output);
    ck_assert_int_eq(sscanf(told, "%32s %23s", lease, fence), 2);
    free(told);
    line_client_connect(&client, sidecar.socket);
    line_client_send(&client, "{'op':'list'}");
    line_client_expect(&client,
                       "{'ok':true,'op':'list','leases':[{'state':'held','key':'key','holder':{"
                       "'host':'<string>','pid':%d,'uid':'<int>','label':'a label','fence':%s}}]}",
                       (int)lockctl.pid, fence);
    line_client_close(&client);
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:key"), lease, 32), 0);
    lockctl_process_write(&lockctl, "\n");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 0);
}
END_TEST

START_TEST(ttl_and_deadline_are_as_asked)
{
    START("run", "--ttl", "1500ms", "--deadline", "7s", "key", "--", "sh", "-c", "echo up; read x");
    lockctl_process_await(&lockctl, "up");
    ck_assert_int_le(bench_pttl("key"), 1500);
    ck_assert_int_eq(RUN("inspect", "key"), 0);
    expect_output("\"deadline_in_ms\":6");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 1); // read met the end of the input
}
END_TEST

START_TEST(input_passes_through)
{
    START("run", "key", "--", "cat");
    lockctl_process_write(&lockctl, "hello\n");
    lockctl_process_await(&lockctl, "hello\n");
    lockctl_process_write(&lockctl, "again");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 0);
    lockctl_process_await(&lockctl, "hello\nagain");
    ck_assert(!bench_exists("key"));
}
END_TEST

START_TEST(the_command_gets_no_descriptor_of_ours)
{
    // Asked by builtins: the shell has none of its own open meanwhile.
    ck_assert_int_eq(RUN("run", "key", "--", "sh", "-c",
                         "n=3; while [ $n -lt 64 ]; do [ -e /proc/$$/fd/$n ] && echo $n; "
                         "n=$((n + 1)); done; echo no more"),
                     0);
    ck_assert_str_eq(output, "no more\n");
}
END_TEST

START_TEST(the_command_has_a_group_and_the_original_signals)
{
    // Leader of its group; nothing blocked, nothing ignored (but SIGPIPE as we had it).
    ck_assert_int_eq(
        RUN("run", "key", "--", "sh", "-c",
            "read -r pid name state ppid pgrp rest </proc/$$/stat;"
            "[ \"$pid\" = \"$pgrp\" ] && echo leader; while read -r name set; do case $name in "
            "SigBlk:|SigIgn:) echo $name $set; esac; done </proc/$$/status"),
        0);
    ck_assert_str_eq(output, "leader\nSigBlk: 0000000000000000\nSigIgn: 0000000000000000\n");
}
END_TEST

static void expect_forwarded(const char *name, int signal)
{
    char script[128];

    snprintf(script, sizeof script, "trap 'echo got %s; exit 41' %s; echo ready; read x", name,
             name);
    START("run", "key", "--", "sh", "-c", script);
    lockctl_process_await(&lockctl, "ready");
    ck_assert_int_eq(kill(lockctl.pid, signal), 0);
    snprintf(script, sizeof script, "got %s", name);
    lockctl_process_await(&lockctl, script);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 41);
}

START_TEST(signals_are_forwarded)
{
    expect_forwarded("HUP", SIGHUP);
    expect_forwarded("INT", SIGINT);
    expect_forwarded("QUIT", SIGQUIT);
    expect_forwarded("TERM", SIGTERM);
    expect_forwarded("USR1", SIGUSR1);
    expect_forwarded("USR2", SIGUSR2);
    ck_assert(!bench_exists("key"));
}
END_TEST

// What the whole group gets, and a signal that the command dies of.
START_TEST(a_forwarded_signal_ends_the_group)
{
    START("run", "key", "--", "sh", "-c", "sleep 60 & echo ready; wait");
    lockctl_process_await(&lockctl, "ready");
    ck_assert_int_eq(kill(lockctl.pid, SIGTERM), 0);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 143);
    ck_assert(!bench_exists("key"));
}
END_TEST

START_TEST(it_waits_for_the_lock)
{
    struct line_client client = held("key");

    START("run", "-w", "20s", "key", "--", "echo", "mine");
    SCRATCH_UNTIL(5000, (line_client_send(&client, "{'op':'list'}"),
                         strstr(line_client_receive(&client), "waiting") != NULL));
    line_client_close(&client);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 0);
    lockctl_process_await(&lockctl, "mine");
}
END_TEST

START_TEST(waiting_can_be_interrupted)
{
    struct line_client client = held("key");

    START("run", "key", "--", "echo", "mine"); // waits without end
    SCRATCH_UNTIL(5000, (line_client_send(&client, "{'op':'list'}"),
                         strstr(line_client_receive(&client), "waiting") != NULL));
    ck_assert_int_eq(kill(lockctl.pid, SIGINT), 0);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), -SIGINT);
    SCRATCH_UNTIL(5000, (line_client_send(&client, "{'op':'list'}"),
                         strstr(line_client_receive(&client), "waiting") == NULL));
    line_client_close(&client);
}
END_TEST

START_TEST(an_ignored_sigchld_does_no_harm)
{
    signal(SIGCHLD, SIG_IGN);
    START("run", "key", "--", "sh", "-c", "exit 7");
    signal(SIGCHLD, SIG_DFL);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 7);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lockctl_run");
    TCase *tests = tcase_create("run");

    tcase_add_checked_fixture(tests, setup, bench_teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, exit_code_is_the_commands);
    tcase_add_test(tests, a_held_lock_is_75_or_as_asked);
    tcase_add_test(tests, wrong_usage_is_64);
    tcase_add_test(tests, no_sidecar_is_69);
    tcase_add_test(tests, no_redis_is_69);
    tcase_add_test(tests, the_command_knows_its_lease);
    tcase_add_test(tests, ttl_and_deadline_are_as_asked);
    tcase_add_test(tests, input_passes_through);
    tcase_add_test(tests, the_command_gets_no_descriptor_of_ours);
    tcase_add_test(tests, the_command_has_a_group_and_the_original_signals);
    tcase_add_test(tests, signals_are_forwarded);
    tcase_add_test(tests, a_forwarded_signal_ends_the_group);
    tcase_add_test(tests, it_waits_for_the_lock);
    tcase_add_test(tests, waiting_can_be_interrupted);
    tcase_add_test(tests, an_ignored_sigchld_does_no_harm);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
