// SPDX-License-Identifier: Apache-2.0
//
// Hand-over by lock-keeper, inside one sidecar and between two.
#include <string.h>

#include "tests/bench/load.h"

enum { KEY_LENGTH = 24, WAIT_MS = 600000 };

struct sides {
    const char *sockets[2]; // the second NULL: all are at the first
    char key[LOAD_KEY_MAX];
};

static void contend(struct load_relay *relay, long number, void *context)
{
    const struct sides *sides = context;
    bool between = sides->sockets[1];
    struct load_line *line = load_line_new(sides->sockets[between ? number % 2 : 0]);
    char acquire[LOAD_KEY_MAX + 256], requests[2 * LOAD_KEY_MAX + 512];
    size_t size = load_acquire(acquire, 1, sides->key, WAIT_MS, 0);

    load_send(line->fd, acquire, size);
    for (;;) {
        const char *lease = load_lease_of(load_line_next(line));
        size_t n;

        load_relay_taken(relay);
        load_sleep_ms(LOAD_HOLD_MS);
        n = load_release(requests, 2, lease);
        // At the end of the queue again with the same write; but sidecars share no queue, and the
        // other one is to have its turn.
        if (!between) {
            memcpy(requests + n, acquire, size);
            n += size;
        }
        load_relay_hand_over(relay);
        load_send(line->fd, requests, n);
        if (strncmp(load_line_next(line), "{\"ok\":true,\"id\":2", 17) != 0)
            load_fail("release: not answered");
        if (between) {
            load_sleep_ms(LOAD_HOLD_MS / 2);
            load_send(line->fd, acquire, size);
        }
    }
}

static int run(struct sides *sides, long count, int64_t ms)
{
    load_key(sides->key, KEY_LENGTH, "handover", 1);
    return load_relay_run(count, ms, contend, sides);
}

int load_handover(int argc, char **argv)
{
    long waiters = load_number(argc > 2 ? argv[1] : NULL);

    return run(&(struct sides){.sockets = {argv[0]}}, waiters + 1, load_number(argv[2]));
}

int load_handover_between(int argc, char **argv)
{
    int64_t ms = load_number(argc > 2 ? argv[2] : NULL);

    return run(&(struct sides){.sockets = {argv[0], argv[1]}}, 2, ms);
}
