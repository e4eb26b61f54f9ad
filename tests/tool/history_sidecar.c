// SPDX-License-Identifier: Apache-2.0
//
// The history checker: what sidecars read, wrote, sent and were told, but for grants and requests.
// I3, I4, I7, I8, I10, and the part of I5 and I6 that shows before Redis does anything.

#include <inttypes.h>
#include <string.h>

#include "sidecar/lease.h"
#include "tests/tool/history_state.h"

// ---- What a sidecar says of a lease: I3, I4, I8, I10 ----

static struct tracked *granted_lease(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    if (lease && lease->granted)
        return lease;
    history_violated(history, 4, record, lease, "an event for a lease that was not granted");
    return NULL;
}

static void publish(struct history *history, const struct history_record *record,
                    struct tracked *lease)
{
    if (history->options.sends && record->until_us > lease->confirmed_us)
        history_violated(history, 3, record, lease,
                         "valid until %.3f is published, %.3f is confirmed",
                         history_ms(record->until_us), history_ms(lease->confirmed_us));
    lease->published_us = history_max(lease->published_us, record->until_us);
}

static void on_wrote_renewed(struct history *history, const struct history_record *record)
{
    struct tracked *lease = granted_lease(history, record);

    if (!lease)
        return;
    if (lease->end != HISTORY_LIVE || lease->releasing)
        history_violated(history, 4, record, lease, "renewed after the end");
    publish(history, record, lease);
}

// A revoked event needs its reason.
static void check_reason(struct history *history, const struct history_record *record,
                         const struct tracked *lease)
{
    switch (record->reason) {
    case WIRE_REASON_LOST:
        if (lease->stored && !lease->lost &&
            record->at_us > lease->back_us + history->options.answer_us)
            history_violated(history, 8, record, lease, "revoked as lost, but Redis has the key");
        break;
    case WIRE_REASON_UNREACHABLE:
        if (history->options.sends && record->at_us < lease->revoke_us)
            history_violated(history, 8, record, lease,
                             "revoked as unreachable before its revoke time %.3f",
                             history_ms(lease->revoke_us));
        if (history_calm_since(history, lease->sidecar) < lease->stored_at_us && lease->was_set)
            history_violated(
                history, 8, record, lease,
                "revoked as unreachable, but nothing was at fault since its last renewal");
        break;
    case WIRE_REASON_DEADLINE:
        if (record->at_us < lease->deadline_us)
            history_violated(history, 8, record, lease, "revoked before its workflow deadline %.3f",
                             history_ms(lease->deadline_us));
        break;
    case WIRE_REASON_SHUTDOWN:
        if (!history_process(history, lease->sidecar)->stopping)
            history_violated(history, 8, record, lease,
                             "revoked for a shutdown that nobody asked for");
        break;
    case WIRE_REASON_EOF:
        if (!lease->eof)
            history_violated(history, 8, record, lease,
                             "revoked for an end of input that nobody sent");
        break;
    case WIRE_REASON_RELEASED:
        if (!lease->freed_by_other)
            history_violated(history, 8, record, lease,
                             "revoked as released, but nobody else released it");
        break;
    case WIRE_REASON_BROKEN:
        if (history_lock(history, lease->key)->breaks == 0)
            history_violated(history, 8, record, lease, "revoked as broken, but nobody broke it");
        break;
    case WIRE_REASON_MOVED:
        if (!history_is_adopted(history, &lease->token, lease->sidecar))
            history_violated(history, 8, record, lease, "revoked as moved, but nobody adopted it");
        break;
    default:
        break;
    }
}

// Nobody who holds may be told late: neither of D nor of the workflow deadline.
void history_check_late(struct history *history, const struct history_record *record,
                        const struct tracked *lease)
{
    if (history_is_late(history, lease->sidecar, lease->deadline_most_us, record->at_us))
        history_violated(history, 10, record, lease, "it outlived its workflow deadline %.3f",
                         history_ms(lease->deadline_most_us));
    else if (history_is_late(history, lease->sidecar, lease->revoke_us, record->at_us))
        history_violated(history, 2, record, lease, "it outlived its revoke time %.3f",
                         history_ms(lease->revoke_us));
}

static void on_wrote_revoked(struct history *history, const struct history_record *record)
{
    struct tracked *lease = granted_lease(history, record);

    if (!lease)
        return;
    if (lease->end != HISTORY_LIVE)
        history_violated(history, 4, record, lease, "it ends a second time");
    // A sidecar may look at what is overdue when it reads the release: that was before it.
    if (lease->releasing && record->at_us > lease->released_us &&
        !(lease->freed_by_other && record->reason == WIRE_REASON_RELEASED))
        history_violated(history, 4, record, lease, "revoked after its release was read");
    check_reason(history, record, lease);
    history_check_late(history, record, lease);
    publish(history, record, lease);
    lease->safe_until_us = record->due_us;
    lease->moved = record->reason == WIRE_REASON_MOVED;
    lease->lost |= record->reason == WIRE_REASON_LOST;
    if (record->reason == WIRE_REASON_BROKEN) {
        int64_t from_us = record->due_us ? record->due_us : record->at_us;
        lease->broken = true;
        lease->free_from_us = from_us < lease->free_from_us ? from_us : lease->free_from_us;
    }
    if (record->due_us > 0 && !lease->stored && lease->was_set && !lease->lost &&
        lease->free_from_us == INT64_MAX)
        history_violated(history, 2, record, lease,
                         "time is promised, but the key is gone already");
    history_ends(history, lease, HISTORY_TOLD);
}

static void on_read_release(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    if (!lease || !lease->granted)
        return;
    history_stops(lease, record->at_us);
    lease->released = true;
    if (lease->releasing)
        return; // the first one counts
    lease->releasing = true;
    lease->released_us = record->at_us;
    // What was left to its TTL may still be released by whoever knows its token.
    lease->released_live |= lease->end == HISTORY_LIVE || lease->end == HISTORY_LEFT;
    lease->freed_by_other |= lease->client != record->client;
    if (lease->over_us == INT64_MAX)
        lease->over_us = record->at_us;
}

static void on_wrote_released(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    if (!lease || !lease->granted)
        return;
    if (record->ok && !lease->released_live)
        history_violated(history, 4, record, lease, "success after the end");
    if (record->ok && history->options.sends && !lease->freed)
        history_violated(history, 4, record, lease, "success, but Redis has freed nothing");
    if (!lease->releasing)
        history_violated(history, 4, record, lease, "an answer to a release that nobody sent");
    if (lease->freed_by_other && lease->end == HISTORY_LIVE)
        history_violated(history, 7, record, lease,
                         "another connection released it and its holder was not told");
    history_ends(history, lease, HISTORY_RELEASED);
}

static void on_read_eof(struct history *history, const struct history_record *record)
{
    history_connection(history, record->client, record->sidecar)->eof = true;
    for (struct tracked *lease = history->all; lease; lease = lease->next)
        if (lease->client == record->client && lease->granted)
            history_reads_eof(lease, record->at_us);
}

// Nobody told its client, which may still have read it.
static void check_left(struct history *history, const struct history_record *record,
                       const struct tracked *lease)
{
    history_check_late(history, record, lease);
    if (lease->eof && lease->eof_us < record->at_us && !lease->unbound)
        history_violated(history, 7, record, lease,
                         "its client half-closed and heard no last words");
}

static void on_closed(struct history *history, const struct history_record *record)
{
    history_close_requests(history, record->client, UINT32_MAX, record->at_us);
    for (size_t i = 0; i < history->connections.count; i++)
        if (history->connections.items[i].number == record->client) {
            REMOVE(history->connections, i);
            break;
        }
    for (struct tracked *lease = history->all, *next; lease; lease = next) {
        next = lease->next;
        if (lease->client != record->client || !lease->granted)
            continue;
        if (record->ok && lease->over_us == INT64_MAX && !lease->expires && !lease->unbound)
            lease->over_us = record->at_us;
        if (lease->end == HISTORY_LIVE && !lease->releasing)
            check_left(history, record, lease);
        history_ends(history, lease, record->ok ? HISTORY_LEFT : HISTORY_CUT);
    }
}

// ---- What a sidecar sends ----

static void on_sent_acquire(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_track(history, &record->token, 0);
    struct request *request;

    if (!lease)
        return;
    history_check_turn(history, record, lease);
    if (lease->key && (lease->key != record->key || lease->request != record->request))
        history_violated(history, 5, record, lease, "the token was used before");
    lease->key = record->key;
    lease->sidecar = record->sidecar;
    lease->ttl_ms = record->ttl_ms;
    lease->request = record->request;
    request = history_find_request(history, record->request);
    if (request) {
        request->contends = true;
        return;
    }
    lease->over_us = record->at_us; // nobody waits for it
    history_ends(history, lease, HISTORY_DENIED);
}

static void check_shutdown(struct history *history, const struct history_record *record,
                           const struct tracked *lease)
{
    const struct process *process = history_process(history, lease->sidecar);

    if (process->stopping && lease->end == HISTORY_LIVE && !lease->releasing &&
        history_is_late(history, lease->sidecar,
                        history_max(process->stopping_us, lease->granted_us), record->at_us))
        history_violated(history, 7, record, lease, "it outlived the shutdown");
}

static void on_sent_renew(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    if (!lease || !lease->granted) {
        history_violated(history, 4, record, lease, "a renewal of a lease that was not granted");
        return;
    }
    if ((lease->end != HISTORY_LIVE && !history_is_detached(lease)) || lease->releasing ||
        (lease->eof && !lease->unbound))
        history_violated(history, 4, record, lease, "a renewal sent after the end");
    if (record->at_us >= lease->deadline_most_us)
        history_violated(history, 10, record, lease, "a renewal sent after the workflow deadline");
    check_shutdown(history, record, lease);
}

bool history_may_free(const struct tracked *lease, int64_t at_us)
{
    int64_t until_us = lease->published_us;

    // Renewed without being told; while its deadline is in doubt, perhaps not.
    if (lease->unbound && lease->deadline_us == lease->deadline_most_us)
        until_us = history_max(until_us, lease->confirmed_us);
    if (!lease->granted || at_us >= until_us)
        return true;
    return (lease->released || lease->broken || !lease->expires) && at_us >= lease->free_from_us;
}

static void on_sent_delete(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    if (lease && !history_may_free(lease, record->at_us))
        history_violated(history, 6, record, lease,
                         "a delete is sent before its client has stopped and before %.3f",
                         history_ms(lease->published_us));
}

// Does an answer still prolong it?
static bool is_open(struct history *history, const struct tracked *lease, int64_t at_us)
{
    if (history_is_detached(lease)) // nobody is told of its end
        return !(lease->deadline_us && at_us >= lease->deadline_us) &&
               !history_process(history, lease->sidecar)->stopping;
    return lease->end == HISTORY_ACQUIRING || lease->end == HISTORY_LIVE ||
           (lease->end == HISTORY_DENIED && lease->adopted); // another adoption may be under way
}

// It was adopted elsewhere, its sidecar gave it up with nobody to tell, and adopts it now.
static bool comes_back(const struct tracked *lease, const struct history_record *record)
{
    return history_is_detached(lease) && lease->lost && record->request;
}

static void on_answered(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    if (!lease || record->until_us <= lease->confirmed_us ||
        (record->at_us >= lease->revoke_us && !comes_back(lease, record)) ||
        !is_open(history, lease, record->at_us))
        return;
    if (comes_back(lease, record)) {
        lease->adopted = true;
        lease->deadline_us = lease->deadline_most_us = INT64_MAX; // as its grant will say
    }
    lease->confirmed_us = record->until_us;
    lease->revoke_us = record->due_us;
}

// ---- The world ----

static void on_frozen(struct history *history, const struct history_record *record)
{
    history_process(history, record->sidecar)->frozen = true;
}

static void on_thawed(struct history *history, const struct history_record *record)
{
    history_process(history, record->sidecar)->frozen = false;
    history_process(history, record->sidecar)->thawed_at_us = record->at_us;
}

static void on_stopping(struct history *history, const struct history_record *record)
{
    history_process(history, record->sidecar)->stopping = true;
    history_process(history, record->sidecar)->stopping_us = record->at_us;
}

static void on_ended(struct history *history, const struct history_record *record)
{
    history_process(history, record->sidecar)->ended = true;
    history_close_requests(history, UINT32_MAX, record->sidecar, record->at_us);
    for (size_t i = history->connections.count; i-- > 0;)
        if (history->connections.items[i].sidecar == record->sidecar)
            REMOVE(history->connections, i);
    for (struct tracked *lease = history->all, *next; lease; lease = next) {
        next = lease->next;
        if (lease->sidecar != record->sidecar)
            continue;
        check_shutdown(history, record, lease);
        history_ends(history, lease, HISTORY_DIED);
    }
}

static void on_trouble(struct history *history, const struct history_record *record)
{
    struct process *process =
        record->sidecar ? history_process(history, record->sidecar) : &history->everybody;

    process->trouble_until_us = history_max(process->trouble_until_us, record->until_us);
}

history_handler *const history_sidecar_handlers[HISTORY_KIND_COUNT] = {
    [HISTORY_READ_RELEASE] = on_read_release,
    [HISTORY_READ_EOF] = on_read_eof,
    [HISTORY_WROTE_RENEWED] = on_wrote_renewed,
    [HISTORY_WROTE_REVOKED] = on_wrote_revoked,
    [HISTORY_WROTE_RELEASED] = on_wrote_released,
    [HISTORY_CLOSED] = on_closed,
    [HISTORY_SENT_ACQUIRE] = on_sent_acquire,
    [HISTORY_SENT_RENEW] = on_sent_renew,
    [HISTORY_SENT_DELETE] = on_sent_delete,
    [HISTORY_ANSWERED] = on_answered,
    [HISTORY_FROZEN] = on_frozen,
    [HISTORY_THAWED] = on_thawed,
    [HISTORY_STOPPING] = on_stopping,
    [HISTORY_ENDED] = on_ended,
    [HISTORY_TROUBLE] = on_trouble,
};
