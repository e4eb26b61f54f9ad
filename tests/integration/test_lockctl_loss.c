// SPDX-License-Identifier: Apache-2.0
//
// lockctl run when the lease ends before the command: whatever is killed, stopped or gone, no member
// of the command's group runs any more when somebody else can have the lock.
//
// The command is the beater (beater.c) with two children, most often deaf to SIGTERM. What it wrote
// last is compared with the instant at which a rival got the key from Redis.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/beats.h"
#include "tests/tool/bench.h"
#include "tests/tool/lockctl_process.h"
#include "tests/tool/rival.h"

enum {
    T = 3000,
    MEMBERS = 3,
};

static struct lockctl_process lockctl;
static struct beat *beats;
static struct rival *rival;

static void setup(void)
{
    bench_setup();
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
    beats = beats_open("beats");
}

static void teardown(void)
{
    rival = rival ? rival_free(rival) : NULL;
    bench_teardown();
}

#define START(...) lockctl_process_start(&lockctl, sidecar.socket, __VA_ARGS__, NULL)

// Runs it, and sets a rival on its key.
static void start_beater(const char *option, const char *value)
{
    START("run", option, value, "key", "--", BEATER_PATH, scratch_path("beats"), "2", "deaf");
    beats_await(beats, MEMBERS);
    rival = rival_new(redis.socket, "key");
}

static void start_deaf_beater(void)
{
    start_beater("--label", "deaf");
}

// Just after a heartbeat, so that the next is far. When the key runs out, ms of CLOCK_BOOTTIME.
static int64_t await_heartbeat(void)
{
    SCRATCH_UNTIL(2 * T, bench_pttl("key") > T - 60);
    return scratch_boottime_ms() + bench_pttl("key");
}

// The process that guards, a child of lockctl.
static pid_t guardian(void)
{
    char path[64], *text;
    pid_t found = 0;

    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)lockctl.pid, (int)lockctl.pid);
    text = scratch_read(path);
    for (char *word = strtok(text, " "); word && !found; word = strtok(NULL, " ")) {
        char comm[64], *name;

        snprintf(comm, sizeof comm, "/proc/%s/comm", word);
        name = scratch_read(comm);
        found = strcmp(name, "lk-guardian\n") == 0 ? (pid_t)atoi(word) : 0;
        free(name);
    }
    free(text);
    ck_assert_int_ne(found, 0);
    return found;
}

// Gone, or left as a zombie where nobody reaps.
static bool has_ended(pid_t pid)
{
    char path[64], *line;
    bool ended;

    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    line = scratch_read(path);
    ended = *line == '\0';
    free(line);
    return ended;
}

static void expect_dead_before_rival(int64_t within_ms)
{
    int64_t won = rival_await(rival, within_ms), last;

    beats_await_end(beats, MEMBERS, 1000);
    last = beats_last_ms(beats, MEMBERS);
    ck_assert_msg(last <= won, "a member ran %lld ms after the rival had the key",
                  (long long)(last - won));
}

START_TEST(redis_frozen)
{
    int64_t runs_out;

    start_deaf_beater();
    runs_out = await_heartbeat();
    private_redis_stop(&redis);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, T + 1000), 123);
    beats_await_end(beats, MEMBERS, 0);
    ck_assert_int_lt(beats_last_ms(beats, MEMBERS), runs_out);
    lockctl_process_await_error(&lockctl, "the lock on 'key' is lost: Redis did not confirm it");
    private_redis_continue(&redis);
    expect_dead_before_rival(T);
}
END_TEST

// One that hears SIGTERM has time to end by itself, and its code doesn't matter.
START_TEST(a_command_that_hears_is_asked_first)
{
    START("run", "key", "--", "sh", "-c", "trap 'echo cleaned; exit 5' TERM; echo up; read x");
    lockctl_process_await(&lockctl, "up");
    private_redis_run(&redis, "CLIENT PAUSE 20000 WRITE");
    lockctl_process_await(&lockctl, "cleaned");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 2 * T), 123);
    private_redis_run(&redis, "CLIENT UNPAUSE");
}
END_TEST

START_TEST(key_lost_in_redis)
{
    start_deaf_beater();
    private_redis_run(&redis, "DEL lock:key");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, T), 123);
    beats_await_end(beats, MEMBERS, 0);
    lockctl_process_await_error(&lockctl, "is lost: Redis has it no more (lost)");
}
END_TEST

// The key stays until the group is dead, and is free at once then.
START_TEST(workflow_deadline)
{
    int64_t begin = scratch_boottime_ms();

    start_beater("--deadline", "700ms");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 2 * T), 124);
    lockctl_process_await_error(&lockctl, "its workflow deadline has come (deadline)");
    expect_dead_before_rival(500);
    ck_assert_int_ge(beats_last_ms(beats, MEMBERS), begin + 700);
}
END_TEST

START_TEST(kill_after_shortens_the_grace)
{
    START("run", "-k", "100ms", "--deadline", "1s", "key", "--", BEATER_PATH, scratch_path("beats"),
          "2", "deaf");
    beats_await(beats, MEMBERS);
    rival = rival_new(redis.socket, "key");
    lockctl_process_await_error(&lockctl, "deadline");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 100 + 700), 124); // else about 2 s
    expect_dead_before_rival(500);
}
END_TEST

START_TEST(broken_with_grace)
{
    char output[256];

    START("run", "key", "--", "sh", "-c", "trap 'echo cleaned; exit 5' TERM; echo up; read x");
    lockctl_process_await(&lockctl, "up");
    ck_assert_int_eq(lockctl_process_run(output, sizeof output, sidecar.socket, "break", "--grace",
                                         "1s", "key", NULL),
                     0);
    ck_assert_str_eq(output, "the lock on 'key' is broken\n");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 123);
    lockctl_process_await(&lockctl, "cleaned");
    lockctl_process_await_error(&lockctl, "an operator took it away (broken)");
}
END_TEST

START_TEST(lockctl_killed)
{
    pid_t guard;

    start_deaf_beater();
    guard = guardian();
    ck_assert_int_eq(kill(lockctl.pid, SIGKILL), 0);
    expect_dead_before_rival(1000);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 1000), -SIGKILL);
    SCRATCH_UNTIL(5000, has_ended(guard));
}
END_TEST

START_TEST(lockctl_killed_while_the_group_is_stopped)
{
    start_deaf_beater();
    ck_assert_int_eq(kill(-beats[0].pid, SIGSTOP), 0);
    ck_assert_int_eq(kill(lockctl.pid, SIGKILL), 0);
    expect_dead_before_rival(1000);
    lockctl_process_wait(&lockctl, 1000);
}
END_TEST

START_TEST(guardian_killed)
{
    start_deaf_beater();
    ck_assert_int_eq(kill(guardian(), SIGKILL), 0);
    expect_dead_before_rival(1000);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 1000), 123);
    lockctl_process_await_error(&lockctl, "the guardian was killed");
}
END_TEST

// What is meant for lockctl, by its name or by its group, does not reach the guardian.
START_TEST(guardian_is_out_of_reach)
{
    char path[64], *line;
    pid_t guard;

    start_deaf_beater();
    guard = guardian();
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)guard);
    line = scratch_read(path);
    ck_assert_str_eq(line, "lk-guardian");
    free(line);
    ck_assert_int_ne(getpgid(guard), getpgid(lockctl.pid));
    ck_assert_int_ne(getsid(guard), getsid(lockctl.pid));
    for (int signal = 1; signal < 32; signal++) {
        if (signal != SIGKILL && signal != SIGSTOP)
            ck_assert_int_eq(kill(guard, signal), 0);
    }
    ck_assert_int_eq(kill(lockctl.pid, SIGKILL), 0);
    expect_dead_before_rival(1000);
    lockctl_process_wait(&lockctl, 1000);
}
END_TEST

// lockctl stopped (Ctrl-Z, a debugger) is no reason for the command to outlive its lease.
START_TEST(lockctl_stopped_and_redis_frozen)
{
    int64_t runs_out;

    start_deaf_beater();
    ck_assert_int_eq(kill(lockctl.pid, SIGSTOP), 0);
    runs_out = await_heartbeat();
    private_redis_stop(&redis);
    beats_await_end(beats, MEMBERS, T);
    ck_assert_int_lt(beats_last_ms(beats, MEMBERS), runs_out);
    private_redis_continue(&redis);
    expect_dead_before_rival(T);
    ck_assert_int_eq(kill(lockctl.pid, SIGCONT), 0);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 1000), 123);
}
END_TEST

START_TEST(sidecar_killed_for_good)
{
    start_deaf_beater();
    sidecar_process_kill(&sidecar);
    expect_dead_before_rival(T + 500);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 1000), 123);
    lockctl_process_await_error(&lockctl, "the sidecar is gone or silent");
}
END_TEST

START_TEST(sidecar_frozen)
{
    start_deaf_beater();
    sidecar_process_signal(&sidecar, SIGSTOP);
    expect_dead_before_rival(T + 500);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 1000), 123);
    sidecar_process_signal(&sidecar, SIGCONT);
}
END_TEST

static bool is_held_here(struct line_client *client)
{
    line_client_send(client, "{'op':'inspect','key':'key'}");
    line_client_expect(client, "{'ok':true,'op':'inspect'}");
    return strstr(client->line, "\"here\":true") != NULL;
}

START_TEST(sidecar_restarted)
{
    struct line_client client;
    int64_t killed;

    START("run", "key", "--", "sh", "-c", "echo up; read x; echo through; exit 0");
    lockctl_process_await(&lockctl, "up");
    killed = scratch_boottime_ms();
    sidecar_process_kill(&sidecar);
    sidecar_process_restart(&sidecar);
    line_client_connect(&client, sidecar.socket);
    SCRATCH_UNTIL(T, is_held_here(&client));
    // Renewed by the new one, past all that the old one had promised.
    SCRATCH_UNTIL(2 * T, scratch_boottime_ms() + bench_pttl("key") > killed + T + T / 2);
    lockctl_process_write(&lockctl, "\n");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 5000), 0);
    lockctl_process_await(&lockctl, "through");
    ck_assert(!lockctl_process_has_error(&lockctl, "lockctl"));
    ck_assert(!bench_exists("key"));
    line_client_close(&client);
}
END_TEST

// The new connection is the guardian's, too: it holds the key until the group is dead.
START_TEST(lockctl_killed_after_a_restart)
{
    struct line_client client;

    start_deaf_beater();
    sidecar_process_kill(&sidecar);
    sidecar_process_restart(&sidecar);
    line_client_connect(&client, sidecar.socket);
    SCRATCH_UNTIL(T, is_held_here(&client));
    line_client_close(&client);
    ck_assert_int_eq(kill(lockctl.pid, SIGKILL), 0);
    expect_dead_before_rival(1000);
    lockctl_process_wait(&lockctl, 1000);
}
END_TEST

// A command that ends while there is no sidecar has had the lock to its end. Nobody waits for the
// sidecar but a guardian that stays, and gives the lock back when there is one again.
START_TEST(command_ends_while_the_sidecar_is_away)
{
    START("run", "key", "--", "sh", "-c", "echo up; read x; exit 6");
    lockctl_process_await(&lockctl, "up");
    await_heartbeat();
    sidecar_process_kill(&sidecar);
    ck_assert_int_eq(lockctl_process_wait(&lockctl, T), 6);
    ck_assert(bench_exists("key"));
    ck_assert_int_gt(bench_pttl("key"), T / 4);
    sidecar_process_restart(&sidecar);
    bench_await_gone("key", T / 4);
}
END_TEST

// A lease that is revoked while its holder is stopped: the group is continued, to hear SIGTERM.
START_TEST(a_stopped_group_is_woken_to_end)
{
    pid_t leader;
    char *text;

    START("run", "--deadline", "700ms", "key", "--", "sh", "-c",
          "trap 'echo cleaned; exit 5' TERM; echo $$ up; read x");
    lockctl_process_await(&lockctl, "up");
    text = scratch_read(lockctl.output);
    leader = (pid_t)atoi(text);
    free(text);
    ck_assert_int_eq(kill(-leader, SIGSTOP), 0);
    lockctl_process_await(&lockctl, "cleaned");
    ck_assert_int_eq(lockctl_process_wait(&lockctl, 1000), 124);
}
END_TEST

// Its reader has gone to sleep: the full pipe of standard error stops nobody.
START_TEST(nobody_reads_standard_error)
{
    int ends[2];
    pid_t pid;

    scratch_full_pipe(ends);
    pid = scratch_fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        setenv("LOCK_KEEPER_SOCKET", sidecar.socket, 1);
        execl(lockctl_binary(), lockctl_binary(), "run", "--deadline", "300ms", "key", "--",
              BEATER_PATH, scratch_path("beats"), "2", "deaf", NULL);
        _exit(99);
    }
    beats_await(beats, MEMBERS);
    rival = rival_new(redis.socket, "key");
    expect_dead_before_rival(T + 500);
    ck_assert_int_eq(scratch_exit_code(pid, 1000), 124);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lockctl_loss");
    TCase *tests = tcase_create("loss");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, redis_frozen);
    tcase_add_test(tests, a_command_that_hears_is_asked_first);
    tcase_add_test(tests, key_lost_in_redis);
    tcase_add_test(tests, workflow_deadline);
    tcase_add_test(tests, kill_after_shortens_the_grace);
    tcase_add_test(tests, broken_with_grace);
    tcase_add_test(tests, lockctl_killed);
    tcase_add_test(tests, lockctl_killed_while_the_group_is_stopped);
    tcase_add_test(tests, guardian_killed);
    tcase_add_test(tests, guardian_is_out_of_reach);
    tcase_add_test(tests, lockctl_stopped_and_redis_frozen);
    tcase_add_test(tests, sidecar_killed_for_good);
    tcase_add_test(tests, sidecar_frozen);
    tcase_add_test(tests, sidecar_restarted);
    tcase_add_test(tests, lockctl_killed_after_a_restart);
    tcase_add_test(tests, command_ends_while_the_sidecar_is_away);
    tcase_add_test(tests, a_stopped_group_is_woken_to_end);
    tcase_add_test(tests, nobody_reads_standard_error);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
