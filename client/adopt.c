// SPDX-License-Identifier: Apache-2.0
//
// Adoption: a lease of a connection that ended becomes one of the next.
//
// The library asks for every lease that is live and not of this connection, as soon as it is greeted.
// A refusal that may pass is asked again; how long, the lease's own end decides (lease.c). What is
// asked about a lease meanwhile waits for it. The answer may find the lease over: then it is only to
// be given back.
#include <string.h>

#include "client/inside.h"

enum {
    AGAIN_MIN_MS = 20,
    AGAIN_MAX_MS = 250,
};

// ---- What may be asked ----

bool client_lease_is_gone(const struct lock_keeper_lease *lease)
{
    bool is_up = lease->keeper->link.state == CLIENT_LINK_UP;

    return lease->state == CLIENT_LEASE_LOST && !(is_up && (lease->is_ours || lease->is_adopting));
}

bool client_lease_is_blocked(const struct lock_keeper_lease *lease)
{
    return client_lease_is_live(lease) && !lease->is_ours;
}

// ---- The question ----

static void adopt_later(struct lock_keeper_lease *lease)
{
    int64_t pause_ms = lease->ttl_ms / 20;

    if (pause_ms < AGAIN_MIN_MS)
        pause_ms = AGAIN_MIN_MS;
    if (pause_ms > AGAIN_MAX_MS)
        pause_ms = AGAIN_MAX_MS;
    lease->adopt_ms = client_now_ms() + pause_ms;
    client_due(lease->keeper, lease->adopt_ms);
}

void client_lease_adopt(struct lock_keeper_lease *lease)
{
    struct client_request *request =
        client_request_new(lease->keeper, WIRE_OP_ADOPT, CLIENT_NOBODY);
    struct message_request *ask;

    if (!request) {
        adopt_later(lease);
        return;
    }
    ask = &request->ask;
    request->lease = lease;
    ask->key_length = strlen(lease->key);
    memcpy(ask->key, lease->key, ask->key_length + 1);
    ask->lease = lease->token;
    ask->bind = lease->bind;
    ask->pid = lease->pid;
    ask->on_disconnect = lease->on_disconnect;
    ask->notify = 1u << WIRE_NOTIFY_RENEWED | 1u << WIRE_NOTIFY_AT_RISK;
    ask->given |= UINT64_C(1) << WIRE_MEMBER_KEY | UINT64_C(1) << WIRE_MEMBER_LEASE |
                  UINT64_C(1) << WIRE_MEMBER_BIND | UINT64_C(1) << WIRE_MEMBER_ON_DISCONNECT |
                  UINT64_C(1) << WIRE_MEMBER_NOTIFY;
    if (lease->pid > 0)
        ask->given |= UINT64_C(1) << WIRE_MEMBER_PID;
    lease->is_adopting = true;
    lease->adopt_ms = CLIENT_NEVER;
    client_request_send(request);
}

// ---- Its answer ----

// Refusals that another attempt may not meet.
static bool may_pass(const struct reply *reply)
{
    switch (reply->error) {
    case WIRE_ERROR_REDIS_UNAVAILABLE:
    case WIRE_ERROR_REDIS_REFUSED:
    case WIRE_ERROR_LIMIT_EXCEEDED:
    case WIRE_ERROR_SHUTTING_DOWN:
    case WIRE_ERROR_INTERNAL:
        return true;
    default:
        return false;
    }
}

// A deadline that passed while nobody could say so reads as a lost key.
static void refused(struct lock_keeper_lease *lease, const struct reply *reply)
{
    bool is_late = client_now_ms() >= lease->deadline_at_ms;

    if (lease->state == CLIENT_LEASE_RELEASING)
        client_requests_orphaned(lease, LOCK_KEEPER_E_LOST_ACTOR_LOCK, reply->message);
    else
        client_lease_lose(lease, is_late ? LOCK_KEEPER_REASON_DEADLINE : LOCK_KEEPER_REASON_LOST,
                          reply->message, 0);
}

// The lease ended while the question was on its way. It is ours now, unless another object has it.
static void adopted_late(struct lock_keeper_lease *lease, const struct reply *reply)
{
    if (!reply->ok || client_lease_find(lease->keeper, &lease->token))
        return;
    if (lease->state == CLIENT_LEASE_RELEASED) // nobody waits for that any more
        client_release_token(lease->keeper, &lease->token);
    else
        lease->is_ours = true;
}

void client_lease_adopted(struct lock_keeper_lease *lease, const struct reply *reply)
{
    lease->is_adopting = false;
    if (!client_lease_is_live(lease)) {
        adopted_late(lease, reply);
        return;
    }
    if (!reply->ok && may_pass(reply)) {
        adopt_later(lease);
        return;
    }
    if (!reply->ok) {
        refused(lease, reply);
        return;
    }
    if (!client_lease_is_grant(lease->keeper, reply, lease->key))
        return;
    client_lease_take(lease, reply);
    lease->keeper->is_unblocked = true;
    if (lease->state == CLIENT_LEASE_HELD)
        client_news(lease, CLIENT_NEWS_ADOPTED);
}

void client_leases_adopt(struct lock_keeper *keeper)
{
    for (struct lock_keeper_lease *lease = keeper->leases; lease; lease = lease->next) {
        if (client_lease_is_blocked(lease) && !lease->is_adopting)
            client_lease_adopt(lease);
    }
}
