// SPDX-License-Identifier: Apache-2.0
//
// A server on a Unix socket for fuzz_store.c: it reads commands, and answers as Redis would, or as
// it is told to. Every byte that the store writes must be a command that makes sense.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/buf.h"

enum {
    SERVER_LEASES = 64, // leases are numbered from 1; a token's first four bytes are the number
    SERVER_OPS = 3,     // enum store_op
    SERVER_FENCE = 1000,
    SERVER_GHOSTS = 8,
    // For how long after it was read an acquire can be of consequence: TTL and its timeout.
    SERVER_LIFE_MS = 3200,
};

// A connection that is gone, with commands that Redis may execute yet.
struct server_ghost {
    int64_t client_id;
    int64_t until_ms;
    struct buf input;
};

struct server {
    int connection; // -1: none
    struct buf input;
    struct buf output;
    int64_t now_ms;  // set by its owner
    int64_t read_ms; // when input was read last
    struct server_ghost ghosts[SERVER_GHOSTS];
    size_t chunk;  // bytes sent in one turn; 0: all
    bool manual;   // it answers only when told to
    bool refusing; // it closes what it accepts
    bool lied;     // it has sent what was no answer
    bool scripts_lost;
    int64_t client_id;
    int run; // its run_id
    // Answers given, by lease and op, that the store has not told yet: yes (taken, renewed, deleted)
    // and no (held, not there).
    unsigned yes[SERVER_OPS][SERVER_LEASES + 1];
    unsigned no[SERVER_OPS][SERVER_LEASES + 1];
    struct server_key {
        char name[64]; // "": free
        char head[64];
    } keys[SERVER_LEASES];
};

// The address, which no file names.
const char *server_path(void);

void server_open(struct server *server);
void server_close(struct server *server);

// Accepts, reads, answers unless it is manual, and sends.
void server_turn(struct server *server);
// Answers the oldest command that is not answered: as Redis would (error NULL), or with an error.
// False: there is none.
bool server_answer(struct server *server, const char *error);
// Sends bytes that answer nothing.
void server_lie(struct server *server, const char *bytes, size_t size);
void server_hang_up(struct server *server);
// Whether an acquire for the lease is still to be executed, or may be.
bool server_may_acquire(const struct server *server, uint32_t lease);
// Another process: no keys, no scripts, ids from 1.
void server_restart(struct server *server);
