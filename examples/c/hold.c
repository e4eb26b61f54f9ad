// SPDX-License-Identifier: Apache-2.0
//
// A blocking program: holds a lease while it works, step by step, and stops in time when it loses it.
//
//     hold KEY [STEPS]
//
// Exit: 0 the work is done; 75 the key is held; 69 no sidecar, or no Redis; 123 the lease was lost.
//
//     cc hold.c $(pkg-config --cflags --libs liblockkeeper) -o hold
#include <lock_keeper.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { EXIT_UNAVAILABLE = 69, EXIT_HELD = 75, EXIT_LOST = 123 };

// A step is short, and what it writes carries the fencing token: whoever stores it refuses a token
// that is lower than the highest it has seen.
static void work(int step, int64_t fence)
{
    printf("step %d under fence %lld\n", step, (long long)fence);
    fflush(stdout);
    usleep(200 * 1000);
}

// Between steps the library reads what the sidecar has to say, without waiting.
static bool may_go_on(struct lock_keeper *keeper, const struct lock_keeper_lease *lease)
{
    const struct lock_keeper_event *event;

    lock_keeper_wait(keeper, 0);
    while ((event = lock_keeper_next_event(keeper)))
        if (event->kind == LOCK_KEEPER_EVENT_REVOKED)
            fprintf(stderr, "stopping: %s: %s\n", event->reason_name, event->message);
    return lock_keeper_valid(lease);
}

static int work_under(struct lock_keeper *keeper, struct lock_keeper_lease *lease, int steps)
{
    int done = 0;

    while (done < steps && may_go_on(keeper, lease))
        work(++done, lock_keeper_lease_fence(lease));
    // Also after a loss: it says that the work has stopped, and frees a key that is still ours.
    if (lock_keeper_release(keeper, lease) == 0 && done == steps)
        return 0;
    fprintf(stderr, "%s\n", lock_keeper_get_error(keeper)->message);
    return EXIT_LOST;
}

int main(int argc, char **argv)
{
    struct lock_keeper *keeper = lock_keeper_new(NULL);
    struct lock_keeper_lease *lease;
    int result;

    if (argc < 2 || !keeper) {
        fprintf(stderr, "usage: hold KEY [STEPS]\n");
        return 64;
    }
    result = lock_keeper_acquire(
        keeper,
        &(struct lock_keeper_acquire){.key = argv[1], .wait_ms = 2000, .label = "examples/c/hold"},
        &lease);
    if (result == 0) {
        result = work_under(keeper, lease, argc > 2 ? atoi(argv[2]) : 10);
    } else {
        fprintf(stderr, "%s\n", lock_keeper_get_error(keeper)->message);
        result = result == LOCK_KEEPER_E_LOCK_HELD ? EXIT_HELD : EXIT_UNAVAILABLE;
    }
    lock_keeper_free(keeper);
    return result;
}
