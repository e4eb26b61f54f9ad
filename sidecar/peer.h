// SPDX-License-Identifier: Apache-2.0
//
// Connections: a socket, the frame that makes its bytes lines, and the session that the keeper knows.
//
// A peer ends in one of three ways: its client is gone (its leases are freed), it has half-closed
// (they end with last words, what was asked is answered, output is flushed, then it is closed), or
// the sidecar gives it up because it does not read (its keys stay until valid_until).
#pragma once

#include <ev.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/frame.h"
#include "sidecar/heap.h"
#include "sidecar/keeper.h"
#include "sidecar/session.h"

enum {
    PEER_READ = 65536,    // bytes read from one client in a turn of the loop
    PEER_REQUESTS = 64,   // requests of one client handled in a turn
    PEER_BATCH = 16,      // lines queued before a write, when the loop does not sleep first
    PEER_DEAF_MS = 100,   // from a write that failed to the end, if the client is not seen to go
    PEER_LINGER_MS = 2000 // after a half-close, when all is answered: until it is written
};

struct peer {
    struct ev_io io;
    struct session session;
    struct frame frame;
    struct peers *peers;
    struct peer *next_dirty;   // in peers->dirty while is_dirty
    struct peer *next_backlog; // in peers->backlog while in_backlog
    struct peer *next_ready;   // in peers->ready while is_ready
    int64_t close_by_ms;       // INT64_MAX: not closing
    int64_t line_by_ms;        // an unfinished line is given up then; INT64_MAX: there is none
    uint16_t queued;           // lines since the last write
    uint8_t is_dirty : 1;
    uint8_t in_backlog : 1;
    uint8_t is_ready : 1;
    uint8_t is_deaf : 1; // a write said that the client reads no more
};

struct peers {
    struct ev_loop *loop;
    struct keeper *keeper;
    struct heap heap; // of the instants at which a peer is cut off, or its line given up
    struct peer *dirty;
    struct peer *backlog;
    struct peer *ready;
    uint32_t count;
    char chunk[PEER_READ];
};

void peers_init(struct peers *peers, struct ev_loop *loop, struct keeper *keeper);
// Closes what is left; leases stay as they are (their keys until valid_until).
void peers_deinit(struct peers *peers, int64_t now_ms);

// Takes a connected, non-blocking socket: 0, or KEEPER_E_FULL, or -errno, and then it is not taken.
int peers_add(struct peers *peers, int fd);

// Reads the clients that are ready, in the order in which they became so; and handles requests that
// were read before and had no turn yet.
void peers_read(struct peers *peers, int64_t now_ms);
// Writes what is queued, closes what is to be closed.
void peers_flush(struct peers *peers, int64_t now_ms);
// Cuts off whoever has not taken a revoked event in time; gives up lines that stay unfinished.
void peers_sweep(struct peers *peers, int64_t now_ms);
// The earliest instant for peers_sweep, INT64_MIN when there is a backlog or something to flush.
int64_t peers_next_wake(const struct peers *peers);

// The socket of a session that belongs to a peer.
int peer_socket(struct session *session);
