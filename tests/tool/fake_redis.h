// SPDX-License-Identifier: Apache-2.0
//
// A Redis that says what a test tells it to: a listening Unix socket on the test's own loop. It
// answers the handshake by itself; to each EVALSHA and EVAL it gives the next of the queued replies,
// or none.
//
//     fake_redis_open(&fake, loop);
//     fake_redis_reply(&fake, "*2\r\n:1\r\n:7\r\n");
//     ... ev_run ...
//     ck_assert_str_eq(fake_redis_log(&fake), "1:EVALSHA acquire lock:k;");
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>

#include "protocol/buf.h"

enum {
    FAKE_REDIS_CONNECTIONS = 32,
};

struct fake_redis;

struct fake_redis_connection {
    struct fake_redis *fake;
    int number; // from 1; also its CLIENT ID
    int fd;     // -1: closed
    ev_io readable;
    struct buf input;
    struct buf output; // to be dribbled
};

struct fake_redis {
    struct ev_loop *loop;
    ev_io acceptable;
    ev_idle dribble;
    char socket[108];
    int accepted;
    struct fake_redis_connection connections[FAKE_REDIS_CONNECTIONS];

    // What a test may set.
    const char *run_id; // NULL: INFO is refused
    const char *role;
    const char *kill_reply; // to CLIENT KILL
    const char *auth_reply; // to AUTH
    const char *ping_reply;
    bool deaf;     // reads nothing
    bool greets;   // false: the handshake is not answered
    bool drops;    // connections are closed once accepted
    bool dribbles; // replies go out byte by byte, one in a turn of the loop
    bool noscript; // EVALSHA is answered so

    struct buf replies; // NUL-terminated, in a row; "" is no reply
    struct buf log;     // "connection:command words;"
    int calls;          // EVALSHA and EVAL
};

void fake_redis_open(struct fake_redis *fake, struct ev_loop *loop);
void fake_redis_close(struct fake_redis *fake);
// For the next EVALSHA or EVAL. NULL: it is not answered.
void fake_redis_reply(struct fake_redis *fake, const char *reply);
// Sends bytes on the newest connection.
void fake_redis_send(struct fake_redis *fake, const char *bytes);
// Closes the newest connection.
void fake_redis_cut(struct fake_redis *fake);
// What was asked, but for the handshake: CLIENT KILL, and scripts by name with their first key (a
// batch: all its keys).
const char *fake_redis_log(struct fake_redis *fake);
void fake_redis_clear_log(struct fake_redis *fake);
bool fake_redis_said(struct fake_redis *fake, const char *words);
