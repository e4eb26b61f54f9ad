// SPDX-License-Identifier: Apache-2.0
//
// adopt, extend, inspect, break: requests that ask Redis something about a key besides acquiring,
// renewing and releasing it.
//
// Each is a query with a number and a generation of its own, which the store brings back; its
// session may go meanwhile, then the answer is carried out all the same and told to nobody.
//
// adopt    Redis moves the lease to this instance where its token, uid and deadline allow it. The
//          answer makes a slot that is held from then on; or, for a lease of this sidecar, moves it
//          from one connection to another. What could keep it from being held here is looked at
//          before, for once Redis was asked, whoever had it has it no more.
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

// A query of the session; 0 after a refusal.
static uint32_t open_query(struct keeper *keeper, struct session *session,
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

static struct session *asker_of(const struct keeper *keeper, const struct query *query)
{
    return query->session ? keeper->sessions[query->session] : NULL;
}

static void submit(struct keeper *keeper, uint32_t number, enum store_op op,
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
    uint32_t number = open_query(keeper, session, request);

    if (number != 0)
        submit(keeper, number, STORE_INSPECT, session, now_ms);
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
    number = open_query(keeper, session, request);
    if (number == 0)
        return;
    query = keeper->queries[number];
    query->lease = lease;
    query->lease_generation = slot->generation;
    query->deadline_ms = deadline_ms;
    name_key(query, slot);
    submit(keeper, number, STORE_EXTEND, session, now_ms);
}

static void extended(struct keeper *keeper, const struct query *query,
                     const struct store_completion *completion, int64_t now_ms)
{
    const struct slot *slot = table_find(&keeper->table, query->lease, query->lease_generation);
    struct session *session = asker_of(keeper, query);

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

// ---- adopt ----

// The token is of a lease here: held, its uid must be the session's; over, it is lost for good.
static bool may_adopt_here(struct keeper *keeper, struct session *session,
                           const struct message_request *request, const struct slot *slot)
{
    uid_t uid = accounts_uid(&keeper->accounts, slot->account);
    bool same_key = slot->key_length == request->key_length &&
                    memcmp(slot_key(slot), request->key, request->key_length) == 0;

    if (!same_key || slot->lease.state != LEASE_HELD) {
        tell_not_adopted(session, &request->id, request->key, request->key_length);
        return false;
    }
    if (session->uid == 0 || session->uid == uid)
        return true;
    tell_error(session, request->op, &request->id, WIRE_ERROR_NOT_PERMITTED,
               "only the uid that acquired a lease, or root, may adopt it");
    return false;
}

// The process that the lease is to be bound to; false after a refusal.
static bool can_be_bound(struct keeper *keeper, struct session *session,
                         const struct message_request *request)
{
    const struct keeper_options *options = &keeper->options;
    pid_t pid = (pid_t)request->pid;
    void *watch;
    const char *why;

    if (request->bind != WIRE_BIND_PID)
        return true;
    why = options->watch_process ? options->watch_process(options->context, session, &pid, &watch)
                                 : "processes cannot be watched here";
    if (!why)
        options->unwatch_process(options->context, watch);
    else
        tell_error(session, request->op, &request->id, WIRE_ERROR_BAD_REQUEST,
                   "\"bind\" \"pid\": %s", why);
    return !why;
}

// A query for a lease that has no slot here: counted against the uid's cap from now on.
static uint32_t open_query_with_place(struct keeper *keeper, struct session *session,
                                      const struct message_request *request)
{
    uint32_t number;

    if (accounts_take(&keeper->accounts, session->account, ACCOUNT_LEASES) != 0) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_LIMIT_EXCEEDED,
                   "uid %lld has %lld leases, the most it may (--max-leases-per-uid); the lease is "
                   "left as it was",
                   (long long)session->uid, (long long)keeper->options.caps[ACCOUNT_LEASES]);
        return 0;
    }
    number = open_query(keeper, session, request);
    if (number == 0) {
        accounts_give(&keeper->accounts, session->account, ACCOUNT_LEASES);
        return 0;
    }
    keeper->queries[number]->has_place = true;
    keeper->queries[number]->account = session->account;
    return number;
}

void keeper_adopt(struct keeper *keeper, struct session *session,
                  const struct message_request *request, int64_t now_ms)
{
    uint32_t lease = table_find_token(&keeper->table, &request->lease);
    const struct slot *slot = lease == SLOT_NONE ? NULL : table_slot(&keeper->table, lease);
    uint32_t number;

    if (keeper->draining) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_SHUTTING_DOWN,
                   "the sidecar is shutting down and adopts no leases; connect again later");
        return;
    }
    if ((slot && !may_adopt_here(keeper, session, request, slot)) ||
        !can_be_bound(keeper, session, request))
        return;
    number = slot ? open_query(keeper, session, request)
                  : open_query_with_place(keeper, session, request);
    if (number == 0)
        return;
    if (slot) {
        keeper->queries[number]->lease = lease;
        keeper->queries[number]->lease_generation = slot->generation;
    }
    submit(keeper, number, STORE_ADOPT, session, now_ms);
}

// A slot for a lease that another sidecar granted, in the query's place; SLOT_NONE: out of memory.
static uint32_t open_adopted(struct keeper *keeper, struct query *query, const struct value *value)
{
    struct slot *slot;
    uint32_t number;

    number = schedule_reserve(&keeper->schedule, keeper->table.used + 1) == 0
                 ? table_open(&keeper->table, &query->token, query->key, query->key_length,
                              value->label, value->label_length)
                 : SLOT_NONE;
    if (number == SLOT_NONE)
        return SLOT_NONE;
    query->has_place = false;
    slot = table_slot(&keeper->table, number);
    lease_init(&slot->lease, value->ttl_ms, (value->deadline_us - value->since_us) / 1000, 0,
               query->expires);
    keeper_count(keeper, &slot->lease, 1);
    slot->account = query->account & (ACCOUNT_MAX - 1u);
    slot->fence = value->fence;
    slot->pid = (uint32_t)value->pid;
    return number;
}

// What a value from elsewhere must be for the lease machine to take it on.
static bool is_manageable(const struct keeper *keeper, const struct value *value)
{
    char why[256];
    int64_t deadline_ms = (value->deadline_us - value->since_us) / 1000;

    return value->ttl_ms <= LEASE_MAX_SPAN_MS && deadline_ms > 0 &&
           deadline_ms <= LEASE_MAX_SPAN_MS &&
           lease_rules_check(&keeper->options.rules, value->ttl_ms, why, sizeof why) == 0;
}

// The lease is this session's from now on; whoever had it here is told.
static void hand_to(struct keeper *keeper, struct session *session, uint32_t number,
                    const struct query *query, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    struct session *holder = keeper_session_of(keeper, slot);
    const char *why = NULL;

    if (holder && holder != session) {
        slot->lease.reason = WIRE_REASON_MOVED;
        keeper_page_leave(holder, slot);
        tell_revoked(keeper, holder, slot, slot->lease.until_ms, now_ms);
        keeper_detach(keeper, holder, number);
    }
    if (slot->bind == WIRE_BIND_PID)
        keeper_unbind_process(keeper, slot);
    slot->bind = (query->bind == WIRE_BIND_PID ? WIRE_BIND_CONNECTION : query->bind) & 3u;
    slot->notify = query->notify & 3u;
    slot->pid = (uint32_t)session->pid;
    lease_set_expires(&slot->lease, query->expires);
    if (holder != session)
        keeper_attach(keeper, session, number);
    if (query->bind == WIRE_BIND_PID)
        why = keeper_bind_process(keeper, session, number, query->pid);
    tell_granted(session, slot, WIRE_OP_ADOPT, &query->id, 0, keeper_page_grant(session, slot));
    keeper_note_unread(session, number, slot);
    if (why) {
        log_warn("the process that an adopted lease is bound to has ended meanwhile",
                 LOG_FIELD_STR("reason", why));
        keeper_apply(keeper, number, &(struct lease_event){.kind = LEASE_ON_UNBIND, .tell = true},
                     NULL, now_ms);
        return;
    }
    keeper_end_late_grant(keeper, number, slot->generation, now_ms);
}

// Takes the key's place here, unless somebody waits for the key: then that one goes on asking Redis.
static void take_key(struct keeper *keeper, uint32_t number, int64_t now_ms)
{
    const struct slot *slot = table_slot(&keeper->table, number);
    uint32_t head = table_find_key(&keeper->table, slot_key(slot), slot->key_length);

    // A lease that was held here under another token has lost the key.
    if (head != SLOT_NONE && lease_is_live(&table_slot(&keeper->table, head)->lease)) {
        keeper_apply_kind(keeper, head, LEASE_ON_NOT_OWNER, now_ms);
        head = table_find_key(&keeper->table, slot_key(slot), slot->key_length);
    }
    if (head == SLOT_NONE)
        table_set_key(&keeper->table, number);
}

// The lease, held here from now on; SLOT_NONE where it cannot be, or its time is over already.
static uint32_t take_on(struct keeper *keeper, struct query *query,
                        const struct store_completion *completion, const struct value *value,
                        int64_t now_ms)
{
    uint32_t number = open_adopted(keeper, query, value);
    uint32_t generation;

    if (number == SLOT_NONE)
        return SLOT_NONE;
    if (value->fence > keeper->fence_floor)
        keeper->fence_floor = value->fence;
    generation = table_slot(&keeper->table, number)->generation;
    keeper_apply(keeper, number,
                 &(struct lease_event){
                     .kind = LEASE_ON_ADOPTED,
                     .sent_at_ms = completion->sent_at_ms,
                     .age_ms = (completion->now_us - value->since_us) / 1000,
                     .phase = keeper_phase(keeper, number),
                 },
                 NULL, now_ms);
    return table_find(&keeper->table, number, generation) ? number : SLOT_NONE;
}

static void adopted_from_elsewhere(struct keeper *keeper, struct query *query,
                                   const struct store_completion *completion,
                                   const struct value *value, int64_t now_ms)
{
    struct session *session = asker_of(keeper, query);
    uint32_t number;

    if (!is_manageable(keeper, value)) {
        tell_error(session, WIRE_OP_ADOPT, &query->id, WIRE_ERROR_LIMIT_EXCEEDED,
                   "the lease cannot be held here: its TTL or deadline does not fit this sidecar");
        return;
    }
    number = take_on(keeper, query, completion, value, now_ms);
    if (number == SLOT_NONE) {
        tell_not_adopted(session, &query->id, query->key, query->key_length);
        return;
    }
    take_key(keeper, number, now_ms);
    hand_to(keeper, session, number, query, now_ms);
}

// Whoever adopted has gone. By its own doing, and with a lease that is bound to its connection: the
// binding has ended. Otherwise it may adopt again, and nobody heartbeats it until then.
static void adopted_by_nobody(struct keeper *keeper, struct query *query,
                              const struct store_completion *completion, const struct value *value,
                              int64_t now_ms)
{
    uint32_t number = query->unbound && is_manageable(keeper, value)
                          ? take_on(keeper, query, completion, value, now_ms)
                          : SLOT_NONE;

    if (number != SLOT_NONE)
        keeper_apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
}

// Redis has lengthened it: a confirmation for whoever has it, also where the adopter has gone.
static void adopted_here(struct keeper *keeper, const struct query *query,
                         const struct store_completion *completion, int64_t now_ms)
{
    struct session *session = asker_of(keeper, query);
    const struct slot *slot = table_find(&keeper->table, query->lease, query->lease_generation);

    if (slot && slot->lease.state == LEASE_HELD)
        keeper_apply(keeper, query->lease,
                     &(struct lease_event){
                         .kind = LEASE_ON_RENEWED,
                         .sent_at_ms = completion->sent_at_ms,
                         .phase = keeper_phase(keeper, query->lease),
                         .late = true, // it says nothing of a heartbeat that is under way
                     },
                     NULL, now_ms);
    if (!session)
        return;
    slot = table_find(&keeper->table, query->lease, query->lease_generation);
    if (slot && slot->lease.state == LEASE_HELD)
        hand_to(keeper, session, query->lease, query, now_ms);
    else
        tell_not_adopted(session, &query->id, query->key, query->key_length);
}

// Who adopted the same lease a moment ago has made it one of this sidecar's.
static void find_adopted(const struct keeper *keeper, struct query *query)
{
    uint32_t lease = table_find_token(&keeper->table, &query->token);

    if (query->lease != SLOT_NONE || lease == SLOT_NONE)
        return;
    query->lease = lease;
    query->lease_generation = table_slot(&keeper->table, lease)->generation;
}

static void adopted(struct keeper *keeper, struct query *query,
                    const struct store_completion *completion, int64_t now_ms)
{
    struct session *session = asker_of(keeper, query);
    struct value value;
    bool moved = completion->outcome == STORE_OK && completion->value &&
                 value_parse(completion->value, completion->value_length, &value) == 0;

    find_adopted(keeper, query);
    if (completion->outcome == STORE_OK && query->lease != SLOT_NONE)
        adopted_here(keeper, query, completion, now_ms);
    else if (moved && !session)
        adopted_by_nobody(keeper, query, completion, &value, now_ms);
    else if (!session)
        return;
    else if (moved)
        adopted_from_elsewhere(keeper, query, completion, &value, now_ms);
    else if (completion->outcome == STORE_NOT_OWNER || completion->outcome == STORE_OK)
        tell_not_adopted(session, &query->id, query->key, query->key_length);
    else if (completion->outcome == STORE_NOT_YOURS)
        tell_error(session, WIRE_OP_ADOPT, &query->id, WIRE_ERROR_NOT_PERMITTED,
                   "only the uid that acquired a lease, or root, may adopt it");
    else
        tell_query_failed(session, query, completion);
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
    number = open_query(keeper, session, request);
    if (number == 0)
        return;
    log_warn("lock broken", LOG_FIELD_BYTES("key", request->key, request->key_length),
             LOG_FIELD_INT("by_uid", session->uid), LOG_FIELD_INT("by_pid", session->pid));
    if (!slot || !lease_is_live(&slot->lease)) {
        submit(keeper, number, STORE_BREAK, session, now_ms);
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
        session = asker_of(keeper, query);
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
    struct session *session = query ? asker_of(keeper, query) : NULL;
    bool answered = completion->outcome == STORE_OK || completion->outcome == STORE_HELD ||
                    completion->outcome == STORE_NOT_OWNER;

    if (!query)
        return;
    if (completion->op == STORE_ADOPT)
        adopted(keeper, query, completion, now_ms);
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
