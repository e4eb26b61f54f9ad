// SPDX-License-Identifier: Apache-2.0
//
// Replies, events and requests, written straight into an output buffer: compact ASCII JSON, one
// object a line, members in the order of the calls. Nothing is allocated but the buffer's growth.
//
//     writer_reply(out, true, WIRE_OP_RELEASE, &id);
//     writer_string(out, WIRE_MEMBER_KEY, key, key_length);
//     writer_int(out, WIRE_MEMBER_HELD_MS, held);
//     writer_end(out);
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/buf.h"
#include "protocol/message.h"
#include "protocol/wire.h"

// Begins {"ok":...,"id":...,"op":...; id may be NULL or of kind NONE (left out); op may be
// WIRE_OP_COUNT (left out).
void writer_reply(struct buf *out, bool ok, enum wire_op op, const struct message_id *id);
// A reply of ok false with its error name and message. Members may follow.
void writer_error(struct buf *out, enum wire_op op, const struct message_id *id,
                  enum wire_error error, const char *message);
// A whole request: its op, its id, and what is `given`. message_parse reads it as it was.
void writer_request(struct buf *out, const struct message_request *request);
// Begins {"event":"..."
void writer_event(struct buf *out, enum wire_event event);
// Ends the line.
void writer_end(struct buf *out);

void writer_int(struct buf *out, enum wire_member member, int64_t value);
void writer_bool(struct buf *out, enum wire_member member, bool value);
void writer_null(struct buf *out, enum wire_member member);
// UTF-8 in, ASCII out: everything above 0x7e and below 0x20 as \u escapes (surrogate pairs above
// the BMP); bytes that are not UTF-8 become \ufffd.
void writer_string(struct buf *out, enum wire_member member, const char *string, size_t length);
void writer_name(struct buf *out, enum wire_member member, const char *name); // ASCII, no escapes
void writer_token(struct buf *out, enum wire_member member, const struct message_token *token);

// "member":{ ... }   and   "member":[ {...},{...} ]   and   "member":["a","b"]
void writer_open_object(struct buf *out, enum wire_member member);
void writer_close_object(struct buf *out);
void writer_open_array(struct buf *out, enum wire_member member);
void writer_close_array(struct buf *out);
void writer_open_item(struct buf *out); // an object inside an array; writer_close_object ends it
void writer_item_name(struct buf *out, const char *name);
