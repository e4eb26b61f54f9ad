// SPDX-License-Identifier: Apache-2.0
//
// The lease machine.
//
//                     START            GRANTED                  RELEASE
//     NEW, QUEUED ------------> ACQUIRING ------------> HELD ------------> RELEASING --> GONE
//                                  |   \                 | D, deadline,       | no answer
//                     client left  |    \ UNKNOWN        | lost, shutdown,    v
//                                  v     \               | cut off          OWED ------> GONE
//                              ABANDONED -+-> OWED       v                    ^ zombie at
//                                         GRANTED      ENDING ----------------+ valid_until
//                                                        |  RELEASE: RELEASING; else GONE
//
// Why it is safe, in the order of the promises:
//
// Told in time. until_ms is only ever set to `sent_at + T - drift` of a positive answer, and only
// while now < D of the value before (held_step sweeps first). Redis counts its T from the execution,
// which is after sent_at; so its clock, drift slower or faster by at most 1 %, lets nobody in before
// until_ms. D lies M before it, is computed here and needs no reply.
//
// Told once. HELD is left by one of four doors (release, end of binding, revocation, cut), each of
// which sets the state before anything is said; no state leads back to HELD.
//
// Nobody is robbed. A delete of a granted lease is submitted after RELEASE or UNBIND (the client
// stopped) or at until_ms (nobody may act any more), never else.
//
// Nothing is left. Whatever may still execute in Redis is followed by a compare-and-delete: UNKNOWN
// acquires at once, unsettled renewals at until_ms. An owed delete is repeated until it is answered
// (and certain), or until T + C after it became owed or was last left unanswered: a send is
// executed by the time that Redis answers a later one, and its execution bounds the key's life by T.

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "sidecar/lease.h"

const char *const lease_state_names[LEASE_STATE_COUNT] = {
    [LEASE_NEW] = "new",
    [LEASE_QUEUED] = "queued",
    [LEASE_ACQUIRING] = "acquiring",
    [LEASE_WAITING] = "waiting",
    [LEASE_ABANDONED] = "abandoned",
    [LEASE_HELD] = "held",
    [LEASE_RELEASING] = "releasing",
    [LEASE_ENDING] = "ending",
    [LEASE_OWED] = "owed",
    [LEASE_GONE] = "gone",
};

const char *const lease_event_names[LEASE_EVENT_COUNT] = {
    [LEASE_ON_QUEUE] = "queue",
    [LEASE_ON_START] = "start",
    [LEASE_ON_DEFER] = "defer",
    [LEASE_ON_POKE] = "poke",
    [LEASE_ON_GRANTED] = "granted",
    [LEASE_ON_ADOPTED] = "adopted",
    [LEASE_ON_DENIED] = "denied",
    [LEASE_ON_UNKNOWN] = "unknown",
    [LEASE_ON_RENEWED] = "renewed",
    [LEASE_ON_RENEW_FAILED] = "renew_failed",
    [LEASE_ON_NOT_OWNER] = "not_owner",
    [LEASE_ON_DELETED] = "deleted",
    [LEASE_ON_NOT_THERE] = "not_there",
    [LEASE_ON_DELETE_FAILED] = "delete_failed",
    [LEASE_ON_RELEASE] = "release",
    [LEASE_ON_UNBIND] = "unbind",
    [LEASE_ON_CUT] = "cut",
    [LEASE_ON_SHUTDOWN] = "shutdown",
    [LEASE_ON_BREAK] = "break",
    [LEASE_ON_EXTEND] = "extend",
    [LEASE_ON_STORE_UP] = "store_up",
    [LEASE_ON_WAKE] = "wake",
};

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// ---- The arithmetic ----

int64_t lease_heartbeat_ms(int64_t ttl_ms)
{
    return ttl_ms / 3;
}

int64_t lease_call_ms(int64_t ttl_ms)
{
    return ttl_ms / 12;
}

int64_t lease_retry_ms(int64_t ttl_ms)
{
    return max64(ttl_ms / 60, LEASE_MIN_RETRY_MS);
}

int64_t lease_drift_ms(int64_t ttl_ms)
{
    return ttl_ms / 100 + 2;
}

// What a heartbeat that fails once needs: the period, two calls, the pause between them.
static int64_t needed_ms(int64_t ttl_ms)
{
    return lease_heartbeat_ms(ttl_ms) + 2 * lease_call_ms(ttl_ms) + lease_retry_ms(ttl_ms);
}

int64_t lease_margin_ms(const struct lease_rules *rules, int64_t ttl_ms)
{
    int64_t margin = rules->revoke_margin_ms ? rules->revoke_margin_ms : ttl_ms / 5;
    int64_t room;

    if (rules->widen_ms == 0)
        return margin;
    room = ttl_ms - lease_drift_ms(ttl_ms) - margin - needed_ms(ttl_ms);
    return margin + max64(min64(rules->widen_ms, room), 0);
}

int lease_rules_check(const struct lease_rules *rules, int64_t ttl_ms, char *why, size_t size)
{
    int64_t margin = lease_margin_ms(rules, ttl_ms);
    int64_t least = max64(ttl_ms / 10, LEASE_MIN_MARGIN_MS);
    int64_t needed = needed_ms(ttl_ms);
    int64_t there = ttl_ms - lease_drift_ms(ttl_ms) - margin;

    if (ttl_ms < WIRE_MIN_TTL) {
        snprintf(why, size, "the TTL of %lld ms is under the least, %d ms", (long long)ttl_ms,
                 WIRE_MIN_TTL);
        return -EINVAL;
    }
    if (margin < least) {
        snprintf(why, size,
                 "the revoke margin of %lld ms is under the least for a TTL of %lld ms: %lld ms "
                 "(a tenth of the TTL, at least %d ms)",
                 (long long)margin, (long long)ttl_ms, (long long)least, LEASE_MIN_MARGIN_MS);
        return -EINVAL;
    }
    if (needed > there) {
        snprintf(why, size,
                 "a TTL of %lld ms with a revoke margin of %lld ms leaves %lld ms before the "
                 "revoke time, but a heartbeat that fails once needs %lld ms: lower the margin or "
                 "raise the TTL",
                 (long long)ttl_ms, (long long)margin, (long long)there, (long long)needed);
        return -EINVAL;
    }
    return 0;
}

int64_t lease_revoke_at(const struct lease *lease, const struct lease_rules *rules)
{
    return lease->until_ms - lease_margin_ms(rules, lease->ttl_ms);
}

int64_t lease_deadline_at(const struct lease *lease)
{
    return lease->held_ms + lease->deadline_ms;
}

int64_t lease_renew_timeout(const struct lease *lease, const struct lease_rules *rules,
                            int64_t now_ms)
{
    int64_t left = lease_revoke_at(lease, rules) - now_ms;
    return max64(min64(lease_call_ms(lease->ttl_ms), left), 1);
}

int64_t lease_safe_ms(enum wire_reason reason, int64_t valid_until_ms, int64_t now_ms)
{
    switch (reason) {
    case WIRE_REASON_UNREACHABLE:
    case WIRE_REASON_DEADLINE:
    case WIRE_REASON_SHUTDOWN:
    case WIRE_REASON_BROKEN: // valid_until_ms is when the grace ends
        return max64(valid_until_ms - now_ms, 0);
    default:
        return 0;
    }
}

int64_t lease_held_for(const struct lease *lease, int64_t now_ms)
{
    return lease->state == LEASE_HELD ? now_ms - lease->held_ms : lease->held_ms;
}

enum lease_release_outcome lease_release_outcome(const struct lease *lease)
{
    if (lease->flags & LEASE_FAILED)
        return LEASE_RELEASE_UNAVAILABLE;
    if ((lease->flags & LEASE_REVOKED) || !(lease->flags & LEASE_FREED))
        return LEASE_RELEASE_LOST;
    return LEASE_RELEASE_DONE;
}

// When the heartbeat after a positive answer is due. Leases of the same phase have theirs at the same
// instants, one in each P: the last of those that is not later than P after the send. One that is
// nearer to the send than least_ms is not waited for: this lease is out of step, and comes nearer to
// it by going earlier than P each time.
static int64_t heartbeat_at(const struct lease *lease, const struct lease_event *event,
                            int64_t least_ms)
{
    int64_t period_ms = lease_heartbeat_ms(lease->ttl_ms);
    int64_t phase_ms = period_ms * event->phase / LEASE_PHASES;
    int64_t since_ms = (event->sent_at_ms % period_ms - phase_ms + period_ms) % period_ms;

    if (period_ms - since_ms >= least_ms)
        return event->sent_at_ms + period_ms - since_ms;
    return event->sent_at_ms + least_ms + phase_ms / 16;
}

// Up to an eighth of P before P: what was renewed together, after an outage, goes back to its phases.
static int64_t next_heartbeat(const struct lease *lease, const struct lease_event *event)
{
    int64_t period_ms = lease_heartbeat_ms(lease->ttl_ms);
    return heartbeat_at(lease, event, period_ms - period_ms / 8);
}

// Anywhere in the last three quarters of P: leases opened together part at once. Not earlier, so that
// an answer within C finds it still to come.
static int64_t first_heartbeat(const struct lease *lease, const struct lease_event *event)
{
    int64_t period_ms = lease_heartbeat_ms(lease->ttl_ms);
    return heartbeat_at(lease, event, period_ms - period_ms * 3 / 4);
}

static int64_t validity(const struct lease *lease, int64_t sent_at_ms)
{
    return sent_at_ms + lease->ttl_ms - lease_drift_ms(lease->ttl_ms);
}

// ---- Transitions ----

// The one place where a state changes.
static void enter(struct lease *lease, enum lease_state state)
{
    static const uint16_t from[LEASE_STATE_COUNT] = {
        [LEASE_QUEUED] = 1 << LEASE_NEW,
        [LEASE_ACQUIRING] = 1 << LEASE_NEW | 1 << LEASE_QUEUED | 1 << LEASE_WAITING,
        [LEASE_WAITING] = 1 << LEASE_QUEUED | 1 << LEASE_ACQUIRING,
        [LEASE_ABANDONED] = 1 << LEASE_ACQUIRING,
        [LEASE_HELD] = 1 << LEASE_NEW | 1 << LEASE_ACQUIRING,
        [LEASE_RELEASING] = 1 << LEASE_HELD | 1 << LEASE_ENDING,
        [LEASE_ENDING] = 1 << LEASE_HELD,
        [LEASE_OWED] = 1 << LEASE_ACQUIRING | 1 << LEASE_WAITING | 1 << LEASE_ABANDONED |
                       1 << LEASE_HELD | 1 << LEASE_RELEASING | 1 << LEASE_ENDING,
        [LEASE_GONE] = 1 << LEASE_NEW | 1 << LEASE_QUEUED | 1 << LEASE_ACQUIRING |
                       1 << LEASE_WAITING | 1 << LEASE_ABANDONED | 1 << LEASE_RELEASING |
                       1 << LEASE_ENDING | 1 << LEASE_OWED,
    };

    assert(from[state] & 1 << lease->state);
    lease->state = (uint8_t)state;
}

static unsigned forget(struct lease *lease)
{
    enter(lease, LEASE_GONE);
    return LEASE_DO_FORGET;
}

static unsigned submit_delete(struct lease *lease)
{
    lease->flags |= LEASE_DELETING;
    return LEASE_DO_DELETE;
}

// Where Redis answers at now, it has executed what was sent before, and after T + C nothing of it can
// be alive. Where it does not, that may be to come: a frozen Redis reads its sockets when it thaws.
static int64_t last_life(const struct lease *lease, int64_t now_ms)
{
    return now_ms + lease->ttl_ms + lease_call_ms(lease->ttl_ms);
}

static unsigned owe(struct lease *lease, int64_t now_ms)
{
    enter(lease, LEASE_OWED);
    lease->until_ms = last_life(lease, now_ms);
    return lease->flags & LEASE_DELETING ? 0 : submit_delete(lease);
}

static unsigned await_release(struct lease *lease, int64_t now_ms)
{
    enter(lease, LEASE_RELEASING);
    lease->until_ms = now_ms + lease_call_ms(lease->ttl_ms);
    return submit_delete(lease);
}

static void stop_holding(struct lease *lease, int64_t now_ms)
{
    lease->held_ms = now_ms - lease->held_ms;
}

static unsigned revoke(struct lease *lease, enum wire_reason reason, int64_t now_ms)
{
    stop_holding(lease, now_ms);
    enter(lease, LEASE_ENDING);
    lease->flags |= LEASE_REVOKED;
    lease->reason = (uint8_t)reason;
    return LEASE_DO_TELL_REVOKED | LEASE_DO_UNKEY;
}

static unsigned tell_risk(struct lease *lease)
{
    if (lease->flags & LEASE_RISK_TOLD)
        return 0;
    lease->flags |= LEASE_RISK_TOLD;
    return LEASE_DO_TELL_AT_RISK;
}

static unsigned submit_renewal(struct lease *lease, int64_t now_ms)
{
    lease->flags |= LEASE_RENEWING | LEASE_UNSETTLED;
    lease->next_ms = now_ms;
    return LEASE_DO_RENEW;
}

// ---- Until the grant ----

static unsigned ask(struct lease *lease)
{
    enter(lease, LEASE_ACQUIRING);
    lease->flags &= (uint16_t) ~(LEASE_POKED | LEASE_YIELDS);
    return LEASE_DO_ACQUIRE;
}

// The acquire is over without a grant. Where one of its attempts may still be executed, its delete
// is owed.
static unsigned give_up(struct lease *lease, int64_t now_ms)
{
    return LEASE_DO_UNKEY | (lease->flags & LEASE_UNSETTLED ? owe(lease, now_ms) : forget(lease));
}

static unsigned adopt(struct lease *lease, const struct lease_rules *rules,
                      const struct lease_event *event, int64_t now_ms)
{
    int64_t deadline_at = event->sent_at_ms - event->age_ms + lease->deadline_ms;

    lease->until_ms = validity(lease, event->sent_at_ms);
    if (now_ms >= lease_revoke_at(lease, rules) || now_ms >= deadline_at)
        return LEASE_DO_TELL_DENIED | forget(lease); // whoever adopts has not stopped: no delete
    enter(lease, LEASE_HELD);
    lease->held_ms = event->sent_at_ms - event->age_ms;
    lease->next_ms = first_heartbeat(lease, event);
    return LEASE_DO_TELL_GRANTED;
}

static unsigned idle_step(struct lease *lease, const struct lease_rules *rules,
                          const struct lease_event *event, int64_t now_ms)
{
    switch (event->kind) {
    case LEASE_ON_QUEUE:
        if (lease->state == LEASE_NEW)
            enter(lease, LEASE_QUEUED);
        return 0;
    case LEASE_ON_START:
        return ask(lease);
    case LEASE_ON_DEFER:
        enter(lease, LEASE_WAITING);
        lease->flags |= LEASE_YIELDS;
        lease->next_ms = now_ms + event->retry_ms;
        return 0;
    case LEASE_ON_ADOPTED:
        return adopt(lease, rules, event, now_ms);
    case LEASE_ON_DENIED:
        return LEASE_DO_TELL_DENIED | forget(lease);
    case LEASE_ON_UNBIND:
    case LEASE_ON_CUT:
        return forget(lease);
    case LEASE_ON_WAKE:
        return lease->flags & LEASE_WAITS && now_ms >= lease->until_ms
                   ? LEASE_DO_TELL_DENIED | forget(lease)
                   : 0;
    default:
        return 0;
    }
}

static unsigned grant(struct lease *lease, const struct lease_rules *rules,
                      const struct lease_event *event, int64_t now_ms)
{
    lease->until_ms = validity(lease, event->sent_at_ms);
    if (now_ms >= lease_revoke_at(lease, rules))
        return LEASE_DO_TELL_DENIED | LEASE_DO_UNKEY | owe(lease, now_ms);
    enter(lease, LEASE_HELD);
    if (lease->flags & LEASE_UNSETTLED && !event->certain)
        lease->flags |= LEASE_DOUBTED;
    lease->flags &= (uint16_t) ~(LEASE_UNSETTLED | LEASE_POKED);
    lease->held_ms = now_ms;
    lease->next_ms = first_heartbeat(lease, event);
    return LEASE_DO_TELL_GRANTED;
}

// No grant this time. Who waits asks again: at once when the key may have been freed meanwhile.
static unsigned wait_on(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    if (!(lease->flags & LEASE_WAITS) || event->final || now_ms >= lease->until_ms)
        return LEASE_DO_TELL_DENIED | give_up(lease, now_ms);
    enter(lease, LEASE_WAITING);
    lease->next_ms = lease->flags & LEASE_POKED ? now_ms : now_ms + event->retry_ms;
    return LEASE_DO_TELL_WAITING;
}

static unsigned acquiring_step(struct lease *lease, const struct lease_rules *rules,
                               const struct lease_event *event, int64_t now_ms)
{
    switch (event->kind) {
    case LEASE_ON_GRANTED:
        return grant(lease, rules, event, now_ms);
    case LEASE_ON_DENIED:
        if (event->certain)
            lease->flags &= (uint16_t)~LEASE_UNSETTLED;
        return wait_on(lease, event, now_ms);
    case LEASE_ON_UNKNOWN:
        lease->flags |= LEASE_UNSETTLED;
        return wait_on(lease, event, now_ms);
    case LEASE_ON_POKE:
        lease->flags |= LEASE_POKED;
        return 0;
    case LEASE_ON_UNBIND:
    case LEASE_ON_CUT:
        enter(lease, LEASE_ABANDONED);
        return 0;
    default:
        return 0;
    }
}

static unsigned waiting_step(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    switch (event->kind) {
    case LEASE_ON_POKE:
    case LEASE_ON_STORE_UP:
        return lease->flags & LEASE_YIELDS && now_ms < lease->next_ms ? 0 : ask(lease);
    case LEASE_ON_UNBIND:
    case LEASE_ON_CUT:
        return give_up(lease, now_ms);
    case LEASE_ON_WAKE:
        if (now_ms >= lease->until_ms)
            return LEASE_DO_TELL_DENIED | give_up(lease, now_ms);
        return now_ms >= lease->next_ms ? ask(lease) : 0;
    default:
        return 0;
    }
}

static unsigned abandoned_step(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    switch (event->kind) {
    case LEASE_ON_GRANTED:
    case LEASE_ON_UNKNOWN:
        return LEASE_DO_UNKEY | owe(lease, now_ms);
    case LEASE_ON_DENIED:
        if (event->certain)
            lease->flags &= (uint16_t)~LEASE_UNSETTLED;
        return give_up(lease, now_ms);
    default:
        return 0;
    }
}

// ---- HELD ----

static unsigned renewed(struct lease *lease, const struct lease_event *event)
{
    int64_t until_ms = validity(lease, event->sent_at_ms);
    unsigned actions = 0;

    if (until_ms > lease->until_ms) {
        lease->until_ms = until_ms;
        lease->flags &= (uint16_t)~LEASE_RISK_TOLD;
        actions = LEASE_DO_TELL_RENEWED;
    }
    if (!event->late) {
        lease->flags &= (uint16_t) ~(LEASE_RENEWING | LEASE_UNSETTLED);
        lease->next_ms = next_heartbeat(lease, event);
    }
    return actions;
}

static unsigned held_wake(struct lease *lease, int64_t now_ms)
{
    if (lease->flags & LEASE_RENEWING)
        return now_ms >= lease->next_ms + lease_call_ms(lease->ttl_ms) ? tell_risk(lease) : 0;
    return now_ms >= lease->next_ms ? submit_renewal(lease, now_ms) : 0;
}

static unsigned unbind_held(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    unsigned actions = LEASE_DO_UNKEY;

    if (event->tell) {
        lease->flags |= LEASE_REVOKED;
        lease->reason = WIRE_REASON_EOF;
        actions |= LEASE_DO_TELL_REVOKED;
    }
    stop_holding(lease, now_ms);
    if (!(lease->flags & LEASE_EXPIRES))
        return actions | owe(lease, now_ms);
    enter(lease, LEASE_ENDING);
    return actions;
}

static unsigned release_held(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    unsigned actions = LEASE_DO_UNKEY;

    if (event->tell) {
        lease->reason = WIRE_REASON_RELEASED;
        actions |= LEASE_DO_TELL_REVOKED;
    }
    stop_holding(lease, now_ms);
    return actions | await_release(lease, now_ms);
}

// The holder is told, and after the grace the key is deleted, whoever has stopped or not.
static unsigned break_held(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    unsigned actions = revoke(lease, WIRE_REASON_BROKEN, now_ms);

    lease->until_ms = min64(lease->until_ms, now_ms + event->grace_ms);
    lease->flags |= LEASE_UNSETTLED;
    return event->grace_ms > 0 ? actions : actions | owe(lease, now_ms);
}

static unsigned held_step(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    switch (event->kind) {
    case LEASE_ON_RENEWED:
        return renewed(lease, event);
    case LEASE_ON_RENEW_FAILED:
        if (event->late)
            return 0; // said when it timed out; another may be in flight
        lease->flags &= (uint16_t)~LEASE_RENEWING;
        lease->next_ms = now_ms + lease_retry_ms(lease->ttl_ms);
        return tell_risk(lease);
    case LEASE_ON_NOT_OWNER:
        lease->flags |= LEASE_LOST;
        return revoke(lease, WIRE_REASON_LOST, now_ms);
    case LEASE_ON_RELEASE:
        return release_held(lease, event, now_ms);
    case LEASE_ON_UNBIND:
        return unbind_held(lease, event, now_ms);
    case LEASE_ON_CUT:
        stop_holding(lease, now_ms);
        enter(lease, LEASE_ENDING);
        lease->flags |= LEASE_REVOKED;
        return LEASE_DO_UNKEY;
    case LEASE_ON_SHUTDOWN:
        return revoke(lease, WIRE_REASON_SHUTDOWN, now_ms);
    case LEASE_ON_BREAK:
        return break_held(lease, event, now_ms);
    case LEASE_ON_EXTEND:
        lease->deadline_ms = (uint32_t)event->deadline_ms;
        return 0;
    case LEASE_ON_STORE_UP:
        return lease->flags & LEASE_RENEWING ? 0 : submit_renewal(lease, now_ms);
    case LEASE_ON_WAKE:
        return held_wake(lease, now_ms);
    default:
        return 0;
    }
}

// ---- After the end ----

static unsigned ending_step(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    // There is nothing to delete, and nothing that could still come.
    bool lost = (lease->flags & (LEASE_LOST | LEASE_DOUBTED)) == LEASE_LOST;

    switch (event->kind) {
    case LEASE_ON_NOT_OWNER:
        lease->flags |= LEASE_LOST;
        return 0;
    case LEASE_ON_RELEASE:
        return lost ? LEASE_DO_TELL_RELEASED | forget(lease) : await_release(lease, now_ms);
    case LEASE_ON_UNBIND:
        if (lost)
            return forget(lease);
        return lease->flags & LEASE_EXPIRES ? 0 : owe(lease, now_ms);
    case LEASE_ON_WAKE:
        if (now_ms < lease->until_ms)
            return 0;
        return lost ? forget(lease) : owe(lease, now_ms);
    default:
        return 0;
    }
}

// The delete is answered, and so is the client. An acquire that went unanswered before the one that
// was granted may set the key once more: then the delete is owed like that of a token never granted.
static unsigned released(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    if (!(lease->flags & LEASE_DOUBTED) || event->certain)
        return LEASE_DO_TELL_RELEASED | forget(lease);
    lease->flags &= (uint16_t)~LEASE_DELETING;
    return LEASE_DO_TELL_RELEASED | owe(lease, now_ms);
}

// A delete's outcome while its client waits for it.
static unsigned releasing_step(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    switch (event->kind) {
    case LEASE_ON_DELETED:
        lease->flags |= LEASE_FREED;
        return released(lease, event, now_ms);
    case LEASE_ON_NOT_THERE:
        // Gone by an earlier delete of ours, or lost before: nobody knows.
        if (lease->flags & LEASE_UNSURE)
            lease->flags |= LEASE_FAILED;
        return released(lease, event, now_ms);
    case LEASE_ON_DELETE_FAILED:
        lease->flags |= LEASE_UNSURE;
        lease->flags &= (uint16_t)~LEASE_DELETING;
        lease->next_ms = now_ms + lease_retry_ms(lease->ttl_ms);
        return 0;
    case LEASE_ON_STORE_UP:
        return lease->flags & LEASE_DELETING ? 0 : submit_delete(lease);
    case LEASE_ON_WAKE:
        if (now_ms >= lease->until_ms) {
            lease->flags |= LEASE_FAILED;
            return LEASE_DO_TELL_RELEASED | owe(lease, now_ms);
        }
        if (lease->flags & LEASE_DELETING || now_ms < lease->next_ms)
            return 0;
        return submit_delete(lease);
    default:
        return 0;
    }
}

static unsigned owed_step(struct lease *lease, const struct lease_event *event, int64_t now_ms)
{
    switch (event->kind) {
    case LEASE_ON_DELETED:
    case LEASE_ON_NOT_THERE:
        if (event->certain)
            return forget(lease);
        lease->flags &= (uint16_t)~LEASE_DELETING;
        lease->next_ms = now_ms + lease_retry_ms(lease->ttl_ms);
        return 0;
    case LEASE_ON_DELETE_FAILED:
        lease->flags &= (uint16_t)~LEASE_DELETING;
        lease->next_ms = now_ms + lease_retry_ms(lease->ttl_ms);
        lease->until_ms = last_life(lease, now_ms);
        return 0;
    case LEASE_ON_STORE_UP:
        return lease->flags & LEASE_DELETING ? 0 : submit_delete(lease);
    case LEASE_ON_WAKE:
        // Never without an answer to the last one: this process, too, may have stood still.
        if (lease->flags & LEASE_DELETING)
            return 0;
        if (now_ms >= lease->next_ms)
            return submit_delete(lease);
        return now_ms >= lease->until_ms ? forget(lease) : 0;
    default:
        return 0;
    }
}

// ---- The machine ----

void lease_init(struct lease *lease, int64_t ttl_ms, int64_t deadline_ms, int64_t wait_until_ms,
                bool expires)
{
    assert(ttl_ms >= WIRE_MIN_TTL && ttl_ms <= LEASE_MAX_SPAN_MS);
    assert(deadline_ms > 0 && deadline_ms <= LEASE_MAX_SPAN_MS);
    *lease = (struct lease){
        .until_ms = wait_until_ms,
        .ttl_ms = (uint32_t)ttl_ms,
        .deadline_ms = (uint32_t)deadline_ms,
        .flags = (expires ? LEASE_EXPIRES : 0) | (wait_until_ms ? LEASE_WAITS : 0),
        .state = LEASE_NEW,
    };
}

void lease_set_expires(struct lease *lease, bool expires)
{
    lease->flags &= (uint16_t)~LEASE_EXPIRES;
    lease->flags |= expires ? LEASE_EXPIRES : 0;
}

// A lease whose time is over is revoked before any event is believed: the earlier of D and the
// workflow deadline says why.
static unsigned sweep(struct lease *lease, const struct lease_rules *rules, int64_t now_ms)
{
    int64_t revoke_at = lease_revoke_at(lease, rules);
    int64_t deadline_at = lease_deadline_at(lease);

    if (now_ms < min64(revoke_at, deadline_at))
        return 0;
    return revoke(lease, deadline_at <= revoke_at ? WIRE_REASON_DEADLINE : WIRE_REASON_UNREACHABLE,
                  now_ms);
}

static unsigned step(struct lease *lease, const struct lease_rules *rules,
                     const struct lease_event *event, int64_t now_ms)
{
    switch ((enum lease_state)lease->state) {
    case LEASE_NEW:
    case LEASE_QUEUED:
        return idle_step(lease, rules, event, now_ms);
    case LEASE_ACQUIRING:
        return acquiring_step(lease, rules, event, now_ms);
    case LEASE_WAITING:
        return waiting_step(lease, event, now_ms);
    case LEASE_ABANDONED:
        return abandoned_step(lease, event, now_ms);
    case LEASE_HELD:
        return held_step(lease, event, now_ms);
    case LEASE_RELEASING:
        return releasing_step(lease, event, now_ms);
    case LEASE_ENDING:
        return ending_step(lease, event, now_ms);
    case LEASE_OWED:
        return owed_step(lease, event, now_ms);
    case LEASE_GONE:
    case LEASE_STATE_COUNT:
        break;
    }
    assert(false && "an event for a lease that is gone");
    return 0;
}

struct lease_actions lease_step(struct lease *lease, const struct lease_rules *rules,
                                const struct lease_event *event, int64_t now_ms)
{
    struct lease_actions actions = {0};
    bool was_held = lease->state == LEASE_HELD;
    int64_t promised_ms = lease->until_ms; // until_ms means something else once the lease is over

    // What is not ours is lost whenever that is seen: safe_ms would promise what is gone.
    if (was_held && event->kind != LEASE_ON_NOT_OWNER)
        actions.set = sweep(lease, rules, now_ms);
    actions.set |= step(lease, rules, event, now_ms);
    actions.valid_until_ms = lease->state == LEASE_HELD ? lease->until_ms : promised_ms;
    if (was_held && lease->reason == WIRE_REASON_BROKEN)
        actions.valid_until_ms = min64(promised_ms, now_ms + event->grace_ms);
    return actions;
}

int64_t lease_wake_at(const struct lease *lease, const struct lease_rules *rules)
{
    switch ((enum lease_state)lease->state) {
    case LEASE_HELD: {
        int64_t end = min64(lease_revoke_at(lease, rules), lease_deadline_at(lease));
        if (!(lease->flags & LEASE_RENEWING))
            return min64(end, lease->next_ms);
        if (lease->flags & LEASE_RISK_TOLD)
            return end;
        return min64(end, lease->next_ms + lease_call_ms(lease->ttl_ms));
    }
    case LEASE_NEW:
    case LEASE_QUEUED:
        return lease->flags & LEASE_WAITS ? lease->until_ms : INT64_MAX;
    case LEASE_WAITING:
        return min64(lease->until_ms, lease->next_ms);
    case LEASE_RELEASING:
        return lease->flags & LEASE_DELETING ? lease->until_ms
                                             : min64(lease->until_ms, lease->next_ms);
    case LEASE_OWED:
        return lease->flags & LEASE_DELETING ? INT64_MAX : min64(lease->until_ms, lease->next_ms);
    case LEASE_ENDING:
        return lease->until_ms;
    default:
        return INT64_MAX;
    }
}
