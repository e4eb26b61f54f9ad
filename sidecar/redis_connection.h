// SPDX-License-Identifier: Apache-2.0
//
// One connection to Redis: a non-blocking socket on the loop, an output buffer that commands are
// written straight into, and the calls whose replies are due, in the order of the commands. It knows
// no command's meaning.
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/buf.h"
#include "sidecar/redis_reply.h"
#include "sidecar/resolver.h"

enum {
    REDIS_CONNECTION_MAX_READ = 65536, // bytes of one turn
};

struct redis_due {
    void *call;
    int64_t sent_at_ms;
};

// Calls in order; grows, never shrinks.
struct redis_due_ring {
    struct redis_due *due; // owned; capacity is a power of two
    size_t head;
    size_t count;
    size_t capacity;
};

void redis_due_push(struct redis_due_ring *ring, void *call, int64_t sent_at_ms);
void *redis_due_pop(struct redis_due_ring *ring); // NULL when empty
void redis_due_deinit(struct redis_due_ring *ring);

// Every watcher callback calls begin first (after its read) and end last, and nothing of the
// connection is touched after end. In between any hook may close the connection.
struct redis_connection_hooks {
    int64_t (*begin)(void *context); // reads the clock, sweeps, returns now
    void (*end)(void *context, int64_t now_ms);
    void (*opened)(void *context, int64_t now_ms);
    // Not NULL: may take a reply that was not asked for; false leaves it to the oldest call.
    bool (*pushed)(void *context, const struct redis_reply *reply, int64_t now_ms);
    // The reply of the oldest call that was due; the call is the owner's again.
    void (*answered)(void *context, void *call, const struct redis_reply *reply, int64_t now_ms);
    // The connection is of no use any more, or was refused: `error` says why. The owner closes it.
    void (*broke)(void *context, int64_t now_ms);
};

enum redis_connection_state {
    REDIS_CONNECTION_CLOSED,
    REDIS_CONNECTION_CONNECTING,
    REDIS_CONNECTION_OPEN,
    REDIS_CONNECTION_BROKEN, // the loop will say so
};

struct redis_connection {
    struct ev_loop *loop;
    const struct redis_connection_hooks *hooks;
    void *context;
    enum redis_connection_state state;
    uint64_t serial; // grows with each open and close: who comes back from a hook compares
    int fd;
    ev_io readable;
    ev_io writable; // active: connecting, or the socket took no more
    struct buf output;
    struct redis_due_ring due;
    struct redis_reader *reader;
    struct redis_reader *in_use; // a reply of it is being told: it is freed later
    int64_t last_byte_ms;
    int64_t checked_ms; // when a reply that was overdue was given another limit_ms
    int64_t graced_ms;  // the send of that reply's call: it is given that once
    char error[160];
    char input[REDIS_CONNECTION_MAX_READ];
};

void redis_connection_init(struct redis_connection *connection, struct ev_loop *loop,
                           const struct redis_connection_hooks *hooks, void *context);
// Closed before, nothing due.
void redis_connection_deinit(struct redis_connection *connection);

// Begins to connect: opened or broke follows. timeout_ms: how long bytes may stay unacknowledged.
// 0, or a negative errno with the words in `error`.
int redis_connection_open(struct redis_connection *connection,
                          const struct resolver_address *address, int64_t timeout_ms);
// At once; unwritten output is dropped. What was due stays in `due`, for its owner to take.
void redis_connection_close(struct redis_connection *connection);

// A command is in the output buffer; its reply will be given with call.
void redis_connection_expect(struct redis_connection *connection, void *call, int64_t sent_at_ms);
// Writes the output buffer; what the socket does not take follows when it does. Never calls a hook.
void redis_connection_write(struct redis_connection *connection);

// Open, and everything written went to the socket.
static inline bool redis_connection_is_clear(const struct redis_connection *connection)
{
    ev_io writable = connection->writable; // libev's macro casts const away
    return connection->state == REDIS_CONNECTION_OPEN && !ev_is_active(&writable);
}

// The instant at which Redis has been silent for too long: limit_ms without a byte while a reply is
// due, or four times that without the oldest reply, whatever else came. INT64_MAX: nothing is due.
int64_t redis_connection_silent_at(const struct redis_connection *connection, int64_t limit_ms);
// At that instant: whether it really was silent. (If this process stood still, the bytes are in the
// socket, and silent_at moves on; for the same reply being overdue, once.)
bool redis_connection_is_silent(struct redis_connection *connection, int64_t limit_ms,
                                int64_t now_ms);
