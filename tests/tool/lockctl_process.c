// SPDX-License-Identifier: Apache-2.0
//
// lockctl as a child. Output goes to files, which have no reader that it could wait for.

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/lockctl_process.h"

enum {
    ARGUMENTS = 32,
    AWAIT_MS = 10000,
    RUN_MS = 20000,
};

#ifndef LOCKCTL_BINARY_PATH
#define LOCKCTL_BINARY_PATH "build/client/lockctl"
#endif

const char *lockctl_binary(void)
{
    const char *path = getenv("LOCKCTL_BINARY");

    return path && *path ? path : LOCKCTL_BINARY_PATH;
}

static _Noreturn void exec_lockctl(char **argv, const char *socket, int input, int output,
                                   int errors)
{
    // Nothing of check's, or of whoever runs us.
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    signal(SIGPIPE, SIG_DFL);
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    if (socket)
        setenv("LOCK_KEEPER_SOCKET", socket, 1);
    else
        unsetenv("LOCK_KEEPER_SOCKET");
    execv(argv[0], argv);
    _exit(99);
}

static void collect(char **argv, va_list arguments)
{
    size_t n = 1;

    argv[0] = (char *)(uintptr_t)lockctl_binary();
    while ((argv[n] = va_arg(arguments, char *)) != NULL)
        ck_assert_uint_lt(++n, ARGUMENTS);
}

static int open_output(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    return fd;
}

static void launch(struct lockctl_process *lockctl, char **argv, const char *socket, bool apart)
{
    static int number;
    char name[32];
    int ends[2], output, errors;

    snprintf(name, sizeof name, "lockctl.%d.out", ++number);
    snprintf(lockctl->output, sizeof lockctl->output, "%s", scratch_path(name));
    snprintf(name, sizeof name, "lockctl.%d.%s", number, apart ? "err" : "out");
    snprintf(lockctl->errors, sizeof lockctl->errors, "%s", scratch_path(name));
    output = open_output(lockctl->output);
    errors = open_output(lockctl->errors);
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    lockctl->pid = scratch_fork();
    if (lockctl->pid == 0)
        exec_lockctl(argv, socket, ends[0], output, errors);
    close(ends[0]);
    close(output);
    close(errors);
    lockctl->input = ends[1];
}

void lockctl_process_start(struct lockctl_process *lockctl, const char *socket, ...)
{
    char *argv[ARGUMENTS];
    va_list arguments;

    va_start(arguments, socket);
    collect(argv, arguments);
    va_end(arguments);
    launch(lockctl, argv, socket, true);
}

void lockctl_process_write(struct lockctl_process *lockctl, const char *text)
{
    ck_assert_int_eq(write(lockctl->input, text, strlen(text)), (ssize_t)strlen(text));
}

void lockctl_process_end_input(struct lockctl_process *lockctl)
{
    if (lockctl->input >= 0)
        close(lockctl->input);
    lockctl->input = -1;
}

static bool has(const char *path, const char *text)
{
    char *all = scratch_read(path);
    bool found = strstr(all, text) != NULL;

    free(all);
    return found;
}

void lockctl_process_await(const struct lockctl_process *lockctl, const char *text)
{
    SCRATCH_UNTIL(AWAIT_MS, has(lockctl->output, text));
}

void lockctl_process_await_error(const struct lockctl_process *lockctl, const char *text)
{
    SCRATCH_UNTIL(AWAIT_MS, has(lockctl->errors, text));
}

bool lockctl_process_has_error(const struct lockctl_process *lockctl, const char *text)
{
    return has(lockctl->errors, text);
}

int lockctl_process_wait(struct lockctl_process *lockctl, int64_t timeout_ms)
{
    int code;

    lockctl_process_end_input(lockctl);
    code = scratch_exit_code(lockctl->pid, timeout_ms);
    lockctl->pid = 0;
    ck_assert(!has(lockctl->errors, "Sanitizer"));
    ck_assert(!has(lockctl->errors, "runtime error"));
    return code;
}

int lockctl_process_run(char *output, size_t size, const char *socket, ...)
{
    struct lockctl_process lockctl;
    char *argv[ARGUMENTS], *text;
    va_list arguments;
    int code;

    va_start(arguments, socket);
    collect(argv, arguments);
    va_end(arguments);
    launch(&lockctl, argv, socket, false);
    code = lockctl_process_wait(&lockctl, RUN_MS);
    text = scratch_read(lockctl.output);
    snprintf(output, size, "%s", text);
    free(text);
    return code;
}
