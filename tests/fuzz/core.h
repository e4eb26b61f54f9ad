// SPDX-License-Identifier: Apache-2.0
//
// The keeper between clients and a store that the input drives, and what must be true of it:
//
//     fuzz_core.c      the input's steps
//     core_clients.c   every line that a client is told is looked at the moment it is written
//     core_grants.c    what clients may act on
//     core_store.c     every call is looked at when it is made, and answered as the input says
//
// A grant is a lease as its client knows it: made by the reply to acquire or adopt, live until that
// client was told otherwise, released it, or went (or, where it is bound to something else, until the
// keeper holds it no more). A key that may be in Redis is known by its token.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/message.h"
#include "sidecar/keeper.h"
#include "tests/fuzz/fuzz.h"

enum {
    CORE_CLIENTS = 3,
    CORE_CALLS = 1024,
    CORE_GRANTS = 512,
    CORE_REQUESTS = 512,
    CORE_PROCESSES = 4, // pids from CORE_FIRST_PID on, which are the clients' and one more
    CORE_FIRST_PID = 100,
    CORE_OPERATOR = 1000, // the sidecar's uid, and that of the first two clients
};

struct core_call {
    enum store_op op;
    uint32_t lease;
    uint32_t generation;
    struct message_token token;
    bool written;
    bool timed_out; // a renewal that may be answered yet
    int64_t sent_at_ms;
    char key[WIRE_MAX_KEY + 1];
    int64_t deadline_ms; // extend
    uint32_t replaces;   // acquire: the lease that hands over
    uint32_t replaces_generation;
    struct message_token replaces_token;
};

// What Redis may hold of one acquire.
struct core_key {
    struct message_token token;
    bool exists;    // or may yet
    bool uncertain; // its acquire had no answer: it may be executed after a delete, too
    int64_t ttl_ms;
    int64_t until_ms; // by then it has run out by itself, by the sidecar's clock
};

struct core_grant {
    struct message_token token;
    char key[WIRE_MAX_KEY + 1];
    int client; // whom to tell; -1: nobody
    bool live;
    bool release_began; // a release of it was read
    bool release_done;  // and handled: nothing may be said about it but the reply
    bool unbound;       // its client ended it by going
    bool expires;       // on_disconnect
    bool adopted;
    bool unread;      // it was over before its client had read it
    bool losing;      // the answer that is just being told may say that its key is another's
    int64_t grace_ms; // broken: the end of the grace; INT64_MAX: it is not
    enum wire_bind bind;
    pid_t pid;       // bind "pid"
    uint64_t offset; // of the end of its reply, as session.taken counts
    int64_t fence;
    int64_t granted_ms;
    int64_t ttl_ms;
    int64_t deadline_ms;
    int64_t promised_ms; // valid_until
    int64_t offered_ms;  // what the answer that is just being told makes of it
    int64_t beat_by_ms;  // the next heartbeat
    int64_t retry_ms;    // not before it, after one that failed
    bool lost;           // Redis said so
};

// A line whose reply is still to come.
struct core_request {
    struct message_id id;
    enum wire_op op;
    char about[WIRE_MAX_KEY + 1]; // the key, or the lease's digits: its reply names it
    bool draining;                // it came after the drain had begun
};

struct core_client {
    struct session session;
    struct core *core;
    bool open;
    bool stalled;  // what it is told stays in its buffer
    size_t parsed; // bytes of the buffer that were looked at
    struct core_request requests[CORE_REQUESTS];
    size_t request_count;
};

struct core {
    struct store store;
    struct keeper keeper;
    int64_t now_ms;
    uint64_t seed;
    struct core_client clients[CORE_CLIENTS];
    struct core_call calls[CORE_CALLS]; // not completed yet
    size_t call_count;
    const struct core_call *answered; // the call whose answer is being told
    struct core_grant grants[CORE_GRANTS];
    size_t grant_count;
    struct core_key keys[CORE_GRANTS];
    size_t key_count;
    char watches[CORE_GRANTS][WIRE_MAX_KEY + 1]; // keys
    size_t watch_count;
    int processes[CORE_PROCESSES]; // watches of each
    const struct value *adopted;   // the value in the answer that is being told
    bool moves;                    // it is an adoption of a lease that is held here
    int64_t adopted_at_us;         // Redis' clock in it
    // Keys of the acquires that a drain refuses, in its order: its words do not name them.
    char refused[CORE_REQUESTS][WIRE_MAX_KEY + 1];
    size_t refused_count, refused_at;
    bool shut; // keeper_shutdown was called
};

struct value;

// ---- core_clients.c ----

// Opens it where it is not; false when it is refused.
bool core_open(struct core *core, int number);
void core_send(struct core *core, int number, const char *line, size_t length);
void core_too_slow(struct core *core, int number);
void core_half_close(struct core *core, int number);
void core_close(struct core *core, int number, bool gone);
// It takes what it was told; stalled: from now on not at once.
void core_read(struct core *core, int number, bool stalled);

void core_drain(struct core *core);
// A process that leases may be bound to has ended.
void core_end_process(struct core *core, int number);

// ---- core_grants.c ----

struct core_grant *core_find_grant(struct core *core, const struct message_token *token);
bool core_is_live(const struct core *core, const struct core_grant *grant);
int64_t core_revoke_at(const struct core *core, const struct core_grant *grant);
// The reply to an acquire or an adopt that was granted.
void core_take_grant(struct core_client *client, const struct core_request *request,
                     const json_t *line);
void core_take_event(const struct core_client *client, const json_t *line);
// The connection of a client is over, or its input: its grants are, that are bound to it.
void core_unbind(struct core *core, int number);
void core_leave(struct core *core, int number, bool gone);
int64_t core_integer(const json_t *line, const char *name);
const char *core_string(const json_t *line, const char *name);
struct message_token core_token(const json_t *line);
// A grant of the key that its client may act on, and that this sidecar acquired; or NULL.
struct core_grant *core_find_live(struct core *core, const char *key);
// What is true of grants after each step, and once all that is due was swept.
void core_check_grants(struct core *core);
void core_check_swept(struct core *core);

// ---- core_store.c ----

struct core_answer {
    enum store_outcome outcome;
    bool certain;
    int64_t number;   // fencing token (above the highest), PTTL, or the length of a value not shown
    const char *text; // a value, "!" and a type, or an error; NUL-terminated
    size_t text_length;
};

void core_store_init(struct core *core);
// A key that may be in Redis is not forgotten before it has run out.
void core_check_keys(const struct core *core);
// A renewal of the lease is with the store, and has not timed out.
bool core_is_renewing(const struct core *core, const struct message_token *token);
void core_write(struct core *core, size_t index);
// A watched key was freed.
void core_free_key(struct core *core, size_t index);
// The lease is in Redis by an adoption.
void core_key_adopted(struct core *core, const struct message_token *token, int64_t ttl_ms,
                      int64_t sent_at_ms);
// Completes the call, in the way next to this one that store.h allows.
void core_complete(struct core *core, size_t index, const struct core_answer *answer);
