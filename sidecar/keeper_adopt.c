// SPDX-License-Identifier: Apache-2.0
//
// adopt: Redis moves a lease to this instance where its token, uid and deadline allow it.
//
// The answer makes a slot that is held from then on; or, for a lease of this sidecar, moves it from
// one connection to another. What could keep it from being held here is looked at before, for once
// Redis was asked, whoever had it has it no more.

#include <string.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/log.h"
#include "sidecar/tell.h"
#include "sidecar/value.h"

// ---- Before Redis is asked ----

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
    number = keeper_open_query(keeper, session, request);
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
    number = slot ? keeper_open_query(keeper, session, request)
                  : open_query_with_place(keeper, session, request);
    if (number == 0)
        return;
    if (slot) {
        keeper->queries[number]->lease = lease;
        keeper->queries[number]->lease_generation = slot->generation;
    }
    keeper_submit_query(keeper, number, STORE_ADOPT, session, now_ms);
}

// ---- From elsewhere ----

// The workflow deadline, from the grant.
static int64_t deadline_of(const struct value *value)
{
    return (value->deadline_us - value->since_us) / 1000;
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
    lease_init(&slot->lease, value->ttl_ms, deadline_of(value), 0, query->expires);
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
    int64_t deadline_ms = deadline_of(value);

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
    struct session *session = keeper_asker(keeper, query);
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

// ---- From here ----

// The query's lease, while it is held here.
static const struct slot *held_by(const struct keeper *keeper, const struct query *query)
{
    const struct slot *slot = table_find(&keeper->table, query->lease, query->lease_generation);

    return slot && slot->lease.state == LEASE_HELD ? slot : NULL;
}

// Redis has lengthened it: a confirmation for whoever has it, also where the adopter has gone. And it
// says how long it may be held: somebody may have adopted it elsewhere meanwhile, and extended it.
static void confirm(struct keeper *keeper, const struct query *query,
                    const struct store_completion *completion, const struct value *value,
                    int64_t now_ms)
{
    const struct slot *slot = held_by(keeper, query);

    if (slot && value && is_manageable(keeper, value) &&
        deadline_of(value) != slot->lease.deadline_ms)
        keeper_apply(
            keeper, query->lease,
            &(struct lease_event){.kind = LEASE_ON_EXTEND, .deadline_ms = deadline_of(value)}, NULL,
            now_ms);
    if (held_by(keeper, query))
        keeper_apply(keeper, query->lease,
                     &(struct lease_event){
                         .kind = LEASE_ON_RENEWED,
                         .sent_at_ms = completion->sent_at_ms,
                         .phase = keeper_phase(keeper, query->lease),
                         .late = true, // it says nothing of a heartbeat that is under way
                     },
                     NULL, now_ms);
}

static void adopted_here(struct keeper *keeper, const struct query *query, int64_t now_ms)
{
    struct session *session = keeper_asker(keeper, query);

    if (session && held_by(keeper, query))
        hand_to(keeper, session, query->lease, query, now_ms);
    else if (session)
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

// ---- The answer ----

void keeper_adopted(struct keeper *keeper, struct query *query,
                    const struct store_completion *completion, int64_t now_ms)
{
    struct session *session = keeper_asker(keeper, query);
    struct value value;
    bool moved = completion->outcome == STORE_OK && completion->value &&
                 value_parse(completion->value, completion->value_length, &value) == 0;

    find_adopted(keeper, query);
    if (completion->outcome == STORE_OK && query->lease != SLOT_NONE) {
        confirm(keeper, query, completion, moved ? &value : NULL, now_ms);
        adopted_here(keeper, query, now_ms);
    } else if (moved && !session)
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
