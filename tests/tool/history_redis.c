// SPDX-License-Identifier: Apache-2.0
//
// The history checker: what Redis executed. I2, I3, I5, I6, I9 and I11 are decided where a key comes,
// stays and goes.

#include <inttypes.h>
#include <string.h>

#include "sidecar/lease.h"
#include "tests/tool/history_state.h"

// ---- What Redis does ----

// By when a key that is over must be gone; INT64_MAX: it may stay.
int64_t history_gone_by(struct history *history, const struct tracked *lease)
{
    int64_t by_us = lease->over_us;
    if (lease->lost || !history_is_up(history, lease->sidecar))
        return INT64_MAX;
    if (lease->adopted && !lease->granted)
        return INT64_MAX; // it may be another's to go on with
    if (by_us == INT64_MAX && lease->granted && lease->end != HISTORY_LIVE)
        by_us = history_max(lease->published_us, lease->confirmed_us) + lease->ttl_ms * 1000 / 50;
    if (by_us == INT64_MAX)
        return by_us;
    by_us = history_max(by_us, lease->late_us);
    return history_max(by_us, history_calm_since(history, lease->sidecar)) +
           history->options.tidy_us;
}

static void check_promises(struct history *history, const struct history_record *record,
                           struct tracked *lease)
{
    int64_t at_us = record->at_us;

    if (!lease->granted || lease->lost || history_may_free(lease, at_us))
        return;
    if (lease->published_us > at_us)
        history_violated(history, 3, record, lease,
                         "its client was told that it is valid until %.3f, and it is gone",
                         history_ms(lease->published_us));
}

static void check_told(struct history *history, const struct history_record *record,
                       const struct tracked *lease)
{
    const struct process *process = history_process(history, lease->sidecar);
    int64_t slack_us = record->at_us - lease->safe_until_us;

    if (!lease->granted || lease->lost || !history_is_up(history, lease->sidecar))
        return;
    if (lease->free_from_us <= record->at_us && (lease->released || !lease->expires))
        return;
    if (lease->end == HISTORY_TOLD && lease->safe_until_us > 0) {
        if (slack_us < 0)
            history_violated(history, 2, record, lease, "the key is gone, but %.3f was promised",
                             history_ms(lease->safe_until_us));
        else if (slack_us < history->least_slack_us)
            history->least_slack_us = slack_us;
    }
    if (lease->end == HISTORY_LIVE && history->options.sends && !process->frozen &&
        process->thawed_at_us + history->options.late_us < record->at_us &&
        lease->free_from_us == INT64_MAX)
        history_violated(history, 2, record, lease, "the key is gone, and its holder was not told");
}

// The lease is in Redis no more.
static void goes(struct history *history, const struct history_record *record, struct lock *lock)
{
    struct tracked *lease = lock->holder;
    int64_t by_us;

    lock->holder = NULL;
    lock->free_since_us = record->at_us;
    if (!lease)
        return;
    check_promises(history, record, lease);
    check_told(history, record, lease);
    by_us = history_gone_by(history, lease);
    if (by_us < record->at_us && history->options.sends)
        history_violated(history, 6, record, lease,
                         "it was over at %.3f and should be gone by %.3f",
                         history_ms(lease->over_us), history_ms(by_us));
    lease->stored = false;
    lease->gone = true;
    // Nobody says more of it: late bytes had stored what was forgotten, or the trace has no sidecars.
    if (lease->sidecar == 0)
        history_ends(history, lease, HISTORY_DENIED);
    history_to_finished(history, lease);
}

static void on_set(struct history *history, const struct history_record *record)
{
    struct lock *lock = history_lock(history, record->key);
    struct tracked *lease = history_track(history, &record->token, record->sidecar);

    if (!lease)
        return;
    history_check_waiters(history, record, record->key);
    if (!lock->handing)
        lock->hops = 0;
    else if (lease->sidecar && lock->handed_by && lease->sidecar != lock->handed_by)
        history_violated(history, 5, record, lease, "handed over by another sidecar than its own");
    lock->handing = false;
    if (lock->taken)
        history_violated(history, 5, record, lease, "the key is a foreign locker's");
    if (lock->holder)
        history_violated(history, 5, record, lock->holder, "the key is set although it is held");
    // Who waits asks with the same token until it is granted, whatever became of it in between; and
    // one of these may come late.
    if (record->ok)
        lease->late_us = record->at_us;
    else if (lease->was_set && lease->granted)
        history_violated(history, 5, record, lease, "the same token is set twice");
    if (record->fence && record->fence <= lock->fence)
        history_violated(history, 11, record, lease, "the key's fencing token before was %" PRId64,
                         lock->fence);
    lock->fence = history_max(lock->fence, record->fence);
    lock->holder = lease;
    lease->key = record->key;
    lease->fence = record->fence;
    lease->stored = lease->was_set = true;
    lease->stored_at_us = lease->set_at_us = record->at_us;
    if (!lease->ttl_ms)
        lease->ttl_ms = record->ttl_ms;
}

// The holder that a compare-and-set has compared with, or NULL after a violation.
static struct tracked *compared(struct history *history, const struct history_record *record)
{
    struct tracked *holder = history_lock(history, record->key)->holder;

    if (holder && memcmp(&holder->token, &record->token, sizeof record->token) == 0) {
        if (!record->sidecar || !holder->sidecar || record->sidecar == holder->sidecar ||
            record->kind == HISTORY_ADOPTED)
            return holder;
        history_violated(history, 5, record, holder,
                         "sidecar %" PRIu32 " did it to a lease that sidecar %" PRIu32 " has",
                         record->sidecar, holder->sidecar);
        return NULL;
    }
    history_violated(history, 5, record, holder,
                     "it was done to a key that holds another token, or none");
    return NULL;
}

static void on_extended(struct history *history, const struct history_record *record)
{
    struct tracked *lease = compared(history, record);
    int64_t gap_us, most_us;

    if (!lease)
        return;
    gap_us = record->at_us - lease->stored_at_us;
    most_us = (lease_heartbeat_ms(lease->ttl_ms) + lease_call_ms(lease->ttl_ms)) * 1000 +
              history->options.beat_us;
    if (lease->granted && lease->end == HISTORY_LIVE && history_is_up(history, lease->sidecar) &&
        history_calm_since(history, lease->sidecar) < lease->stored_at_us && gap_us > most_us)
        history_violated(history, 9, record, lease, "%.3f ms since the last renewal; at most %.3f",
                         history_ms(gap_us), history_ms(most_us));
    lease->stored_at_us = record->at_us;
}

static void on_deleted(struct history *history, const struct history_record *record)
{
    struct tracked *lease = compared(history, record);

    if (!lease)
        return;
    if (!history_may_free(lease, record->at_us))
        history_violated(history, 6, record, lease,
                         "deleted before its client has stopped and before %.3f",
                         history_ms(lease->published_us));
    lease->freed = true;
    goes(history, record, history_lock(history, record->key));
}

// The old lease of a hand-over. That it may go is checked as for a delete.
static void on_handed(struct history *history, const struct history_record *record)
{
    struct lock *lock = history_lock(history, record->key);

    on_deleted(history, record);
    lock->handing = true;
    lock->handed_by = record->sidecar;
    if (++lock->hops > HOPS)
        history_violated(history, 13, record, NULL,
                         "%" PRIu32 " hand-overs in a row, and others had no turn", lock->hops);
}

static void on_adopted(struct history *history, const struct history_record *record)
{
    struct lock *lock = history_lock(history, record->key);
    struct tracked *from = compared(history, record);
    struct tracked *to = from ? history_track(history, &record->token, record->sidecar) : NULL;

    if (!to)
        return;
    lock->hops = 0;
    if (!to->sidecar)
        to->sidecar = record->sidecar;
    if (to != from) {
        bool over = to->end != HISTORY_ACQUIRING && to->end != HISTORY_LIVE;
        to->lost &= over;
        to->stepped |= from->stepped;
        to->gone = false;
        to->back_us = record->at_us;
        history_transfer(history, from, to);
    }
    to->stored_at_us = record->at_us;
}

static void on_broken(struct history *history, const struct history_record *record)
{
    struct lock *lock = history_lock(history, record->key);

    if (lock->breaks == 0)
        history_violated(history, 5, record, lock->holder, "nobody asked for its break");
    if (lock->holder)
        lock->holder->lost = true;
    goes(history, record, lock);
}

static void on_taken(struct history *history, const struct history_record *record)
{
    history_check_waiters(history, record, record->key);
    history_lock(history, record->key)->taken = true;
}

static void on_left_free(struct history *history, const struct history_record *record)
{
    history_lock(history, record->key)->taken = false;
    history_lock(history, record->key)->free_since_us = record->at_us;
}

static void on_expired(struct history *history, const struct history_record *record)
{
    goes(history, record, history_lock(history, record->key));
}

static void forfeit(struct history *history, const struct history_record *record)
{
    for (uint32_t key = 0; key < history->locks.count; key++) {
        struct lock *lock = &history->locks.items[key];
        if (record->key && record->key != key)
            continue;
        if (lock->holder)
            lock->holder->lost = true;
        if (lock->holder && record->kind == HISTORY_FORFEIT && !record->key)
            lock->holder->stepped = true;
        if (record->kind == HISTORY_LOST)
            goes(history, record, lock);
    }
}

static void on_fences_lost(struct history *history, const struct history_record *record)
{
    (void)record;
    for (size_t key = 0; key < history->locks.count; key++)
        history->locks.items[key].fence = 0;
}

history_handler *const history_redis_handlers[HISTORY_KIND_COUNT] = {
    [HISTORY_SET] = on_set,         [HISTORY_EXTENDED] = on_extended,
    [HISTORY_DELETED] = on_deleted, [HISTORY_HANDED] = on_handed,
    [HISTORY_ADOPTED] = on_adopted, [HISTORY_BROKEN] = on_broken,
    [HISTORY_TAKEN] = on_taken,     [HISTORY_LEFT_FREE] = on_left_free,
    [HISTORY_EXPIRED] = on_expired, [HISTORY_LOST] = forfeit,
    [HISTORY_FORFEIT] = forfeit,    [HISTORY_FENCES_LOST] = on_fences_lost,
};
