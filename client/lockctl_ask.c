// SPDX-License-Identifier: Apache-2.0
//
// lockctl inspect, break, ping and call: one question, one answer.

#include <stdio.h>
#include <unistd.h>

#include "client/lockctl.h"
#include "client/lockctl_print.h"

typedef int asker(const struct lockctl_arguments *arguments, struct lock_keeper *keeper);

static int ask(const struct lockctl_arguments *arguments, asker *question)
{
    struct lock_keeper *keeper = lockctl_open(arguments);
    int code;

    if (!keeper)
        return LOCKCTL_SOFTWARE;
    code = question(arguments, keeper);
    lock_keeper_free(keeper);
    return code;
}

// Prints the reply as it came, if one did.
static bool print_line(const struct lock_keeper *keeper)
{
    const struct lock_keeper_reply *reply = lock_keeper_get_reply(keeper);

    return reply && reply->line && printf("%s\n", reply->line) > 0;
}

// ---- inspect ----

static void print_line_of(const char *name, const char *text)
{
    printf("%-10s%s\n", name, text);
}

static void print_held(const struct lock_keeper_reply *reply)
{
    char text[PRINT_HOLDER_SIZE], span[PRINT_SPAN_SIZE];
    const struct lock_keeper_holder *holder = reply->holder;

    print_line_of("held", reply->here ? "yes, through this sidecar" : "yes");
    if (holder) {
        print_line_of("holder", print_holder(holder, text));
        if (holder->label && *holder->label)
            print_line_of("label", holder->label);
        if (holder->fence >= 0)
            printf("%-10s%lld\n", "fence", (long long)holder->fence);
    }
    if (reply->since_ms >= 0)
        printf("%-10s%s ago\n", "granted", print_span(reply->since_ms, span));
    if (reply->ttl_left_ms >= 0)
        printf("%-10sin %s, unless it is renewed\n", "ends", print_span(reply->ttl_left_ms, span));
    else
        print_line_of("ends", "not by itself: the key has no TTL");
    if (reply->deadline_in_ms >= 0)
        printf("%-10sin %s\n", "deadline", print_span(reply->deadline_in_ms, span));
}

static int inspect(const struct lockctl_arguments *arguments, struct lock_keeper *keeper)
{
    int result = lock_keeper_inspect(keeper, arguments->key);
    const struct lock_keeper_reply *reply = lock_keeper_get_reply(keeper);

    if (result != 0)
        return lockctl_refused(arguments, keeper, result);
    if (arguments->json || !isatty(STDOUT_FILENO)) {
        print_line(keeper);
        return LOCKCTL_DONE;
    }
    print_line_of("key", arguments->key);
    if (reply->held)
        print_held(reply);
    else
        print_line_of("held", "no");
    return LOCKCTL_DONE;
}

int lockctl_inspect(const struct lockctl_arguments *arguments)
{
    return ask(arguments, inspect);
}

// ---- break ----

static int break_key(const struct lockctl_arguments *arguments, struct lock_keeper *keeper)
{
    int result = lock_keeper_break(keeper, arguments->key, arguments->grace);

    if (arguments->json && print_line(keeper))
        return lockctl_exit_code(arguments, result);
    if (result != 0)
        return lockctl_refused(arguments, keeper, result);
    printf(lock_keeper_get_reply(keeper)->broken ? "the lock on '%s' is broken\n"
                                                 : "nobody held the lock on '%s'\n",
           arguments->key);
    return LOCKCTL_DONE;
}

int lockctl_break(const struct lockctl_arguments *arguments)
{
    return ask(arguments, break_key);
}

// ---- ping ----

static int ping(const struct lockctl_arguments *arguments, struct lock_keeper *keeper)
{
    int result = lock_keeper_ping(keeper);
    const struct lock_keeper_reply *reply = lock_keeper_get_reply(keeper);

    if (result != 0)
        return lockctl_refused(arguments, keeper, result);
    if (arguments->json)
        print_line(keeper);
    else if (reply->redis_up)
        printf("lock-keeper answers, Redis is up\n");
    else
        printf("lock-keeper answers, Redis is down: %s\n",
               reply->redis_error ? reply->redis_error : "unknown");
    return arguments->redis && !reply->redis_up ? LOCKCTL_UNAVAILABLE : LOCKCTL_DONE;
}

int lockctl_ping(const struct lockctl_arguments *arguments)
{
    return ask(arguments, ping);
}

// ---- call ----

static int call(const struct lockctl_arguments *arguments, struct lock_keeper *keeper)
{
    int result = lock_keeper_call(keeper, arguments->key);

    if (print_line(keeper))
        return lockctl_exit_code(arguments, result);
    return lockctl_refused(arguments, keeper, result);
}

int lockctl_call(const struct lockctl_arguments *arguments)
{
    return ask(arguments, call);
}
