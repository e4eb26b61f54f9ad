// SPDX-License-Identifier: Apache-2.0
//
// Row 17: names that are looked up slowly, badly, or not at all.

#include <stdio.h>
#include <string.h>

#include "tests/fault/rows.h"
#include "tests/tool/fake_dns.h"

static struct fake_dns *dns;

// The name server, Redis, and a sidecar that knows Redis by name. False: it cannot be had here.
static bool start_by_name(enum fake_dns_mode mode, const char *ttl)
{
    char url[64];
    const char *why;

    dns = fake_dns_new(&why);
    if (!dns) {
        rows_skip(why);
        return false;
    }
    fake_dns_mode(dns, mode);
    private_redis_start(&redis, NULL);
    rows_start_proxy(true);
    snprintf(url, sizeof url, "redis://redis.test.example:%d", fault_proxy_port(proxy));
    sidecar_process_start(&sidecar, url, "--lock-ttl", ttl, "--log-level", "debug", NULL);
    return true;
}

static void end(void)
{
    bench_stop(&sidecar);
    dns = fake_dns_free(dns);
}

// Without root: a name that no server knows.
START_TEST(row_17_no_such_name)
{
    struct line_client client;

    sidecar_process_start(&sidecar, "redis://no-such-host.invalid:6379", "--lock-ttl", "1s", NULL);
    client = rows_connect();
    rows_expect_lively(&client, 500);
    for (int i = 0; i < 3; i++)
        rows_expect_refused(&client, "k", "errRedisUnavailable", 1000 / 12 + ROWS_NOISE_MS);
    ck_assert(rows_redis_is(&client, "down"));
    line_client_close(&client);
}
END_TEST

// Nothing is known yet, and the name server never answers.
START_TEST(row_17_slow_from_the_start)
{
    struct line_client client;
    struct line_lease lease;

    if (!start_by_name(FAKE_DNS_SILENT, "1s"))
        return;
    client = rows_connect();
    rows_expect_lively(&client, 1000);
    for (int i = 0; i < 3; i++)
        rows_expect_refused(&client, "k", "errRedisUnavailable", 1000 / 12 + ROWS_NOISE_MS);
    ck_assert_int_gt(fake_dns_questions(dns), 0);
    fake_dns_mode(dns, FAKE_DNS_ANSWERS);
    SCRATCH_UNTIL(12000, rows_redis_is(&client, "up")); // the resolver asks again after 5 s
    rows_acquire(&client, &lease, "k", "");
    line_client_close(&client);
    end();
}
END_TEST

// The address is known. The name server falls silent, or fails; the connection is cut again and again.
static const enum fake_dns_mode bad_modes[] = {FAKE_DNS_SILENT, FAKE_DNS_FAILS};

START_TEST(row_17_last_good_address)
{
    struct rows_holder holder;
    int before, questions;

    if (!start_by_name(FAKE_DNS_ANSWERS, "3s"))
        return;
    rows_hold(&holder, "named", "");
    rows_await_renewed(&holder);
    fake_dns_mode(dns, bad_modes[_i]);
    questions = fake_dns_questions(dns);
    for (int i = 0; i < 4; i++) {
        before = fault_proxy_connections(proxy);
        fault_proxy_cut(proxy);
        SCRATCH_UNTIL(500, fault_proxy_connections(proxy) > before);
        rows_await_up(&holder.client);
        rows_expect_lively(&holder.client, 300);
        rows_await_renewed(&holder);
    }
    ck_assert_int_gt(fake_dns_questions(dns), questions);
    rows_release(&holder);
    rows_leave(&holder);
    end();
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of names");
    TCase *tests = rows_case(suite, "names", rows_setup_bare);

    rows_add(tests, row_17_no_such_name);
    rows_add(tests, row_17_slow_from_the_start);
    rows_add_loop(tests, row_17_last_good_address, 2);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
