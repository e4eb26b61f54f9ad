// SPDX-License-Identifier: Apache-2.0
//
// The value of a lock in Redis:
//
//     <32 hex lease> <16 hex instance> lk1 <fence> <ttl_ms> <deadline, us> <since, us> <pid> <uid>
//     <host> <label>
//
// on one line, one space between two fields. The label may hold spaces and may be absent, with its
// space. Times are Redis' own. The head (up to the space after lk1) is what every script compares;
// acquire.lua puts fence, TTL and times between the head and the tail.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "sidecar/store.h"

enum {
    VALUE_HEAD_LENGTH = WIRE_LEASE_DIGITS + 1 + WIRE_INSTANCE_DIGITS + sizeof " lk1 " - 1,
    VALUE_MAX_HOST = 255,
    // "<pid> <uid> <host> <label>" with a NUL
    VALUE_TAIL_SIZE = 20 + 1 + 20 + 1 + VALUE_MAX_HOST + 1 + WIRE_MAX_LABEL + 1,
    VALUE_SIZE = VALUE_HEAD_LENGTH + 4 * 21 + VALUE_TAIL_SIZE,
};

struct value {
    struct store_token token;
    int64_t fence;
    int64_t ttl_ms;
    int64_t deadline_us;
    int64_t since_us;
    int64_t pid;
    int64_t uid;
    const char *host; // borrowed from the text
    size_t host_length;
    const char *label;
    size_t label_length; // 0: none
};

enum {
    VALUE_E_FOREIGN = 1, // not of this grammar: another locker's, never to be touched or shown
};

// 0, or VALUE_E_FOREIGN. Strict: what value_format would not have written is foreign.
int value_parse(const char *text, size_t length, struct value *value);

// Each returns the length of what it wrote. text: VALUE_SIZE and VALUE_TAIL_SIZE bytes,
// NUL-terminated; head: VALUE_HEAD_LENGTH bytes, no NUL.
size_t value_format(const struct value *value, char *text);
size_t value_format_tail(const struct value *value, char *text);
size_t value_format_head(const struct store_token *token, char *head);
