// SPDX-License-Identifier: Apache-2.0
//
// What all measurements share, and the table of them.
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/load.h"

enum { MAX_SAMPLES = 4000000 };

void load_fail(const char *format, ...)
{
    va_list args;

    fputs("load: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

int64_t load_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void load_sleep_ms(int64_t ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

long load_number(const char *text)
{
    char *end;
    long number;

    if (!text)
        load_fail("an argument is missing");
    number = strtol(text, &end, 10);
    if (*end || end == text || number < 0)
        load_fail("\"%s\" is no number", text);
    return number;
}

void load_key(char *key, size_t length, const char *name, long number)
{
    char start[LOAD_KEY_MAX];
    int n = snprintf(start, sizeof start, "%s%d:%06ld:", name, (int)getpid(), number);

    if (length < (size_t)n || length >= LOAD_KEY_MAX)
        load_fail("a key of %zu bytes cannot be made", length);
    memset(key, 'k', length);
    memcpy(key, start, (size_t)n);
    key[length] = '\0';
}

// ---- Samples ----

void load_samples_add(struct load_samples *samples, int64_t ns)
{
    if (samples->count == MAX_SAMPLES)
        return;
    if (samples->count == samples->capacity) {
        samples->capacity = samples->capacity ? samples->capacity * 2 : 4096;
        samples->ns = reallocarray(samples->ns, samples->capacity, sizeof *samples->ns);
        if (!samples->ns)
            load_fail("out of memory");
    }
    samples->ns[samples->count++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

double load_samples_us(struct load_samples *samples, double share)
{
    if (samples->count == 0)
        return 0;
    qsort(samples->ns, samples->count, sizeof *samples->ns, by_value);
    return samples->ns[(size_t)(share * (double)(samples->count - 1))] / 1000.0;
}

void load_report(uint64_t pairs, int64_t ns, struct load_samples *samples)
{
    if (pairs == 0)
        load_fail("nothing was measured in %.3f s", (double)ns / 1e9);
    printf("{\"count\":%llu,\"seconds\":%.6f,\"per_second\":%.1f", (unsigned long long)pairs,
           (double)ns / 1e9, (double)pairs * 1e9 / (double)ns);
    if (samples && samples->count > 0)
        printf(",\"p50_us\":%.2f,\"p90_us\":%.2f,\"p99_us\":%.2f", load_samples_us(samples, 0.5),
               load_samples_us(samples, 0.9), load_samples_us(samples, 0.99));
    puts("}");
}

// ---- The table ----

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *arguments;
} measurements[] = {
    {"pairs", load_pairs, "SOCKET CONNECTIONS IN-FLIGHT MS [KEY-LENGTH]"},
    {"processes", load_processes, "SOCKET PROCESSES MS"},
    {"latency", load_latency, "SOCKET MS"},
    {"handover", load_handover, "SOCKET WAITERS MS"},
    {"handover-between", load_handover_between, "SOCKET SOCKET MS"},
    {"hold", load_hold, "SOCKET LEASES CONNECTIONS TTL-MS [KEY-LENGTH]"},
    {"idle", load_idle, "SOCKET CONNECTIONS"},
    {"spawn", load_spawn, "MS COMMAND..."},
    {"valid", load_valid, "SOCKET MS"},
    {"ready", load_ready, "SOCKET TIMES COMMAND..."},
    {"floor-pairs", floor_pairs, "REDIS scripts|set CONNECTIONS IN-FLIGHT MS [KEY-LENGTH]"},
    {"floor-processes", floor_processes, "REDIS PROCESSES MS"},
    {"floor-latency", floor_latency, "REDIS MS"},
    {"floor-handover", floor_handover, "REDIS WAITERS MS"},
    {"floor-handover-between", floor_handover_between, "REDIS MS"},
    {"floor-renew", floor_renew, "REDIS LEASES PERIOD-MS MS"},
    {"floor-clock", floor_clock, "MS"},
    {"floor-memory", floor_memory, "leases|connections COUNT"},
};

static void raise_open_files(void)
{
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
    size_t count = sizeof measurements / sizeof measurements[0];

    signal(SIGPIPE, SIG_IGN);
    raise_open_files();
    for (size_t i = 0; argc > 1 && i < count; i++) {
        if (strcmp(argv[1], measurements[i].name) == 0)
            return measurements[i].run(argc - 2, argv + 2);
    }
    for (size_t i = 0; i < count; i++)
        fprintf(stderr, "load %s %s\n", measurements[i].name, measurements[i].arguments);
    return 64;
}

int load_count_processes(int argc, char **argv, load_process *one)
{
    long count = load_number(argc > 1 ? argv[1] : NULL);
    int64_t ms = load_number(argc > 2 ? argv[2] : NULL), start_ns, end_ns;
    uint64_t *sum =
        mmap(NULL, sizeof *sum, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t *pids = calloc((size_t)count, sizeof *pids);
    uint64_t before, done;

    if (sum == MAP_FAILED || !pids)
        load_fail("out of memory");
    for (long i = 0; i < count; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            load_fail("fork: %s", strerror(errno));
        if (pids[i] == 0)
            one(argv[0], i, sum);
    }
    load_sleep_ms(ms / 5 + 20);
    start_ns = load_now_ns();
    before = __atomic_load_n(sum, __ATOMIC_RELAXED);
    load_sleep_ms(ms);
    done = __atomic_load_n(sum, __ATOMIC_RELAXED) - before;
    end_ns = load_now_ns();
    for (long i = 0; i < count; i++)
        kill(pids[i], SIGKILL);
    for (long i = 0; i < count; i++)
        waitpid(pids[i], NULL, 0);
    free(pids);
    load_report(done, end_ns - start_ns, NULL);
    return 0;
}
