// SPDX-License-Identifier: Apache-2.0
//
// The store on Redis (or Valkey). See store.h for the contract, DESIGN for why it is our own
// transport.
#pragma once

#include <ev.h>

#include "sidecar/redis_url.h"
#include "sidecar/store.h"

struct store_redis_options {
    struct redis_url url;      // borrowed strings, for the store's life
    const char *password_file; // or NULL; read again at each connect, wins over the URL's password
    const char *key_prefix;    // borrowed
    // The connection is replaced after this long without a byte while replies are due
    // (--lock-ttl / 12); it also bounds connect and handshake.
    int64_t silence_ms;
    int64_t backoff_min_ms; // reconnect pauses grow from here, with jitter
    int64_t backoff_max_ms;
};

// Starts connecting when the loop runs. *store_out is to be given hooks before that.
// The store asks for no timers of its own but for next_timeout/sweep (store.h), which covers its
// back-off, its connect and handshake bound, its calls' timeouts and its silence limit.
int store_redis_new(struct ev_loop *loop, const struct store_redis_options *options,
                    struct store **store_out);
// Completes what is outstanding (LOST, UNSENT), closes. NULL-safe, returns NULL.
struct store *store_redis_free(struct store *store);
// Writes what is queued; the loop's owner calls it before the loop sleeps (ev_prepare). (The store
// also writes by itself when 16 requests have queued.)
void store_redis_flush(struct store *store, int64_t now_ms);
