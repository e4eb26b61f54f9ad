// SPDX-License-Identifier: Apache-2.0
//
// The history checker must flag what is wrong and nothing else: good histories, and for each
// invariant bad ones that break it once. All of them are steps from the same good beginning.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/history_steps.h"

static const struct example good[] = {
    {.name = "nothing", .end_ms = 1},
    {"granted, renewed, released", 0, 5000, {BEGIN, RENEWS(900), RENEWS(1800), RELEASES(2000)}},
    {"the next one gets it",
     0,
     5000,
     {BEGIN, RELEASES(100), READS(200, 2, 2, 2), SENDS(200, 2, 2, 2), SETS(201, 2, 101),
      ANSWERED(202, 2, 2, 200), GRANTS(202, 2, 2, 2, 2, 200), RECEIVES(203, 2, 2, 200 + WORTH),
      CLIENT_GOES(300, 2, 2), SIDECAR(301, READ_EOF, 2, 2, 0), SIDECAR(301, SENT_DELETE, 2, 0, 2),
      SIDECAR(301, CLOSED, 2, 2, 0, .ok = true), REDIS(302, DELETED, 2)}},
    {"refused",
     0,
     5000,
     {READS(0, 1, 1, 1),
      SENDS(0, 1, 1, 1),
      {AT(3), .kind = HISTORY_WROTE_DENIED, .sidecar = 1, .client = 1, .request = 1}}},
    {"unreachable: told at D, the key runs out",
     0,
     9000,
     {BEGIN, TROUBLE(900, 4000), SIDECAR(1000, SENT_RENEW, 1, 0, 1),
      REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH), CLIENT_DOES(2400, REVOKED, 1, 1),
      KEY(3001, EXPIRED)}},
    {"lost, told at the next heartbeat",
     0,
     9000,
     {BEGIN, KEY(500, LOST), SETS(600, 7, 200), SIDECAR(900, SENT_RENEW, 1, 0, 1),
      REVOKES(902, LOST, 0)}},
    {"stopped past its validity: nobody acts",
     0,
     9000,
     {BEGIN, PROCESS(100, FROZEN, 1), KEY(3001, EXPIRED), SETS(3002, 2, 101),
      PROCESS(7000, THAWED, 1), REVOKES(7000, UNREACHABLE, 0)}},
    {"its client was slow to read: it never acts",
     0,
     9000,
     {READS(0, 1, 1, 1), SENDS(0, 1, 1, 1), SETS(1, 1, 100), ANSWERED(2, 1, 1, 0),
      GRANTS(2, 1, 1, 1, 1, 0), RENEWS(900), TROUBLE(1000, 4000), REVOKES(3268, UNREACHABLE, 0),
      KEY(3901, EXPIRED), SETS(3902, 2, 101), RECEIVES(5000, 1, 1, WORTH)}},
    {"a release that nobody read, and a lease that expires",
     0,
     9000,
     {READS(0, 1, 1, 1), SENDS(0, 1, 1, 1), SETS(1, 1, 100), ANSWERED(2, 1, 1, 0),
      SIDECAR(2, WROTE_GRANTED, 1, 1, 1, .request = 1, .key = 1, UNTIL(WORTH), DUE(10000),
              .expires = true),
      CLIENT_DOES(100, RELEASES, 2, 1), CLIENT_GOES(200, 1, 1),
      SIDECAR(201, CLOSED, 1, 1, 0, .ok = true), KEY(3001, EXPIRED)}},
    {"its sidecar died",
     0,
     9000,
     {BEGIN,
      PROCESS(100, ENDED, 1),
      {AT(101), .kind = HISTORY_CLIENT_EOF, .client = 1},
      KEY(3001, EXPIRED),
      SETS(3002, 2, 101)}},
    {"an orphan while Redis is away",
     0,
     9000,
     {READS(0, 1, 1, 1),
      SENDS(0, 1, 1, 1),
      TROUBLE(0, 1500),
      SETS(1, 1, 100),
      {AT(250), .kind = HISTORY_WROTE_DENIED, .sidecar = 1, .client = 1, .request = 1},
      SIDECAR(1600, SENT_DELETE, 1, 0, 1),
      REDIS(1601, DELETED, 1)}},
};

static const struct example bad[] = {
    {"gone before what was promised",
     2,
     0,
     {BEGIN, TROUBLE(900, 4000), REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH + 100),
      KEY(3001, EXPIRED)}},
    {"told after the key was gone",
     2,
     0,
     {BEGIN, TROUBLE(900, 4000), KEY(3001, EXPIRED), REVOKES(3002, UNREACHABLE, 0)}},
    {"told late", 2, 0, {BEGIN, TROUBLE(900, 4000), REVOKES(WORTH - 10, UNREACHABLE, WORTH)}},
    {"published more than was confirmed",
     3,
     0,
     {READS(0, 1, 1, 1), SENDS(0, 1, 1, 1), SETS(5, 1, 100), ANSWERED(9, 1, 1, 0),
      GRANTS(9, 1, 1, 1, 1, 9)}},
    {"renewed more than was confirmed",
     3,
     0,
     {BEGIN, RENEWS(900), SIDECAR(902, WROTE_RENEWED, 1, 1, 1, UNTIL(902 + WORTH))}},
    {"valid after the key is gone", 3, 0, {BEGIN, KEY(2000, EXPIRED)}},
    {"told twice",
     4,
     0,
     {BEGIN, TROUBLE(900, 4000), REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH),
      REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH)}},
    {"renewed after the end",
     4,
     0,
     {BEGIN, TROUBLE(900, 4000), REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH),
      SIDECAR(2500, WROTE_RENEWED, 1, 1, 1, UNTIL(WORTH))}},
    {"a renewal sent after the release",
     4,
     0,
     {BEGIN, CLIENT_DOES(100, RELEASES, 1, 1), SIDECAR(101, READ_RELEASE, 1, 1, 1),
      SIDECAR(102, SENT_RENEW, 1, 0, 1)}},
    {"revoked after the release",
     4,
     0,
     {BEGIN, CLIENT_DOES(100, RELEASES, 1, 1), SIDECAR(101, READ_RELEASE, 1, 1, 1),
      TROUBLE(102, 4000), REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH)}},
    {"success after a revoke",
     4,
     0,
     {BEGIN, TROUBLE(900, 4000), REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH),
      CLIENT_DOES(2400, RELEASES, 1, 1), SIDECAR(2401, READ_RELEASE, 1, 1, 1),
      SIDECAR(2402, WROTE_RELEASED, 1, 1, 1, .ok = true)}},
    {"granted twice", 4, 0, {BEGIN, READS(10, 1, 1, 2), GRANTS(11, 1, 1, 2, 1, 0)}},
    {"somebody else's key deleted", 5, 0, {BEGIN, REDIS(10, DELETED, 2)}},
    {"somebody else's key extended", 5, 0, {BEGIN, REDIS(10, EXTENDED, 2)}},
    {"set over a holder", 5, 0, {BEGIN, SETS(10, 2, 101)}},
    {"a token used twice", 5, 0, {BEGIN, RELEASES(100), READS(200, 1, 1, 2), SENDS(200, 1, 2, 1)}},
    {"a token set twice", 5, 0, {BEGIN, RELEASES(100), SETS(200, 1, 101)}},
    {"a holder's key deleted at its deadline", 6, 0, {BEGIN, SIDECAR(500, SENT_DELETE, 1, 0, 1)}},
    {"deleted before its client stopped", 6, 0, {BEGIN, REDIS(500, DELETED, 1)}},
    {"an orphan",
     6,
     0,
     {READS(0, 1, 1, 1),
      SENDS(0, 1, 1, 1),
      SETS(1, 1, 100),
      {AT(250), .kind = HISTORY_WROTE_DENIED, .sidecar = 1, .client = 1, .request = 1},
      KEY(3001, EXPIRED)}},
    {"an orphan at the end",
     6,
     2500,
     {READS(0, 1, 1, 1),
      SENDS(0, 1, 1, 1),
      SETS(1, 1, 100),
      {AT(250), .kind = HISTORY_WROTE_DENIED, .sidecar = 1, .client = 1, .request = 1}}},
    {"a released key that stays",
     6,
     0,
     {BEGIN, CLIENT_DOES(100, RELEASES, 1, 1), SIDECAR(101, READ_RELEASE, 1, 1, 1),
      KEY(3001, EXPIRED)}},
    {"answered twice",
     7,
     0,
     {BEGIN, {AT(10), .kind = HISTORY_WROTE_DENIED, .sidecar = 1, .client = 1, .request = 1}}},
    {"not answered", 7, 5000, {READS(0, 1, 1, 1)}},
    {"answered late",
     7,
     0,
     {READS(0, 1, 1, 1),
      {AT(900), .kind = HISTORY_WROTE_DENIED, .sidecar = 1, .client = 1, .request = 1}}},
    {"a grant from nowhere", 7, 0, {RECEIVES(0, 1, 1, 100)}},
    {"lost, but it is there", 8, 0, {BEGIN, REVOKES(500, LOST, 0)}},
    {"unreachable before D",
     8,
     0,
     {BEGIN, TROUBLE(100, 4000), REVOKES(WORTH - MARGIN - 1, UNREACHABLE, WORTH)}},
    {"unreachable although it was renewed",
     8,
     0,
     {BEGIN, TROUBLE(100, 400), RENEWS(1200), REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH)}},
    {"unreachable without a fault", 8, 0, {BEGIN, REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH)}},
    {"deadline before the deadline", 8, 0, {BEGIN, REVOKES(500, DEADLINE, WORTH)}},
    {"shutdown that nobody asked for", 8, 0, {BEGIN, REVOKES(500, SHUTDOWN, WORTH)}},
    {"eof of a client that stays", 8, 0, {BEGIN, REVOKES(500, EOF, 0)}},
    {"a heartbeat missed", 9, 0, {BEGIN, RENEWS(1500)}},
    {"it outlives its deadline",
     10,
     0,
     {BEGIN, RENEWS(900), RENEWS(1800), RENEWS(2700), RENEWS(3600), RENEWS(4500), RENEWS(5400),
      RENEWS(6300), RENEWS(7200), RENEWS(8100), RENEWS(9000), RENEWS(9900),
      SIDECAR(10100, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_DEADLINE, UNTIL(9900 + WORTH),
              DUE(9900 + WORTH))}},
    {"renewed after its deadline",
     10,
     0,
     {BEGIN, RENEWS(900), RENEWS(1800), RENEWS(2700), RENEWS(3600), RENEWS(4500), RENEWS(5400),
      RENEWS(6300), RENEWS(7200), RENEWS(8100), RENEWS(9000), RENEWS(10100)}},
    {"a fencing token that falls", 11, 0, {BEGIN, RELEASES(100), SETS(200, 2, 99)}},
    {"a fencing token that stays", 11, 0, {BEGIN, RELEASES(100), SETS(200, 2, 100)}},
};

// Traces of clients and Redis, without what sidecars did.
static const struct example bad_logs[] = {
    {"two act", 1, 0, {SETS(1, 1, 100), RECEIVES(3, 1, 1, 3000), RECEIVES(102, 2, 2, 5000)}},
    {"a late renewed makes two",
     1,
     0,
     {RECEIVES(0, 1, 1, 100),
      RECEIVES(200, 2, 2, 3000),
      {AT(300), .kind = HISTORY_CLIENT_RENEWED, .client = 1, LEASE(1), UNTIL(1000)}}},
    {"valid after the key is gone",
     3,
     0,
     {READS(0, 1, 1, 1), SETS(1, 1, 100), GRANTS(2, 1, 1, 1, 1, 0), KEY(2000, EXPIRED)}},
    {"a fencing token that falls", 11, 0, {SETS(1, 1, 100), KEY(2, EXPIRED), SETS(3, 2, 99)}},
};

START_TEST(a_good_history)
{
    char why[HISTORY_WHY];
    int invariant = history_example(&good[_i], true, why, sizeof why);

    ck_assert_msg(invariant == 0, "%s: %s", good[_i].name, why);
}
END_TEST

START_TEST(a_bad_history)
{
    char why[HISTORY_WHY], start[8];
    int invariant = history_example(&bad[_i], true, why, sizeof why);

    ck_assert_msg(invariant == bad[_i].invariant, "%s: I%d expected, got I%d: %s", bad[_i].name,
                  bad[_i].invariant, invariant, why);
    snprintf(start, sizeof start, "I%d: ", invariant);
    ck_assert_msg(strncmp(why, start, strlen(start)) == 0, "%s", why);
}
END_TEST

START_TEST(a_bad_log)
{
    char why[HISTORY_WHY];
    int invariant = history_example(&bad_logs[_i], false, why, sizeof why);

    ck_assert_msg(invariant == bad_logs[_i].invariant, "%s: I%d expected, got I%d: %s",
                  bad_logs[_i].name, bad_logs[_i].invariant, invariant, why);
}
END_TEST

// The explanation names the events.
START_TEST(an_explanation)
{
    char why[HISTORY_WHY];

    history_example(&bad_logs[0], false, why, sizeof why);
    ck_assert_ptr_nonnull(strstr(why, "client 2 acts on key 1"));
    ck_assert_ptr_nonnull(strstr(why, "Redis sets"));
    ck_assert_ptr_nonnull(strstr(why, "102.000 ms"));
}
END_TEST

// The slack is the time between the end of what was promised and the key's end.
START_TEST(the_slack)
{
    static const struct history_record steps[] = {
        BEGIN,
        TROUBLE(900, 4000),
        REVOKES(WORTH - MARGIN, UNREACHABLE, WORTH),
        KEY(3001, EXPIRED),
    };
    struct history_options options = {.late_us = 15000, .answer_us = 400000, .tidy_us = 150000};
    struct history *history = history_new(&options);

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        ck_assert_int_eq(history_add(history, &steps[i]), 0);
    ck_assert_int_eq(history_least_slack(history), (3001 - WORTH) * 1000);
    ck_assert_int_eq((int)history_count(history, HISTORY_TOLD), 1);
    history_free(history);
}
END_TEST

// A million leases do not cost memory for a million: what is over is forgotten.
START_TEST(bounded_memory)
{
    struct history_options options = {.late_us = 15000, .answer_us = 400000, .tidy_us = 150000};
    struct history *history = history_new(&options);

    for (uint32_t i = 1; i <= 20000; i++) {
        int64_t at_us = (int64_t)i * 1000;
        struct history_record set = {
            .at_us = at_us, .kind = HISTORY_SET, .key = 1, .fence = i, .ttl_ms = T};
        struct history_record del = {.at_us = at_us + 1, .kind = HISTORY_DELETED, .key = 1};
        memcpy(set.token.bytes, &i, sizeof i);
        del.token = set.token;
        ck_assert_int_eq(history_add(history, &set), 0);
        ck_assert_int_eq(history_add(history, &del), 0);
    }
    ck_assert_uint_le(history_tracked(history), HISTORY_FINISHED + 1);
    history_free(history);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("history");
    TCase *tests = tcase_create("history");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_loop_test(tests, a_good_history, 0, (int)(sizeof good / sizeof good[0]));
    tcase_add_loop_test(tests, a_bad_history, 0, (int)(sizeof bad / sizeof bad[0]));
    tcase_add_loop_test(tests, a_bad_log, 0, (int)(sizeof bad_logs / sizeof bad_logs[0]));
    tcase_add_test(tests, an_explanation);
    tcase_add_test(tests, the_slack);
    tcase_add_test(tests, bounded_memory);
    suite_add_tcase(suite, tests);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
