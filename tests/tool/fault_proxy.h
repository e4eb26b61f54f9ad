// SPDX-License-Identifier: Apache-2.0
//
// A proxy between the sidecar and Redis that misbehaves when it is told to.
//
//     struct fault_proxy *proxy = fault_proxy_new(redis.socket, false);
//     sidecar_process_start(&sidecar, fault_proxy_url(proxy), "--lock-ttl", "2s", NULL);
//     fault_proxy_arm(proxy, &(struct fault_rule){RESP_ACQUIRE, .at = FAULT_REPLY, .act = FAULT_CUT});
//     ... an acquire: Redis has executed it, and its reply is lost with the connection ...
//     fault_proxy_await_fired(proxy, 1, 2000);
//     fault_proxy_free(proxy);
//
// It runs in a thread of the test's process. Every function takes effect before it returns. What it
// passes on it passes whole message by whole message (but for dribble), so a rule hits exactly one.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/tool/resp.h"

enum fault_direction { FAULT_UP, FAULT_DOWN, FAULT_DIRECTIONS }; // to Redis; to the sidecar

enum fault_act {
    FAULT_CUT,     // both sides; the request, or the reply, is lost with it
    FAULT_STALL,   // it, and what comes after it in its direction, waits after_ms (0: for _flush)
    FAULT_LATE,    // the same, and the sidecar's side is closed at once (a request only)
    FAULT_REPLACE, // another reply in its place (a reply only)
    FAULT_APPEND,  // and bytes after it (a reply only)
};

struct fault_rule {
    enum resp_kind kind;
    int skip; // so many of them pass first
    enum { FAULT_REQUEST, FAULT_REPLY } at;
    enum fault_act act;
    int64_t after_ms;
    const char *bytes; // of FAULT_REPLACE and _APPEND; copied
    size_t length;
};

struct fault_proxy;

// Listens on a Unix socket in the scratch folder, or with tcp on a loopback port.
struct fault_proxy *fault_proxy_new(const char *redis_socket, bool tcp);
struct fault_proxy *fault_proxy_free(struct fault_proxy *proxy);
const char *fault_proxy_url(const struct fault_proxy *proxy);
int fault_proxy_port(const struct fault_proxy *proxy);

// ---- Rules: each fires once ----

void fault_proxy_arm(struct fault_proxy *proxy, const struct fault_rule *rule);
// Waits until so many rules have fired in all.
void fault_proxy_await_fired(struct fault_proxy *proxy, int count, int64_t timeout_ms);
// What FAULT_STALL and FAULT_LATE kept goes out now.
void fault_proxy_flush(struct fault_proxy *proxy);

// ---- Modes: for all connections, until taken back ----

void fault_proxy_hold(struct fault_proxy *proxy, enum fault_direction direction, bool on);
void fault_proxy_drop(struct fault_proxy *proxy, enum fault_direction direction, bool on);
void fault_proxy_delay(struct fault_proxy *proxy, enum fault_direction direction, int64_t ms);
// A byte at a time, this long apart (< 0: off).
void fault_proxy_dribble(struct fault_proxy *proxy, enum fault_direction direction, int64_t us);
// New connections go to this Redis.
void fault_proxy_redirect(struct fault_proxy *proxy, const char *redis_socket);
// New connections are closed at once.
void fault_proxy_refuse(struct fault_proxy *proxy, bool on);

// ---- Once, to the connections that there are ----

void fault_proxy_cut(struct fault_proxy *proxy);
// Neither closed nor served any more: each side believes that the other is still there.
void fault_proxy_strand(struct fault_proxy *proxy);
void fault_proxy_inject(struct fault_proxy *proxy, const char *bytes, size_t length);

// ---- What was seen ----

// Requests of a kind, with this text in them (NULL: any), read at since_ms (CLOCK_BOOTTIME) or later.
int fault_proxy_count(struct fault_proxy *proxy, enum resp_kind kind, const char *text,
                      int64_t since_ms);
int fault_proxy_connections(struct fault_proxy *proxy); // accepted so far
// Messages for Redis that were written to it, or not because Redis had closed, after the sidecar's
// side was closed.
int fault_proxy_late_written(struct fault_proxy *proxy);
int fault_proxy_late_lost(struct fault_proxy *proxy);
