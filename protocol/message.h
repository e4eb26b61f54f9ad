// SPDX-License-Identifier: Apache-2.0
//
// A line into a request. The tables in message.c say which members an op takes, of which type and
// range; everything that can be refused without knowing the sidecar's state or flags is refused
// here, with a message that names the member and the remedy. The only user of jansson.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/wire.h"

enum message_id_kind {
    MESSAGE_ID_NONE,
    MESSAGE_ID_INTEGER,
    MESSAGE_ID_STRING,
};

// A request's "id" (or "target"), to be echoed as it came.
struct message_id {
    enum message_id_kind kind;
    int64_t integer;
    size_t length;
    char string[WIRE_MAX_ID + 1]; // UTF-8, NUL-terminated
};

bool message_id_equal(const struct message_id *a, const struct message_id *b);

// A lease's token: the capability to release or adopt it.
struct message_token {
    uint8_t bytes[WIRE_LEASE_DIGITS / 2];
};

// digits: at least WIRE_LEASE_DIGITS characters. Only lower-case hex is accepted.
bool message_token_parse(const char *digits, struct message_token *token);
// Writes WIRE_LEASE_DIGITS characters, no NUL.
void message_token_format(const struct message_token *token, char *digits);

struct message_request {
    enum wire_op op;
    struct message_id id;
    uint64_t given; // 1 << WIRE_MEMBER_x for each member that was present

    // Members that were not given hold their protocol default, or 0 where the default is configured.
    char key[WIRE_MAX_KEY + 1]; // NUL-terminated UTF-8, as are the other strings
    size_t key_length;
    char label[WIRE_MAX_LABEL + 1];
    size_t label_length;
    struct message_token lease;
    int64_t ttl_ms;      // 0: configured default
    int64_t deadline_ms; // 0: configured default
    int64_t wait_ms;     // -1: without end
    int64_t grace_ms;
    int64_t pid; // 0: the peer's own
    enum wire_bind bind;
    enum wire_disconnect on_disconnect;
    unsigned notify; // 1 << WIRE_NOTIFY_x
    int64_t limit;
    char after[WIRE_MAX_CURSOR + 1]; // "" : from the start
    struct message_id target;
    bool page;
};

static inline bool message_has(const struct message_request *request, enum wire_member member)
{
    return (request->given >> member) & 1;
}

struct message_error {
    enum wire_error error;
    char message[256]; // ASCII or UTF-8, whole characters, NUL-terminated; names member and remedy
};

// 0, or 1 with *error filled (BAD_REQUEST or UNKNOWN_OP, or INTERNAL when memory is out). The
// request's id is set whenever the line held a valid one, op whenever it held a known one (else
// WIRE_OP_COUNT), so the refusal can echo both. The line need not be NUL-terminated.
int message_parse(const char *line, size_t length, struct message_request *request,
                  struct message_error *error);

// The version of the JSON library this program runs with.
const char *message_library_version(void);
