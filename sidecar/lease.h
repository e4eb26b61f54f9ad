// SPDX-License-Identifier: Apache-2.0
//
// The lease machine: one lease's life as a pure function of (state, event, now). No I/O, no clock,
// no allocation; all timing arithmetic of the sidecar is in lease.c.
//
// Times are milliseconds of CLOCK_BOOTTIME. The names of the rules (T, P, M, C, R, D) are DESIGN's:
//
//     T  the lease's TTL                    P = T/3   from one heartbeat to the next
//     drift = T/100 + 2                     M         revoke margin: max(T/5, widened) or as set
//     C = T/12  bound of one call           R = max(T/60, 5)  pause before a retry
//     valid_until = send time of the newest positive answer + T - drift
//     D = valid_until - M                   the revoke time
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/wire.h"

enum {
    LEASE_MIN_MARGIN_MS = 50,
    LEASE_MIN_RETRY_MS = 5,
    LEASE_PHASES = 1 << 16,
};
#define LEASE_MAX_SPAN_MS INT64_C(2147483647) // longest TTL or deadline: 24 days

struct lease_rules {
    int64_t revoke_margin_ms; // 0: a fifth of each lease's TTL
    int64_t widen_ms; // added to every margin, as far as the TTL has room: the loop was late
};

int64_t lease_heartbeat_ms(int64_t ttl_ms);
int64_t lease_call_ms(int64_t ttl_ms);
int64_t lease_retry_ms(int64_t ttl_ms);
int64_t lease_drift_ms(int64_t ttl_ms);
int64_t lease_margin_ms(const struct lease_rules *rules, int64_t ttl_ms);

// 0, or -EINVAL with the reason and its numbers in why: a TTL under the least, a margin under
// max(T/10, 50 ms), or P + 2C + R > T - drift - M (one heartbeat could fail, and its retry could not
// be confirmed before D).
int lease_rules_check(const struct lease_rules *rules, int64_t ttl_ms, char *why, size_t size);

enum lease_state {
    LEASE_NEW,       // not begun
    LEASE_QUEUED,    // behind another lease of its key
    LEASE_ACQUIRING, // asked of the store; the client waits
    LEASE_WAITING,   // the key was another's: asked again when it is freed, or at next_ms
    LEASE_ABANDONED, // asked of the store; nobody waits any more
    LEASE_HELD,      // granted and heartbeated
    LEASE_RELEASING, // released by the client, which waits for the delete's outcome
    LEASE_ENDING,    // ended, its holder told or cut off; its key stays until valid_until or an ack
    LEASE_OWED,      // a compare-and-delete is owed; nobody waits
    LEASE_GONE,      // over; the slot may be reused
    LEASE_STATE_COUNT,
};

extern const char *const lease_state_names[LEASE_STATE_COUNT];

enum lease_event_kind {
    LEASE_ON_QUEUE,         // NEW: wait behind another lease of the key
    LEASE_ON_START,         // NEW, QUEUED: ask the store
    LEASE_ON_DEFER,         // QUEUED: ask the store after retry_ms, not earlier
    LEASE_ON_POKE,          // the key may be free
    LEASE_ON_GRANTED,       // the store granted it (sent_at_ms, phase)
    LEASE_ON_ADOPTED,       // NEW: the store moved a living lease here (sent_at_ms, age_ms, phase)
    LEASE_ON_DENIED,        // the key is another's, or nothing was done (final, certain, retry_ms)
    LEASE_ON_UNKNOWN,       // no answer: it may have been granted, or may yet be
    LEASE_ON_RENEWED,       // (sent_at_ms, phase, late)
    LEASE_ON_RENEW_FAILED,  // no positive answer; proves nothing
    LEASE_ON_NOT_OWNER,     // the key is not ours
    LEASE_ON_DELETED,       // the compare-and-delete found the key and deleted it (certain)
    LEASE_ON_NOT_THERE,     // it found nothing of ours (certain)
    LEASE_ON_DELETE_FAILED, // no answer, or an error
    LEASE_ON_RELEASE,       // a client released it (tell: its holder is another connection)
    LEASE_ON_UNBIND,        // the client's own end (tell: it may still read)
    LEASE_ON_CUT,           // the sidecar gave its connection up: nobody was told
    LEASE_ON_SHUTDOWN,      // the drain time is over
    LEASE_ON_BREAK,         // an operator wants the key freed (grace_ms)
    LEASE_ON_EXTEND,        // the workflow deadline is now deadline_ms after the grant
    LEASE_ON_STORE_UP,      // the store is reachable again
    LEASE_ON_WAKE,          // lease_wake_at has come
    LEASE_EVENT_COUNT,
};

extern const char *const lease_event_names[LEASE_EVENT_COUNT];

struct lease_event {
    enum lease_event_kind kind;
    int64_t sent_at_ms;
    int64_t age_ms;      // ADOPTED: since its grant, by Redis' clock
    int64_t retry_ms;    // DENIED, UNKNOWN: a waiter asks again after it
    int64_t grace_ms;    // BREAK
    int64_t deadline_ms; // EXTEND
    uint32_t phase;      // GRANTED, ADOPTED, RENEWED: of its heartbeats, in [0, LEASE_PHASES)
    bool late;           // RENEWED, RENEW_FAILED, NOT_OWNER: the attempt had timed out already
    bool final;          // DENIED: waiting does not help
    // GRANTED, DELETED, NOT_THERE: nothing sent earlier can still arrive. DENIED: nor is the key ours.
    bool certain;
    bool tell; // RELEASE, UNBIND: send the holder a revoked event
};

// What the caller is to do, in the order of the bits.
enum lease_action {
    LEASE_DO_ACQUIRE = 1 << 0, // submit
    LEASE_DO_TELL_GRANTED = 1 << 1,
    LEASE_DO_TELL_DENIED = 1 << 2, // the acquire's refusal: the event's outcome says which
    LEASE_DO_TELL_AT_RISK = 1 << 3,
    LEASE_DO_TELL_RENEWED = 1 << 4,
    LEASE_DO_TELL_REVOKED = 1 << 5,  // with lease->reason
    LEASE_DO_TELL_RELEASED = 1 << 6, // the release's reply: lease_release_outcome
    LEASE_DO_TELL_WAITING = 1 << 7,  // the key is another's: those who try once get that answer
    LEASE_DO_RENEW = 1 << 8,         // submit
    LEASE_DO_DELETE = 1 << 9,        // submit
    LEASE_DO_UNKEY = 1 << 10,        // it is no longer this sidecar's lease of its key
    LEASE_DO_FORGET = 1 << 11,
};

enum lease_flag {
    LEASE_RENEWING = 1 << 0,  // a renewal is with the store
    LEASE_DELETING = 1 << 1,  // a delete is with the store
    LEASE_UNSETTLED = 1 << 2, // something that sets or lengthens the key may still be executed
    LEASE_LOST = 1 << 3,      // Redis said that the key is not ours
    LEASE_REVOKED = 1 << 4,   // its holder was told, or cut off, before it released
    LEASE_FREED = 1 << 5,     // a delete found the key
    LEASE_FAILED = 1 << 6,    // the release's delete was not answered in time
    LEASE_RISK_TOLD = 1 << 7, // at_risk was said since the newest positive answer
    LEASE_EXPIRES = 1 << 8,   // on_disconnect "expire"
    LEASE_UNSURE = 1 << 9,    // a delete went unanswered: it may have been the one that worked
    LEASE_WAITS = 1 << 10,    // the acquire waits for the key until until_ms
    LEASE_POKED = 1 << 11,    // ACQUIRING: the key may have been freed since it was asked for
    LEASE_YIELDS = 1 << 12,   // WAITING: others are to have the key first, until next_ms
    LEASE_WATCHED = 1 << 13,  // the keeper's: the store tells when the key is freed
    LEASE_DOUBTED = 1 << 14,  // an acquire from before the one that was granted may yet be executed
    LEASE_PAGED = 1 << 15,    // the keeper's: its session's page has a slot for it
};

struct lease {
    // QUEUED to WAITING: the wait ends. HELD: valid_until. ENDING: the key stays until then.
    // RELEASING: its reply is due. OWED: after it nothing of ours can live.
    int64_t until_ms;
    // HELD: the next heartbeat or, while RENEWING, when it was submitted. WAITING, RELEASING, OWED:
    // the next try.
    int64_t next_ms;
    // HELD: when it was granted. After: for how long it was held.
    int64_t held_ms;
    uint32_t ttl_ms;
    uint32_t deadline_ms; // from the grant
    uint16_t flags;
    uint8_t state;  // enum lease_state; set by lease.c alone
    uint8_t reason; // enum wire_reason, when REVOKED
};

// wait_until_ms: 0 tries once; INT64_MAX waits without end.
void lease_init(struct lease *lease, int64_t ttl_ms, int64_t deadline_ms, int64_t wait_until_ms,
                bool expires);

struct lease_actions {
    unsigned set;           // LEASE_DO_x
    int64_t valid_until_ms; // as promised to the holder last; with TELL_GRANTED, _RENEWED, _REVOKED
};

// Carries the event out and returns the actions. An event that a state does not expect (a late
// completion) changes nothing; any event for a lease that is GONE is a bug of the caller, asserted.
struct lease_actions lease_step(struct lease *lease, const struct lease_rules *rules,
                                const struct lease_event *event, int64_t now_ms);

// on_disconnect of whoever adopts it.
void lease_set_expires(struct lease *lease, bool expires);

// When LEASE_ON_WAKE is due; INT64_MAX for never.
int64_t lease_wake_at(const struct lease *lease, const struct lease_rules *rules);

// HELD: the revoke time D, and the instant of the workflow deadline.
int64_t lease_revoke_at(const struct lease *lease, const struct lease_rules *rules);
int64_t lease_deadline_at(const struct lease *lease);

// A renewal's own bound when it is written now: min(C, D - now), at least 1.
int64_t lease_renew_timeout(const struct lease *lease, const struct lease_rules *rules,
                            int64_t now_ms);

// What a revoked event promises: for how long the key is sure to be nobody else's.
int64_t lease_safe_ms(enum wire_reason reason, int64_t valid_until_ms, int64_t now_ms);

// For how long it is or was held.
int64_t lease_held_for(const struct lease *lease, int64_t now_ms);

enum lease_release_outcome {
    LEASE_RELEASE_DONE,        // it was held and its key is deleted
    LEASE_RELEASE_LOST,        // it had been revoked, or the key was not ours any more
    LEASE_RELEASE_UNAVAILABLE, // Redis did not answer in time; the delete is owed
};
enum lease_release_outcome lease_release_outcome(const struct lease *lease);

// HELD: its client acts on it.
static inline bool lease_is_live(const struct lease *lease)
{
    return lease->state == LEASE_HELD;
}

// It is the one lease of its key in this sidecar: another acquire is answered or queued behind it.
static inline bool lease_has_key(const struct lease *lease)
{
    return lease->state == LEASE_ACQUIRING || lease->state == LEASE_WAITING ||
           lease->state == LEASE_ABANDONED || lease->state == LEASE_HELD;
}

// Its acquire is not answered yet.
static inline bool lease_is_asking(const struct lease *lease)
{
    return lease->state == LEASE_QUEUED || lease->state == LEASE_ACQUIRING ||
           lease->state == LEASE_WAITING;
}

// Something is still to be done or waited for before the sidecar may stop.
static inline bool lease_is_pending(const struct lease *lease)
{
    return lease->state != LEASE_GONE &&
           !(lease->state == LEASE_ENDING && (lease->flags & LEASE_LOST));
}
