// SPDX-License-Identifier: Apache-2.0
//
// The lease machine as tables over every state and every event. Each pair of the two is exactly one
// of: a set of rows in lease_cases.def (it does something, perhaps only at times), a bit in `inert`
// (it must do nothing, under any flags, at any time before the lease's own deadlines), or a bit in
// `asserted` (a bug of the caller). A test counts the pairs.
#include <check.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/lease.h"

enum {
    T = 30000,
    P = 10000,
    C = 2500,
    R = 500,
    M = 6000,
    DRIFT = 302,
    FIVE_MINUTES = 300000,
    SHORTLY = 15000, // the other deadline

    SENT = 1000000,
    SINCE = SENT + 40, // granted
    VALID = SENT + T - DRIFT,
    D = VALID - M,
    BEAT = SENT + 9500,
    BEATS = 62260, // the phase of BEAT
    ACK = BEAT + 300,
    SOON = SINCE + SHORTLY,
    SPAN = 12345, // for how long it was held
    BY = ACK + C,
    LAST = ACK + T + C,
    GIVEN_UP = SENT + 60000, // a wait ends
};
#define NEVER INT64_MAX

// The names of lease.h, short enough for a table.
enum {
    ACQUIRE = LEASE_DO_ACQUIRE,
    TELL_GRANTED = LEASE_DO_TELL_GRANTED,
    TELL_DENIED = LEASE_DO_TELL_DENIED,
    TELL_AT_RISK = LEASE_DO_TELL_AT_RISK,
    TELL_RENEWED = LEASE_DO_TELL_RENEWED,
    TELL_REVOKED = LEASE_DO_TELL_REVOKED,
    TELL_RELEASED = LEASE_DO_TELL_RELEASED,
    TELL_WAITING = LEASE_DO_TELL_WAITING,
    RENEW = LEASE_DO_RENEW,
    DELETE = LEASE_DO_DELETE,
    UNKEY = LEASE_DO_UNKEY,
    FORGET = LEASE_DO_FORGET,

    RENEWING = LEASE_RENEWING,
    DELETING = LEASE_DELETING,
    UNSETTLED = LEASE_UNSETTLED,
    LOST = LEASE_LOST,
    REVOKED = LEASE_REVOKED,
    FREED = LEASE_FREED,
    FAILED = LEASE_FAILED,
    RISK_TOLD = LEASE_RISK_TOLD,
    EXPIRES = LEASE_EXPIRES,
    UNSURE = LEASE_UNSURE,
    WAITS = LEASE_WAITS,
    POKED = LEASE_POKED,
    YIELDS = LEASE_YIELDS,
    DOUBTED = LEASE_DOUBTED,
    EVERY_FLAG = 2 * LEASE_DOUBTED - 1,

    NONE = 0,
    REASON_LOST = WIRE_REASON_LOST,
    UNREACHABLE = WIRE_REASON_UNREACHABLE,
    DEADLINE = WIRE_REASON_DEADLINE,
    SHUT_DOWN = WIRE_REASON_SHUTDOWN,
    BROKEN = WIRE_REASON_BROKEN,
    RELEASED = WIRE_REASON_RELEASED,
    END = WIRE_REASON_EOF,
};

#define LEASE_OF(deadline, state_, flags_, until, next, held, reason_)                             \
    {                                                                                              \
        .until_ms = (until), .next_ms = (next), .held_ms = (held), .ttl_ms = T,                    \
        .deadline_ms = (deadline), .flags = (flags_), .state = LEASE_##state_, .reason = (reason_) \
    }
#define L(...) LEASE_OF(FIVE_MINUTES, __VA_ARGS__)
#define S(...) LEASE_OF(SHORTLY, __VA_ARGS__)
#define HELD(flags, next) L(HELD, flags, VALID, next, SINCE, NONE)
#define HELD_UNTIL(flags, until, next) L(HELD, flags, until, next, SINCE, NONE)
#define SHORT(flags, next) S(HELD, flags, VALID, next, SINCE, NONE)
#define WAITER(state, flags) L(state, WAITS | (flags), GIVEN_UP, 0, 0, NONE)
#define WAITING(flags, next) L(WAITING, WAITS | (flags), GIVEN_UP, next, 0, NONE)
#define ENDING(flags) L(ENDING, flags, VALID, BEAT, SPAN, DEADLINE)
#define RELEASING(flags, next) L(RELEASING, flags, BY, next, SPAN, NONE)
#define OWED(flags, next) L(OWED, flags, LAST, next, SPAN, NONE)
#define ON(kind_, ...)                                                                             \
    {                                                                                              \
        .kind = LEASE_ON_##kind_, __VA_ARGS__                                                      \
    }

struct lease_case {
    const char *what;
    struct lease before;
    struct lease_event event;
    int64_t now_ms;
    unsigned actions;
    struct lease after;
    int64_t wake_at_ms;
    int line;
};

#define CASE(what_, before_, event_, now_, actions_, after_, wake_)                                \
    {                                                                                              \
        .what = (what_),                                                                           \
        .before = before_,                                                                         \
        .event = event_,                                                                           \
        .now_ms = (now_),                                                                          \
        .actions = (actions_),                                                                     \
        .after = after_,                                                                           \
        .wake_at_ms = (wake_),                                                                     \
        .line = __LINE__,                                                                          \
    },
static const struct lease_case cases[] = {
#include "tests/unit/lease_cases.def"
};
#undef CASE
enum { CASE_COUNT = sizeof cases / sizeof *cases };

static const struct lease_rules rules; // a fifth of the TTL

#define EVENT(name) (1u << LEASE_ON_##name)
#define EVERY_EVENT ((1u << LEASE_EVENT_COUNT) - 1)

static const unsigned asserted[LEASE_STATE_COUNT] = {
    [LEASE_NEW] = EVENT(DEFER),
    [LEASE_QUEUED] = EVENT(ADOPTED),
    [LEASE_GONE] = EVERY_EVENT,
};

static const unsigned inert[LEASE_STATE_COUNT] = {
    [LEASE_NEW] = EVERY_EVENT & ~(EVENT(QUEUE) | EVENT(START) | EVENT(DEFER) | EVENT(ADOPTED) |
                                  EVENT(DENIED) | EVENT(UNBIND) | EVENT(CUT) | EVENT(WAKE)),
    [LEASE_QUEUED] = EVERY_EVENT & ~(EVENT(START) | EVENT(DEFER) | EVENT(ADOPTED) | EVENT(DENIED) |
                                     EVENT(UNBIND) | EVENT(CUT) | EVENT(WAKE)),
    [LEASE_ACQUIRING] = EVERY_EVENT & ~(EVENT(POKE) | EVENT(GRANTED) | EVENT(DENIED) |
                                        EVENT(UNKNOWN) | EVENT(UNBIND) | EVENT(CUT)),
    [LEASE_WAITING] =
        EVERY_EVENT & ~(EVENT(POKE) | EVENT(UNBIND) | EVENT(CUT) | EVENT(STORE_UP) | EVENT(WAKE)),
    [LEASE_ABANDONED] = EVERY_EVENT & ~(EVENT(GRANTED) | EVENT(DENIED) | EVENT(UNKNOWN)),
    [LEASE_HELD] = EVENT(QUEUE) | EVENT(START) | EVENT(DEFER) | EVENT(POKE) | EVENT(GRANTED) |
                   EVENT(ADOPTED) | EVENT(DENIED) | EVENT(UNKNOWN) | EVENT(DELETED) |
                   EVENT(NOT_THERE) | EVENT(DELETE_FAILED),
    [LEASE_RELEASING] = EVERY_EVENT & ~(EVENT(DELETED) | EVENT(NOT_THERE) | EVENT(DELETE_FAILED) |
                                        EVENT(STORE_UP) | EVENT(WAKE)),
    [LEASE_ENDING] =
        EVERY_EVENT & ~(EVENT(NOT_OWNER) | EVENT(RELEASE) | EVENT(UNBIND) | EVENT(WAKE)),
    [LEASE_OWED] = EVERY_EVENT & ~(EVENT(DELETED) | EVENT(NOT_THERE) | EVENT(DELETE_FAILED) |
                                   EVENT(STORE_UP) | EVENT(WAKE)),
};

// ---- The rows ----

#define SAME(it, member)                                                                           \
    ck_assert_msg(lease.member == (it)->after.member,                                              \
                  "lease_cases.def:%d %s: " #member " is %lld, not %lld", (it)->line, (it)->what,  \
                  (long long)lease.member, (long long)(it)->after.member)

// What is told carries the validity that the holder may count on: the newest one.
static int64_t promised(const struct lease_case *it)
{
    int64_t broken_at = it->now_ms + it->event.grace_ms;

    if (it->actions & TELL_REVOKED && it->after.reason == BROKEN && broken_at < it->before.until_ms)
        return broken_at;
    return it->actions & TELL_REVOKED ? it->before.until_ms : it->after.until_ms;
}

static void check_row(const struct lease_case *it)
{
    struct lease lease = it->before;
    struct lease_actions actions = lease_step(&lease, &rules, &it->event, it->now_ms);

    ck_assert_msg(actions.set == it->actions, "lease_cases.def:%d %s: actions %#x, not %#x",
                  it->line, it->what, actions.set, it->actions);
    SAME(it, state);
    SAME(it, flags);
    SAME(it, until_ms);
    SAME(it, next_ms);
    SAME(it, held_ms);
    SAME(it, reason);
    ck_assert_uint_eq(lease.ttl_ms, it->before.ttl_ms);
    SAME(it, deadline_ms);
    if (it->actions & (TELL_GRANTED | TELL_RENEWED | TELL_REVOKED | TELL_AT_RISK))
        ck_assert_int_eq(actions.valid_until_ms, promised(it));
    int64_t wake_at = lease_wake_at(&lease, &rules);
    ck_assert_msg(wake_at == it->wake_at_ms, "lease_cases.def:%d %s: wake at %lld, not %lld",
                  it->line, it->what, (long long)wake_at, (long long)it->wake_at_ms);
}

// The rows of one event: a process per row would take longer than all of them.
START_TEST(test_rows)
{
    for (int i = 0; i < CASE_COUNT; i++) {
        if (cases[i].event.kind == (enum lease_event_kind)_i)
            check_row(&cases[i]);
    }
}
END_TEST

START_TEST(test_every_pair_is_in_one_table)
{
    unsigned acts[LEASE_STATE_COUNT] = {0};

    for (int i = 0; i < CASE_COUNT; i++)
        acts[cases[i].before.state] |= 1u << cases[i].event.kind;
    // At D and at the deadline every event does something to a held lease.
    for (int state = 0; state < LEASE_STATE_COUNT; state++) {
        ck_assert_msg((acts[state] | inert[state] | asserted[state]) == EVERY_EVENT,
                      "%s: in no table: %#x", lease_state_names[state],
                      EVERY_EVENT & ~(acts[state] | inert[state] | asserted[state]));
        ck_assert_uint_eq(acts[state] & inert[state], 0);
        ck_assert_uint_eq(acts[state] & asserted[state], 0);
        ck_assert_uint_eq(inert[state] & asserted[state], 0);
    }
}
END_TEST

// ---- What must do nothing ----

static struct lease lease_in(enum lease_state state, unsigned flags)
{
    static const struct lease examples[LEASE_STATE_COUNT] = {
        [LEASE_NEW] = L(NEW, 0, 0, 0, 0, NONE),
        [LEASE_QUEUED] = L(QUEUED, 0, 0, 0, 0, NONE),
        [LEASE_ACQUIRING] = L(ACQUIRING, 0, 0, 0, 0, NONE),
        [LEASE_WAITING] = L(WAITING, 0, GIVEN_UP, BEAT, 0, NONE),
        [LEASE_ABANDONED] = L(ABANDONED, 0, 0, 0, 0, NONE),
        [LEASE_HELD] = HELD(0, BEAT),
        [LEASE_RELEASING] = RELEASING(0, BEAT),
        [LEASE_ENDING] = ENDING(0),
        [LEASE_OWED] = OWED(0, BEAT),
        [LEASE_GONE] = L(GONE, 0, VALID, BEAT, SPAN, DEADLINE),
    };
    struct lease lease = examples[state];

    lease.flags = (uint16_t)flags;
    return lease;
}

static bool does_nothing(const struct lease *before, const struct lease_event *event,
                         int64_t now_ms)
{
    struct lease lease;

    memcpy(&lease, before, sizeof lease);
    unsigned set = lease_step(&lease, &rules, event, now_ms).set;
    return set == 0 && memcmp(&lease, before, sizeof lease) == 0;
}

// The event's variants, a quarter of them with each set of flags, at times around everything that a
// lease waits for. A held lease ends at D whatever comes, so it is asked before.
static void check_inert(const struct lease *lease, enum lease_event_kind kind)
{
    static const int64_t times[] = {SENT,  SINCE, BEAT - 1, BEAT,      ACK + R, BY,
                                    D - 1, D,     VALID,    VALID + 1, LAST,    LAST + T};

    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        if (lease->state == LEASE_HELD && times[i] >= D)
            break;
        for (unsigned bits = (lease->flags ^ lease->flags >> 2) % 4; bits < 16; bits += 4) {
            const struct lease_event event = {
                .kind = kind,
                .late = bits & 1,
                .certain = bits & 2,
                .tell = bits & 4,
                .final = bits & 4,
                .sent_at_ms = bits & 8 ? times[i] : SENT - 1,
                .age_ms = bits & 1 ? SHORTLY : 0,
                .grace_ms = bits & 8 ? 3000 : 0,
                .deadline_ms = bits & 4 ? 1 : 1000000,
                .retry_ms = bits & 2 ? 1000 : 0,
                .phase = bits & 8 ? LEASE_PHASES - 1 : 0,
            };
            if (!does_nothing(lease, &event, times[i]))
                ck_abort_msg("%s in %s, flags %#x, variant %u, at %lld", lease_event_names[kind],
                             lease_state_names[lease->state], lease->flags, bits,
                             (long long)times[i]);
        }
    }
}

START_TEST(test_inert)
{
    enum lease_state state = (enum lease_state)_i;

    for (unsigned flags = 0; flags <= EVERY_FLAG; flags++) {
        struct lease lease = lease_in(state, flags);
        for (unsigned kind = 0; kind < LEASE_EVENT_COUNT; kind++) {
            if (inert[state] & 1u << kind)
                check_inert(&lease, (enum lease_event_kind)kind);
        }
    }
}
END_TEST

static int count_asserted(void)
{
    int count = 0;
    for (int state = 0; state < LEASE_STATE_COUNT; state++)
        count += __builtin_popcount(asserted[state]);
    return count;
}

START_TEST(test_asserted)
{
    int left = _i;

    for (int pair = 0; pair < LEASE_STATE_COUNT * LEASE_EVENT_COUNT; pair++) {
        const struct lease_event event = {.kind = (enum lease_event_kind)(pair % LEASE_EVENT_COUNT),
                                          .sent_at_ms = SENT};
        int state = pair / LEASE_EVENT_COUNT;
        struct lease lease = lease_in((enum lease_state)state, 0);
        if (asserted[state] & 1u << event.kind && left-- == 0)
            lease_step(&lease, &rules, &event, SENT);
    }
}
END_TEST

// ---- The sweep: whatever the event, time comes first ----

static const struct {
    uint32_t deadline_ms;
    int64_t end_ms;
    enum wire_reason reason;
} ends[] = {
    {FIVE_MINUTES, D, WIRE_REASON_UNREACHABLE},
    {SHORTLY, SOON, WIRE_REASON_DEADLINE},
};

static void check_end(unsigned flags, const struct lease_event *event, int end, int64_t late_ms)
{
    struct lease lease = lease_in(LEASE_HELD, flags);
    lease.deadline_ms = ends[end].deadline_ms;
    int64_t now_ms = ends[end].end_ms + late_ms;
    enum wire_reason reason =
        event->kind == LEASE_ON_NOT_OWNER ? WIRE_REASON_LOST : ends[end].reason;
    struct lease_actions actions = lease_step(&lease, &rules, event, now_ms);

    if ((actions.set & (TELL_REVOKED | UNKEY | TELL_RENEWED | TELL_AT_RISK | RENEW)) !=
            (TELL_REVOKED | UNKEY) ||
        actions.valid_until_ms != VALID || lease.reason != reason || !(lease.flags & REVOKED) ||
        lease.held_ms != now_ms - SINCE || lease.state == LEASE_HELD)
        ck_abort_msg("%s at the end and %lld ms, flags %#x: actions %#x, %s",
                     lease_event_names[event->kind], (long long)late_ms, flags, actions.set,
                     lease_state_names[lease.state]);
}

START_TEST(test_time_comes_first)
{
    enum lease_event_kind kind = (enum lease_event_kind)_i;

    for (unsigned flags = 0; flags <= EVERY_FLAG; flags++) {
        if (flags & (REVOKED | LOST | FREED | FAILED | DELETING | UNSURE | POKED | YIELDS))
            continue; // not of a held lease
        for (unsigned bits = 0; bits < 16; bits++) {
            const struct lease_event event = {
                .kind = kind,
                .late = bits & 1,
                .certain = bits & 2,
                .tell = bits & 4,
                .sent_at_ms = bits & 8 ? D - 1 : SENT - 1,
                .grace_ms = bits & 1 ? 3000 : 0,
                .deadline_ms = bits & 2 ? 1 : LEASE_MAX_SPAN_MS,
            };
            for (int end = 0; end < 2; end++) {
                check_end(flags, &event, end, 0);
                check_end(flags, &event, end, 1);
                check_end(flags, &event, end, T);
            }
        }
    }
}
END_TEST

// ---- Margins other than T/5 ----

static const struct lease_rules other_rules[] = {{.revoke_margin_ms = 3000},
                                                 {.revoke_margin_ms = 9000},
                                                 {.widen_ms = 200},
                                                 {.revoke_margin_ms = 4000, .widen_ms = 77}};
static const int64_t other_margins[] = {3000, 9000, 6200, 4077};

START_TEST(test_margin_moves_the_end)
{
    const struct lease_event wake = {.kind = LEASE_ON_WAKE};
    const struct lease_event grant = {.kind = LEASE_ON_GRANTED, .sent_at_ms = SENT};
    int64_t end_ms = VALID - other_margins[_i];

    struct lease lease = lease_in(LEASE_HELD, RENEWING | UNSETTLED | RISK_TOLD);
    ck_assert_int_eq(lease_wake_at(&lease, &other_rules[_i]), end_ms);
    ck_assert_uint_eq(lease_step(&lease, &other_rules[_i], &wake, end_ms - 1).set, 0);
    ck_assert_uint_eq(lease_step(&lease, &other_rules[_i], &wake, end_ms).set,
                      TELL_REVOKED | UNKEY);
    ck_assert_int_eq(lease_wake_at(&lease, &other_rules[_i]), VALID);

    lease = lease_in(LEASE_ACQUIRING, 0);
    ck_assert_uint_eq(lease_step(&lease, &other_rules[_i], &grant, end_ms - 1).set, TELL_GRANTED);
    lease = lease_in(LEASE_ACQUIRING, 0);
    ck_assert_uint_eq(lease_step(&lease, &other_rules[_i], &grant, end_ms).set,
                      TELL_DENIED | DELETE | UNKEY);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lease_table");
    TCase *rows = tcase_create("rows");
    TCase *other = tcase_create("other");

    tcase_add_loop_test(rows, test_rows, 0, LEASE_EVENT_COUNT);
    tcase_add_test(rows, test_every_pair_is_in_one_table);
    tcase_set_timeout(other, 20);
    tcase_add_loop_test(other, test_inert, 0, LEASE_STATE_COUNT);
    tcase_add_loop_test_raise_signal(other, test_asserted, SIGABRT, 0, count_asserted());
    tcase_add_loop_test(other, test_time_comes_first, 0, LEASE_EVENT_COUNT);
    tcase_add_loop_test(other, test_margin_moves_the_end, 0,
                        (int)(sizeof other_rules / sizeof *other_rules));
    suite_add_tcase(suite, rows);
    suite_add_tcase(suite, other);

    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
