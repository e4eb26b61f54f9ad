// SPDX-License-Identifier: Apache-2.0
//
// The keeper holds the leases: it turns requests, the store's answers and the clock into events of
// the lease machine, and carries the machine's actions out. It does no I/O of its own: lines go into
// sessions, calls to the store, and `now` comes from outside, so the simulator drives the same code.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/message.h"
#include "sidecar/account.h"
#include "sidecar/lease.h"
#include "sidecar/schedule.h"
#include "sidecar/session.h"
#include "sidecar/store.h"
#include "sidecar/table.h"

enum {
    KEEPER_SWEEP = 4096, // leases woken, or walked over, in one turn of the loop
    KEEPER_RANDOM = 2048,
    KEEPER_POLL_MS = 1000, // a waiter asks again at least so often: for lockers that tell nobody
    KEEPER_MAX_HOPS = 15,  // hand-overs in a row, then other sidecars get their turn
    KEEPER_YIELD_MS = 20,  //   for so long
};

enum { KEEPER_E_FULL = 1 }; // a uid is at its cap

struct keeper_options {
    struct lease_rules rules;
    int64_t lock_ttl_ms;
    int64_t max_lock_ttl_ms;
    int64_t workflow_deadline_ms;
    int64_t max_workflow_deadline_ms;
    uint32_t caps[ACCOUNT_KIND_COUNT]; // per uid
    const char *host;                  // borrowed; no spaces
    // Fills bytes with randomness; tokens and the instance's name come from it.
    void (*random)(void *context, void *bytes, size_t size);
    int64_t (*clock)(void *context); // CLOCK_BOOTTIME, ms; read only when the store has input
    // Watches process pid (0: the session's own) until it ends, which keeper_process_ended says, or
    // until unwatch_process. NULL and *watch (never NULL), *pid the process's; or why it cannot be.
    const char *(*watch_process)(void *context, struct session *session, pid_t *pid, void **watch);
    void (*unwatch_process)(void *context, void *watch);
    void *context; // of all
    uid_t uid;     // the sidecar's own: it and root may break locks
};

// A process that leases are bound to. Leases that ended otherwise stay in `bound` until they are
// half of it.
struct process {
    pid_t pid;
    void *watch;
    struct {
        uint32_t number;
        uint32_t generation;
    } * bound; // owned
    uint32_t count;
    uint32_t capacity;
    uint32_t live;
};

// A question to the store that is no lease's acquire, renewal or release: adopt, extend, inspect,
// break; or a break that waits for a lease of this sidecar to be deleted.
struct query {
    struct message_id id;
    struct message_token token; // adopt
    enum wire_op op;
    uint32_t generation; // odd while in use
    uint32_t session;    // 0: it has gone
    uint32_t lease;      // extend, adopt here, break here: the slot
    uint32_t lease_generation;
    int64_t deadline_ms; // extend
    uint32_t next_free;
    uint8_t bind;
    uint8_t notify;
    bool expires;
    bool unbound;   // adopt: the client has gone, and with it what the lease was to be bound to
    bool has_place; // adopt from elsewhere: the lease is counted against the account already
    uint16_t account;
    pid_t pid; // bind "pid": 0 for the session's own
    uint16_t key_length;
    char key[WIRE_MAX_KEY];
};

// A walk over all slots after the store came up, or at shutdown, some slots a turn.
enum keeper_walk { KEEPER_WALK_NONE, KEEPER_WALK_OWED, KEEPER_WALK_HELD, KEEPER_WALK_SHUTDOWN };

struct keeper {
    struct keeper_options options;
    struct store *store;
    struct table table;
    struct schedule schedule; // of LEASE_ON_WAKE, by slot
    uint16_t phase;           // of the heartbeats of its first block of slots
    struct accounts accounts;
    struct session **sessions; // owned array; by number, NULL where free
    uint32_t session_count;
    uint32_t session_free; // a number to try first
    struct pending *free_pending;
    struct process **processes; // owned, sorted by pid
    uint32_t process_count;
    struct query **queries; // owned; by number, never moved
    uint32_t query_count;
    uint32_t query_free; // the first free one, chained; 0: none
    uint32_t breaking;   // queries that wait for a lease here to be deleted
    char instance[WIRE_INSTANCE_DIGITS + 1];
    int64_t fence_floor;   // the highest fencing token seen
    uint32_t pending;      // leases for which lease_is_pending
    uint32_t owed;         // those of them that are only owed a delete
    int64_t give_up_ms;    // while stopping and only owed: when to end all the same; 0: not so yet
    bool draining;         // no new leases
    bool stopping;         // what was held is revoked, and so is what is granted yet
    char *store_error;     // owned; why the store is down
    uint32_t handing_over; // the lease that the next acquire replaces; SLOT_NONE but for a moment
    enum keeper_walk walk;
    uint32_t walk_at;
    size_t random_left;
    uint8_t random[KEEPER_RANDOM];
};

// Sets the store's hooks. options' strings and the store outlive the keeper. 0 or -ENOMEM.
int keeper_init(struct keeper *keeper, const struct keeper_options *options, struct store *store);
// After keeper_close_session of each session. No completion may come any more.
void keeper_deinit(struct keeper *keeper);

// ---- Sessions ----

// session->pid, uid and output are set. 0, KEEPER_E_FULL (too many connections of its uid) or -ENOMEM.
int keeper_open_session(struct keeper *keeper, struct session *session);
// Makes the session's page (it must have none), to be passed with the next byte that is added to its
// output. 0, or -errno of page_new.
int keeper_open_page(struct session *session);
// The client sends no more (half-close): its leases end, with last words; requests already read are
// still answered. The owner closes the session when unanswered is 0.
void keeper_end_input(struct keeper *keeper, struct session *session, int64_t now_ms);
// The session is over. gone: by the client's own doing, so its leases end and are freed; else it was
// cut off by the sidecar, and their keys stay until valid_until.
void keeper_close_session(struct keeper *keeper, struct session *session, bool gone,
                          int64_t now_ms);

// ---- Requests (their replies go to the session, now or later) ----

void keeper_acquire(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms);
void keeper_release(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms);

void keeper_cancel(struct keeper *keeper, struct session *session,
                   const struct message_request *request, int64_t now_ms);
void keeper_extend(struct keeper *keeper, struct session *session,
                   const struct message_request *request, int64_t now_ms);
void keeper_adopt(struct keeper *keeper, struct session *session,
                  const struct message_request *request, int64_t now_ms);
void keeper_inspect(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms);
void keeper_break(struct keeper *keeper, struct session *session,
                  const struct message_request *request, int64_t now_ms);

// A watched process has ended: so do the leases that are bound to it. The watch is over.
void keeper_process_ended(struct keeper *keeper, void *watch, int64_t now_ms);

// ---- Time ----

// Wakes what is due, bounded; call it again while keeper_next_wake <= now.
void keeper_sweep(struct keeper *keeper, int64_t now_ms);
int64_t keeper_next_wake(struct keeper *keeper);

// ---- The end ----

// No new leases from now on.
void keeper_drain(struct keeper *keeper, int64_t now_ms);
// Revokes all that is held (reason shutdown).
void keeper_shutdown(struct keeper *keeper, int64_t now_ms);
// After keeper_drain: nothing is held, owed or waited for; or only deletes are owed, and the time of
// one call was not enough for them (Redis is away: their keys run out by themselves).
bool keeper_is_drained(struct keeper *keeper, int64_t now_ms);
