// SPDX-License-Identifier: Apache-2.0
//
// Hand-over: from the write of the holder's release to the moment at which the next process has read
// that it holds. Holder and waiters are processes of their own that sleep in a read; a hand-over
// begins when all have been asleep for a while, as it does in life.
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/bench/load.h"

enum { MAX_HAND_OVERS = 100000, WARM_UP = 5, START_MS = 60000 };

// In memory that all share. One holds at a time, so nobody else writes.
struct load_relay {
    int64_t handed_over_ns; // 0: by nobody yet
    uint32_t count;
    uint32_t ns[MAX_HAND_OVERS];
};

void load_relay_hand_over(struct load_relay *relay)
{
    __atomic_store_n(&relay->handed_over_ns, load_now_ns(), __ATOMIC_RELEASE);
}

void load_relay_taken(struct load_relay *relay)
{
    int64_t now_ns = load_now_ns();
    int64_t start_ns = __atomic_load_n(&relay->handed_over_ns, __ATOMIC_ACQUIRE);

    if (start_ns > 0 && relay->count < MAX_HAND_OVERS) {
        relay->ns[relay->count] = (uint32_t)(now_ns - start_ns);
        __atomic_store_n(&relay->count, relay->count + 1, __ATOMIC_RELEASE);
    }
}

// The first hand-overs come while some of the processes still start.
static void wait_for_start(const struct load_relay *relay)
{
    for (int i = 0; __atomic_load_n(&relay->count, __ATOMIC_ACQUIRE) < WARM_UP; i++) {
        if (i == START_MS)
            load_fail("no hand-over in %d s", START_MS / 1000);
        load_sleep_ms(1);
    }
}

int load_relay_run(long count, int64_t ms,
                   void (*run)(struct load_relay *relay, long number, void *context), void *context)
{
    struct load_relay *relay =
        mmap(NULL, sizeof *relay, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t *pids = calloc((size_t)count, sizeof *pids);
    struct load_samples samples = {0};
    int64_t total_ns = 0;

    for (long i = 0; i < count; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            run(relay, i, context);
            exit(1);
        }
    }
    wait_for_start(relay);
    load_sleep_ms(ms);
    for (long i = 0; i < count; i++)
        kill(pids[i], SIGKILL);
    for (long i = 0; i < count; i++)
        waitpid(pids[i], NULL, 0);
    for (uint32_t i = WARM_UP; i < relay->count; i++) {
        load_samples_add(&samples, relay->ns[i]);
        total_ns += relay->ns[i];
    }
    load_report(samples.count, total_ns, &samples);
    return 0;
}
