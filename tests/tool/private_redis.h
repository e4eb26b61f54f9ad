// SPDX-License-Identifier: Apache-2.0
//
// A redis-server of the test's own, on a Unix socket in its scratch folder and, where asked, on a
// loopback port. Nothing is persisted unless append_only is set.
//
//     struct private_redis redis = {0};             // options stand in the same struct
//     private_redis_start(&redis, NULL);            // or "--maxmemory", "1mb", NULL
//     ck_assert_int_eq(private_redis_int(&redis, "EXISTS %s", key), 1);
//     private_redis_stop(&redis);
//
// Every helper that cannot do its work fails the test. scratch_close ends what still runs.
#pragma once

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/tool/scratch.h"

enum {
    PRIVATE_REDIS_ARGUMENTS = 32,
};

struct private_redis {
    // Options, before the start.
    bool tcp;             // listen on 127.0.0.1:port too
    bool append_only;     // keys survive private_redis_kill and _restart
    const char *name;     // of its files in the scratch folder; NULL: "redis"
    const char *password; // requirepass; the helpers use it

    pid_t pid; // 0: not running
    int port;
    char socket[SCRATCH_MAX_PATH];
    char url[SCRATCH_MAX_PATH + 8];                 // unix://...
    char tcp_url[40];                               // redis://127.0.0.1:port
    char folder[SCRATCH_MAX_PATH];                  // its files; log is in it
    const char *arguments[PRIVATE_REDIS_ARGUMENTS]; // borrowed
    redisContext *connection;                       // of the helpers below; opened when needed
    redisReply *reply;                              // the last one, owned
};

// Starts it with further arguments, the last one NULL (they are borrowed, for the restart), and
// returns when it answers PING.
void private_redis_start(struct private_redis *redis, ...) __attribute__((sentinel));
// SIGKILL: what is not in the append-only file is gone. Returns when the process has ended.
void private_redis_kill(struct private_redis *redis);
// Starts it again, on the same socket and port, with the same arguments. (Kills it first if it
// runs.) Returns when it answers PING.
void private_redis_restart(struct private_redis *redis);
// SIGSTOP and SIGCONT. _stop returns when the process stands still.
void private_redis_stop(struct private_redis *redis);
void private_redis_continue(struct private_redis *redis);
// Kills it and frees what the helpers hold.
void private_redis_deinit(struct private_redis *redis);

// One command, hiredis' format. The reply must not be an error. It stays valid until the next one.
redisReply *private_redis_reply(struct private_redis *redis, const char *format, ...);
// The same for a command whose result does not matter, or must be an integer (or a string, which
// may be NULL where the key is missing).
void private_redis_run(struct private_redis *redis, const char *format, ...);
long long private_redis_int(struct private_redis *redis, const char *format, ...);
const char *private_redis_string(struct private_redis *redis, const char *format, ...);
