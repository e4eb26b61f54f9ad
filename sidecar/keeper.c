// SPDX-License-Identifier: Apache-2.0
//
// One function, apply, steps a lease and carries its actions out; everything else makes events.
//
// - Nothing asynchronous holds a pointer: the store gives (number, generation) back and the slot is
//   looked up; a session that goes is first taken off all its slots.
// - A key has at most one lease here for which lease_has_key (the key index). Further acquires of
//   the key are refused from the table when that lease is held, and queue behind it while it is being
//   asked for; they share its answer.
// - The actions of one step are carried out in the order of their bits: the holder is told before a
//   delete is submitted, and that before the key may be asked for again.
// - apply may close the slot. Whoever calls it looks the slot up again, or does not touch it again.

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/keeper.h"
#include "sidecar/log.h"
#include "sidecar/tell.h"

static void apply(struct keeper *keeper, uint32_t number, const struct lease_event *event,
                  const struct store_completion *completion, int64_t now_ms);

static void apply_kind(struct keeper *keeper, uint32_t number, enum lease_event_kind kind,
                       int64_t now_ms)
{
    apply(keeper, number, &(struct lease_event){.kind = kind}, NULL, now_ms);
}

// ---- Randomness ----

static void draw(struct keeper *keeper, void *bytes, size_t size)
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

static uint32_t draw_spread(struct keeper *keeper)
{
    uint16_t spread;
    draw(keeper, &spread, sizeof spread);
    return spread % LEASE_SPREAD;
}

// ---- Requests that wait for their answer ----

static struct pending *take_pending(struct keeper *keeper)
{
    struct pending *pending = keeper->free_pending;

    if (!pending)
        return malloc(sizeof *pending);
    keeper->free_pending = pending->next;
    return pending;
}

static void give_pending(struct keeper *keeper, struct pending *pending)
{
    pending->next = keeper->free_pending;
    keeper->free_pending = pending;
}

static bool has_pending(const struct slot *slot)
{
    switch ((enum lease_state)slot->lease.state) {
    case LEASE_NEW:
    case LEASE_QUEUED:
    case LEASE_ACQUIRING:
    case LEASE_RELEASING:
        return slot->pending != NULL;
    default:
        return false;
    }
}

static struct session *session_of(const struct keeper *keeper, const struct slot *slot)
{
    return slot->session ? keeper->sessions[slot->session] : NULL;
}

// The request is answered, or there is nobody left to answer.
static void drop_pending(struct keeper *keeper, struct session *session, struct slot *slot)
{
    give_pending(keeper, slot->pending);
    slot->pending = NULL;
    session->unanswered--;
}

static void attach(struct keeper *keeper, struct session *session, uint32_t number)
{
    table_session_add(&keeper->table, &session->leases, session->number, number);
}

static void detach(struct keeper *keeper, struct session *session, uint32_t number)
{
    table_session_remove(&keeper->table, &session->leases, number);
}

// ---- Calls to the store ----

static struct store_token store_token(const struct keeper *keeper, const struct slot *slot)
{
    struct store_token token = {.token = slot->token};
    memcpy(token.instance, keeper->instance, sizeof token.instance);
    return token;
}

static void submit_acquire(struct keeper *keeper, uint32_t number, const struct slot *slot,
                           int64_t now_ms)
{
    int64_t waited_ms = slot->pending ? now_ms - slot->pending->asked_at_ms : 0;
    int64_t timeout_ms = lease_call_ms(slot->lease.ttl_ms) - waited_ms;
    size_t label_length;
    const char *label = slot_label(slot, &label_length);

    keeper->store->ops->acquire(keeper->store,
                                &(struct store_acquire){
                                    .lease = number,
                                    .generation = slot->generation,
                                    .key = slot_key(slot),
                                    .key_length = slot->key_length,
                                    .token = store_token(keeper, slot),
                                    .ttl_ms = slot->lease.ttl_ms,
                                    .deadline_ms = slot->lease.deadline_ms,
                                    .fence_floor = keeper->fence_floor,
                                    .pid = slot->pid,
                                    .uid = accounts_uid(&keeper->accounts, slot->account),
                                    .host = keeper->options.host,
                                    .label = label,
                                    .label_length = label_length,
                                    .timeout_ms = timeout_ms > 1 ? timeout_ms : 1,
                                },
                                now_ms);
}

static void submit_release(struct keeper *keeper, uint32_t number, const struct slot *slot,
                           int64_t now_ms)
{
    keeper->store->ops->release(keeper->store,
                                &(struct store_release){
                                    .lease = number,
                                    .generation = slot->generation,
                                    .key = slot_key(slot),
                                    .key_length = slot->key_length,
                                    .token = store_token(keeper, slot),
                                    .timeout_ms = lease_call_ms(slot->lease.ttl_ms),
                                },
                                now_ms);
}

// ---- The queue behind a key ----

// The key's lease is granted: those who tried once behind it are answered.
static void refuse_queue(struct keeper *keeper, uint32_t head, int64_t now_ms)
{
    const struct slot *holder = table_slot(&keeper->table, head);
    uint32_t number;

    while ((number = table_queue_first(&keeper->table, head)) != SLOT_NONE) {
        struct slot *slot = table_slot(&keeper->table, number);
        struct session *session = session_of(keeper, slot);
        table_queue_remove(&keeper->table, head, number);
        tell_held_here(keeper, session, slot_key(slot), slot->key_length, &slot->pending->id,
                       holder, now_ms - slot->pending->asked_at_ms, now_ms);
        drop_pending(keeper, session, slot);
        apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
    }
}

// The key's lease was refused: those behind it get the same answer.
static void deny_queue(struct keeper *keeper, uint32_t head,
                       const struct store_completion *completion, int64_t now_ms)
{
    uint32_t number;

    while ((number = table_queue_first(&keeper->table, head)) != SLOT_NONE) {
        table_queue_remove(&keeper->table, head, number);
        apply(keeper, number, &(struct lease_event){.kind = LEASE_ON_DENIED}, completion, now_ms);
    }
}

// The key's lease is over without an answer for others: the next one is asked for.
static void promote_next(struct keeper *keeper, uint32_t head, int64_t now_ms)
{
    uint32_t next = table_queue_first(&keeper->table, head);

    if (next != SLOT_NONE) {
        table_queue_remove(&keeper->table, head, next);
        table_queue_move(&keeper->table, head, next);
    }
    table_clear_key(&keeper->table, head);
    if (next != SLOT_NONE) {
        table_set_key(&keeper->table, next);
        apply_kind(keeper, next, LEASE_ON_START, now_ms);
    }
}

static void leave_key(struct keeper *keeper, uint32_t number,
                      const struct store_completion *completion, int64_t now_ms)
{
    bool shared = completion && completion->op == STORE_ACQUIRE && completion->outcome != STORE_OK;

    if (shared)
        deny_queue(keeper, number, completion, now_ms);
    promote_next(keeper, number, now_ms);
}

// ---- Carrying actions out ----

static void log_revoked(const struct slot *slot, int64_t now_ms)
{
    log_info("lease revoked", LOG_FIELD_BYTES("key", slot_key(slot), slot->key_length),
             LOG_FIELD_STR("reason", wire_reason_names[slot->lease.reason]),
             LOG_FIELD_INT("fence", slot->fence),
             LOG_FIELD_INT("held_ms", lease_held_for(&slot->lease, now_ms)));
}

static void granted(struct keeper *keeper, uint32_t number,
                    const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    struct session *session = session_of(keeper, slot);
    struct message_id id = slot->pending->id;
    int64_t waited_ms = now_ms - slot->pending->asked_at_ms;

    drop_pending(keeper, session, slot);
    slot->fence = completion->fence;
    tell_granted(keeper, session, slot, &id, waited_ms);
    refuse_queue(keeper, number, now_ms);
}

static void denied(struct keeper *keeper, struct slot *slot,
                   const struct store_completion *completion, int64_t now_ms)
{
    struct session *session = session_of(keeper, slot);

    tell_denied(keeper, session, slot, slot->pending, completion, now_ms);
    drop_pending(keeper, session, slot);
}

static void tell(struct keeper *keeper, uint32_t number, const struct lease_actions *actions,
                 const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    struct session *session = session_of(keeper, slot);

    if (actions->set & LEASE_DO_TELL_REVOKED)
        log_revoked(slot, now_ms);
    if (!session)
        return;
    if (actions->set & LEASE_DO_TELL_GRANTED)
        granted(keeper, number, completion, now_ms);
    if (actions->set & LEASE_DO_TELL_DENIED)
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
    struct session *session = session_of(keeper, slot);

    if (!session || !slot->pending)
        return;
    tell_released(session, slot, &slot->pending->id);
    drop_pending(keeper, session, slot);
}

static void forget(struct keeper *keeper, uint32_t number)
{
    struct slot *slot = table_slot(&keeper->table, number);
    struct session *session = session_of(keeper, slot);

    if (session)
        detach(keeper, session, number);
    heap_set(&keeper->heap, number, slot->heap_place, INT64_MAX);
    accounts_give(&keeper->accounts, slot->account, ACCOUNT_LEASES);
    table_close(&keeper->table, number);
}

static const unsigned told = LEASE_DO_TELL_GRANTED | LEASE_DO_TELL_DENIED | LEASE_DO_TELL_AT_RISK |
                             LEASE_DO_TELL_RENEWED | LEASE_DO_TELL_REVOKED;

static void carry_out(struct keeper *keeper, uint32_t number, const struct lease_actions *actions,
                      const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);

    if (actions->set & LEASE_DO_ACQUIRE)
        submit_acquire(keeper, number, slot, now_ms);
    if (actions->set & told)
        tell(keeper, number, actions, completion, now_ms);
    if (actions->set & LEASE_DO_TELL_RELEASED)
        tell_release(keeper, slot);
    if (actions->set & LEASE_DO_RENEW)
        keeper->store->ops->renew(keeper->store, number, slot->generation,
                                  lease_revoke_at(&slot->lease, &keeper->options.rules), now_ms);
    if (actions->set & LEASE_DO_DELETE)
        submit_release(keeper, number, slot, now_ms);
    if (actions->set & LEASE_DO_UNKEY)
        leave_key(keeper, number, completion, now_ms);
    if (actions->set & LEASE_DO_FORGET)
        forget(keeper, number);
    else
        heap_set(&keeper->heap, number, slot->heap_place,
                 lease_wake_at(&slot->lease, &keeper->options.rules));
}

static void count(struct keeper *keeper, const struct lease *lease, int difference)
{
    if (lease_is_pending(lease))
        keeper->pending += (uint32_t)difference;
    if (lease->state == LEASE_OWED)
        keeper->owed += (uint32_t)difference;
}

static void apply(struct keeper *keeper, uint32_t number, const struct lease_event *event,
                  const struct store_completion *completion, int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    enum lease_state before = slot->lease.state;
    struct lease_actions actions;

    count(keeper, &slot->lease, -1);
    actions = lease_step(&slot->lease, &keeper->options.rules, event, now_ms);

    if (slot->lease.state != before)
        log_debug("lease", LOG_FIELD_BYTES("key", slot_key(slot), slot->key_length),
                  LOG_FIELD_STR("event", lease_event_names[event->kind]),
                  LOG_FIELD_STR("from", lease_state_names[before]),
                  LOG_FIELD_STR("to", lease_state_names[slot->lease.state]));
    count(keeper, &slot->lease, 1);
    carry_out(keeper, number, &actions, completion, now_ms);
}

// ---- The store's answers ----

static enum lease_event_kind acquire_event(const struct store_completion *completion)
{
    switch (completion->outcome) {
    case STORE_OK:
        return LEASE_ON_GRANTED;
    case STORE_TIMEOUT:
    case STORE_LOST:
        return LEASE_ON_UNKNOWN;
    default:
        return LEASE_ON_DENIED;
    }
}

static enum lease_event_kind event_kind(const struct store_completion *completion)
{
    switch (completion->op) {
    case STORE_ACQUIRE:
        return acquire_event(completion);
    case STORE_RENEW:
        return completion->outcome == STORE_OK          ? LEASE_ON_RENEWED
               : completion->outcome == STORE_NOT_OWNER ? LEASE_ON_NOT_OWNER
                                                        : LEASE_ON_RENEW_FAILED;
    case STORE_RELEASE:
        break;
    }
    return completion->outcome == STORE_OK          ? LEASE_ON_DELETED
           : completion->outcome == STORE_NOT_OWNER ? LEASE_ON_NOT_THERE
                                                    : LEASE_ON_DELETE_FAILED;
}

// A grant to a client that has half-closed, or after the drain: it is told, and then it ends.
static void end_late_grant(struct keeper *keeper, uint32_t number, uint32_t generation,
                           int64_t now_ms)
{
    const struct slot *slot = table_find(&keeper->table, number, generation);

    if (!slot || slot->lease.state != LEASE_HELD)
        return;
    if (session_of(keeper, slot)->input_ended)
        apply(keeper, number, &(struct lease_event){.kind = LEASE_ON_UNBIND, .tell = true}, NULL,
              now_ms);
    else if (keeper->stopping)
        apply_kind(keeper, number, LEASE_ON_SHUTDOWN, now_ms);
}

static int64_t on_believe(void *context)
{
    struct keeper *keeper = context;
    int64_t now_ms = keeper->options.clock(keeper->options.context);

    keeper_sweep(keeper, now_ms);
    return now_ms;
}

static void on_completed(void *context, const struct store_completion *completion, int64_t now_ms)
{
    struct keeper *keeper = context;
    struct lease_event event = {
        .kind = event_kind(completion),
        .sent_at_ms = completion->sent_at_ms,
        .late = completion->late,
        .certain = completion->certain,
    };

    if (completion->op == STORE_ACQUIRE && completion->outcome == STORE_OK &&
        completion->fence > keeper->fence_floor)
        keeper->fence_floor = completion->fence;
    if (!table_find(&keeper->table, completion->lease, completion->generation))
        return; // it was given up, and its end does not depend on this answer
    if (event.late && event.kind == LEASE_ON_RENEW_FAILED)
        return;
    event.spread = draw_spread(keeper);
    apply(keeper, completion->lease, &event, completion, now_ms);
    if (event.kind == LEASE_ON_GRANTED)
        end_late_grant(keeper, completion->lease, completion->generation, now_ms);
}

// What the walk says to this slot. Owed deletes go before renewals.
static void walk_over(struct keeper *keeper, uint32_t number, int64_t now_ms)
{
    const struct slot *slot = table_slot(&keeper->table, number);
    bool held = slot->lease.state == LEASE_HELD;

    if (!table_in_use(slot))
        return;
    if (keeper->walk == KEEPER_WALK_SHUTDOWN)
        apply_kind(keeper, number, LEASE_ON_SHUTDOWN, now_ms);
    else if (held == (keeper->walk == KEEPER_WALK_HELD))
        apply_kind(keeper, number, LEASE_ON_STORE_UP, now_ms);
}

static void walk(struct keeper *keeper, int64_t now_ms)
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

static void on_status(void *context, bool up, const char *error, int64_t now_ms)
{
    struct keeper *keeper = context;

    free(keeper->store_error);
    keeper->store_error = error ? strdup(error) : NULL;
    if (!up || keeper->walk == KEEPER_WALK_SHUTDOWN)
        return;
    // At once: the store writes what waits in it after this, and owed deletes go before that.
    keeper->walk = KEEPER_WALK_OWED;
    keeper->walk_at = 1;
    walk(keeper, now_ms);
}

// A renewal is written only for a lease that is held at that moment, so none follows a release.
static bool on_describe(void *context, uint32_t number, uint32_t generation, int64_t now_ms,
                        struct store_subject *subject)
{
    struct keeper *keeper = context;
    const struct lease_rules *rules = &keeper->options.rules;
    const struct slot *slot = table_find(&keeper->table, number, generation);

    if (!slot || slot->lease.state != LEASE_HELD ||
        now_ms >= lease_revoke_at(&slot->lease, rules) || now_ms >= lease_deadline_at(&slot->lease))
        return false;
    *subject = (struct store_subject){
        .key = slot_key(slot),
        .key_length = slot->key_length,
        .token = store_token(keeper, slot),
        .ttl_ms = slot->lease.ttl_ms,
        .timeout_ms = lease_renew_timeout(&slot->lease, rules, now_ms),
    };
    return true;
}

// ---- Sessions ----

static int number_session(struct keeper *keeper, struct session *session)
{
    struct session **sessions;
    uint32_t number = keeper->session_free;
    uint32_t count = keeper->session_count * 2;

    while (number < keeper->session_count && keeper->sessions[number])
        number++;
    if (number == keeper->session_count) {
        sessions = realloc(keeper->sessions, count * sizeof(*sessions));
        if (!sessions)
            return -ENOMEM;
        memset(sessions + keeper->session_count, 0, keeper->session_count * sizeof(*sessions));
        keeper->sessions = sessions;
        keeper->session_count = count;
    }
    keeper->sessions[number] = session;
    keeper->session_free = number + 1;
    session->number = number;
    return 0;
}

int keeper_open_session(struct keeper *keeper, struct session *session)
{
    int r = accounts_open(&keeper->accounts, session->uid, &session->account);

    if (r != 0)
        return r == ACCOUNT_E_FULL ? KEEPER_E_FULL : r;
    session->tell_by_ms = INT64_MAX;
    r = number_session(keeper, session);
    if (r < 0)
        accounts_give(&keeper->accounts, session->account, ACCOUNT_CONNECTIONS);
    return r;
}

// A queued acquire leaves the queue; the caller has answered it, or there is nobody to answer.
static void leave_queue(struct keeper *keeper, uint32_t number, const struct slot *slot)
{
    uint32_t head = table_find_key(&keeper->table, slot_key(slot), slot->key_length);

    table_queue_remove(&keeper->table, head, number);
}

static void end_input_of(struct keeper *keeper, struct session *session, uint32_t number,
                         int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);

    switch ((enum lease_state)slot->lease.state) {
    case LEASE_QUEUED:
        tell_cancelled(session, slot, slot->pending, now_ms);
        drop_pending(keeper, session, slot);
        leave_queue(keeper, number, slot);
        apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
        break;
    case LEASE_HELD:
    case LEASE_ENDING:
        apply(keeper, number, &(struct lease_event){.kind = LEASE_ON_UNBIND, .tell = true}, NULL,
              now_ms);
        break;
    default: // ACQUIRING, RELEASING: to be answered
        break;
    }
}

void keeper_end_input(struct keeper *keeper, struct session *session, int64_t now_ms)
{
    uint32_t next;

    session->input_ended = true;
    for (uint32_t number = session->leases; number != SLOT_NONE; number = next) {
        next = table_slot(&keeper->table, number)->session_next;
        end_input_of(keeper, session, number, now_ms);
    }
}

void keeper_close_session(struct keeper *keeper, struct session *session, bool gone, int64_t now_ms)
{
    enum lease_event_kind kind = gone ? LEASE_ON_UNBIND : LEASE_ON_CUT;
    uint32_t number;

    while ((number = session->leases) != SLOT_NONE) {
        struct slot *slot = table_slot(&keeper->table, number);
        if (has_pending(slot))
            drop_pending(keeper, session, slot);
        if (slot->lease.state == LEASE_QUEUED)
            leave_queue(keeper, number, slot);
        detach(keeper, session, number);
        apply_kind(keeper, number, kind, now_ms);
    }
    assert(session->unanswered == 0);
    accounts_give(&keeper->accounts, session->account, ACCOUNT_CONNECTIONS);
    keeper->sessions[session->number] = NULL;
    if (session->number < keeper->session_free)
        keeper->session_free = session->number;
    session->number = 0;
}

// ---- Acquire and release ----

// Each waiting request costs memory until it is answered.
static bool may_wait(struct session *session, const struct message_request *request)
{
    if (session->unanswered < WIRE_MAX_UNANSWERED)
        return true;
    tell_error(session, request->op, &request->id, WIRE_ERROR_LIMIT_EXCEEDED,
               "%d requests of this connection wait for their reply, the most there may be; read "
               "replies first",
               WIRE_MAX_UNANSWERED);
    return false;
}

static bool acquire_allowed(struct keeper *keeper, struct session *session,
                            const struct message_request *request, int64_t ttl_ms)
{
    const struct keeper_options *options = &keeper->options;
    char why[256];

    if (keeper->draining) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_SHUTTING_DOWN,
                   "the sidecar is shutting down and grants no new leases; connect again later");
        return false;
    }
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

// A slot with everything but its place among the others; SLOT_NONE after a refusal was told.
static uint32_t open_slot(struct keeper *keeper, struct session *session,
                          const struct message_request *request, int64_t ttl_ms, int64_t now_ms)
{
    int64_t deadline_ms =
        request->deadline_ms ? request->deadline_ms : keeper->options.workflow_deadline_ms;
    struct pending *pending;
    struct message_token token;
    struct slot *slot;
    uint32_t number;

    if (accounts_take(&keeper->accounts, session->account, ACCOUNT_LEASES) != 0) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_LIMIT_EXCEEDED,
                   "uid %lld has %lld leases, the most it may (--max-leases-per-uid); release some",
                   (long long)session->uid, (long long)keeper->options.caps[ACCOUNT_LEASES]);
        return SLOT_NONE;
    }
    draw(keeper, &token, sizeof token);
    pending = take_pending(keeper);
    number = pending && heap_reserve(&keeper->heap, keeper->table.live + 1) == 0
                 ? table_open(&keeper->table, &token, request->key, request->key_length,
                              request->label, request->label_length)
                 : SLOT_NONE;
    if (number == SLOT_NONE) {
        free(pending);
        accounts_give(&keeper->accounts, session->account, ACCOUNT_LEASES);
        tell_error(session, request->op, &request->id, WIRE_ERROR_INTERNAL, "out of memory");
        return SLOT_NONE;
    }
    slot = table_slot(&keeper->table, number);
    if (deadline_ms > keeper->options.max_workflow_deadline_ms)
        deadline_ms = keeper->options.max_workflow_deadline_ms;
    lease_init(&slot->lease, ttl_ms, deadline_ms, request->on_disconnect == WIRE_DISCONNECT_EXPIRE);
    *pending = (struct pending){.id = request->id, .asked_at_ms = now_ms};
    slot->pending = pending;
    slot->pid = (uint32_t)session->pid;
    slot->account = session->account;
    slot->bind = request->bind & 3;
    slot->notify = request->notify & 3;
    count(keeper, &slot->lease, 1);
    session->unanswered++;
    attach(keeper, session, number);
    return number;
}

void keeper_acquire(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms)
{
    int64_t ttl_ms = request->ttl_ms ? request->ttl_ms : keeper->options.lock_ttl_ms;
    uint32_t head, number;

    if (!may_wait(session, request) || !acquire_allowed(keeper, session, request, ttl_ms))
        return;
    head = table_find_key(&keeper->table, request->key, request->key_length);
    if (head != SLOT_NONE && lease_is_live(&table_slot(&keeper->table, head)->lease)) {
        tell_held_here(keeper, session, request->key, request->key_length, &request->id,
                       table_slot(&keeper->table, head), 0, now_ms);
        return;
    }
    number = open_slot(keeper, session, request, ttl_ms, now_ms);
    if (number == SLOT_NONE)
        return;
    if (head != SLOT_NONE) {
        table_queue_push(&keeper->table, head, number);
        apply_kind(keeper, number, LEASE_ON_QUEUE, now_ms);
        return;
    }
    table_set_key(&keeper->table, number);
    apply_kind(keeper, number, LEASE_ON_START, now_ms);
}

static bool may_release(const struct slot *slot)
{
    return slot->lease.state == LEASE_HELD || slot->lease.state == LEASE_ENDING;
}

void keeper_release(struct keeper *keeper, struct session *session,
                    const struct message_request *request, int64_t now_ms)
{
    uint32_t number = table_find_token(&keeper->table, &request->lease);
    struct slot *slot = number == SLOT_NONE ? NULL : table_slot(&keeper->table, number);
    struct session *holder;
    struct pending *pending;
    uint32_t generation;

    if (!slot || !may_release(slot)) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_UNKNOWN_LEASE,
                   "\"lease\" names no lease of this sidecar; it may have ended long ago");
        return;
    }
    if (!may_wait(session, request))
        return;
    pending = take_pending(keeper);
    if (!pending) {
        tell_error(session, request->op, &request->id, WIRE_ERROR_INTERNAL, "out of memory");
        return;
    }
    // What is overdue comes first, so that a lease past its time is not released as if it were held.
    generation = slot->generation;
    apply_kind(keeper, number, LEASE_ON_WAKE, now_ms);
    if (!table_find(&keeper->table, number, generation) || !may_release(slot)) {
        give_pending(keeper, pending);
        keeper_release(keeper, session, request, now_ms);
        return;
    }
    holder = session_of(keeper, slot);
    *pending = (struct pending){.id = request->id, .asked_at_ms = now_ms};
    session->unanswered++;
    if (holder && holder != session && slot->lease.state == LEASE_HELD) {
        slot->lease.reason = WIRE_REASON_RELEASED;
        tell_revoked(keeper, holder, slot, slot->lease.until_ms, now_ms);
    }
    if (holder)
        detach(keeper, holder, number);
    attach(keeper, session, number);
    slot->pending = pending;
    apply_kind(keeper, number, LEASE_ON_RELEASE, now_ms);
}

// ---- Time ----

void keeper_sweep(struct keeper *keeper, int64_t now_ms)
{
    for (int i = 0; i < KEEPER_SWEEP && heap_earliest(&keeper->heap) <= now_ms; i++)
        apply_kind(keeper, heap_first(&keeper->heap), LEASE_ON_WAKE, now_ms);
    walk(keeper, now_ms);
}

int64_t keeper_next_wake(const struct keeper *keeper)
{
    int64_t next_ms = heap_earliest(&keeper->heap);

    if (keeper->walk != KEEPER_WALK_NONE)
        return INT64_MIN;
    return keeper->give_up_ms && keeper->give_up_ms < next_ms ? keeper->give_up_ms : next_ms;
}

// ---- The end ----

void keeper_drain(struct keeper *keeper)
{
    keeper->draining = true;
}

void keeper_shutdown(struct keeper *keeper, int64_t now_ms)
{
    keeper->draining = true;
    keeper->stopping = true;
    keeper->walk = KEEPER_WALK_SHUTDOWN;
    keeper->walk_at = 1;
    walk(keeper, now_ms);
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

static void on_placed(void *context, uint32_t item, uint32_t place)
{
    struct keeper *keeper = context;
    table_slot(&keeper->table, item)->heap_place = place;
}

static const struct store_hooks keeper_hooks = {
    .believe = on_believe,
    .completed = on_completed,
    .status = on_status,
    .describe = on_describe,
};

int keeper_init(struct keeper *keeper, const struct keeper_options *options, struct store *store)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t name[WIRE_INSTANCE_DIGITS / 2];
    uint64_t hash_key[2];
    int r;

    *keeper = (struct keeper){.options = *options, .store = store, .session_count = 64};
    draw(keeper, hash_key, sizeof hash_key);
    draw(keeper, name, sizeof name);
    for (size_t i = 0; i < sizeof name; i++) {
        keeper->instance[2 * i] = digits[name[i] >> 4];
        keeper->instance[2 * i + 1] = digits[name[i] & 15];
    }
    keeper->session_free = 1; // 0 is nobody's number
    keeper->sessions = calloc(keeper->session_count, sizeof(*keeper->sessions));
    heap_init(&keeper->heap, on_placed, keeper);
    accounts_init(&keeper->accounts, options->caps);
    r = keeper->sessions ? table_init(&keeper->table, hash_key) : -ENOMEM;
    if (r < 0) {
        keeper_deinit(keeper);
        return r;
    }
    store->hooks = &keeper_hooks;
    store->context = keeper;
    return 0;
}

void keeper_deinit(struct keeper *keeper)
{
    struct pending *pending;

    table_deinit(&keeper->table);
    heap_deinit(&keeper->heap);
    accounts_deinit(&keeper->accounts);
    while ((pending = keeper->free_pending)) {
        keeper->free_pending = pending->next;
        free(pending);
    }
    free(keeper->sessions);
    free(keeper->store_error);
    *keeper = (struct keeper){0};
}
