// SPDX-License-Identifier: Apache-2.0
//
// The guardian.
//
// Model: one loop over the library's descriptor and the pipe from lockctl, and one state:
//
//     HELD        the lease stands, the command runs
//     STOPPING    the lease is over: the group has got SIGTERM, SIGKILL is due at kill_at
//     KILLED      SIGKILL was sent; live members are waited for
//     RELEASING   the command has ended, and the lock is being given back
//     OVER
//
// The pipe ends when lockctl and everything that it has not yet executed have ended, so what was
// told before is always read first: there is no moment in which a command runs that we don't know.
//
// Safety: the connection, and with it the key, lives until the last copy of the socket is closed.
// lockctl keeps one that it never uses. So the key outlives the death of either of the two, and
// whichever is left kills the group first.
//
// In KILLED the wait is bounded by the lease itself: a process that cannot be killed (it belongs to
// another user, or is stuck in the kernel) keeps the lock until its deadline at the latest.
//
// It lives in a session of its own and answers to no signal, shows a name of its own instead of
// lockctl's command line, and keeps nothing of lockctl's open but standard error, so that what is
// meant for lockctl or for the command (kill of a group, pkill -f, Ctrl-C) doesn't hit it.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "client/group.h"
#include "client/guardian.h"
#include "client/lockctl.h"

enum {
    TICK_MS = 50,       // between looks at a group that gets time to end
    LOOK_MS = 1000,     // between looks at one that was killed
    RELEASE_MS = 5000,  // for the answer to a release, before we go on with it alone
    AWAY_MS = 1000,     // the same while there is no sidecar
    LEAST_KILL_MS = 50, // what a group is given to die in after SIGKILL, where there is time
    MOST_KILL_MS = 1000,
};

static const char title[] = "lk-guardian";

enum state { HELD, STOPPING, KILLED, RELEASING, OVER };

// What lockctl and the command's process write: whole, as it is far below PIPE_BUF.
struct notice {
    pid_t group; // 0: the command has ended
};

struct guardian {
    struct guardian_task task;
    enum state state;
    int pipe; // -1: it has ended
    pid_t group;
    bool ended;          // the command
    bool alone;          // lockctl has ended before the command did
    int64_t kill_at;     // STOPPING
    int64_t valid_until; // when the key may be another's, as last known
    int64_t patience;    // RELEASING: when we go on alone
    uint64_t release;    // the request
    struct group_watch members;
    int code;
};

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static const char *key_of(const struct guardian *guardian)
{
    return lock_keeper_lease_key(guardian->task.lease);
}

static void signal_group(const struct guardian *guardian, int signal)
{
    if (guardian->group != 0 && group_signal(guardian->group, signal) == -EPERM)
        lockctl_say("the command for '%s' can't be stopped by us: %s", key_of(guardian),
                    strerror(EPERM));
}

// ---- The lease is over ----

// How much before the key may be another's SIGKILL is sent.
static int64_t kill_margin(int64_t safe_ms)
{
    int64_t margin = safe_ms / 4;

    margin = margin < LEAST_KILL_MS ? LEAST_KILL_MS : margin;
    margin = margin > MOST_KILL_MS ? MOST_KILL_MS : margin;
    return earlier(margin, safe_ms);
}

static void kill_group(struct guardian *guardian)
{
    signal_group(guardian, SIGKILL);
    guardian->state = KILLED;
}

static void stop_group(struct guardian *guardian, int64_t now, int64_t safe)
{
    guardian->kill_at = now + safe - kill_margin(safe);
    if (guardian->task.kill_after >= 0)
        guardian->kill_at = earlier(guardian->kill_at, now + guardian->task.kill_after);
    guardian->state = STOPPING;
    signal_group(guardian, SIGTERM);
    if (guardian->group != 0)
        group_signal(guardian->group, SIGCONT); // one that is stopped hears nothing
}

static void on_revoked(struct guardian *guardian, const struct lock_keeper_event *event)
{
    int64_t now = lock_keeper_now_ms(), safe = event->safe_ms;

    if (safe > 0)
        safe = earlier(safe, event->valid_until_ms - now);
    safe = safe < 0 ? 0 : safe;
    guardian->code = lockctl_lost_code(event->reason);
    guardian->valid_until = now + safe;
    if (guardian->state != HELD)
        return;
    stop_group(guardian, now, safe);
    lockctl_say("the lock on '%s' is lost: %s (%s); stopping the command", key_of(guardian),
                lockctl_reason(event->reason), event->reason_name);
}

// ---- The command has ended ----

static void say_unreleased(const struct guardian *guardian, const char *why)
{
    lockctl_say("the lock on '%s' could not be given back yet (%s); it runs out by itself at the "
                "latest",
                key_of(guardian), why);
}

static void on_released(struct guardian *guardian, const struct lock_keeper_reply *reply)
{
    guardian->state = OVER;
    if (reply->code == LOCK_KEEPER_E_LOST_ACTOR_LOCK && !reply->freed) {
        guardian->code = LOCKCTL_LOST;
        lockctl_say("the lock on '%s' was lost before the command ended", key_of(guardian));
    } else if (reply->code != 0 && !reply->freed) {
        say_unreleased(guardian, reply->message);
    }
}

static void release(struct guardian *guardian)
{
    bool connected = lock_keeper_is_connected(guardian->task.keeper);

    guardian->state = RELEASING;
    guardian->patience = lock_keeper_now_ms() + (connected ? RELEASE_MS : AWAY_MS);
    guardian->valid_until = lock_keeper_lease_valid_until_ms(guardian->task.lease);
    if (lock_keeper_start_release(guardian->task.keeper, guardian->task.lease,
                                  &guardian->release) != 0) {
        guardian->state = OVER; // our end frees it
        return;
    }
    lock_keeper_process(guardian->task.keeper);
}

static void keep_nothing(bool error_too);

// lockctl, and whoever waits for it, shall not wait until a sidecar comes back: they go on, and a
// copy of us stays until the lock is given back or has run out.
static void release_alone(struct guardian *guardian)
{
    int64_t left = guardian->valid_until - lock_keeper_now_ms();

    if (left > 0 && !guardian->alone) {
        say_unreleased(guardian, "no answer from the sidecar");
        if (fork() == 0) {
            keep_nothing(true);
            guardian->alone = true;
            guardian->patience = guardian->valid_until;
            return;
        }
    }
    guardian->state = OVER;
}

static void on_event(struct lock_keeper *keeper, const struct lock_keeper_event *event, void *user)
{
    struct guardian *guardian = user;

    (void)keeper;
    if (event->kind == LOCK_KEEPER_EVENT_REVOKED)
        on_revoked(guardian, event);
    else if (event->kind == LOCK_KEEPER_EVENT_REPLY && guardian->state == RELEASING &&
             event->request == guardian->release)
        on_released(guardian, event->reply);
}

// ---- The loop ----

static void on_pipe(struct guardian *guardian)
{
    struct notice notice;
    ssize_t length = read(guardian->pipe, &notice, sizeof notice);

    if (length == (ssize_t)sizeof notice && notice.group != 0) {
        guardian->group = notice.group;
        if (guardian->state == STOPPING)
            signal_group(guardian, SIGTERM);
    } else if (length == (ssize_t)sizeof notice) {
        guardian->ended = true;
    } else if (length == 0 || errno != EINTR) {
        close(guardian->pipe);
        guardian->pipe = -1;
        guardian->alone = !guardian->ended;
    }
}

static void on_alone(struct guardian *guardian)
{
    if (guardian->group == 0) { // nothing was ever executed
        guardian->state = OVER;
        return;
    }
    lockctl_say("lockctl was killed; the command for '%s' is killed too", key_of(guardian));
    kill_group(guardian);
}

// True when no member of the group can run any more.
static bool is_group_dead(struct guardian *guardian)
{
    group_watch_close(&guardian->members);
    if (guardian->group == 0)
        return guardian->ended || guardian->alone;
    if (group_watch_open(&guardian->members, guardian->group) != 0)
        return false;
    return guardian->members.count == 0;
}

// What stops a lease that is over early: the word that the work has stopped.
static void finish_stopping(struct guardian *guardian)
{
    guardian->state = OVER;
    if (guardian->code == LOCKCTL_DONE) // not over: our end frees it
        return;
    if (lock_keeper_start_release(guardian->task.keeper, guardian->task.lease, NULL) == 0)
        lock_keeper_process(guardian->task.keeper);
}

static void step_stopping(struct guardian *guardian)
{
    if ((guardian->ended || guardian->alone) && is_group_dead(guardian))
        finish_stopping(guardian);
    else if (guardian->alone || lock_keeper_now_ms() >= guardian->kill_at)
        kill_group(guardian);
}

static void step_killed(struct guardian *guardian)
{
    bool lease_is_over = guardian->code != LOCKCTL_DONE;

    if (is_group_dead(guardian)) {
        finish_stopping(guardian);
    } else if (lease_is_over && lock_keeper_now_ms() >= guardian->valid_until + LOOK_MS) {
        lockctl_say("process %d does not die", (int)guardian->members.first);
        guardian->state = OVER;
    } else {
        group_signal(guardian->group, SIGKILL);
    }
}

static void step(struct guardian *guardian)
{
    if (guardian->state == HELD && guardian->alone)
        on_alone(guardian);
    else if (guardian->state == HELD && guardian->ended)
        release(guardian);
    if (guardian->state == STOPPING)
        step_stopping(guardian);
    if (guardian->state == KILLED)
        step_killed(guardian);
    if (guardian->state == RELEASING && lock_keeper_now_ms() >= guardian->patience)
        release_alone(guardian);
}

static int time_to_wait(const struct guardian *guardian)
{
    int64_t now = lock_keeper_now_ms(), until = now + LOOK_MS;

    switch (guardian->state) {
    case STOPPING:
        until = earlier(guardian->kill_at, now + TICK_MS);
        break;
    case RELEASING:
        until = guardian->patience;
        break;
    case KILLED:
        break;
    default:
        return -1;
    }
    return until <= now ? 0 : (int)(until - now);
}

static void wait_for_something(struct guardian *guardian)
{
    struct pollfd polled[2 + GROUP_WATCHED] = {
        {.fd = guardian->pipe, .events = POLLIN},
        {.fd = lock_keeper_get_fd(guardian->task.keeper),
         .events = lock_keeper_get_events(guardian->task.keeper)},
    };
    nfds_t count = 2;

    for (size_t i = 0; i < guardian->members.count; i++)
        polled[count++] = (struct pollfd){.fd = guardian->members.pidfds[i], .events = POLLIN};
    if (poll(polled, count, time_to_wait(guardian)) < 0)
        return;
    if (polled[1].revents)
        lock_keeper_process(guardian->task.keeper);
    if (polled[0].revents)
        on_pipe(guardian);
}

static int guard(struct guardian *guardian)
{
    lock_keeper_set_handler(guardian->task.keeper, on_event, guardian);
    while (guardian->state != OVER) {
        wait_for_something(guardian);
        step(guardian);
    }
    return guardian->code;
}

// ---- The process ----

// The kernel shows the memory of argv as the command line.
static void show_title(int argc, char **argv)
{
    char *begin = argc > 0 ? argv[0] : NULL, *end = begin;

    prctl(PR_SET_NAME, title);
    for (int i = 0; i < argc && argv[i] == end; i++)
        end += strlen(argv[i]) + 1;
    if (begin == end)
        return;
    memset(begin, 0, (size_t)(end - begin));
    for (size_t i = 0; title[i] && begin + i + 1 < end; i++)
        begin[i] = title[i];
}

// Closes what lockctl was started with: all that has survived an exec, for ours is CLOEXEC.
// Standard descriptors lead to /dev/null instead; standard error only where error_too is set.
static void keep_nothing(bool error_too)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    DIR *descriptors = opendir("/proc/self/fd");
    const struct dirent *entry;

    for (int fd = 0; null >= 0 && fd <= (error_too ? 2 : 1); fd++)
        dup2(null, fd);
    while (descriptors && (entry = readdir(descriptors)) != NULL) {
        int fd = (int)strtol(entry->d_name, NULL, 10);

        if (fd > 2 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0)
            close(fd);
    }
    if (descriptors)
        closedir(descriptors);
    if (null > 2)
        close(null);
}

static _Noreturn void be_guardian(const struct guardian_task *task, int pipe)
{
    struct guardian guardian = {.task = *task, .pipe = pipe};
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    show_title(task->argc, task->argv);
    keep_nothing(false);
    _exit(guard(&guardian));
}

pid_t guardian_start(const struct guardian_task *task, int *fd)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    pid = fork();
    if (pid == 0) {
        close(ends[1]);
        be_guardian(task, ends[0]);
    }
    close(ends[0]);
    if (pid < 0) {
        close(ends[1]);
        return -errno;
    }
    *fd = ends[1];
    return pid;
}

static bool tell(int fd, pid_t group)
{
    struct notice notice = {group};
    ssize_t length;

    do {
        length = write(fd, &notice, sizeof notice);
    } while (length < 0 && errno == EINTR);
    return length == (ssize_t)sizeof notice;
}

bool guardian_tell_group(int fd)
{
    return tell(fd, getpid());
}

void guardian_tell_end(int fd)
{
    tell(fd, 0);
}
