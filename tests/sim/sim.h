// SPDX-License-Identifier: Apache-2.0
//
// The simulator: several sidecars (the real keeper, dispatch, table, lease machine) and their
// clients contend for few keys against a model Redis, under virtual time and faults. What everybody
// does goes to the history checker. A run is a pure function of its seed: one event queue with
// deterministic ties, one random number generator, no clock, no address, no hash order.
//
//     client --lines--> host (sidecar) --store--> conn --messages--> Redis
//            <--notes--                <-replies-
//
// Time is in microseconds of the world. A host has a clock of its own (BOOTTIME: offset and rate),
// Redis another (its wall clock: rate and steps).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sidecar/keeper.h"
#include "tests/tool/history.h"

enum {
    SIM_HOSTS = 3,
    SIM_CLIENTS = 6, // per host
    SIM_HANDS = 2,   // leases a client has or asks for at a time
    SIM_KEYS = 4,
    SIM_CONNS = 1024,
    SIM_CALLS = 512, // of one host's store
    SIM_BATCH = 8,   // renewals in one message
    SIM_UNANSWERED = 32,
    SIM_LINES = 64,
    SIM_KILLS = 256,
    SIM_BACKLOG = 8192, // messages that a stopped Redis has not read
};

// What a seed may switch on. X(symbol, name of what is counted)
#define SIM_FAULTS(X)                                                                              \
    X(HOLD, "a direction of a connection held")                                                    \
    X(CUT, "a connection cut")                                                                     \
    X(ZOMBIE, "bytes delivered after the cut")                                                     \
    X(SPIKE, "a message delayed")                                                                  \
    X(PAUSE, "Redis stopped for a while")                                                          \
    X(RESTART, "Redis restarted with its data")                                                    \
    X(WIPE, "Redis restarted without its data")                                                    \
    X(ERRORS, "Redis answering errors")                                                            \
    X(OOM, "Redis out of memory")                                                                  \
    X(NOKILL, "CLIENT KILL refused")                                                               \
    X(UNHEARD, "word of a freed key lost, or late")                                                \
    X(DEL, "a key deleted by hand or evicted")                                                     \
    X(FOREIGN, "a key taken by a foreign locker")                                                  \
    X(WRONGTYPE, "a key of another type")                                                          \
    X(SHORTEN, "a key's TTL shortened by hand")                                                    \
    X(PERSIST, "a key's TTL removed by hand")                                                      \
    X(STEP, "Redis' wall clock stepped")                                                           \
    X(FREEZE, "a sidecar stopped for a while")                                                     \
    X(LATE, "a loop late")                                                                         \
    X(CRASH, "a sidecar killed and restarted")                                                     \
    X(DRAIN, "a sidecar drained and restarted")                                                    \
    X(CLIENT_CRASH, "a client killed")                                                             \
    X(CLIENT_HALF, "a client half-closed")                                                         \
    X(CLIENT_DEAF, "a client not reading")                                                         \
    X(CLIENT_DRIFT, "clocks drifting apart")

enum sim_fault {
#define SIM_FAULT(symbol, name) SIM_##symbol,
    SIM_FAULTS(SIM_FAULT)
#undef SIM_FAULT
        SIM_FAULT_COUNT,
};

extern const char *const sim_fault_names[SIM_FAULT_COUNT];

struct sim_stats {
    uint64_t runs, events, grants, adopted, handed, records, world_ms;
    uint64_t faults[SIM_FAULT_COUNT];
    uint64_t ends[HISTORY_END_COUNT];
    uint64_t revoked[WIRE_REASON_COUNT];
    uint64_t steps[LEASE_STATE_COUNT][LEASE_EVENT_COUNT][LEASE_STATE_COUNT];
    int64_t least_slack_us;
};

// ---- Chance ----

struct chance {
    uint64_t state;
};

void chance_seed(struct chance *chance, uint64_t seed);
uint64_t chance_next(struct chance *chance);
// In [0, bound), bound > 0.
int64_t chance_below(struct chance *chance, int64_t bound);
// In [least, most].
int64_t chance_between(struct chance *chance, int64_t least, int64_t most);
bool chance_percent(struct chance *chance, int percent);

// ---- Events ----

enum sim_event_kind {
    SIM_EVENT_HOST,   // a host's turn goes on: a = host, b = serial
    SIM_EVENT_THAW,   // a = host, b = its process
    SIM_EVENT_START,  // a = host
    SIM_EVENT_ARRIVE, // a message reaches Redis: a = conn
    SIM_EVENT_EXPIRE, // a = key, b = serial
    SIM_EVENT_RESUME, // Redis: goes on, starts, stops erring: a = what
    SIM_EVENT_FREED,  // word of a freed key: a = host, b = serial << 8 | key
    SIM_EVENT_READ,   // a client reads: a = client, b = connection
    SIM_EVENT_CLIENT, // a client acts: a = client, b = serial << 8 | hand
    SIM_EVENT_FAULT,  // the next fault
    SIM_EVENT_LAST,   // clients leave, faults end
};

struct sim_event {
    int64_t at_us;
    uint64_t order;
    uint32_t a, b;
    enum sim_event_kind kind;
};

struct sim_queue {
    struct sim_event *heap; // owned
    size_t count, room;
    uint64_t order;
};

struct world;

void sim_schedule(struct world *world, int64_t at_us, enum sim_event_kind kind, uint32_t a,
                  uint32_t b);

// ---- Messages to and from Redis ----

enum sim_message_kind {
    SIM_HELLO,
    SIM_KILL,
    SIM_ACQUIRE,
    SIM_RENEW,
    SIM_RELEASE,
    SIM_ADOPT,
    SIM_EXTEND,
    SIM_INSPECT,
    SIM_BREAK,
};

enum sim_value { SIM_NONE, SIM_LEASE, SIM_STRANGER, SIM_HASH };

struct sim_key {
    enum sim_value value;
    struct store_token token;
    int64_t fence;
    int64_t ttl_ms, deadline_us, since_us; // as in the value
    uint32_t uid;
    uint32_t process;  // whose instance it names, in the history
    int64_t expire_ms; // its wall clock; INT64_MAX: none
    uint32_t serial;
};

struct sim_item {
    uint32_t call, serial; // of the store that asks
    uint32_t key;          // from 0
    struct store_token token;
    int64_t ttl_ms;
    enum store_outcome outcome;
};

struct sim_message {
    struct sim_message *next;
    int64_t at_us;
    enum sim_message_kind kind;
    bool refused; // HELLO: nobody listens; KILL: not permitted
    uint32_t count;
    struct sim_item items[SIM_BATCH];
    int64_t fence; // ACQUIRE: the floor; then the token
    // HELLO: answers. KILL: whom.
    uint32_t id;
    uint32_t run;
    // Who asks
    uint32_t process, uid;
    bool late; // its connection was given up
    // ACQUIRE, EXTEND: from the grant
    int64_t deadline_ms;
    // ACQUIRE: the lease that hands over; then whether it did
    bool hands_over, replaced;
    struct store_token replaces;
    // ACQUIRE, INSPECT: held, by what. ADOPT: as it is now
    struct sim_key found;
    int64_t pttl_ms, now_us;
};

struct sim_fifo {
    struct sim_message *first, *last;
};

struct sim_conn {
    struct sim_fifo out, in;
    int64_t out_us, in_us;           // nothing may arrive before: order
    int64_t out_held_us, in_held_us; // held until
    int64_t quiet_ms;                // host clock: since when replies are due
    uint32_t due;                    // replies
    uint32_t acquires;               // unanswered
    uint32_t waiting;                // messages in the backlog of a stopped Redis
    uint32_t id;                     // in Redis; 0 before it is accepted
    uint32_t run;                    // of the Redis that accepted it
    uint32_t host;
    bool used;
    bool closed; // by the host
    bool spared; // CLIENT KILL of it was refused
    int64_t closed_us;
    bool reset; // by Redis: seen by the host when it looks
    bool killed;
};

// ---- Redis ----

struct sim_redis {
    struct sim_key keys[SIM_KEYS];
    int64_t counter;
    int64_t anchor_us, anchor_wall_us; // wall = anchor_wall + (now - anchor) * rate
    int64_t rate_ppm;
    uint32_t run;
    uint32_t next_id;
    int64_t paused_until_us, down_until_us, erring_until_us, oom_until_us, nokill_until_us;
    enum store_outcome error;
    bool stepped_back;
    struct sim_fifo backlog;             // while paused
    uint32_t backlog_conns[SIM_BACKLOG]; // of the messages there, in order
    uint32_t backlog_first, backlog_last;
};

void redis_init(struct world *world);
int64_t redis_wall_us(const struct world *world);
void redis_arrive(struct world *world, uint32_t conn);
void redis_expire(struct world *world, uint32_t key, uint32_t serial);
void redis_resume(struct world *world);
void redis_pause(struct world *world, int64_t for_us);
void redis_restart(struct world *world, int64_t down_us, bool keep);
void redis_step(struct world *world, int64_t by_us);
void redis_remove(struct world *world, uint32_t key);
void redis_take(struct world *world, uint32_t key, enum sim_value value, int64_t ttl_ms);
void redis_set_ttl(struct world *world, uint32_t key, int64_t ttl_ms); // INT64_MAX: none

// ---- The network ----

struct sim_message *net_message(struct world *world, enum sim_message_kind kind);
void net_free(struct world *world, struct sim_message *message);
uint32_t net_open(struct world *world, uint32_t host);
void net_send(struct world *world, uint32_t conn, struct sim_message *message);
void net_reply(struct world *world, uint32_t conn, struct sim_message *message);
// The host's end: the next reply that has arrived, or NULL.
struct sim_message *net_read(struct world *world, uint32_t conn);
int64_t net_next_read(const struct world *world, uint32_t conn);
// The host closes. What was sent may be lost, arrive, or arrive late.
void net_close(struct world *world, uint32_t conn);
void net_push(struct sim_fifo *fifo, struct sim_message *message);
struct sim_message *net_pop(struct sim_fifo *fifo);

// ---- A host's store ----

enum sim_call_state { SIM_FREE, SIM_QUEUED, SIM_WRITTEN, SIM_OVERDUE };

struct sim_call {
    enum sim_call_state state;
    enum store_op op;
    uint32_t lease, generation;
    uint32_t serial;
    uint32_t request; // acquire, adopt: whose
    uint64_t order;
    uint32_t key;
    struct store_token token;
    int64_t ttl_ms, fence_floor, deadline_ms;
    uint32_t uid;
    uint32_t replaces, replaces_generation;
    struct store_token replaces_token;
    int64_t due_by_ms;
    int64_t timeout_at_ms;
    int64_t sent_at_ms;
};

enum sim_link { SIM_LINK_DOWN, SIM_LINK_GREETING, SIM_LINK_UP };

struct sim_kill {
    uint32_t id, run;
    int64_t until_ms; // refused: no delete is certain until then
    bool sent, refused;
};

struct sim_store {
    struct store store;
    struct world *world;
    uint32_t host;
    struct sim_call calls[SIM_CALLS];
    uint32_t call_top; // calls below may be in use
    uint32_t call_count;
    uint32_t serial;
    uint64_t order;
    uint32_t unanswered; // renewals
    enum sim_link link;
    uint32_t conn;
    uint32_t run; // of the Redis seen last
    int64_t retry_at_ms, backoff_ms, greet_by_ms, silence_ms;
    struct sim_kill kills[SIM_KILLS];
    uint32_t kill_count;
    bool dead; // its host has ended: it takes nothing more
    // Bits by key: what is watched; what Redis tells of; what was heard of and not yet told.
    uint32_t watched, subscribed, heard;
    uint32_t subscription; // serial: of the connection that hears
};

void store_init(struct sim_store *store, struct world *world, uint32_t host, int64_t silence_ms);
void store_input(struct sim_store *store);
void store_flush(struct sim_store *store);
// Redis tells all stores that a key was freed; one hears of it.
void store_publish(struct world *world, uint32_t key);
void store_hear(struct sim_store *store, uint32_t word);
// Drops everything without a word; its host has ended.
void store_end(struct sim_store *store);

// ---- Clients ----

// One line of a sidecar, as a client understands it.
struct sim_note {
    int64_t at_us;
    enum history_kind kind; // WROTE_x
    size_t length;
    uint32_t request, key;
    struct message_token token;
    int64_t until_us;
    int64_t due_us; // a grant's workflow deadline
    bool end;       // the connection's end
};

struct sim_notes {
    struct sim_note *items; // owned ring
    uint32_t first, count, room;
};

struct sim_line {
    int64_t at_us;
    enum history_kind kind; // READ_x, or 0: something else
    uint32_t request, key;
    struct message_token token;
    int64_t span_ms; // how long it waits; the grace
    uint16_t length;
    char bytes[230];
};

enum sim_hand_state {
    SIM_IDLE,
    SIM_ASKED,
    SIM_WORKING,
    SIM_FREEING,
    SIM_TOLD,
    SIM_ALONE, // it knows a lease, and its connection is over
};

struct sim_plan;

struct sim_hand {
    enum sim_hand_state state;
    bool waits; // ASKED
    uint32_t request;
    uint32_t key;
    struct message_token token;
    int64_t deadline_us; // the workflow deadline
    const struct sim_plan *plan;
    uint32_t serial;
};

enum sim_leaves { SIM_STAYS, SIM_HALF_CLOSED, SIM_GONE };

struct sim_client {
    // The sidecar's end
    struct session session;
    struct world *world;
    uint32_t host;
    uint32_t index;      // in the world
    uint32_t number;     // of the connection, in the history
    bool accepted;       // the session is open
    bool closed;         // the sidecar has closed it
    int64_t close_by_ms; // after the end of input
    size_t scanned;      // bytes of session.out that are notes already
    struct sim_notes out;
    // Between
    struct sim_line lines[SIM_LINES];
    uint32_t line_first, line_count;
    int64_t line_us;
    enum sim_leaves leaves;
    int64_t leaves_us;
    struct sim_notes pipe;
    size_t pipe_bytes;
    int64_t pipe_us;
    // The client's end
    bool connected;
    bool deaf;
    struct sim_hand hands[SIM_HANDS];
};

void client_act(struct world *world, struct sim_client *client, uint32_t hand);
void client_read(struct world *world, struct sim_client *client);
void client_later(struct sim_client *client, uint32_t hand, int64_t in_us);
void client_leave(struct sim_client *client, enum sim_leaves how);
// A hand that has nothing to do tries the key once.
void client_rush(struct sim_client *client, uint32_t key);
// The next line from a sidecar's output as a note; the record that goes with it too.
void client_scan(const struct sim_client *client, const char *line, size_t length,
                 struct sim_note *note, struct history_record *record);
void notes_push(struct sim_notes *notes, const struct sim_note *note);
struct sim_note *notes_first(struct sim_notes *notes);
void notes_pop(struct sim_notes *notes);

// ---- A host ----

enum sim_phase {
    SIM_PHASE_IDLE,
    SIM_PHASE_SWEEP,
    SIM_PHASE_STORE,
    SIM_PHASE_CLIENTS,
    SIM_PHASE_FLUSH
};

// How late a loop may be: a turn begins up to HOST_LATE_US after its time, and the one before it may
// stand still for HOST_GAP_US after each phase but the last.
enum {
    HOST_LATE_US = 10000,
    HOST_GAP_US = 3000,
    HOST_LATEST_US = HOST_LATE_US + 3 * HOST_GAP_US + 1000, // its clock shows whole ms
};

struct sim_host {
    struct world *world;
    uint32_t index;
    uint32_t process; // in the history; a restart is a new one
    bool alive, frozen;
    int64_t offset_us, rate_ppm;
    struct keeper keeper;
    struct sim_store store;
    enum sim_phase phase;   // what comes next
    enum sim_phase stopped; // the phase at which it was frozen
    bool clients_first;
    int64_t turn_us; // when the next turn begins; INT64_MAX: none planned
    uint32_t serial; // of the planned event
    int64_t drain_until_ms;
    bool draining, stopping;
};

int64_t host_ms(const struct sim_host *host);
// The first instant at which the host's clock shows ms.
int64_t host_us(const struct sim_host *host, int64_t ms);
void host_start(struct sim_host *host);
void host_wake(struct sim_host *host, int64_t at_us);
void host_turn(struct sim_host *host, uint32_t serial);
void host_freeze(struct sim_host *host, int64_t for_us);
void host_thaw(struct sim_host *host, uint32_t process);
void host_end(struct sim_host *host, int64_t restart_us);
void host_drain(struct sim_host *host);

// ---- Faults ----

void fault_next(struct world *world);
static inline bool fault_is_on(const struct world *world, enum sim_fault fault);
void fault_count(struct world *world, enum sim_fault fault);
// From now until an instant, a host (or all, -1) cannot be expected to be in time.
void fault_trouble(struct world *world, int host, int64_t until_us);

// ---- The world ----

struct world {
    uint64_t seed;
    struct chance chance;
    struct chance tokens;
    uint32_t faults; // 1 << enum sim_fault
    int64_t now_us, last_us, end_us;
    struct sim_queue queue;
    struct sim_redis redis;
    struct sim_conn conns[SIM_CONNS];
    struct sim_message *free_messages;
    struct sim_host hosts[SIM_HOSTS];
    struct sim_client clients[SIM_HOSTS * SIM_CLIENTS];
    uint32_t host_count, client_count, key_count;
    uint32_t processes, connections, requests;
    int64_t lock_ttl_ms, deadline_ms, latency_us, pipe_room;
    struct lease_rules rules;
    struct history *history;
    struct sim_stats *stats;
    bool trace, quiet, leaving;
    const char *broken; // something that the history does not see
};

static inline bool fault_is_on(const struct world *world, enum sim_fault fault)
{
    return world->faults >> fault & 1;
}

void world_record(struct world *world, struct history_record record);
void world_say(const struct world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void world_broken(struct world *world, const char *what);

struct sim_run {
    uint64_t seed;
    int64_t length_ms; // 0: as the seed says
    uint32_t faults;   // allowed; ~0 for all
    bool trace;
};

// Runs one seed. 0; or 1 with the explanation in why (not with a trace: there it was printed).
int world_run(const struct sim_run *run, struct sim_stats *stats, char *why, size_t size);

// ---- Coverage ----

extern struct sim_stats *cover_stats; // where the wrapped lease_step counts
extern const struct world *cover_world;

// The number of transitions that can be reached and were not; each is printed, as is each that was
// reached although the table knows it not.
int cover_report(const struct sim_stats *stats, bool verbose);
