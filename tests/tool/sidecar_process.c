// SPDX-License-Identifier: Apache-2.0
//
// The sidecar as a child.
//
// Model: readiness is an event, READY=1 on a datagram socket that we name in NOTIFY_SOCKET; the
// end is one too (a pidfd, in scratch_reap). Nothing here polls. Output goes to files, so that a
// chatty sidecar never waits for us.
//
// The child gets an environment of our making: a LOCK_KEEPER_* or REDIS_URL of the developer's must
// not reach it. The sanitizers' variables do.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/tool/sidecar_process.h"

enum {
    READY_MS = 10000,
    END_MS = 5000,
    MAX_ENVIRONMENT = 32,
};

#ifndef LOCK_KEEPER_BINARY_PATH
#define LOCK_KEEPER_BINARY_PATH "build/sidecar/lock-keeper"
#endif

static const char *const inherited[] = {
    "PATH",          "HOME",
    "TMPDIR",        "ASAN_OPTIONS",
    "UBSAN_OPTIONS", "TSAN_OPTIONS",
    "LSAN_OPTIONS",  "LLVM_PROFILE_FILE",
    "GCOV_PREFIX",   "LD_LIBRARY_PATH",
};

static const char *binary(void)
{
    const char *path = getenv("LOCK_KEEPER_BINARY");

    return path && *path ? path : LOCK_KEEPER_BINARY_PATH;
}

struct launch {
    const char *argv[SIDECAR_PROCESS_ARGUMENTS + 8];
    char *environment[MAX_ENVIRONMENT + 1];
    size_t variables;
    int stdout_fd;
    int stderr_fd;
    int listen_fd; // 0: none
    int descriptor_limit;
};

static void add_variable(struct launch *launch, const char *name, const char *value)
{
    size_t size = strlen(name) + strlen(value) + 2;
    char *variable = malloc(size);

    ck_assert_ptr_nonnull(variable);
    ck_assert_uint_lt(launch->variables, MAX_ENVIRONMENT);
    snprintf(variable, size, "%s%s%s", name, *value ? "=" : "", value);
    launch->environment[launch->variables++] = variable;
}

static void fill_environment(struct launch *launch, const char *const *more)
{
    for (size_t i = 0; i < sizeof inherited / sizeof inherited[0]; i++) {
        const char *value = getenv(inherited[i]);

        if (value)
            add_variable(launch, inherited[i], value);
    }
    for (size_t i = 0; more && more[i]; i++)
        add_variable(launch, more[i], "");
}

static void free_environment(struct launch *launch)
{
    for (size_t i = 0; i < launch->variables; i++)
        free(launch->environment[i]);
}

static void exec_binary(struct launch *launch)
{
    static char listen_pid[32];
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    dup2(launch->stdout_fd, STDOUT_FILENO);
    dup2(launch->stderr_fd, STDERR_FILENO);
    if (launch->listen_fd) {
        snprintf(listen_pid, sizeof listen_pid, "LISTEN_PID=%d", (int)getpid());
        launch->environment[launch->variables++] = listen_pid;
        if (launch->listen_fd == 3)
            fcntl(3, F_SETFD, 0);
        else
            dup2(launch->listen_fd, 3);
    }
    if (launch->descriptor_limit) {
        struct rlimit limit = {(rlim_t)launch->descriptor_limit, (rlim_t)launch->descriptor_limit};

        setrlimit(RLIMIT_NOFILE, &limit);
    }
    execve(launch->argv[0], (char *const *)(uintptr_t)launch->argv, launch->environment);
    fprintf(stderr, "%s: %s\n", launch->argv[0], strerror(errno));
    _exit(127);
}

static pid_t spawn(struct launch *launch)
{
    pid_t pid = scratch_fork();

    if (pid == 0)
        exec_binary(launch);
    free_environment(launch);
    return pid;
}

static int open_output(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
    return fd;
}

static int open_notify(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(fd, 0);
    unlink(path);
    strcpy(address.sun_path, path);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void fail_with_log(const struct sidecar_process *sidecar, const char *what)
{
    ck_abort_msg("lock-keeper %s: %s", what, sidecar_process_read_log(sidecar));
}

// Waits until the notify socket says so.
static void await_state(struct sidecar_process *sidecar, const char *wanted)
{
    struct pollfd notify = {.fd = sidecar->notify_fd, .events = POLLIN};
    int64_t deadline = scratch_deadline(READY_MS);
    char state[256] = "";

    while (!strstr(state, wanted)) {
        ssize_t length;

        // An early end shows nothing on the notify socket, so look for it now and then.
        if (poll(&notify, 1, 50) <= 0) {
            if (scratch_reap(sidecar->pid, 0, NULL)) {
                sidecar->pid = 0;
                fail_with_log(sidecar, "ended before it was ready");
            }
            if (scratch_left(deadline) == 0)
                fail_with_log(sidecar, "is silent on its NOTIFY_SOCKET");
            continue;
        }
        length = recv(sidecar->notify_fd, state, sizeof state - 1, 0);
        ck_assert_int_ge(length, 0);
        state[length] = '\0';
    }
}

static void launch_sidecar(struct sidecar_process *sidecar)
{
    const char *name = sidecar->name ? sidecar->name : "keeper";
    struct launch launch = {
        .argv = {binary(), "--socket", sidecar->socket},
        .listen_fd = sidecar->listen_fd,
        .descriptor_limit = sidecar->descriptor_limit,
    };
    char notify[SCRATCH_MAX_PATH + 16], file[80];
    size_t n = 3;

    snprintf(file, sizeof file, "%s.notify", name);
    snprintf(notify, sizeof notify, "%s", scratch_path(file));
    sidecar->notify_fd = open_notify(notify);
    if (sidecar->redis_url) {
        launch.argv[n++] = "--redis";
        launch.argv[n++] = sidecar->redis_url;
    }
    for (size_t i = 0; sidecar->arguments[i]; i++)
        launch.argv[n++] = sidecar->arguments[i];
    fill_environment(&launch, sidecar->environment);
    add_variable(&launch, "NOTIFY_SOCKET", notify);
    if (sidecar->listen_fd)
        add_variable(&launch, "LISTEN_FDS", "1");
    launch.stdout_fd = open_output(sidecar->log);
    launch.stderr_fd = sidecar->stderr_fd > 0 ? sidecar->stderr_fd : launch.stdout_fd;
    sidecar->pid = spawn(&launch);
    close(launch.stdout_fd);
    await_state(sidecar, "READY=1");
}

void sidecar_process_start_with(struct sidecar_process *sidecar, const char *redis_url,
                                const char *const *arguments)
{
    const char *name = sidecar->name ? sidecar->name : "keeper";
    char file[80];
    size_t n = 0;

    snprintf(file, sizeof file, "%s.sock", name);
    snprintf(sidecar->socket, sizeof sidecar->socket, "%s", scratch_path(file));
    snprintf(file, sizeof file, "%s.log", name);
    snprintf(sidecar->log, sizeof sidecar->log, "%s", scratch_path(file));
    sidecar->redis_url = redis_url;
    while ((sidecar->arguments[n] = arguments[n]) != NULL)
        ck_assert_uint_lt(++n, SIDECAR_PROCESS_ARGUMENTS);
    launch_sidecar(sidecar);
}

void sidecar_process_start(struct sidecar_process *sidecar, const char *redis_url, ...)
{
    const char *all[SIDECAR_PROCESS_ARGUMENTS];
    va_list arguments;
    size_t n = 0;

    va_start(arguments, redis_url);
    while ((all[n] = va_arg(arguments, const char *)) != NULL)
        ck_assert_uint_lt(++n, SIDECAR_PROCESS_ARGUMENTS);
    va_end(arguments);
    sidecar_process_start_with(sidecar, redis_url, all);
}

void sidecar_process_restart(struct sidecar_process *sidecar)
{
    ck_assert_int_eq(sidecar->pid, 0);
    launch_sidecar(sidecar);
}

void sidecar_process_signal(struct sidecar_process *sidecar, int signal)
{
    ck_assert_int_ne(sidecar->pid, 0);
    ck_assert_int_eq(kill(sidecar->pid, signal), 0);
}

void sidecar_process_stop(struct sidecar_process *sidecar, int signal)
{
    sidecar_process_signal(sidecar, signal);
    await_state(sidecar, "STOPPING=1");
}

int sidecar_process_wait(struct sidecar_process *sidecar, int64_t timeout_ms)
{
    int code = scratch_exit_code(sidecar->pid, timeout_ms);

    sidecar->pid = 0;
    close(sidecar->notify_fd);
    sidecar->notify_fd = -1;
    return code;
}

int sidecar_process_terminate(struct sidecar_process *sidecar)
{
    sidecar_process_signal(sidecar, SIGTERM);
    return sidecar_process_wait(sidecar, END_MS);
}

void sidecar_process_kill(struct sidecar_process *sidecar)
{
    sidecar_process_signal(sidecar, SIGKILL);
    sidecar_process_wait(sidecar, END_MS);
}

int sidecar_process_descriptors(const struct sidecar_process *sidecar)
{
    return scratch_descriptors(sidecar->pid);
}

char *sidecar_process_read_log(const struct sidecar_process *sidecar)
{
    return scratch_read(sidecar->log);
}

int sidecar_process_run(char *output, size_t size, const char *const *environment, ...)
{
    struct launch launch = {.argv = {binary()}};
    const char *path = scratch_path("run.output");
    va_list arguments;
    char *text;
    size_t n = 1;
    int code;

    va_start(arguments, environment);
    while ((launch.argv[n] = va_arg(arguments, const char *)) != NULL)
        ck_assert_uint_lt(++n, SIDECAR_PROCESS_ARGUMENTS);
    va_end(arguments);
    fill_environment(&launch, environment);
    unlink(path);
    launch.stdout_fd = launch.stderr_fd = open_output(path);
    code = scratch_exit_code(spawn(&launch), END_MS);
    close(launch.stdout_fd);
    text = scratch_read(path);
    snprintf(output, size, "%s", text);
    free(text);
    return code;
}
