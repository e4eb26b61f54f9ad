// SPDX-License-Identifier: Apache-2.0
//
// The ops. A handler checks what depends on the sidecar's state or flags (message.c has checked the
// rest) and either answers at once or leaves the request with the keeper, which answers later.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/writer.h"
#include "sidecar/dispatch.h"
#include "sidecar/tell.h"
#include "sidecar/version.h"

enum {
    LIST_SCAN = 16384,   // slots looked at for one page
    LIST_ROW_MAX = 8192, // more than any row takes
};

// Makes the page that goes with the reply; false after a refusal.
static bool open_page(struct session *session, const struct message_request *request)
{
    int r;

    if (session->page) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_BAD_REQUEST,
                   "\"page\": this connection has been handed its page; leave it out, or connect "
                   "anew for another");
        return false;
    }
    r = keeper_open_page(session);
    if (r < 0)
        tell_error(
            session, request->op, &request->id,
            r == -EMFILE || r == -ENFILE ? WIRE_ERROR_LIMIT_EXCEEDED : WIRE_ERROR_INTERNAL,
            "\"page\": the sidecar cannot make one now: %s; leave it out, or try again later",
            strerror(-r));
    return r == 0;
}

static void on_hello(struct keeper *keeper, struct session *session,
                     const struct message_request *request, int64_t now_ms)
{
    const struct keeper_options *options = &keeper->options;
    struct buf *out = &session->out;

    if (request->page && !open_page(session, request))
        return;
    writer_reply(out, true, request->op, &request->id);
    writer_int(out, WIRE_MEMBER_PROTOCOL, WIRE_PROTOCOL);
    writer_name(out, WIRE_MEMBER_SERVER, "lock-keeper/" LOCK_KEEPER_VERSION);
    writer_name(out, WIRE_MEMBER_INSTANCE, keeper->instance);
    writer_open_array(out, WIRE_MEMBER_CAPS);
    for (int cap = 0; cap < WIRE_CAP_COUNT; cap++)
        writer_item_name(out, wire_cap_names[cap]);
    writer_close_array(out);
    writer_int(out, WIRE_MEMBER_LOCK_TTL_MS, options->lock_ttl_ms);
    writer_int(out, WIRE_MEMBER_HEARTBEAT_MS, lease_heartbeat_ms(options->lock_ttl_ms));
    writer_int(out, WIRE_MEMBER_REVOKE_MARGIN_MS,
               lease_margin_ms(&options->rules, options->lock_ttl_ms));
    writer_int(out, WIRE_MEMBER_DEADLINE_MS, options->workflow_deadline_ms);
    writer_int(out, WIRE_MEMBER_MAX_DEADLINE_MS, options->max_workflow_deadline_ms);
    writer_int(out, WIRE_MEMBER_MAX_LINE, WIRE_MAX_LINE);
    writer_int(out, WIRE_MEMBER_MAX_REPLY, WIRE_MAX_REPLY);
    writer_int(out, WIRE_MEMBER_NOW_MS, now_ms);
    writer_name(out, WIRE_MEMBER_REDIS, keeper->store->up ? "up" : "down");
    writer_end(out);
    session->output(session);
}

static void on_ping(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms)
{
    struct buf *out = &session->out;

    (void)now_ms;
    writer_reply(out, true, request->op, &request->id);
    writer_name(out, WIRE_MEMBER_REDIS, keeper->store->up ? "up" : "down");
    if (!keeper->store->up && keeper->store_error)
        writer_string(out, WIRE_MEMBER_REDIS_ERROR, keeper->store_error,
                      strlen(keeper->store_error));
    writer_end(out);
    session->output(session);
}

// ---- list ----

// What a row says of its state; -1: it is not shown.
static int row_state(const struct slot *slot)
{
    if (!table_in_use(slot))
        return -1;
    switch ((enum lease_state)slot->lease.state) {
    case LEASE_QUEUED:
    case LEASE_ACQUIRING:
    case LEASE_WAITING:
        return WIRE_STATE_WAITING;
    case LEASE_HELD:
        return WIRE_STATE_HELD;
    case LEASE_ENDING:
        return WIRE_STATE_ENDING;
    default:
        return -1;
    }
}

static int64_t at_least_0(int64_t value)
{
    return value > 0 ? value : 0;
}

static void write_row(const struct keeper *keeper, struct buf *out, const struct slot *slot,
                      enum wire_state state, int64_t now_ms)
{
    writer_open_item(out);
    writer_name(out, WIRE_MEMBER_STATE, wire_state_names[state]);
    writer_string(out, WIRE_MEMBER_KEY, slot_key(slot), slot->key_length);
    tell_holder(keeper, out, slot);
    if (state == WIRE_STATE_WAITING) {
        writer_int(out, WIRE_MEMBER_WAITED_MS, now_ms - slot->pending->asked_at_ms);
    } else {
        writer_int(out, WIRE_MEMBER_HELD_MS, lease_held_for(&slot->lease, now_ms));
        writer_int(out, WIRE_MEMBER_VALID_MS, at_least_0(slot->lease.until_ms - now_ms));
        writer_int(out, WIRE_MEMBER_FENCE, slot->fence);
    }
    if (state == WIRE_STATE_HELD)
        writer_int(out, WIRE_MEMBER_DEADLINE_IN_MS,
                   at_least_0(lease_deadline_at(&slot->lease) - now_ms));
    writer_close_object(out);
}

// The cursor is the number of the last slot that was looked at, in hex. Slots do not move, so a row
// that is there from the first page to the last appears on exactly one.
static void on_list(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms)
{
    struct buf *out = &session->out;
    size_t start = buf_length(out);
    char *end, next[16];
    unsigned long at = request->after[0] ? strtoul(request->after, &end, 16) : 0;
    uint32_t number, scanned = 0;
    int64_t rows = 0;

    if (request->after[0] &&
        (*end || at >= UINT32_MAX || !strchr("0123456789abcdef", *request->after))) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_BAD_REQUEST,
                   "\"after\" must be the \"next\" of the page before");
        return;
    }
    writer_reply(out, true, request->op, &request->id);
    writer_open_array(out, WIRE_MEMBER_LEASES);
    for (number = (uint32_t)at + 1; number < keeper->table.used; number++) {
        const struct slot *slot = table_slot(&keeper->table, number);
        int state = row_state(slot);
        if (rows == request->limit || scanned++ == LIST_SCAN ||
            buf_length(out) - start > WIRE_MAX_REPLY - LIST_ROW_MAX)
            break;
        if (state < 0)
            continue;
        write_row(keeper, out, slot, (enum wire_state)state, now_ms);
        rows++;
    }
    writer_close_array(out);
    if (number < keeper->table.used) {
        snprintf(next, sizeof next, "%x", (unsigned)number - 1);
        writer_name(out, WIRE_MEMBER_NEXT, next);
    }
    writer_end(out);
    session->output(session);
}

// ---- The table ----

typedef void handler(struct keeper *keeper, struct session *session,
                     const struct message_request *request, int64_t now_ms);

static handler *const handlers[WIRE_OP_COUNT] = {
    [WIRE_OP_HELLO] = on_hello,         [WIRE_OP_ACQUIRE] = keeper_acquire,
    [WIRE_OP_RELEASE] = keeper_release, [WIRE_OP_CANCEL] = keeper_cancel,
    [WIRE_OP_EXTEND] = keeper_extend,   [WIRE_OP_ADOPT] = keeper_adopt,
    [WIRE_OP_INSPECT] = keeper_inspect, [WIRE_OP_LIST] = on_list,
    [WIRE_OP_PING] = on_ping,           [WIRE_OP_BREAK] = keeper_break,
};
_Static_assert(sizeof handlers / sizeof handlers[0] == WIRE_OP_COUNT, "every op has a handler");

void dispatch_line(struct keeper *keeper, struct session *session, const char *line, size_t length,
                   int64_t now_ms)
{
    struct message_request request;
    struct message_error error;

    if (message_parse(line, length, &request, &error) != 0)
        tell_error(session, request.op, &request.id, error.error, "%s", error.message);
    else
        handlers[request.op](keeper, session, &request, now_ms);
}

void dispatch_too_long(struct session *session)
{
    tell_error(session, WIRE_OP_COUNT, NULL, WIRE_ERROR_LINE_TOO_LONG,
               "a line is at most %d bytes; this one was skipped up to its newline", WIRE_MAX_LINE);
}

void dispatch_too_slow(struct session *session)
{
    tell_error(session, WIRE_OP_COUNT, NULL, WIRE_ERROR_LIMIT_EXCEEDED,
               "a line must be complete within %d ms; this one is skipped up to its newline",
               WIRE_MAX_LINE_AGE);
}
