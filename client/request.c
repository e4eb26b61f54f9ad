// SPDX-License-Identifier: Apache-2.0
//
// Requests.
//
// A request is pending until it is done: answered, given up, or failed with the connection. It is
// done once. Pending ones stand in `requests` under the number that is their id on the wire
// ("lk:17"; ids of a program's own raw lines are other strings, or one at a time without), and in
// `pending` in the order in which they were asked, which is the order in which they are sent.
//
// When a connection ends, what was asked there is asked again on the next one, where that cannot do
// harm; a release only after its lease was adopted. Whoever waits learns nothing of it unless it
// takes too long. What cannot be repeated (raw lines, break) fails.
//
// An acquire that is given up while the sidecar may still grant it leaves a ghost: a request of
// nobody's under the same number, whose grant is released at once.
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/inside.h"
#include "protocol/writer.h"

#define ID_PREFIX "lk:"

struct client_request *client_request_find(const struct lock_keeper *keeper, uint64_t number)
{
    struct client_node *node = client_map_find(&keeper->requests, number);

    return node ? (void *)((char *)node - offsetof(struct client_request, node)) : NULL;
}

// ---- Lists ----

static void append(struct client_list *list, struct client_request *request)
{
    request->next = NULL;
    request->previous = list->last;
    if (list->last)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

static void unlink_from(struct client_list *list, struct client_request *request)
{
    if (request->next)
        request->next->previous = request->previous;
    else
        list->last = request->previous;
    if (request->previous)
        request->previous->next = request->next;
    else
        list->first = request->next;
}

static void leave_pending(struct client_request *request)
{
    struct lock_keeper *keeper = request->keeper;

    unlink_from(&keeper->pending, request);
    client_map_remove(&keeper->requests, &request->node);
    if (keeper->raw == request)
        keeper->raw = NULL;
}

// ---- Begin and end ----

static void set_id(struct client_request *request, uint64_t number)
{
    struct message_id *id = &request->ask.id;

    id->kind = MESSAGE_ID_STRING;
    id->length = (size_t)snprintf(id->string, sizeof id->string, ID_PREFIX "%llu",
                                  (unsigned long long)number);
    request->ask.given |= UINT64_C(1) << WIRE_MEMBER_ID;
}

static struct client_request *new_numbered(struct lock_keeper *keeper, enum wire_op op,
                                           enum client_audience audience, uint64_t number)
{
    struct client_request *request = calloc(1, sizeof *request);

    if (!request || client_map_add(&keeper->requests, &request->node, number) != 0) {
        free(request);
        return NULL;
    }
    request->keeper = keeper;
    request->audience = audience;
    request->ask.op = op;
    request->asked_ms = client_now_ms();
    request->give_up_ms =
        audience == CLIENT_NOBODY ? CLIENT_NEVER : request->asked_ms + keeper->timeout_ms;
    set_id(request, number);
    client_answer_clear(request);
    append(&keeper->pending, request);
    client_due(keeper, request->give_up_ms);
    return request;
}

struct client_request *client_request_new(struct lock_keeper *keeper, enum wire_op op,
                                          enum client_audience audience)
{
    return new_numbered(keeper, op, audience, ++keeper->last_number);
}

struct client_request *client_request_free(struct client_request *request)
{
    if (request) {
        client_answer_clear(request);
        free(request->raw);
        free(request);
    }
    return NULL;
}

void client_request_drop(struct client_request *request)
{
    leave_pending(request);
    client_request_free(request);
}

static void finish(struct client_request *request, int code, const char *words)
{
    struct lock_keeper *keeper = request->keeper;

    leave_pending(request);
    if (request->ask.op == WIRE_OP_RELEASE && request->lease)
        request->lease->state = CLIENT_LEASE_RELEASED;
    if (request->audience == CLIENT_NOBODY) {
        client_request_free(request);
        return;
    }
    client_answer(request, code, words);
    client_error(keeper, request->answer.code, request->name, request->words);
    request->is_done = true;
    if (request->audience == CLIENT_STARTED)
        append(&keeper->done, request);
}

void client_request_end(struct client_request *request, int code, const char *format, ...)
{
    char words[CLIENT_WORDS];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    finish(request, code, words);
}

// ---- Sending ----

static bool can_be_sent(const struct client_request *request)
{
    enum client_link_state state = request->keeper->link.state;

    if (request->is_sent)
        return false;
    if (request->ask.op == WIRE_OP_HELLO)
        return state == CLIENT_LINK_GREETING;
    return state == CLIENT_LINK_UP && (request->ask.op == WIRE_OP_ADOPT || !request->lease ||
                                       !client_lease_is_blocked(request->lease));
}

// What is left of the time to wait, now.
static void set_wait(struct client_request *request)
{
    int64_t left_ms = request->wait_until_ms - client_now_ms();

    if (!message_has(&request->ask, WIRE_MEMBER_WAIT_MS))
        return;
    if (request->wait_until_ms == CLIENT_NEVER)
        request->ask.wait_ms = -1;
    else
        request->ask.wait_ms = left_ms > 0 ? left_ms : 0;
}

static void write_line(struct client_request *request)
{
    struct buf *out = &request->keeper->link.out;

    if (request->ask.op < WIRE_OP_COUNT) {
        set_wait(request);
        writer_request(out, &request->ask);
    } else {
        buf_append_string(out, request->raw);
        buf_append_string(out, "\n");
    }
    request->is_sent = true;
    if (out->failed)
        client_link_end(request->keeper, -ENOMEM, "no memory for a request");
}

void client_request_send(struct client_request *request)
{
    if (can_be_sent(request))
        write_line(request);
    client_link_flush(request->keeper);
}

void client_requests_send(struct lock_keeper *keeper)
{
    keeper->is_unblocked = false;
    for (struct client_request *request = keeper->pending.first; request; request = request->next) {
        if (can_be_sent(request))
            write_line(request);
    }
}

void client_release_token(struct lock_keeper *keeper, const struct message_token *token)
{
    struct client_request *request = client_request_new(keeper, WIRE_OP_RELEASE, CLIENT_NOBODY);

    if (!request)
        return;
    request->ask.lease = *token;
    request->ask.given |= UINT64_C(1) << WIRE_MEMBER_LEASE;
    client_request_send(request);
}

int client_cancel(struct client_request *request)
{
    struct lock_keeper *keeper = request->keeper;
    struct client_request *cancel;

    if (!request->is_sent) {
        client_request_end(request, LOCK_KEEPER_E_CANCELLED, "it was cancelled");
        return 0;
    }
    cancel = client_request_new(keeper, WIRE_OP_CANCEL, CLIENT_NOBODY);
    if (!cancel)
        return -ENOMEM;
    request->is_cancelled = true;
    cancel->ask.target = request->ask.id;
    cancel->ask.given |= UINT64_C(1) << WIRE_MEMBER_TARGET;
    client_request_send(cancel);
    return 0;
}

// ---- Answers ----

static void take_acquired(struct client_request *request)
{
    request->answer.lease = client_lease_granted(request, &request->reply);
}

// Nobody waits for it any more, or its lease object has gone (which one bound to no connection
// outlives).
static void give_back(const struct client_request *request)
{
    if (request->reply.has_lease &&
        (request->ask.op == WIRE_OP_ACQUIRE || request->ask.bind == WIRE_BIND_CONNECTION))
        client_release_token(request->keeper, &request->reply.lease);
}

// A sidecar that has forgotten a lease which we know to have been lost says no more than we do.
static void take_forgotten(struct client_request *request)
{
    struct reply *reply = &request->reply;

    if (reply->error != WIRE_ERROR_UNKNOWN_LEASE || !request->lease ||
        request->lease->reason == LOCK_KEEPER_REASON_NONE)
        return;
    reply->error = WIRE_ERROR_LOST_ACTOR_LOCK;
    reply->error_name = wire_error_names[WIRE_ERROR_LOST_ACTOR_LOCK];
}

// What a reply means beyond its words. False: it is none, and the link is ended.
static bool take_effect(struct client_request *request)
{
    const struct reply *reply = &request->reply;
    bool is_own = request->audience == CLIENT_NOBODY;

    switch (request->ask.op) {
    case WIRE_OP_HELLO:
        client_link_greeted(request->keeper, request);
        break;
    case WIRE_OP_ADOPT:
        if (is_own && request->lease)
            client_lease_adopted(request->lease, reply);
        else if (is_own && reply->ok)
            give_back(request);
        else if (reply->ok)
            take_acquired(request);
        return is_own || !reply->ok || request->answer.lease;
    case WIRE_OP_ACQUIRE:
        if (is_own && reply->ok)
            give_back(request);
        else if (reply->ok)
            take_acquired(request);
        return is_own || !reply->ok || request->answer.lease;
    case WIRE_OP_RELEASE:
        take_forgotten(request);
        break;
    case WIRE_OP_EXTEND:
        if (reply->ok)
            client_lease_extended(request->lease, reply);
        break;
    default:
        break;
    }
    return true;
}

static void answer(struct client_request *request, struct reply *reply, const char *line,
                   size_t length)
{
    if (request->has_reply)
        reply_deinit(&request->reply);
    request->reply = *reply;
    request->has_reply = true;
    free(request->line);
    request->line = strndup(line, length);
    if (!take_effect(request)) {
        client_answer_clear(request); // it fails with the connection, or is asked again
        return;
    }
    finish(request, client_code(&request->reply), request->reply.message);
}

static struct client_request *find(const struct lock_keeper *keeper, const struct message_id *id,
                                   bool *is_ours)
{
    *is_ours =
        id->kind == MESSAGE_ID_STRING && strncmp(id->string, ID_PREFIX, strlen(ID_PREFIX)) == 0;
    if (!*is_ours)
        return NULL;
    return client_request_find(keeper, strtoull(id->string + strlen(ID_PREFIX), NULL, 10));
}

// Said without having been asked: why the connection is about to end.
static void note_parting(struct lock_keeper *keeper, const struct reply *reply)
{
    if (keeper->link.state == CLIENT_LINK_GREETING)
        client_link_end(keeper, client_code(reply), "%s", reply->message ? reply->message : "");
}

void client_requests_answer(struct lock_keeper *keeper, struct reply *reply, const char *line,
                            size_t length)
{
    bool is_ours;
    struct client_request *request = find(keeper, &reply->id, &is_ours);

    if (!is_ours && keeper->raw_stale > 0) {
        keeper->raw_stale--;
        is_ours = true;
    }
    if (!is_ours && keeper->raw && keeper->raw->is_sent)
        request = keeper->raw;
    if (request && request->is_sent) {
        answer(request, reply, line, length);
        return;
    }
    if (!is_ours && !reply->ok && reply->id.kind == MESSAGE_ID_NONE)
        note_parting(keeper, reply);
    reply_deinit(reply);
}

// ---- The end of a connection ----

static bool may_be_repeated(const struct client_request *request)
{
    return request->ask.op != WIRE_OP_COUNT && request->ask.op != WIRE_OP_BREAK;
}

static void interrupt(struct client_request *request)
{
    struct lock_keeper *keeper = request->keeper;

    if (request->audience == CLIENT_NOBODY)
        client_request_drop(request);
    else if (request->is_cancelled)
        client_request_end(request, LOCK_KEEPER_E_CANCELLED, "it was cancelled");
    else if (request->is_sent && (!keeper->reconnects || !may_be_repeated(request)))
        client_request_end(request, -ECONNRESET, "the connection ended before the answer: %s",
                           keeper->link.end_words);
}

void client_requests_interrupted(struct lock_keeper *keeper)
{
    struct client_request *next;

    keeper->raw_stale = 0;
    for (struct client_request *request = keeper->pending.first; request; request = next) {
        next = request->next;
        interrupt(request);
    }
    for (struct client_request *request = keeper->pending.first; request; request = request->next) {
        request->was_sent |= request->is_sent;
        request->is_sent = false;
    }
}

void client_requests_fail(struct lock_keeper *keeper, int code, const char *words)
{
    while (keeper->pending.first)
        client_request_end(keeper->pending.first, code, "%s", words);
}

void client_requests_orphaned(const struct lock_keeper_lease *lease, int code, const char *words)
{
    struct client_request *next;

    for (struct client_request *request = lease->keeper->pending.first; request; request = next) {
        bool is_release = request->ask.op == WIRE_OP_RELEASE;

        next = request->next;
        if (request->lease != lease || request->audience == CLIENT_NOBODY)
            continue;
        // The sidecar that went had read the release: the key is gone by our own doing.
        if (is_release && request->was_sent && code == LOCK_KEEPER_E_LOST_ACTOR_LOCK)
            finish(request, 0, "");
        else
            finish(request, code, words);
    }
}

// ---- Giving up ----

static void leave_ghost(const struct client_request *request)
{
    struct lock_keeper *keeper = request->keeper;
    struct client_request *ghost =
        new_numbered(keeper, WIRE_OP_ACQUIRE, CLIENT_NOBODY, request->node.number);

    if (!ghost) {
        client_link_end(keeper, -ENOMEM, "no memory to take a late grant back");
        return;
    }
    ghost->ask.bind = request->ask.bind;
    ghost->is_sent = true;
    (void)client_cancel(ghost);
}

static void give_up(struct client_request *request)
{
    struct lock_keeper *keeper = request->keeper;
    bool is_silent = keeper->link.fd >= 0;

    if (request->is_sent && request == keeper->raw)
        keeper->raw_stale++;
    if (request->is_sent && request->ask.op == WIRE_OP_ACQUIRE)
        leave_ghost(request);
    if (is_silent)
        client_request_end(request, -ETIMEDOUT, "the sidecar did not answer in time");
    else
        client_request_end(request, -ENOTCONN, "the sidecar is away: %s", keeper->link.end_words);
}

static int64_t give_up_ms(const struct client_request *request)
{
    const struct lock_keeper *keeper = request->keeper;
    int64_t since_ms = keeper->link.away_ms;
    int64_t away_ms;

    if (keeper->link.state == CLIENT_LINK_UP || request->audience == CLIENT_NOBODY)
        return request->give_up_ms;
    if (since_ms < request->asked_ms)
        since_ms = request->asked_ms;
    away_ms = since_ms + keeper->timeout_ms;
    return away_ms < request->give_up_ms ? away_ms : request->give_up_ms;
}

void client_requests_sweep(struct lock_keeper *keeper, int64_t now_ms)
{
    struct client_request *next;

    for (struct client_request *request = keeper->pending.first; request; request = next) {
        next = request->next;
        if (now_ms >= give_up_ms(request))
            give_up(request);
        else
            client_due(keeper, give_up_ms(request));
    }
}

// ---- The end of objects ----

static void forget_in(struct client_request *first, const struct lock_keeper_lease *lease)
{
    for (struct client_request *request = first; request; request = request->next) {
        if (request->lease == lease)
            request->lease = NULL;
        if (request->answer.lease == lease)
            request->answer.lease = NULL;
    }
}

void client_requests_forget(const struct lock_keeper_lease *lease)
{
    const struct lock_keeper *keeper = lease->keeper;

    forget_in(keeper->pending.first, lease);
    forget_in(keeper->done.first, lease);
    if (keeper->collected && keeper->collected->answer.lease == lease)
        keeper->collected->answer.lease = NULL;
    if (keeper->replied && keeper->replied->answer.lease == lease)
        keeper->replied->answer.lease = NULL;
}

static void free_list(struct client_list *list)
{
    struct client_request *next;

    for (struct client_request *request = list->first; request; request = next) {
        next = request->next;
        client_request_free(request);
    }
    *list = (struct client_list){0};
}

void client_requests_deinit(struct lock_keeper *keeper)
{
    free_list(&keeper->pending);
    free_list(&keeper->done);
    client_map_deinit(&keeper->requests);
    keeper->collected = client_request_free(keeper->collected);
    keeper->replied = client_request_free(keeper->replied);
}
