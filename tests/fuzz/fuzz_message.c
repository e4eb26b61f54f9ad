// SPDX-License-Identifier: Apache-2.0
//
// protocol/message (and protocol/writer behind it) on any bytes: the input is the line.
//
// Oracle: a refusal has words, UTF-8, that fit; and the reply that carries it is a line as promised,
// with the id as it came. An accepted request is within its ranges, and once it is written down and
// read again it is the same request. What a parse says does not depend on what was parsed before.

#include <jansson.h>
#include <string.h>

#include "protocol/message.h"
#include "protocol/text.h"
#include "protocol/writer.h"
#include "tests/fuzz/fuzz.h"

// ---- A request is what it may be ----

static void check_string(const char *string, size_t length, size_t max)
{
    uint32_t code;

    FUZZ_CHECK(length <= max && strlen(string) == length);
    FUZZ_CHECK(fuzz_is_utf8(string, length));
    FUZZ_CHECK(text_find_control(string, length, &code) == length);
}

static void check_id(const struct message_id *id)
{
    switch (id->kind) {
    case MESSAGE_ID_NONE:
        break;
    case MESSAGE_ID_INTEGER:
        FUZZ_CHECK(id->integer >= -WIRE_MAX_INTEGER && id->integer <= WIRE_MAX_INTEGER);
        break;
    case MESSAGE_ID_STRING:
        FUZZ_CHECK(id->length <= WIRE_MAX_ID && strlen(id->string) == id->length);
        FUZZ_CHECK(fuzz_is_utf8(id->string, id->length));
        break;
    default:
        FUZZ_CHECK(false && "a kind of id");
    }
}

static void check_request(const struct message_request *request)
{
    bool has_key = message_has(request, WIRE_MEMBER_KEY);

    FUZZ_CHECK(request->op < WIRE_OP_COUNT && message_has(request, WIRE_MEMBER_OP));
    FUZZ_CHECK(message_has(request, WIRE_MEMBER_ID) == (request->id.kind != MESSAGE_ID_NONE));
    check_id(&request->id);
    check_id(&request->target);
    check_string(request->key, request->key_length, WIRE_MAX_KEY);
    check_string(request->label, request->label_length, WIRE_MAX_LABEL);
    check_string(request->after, strlen(request->after), WIRE_MAX_CURSOR);
    FUZZ_CHECK(has_key == (request->key_length > 0));
    FUZZ_CHECK(request->ttl_ms == 0 || request->ttl_ms >= WIRE_MIN_TTL);
    FUZZ_CHECK(request->ttl_ms <= WIRE_MAX_INTEGER);
    FUZZ_CHECK(request->deadline_ms >= 0 && request->deadline_ms <= WIRE_MAX_INTEGER);
    FUZZ_CHECK(request->wait_ms >= -1 && request->wait_ms <= WIRE_MAX_INTEGER);
    FUZZ_CHECK(request->grace_ms >= 0 && request->grace_ms <= WIRE_MAX_INTEGER);
    FUZZ_CHECK(request->pid >= 0 && request->pid <= INT32_MAX);
    FUZZ_CHECK(request->pid == 0 || request->bind == WIRE_BIND_PID);
    FUZZ_CHECK(request->bind < WIRE_BIND_COUNT);
    FUZZ_CHECK(request->on_disconnect < WIRE_DISCONNECT_COUNT);
    FUZZ_CHECK(request->notify >> WIRE_NOTIFY_COUNT == 0);
    FUZZ_CHECK(request->limit >= 1 && request->limit <= WIRE_LIST_MAX);
    // The ops that need a key, a lease, a target.
    FUZZ_CHECK(has_key || (request->op != WIRE_OP_ACQUIRE && request->op != WIRE_OP_ADOPT &&
                           request->op != WIRE_OP_INSPECT && request->op != WIRE_OP_BREAK));
    FUZZ_CHECK(message_has(request, WIRE_MEMBER_LEASE) ||
               (request->op != WIRE_OP_RELEASE && request->op != WIRE_OP_ADOPT &&
                request->op != WIRE_OP_EXTEND));
    FUZZ_CHECK(message_has(request, WIRE_MEMBER_TARGET) || request->op != WIRE_OP_CANCEL);
}

// ---- Written down again ----

static json_t *id_json(const struct message_id *id)
{
    return id->kind == MESSAGE_ID_INTEGER ? json_integer(id->integer)
                                          : json_stringn(id->string, id->length);
}

static json_t *notify_json(unsigned notify)
{
    json_t *names = json_array();

    for (int i = 0; i < WIRE_NOTIFY_COUNT; i++)
        if (notify >> i & 1)
            json_array_append_new(names, json_string(wire_notify_names[i]));
    return names;
}

static json_t *member_json(const struct message_request *request, enum wire_member member)
{
    char digits[WIRE_LEASE_DIGITS];

    switch (member) {
    case WIRE_MEMBER_OP:
        return json_string(wire_op_names[request->op]);
    case WIRE_MEMBER_ID:
        return id_json(&request->id);
    case WIRE_MEMBER_TARGET:
        return id_json(&request->target);
    case WIRE_MEMBER_KEY:
        return json_stringn(request->key, request->key_length);
    case WIRE_MEMBER_LABEL:
        return json_stringn(request->label, request->label_length);
    case WIRE_MEMBER_LEASE:
        message_token_format(&request->lease, digits);
        return json_stringn(digits, sizeof digits);
    case WIRE_MEMBER_TTL_MS:
        return json_integer(request->ttl_ms);
    case WIRE_MEMBER_DEADLINE_MS:
        return json_integer(request->deadline_ms);
    case WIRE_MEMBER_WAIT_MS:
        return json_integer(request->wait_ms);
    case WIRE_MEMBER_GRACE_MS:
        return json_integer(request->grace_ms);
    case WIRE_MEMBER_PID:
        return json_integer(request->pid);
    case WIRE_MEMBER_BIND:
        return json_string(wire_bind_names[request->bind]);
    case WIRE_MEMBER_ON_DISCONNECT:
        return json_string(wire_disconnect_names[request->on_disconnect]);
    case WIRE_MEMBER_NOTIFY:
        return notify_json(request->notify);
    case WIRE_MEMBER_LIMIT:
        return json_integer(request->limit);
    case WIRE_MEMBER_AFTER:
        return json_string(request->after);
    case WIRE_MEMBER_PAGE:
        return json_boolean(request->page);
    default:
        FUZZ_CHECK(false && "a member of requests");
        return NULL;
    }
}

static void check_same(const struct message_request *a, const struct message_request *b)
{
    FUZZ_CHECK(a->op == b->op && a->given == b->given);
    FUZZ_CHECK(message_id_equal(&a->id, &b->id) && message_id_equal(&a->target, &b->target));
    FUZZ_CHECK(a->key_length == b->key_length && strcmp(a->key, b->key) == 0);
    FUZZ_CHECK(a->label_length == b->label_length && strcmp(a->label, b->label) == 0);
    FUZZ_CHECK(memcmp(&a->lease, &b->lease, sizeof a->lease) == 0);
    FUZZ_CHECK(a->ttl_ms == b->ttl_ms && a->deadline_ms == b->deadline_ms);
    FUZZ_CHECK(a->wait_ms == b->wait_ms && a->grace_ms == b->grace_ms && a->pid == b->pid);
    FUZZ_CHECK(a->bind == b->bind && a->on_disconnect == b->on_disconnect);
    FUZZ_CHECK(a->notify == b->notify && a->limit == b->limit && a->page == b->page);
    FUZZ_CHECK(strcmp(a->after, b->after) == 0);
}

static void check_again(const struct message_request *request)
{
    json_t *root = json_object();
    struct message_request again;
    struct message_error error;
    char *text;

    for (int i = WIRE_MEMBER_COUNT - 1; i >= 0; i--)
        if (message_has(request, (enum wire_member)i))
            json_object_set_new(root, wire_member_names[i],
                                member_json(request, (enum wire_member)i));
    text = json_dumps(root, 0);
    FUZZ_CHECK(text);
    FUZZ_CHECK(message_parse(text, strlen(text), &again, &error) == 0);
    check_same(request, &again);
    free(text);
    json_decref(root);
}

// The same by a client's writer.
static void check_written(const struct message_request *request)
{
    struct buf out = BUF_INIT;
    struct message_request again;
    struct message_error error;

    writer_request(&out, request);
    FUZZ_CHECK(message_parse(buf_bytes(&out), buf_length(&out) - 1, &again, &error) == 0);
    check_same(request, &again);
    buf_deinit(&out);
}

// ---- Refused ----

static void check_error(const struct message_error *error)
{
    size_t length = strnlen(error->message, sizeof error->message);

    FUZZ_CHECK(length > 0 && length < sizeof error->message);
    FUZZ_CHECK(fuzz_is_utf8(error->message, length));
    FUZZ_CHECK(error->error == WIRE_ERROR_BAD_REQUEST || error->error == WIRE_ERROR_UNKNOWN_OP);
}

// What a client gets: the words, the op where it was known, the id where there was a valid one.
static void check_reply(const struct message_request *request, const struct message_error *error)
{
    struct buf out = BUF_INIT;
    const char *words;
    json_t *reply, *id, *expected;

    check_id(&request->id);
    writer_error(&out, request->op, &request->id, error->error, error->message);
    writer_end(&out);
    FUZZ_CHECK(buf_length(&out) > 0 && buf_bytes(&out)[buf_length(&out) - 1] == '\n');
    reply = fuzz_check_line(buf_bytes(&out), buf_length(&out) - 1);
    words = json_string_value(json_object_get(reply, "message"));
    FUZZ_CHECK(words && strcmp(words, error->message) == 0);
    FUZZ_CHECK((json_object_get(reply, "op") == NULL) == (request->op == WIRE_OP_COUNT));
    id = json_object_get(reply, "id");
    FUZZ_CHECK((id == NULL) == (request->id.kind == MESSAGE_ID_NONE));
    if (id) {
        expected = id_json(&request->id);
        FUZZ_CHECK(json_equal(id, expected));
        json_decref(expected);
    }
    json_decref(reply);
    buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    char *line = fuzz_take(&input, &size);
    struct message_request request, twice;
    struct message_error error = {0}, error_twice = {0};
    int r;

    memset(&request, 0xa5, sizeof request);
    memset(&twice, 0x5a, sizeof twice);
    r = message_parse(line, size, &request, &error);
    FUZZ_CHECK(message_parse(line, size, &twice, &error_twice) == r);
    FUZZ_CHECK(request.op == twice.op && message_id_equal(&request.id, &twice.id));
    if (r == 0) {
        check_request(&request);
        check_same(&request, &twice);
        check_again(&request);
        check_written(&request);
    } else {
        FUZZ_CHECK(r == 1);
        check_error(&error);
        FUZZ_CHECK(strcmp(error.message, error_twice.message) == 0);
        check_reply(&request, &error);
    }
    free(line);
    return 0;
}
