// SPDX-License-Identifier: Apache-2.0
//
// The validity pages of connections that asked for one.
//
// A lease has a slot from its grant on, while it is told to that connection. keeper_apply brings the
// slot up to date after every step of a lease, before the step's actions are carried out: so it is 0
// before `revoked`, or the reply to a release, is written. Leases without a slot are told apart by a
// flag of their own and cost nothing here.
//
// When a slot is used again is a question of safety: a client that has not read yet that a lease is
// over, and looks at its slot only, would take the next lease's validity for its own. So it stays
// taken, at 0, until the client itself has said that it is done: by the lease's release, on this
// connection. What was revoked is acknowledged so; a lease that has moved on keeps its slot until
// the connection ends, or it comes back.

#include <string.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/page.h"

enum { NS_PER_MS = 1000000 };

static uint64_t name_of(const struct message_token *token)
{
    uint64_t name;

    memcpy(&name, token->bytes, sizeof name);
    return name ? name : 1;
}

int keeper_open_page(struct session *session)
{
    int r = page_new(&session->page);

    session->page_at = session->taken + buf_length(&session->out);
    return r;
}

int keeper_page_grant(struct session *session, struct slot *slot)
{
    uint64_t name = name_of(&slot->token);
    int number = session->page ? page_take(session->page, name) : PAGE_NONE;

    if (number == PAGE_NONE)
        return PAGE_NONE;
    slot->lease.flags |= LEASE_PAGED;
    page_set(session->page, name, slot->lease.until_ms * NS_PER_MS);
    return number;
}

void keeper_page_follow(const struct keeper *keeper, const struct slot *slot)
{
    const struct session *session = keeper_session_of(keeper, slot);
    bool live = lease_is_live(&slot->lease);

    if (session && session->page)
        page_set(session->page, name_of(&slot->token), live ? slot->lease.until_ms * NS_PER_MS : 0);
}

void keeper_page_leave(struct session *session, struct slot *slot)
{
    if (!(slot->lease.flags & LEASE_PAGED))
        return;
    slot->lease.flags &= (uint16_t)~LEASE_PAGED;
    if (session->page)
        page_set(session->page, name_of(&slot->token), 0);
}

void keeper_page_release(struct session *session, const struct message_token *token)
{
    if (session->page)
        page_give(session->page, name_of(token));
}
