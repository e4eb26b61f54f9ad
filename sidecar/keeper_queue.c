// SPDX-License-Identifier: Apache-2.0
//
// Who waits behind a key.
//
// A key has at most one slot in the key index: its lease here. It holds the key, or is the one
// contender that asks Redis for it, however many clients wait; the others queue behind it, first
// come, first served. When it goes, the first of the queue takes its place and asks with its own
// token. Where the one before held the key and gives it up while somebody waits, the two change
// places in Redis in one script, so that the key is never free in between. After KEEPER_MAX_HOPS of
// these the key is freed for real, and if other sidecars listen they get a start of KEEPER_YIELD_MS.
//
// A contender that was denied watches the key: the store pokes it when the key is freed. One watch
// serves all who wait; it moves with the place of the contender.

#include <assert.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/tell.h"

// ---- The watch ----

void keeper_watch(struct keeper *keeper, uint32_t head)
{
    struct slot *slot = table_slot(&keeper->table, head);

    if (slot->lease.flags & LEASE_WATCHED)
        return;
    slot->lease.flags |= LEASE_WATCHED;
    keeper->store->ops->watch(keeper->store, slot_key(slot), slot->key_length);
}

void keeper_unwatch(struct keeper *keeper, uint32_t head)
{
    struct slot *slot = table_slot(&keeper->table, head);

    if (!(slot->lease.flags & LEASE_WATCHED))
        return;
    slot->lease.flags &= (uint16_t)~LEASE_WATCHED;
    keeper->store->ops->unwatch(keeper->store, slot_key(slot), slot->key_length);
}

static void hand_watch(struct slot *from, struct slot *to)
{
    to->lease.flags |= from->lease.flags & LEASE_WATCHED;
    from->lease.flags &= (uint16_t)~LEASE_WATCHED;
}

// ---- The queue ----

void keeper_leave_queue(struct keeper *keeper, uint32_t number)
{
    const struct slot *slot = table_slot(&keeper->table, number);

    table_queue_remove(&keeper->table,
                       table_find_key(&keeper->table, slot_key(slot), slot->key_length), number);
}

// Those who try once stand before all who wait: behind one who waits they are refused at once.
static uint32_t first_impatient(const struct keeper *keeper, uint32_t head)
{
    uint32_t first = table_queue_first(&keeper->table, head);

    if (first == SLOT_NONE || table_slot(&keeper->table, first)->lease.flags & LEASE_WAITS)
        return SLOT_NONE;
    return first;
}

void keeper_queue_granted(struct keeper *keeper, uint32_t head, int64_t now_ms)
{
    const struct slot *holder = table_slot(&keeper->table, head);
    uint32_t number;

    while ((number = first_impatient(keeper, head)) != SLOT_NONE) {
        struct slot *slot = table_slot(&keeper->table, number);
        struct session *session = keeper_session_of(keeper, slot);
        tell_held_here(keeper, session, slot_key(slot), slot->key_length, &slot->pending->id,
                       holder, now_ms - slot->pending->asked_at_ms, now_ms);
        keeper_drop_pending(keeper, session, slot);
        keeper_apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
    }
    if (table_queue_first(&keeper->table, head) == SLOT_NONE)
        keeper_unwatch(keeper, head);
}

void keeper_queue_denied(struct keeper *keeper, uint32_t head,
                         const struct store_completion *completion, int64_t now_ms)
{
    uint32_t number;

    while ((number = first_impatient(keeper, head)) != SLOT_NONE)
        keeper_apply(keeper, number, &(struct lease_event){.kind = LEASE_ON_DENIED}, completion,
                     now_ms);
}

bool keeper_may_hand_over(const struct keeper *keeper, uint32_t number)
{
    const struct slot *slot = table_slot(&keeper->table, number);

    return slot->has_key && slot->hops < KEEPER_MAX_HOPS && keeper->store->up &&
           table_queue_first(&keeper->table, number) != SLOT_NONE;
}

void keeper_leave_key(struct keeper *keeper, uint32_t number, uint32_t replaces, int64_t now_ms)
{
    struct table *table = &keeper->table;
    struct slot *slot = table_slot(table, number);
    uint32_t next = table_queue_first(table, number);
    struct slot *successor;

    if (next == SLOT_NONE) {
        keeper_unwatch(keeper, number);
        table_clear_key(table, number);
        return;
    }
    successor = table_slot(table, next);
    table_queue_remove(table, number, next);
    table_queue_move(table, number, next);
    table_clear_key(table, number);
    table_set_key(table, next);
    hand_watch(slot, successor);
    if (replaces == SLOT_NONE && slot->hops == KEEPER_MAX_HOPS &&
        successor->lease.flags & LEASE_WAITS) {
        keeper_watch(keeper, next);
        keeper_apply(keeper, next,
                     &(struct lease_event){.kind = LEASE_ON_DEFER, .retry_ms = KEEPER_YIELD_MS},
                     NULL, now_ms);
        return;
    }
    successor->hops = replaces == SLOT_NONE ? 0 : (slot->hops + 1) & 15;
    keeper->handing_over = replaces;
    keeper_apply_kind(keeper, next, LEASE_ON_START, now_ms);
    assert(keeper->handing_over == SLOT_NONE);
}
