// SPDX-License-Identifier: Apache-2.0
//
// The history checker: where a tenure begins, by an acquire or by an adoption. I3, I4, I7, I8, I10 and
// I11 of a grant.

#include <inttypes.h>
#include <string.h>

#include "tests/tool/history_state.h"

// ---- Grants ----

void history_reads_eof(struct tracked *lease, int64_t at_us)
{
    if (!lease->eof)
        lease->eof_us = at_us;
    lease->eof = true;
    if (lease->over_us == INT64_MAX && !lease->expires && !lease->unbound)
        lease->over_us = at_us;
}

static void begin_tenure(struct history *history, const struct history_record *record,
                         struct tracked *lease)
{
    const struct connection *connection;

    lease->key = record->key;
    lease->client = record->client;
    lease->sidecar = record->sidecar;
    lease->granted = true;
    lease->granted_us = record->at_us;
    lease->published_us = record->until_us;
    lease->expires = record->expires;
    lease->unbound = record->unbound;
    history->ends[lease->end]--;
    lease->end = HISTORY_LIVE;
    history->ends[lease->end]++;
    connection = history_connection(history, record->client, record->sidecar);
    if (connection->left && !lease->unbound)
        history_stops(lease, record->at_us);
    if (connection->eof)
        history_reads_eof(lease, record->at_us);
}

static void check_grant(struct history *history, const struct history_record *record,
                        const struct tracked *lease)
{
    if (history->options.sends && record->until_us > lease->confirmed_us)
        history_violated(history, 3, record, lease,
                         "valid until %.3f is published, %.3f is confirmed",
                         history_ms(record->until_us), history_ms(lease->confirmed_us));
    if (history->options.sends && record->at_us >= lease->revoke_us)
        history_violated(history, 8, record, lease, "granted after its revoke time %.3f",
                         history_ms(lease->revoke_us));
    if (record->fence && lease->fence && record->fence != lease->fence)
        history_violated(history, 11, record, lease, "its fencing token in Redis is %" PRId64,
                         lease->fence);
}

static void on_wrote_granted(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_track(history, &record->token, record->sidecar);

    if (!lease)
        return;
    history_check_turn(history, record, lease);
    history_outcome(history, record);
    if (lease->granted)
        history_violated(history, 4, record, lease, "the same lease is granted twice");
    else if (lease->end != HISTORY_ACQUIRING)
        history_violated(history, 4, record, lease, "a lease is granted whose request was over");
    check_grant(history, record, lease);
    lease->deadline_us = lease->deadline_most_us = record->due_us;
    begin_tenure(history, record, lease);
}

// ---- Adoption ----

// The workflow deadline goes on from where it was, by Redis' clock.
static void check_deadline(struct history *history, const struct history_record *record,
                           const struct tracked *lease)
{
    const struct tracked *before = history_find(history, &record->token);
    int64_t room_us = history->options.answer_us, off_us, asked_us;

    while (before && (before == lease || !before->granted || before->deadline_us == INT64_MAX ||
                      memcmp(&before->token, &record->token, sizeof record->token) != 0))
        before = before->bucket_next;
    if (!before || before->extends || before->deadline_us != before->deadline_most_us ||
        before->stepped || lease->stepped)
        return;
    off_us = record->due_us - before->deadline_us;
    room_us += (before->deadline_us - before->granted_us) / 50;
    // In Redis it counts from the first acquire that was executed, which may have gone unanswered.
    asked_us = before->set_at_us ? before->granted_us - before->set_at_us : 0;
    if (off_us > room_us || off_us < -room_us - asked_us)
        history_violated(history, 10, record, lease,
                         "adopted until %.3f, but its workflow deadline was %.3f",
                         history_ms(record->due_us), history_ms(before->deadline_us));
}

// The same lease for another connection of the same sidecar.
static struct tracked *move(struct history *history, const struct history_record *record,
                            struct tracked *from)
{
    struct tracked *to;

    if (from->end == HISTORY_LIVE && from->client == record->client)
        return from;
    if (from->end == HISTORY_LIVE && !from->eof)
        history_violated(history, 7, record, from,
                         "another connection adopted it, and its holder was not told");
    to = history_new_tenure(history, &record->token);
    if (!to)
        return NULL;
    to->lost = from->lost;
    to->gone = from->gone;
    to->freed = from->freed;
    history_transfer(history, from, to);
    to->sidecar = from->sidecar;
    to->adopted = from->adopted;
    to->confirmed_us = from->confirmed_us;
    to->revoke_us = from->revoke_us;
    to->deadline_us = from->deadline_us;
    to->deadline_most_us = from->deadline_most_us;
    to->extends = from->extends;
    to->stepped = from->stepped;
    history_ends(history, from, HISTORY_TOLD);
    return to;
}

static bool may_move(const struct tracked *lease)
{
    return lease->end == HISTORY_LIVE || history_is_detached(lease) ||
           (lease->end == HISTORY_TOLD && lease->moved) ||
           (lease->end == HISTORY_DENIED && lease->adopted);
}

static void on_wrote_adopted(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    history_outcome(history, record);
    if (!lease || lease->releasing || (lease->end != HISTORY_ACQUIRING && !may_move(lease))) {
        history_violated(history, 4, record, lease, "adopted after its end, or from nowhere");
        return;
    }
    if (lease->end != HISTORY_ACQUIRING)
        lease = move(history, record, lease);
    if (!lease)
        return;
    check_grant(history, record, lease);
    check_deadline(history, record, lease);
    if (lease->deadline_us == INT64_MAX)
        lease->deadline_us = lease->deadline_most_us = record->due_us;
    begin_tenure(history, record, lease);
}

static void on_unwritten(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_of(history, &record->token, record->client);

    if (!lease)
        return;
    history_stops(lease, record->at_us);
    lease->expires = lease->unbound = false;
}

static void on_sent_adopt(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    if (lease && (lease->end == HISTORY_LIVE || lease->end == HISTORY_ACQUIRING ||
                  history_is_detached(lease)))
        return; // from one connection to another, or asked for already
    lease = history_new_tenure(history, &record->token);
    if (!lease)
        return;
    lease->key = record->key;
    lease->sidecar = record->sidecar;
    lease->request = record->request;
    lease->adopted = true;
    if (!history_find_request(history, record->request))
        history_ends(history, lease, HISTORY_DENIED); // nobody waits for it
}

history_handler *const history_grant_handlers[HISTORY_KIND_COUNT] = {
    [HISTORY_WROTE_GRANTED] = on_wrote_granted,
    [HISTORY_WROTE_ADOPTED] = on_wrote_adopted,
    [HISTORY_UNWRITTEN] = on_unwritten,
    [HISTORY_SENT_ADOPT] = on_sent_adopt,
};
