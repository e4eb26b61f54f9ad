// SPDX-License-Identifier: Apache-2.0
//
// A host's store as store.h demands it, over the model network: what store_redis does, without bytes.
//
// - Acquires and releases are written in their order; renewals earliest due first, in batches, with
//   a bound on those unanswered; each is described when it is written.
// - A call's time-out ends that call only. A renewal's late answer is reported once more.
// - A connection that is silent while replies are due is replaced. The new one's greeting learns the
//   client id and the run of Redis; lost connections with acquires unanswered are killed first, if the
//   run is the same; where that is refused, no delete is certain for a while.
//
//     store.c  calls and their time-outs    store_link.c   the connection, answers
//     store_write.c  what is written        store_watch.c  word of freed keys

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/store_inside.h"

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

struct sim_host *store_host(const struct sim_store *store)
{
    return &store->world->hosts[store->host];
}

int64_t store_clock(const struct sim_store *store)
{
    return host_ms(store_host(store));
}

struct sim_conn *store_conn(const struct sim_store *store)
{
    return &store->world->conns[store->conn];
}

// ---- Records ----

// What a positive answer to a call is worth: valid_until, and D.
static void worth(const struct sim_store *store, const struct sim_call *call,
                  struct history_record *record)
{
    const struct sim_host *host = store_host(store);
    int64_t until_ms = call->sent_at_ms + call->ttl_ms - lease_drift_ms(call->ttl_ms);

    record->until_us = host_us(host, until_ms);
    record->due_us = host_us(host, until_ms - lease_margin_ms(&store->world->rules, call->ttl_ms));
}

void store_record_sent(const struct sim_store *store, const struct sim_call *call)
{
    static const enum history_kind kinds[STORE_BREAK + 1] = {[STORE_ACQUIRE] = HISTORY_SENT_ACQUIRE,
                                                             [STORE_RENEW] = HISTORY_SENT_RENEW,
                                                             [STORE_RELEASE] = HISTORY_SENT_DELETE,
                                                             [STORE_ADOPT] = HISTORY_SENT_ADOPT};
    struct history_record record = {
        .kind = kinds[call->op],
        .sidecar = store_host(store)->process,
        .key = call->key + 1,
        .token = call->token.token,
        .request = call->request,
        .ttl_ms = call->op == STORE_ACQUIRE ? call->ttl_ms : 0,
    };

    if (call->op > STORE_ADOPT)
        return; // they make and lengthen nothing
    world_record(store->world, record);
    if (call->replaces == SLOT_NONE)
        return;
    record.kind = HISTORY_SENT_DELETE;
    record.token = call->replaces_token.token;
    record.request = 0;
    record.ttl_ms = 0;
    world_record(store->world, record);
}

static void record_answered(const struct sim_store *store, const struct sim_call *call)
{
    struct history_record record = {.kind = HISTORY_ANSWERED,
                                    .sidecar = store_host(store)->process,
                                    .token = call->token.token,
                                    .request = call->request};

    worth(store, call, &record);
    world_record(store->world, record);
}

// ---- Calls ----

static struct sim_call *open_call(struct sim_store *store, enum store_op op, uint32_t lease,
                                  uint32_t generation)
{
    uint32_t i = 0;

    while (i < store->call_top && store->calls[i].state != SIM_FREE)
        i++;
    if (i == SIM_CALLS) {
        world_broken(store->world, "more calls than the model has room for");
        i = 0;
    }
    if (i == store->call_top)
        store->call_top++;
    store->call_count++;
    store->calls[i] = (struct sim_call){
        .state = SIM_QUEUED,
        .op = op,
        .lease = lease,
        .generation = generation,
        .serial = ++store->serial,
        .order = ++store->order,
        .timeout_at_ms = INT64_MAX,
    };
    return &store->calls[i];
}

void store_close_call(struct sim_store *store, struct sim_call *call)
{
    if (call->op == STORE_RENEW && call->state != SIM_QUEUED)
        store->unanswered--;
    call->state = SIM_FREE;
    store->call_count--;
    while (store->call_top > 0 && store->calls[store->call_top - 1].state == SIM_FREE)
        store->call_top--;
}

static bool is_certain(const struct sim_store *store, int64_t now_ms)
{
    for (uint32_t i = 0; i < store->kill_count; i++)
        if (store->kills[i].until_ms > now_ms)
            return false;
    return true;
}

// Completes the call. It is free before its completion is told, which may submit others.
void store_complete(struct sim_store *store, struct sim_call *call,
                    struct store_completion *completion, int64_t now_ms)
{
    completion->op = call->op;
    completion->lease = call->lease;
    completion->generation = call->generation;
    completion->sent_at_ms = completion->outcome == STORE_UNSENT ? 0 : call->sent_at_ms;
    completion->certain = call->op <= STORE_RELEASE && is_certain(store, now_ms);
    completion->replaces = call->replaces;
    completion->replaces_generation = call->replaces_generation;
    if (completion->outcome == STORE_OK &&
        (call->op == STORE_ACQUIRE || call->op == STORE_RENEW || call->op == STORE_ADOPT))
        record_answered(store, call);
    if (completion->outcome == STORE_TIMEOUT && call->op == STORE_RENEW)
        call->state = SIM_OVERDUE;
    else
        store_close_call(store, call);
    store->store.hooks->completed(store->store.context, completion, now_ms);
}

void store_complete_as(struct sim_store *store, struct sim_call *call, enum store_outcome outcome,
                       const char *error, int64_t now_ms)
{
    store_complete(store, call, &(struct store_completion){.outcome = outcome, .error = error},
                   now_ms);
}

// ---- Submission ----

uint32_t store_key(const char *key, size_t length)
{
    assert(length == 2 && key[0] == 'k');
    return (uint32_t)(key[1] - '0');
}

// Whose request a lease's acquire is.
static uint32_t request_of(const struct sim_store *store, uint32_t lease)
{
    const struct slot *slot = table_slot(&store_host(store)->keeper.table, lease);
    return slot->pending ? (uint32_t)slot->pending->id.integer : 0;
}

// However many wait for a key, a store is asked for it by one at a time.
static void check_contender(const struct sim_store *store, uint32_t key)
{
    for (uint32_t i = 0; i < store->call_top; i++) {
        const struct sim_call *call = &store->calls[i];
        if (call->op == STORE_ACQUIRE && call->key == key && call->state != SIM_FREE)
            world_broken(store->world, "two acquires of one key are with one store");
    }
}

static void submit_acquire(struct store *base, const struct store_acquire *acquire, int64_t now_ms)
{
    struct sim_store *store = (struct sim_store *)base;
    struct sim_call *call;

    if (store->dead)
        return;
    check_contender(store, store_key(acquire->key, acquire->key_length));
    call = open_call(store, STORE_ACQUIRE, acquire->lease, acquire->generation);
    call->key = store_key(acquire->key, acquire->key_length);
    call->token = acquire->token;
    call->ttl_ms = acquire->ttl_ms;
    call->deadline_ms = acquire->deadline_ms;
    call->uid = (uint32_t)acquire->uid;
    call->replaces = acquire->replaces;
    call->replaces_generation = acquire->replaces_generation;
    call->replaces_token = acquire->replaces_token;
    call->fence_floor = acquire->fence_floor;
    call->timeout_at_ms = now_ms + acquire->timeout_ms;
    call->request = request_of(store, acquire->lease);
}

static void submit_renew(struct store *base, uint32_t lease, uint32_t generation, int64_t due_by_ms,
                         int64_t now_ms)
{
    struct sim_store *store = (struct sim_store *)base;

    (void)now_ms;
    if (store->dead)
        return;
    open_call(store, STORE_RENEW, lease, generation)->due_by_ms = due_by_ms;
}

static void submit_release(struct store *base, const struct store_release *release, int64_t now_ms)
{
    struct sim_store *store = (struct sim_store *)base;
    struct sim_call *call;

    if (store->dead)
        return;
    call = open_call(store, STORE_RELEASE, release->lease, release->generation);
    call->key = store_key(release->key, release->key_length);
    call->token = release->token;
    call->timeout_at_ms = now_ms + release->timeout_ms;
}

static void submit_query(struct store *base, const struct store_query *query, int64_t now_ms)
{
    struct sim_store *store = (struct sim_store *)base;
    struct sim_call *call;

    if (store->dead)
        return;
    call = open_call(store, query->op, query->lease, query->generation);
    call->key = store_key(query->key, query->key_length);
    call->token = query->token;
    call->deadline_ms = query->deadline_ms;
    call->uid = (uint32_t)query->uid;
    call->timeout_at_ms = now_ms + query->timeout_ms;
    call->request = (uint32_t)store_host(store)->keeper.queries[query->lease]->id.integer;
}

// ---- Time ----

static int64_t next_timeout(const struct store *base)
{
    const struct sim_store *store = (const struct sim_store *)base;
    const struct sim_conn *conn = store_conn(store);
    int64_t next_ms = INT64_MAX;

    if (store->dead)
        return INT64_MAX;
    if (store->link == SIM_LINK_DOWN)
        next_ms = store->retry_at_ms;
    else if (store->link == SIM_LINK_GREETING)
        next_ms = store->greet_by_ms;
    else if (conn->due > 0)
        next_ms = conn->quiet_ms + store->silence_ms;
    for (uint32_t i = 0; i < store->call_top; i++) {
        const struct sim_call *call = &store->calls[i];
        if (call->state != SIM_FREE && call->state != SIM_OVERDUE && call->timeout_at_ms < next_ms)
            next_ms = call->timeout_at_ms;
    }
    return next_ms;
}

static void sweep(struct store *base, int64_t now_ms)
{
    struct sim_store *store = (struct sim_store *)base;
    const struct sim_conn *conn = store_conn(store);
    uint32_t top = store->call_top;

    for (uint32_t i = 0; i < top; i++) {
        struct sim_call *call = &store->calls[i];
        if (call->timeout_at_ms > now_ms)
            continue;
        if (call->state == SIM_QUEUED)
            store_complete_as(store, call, STORE_UNSENT, "not connected", now_ms);
        else if (call->state == SIM_WRITTEN)
            store_complete_as(store, call, STORE_TIMEOUT, NULL, now_ms);
    }
    if (store->link == SIM_LINK_DOWN && now_ms >= store->retry_at_ms)
        store_greet(store, now_ms);
    else if (store->link == SIM_LINK_GREETING && now_ms >= store->greet_by_ms)
        store_lose(store, "no answer to the greeting", now_ms);
    else if (store->link == SIM_LINK_UP && conn->due > 0 &&
             now_ms >= conn->quiet_ms + store->silence_ms)
        store_lose(store, "silent", now_ms);
}

static const struct store_ops ops = {
    .acquire = submit_acquire,
    .renew = submit_renew,
    .release = submit_release,
    .query = submit_query,
    .watch = store_watch,
    .unwatch = store_unwatch,
    .next_timeout = next_timeout,
    .sweep = sweep,
};

void store_init(struct sim_store *store, struct world *world, uint32_t host, int64_t silence_ms)
{
    uint32_t serial = store->serial, subscription = store->subscription;

    memset(store, 0, offsetof(struct sim_store, calls));
    memset(&store->call_top, 0, sizeof *store - offsetof(struct sim_store, call_top));
    memset(store->calls, 0, sizeof store->calls);
    store->store.ops = &ops;
    store->world = world;
    store->host = host;
    store->serial = serial;
    store->subscription = subscription + 1;
    store->silence_ms = silence_ms;
    store->backoff_ms = STORE_BACKOFF_MIN_MS;
    store->retry_at_ms = host_ms(&world->hosts[host]);
}

void store_end(struct sim_store *store)
{
    store->dead = true;
    if (store->link != SIM_LINK_DOWN)
        net_close(store->world, store->conn);
    store->link = SIM_LINK_DOWN;
    store_unsubscribe(store);
}
