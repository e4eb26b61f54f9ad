// SPDX-License-Identifier: Apache-2.0
//
// The second connection to Redis, on which other lock-keepers' releases are heard: SUBSCRIBE to one
// channel for each watched key. It exists only while the main connection is up and something is
// watched (or was, a moment ago), and goes to the same address.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sidecar/redis_channels.h"
#include "sidecar/redis_connection.h"
#include "sidecar/redis_handshake.h"
#include "sidecar/store_redis.h"

struct redis_watch_hooks {
    int64_t (*begin)(void *context); // as redis_connection's
    void (*end)(void *context, int64_t now_ms);
    // The key was freed; or its watch has just begun, or begun anew.
    void (*freed)(void *context, const char *key, size_t key_length, int64_t now_ms);
    // How long to wait after so many failures in a row.
    int64_t (*pause)(void *context, unsigned failures);
};

enum redis_watch_state {
    REDIS_WATCH_CLOSED, // not before until_ms
    REDIS_WATCH_CONNECTING,
    REDIS_WATCH_GREETING,
    REDIS_WATCH_UP,
};

struct redis_watch {
    const struct store_redis_options *options;
    const struct redis_watch_hooks *hooks;
    void *context;
    enum redis_watch_state state;
    bool reachable; // the main connection is up, at `address`
    bool refused;   // Redis forbids SUBSCRIBE, and this was said
    unsigned failures;
    int64_t until_ms;
    int64_t up_since_ms;
    int64_t idle_until_ms; // closed then, if nothing is watched; 0: something is
    struct resolver_address address;
    struct redis_channels channels;
    struct redis_handshake handshake;
    struct redis_connection connection;
};

// options and hooks are borrowed. 0 or -ENOMEM.
int redis_watch_init(struct redis_watch *watch, struct ev_loop *loop,
                     const struct store_redis_options *options,
                     const struct redis_watch_hooks *hooks, void *context);
// After redis_watch_main_down.
void redis_watch_deinit(struct redis_watch *watch);

// Neither writes nor calls a hook. Without memory the key is not watched.
void redis_watch_add(struct redis_watch *watch, const char *key, size_t key_length);
void redis_watch_remove(struct redis_watch *watch, const char *key, size_t key_length);

void redis_watch_main_up(struct redis_watch *watch, const struct resolver_address *address);
// Closes the connection; calls no hook.
void redis_watch_main_down(struct redis_watch *watch);

// Opens the connection where it is wanted, and writes what is due. Before the loop sleeps.
void redis_watch_flush(struct redis_watch *watch, int64_t now_ms);
int64_t redis_watch_wake(const struct redis_watch *watch);
void redis_watch_sweep(struct redis_watch *watch, int64_t now_ms);
