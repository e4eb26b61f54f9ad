// SPDX-License-Identifier: Apache-2.0
//
// The keeper's calls to the store, and what its answers mean to the lease machine.
//
// A call carries (slot number, generation) and no pointer; an answer whose slot is used otherwise by
// now is dropped, for the lease's end did not depend on it. Queries (adopt, extend, inspect, break)
// carry their own numbers, see keeper_query.c.

#include <stdlib.h>
#include <string.h>

#include "sidecar/keeper_inside.h"

struct store_token keeper_token(const struct keeper *keeper, const struct slot *slot)
{
    struct store_token token = {.token = slot->token};
    memcpy(token.instance, keeper->instance, sizeof token.instance);
    return token;
}

// Who tries once is answered within C of asking, however long it was queued; who waits gives each
// attempt its own C.
static int64_t acquire_timeout(const struct slot *slot, int64_t now_ms)
{
    int64_t timeout_ms = lease_call_ms(slot->lease.ttl_ms);

    if (slot->pending && !(slot->lease.flags & LEASE_WAITS))
        timeout_ms -= now_ms - slot->pending->asked_at_ms;
    return timeout_ms > 1 ? timeout_ms : 1;
}

void keeper_submit_acquire(struct keeper *keeper, uint32_t number, uint32_t replaces,
                           int64_t now_ms)
{
    const struct slot *slot = table_slot(&keeper->table, number);
    struct store_acquire acquire = {
        .lease = number,
        .generation = slot->generation,
        .key = slot_key(slot),
        .key_length = slot->key_length,
        .token = keeper_token(keeper, slot),
        .ttl_ms = slot->lease.ttl_ms,
        .deadline_ms = slot->lease.deadline_ms,
        .fence_floor = keeper->fence_floor,
        .pid = slot_pid(slot),
        .uid = accounts_uid(&keeper->accounts, slot->account),
        .host = keeper->options.host,
        .timeout_ms = acquire_timeout(slot, now_ms),
    };

    acquire.label = slot_label(slot, &acquire.label_length);
    if (replaces != SLOT_NONE) {
        const struct slot *old = table_slot(&keeper->table, replaces);
        acquire.replaces = replaces;
        acquire.replaces_generation = old->generation;
        acquire.replaces_token = keeper_token(keeper, old);
    }
    keeper->store->ops->acquire(keeper->store, &acquire, now_ms);
}

void keeper_submit_release(struct keeper *keeper, uint32_t number, int64_t now_ms)
{
    const struct slot *slot = table_slot(&keeper->table, number);

    keeper->store->ops->release(keeper->store,
                                &(struct store_release){
                                    .lease = number,
                                    .generation = slot->generation,
                                    .key = slot_key(slot),
                                    .key_length = slot->key_length,
                                    .token = keeper_token(keeper, slot),
                                    .timeout_ms = lease_call_ms(slot->lease.ttl_ms),
                                },
                                now_ms);
}

// ---- Answers ----

static enum lease_event_kind acquire_event(const struct store_completion *completion)
{
    switch (completion->outcome) {
    case STORE_OK:
        return LEASE_ON_GRANTED;
    case STORE_TIMEOUT:
    case STORE_LOST:
        return LEASE_ON_UNKNOWN;
    default:
        return LEASE_ON_DENIED;
    }
}

static enum lease_event_kind event_kind(const struct store_completion *completion)
{
    switch (completion->op) {
    case STORE_ACQUIRE:
        return acquire_event(completion);
    case STORE_RENEW:
        return completion->outcome == STORE_OK          ? LEASE_ON_RENEWED
               : completion->outcome == STORE_NOT_OWNER ? LEASE_ON_NOT_OWNER
                                                        : LEASE_ON_RENEW_FAILED;
    default:
        return completion->outcome == STORE_OK          ? LEASE_ON_DELETED
               : completion->outcome == STORE_NOT_OWNER ? LEASE_ON_NOT_THERE
                                                        : LEASE_ON_DELETE_FAILED;
    }
}

// After how long a waiter asks again if nobody tells it that the key was freed.
static int64_t retry_ms(const struct store_completion *completion, const struct slot *slot)
{
    int64_t least_ms = lease_retry_ms(slot->lease.ttl_ms);
    int64_t pttl_ms = completion->pttl_ms + 1; // it is rounded down

    if (completion->outcome != STORE_HELD)
        return least_ms;
    if (completion->pttl_ms < 0 || pttl_ms > KEEPER_POLL_MS)
        return KEEPER_POLL_MS;
    return pttl_ms;
}

// The other half of a hand-over: the old lease's key went to the new one, or was not its any more.
static void end_replaced(struct keeper *keeper, const struct store_completion *completion,
                         int64_t now_ms)
{
    struct lease_event event = {.certain = completion->certain};

    if (!table_find(&keeper->table, completion->replaces, completion->replaces_generation))
        return;
    switch (completion->outcome) {
    case STORE_OK:
        event.kind = completion->replaced ? LEASE_ON_DELETED : LEASE_ON_NOT_THERE;
        break;
    case STORE_HELD:
        event.kind = LEASE_ON_NOT_THERE;
        break;
    default:
        event.kind = LEASE_ON_DELETE_FAILED;
        break;
    }
    keeper_apply(keeper, completion->replaces, &event, NULL, now_ms);
}

// An error says nothing of an acquire that was sent before: that one may have set the key.
static bool says_who_has_it(const struct store_completion *completion)
{
    return completion->op != STORE_ACQUIRE || completion->outcome == STORE_OK ||
           completion->outcome == STORE_HELD;
}

static void lease_completed(struct keeper *keeper, const struct store_completion *completion,
                            int64_t now_ms)
{
    const struct slot *slot = table_find(&keeper->table, completion->lease, completion->generation);
    struct lease_event event = {
        .kind = event_kind(completion),
        .sent_at_ms = completion->sent_at_ms,
        .late = completion->late,
        .certain = completion->certain && says_who_has_it(completion),
        .final = completion->outcome == STORE_REFUSED,
    };

    if (!slot || (event.late && event.kind == LEASE_ON_RENEW_FAILED))
        return;
    if (completion->op == STORE_ACQUIRE)
        event.retry_ms = retry_ms(completion, slot);
    event.phase = keeper_phase(keeper, completion->lease);
    keeper_apply(keeper, completion->lease, &event, completion, now_ms);
    if (event.kind == LEASE_ON_GRANTED)
        keeper_end_late_grant(keeper, completion->lease, completion->generation, now_ms);
}

static void on_completed(void *context, const struct store_completion *completion, int64_t now_ms)
{
    struct keeper *keeper = context;

    switch (completion->op) {
    case STORE_ACQUIRE:
        if (completion->outcome == STORE_OK && completion->fence > keeper->fence_floor)
            keeper->fence_floor = completion->fence;
        if (completion->replaces != SLOT_NONE)
            end_replaced(keeper, completion, now_ms);
        lease_completed(keeper, completion, now_ms);
        break;
    case STORE_RENEW:
    case STORE_RELEASE:
        lease_completed(keeper, completion, now_ms);
        break;
    default:
        keeper_query_completed(keeper, completion, now_ms);
        break;
    }
}

// ---- The other hooks ----

static int64_t on_believe(void *context)
{
    struct keeper *keeper = context;
    int64_t now_ms = keeper->options.clock(keeper->options.context);

    keeper_sweep(keeper, now_ms);
    return now_ms;
}

static void on_status(void *context, bool up, const char *error, int64_t now_ms)
{
    struct keeper *keeper = context;

    free(keeper->store_error);
    keeper->store_error = error ? strdup(error) : NULL;
    if (!up || keeper->walk == KEEPER_WALK_SHUTDOWN)
        return;
    // At once: the store writes what waits in it after this, and owed deletes go before that.
    keeper->walk = KEEPER_WALK_OWED;
    keeper->walk_at = 1;
    keeper_go_on_walking(keeper, now_ms);
}

// A renewal is written only for a lease that is held at that moment, so none follows a release.
static bool on_describe(void *context, uint32_t number, uint32_t generation, int64_t now_ms,
                        struct store_subject *subject)
{
    struct keeper *keeper = context;
    const struct lease_rules *rules = &keeper->options.rules;
    const struct slot *slot = table_find(&keeper->table, number, generation);

    if (!slot || slot->lease.state != LEASE_HELD ||
        now_ms >= lease_revoke_at(&slot->lease, rules) || now_ms >= lease_deadline_at(&slot->lease))
        return false;
    *subject = (struct store_subject){
        .key = slot_key(slot),
        .key_length = slot->key_length,
        .token = keeper_token(keeper, slot),
        .ttl_ms = slot->lease.ttl_ms,
        .timeout_ms = lease_renew_timeout(&slot->lease, rules, now_ms),
    };
    return true;
}

static void on_freed(void *context, const char *key, size_t key_length, int64_t now_ms)
{
    struct keeper *keeper = context;
    uint32_t head = table_find_key(&keeper->table, key, key_length);

    if (head != SLOT_NONE && lease_is_asking(&table_slot(&keeper->table, head)->lease))
        keeper_apply_kind(keeper, head, LEASE_ON_POKE, now_ms);
}

const struct store_hooks keeper_store_hooks = {
    .believe = on_believe,
    .completed = on_completed,
    .status = on_status,
    .describe = on_describe,
    .freed = on_freed,
};
