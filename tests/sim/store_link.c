// SPDX-License-Identifier: Apache-2.0
//
// A store's connection: made, lost, made anew; and what comes on it.

#include "sidecar/value.h"
#include "tests/sim/store_inside.h"

enum { UNCERTAIN_MS = 5000 };

// ---- The connection ----

static void go_down(struct sim_store *store, const char *error, int64_t now_ms)
{
    store->link = SIM_LINK_DOWN;
    store->store.up = false;
    store->backoff_ms =
        store->backoff_ms * 2 < STORE_BACKOFF_MAX_MS ? store->backoff_ms * 2 : STORE_BACKOFF_MAX_MS;
    store->retry_at_ms =
        now_ms + chance_between(&store->world->chance, store->backoff_ms / 2, store->backoff_ms);
    store_unsubscribe(store);
    store->store.hooks->status(store->store.context, false, error, now_ms);
}

// What cannot be killed matters until its instant.
static void forget_refused(struct sim_store *store, int64_t now_ms)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < store->kill_count; i++)
        if (store->kills[i].until_ms > now_ms)
            store->kills[kept++] = store->kills[i];
    store->kill_count = kept;
}

static void remember_to_kill(struct sim_store *store, const struct sim_conn *conn, int64_t now_ms)
{
    forget_refused(store, now_ms);
    if (store->kill_count == SIM_KILLS) {
        world_broken(store->world, "more connections to kill than the model has room for");
        return;
    }
    store->kills[store->kill_count++] =
        (struct sim_kill){.id = conn->id, .run = conn->run, .until_ms = INT64_MAX};
}

// The connection is given up; what was written on it may be done yet.
void store_lose(struct sim_store *store, const char *error, int64_t now_ms)
{
    struct sim_conn *conn = store_conn(store);
    uint32_t top = store->call_top;
    uint64_t newest = store->order;

    if (conn->acquires > 0)
        remember_to_kill(store, conn, now_ms);
    net_close(store->world, store->conn);
    fault_trouble(store->world, (int)store->host, store->world->now_us);
    go_down(store, error, now_ms);
    for (uint32_t i = 0; i < store->kill_count; i++)
        store->kills[i].sent = false;
    for (uint32_t i = 0; i < top; i++) {
        struct sim_call *call = &store->calls[i];
        if (call->order > newest)
            continue;
        if (call->state == SIM_OVERDUE)
            store_close_call(store, call);
        else if (call->state == SIM_WRITTEN)
            store_complete_as(store, call, STORE_LOST, error, now_ms);
    }
}

void store_send(struct sim_store *store, struct sim_message *message)
{
    struct sim_conn *conn = store_conn(store);

    if (conn->due++ == 0)
        conn->quiet_ms = store_clock(store);
    net_send(store->world, store->conn, message);
}

void store_greet(struct sim_store *store, int64_t now_ms)
{
    store->conn = net_open(store->world, store->host);
    store->link = SIM_LINK_GREETING;
    store->greet_by_ms = now_ms + store->silence_ms;
    store_send(store, net_message(store->world, SIM_HELLO));
}

static void send_kills(struct sim_store *store, uint32_t run)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < store->kill_count; i++) {
        struct sim_kill *kill = &store->kills[i];
        struct sim_message *message;
        if (kill->run != run)
            continue; // it died with its Redis
        store->kills[kept++] = *kill;
        if (kill->refused)
            continue;
        kill = &store->kills[kept - 1];
        kill->sent = true;
        message = net_message(store->world, SIM_KILL);
        message->id = kill->id;
        store_send(store, message);
    }
    store->kill_count = kept;
}

// Deletes that are owed go before the acquires that wait here.
static void acquires_last(struct sim_store *store)
{
    uint64_t newest = store->order;
    uint64_t done = 0;

    for (;;) {
        struct sim_call *first = NULL;
        for (uint32_t i = 0; i < store->call_top; i++) {
            struct sim_call *call = &store->calls[i];
            if (call->state == SIM_QUEUED && call->op == STORE_ACQUIRE && call->order > done &&
                call->order <= newest && (!first || call->order < first->order))
                first = call;
        }
        if (!first)
            return;
        done = first->order;
        first->order = ++store->order;
    }
}

static void greeted(struct sim_store *store, const struct sim_message *message, int64_t now_ms)
{
    if (message->refused) {
        net_close(store->world, store->conn);
        go_down(store, "connection refused", now_ms);
        return;
    }
    store->link = SIM_LINK_UP;
    store->store.up = true;
    store->backoff_ms = STORE_BACKOFF_MIN_MS;
    send_kills(store, message->run);
    store->run = message->run;
    store_subscribe(store);
    store->store.hooks->status(store->store.context, true, NULL, now_ms);
    acquires_last(store);
}

static void killed(struct sim_store *store, const struct sim_message *message, int64_t now_ms)
{
    for (uint32_t i = 0; i < store->kill_count; i++) {
        struct sim_kill *kill = &store->kills[i];
        if (kill->id != message->id || !kill->sent)
            continue;
        if (!message->refused) {
            store->kills[i] = store->kills[--store->kill_count];
            return;
        }
        kill->refused = true;
        kill->until_ms = now_ms + UNCERTAIN_MS;
        return;
    }
}

// ---- Answers ----

static struct sim_call *call_of(struct sim_store *store, const struct sim_item *item)
{
    struct sim_call *call = &store->calls[item->call];

    return call->state != SIM_FREE && call->serial == item->serial ? call : NULL;
}

static const char *error_text(enum store_outcome outcome)
{
    return outcome == STORE_REFUSED ? "OOM command not allowed" : "LOADING Redis is loading";
}

static size_t value_text(const struct sim_key *found, char *text)
{
    struct value value = {
        .token = found->token,
        .fence = found->fence,
        .ttl_ms = found->ttl_ms,
        .deadline_us = found->deadline_us,
        .since_us = found->since_us,
        .pid = 1,
        .uid = found->uid,
        .host = "elsewhere",
        .host_length = 9,
    };

    return value_format(&value, text);
}

static void answer(struct sim_store *store, const struct sim_message *message,
                   const struct sim_item *item, int64_t now_ms)
{
    struct sim_call *call = call_of(store, item);
    struct store_completion completion = {.outcome = item->outcome};
    char text[VALUE_SIZE];

    if (!call)
        return; // its time-out has ended it
    completion.late = call->state == SIM_OVERDUE;
    if (item->outcome == STORE_UNAVAILABLE || item->outcome == STORE_REFUSED)
        completion.error = error_text(item->outcome);
    if (message->kind == SIM_ACQUIRE && item->outcome == STORE_OK)
        completion.fence = message->fence;
    completion.replaced = message->replaced;
    completion.now_us = message->now_us;
    completion.pttl_ms = message->pttl_ms;
    if (message->kind == SIM_ADOPT)
        call->ttl_ms = item->ttl_ms;
    if (message->found.value == SIM_LEASE) {
        completion.value_length = value_text(&message->found, text);
        completion.value = text;
    } else if (message->found.value != SIM_NONE) {
        completion.value_length = 36;
        completion.type = message->found.value == SIM_HASH ? "hash" : NULL;
    }
    store_complete(store, call, &completion, now_ms);
}

static void take(struct sim_store *store, const struct sim_message *message, int64_t now_ms)
{
    struct sim_conn *conn = store_conn(store);

    conn->due--;
    conn->quiet_ms = now_ms;
    if (message->kind == SIM_ACQUIRE)
        conn->acquires--;
    if (message->kind == SIM_HELLO)
        greeted(store, message, now_ms);
    else if (message->kind == SIM_KILL)
        killed(store, message, now_ms);
    for (uint32_t i = 0; i < message->count; i++)
        answer(store, message, &message->items[i], now_ms);
}

void store_input(struct sim_store *store)
{
    struct sim_message *message;
    int64_t now_ms;

    if (store->link == SIM_LINK_DOWN)
        return;
    message = net_read(store->world, store->conn);
    if (!message && !store_conn(store)->reset && !store->heard)
        return;
    now_ms = store->store.hooks->believe(store->store.context);
    store_tell_freed(store, now_ms);
    for (; message; message = net_read(store->world, store->conn)) {
        take(store, message, now_ms);
        net_free(store->world, message);
        if (store->link == SIM_LINK_DOWN)
            return;
    }
    if (store_conn(store)->reset)
        store_lose(store, "connection reset", now_ms);
}
