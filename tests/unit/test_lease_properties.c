// SPDX-License-Identifier: Apache-2.0
//
// What is true of every lease, whatever happens to it: pseudo-random events (also those that no
// store would send) at pseudo-random times, and the rules checked after each. A run ends when its
// lease is GONE. What fails names its seed: `test_lease_properties SEED` repeats and prints it.
#include <check.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/lease.h"

enum {
    SETS = 8,
    RUNS = 1500,  // of each set
    EVENTS = 150, // random ones of a run; after them it is only woken
};

// A lease and what an observer knows about it.
struct watch {
    struct lease lease;
    struct lease_rules rules;
    uint64_t seed;
    uint64_t random;
    int64_t now_ms;
    int steps;

    int64_t granted_at_ms;
    int64_t confirmed_ms; // sent_at + T - drift of the newest positive answer
    int64_t promised_ms;  // its validity when it ceased to be held
    int64_t owed_at_ms;
    int64_t wait_until_ms; // 0: tries once
    int told[32];          // per bit of an action
    bool granted;
    bool unknown;     // an attempt to acquire may yet be executed
    bool left;        // its client went, or was cut off, before anything else ended it
    bool stopped;     // its client said so: RELEASE, or UNBIND where that frees the key
    bool releasing;   // a client waits for the release's reply
    bool was_release; // a RELEASE was taken
};

static bool verbose;
static long total_steps;

#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("seed %" PRIu64 ", step %d: %s", watch->seed, watch->steps, #condition);  \
    } while (0)

static uint64_t draw(struct watch *watch)
{
    uint64_t z = watch->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static int64_t below(struct watch *watch, int64_t limit)
{
    return limit > 0 ? (int64_t)(draw(watch) % (uint64_t)limit) : 0;
}

static bool one_in(struct watch *watch, int64_t n)
{
    return below(watch, n) == 0;
}

static int64_t drift(const struct lease *lease)
{
    return lease->ttl_ms / 100 + 2;
}

static int64_t margin(const struct watch *watch)
{
    const struct lease_rules *rules = &watch->rules;
    return (rules->revoke_margin_ms ? rules->revoke_margin_ms : watch->lease.ttl_ms / 5) +
           rules->widen_ms;
}

// T + C: longer than anything sent before can live.
static int64_t last_life(const struct lease *lease)
{
    return (int64_t)lease->ttl_ms + lease->ttl_ms / 12;
}

static bool is(const struct lease *lease, enum lease_state state)
{
    return lease->state == (uint8_t)state;
}

// ---- The rules ----

// Only forward, but for who asks again; HELD once.
static void check_transition(const struct watch *watch, const struct lease *before)
{
    static const unsigned next[LEASE_STATE_COUNT] = {
        [LEASE_NEW] =
            1u << LEASE_QUEUED | 1u << LEASE_ACQUIRING | 1u << LEASE_HELD | 1u << LEASE_GONE,
        [LEASE_QUEUED] = 1u << LEASE_ACQUIRING | 1u << LEASE_WAITING | 1u << LEASE_GONE,
        [LEASE_ACQUIRING] = 1u << LEASE_WAITING | 1u << LEASE_ABANDONED | 1u << LEASE_HELD |
                            1u << LEASE_OWED | 1u << LEASE_GONE,
        [LEASE_WAITING] = 1u << LEASE_ACQUIRING | 1u << LEASE_OWED | 1u << LEASE_GONE,
        [LEASE_ABANDONED] = 1u << LEASE_OWED | 1u << LEASE_GONE,
        [LEASE_HELD] =
            1u << LEASE_RELEASING | 1u << LEASE_ENDING | 1u << LEASE_OWED | 1u << LEASE_GONE,
        [LEASE_ENDING] = 1u << LEASE_RELEASING | 1u << LEASE_OWED | 1u << LEASE_GONE,
        [LEASE_RELEASING] = 1u << LEASE_OWED | 1u << LEASE_GONE,
        [LEASE_OWED] = 1u << LEASE_GONE,
    };

    if (watch->lease.state != before->state)
        HOLDS(next[before->state] & 1u << watch->lease.state);
}

// Who is told what, and how often.
static void check_telling(const struct watch *watch, const struct lease *before,
                          const struct lease_event *event, unsigned set)
{
    const struct lease *lease = &watch->lease;
    bool ceased = is(before, LEASE_HELD) && !is(lease, LEASE_HELD);

    for (int bit = 0; bit < 32; bit++)
        HOLDS(watch->told[bit] <= 1 || 1u << bit == LEASE_DO_TELL_AT_RISK ||
              1u << bit == LEASE_DO_TELL_RENEWED || 1u << bit == LEASE_DO_RENEW ||
              1u << bit == LEASE_DO_DELETE ||
              (watch->wait_until_ms &&
               (1u << bit == LEASE_DO_ACQUIRE || 1u << bit == LEASE_DO_TELL_WAITING)));
    // One answer to the acquire, and nothing is asked for after it.
    HOLDS(!(set & LEASE_DO_ACQUIRE) || watch->told[1] + watch->told[2] == 0);
    HOLDS(watch->told[1] + watch->told[2] <= 1);
    HOLDS(!!(set & LEASE_DO_TELL_WAITING) ==
          (is(before, LEASE_ACQUIRING) && is(lease, LEASE_WAITING)));
    HOLDS(!!(set & LEASE_DO_TELL_GRANTED) == (is(lease, LEASE_HELD) && !is(before, LEASE_HELD)));
    HOLDS(!(set & LEASE_DO_TELL_DENIED) || (!watch->granted && !watch->left));
    HOLDS(!(set & LEASE_DO_TELL_REVOKED) || (ceased && lease->reason < WIRE_REASON_COUNT));
    HOLDS(!(set & (LEASE_DO_TELL_AT_RISK | LEASE_DO_TELL_RENEWED)) || is(lease, LEASE_HELD));
    HOLDS(!(set & LEASE_DO_TELL_RELEASED) || watch->was_release);
    // Four doors; whoever did not leave by himself is told.
    if (ceased && !(set & LEASE_DO_TELL_REVOKED))
        HOLDS(!event->tell ? event->kind == LEASE_ON_RELEASE || event->kind == LEASE_ON_UNBIND ||
                                 event->kind == LEASE_ON_CUT
                           : event->kind == LEASE_ON_CUT);
    // A release that succeeded and a revocation never go together.
    if (set & LEASE_DO_TELL_RELEASED && watch->told[5] && event->kind != LEASE_ON_RELEASE &&
        lease->reason != WIRE_REASON_RELEASED)
        HOLDS(lease_release_outcome(lease) != LEASE_RELEASE_DONE);
}

static void check_validity(const struct watch *watch, const struct lease *before,
                           enum lease_event_kind event, struct lease_actions actions)
{
    const struct lease *lease = &watch->lease;

    if (is(lease, LEASE_HELD)) {
        HOLDS(lease->until_ms <= watch->confirmed_ms);
        HOLDS(watch->now_ms < lease->until_ms - margin(watch));
        HOLDS(watch->now_ms < watch->granted_at_ms + lease->deadline_ms ||
              event == LEASE_ON_EXTEND);
        HOLDS(lease_held_for(lease, watch->now_ms) == watch->now_ms - watch->granted_at_ms);
    }
    if (is(before, LEASE_HELD)) {
        if (is(lease, LEASE_HELD))
            HOLDS(lease->until_ms >= before->until_ms);
        HOLDS(!(actions.set & LEASE_DO_TELL_RENEWED) ||
              (lease->until_ms > before->until_ms &&
               watch->now_ms < before->until_ms - margin(watch)));
        if (actions.set & LEASE_DO_TELL_REVOKED)
            HOLDS(actions.valid_until_ms == watch->promised_ms);
    }
    if (actions.set & (LEASE_DO_TELL_GRANTED | LEASE_DO_TELL_RENEWED))
        HOLDS(actions.valid_until_ms == lease->until_ms);
    if (is(lease, LEASE_ENDING))
        HOLDS(lease->until_ms == watch->promised_ms);
}

static void check_store(const struct watch *watch, const struct lease *before,
                        const struct lease_event *event, unsigned set)
{
    const struct lease *lease = &watch->lease;

    if (set & LEASE_DO_RENEW)
        HOLDS(is(lease, LEASE_HELD) && lease->flags & LEASE_RENEWING &&
              lease->flags & LEASE_UNSETTLED && !(before->flags & LEASE_RENEWING));
    if (set & LEASE_DO_DELETE) {
        HOLDS(!(before->flags & LEASE_DELETING) && lease->flags & LEASE_DELETING);
        HOLDS(is(lease, LEASE_OWED) || is(lease, LEASE_RELEASING));
        // Nobody is robbed.
        HOLDS(!watch->granted || watch->stopped || watch->now_ms >= watch->promised_ms);
    }
    // What may yet be executed is followed by a delete; what never can be is not.
    if (set & LEASE_DO_UNKEY && !watch->granted && event->kind != LEASE_ON_GRANTED)
        HOLDS(!!(set & LEASE_DO_DELETE) == watch->unknown);
    if (event->kind == LEASE_ON_ADOPTED && is(before, LEASE_NEW))
        HOLDS(!(set & (LEASE_DO_DELETE | LEASE_DO_UNKEY)));
    // Others come first.
    if (before->flags & LEASE_YIELDS && watch->now_ms < before->next_ms)
        HOLDS(!(set & LEASE_DO_ACQUIRE));
    // Evidence ends it; what proves nothing does not.
    HOLDS(event->kind != LEASE_ON_NOT_OWNER || !is(lease, LEASE_HELD));
    if (is(before, LEASE_OWED) && event->kind != LEASE_ON_WAKE)
        HOLDS(!is(lease, LEASE_GONE) || (event->certain && (event->kind == LEASE_ON_DELETED ||
                                                            event->kind == LEASE_ON_NOT_THERE)));
    HOLDS(!!(set & LEASE_DO_ACQUIRE) ==
          (is(lease, LEASE_ACQUIRING) && !is(before, LEASE_ACQUIRING)));
    HOLDS(!!(set & LEASE_DO_UNKEY) == (lease_has_key(before) && !lease_has_key(lease)));
    HOLDS(!!(set & LEASE_DO_FORGET) == (is(lease, LEASE_GONE) && !is(before, LEASE_GONE)));
}

static void check_wake(const struct watch *watch, const struct lease *before,
                       const struct lease_event *event)
{
    const struct lease *lease = &watch->lease;
    int64_t wake_at = lease_wake_at(lease, &watch->rules);
    bool timed = is(lease, LEASE_HELD) || is(lease, LEASE_RELEASING) || is(lease, LEASE_ENDING) ||
                 is(lease, LEASE_WAITING) ||
                 (is(lease, LEASE_OWED) && !(lease->flags & LEASE_DELETING));
    bool waits = watch->wait_until_ms && (is(lease, LEASE_NEW) || is(lease, LEASE_QUEUED));

    HOLDS((timed || waits) == (wake_at != INT64_MAX));
    if (waits || is(lease, LEASE_WAITING))
        HOLDS(wake_at <= watch->wait_until_ms);
    if (is(lease, LEASE_OWED) && !(lease->flags & LEASE_DELETING))
        HOLDS(wake_at <= watch->owed_at_ms + last_life(lease));
    if (is(lease, LEASE_HELD))
        HOLDS(wake_at <= lease->until_ms - margin(watch) &&
              wake_at <= watch->granted_at_ms + lease->deadline_ms);
    // What failed is not repeated in the same turn.
    if (event->kind == LEASE_ON_RENEW_FAILED && !event->late && is(lease, LEASE_HELD))
        HOLDS(wake_at > watch->now_ms);
    if (event->kind == LEASE_ON_DELETE_FAILED && before->flags & LEASE_DELETING)
        HOLDS(wake_at > watch->now_ms || lease->until_ms <= watch->now_ms);
    if (event->kind != LEASE_ON_WAKE)
        return;
    HOLDS(wake_at > watch->now_ms);
    if (lease_wake_at(before, &watch->rules) <= watch->now_ms)
        HOLDS(wake_at > lease_wake_at(before, &watch->rules) || is(lease, LEASE_GONE));
    else if (!is(before, LEASE_HELD) || watch->now_ms < lease_deadline_at(before))
        HOLDS(memcmp(lease, before, sizeof *lease) == 0); // too early: nothing
    // It is forgotten when its time is over, but never with a delete unanswered.
    if (is(lease, LEASE_OWED) && !(lease->flags & LEASE_DELETING))
        HOLDS(watch->now_ms < watch->owed_at_ms + last_life(lease));
    if (is(before, LEASE_OWED) && before->flags & LEASE_DELETING)
        HOLDS(!is(lease, LEASE_GONE));
}

// ---- One step ----

static void note(struct watch *watch, const struct lease *before, const struct lease_event *event,
                 struct lease_actions actions)
{
    const struct lease *lease = &watch->lease;
    bool taken = is(before, LEASE_HELD) || is(before, LEASE_ENDING);

    for (int bit = 0; bit < 32; bit++)
        watch->told[bit] += (int)(actions.set >> bit & 1);
    if (actions.set & LEASE_DO_TELL_GRANTED) {
        watch->granted = true;
        watch->granted_at_ms = watch->now_ms;
        if (event->kind == LEASE_ON_ADOPTED)
            watch->granted_at_ms = event->sent_at_ms - event->age_ms;
    }
    if (is(before, LEASE_ACQUIRING) || is(before, LEASE_ABANDONED)) {
        bool over = event->kind == LEASE_ON_GRANTED && !watch->left;
        if (event->kind == LEASE_ON_UNKNOWN || (event->kind == LEASE_ON_GRANTED && watch->left))
            watch->unknown = true; // or it was executed
        else if (over || (event->kind == LEASE_ON_DENIED && event->certain))
            watch->unknown = false;
    }
    if (event->kind == LEASE_ON_GRANTED || event->kind == LEASE_ON_ADOPTED ||
        event->kind == LEASE_ON_RENEWED) {
        int64_t until_ms = event->sent_at_ms + lease->ttl_ms - drift(lease);
        if (until_ms > watch->confirmed_ms)
            watch->confirmed_ms = until_ms;
    }
    if (is(before, LEASE_HELD) && !is(lease, LEASE_HELD))
        watch->promised_ms = before->until_ms;
    if (event->kind == LEASE_ON_BREAK && is(before, LEASE_HELD) &&
        lease->reason == WIRE_REASON_BROKEN && watch->now_ms + event->grace_ms < watch->promised_ms)
        watch->promised_ms = watch->now_ms + event->grace_ms;
    if (is(lease, LEASE_OWED) && (!is(before, LEASE_OWED) || event->kind == LEASE_ON_DELETE_FAILED))
        watch->owed_at_ms = watch->now_ms;
    if (event->kind == LEASE_ON_RELEASE && taken) {
        watch->was_release = true;
        watch->stopped = true;
        watch->releasing = true;
    }
    if (event->kind == LEASE_ON_UNBIND && taken && !(lease->flags & LEASE_EXPIRES))
        watch->stopped = true;
    if (event->kind == LEASE_ON_UNBIND || event->kind == LEASE_ON_CUT) {
        watch->left = watch->left || !watch->granted;
    }
    if (actions.set & LEASE_DO_TELL_RELEASED)
        watch->releasing = false;
}

static void take(struct watch *watch, struct lease_event event)
{
    struct lease before;

    memcpy(&before, &watch->lease, sizeof before);
    struct lease_actions actions = lease_step(&watch->lease, &watch->rules, &event, watch->now_ms);
    watch->steps++;
    total_steps++;
    if (verbose)
        printf("%" PRId64 " %s %s%s%s sent %" PRId64
               " -> %s, actions %#x, flags %#x, until %" PRId64 ", next %" PRId64 "\n",
               watch->now_ms, lease_state_names[before.state], lease_event_names[event.kind],
               event.late ? " late" : "", event.tell ? " tell" : "", event.sent_at_ms,
               lease_state_names[watch->lease.state], actions.set, watch->lease.flags,
               watch->lease.until_ms, watch->lease.next_ms);
    note(watch, &before, &event, actions);
    check_transition(watch, &before);
    check_telling(watch, &before, &event, actions.set);
    check_validity(watch, &before, event.kind, actions);
    check_store(watch, &before, &event, actions.set);
    check_wake(watch, &before, &event);
}

// ---- Random events ----

// What most often comes next, so that leases live long enough to see everything.
static enum lease_event_kind usual(struct watch *watch)
{
    bool deleting = watch->lease.flags & LEASE_DELETING;

    switch ((enum lease_state)watch->lease.state) {
    case LEASE_NEW:
    case LEASE_QUEUED:
        return LEASE_ON_START;
    case LEASE_ACQUIRING:
        if (watch->wait_until_ms && !one_in(watch, 4))
            return one_in(watch, 3) ? LEASE_ON_UNKNOWN : LEASE_ON_DENIED;
        return LEASE_ON_GRANTED;
    case LEASE_ABANDONED:
        return LEASE_ON_GRANTED;
    case LEASE_WAITING:
        return one_in(watch, 2) ? LEASE_ON_POKE : LEASE_ON_WAKE;
    case LEASE_HELD:
        if (watch->lease.flags & LEASE_RENEWING)
            return one_in(watch, 4) ? LEASE_ON_RENEW_FAILED : LEASE_ON_RENEWED;
        return LEASE_ON_WAKE;
    case LEASE_RELEASING:
    case LEASE_OWED:
        return deleting && one_in(watch, 2) ? LEASE_ON_DELETE_FAILED : LEASE_ON_WAKE;
    default:
        return LEASE_ON_WAKE;
    }
}

static void pass_time(struct watch *watch, bool to_wake)
{
    int64_t ttl = watch->lease.ttl_ms;
    int64_t wake_at = lease_wake_at(&watch->lease, &watch->rules);

    if (to_wake && wake_at != INT64_MAX) {
        int64_t late = one_in(watch, 20) ? below(watch, 2 * ttl) : below(watch, 3);
        if (wake_at + late > watch->now_ms)
            watch->now_ms = wake_at + late;
    } else if (one_in(watch, 60)) {
        watch->now_ms += below(watch, 2 * ttl);
    } else if (!one_in(watch, 4)) {
        watch->now_ms += below(watch, ttl / 20);
    }
}

static struct lease_event random_event(struct watch *watch)
{
    struct lease_event event = {0};

    event.kind =
        one_in(watch, 6) ? (enum lease_event_kind)below(watch, LEASE_EVENT_COUNT) : usual(watch);
    // The keeper never does these: they are asserted.
    if ((event.kind == LEASE_ON_DEFER && is(&watch->lease, LEASE_NEW)) ||
        (event.kind == LEASE_ON_DEFER && !watch->wait_until_ms) ||
        (event.kind == LEASE_ON_ADOPTED &&
         (is(&watch->lease, LEASE_QUEUED) || watch->wait_until_ms)))
        event.kind = LEASE_ON_WAKE;
    pass_time(watch, event.kind == LEASE_ON_WAKE && !one_in(watch, 8));
    event.late =
        (event.kind == LEASE_ON_RENEWED || event.kind == LEASE_ON_RENEW_FAILED) && one_in(watch, 4);
    event.certain = one_in(watch, 2);
    event.final = one_in(watch, 10);
    event.retry_ms = 1 + below(watch, 1000);
    event.age_ms = below(watch, watch->lease.deadline_ms + 10);
    event.grace_ms = one_in(watch, 2) ? 0 : below(watch, watch->lease.ttl_ms);
    event.deadline_ms = 1 + below(watch, 20 * (int64_t)watch->lease.ttl_ms);
    event.tell = one_in(watch, 2);
    event.phase = (uint32_t)below(watch, LEASE_PHASES);
    event.sent_at_ms = watch->now_ms - (one_in(watch, 10) ? below(watch, watch->lease.ttl_ms)
                                                          : below(watch, watch->lease.ttl_ms / 12));
    return event;
}

static void begin(struct watch *watch, uint64_t seed)
{
    static const int64_t ttls[] = {500, 501, 1000, 7777, 30000, 300000};
    static const struct lease_rules rules[] = {{0, 0}, {0, 0}, {0, 5}};
    int64_t ttl;

    *watch = (struct watch){.seed = seed, .random = seed, .now_ms = 1};
    ttl = ttls[below(watch, sizeof ttls / sizeof *ttls)];
    watch->now_ms += below(watch, 1000000);
    watch->rules = rules[below(watch, 3)];
    memset(&watch->lease, 0, sizeof watch->lease);
    if (one_in(watch, 2))
        watch->wait_until_ms = watch->now_ms + 1 + below(watch, 3 * ttl);
    lease_init(&watch->lease, ttl, 1 + below(watch, one_in(watch, 3) ? ttl : 20 * ttl),
               watch->wait_until_ms, one_in(watch, 3));
}

static enum lease_event_kind final_answer(const struct watch *watch, int wakes)
{
    if (is(&watch->lease, LEASE_NEW) || is(&watch->lease, LEASE_QUEUED))
        return LEASE_ON_START;
    if (is(&watch->lease, LEASE_RELEASING) || is(&watch->lease, LEASE_OWED))
        return wakes < 100 ? LEASE_ON_DELETE_FAILED : LEASE_ON_NOT_THERE;
    return LEASE_ON_UNKNOWN;
}

static void wake_until_gone(struct watch *watch)
{
    int wakes = 0;

    while (!is(&watch->lease, LEASE_GONE)) {
        int64_t wake_at = lease_wake_at(&watch->lease, &watch->rules);
        HOLDS(++wakes < 400);
        if (wake_at == INT64_MAX) { // a store answers in the end
            take(watch, (struct lease_event){.kind = final_answer(watch, wakes)});
            continue;
        }
        if (wake_at > watch->now_ms)
            watch->now_ms = wake_at;
        take(watch, (struct lease_event){.kind = LEASE_ON_WAKE});
        if (watch->lease.flags & LEASE_DELETING && one_in(watch, 2) &&
            !is(&watch->lease, LEASE_GONE))
            take(watch, (struct lease_event){.kind = final_answer(watch, wakes)});
    }
}

static void run(uint64_t seed)
{
    struct watch it, *watch = &it;

    begin(watch, seed);
    for (int i = 0; i < EVENTS && !is(&watch->lease, LEASE_GONE); i++)
        take(watch, random_event(watch));
    wake_until_gone(watch);
    // One answer to the acquire, unless its client left; one to each release that is waited for.
    int answers = watch->told[1] + watch->told[2];
    HOLDS(answers == 1 || (watch->left && answers == 0));
    HOLDS(!watch->releasing);
    HOLDS(!watch->granted || watch->told[5] + watch->told[6] <= 2);
}

START_TEST(test_random_events)
{
    total_steps = 0;
    for (int i = 0; i < RUNS; i++)
        run((uint64_t)_i * RUNS + (uint64_t)i);
    // The sets together make more than 100 000 steps, or the runs end too early to prove much.
    ck_assert_int_ge(total_steps, 100000 / SETS);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 1) {
        verbose = true;
        run(strtoull(argv[1], NULL, 10));
        return EXIT_SUCCESS;
    }
    Suite *suite = suite_create("lease_properties");
    TCase *tests = tcase_create("random");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, test_random_events, 0, SETS);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
