// SPDX-License-Identifier: Apache-2.0
//
// The history checker: requests. I7 (each has one outcome, in time) and I13 (who waits).
//
// A request is known from when a sidecar reads it until its outcome. Those that acquire a key make
// its queue in their sidecar, in the order of their coming.

#include <inttypes.h>
#include <string.h>

#include "tests/tool/history_state.h"

struct request *history_find_request(struct history *history, uint32_t number)
{
    for (size_t i = 0; i < history->requests.count; i++)
        if (history->requests.items[i].number == number)
            return &history->requests.items[i];
    return NULL;
}

static struct request *add(struct history *history, const struct history_record *record)
{
    struct request *request;

    history_connection(history, record->client, record->sidecar);
    RESERVE(history, history->requests, history->requests.count + 1);
    request = &history->requests.items[history->requests.count++];
    *request = (struct request){
        .number = record->request,
        .client = record->client,
        .sidecar = record->sidecar,
        .key = record->key,
        .asked_at_us = record->at_us,
        .order = ++history->read,
        .due_us = record->due_us,
    };
    return request;
}

static void on_read_acquire(struct history *history, const struct history_record *record)
{
    add(history, record)->acquires = true;
}

static void on_read_query(struct history *history, const struct history_record *record)
{
    add(history, record)->due_us = 0;
}

// Of every tenure of the token: it may be asked for anywhere.
#define EACH_TENURE(history, record, lease)                                                        \
    (struct tracked *lease = history_find(history, &(record)->token); lease;                       \
     lease = lease->bucket_next) if (memcmp(&lease->token, &(record)->token,                       \
                                            sizeof lease->token) == 0)

static void on_read_adopt(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    on_read_query(history, record);
    if (lease && lease->client != record->client)
        lease->adopt_asked = true;
}

static void on_read_extend(struct history *history, const struct history_record *record)
{
    add(history, record)->token = record->token;
    for
        EACH_TENURE(history, record, lease)
    lease->extends++;
}

// The key's lease here is to go when the grace is over. One that has no connection is not told.
static void on_read_break(struct history *history, const struct history_record *record)
{
    add(history, record)->due_us = INT64_MAX; // it waits for the key's end
    history_lock(history, record->key)->breaks++;
    for (struct tracked *lease = history->all; lease; lease = lease->next) {
        if (lease->key != record->key || lease->sidecar != record->sidecar ||
            !history_is_detached(lease))
            continue;
        lease->broken = true;
        if (record->due_us < lease->free_from_us)
            lease->free_from_us = record->due_us;
    }
}

// ---- Outcomes ----

int64_t history_answer_by(const struct history *history, const struct request *request)
{
    int64_t due_us = history_max(request->due_us, request->asked_at_us);

    return due_us < INT64_MAX - history->options.answer_us ? due_us + history->options.answer_us
                                                           : INT64_MAX;
}

// The token that was asked for a request, if any, is over unless it was granted.
static void request_is_over(struct history *history, uint32_t number, int64_t at_us)
{
    for (struct tracked *lease = history->all; lease; lease = lease->next) {
        if (lease->request != number || lease->end != HISTORY_ACQUIRING)
            continue;
        if (!lease->adopted)
            lease->over_us = at_us;
        history_ends(history, lease, HISTORY_DENIED);
        return;
    }
}

void history_outcome(struct history *history, const struct history_record *record)
{
    struct request *request = history_find_request(history, record->request);

    if (!request) {
        history_violated(history, 7, record, NULL,
                         "request %" PRIu32 " has a second outcome, or was never read",
                         record->request);
        return;
    }
    if (history_is_late(history, record->sidecar, history_answer_by(history, request),
                        record->at_us))
        history_violated(history, 7, record, NULL,
                         "request %" PRIu32 " was read at %.3f and answered only now",
                         record->request, history_ms(request->asked_at_us));
    REMOVE(history->requests, (size_t)(request - history->requests.items));
}

static void on_wrote_denied(struct history *history, const struct history_record *record)
{
    history_outcome(history, record);
    request_is_over(history, record->request, record->at_us);
}

static void on_wrote_extended(struct history *history, const struct history_record *record)
{
    struct tracked *lease = history_at(history, &record->token, record->sidecar);

    history_outcome(history, record);
    if (!record->ok || !lease)
        return;
    if (lease->end != HISTORY_LIVE && !history_is_detached(lease))
        history_violated(history, 4, record, lease, "extended after the end");
    lease->deadline_us = lease->deadline_most_us = record->due_us;
    if (lease->extends > 0)
        lease->extends--;
}

// Its lease was given more time, or less, or neither: nobody says.
static void forget_extend(struct history *history, const struct request *request)
{
    struct tracked *lease = history_at(history, &request->token, request->sidecar);

    if (!lease)
        return;
    lease->deadline_us = 0;
    lease->deadline_most_us = INT64_MAX;
}

void history_close_requests(struct history *history, uint32_t client, uint32_t sidecar,
                            int64_t at_us)
{
    static const struct message_token none;

    for (size_t i = history->requests.count; i-- > 0;) {
        const struct request *request = &history->requests.items[i];
        if (request->client != client && request->sidecar != sidecar)
            continue;
        if (memcmp(&request->token, &none, sizeof none) != 0)
            forget_extend(history, request);
        request_is_over(history, request->number, at_us);
        REMOVE(history->requests, i);
    }
}

// ---- The queue: I13 ----

void history_check_turn(struct history *history, const struct history_record *record,
                        const struct tracked *lease)
{
    const struct request *mine = history_find_request(history, record->request);
    const struct tracked *holder = history_lock(history, record->key)->holder;

    if (!mine || !mine->acquires)
        return;
    for (size_t i = 0; i < history->requests.count; i++) {
        const struct request *other = &history->requests.items[i];
        if (other == mine || !other->acquires || other->key != record->key ||
            other->sidecar != record->sidecar)
            continue;
        if (other->order < mine->order)
            history_violated(history, 13, record, lease,
                             "request %" PRIu32 " came before request %" PRIu32 " and still waits",
                             other->number, mine->number);
        if (other->contends)
            history_violated(history, 13, record, lease,
                             "request %" PRIu32 " contends for the key, and so does %" PRIu32,
                             other->number, mine->number);
    }
    if (record->kind == HISTORY_SENT_ACQUIRE && holder && holder != lease &&
        holder->sidecar == record->sidecar && holder->end == HISTORY_LIVE && !holder->releasing &&
        !holder->adopted && !holder->eof)
        history_violated(history, 13, record, holder,
                         "Redis is asked for a key that this sidecar's own lease has");
}

void history_check_waiters(struct history *history, const struct history_record *record,
                           uint32_t key)
{
    const struct lock *lock = history_lock(history, key);

    if (history->options.idle_us == 0 || lock->holder || lock->taken)
        return;
    for (size_t i = 0; i < history->requests.count; i++) {
        const struct request *request = &history->requests.items[i];
        int64_t since_us = history_max(lock->free_since_us, request->asked_at_us);
        if (!request->acquires || request->key != key ||
            !history_is_up(history, request->sidecar) ||
            history_process(history, request->sidecar)->frozen)
            continue;
        since_us = history_max(since_us, history_calm_since(history, request->sidecar));
        if (record->at_us - since_us > history->options.idle_us)
            history_violated(history, 13, record, NULL,
                             "the key was free since %.3f, and request %" PRIu32 " waited for it",
                             history_ms(lock->free_since_us), request->number);
    }
}

history_handler *const history_request_handlers[HISTORY_KIND_COUNT] = {
    [HISTORY_READ_ACQUIRE] = on_read_acquire, [HISTORY_READ_ADOPT] = on_read_adopt,
    [HISTORY_READ_EXTEND] = on_read_extend,   [HISTORY_READ_BREAK] = on_read_break,
    [HISTORY_READ_QUERY] = on_read_query,     [HISTORY_WROTE_DENIED] = on_wrote_denied,
    [HISTORY_WROTE_ANSWER] = on_wrote_denied, [HISTORY_WROTE_EXTENDED] = on_wrote_extended,
};
