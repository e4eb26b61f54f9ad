// SPDX-License-Identifier: Apache-2.0
//
// The inside of the Redis store, shared by its files and nobody else:
//
//     store_redis.c          submission, writing, timeouts, life
//     store_redis_calls.c    the table of calls, and the queue
//     store_redis_link.c     the connection's life: address, handshake, loss, back-off
//     store_redis_answers.c  replies into completions
#pragma once

#include "sidecar/redis_call.h"
#include "sidecar/redis_connection.h"
#include "sidecar/redis_handshake.h"
#include "sidecar/redis_lost.h"
#include "sidecar/redis_renewals.h"
#include "sidecar/redis_watch.h"
#include "sidecar/resolver.h"
#include "sidecar/store_redis.h"

enum store_redis_link {
    STORE_REDIS_WAITING,    // until link_until_ms, then anew
    STORE_REDIS_RESOLVING,  // the host's name, until link_until_ms
    STORE_REDIS_CONNECTING, // to one address, until link_until_ms
    STORE_REDIS_GREETING,   // the handshake, until attempt_until_ms
    STORE_REDIS_UP,
};

struct call_table {
    struct redis_call **calls; // by slot; owned
    uint32_t *free_slots;      // a stack
    uint32_t free_count;
    uint32_t capacity;
    struct heap timeouts; // its items are slots
};

struct call_queue {
    struct redis_call *first;
    struct redis_call *last;
};

struct store_redis {
    struct store store;
    struct ev_loop *loop;
    struct store_redis_options options;

    enum store_redis_link link;
    int64_t link_until_ms;
    int64_t attempt_until_ms;
    int64_t up_since_ms;
    unsigned attempts; // since the last connection that was good for something
    bool succeeded;    // on this connection a call did
    bool retiring;     // replaced at the end of this turn; `error` says why
    uint64_t random;
    char error[192]; // why it is down (or retiring)
    struct resolver resolver;
    struct resolver_result addresses; // the last good ones
    int address;                      // the one in use, or to begin with
    int tried;                        // in this attempt
    struct redis_connection connection;
    struct redis_handshake handshake;
    char run_id[sizeof((struct redis_handshake *)NULL)->run_id]; // of the last one that was up
    struct redis_lost lost;
    struct redis_watch watch;

    struct call_table table;
    struct call_queue queue;        // submitted, not written
    struct redis_due_ring lost_due; // taken from a lost connection, to be completed
    unsigned queued;                // since the last write
    uint64_t sequence;              // of the call written last
    uint64_t reordered;             // up to here an acquire was overtaken, see answer_noscript
    struct redis_renewals renewals;
    struct redis_batch batch;
    unsigned batches; // written, neither answered nor timed out
    struct redis_call *spare;
    unsigned spares;

    bool holding; // nothing is written: the queue is about to be put into order
    bool writing;
    bool closing;  // nothing is taken any more
    bool closed;   // no hook is called any more
    unsigned busy; // frames on the stack that come back to this struct
};

// ---- store_redis.c ----

void store_redis_enter(struct store_redis *store);
// The store may be gone afterwards.
void store_redis_leave(struct store_redis *store);

// Completes a call that was submitted by the keeper; a batch member by member.
void store_redis_complete(struct store_redis *store, const struct redis_call *call,
                          enum store_outcome outcome, const char *error, int64_t now_ms);
// What every completion of the call (or of its first member) says.
struct store_completion store_redis_completion(const struct redis_call *call);
void store_redis_report(struct store_redis *store, const struct store_completion *completion,
                        int64_t now_ms);
// A call is in the output buffer.
void store_redis_written(struct store_redis *store, struct redis_call *call, int64_t sent_at_ms);

// ---- store_redis_calls.c ----

void store_redis_init_calls(struct store_redis *store);
void store_redis_deinit_calls(struct store_redis *store);
struct redis_call *store_redis_new_call(struct store_redis *store, enum redis_call_kind kind);
// Takes it out of the heap of timeouts and frees it.
void store_redis_drop_call(struct store_redis *store, struct redis_call *call);
void store_redis_stop_timeout(struct store_redis *store, struct redis_call *call);
void store_redis_start_timeout(struct store_redis *store, struct redis_call *call,
                               int64_t timeout_at_ms);
void store_redis_queue_add(struct call_queue *queue, struct redis_call *call);
void store_redis_queue_remove(struct call_queue *queue, struct redis_call *call);
// Acquires behind all others, else as they came.
void store_redis_sort_queue(struct store_redis *store);

// ---- store_redis_link.c ----

int store_redis_link_init(struct store_redis *store); // 0 or -ENOMEM
void store_redis_link_deinit(struct store_redis *store);
int64_t store_redis_link_wake(const struct store_redis *store);
void store_redis_link_sweep(struct store_redis *store, int64_t now_ms);
// Ends the connection (or the attempt) and schedules the next.
void store_redis_lose(struct store_redis *store, const char *error, int64_t now_ms);
// Closes it, and moves what is due to lost_due.
void store_redis_abandon(struct store_redis *store, int64_t now_ms);
// Completes all of lost_due.
void store_redis_complete_lost(struct store_redis *store, int64_t now_ms);
void store_redis_greeted(struct store_redis *store, enum redis_handshake_step step,
                         const struct redis_reply *reply, int64_t now_ms);

// ---- store_redis_answers.c ----

void store_redis_answer(struct store_redis *store, struct redis_call *call,
                        const struct redis_reply *reply, int64_t now_ms);
