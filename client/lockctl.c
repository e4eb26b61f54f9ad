// SPDX-License-Identifier: Apache-2.0
//
// What the commands of lockctl share.

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client/lockctl.h"

enum {
    SAY_SIZE = 1024,
    SAY_MS = 20, // for whoever reads standard error; nothing that matters waits for them longer
};

void lockctl_say(const char *format, ...)
{
    struct pollfd error = {.fd = STDERR_FILENO, .events = POLLOUT};
    char line[SAY_SIZE] = "lockctl: ";
    size_t length = strlen(line);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line + length, sizeof line - length - 1, format, arguments);
    va_end(arguments);
    length = strlen(line);
    line[length++] = '\n';
    if (poll(&error, 1, SAY_MS) > 0 && write(STDERR_FILENO, line, length) < 0)
        return; // there is nobody to tell
}

const char *lockctl_socket(const struct lockctl_arguments *arguments)
{
    const char *variable = getenv("LOCK_KEEPER_SOCKET");

    if (arguments->socket)
        return arguments->socket;
    return variable && *variable ? variable : "/run/lock-keeper/lock-keeper.sock";
}

struct lock_keeper *lockctl_open(const struct lockctl_arguments *arguments)
{
    struct lock_keeper *keeper = lock_keeper_new(lockctl_socket(arguments));

    if (!keeper)
        lockctl_say("%s: %s", lockctl_socket(arguments), strerror(errno));
    return keeper;
}

struct lock_keeper_acquire lockctl_wanted(const struct lockctl_arguments *arguments)
{
    return (struct lock_keeper_acquire){
        .key = arguments->key,
        .wait_ms = arguments->wait,
        .ttl_ms = arguments->ttl,
        .deadline_ms = arguments->deadline,
        .label = arguments->label,
        .bind = arguments->detach ? LOCK_KEEPER_BIND_NONE : LOCK_KEEPER_BIND_CONNECTION,
    };
}

int lockctl_take_signals(const int *signals, size_t count)
{
    sigset_t taken;

    sigemptyset(&taken);
    for (size_t i = 0; i < count; i++)
        sigaddset(&taken, signals[i]);
    sigprocmask(SIG_BLOCK, &taken, NULL);
    return signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
}

int lockctl_exit_code(const struct lockctl_arguments *arguments, int result)
{
    switch (result) {
    case 0:
        return LOCKCTL_DONE;
    case LOCK_KEEPER_E_LOCK_HELD:
        return (int)arguments->held_code;
    case LOCK_KEEPER_E_BAD_REQUEST:
    case LOCK_KEEPER_E_LINE_TOO_LONG:
    case -EINVAL:
    case -ENAMETOOLONG:
        return LOCKCTL_USAGE;
    case LOCK_KEEPER_E_UNKNOWN_LEASE:
    case LOCK_KEEPER_E_LOST_ACTOR_LOCK:
        return LOCKCTL_LOST;
    case LOCK_KEEPER_E_NOT_PERMITTED:
        return LOCKCTL_FORBIDDEN;
    case LOCK_KEEPER_E_INTERNAL:
    case LOCK_KEEPER_E_OTHER:
    case -ENOMEM:
        return LOCKCTL_SOFTWARE;
    default:
        return LOCKCTL_UNAVAILABLE;
    }
}

static void say_held(const struct lockctl_arguments *arguments,
                     const struct lock_keeper_reply *reply)
{
    const struct lock_keeper_holder *holder = reply->holder;

    if (!holder)
        lockctl_say("the lock on '%s' is held", arguments->key);
    else if (holder->foreign)
        lockctl_say("the lock on '%s' is held, not through lock-keeper", arguments->key);
    else
        lockctl_say("the lock on '%s' is held by process %lld on %s%s%s%s", arguments->key,
                    (long long)holder->pid, holder->host, *holder->label ? " (" : "", holder->label,
                    *holder->label ? ")" : "");
}

int lockctl_refused(const struct lockctl_arguments *arguments, const struct lock_keeper *keeper,
                    int result)
{
    const struct lock_keeper_reply *reply = lock_keeper_get_reply(keeper);
    const struct lock_keeper_error *error = lock_keeper_get_error(keeper);

    if (result == LOCK_KEEPER_E_LOCK_HELD && reply)
        say_held(arguments, reply);
    else if (result > 0 && reply)
        lockctl_say("%s: %s", reply->name, reply->message);
    else if (result != 0)
        lockctl_say("%s: %s", lock_keeper_code_name(result), error->message);
    return lockctl_exit_code(arguments, result);
}

const char *lockctl_reason(enum lock_keeper_reason reason)
{
    static const char *const reasons[] = {
        [LOCK_KEEPER_REASON_LOST] = "Redis has it no more",
        [LOCK_KEEPER_REASON_UNREACHABLE] = "Redis did not confirm it in time",
        [LOCK_KEEPER_REASON_DEADLINE] = "its workflow deadline has come",
        [LOCK_KEEPER_REASON_SHUTDOWN] = "the sidecar is shutting down",
        [LOCK_KEEPER_REASON_BROKEN] = "an operator took it away",
        [LOCK_KEEPER_REASON_RELEASED] = "somebody else released it",
        [LOCK_KEEPER_REASON_MOVED] = "somebody else took the lease over",
        [LOCK_KEEPER_REASON_EOF] = "the connection has ended",
        [LOCK_KEEPER_REASON_UNCONFIRMED] = "the sidecar is gone or silent",
    };

    if ((size_t)reason >= sizeof reasons / sizeof reasons[0] || !reasons[reason])
        return "the sidecar took it back";
    return reasons[reason];
}

int lockctl_lost_code(enum lock_keeper_reason reason)
{
    return reason == LOCK_KEEPER_REASON_DEADLINE ? LOCKCTL_DEADLINE : LOCKCTL_LOST;
}
