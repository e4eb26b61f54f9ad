// SPDX-License-Identifier: Apache-2.0
//
// The history checker: reads what happened, record by record, and says at the first record that
// breaks one of the invariants I1 to I12 (FAULTS) which one, and by which events; and
//
//     I13  who waits: of one sidecar's waiters for a key only the first is sent to Redis, and they are
//          granted in the order of their coming; at most 15 hand-overs in a row; a free key is taken
//
// The trace
// - Records come in the order of their time, at_us: microseconds of one clock for everybody. Whoever
//   writes the trace converts: an instant that a sidecar published as milliseconds of its own clock
//   becomes until_us by the smallest instant at which that clock shows it.
// - Sidecars, connections of clients, keys and requests are numbers from 1. A sidecar's number means
//   one process: a restart is a new number. Numbers of connections and requests are used once.
// - A lease that is adopted is held a second time, by another connection or sidecar, under the same
//   token: each of these is a tenure of its own. Two tenures of one token exclude nobody from each
//   other (who adopts knows the token), but each excludes all other tokens.
// - A trace need not have all kinds. From client logs alone I1 and I11 can be decided; with what Redis
//   executed also I2, I5 and half of I3 and I6; the rest needs what the sidecar read, wrote and sent.
//   From MONITOR: a script's inner "set" is SET (the token is the value's head), "pexpire" EXTENDED,
//   "del" DELETED; a client's command on a lock's key is LOST; expiry is told by keyspace events or
//   by the next SET.
// - TROUBLE says until when a sidecar cannot be expected to be in time, because of a fault that was
//   injected; what depends on being in time (I6, I8, I9) is asserted outside it.
//
// Memory is bounded: by the leases alive at one time, and HISTORY_FINISHED of the finished ones.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/message.h"

enum {
    HISTORY_FINISHED = 64, // finished leases that are remembered, to catch what comes after the end
    HISTORY_RECENT = 8192, // records that an explanation chooses from
    HISTORY_WHY = 8192,
};

// X(symbol, name). Members in use stand beside each.
#define HISTORY_KINDS(X)                                                                             \
    /* A client's connection */                                                                      \
    X(CLIENT_GRANTED, "client received the grant")   /* client key token until_us */                 \
    X(CLIENT_RENEWED, "client received renewed")     /* client token until_us */                     \
    X(CLIENT_REVOKED, "client received revoked")     /* client token */                              \
    X(CLIENT_RELEASES, "client sends release")       /* client token */                              \
    X(CLIENT_LEAVES, "client closes its connection") /* client; or half-closes, or dies */           \
    X(CLIENT_EOF, "client sees the end")             /* client ok: it goes on, and adopts */         \
    /* A sidecar, with a client */                                                                   \
    X(READ_ACQUIRE, "sidecar reads acquire") /* sidecar client request key ttl_ms       \
                                                           due_us: the end of its wait, or 0 */            \
    X(READ_ADOPT, "sidecar reads adopt")     /* sidecar client request key token */                  \
    X(READ_EXTEND, "sidecar reads extend")   /* sidecar client request token */                      \
    X(READ_BREAK, "sidecar reads break")     /* sidecar client request key                     \
                                                           due_us: the end of the grace */     \
    X(READ_QUERY, "sidecar reads another query")     /* sidecar client request */                    \
    X(READ_RELEASE, "sidecar reads release")         /* sidecar client token */                      \
    X(READ_EOF, "sidecar reads the end")             /* sidecar client */                            \
    X(WROTE_GRANTED, "sidecar grants")               /* sidecar client request key token fence  \
                                                           until_us due_us: workflow deadline,     \
                                                           expires unbound */    \
    X(WROTE_ADOPTED, "sidecar grants to who adopts") /* the same */                                  \
    X(WROTE_EXTENDED, "sidecar answers extend")      /* sidecar client request token ok due_us */    \
    X(WROTE_ANSWER, "sidecar answers a query")       /* sidecar client request; or refuses */        \
    X(UNWRITTEN, "a grant is never written")         /* sidecar client token */                      \
    X(WROTE_DENIED, "sidecar denies")                /* sidecar client request */                    \
    X(WROTE_RENEWED, "sidecar tells renewed")        /* sidecar client token until_us */             \
    X(WROTE_REVOKED, "sidecar tells revoked")        /* sidecar client token reason until_us    \
                                                           due_us: written + safe_ms, or 0 */    \
    X(WROTE_RELEASED, "sidecar answers release")     /* sidecar client token ok */                   \
    X(CLOSED, "sidecar closes the connection")       /* sidecar client ok: the client left */        \
    /* A sidecar, with Redis. until_us: sent + T - drift; due_us: that less the margin (D) */        \
    X(SENT_ACQUIRE, "sidecar sends the acquire")     /* sidecar request key token ttl_ms */          \
    X(SENT_RENEW, "sidecar sends a renewal")         /* sidecar token */                             \
    X(SENT_DELETE, "sidecar sends the delete")       /* sidecar token */                             \
    X(SENT_ADOPT, "sidecar sends the adoption")      /* sidecar request key token */                 \
    X(ANSWERED, "sidecar handles a positive answer") /* sidecar token until_us due_us request */     \
    /* A sidecar, itself */                                                                          \
    X(FROZEN, "sidecar stopped")      /* sidecar */                                                  \
    X(THAWED, "sidecar continued")    /* sidecar */                                                  \
    X(STOPPING, "sidecar shuts down") /* sidecar */                                                  \
    X(ENDED, "sidecar ends")          /* sidecar */                                                  \
    /* Redis, as executed. Compare-and-set that compared unequal is no record. sidecar: who asked  \
       for it, 0 where that is not known */ \
    X(SET, "Redis sets")                            /* key token fence ttl_ms sidecar \
       ok: its connection was given up before */              \
    X(EXTENDED, "Redis extends")                    /* key token sidecar */                          \
    X(DELETED, "Redis deletes for its holder")      /* key token sidecar */                          \
    X(HANDED, "Redis hands over; SET comes next")   /* key token sidecar */                          \
    X(ADOPTED, "Redis moves the lease")             /* key token sidecar */                          \
    X(BROKEN, "Redis deletes for an operator")      /* key */                                        \
    X(TAKEN, "a foreign locker takes the key")      /* key */                                        \
    X(LEFT_FREE, "a foreign locker's key is gone")  /* key */                                        \
    X(EXPIRED, "Redis expires")                     /* key */                                        \
    X(LOST, "Redis loses the key")                  /* key, 0 for all: by hand, evicted, ... */      \
    X(FORFEIT, "Redis may let the key go early")    /* key, 0 for all: its clock stepped */          \
    X(FENCES_LOST, "Redis loses counter and clock") /* fencing tokens may begin anew */              \
    /* The world */                                                                                  \
    X(TROUBLE, "fault, until") /* sidecar, 0 for all; until_us */

enum history_kind {
#define HISTORY_KIND(symbol, name) HISTORY_##symbol,
    HISTORY_KINDS(HISTORY_KIND)
#undef HISTORY_KIND
        HISTORY_KIND_COUNT,
};

extern const char *const history_kind_names[HISTORY_KIND_COUNT];

struct history_record {
    int64_t at_us;
    enum history_kind kind;
    uint32_t sidecar;
    uint32_t client;
    uint32_t request;
    uint32_t key;
    struct message_token token;
    int64_t until_us;
    int64_t due_us;
    int64_t fence;
    int64_t ttl_ms;
    enum wire_reason reason;
    bool ok;
    bool expires; // WROTE_GRANTED: on_disconnect "expire"
    bool unbound; // WROTE_GRANTED: bind "none"
};

struct history_options {
    int64_t late_us;   // the loop's lateness: what is due is done by then
    int64_t answer_us; // an acquire is answered by then
    int64_t tidy_us;   // a key that is over is gone by then, when Redis answers
    int64_t beat_us;   // added to P + C: a renewal's way and wait
    int64_t settle_us; // after a fault everything is in time again
    int64_t idle_us;   // a free key that somebody waits for is taken by then; 0: not asserted
    bool sends;        // the trace has SENT_x and ANSWERED
};

enum history_end {
    HISTORY_ACQUIRING,
    HISTORY_LIVE,
    HISTORY_RELEASED,
    HISTORY_TOLD,
    HISTORY_LEFT,
    HISTORY_CUT,
    HISTORY_DIED,
    HISTORY_DENIED,
    HISTORY_END_COUNT
};

struct history;

enum { HISTORY_E_VIOLATION = 1 };

// NULL: no memory.
struct history *history_new(const struct history_options *options);
struct history *history_free(struct history *history);

// 0, HISTORY_E_VIOLATION (and again for all that follows), or -ENOMEM.
int history_add(struct history *history, const struct history_record *record);
// The trace is over: what must have ended by now?
int history_finish(struct history *history, int64_t at_us);

// After a violation: the number of the invariant, and the explanation with its events.
int history_invariant(const struct history *history);
const char *history_why(const struct history *history);

// The least that lay between the end of a safe_ms and the key's end, us; INT64_MAX: none seen.
int64_t history_least_slack(const struct history *history);
// How many leases went each way.
uint64_t history_count(const struct history *history, enum history_end end);

// How many leases are remembered now.
size_t history_tracked(const struct history *history);

// One record in words, without a newline; NUL-terminated.
void history_format(const struct history_record *record, char *text, size_t size);
