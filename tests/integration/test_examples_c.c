// SPDX-License-Identifier: Apache-2.0
//
// The programs of examples/c do what they say: their exit codes, and that they outlive the sidecar.

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"

enum { WAIT_MS = 15000, EXIT_UNAVAILABLE = 69, EXIT_HELD = 75, EXIT_LOST = 123 };

static const char *const programs[] = {EXAMPLE_HOLD_PATH, EXAMPLE_LOOP_PATH};

static pid_t start(const char *program, const char *steps)
{
    pid_t pid = scratch_fork();

    if (pid == 0) {
        int out = open(scratch_path("output"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

        dup2(out, STDOUT_FILENO);
        dup2(out, STDERR_FILENO);
        setenv("LOCK_KEEPER_SOCKET", sidecar.pid ? sidecar.socket : "/nonexistent/socket", 1);
        execl(program, program, "k", steps, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static bool has_said(const char *words)
{
    char *output = scratch_read(scratch_path("output"));
    bool found = strstr(output, words) != NULL;

    free(output);
    return found;
}

static void await_output(const char *words)
{
    SCRATCH_UNTIL(WAIT_MS, has_said(words));
}

START_TEST(done)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "2s", NULL);
    ck_assert_int_eq(scratch_exit_code(start(programs[_i], "2"), WAIT_MS), 0);
    await_output("step 2 under fence ");
    ck_assert(!bench_exists("k"));
}
END_TEST

START_TEST(the_key_is_held)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "2s", NULL);
    private_redis_run(&redis, "SET lock:k somebody");
    ck_assert_int_eq(scratch_exit_code(start(programs[_i], "2"), WAIT_MS), EXIT_HELD);
}
END_TEST

START_TEST(no_sidecar)
{
    ck_assert_int_eq(scratch_exit_code(start(programs[_i], "2"), WAIT_MS), EXIT_UNAVAILABLE);
}
END_TEST

START_TEST(lost)
{
    pid_t pid;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    pid = start(programs[_i], "1000");
    await_output("step 1 under");
    private_redis_run(&redis, "DEL lock:k");
    ck_assert_int_eq(scratch_exit_code(pid, WAIT_MS), EXIT_LOST);
    await_output("stopping: lost: ");
}
END_TEST

START_TEST(the_sidecar_is_restarted)
{
    pid_t pid;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "2s", NULL);
    pid = start(programs[_i], "12");
    await_output("step 1 under");
    sidecar_process_kill(&sidecar);
    sidecar_process_restart(&sidecar);
    ck_assert_int_eq(scratch_exit_code(pid, WAIT_MS), 0);
    ck_assert(!bench_exists("k"));
}
END_TEST

START_TEST(the_sidecar_is_gone)
{
    pid_t pid;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    pid = start(programs[_i], "1000");
    await_output("step 1 under");
    sidecar_process_kill(&sidecar);
    ck_assert_int_eq(scratch_exit_code(pid, WAIT_MS), EXIT_LOST);
    await_output("stopping: unconfirmed: ");
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("examples_c");
    TCase *tests = tcase_create("programs");

    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, done, 0, 2);
    tcase_add_loop_test(tests, the_key_is_held, 0, 2);
    tcase_add_loop_test(tests, no_sidecar, 0, 2);
    tcase_add_loop_test(tests, lost, 0, 2);
    tcase_add_loop_test(tests, the_sidecar_is_restarted, 0, 2);
    tcase_add_loop_test(tests, the_sidecar_is_gone, 0, 2);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
