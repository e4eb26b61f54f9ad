// SPDX-License-Identifier: Apache-2.0
//
// Row 20: no processor to be had. Runs alone, since it takes the machine from every other test.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/rows.h"

enum {
    BUSY = 8,
    STARVED_NOISE_MS = 250, // of the test's own: it starves, too
};

static void burn(void)
{
    for (int i = 0; i < BUSY; i++) {
        if (scratch_fork() == 0) {
            for (volatile unsigned x = 0;; x++)
                ;
        }
    }
}

// No beat is missed, no revoke is false; and when Redis goes away, none is late.
START_TEST(row_20_starved)
{
    struct rows_holder holders[20];
    struct rival *rival;
    char key[16];

    rows_start("2s");
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "starved:%d", i);
        rows_hold(&holders[i], key, "");
    }
    burn();
    rows_expect_held(&holders[0], rows_long() ? 20000 : 4000);
    for (int i = 0; i < 20; i++) {
        rows_expect_held(&holders[i], 1);
        ck_assert_int_ge(holders[i].renewed, 3);
    }
    rival = rival_new(redis.socket, "starved:0");
    fault_proxy_refuse(proxy, true);
    fault_proxy_cut(proxy);
    rows_await_all_revoked(holders, 20, 3000);
    for (int i = 0; i < 20; i++) {
        const struct rows_holder *holder = &holders[i];

        ck_assert_str_eq(holder->reason, "unreachable");
        // Written in time, whenever we came to read it: what was left then was the margin.
        ck_assert_int_ge(holder->safe_ms, 2000 / 5 - ROWS_SLACK_MS);
        ck_assert_int_le(holder->revoked_ms, holder->valid_until_ms - 2000 / 5 + STARVED_NOISE_MS);
    }
    rival_await(rival, 3000);
    ck_assert_int_ge(rival_won_ms(rival), holders[0].valid_until_ms);
    rival_free(rival);
    for (int i = 0; i < 20; i++)
        rows_leave(&holders[i]);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of a starved machine");
    TCase *tests = rows_case(suite, "starved", rows_setup);

    rows_add(tests, row_20_starved);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
