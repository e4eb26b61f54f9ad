// SPDX-License-Identifier: Apache-2.0
//
// What is said on a new connection before anything else: who we are, and whom we are talking to.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "protocol/buf.h"
#include "sidecar/redis_reply.h"
#include "sidecar/redis_url.h"

enum redis_handshake_step {
    REDIS_HANDSHAKE_AUTH,
    REDIS_HANDSHAKE_SELECT,
    REDIS_HANDSHAKE_NAME,
    REDIS_HANDSHAKE_ID,
    REDIS_HANDSHAKE_SERVER,
    REDIS_HANDSHAKE_ROLE,
    REDIS_HANDSHAKE_LOAD, // as often as there are scripts
    REDIS_HANDSHAKE_MEMORY,
    REDIS_HANDSHAKE_TIME,
    REDIS_HANDSHAKE_CHECK,
    REDIS_HANDSHAKE_EVAL,
    REDIS_HANDSHAKE_KILL,
    REDIS_HANDSHAKE_PING,
    REDIS_HANDSHAKE_STEPS,
    REDIS_HANDSHAKE_MAX_REPLIES = 20,
};

struct redis_handshake {
    int64_t client_id; // 0: unknown
    char run_id[48];   // "": unknown
    char version[24];  // "": unknown
    char role[16];     // "": unknown
    int64_t
        began_us; // by this host's wall clock, to compare Redis' with; no decision is made by it
};

// Begins anew: writes every command into out, and the steps whose replies will come, in their order,
// into steps. Returns their number, or a negative errno with the words in error (the password file).
int redis_handshake_begin(struct redis_handshake *handshake, const struct redis_url *url,
                          const char *password_file, const char *key_prefix, struct buf *out,
                          enum redis_handshake_step steps[REDIS_HANDSHAKE_MAX_REPLIES], char *error,
                          size_t error_size);

// The same for a connection that only subscribes: NAME is the last step.
int redis_handshake_begin_watch(struct redis_handshake *handshake, const struct redis_url *url,
                                const char *password_file, struct buf *out,
                                enum redis_handshake_step steps[REDIS_HANDSHAKE_MAX_REPLIES],
                                char *error, size_t error_size);

// 0; or -EACCES: the connection is of no use, for the words in error.
int redis_handshake_answer(struct redis_handshake *handshake, enum redis_handshake_step step,
                           const struct redis_reply *reply, char *error, size_t error_size);
