// SPDX-License-Identifier: Apache-2.0
//
// acquire, release, cancel.
//
// Whoever asks for a key that has a lease here is answered from the table (it is held, or others
// wait and the request does not), or queues behind it. Redis is asked only for a key without one.

#include <stdlib.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/tell.h"

// ---- What may be asked ----

bool keeper_may_wait(struct session *session, const struct message_request *request)
{
    if (session->unanswered < WIRE_MAX_UNANSWERED)
        return true;
    tell_error(session, request->op, &request->id, WIRE_ERROR_LIMIT_EXCEEDED,
               "%d requests of this connection wait for their reply, the most there may be; read "
               "replies first",
               WIRE_MAX_UNANSWERED);
    return false;
}

// The session's acquire that is named id and waits; SLOT_NONE.
static uint32_t find_waiting(const struct keeper *keeper, const struct session *session,
                             const struct message_id *id)
{
    uint32_t number = session->waiters;

    while (number != SLOT_NONE) {
        const struct slot *slot = table_slot(&keeper->table, number);
        if (slot->lease.flags & LEASE_WAITS && lease_is_asking(&slot->lease) &&
            message_id_equal(&slot->pending->id, id))
            break;
        number = slot->session_next;
    }
    return number;
}

static bool id_is_free(const struct keeper *keeper, struct session *session,
                       const struct message_request *request)
{
    if (request->id.kind == MESSAGE_ID_NONE ||
        find_waiting(keeper, session, &request->id) == SLOT_NONE)
        return true;
    tell_error(session, request->op, NULL, WIRE_ERROR_BAD_REQUEST,
               "\"id\" is that of an acquire which still waits; choose another, or cancel it");
    return false;
}

static bool ttl_is_allowed(const struct keeper *keeper, struct session *session,
                           const struct message_request *request, int64_t ttl_ms)
{
    const struct keeper_options *options = &keeper->options;
    char why[256];

    if (ttl_ms > options->max_lock_ttl_ms) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_BAD_REQUEST,
                   "\"ttl_ms\" is at most %lld here (--max-lock-ttl), not %lld",
                   (long long)options->max_lock_ttl_ms, (long long)ttl_ms);
        return false;
    }
    if (lease_rules_check(&options->rules, ttl_ms, why, sizeof why) < 0) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_BAD_REQUEST, "\"ttl_ms\": %s",
                   why);
        return false;
    }
    return true;
}

// Counts the acquire against its uid's caps; false after a refusal.
static bool take_places(struct keeper *keeper, struct session *session,
                        const struct message_request *request)
{
    struct accounts *accounts = &keeper->accounts;

    if (accounts_take(accounts, session->account, ACCOUNT_LEASES) != 0) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_LIMIT_EXCEEDED,
                   "uid %lld has %lld leases, the most it may (--max-leases-per-uid); release some",
                   (long long)session->uid, (long long)keeper->options.caps[ACCOUNT_LEASES]);
        return false;
    }
    if (request->wait_ms == 0 || accounts_take(accounts, session->account, ACCOUNT_WAITERS) == 0)
        return true;
    accounts_give(accounts, session->account, ACCOUNT_LEASES);
    tell_error(session, request->op, &request->id, WIRE_ERROR_LIMIT_EXCEEDED,
               "uid %lld has %lld acquires that wait, the most it may (--max-waiters-per-uid)",
               (long long)session->uid, (long long)keeper->options.caps[ACCOUNT_WAITERS]);
    return false;
}

static void give_places(struct keeper *keeper, const struct session *session,
                        const struct message_request *request)
{
    accounts_give(&keeper->accounts, session->account, ACCOUNT_LEASES);
    if (request->wait_ms != 0)
        accounts_give(&keeper->accounts, session->account, ACCOUNT_WAITERS);
}

// ---- Acquire ----

static int64_t wait_until(const struct message_request *request, int64_t now_ms)
{
    if (request->wait_ms == 0)
        return 0;
    if (request->wait_ms < 0 || request->wait_ms > LEASE_MAX_SPAN_MS)
        return INT64_MAX;
    return now_ms + request->wait_ms;
}

static void begin_lease(const struct keeper *keeper, struct slot *slot,
                        const struct message_request *request, int64_t ttl_ms, int64_t now_ms)
{
    int64_t deadline_ms =
        request->deadline_ms ? request->deadline_ms : keeper->options.workflow_deadline_ms;

    if (deadline_ms > keeper->options.max_workflow_deadline_ms)
        deadline_ms = keeper->options.max_workflow_deadline_ms;
    lease_init(&slot->lease, ttl_ms, deadline_ms, wait_until(request, now_ms),
               request->on_disconnect == WIRE_DISCONNECT_EXPIRE);
}

static uint32_t make_slot(struct keeper *keeper, const struct message_request *request)
{
    struct message_token token;

    if (schedule_reserve(&keeper->schedule, keeper->table.used + 1) < 0)
        return SLOT_NONE;
    keeper_draw(keeper, &token, sizeof token);
    return table_open(&keeper->table, &token, request->key, request->key_length, request->label,
                      request->label_length);
}

// A slot with everything but its place among the others; SLOT_NONE after a refusal was told.
static uint32_t open_slot(struct keeper *keeper, struct session *session,
                          const struct message_request *request, int64_t ttl_ms, int64_t now_ms)
{
    struct pending *pending = keeper_take_pending(keeper);
    uint32_t number = pending ? make_slot(keeper, request) : SLOT_NONE;
    struct slot *slot;

    if (number == SLOT_NONE) {
        free(pending);
        tell_error(session, request->op, &request->id, WIRE_ERROR_INTERNAL, "out of memory");
        return SLOT_NONE;
    }
    *pending = (struct pending){.id = request->id, .asked_at_ms = now_ms};
    slot = table_slot(&keeper->table, number);
    slot->pending = pending;
    slot->pid = (uint32_t)session->pid;
    slot->account = session->account & (ACCOUNT_MAX - 1u);
    slot->bind = request->bind == WIRE_BIND_PID ? WIRE_BIND_CONNECTION : request->bind & 3;
    slot->notify = request->notify & 3;
    begin_lease(keeper, slot, request, ttl_ms, now_ms);
    keeper_count(keeper, &slot->lease, 1);
    session->unanswered++;
    keeper_attach(keeper, session, number);
    return number;
}

static void drop_slot(struct keeper *keeper, struct session *session, uint32_t number,
                      int64_t now_ms)
{
    keeper_drop_pending(keeper, session, table_slot(&keeper->table, number));
    keeper_apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
}

// Whether somebody waits for the key. Those who try once stand in front, so the last one tells.
static bool others_wait(const struct table *table, const struct slot *front)
{
    const struct slot *last = front->queue == SLOT_NONE ? front : table_slot(table, front->queue);

    return (front->lease.flags | last->lease.flags) & LEASE_WAITS;
}

// The key has a lease here, and the request would not wait, or not in vain.
static bool answer_from_table(struct keeper *keeper, struct session *session,
                              const struct message_request *request, uint32_t head, int64_t now_ms)
{
    const struct slot *front = table_slot(&keeper->table, head);
    const struct denial *denial =
        lease_is_asking(&front->lease) && front->pending ? front->pending->denial : NULL;

    if (request->wait_ms != 0 ||
        !(lease_is_live(&front->lease) || others_wait(&keeper->table, front)))
        return false;
    if (denial && denial->completion.outcome == STORE_HELD)
        tell_held_there(session, request, &denial->completion, now_ms - denial->at_ms);
    else
        tell_held_here(keeper, session, request->key, request->key_length, &request->id, front, 0,
                       now_ms);
    return true;
}

void keeper_acquire(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms)
{
    int64_t ttl_ms = request->ttl_ms ? request->ttl_ms : keeper->options.lock_ttl_ms;
    uint32_t head, number;
    const char *why;

    if (keeper->draining) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_SHUTTING_DOWN,
                   "the sidecar is shutting down and grants no new leases; connect again later");
        return;
    }
    if (!keeper_may_wait(session, request) || !id_is_free(keeper, session, request) ||
        !ttl_is_allowed(keeper, session, request, ttl_ms))
        return;
    head = table_find_key(&keeper->table, request->key, request->key_length);
    if (head != SLOT_NONE && answer_from_table(keeper, session, request, head, now_ms))
        return;
    if (!take_places(keeper, session, request))
        return;
    number = open_slot(keeper, session, request, ttl_ms, now_ms);
    if (number == SLOT_NONE) {
        give_places(keeper, session, request);
        return;
    }
    why = request->bind == WIRE_BIND_PID
              ? keeper_bind_process(keeper, session, number, (pid_t)request->pid)
              : NULL;
    if (why) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_BAD_REQUEST,
                   "\"bind\" \"pid\": %s", why);
        drop_slot(keeper, session, number, now_ms);
        return;
    }
    if (head != SLOT_NONE) {
        table_queue_push(&keeper->table, head, number);
        keeper_apply_kind(keeper, number, LEASE_ON_QUEUE, now_ms);
        return;
    }
    table_set_key(&keeper->table, number);
    keeper_apply_kind(keeper, number, LEASE_ON_START, now_ms);
}

// ---- Release ----

static bool may_release(const struct slot *slot)
{
    return slot->lease.state == LEASE_HELD || slot->lease.state == LEASE_ENDING;
}

// The lease that the request names, after what is overdue was done to it; NULL when there is none.
static struct slot *find_releasable(struct keeper *keeper, const struct message_request *request,
                                    uint32_t *number, int64_t now_ms)
{
    struct slot *slot;
    uint32_t generation;

    *number = table_find_token(&keeper->table, &request->lease);
    if (*number == SLOT_NONE)
        return NULL;
    slot = table_slot(&keeper->table, *number);
    if (!may_release(slot))
        return NULL;
    generation = slot->generation;
    keeper_apply_kind(keeper, *number, LEASE_ON_WAKE, now_ms);
    slot = table_find(&keeper->table, *number, generation);
    return slot && may_release(slot) ? slot : NULL;
}

void keeper_release(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms)
{
    uint32_t number;
    struct slot *slot = find_releasable(keeper, request, &number, now_ms);
    struct session *holder;
    struct pending *pending;

    if (!slot) {
        keeper_page_release(session, &request->lease);
        tell_error(session, request->op, &request->id, WIRE_ERROR_UNKNOWN_LEASE,
                   "\"lease\" names no lease of this sidecar; it may have ended long ago");
        return;
    }
    if (!keeper_may_wait(session, request))
        return;
    pending = keeper_take_pending(keeper);
    if (!pending) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_INTERNAL, "out of memory");
        return;
    }
    holder = keeper_session_of(keeper, slot);
    *pending = (struct pending){.id = request->id, .asked_at_ms = now_ms};
    session->unanswered++;
    if (holder && holder != session && slot->lease.state == LEASE_HELD) {
        slot->lease.reason = WIRE_REASON_RELEASED;
        keeper_page_leave(holder, slot);
        tell_revoked(keeper, holder, slot, slot->lease.until_ms, now_ms);
    }
    if (holder)
        keeper_detach(keeper, holder, number);
    keeper_page_release(session, &request->lease);
    keeper_attach(keeper, session, number);
    slot->pending = pending;
    keeper_apply_kind(keeper, number, LEASE_ON_RELEASE, now_ms);
}

// ---- Cancel ----

void keeper_cancel(struct keeper *keeper, struct session *session,
                   const struct message_request *request, int64_t now_ms)
{
    uint32_t number = find_waiting(keeper, session, &request->target);
    struct slot *slot;

    if (number != SLOT_NONE) {
        slot = table_slot(&keeper->table, number);
        tell_cancelled(session, slot, slot->pending, now_ms);
        keeper_drop_pending(keeper, session, slot);
        keeper_detach(keeper, session, number);
        keeper_apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
    }
    tell_cancel(session, request, number != SLOT_NONE);
}
