// SPDX-License-Identifier: Apache-2.0
//
// Runs seeds, on several processes at once, and reports: grants, faults of each kind, ends, the least
// slack, coverage. A failing seed prints why, and the commands that replay it.
//
//     simulate --seeds 1..200 [--jobs 2] [--grants N] [--coverage]
//     simulate --seed 17 --trace

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sim.h"

enum { MAX_JOBS = 64, WHY = 16384 };

struct plan {
    uint64_t first, last;
    uint64_t grants; // stop after so many, shared by all jobs; 0: no bound
    int jobs;
    int64_t length_ms;
    uint32_t faults;
    bool trace, coverage, verbose;
};

static volatile uint64_t current_seed;

static void on_abort(int number)
{
    char text[128];
    int n = snprintf(text, sizeof text,
                     "seed %" PRIu64 " ended by signal %d; replay it:\n  %s%" PRIu64 " --trace\n",
                     current_seed, number, "./scripts/simulate --seed ", current_seed);

    (void)!write(STDERR_FILENO, text, (size_t)n);
    signal(number, SIG_DFL);
    raise(number);
}

static void explain(const struct plan *plan, uint64_t seed, const char *why)
{
    char more[64] = "";

    if (plan->faults != UINT32_MAX)
        snprintf(more, sizeof more, " --faults %#x", plan->faults);
    if (plan->length_ms)
        snprintf(more + strlen(more), sizeof more - strlen(more), " --length %" PRId64,
                 plan->length_ms);
    fflush(stdout);
    fprintf(stderr,
            "seed %" PRIu64 " failed\n%s\nreplay it:\n"
            "  ./scripts/simulate --seed %" PRIu64 "%s\n"
            "  ./scripts/simulate --seed %" PRIu64 "%s --trace\n",
            seed, why, seed, more, seed, more);
}

// 0, or 1 when a seed failed.
static int run_job(const struct plan *plan, int job, struct sim_stats *stats)
{
    static char why[WHY];

    for (uint64_t seed = plan->first + (uint64_t)job; seed <= plan->last;
         seed += (uint64_t)plan->jobs) {
        struct sim_run run = {.seed = seed,
                              .length_ms = plan->length_ms,
                              .faults = plan->faults,
                              .trace = plan->trace};
        current_seed = seed;
        if (world_run(&run, stats, why, sizeof why) != 0) {
            explain(plan, seed, why);
            return 1;
        }
        if (plan->grants && stats->grants >= plan->grants / (uint64_t)plan->jobs)
            return 0;
    }
    return 0;
}

static void add(struct sim_stats *sum, const struct sim_stats *stats)
{
    const uint64_t *from = (const uint64_t *)stats;
    uint64_t *to = (uint64_t *)sum;

    for (size_t i = 0; i < offsetof(struct sim_stats, least_slack_us) / sizeof *to; i++)
        to[i] += from[i];
    if (stats->least_slack_us < sum->least_slack_us)
        sum->least_slack_us = stats->least_slack_us;
}

static int start_job(const struct plan *plan, int job, pid_t *pid)
{
    struct sim_stats stats = {.least_slack_us = INT64_MAX};
    int ends[2], r;

    if (pipe(ends) < 0)
        return -errno;
    fflush(NULL);
    *pid = fork();
    if (*pid < 0)
        return -errno;
    if (*pid > 0) {
        close(ends[1]);
        return ends[0];
    }
    close(ends[0]);
    r = run_job(plan, job, &stats);
    fflush(NULL);
    if (write(ends[1], &stats, sizeof stats) != (ssize_t)sizeof stats)
        r = 2;
    _exit(r);
}

static bool finish_job(int fd, pid_t pid, struct sim_stats *sum)
{
    struct sim_stats stats;
    char *at = (char *)&stats;
    size_t got = 0;
    ssize_t n;
    int status;

    while (got < sizeof stats && (n = read(fd, at + got, sizeof stats - got)) > 0)
        got += (size_t)n;
    close(fd);
    if (waitpid(pid, &status, 0) != pid)
        return false;
    if (got == sizeof stats)
        add(sum, &stats);
    return status == 0 && got == sizeof stats;
}

static bool run_jobs(const struct plan *plan, struct sim_stats *sum)
{
    pid_t pids[MAX_JOBS];
    int fds[MAX_JOBS];
    bool good = true;

    if (plan->jobs == 1)
        return run_job(plan, 0, sum) == 0;
    for (int i = 0; i < plan->jobs; i++) {
        fds[i] = start_job(plan, i, &pids[i]);
        if (fds[i] < 0) {
            fprintf(stderr, "cannot start a job: %s\n", strerror(-fds[i]));
            exit(EX_OSERR);
        }
    }
    for (int i = 0; i < plan->jobs; i++)
        good &= finish_job(fds[i], pids[i], sum);
    return good;
}

// ---- The report ----

static void report(const struct sim_stats *stats, double seconds)
{
    static const char *const ends[] = {
        [HISTORY_ACQUIRING] = "unfinished", [HISTORY_LIVE] = "live",
        [HISTORY_RELEASED] = "released",    [HISTORY_TOLD] = "revoked",
        [HISTORY_LEFT] = "client left",     [HISTORY_CUT] = "client cut off",
        [HISTORY_DIED] = "sidecar died",    [HISTORY_DENIED] = "asked in vain",
    };

    printf("%" PRIu64 " runs, %" PRIu64 " grants, %" PRIu64 " events, %" PRIu64
           " records, %.1f h of virtual time, in %.1f s\n",
           stats->runs, stats->grants, stats->events, stats->records,
           (double)stats->world_ms / 3600000, seconds);
    printf("%" PRIu64 " hand-overs, %" PRIu64 " adoptions\n", stats->handed, stats->adopted);
    printf("ends of leases:\n");
    for (int i = 0; i < HISTORY_END_COUNT; i++)
        printf("  %12" PRIu64 " %s\n", stats->ends[i], ends[i]);
    printf("revoked, by reason:\n");
    for (int i = 0; i < WIRE_REASON_COUNT; i++)
        printf("  %12" PRIu64 " %s\n", stats->revoked[i], wire_reason_names[i]);
    printf("faults:\n");
    for (int i = 0; i < SIM_FAULT_COUNT; i++)
        printf("  %12" PRIu64 " %s\n", stats->faults[i], sim_fault_names[i]);
    if (stats->least_slack_us != INT64_MAX)
        printf("least slack between the end of a safe_ms and the end of the key: %.3f ms\n",
               (double)stats->least_slack_us / 1000);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int usage(void)
{
    fputs(
        "usage: simulate --seeds A..B | --seed N  [--trace] [--jobs N] [--grants N] [--length MS]\n"
        "                [--faults MASK] [--coverage] [--verbose]\n",
        stderr);
    return EX_USAGE;
}

static bool parse(int argc, char **argv, struct plan *plan)
{
    static const struct option options[] = {
        {"seeds", required_argument, NULL, 's'},  {"seed", required_argument, NULL, 'n'},
        {"trace", no_argument, NULL, 't'},        {"jobs", required_argument, NULL, 'j'},
        {"grants", required_argument, NULL, 'g'}, {"length", required_argument, NULL, 'l'},
        {"faults", required_argument, NULL, 'f'}, {"coverage", no_argument, NULL, 'c'},
        {"verbose", no_argument, NULL, 'v'},      {0},
    };
    char *end = NULL;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            plan->first = strtoull(optarg, &end, 10);
            if (strncmp(end, "..", 2) != 0)
                return false;
            plan->last = strtoull(end + 2, &end, 10);
            break;
        case 'n':
            plan->first = plan->last = strtoull(optarg, &end, 10);
            plan->jobs = 1;
            break;
        case 't':
            plan->trace = true;
            break;
        case 'j':
            plan->jobs = (int)strtol(optarg, &end, 10);
            break;
        case 'g':
            plan->grants = strtoull(optarg, &end, 10);
            break;
        case 'l':
            plan->length_ms = strtoll(optarg, &end, 10);
            break;
        case 'f':
            plan->faults = (uint32_t)strtoul(optarg, &end, 0);
            break;
        case 'c':
            plan->coverage = true;
            break;
        case 'v':
            plan->verbose = true;
            break;
        default:
            return false;
        }
        if (end && *end)
            return false;
    }
    return optind == argc && plan->first <= plan->last && plan->jobs > 0 &&
           plan->jobs <= MAX_JOBS && (!plan->trace || plan->jobs == 1);
}

int main(int argc, char **argv)
{
    struct plan plan = {.first = 1, .last = 0, .jobs = 1, .faults = UINT32_MAX};
    struct sim_stats sum = {.least_slack_us = INT64_MAX};
    double begin = now();
    bool good;

    if (!parse(argc, argv, &plan))
        return usage();
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    good = run_jobs(&plan, &sum);
    report(&sum, now() - begin);
    if (plan.coverage || plan.verbose)
        good &= cover_report(&sum, plan.verbose) == 0;
    puts(good ? "no invariant was broken" : "FAILED");
    return good ? 0 : 1;
}
