// SPDX-License-Identifier: Apache-2.0
//
// One struct per tenure of a lease, found by its token: what Redis did with it, what its sidecar said
// of it and when its client acts on it. Each kind of record has one function, which checks what the record may
// not be, and then takes it in. A key knows the lease that it holds in Redis, and those that act.
//
//     Redis     absent -> stored -> absent (gone: the rules of I2, I3 and I6 are applied here)
//     sidecar   ACQUIRING -> LIVE -> one of the ends; or ACQUIRING -> DENIED
//     client    acts from CLIENT_GRANTED until it stops by itself, is told, or until_us has come
//
// A lease is finished when its sidecar has ended it and Redis has it no more. It stays in a queue for
// a while, so that a second end or a renewal after the end is caught, and comes back to life when
// bytes that were late store it once more.

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/history_state.h"

enum { SHOWN = 40 };

// ---- Memory ----

void *history_grown(struct history *history, void *items, size_t *room, size_t need, size_t size)
{
    size_t more = *room ? *room : 16;
    char *bigger;

    if (need <= *room)
        return items;
    while (more < need)
        more *= 2;
    bigger = realloc(items, more * size);
    if (!bigger) {
        history->no_memory = true;
        return items;
    }
    memset(bigger + *room * size, 0, (more - *room) * size);
    *room = more;
    return bigger;
}

struct process *history_process(struct history *history, uint32_t number)
{
    RESERVE(history, history->processes, (size_t)number + 1);
    return &history->processes.items[number];
}

struct lock *history_lock(struct history *history, uint32_t number)
{
    RESERVE(history, history->locks, (size_t)number + 1);
    if (history->locks.count <= number)
        history->locks.count = (size_t)number + 1;
    return &history->locks.items[number];
}

static struct tracked **bucket_of(struct history *history, const struct message_token *token)
{
    uint32_t hash;

    memcpy(&hash, token->bytes, sizeof hash);
    return &history->buckets[hash % BUCKETS];
}

struct tracked *history_find(struct history *history, const struct message_token *token)
{
    struct tracked *at = *bucket_of(history, token);

    while (at && memcmp(&at->token, token, sizeof *token) != 0)
        at = at->bucket_next;
    return at;
}

struct tracked *history_at(struct history *history, const struct message_token *token,
                           uint32_t sidecar)
{
    struct tracked *at = *bucket_of(history, token);

    while (at && ((at->sidecar && sidecar && at->sidecar != sidecar) ||
                  memcmp(&at->token, token, sizeof *token) != 0))
        at = at->bucket_next;
    return at;
}

struct tracked *history_of(struct history *history, const struct message_token *token,
                           uint32_t client)
{
    struct tracked *at = *bucket_of(history, token);

    while (at && (at->client != client || memcmp(&at->token, token, sizeof *token) != 0))
        at = at->bucket_next;
    return at;
}

struct tracked *history_track(struct history *history, const struct message_token *token,
                              uint32_t sidecar)
{
    struct tracked *lease = history_at(history, token, sidecar);

    return lease ? lease : history_new_tenure(history, token);
}

void history_transfer(struct history *history, struct tracked *from, struct tracked *to)
{
    struct lock *lock = history_lock(history, from->key);

    if (lock->holder == from)
        lock->holder = to;
    to->key = from->key;
    to->stored = from->stored;
    to->was_set = from->was_set;
    to->stored_at_us = from->stored_at_us;
    to->set_at_us = from->set_at_us;
    to->fence = from->fence;
    if (!to->ttl_ms)
        to->ttl_ms = from->ttl_ms;
    from->stored = false;
    from->gone = from->lost = true;
    history_to_finished(history, from);
}

struct tracked *history_new_tenure(struct history *history, const struct message_token *token)
{
    struct tracked *lease = calloc(1, sizeof *lease);
    struct tracked **bucket;

    if (!lease) {
        history->no_memory = true;
        return NULL;
    }
    bucket = bucket_of(history, token);
    lease->bucket_next = *bucket;
    *bucket = lease;
    lease->next = history->all;
    if (history->all)
        history->all->previous = lease;
    history->all = lease;
    lease->token = *token;
    lease->free_from_us = lease->over_us = lease->revoke_us = lease->deadline_us = INT64_MAX;
    lease->deadline_most_us = INT64_MAX;
    history->ends[HISTORY_ACQUIRING]++;
    return lease;
}

static void untrack(struct history *history, struct tracked *lease)
{
    struct tracked **at = bucket_of(history, &lease->token);

    while (*at != lease)
        at = &(*at)->bucket_next;
    *at = lease->bucket_next;
    if (lease->previous)
        lease->previous->next = lease->next;
    else
        history->all = lease->next;
    if (lease->next)
        lease->next->previous = lease->previous;
    free(lease);
}

struct connection *history_connection(struct history *history, uint32_t number, uint32_t sidecar)
{
    struct connection *connection;

    for (size_t i = 0; i < history->connections.count; i++)
        if (history->connections.items[i].number == number)
            return &history->connections.items[i];
    RESERVE(history, history->connections, history->connections.count + 1);
    connection = &history->connections.items[history->connections.count++];
    *connection = (struct connection){.number = number, .sidecar = sidecar};
    return connection;
}

// ---- Violations ----

static bool is_about(const struct history_record *record, const struct history_record *subject,
                     const struct tracked *lease)
{
    static const struct message_token none;
    uint32_t key = lease ? lease->key : subject->key;
    uint32_t client = lease && lease->client ? lease->client : subject->client;
    uint32_t sidecar = lease && lease->sidecar ? lease->sidecar : subject->sidecar;
    bool has_token = memcmp(&record->token, &none, sizeof none) != 0;

    if (lease && memcmp(&record->token, &lease->token, sizeof none) == 0)
        return true;
    if (record->client == 0 && record->key == 0 && !has_token) // what befell a process, or all
        return record->sidecar == 0 || record->sidecar == sidecar;
    if (record->kind >= HISTORY_SET && key && (record->key == key || record->key == 0))
        return true;
    if (lease && (has_token || record->request != lease->request) && record->request)
        return false;
    return client && record->client == client && !has_token;
}

static void show(struct history *history, size_t length, const struct history_record *subject,
                 const struct tracked *lease)
{
    uint64_t oldest = history->recorded > HISTORY_RECENT ? history->recorded - HISTORY_RECENT : 0;
    uint64_t shown[SHOWN];
    size_t count = 0;

    for (uint64_t i = history->recorded; i-- > oldest && count < SHOWN;)
        if (is_about(&history->recent[i % HISTORY_RECENT], subject, lease))
            shown[count++] = i;
    while (count-- > 0 && length + 2 < sizeof history->why) {
        history->why[length++] = ' ';
        history_format(&history->recent[shown[count] % HISTORY_RECENT], history->why + length,
                       sizeof history->why - length - 1);
        length += strlen(history->why + length);
        history->why[length++] = '\n';
        history->why[length] = '\0';
    }
}

void history_violated(struct history *history, int invariant, const struct history_record *record,
                      const struct tracked *lease, const char *format, ...)
{
    va_list arguments;
    size_t length;
    int n;

    if (history->invariant)
        return;
    history->invariant = invariant;
    n = snprintf(history->why, sizeof history->why, "I%d: ", invariant);
    va_start(arguments, format);
    n += vsnprintf(history->why + n, sizeof history->why - (size_t)n, format, arguments);
    va_end(arguments);
    length = (size_t)n;
    history->why[length++] = '\n';
    history->why[length] = '\0';
    show(history, length, record, lease);
}

// ---- What can be expected of a sidecar ----

// Something due at an instant, by a loop that runs: is it late now?
bool history_is_late(struct history *history, uint32_t sidecar, int64_t due_us, int64_t at_us)
{
    const struct process *process = history_process(history, sidecar);

    if (process->frozen || due_us == INT64_MAX)
        return false;
    return at_us > history_max(due_us, process->thawed_at_us) + history->options.late_us;
}

// The instant since when nothing is at fault and everything is in time again.
int64_t history_calm_since(struct history *history, uint32_t sidecar)
{
    const struct process *process = history_process(history, sidecar);
    int64_t end_us = history_max(process->trouble_until_us, history->everybody.trouble_until_us);

    end_us = history_max(end_us, process->thawed_at_us);
    return end_us > 0 ? end_us + history->options.settle_us : 0;
}

bool history_is_up(struct history *history, uint32_t sidecar)
{
    return sidecar && !history_process(history, sidecar)->ended;
}

// ---- The life of a lease ----

static bool is_finished(const struct tracked *lease)
{
    return !lease->stored && lease->end != HISTORY_ACQUIRING && lease->end != HISTORY_LIVE;
}

void history_to_finished(struct history *history, struct tracked *lease)
{
    if (lease->in_finished || !is_finished(lease))
        return;
    lease->in_finished = true;
    lease->finished_next = NULL;
    *history->finished_end = lease;
    history->finished_end = &lease->finished_next;
    history->finished_count++;
}

static void stop_acting(struct history *history, const struct tracked *lease)
{
    struct lock *lock = history_lock(history, lease->key);

    for (size_t i = 0; i < ACTING; i++)
        if (lock->acting[i] == lease)
            lock->acting[i] = NULL;
}

// The one that was finished first is forgotten, unless its client may still act on it, or its sidecar.
static void forget_old(struct history *history)
{
    struct tracked *lease = history->finished;

    if (history->finished_count <= HISTORY_FINISHED)
        return;
    history->finished = lease->finished_next;
    if (!history->finished)
        history->finished_end = &history->finished;
    history->finished_count--;
    lease->in_finished = false;
    if (history_max(lease->confirmed_us, history_max(lease->published_us, lease->acts_until_us)) >
        history->now_us) {
        history_to_finished(history, lease);
        return;
    }
    stop_acting(history, lease);
    if (is_finished(lease))
        untrack(history, lease);
}

void history_ends(struct history *history, struct tracked *lease, enum history_end how)
{
    if (lease->end != HISTORY_ACQUIRING && lease->end != HISTORY_LIVE)
        return;
    history->ends[lease->end]--;
    history->ends[how]++;
    lease->end = how;
    history_to_finished(history, lease);
}

// ---- The checker ----

static int result(const struct history *history)
{
    if (history->no_memory)
        return -ENOMEM;
    return history->invariant ? HISTORY_E_VIOLATION : 0;
}

static void take(struct history *history, const struct history_record *record)
{
    history_handler *const *const tables[] = {history_client_handlers, history_request_handlers,
                                              history_grant_handlers, history_sidecar_handlers,
                                              history_redis_handlers};

    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (tables[i][record->kind])
            tables[i][record->kind](history, record);
}

int history_add(struct history *history, const struct history_record *record)
{
    if (history->invariant || history->no_memory)
        return result(history);
    assert(record->at_us >= history->now_us);
    history->now_us = record->at_us;
    history->recent[history->recorded++ % HISTORY_RECENT] = *record;
    take(history, record);
    forget_old(history);
    return result(history);
}

static void finish_lease(struct history *history, const struct history_record *record,
                         const struct tracked *lease)
{
    if (lease->end == HISTORY_LIVE && history_is_up(history, lease->sidecar) &&
        history->options.sends && !lease->releasing)
        history_check_late(history, record, lease);
    if (lease->stored && history->options.sends && history_gone_by(history, lease) < record->at_us)
        history_violated(history, 6, record, lease,
                         "it was over at %.3f, and its key is still there",
                         history_ms(lease->over_us));
}

int history_finish(struct history *history, int64_t at_us)
{
    struct history_record record = {.at_us = at_us, .kind = HISTORY_TROUBLE};

    for (size_t i = 0; i < history->requests.count; i++) {
        const struct request *request = &history->requests.items[i];
        record.client = request->client;
        if (history_is_late(history, request->sidecar, history_answer_by(history, request), at_us))
            history_violated(history, 7, &record, NULL, "request %" PRIu32 " has no outcome",
                             request->number);
    }
    record.client = 0;
    for (uint32_t key = 1; key < history->locks.count; key++)
        history_check_waiters(history, &record, key);
    for (const struct tracked *lease = history->all; lease; lease = lease->next)
        finish_lease(history, &record, lease);
    return result(history);
}

int history_invariant(const struct history *history)
{
    return history->invariant;
}

const char *history_why(const struct history *history)
{
    return history->why;
}

int64_t history_least_slack(const struct history *history)
{
    return history->least_slack_us;
}

uint64_t history_count(const struct history *history, enum history_end end)
{
    return history->ends[end];
}

size_t history_tracked(const struct history *history)
{
    size_t count = 0;

    for (const struct tracked *lease = history->all; lease; lease = lease->next)
        count++;
    return count;
}

struct history *history_new(const struct history_options *options)
{
    struct history *history = calloc(1, sizeof *history);

    if (!history)
        return NULL;
    history->options = *options;
    history->finished_end = &history->finished;
    history->least_slack_us = INT64_MAX;
    history->recent = calloc(HISTORY_RECENT, sizeof(*history->recent));
    return history->recent ? history : history_free(history);
}

struct history *history_free(struct history *history)
{
    if (!history)
        return NULL;
    for (struct tracked *lease = history->all, *next; lease; lease = next) {
        next = lease->next;
        free(lease);
    }
    free(history->requests.items);
    free(history->connections.items);
    free(history->processes.items);
    free(history->locks.items);
    free(history->recent);
    free(history);
    return NULL;
}
