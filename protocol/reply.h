// SPDX-License-Identifier: Apache-2.0
//
// A line from the sidecar into a reply or an event, for clients. Members that are not known are
// ignored, as the protocol asks; a known one of the wrong type makes the line unreadable. Which
// members an op's reply must have is for the caller to see.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/message.h"
#include "protocol/wire.h"

enum {
    REPLY_E_MALFORMED = 1, // no JSON object, neither reply nor event, or a member of the wrong type
};

// What is not there: NULL, false, -1 (of an integer, none of which is negative), or the COUNT of
// its enum, which stands for a name that is not known, too.

struct reply_holder {
    bool foreign;
    const char *type;
    const char *host;
    const char *label;
    int64_t bytes;
    int64_t pid;
    int64_t uid;
    int64_t fence;
};

struct reply_row {
    const char *state;
    const char *key;
    bool has_holder;
    struct reply_holder holder;
    int64_t held_ms;
    int64_t valid_ms;
    int64_t deadline_in_ms;
    int64_t waited_ms;
    int64_t fence;
};

// Strings are borrowed from the tree: valid until reply_deinit.
struct reply {
    bool is_event;
    enum wire_event event;
    bool ok;
    enum wire_op op;
    struct message_id id;
    enum wire_error error;
    enum wire_reason reason;
    const char *error_name; // as it came, of whatever version
    const char *reason_name;
    const char *message;

    const char *key;
    bool has_lease;
    struct message_token lease;
    int64_t fence;
    int64_t ttl_ms;
    int64_t deadline_ms;
    int64_t deadline_in_ms;
    int64_t valid_until_ms;
    int64_t slot;
    int64_t waited_ms;
    int64_t held_ms;
    int64_t safe_ms;
    int64_t retry_after_ms; // null reads as -1, as in ttl_left_ms
    int64_t ttl_left_ms;
    int64_t since_ms;
    bool freed;
    bool cancelled;
    bool held;
    bool here;
    bool broken;
    bool has_holder;
    struct reply_holder holder;

    int64_t protocol;
    const char *server;
    const char *instance;
    int64_t lock_ttl_ms;
    int64_t heartbeat_ms;
    int64_t revoke_margin_ms;
    int64_t max_deadline_ms;
    int64_t now_ms;
    const char *redis;
    const char *redis_error;
    const char **caps; // owned; the last one NULL

    struct reply_row *rows; // owned; NULL where there is no "leases"
    size_t row_count;
    const char *next;

    void *tree; // owned
};

// 0, REPLY_E_MALFORMED or -ENOMEM; the reply needs no deinit unless 0.
int reply_parse(const char *line, size_t length, struct reply *reply);
void reply_deinit(struct reply *reply);
