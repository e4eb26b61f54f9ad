// SPDX-License-Identifier: Apache-2.0
//
// lockctl run.
//
// Model: the lock is acquired here, with signals as they come (Ctrl-C ends the waiting, and with the
// connection the acquire). Then the guardian is forked, which has the handle from there on, and the
// command is started in a group of its own. After that this process does what a shell does for a
// job, and nothing else: it takes signals, one at a time, and ends when the guardian has.
//
//     a signal for us          passed on to the group
//     SIGCHLD, command stopped we stop too, as Ctrl-Z expects; SIGCONT continues both
//     SIGCHLD, command ended   the guardian is told; the command stays a zombie, so that its number
//                              names its group and nothing else as long as the guardian may signal it
//     SIGCHLD, guardian ended  its exit code, or the command's, is ours
//
// All signals that matter are blocked and taken by sigwaitinfo, so nothing runs in a handler. Our
// copy of the connection is never used: it is there to keep the lock if the guardian is killed, until
// we have killed the group.

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/group.h"
#include "client/guardian.h"
#include "client/lockctl.h"
#include "client/terminal.h"

enum {
    DYING_MS = 10000, // for a group that was sent SIGKILL
};

static const int forwarded[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,
                                SIGUSR1, SIGUSR2, SIGTSTP, SIGWINCH};

// Reachable to the end: what belongs to the handle is the guardian's after the fork.
static struct lock_keeper *keeper;

struct run {
    const struct lockctl_arguments *arguments;
    struct lock_keeper_lease *lease;
    sigset_t taken;    // blocked here, and waited for
    sigset_t original; // the mask that the command gets back
    struct terminal terminal;
    int guardian_fd;
    pid_t guardian;
    int guardian_status;
    pid_t command; // and its group
    volatile int exec_errno;
    siginfo_t end;    // of the command; si_pid 0 while it runs
    bool given;       // it had the terminal at its end
    bool interrupted; // we got SIGINT ourselves
};

// ---- Start ----

static int acquire(struct run *run)
{
    const struct lockctl_arguments *arguments = run->arguments;
    struct lock_keeper_acquire wanted = lockctl_wanted(arguments);

    return lockctl_refused(arguments, keeper, lock_keeper_acquire(keeper, &wanted, &run->lease));
}

static bool set_environment(const struct run *run)
{
    char fence[24];

    snprintf(fence, sizeof fence, "%lld", (long long)lock_keeper_lease_fence(run->lease));
    return setenv("LOCK_KEEPER_KEY", run->arguments->key, 1) == 0 &&
           setenv("LOCK_KEEPER_LEASE", lock_keeper_lease_token(run->lease), 1) == 0 &&
           setenv("LOCK_KEEPER_FENCE", fence, 1) == 0 &&
           setenv("LOCK_KEEPER_SOCKET", lockctl_socket(run->arguments), 1) == 0;
}

static void block_signals(struct run *run)
{
    sigset_t blocked;

    sigemptyset(&run->taken);
    sigaddset(&run->taken, SIGCHLD);
    sigaddset(&run->taken, SIGCONT);
    for (size_t i = 0; i < sizeof forwarded / sizeof forwarded[0]; i++)
        sigaddset(&run->taken, forwarded[i]);
    blocked = run->taken;
    sigaddset(&blocked, SIGTTOU); // see terminal.h
    sigaddset(&blocked, SIGPIPE); // the guardian may be dead
    sigprocmask(SIG_BLOCK, &blocked, &run->original);
    signal(SIGCHLD, SIG_DFL); // ignored, it would hide how children end
}

// In the command's process, which shares our memory until it executes (vfork).
static _Noreturn void exec_command(struct run *run, bool give)
{
    setpgid(0, 0);
    if (give)
        tcsetpgrp(run->terminal.fd, getpid());
    if (guardian_tell_group(run->guardian_fd)) {
        sigprocmask(SIG_SETMASK, &run->original, NULL);
        execvp(run->arguments->rest[0], run->arguments->rest);
        run->exec_errno = errno;
    }
    _exit(LOCKCTL_FAILED);
}

static int start_command(struct run *run)
{
    bool give = terminal_is_for_command(&run->terminal);

    run->command = vfork();
    if (run->command == 0)
        exec_command(run, give);
    if (run->command < 0)
        return -errno;
    if (give)
        run->terminal.given = run->command;
    return 0;
}

// ---- While it runs ----

// Stops our own group, as the terminal would have, and returns when it is continued. False where it
// was not stopped: nobody is there to continue it, so the kernel doesn't.
static bool stop_ourselves(int stop)
{
    const struct timespec at_once = {0};
    struct sigaction standard = {.sa_handler = SIG_DFL}, before;
    sigset_t this, continued;

    sigemptyset(&continued);
    sigaddset(&continued, SIGCONT);
    while (sigtimedwait(&continued, NULL, &at_once) > 0)
        ;
    sigemptyset(&this);
    sigaddset(&this, stop);
    sigaction(stop, &standard, &before);
    sigprocmask(SIG_UNBLOCK, &this, NULL);
    kill(0, stop); // stands still in here
    sigprocmask(SIG_BLOCK, &this, NULL);
    sigaction(stop, &before, NULL);
    return sigtimedwait(&continued, NULL, &at_once) > 0;
}

static void on_stopped(struct run *run, int stop)
{
    bool wants_terminal = stop == SIGTTIN || stop == SIGTTOU;
    bool had_terminal = run->terminal.given != 0;

    if (run->terminal.fd < 0) // whoever stopped it knows how to go on
        return;
    if (!wants_terminal || !terminal_is_ours(&run->terminal)) {
        terminal_take_back(&run->terminal);
        if (!stop_ourselves(stop == SIGSTOP ? SIGTSTP : stop) && wants_terminal)
            group_signal(run->command, SIGHUP); // it will never get it
    }
    if (had_terminal || wants_terminal)
        terminal_give(&run->terminal, run->command);
    group_signal(run->command, SIGCONT);
}

static void on_ended(struct run *run, const siginfo_t *end)
{
    run->end = *end;
    run->given = run->terminal.given != 0;
    terminal_take_back(&run->terminal);
    guardian_tell_end(run->guardian_fd);
}

static void look_at_command(struct run *run)
{
    siginfo_t child = {0};

    while (run->end.si_pid == 0 &&
           waitid(P_PID, (id_t)run->command, &child, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
           child.si_pid != 0) {
        if (child.si_code == CLD_STOPPED) {
            // Taken, or it would be seen again.
            waitid(P_PID, (id_t)run->command, &child, WSTOPPED | WNOHANG);
            on_stopped(run, child.si_status);
        } else {
            on_ended(run, &child);
        }
        child.si_pid = 0;
    }
}

static void on_signal(struct run *run, int signal)
{
    if (signal == SIGCHLD) {
        look_at_command(run);
        return;
    }
    run->interrupted |= signal == SIGINT;
    if (run->end.si_pid == 0)
        group_signal(run->command, signal);
}

// Until the guardian has ended.
static void supervise(struct run *run)
{
    while (waitpid(run->guardian, &run->guardian_status, WNOHANG) == 0) {
        int signal = sigwaitinfo(&run->taken, NULL);

        if (signal > 0)
            on_signal(run, signal);
    }
}

// ---- The end ----

static int exec_failure(const struct run *run)
{
    int error = run->exec_errno;

    if (error == 0)
        return LOCKCTL_FAILED; // the guardian was dead before
    lockctl_say("%s: %s", run->arguments->rest[0], strerror(error));
    return error == ENOENT ? LOCKCTL_NOT_FOUND : LOCKCTL_NO_EXEC;
}

// Without a guardian: the lock is still ours until we end, as we have the connection too.
static int on_guardian_killed(struct run *run)
{
    int64_t until = lock_keeper_now_ms() + DYING_MS;
    struct group_watch members = {0};

    lockctl_say("the guardian was killed; the command for '%s' is killed too", run->arguments->key);
    do {
        struct pollfd first;

        group_signal(run->command, SIGKILL);
        group_watch_close(&members);
        if (group_watch_open(&members, run->command) != 0 || members.count == 0)
            break;
        first = (struct pollfd){.fd = members.pidfds[0], .events = POLLIN};
        poll(&first, 1, 1000);
    } while (lock_keeper_now_ms() < until);
    group_watch_close(&members);
    terminal_take_back(&run->terminal);
    return LOCKCTL_LOST;
}

// A command that ended by Ctrl-C ends all that Ctrl-C would have ended without us: a script that runs
// us, what stands beside us in a pipeline, and ourselves.
static void end_by_interrupt(const struct run *run)
{
    sigset_t interrupt;

    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    signal(SIGINT, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, &interrupt, NULL);
    kill(run->given ? 0 : getpid(), SIGINT);
}

static int command_code(const struct run *run)
{
    if (run->exec_errno != 0 || run->end.si_pid == 0)
        return exec_failure(run);
    if (run->end.si_code == CLD_EXITED)
        return run->end.si_status;
    if (run->end.si_status == SIGINT && run->terminal.fd >= 0 && (run->given || run->interrupted))
        end_by_interrupt(run);
    return LOCKCTL_SIGNALLED + run->end.si_status;
}

static int conclude(struct run *run)
{
    int status = run->guardian_status;

    if (!WIFEXITED(status))
        return on_guardian_killed(run);
    waitpid(run->command, NULL, WNOHANG);
    return WEXITSTATUS(status) != LOCKCTL_DONE ? WEXITSTATUS(status) : command_code(run);
}

static int start_guardian(struct run *run)
{
    const struct guardian_task task = {
        .keeper = keeper,
        .lease = run->lease,
        .kill_after = run->arguments->kill_after,
        .argc = run->arguments->argc,
        .argv = run->arguments->argv,
    };

    run->guardian = guardian_start(&task, &run->guardian_fd);
    return run->guardian < 0 ? run->guardian : 0;
}

static int run_command(struct run *run)
{
    int error = set_environment(run) ? 0 : -ENOMEM;

    block_signals(run);
    if (error == 0)
        error = start_guardian(run);
    if (error == 0) {
        terminal_open(&run->terminal);
        error = start_command(run);
        if (error != 0)
            close(run->guardian_fd); // it ends, and with us the connection
    }
    if (error != 0) {
        lockctl_say("%s can't be started: %s", run->arguments->rest[0], strerror(-error));
        return LOCKCTL_FAILED;
    }
    supervise(run);
    return conclude(run);
}

int lockctl_run(const struct lockctl_arguments *arguments)
{
    struct run run = {.arguments = arguments, .terminal = {.fd = -1}};
    int code;

    keeper = lockctl_open(arguments);
    if (!keeper)
        return LOCKCTL_FAILED;
    code = acquire(&run);
    if (!run.lease) { // whatever the code: -E may make it 0
        keeper = lock_keeper_free(keeper);
        return code;
    }
    return run_command(&run);
}
