// SPDX-License-Identifier: Apache-2.0
//
// The pair of sidecars.

#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/tool/pair.h"

enum { NOBODY = 65534 };

struct sidecar_process second;

void pair_start_one(const char *ttl)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", ttl, "--socket-mode", "0666", NULL);
}

void pair_start(const char *ttl)
{
    second = (struct sidecar_process){.name = "second"};
    pair_start_one(ttl);
    sidecar_process_start(&second, redis.url, "--lock-ttl", ttl, "--socket-mode", "0666", NULL);
}

void pair_teardown(void)
{
    if (second.pid)
        bench_stop(&second);
    second = (struct sidecar_process){0};
    bench_teardown();
}

struct line_client pair_connect(const struct sidecar_process *process)
{
    struct line_client client;

    line_client_connect(&client, process->socket);
    return client;
}

static bool is_up(struct line_client *client)
{
    line_client_send(client, "{'op':'ping'}");
    line_client_await(client, "{'ok':true,'op':'ping'}");
    return strcmp(line_client_string(client, "redis"), "up") == 0;
}

void pair_await_up(struct line_client *client)
{
    SCRATCH_UNTIL(5000, is_up(client));
}

void pair_wait(struct line_client *client, const char *key, int64_t wait_ms)
{
    line_client_send(client, "{'id':'waits','op':'acquire','key':'%s','wait_ms':%lld}", key,
                     (long long)wait_ms);
    line_client_ping(client); // requests of one connection take effect in order
}

void pair_expect_granted(struct line_client *client, const char *key, struct line_lease *lease)
{
    line_client_expect(client,
                       "{'ok':true,'id':'waits','op':'acquire','key':'%s','lease':'<hex:32>',"
                       "'fence':'<int>','valid_until_ms':'<int>','waited_ms':'<int>'}",
                       key);
    strcpy(lease->lease, line_client_string(client, "lease"));
    lease->fence = line_client_int(client, "fence");
    lease->valid_until_ms = line_client_int(client, "valid_until_ms");
}

void pair_expect_nothing(struct line_client *client)
{
    line_client_ping(client);
}

void pair_expect_no_leases(struct line_client *client)
{
    line_client_send(client, "{'op':'list'}");
    line_client_expect(client, "{'ok':true,'op':'list','leases':[]}");
}

const char *pair_value(const char *key)
{
    static char value[1024];
    const char *found = private_redis_string(&redis, "GET lock:%s", key);

    snprintf(value, sizeof value, "%s", found ? found : "");
    return value;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

int64_t pair_report(const char *what, int64_t *took_us, size_t count)
{
    qsort(took_us, count, sizeof took_us[0], compare);
    printf("# %s: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, max %.2f ms of %zu\n", what,
           (double)took_us[count / 2] / 1e3, (double)took_us[count * 9 / 10] / 1e3,
           (double)took_us[count * 99 / 100] / 1e3, (double)took_us[count - 1] / 1e3, count);
    fflush(stdout);
    return took_us[count * 9 / 10];
}

pid_t pair_fork_other_user(void)
{
    pid_t pid;

    if (geteuid() != 0) {
        printf("# skipped: another user needs root\n");
        fflush(stdout);
        return -1;
    }
    ck_assert_int_eq(chmod(scratch_path(""), 0711), 0);
    ck_assert_int_eq(chmod(scratch_path(".."), 0711), 0);
    pid = scratch_fork();
    if (pid == 0 && (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
        _exit(99);
    return pid;
}
