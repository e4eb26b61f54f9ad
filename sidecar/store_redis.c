// SPDX-License-Identifier: Apache-2.0
//
// The Redis store: what is submitted, when it is written, and what becomes of it in time.
//
// An acquire, a release or a query is encoded when it is submitted and stands in one queue, in order. It is
// written when 16 have gathered or before the loop sleeps, as far as the socket takes it: once the
// socket is full, calls stay in the queue. So what is in the output buffer was at least tried to be
// written, and a call in the queue can still be answered UNSENT. Renewals stand in a heap of their
// own and are made into batches just before they are written, so that they go earliest first and
// with what is true at that moment; at most four batches are unanswered at a time.
//
// Life of a call: queue -> connection.due -> freed when it is answered. Its timeout completes it; if
// it was written it stays due, `answered` set, so that replies keep matching. On a loss all that is
// due moves to lost_due and is completed from there. A batch's members live and die with it.
//
// Completions are given from the loop's callbacks, sweep, flush and free; never from a submission,
// which may write, but neither fails nor builds batches. A hook may call anything, store_redis_free
// too: `busy` counts the frames that come back, and the last one frees. Once that call has returned
// no hook is called any more.
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "sidecar/clock.h"
#include "sidecar/store_redis_state.h"

enum {
    WRITE_AFTER = 16,     // calls queued
    MAX_CHUNK_CALLS = 64, // calls encoded for one write
    MAX_CHUNK_BYTES = 65536,
    MAX_CHUNKS = 64, // written in one turn
    MAX_BATCHES = 4, // unanswered
};

static struct store_redis *of(struct store *store)
{
    return (struct store_redis *)(void *)store;
}

// ---- Frames ----

void store_redis_enter(struct store_redis *store)
{
    store->busy++;
}

static void free_memory(struct store_redis *store)
{
    redis_connection_deinit(&store->connection);
    redis_watch_deinit(&store->watch);
    redis_renewals_deinit(&store->renewals);
    redis_due_deinit(&store->lost_due);
    buf_deinit(&store->batch.keys);
    buf_deinit(&store->batch.values);
    store_redis_deinit_calls(store);
    free(store);
}

void store_redis_leave(struct store_redis *store)
{
    assert(store->busy > 0);
    if (--store->busy == 0 && store->closing)
        free_memory(store);
}

// ---- Completions ----

void store_redis_report(struct store_redis *store, const struct store_completion *completion,
                        int64_t now_ms)
{
    if (!store->closed)
        store->store.hooks->completed(store->store.context, completion, now_ms);
}

struct store_completion store_redis_completion(const struct redis_call *call)
{
    return (struct store_completion){
        .op = redis_call_op(call),
        .lease = call->lease,
        .generation = call->generation,
        .sent_at_ms = call->sent_at_ms,
        .replaces = call->replaces,
        .replaces_generation = call->replaces_generation,
    };
}

void store_redis_complete(struct store_redis *store, const struct redis_call *call,
                          enum store_outcome outcome, const char *error, int64_t now_ms)
{
    struct store_completion completion = store_redis_completion(call);

    completion.outcome = outcome;
    completion.error = error;
    if (outcome == STORE_UNSENT)
        completion.sent_at_ms = 0;
    if (call->kind != REDIS_CALL_BATCH) {
        store_redis_report(store, &completion, now_ms);
        return;
    }
    for (uint32_t i = 0; i < call->count; i++) {
        completion.lease = call->members[i].lease;
        completion.generation = call->members[i].generation;
        store_redis_report(store, &completion, now_ms);
    }
}

static void complete_unsent_renewal(struct store_redis *store, const struct redis_call_member *who,
                                    const char *error, int64_t now_ms)
{
    store_redis_report(store,
                       &(struct store_completion){
                           .op = STORE_RENEW,
                           .outcome = STORE_UNSENT,
                           .lease = who->lease,
                           .generation = who->generation,
                           .error = error,
                       },
                       now_ms);
}

// ---- Writing ----

void store_redis_written(struct store_redis *store, struct redis_call *call, int64_t sent_at_ms)
{
    call->sent_at_ms = sent_at_ms;
    call->sequence = ++store->sequence;
    redis_connection_expect(&store->connection, call, sent_at_ms);
}

static void encode_queue(struct store_redis *store, int64_t sent_at_ms)
{
    struct buf *output = &store->connection.output;
    struct redis_call *call;

    for (int i = 0; i < MAX_CHUNK_CALLS && buf_length(output) < MAX_CHUNK_BYTES; i++) {
        call = store->queue.first;
        if (!call)
            return;
        store_redis_queue_remove(&store->queue, call);
        redis_call_write(call, output);
        store_redis_written(store, call, sent_at_ms);
    }
}

// One batch of those that are due earliest; the number that were looked at. Who is not wanted any
// more is completed at the end, when the batch is in order and hooks may do what they like.
static int encode_batch(struct store_redis *store, int64_t sent_at_ms, int64_t now_ms)
{
    const struct store_hooks *hooks = store->store.hooks;
    struct redis_call_member unwanted[REDIS_CALL_MAX_BATCH];
    int unwanted_count = 0;
    int looked_at = 0;
    int64_t timeout_ms = INT64_MAX;
    struct redis_renewal next;
    struct store_subject subject;

    for (; looked_at < REDIS_CALL_MAX_BATCH; looked_at++) {
        struct redis_call_member member;

        if (!redis_renewals_pop(&store->renewals, &next))
            break;
        member = (struct redis_call_member){next.lease, next.generation};
        subject = (struct store_subject){0};
        if (!hooks->describe(store->store.context, next.lease, next.generation, now_ms, &subject)) {
            unwanted[unwanted_count++] = member;
            continue;
        }
        assert(subject.ttl_ms > 0); // PEXPIRE with 0 deletes the key and answers 1
        if (!store->batch.call)
            store->batch.call = store_redis_new_call(store, REDIS_CALL_BATCH);
        redis_batch_add(&store->batch, member, &subject);
        timeout_ms = subject.timeout_ms < timeout_ms ? subject.timeout_ms : timeout_ms;
    }
    if (store->batch.call) {
        struct redis_call *call = store->batch.call;

        redis_batch_end(&store->batch);
        redis_call_write(call, &store->connection.output);
        store_redis_written(store, call, sent_at_ms);
        store_redis_start_timeout(store, call, sent_at_ms + timeout_ms);
        store->batches++;
    }
    for (int i = 0; i < unwanted_count; i++)
        complete_unsent_renewal(store, &unwanted[i], NULL, now_ms);
    return looked_at;
}

static bool can_write(const struct store_redis *store)
{
    return store->link == STORE_REDIS_UP && !store->holding && !store->closing &&
           redis_connection_is_clear(&store->connection);
}

static bool has_batch(const struct store_redis *store)
{
    return store->renewals.heap.count > 0 && store->batches < MAX_BATCHES;
}

// Chunk by chunk, each with the clock read before it, until nothing is left, the socket is full or
// this was enough for one turn (next_timeout then asks for another). With now_ms, renewals are
// written too (and hooks called).
static void write_out(struct store_redis *store, const int64_t *now_ms)
{
    if (store->writing)
        return;
    store->writing = true;
    store->queued = 0;
    for (int i = 0; i < MAX_CHUNKS && can_write(store); i++) {
        int64_t sent_at_ms = clock_boottime_ms();
        int looked_at = 0;

        encode_queue(store, sent_at_ms);
        if (now_ms && has_batch(store))
            looked_at = encode_batch(store, sent_at_ms, *now_ms);
        if (!can_write(store) || (buf_length(&store->connection.output) == 0 && looked_at == 0))
            break;
        redis_connection_write(&store->connection);
    }
    store->writing = false;
}

void store_redis_flush(struct store *base, int64_t now_ms)
{
    struct store_redis *store = of(base);

    store_redis_enter(store);
    write_out(store, &now_ms);
    if (!store->closing)
        redis_watch_flush(&store->watch, now_ms);
    store_redis_leave(store);
}

// ---- Submission ----

static void submit(struct store_redis *store, struct redis_call *call, int64_t timeout_at_ms)
{
    store_redis_start_timeout(store, call, timeout_at_ms);
    store_redis_queue_add(&store->queue, call);
    if (++store->queued >= WRITE_AFTER)
        write_out(store, NULL);
}

static void submit_acquire(struct store *base, const struct store_acquire *acquire, int64_t now_ms)
{
    struct store_redis *store = of(base);
    struct redis_call *call;

    assert(acquire->ttl_ms > 0);
    if (store->closing)
        return;
    call = store_redis_new_call(store, REDIS_CALL_ACQUIRE);
    redis_call_set_acquire(call, store->options.key_prefix, acquire);
    submit(store, call, now_ms + acquire->timeout_ms);
}

static void submit_release(struct store *base, const struct store_release *release, int64_t now_ms)
{
    struct store_redis *store = of(base);
    struct redis_call *call;

    if (store->closing)
        return;
    call = store_redis_new_call(store, REDIS_CALL_RELEASE);
    redis_call_set_release(call, store->options.key_prefix, release);
    submit(store, call, now_ms + release->timeout_ms);
}

static void submit_renewal(struct store *base, uint32_t lease, uint32_t generation,
                           int64_t due_by_ms, int64_t now_ms)
{
    struct store_redis *store = of(base);

    (void)now_ms;
    if (!store->closing)
        redis_renewals_push(&store->renewals, lease, generation, due_by_ms);
}

static void submit_query(struct store *base, const struct store_query *query, int64_t now_ms)
{
    struct store_redis *store = of(base);
    struct redis_call *call;

    if (store->closing)
        return;
    call = store_redis_new_call(store, redis_call_kind_of(query->op));
    redis_call_set_query(call, store->options.key_prefix, query);
    submit(store, call, now_ms + query->timeout_ms);
}

static void watch(struct store *base, const char *key, size_t key_length)
{
    if (!of(base)->closing)
        redis_watch_add(&of(base)->watch, key, key_length);
}

static void unwatch(struct store *base, const char *key, size_t key_length)
{
    if (!of(base)->closing)
        redis_watch_remove(&of(base)->watch, key, key_length);
}

// ---- Time ----

static int64_t next_timeout(const struct store *base)
{
    const struct store_redis *store = (const struct store_redis *)(const void *)base;
    int64_t timeout_ms = heap_earliest(&store->table.timeouts);
    int64_t link_ms = store_redis_link_wake(store);
    int64_t watch_ms = redis_watch_wake(&store->watch);
    int64_t earliest_ms = timeout_ms < link_ms ? timeout_ms : link_ms;

    if (can_write(store) && (store->queue.first || has_batch(store)))
        return 0;
    return earliest_ms < watch_ms ? earliest_ms : watch_ms;
}

static void time_out(struct store_redis *store, struct redis_call *call, int64_t now_ms)
{
    store_redis_stop_timeout(store, call);
    if (call->pending) {
        store_redis_queue_remove(&store->queue, call);
        store_redis_complete(store, call, STORE_UNSENT,
                             store->store.up ? "Redis takes no more requests" : store->error,
                             now_ms);
        store_redis_drop_call(store, call);
        return;
    }
    call->answered = true;
    buf_deinit(&call->tail);
    if (call->kind == REDIS_CALL_BATCH)
        store->batches--;
    store_redis_complete(store, call, STORE_TIMEOUT, NULL, now_ms);
}

static void sweep(struct store *base, int64_t now_ms)
{
    struct store_redis *store = of(base);

    store_redis_enter(store);
    while (heap_earliest(&store->table.timeouts) <= now_ms)
        time_out(store, store->table.calls[heap_first(&store->table.timeouts)], now_ms);
    if (!store->closing)
        store_redis_link_sweep(store, now_ms);
    if (!store->closing)
        redis_watch_sweep(&store->watch, now_ms);
    store_redis_leave(store);
}

// ---- Life ----

static const struct store_ops ops = {
    .acquire = submit_acquire,
    .renew = submit_renewal,
    .release = submit_release,
    .query = submit_query,
    .watch = watch,
    .unwatch = unwatch,
    .next_timeout = next_timeout,
    .sweep = sweep,
};

int store_redis_new(struct ev_loop *loop, const struct store_redis_options *options,
                    struct store **store_out)
{
    struct store_redis *store = calloc(1, sizeof *store);

    if (!store)
        return -ENOMEM;
    store->store.ops = &ops;
    store->loop = loop;
    store->options = *options;
    store->batch.prefix = options->key_prefix;
    // Only for jitter: any seed will do.
    if (getrandom(&store->random, sizeof store->random, GRND_NONBLOCK) < 0)
        store->random = (uint64_t)clock_boottime_ms();
    store_redis_init_calls(store);
    redis_renewals_init(&store->renewals);
    if (store_redis_link_init(store) < 0) {
        free_memory(store);
        return -ENOMEM;
    }
    *store_out = &store->store;
    return 0;
}

struct store *store_redis_free(struct store *base)
{
    struct store_redis *store = of(base);
    struct redis_renewal renewal;
    struct redis_call *call;
    int64_t now_ms;

    if (!store || store->closing)
        return NULL;
    now_ms = clock_boottime_ms();
    store_redis_enter(store);
    store->closing = true;
    store->store.up = false;
    strcpy(store->error, "the store is closed");
    store_redis_abandon(store, now_ms);
    redis_watch_main_down(&store->watch);
    store_redis_link_deinit(store);
    store_redis_complete_lost(store, now_ms);
    while ((call = store->queue.first)) {
        store_redis_queue_remove(&store->queue, call);
        store_redis_stop_timeout(store, call);
        store_redis_complete(store, call, STORE_UNSENT, store->error, now_ms);
        store_redis_drop_call(store, call);
    }
    while (redis_renewals_pop(&store->renewals, &renewal))
        complete_unsent_renewal(store,
                                &(struct redis_call_member){renewal.lease, renewal.generation},
                                store->error, now_ms);
    store->closed = true;
    store_redis_leave(store);
    return NULL;
}
