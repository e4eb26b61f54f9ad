// SPDX-License-Identifier: Apache-2.0
//
// Events: what there is to tell, one at a time.
//
// Nothing is queued. News stand as bits in the objects that they are about (the connection, a
// lease), and leases with news stand in a list; so a program that never asks costs nothing, and one
// that asks late gets the newest of each. Replies are the requests themselves, done and not yet
// told.
//
// Order: the connection, then replies, then leases; of a lease, the end comes last. A reply stands
// before the news of the lease that it grants.
#include <string.h>

#include "client/inside.h"

void client_news(struct lock_keeper_lease *lease, unsigned news)
{
    struct lock_keeper *keeper = lease->keeper;

    if (news == CLIENT_NEWS_REVOKED)
        lease->news = 0;
    else
        lease->news &= ~(unsigned)CLIENT_NEWS_AT_RISK;
    lease->news |= news;
    if (lease->has_news)
        return;
    lease->has_news = true;
    lease->next_news = NULL;
    if (keeper->news_last)
        keeper->news_last->next_news = lease;
    else
        keeper->news_first = lease;
    keeper->news_last = lease;
}

void client_news_forget(struct lock_keeper_lease *lease)
{
    struct lock_keeper *keeper = lease->keeper;
    struct lock_keeper_lease *before = NULL;

    lease->news = 0;
    if (!lease->has_news)
        return;
    for (struct lock_keeper_lease *at = keeper->news_first; at != lease; at = at->next_news)
        before = at;
    if (before)
        before->next_news = lease->next_news;
    else
        keeper->news_first = lease->next_news;
    if (keeper->news_last == lease)
        keeper->news_last = before;
    lease->has_news = false;
}

// What the last event about the connection said is true no more.
static bool has_link_news(const struct lock_keeper *keeper)
{
    bool up = keeper->link.state == CLIENT_LINK_UP;

    return up != keeper->told_up || (keeper->told_up && keeper->has_broken);
}

bool client_has_event(const struct lock_keeper *keeper)
{
    return has_link_news(keeper) || keeper->done.first || keeper->news_first;
}

static void link_event(struct lock_keeper *keeper, struct lock_keeper_event *event)
{
    if (keeper->told_up) {
        event->kind = LOCK_KEEPER_EVENT_DISCONNECTED;
        event->message = keeper->link.end_words;
    } else {
        event->kind = LOCK_KEEPER_EVENT_CONNECTED;
        event->again = keeper->told_ever;
        keeper->told_ever = true;
    }
    keeper->told_up = !keeper->told_up;
    keeper->has_broken = false;
}

static void reply_event(struct lock_keeper *keeper, struct lock_keeper_event *event)
{
    struct client_request *request = keeper->done.first;

    keeper->done.first = request->next;
    if (request->next)
        request->next->previous = NULL;
    else
        keeper->done.last = NULL;
    keeper->collected = request;
    event->kind = LOCK_KEEPER_EVENT_REPLY;
    event->request = request->node.number;
    event->reply = &request->answer;
    event->lease = request->answer.lease;
    event->message = request->answer.message;
}

static int64_t left(int64_t until_ms)
{
    int64_t now_ms = client_now_ms();

    return until_ms > now_ms ? until_ms - now_ms : 0;
}

static void lease_event(struct lock_keeper *keeper, struct lock_keeper_event *event)
{
    struct lock_keeper_lease *lease = keeper->news_first;
    unsigned bit = lease->news & -lease->news; // the lowest

    lease->news &= ~bit;
    event->lease = lease;
    event->valid_until_ms = lease->last_until_ms;
    switch (bit) {
    case CLIENT_NEWS_RENEWED:
        event->kind = LOCK_KEEPER_EVENT_RENEWED;
        break;
    case CLIENT_NEWS_ADOPTED:
        event->kind = LOCK_KEEPER_EVENT_ADOPTED;
        break;
    case CLIENT_NEWS_AT_RISK:
        event->kind = LOCK_KEEPER_EVENT_AT_RISK;
        event->message = lease->message;
        event->safe_ms = left(lease->safe_until_ms);
        break;
    default:
        event->kind = LOCK_KEEPER_EVENT_REVOKED;
        event->message = lease->message;
        event->safe_ms = left(lease->safe_until_ms);
        event->reason = lease->reason;
        event->reason_name = lease->reason_name;
        break;
    }
    if (lease->news == 0)
        client_news_forget(lease);
}

static bool take_event(struct lock_keeper *keeper, struct lock_keeper_event *event)
{
    *event = (struct lock_keeper_event){.reason_name = "", .message = ""};
    keeper->collected = client_request_free(keeper->collected);
    if (has_link_news(keeper))
        link_event(keeper, event);
    else if (keeper->done.first)
        reply_event(keeper, event);
    else if (keeper->news_first)
        lease_event(keeper, event);
    else
        return false;
    return true;
}

const struct lock_keeper_event *lock_keeper_next_event(struct lock_keeper *keeper)
{
    return !keeper->is_telling && take_event(keeper, &keeper->event) ? &keeper->event : NULL;
}

void client_tell(struct lock_keeper *keeper)
{
    struct lock_keeper_event event;

    if (keeper->is_telling)
        return;
    keeper->is_telling = true;
    while (keeper->handler && take_event(keeper, &event)) {
        keeper->told++;
        keeper->handler(keeper, &event, keeper->user);
    }
    keeper->is_telling = false;
}
