// SPDX-License-Identifier: Apache-2.0
//
// hiredis' reader with object functions of our own.
//
// The arena is one block per connection: nodes, and bytes for the strings (they must be copied,
// since the reader's buffer moves when it is fed). It is emptied when the reader begins the next
// root object, so a reply lives until then. An array's nodes lie side by side and are taken when
// its header is read; its children are then filled in place, so nothing is ever linked or freed.
//
// An object function that returns NULL makes the reader fail with "out of memory", which is our
// "refused": `refusal` keeps the real reason. A reader that failed stays failed.
//
// The header's struct differs between hiredis 0.14 (createArray takes an int, RESP2 only) and 1.x
// (size_t, and RESP3's types, which nobody asked the server for and which are refused).
#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/redis_reply.h"

struct redis_reader {
    redisReader *reader;
    const char *refusal; // why an object function returned NULL, or NULL
    size_t nodes_used;
    size_t bytes_used;
    struct redis_reply nodes[REDIS_REPLY_MAX_NODES];
    char bytes[REDIS_REPLY_MAX_BYTES];
};

static void *refuse(struct redis_reader *reader, const char *why)
{
    reader->refusal = why;
    return NULL;
}

// Where a task's value goes: the root takes the first node of an empty arena, a child its place in
// its parent's array.
static struct redis_reply *place(const redisReadTask *task)
{
    struct redis_reader *reader = task->privdata;

    if (!task->parent) {
        reader->bytes_used = 0;
        reader->nodes_used = 1;
        return &reader->nodes[0];
    }
    struct redis_reply *parent = task->parent->obj;
    size_t first = (size_t)(parent->elements - reader->nodes);

    return &reader->nodes[first + (size_t)task->idx];
}

static void *create_string(const redisReadTask *task, char *string, size_t length)
{
    struct redis_reader *reader = task->privdata;
    struct redis_reply *reply = place(task);

    if (task->type != REDIS_REPLY_STRING && task->type != REDIS_REPLY_STATUS &&
        task->type != REDIS_REPLY_ERROR)
        return refuse(reader, "a reply that is not RESP2");
    if (length >= sizeof reader->bytes - reader->bytes_used)
        return refuse(reader, "a reply of over 64 KiB");

    char *copy = reader->bytes + reader->bytes_used;

    memcpy(copy, string, length);
    copy[length] = '\0';
    reader->bytes_used += length + 1;
    *reply = (struct redis_reply){
        .type = task->type == REDIS_REPLY_ERROR ? REDIS_REPLY_IS_ERROR : REDIS_REPLY_IS_STRING,
        .string = copy,
        .length = length,
    };
    return reply;
}

static void *take_array(const redisReadTask *task, size_t elements)
{
    struct redis_reader *reader = task->privdata;
    struct redis_reply *reply = place(task);
    int depth = 1;

    for (const redisReadTask *up = task->parent; up; up = up->parent)
        depth++;
    if (task->type != REDIS_REPLY_ARRAY)
        return refuse(reader, "a reply that is not RESP2");
    if (depth > REDIS_REPLY_MAX_DEPTH)
        return refuse(reader, "a reply that nests too deep");
    if (elements > REDIS_REPLY_MAX_ELEMENTS ||
        elements > REDIS_REPLY_MAX_NODES - reader->nodes_used)
        return refuse(reader, "a reply of too many elements");
    *reply = (struct redis_reply){
        .type = REDIS_REPLY_IS_ARRAY,
        .length = elements,
        .elements = reader->nodes + reader->nodes_used,
    };
    reader->nodes_used += elements;
    return reply;
}

#if HIREDIS_MAJOR >= 1
static void *create_array(const redisReadTask *task, size_t elements)
{
    return take_array(task, elements);
}

static void *create_double(const redisReadTask *task, double number, char *string, size_t length)
{
    (void)number;
    (void)string;
    (void)length;
    return refuse(task->privdata, "a reply that is not RESP2");
}

static void *create_bool(const redisReadTask *task, int value)
{
    (void)value;
    return refuse(task->privdata, "a reply that is not RESP2");
}
#else
static void *create_array(const redisReadTask *task, int elements)
{
    if (elements < 0)
        return refuse(task->privdata, "an array of negative length");
    return take_array(task, (size_t)elements);
}
#endif

static void *create_integer(const redisReadTask *task, long long value)
{
    struct redis_reply *reply = place(task);

    *reply = (struct redis_reply){.type = REDIS_REPLY_IS_INTEGER, .integer = value};
    return reply;
}

static void *create_nil(const redisReadTask *task)
{
    struct redis_reply *reply = place(task);

    *reply = (struct redis_reply){.type = REDIS_REPLY_IS_NIL};
    return reply;
}

static void free_object(void *object)
{
    (void)object;
}

static redisReplyObjectFunctions functions = {
    .createString = create_string,
    .createArray = create_array,
    .createInteger = create_integer,
#if HIREDIS_MAJOR >= 1
    .createDouble = create_double,
    .createBool = create_bool,
#endif
    .createNil = create_nil,
    .freeObject = free_object,
};

struct redis_reader *redis_reader_new(void)
{
    struct redis_reader *reader = calloc(1, sizeof *reader);

    if (!reader)
        return NULL;
    reader->reader = redisReaderCreateWithFunctions(&functions);
    if (!reader->reader) {
        free(reader);
        return NULL;
    }
    // 0 keeps the buffer when it is empty, so a steady stream of replies never allocates.
    reader->reader->maxbuf = 0;
    reader->reader->privdata = reader;
    return reader;
}

struct redis_reader *redis_reader_free(struct redis_reader *reader)
{
    if (reader) {
        redisReaderFree(reader->reader);
        free(reader);
    }
    return NULL;
}

int redis_reader_feed(struct redis_reader *reader, const char *bytes, size_t size)
{
    return redisReaderFeed(reader->reader, bytes, size) == REDIS_OK ? 0 : -EPROTO;
}

int redis_reader_next(struct redis_reader *reader, const struct redis_reply **reply)
{
    void *object = NULL;

    if (reader->refusal || redisReaderGetReply(reader->reader, &object) != REDIS_OK)
        return -EPROTO;
    *reply = object;
    if (object)
        return 1;
    if (reader->reader->len - reader->reader->pos > REDIS_REPLY_MAX_BYTES) {
        refuse(reader, "a reply of over 64 KiB");
        return -EPROTO;
    }
    return 0;
}

const char *redis_reader_error(const struct redis_reader *reader)
{
    return reader->refusal ? reader->refusal : reader->reader->errstr;
}

bool redis_reply_is_error(const struct redis_reply *reply, const char *code)
{
    size_t length = strlen(code);

    return reply->type == REDIS_REPLY_IS_ERROR && strncmp(reply->string, code, length) == 0 &&
           (reply->string[length] == ' ' || reply->string[length] == '\0');
}

char *redis_reply_words(const struct redis_reply *reply, char words[REDIS_REPLY_WORDS_SIZE])
{
    // The text may hold NULs: a hostile server's.
    const char *arguments = memmem(reply->string, reply->length, "with args", 9);
    size_t length = arguments ? (size_t)(arguments - reply->string) : reply->length;

    if (length > REDIS_REPLY_WORDS_SIZE - 1)
        length = REDIS_REPLY_WORDS_SIZE - 1;
    while (length > 0 && (reply->string[length - 1] == ' ' || reply->string[length - 1] == ','))
        length--;
    if (length == 0)
        return strcpy(words, "an error without words");
    for (size_t i = 0; i < length; i++) {
        char c = reply->string[i];

        words[i] = c >= ' ' && c <= '~' ? c : '?';
    }
    words[length] = '\0';
    return words;
}
