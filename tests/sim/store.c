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

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "sidecar/value.h"
#include "tests/sim/sim.h"

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

enum { BACKOFF_MIN_MS = 5, BACKOFF_MAX_MS = 100, UNCERTAIN_MS = 5000 };

static struct sim_host *host_of(const struct sim_store *store)
{
    return &store->world->hosts[store->host];
}

static int64_t clock_ms(const struct sim_store *store)
{
    return host_ms(host_of(store));
}

static struct sim_conn *conn_of(const struct sim_store *store)
{
    return &store->world->conns[store->conn];
}

// ---- Records ----

// What a positive answer to a call is worth: valid_until, and D.
static void worth(const struct sim_store *store, const struct sim_call *call,
                  struct history_record *record)
{
    const struct sim_host *host = host_of(store);
    int64_t until_ms = call->sent_at_ms + call->ttl_ms - lease_drift_ms(call->ttl_ms);

    record->until_us = host_us(host, until_ms);
    record->due_us = host_us(host, until_ms - lease_margin_ms(&store->world->rules, call->ttl_ms));
}

static void record_sent(const struct sim_store *store, const struct sim_call *call)
{
    static const enum history_kind kinds[] = {[STORE_ACQUIRE] = HISTORY_SENT_ACQUIRE,
                                              [STORE_RENEW] = HISTORY_SENT_RENEW,
                                              [STORE_RELEASE] = HISTORY_SENT_DELETE};
    struct history_record record = {
        .kind = kinds[call->op],
        .sidecar = host_of(store)->process,
        .key = call->key + 1,
        .token = call->token.token,
        .request = call->request,
        .ttl_ms = call->op == STORE_ACQUIRE ? call->ttl_ms : 0,
    };

    world_record(store->world, record);
}

static void record_answered(const struct sim_store *store, const struct sim_call *call)
{
    struct history_record record = {
        .kind = HISTORY_ANSWERED, .sidecar = host_of(store)->process, .token = call->token.token};

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

static void close_call(struct sim_store *store, struct sim_call *call)
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
static void complete(struct sim_store *store, struct sim_call *call,
                     struct store_completion *completion, int64_t now_ms)
{
    completion->op = call->op;
    completion->lease = call->lease;
    completion->generation = call->generation;
    completion->sent_at_ms = completion->outcome == STORE_UNSENT ? 0 : call->sent_at_ms;
    completion->certain = is_certain(store, now_ms);
    if (completion->outcome == STORE_OK && call->op != STORE_RELEASE)
        record_answered(store, call);
    if (completion->outcome == STORE_TIMEOUT && call->op == STORE_RENEW)
        call->state = SIM_OVERDUE;
    else
        close_call(store, call);
    store->store.hooks->completed(store->store.context, completion, now_ms);
}

static void complete_as(struct sim_store *store, struct sim_call *call, enum store_outcome outcome,
                        const char *error, int64_t now_ms)
{
    complete(store, call, &(struct store_completion){.outcome = outcome, .error = error}, now_ms);
}

// ---- Submission ----

static uint32_t key_number(const char *key, size_t length)
{
    assert(length == 2 && key[0] == 'k');
    return (uint32_t)(key[1] - '0');
}

// Whose request a lease's acquire is.
static uint32_t request_of(const struct sim_store *store, uint32_t lease)
{
    const struct slot *slot = table_slot(&host_of(store)->keeper.table, lease);
    return slot->pending ? (uint32_t)slot->pending->id.integer : 0;
}

static void submit_acquire(struct store *base, const struct store_acquire *acquire, int64_t now_ms)
{
    struct sim_store *store = (struct sim_store *)base;
    struct sim_call *call;

    if (store->dead)
        return;
    call = open_call(store, STORE_ACQUIRE, acquire->lease, acquire->generation);
    call->key = key_number(acquire->key, acquire->key_length);
    call->token = acquire->token;
    call->ttl_ms = acquire->ttl_ms;
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
    call->key = key_number(release->key, release->key_length);
    call->token = release->token;
    call->timeout_at_ms = now_ms + release->timeout_ms;
}

// ---- The connection ----

static void go_down(struct sim_store *store, const char *error, int64_t now_ms)
{
    store->link = SIM_LINK_DOWN;
    store->store.up = false;
    store->backoff_ms =
        store->backoff_ms * 2 < BACKOFF_MAX_MS ? store->backoff_ms * 2 : BACKOFF_MAX_MS;
    store->retry_at_ms =
        now_ms + chance_between(&store->world->chance, store->backoff_ms / 2, store->backoff_ms);
    store->store.hooks->status(store->store.context, false, error, now_ms);
}

static void remember_to_kill(struct sim_store *store, const struct sim_conn *conn)
{
    if (store->kill_count == SIM_KILLS) {
        world_broken(store->world, "more connections to kill than the model has room for");
        return;
    }
    store->kills[store->kill_count++] =
        (struct sim_kill){.id = conn->id, .run = conn->run, .until_ms = INT64_MAX};
}

// The connection is given up; what was written on it may be done yet.
static void lose(struct sim_store *store, const char *error, int64_t now_ms)
{
    struct sim_conn *conn = conn_of(store);
    uint32_t top = store->call_top;
    uint64_t newest = store->order;

    if (conn->acquires > 0)
        remember_to_kill(store, conn);
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
            close_call(store, call);
        else if (call->state == SIM_WRITTEN)
            complete_as(store, call, STORE_LOST, error, now_ms);
    }
}

static void send(struct sim_store *store, struct sim_message *message)
{
    struct sim_conn *conn = conn_of(store);

    if (conn->due++ == 0)
        conn->quiet_ms = clock_ms(store);
    net_send(store->world, store->conn, message);
}

static void greet(struct sim_store *store, int64_t now_ms)
{
    store->conn = net_open(store->world, store->host);
    store->link = SIM_LINK_GREETING;
    store->greet_by_ms = now_ms + store->silence_ms;
    send(store, net_message(store->world, SIM_HELLO));
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
        send(store, message);
    }
    store->kill_count = kept;
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
    store->backoff_ms = BACKOFF_MIN_MS;
    send_kills(store, message->run);
    store->run = message->run;
    store->store.hooks->status(store->store.context, true, NULL, now_ms);
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

static size_t value_text(const struct sim_message *message, char *text)
{
    struct value value = {
        .token = message->holder,
        .fence = message->holder_fence,
        .ttl_ms = 1000,
        .deadline_us = 1,
        .since_us = 1,
        .pid = 1,
        .uid = 1,
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
    if (message->kind == SIM_ACQUIRE && item->outcome == STORE_HELD) {
        completion.pttl_ms = message->pttl_ms;
        completion.type = message->wrong_type ? "hash" : NULL;
        completion.value_length = 36;
        if (!message->foreign) {
            completion.value_length = value_text(message, text);
            completion.value = text;
        }
    }
    complete(store, call, &completion, now_ms);
}

static void take(struct sim_store *store, const struct sim_message *message, int64_t now_ms)
{
    struct sim_conn *conn = conn_of(store);

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
    if (!message && !conn_of(store)->reset)
        return;
    now_ms = store->store.hooks->believe(store->store.context);
    for (; message; message = net_read(store->world, store->conn)) {
        take(store, message, now_ms);
        net_free(store->world, message);
        if (store->link == SIM_LINK_DOWN)
            return;
    }
    if (conn_of(store)->reset)
        lose(store, "connection reset", now_ms);
}

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
    bool acquires = call->op == STORE_ACQUIRE;
    struct sim_message *message = net_message(store->world, acquires ? SIM_ACQUIRE : SIM_RELEASE);

    call->state = SIM_WRITTEN;
    call->sent_at_ms = now_ms;
    message->fence = call->fence_floor;
    add_item(store, message, call);
    conn_of(store)->acquires += acquires;
    record_sent(store, call);
    send(store, message);
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
        complete_as(store, call, STORE_UNSENT, NULL, now_ms);
        return false;
    }
    call->state = SIM_WRITTEN;
    call->key = key_number(subject.key, subject.key_length);
    call->token = subject.token;
    call->ttl_ms = subject.ttl_ms;
    call->sent_at_ms = now_ms;
    call->timeout_at_ms = now_ms + subject.timeout_ms;
    store->unanswered++;
    add_item(store, message, call);
    record_sent(store, call);
    return true;
}

static void write_renewals(struct sim_store *store, int64_t now_ms)
{
    struct sim_message *message = NULL;
    struct sim_call *call;

    while (store->unanswered < SIM_UNANSWERED && (call = next_renewal(store))) {
        if (!message)
            message = net_message(store->world, SIM_RENEW);
        write_renewal(store, call, message, now_ms);
        if (message->count == SIM_BATCH) {
            send(store, message);
            message = NULL;
        }
    }
    if (message && message->count > 0)
        send(store, message);
    else if (message)
        net_free(store->world, message);
}

void store_flush(struct sim_store *store)
{
    int64_t now_ms = clock_ms(store);

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

// ---- Time ----

static int64_t next_timeout(const struct store *base)
{
    const struct sim_store *store = (const struct sim_store *)base;
    const struct sim_conn *conn = conn_of(store);
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
    const struct sim_conn *conn = conn_of(store);
    uint32_t top = store->call_top;

    for (uint32_t i = 0; i < top; i++) {
        struct sim_call *call = &store->calls[i];
        if (call->timeout_at_ms > now_ms)
            continue;
        if (call->state == SIM_QUEUED)
            complete_as(store, call, STORE_UNSENT, "not connected", now_ms);
        else if (call->state == SIM_WRITTEN)
            complete_as(store, call, STORE_TIMEOUT, NULL, now_ms);
    }
    if (store->link == SIM_LINK_DOWN && now_ms >= store->retry_at_ms)
        greet(store, now_ms);
    else if (store->link == SIM_LINK_GREETING && now_ms >= store->greet_by_ms)
        lose(store, "no answer to the greeting", now_ms);
    else if (store->link == SIM_LINK_UP && conn->due > 0 &&
             now_ms >= conn->quiet_ms + store->silence_ms)
        lose(store, "silent", now_ms);
}

static const struct store_ops ops = {
    .acquire = submit_acquire,
    .renew = submit_renew,
    .release = submit_release,
    .next_timeout = next_timeout,
    .sweep = sweep,
};

void store_init(struct sim_store *store, struct world *world, uint32_t host, int64_t silence_ms)
{
    uint32_t serial = store->serial;

    memset(store, 0, offsetof(struct sim_store, calls));
    memset(&store->call_top, 0, sizeof *store - offsetof(struct sim_store, call_top));
    memset(store->calls, 0, sizeof store->calls);
    store->store.ops = &ops;
    store->world = world;
    store->host = host;
    store->serial = serial;
    store->silence_ms = silence_ms;
    store->backoff_ms = BACKOFF_MIN_MS;
    store->retry_at_ms = host_ms(&world->hosts[host]);
}

void store_end(struct sim_store *store)
{
    store->dead = true;
    if (store->link != SIM_LINK_DOWN)
        net_close(store->world, store->conn);
    store->link = SIM_LINK_DOWN;
}
