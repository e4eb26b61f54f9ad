// SPDX-License-Identifier: Apache-2.0
//
// What the parts of the history checker share: its state, and what they ask of each other. Private to
// history*.c.
#pragma once

#include "tests/tool/history.h"

enum { BUCKETS = 4096, ACTING = 24, HOPS = 15 };

// One tenure: a lease as one connection of one sidecar has it. An adoption begins another.
struct tracked {
    struct tracked *bucket_next;
    struct tracked *previous, *next; // of all
    struct tracked *finished_next;
    struct message_token token;
    uint32_t key, sidecar, client, request;
    int64_t ttl_ms;
    int64_t fence;
    int64_t stored_at_us;     // executed last: SET or EXTENDED
    int64_t set_at_us;        // SET
    int64_t published_us;     // the latest until_us that its client was given
    int64_t confirmed_us;     // the latest until_us of a positive answer that counts
    int64_t revoke_us;        // D of that
    int64_t deadline_us;      // the workflow deadline: not before
    int64_t deadline_most_us; // and not after; they differ while an extension is in doubt
    int64_t safe_until_us;    // what its revoked event promised
    int64_t free_from_us;     // its client has stopped: the key may go
    int64_t granted_us;
    int64_t back_us; // adopted back, by the sidecar that had it; it may hear yet that it was away
    int64_t late_us; // stored by bytes that came late
    int64_t eof_us;
    int64_t released_us;   // the sidecar has read its release
    int64_t over_us;       // the sidecar knows that it has stopped: the key is to go
    int64_t acts_until_us; // by the client's own clock
    enum history_end end;
    bool stored;         // in Redis
    bool was_set;        // at some time
    bool gone;           // at some time after it was set
    bool freed;          // by its own delete, or in a hand-over
    bool lost;           // Redis let it go or may do so: promise 1 is out of force
    bool granted;        // its client was told so, or will read it
    bool releasing;      // the sidecar has read a release
    bool released_live;  // and that ended it
    bool freed_by_other; // and it came on another connection
    bool eof;            // the sidecar has read the end of its client's input
    bool released;       // its client has sent a release, which may never be read
    bool acts;
    bool expires;
    bool unbound;
    bool adopted;     // not by an acquire of its sidecar
    bool moved;       // to another connection of its sidecar
    bool broken;      // for an operator: its key goes at free_from_us
    bool stepped;     // Redis' clock was, since the grant: its deadline there is another
    uint32_t extends; // asked for, and not known to have been done
    bool in_finished;
};

struct request {
    uint32_t number, client, sidecar, key;
    int64_t asked_at_us;
    int64_t due_us; // the end of its wait; 0: it does not wait
    uint64_t order;
    enum history_kind kind;     // READ_x
    struct message_token token; // adopt, extend
    bool contends;              // acquire: it was sent to Redis
};

struct connection {
    uint32_t number, sidecar;
    bool left; // by its own doing
    bool eof;  // and the sidecar has read it
};

struct process {
    int64_t thawed_at_us;
    int64_t trouble_until_us;
    int64_t stopping_us;
    bool frozen, stopping, ended;
};

struct lock {
    struct tracked *holder;
    struct tracked *acting[ACTING];
    int64_t fence;
    int64_t free_since_us;
    bool taken;         // by a foreign locker
    uint32_t breaks;    // asked for
    bool handing;       // SET comes next
    uint32_t hops;      // hand-overs in a row
    uint32_t handed_by; // the sidecar that does it
};

#define VECTOR(type)                                                                               \
    struct {                                                                                       \
        type *items;                                                                               \
        size_t count, room;                                                                        \
    }

struct history {
    struct history_options options;
    struct tracked *buckets[BUCKETS];
    struct tracked *all;
    struct tracked *finished, **finished_end;
    size_t finished_count;
    VECTOR(struct request) requests;
    VECTOR(struct connection) connections;
    VECTOR(struct process) processes; // by number
    VECTOR(struct lock) locks;        // by number
    struct process everybody;         // trouble of all
    int64_t now_us;
    int64_t least_slack_us;
    uint64_t ends[HISTORY_END_COUNT];
    struct history_record *recent; // a ring
    uint64_t recorded;
    uint64_t read; // requests
    int invariant;
    bool no_memory;
    char why[HISTORY_WHY];
};

#define RESERVE(history, vector, need)                                                             \
    ((vector).items =                                                                              \
         history_grown(history, (vector).items, &(vector).room, need, sizeof *(vector).items))

#define REMOVE(vector, i) ((vector).items[i] = (vector).items[--(vector).count])

struct process *history_process(struct history *history, uint32_t number);
struct lock *history_lock(struct history *history, uint32_t number);
// The newest tenure of the token: of all; at the sidecar, or not known to be elsewhere (0: any); of
// the client. NULL when there is none.
struct tracked *history_find(struct history *history, const struct message_token *token);
struct tracked *history_at(struct history *history, const struct message_token *token,
                           uint32_t sidecar);
struct tracked *history_of(struct history *history, const struct message_token *token,
                           uint32_t client);
// A new tenure; and the one at the sidecar, a new one where there is none. NULL when memory is out.
struct tracked *history_new_tenure(struct history *history, const struct message_token *token);
struct tracked *history_track(struct history *history, const struct message_token *token,
                              uint32_t sidecar);
// What Redis has of one tenure is another's from now on.
void history_transfer(struct history *history, struct tracked *from, struct tracked *to);
// It is to go on although its connection does not.
static inline bool history_is_detached(const struct tracked *lease)
{
    return lease->unbound && lease->end == HISTORY_LEFT;
}
// The key is free no more, or the trace is over: did somebody wait in vain?
void history_check_waiters(struct history *history, const struct history_record *record,
                           uint32_t key);
struct connection *history_connection(struct history *history, uint32_t number, uint32_t sidecar);
void *history_grown(struct history *history, void *items, size_t *room, size_t need, size_t size);

// The first violation stays; lease may be NULL.
void history_violated(struct history *history, int invariant, const struct history_record *record,
                      const struct tracked *lease, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

// Something due at an instant, by a loop that runs: is it late now?
bool history_is_late(struct history *history, uint32_t sidecar, int64_t due_us, int64_t at_us);
// The instant since when nothing is at fault and everything is in time again.
int64_t history_calm_since(struct history *history, uint32_t sidecar);
// By when a request is to be answered.
int64_t history_answer_by(struct history *history, const struct request *request);
bool history_is_up(struct history *history, uint32_t sidecar);

void history_ends(struct history *history, struct tracked *lease, enum history_end how);
void history_to_finished(struct history *history, struct tracked *lease);
// Its client acts on it no more, by its own doing.
void history_stops(struct tracked *lease, int64_t at_us);
// The sidecar knows that its client sends no more.
void history_reads_eof(struct tracked *lease, int64_t at_us);
// Its client is still told nothing: is that late?
void history_check_late(struct history *history, const struct history_record *record,
                        const struct tracked *lease);
// May its key go, as far as its client is concerned?
bool history_may_free(const struct tracked *lease, int64_t at_us);
// By when a key that is over must be gone; INT64_MAX: it may stay.
int64_t history_gone_by(struct history *history, const struct tracked *lease);

// ---- history_requests.c ----

// NULL: it has its outcome, or was never read.
struct request *history_find_request(struct history *history, uint32_t number);
// The request has its outcome.
void history_outcome(struct history *history, const struct history_record *record);
// Requests of the client, or of the sidecar, end with it; UINT32_MAX: of none.
void history_close_requests(struct history *history, uint32_t client, uint32_t sidecar,
                            int64_t at_us);
// Somebody asks the sidecar to adopt the lease.
bool history_is_adopted(const struct history *history, const struct message_token *token,
                        uint32_t sidecar);
// Its request is sent to Redis, or granted: is it its turn?
void history_check_turn(struct history *history, const struct history_record *record,
                        const struct tracked *lease);

typedef void history_handler(struct history *history, const struct history_record *record);

// By kind of record; each kind is in one of them.
extern history_handler *const history_client_handlers[HISTORY_KIND_COUNT];
extern history_handler *const history_grant_handlers[HISTORY_KIND_COUNT];
extern history_handler *const history_request_handlers[HISTORY_KIND_COUNT];
extern history_handler *const history_sidecar_handlers[HISTORY_KIND_COUNT];
extern history_handler *const history_redis_handlers[HISTORY_KIND_COUNT];

static inline double history_ms(int64_t us)
{
    return (double)us / 1000;
}

static inline int64_t history_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
