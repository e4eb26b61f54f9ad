// SPDX-License-Identifier: Apache-2.0
//
// lockctl acquire and release.
//
// Model of acquire: the lock belongs to whoever reads our output, and they say that they are through
// by ending our input. When the lease is lost we end at once, which is how they are told; but the
// connection's end would say that the work has stopped, and free the key early. So a copy of this
// process keeps the connection until the key runs out by itself.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client/lockctl.h"
#include "client/lockctl_print.h"
#include "protocol/wire.h"

struct hold {
    const struct lockctl_arguments *arguments;
    struct lock_keeper *keeper;
    struct lock_keeper_lease *lease;
    int signals;
};

static void print_grant(const struct lockctl_arguments *arguments, const struct hold *hold)
{
    char number[24];

    if (!arguments->shell) {
        printf("%s\n", lock_keeper_get_reply(hold->keeper)->line);
        return;
    }
    print_assignment(stdout, "LOCK_KEEPER_KEY", arguments->key);
    print_assignment(stdout, "LOCK_KEEPER_LEASE", lock_keeper_lease_token(hold->lease));
    snprintf(number, sizeof number, "%lld", (long long)lock_keeper_lease_fence(hold->lease));
    print_assignment(stdout, "LOCK_KEEPER_FENCE", number);
    print_assignment(stdout, "LOCK_KEEPER_SOCKET", lockctl_socket(arguments));
}

// Goes on as a copy, which keeps the connection and ends with the lease's validity.
static void keep_until(struct hold *hold, int64_t valid_until)
{
    int null;

    if (fork() != 0)
        return;
    setsid();
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++)
        dup2(null, fd);
    for (int64_t now; (now = lock_keeper_now_ms()) < valid_until;) {
        struct pollfd connection = {.fd = lock_keeper_get_fd(hold->keeper), .events = POLLIN};

        poll(&connection, 1, (int)(valid_until - now));
        lock_keeper_process(hold->keeper);
    }
    _exit(0);
}

static int on_revoked(struct hold *hold, const struct lock_keeper_event *event)
{
    int code = lockctl_lost_code(event->reason);

    lockctl_say("the lock on '%s' is lost: %s (%s)", hold->arguments->key,
                lockctl_reason(event->reason), event->reason_name);
    if (event->safe_ms > 0)
        keep_until(hold, event->valid_until_ms);
    return code;
}

// True at the end of the input; what comes before it means nothing.
static bool input_has_ended(void)
{
    char ignored[4096];
    ssize_t length = read(STDIN_FILENO, ignored, sizeof ignored);

    return length == 0 || (length < 0 && errno != EINTR && errno != EAGAIN);
}

// Until the input ends or a signal comes (LOCKCTL_DONE), or the lease is lost.
static int wait_for_end(struct hold *hold)
{
    struct pollfd polled[] = {
        {.fd = STDIN_FILENO, .events = POLLIN},
        {.fd = hold->signals, .events = POLLIN},
        {.fd = lock_keeper_get_fd(hold->keeper), .events = POLLIN},
    };

    for (;;) {
        const struct lock_keeper_event *event;

        if (poll(polled, 3, -1) < 0)
            continue;
        if (polled[2].revents)
            lock_keeper_process(hold->keeper);
        while ((event = lock_keeper_next_event(hold->keeper)) != NULL) {
            if (event->kind == LOCK_KEEPER_EVENT_REVOKED)
                return on_revoked(hold, event);
        }
        if (polled[1].revents || (polled[0].revents && input_has_ended()))
            return LOCKCTL_DONE;
    }
}

static int take_signals(void)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};

    return lockctl_take_signals(signals, sizeof signals / sizeof signals[0]);
}

static int say_grant(struct hold *hold)
{
    print_grant(hold->arguments, hold);
    if (fflush(stdout) == 0)
        return LOCKCTL_DONE;
    lock_keeper_release(hold->keeper, hold->lease); // nobody knows of it
    return LOCKCTL_OUTPUT;
}

static int hold_lease(struct hold *hold)
{
    int code = wait_for_end(hold), result;

    if (code != LOCKCTL_DONE)
        return code;
    result = lock_keeper_release(hold->keeper, hold->lease);
    if (result == LOCK_KEEPER_E_LOST_ACTOR_LOCK && lock_keeper_get_reply(hold->keeper)->freed)
        return LOCKCTL_DONE; // it was ours to the end
    return lockctl_refused(hold->arguments, hold->keeper, result);
}

static int acquire(struct hold *hold)
{
    const struct lockctl_arguments *arguments = hold->arguments;
    struct lock_keeper_acquire wanted = lockctl_wanted(arguments);
    int code = lockctl_refused(arguments, hold->keeper,
                               lock_keeper_acquire(hold->keeper, &wanted, &hold->lease));

    if (!hold->lease) // whatever the code: -E may make it 0
        return code;
    if (arguments->detach)
        return say_grant(hold);
    // Before anybody can know of the grant: who reads it may send a signal at once.
    hold->signals = take_signals();
    if (hold->signals < 0)
        return LOCKCTL_FAILED;
    code = say_grant(hold);
    if (code == LOCKCTL_DONE)
        code = hold_lease(hold);
    close(hold->signals);
    return code;
}

int lockctl_acquire(const struct lockctl_arguments *arguments)
{
    struct hold hold = {.arguments = arguments, .keeper = lockctl_open(arguments)};
    int code;

    if (!hold.keeper)
        return LOCKCTL_SOFTWARE;
    code = acquire(&hold);
    lock_keeper_free(hold.keeper);
    return code;
}

// ---- release ----

static bool is_token(const char *text)
{
    return strlen(text) == WIRE_LEASE_DIGITS &&
           strspn(text, "0123456789abcdef") == WIRE_LEASE_DIGITS;
}

// A lease that this sidecar does not know may be one of the sidecar before it.
static int release_elsewhere(struct lock_keeper *keeper, const char *key, const char *token)
{
    struct lock_keeper_lease *lease;
    int result = lock_keeper_adopt(
        keeper,
        &(struct lock_keeper_adopt){.key = key, .token = token, .bind = LOCK_KEEPER_BIND_NONE},
        &lease);

    return result == 0 ? lock_keeper_release(keeper, lease) : result;
}

static int release(const struct lockctl_arguments *arguments, struct lock_keeper *keeper,
                   const char *key, const char *token)
{
    int result = lock_keeper_release_token(keeper, token);
    const struct lock_keeper_reply *reply;

    if (result == LOCK_KEEPER_E_UNKNOWN_LEASE && key)
        result = release_elsewhere(keeper, key, token);
    reply = lock_keeper_get_reply(keeper);
    if (arguments->json && reply && reply->line) {
        printf("%s\n", reply->line);
        return lockctl_exit_code(arguments, result);
    }
    return lockctl_refused(arguments, keeper, result);
}

int lockctl_release(const struct lockctl_arguments *arguments)
{
    char *key = strdup(arguments->key), *slash = key ? strrchr(key, '/') : NULL;
    const char *token = slash ? slash + 1 : key;
    struct lock_keeper *keeper = key ? lockctl_open(arguments) : NULL;
    int code = LOCKCTL_SOFTWARE;

    if (keeper && !is_token(token)) {
        lockctl_say("a lease is %d hex digits (0-9a-f), alone or as KEY/LEASE", WIRE_LEASE_DIGITS);
        code = LOCKCTL_USAGE;
    } else if (keeper) {
        if (slash)
            *slash = '\0';
        code = release(arguments, keeper, slash ? key : NULL, token);
    }
    lock_keeper_free(keeper);
    free(key);
    return code;
}
