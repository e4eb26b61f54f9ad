// SPDX-License-Identifier: Apache-2.0
//
// A line from the sidecar into a reply or an event.
//
// Tables say where a member's value goes and of which type it is: one for the line itself, one for
// a holder, one for a row of list. A member that stands in none of them is ignored.
//
// This is read in other people's programs. So jansson keeps the allocator it has there (message.c
// gives it an arena, for the whole process), and the tree is freed block by block.
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/reply.h"

enum kind { INTEGER, INTEGER_OR_NULL, BOOLEAN, STRING };

struct place {
    enum wire_member member;
    enum kind kind;
    size_t offset;
};

#define PLACE(type, symbol, kind, field)                                                           \
    {                                                                                              \
        WIRE_MEMBER_##symbol, kind, offsetof(struct type, field)                                   \
    }

static const struct place line_places[] = {
    PLACE(reply, OK, BOOLEAN, ok),
    PLACE(reply, ERROR, STRING, error_name),
    PLACE(reply, REASON, STRING, reason_name),
    PLACE(reply, MESSAGE, STRING, message),
    PLACE(reply, KEY, STRING, key),
    PLACE(reply, FENCE, INTEGER, fence),
    PLACE(reply, TTL_MS, INTEGER, ttl_ms),
    PLACE(reply, DEADLINE_MS, INTEGER, deadline_ms),
    PLACE(reply, DEADLINE_IN_MS, INTEGER, deadline_in_ms),
    PLACE(reply, VALID_UNTIL_MS, INTEGER, valid_until_ms),
    PLACE(reply, SLOT, INTEGER, slot),
    PLACE(reply, WAITED_MS, INTEGER, waited_ms),
    PLACE(reply, HELD_MS, INTEGER, held_ms),
    PLACE(reply, SAFE_MS, INTEGER, safe_ms),
    PLACE(reply, RETRY_AFTER_MS, INTEGER_OR_NULL, retry_after_ms),
    PLACE(reply, TTL_LEFT_MS, INTEGER_OR_NULL, ttl_left_ms),
    PLACE(reply, SINCE_MS, INTEGER, since_ms),
    PLACE(reply, FREED, BOOLEAN, freed),
    PLACE(reply, CANCELLED, BOOLEAN, cancelled),
    PLACE(reply, HELD, BOOLEAN, held),
    PLACE(reply, HERE, BOOLEAN, here),
    PLACE(reply, BROKEN, BOOLEAN, broken),
    PLACE(reply, PROTOCOL, INTEGER, protocol),
    PLACE(reply, SERVER, STRING, server),
    PLACE(reply, INSTANCE, STRING, instance),
    PLACE(reply, LOCK_TTL_MS, INTEGER, lock_ttl_ms),
    PLACE(reply, HEARTBEAT_MS, INTEGER, heartbeat_ms),
    PLACE(reply, REVOKE_MARGIN_MS, INTEGER, revoke_margin_ms),
    PLACE(reply, MAX_DEADLINE_MS, INTEGER, max_deadline_ms),
    PLACE(reply, NOW_MS, INTEGER, now_ms),
    PLACE(reply, REDIS, STRING, redis),
    PLACE(reply, REDIS_ERROR, STRING, redis_error),
    PLACE(reply, NEXT, STRING, next),
};

static const struct place holder_places[] = {
    PLACE(reply_holder, FOREIGN, BOOLEAN, foreign), PLACE(reply_holder, TYPE, STRING, type),
    PLACE(reply_holder, HOST, STRING, host),        PLACE(reply_holder, LABEL, STRING, label),
    PLACE(reply_holder, BYTES, INTEGER, bytes),     PLACE(reply_holder, PID, INTEGER, pid),
    PLACE(reply_holder, UID, INTEGER, uid),         PLACE(reply_holder, FENCE, INTEGER, fence),
};

static const struct place row_places[] = {
    PLACE(reply_row, STATE, STRING, state),
    PLACE(reply_row, KEY, STRING, key),
    PLACE(reply_row, HELD_MS, INTEGER, held_ms),
    PLACE(reply_row, VALID_MS, INTEGER, valid_ms),
    PLACE(reply_row, FENCE, INTEGER, fence),
    PLACE(reply_row, WAITED_MS, INTEGER, waited_ms),
    PLACE(reply_row, DEADLINE_IN_MS, INTEGER, deadline_in_ms),
};

#undef PLACE

#define COUNT(places) (sizeof(places) / sizeof(places)[0])

static bool take_integer(const json_t *value, void *at)
{
    int64_t number = json_integer_value(value); // 0 where it is none

    if (!json_is_integer(value) || number < 0 || number > WIRE_MAX_INTEGER)
        return false;
    memcpy(at, &number, sizeof number);
    return true;
}

static bool take_boolean(const json_t *value, void *at)
{
    bool truth = json_is_true(value);

    if (!json_is_boolean(value))
        return false;
    memcpy(at, &truth, sizeof truth);
    return true;
}

static bool take_string(const json_t *value, void *at)
{
    const char *string = json_string_value(value); // NULL where it is none

    if (!string)
        return false;
    memcpy(at, &string, sizeof string);
    return true;
}

static bool take(const json_t *value, enum kind kind, void *at)
{
    switch (kind) {
    case INTEGER:
        return take_integer(value, at);
    case INTEGER_OR_NULL:
        return json_is_null(value) || take_integer(value, at);
    case BOOLEAN:
        return take_boolean(value, at);
    case STRING:
        return take_string(value, at);
    }
    return false;
}

// Every member of object that stands in places, into the struct at `into`. False: a wrong type.
static bool take_places(const json_t *object, const struct place *places, size_t count, void *into)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_object_get(object, wire_member_names[places[i].member]);

        if (value && !take(value, places[i].kind, (char *)into + places[i].offset))
            return false;
    }
    return true;
}

static bool take_holder(const json_t *object, bool *has, struct reply_holder *holder)
{
    const json_t *value = json_object_get(object, wire_member_names[WIRE_MEMBER_HOLDER]);

    *holder = (struct reply_holder){.bytes = -1, .pid = -1, .uid = -1, .fence = -1};
    *has = value != NULL;
    return !value || (json_is_object(value) &&
                      take_places(value, holder_places, COUNT(holder_places), holder));
}

static int find(const char *const *names, size_t count, const char *name)
{
    int found = name ? wire_find(names, count, name) : -1;

    return found < 0 ? (int)count : found;
}

static bool take_id(const json_t *object, struct message_id *id)
{
    const json_t *value = json_object_get(object, wire_member_names[WIRE_MEMBER_ID]);
    size_t length = json_string_length(value);

    if (json_is_integer(value)) {
        id->kind = MESSAGE_ID_INTEGER;
        id->integer = json_integer_value(value);
    } else if (json_is_string(value) && length <= WIRE_MAX_ID) {
        id->kind = MESSAGE_ID_STRING;
        id->length = length;
        memcpy(id->string, json_string_value(value), length + 1);
    } else {
        return value == NULL;
    }
    return true;
}

static bool take_lease(const json_t *object, struct reply *reply)
{
    const json_t *value = json_object_get(object, wire_member_names[WIRE_MEMBER_LEASE]);

    if (!value)
        return true;
    reply->has_lease = json_string_length(value) == WIRE_LEASE_DIGITS &&
                       message_token_parse(json_string_value(value), &reply->lease);
    return reply->has_lease;
}

// 0, REPLY_E_MALFORMED or -ENOMEM, as what follows.
static int take_caps(const json_t *object, struct reply *reply)
{
    const json_t *value = json_object_get(object, wire_member_names[WIRE_MEMBER_CAPS]);
    size_t count = json_array_size(value);

    if (!value)
        return 0;
    if (!json_is_array(value))
        return REPLY_E_MALFORMED;
    reply->caps = calloc(count + 1, sizeof *reply->caps);
    if (!reply->caps)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (!take_string(json_array_get(value, i), &reply->caps[i]))
            return REPLY_E_MALFORMED;
    }
    return 0;
}

static bool take_row(const json_t *object, struct reply_row *row)
{
    *row = (struct reply_row){
        .held_ms = -1, .valid_ms = -1, .deadline_in_ms = -1, .waited_ms = -1, .fence = -1};
    return json_is_object(object) && take_places(object, row_places, COUNT(row_places), row) &&
           take_holder(object, &row->has_holder, &row->holder) && row->state && row->key;
}

static int take_rows(const json_t *object, struct reply *reply)
{
    const json_t *value = json_object_get(object, wire_member_names[WIRE_MEMBER_LEASES]);
    size_t count = json_array_size(value);

    if (!value)
        return 0;
    if (!json_is_array(value))
        return REPLY_E_MALFORMED;
    reply->rows = calloc(count + 1, sizeof *reply->rows);
    if (!reply->rows)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (!take_row(json_array_get(value, i), &reply->rows[i]))
            return REPLY_E_MALFORMED;
    }
    reply->row_count = count;
    return 0;
}

// Which of the two it is, and its names.
static bool take_names(const json_t *object, struct reply *reply)
{
    const char *op = json_string_value(json_object_get(object, wire_member_names[WIRE_MEMBER_OP]));
    const json_t *event = json_object_get(object, wire_member_names[WIRE_MEMBER_EVENT]);
    const json_t *ok = json_object_get(object, wire_member_names[WIRE_MEMBER_OK]);

    reply->is_event = event != NULL;
    reply->event =
        (enum wire_event)find(wire_event_names, WIRE_EVENT_COUNT, json_string_value(event));
    reply->op = (enum wire_op)find(wire_op_names, WIRE_OP_COUNT, op);
    reply->error = (enum wire_error)find(wire_error_names, WIRE_ERROR_COUNT, reply->error_name);
    reply->reason =
        (enum wire_reason)find(wire_reason_names, WIRE_REASON_COUNT, reply->reason_name);
    return event ? json_is_string(event) && !ok
                 : ok && (reply->ok || (reply->error_name && *reply->error_name));
}

static int take_line(const json_t *root, struct reply *reply)
{
    int r;

    if (!json_is_object(root) || !take_places(root, line_places, COUNT(line_places), reply) ||
        !take_names(root, reply) || !take_id(root, &reply->id) || !take_lease(root, reply) ||
        !take_holder(root, &reply->has_holder, &reply->holder))
        return REPLY_E_MALFORMED;
    r = take_caps(root, reply);
    return r != 0 ? r : take_rows(root, reply);
}

static const struct reply nothing = {
    .event = WIRE_EVENT_COUNT,
    .op = WIRE_OP_COUNT,
    .error = WIRE_ERROR_COUNT,
    .reason = WIRE_REASON_COUNT,
    .fence = -1,
    .ttl_ms = -1,
    .deadline_ms = -1,
    .deadline_in_ms = -1,
    .valid_until_ms = -1,
    .slot = -1,
    .waited_ms = -1,
    .held_ms = -1,
    .safe_ms = -1,
    .retry_after_ms = -1,
    .ttl_left_ms = -1,
    .since_ms = -1,
    .protocol = -1,
    .lock_ttl_ms = -1,
    .heartbeat_ms = -1,
    .revoke_margin_ms = -1,
    .max_deadline_ms = -1,
    .now_ms = -1,
};

int reply_parse(const char *line, size_t length, struct reply *reply)
{
    json_error_t why;
    json_t *root = json_loadb(line, length, JSON_REJECT_DUPLICATES, &why);
    int r;

    *reply = nothing;
    if (!root)
        return json_error_code(&why) == json_error_out_of_memory ? -ENOMEM : REPLY_E_MALFORMED;
    reply->tree = root;
    r = take_line(root, reply);
    if (r != 0)
        reply_deinit(reply);
    return r;
}

void reply_deinit(struct reply *reply)
{
    free(reply->caps);
    free(reply->rows);
    json_decref(reply->tree);
    *reply = nothing;
}
