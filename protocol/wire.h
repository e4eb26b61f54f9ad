// SPDX-License-Identifier: Apache-2.0
//
// The names and limits of the protocol as C: one enum for each kind of name in wire.def, with a
// table of the names beside it, and one constant for each limit.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum wire_op {
#define WIRE_OP(symbol, name) WIRE_OP_##symbol,
#include "protocol/wire.def"
    WIRE_OP_COUNT,
};

enum wire_member {
#define WIRE_MEMBER(symbol, name) WIRE_MEMBER_##symbol,
#include "protocol/wire.def"
    WIRE_MEMBER_COUNT,
};

enum wire_event {
#define WIRE_EVENT(symbol, name) WIRE_EVENT_##symbol,
#include "protocol/wire.def"
    WIRE_EVENT_COUNT,
};

enum wire_reason {
#define WIRE_REASON(symbol, name) WIRE_REASON_##symbol,
#include "protocol/wire.def"
    WIRE_REASON_COUNT,
};

enum wire_error {
#define WIRE_ERROR(symbol, name) WIRE_ERROR_##symbol,
#include "protocol/wire.def"
    WIRE_ERROR_COUNT,
};

enum wire_bind {
#define WIRE_BIND(symbol, name) WIRE_BIND_##symbol,
#include "protocol/wire.def"
    WIRE_BIND_COUNT,
};

enum wire_disconnect {
#define WIRE_DISCONNECT(symbol, name) WIRE_DISCONNECT_##symbol,
#include "protocol/wire.def"
    WIRE_DISCONNECT_COUNT,
};

enum wire_notify {
#define WIRE_NOTIFY(symbol, name) WIRE_NOTIFY_##symbol,
#include "protocol/wire.def"
    WIRE_NOTIFY_COUNT,
};

enum wire_state {
#define WIRE_STATE(symbol, name) WIRE_STATE_##symbol,
#include "protocol/wire.def"
    WIRE_STATE_COUNT,
};

enum wire_cap {
#define WIRE_CAP(symbol, name) WIRE_CAP_##symbol,
#include "protocol/wire.def"
    WIRE_CAP_COUNT,
};

enum wire_limit {
#define WIRE_LIMIT(symbol, value, unit) WIRE_##symbol = value,
#include "protocol/wire.def"
};

// The largest integer in a message, either sign: 2^53 - 1 (an enum constant must fit an int).
#define WIRE_MAX_INTEGER INT64_C(9007199254740991)

extern const char *const wire_op_names[WIRE_OP_COUNT];
extern const char *const wire_member_names[WIRE_MEMBER_COUNT];
extern const char *const wire_event_names[WIRE_EVENT_COUNT];
extern const char *const wire_reason_names[WIRE_REASON_COUNT];
extern const char *const wire_error_names[WIRE_ERROR_COUNT];
extern const char *const wire_bind_names[WIRE_BIND_COUNT];
extern const char *const wire_disconnect_names[WIRE_DISCONNECT_COUNT];
extern const char *const wire_notify_names[WIRE_NOTIFY_COUNT];
extern const char *const wire_state_names[WIRE_STATE_COUNT];
extern const char *const wire_cap_names[WIRE_CAP_COUNT];

// The index of name in a table of count names, or -1.
int wire_find(const char *const *names, size_t count, const char *name);
