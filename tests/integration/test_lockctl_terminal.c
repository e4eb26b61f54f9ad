// SPDX-License-Identifier: Apache-2.0
//
// lockctl on a terminal, under a shell with job control: the command has the terminal, Ctrl-C ends it
// and Ctrl-Z stops it as if lockctl were not there.
//
// What is interrupted or stopped is never a shell that is about to fork or to execute something: it
// may miss the signal, with or without lockctl.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/beats.h"
#include "tests/tool/bench.h"
#include "tests/tool/lockctl_process.h"
#include "tests/tool/pty.h"
#include "tests/tool/rival.h"

static struct pty pty;

static void setup(void)
{
    bench_setup();
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
    setenv("LOCK_KEEPER_SOCKET", sidecar.socket, 1);
    setenv("PS1", "ready> ", 1);
    setenv("L", lockctl_binary(), 1);
    pty_start(&pty, (char *[]){"bash", "--norc", "--noprofile", "--noediting", "-i", NULL});
    pty_expect(&pty, "ready> ");
}

static void teardown(void)
{
    pty_close(&pty);
    bench_teardown();
}

// A line of the shell's. What is expected next stands behind its echo.
static void enter(const char *line)
{
    pty_type(&pty, line);
    pty_type(&pty, "\r");
    pty_expect(&pty, "\r\n");
}

// Ctrl-C and the like go to the group that has the terminal, which the shell may still have itself
// when a command runs already.
static void strike(const char *key)
{
    SCRATCH_UNTIL(5000, pty_foreground(&pty) != pty.pid);
    pty_type(&pty, key);
}

// A command that uses no terminal, and says that it runs by its beats.
static struct beat *enter_beater(const char *before, const char *arguments)
{
    struct beat *beats = beats_open("beats");
    char line[256];

    snprintf(line, sizeof line, "$L run %s key -- %s %s %s", before, BEATER_PATH,
             scratch_path("beats"), arguments);
    enter(line);
    return beats;
}

static void expect_code(const char *code)
{
    char text[16];

    pty_expect(&pty, "ready> ");
    enter("echo \"code=$?.\"");
    snprintf(text, sizeof text, "code=%s.", code);
    pty_expect(&pty, text);
    pty_expect(&pty, "ready> ");
}

START_TEST(the_command_reads_the_terminal)
{
    enter("$L run key -- cat");
    SCRATCH_UNTIL(5000, bench_exists("key"));
    pty_type(&pty, "hello\r");
    pty_expect(&pty, "hello\r\nhello\r\n"); // echoed, and said by cat
    pty_type(&pty, "\x04");
    expect_code("0");
    ck_assert(!bench_exists("key"));
}
END_TEST

START_TEST(interrupt_ends_it)
{
    enter("$L run key -- cat");
    pty_type(&pty, "hello\r");
    pty_expect(&pty, "hello\r\nhello\r\n");
    strike("\x03");
    expect_code("130");
    ck_assert(!bench_exists("key"));
}
END_TEST

START_TEST(quit_ends_it)
{
    enter("ulimit -c 0; $L run key -- cat");
    pty_type(&pty, "hello\r");
    pty_expect(&pty, "hello\r\nhello\r\n");
    strike("\x1c");
    expect_code("131");
}
END_TEST

START_TEST(interrupt_ends_the_waiting)
{
    struct line_client client;
    struct line_lease lease;

    line_client_connect(&client, sidecar.socket);
    line_client_acquire(&client, &lease, "key", "");
    enter("$L run key -- cat");
    SCRATCH_UNTIL(5000, (line_client_send(&client, "{'op':'list'}"),
                         strstr(line_client_receive(&client), "waiting") != NULL));
    strike("\x03");
    expect_code("130");
    line_client_close(&client);
}
END_TEST

// Ctrl-C means a script, too, and not only the command that it is at.
START_TEST(interrupt_ends_the_script_around_it)
{
    size_t begin;

    enter("sh -c '$L run key -- cat; echo survived'; echo script=$?.");
    pty_type(&pty, "hello\r");
    pty_expect(&pty, "hello\r\nhello\r\n");
    begin = pty.expected;
    strike("\x03");
    pty_expect(&pty, "ready> ");
    ck_assert_ptr_null(strstr(pty.seen + begin, "survived"));
    ck_assert(!bench_exists("key"));
}
END_TEST

// An interrupt that the command handles is the command's affair: the script goes on.
START_TEST(a_handled_interrupt_is_the_commands)
{
    enter("sh -c \"\\$L run key -- sh -c 'trap \\\"exit 4\\\" INT; echo up; read x'; echo "
          "after=\\$?.\"");
    pty_expect(&pty, "up\r\n");
    strike("\x03");
    pty_expect(&pty, "after=4.");
}
END_TEST

START_TEST(stopped_and_continued)
{
    int64_t stopped;

    enter("$L run key -- cat");
    pty_type(&pty, "hello\r");
    pty_expect(&pty, "hello\r\nhello\r\n");
    strike("\x1a");
    pty_expect(&pty, "Stopped");
    pty_expect(&pty, "ready> ");
    // The shell has the terminal, and the lock is kept: renewed past what it had.
    stopped = scratch_boottime_ms();
    enter("echo \"shell=$((2 * 21)).\"");
    pty_expect(&pty, "shell=42.");
    SCRATCH_UNTIL(8000, scratch_boottime_ms() + bench_pttl("key") > stopped + 4000);
    enter("fg");
    pty_expect(&pty, "cat\r\n"); // the shell says what it continues
    pty_type(&pty, "again\r");
    pty_expect(&pty, "again\r\nagain\r\n");
    // And once more.
    strike("\x1a");
    pty_expect(&pty, "Stopped");
    enter("fg");
    pty_expect(&pty, "cat\r\n");
    pty_type(&pty, "more\r");
    pty_expect(&pty, "more\r\nmore\r\n");
    pty_type(&pty, "\x04");
    expect_code("0");
    ck_assert(!bench_exists("key"));
}
END_TEST

// Whether the shell's only child is stopped. (The shell says so before its next prompt only.)
static bool is_job_stopped(void)
{
    char path[64], *children, *status;
    bool stopped;

    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pty.pid, (int)pty.pid);
    children = scratch_read(path);
    snprintf(path, sizeof path, "/proc/%d/status", atoi(children));
    status = scratch_read(path);
    stopped = strstr(status, "\nState:\tT") != NULL;
    free(children);
    free(status);
    return stopped;
}

// In the background it may run, but not read: then it is stopped, and fg gives it the terminal.
START_TEST(in_the_background)
{
    enter("$L run key -- sh -c 'echo begun; cat' &");
    pty_expect(&pty, "begun");
    SCRATCH_UNTIL(5000, is_job_stopped());
    enter("");
    pty_expect(&pty, "Stopped");
    enter("fg");
    pty_expect(&pty, "cat'\r\n");
    pty_type(&pty, "hello\r");
    pty_expect(&pty, "hello\r\nhello\r\n");
    strike("\x03");
    expect_code("130");
}
END_TEST

START_TEST(stopped_and_sent_to_the_background)
{
    beats_await(enter_beater("", "0"), 1);
    strike("\x1a");
    pty_expect(&pty, "Stopped");
    enter("bg");
    pty_expect(&pty, "&\r\n");
    enter("jobs -r");
    pty_expect(&pty, "Running");
    enter("kill %1");
    enter("wait %1");
    expect_code("143");
}
END_TEST

// In a pipeline the terminal is left to the others until the command asks for it.
START_TEST(in_a_pipeline)
{
    enter("$L run key -- sh -c 'echo one; read x; echo \"got $x\"' | sed 's/^/> /'");
    pty_type(&pty, "hello\r");
    pty_expect(&pty, "> one\r\n> got hello\r\n");
    expect_code("0");
    // Ctrl-C reaches all of it, also where the terminal was never asked for.
    beats_await(enter_beater("", "0 | cat"), 1);
    strike("\x03");
    pty_expect(&pty, "ready> ");
    SCRATCH_UNTIL(5000, !bench_exists("key"));
    // Ctrl-Z, too.
    beats_await(enter_beater("", "0 | cat"), 1);
    strike("\x1a");
    pty_expect(&pty, "Stopped");
    enter("fg");
    pty_expect(&pty, "cat\r\n");
    strike("\x03");
    pty_expect(&pty, "ready> ");
    SCRATCH_UNTIL(5000, !bench_exists("key"));
}
END_TEST

// Killed, lockctl leaves the shell its terminal.
START_TEST(killed_under_a_shell)
{
    struct beat *beats = enter_beater("", "2 deaf");
    struct rival *rival;
    char line[256];

    beats_await(beats, 3);
    rival = rival_new(redis.socket, "key");
    snprintf(line, sizeof line, "pkill -KILL -P %d lockctl", (int)pty.pid);
    ck_assert_int_eq(system(line), 0);
    ck_assert_int_ge(rival_await(rival, 1000), beats_last_ms(beats, 3));
    beats_await_end(beats, 3, 1000);
    expect_code("137");
    rival_free(rival);
}
END_TEST

// A lease that is lost while the job is stopped: the command is gone in time, though lockctl stands
// still; continued, lockctl says so.
START_TEST(lost_while_stopped)
{
    struct beat *beats = enter_beater("--deadline 1500ms", "2");
    struct rival *rival;

    beats_await(beats, 3);
    rival = rival_new(redis.socket, "key");
    strike("\x1a");
    pty_expect(&pty, "Stopped");
    ck_assert_int_ge(rival_await(rival, 5000), beats_last_ms(beats, 3));
    beats_await_end(beats, 3, 1000);
    enter("fg");
    expect_code("124");
    rival_free(rival);
}
END_TEST

START_TEST(watch_shows_and_leaves)
{
    struct line_client client;
    struct line_lease lease;

    enter("stty -a | grep -c ' echo ' ; $L watch --interval 50ms");
    pty_expect(&pty, "\033[?1049h");
    pty_expect(&pty, "held 0  ending 0  waiting 0  Redis is up");
    line_client_connect(&client, sidecar.socket);
    line_client_acquire(&client, &lease, "watched", ",'label':'nightly','deadline_ms':600");
    pty_expect(&pty, "watched");
    pty_expect(&pty, "[######");
    pty_expect(&pty, "RECENTLY LOST");
    pty_expect(&pty, "watched");
    line_client_close(&client);
    pty_expect(&pty, "held 0  ending 0");
    // Stopped and continued, the terminal is the shell's in between.
    strike("\x1a");
    pty_expect(&pty, "\033[?1049l");
    pty_expect(&pty, "Stopped");
    enter("fg");
    pty_expect(&pty, "\033[?1049h");
    pty_expect(&pty, "held 0");
    sidecar_process_kill(&sidecar);
    pty_expect(&pty, "there is no sidecar");
    sidecar_process_restart(&sidecar);
    pty_expect(&pty, "Redis is up");
    pty_type(&pty, "q");
    pty_expect(&pty, "\033[?25h\033[?1049l");
    expect_code("0");
    enter("stty -a | grep -c ' echo '");
    pty_expect(&pty, "1\r\n");
}
END_TEST

START_TEST(watch_restores_on_interrupt)
{
    enter("$L watch");
    pty_expect(&pty, "held 0");
    strike("\x03");
    pty_expect(&pty, "\033[?25h\033[?1049l");
    expect_code("0");
    enter("stty -a | grep -c ' echo '");
    pty_expect(&pty, "1\r\n");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lockctl_terminal");
    TCase *tests = tcase_create("terminal");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, the_command_reads_the_terminal);
    tcase_add_test(tests, interrupt_ends_it);
    tcase_add_test(tests, quit_ends_it);
    tcase_add_test(tests, interrupt_ends_the_waiting);
    tcase_add_test(tests, interrupt_ends_the_script_around_it);
    tcase_add_test(tests, a_handled_interrupt_is_the_commands);
    tcase_add_test(tests, stopped_and_continued);
    tcase_add_test(tests, in_the_background);
    tcase_add_test(tests, stopped_and_sent_to_the_background);
    tcase_add_test(tests, in_a_pipeline);
    tcase_add_test(tests, killed_under_a_shell);
    tcase_add_test(tests, lost_while_stopped);
    tcase_add_test(tests, watch_shows_and_leaves);
    tcase_add_test(tests, watch_restores_on_interrupt);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
