// SPDX-License-Identifier: Apache-2.0
//
// The bench. Each test is a process of its own, so its Redis and its sidecar may be globals; they
// start zeroed in every test.

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"

struct private_redis redis;
struct sidecar_process sidecar;

void bench_setup_bare(void)
{
    scratch_open();
    redis = (struct private_redis){0};
    sidecar = (struct sidecar_process){0};
}

void bench_setup(void)
{
    bench_setup_bare();
    private_redis_start(&redis, NULL);
}

void bench_check_log(const struct sidecar_process *process)
{
    static const char *const complaints[] = {"AddressSanitizer", "LeakSanitizer",
                                             "runtime error:", "Assertion"};
    char *log = sidecar_process_read_log(process);

    for (size_t i = 0; i < sizeof complaints / sizeof complaints[0]; i++) {
        const char *at = strstr(log, complaints[i]);

        ck_assert_msg(at == NULL, "the sidecar's log: %.3000s", at);
    }
    free(log);
}

void bench_stop(struct sidecar_process *process)
{
    int code;

    sidecar_process_signal(process, SIGUSR2);
    code = sidecar_process_wait(process, 5000);
    bench_check_log(process);
    ck_assert_int_eq(code, 0);
}

void bench_teardown(void)
{
    if (sidecar.pid)
        bench_stop(&sidecar);
    private_redis_deinit(&redis);
    scratch_close();
}

bool bench_exists(const char *key)
{
    return private_redis_int(&redis, "EXISTS lock:%s", key) == 1;
}

int64_t bench_pttl(const char *key)
{
    return private_redis_int(&redis, "PTTL lock:%s", key);
}

int64_t bench_await_gone(const char *key, int64_t timeout_ms)
{
    int64_t deadline = scratch_deadline(timeout_ms);

    while (bench_exists(key)) {
        ck_assert_msg(scratch_left(deadline) > 0, "lock:%s is still there after %lld ms", key,
                      (long long)timeout_ms);
        scratch_pause_ms(1);
    }
    return scratch_boottime_ms();
}

long long bench_count(const char *pattern)
{
    const redisReply *reply = private_redis_reply(&redis, "KEYS %s", pattern);

    return (long long)reply->elements;
}
