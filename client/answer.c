// SPDX-License-Identifier: Apache-2.0
//
// A reply as the program sees it: a view whose strings are those of the parsed line, which the
// request keeps as long as the view is lent.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/inside.h"

static const struct lock_keeper_reply nothing = {
    .name = "",
    .message = "",
    .retry_after_ms = -1,
    .waited_ms = -1,
    .held_ms = -1,
    .deadline_ms = -1,
    .deadline_in_ms = -1,
    .ttl_left_ms = -1,
    .since_ms = -1,
};

static struct lock_keeper_holder holder_view(const struct reply_holder *holder)
{
    return (struct lock_keeper_holder){
        .foreign = holder->foreign,
        .bytes = holder->bytes,
        .type = holder->type,
        .host = holder->host ? holder->host : "",
        .label = holder->label ? holder->label : "",
        .pid = holder->pid,
        .uid = holder->uid,
        .fence = holder->fence,
    };
}

// Where memory is out the list is empty, and says so by its code.
static int view_rows(struct client_request *request)
{
    const struct reply *reply = &request->reply;

    if (!reply->rows)
        return 0;
    request->rows = calloc(reply->row_count + 1, sizeof *request->rows);
    if (!request->rows)
        return -1;
    for (size_t i = 0; i < reply->row_count; i++) {
        const struct reply_row *row = &reply->rows[i];

        request->rows[i] = (struct lock_keeper_row){
            .state = row->state,
            .key = row->key,
            .holder = holder_view(&row->holder),
            .held_ms = row->held_ms,
            .valid_ms = row->valid_ms,
            .deadline_in_ms = row->deadline_in_ms,
            .waited_ms = row->waited_ms,
            .fence = row->fence,
        };
    }
    request->answer.rows = request->rows;
    request->answer.row_count = reply->row_count;
    return 0;
}

static void view_reply(struct client_request *request)
{
    const struct reply *reply = &request->reply;
    struct lock_keeper_reply *answer = &request->answer;

    answer->line = request->line;
    answer->key = reply->key;
    answer->retry_after_ms = reply->retry_after_ms;
    answer->waited_ms = reply->waited_ms;
    answer->held_ms = reply->held_ms;
    answer->freed = reply->freed;
    answer->deadline_ms = reply->deadline_ms;
    answer->deadline_in_ms = reply->deadline_in_ms;
    answer->held = reply->held;
    answer->here = reply->here;
    answer->ttl_left_ms = reply->ttl_left_ms;
    answer->since_ms = reply->since_ms;
    answer->broken = reply->broken;
    answer->redis_up = reply->redis && strcmp(reply->redis, "up") == 0;
    answer->redis_error = reply->redis_error;
    answer->next = reply->next;
    if (reply->has_holder) {
        request->holder = holder_view(&reply->holder);
        answer->holder = &request->holder;
    }
}

void client_answer_clear(struct client_request *request)
{
    if (request->has_reply)
        reply_deinit(&request->reply);
    request->has_reply = false;
    free(request->line);
    request->line = NULL;
    free(request->rows);
    request->rows = NULL;
    request->answer = nothing;
}

void client_answer(struct client_request *request, int code, const char *words)
{
    struct lock_keeper_reply *answer = &request->answer;
    const char *name = request->has_reply && !request->reply.ok ? request->reply.error_name : NULL;
    struct lock_keeper_lease *lease = answer->lease;

    *answer = nothing;
    answer->lease = lease;
    if (request->has_reply) {
        view_reply(request);
        if (view_rows(request) != 0)
            code = -ENOMEM, name = NULL, words = "no memory for the rows";
    }
    client_copy(request->name, sizeof request->name, name ? name : lock_keeper_code_name(code));
    client_copy(request->words, sizeof request->words, words);
    answer->code = code;
    answer->name = request->name;
    answer->message = request->words;
    answer->op = request->ask.op < WIRE_OP_COUNT ? wire_op_names[request->ask.op] : NULL;
}

void client_answer_failed(struct lock_keeper *keeper, int code)
{
    keeper->failed = nothing;
    keeper->failed.code = code;
    keeper->failed.name = lock_keeper_code_name(code);
    keeper->failed.message = keeper->failed_words;
}

const struct lock_keeper_reply *lock_keeper_get_reply(const struct lock_keeper *keeper)
{
    static const struct lock_keeper_reply *none = &nothing;

    if (keeper->failed.code != 0)
        return &keeper->failed;
    return keeper->replied ? &keeper->replied->answer : none;
}
