// SPDX-License-Identifier: Apache-2.0
//
// One function, keeper_apply, steps a lease and carries its actions out; everything else makes
// events.
//
// - Nothing asynchronous holds a pointer: the store gives (number, generation) back and the slot is
//   looked up; a session that goes is first taken off all its slots.
// - The actions of one step are carried out in the order of their bits: the holder is told before a
//   delete is submitted, and that before the key may be asked for again.
// - keeper_apply may close the slot. Whoever calls it looks the slot up again, or does not touch it
//   again.

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/log.h"
#include "sidecar/tell.h"

// ---- Randomness ----

void keeper_draw(struct keeper *keeper, void *bytes, size_t size)
{
    assert(size <= sizeof keeper->random);
    if (keeper->random_left < size) {
        keeper->options.random(keeper->options.context, keeper->random, sizeof keeper->random);
        keeper->random_left = sizeof keeper->random;
    }
    keeper->random_left -= size;
    memcpy(bytes, keeper->random + keeper->random_left, size);
    explicit_bzero(keeper->random + keeper->random_left, size);
}

// ---- Heartbeats ----

// The golden section of 2^32: whatever the number of blocks, their phases lie evenly.
#define BLOCK_PHASE UINT32_C(2654435769)

uint32_t keeper_phase(const struct keeper *keeper, uint32_t number)
{
    uint32_t turned = number / SCHEDULE_BLOCK * BLOCK_PHASE;

    return (keeper->phase + turned / (UINT32_MAX / LEASE_PHASES + 1)) % LEASE_PHASES;
}

// ---- Telling ----

static void log_revoked(const struct slot *slot, int64_t now_ms)
{
    log_info("lease revoked", LOG_FIELD_BYTES("key", slot_key(slot), slot->key_length),
             LOG_FIELD_STR("reason", wire_reason_names[slot->lease.reason]),
             LOG_FIELD_INT("fence", slot->fence),
             LOG_FIELD_INT("held_ms", lease_held_for(&slot->lease, now_ms)));
}

// completion is NULL for an adoption, whose query has the reply written.
static void granted(struct keeper *keeper, uint32_t number,
                    const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    struct session *session = keeper_session_of(keeper, slot);
    struct message_id id;
    int64_t waited_ms;

    if (completion) {
        id = slot->pending->id;
        waited_ms = now_ms - slot->pending->asked_at_ms;
        // First, while the slot is known to wait: from the session's waiters to its leases.
        keeper_detach(keeper, session, number);
        keeper_drop_pending(keeper, session, slot);
        keeper_attach(keeper, session, number);
        slot->fence = completion->fence;
        tell_granted(session, slot, WIRE_OP_ACQUIRE, &id, waited_ms,
                     keeper_page_grant(session, slot));
        keeper_note_unread(session, number, slot);
    }
    if (slot->has_key)
        keeper_queue_granted(keeper, number, now_ms);
}

// The end of a wait: what was seen last is the answer. A queued lease saw nothing itself; the one
// it stands behind did.
static void tell_timed_out(struct keeper *keeper, struct session *session, const struct slot *slot,
                           int64_t now_ms)
{
    static const struct store_completion none = {.outcome = STORE_TIMEOUT};
    uint32_t head = table_find_key(&keeper->table, slot_key(slot), slot->key_length);
    const struct slot *front = head == SLOT_NONE ? slot : table_slot(&keeper->table, head);
    const struct denial *denial = slot->pending->denial;
    struct store_completion completion;

    if (front != slot && lease_is_live(&front->lease)) {
        tell_held_here(keeper, session, slot_key(slot), slot->key_length, &slot->pending->id, front,
                       now_ms - slot->pending->asked_at_ms, now_ms);
        return;
    }
    if (!denial && lease_is_asking(&front->lease))
        denial = front->pending->denial;
    completion = denial ? denial->completion : none;
    if (denial && completion.pttl_ms >= 0) {
        completion.pttl_ms -= now_ms - denial->at_ms;
        completion.pttl_ms = completion.pttl_ms > 0 ? completion.pttl_ms : 0;
    }
    tell_denied(session, slot, slot->pending, &completion, now_ms);
}

static void denied(struct keeper *keeper, struct slot *slot,
                   const struct store_completion *completion, int64_t now_ms)
{
    struct session *session = keeper_session_of(keeper, slot);

    if (completion)
        tell_denied(session, slot, slot->pending, completion, now_ms);
    else
        tell_timed_out(keeper, session, slot, now_ms);
    keeper_drop_pending(keeper, session, slot);
}

static const char *copy_string(char **at, const char *string, size_t length)
{
    char *copy = *at;

    if (!string)
        return NULL;
    memcpy(copy, string, length);
    copy[length] = '\0';
    *at += length + 1;
    return copy;
}

// Keeps why the key was not had: it is the answer when the wait ends. An outage says nothing about
// the key, so it does not displace what was seen of it.
static void remember_denial(struct pending *pending, const struct store_completion *completion,
                            int64_t now_ms)
{
    size_t value = completion->value ? completion->value_length : 0;
    size_t type = completion->type ? strlen(completion->type) : 0;
    size_t error = completion->error ? strlen(completion->error) : 0;
    struct denial *denial;
    char *at;

    if (pending->denial && pending->denial->completion.outcome == STORE_HELD &&
        completion->outcome != STORE_HELD)
        return;
    denial = malloc(sizeof *denial + value + type + error + 3);
    if (!denial)
        return; // the answer will say less
    *denial = (struct denial){.at_ms = now_ms, .completion = *completion};
    at = denial->bytes;
    denial->completion.value = copy_string(&at, completion->value, value);
    denial->completion.type = copy_string(&at, completion->type, type);
    denial->completion.error = copy_string(&at, completion->error, error);
    free(pending->denial);
    pending->denial = denial;
}

static void wait_on(struct keeper *keeper, uint32_t number,
                    const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);

    if (slot->pending)
        remember_denial(slot->pending, completion, now_ms);
    keeper_watch(keeper, number);
    keeper_queue_denied(keeper, number, completion, now_ms);
}

static void tell(struct keeper *keeper, uint32_t number, const struct lease_actions *actions,
                 const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    struct session *session = keeper_session_of(keeper, slot);

    if (actions->set & LEASE_DO_TELL_REVOKED)
        log_revoked(slot, now_ms);
    if (!session)
        return;
    if (actions->set & LEASE_DO_TELL_GRANTED)
        granted(keeper, number, completion, now_ms);
    if (actions->set & LEASE_DO_TELL_DENIED && slot->pending)
        denied(keeper, slot, completion, now_ms);
    if (actions->set & LEASE_DO_TELL_AT_RISK && slot->notify & 1 << WIRE_NOTIFY_AT_RISK)
        tell_at_risk(session, slot, now_ms);
    if (actions->set & LEASE_DO_TELL_RENEWED && slot->notify & 1 << WIRE_NOTIFY_RENEWED)
        tell_renewed(session, slot);
    if (actions->set & LEASE_DO_TELL_REVOKED)
        tell_revoked(keeper, session, slot, actions->valid_until_ms, now_ms);
}

// The reply to a release goes to the session that asked for it, which may not be the holder's.
static void tell_release(struct keeper *keeper, struct slot *slot)
{
    struct session *session = keeper_session_of(keeper, slot);

    if (!session || !slot->pending)
        return;
    tell_released(session, slot, &slot->pending->id);
    keeper_drop_pending(keeper, session, slot);
}

// ---- Carrying actions out ----

static void forget(struct keeper *keeper, uint32_t number)
{
    struct slot *slot = table_slot(&keeper->table, number);
    struct session *session = keeper_session_of(keeper, slot);
    uint32_t generation = slot->generation;

    if (session)
        keeper_detach(keeper, session, number);
    if (slot->bind == WIRE_BIND_PID)
        keeper_unbind_process(keeper, slot);
    schedule_set(&keeper->schedule, number, INT64_MAX);
    accounts_give(&keeper->accounts, slot->account, ACCOUNT_LEASES);
    table_close(&keeper->table, number);
    keeper_query_forgotten(keeper, number, generation);
}

// The delete of a lease that leaves its key, and whoever comes next. Where somebody waits, the two
// are one call, made by the successor's acquire; its answer is the answer to the delete.
static void delete_and_leave(struct keeper *keeper, uint32_t number, unsigned actions,
                             int64_t now_ms)
{
    bool deletes = actions & LEASE_DO_DELETE;
    bool leaves = actions & LEASE_DO_UNKEY;
    bool hands_over = deletes && leaves && keeper_may_hand_over(keeper, number);

    if (deletes && !hands_over)
        keeper_submit_release(keeper, number, now_ms);
    if (leaves && table_slot(&keeper->table, number)->has_key)
        keeper_leave_key(keeper, number, hands_over ? number : SLOT_NONE, now_ms);
}

static const unsigned told = LEASE_DO_TELL_GRANTED | LEASE_DO_TELL_DENIED | LEASE_DO_TELL_AT_RISK |
                             LEASE_DO_TELL_RENEWED | LEASE_DO_TELL_REVOKED;

static void carry_out(struct keeper *keeper, uint32_t number, const struct lease_actions *actions,
                      const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    uint32_t replaces = keeper->handing_over;

    if (actions->set & LEASE_DO_ACQUIRE) {
        keeper->handing_over = SLOT_NONE;
        keeper_submit_acquire(keeper, number, replaces, now_ms);
    }
    if (actions->set & told)
        tell(keeper, number, actions, completion, now_ms);
    if (actions->set & LEASE_DO_TELL_RELEASED)
        tell_release(keeper, slot);
    if (actions->set & LEASE_DO_TELL_WAITING)
        wait_on(keeper, number, completion, now_ms);
    if (actions->set & LEASE_DO_RENEW)
        keeper->store->ops->renew(keeper->store, number, slot->generation,
                                  lease_revoke_at(&slot->lease, &keeper->options.rules), now_ms);
    // A denial is the answer for all who tried once; only the end of a mere wait is not.
    if (actions->set & LEASE_DO_UNKEY && completion && completion->op == STORE_ACQUIRE &&
        completion->outcome != STORE_OK)
        keeper_queue_denied(keeper, number, completion, now_ms);
    if (actions->set & (LEASE_DO_DELETE | LEASE_DO_UNKEY))
        delete_and_leave(keeper, number, actions->set, now_ms);
    if (actions->set & LEASE_DO_FORGET)
        forget(keeper, number);
    else
        schedule_set(&keeper->schedule, number,
                     lease_wake_at(&slot->lease, &keeper->options.rules));
}

void keeper_count(struct keeper *keeper, const struct lease *lease, int difference)
{
    if (lease_is_pending(lease))
        keeper->pending += (uint32_t)difference;
    if (lease->state == LEASE_OWED)
        keeper->owed += (uint32_t)difference;
}

static void log_step(const struct slot *slot, enum lease_state before, enum lease_event_kind event)
{
    log_debug("lease", LOG_FIELD_BYTES("key", slot_key(slot), slot->key_length),
              LOG_FIELD_STR("event", lease_event_names[event]),
              LOG_FIELD_STR("from", lease_state_names[before]),
              LOG_FIELD_STR("to", lease_state_names[slot->lease.state]));
}

void keeper_apply(struct keeper *keeper, uint32_t number, const struct lease_event *event,
                  const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    enum lease_state before = slot->lease.state;
    struct lease_actions actions;

    keeper_count(keeper, &slot->lease, -1);
    actions = lease_step(&slot->lease, &keeper->options.rules, event, now_ms);
    keeper_count(keeper, &slot->lease, 1);
    if (slot->lease.flags & LEASE_PAGED)
        keeper_page_follow(keeper, slot);
    if (slot->lease.state != before)
        log_step(slot, before, event->kind);
    if (slot->lease.state == LEASE_GONE && slot_is_queued(slot)) {
        // Told first: what the one before it knows is the answer.
        if (actions.set & LEASE_DO_TELL_DENIED && keeper_session_of(keeper, slot))
            denied(keeper, slot, completion, now_ms);
        actions.set &= ~(unsigned)LEASE_DO_TELL_DENIED;
        keeper_leave_queue(keeper, number);
    }
    carry_out(keeper, number, &actions, completion, now_ms);
}

void keeper_apply_kind(struct keeper *keeper, uint32_t number, enum lease_event_kind kind,
                       int64_t now_ms)
{
    keeper_apply(keeper, number, &(struct lease_event){.kind = kind}, NULL, now_ms);
}

void keeper_end_late_grant(struct keeper *keeper, uint32_t number, uint32_t generation,
                           int64_t now_ms)
{
    const struct slot *slot = table_find(&keeper->table, number, generation);
    const struct session *session = slot ? keeper_session_of(keeper, slot) : NULL;

    if (!session || slot->lease.state != LEASE_HELD)
        return;
    if (session->input_ended && slot->bind == WIRE_BIND_CONNECTION)
        keeper_apply(keeper, number, &(struct lease_event){.kind = LEASE_ON_UNBIND, .tell = true},
                     NULL, now_ms);
    else if (keeper->stopping)
        keeper_apply_kind(keeper, number, LEASE_ON_SHUTDOWN, now_ms);
}

// ---- Time ----

// What the walk says to this slot. Owed deletes go before renewals.
static void walk_over(struct keeper *keeper, uint32_t number, int64_t now_ms)
{
    const struct slot *slot = table_slot(&keeper->table, number);
    bool held = slot->lease.state == LEASE_HELD;

    if (!table_in_use(slot))
        return;
    if (keeper->walk == KEEPER_WALK_SHUTDOWN)
        keeper_apply_kind(keeper, number, LEASE_ON_SHUTDOWN, now_ms);
    else if (held == (keeper->walk == KEEPER_WALK_HELD))
        keeper_apply_kind(keeper, number, LEASE_ON_STORE_UP, now_ms);
}

void keeper_go_on_walking(struct keeper *keeper, int64_t now_ms)
{
    uint32_t done = 0;

    while (keeper->walk != KEEPER_WALK_NONE && done++ < KEEPER_SWEEP) {
        if (keeper->walk_at >= keeper->table.used) {
            keeper->walk_at = 1;
            keeper->walk = keeper->walk == KEEPER_WALK_OWED ? KEEPER_WALK_HELD : KEEPER_WALK_NONE;
            continue;
        }
        walk_over(keeper, keeper->walk_at++, now_ms);
    }
}

void keeper_sweep(struct keeper *keeper, int64_t now_ms)
{
    for (int i = 0; i < KEEPER_SWEEP && schedule_earliest(&keeper->schedule) <= now_ms; i++)
        keeper_apply_kind(keeper, schedule_first(&keeper->schedule), LEASE_ON_WAKE, now_ms);
    keeper_go_on_walking(keeper, now_ms);
}

int64_t keeper_next_wake(struct keeper *keeper)
{
    int64_t next_ms = schedule_earliest(&keeper->schedule);

    if (keeper->walk != KEEPER_WALK_NONE)
        return INT64_MIN;
    return keeper->give_up_ms && keeper->give_up_ms < next_ms ? keeper->give_up_ms : next_ms;
}

// ---- The end ----

// Who waits is told now; who tried once is answered as Redis answers.
void keeper_drain(struct keeper *keeper, int64_t now_ms)
{
    keeper->draining = true;
    for (uint32_t number = 1; number < keeper->table.used; number++) {
        struct slot *slot = table_slot(&keeper->table, number);
        struct session *session = table_in_use(slot) ? keeper_session_of(keeper, slot) : NULL;
        if (!session || !lease_is_asking(&slot->lease) || !(slot->lease.flags & LEASE_WAITS))
            continue;
        tell_error(session, WIRE_OP_ACQUIRE, &slot->pending->id, WIRE_ERROR_SHUTTING_DOWN,
                   "the sidecar is shutting down and grants no new leases; connect again later");
        keeper_drop_pending(keeper, session, slot);
        keeper_detach(keeper, session, number);
        keeper_apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
    }
}

void keeper_shutdown(struct keeper *keeper, int64_t now_ms)
{
    keeper->draining = true;
    keeper->stopping = true;
    keeper->walk = KEEPER_WALK_SHUTDOWN;
    keeper->walk_at = 1;
    keeper_go_on_walking(keeper, now_ms);
}

bool keeper_is_drained(struct keeper *keeper, int64_t now_ms)
{
    if (!keeper->draining || keeper->pending > keeper->owed)
        return false;
    if (keeper->pending == 0)
        return true;
    if (keeper->give_up_ms == 0)
        keeper->give_up_ms = now_ms + lease_call_ms(keeper->options.lock_ttl_ms);
    return now_ms >= keeper->give_up_ms;
}

// ---- Life ----

int keeper_init(struct keeper *keeper, const struct keeper_options *options, struct store *store)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t name[WIRE_INSTANCE_DIGITS / 2];
    uint64_t hash_key[2];
    int r;

    *keeper = (struct keeper){.options = *options, .store = store, .session_count = 64};
    keeper_draw(keeper, hash_key, sizeof hash_key);
    keeper_draw(keeper, name, sizeof name);
    keeper_draw(keeper, &keeper->phase, sizeof keeper->phase);
    for (size_t i = 0; i < sizeof name; i++) {
        keeper->instance[2 * i] = digits[name[i] >> 4];
        keeper->instance[2 * i + 1] = digits[name[i] & 15];
    }
    keeper->session_free = 1; // 0 is nobody's number
    keeper->sessions = calloc(keeper->session_count, sizeof(*keeper->sessions));
    schedule_init(&keeper->schedule);
    accounts_init(&keeper->accounts, options->caps);
    r = keeper->sessions ? table_init(&keeper->table, hash_key) : -ENOMEM;
    if (r < 0) {
        keeper_deinit(keeper);
        return r;
    }
    store->hooks = &keeper_store_hooks;
    store->context = keeper;
    return 0;
}

void keeper_deinit(struct keeper *keeper)
{
    struct pending *pending;

    table_deinit(&keeper->table);
    schedule_deinit(&keeper->schedule);
    accounts_deinit(&keeper->accounts);
    while ((pending = keeper->free_pending)) {
        keeper->free_pending = pending->next;
        free(pending);
    }
    for (uint32_t i = 0; i < keeper->process_count; i++) {
        keeper->options.unwatch_process(keeper->options.context, keeper->processes[i]->watch);
        free(keeper->processes[i]->bound);
        free(keeper->processes[i]);
    }
    free(keeper->processes);
    for (uint32_t i = 0; i < keeper->query_count; i++)
        free(keeper->queries[i]);
    free(keeper->queries);
    free(keeper->sessions);
    free(keeper->store_error);
    *keeper = (struct keeper){0};
}
