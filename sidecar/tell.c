// SPDX-License-Identifier: Apache-2.0
//
// The words of the sidecar. Nothing here decides anything: each function writes one line from what
// it is given. A lease's token appears in its grant, in events and in replies to who named it, and
// nowhere else.

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "protocol/writer.h"
#include "sidecar/page.h"
#include "sidecar/tell.h"
#include "sidecar/value.h"

static void finish(struct session *session)
{
    writer_end(&session->out);
    session->output(session);
}

static int64_t at_least_0(int64_t value)
{
    return value > 0 ? value : 0;
}

static void write_message(struct buf *out, const char *message)
{
    writer_string(out, WIRE_MEMBER_MESSAGE, message, strlen(message));
}

static void write_key(struct buf *out, const struct slot *slot)
{
    writer_string(out, WIRE_MEMBER_KEY, slot_key(slot), slot->key_length);
}

void tell_error(struct session *session, enum wire_op op, const struct message_id *id,
                enum wire_error error, const char *format, ...)
{
    char message[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    writer_error(&session->out, op, id, error, message);
    finish(session);
}

// ---- Who holds a key ----

static void write_holder(struct buf *out, const char *host, size_t host_length, int64_t pid,
                         int64_t uid, const char *label, size_t label_length, int64_t fence)
{
    writer_open_object(out, WIRE_MEMBER_HOLDER);
    writer_string(out, WIRE_MEMBER_HOST, host, host_length);
    writer_int(out, WIRE_MEMBER_PID, pid);
    writer_int(out, WIRE_MEMBER_UID, uid);
    if (label_length > 0)
        writer_string(out, WIRE_MEMBER_LABEL, label, label_length);
    if (fence > 0)
        writer_int(out, WIRE_MEMBER_FENCE, fence);
    writer_close_object(out);
}

static bool is_granted(const struct slot *slot)
{
    return slot->lease.state == LEASE_HELD || slot->lease.state == LEASE_ENDING;
}

void tell_holder(const struct keeper *keeper, struct buf *out, const struct slot *slot)
{
    const char *host = keeper->options.host;
    size_t label_length;
    const char *label = slot_label(slot, &label_length);

    write_holder(out, host, strlen(host), slot_pid(slot),
                 accounts_uid(&keeper->accounts, slot->account), label, label_length,
                 is_granted(slot) ? slot->fence : 0);
}

// A value that is not ours may be the capability to free somebody's lock: only its size is said.
static void write_foreign(struct buf *out, const struct store_completion *completion)
{
    writer_open_object(out, WIRE_MEMBER_HOLDER);
    writer_bool(out, WIRE_MEMBER_FOREIGN, true);
    if (completion->type)
        writer_string(out, WIRE_MEMBER_TYPE, completion->type, strlen(completion->type));
    else
        writer_int(out, WIRE_MEMBER_BYTES, (int64_t)completion->value_length);
    writer_close_object(out);
}

static void write_stored_holder(struct buf *out, const struct store_completion *completion)
{
    struct value value;

    if (completion->value && value_parse(completion->value, completion->value_length, &value) == 0)
        write_holder(out, value.host, value.host_length, value.pid, value.uid, value.label,
                     value.label_length, value.fence);
    else
        write_foreign(out, completion);
}

// ---- Acquire ----

void tell_granted(struct session *session, const struct slot *slot, enum wire_op op,
                  const struct message_id *id, int64_t waited_ms, int page_slot)
{
    struct buf *out = &session->out;

    writer_reply(out, true, op, id);
    write_key(out, slot);
    writer_token(out, WIRE_MEMBER_LEASE, &slot->token);
    writer_int(out, WIRE_MEMBER_FENCE, slot->fence);
    writer_int(out, WIRE_MEMBER_TTL_MS, slot->lease.ttl_ms);
    writer_int(out, WIRE_MEMBER_DEADLINE_MS, slot->lease.deadline_ms);
    writer_int(out, WIRE_MEMBER_VALID_UNTIL_MS, slot->lease.until_ms);
    writer_int(out, WIRE_MEMBER_WAITED_MS, waited_ms);
    if (page_slot != PAGE_NONE)
        writer_int(out, WIRE_MEMBER_SLOT, page_slot);
    finish(session);
}

static void begin_held(struct buf *out, const struct message_id *id, const char *key,
                       size_t key_length)
{
    writer_error(out, WIRE_OP_ACQUIRE, id, WIRE_ERROR_LOCK_HELD,
                 "the key is held; see \"holder\", try again after \"retry_after_ms\"");
    writer_string(out, WIRE_MEMBER_KEY, key, key_length);
}

static void write_retry_after(struct buf *out, int64_t pttl_ms)
{
    if (pttl_ms >= 0)
        writer_int(out, WIRE_MEMBER_RETRY_AFTER_MS, pttl_ms);
    else
        writer_null(out, WIRE_MEMBER_RETRY_AFTER_MS);
}

void tell_held_here(const struct keeper *keeper, struct session *session, const char *key,
                    size_t key_length, const struct message_id *id, const struct slot *holder,
                    int64_t waited_ms, int64_t now_ms)
{
    struct buf *out = &session->out;
    int64_t left_ms = holder->lease.until_ms - now_ms;

    begin_held(out, id, key, key_length);
    tell_holder(keeper, out, holder);
    // Of a contender that only waits itself, nobody knows.
    write_retry_after(out, !lease_is_live(&holder->lease) ? -1 : left_ms > 0 ? left_ms : 0);
    writer_int(out, WIRE_MEMBER_WAITED_MS, waited_ms);
    finish(session);
}

// Redis did not do it: its words, where there are any.
static void write_failed(struct buf *out, enum wire_op op, const struct message_id *id,
                         const struct store_completion *completion)
{
    bool refused = completion->outcome == STORE_REFUSED;
    char message[512];

    if (refused)
        snprintf(message, sizeof message, "Redis refused: %s",
                 completion->error ? completion->error : "no reason given");
    else if (completion->error)
        snprintf(message, sizeof message, "Redis is not available: %s; try again later",
                 completion->error);
    else
        snprintf(message, sizeof message, "Redis did not answer in time; try again later");
    writer_error(out, op, id, refused ? WIRE_ERROR_REDIS_REFUSED : WIRE_ERROR_REDIS_UNAVAILABLE,
                 message);
}

void tell_denied(struct session *session, const struct slot *slot, const struct pending *pending,
                 const struct store_completion *completion, int64_t now_ms)
{
    struct buf *out = &session->out;

    if (completion->outcome == STORE_HELD) {
        begin_held(out, &pending->id, slot_key(slot), slot->key_length);
        write_stored_holder(out, completion);
        write_retry_after(out, completion->pttl_ms);
    } else {
        write_failed(out, WIRE_OP_ACQUIRE, &pending->id, completion);
        write_key(out, slot);
    }
    writer_int(out, WIRE_MEMBER_WAITED_MS, now_ms - pending->asked_at_ms);
    finish(session);
}

void tell_held_there(struct session *session, const struct message_request *request,
                     const struct store_completion *completion, int64_t age_ms)
{
    struct buf *out = &session->out;
    int64_t left_ms = completion->pttl_ms - age_ms;

    begin_held(out, &request->id, request->key, request->key_length);
    write_stored_holder(out, completion);
    write_retry_after(out, completion->pttl_ms < 0 ? -1 : left_ms > 0 ? left_ms : 0);
    writer_int(out, WIRE_MEMBER_WAITED_MS, 0);
    finish(session);
}

void tell_cancelled(struct session *session, const struct slot *slot, const struct pending *pending,
                    int64_t now_ms)
{
    struct buf *out = &session->out;

    writer_error(out, WIRE_OP_ACQUIRE, &pending->id, WIRE_ERROR_CANCELLED,
                 "the acquire was ended before it was granted");
    write_key(out, slot);
    writer_int(out, WIRE_MEMBER_WAITED_MS, now_ms - pending->asked_at_ms);
    finish(session);
}

// ---- Events ----

static const char *const reasons[WIRE_REASON_COUNT] = {
    [WIRE_REASON_LOST] = "Redis says that the key is not this lease's any more; stop at once",
    [WIRE_REASON_UNREACHABLE] = "Redis could not confirm the lease in time; stop within safe_ms",
    [WIRE_REASON_DEADLINE] = "the workflow deadline has come; stop within safe_ms, then release",
    [WIRE_REASON_SHUTDOWN] = "the sidecar is shutting down; stop within safe_ms, then release",
    [WIRE_REASON_BROKEN] = "an operator broke the lock; stop within safe_ms",
    [WIRE_REASON_RELEASED] = "another connection released the lease; stop at once",
    [WIRE_REASON_MOVED] = "another connection adopted the lease; stop at once",
    [WIRE_REASON_EOF] = "the client closed its side, which ends its leases; stop at once",
};

// Whoever does not take this event within C is cut off: who cannot be told cannot hold.
static void bound_telling(const struct keeper *keeper, struct session *session, int64_t now_ms)
{
    if (session->tell_by_ms == INT64_MAX)
        session->tell_by_ms = now_ms + lease_call_ms(keeper->options.lock_ttl_ms);
    session->tell_offset = session->taken + buf_length(&session->out);
}

void tell_revoked(const struct keeper *keeper, struct session *session, const struct slot *slot,
                  int64_t valid_until_ms, int64_t now_ms)
{
    enum wire_reason reason = slot->lease.reason;
    struct buf *out = &session->out;

    writer_event(out, WIRE_EVENT_REVOKED);
    writer_name(out, WIRE_MEMBER_ERROR, wire_error_names[WIRE_ERROR_LOST_ACTOR_LOCK]);
    writer_name(out, WIRE_MEMBER_REASON, wire_reason_names[reason]);
    writer_token(out, WIRE_MEMBER_LEASE, &slot->token);
    write_key(out, slot);
    writer_int(out, WIRE_MEMBER_SAFE_MS, lease_safe_ms(reason, valid_until_ms, now_ms));
    writer_int(out, WIRE_MEMBER_VALID_UNTIL_MS, valid_until_ms);
    writer_int(out, WIRE_MEMBER_HELD_MS, lease_held_for(&slot->lease, now_ms));
    write_message(out, reasons[reason]);
    writer_end(out);
    bound_telling(keeper, session, now_ms);
    session->output(session);
}

void tell_renewed(struct session *session, const struct slot *slot)
{
    struct buf *out = &session->out;

    writer_event(out, WIRE_EVENT_RENEWED);
    writer_token(out, WIRE_MEMBER_LEASE, &slot->token);
    write_key(out, slot);
    writer_int(out, WIRE_MEMBER_VALID_UNTIL_MS, slot->lease.until_ms);
    finish(session);
}

void tell_at_risk(struct session *session, const struct slot *slot, int64_t now_ms)
{
    int64_t left_ms = slot->lease.until_ms - now_ms;
    struct buf *out = &session->out;

    writer_event(out, WIRE_EVENT_AT_RISK);
    writer_token(out, WIRE_MEMBER_LEASE, &slot->token);
    write_key(out, slot);
    writer_int(out, WIRE_MEMBER_SAFE_MS, left_ms > 0 ? left_ms : 0);
    writer_int(out, WIRE_MEMBER_VALID_UNTIL_MS, slot->lease.until_ms);
    write_message(out,
                  "a heartbeat failed; the lease is revoked if none succeeds by its revoke time");
    finish(session);
}

// ---- Release ----

void tell_released(struct session *session, const struct slot *slot, const struct message_id *id)
{
    struct buf *out = &session->out;
    enum lease_release_outcome outcome = lease_release_outcome(&slot->lease);

    switch (outcome) {
    case LEASE_RELEASE_DONE:
        writer_reply(out, true, WIRE_OP_RELEASE, id);
        break;
    case LEASE_RELEASE_LOST:
        writer_error(out, WIRE_OP_RELEASE, id, WIRE_ERROR_LOST_ACTOR_LOCK,
                     "the lease had been lost or revoked; \"freed\" says whether its key was still "
                     "there and is deleted now");
        break;
    case LEASE_RELEASE_UNAVAILABLE:
        writer_error(out, WIRE_OP_RELEASE, id, WIRE_ERROR_REDIS_UNAVAILABLE,
                     "the lease is over, but Redis did not answer in time; its key is deleted as "
                     "soon as Redis answers, or runs out");
        break;
    }
    writer_token(out, WIRE_MEMBER_LEASE, &slot->token);
    write_key(out, slot);
    if (outcome == LEASE_RELEASE_LOST)
        writer_bool(out, WIRE_MEMBER_FREED, slot->lease.flags & LEASE_FREED);
    writer_int(out, WIRE_MEMBER_HELD_MS, lease_held_for(&slot->lease, 0));
    finish(session);
}

// ---- cancel, extend, adopt, inspect, break ----

void tell_cancel(struct session *session, const struct message_request *request, bool cancelled)
{
    writer_reply(&session->out, true, WIRE_OP_CANCEL, &request->id);
    writer_bool(&session->out, WIRE_MEMBER_CANCELLED, cancelled);
    finish(session);
}

void tell_lost(struct session *session, const struct message_request *request,
               const struct slot *slot)
{
    struct buf *out = &session->out;

    writer_error(out, request->op, &request->id, WIRE_ERROR_LOST_ACTOR_LOCK,
                 "the lease had been lost or revoked");
    writer_token(out, WIRE_MEMBER_LEASE, &slot->token);
    write_key(out, slot);
    finish(session);
}

static void write_query_key(struct buf *out, const struct query *query)
{
    writer_string(out, WIRE_MEMBER_KEY, query->key, query->key_length);
}

void tell_extended(struct session *session, const struct query *query, const struct slot *slot,
                   const struct store_completion *completion, int64_t now_ms)
{
    struct buf *out = &session->out;
    bool held = slot && slot->lease.state == LEASE_HELD;

    if (held && completion->outcome != STORE_OK) {
        tell_query_failed(session, query, completion);
        return;
    }
    if (held)
        writer_reply(out, true, WIRE_OP_EXTEND, &query->id);
    else
        writer_error(out, WIRE_OP_EXTEND, &query->id, WIRE_ERROR_LOST_ACTOR_LOCK,
                     "the lease was lost or revoked meanwhile");
    writer_token(out, WIRE_MEMBER_LEASE, &query->token);
    write_query_key(out, query);
    if (held) {
        writer_int(out, WIRE_MEMBER_DEADLINE_MS, slot->lease.deadline_ms);
        writer_int(out, WIRE_MEMBER_DEADLINE_IN_MS,
                   at_least_0(lease_deadline_at(&slot->lease) - now_ms));
    }
    finish(session);
}

void tell_not_adopted(struct session *session, const struct message_id *id, const char *key,
                      size_t key_length)
{
    struct buf *out = &session->out;

    writer_error(out, WIRE_OP_ADOPT, id, WIRE_ERROR_LOST_ACTOR_LOCK,
                 "the key is not held by this lease, or its time is over; stop at once");
    writer_string(out, WIRE_MEMBER_KEY, key, key_length);
    finish(session);
}

// Times of a lease, by the clock that wrote them.
static void write_inspected_value(struct buf *out, const struct value *value, int64_t now_us)
{
    writer_int(out, WIRE_MEMBER_DEADLINE_IN_MS, at_least_0((value->deadline_us - now_us) / 1000));
    writer_int(out, WIRE_MEMBER_SINCE_MS, at_least_0((now_us - value->since_us) / 1000));
}

void tell_inspected(const struct keeper *keeper, struct session *session, const struct query *query,
                    const struct store_completion *completion)
{
    struct buf *out = &session->out;
    bool held = completion->outcome == STORE_HELD;
    struct value value;

    writer_reply(out, true, WIRE_OP_INSPECT, &query->id);
    write_query_key(out, query);
    writer_bool(out, WIRE_MEMBER_HELD, held);
    if (held) {
        bool ours = completion->value &&
                    value_parse(completion->value, completion->value_length, &value) == 0;
        writer_bool(out, WIRE_MEMBER_HERE,
                    ours && memcmp(value.token.instance, keeper->instance,
                                   sizeof value.token.instance) == 0);
        write_stored_holder(out, completion);
        if (completion->pttl_ms >= 0)
            writer_int(out, WIRE_MEMBER_TTL_LEFT_MS, completion->pttl_ms);
        else
            writer_null(out, WIRE_MEMBER_TTL_LEFT_MS);
        if (ours)
            write_inspected_value(out, &value, completion->now_us);
    }
    finish(session);
}

void tell_broken(struct session *session, const struct query *query, bool broken)
{
    writer_reply(&session->out, true, WIRE_OP_BREAK, &query->id);
    write_query_key(&session->out, query);
    writer_bool(&session->out, WIRE_MEMBER_BROKEN, broken);
    finish(session);
}

void tell_query_failed(struct session *session, const struct query *query,
                       const struct store_completion *completion)
{
    write_failed(&session->out, query->op, &query->id, completion);
    write_query_key(&session->out, query);
    finish(session);
}
