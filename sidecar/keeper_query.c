// SPDX-License-Identifier: Apache-2.0
//
// adopt, extend, inspect, break: requests that ask Redis something about a key besides acquiring,
// renewing and releasing it.
//
// Each is a query with a number and a generation of its own, which the store brings back; its
// session may go meanwhile, then the answer is carried out all the same and told to nobody.
//
// adopt    See keeper_adopt.c.
// extend   The value is rewritten first, then the lease here.
// break    A lease of this sidecar is revoked first and its key deleted after the grace; the query
//          waits for that. Any other key is deleted by the store.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/log.h"
#include "sidecar/tell.h"
#include "sidecar/value.h"

// ---- Queries ----

static struct query *find_query(const struct keeper *keeper, uint32_t number, uint32_t generation)
{
    struct query *query = number < keeper->query_count ? keeper->queries[number] : NULL;

    return query && query->generation == generation && generation & 1 ? query : NULL;
}

static uint32_t new_query(struct keeper *keeper)
{
    uint32_t number = keeper->query_free;
    struct query **queries;
    struct query *query;

    if (number != 0) {
        keeper->query_free = keeper->queries[number]->next_free;
        return number;
    }
    number = keeper->query_count ? keeper->query_count : 1; // 0 names none
    queries = realloc(keeper->queries, (number + 1) * sizeof(struct query *));
    query = calloc(1, sizeof *query);
    if (queries)
        keeper->queries = queries;
    if (!queries || !query) {
        free(query);
        return 0;
    }
    queries[0] = NULL;
    queries[number] = query;
    keeper->query_count = number + 1;
    return number;
}

uint32_t keeper_open_query(struct keeper *keeper, struct session *session,
                           const struct message_request *request)
{
    uint32_t number = keeper_may_wait(session, request) ? new_query(keeper) : 0;
    uint32_t generation;
    struct query *query;

    if (number == 0) {
        if (session->unanswered < WIRE_MAX_UNANSWERED)
            tell_error(session, request->op, &request->id, WIRE_ERROR_INTERNAL, "out of memory");
        return 0;
    }
    query = keeper->queries[number];
    generation = query->generation + 1;
    *query = (struct query){
        .id = request->id,
        .token = request->lease,
        .op = request->op,
        .generation = generation,
        .session = session->number,
        .bind = request->bind & 3,
        .notify = request->notify & 3,
        .expires = request->on_disconnect == WIRE_DISCONNECT_EXPIRE,
        .pid = (pid_t)request->pid,
        .key_length = (uint16_t)request->key_length,
    };
    memcpy(query->key, request->key, request->key_length);
    session->unanswered++;
    return number;
}

static void close_query(struct keeper *keeper, uint32_t number)
{
    struct query *query = keeper->queries[number];

    if (query->session)
        keeper->sessions[query->session]->unanswered--;
    if (query->has_place)
        accounts_give(&keeper->accounts, query->account, ACCOUNT_LEASES);
    query->generation++;
    query->next_free = keeper->query_free;
    keeper->query_free = number;
}

void keeper_forget_queries(struct keeper *keeper, struct session *session, bool gone)
{
    for (uint32_t i = 1; i < keeper->query_count && session->unanswered > 0; i++) {
        struct query *query = keeper->queries[i];
        if (!(query->generation & 1) || query->session != session->number)
            continue;
        query->session = 0;
        query->unbound = gone && query->bind == WIRE_BIND_CONNECTION;
        session->unanswered--;
    }
}

struct session *keeper_asker(const struct keeper *keeper, const struct query *query)
{
    return query->session ? keeper->sessions[query->session] : NULL;
}

void keeper_submit_query(struct keeper *keeper, uint32_t number, enum store_op op,
                         const struct session *session, int64_t now_ms)
{
    const struct query *query = keeper->queries[number];
    struct store_query call = {
        .op = op,
        .lease = number,
        .generation = query->generation,
        .key = query->key,
        .key_length = query->key_length,
        .token = {.token = query->token},
        .deadline_ms = query->deadline_ms,
        .pid = query->pid ? query->pid : session->pid,
        .uid = session->uid,
        .host = keeper->options.host,
        .timeout_ms = lease_call_ms(keeper->options.lock_ttl_ms),
    };

    memcpy(call.token.instance, keeper->instance, sizeof call.token.instance);
    keeper->store->ops->query(keeper->store, &call, now_ms);
}

static void name_key(struct query *query, const struct slot *slot)
{
    query->key_length = slot->key_length;
    memcpy(query->key, slot_key(slot), slot->key_length);
}

// ---- inspect ----

static bool is_operator(const struct keeper *keeper, const struct session *session)
{
    return session->uid == 0 || session->uid == keeper->options.uid;
}

void keeper_inspect(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms)
{
    uint32_t number = keeper_open_query(keeper, session, request);

    if (number != 0)
        keeper_submit_query(keeper, number, STORE_INSPECT, session, now_ms);
}

// ---- extend ----

void keeper_extend(struct keeper *keeper, struct session *session,
                   const struct message_request *request, int64_t now_ms)
{
    uint32_t lease = table_find_token(&keeper->table, &request->lease);
    struct slot *slot = lease == SLOT_NONE ? NULL : table_slot(&keeper->table, lease);
    int64_t deadline_ms = request->deadline_ms;
    uint32_t number;
    struct query *query;

    if (slot && slot->lease.state == LEASE_ENDING) {
        tell_lost(session, request, slot);
        return;
    }
    if (!slot || slot->lease.state != LEASE_HELD) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_UNKNOWN_LEASE,
                   "\"lease\" names no lease of this sidecar; it may have ended long ago");
        return;
    }
    if (deadline_ms > keeper->options.max_workflow_deadline_ms)
        deadline_ms = keeper->options.max_workflow_deadline_ms;
    if (slot->lease.held_ms + deadline_ms <= now_ms) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_BAD_REQUEST,
                   "\"deadline_ms\" counts from the grant, %lld ms ago: that moment is past",
                   (long long)(now_ms - slot->lease.held_ms));
        return;
    }
    number = keeper_open_query(keeper, session, request);
    if (number == 0)
        return;
    query = keeper->queries[number];
    query->lease = lease;
    query->lease_generation = slot->generation;
    query->deadline_ms = deadline_ms;
    name_key(query, slot);
    keeper_submit_query(keeper, number, STORE_EXTEND, session, now_ms);
}

static void extended(struct keeper *keeper, const struct query *query,
                     const struct store_completion *completion, int64_t now_ms)
{
    const struct slot *slot = table_find(&keeper->table, query->lease, query->lease_generation);
    struct session *session = keeper_asker(keeper, query);

    if (slot && completion->outcome == STORE_OK)
        keeper_apply(
            keeper, query->lease,
            &(struct lease_event){.kind = LEASE_ON_EXTEND, .deadline_ms = query->deadline_ms}, NULL,
            now_ms);
    else if (slot && completion->outcome == STORE_NOT_OWNER)
        keeper_apply_kind(keeper, query->lease, LEASE_ON_NOT_OWNER, now_ms);
    slot = table_find(&keeper->table, query->lease, query->lease_generation);
    if (session)
        tell_extended(session, query, slot, completion, now_ms);
}

// ---- break ----

void keeper_break(struct keeper *keeper, struct session *session,
                  const struct message_request *request, int64_t now_ms)
{
    uint32_t head = table_find_key(&keeper->table, request->key, request->key_length);
    const struct slot *slot = head == SLOT_NONE ? NULL : table_slot(&keeper->table, head);
    uint32_t number;

    if (!is_operator(keeper, session)) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_NOT_PERMITTED,
                   "only uid %lld (the sidecar's own) and root may break a lock",
                   (long long)keeper->options.uid);
        return;
    }
    number = keeper_open_query(keeper, session, request);
    if (number == 0)
        return;
    log_warn("lock broken", LOG_FIELD_BYTES("key", request->key, request->key_length),
             LOG_FIELD_INT("by_uid", session->uid), LOG_FIELD_INT("by_pid", session->pid));
    if (!slot || !lease_is_live(&slot->lease)) {
        keeper_submit_query(keeper, number, STORE_BREAK, session, now_ms);
        return;
    }
    keeper->queries[number]->lease = head;
    keeper->queries[number]->lease_generation = slot->generation;
    keeper->breaking++;
    keeper_apply(keeper, head,
                 &(struct lease_event){.kind = LEASE_ON_BREAK, .grace_ms = request->grace_ms}, NULL,
                 now_ms);
}

void keeper_query_forgotten(struct keeper *keeper, uint32_t number, uint32_t generation)
{
    for (uint32_t i = 1; i < keeper->query_count && keeper->breaking > 0; i++) {
        struct query *query = keeper->queries[i];
        struct session *session;
        if (!(query->generation & 1) || query->op != WIRE_OP_BREAK || query->lease != number ||
            query->lease_generation != generation)
            continue;
        session = keeper_asker(keeper, query);
        if (session)
            tell_broken(session, query, true);
        keeper->breaking--;
        close_query(keeper, i);
    }
}

// ---- Answers ----

void keeper_query_completed(struct keeper *keeper, const struct store_completion *completion,
                            int64_t now_ms)
{
    struct query *query = find_query(keeper, completion->lease, completion->generation);
    struct session *session = query ? keeper_asker(keeper, query) : NULL;
    bool answered = completion->outcome == STORE_OK || completion->outcome == STORE_HELD ||
                    completion->outcome == STORE_NOT_OWNER;

    if (!query)
        return;
    if (completion->op == STORE_ADOPT)
        keeper_adopted(keeper, query, completion, now_ms);
    else if (completion->op == STORE_EXTEND)
        extended(keeper, query, completion, now_ms);
    else if (session && !answered)
        tell_query_failed(session, query, completion);
    else if (session && completion->op == STORE_BREAK)
        tell_broken(session, query, completion->outcome == STORE_OK);
    else if (session)
        tell_inspected(keeper, session, query, completion);
    close_query(keeper, completion->lease);
}
