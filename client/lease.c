// SPDX-License-Identifier: Apache-2.0
//
// Leases, as the client knows them.
//
// A lease is HELD until its release is asked for (RELEASING, then RELEASED), or it is known to be
// over (LOST): the sidecar said so, refused to adopt it, or said nothing for so long that
// valid_until less the margin is here. It never comes back: whatever arrives for one that is not
// HELD is ignored. Only a HELD lease stands in `tokens`, where events find it.
//
// is_ours says that this connection acquired or adopted it, and no other has adopted it since;
// without, it is to be adopted before anything else is asked about it. That counts for a LOST one,
// too: whoever adopted it has the same digits, and a release would take the key from them. valid_until
// goes forward only, and is never further away than a TTL.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/inside.h"

enum {
    LEAST_MARGIN_MS = 50,
    LEAST_SILENT_MARGIN_MS = 20,
};

// ---- Objects ----

static uint64_t token_number(const struct message_token *token)
{
    uint64_t number;

    memcpy(&number, token->bytes, sizeof number);
    return number;
}

struct lock_keeper_lease *client_lease_find(const struct lock_keeper *keeper,
                                            const struct message_token *token)
{
    struct client_node *node = client_map_find(&keeper->tokens, token_number(token));

    for (; node; node = client_map_after(node)) {
        struct lock_keeper_lease *lease =
            (void *)((char *)node - offsetof(struct lock_keeper_lease, node));

        if (memcmp(&lease->token, token, sizeof *token) == 0)
            return lease;
    }
    return NULL;
}

static void link_in(struct lock_keeper_lease *lease)
{
    struct lock_keeper *keeper = lease->keeper;

    lease->next = keeper->leases;
    if (lease->next)
        lease->next->previous = lease;
    keeper->leases = lease;
}

static void unlink_from(struct lock_keeper_lease *lease)
{
    if (lease->next)
        lease->next->previous = lease->previous;
    if (lease->previous)
        lease->previous->next = lease->next;
    else
        lease->keeper->leases = lease->next;
}

static struct lock_keeper_lease *new_lease(struct lock_keeper *keeper,
                                           const struct client_request *request,
                                           const struct message_token *token)
{
    const struct message_request *ask = &request->ask;
    struct lock_keeper_lease *lease = calloc(1, sizeof *lease);

    if (!lease || client_map_add(&keeper->tokens, &lease->node, token_number(token)) != 0) {
        free(lease);
        return NULL;
    }
    lease->keeper = keeper;
    lease->token = *token;
    message_token_format(token, lease->digits);
    memcpy(lease->key, ask->key, ask->key_length + 1);
    lease->bind = ask->bind;
    lease->on_disconnect = ask->on_disconnect;
    lease->pid = ask->pid;
    lease->deadline_at_ms = lease->adopt_ms = CLIENT_NEVER;
    link_in(lease);
    return lease;
}

bool client_lease_is_live(const struct lock_keeper_lease *lease)
{
    return lease->state == CLIENT_LEASE_HELD || lease->state == CLIENT_LEASE_RELEASING;
}

// ---- Validity ----

static void advance(struct lock_keeper_lease *lease, int64_t until_ms)
{
    int64_t most_ms = client_now_ms() + lease->ttl_ms;

    if (until_ms > most_ms)
        until_ms = most_ms;
    if (until_ms <= lease->last_until_ms)
        return;
    lease->last_until_ms = until_ms;
    if (lease->state == CLIENT_LEASE_HELD)
        atomic_store(&lease->valid_until_ms, until_ms);
}

static void set_until(struct lock_keeper_lease *lease, int64_t wire_ms)
{
    advance(lease, client_link_local_ms(lease->keeper, wire_ms));
}

// Heartbeats of which nothing was read yet, or never will be.
static void follow_page(struct lock_keeper_lease *lease)
{
    uint64_t until_ns;

    if (client_page_until(lease, &until_ns))
        advance(lease, (int64_t)(until_ns / 1000000));
}

static int64_t at_least(int64_t value, int64_t least)
{
    return value > least ? value : least;
}

// How long before valid_until it is given up.
static int64_t margin_ms(const struct lock_keeper_lease *lease, bool is_confirmed)
{
    const struct lock_keeper *keeper = lease->keeper;
    int64_t silent_ms = lease->ttl_ms / 10;

    if (keeper->margin_ms > 0)
        return keeper->margin_ms;
    if (!is_confirmed)
        return at_least(lease->ttl_ms / 5, LEAST_MARGIN_MS);
    // The sidecar revokes its margin before valid_until. Whoever speaks earlier takes from a lease
    // what a late heartbeat may still save.
    if (keeper->hello.revoke_margin_ms > 0 && keeper->hello.revoke_margin_ms / 2 < silent_ms)
        silent_ms = keeper->hello.revoke_margin_ms / 2;
    return at_least(silent_ms, LEAST_SILENT_MARGIN_MS);
}

static bool is_confirmed(const struct lock_keeper_lease *lease)
{
    return lease->is_ours && lease->keeper->link.state == CLIENT_LINK_UP;
}

static int64_t lost_at_ms(const struct lock_keeper_lease *lease)
{
    return lease->last_until_ms - margin_ms(lease, is_confirmed(lease));
}

// Where nobody else can say that the workflow deadline has come.
static int64_t deadline_at_ms(const struct lock_keeper_lease *lease)
{
    return is_confirmed(lease) ? CLIENT_NEVER : lease->deadline_at_ms;
}

static void note_due(const struct lock_keeper_lease *lease)
{
    if (lease->state != CLIENT_LEASE_HELD)
        return;
    client_due(lease->keeper, lost_at_ms(lease));
    client_due(lease->keeper, deadline_at_ms(lease));
    client_due(lease->keeper, lease->adopt_ms);
}

// ---- The end ----

static void close_lease(struct lock_keeper_lease *lease, enum client_lease_state state)
{
    if (lease->state == CLIENT_LEASE_HELD)
        client_map_remove(&lease->keeper->tokens, &lease->node);
    lease->state = state;
    atomic_store(&lease->valid_until_ms, 0); // before it counts again, without the slot
    client_page_leave(lease);
}

static void lose(struct lock_keeper_lease *lease, enum lock_keeper_reason reason,
                 const char *reason_name, const char *message, int64_t safe_until_ms)
{
    close_lease(lease, CLIENT_LEASE_LOST);
    lease->reason = reason;
    client_copy(lease->reason_name, sizeof lease->reason_name, reason_name);
    client_copy(lease->message, sizeof lease->message, message);
    lease->safe_until_ms = safe_until_ms;
    client_news(lease, CLIENT_NEWS_REVOKED);
    client_error(lease->keeper, LOCK_KEEPER_E_LOST_ACTOR_LOCK,
                 wire_error_names[WIRE_ERROR_LOST_ACTOR_LOCK], message);
}

void client_lease_lose(struct lock_keeper_lease *lease, enum lock_keeper_reason reason,
                       const char *message, int64_t safe_until_ms)
{
    lose(lease, reason, lock_keeper_reason_name(reason), message, safe_until_ms);
}

void client_lease_releasing(struct lock_keeper_lease *lease)
{
    bool was_lost = lease->state == CLIENT_LEASE_LOST;

    close_lease(lease, was_lost ? CLIENT_LEASE_RELEASED : CLIENT_LEASE_RELEASING);
    client_news_forget(lease);
}

// Whatever stands for the token here: the lease is somebody else's, or another object's, now.
static void disown(const struct lock_keeper *keeper, const struct message_token *token)
{
    for (struct lock_keeper_lease *lease = keeper->leases; lease; lease = lease->next) {
        if (lease->state != CLIENT_LEASE_RELEASING &&
            memcmp(&lease->token, token, sizeof *token) == 0)
            lease->is_ours = false;
    }
}

// ---- Grants ----

// What a grant must have: else nothing can be promised of it.
bool client_lease_is_grant(struct lock_keeper *keeper, const struct reply *reply, const char *key)
{
    if (reply->has_lease && reply->fence >= 0 && reply->ttl_ms > 0 && reply->deadline_ms >= 0 &&
        reply->valid_until_ms >= 0 && reply->key && strcmp(reply->key, key) == 0)
        return true;
    client_link_end(keeper, -EPROTO, "the sidecar's grant is not what a grant must be");
    return false;
}

void client_lease_take(struct lock_keeper_lease *lease, const struct reply *reply)
{
    lease->is_ours = true;
    lease->is_adopting = false;
    lease->adopt_ms = CLIENT_NEVER;
    if (lease->fence != reply->fence) // other threads may be reading it
        lease->fence = reply->fence;
    lease->ttl_ms = reply->ttl_ms;
    lease->deadline_ms = reply->deadline_ms;
    set_until(lease, reply->valid_until_ms);
    if (lease->state == CLIENT_LEASE_HELD)
        client_page_enter(lease, reply->slot);
    note_due(lease);
}

struct lock_keeper_lease *client_lease_granted(const struct client_request *request,
                                               const struct reply *reply)
{
    struct lock_keeper *keeper = request->keeper;
    bool is_new = request->ask.op == WIRE_OP_ACQUIRE;
    struct lock_keeper_lease *lease;

    if (!client_lease_is_grant(keeper, reply, request->ask.key))
        return NULL;
    lease = client_lease_find(keeper, &reply->lease);
    if (lease && is_new) {
        client_link_end(keeper, -EPROTO, "the sidecar granted the same lease twice");
        return NULL;
    }
    if (!lease) {
        disown(keeper, &reply->lease);
        lease = new_lease(keeper, request, &reply->lease);
    }
    if (!lease) {
        client_link_end(keeper, -ENOMEM, "no memory for a lease");
        return NULL;
    }
    if (is_new)
        lease->deadline_at_ms = client_now_ms() + reply->deadline_ms;
    client_lease_take(lease, reply);
    return lease;
}

void client_lease_extended(struct lock_keeper_lease *lease, const struct reply *reply)
{
    if (!lease || reply->deadline_ms < 0 || reply->deadline_in_ms < 0)
        return;
    lease->deadline_ms = reply->deadline_ms;
    lease->deadline_at_ms = client_now_ms() + reply->deadline_in_ms;
}

// ---- Events ----

static void on_revoked(struct lock_keeper_lease *lease, const struct reply *reply)
{
    bool is_safe = reply->safe_ms > 0 && reply->valid_until_ms >= 0;
    int64_t until_ms = is_safe ? client_link_local_ms(lease->keeper, reply->valid_until_ms) : 0;
    int64_t most_ms = client_now_ms() + reply->safe_ms; // it was sent before now

    lose(lease, client_reason(reply->reason), reply->reason_name, reply->message,
         until_ms < most_ms ? until_ms : most_ms);
}

static void on_renewed(struct lock_keeper_lease *lease, const struct reply *reply)
{
    set_until(lease, reply->valid_until_ms);
    client_news(lease, CLIENT_NEWS_RENEWED);
    note_due(lease);
}

static void on_at_risk(struct lock_keeper_lease *lease, const struct reply *reply)
{
    client_copy(lease->message, sizeof lease->message, reply->message);
    lease->safe_until_ms = lease->last_until_ms;
    client_news(lease, CLIENT_NEWS_AT_RISK);
}

void client_lease_event(struct lock_keeper *keeper, const struct reply *reply)
{
    struct lock_keeper_lease *lease;

    if (reply->event == WIRE_EVENT_COUNT)
        return;
    if (!reply->has_lease || (reply->event != WIRE_EVENT_REVOKED && reply->valid_until_ms < 0)) {
        client_link_end(keeper, -EPROTO, "the sidecar's event lacks what it must have");
        return;
    }
    if (reply->event == WIRE_EVENT_REVOKED && reply->reason == WIRE_REASON_MOVED)
        disown(keeper, &reply->lease);
    lease = client_lease_find(keeper, &reply->lease);
    if (!lease)
        return;
    switch (reply->event) {
    case WIRE_EVENT_REVOKED:
        on_revoked(lease, reply);
        break;
    case WIRE_EVENT_RENEWED:
        on_renewed(lease, reply);
        break;
    case WIRE_EVENT_AT_RISK:
        on_at_risk(lease, reply);
        break;
    case WIRE_EVENT_COUNT:
        break;
    }
}

// ---- All of them ----

void client_leases_interrupted(struct lock_keeper *keeper)
{
    for (struct lock_keeper_lease *lease = keeper->leases; lease; lease = lease->next) {
        lease->is_ours = lease->is_adopting = false;
        lease->adopt_ms = CLIENT_NEVER;
        if (lease->state == CLIENT_LEASE_HELD && !keeper->reconnects &&
            lease->bind == WIRE_BIND_CONNECTION)
            client_lease_lose(lease, LOCK_KEEPER_REASON_UNCONFIRMED,
                              "the connection to the sidecar ended, and with it the lease",
                              lease->on_disconnect == WIRE_DISCONNECT_EXPIRE ? lease->last_until_ms
                                                                             : 0);
    }
    client_due(keeper, 0);
}

static void sweep_held(struct lock_keeper_lease *lease, int64_t now_ms)
{
    follow_page(lease);
    if (now_ms >= lost_at_ms(lease)) {
        client_lease_lose(lease, LOCK_KEEPER_REASON_UNCONFIRMED,
                          is_confirmed(lease)
                              ? "the sidecar has confirmed nothing for too long"
                              : "the sidecar is gone, or could not adopt the lease in time",
                          lease->last_until_ms);
        return;
    }
    if (now_ms >= deadline_at_ms(lease)) {
        client_lease_lose(lease, LOCK_KEEPER_REASON_DEADLINE, "the workflow deadline has come",
                          lease->last_until_ms);
        return;
    }
    note_due(lease);
}

static void sweep_releasing(struct lock_keeper_lease *lease, int64_t now_ms)
{
    if (lease->is_ours)
        return;
    if (now_ms >= lease->last_until_ms)
        client_requests_orphaned(lease, -ENOTCONN,
                                 "the sidecar is away; the lease is over, its key has run out");
    else
        client_due(lease->keeper, lease->last_until_ms);
}

void client_leases_sweep(struct lock_keeper *keeper, int64_t now_ms)
{
    for (struct lock_keeper_lease *lease = keeper->leases; lease; lease = lease->next) {
        if (client_lease_is_live(lease) && now_ms >= lease->adopt_ms) {
            lease->adopt_ms = CLIENT_NEVER;
            if (keeper->link.state == CLIENT_LINK_UP)
                client_lease_adopt(lease);
        }
        if (lease->state == CLIENT_LEASE_HELD)
            sweep_held(lease, now_ms);
        else if (lease->state == CLIENT_LEASE_RELEASING)
            sweep_releasing(lease, now_ms);
    }
}

int64_t client_leases_least_ttl(const struct lock_keeper *keeper)
{
    int64_t least_ms = CLIENT_NEVER;

    for (const struct lock_keeper_lease *lease = keeper->leases; lease; lease = lease->next) {
        if (client_lease_is_live(lease) && lease->ttl_ms < least_ms)
            least_ms = lease->ttl_ms;
    }
    return least_ms;
}

void client_leases_deinit(struct lock_keeper *keeper)
{
    struct lock_keeper_lease *next;

    for (struct lock_keeper_lease *lease = keeper->leases; lease; lease = next) {
        next = lease->next;
        free(lease);
    }
    keeper->leases = NULL;
    client_map_deinit(&keeper->tokens);
}

struct lock_keeper_lease *lock_keeper_lease_free(struct lock_keeper_lease *lease)
{
    struct lock_keeper *keeper;
    bool is_owed;

    if (!lease)
        return NULL;
    keeper = lease->keeper;
    client_link_read(keeper); // somebody else may have it
    client_requests_forget(lease);
    // Also where it was lost: only a release says that the work has stopped.
    is_owed = lease->state == CLIENT_LEASE_HELD || lease->state == CLIENT_LEASE_LOST;
    if (is_owed && lease->bind == WIRE_BIND_CONNECTION && lease->is_ours)
        client_release_token(keeper, &lease->token);
    close_lease(lease, CLIENT_LEASE_RELEASED);
    client_news_forget(lease);
    unlink_from(lease);
    free(lease);
    client_pages_trim(keeper);
    client_arm(keeper);
    return NULL;
}
