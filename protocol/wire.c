// SPDX-License-Identifier: Apache-2.0
//
// The tables of names. wire.def is included once for each table: inside an initialiser only the
// macro that was just defined expands to something, so the order of its lines is the order of the
// enum in wire.h, and neither can be changed without the other.
#include <string.h>

#include "protocol/wire.h"

const char *const wire_op_names[WIRE_OP_COUNT] = {
#define WIRE_OP(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_member_names[WIRE_MEMBER_COUNT] = {
#define WIRE_MEMBER(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_event_names[WIRE_EVENT_COUNT] = {
#define WIRE_EVENT(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_reason_names[WIRE_REASON_COUNT] = {
#define WIRE_REASON(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_error_names[WIRE_ERROR_COUNT] = {
#define WIRE_ERROR(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_bind_names[WIRE_BIND_COUNT] = {
#define WIRE_BIND(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_disconnect_names[WIRE_DISCONNECT_COUNT] = {
#define WIRE_DISCONNECT(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_notify_names[WIRE_NOTIFY_COUNT] = {
#define WIRE_NOTIFY(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_state_names[WIRE_STATE_COUNT] = {
#define WIRE_STATE(symbol, name) name,
#include "protocol/wire.def"
};

const char *const wire_cap_names[WIRE_CAP_COUNT] = {
#define WIRE_CAP(symbol, name) name,
#include "protocol/wire.def"
};

int wire_find(const char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return (int)i;
    }
    return -1;
}
