// SPDX-License-Identifier: Apache-2.0
//
// What a store writes, before its host sleeps: singles in their order; renewals earliest due first,
// in batches.

#include "tests/sim/store_inside.h"

// ---- Writing ----

static struct sim_item *add_item(const struct sim_store *store, struct sim_message *message,
                                 const struct sim_call *call)
{
    struct sim_item *item = &message->items[message->count++];

    *item = (struct sim_item){
        .call = (uint32_t)(call - store->calls),
        .serial = call->serial,
        .key = call->key,
        .token = call->token,
        .ttl_ms = call->ttl_ms,
    };
    return item;
}

static void write_single(struct sim_store *store, struct sim_call *call, int64_t now_ms)
{
    static const enum sim_message_kind kinds[] = {
        [STORE_ACQUIRE] = SIM_ACQUIRE, [STORE_RELEASE] = SIM_RELEASE, [STORE_ADOPT] = SIM_ADOPT,
        [STORE_EXTEND] = SIM_EXTEND,   [STORE_INSPECT] = SIM_INSPECT, [STORE_BREAK] = SIM_BREAK,
    };
    bool acquires = call->op == STORE_ACQUIRE;
    struct sim_message *message = net_message(store->world, kinds[call->op]);

    call->state = SIM_WRITTEN;
    call->sent_at_ms = now_ms;
    message->fence = call->fence_floor;
    message->process = store_host(store)->process;
    message->uid = call->uid;
    message->deadline_ms = call->deadline_ms;
    message->hands_over = call->replaces != SLOT_NONE;
    message->replaces = call->replaces_token;
    add_item(store, message, call);
    store_conn(store)->acquires += acquires;
    store_record_sent(store, call);
    store_send(store, message);
}

static void write_singles(struct sim_store *store, int64_t now_ms)
{
    for (;;) {
        struct sim_call *first = NULL;
        for (uint32_t i = 0; i < store->call_top; i++) {
            struct sim_call *call = &store->calls[i];
            if (call->state == SIM_QUEUED && call->op != STORE_RENEW &&
                (!first || call->order < first->order))
                first = call;
        }
        if (!first)
            return;
        write_single(store, first, now_ms);
    }
}

static struct sim_call *next_renewal(struct sim_store *store)
{
    struct sim_call *first = NULL;

    for (uint32_t i = 0; i < store->call_top; i++) {
        struct sim_call *call = &store->calls[i];
        if (call->state == SIM_QUEUED && call->op == STORE_RENEW &&
            (!first || call->due_by_ms < first->due_by_ms))
            first = call;
    }
    return first;
}

// False: it is not wanted any more.
static bool write_renewal(struct sim_store *store, struct sim_call *call,
                          struct sim_message *message, int64_t now_ms)
{
    struct store_subject subject;

    if (!store->store.hooks->describe(store->store.context, call->lease, call->generation, now_ms,
                                      &subject)) {
        store_complete_as(store, call, STORE_UNSENT, NULL, now_ms);
        return false;
    }
    call->state = SIM_WRITTEN;
    call->key = store_key(subject.key, subject.key_length);
    call->token = subject.token;
    call->ttl_ms = subject.ttl_ms;
    call->sent_at_ms = now_ms;
    call->timeout_at_ms = now_ms + subject.timeout_ms;
    store->unanswered++;
    add_item(store, message, call);
    store_record_sent(store, call);
    return true;
}

static void write_renewals(struct sim_store *store, int64_t now_ms)
{
    struct sim_message *message = NULL;
    struct sim_call *call;

    while (store->unanswered < SIM_UNANSWERED && (call = next_renewal(store))) {
        if (!message)
            message = net_message(store->world, SIM_RENEW);
        message->process = store_host(store)->process;
        write_renewal(store, call, message, now_ms);
        if (message->count == SIM_BATCH) {
            store_send(store, message);
            message = NULL;
        }
    }
    if (message && message->count > 0)
        store_send(store, message);
    else if (message)
        net_free(store->world, message);
}

void store_flush(struct sim_store *store)
{
    int64_t now_ms = store_clock(store);

    if (store->link != SIM_LINK_UP)
        return;
    if (chance_percent(&store->world->chance, 50)) {
        write_singles(store, now_ms);
        write_renewals(store, now_ms);
    } else {
        write_renewals(store, now_ms);
        write_singles(store, now_ms);
    }
}
