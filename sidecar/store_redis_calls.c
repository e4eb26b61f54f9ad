// SPDX-License-Identifier: Apache-2.0
//
// The store's calls: their table, their timeouts and the queue of those that are not written yet.
//
// A call has a slot from its making to its end, so the heap of timeouts names it by a number. Ended
// calls are kept for another use, up to a number, with the memory of their arguments.
#include <stdlib.h>

#include "sidecar/store_redis_state.h"

enum {
    MAX_SPARES = 256,
    TABLE_MIN = 64,
};

// ---- The table of calls ----

static void grow_table(struct call_table *table)
{
    uint32_t capacity = table->capacity ? table->capacity * 2 : TABLE_MIN;

    table->calls = reallocarray(table->calls, capacity, sizeof(struct redis_call *));
    table->free_slots = reallocarray(table->free_slots, capacity, sizeof *table->free_slots);
    if (!table->calls || !table->free_slots || heap_reserve(&table->timeouts, capacity) < 0)
        abort(); // a call that could be neither made nor answered
    for (uint32_t slot = capacity; slot > table->capacity; slot--)
        table->free_slots[table->free_count++] = slot - 1;
    table->capacity = capacity;
}

struct redis_call *store_redis_new_call(struct store_redis *store, enum redis_call_kind kind)
{
    struct redis_call *call = store->spare;

    if (call) {
        store->spare = call->next;
        store->spares--;
        redis_call_reset(call, kind);
    } else {
        call = redis_call_new(kind);
    }
    if (store->table.free_count == 0)
        grow_table(&store->table);
    call->slot = store->table.free_slots[--store->table.free_count];
    store->table.calls[call->slot] = call;
    return call;
}

void store_redis_start_timeout(struct store_redis *store, struct redis_call *call,
                               int64_t timeout_at_ms)
{
    call->timeout_at_ms = timeout_at_ms;
    heap_set(&store->table.timeouts, call->slot, timeout_at_ms);
}

void store_redis_stop_timeout(struct store_redis *store, struct redis_call *call)
{
    heap_set(&store->table.timeouts, call->slot, INT64_MAX);
}

void store_redis_drop_call(struct store_redis *store, struct redis_call *call)
{
    store_redis_stop_timeout(store, call);
    store->table.calls[call->slot] = NULL;
    store->table.free_slots[store->table.free_count++] = call->slot;
    // While closing, a frame below may still be reading it.
    if (store->spares >= MAX_SPARES && !store->closing) {
        redis_call_free(call);
        return;
    }
    call->next = store->spare;
    store->spare = call;
    store->spares++;
}

// ---- The queue ----

void store_redis_queue_add(struct call_queue *queue, struct redis_call *call)
{
    call->pending = true;
    call->next = NULL;
    call->previous = queue->last;
    if (queue->last)
        queue->last->next = call;
    else
        queue->first = call;
    queue->last = call;
}

void store_redis_queue_remove(struct call_queue *queue, struct redis_call *call)
{
    if (call->previous)
        call->previous->next = call->next;
    else
        queue->first = call->next;
    if (call->next)
        call->next->previous = call->previous;
    else
        queue->last = call->previous;
    call->pending = false;
}

void store_redis_sort_queue(struct store_redis *store)
{
    struct call_queue sorted[2] = {0};
    struct redis_call *call;

    while ((call = store->queue.first)) {
        store_redis_queue_remove(&store->queue, call);
        store_redis_queue_add(&sorted[call->kind == REDIS_CALL_ACQUIRE], call);
    }
    for (int i = 0; i < 2; i++) {
        while ((call = sorted[i].first)) {
            store_redis_queue_remove(&sorted[i], call);
            store_redis_queue_add(&store->queue, call);
        }
    }
}

// ---- Life ----

void store_redis_init_calls(struct store_redis *store)
{
    heap_init(&store->table.timeouts);
}

void store_redis_deinit_calls(struct store_redis *store)
{
    struct redis_call *call;

    heap_deinit(&store->table.timeouts);
    while ((call = store->spare)) {
        store->spare = call->next;
        redis_call_free(call);
    }
    free(store->table.calls);
    free(store->table.free_slots);
}
