// SPDX-License-Identifier: Apache-2.0
//
// lockctl's command line: what it takes, what it refuses, and that help names every option.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lockctl_arguments.h"
#include "tests/tool/scratch.h"

static struct lockctl_arguments arguments;

// Parses the words of a line, between single blanks.
static int parse(const char *line)
{
    static char words[512];
    static char *argv[32];
    int argc = 0;

    snprintf(words, sizeof words, "lockctl %s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    return lockctl_arguments_parse(&arguments, argc, argv);
}

static void accept(const char *line, const char *command)
{
    ck_assert_msg(parse(line) == LOCKCTL_DONE, "refused: %s", line);
    ck_assert_str_eq(arguments.command->name, command);
}

static void refuse(const char *line)
{
    ck_assert_msg(parse(line) == LOCKCTL_USAGE, "not refused: %s", line);
}

START_TEST(run_takes_key_and_command)
{
    static const char *const lines[] = {
        "run key -- cmd -n arg",
        "run key cmd -n arg",
        "run -w 1m30s key -- cmd -n arg",
        "run key -w 1m30s cmd -n arg",
        "run key -w1m30s -- cmd -n arg",
        "run --wait=1m30s -- key -- cmd -n arg",
        "--socket s run -- key cmd -n arg",
    };

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        accept(lines[i], "run");
        ck_assert_str_eq(arguments.key, "key");
        ck_assert_str_eq(arguments.rest[0], "cmd");
        ck_assert_str_eq(arguments.rest[1], "-n");
        ck_assert_str_eq(arguments.rest[2], "arg");
        ck_assert_ptr_null(arguments.rest[3]);
        ck_assert_int_eq(arguments.wait, strstr(lines[i], "1m30s") ? 90000 : -1);
    }
}
END_TEST

START_TEST(options_have_values)
{
    accept("run -nE9 -k 250ms --ttl 3s --deadline=1h --label text --socket /s key -- x", "run");
    ck_assert_int_eq(arguments.wait, 0);
    ck_assert_int_eq(arguments.held_code, 9);
    ck_assert_int_eq(arguments.kill_after, 250);
    ck_assert_int_eq(arguments.ttl, 3000);
    ck_assert_int_eq(arguments.deadline, 3600000);
    ck_assert_str_eq(arguments.label, "text");
    ck_assert_str_eq(arguments.socket, "/s");
    accept("run -k 0 key x", "run");
    ck_assert_int_eq(arguments.kill_after, 0);
    accept("run key x", "run");
    ck_assert_int_eq(arguments.held_code, 75);
    ck_assert_int_eq(arguments.kill_after, -1);
    accept("acquire --detach --shell key", "acquire");
    ck_assert(arguments.detach && arguments.shell);
    accept("break --grace 2s --json key", "break");
    ck_assert_int_eq(arguments.grace, 2000);
    accept("ping --redis", "ping");
    ck_assert(arguments.redis);
    accept("call {}", "call");
    ck_assert_str_eq(arguments.key, "{}");
    accept("release key/0123", "release");
    accept("inspect -- --odd", "inspect");
    ck_assert_str_eq(arguments.key, "--odd");
}
END_TEST

START_TEST(mistakes_are_refused)
{
    static const char *const lines[] = {
        "",
        "stroll",
        "--nonsense",
        "--ttl 3s run key x",
        "run",
        "run key",
        "run key --",
        "run -- cmd",
        "run -w",
        "run -w soon key x",
        "run -w 10 key x",
        "run -w -1s key x",
        "run --ttl 0 key x",
        "run --deadline 0s key x",
        "run -E 256 key x",
        "run -E -1 key x",
        "run -E 1x key x",
        "run --detach key x",
        "run --nonblock=1 key x",
        "run -z key x",
        "run -nz key x",
        "acquire",
        "acquire a b",
        "acquire -k 1s key",
        "release",
        "list key",
        "inspect",
        "break a b",
        "ping key",
        "call",
        "watch key",
        "watch --interval 0",
    };

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        refuse(lines[i]);
}
END_TEST

START_TEST(help_and_version_need_nothing_else)
{
    ck_assert_int_eq(parse("--help"), LOCKCTL_DONE);
    ck_assert(arguments.help && !arguments.command);
    ck_assert_int_eq(parse("run -h"), LOCKCTL_DONE);
    ck_assert(arguments.help);
    ck_assert_str_eq(arguments.command->name, "run");
    ck_assert_int_eq(parse("-V"), LOCKCTL_DONE);
    ck_assert(arguments.version);
    // A command's own --help is the command's.
    accept("run key -- x --help", "run");
    ck_assert(!arguments.help);
}
END_TEST

static char *help_of(const struct lockctl_command *command)
{
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);

    ck_assert_ptr_nonnull(file);
    lockctl_arguments_help(file, command);
    fclose(file);
    return text;
}

START_TEST(help_is_whole_and_fits)
{
    char *all = help_of(NULL);

    for (const struct lockctl_command *command = lockctl_commands; command->name; command++) {
        char *text = help_of(command);

        ck_assert_ptr_nonnull(strstr(all, command->summary));
        ck_assert_ptr_nonnull(strstr(text, command->name));
        ck_assert_ptr_nonnull(strstr(text, "--socket PATH"));
        ck_assert_ptr_nonnull(strstr(text, "--help"));
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
            ck_assert_msg(strlen(line) < 100, "too long: %s", line);
        free(text);
    }
    free(all);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lockctl_arguments");
    TCase *tests = tcase_create("arguments");

    tcase_add_test(tests, run_takes_key_and_command);
    tcase_add_test(tests, options_have_values);
    tcase_add_test(tests, mistakes_are_refused);
    tcase_add_test(tests, help_and_version_need_nothing_else);
    tcase_add_test(tests, help_is_whole_and_fits);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
