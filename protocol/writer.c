// SPDX-License-Identifier: Apache-2.0
//
// Replies, events and requests, written straight into an output buffer.
//
// The writer has no state but the buffer: a comma is due unless the last byte opened an object or an
// array (a string cannot be mistaken for that, it ends with a quote). Each member is one
// reservation of the most it may take, one copy of its name, quoted at compile time, and its value.
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "protocol/text.h"
#include "protocol/writer.h"

struct literal {
    const char *text;
    size_t length;
};

#define LITERAL(string)                                                                            \
    {                                                                                              \
        string, sizeof(string) - 1                                                                 \
    }

// Members as they are written: "name": with the colon.
static const struct literal members[WIRE_MEMBER_COUNT] = {
#define WIRE_MEMBER(symbol, name) LITERAL("\"" name "\":"),
#include "protocol/wire.def"
};

static const struct literal ops[WIRE_OP_COUNT] = {
#define WIRE_OP(symbol, name) LITERAL("\"" name "\""),
#include "protocol/wire.def"
};

enum { INTEGER_ROOM = 20, ESCAPE_LENGTH = 6 };

static bool comma_due(const struct buf *out)
{
    char last;

    if (buf_length(out) == 0)
        return false;
    last = out->data[out->end - 1];
    return last != '{' && last != '[';
}

static char *put(char *at, const char *bytes, size_t length)
{
    memcpy(at, bytes, length);
    return at + length;
}

// The comma and the name of a member, and room bytes for its value behind them; the caller ends with
// buf_commit up to where it wrote. NULL when memory is out.
static char *begin_member(struct buf *out, enum wire_member member, size_t room)
{
    const struct literal *name = &members[member];
    bool comma = comma_due(out);
    char *at = buf_reserve(out, 1 + name->length + room);

    if (at == NULL)
        return NULL;
    if (comma)
        *at++ = ',';
    return put(at, name->text, name->length);
}

static void end_member(struct buf *out, const char *at)
{
    buf_commit(out, (size_t)(at - (out->data + out->end)));
}

static void append_char(struct buf *out, char c)
{
    buf_append(out, &c, 1);
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c <= 0x7e && c != '"' && c != '\\';
}

static size_t plain_length(const char *string, size_t length)
{
    size_t n = 0;

    while (n < length && is_plain((unsigned char)string[n]))
        n++;
    return n;
}

static char *put_escape(char *at, uint32_t unit)
{
    static const char digits[] = "0123456789abcdef";

    at = put(at, "\\u", 2);
    for (int shift = 12; shift >= 0; shift -= 4)
        *at++ = digits[unit >> shift & 15];
    return at;
}

static char *put_code(char *at, uint32_t code)
{
    if (code == '"' || code == '\\') {
        *at++ = '\\';
        *at++ = (char)code;
        return at;
    }
    if (code < 0x80 && is_plain((unsigned char)code)) {
        *at++ = (char)code;
        return at;
    }
    if (code < 0x10000)
        return put_escape(at, code);
    at = put_escape(at, 0xd800 + ((code - 0x10000) >> 10));
    return put_escape(at, 0xdc00 + ((code - 0x10000) & 0x3ff));
}

// A quoted string into room for ESCAPE_LENGTH * length + 2 bytes, or for length + 2 if all is plain.
static char *put_string(char *at, const char *string, size_t length, size_t plain)
{
    *at++ = '"';
    at = put(at, string, plain);
    while (plain < length) {
        size_t size;
        uint32_t code = text_decode(string + plain, length - plain, &size);

        at = put_code(at, code);
        plain += size;
    }
    *at++ = '"';
    return at;
}

void writer_string(struct buf *out, enum wire_member member, const char *string, size_t length)
{
    size_t plain = plain_length(string, length);
    char *at = begin_member(out, member, plain + ESCAPE_LENGTH * (length - plain) + 2);

    if (at != NULL)
        end_member(out, put_string(at, string, length, plain));
}

static void write_literal(struct buf *out, enum wire_member member, const char *text, size_t length)
{
    char *at = begin_member(out, member, length);

    if (at != NULL)
        end_member(out, put(at, text, length));
}

void writer_name(struct buf *out, enum wire_member member, const char *name)
{
    size_t length = strlen(name);

    assert(plain_length(name, length) == length);
    writer_string(out, member, name, length);
}

void writer_int(struct buf *out, enum wire_member member, int64_t value)
{
    char *at = begin_member(out, member, INTEGER_ROOM);

    if (at == NULL)
        return;
    end_member(out, at);
    buf_append_int(out, value);
}

void writer_bool(struct buf *out, enum wire_member member, bool value)
{
    write_literal(out, member, value ? "true" : "false", value ? 4 : 5);
}

void writer_null(struct buf *out, enum wire_member member)
{
    write_literal(out, member, "null", 4);
}

void writer_token(struct buf *out, enum wire_member member, const struct message_token *token)
{
    char *at = begin_member(out, member, WIRE_LEASE_DIGITS + 2);

    if (at == NULL)
        return;
    *at++ = '"';
    message_token_format(token, at);
    at += WIRE_LEASE_DIGITS;
    *at++ = '"';
    end_member(out, at);
}

void writer_reply(struct buf *out, bool ok, enum wire_op op, const struct message_id *id)
{
    append_char(out, '{');
    writer_bool(out, WIRE_MEMBER_OK, ok);
    if (id != NULL && id->kind == MESSAGE_ID_INTEGER)
        writer_int(out, WIRE_MEMBER_ID, id->integer);
    else if (id != NULL && id->kind == MESSAGE_ID_STRING)
        writer_string(out, WIRE_MEMBER_ID, id->string, id->length);
    if (op != WIRE_OP_COUNT)
        write_literal(out, WIRE_MEMBER_OP, ops[op].text, ops[op].length);
}

void writer_error(struct buf *out, enum wire_op op, const struct message_id *id,
                  enum wire_error error, const char *message)
{
    writer_reply(out, false, op, id);
    writer_name(out, WIRE_MEMBER_ERROR, wire_error_names[error]);
    writer_string(out, WIRE_MEMBER_MESSAGE, message, strlen(message));
}

void writer_event(struct buf *out, enum wire_event event)
{
    append_char(out, '{');
    writer_name(out, WIRE_MEMBER_EVENT, wire_event_names[event]);
}

void writer_end(struct buf *out)
{
    buf_append(out, "}\n", 2);
}

void writer_open_object(struct buf *out, enum wire_member member)
{
    write_literal(out, member, "{", 1);
}

void writer_close_object(struct buf *out)
{
    append_char(out, '}');
}

void writer_open_array(struct buf *out, enum wire_member member)
{
    write_literal(out, member, "[", 1);
}

void writer_close_array(struct buf *out)
{
    append_char(out, ']');
}

void writer_open_item(struct buf *out)
{
    if (comma_due(out))
        append_char(out, ',');
    append_char(out, '{');
}

void writer_item_name(struct buf *out, const char *name)
{
    if (comma_due(out))
        append_char(out, ',');
    append_char(out, '"');
    buf_append_string(out, name);
    append_char(out, '"');
}

static void write_id(struct buf *out, enum wire_member member, const struct message_id *id)
{
    if (id->kind == MESSAGE_ID_INTEGER)
        writer_int(out, member, id->integer);
    else if (id->kind == MESSAGE_ID_STRING)
        writer_string(out, member, id->string, id->length);
}

static void write_notify(struct buf *out, unsigned notify)
{
    writer_open_array(out, WIRE_MEMBER_NOTIFY);
    for (unsigned i = 0; i < WIRE_NOTIFY_COUNT; i++) {
        if (notify >> i & 1)
            writer_item_name(out, wire_notify_names[i]);
    }
    writer_close_array(out);
}

static void write_request_member(struct buf *out, const struct message_request *request,
                                 enum wire_member member)
{
    switch (member) {
    case WIRE_MEMBER_ID:
        write_id(out, member, &request->id);
        break;
    case WIRE_MEMBER_TARGET:
        write_id(out, member, &request->target);
        break;
    case WIRE_MEMBER_KEY:
        writer_string(out, member, request->key, request->key_length);
        break;
    case WIRE_MEMBER_LABEL:
        writer_string(out, member, request->label, request->label_length);
        break;
    case WIRE_MEMBER_LEASE:
        writer_token(out, member, &request->lease);
        break;
    case WIRE_MEMBER_TTL_MS:
        writer_int(out, member, request->ttl_ms);
        break;
    case WIRE_MEMBER_DEADLINE_MS:
        writer_int(out, member, request->deadline_ms);
        break;
    case WIRE_MEMBER_WAIT_MS:
        writer_int(out, member, request->wait_ms);
        break;
    case WIRE_MEMBER_GRACE_MS:
        writer_int(out, member, request->grace_ms);
        break;
    case WIRE_MEMBER_PID:
        writer_int(out, member, request->pid);
        break;
    case WIRE_MEMBER_LIMIT:
        writer_int(out, member, request->limit);
        break;
    case WIRE_MEMBER_AFTER:
        writer_string(out, member, request->after, strlen(request->after));
        break;
    case WIRE_MEMBER_BIND:
        writer_name(out, member, wire_bind_names[request->bind]);
        break;
    case WIRE_MEMBER_ON_DISCONNECT:
        writer_name(out, member, wire_disconnect_names[request->on_disconnect]);
        break;
    case WIRE_MEMBER_NOTIFY:
        write_notify(out, request->notify);
        break;
    case WIRE_MEMBER_PAGE:
        writer_bool(out, member, request->page);
        break;
    default: // "op" is written; no other is a request's
        break;
    }
}

void writer_request(struct buf *out, const struct message_request *request)
{
    append_char(out, '{');
    write_literal(out, WIRE_MEMBER_OP, ops[request->op].text, ops[request->op].length);
    for (unsigned member = 0; member < WIRE_MEMBER_COUNT; member++) {
        if (message_has(request, (enum wire_member)member))
            write_request_member(out, request, (enum wire_member)member);
    }
    writer_end(out);
}
