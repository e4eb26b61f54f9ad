// SPDX-License-Identifier: Apache-2.0
//
// One lease against a model of Redis with one key, in virtual time: sends that take their time, are
// executed late or never, answered late or never; a Redis that freezes, a connection that is cut, a
// sidecar that stalls, a client that goes in every way. Where the property tests look at the
// machine alone, this one looks at the key: is it still there for as long as was promised (I2, I6),
// is it gone when the lease is (I6), was it lost when `lost` was said (I8), is it renewed in time
// (I9)?
//
// The model keeps store.h's contract: sends are executed in their order, each completes once, a
// renewal that was answered after its time-out once more, and what an old connection still held is
// executed before STORE_UP or never (it is killed there). `test_lease_model SEED` prints one run.
#include <check.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "sidecar/lease.h"

enum {
    SETS = 8,
    RUNS = 2500, // of each set
    SENDS = 4096,
};
#define NEVER INT64_MAX

enum send_kind { SEND_ACQUIRE, SEND_RENEW, SEND_DELETE };

struct send {
    enum send_kind kind;
    int64_t sent_at_ms; // NEVER: kept until the store is up
    int64_t executes_at_ms;
    int64_t answers_at_ms;
    int64_t timeout_at_ms;
    bool executed, worked; // worked: it found the key ours (or free)
    bool completed;        // reported to the machine
    bool closed;           // nothing more to report
};

struct world {
    struct lease lease;
    struct lease_rules rules;
    uint64_t seed, random;
    int64_t now_ms;
    int steps;

    struct send sends[SENDS];
    int count;
    int64_t executed_until_ms; // the order of sends
    int64_t frozen_until_ms;   // Redis does nothing before
    int64_t up_at_ms;          // NEVER: the connection stands
    int64_t stalled_until_ms;  // the sidecar does nothing before
    bool faults;

    bool ours; // the key, until it runs out
    int64_t expires_at_ms;
    bool robbed; // somebody deleted it

    int64_t granted_at_ms, promised_ms;
    int64_t renewed_at_ms; // send of the newest renewal
    bool granted, stopped, told;
    int64_t action_at_ms; // when the client does something
    int64_t fault_at_ms;
    int released_told;
    bool asked; // a release waits for its reply
};

static bool verbose;

#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("seed %" PRIu64 ", at %" PRId64 ": %s", world->seed, world->now_ms,       \
                         #condition);                                                              \
    } while (0)

__attribute__((format(printf, 2, 3))) static void say(const struct world *world, const char *format,
                                                      ...)
{
    va_list list;

    if (!verbose)
        return;
    printf("%8" PRId64 " ", world->now_ms);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    puts("");
}

static uint64_t draw(struct world *world)
{
    uint64_t z = world->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static int64_t below(struct world *world, int64_t limit)
{
    return limit > 0 ? (int64_t)(draw(world) % (uint64_t)limit) : 0;
}

static bool one_in(struct world *world, int64_t n)
{
    return below(world, n) == 0;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static bool is(const struct world *world, enum lease_state state)
{
    return world->lease.state == (uint8_t)state;
}

static bool key_is_ours(const struct world *world)
{
    return world->ours && world->now_ms < world->expires_at_ms;
}

// ---- Redis ----

static void execute(struct world *world, struct send *send)
{
    int64_t ttl = world->lease.ttl_ms;

    send->executed = true;
    switch (send->kind) {
    case SEND_ACQUIRE:
        send->worked = true; // nobody else wants the key
        world->ours = true;
        world->expires_at_ms = world->now_ms + ttl;
        break;
    case SEND_RENEW:
        send->worked = key_is_ours(world);
        if (send->worked)
            world->expires_at_ms = world->now_ms + ttl;
        break;
    case SEND_DELETE:
        send->worked = key_is_ours(world);
        // Nobody is robbed.
        if (send->worked)
            HOLDS(!world->granted || world->stopped || world->now_ms >= world->promised_ms);
        world->ours = false;
        break;
    }
    say(world, "  redis: %s %s",
        send->kind == SEND_ACQUIRE ? "set"
        : send->kind == SEND_RENEW ? "pexpire"
                                   : "del",
        send->worked ? "done" : "not ours");
}

static void put_on_wire(struct world *world, struct send *send)
{
    int64_t call = lease_call_ms(world->lease.ttl_ms);
    int64_t there = below(world, world->faults && one_in(world, 4) ? 2 * call : 1 + call / 20);
    int64_t back = below(world, world->faults && one_in(world, 6) ? 2 * call : 1 + call / 20);

    send->sent_at_ms = world->now_ms;
    send->executes_at_ms =
        max64(max64(world->now_ms + there, world->frozen_until_ms), world->executed_until_ms);
    world->executed_until_ms = send->executes_at_ms;
    send->answers_at_ms = send->executes_at_ms + back;
    send->timeout_at_ms = world->now_ms + call;
    if (send->kind == SEND_RENEW) {
        send->timeout_at_ms =
            world->now_ms + lease_renew_timeout(&world->lease, &world->rules, world->now_ms);
        world->renewed_at_ms = world->now_ms;
    }
}

static void submit(struct world *world, enum send_kind kind)
{
    struct send *send = &world->sends[world->count++];

    HOLDS(world->count < SENDS);
    *send = (struct send){.kind = kind,
                          .sent_at_ms = NEVER,
                          .executes_at_ms = NEVER,
                          .answers_at_ms = NEVER,
                          .timeout_at_ms = NEVER};
    if (world->up_at_ms == NEVER)
        put_on_wire(world, send);
    else if (kind != SEND_RENEW) // unsent in the end; a renewal is kept
        send->timeout_at_ms = world->now_ms + lease_call_ms(world->lease.ttl_ms) / 2;
}

// ---- The machine, and what is asserted of each step ----

static int64_t margin(const struct world *world)
{
    return world->lease.ttl_ms / 5 + world->rules.widen_ms;
}

static void check_revoked(struct world *world, int64_t valid_until_ms)
{
    int64_t safe_ms =
        lease_safe_ms((enum wire_reason)world->lease.reason, valid_until_ms, world->now_ms);

    world->told = true;
    HOLDS(world->granted);
    if (world->lease.reason == WIRE_REASON_LOST)
        HOLDS(world->robbed || !key_is_ours(world));
    if (world->lease.reason == WIRE_REASON_UNREACHABLE)
        HOLDS(world->faults && world->now_ms >= valid_until_ms - margin(world));
    if (safe_ms > 0 && !world->robbed)
        HOLDS(world->ours && world->expires_at_ms >= world->now_ms + safe_ms);
}

static void check_held(const struct world *world)
{
    int64_t ttl = world->lease.ttl_ms;

    HOLDS(world->now_ms < world->lease.until_ms - margin(world));
    HOLDS(world->now_ms < world->granted_at_ms + world->lease.deadline_ms);
    if (!world->robbed)
        HOLDS(key_is_ours(world) && world->expires_at_ms > world->lease.until_ms);
    if (world->faults)
        return;
    HOLDS(world->expires_at_ms - world->now_ms >= ttl - ttl / 3 - ttl / 12);
    HOLDS(world->now_ms - world->renewed_at_ms <= ttl / 3 + ttl / 12);
}

static void check_gone(const struct world *world)
{
    bool deleted_by_us = is(world, LEASE_GONE) && !key_is_ours(world);

    HOLDS(deleted_by_us);
    // Nothing on its way can make it ours again.
    for (int i = 0; i < world->count; i++) {
        const struct send *send = &world->sends[i];
        if (send->kind == SEND_ACQUIRE)
            HOLDS(send->executed || send->executes_at_ms == NEVER);
        if (send->kind == SEND_RENEW && !send->executed && send->executes_at_ms != NEVER)
            HOLDS(!deleted_by_us || send->executes_at_ms >= world->now_ms);
    }
}

static void act(struct world *world, unsigned set)
{
    if (set & LEASE_DO_ACQUIRE)
        submit(world, SEND_ACQUIRE);
    if (set & LEASE_DO_RENEW)
        submit(world, SEND_RENEW);
    if (set & LEASE_DO_DELETE)
        submit(world, SEND_DELETE);
    if (set & LEASE_DO_TELL_RELEASED) {
        HOLDS(world->asked);
        HOLDS(++world->released_told == 1);
        if (lease_release_outcome(&world->lease) == LEASE_RELEASE_DONE)
            HOLDS(!key_is_ours(world));
        // Nobody is told that he lost what nobody took.
        if (lease_release_outcome(&world->lease) == LEASE_RELEASE_LOST)
            HOLDS(world->robbed || world->told || world->lease.flags & LEASE_REVOKED ||
                  world->now_ms >= world->expires_at_ms);
    }
}

static void take(struct world *world, struct lease_event event)
{
    bool was_held = is(world, LEASE_HELD);
    int64_t was_until_ms = world->lease.until_ms;
    uint8_t was = world->lease.state;

    if (is(world, LEASE_GONE))
        return;
    event.phase = (uint32_t)below(world, LEASE_PHASES);
    struct lease_actions actions = lease_step(&world->lease, &world->rules, &event, world->now_ms);
    world->steps++;
    say(world, "%s %s%s%s -> %s, actions %#x, flags %#x, until %" PRId64, lease_state_names[was],
        lease_event_names[event.kind], event.late ? " late" : "", event.tell ? " tell" : "",
        lease_state_names[world->lease.state], actions.set, world->lease.flags,
        world->lease.until_ms);
    if (actions.set & LEASE_DO_TELL_GRANTED) {
        world->granted = true;
        world->granted_at_ms = world->now_ms;
        world->renewed_at_ms = event.sent_at_ms;
    }
    if (was_held && !is(world, LEASE_HELD))
        world->promised_ms = was_until_ms;
    if (actions.set & LEASE_DO_TELL_REVOKED) {
        HOLDS(!world->told);
        check_revoked(world, actions.valid_until_ms);
    }
    act(world, actions.set);
    HOLDS(event.kind != LEASE_ON_NOT_OWNER || !is(world, LEASE_HELD));
    if (is(world, LEASE_HELD))
        check_held(world);
    if (is(world, LEASE_GONE))
        check_gone(world);
}

// ---- Completions ----

static void complete(struct world *world, struct send *send, bool answered)
{
    static const enum lease_event_kind kinds[][3] = {
        // worked, did not, nobody knows
        [SEND_ACQUIRE] = {LEASE_ON_GRANTED, LEASE_ON_DENIED, LEASE_ON_UNKNOWN},
        [SEND_RENEW] = {LEASE_ON_RENEWED, LEASE_ON_NOT_OWNER, LEASE_ON_RENEW_FAILED},
        [SEND_DELETE] = {LEASE_ON_DELETED, LEASE_ON_NOT_THERE, LEASE_ON_DELETE_FAILED},
    };
    struct lease_event event = {.sent_at_ms = send->sent_at_ms, .certain = true};
    bool again = send->completed;

    send->closed = answered;
    send->completed = true;
    event.kind = kinds[send->kind][!answered ? 2 : send->worked ? 0 : 1];
    event.late = again;
    if (send->sent_at_ms == NEVER && send->kind == SEND_ACQUIRE)
        event.kind = LEASE_ON_DENIED;
    if (again && send->kind != SEND_RENEW)
        return;
    take(world, event);
}

// The first of the sidecar's events that are due, in any order: its own sweep has to cope.
static bool step_sidecar(struct world *world)
{
    struct send *due[SENDS];
    int count = 0;

    if (world->now_ms < world->stalled_until_ms)
        return false;
    for (int i = 0; i < world->count; i++) {
        struct send *send = &world->sends[i];
        if (!send->closed && ((send->executed && send->answers_at_ms <= world->now_ms) ||
                              (!send->completed && send->timeout_at_ms <= world->now_ms)))
            due[count++] = send;
    }
    bool wake = lease_wake_at(&world->lease, &world->rules) <= world->now_ms;
    if (wake && (count == 0 || one_in(world, 2))) {
        take(world, (struct lease_event){.kind = LEASE_ON_WAKE});
        HOLDS(lease_wake_at(&world->lease, &world->rules) > world->now_ms);
        return true;
    }
    if (count == 0)
        return false;
    struct send *send = due[below(world, count)];
    bool answered = send->executed && send->answers_at_ms <= world->now_ms;
    if (answered && !send->completed && send->timeout_at_ms <= world->now_ms && one_in(world, 2))
        answered = false; // the time-out is seen first
    complete(world, send, answered);
    return true;
}

// ---- Faults and the client ----

static void cut_connection(struct world *world)
{
    int64_t ttl = world->lease.ttl_ms;
    world->up_at_ms = world->now_ms + 1 + below(world, one_in(world, 3) ? 4 * ttl : ttl / 10);

    say(world, "cut until %" PRId64, world->up_at_ms);
    for (int i = 0; i < world->count; i++) {
        struct send *send = &world->sends[i];
        if (send->sent_at_ms == NEVER || send->closed)
            continue;
        send->answers_at_ms = NEVER;
        if (!send->executed)
            send->executes_at_ms =
                one_in(world, 2) && send->executes_at_ms != NEVER
                    ? world->now_ms + below(world, world->up_at_ms - world->now_ms)
                    : NEVER;
        send->timeout_at_ms = NEVER;
        send->closed = true;
        if (!send->completed)
            complete(world, send, false);
        send->closed = true;
    }
}

static void restore_connection(struct world *world)
{
    world->up_at_ms = NEVER;
    world->executed_until_ms = world->now_ms;
    say(world, "up");
    for (int i = 0; i < world->count; i++) {
        struct send *send = &world->sends[i];
        if (send->sent_at_ms == NEVER && !send->completed && send->kind == SEND_RENEW) {
            if (is(world, LEASE_HELD))
                put_on_wire(world, send);
            else
                send->completed = send->closed = true;
        }
    }
    take(world, (struct lease_event){.kind = LEASE_ON_STORE_UP});
}

static void fault(struct world *world)
{
    int64_t ttl = world->lease.ttl_ms;

    world->fault_at_ms = world->now_ms + below(world, 2 * ttl);
    switch (below(world, 8)) {
    case 0:
        say(world, "the key is deleted by hand");
        world->robbed = world->robbed || world->ours;
        world->ours = false;
        break;
    case 1:
    case 2:
        world->stalled_until_ms = world->now_ms + below(world, one_in(world, 3) ? ttl : ttl / 4);
        say(world, "stalled until %" PRId64, world->stalled_until_ms);
        break;
    case 3:
    case 4:
        world->frozen_until_ms = world->now_ms + below(world, one_in(world, 2) ? 4 * ttl : ttl / 4);
        say(world, "frozen until %" PRId64, world->frozen_until_ms);
        for (int i = 0; i < world->count; i++) {
            struct send *send = &world->sends[i];
            if (send->executed || send->executes_at_ms == NEVER ||
                send->executes_at_ms >= world->frozen_until_ms)
                continue;
            send->executes_at_ms = world->frozen_until_ms;
            if (send->answers_at_ms < world->frozen_until_ms)
                send->answers_at_ms = world->frozen_until_ms;
        }
        world->executed_until_ms = max64(world->executed_until_ms, world->frozen_until_ms);
        break;
    default:
        if (world->up_at_ms == NEVER)
            cut_connection(world);
    }
}

static void client_acts(struct world *world)
{
    bool expires = world->lease.flags & LEASE_EXPIRES;
    bool tell = one_in(world, 2);
    struct lease_event event = {.tell = tell};

    world->action_at_ms = world->now_ms + below(world, 3 * (int64_t)world->lease.ttl_ms);
    switch (below(world, 6)) {
    case 0:
    case 1:
        if (!is(world, LEASE_HELD) && !is(world, LEASE_ENDING))
            return;
        event.kind = LEASE_ON_RELEASE;
        world->stopped = true;
        world->asked = true;
        break;
    case 2:
    case 3:
        event.kind = LEASE_ON_UNBIND;
        world->stopped = world->stopped || !expires;
        break;
    case 4:
        event.kind = LEASE_ON_CUT;
        break;
    default:
        event.kind = LEASE_ON_SHUTDOWN;
    }
    take(world, event);
}

// ---- Virtual time ----

static int64_t next_instant(const struct world *world)
{
    int64_t next = world->action_at_ms;
    int64_t own = lease_wake_at(&world->lease, &world->rules);

    for (int i = 0; i < world->count; i++) {
        const struct send *send = &world->sends[i];
        if (!send->executed && send->executes_at_ms < next)
            next = send->executes_at_ms;
        if (send->closed)
            continue;
        if (send->executed && send->answers_at_ms < own)
            own = send->answers_at_ms;
        if (!send->completed && send->timeout_at_ms < own)
            own = send->timeout_at_ms;
    }
    own = max64(own, world->stalled_until_ms);
    if (world->up_at_ms != NEVER && world->up_at_ms < next)
        next = max64(world->up_at_ms, world->stalled_until_ms);
    if (world->faults && world->fault_at_ms < next)
        next = world->fault_at_ms;
    return own < next ? own : next;
}

// Redis first: what the sidecar sees has happened.
static void step_world(struct world *world)
{
    int64_t next = next_instant(world);

    HOLDS(next != NEVER);
    world->now_ms = max64(world->now_ms, next);
    for (int i = 0; i < world->count; i++) {
        struct send *send = &world->sends[i];
        if (!send->executed && send->executes_at_ms <= world->now_ms) {
            execute(world, send);
            return;
        }
    }
    if (world->up_at_ms <= world->now_ms && world->now_ms >= world->stalled_until_ms)
        restore_connection(world);
    else if (world->faults && world->fault_at_ms <= world->now_ms)
        fault(world);
    else if (!step_sidecar(world) && world->action_at_ms <= world->now_ms)
        client_acts(world);
}

static int run(uint64_t seed)
{
    static const int64_t ttls[] = {500, 1000, 7777, 30000};
    static struct world it;
    struct world *world = &it;

    *world = (struct world){.seed = seed, .random = seed, .now_ms = 100, .up_at_ms = NEVER};
    int64_t ttl = ttls[below(world, 4)];
    lease_init(&world->lease, ttl, 1 + below(world, 20 * ttl), 0, one_in(world, 4));
    world->faults = !one_in(world, 4);
    world->fault_at_ms = world->now_ms + below(world, 4 * ttl);
    world->action_at_ms = world->now_ms + below(world, 12 * ttl);
    take(world, (struct lease_event){.kind = LEASE_ON_START});
    for (int i = 0; !is(world, LEASE_GONE); i++) {
        HOLDS(i < 100000);
        step_world(world);
    }
    return world->steps;
}

START_TEST(test_worlds)
{
    int steps = 0;

    for (int i = 0; i < RUNS; i++)
        steps += run((uint64_t)_i * RUNS + (uint64_t)i);
    ck_assert_int_ge(steps, 100000 / SETS);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 1) {
        verbose = true;
        run(strtoull(argv[1], NULL, 10));
        return EXIT_SUCCESS;
    }
    Suite *suite = suite_create("lease_model");
    TCase *tests = tcase_create("worlds");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, test_worlds, 0, SETS);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
