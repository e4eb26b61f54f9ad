// SPDX-License-Identifier: Apache-2.0
//
// What the parts of the history checker share: its state, and what they ask of each other. Private to
// history*.c.
#pragma once

#include "tests/tool/history.h"

enum { BUCKETS = 4096, ACTING = 8 };

struct tracked {
    struct tracked *bucket_next;
    struct tracked *previous, *next; // of all
    struct tracked *finished_next;
    struct message_token token;
    uint32_t key, sidecar, client, request;
    int64_t ttl_ms;
    int64_t stored_at_us;  // executed last: SET or EXTENDED
    int64_t published_us;  // the latest until_us that its client was given
    int64_t confirmed_us;  // the latest until_us of a positive answer that counts
    int64_t revoke_us;     // D of that
    int64_t deadline_us;   // the workflow deadline
    int64_t safe_until_us; // what its revoked event promised
    int64_t free_from_us;  // its client has stopped: the key may go
    int64_t granted_us;
    int64_t eof_us;
    int64_t released_us;   // the sidecar has read its release
    int64_t over_us;       // the sidecar knows that it has stopped: the key is to go
    int64_t acts_until_us; // by the client's own clock
    enum history_end end;
    bool stored;         // in Redis
    bool was_set;        // at some time
    bool gone;           // at some time after it was set
    bool lost;           // Redis let it go or may do so: promise 1 is out of force
    bool granted;        // its client was told so, or will read it
    bool releasing;      // the sidecar has read a release
    bool released_live;  // and that ended it
    bool freed_by_other; // and it came on another connection
    bool eof;            // the sidecar has read the end of its client's input
    bool released;       // its client has sent a release, which may never be read
    bool acts;
    bool expires;
    bool in_finished;
};

struct request {
    uint32_t number, client, sidecar, key;
    int64_t asked_at_us;
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
// NULL when it is not known, or, of history_track, when memory is out.
struct tracked *history_find(struct history *history, const struct message_token *token);
struct tracked *history_track(struct history *history, const struct message_token *token);
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
bool history_is_up(struct history *history, uint32_t sidecar);

void history_ends(struct history *history, struct tracked *lease, enum history_end how);
void history_to_finished(struct history *history, struct tracked *lease);
// Its client acts on it no more, by its own doing.
void history_stops(struct tracked *lease, int64_t at_us);
// Its client is still told nothing: is that late?
void history_check_late(struct history *history, const struct history_record *record,
                        const struct tracked *lease);
// May its key go, as far as its client is concerned?
bool history_may_free(const struct tracked *lease, int64_t at_us);
// By when a key that is over must be gone; INT64_MAX: it may stay.
int64_t history_gone_by(struct history *history, const struct tracked *lease);

typedef void history_handler(struct history *history, const struct history_record *record);

// By kind of record; each kind is in one of them.
extern history_handler *const history_client_handlers[HISTORY_KIND_COUNT];
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
