// SPDX-License-Identifier: Apache-2.0
//
// A growable run of bytes, read from the front and appended at the back. An empty buffer owns no
// memory after buf_trim. Running out of memory is sticky: the buffer keeps what it held, drops
// every later append and says so in `failed`, so a writer checks once at the end.
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct buf {
    char *data;   // owned
    size_t start; // the first unread byte
    size_t end;   // one past the last
    size_t capacity;
    bool failed;
};

#define BUF_INIT ((struct buf){0})

void buf_deinit(struct buf *buf);

static inline size_t buf_length(const struct buf *buf)
{
    return buf->end - buf->start;
}

static inline const char *buf_bytes(const struct buf *buf)
{
    return buf->data == NULL ? NULL : buf->data + buf->start;
}

// Room for at least size more bytes at the returned place, or NULL (and failed). The caller writes
// there and calls buf_commit with the number of bytes written. Valid until the next call.
char *buf_make_room(struct buf *buf, size_t size);
static inline char *buf_reserve(struct buf *buf, size_t size)
{
    if (buf->failed || buf->data == NULL || buf->capacity - buf->end < size)
        return buf_make_room(buf, size);
    return buf->data + buf->end;
}

static inline void buf_commit(struct buf *buf, size_t size)
{
    assert(size <= buf->capacity - buf->end);
    buf->end += size;
}

static inline void buf_append(struct buf *buf, const char *bytes, size_t size)
{
    char *room = size > 0 ? buf_reserve(buf, size) : NULL;

    if (room == NULL)
        return;
    memcpy(room, bytes, size);
    buf_commit(buf, size);
}

void buf_append_string(struct buf *buf, const char *string);
void buf_append_int(struct buf *buf, long long value);

// Drops size bytes from the front.
void buf_consume(struct buf *buf, size_t size);

// Drops the bytes appended since buf_length was length (an append that is taken back).
void buf_truncate(struct buf *buf, size_t length);

// Gives memory back: all of it when the buffer is empty, nothing otherwise.
void buf_trim(struct buf *buf);
