// SPDX-License-Identifier: Apache-2.0
//
// Redis' replies (RESP2), read by hiredis' reader into a fixed arena: no reply allocates anything,
// and none can be larger than the arena. What does not fit, nests too deep or is not RESP2 fails
// the reader for good; its connection goes with it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum redis_reply_type {
    REDIS_REPLY_IS_NIL,
    REDIS_REPLY_IS_STRING, // bulk strings and status lines
    REDIS_REPLY_IS_ERROR,
    REDIS_REPLY_IS_INTEGER,
    REDIS_REPLY_IS_ARRAY,
};

enum {
    REDIS_REPLY_MAX_ELEMENTS = 1024, // of one array
    REDIS_REPLY_MAX_DEPTH = 3,       // arrays within arrays
    REDIS_REPLY_MAX_NODES = 1200,    // of one reply in all
    REDIS_REPLY_MAX_BYTES = 65536,   // of the strings of one reply; also of what is not parsed yet
};

struct redis_reply {
    enum redis_reply_type type;
    int64_t integer;
    const char *string; // STRING and ERROR: NUL-terminated, and may hold NULs
    size_t length;      // of string, or the number of elements
    const struct redis_reply *elements;
};

struct redis_reader;

struct redis_reader *redis_reader_new(void);
struct redis_reader *redis_reader_free(struct redis_reader *reader);

// 0, or -EPROTO (redis_reader_error says why). size: at most REDIS_REPLY_MAX_BYTES.
int redis_reader_feed(struct redis_reader *reader, const char *bytes, size_t size);
// 1 with *reply, valid until the next call of the reader; 0: no whole reply is there; -EPROTO. Once
// 0 came, more than REDIS_REPLY_MAX_BYTES left unparsed are -EPROTO too.
int redis_reader_next(struct redis_reader *reader, const struct redis_reply **reply);
const char *redis_reader_error(const struct redis_reader *reader);

static inline bool redis_reply_is(const struct redis_reply *reply, enum redis_reply_type type)
{
    return reply->type == type;
}

// Whether an error's first word is code.
bool redis_reply_is_error(const struct redis_reply *reply, const char *code);

enum {
    REDIS_REPLY_WORDS_SIZE = 160,
};

// An error's text, fit for a log and a client: printable, cut to size, and without the arguments
// that Redis quotes when it does not know a command (they hold passwords and tokens). Returns words.
char *redis_reply_words(const struct redis_reply *reply, char words[REDIS_REPLY_WORDS_SIZE]);
