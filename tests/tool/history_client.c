// SPDX-License-Identifier: Apache-2.0
//
// The history checker: clients' records, and I1. A client acts from the grant's arrival until it
// releases, leaves, is told, sees the end, or until its newest valid_until.

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "tests/tool/history_state.h"

// ---- I1: who acts on a key ----

static bool may_overlap(const struct tracked *other, const struct tracked *lease, int64_t at_us)
{
    return other->lost || lease->lost || (other->broken && other->free_from_us <= at_us) ||
           memcmp(&other->token, &lease->token, sizeof lease->token) == 0;
}

static void acts(struct history *history, const struct history_record *record,
                 struct tracked *lease, int64_t until_us)
{
    struct lock *lock = history_lock(history, lease->key);
    size_t room = ACTING, mine = ACTING;

    if (until_us <= record->at_us)
        return;
    for (size_t i = 0; i < ACTING; i++) {
        struct tracked *other = lock->acting[i];
        if (other && other != lease && (!other->acts || other->acts_until_us <= record->at_us))
            other = lock->acting[i] = NULL;
        if (other == lease)
            mine = i;
        else if (!other)
            room = i;
        else if (!may_overlap(other, lease, record->at_us))
            history_violated(history, 1, record, lease,
                             "client %" PRIu32 " acts on key %" PRIu32
                             " until %.3f, and client %" PRIu32 " may act on it until %.3f",
                             lease->client, lease->key, history_ms(until_us), other->client,
                             history_ms(other->acts_until_us));
    }
    lease->acts = true;
    lease->acts_until_us = history_max(lease->acts_until_us, until_us);
    if (mine < ACTING)
        return;
    assert(room < ACTING);
    lock->acting[room] = lease;
}

static void on_client_granted(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_of(history, &record->token, record->client);

    if (!lease)
        lease = history_of(history, &record->token, 0);
    if (!lease && record->until_us > record->at_us)
        lease = history_new_tenure(history, &record->token);
    if (!lease)
        return; // long over
    if (!lease->key)
        lease->key = record->key;
    if (!lease->client)
        lease->client = record->client;
    if (history->options.sends && !lease->granted)
        history_violated(history, 7, record, lease, "a grant was received that nobody wrote");
    if (lease->end == HISTORY_LIVE && history_process(history, lease->sidecar)->stopping &&
        history_process(history, lease->sidecar)->stopping_us <= lease->granted_us)
        history_violated(history, 7, record, lease, "granted after the shutdown, and kept");
    // A client that has left, or released at once, does not act on what it still reads.
    if (lease->free_from_us == INT64_MAX)
        acts(history, record, lease, record->until_us);
}

static void on_client_renewed(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_of(history, &record->token, record->client);

    if (lease && lease->acts)
        acts(history, record, lease, record->until_us);
}

static void on_client_revoked(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_of(history, &record->token, record->client);

    if (lease)
        lease->acts = false;
}

void history_stops(struct tracked *lease, int64_t at_us)
{
    lease->acts = false;
    if (lease->free_from_us == INT64_MAX)
        lease->free_from_us = at_us;
}

static void on_client_releases(struct history *history, const struct history_record *record)
{
    for (struct tracked *lease = history_find(history, &record->token); lease;
         lease = lease->bucket_next) {
        if (memcmp(&lease->token, &record->token, sizeof record->token) != 0 ||
            (record->sidecar && lease->sidecar != record->sidecar))
            continue;
        history_stops(lease, record->at_us);
        lease->released = true;
    }
}

static void on_client_leaves(struct history *history, const struct history_record *record)
{
    history_connection(history, record->client, record->sidecar)->left = true;
    for (struct tracked *lease = history->all; lease; lease = lease->next)
        if (lease->client == record->client && !lease->unbound)
            history_stops(lease, record->at_us);
        else if (lease->client == record->client)
            lease->acts = false;
}

static void on_client_eof(struct history *history, const struct history_record *record)
{
    for (struct tracked *lease = history->all; lease; lease = lease->next)
        if (lease->client == record->client && !record->ok)
            lease->acts = false;
}

history_handler *const history_client_handlers[HISTORY_KIND_COUNT] = {
    [HISTORY_CLIENT_GRANTED] = on_client_granted, [HISTORY_CLIENT_RENEWED] = on_client_renewed,
    [HISTORY_CLIENT_REVOKED] = on_client_revoked, [HISTORY_CLIENT_RELEASES] = on_client_releases,
    [HISTORY_CLIENT_LEAVES] = on_client_leaves,   [HISTORY_CLIENT_EOF] = on_client_eof,
};
