// SPDX-License-Identifier: Apache-2.0
//
// Hand-over: from the write of the holder's release to the moment at which the next one has read
// its grant. One process plays all parts, so that nothing but the hand-over is on the path; the next
// one is known (first come, first served), and the wait is a blocking read.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/load.h"

enum { KEY_LENGTH = 24, WAIT_MS = 60000, SETTLE_MS = 2 };

struct contender {
    struct load_line *line;
    char lease[LOAD_LEASE_DIGITS];
};

static void take(struct contender *contender)
{
    memcpy(contender->lease, load_lease_of(load_line_next(contender->line)), LOAD_LEASE_DIGITS);
}

static void ask(struct contender *contender, const char *key)
{
    char request[LOAD_KEY_MAX + 256];

    load_send(contender->line->fd, request, load_acquire(request, 1, key, WAIT_MS, 0));
}

// The time of one hand-over. The release's reply is read after it.
static int64_t hand_over(struct contender *from, struct contender *to)
{
    char request[256];
    size_t n = load_release(request, 2, from->lease);
    int64_t start_ns = load_now_ns();
    int64_t end_ns;
    char *reply;

    load_send(from->line->fd, request, n);
    take(to);
    end_ns = load_now_ns();
    reply = load_line_next(from->line);
    if (strncmp(reply, "{\"ok\":true", 10) != 0)
        load_fail("release: %s", reply);
    return end_ns - start_ns;
}

// A reply to a later request of the same connection says that the acquire before it is queued.
static void settle(struct contender *contender)
{
    static const char ping[] = "{\"op\":\"ping\"}\n";

    load_line_call(contender->line, ping, sizeof ping - 1);
}

static int run(struct contender *contenders, long count, int64_t ms, bool is_remote)
{
    struct load_samples samples = {0};
    int64_t total_ns = 0, end_ns;
    char key[LOAD_KEY_MAX];
    uint64_t done = 0;

    load_key(key, KEY_LENGTH, "handover", 1);
    ask(&contenders[0], key);
    take(&contenders[0]);
    for (long i = 1; i < count; i++) {
        ask(&contenders[i], key);
        settle(&contenders[i]);
    }
    end_ns = load_now_ns() + ms * 1000000;
    for (long at = 0; load_now_ns() < end_ns; at = (at + 1) % count) {
        int64_t ns;

        // Between sidecars the waiter has to have asked Redis and been heard by it.
        if (is_remote)
            load_sleep_ms(SETTLE_MS);
        ns = hand_over(&contenders[at], &contenders[(at + 1) % count]);
        if (done++ >= 3)
            load_samples_add(&samples, ns);
        total_ns += ns;
        ask(&contenders[at], key);
        settle(&contenders[at]);
    }
    load_report(done, total_ns, &samples);
    return 0;
}

int load_handover(int argc, char **argv)
{
    long waiters = argc > 2 ? load_number(argv[1]) : 0;
    struct contender *contenders = calloc((size_t)waiters + 1, sizeof *contenders);

    for (long i = 0; i <= waiters; i++)
        contenders[i].line = load_line_new(argv[0]);
    return run(contenders, waiters + 1, load_number(argv[2]), false);
}

int load_handover_between(int argc, char **argv)
{
    struct contender contenders[2];

    if (argc < 3)
        load_fail("arguments are missing");
    contenders[0].line = load_line_new(argv[0]);
    contenders[1].line = load_line_new(argv[1]);
    return run(contenders, 2, load_number(argv[2]), true);
}
