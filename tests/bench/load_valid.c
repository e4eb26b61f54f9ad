// SPDX-License-Identifier: Apache-2.0
//
// Checking a lease: lock_keeper_valid, beside the clock read that it cannot do without.
#include <stdio.h>
#include <time.h>

#include "client/lock_keeper.h"
#include "tests/bench/load.h"

enum { BATCH = 10000 };

static void report(uint64_t count, int64_t ns)
{
    printf("{\"count\":%llu,\"ns_each\":%.3f}\n", (unsigned long long)count,
           (double)ns / (double)count);
}

int load_valid(int argc, char **argv)
{
    int64_t ms = load_number(argc > 1 ? argv[1] : NULL);
    const struct lock_keeper_acquire acquire = {.key = "bench:valid"};
    struct lock_keeper *keeper = lock_keeper_new(argv[0]);
    struct lock_keeper_lease *lease;
    int64_t start_ns, now_ns;
    uint64_t count = 0;

    if (!keeper || lock_keeper_acquire(keeper, &acquire, &lease) != 0)
        load_fail("acquire: %s", keeper ? lock_keeper_get_error(keeper)->message : "out of memory");
    start_ns = now_ns = load_now_ns();
    for (; now_ns < start_ns + ms * 1000000; now_ns = load_now_ns()) {
        for (int i = 0; i < BATCH; i++)
            if (!lock_keeper_valid(lease))
                load_fail("the lease is not valid");
        count += BATCH;
    }
    report(count, now_ns - start_ns);
    lock_keeper_free(keeper);
    return 0;
}

int floor_clock(int argc, char **argv)
{
    int64_t ms = load_number(argc > 0 ? argv[0] : NULL);
    int64_t start_ns = load_now_ns(), now_ns = start_ns, seen_ns = 0;
    uint64_t count = 0;

    for (; now_ns < start_ns + ms * 1000000; now_ns = load_now_ns()) {
        for (int i = 0; i < BATCH; i++) {
            struct timespec now;
            clock_gettime(CLOCK_BOOTTIME, &now);
            seen_ns |= now.tv_nsec;
        }
        count += BATCH;
    }
    if (seen_ns == 0)
        load_fail("the clock stands");
    report(count, now_ns - start_ns);
    return 0;
}
