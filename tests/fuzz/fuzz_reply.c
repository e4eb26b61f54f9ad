// SPDX-License-Identifier: Apache-2.0
//
// sidecar/redis_reply: what a hostile server can make of a reader.
//
// Input: a byte that makes chunk sizes; a byte that says how often the end is repeated (so that the
// limits of 64 KiB are within reach of a small input), and one for how long the beginning is that is
// not; and the stream of replies.
//
// Oracle: a reader that is fed in odd chunks gives the same replies as one that is fed all there is,
// and fails where that one fails. (Where 64 KiB of it can be unparsed, chunks decide which of the two
// fails first; then what both gave is the same.) Each reply is within its bounds, whole, and fit to
// be read.

#include <errno.h>
#include <string.h>

#include "protocol/buf.h"
#include "sidecar/redis_reply.h"
#include "tests/fuzz/fuzz.h"

enum {
    MAX_STREAM = 300000,
};

// ---- One reply ----

static void note(struct buf *text, const void *bytes, size_t size)
{
    buf_append(text, bytes, size);
}

// Writes the reply down, so that two can be compared; and looks at every part of it.
static size_t write_reply(const struct redis_reply *reply, int depth, struct buf *text)
{
    char words[REDIS_REPLY_WORDS_SIZE];
    size_t nodes = 1;

    note(text, &reply->type, sizeof reply->type);
    switch (reply->type) {
    case REDIS_REPLY_IS_NIL:
        break;
    case REDIS_REPLY_IS_INTEGER:
        note(text, &reply->integer, sizeof reply->integer);
        break;
    case REDIS_REPLY_IS_ERROR:
        redis_reply_words(reply, words);
        FUZZ_CHECK(strlen(words) < sizeof words && !strstr(words, "with args"));
        for (const char *at = words; *at; at++)
            FUZZ_CHECK(*at >= ' ' && *at <= '~');
        FUZZ_CHECK(!redis_reply_is_error(reply, "NOSCRIPT") ||
                   strncmp(reply->string, "NOSCRIPT", 8) == 0);
        // fall through
    case REDIS_REPLY_IS_STRING:
        FUZZ_CHECK(reply->length < REDIS_REPLY_MAX_BYTES);
        FUZZ_CHECK(reply->string[reply->length] == '\0');
        note(text, &reply->length, sizeof reply->length);
        note(text, reply->string, reply->length);
        break;
    case REDIS_REPLY_IS_ARRAY:
        FUZZ_CHECK(depth < REDIS_REPLY_MAX_DEPTH);
        FUZZ_CHECK(reply->length <= REDIS_REPLY_MAX_ELEMENTS);
        note(text, &reply->length, sizeof reply->length);
        for (size_t i = 0; i < reply->length; i++)
            nodes += write_reply(&reply->elements[i], depth + 1, text);
        break;
    default:
        FUZZ_CHECK(false && "a type of reply");
    }
    return nodes;
}

// ---- A reader and all it said ----

struct side {
    struct redis_reader *reader;
    struct buf text;
    bool failed;
};

static void open_side(struct side *side)
{
    *side = (struct side){.reader = redis_reader_new()};
    FUZZ_CHECK(side->reader);
}

static void close_side(struct side *side)
{
    redis_reader_free(side->reader);
    buf_deinit(&side->text);
}

static void feed(struct side *side, const char *bytes, size_t size)
{
    const struct redis_reply *reply;
    char *chunk = malloc(size);
    int r;

    FUZZ_CHECK(chunk || size == 0);
    memcpy(chunk, bytes, size);
    r = redis_reader_feed(side->reader, chunk, size);
    // The reader has copied what it needs.
    memset(chunk, '!', size);
    free(chunk);
    while (r == 0 && (r = redis_reader_next(side->reader, &reply)) == 1) {
        FUZZ_CHECK(write_reply(reply, 0, &side->text) <= REDIS_REPLY_MAX_NODES);
        r = 0;
    }
    if (r == 0)
        return;
    FUZZ_CHECK(r == -EPROTO && redis_reader_error(side->reader)[0]);
    FUZZ_CHECK(redis_reader_next(side->reader, &reply) == -EPROTO);
    side->failed = true;
}

// All of it, as the connection would read it.
static void feed_all(struct side *side, const char *stream, size_t length)
{
    for (size_t at = 0, size; at < length && !side->failed; at += size) {
        size = length - at < REDIS_REPLY_MAX_BYTES ? length - at : REDIS_REPLY_MAX_BYTES;
        feed(side, stream + at, size);
    }
}

static void feed_odd(struct side *side, const char *stream, size_t length, uint8_t seed)
{
    uint32_t state = seed;
    size_t scale = length / 64;

    for (size_t at = 0, size; at < length && !side->failed; at += size) {
        state = state * 1664525u + 1013904223u;
        size = 1 + (state >> 24) % (1 + scale + seed % 16);
        if (size > length - at)
            size = length - at;
        feed(side, stream + at, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    uint8_t seed = fuzz_byte(&input);
    uint8_t times = fuzz_byte(&input);
    size_t begin = fuzz_byte(&input);
    struct buf stream = BUF_INIT;
    struct side all, odd;
    size_t least;
    char *once = fuzz_take(&input, &begin);

    buf_append(&stream, once, begin);
    free(once);
    for (int i = 0; i <= times && buf_length(&stream) + input.left < MAX_STREAM; i++)
        buf_append(&stream, (const char *)input.at, input.left);
    open_side(&all);
    open_side(&odd);
    feed_all(&all, buf_bytes(&stream), buf_length(&stream));
    feed_odd(&odd, buf_bytes(&stream), buf_length(&stream), seed);

    least = buf_length(&all.text) < buf_length(&odd.text) ? buf_length(&all.text)
                                                          : buf_length(&odd.text);
    FUZZ_CHECK(least == 0 || memcmp(buf_bytes(&all.text), buf_bytes(&odd.text), least) == 0);
    if (buf_length(&stream) < REDIS_REPLY_MAX_BYTES) {
        FUZZ_CHECK(buf_length(&all.text) == buf_length(&odd.text));
        FUZZ_CHECK(all.failed == odd.failed);
    }
    close_side(&all);
    close_side(&odd);
    buf_deinit(&stream);
    return 0;
}
