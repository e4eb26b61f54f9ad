// SPDX-License-Identifier: Apache-2.0
//
// The history checker, where several wait for a key or have had a lease: hand-over, adoption, moves,
// binding, breaking, extending. Good histories, and for each rule bad ones that break it once.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/history_steps.h"

#define WAITS(t, s, c, r, until)                                                                   \
    {                                                                                              \
        AT(t), .kind = HISTORY_READ_ACQUIRE, .sidecar = s, .client = c, .request = r, .key = 1,    \
               .ttl_ms = T, DUE(until)                                                             \
    }
#define ASKS(t, what, s, c, r, n, ...)                                                             \
    {                                                                                              \
        AT(t), .kind = HISTORY_READ_##what, .sidecar = s, .client = c, .request = r, .key = 1,     \
               LEASE(n), ##__VA_ARGS__                                                             \
    }
#define ANSWERS(t, what, s, c, r)                                                                  \
    {                                                                                              \
        AT(t), .kind = HISTORY_WROTE_##what, .sidecar = s, .client = c, .request = r               \
    }
#define DONE_FOR(t, what, s, n)                                                                    \
    {                                                                                              \
        AT(t), .kind = HISTORY_##what, .sidecar = s, .key = 1, LEASE(n)                            \
    }

// Lease n of client c at sidecar 1 goes to lease m of request r.
#define HANDS_OVER(t, c, n, r, m, f)                                                               \
    CLIENT_DOES(t, RELEASES, c, n), SIDECAR((t) + 1, READ_RELEASE, 1, c, n),                       \
        SENDS((t) + 1, 1, r, m), SIDECAR((t) + 1, SENT_DELETE, 1, 0, n),                           \
        DONE_FOR((t) + 2, HANDED, 1, n), SETS((t) + 2, m, f), ANSWERED((t) + 3, 1, m, (t) + 1),    \
        SIDECAR((t) + 3, WROTE_RELEASED, 1, c, n, .ok = true)

// Lease 1 is adopted by client 2 through sidecar s at t, and what it is told.
#define ADOPTION(t, s)                                                                             \
    ASKS(t, ADOPT, s, 2, 2, 1), DONE_FOR(t, SENT_ADOPT, s, 1), DONE_FOR((t) + 1, ADOPTED, s, 1),   \
        ANSWERED((t) + 2, s, 1, t)
#define ADOPTED_BY(t, s, r, sent, deadline)                                                        \
    {                                                                                              \
        AT(t), .kind = HISTORY_WROTE_ADOPTED, .sidecar = s, .client = 2, .request = r, .key = 1,   \
               LEASE(1), .fence = 100, UNTIL((sent) + WORTH), DUE(deadline)                        \
    }
#define ADOPTS(t, s) ADOPTION(t, s), ADOPTED_BY((t) + 2, s, 2, t, 10002)
#define DIES(t)                                                                                    \
    PROCESS(t, ENDED, 1),                                                                          \
    {                                                                                              \
        AT((t) + 1), .kind = HISTORY_CLIENT_EOF, .client = 1, .ok = true                           \
    }

#define UNBOUND                                                                                    \
    READS(0, 1, 1, 1), SENDS(0, 1, 1, 1), SETS(1, 1, 100), ANSWERED(2, 1, 1, 0),                   \
        SIDECAR(2, WROTE_GRANTED, 1, 1, 1, .request = 1, .key = 1, UNTIL(WORTH), DUE(5000),        \
                .unbound = true),                                                                  \
        RECEIVES(3, 1, 1, WORTH)
#define GOES(t) CLIENT_GOES(t, 1, 1), SIDECAR((t) + 1, CLOSED, 1, 1, 0, .ok = true)

static const struct example good[] = {
    {"two wait, and are handed the key in their order",
     0,
     9000,
     {BEGIN, WAITS(10, 1, 2, 2, 5000), WAITS(20, 1, 3, 3, 5000), HANDS_OVER(100, 1, 1, 2, 2, 101),
      GRANTS(103, 1, 2, 2, 2, 101), RECEIVES(104, 2, 2, 101 + WORTH),
      HANDS_OVER(200, 2, 2, 3, 3, 102), GRANTS(203, 1, 3, 3, 3, 201),
      RECEIVES(204, 3, 3, 201 + WORTH), CLIENT_GOES(300, 1, 3),
      SIDECAR(301, CLOSED, 1, 3, 0, .ok = true), SIDECAR(301, SENT_DELETE, 1, 0, 3),
      REDIS(302, DELETED, 3)}},
    {"one cancels, one leaves, one's time is over",
     0,
     4000,
     {BEGIN, WAITS(10, 1, 2, 2, 500), WAITS(20, 1, 3, 3, 5000), WAITS(30, 1, 4, 4, 5000),
      ASKS(40, QUERY, 1, 3, 5, 0), ANSWERS(40, DENIED, 1, 3, 3), ANSWERS(40, ANSWER, 1, 3, 5),
      CLIENT_GOES(50, 1, 4), SIDECAR(51, CLOSED, 1, 4, 0, .ok = true),
      ANSWERS(505, DENIED, 1, 2, 2), RENEWS(900), RELEASES(1000)}},
    {"who waits asks again with the same token",
     0,
     9000,
     {TROUBLE(0, 2000), WAITS(0, 1, 1, 1, 5000), SENDS(0, 1, 1, 1), SETS(1, 1, 99), KEY(1000, LOST),
      SENDS(1200, 1, 1, 1), SETS(1201, 1, 100), ANSWERED(1202, 1, 1, 1200),
      GRANTS(1202, 1, 1, 1, 1, 1200), RELEASES(1300)}},
    {"adopted after its sidecar died: its client goes on",
     0,
     9000,
     {BEGIN, DIES(100), ADOPTS(200, 2), RECEIVES(203, 2, 1, 200 + WORTH),
      SIDECAR(1100, SENT_RENEW, 2, 0, 1), DONE_FOR(1101, EXTENDED, 2, 1),
      ANSWERED(1102, 2, 1, 1100), CLIENT_DOES(1200, RELEASES, 2, 1),
      SIDECAR(1201, READ_RELEASE, 2, 2, 1), SIDECAR(1201, SENT_DELETE, 2, 0, 1),
      DONE_FOR(1202, DELETED, 2, 1), SIDECAR(1203, WROTE_RELEASED, 2, 2, 1, .ok = true)}},
    {"adopted while the old sidecar lives, which learns of it",
     0,
     9000,
     {BEGIN, ADOPTS(200, 2), RECEIVES(203, 2, 1, 200 + WORTH), SIDECAR(900, SENT_RENEW, 1, 0, 1),
      REVOKES(902, LOST, 0), CLIENT_DOES(903, REVOKED, 1, 1), CLIENT_DOES(1000, RELEASES, 2, 1),
      SIDECAR(1001, READ_RELEASE, 2, 2, 1), SIDECAR(1001, SENT_DELETE, 2, 0, 1),
      DONE_FOR(1002, DELETED, 2, 1), SIDECAR(1003, WROTE_RELEASED, 2, 2, 1, .ok = true),
      SETS(1004, 3, 101)}},
    {"the old sidecar is gone from, and deletes nothing",
     0,
     9000,
     {BEGIN, ADOPTS(200, 2), GOES(300), SIDECAR(301, SENT_DELETE, 1, 0, 1),
      SIDECAR(1100, SENT_RENEW, 2, 0, 1), DONE_FOR(1101, EXTENDED, 2, 1),
      ANSWERED(1102, 2, 1, 1100), CLIENT_GOES(1200, 2, 2),
      SIDECAR(1201, CLOSED, 2, 2, 0, .ok = true), SIDECAR(1201, SENT_DELETE, 2, 0, 1),
      DONE_FOR(1202, DELETED, 2, 1)}},
    {"moved from one connection to another",
     0,
     9000,
     {BEGIN, ADOPTION(200, 1),
      SIDECAR(202, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_MOVED, UNTIL(200 + WORTH)),
      ADOPTED_BY(202, 1, 2, 200, 10002), CLIENT_DOES(203, REVOKED, 1, 1),
      RECEIVES(204, 2, 1, 200 + WORTH), GOES(300), CLIENT_DOES(400, RELEASES, 2, 1),
      SIDECAR(401, READ_RELEASE, 1, 2, 1), SIDECAR(401, SENT_DELETE, 1, 0, 1),
      DONE_FOR(402, DELETED, 1, 1), SIDECAR(403, WROTE_RELEASED, 1, 2, 1, .ok = true)}},
    {"bound to nothing: it outlives its connection, until its deadline",
     0,
     9000,
     {UNBOUND, GOES(100), RENEWS(900), RENEWS(1800), RENEWS(2700), RENEWS(3600), RENEWS(4500),
      SIDECAR(7470, SENT_DELETE, 1, 0, 1), REDIS(7471, DELETED, 1)}},
    {"bound to nothing: adopted elsewhere, and, after it was given up, back again",
     0,
     9000,
     {UNBOUND,
      GOES(100),
      ADOPTION(200, 2),
      ADOPTED_BY(202, 2, 2, 200, 5002),
      RECEIVES(203, 2, 1, 200 + WORTH),
      SIDECAR(900, SENT_RENEW, 1, 0, 1),
      SIDECAR(1100, SENT_RENEW, 2, 0, 1),
      DONE_FOR(1101, EXTENDED, 2, 1),
      ANSWERED(1102, 2, 1, 1100),
      SIDECAR(2050, SENT_RENEW, 2, 0, 1),
      DONE_FOR(2051, EXTENDED, 2, 1),
      ANSWERED(2052, 2, 1, 2050),
      CLIENT_GOES(2400, 2, 2),
      SIDECAR(2401, CLOSED, 2, 2, 0, .ok = true),
      SIDECAR(2401, SENT_DELETE, 2, 0, 1),
      ASKS(2401, ADOPT, 1, 3, 3, 1),
      DONE_FOR(2401, SENT_ADOPT, 1, 1),
      DONE_FOR(2402, ADOPTED, 1, 1),
      {AT(2403), .kind = HISTORY_ANSWERED, .sidecar = 1, .request = 3, LEASE(1),
       UNTIL(2401 + WORTH), DUE(2401 + WORTH - MARGIN)},
      SIDECAR(2403, WROTE_ADOPTED, 1, 3, 1, .request = 3, .key = 1, .fence = 100,
              UNTIL(2401 + WORTH), DUE(5002)),
      RECEIVES(2404, 3, 1, 2401 + WORTH),
      CLIENT_DOES(2600, RELEASES, 3, 1),
      SIDECAR(2601, READ_RELEASE, 1, 3, 1),
      SIDECAR(2601, SENT_DELETE, 1, 0, 1),
      DONE_FOR(2602, DELETED, 1, 1),
      SIDECAR(2603, WROTE_RELEASED, 1, 3, 1, .ok = true)}},
    {"broken, after a grace",
     0,
     9000,
     {BEGIN, ASKS(100, BREAK, 1, 2, 2, 0, DUE(300)),
      SIDECAR(100, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_BROKEN, UNTIL(300), DUE(300)),
      CLIENT_DOES(101, REVOKED, 1, 1), SIDECAR(300, SENT_DELETE, 1, 0, 1), REDIS(301, DELETED, 1),
      ANSWERS(302, ANSWER, 1, 2, 2)}},
    {"broken through another sidecar",
     0,
     9000,
     {BEGIN, ASKS(100, BREAK, 2, 2, 2, 0, DUE(100)), KEY(101, BROKEN),
      ANSWERS(102, ANSWER, 2, 2, 2), SETS(103, 3, 101), SIDECAR(900, SENT_RENEW, 1, 0, 1),
      REVOKES(902, LOST, 0)}},
    {"extended past its first deadline",
     0,
     20000,
     {UNBOUND, ASKS(100, EXTEND, 1, 1, 2, 1),
      SIDECAR(102, WROTE_EXTENDED, 1, 1, 1, .request = 2, .ok = true, DUE(6000)), RENEWS(900),
      RENEWS(1800), RENEWS(2700), RENEWS(3600), RENEWS(4500), RENEWS(5400),
      SIDECAR(6001, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_DEADLINE, UNTIL(5400 + WORTH),
              DUE(5400 + WORTH)),
      SIDECAR(8370, SENT_DELETE, 1, 0, 1), REDIS(8371, DELETED, 1)}},
    {"a grant that nobody read is freed, whatever it is bound to",
     0,
     9000,
     {READS(0, 1, 1, 1), SENDS(0, 1, 1, 1), SETS(1, 1, 100), ANSWERED(2, 1, 1, 0),
      SIDECAR(2, WROTE_GRANTED, 1, 1, 1, .request = 1, .key = 1, UNTIL(WORTH), DUE(10000),
              .unbound = true),
      CLIENT_GOES(10, 1, 1), SIDECAR(11, UNWRITTEN, 1, 1, 1),
      SIDECAR(11, CLOSED, 1, 1, 0, .ok = true), SIDECAR(11, SENT_DELETE, 1, 0, 1),
      REDIS(12, DELETED, 1)}},
};

static const struct example bad[] = {
    {"gone before the grace is over",
     3,
     0,
     {BEGIN, ASKS(100, BREAK, 1, 2, 2, 0, DUE(300)),
      SIDECAR(100, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_BROKEN, UNTIL(300), DUE(300)),
      KEY(200, EXPIRED)}},
    {"who adopts is told more than was confirmed",
     3,
     0,
     {BEGIN, DIES(100), ADOPTION(200, 2), ADOPTED_BY(202, 2, 2, 202, 10002)}},
    {"adopted after its release",
     4,
     0,
     {BEGIN, CLIENT_DOES(100, RELEASES, 1, 1), SIDECAR(101, READ_RELEASE, 1, 1, 1),
      ASKS(101, ADOPT, 1, 2, 2, 1), ADOPTED_BY(103, 1, 2, 0, 10002)}},
    {"extended after its end",
     4,
     0,
     {BEGIN, ASKS(100, EXTEND, 1, 2, 2, 1), RELEASES(101),
      SIDECAR(105, WROTE_EXTENDED, 1, 2, 1, .request = 2, .ok = true, DUE(6000))}},
    {"the new lease of a hand-over, taken for a release that freed",
     4,
     0,
     {BEGIN, CLIENT_DOES(100, RELEASES, 1, 1), SIDECAR(101, READ_RELEASE, 1, 1, 1),
      SIDECAR(101, SENT_DELETE, 1, 0, 1), KEY(102, LOST),
      SIDECAR(103, WROTE_RELEASED, 1, 1, 1, .ok = true)}},
    {"the old sidecar renews what was adopted",
     5,
     0,
     {BEGIN, ADOPTS(200, 2), SIDECAR(900, SENT_RENEW, 1, 0, 1), DONE_FOR(901, EXTENDED, 1, 1)}},
    {"the old sidecar deletes what was adopted",
     5,
     0,
     {BEGIN, ADOPTS(200, 2), GOES(300), SIDECAR(301, SENT_DELETE, 1, 0, 1),
      DONE_FOR(302, DELETED, 1, 1)}},
    {"a hand-over to another sidecar",
     5,
     0,
     {BEGIN, WAITS(10, 2, 2, 2, 5000), CLIENT_DOES(100, RELEASES, 1, 1),
      SIDECAR(101, READ_RELEASE, 1, 1, 1), SENDS(101, 2, 2, 2), DONE_FOR(102, HANDED, 1, 1),
      SETS(102, 2, 101)}},
    {"a break that nobody asked for", 5, 0, {BEGIN, KEY(100, BROKEN)}},
    {"a foreign locker's key is set", 5, 0, {KEY(0, TAKEN), SETS(10, 1, 100)}},
    {"handed over before its holder has stopped",
     6,
     0,
     {BEGIN, WAITS(10, 1, 2, 2, 5000), DONE_FOR(102, HANDED, 1, 1)}},
    {"the key of a lease without a binding is deleted when its client goes",
     6,
     0,
     {UNBOUND, GOES(100), SIDECAR(101, SENT_DELETE, 1, 0, 1)}},
    {"who adopted has released, and the key stays",
     6,
     0,
     {BEGIN, DIES(100), ADOPTS(200, 2), RECEIVES(203, 2, 1, 200 + WORTH),
      CLIENT_DOES(300, RELEASES, 2, 1), SIDECAR(301, READ_RELEASE, 2, 2, 1), KEY(3201, EXPIRED)}},
    {"broken, and the key stays",
     6,
     0,
     {BEGIN, ASKS(100, BREAK, 1, 2, 2, 0, DUE(300)),
      SIDECAR(100, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_BROKEN, UNTIL(300), DUE(300)),
      KEY(3600, EXPIRED)}},
    {"a wait without an outcome", 7, 6000, {WAITS(0, 1, 1, 1, 5000)}},
    {"a wait that ends late", 7, 0, {WAITS(0, 1, 1, 1, 1000), ANSWERS(1500, DENIED, 1, 1, 1)}},
    {"cancelled twice",
     7,
     0,
     {WAITS(0, 1, 1, 1, 5000), ASKS(1, QUERY, 1, 1, 2, 0), ANSWERS(1, DENIED, 1, 1, 1),
      ANSWERS(1, ANSWER, 1, 1, 2), ANSWERS(2, DENIED, 1, 1, 1)}},
    {"granted after it was cancelled",
     7,
     0,
     {WAITS(0, 1, 1, 1, 5000), SENDS(0, 1, 1, 1), ASKS(1, QUERY, 1, 1, 2, 0),
      ANSWERS(1, DENIED, 1, 1, 1), ANSWERS(1, ANSWER, 1, 1, 2), SETS(1, 1, 100),
      ANSWERED(2, 1, 1, 0), GRANTS(2, 1, 1, 1, 1, 0)}},
    {"granted after its client left",
     7,
     0,
     {WAITS(0, 1, 1, 1, 5000), SENDS(0, 1, 1, 1), CLIENT_GOES(1, 1, 1),
      SIDECAR(2, CLOSED, 1, 1, 0, .ok = true), SETS(2, 1, 100), ANSWERED(3, 1, 1, 0),
      GRANTS(3, 1, 1, 1, 1, 0)}},
    {"a query without an answer", 7, 5000, {BEGIN, RELEASES(10), ASKS(100, QUERY, 1, 1, 2, 0)}},
    {"moved, and its holder was not told",
     7,
     0,
     {BEGIN, ADOPTION(200, 1), ADOPTED_BY(202, 1, 2, 200, 10002)}},
    {"moved, but nobody adopted it",
     8,
     0,
     {BEGIN, SIDECAR(202, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_MOVED, UNTIL(WORTH))}},
    {"broken, but nobody asked for it",
     8,
     0,
     {BEGIN, SIDECAR(100, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_BROKEN, UNTIL(300))}},
    {"adopted with more time than it had",
     10,
     0,
     {BEGIN, DIES(100), ADOPTION(200, 2), ADOPTED_BY(202, 2, 2, 200, 11000)}},
    {"adopted with less time than it had",
     10,
     0,
     {BEGIN, DIES(100), ADOPTION(200, 2), ADOPTED_BY(202, 2, 2, 200, 9000)}},
    {"a hand-over that takes no new fencing token",
     11,
     0,
     {BEGIN, WAITS(10, 1, 2, 2, 5000), HANDS_OVER(100, 1, 1, 2, 2, 100)}},
    {"adopted with another fencing token",
     11,
     0,
     {BEGIN,
      DIES(100),
      ADOPTION(200, 2),
      {AT(202), .kind = HISTORY_WROTE_ADOPTED, .sidecar = 2, .client = 2, .request = 2, .key = 1,
       LEASE(1), .fence = 101, UNTIL(200 + WORTH), DUE(10002)}}},
    {"granted out of turn",
     13,
     0,
     {WAITS(0, 1, 1, 1, 5000), WAITS(1, 1, 2, 2, 5000), SETS(2, 2, 100), ANSWERED(3, 1, 2, 1),
      GRANTS(3, 1, 2, 2, 2, 1)}},
    {"asked for out of turn",
     13,
     0,
     {WAITS(0, 1, 1, 1, 5000), WAITS(1, 1, 2, 2, 5000), SENDS(1, 1, 2, 2)}},
    {"two of one sidecar contend",
     13,
     0,
     {WAITS(0, 1, 1, 1, 5000), WAITS(1, 1, 2, 2, 5000), SENDS(1, 1, 1, 1), SENDS(2, 1, 2, 2)}},
    {"asked for while its own client has it",
     13,
     0,
     {BEGIN, WAITS(10, 1, 2, 2, 5000), SENDS(10, 1, 2, 2)}},
    {"a free key that somebody waits for",
     13,
     0,
     {BEGIN, WAITS(10, 2, 2, 2, 5000), RELEASES(100), SETS(1700, 3, 101)}},
    {"a free key that somebody waits for at the end",
     13,
     2000,
     {BEGIN, WAITS(10, 2, 2, 2, 5000), RELEASES(100)}},
    {"a key that a foreign locker left, and somebody waits for",
     13,
     3000,
     {KEY(0, TAKEN), WAITS(10, 2, 2, 2, 5000), KEY(1000, LEFT_FREE)}},
};

// Traces of clients and Redis, without what sidecars did.
static const struct example logs[] = {
    {"who adopts acts, and so does who has not heard of it yet",
     0,
     9000,
     {RECEIVES(0, 1, 1, 3000), RECEIVES(200, 2, 1, 3200)}},
    {"who adopts acts, and so does the next holder",
     1,
     0,
     {RECEIVES(0, 1, 1, 3000), RECEIVES(200, 2, 1, 3200), RECEIVES(3100, 3, 2, 6000)}},
    {"at the end of its connection it goes on, and somebody else acts",
     1,
     0,
     {RECEIVES(0, 1, 1, 3000),
      {AT(100), .kind = HISTORY_CLIENT_EOF, .client = 1, .ok = true},
      RECEIVES(200, 3, 2, 3000)}},
    {"at the end of its connection it stops",
     0,
     9000,
     {RECEIVES(0, 1, 1, 3000),
      {AT(100), .kind = HISTORY_CLIENT_EOF, .client = 1},
      RECEIVES(200, 3, 2, 3000)}},
};

START_TEST(a_log)
{
    char why[HISTORY_WHY];
    int invariant = history_example(&logs[_i], false, why, sizeof why);

    ck_assert_msg(invariant == logs[_i].invariant, "%s: I%d expected, got I%d: %s", logs[_i].name,
                  logs[_i].invariant, invariant, why);
}
END_TEST

START_TEST(a_good_history)
{
    char why[HISTORY_WHY];
    int invariant = history_example(&good[_i], true, why, sizeof why);

    ck_assert_msg(invariant == 0, "%s: %s", good[_i].name, why);
}
END_TEST

START_TEST(a_bad_history)
{
    char why[HISTORY_WHY];
    int invariant = history_example(&bad[_i], true, why, sizeof why);

    ck_assert_msg(invariant == bad[_i].invariant, "%s: I%d expected, got I%d: %s", bad[_i].name,
                  bad[_i].invariant, invariant, why);
}
END_TEST

static int hand_over(struct history *history, int64_t at_ms, uint8_t n)
{
    struct history_record handed = {AT(at_ms), .kind = HISTORY_HANDED, .key = 1};
    struct history_record set = {AT(at_ms), .kind = HISTORY_SET, .key = 1, .fence = at_ms};
    int r;

    handed.token.bytes[0] = n;
    set.token.bytes[0] = (uint8_t)(n + 1);
    r = history_add(history, &handed);
    return r ? r : history_add(history, &set);
}

// Fifteen hand-overs in a row are allowed; a delete in between begins a new row.
START_TEST(hand_overs_in_a_row)
{
    struct history_options options = {.late_us = 15000, .answer_us = 400000, .tidy_us = 150000};
    struct history *history = history_new(&options);
    struct history_record first = {AT(1), .kind = HISTORY_SET, .key = 1, .fence = 1, LEASE(1)};
    struct history_record freed = {AT(50), .kind = HISTORY_DELETED, .key = 1, LEASE(16)};
    struct history_record again = {AT(51), .kind = HISTORY_SET, .key = 1, .fence = 51, LEASE(17)};
    uint8_t n = 1;

    ck_assert_int_eq(history_add(history, &first), 0);
    for (; n <= 15; n++)
        ck_assert_int_eq(hand_over(history, 10 + n, n), 0);
    ck_assert_int_eq(history_add(history, &freed), 0);
    ck_assert_int_eq(history_add(history, &again), 0);
    for (n = 17; n <= 31; n++)
        ck_assert_int_eq(hand_over(history, 60 + n, n), 0);
    ck_assert_int_eq(hand_over(history, 100, n), HISTORY_E_VIOLATION);
    ck_assert_int_eq(history_invariant(history), 13);
    history_free(history);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("history_tenures");
    TCase *tests = tcase_create("history_tenures");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_loop_test(tests, a_good_history, 0, (int)(sizeof good / sizeof good[0]));
    tcase_add_loop_test(tests, a_bad_history, 0, (int)(sizeof bad / sizeof bad[0]));
    tcase_add_loop_test(tests, a_log, 0, (int)(sizeof logs / sizeof logs[0]));
    tcase_add_test(tests, hand_overs_in_a_row);
    suite_add_tcase(suite, tests);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
