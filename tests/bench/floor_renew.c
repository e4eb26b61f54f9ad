// SPDX-License-Identifier: Apache-2.0
//
// The floor of renewing and of remembering: a C loop over a flat array, whose script calls of 100
// keys are spread evenly over the period; flat arrays of leases and of connections.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sidecar/redis_scripts.h"
#include "tests/bench/load.h"

enum { KEY_LENGTH = 24, BATCH = 100 };

#define TTL_MS "60000"

// ---- Renewals ----

struct lease {
    char key[5 + KEY_LENGTH + 1];
    char head[LOAD_HEAD_LENGTH + 1];
};

static redisContext *redis;

static void create(struct lease *leases, long count)
{
    char value[LOAD_HEAD_LENGTH + 64];

    for (long i = 0; i < count; i++) {
        memcpy(leases[i].key, "lock:", 5);
        load_key(leases[i].key + 5, KEY_LENGTH, "renew", i);
        floor_head(leases[i].head);
        snprintf(value, sizeof value,
                 "%s1790000000000000 30000 1790000000000000 "
                 "1790000000000000 4711 0 host",
                 leases[i].head);
        redisAppendCommand(redis, "SET %s %s PX " TTL_MS, leases[i].key, value);
        if (i % BATCH == BATCH - 1 || i == count - 1) {
            for (long n = i % BATCH; n >= 0; n--) {
                redisReply *reply = NULL;
                redisGetReply(redis, (void **)&reply);
                floor_check(reply, "SET");
                freeReplyObject(reply);
            }
        }
    }
}

static void renew(const struct lease *leases, long count)
{
    static const char *argv[3 + 3 * BATCH];
    static size_t sizes[3 + 3 * BATCH];
    char number[16];
    redisReply *reply;
    int n = 0;

#define PUT(text, size) (argv[n] = (text), sizes[n++] = (size))
    PUT("EVALSHA", 7);
    PUT(redis_scripts[REDIS_SCRIPT_RENEW].sha, 40);
    PUT(number, (size_t)snprintf(number, sizeof number, "%ld", count));
    for (long i = 0; i < count; i++)
        PUT(leases[i].key, 5 + KEY_LENGTH);
    for (long i = 0; i < count; i++) {
        PUT(leases[i].head, LOAD_HEAD_LENGTH);
        PUT(TTL_MS, sizeof TTL_MS - 1);
    }
    reply = redisCommandArgv(redis, n, argv, sizes);
    floor_check(reply, "renew");
    for (size_t i = 0; i < reply->elements; i++)
        if (reply->element[i]->integer != 1)
            load_fail("renew: not renewed");
    freeReplyObject(reply);
}

static int64_t cpu_ns(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000000) +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * INT64_C(1000);
}

// "ready" is printed when the keys are there, so that Redis' own time can be taken from then on.
int floor_renew(int argc, char **argv)
{
    long count = load_number(argc > 3 ? argv[1] : NULL);
    int64_t period_ns = load_number(argv[2]) * 1000000;
    int64_t ms = load_number(argv[3]);
    struct lease *leases = calloc((size_t)count, sizeof *leases);
    int64_t start_ns, start_cpu_ns, now_ns;
    int64_t renewed = 0;

    redis = floor_connect(argv[0]);
    create(leases, count);
    puts("ready");
    fflush(stdout);
    start_ns = now_ns = load_now_ns();
    start_cpu_ns = cpu_ns();
    while (now_ns < start_ns + ms * 1000000) {
        // As many as are due by now, in whole batches.
        int64_t due = (int64_t)((double)(now_ns - start_ns) * (double)count / (double)period_ns);
        if (due - renewed < BATCH) {
            load_sleep_ms(1);
        } else {
            long at = (long)(renewed % count);
            long size = count - at < BATCH ? count - at : BATCH;
            renew(leases + at, size);
            renewed += size;
        }
        now_ns = load_now_ns();
    }
    printf("{\"renewed\":%lld,\"seconds\":%.3f,\"cpu_percent\":%.3f}\n", (long long)renewed,
           (double)(now_ns - start_ns) / 1e9,
           100.0 * (double)(cpu_ns() - start_cpu_ns) / (double)(now_ns - start_ns));
    return 0;
}

// ---- Memory ----

static long rss_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long size, resident;

    if (!file || fscanf(file, "%ld %ld", &size, &resident) != 2)
        load_fail("/proc/self/statm cannot be read");
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

// What a lease is, and nothing to find it by.
struct __attribute__((packed)) flat_lease {
    char key[KEY_LENGTH];
    uint8_t token[16];
    int64_t fence;
    int64_t valid_until_ms;
    int64_t next_ms;
    uint32_t ttl_ms;
    uint32_t deadline_ms;
    uint32_t connection;
    uint8_t state;
};

// What is known of an idle connection, in memory of its own.
struct flat_connection {
    int fd;
    uint32_t pid;
    uint32_t uid;
    uint32_t leases;
    char *buffers[2];
    size_t lengths[2];
    int64_t deadlines_ms[3];
    uint32_t links[6];
    uint16_t flags;
};

int floor_memory(int argc, char **argv)
{
    long count = load_number(argc > 1 ? argv[1] : NULL);
    bool is_leases = strcmp(argv[0], "leases") == 0;
    size_t size = is_leases ? sizeof(struct flat_lease) : sizeof(struct flat_connection);
    long before = rss_bytes();
    char *all = is_leases ? malloc((size_t)count * size) : NULL;

    for (long i = 0; i < count; i++) {
        char *one = is_leases ? all + (size_t)i * size : malloc(size);
        if (!one)
            load_fail("out of memory");
        memset(one, 1, size);
        __asm__ volatile("" : : "r"(one) : "memory");
    }
    printf("{\"bytes_each\":%.1f}\n", (double)(rss_bytes() - before) / (double)count);
    return 0;
}
