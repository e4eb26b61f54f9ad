// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic of the lease machine: which TTLs and margins are accepted, when a heartbeat is
// due, how long a renewal may take, what a revoked event promises. Figures are spelled out, or
// derived here from the sentences of DESIGN section 3, never taken from the functions under test.
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/lease.h"

enum {
    LEAST_TTL = 500,
    MOST_TTL = 300000, // the default of --max-lock-ttl
};

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static const int64_t some_ttls[] = {500, 501, 599, 600, 997, 1000, 5000, 29999, 30000, 300000};

// ---- What is accepted ----

static bool ttl_is_right(int64_t ttl)
{
    const struct lease_rules rules = {0};
    char why[256] = "untouched";
    int64_t retry = ttl / 60 > 5 ? ttl / 60 : 5;
    // A heartbeat that fails at its bound, a pause, and a retry that ends before D.
    bool fits = ttl / 3 + 2 * (ttl / 12) + retry <= ttl - ttl / 100 - 2 - ttl / 5;

    return fits && lease_rules_check(&rules, ttl, why, sizeof why) == 0 &&
           strcmp(why, "untouched") == 0 && lease_heartbeat_ms(ttl) == ttl / 3 &&
           lease_call_ms(ttl) == ttl / 12 && lease_retry_ms(ttl) == retry &&
           lease_drift_ms(ttl) == ttl / 100 + 2 && lease_margin_ms(&rules, ttl) == ttl / 5;
}

// check's assertions each write to a pipe, so long loops assert only what is wrong.
START_TEST(test_every_ttl_passes_with_the_default_margin)
{
    for (int64_t ttl = LEAST_TTL; ttl <= MOST_TTL; ttl++) {
        if (!ttl_is_right(ttl))
            ck_abort_msg("a TTL of %lld ms", (long long)ttl);
    }
}
END_TEST

struct rules_case {
    int64_t margin_ms;
    int64_t widen_ms;
    int64_t ttl_ms;
    const char *why; // NULL: accepted
};

// T = 30000: P + 2C + R = 10000 + 5000 + 500; T - drift = 29698. T = 500: 166 + 82 + 8 and 493.
static const struct rules_case rules_cases[] = {
    {0, 0, 500, NULL},
    {0, 0, 499, "the TTL of 499 ms is under the least, 500 ms"},
    {0, 0, 0, "the TTL of 0 ms is under the least, 500 ms"},
    {0, 0, -1, "the TTL of -1 ms is under the least, 500 ms"},
    {1, 0, 1, "the TTL of 1 ms is under the least, 500 ms"},
    {50, 0, 500, NULL},
    {49, 0, 500,
     "the revoke margin of 49 ms is under the least for a TTL of 500 ms: 50 ms (a tenth of the "
     "TTL, "
     "at least 50 ms)"},
    {51, 0, 520,
     "the revoke margin of 51 ms is under the least for a TTL of 520 ms: 52 ms (a tenth of the "
     "TTL, "
     "at least 50 ms)"},
    {49, 1, 500, NULL},
    {3000, 0, 30000, NULL},
    {2999, 0, 30000,
     "the revoke margin of 2999 ms is under the least for a TTL of 30000 ms: 3000 ms (a tenth of "
     "the TTL, at least 50 ms)"},
    {-1, 0, 30000,
     "the revoke margin of -1 ms is under the least for a TTL of 30000 ms: 3000 ms (a tenth of the "
     "TTL, at least 50 ms)"},
    {14198, 0, 30000, NULL},
    {14199, 0, 30000,
     "a TTL of 30000 ms with a revoke margin of 14199 ms leaves 15499 ms before the revoke time, "
     "but a heartbeat that fails once needs 15500 ms: lower the margin or raise the TTL"},
    // Lateness widens a margin as far as there is room; it refuses nobody.
    {14198, 1, 30000, NULL},
    {0, 1000000, 30000, NULL},
    {0, 1000000, 500, NULL},
    {14199, 1, 30000,
     "a TTL of 30000 ms with a revoke margin of 14199 ms leaves 15499 ms before the revoke time, "
     "but a heartbeat that fails once needs 15500 ms: lower the margin or raise the TTL"},
    {237, 0, 500, NULL},
    {238, 0, 500,
     "a TTL of 500 ms with a revoke margin of 238 ms leaves 255 ms before the revoke time, but a "
     "heartbeat that fails once needs 256 ms: lower the margin or raise the TTL"},
    {60000, 0, 30000,
     "a TTL of 30000 ms with a revoke margin of 60000 ms leaves -30302 ms before the revoke time, "
     "but a heartbeat that fails once needs 15500 ms: lower the margin or raise the TTL"},
};

START_TEST(test_rules)
{
    for (int i = 0; i < COUNT(rules_cases); i++) {
        const struct rules_case *it = &rules_cases[i];
        const struct lease_rules rules = {it->margin_ms, it->widen_ms};
        char why[256] = "untouched";

        ck_assert_int_eq(lease_rules_check(&rules, it->ttl_ms, why, sizeof why),
                         it->why ? -EINVAL : 0);
        ck_assert_str_eq(why, it->why ? it->why : "untouched");
    }
}
END_TEST

START_TEST(test_reason_is_cut_to_its_buffer)
{
    const struct lease_rules rules = {.revoke_margin_ms = 1};
    char why[8] = "1234567";

    ck_assert_int_eq(lease_rules_check(&rules, 30000, why, 4), -EINVAL);
    ck_assert_str_eq(why, "the");
    ck_assert_int_eq(why[4], '5');
}
END_TEST

static const struct {
    struct lease_rules rules;
    int64_t ttl_ms, margin_ms;
} margin_cases[] = {
    {{0, 0}, 1999, 399},
    {{700, 0}, 1999, 700},
    {{0, 30}, 1999, 429},
    {{700, 30}, 1999, 730},
    // T = 30000 has room for a margin of 14198, T = 500 for one of 237.
    {{0, 8197}, 30000, 14197},
    {{0, 8198}, 30000, 14198},
    {{0, 8199}, 30000, 14198},
    {{14198, 5}, 30000, 14198},
    {{14199, 5}, 30000, 14199},
    {{0, INT64_C(1) << 40}, 500, 237},
};

START_TEST(test_margin)
{
    for (int i = 0; i < COUNT(margin_cases); i++) {
        ck_assert_int_eq(lease_margin_ms(&margin_cases[i].rules, margin_cases[i].ttl_ms),
                         margin_cases[i].margin_ms);
    }
}
END_TEST

// ---- Leases made by events alone ----

static struct lease acquiring(int64_t ttl_ms, int64_t deadline_ms)
{
    const struct lease_rules rules = {0};
    const struct lease_event start = {.kind = LEASE_ON_START};
    struct lease lease;

    lease_init(&lease, ttl_ms, deadline_ms, 0, false);
    if (lease_step(&lease, &rules, &start, 1).set != LEASE_DO_ACQUIRE)
        ck_abort_msg("not started");
    return lease;
}

static struct lease granted(int64_t ttl_ms, int64_t sent_at_ms, uint32_t phase, int64_t now_ms)
{
    const struct lease_rules rules = {0};
    const struct lease_event grant = {
        .kind = LEASE_ON_GRANTED, .sent_at_ms = sent_at_ms, .phase = phase};
    struct lease lease = acquiring(ttl_ms, 3600000);

    if (lease_step(&lease, &rules, &grant, now_ms).set != LEASE_DO_TELL_GRANTED)
        ck_abort_msg("not granted");
    return lease;
}

START_TEST(test_instants)
{
    const struct lease_rules rules = {0};
    const struct lease_rules wide = {.revoke_margin_ms = 4000, .widen_ms = 15};
    struct lease lease = granted(30000, 1000000, 0, 1000040);

    ck_assert_int_eq(lease.until_ms, 1029698);
    ck_assert_int_eq(lease_revoke_at(&lease, &rules), 1023698);
    ck_assert_int_eq(lease_revoke_at(&lease, &wide), 1025683);
    ck_assert_int_eq(lease_deadline_at(&lease), 4600040);
    ck_assert_int_eq(lease_held_for(&lease, 1000040), 0);
    ck_assert_int_eq(lease_held_for(&lease, 1005040), 5000);

    const struct lease_event shutdown = {.kind = LEASE_ON_SHUTDOWN};
    lease_step(&lease, &rules, &shutdown, 1007040);
    ck_assert_int_eq(lease_held_for(&lease, 1009999), 7000);
}
END_TEST

// A grant is believed only before the D that it would have.
START_TEST(test_grant_is_believed_until_its_own_revoke_time)
{
    const struct lease_rules rules = {0};
    const struct lease_event grant = {.kind = LEASE_ON_GRANTED, .sent_at_ms = 1000};

    for (size_t i = 0; i < sizeof some_ttls / sizeof *some_ttls; i++) {
        int64_t ttl = some_ttls[i];
        int64_t revoke_at = 1000 + ttl - ttl / 100 - 2 - ttl / 5;
        struct lease lease = acquiring(ttl, 1000);
        ck_assert_uint_eq(lease_step(&lease, &rules, &grant, revoke_at - 1).set,
                          LEASE_DO_TELL_GRANTED);
        ck_assert_int_eq(lease.state, LEASE_HELD);

        lease = acquiring(ttl, 1000);
        ck_assert_uint_eq(lease_step(&lease, &rules, &grant, revoke_at).set,
                          LEASE_DO_TELL_DENIED | LEASE_DO_UNKEY | LEASE_DO_DELETE);
        ck_assert_int_eq(lease.state, LEASE_OWED);
    }
}
END_TEST

// ---- Heartbeats ----

// A step through the phases that meets some millisecond more than once, and none always.
enum { PHASE_STEP = 61 };

static bool is_beat(int64_t at_ms, int64_t period_ms, uint32_t phase)
{
    return at_ms % period_ms == period_ms * phase / LEASE_PHASES;
}

// I9: not later than P after the send; not earlier than P/4, so that a reply within C = P/4 finds it
// still to come; at its phase's beat where that is between.
START_TEST(test_first_heartbeat)
{
    for (size_t i = 0; i < sizeof some_ttls / sizeof *some_ttls; i++) {
        int64_t ttl = some_ttls[i], period = ttl / 3, least = period, most = 0;
        int64_t out_of_step = 0, phases = 0;
        for (uint32_t phase = 0; phase < LEASE_PHASES; phase += PHASE_STEP) {
            struct lease lease = granted(ttl, 7000, phase, 7001);
            int64_t after = lease.next_ms - 7000;
            if (after > period || 4 * after < period)
                ck_abort_msg("%lld after the send, TTL %lld", (long long)after, (long long)ttl);
            least = after < least ? after : least;
            most = after > most ? after : most;
            out_of_step += !is_beat(lease.next_ms, period, phase);
            phases++;
        }
        // The whole range is used, and three quarters are in step at once.
        ck_assert_int_le(4 * least, period + period / 25 + 8);
        ck_assert_int_ge(most, period - period / 100 - 1);
        ck_assert_int_le(4 * out_of_step, phases + phases / 20);
    }
}
END_TEST

static struct lease renewed(int64_t ttl_ms, int64_t sent_at_ms, uint32_t phase)
{
    const struct lease_rules rules = {0};
    const struct lease_event up = {.kind = LEASE_ON_STORE_UP};
    const struct lease_event positive = {
        .kind = LEASE_ON_RENEWED, .sent_at_ms = sent_at_ms, .phase = phase};
    struct lease lease = granted(ttl_ms, sent_at_ms - 100, 0, sent_at_ms - 99);

    if (lease_step(&lease, &rules, &up, sent_at_ms).set != LEASE_DO_RENEW ||
        lease_step(&lease, &rules, &positive, sent_at_ms + 10).set != LEASE_DO_TELL_RENEWED)
        ck_abort_msg("not renewed");
    return lease;
}

// The later ones: between 7P/8 and P after the send, on the beat where that is between.
START_TEST(test_next_heartbeat)
{
    for (size_t i = 0; i < sizeof some_ttls / sizeof *some_ttls; i++) {
        int64_t ttl = some_ttls[i], period = ttl / 3;
        for (uint32_t phase = 0; phase < LEASE_PHASES; phase += PHASE_STEP) {
            int64_t at = renewed(ttl, 7100, phase).next_ms, after = at - 7100;
            int64_t since = ((7100 - period * phase / LEASE_PHASES) % period + period) % period;
            if (after > period || 8 * after < 7 * period)
                ck_abort_msg("%lld after the send, TTL %lld", (long long)after, (long long)ttl);
            if (is_beat(at, period, phase) != (8 * (period - since) >= 7 * period))
                ck_abort_msg("sent %lld after its beat, then at %lld, TTL %lld", (long long)since,
                             (long long)after, (long long)ttl);
        }
    }
}
END_TEST

// Whatever the send was, some twenty heartbeats later a lease is in step, and stays so: P from one
// to the next, although each is sent a little late.
START_TEST(test_heartbeats_come_into_step)
{
    for (size_t i = 0; i < sizeof some_ttls / sizeof *some_ttls; i++) {
        int64_t ttl = some_ttls[i], period = ttl / 3, late = period / 50;
        for (uint32_t phase = 0; phase < LEASE_PHASES; phase += 7 * PHASE_STEP) {
            int64_t at = 7100;
            for (int beats = 0; beats < 24; beats++)
                at = renewed(ttl, at + late, phase).next_ms;
            ck_assert(is_beat(at, period, phase));
            ck_assert_int_eq(renewed(ttl, at + late, phase).next_ms, at + period);
        }
    }
}
END_TEST

// min(C, D - now), at least 1.
START_TEST(test_renew_timeout)
{
    const struct lease_rules rules = {0};

    for (size_t i = 0; i < sizeof some_ttls / sizeof *some_ttls; i++) {
        int64_t ttl = some_ttls[i], call = ttl / 12;
        struct lease lease = granted(ttl, 7000, 0, 7001);
        int64_t revoke_at = 7000 + ttl - ttl / 100 - 2 - ttl / 5;
        for (int64_t now = 7000; now < revoke_at; now++) {
            int64_t timeout = lease_renew_timeout(&lease, &rules, now);
            if (timeout != (revoke_at - now < call ? revoke_at - now : call))
                ck_abort_msg("%lld at %lld", (long long)timeout, (long long)now);
        }
        ck_assert_int_eq(lease_renew_timeout(&lease, &rules, revoke_at), 1);
        ck_assert_int_eq(lease_renew_timeout(&lease, &rules, revoke_at + 100000), 1);
    }
}
END_TEST

// ---- What is told ----

static const struct {
    enum wire_reason reason;
    bool promised; // the key is still ours until valid_until, or until the grace is over
} safe_cases[] = {
    {WIRE_REASON_LOST, false},    {WIRE_REASON_UNREACHABLE, true}, {WIRE_REASON_DEADLINE, true},
    {WIRE_REASON_SHUTDOWN, true}, {WIRE_REASON_BROKEN, true},      {WIRE_REASON_RELEASED, false},
    {WIRE_REASON_MOVED, false},   {WIRE_REASON_EOF, false},
};

START_TEST(test_safe_ms)
{
    for (int i = 0; i < COUNT(safe_cases); i++) {
        enum wire_reason reason = safe_cases[i].reason;
        bool promised = safe_cases[i].promised;

        ck_assert_int_eq(lease_safe_ms(reason, 10000, 4000), promised ? 6000 : 0);
        ck_assert_int_eq(lease_safe_ms(reason, 10000, 9999), promised ? 1 : 0);
        ck_assert_int_eq(lease_safe_ms(reason, 10000, 10000), 0);
        ck_assert_int_eq(lease_safe_ms(reason, 10000, 10001), 0);
    }
}
END_TEST

START_TEST(test_every_reason_has_a_safe_case)
{
    ck_assert_uint_eq(sizeof safe_cases / sizeof *safe_cases, WIRE_REASON_COUNT);
    for (size_t i = 0; i < sizeof safe_cases / sizeof *safe_cases; i++)
        ck_assert_uint_eq(safe_cases[i].reason, i);
}
END_TEST

static const struct {
    unsigned flags;
    enum lease_release_outcome outcome;
} outcome_cases[] = {
    {0, LEASE_RELEASE_LOST},
    {LEASE_FREED, LEASE_RELEASE_DONE},
    {LEASE_FREED | LEASE_EXPIRES | LEASE_UNSETTLED | LEASE_RISK_TOLD, LEASE_RELEASE_DONE},
    {LEASE_REVOKED, LEASE_RELEASE_LOST},
    {LEASE_REVOKED | LEASE_FREED, LEASE_RELEASE_LOST},
    {LEASE_REVOKED | LEASE_LOST, LEASE_RELEASE_LOST},
    {LEASE_FAILED, LEASE_RELEASE_UNAVAILABLE},
    {LEASE_FAILED | LEASE_UNSETTLED, LEASE_RELEASE_UNAVAILABLE},
};

START_TEST(test_release_outcome)
{
    for (int i = 0; i < COUNT(outcome_cases); i++) {
        struct lease lease = {.flags = (uint16_t)outcome_cases[i].flags};
        ck_assert_int_eq(lease_release_outcome(&lease), outcome_cases[i].outcome);
    }
}
END_TEST

// ---- Making one, names, classes ----

START_TEST(test_init)
{
    const struct lease_rules rules = {0};
    struct lease lease;

    memset(&lease, 0xff, sizeof lease);
    lease_init(&lease, 500, 1, 0, true);
    ck_assert_int_eq(lease.state, LEASE_NEW);
    ck_assert_uint_eq(lease.flags, LEASE_EXPIRES);
    ck_assert_uint_eq(lease.ttl_ms, 500);
    ck_assert_uint_eq(lease.deadline_ms, 1);
    ck_assert_int_eq(lease_wake_at(&lease, &rules), INT64_MAX);
    ck_assert_int_eq(lease_held_for(&lease, 99), 0);

    lease_init(&lease, LEASE_MAX_SPAN_MS, LEASE_MAX_SPAN_MS, 0, false);
    ck_assert_uint_eq(lease.flags, 0);
    ck_assert_uint_eq(lease.ttl_ms, 2147483647);
    ck_assert_uint_eq(lease.deadline_ms, 2147483647);

    lease_init(&lease, 500, 1, 777, false);
    ck_assert_uint_eq(lease.flags, LEASE_WAITS);
    ck_assert_int_eq(lease_wake_at(&lease, &rules), 777);
    lease_set_expires(&lease, true);
    ck_assert_uint_eq(lease.flags, LEASE_WAITS | LEASE_EXPIRES);
    lease_set_expires(&lease, false);
    ck_assert_uint_eq(lease.flags, LEASE_WAITS);
}
END_TEST

static const int64_t refused_spans[][2] = {
    {499, 1000}, {0, 1000}, {-1, 1000}, {2147483648, 1000}, {500, 0}, {500, -1}, {500, 2147483648},
};

START_TEST(test_init_asserts_its_bounds)
{
    struct lease lease;
    lease_init(&lease, refused_spans[_i][0], refused_spans[_i][1], 0, false);
}
END_TEST

START_TEST(test_names)
{
    for (int i = 0; i < LEASE_STATE_COUNT; i++) {
        ck_assert_ptr_nonnull(lease_state_names[i]);
        for (int k = 0; k < i; k++)
            ck_assert_str_ne(lease_state_names[i], lease_state_names[k]);
    }
    for (int i = 0; i < LEASE_EVENT_COUNT; i++) {
        ck_assert_ptr_nonnull(lease_event_names[i]);
        for (int k = 0; k < i; k++)
            ck_assert_str_ne(lease_event_names[i], lease_event_names[k]);
    }
}
END_TEST

START_TEST(test_classes)
{
    static const struct {
        bool live, has_key, asking, pending, pending_when_lost;
    } classes[LEASE_STATE_COUNT] = {
        [LEASE_NEW] = {false, false, false, true, true},
        [LEASE_QUEUED] = {false, false, true, true, true},
        [LEASE_ACQUIRING] = {false, true, true, true, true},
        [LEASE_WAITING] = {false, true, true, true, true},
        [LEASE_ABANDONED] = {false, true, false, true, true},
        [LEASE_HELD] = {true, true, false, true, true},
        [LEASE_RELEASING] = {false, false, false, true, true},
        [LEASE_ENDING] = {false, false, false, true, false},
        [LEASE_OWED] = {false, false, false, true, true},
        [LEASE_GONE] = {false, false, false, false, false},
    };
    struct lease lease = {.state = (uint8_t)_i};

    ck_assert_int_eq(lease_is_live(&lease), classes[_i].live);
    ck_assert_int_eq(lease_has_key(&lease), classes[_i].has_key);
    ck_assert_int_eq(lease_is_asking(&lease), classes[_i].asking);
    ck_assert_int_eq(lease_is_pending(&lease), classes[_i].pending);
    lease.flags = LEASE_LOST;
    ck_assert_int_eq(lease_is_pending(&lease), classes[_i].pending_when_lost);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lease_rules");
    TCase *rules = tcase_create("rules");
    TCase *times = tcase_create("times");
    TCase *told = tcase_create("told");
    TCase *rest = tcase_create("rest");

    tcase_add_test(rules, test_every_ttl_passes_with_the_default_margin);
    tcase_add_test(rules, test_rules);
    tcase_add_test(rules, test_reason_is_cut_to_its_buffer);
    tcase_add_test(rules, test_margin);
    tcase_add_test(times, test_instants);
    tcase_add_test(times, test_grant_is_believed_until_its_own_revoke_time);
    tcase_add_test(times, test_first_heartbeat);
    tcase_add_test(times, test_next_heartbeat);
    tcase_add_test(times, test_heartbeats_come_into_step);
    tcase_add_test(times, test_renew_timeout);
    tcase_add_test(told, test_safe_ms);
    tcase_add_test(told, test_every_reason_has_a_safe_case);
    tcase_add_test(told, test_release_outcome);
    tcase_add_test(rest, test_init);
    tcase_add_loop_test_raise_signal(rest, test_init_asserts_its_bounds, SIGABRT, 0,
                                     COUNT(refused_spans));
    tcase_add_test(rest, test_names);
    tcase_add_loop_test(rest, test_classes, 0, LEASE_STATE_COUNT);
    suite_add_tcase(suite, rules);
    suite_add_tcase(suite, times);
    suite_add_tcase(suite, told);
    suite_add_tcase(suite, rest);

    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
