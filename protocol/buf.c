// SPDX-License-Identifier: Apache-2.0
//
// A growable run of bytes.
//
// The unread bytes are data[start..end). Reading moves start, appending moves end. Room is made, in
// this order: behind end; by moving the unread bytes to the front, if at least as many bytes are
// free there as have to be moved (so that moving costs no more than the reading did); by doubling.
//
// A buffer is either whole or failed. Once memory ran out it takes nothing more, for what came after
// a gap would be read as something else; only buf_deinit makes it whole again.
#include <assert.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/buf.h"

enum { BUF_MIN_CAPACITY = 256 };

void buf_deinit(struct buf *buf)
{
    free(buf->data);
    *buf = BUF_INIT;
}

static void buf_slide(struct buf *buf)
{
    size_t length = buf_length(buf);

    if (buf->start > 0 && length > 0)
        memmove(buf->data, buf->data + buf->start, length);
    buf->start = 0;
    buf->end = length;
}

static bool buf_grow(struct buf *buf, size_t size)
{
    size_t length = buf_length(buf);
    size_t capacity = buf->capacity < BUF_MIN_CAPACITY ? BUF_MIN_CAPACITY : buf->capacity;
    char *data;

    if (size > SIZE_MAX / 2 - length)
        return false;
    while (capacity - length < size)
        capacity *= 2;

    buf_slide(buf);
    data = realloc(buf->data, capacity);
    if (data == NULL)
        return false;
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

char *buf_make_room(struct buf *buf, size_t size)
{
    if (buf->failed)
        return NULL;
    if (buf->data == NULL || buf->capacity - buf->end < size) {
        size_t length = buf_length(buf);

        if (buf->start >= length && buf->data != NULL && buf->capacity - length >= size) {
            buf_slide(buf);
        } else if (!buf_grow(buf, size)) {
            buf->failed = true;
            return NULL;
        }
    }
    return buf->data + buf->end;
}

void buf_append_string(struct buf *buf, const char *string)
{
    buf_append(buf, string, strlen(string));
}

void buf_append_int(struct buf *buf, long long value)
{
    char digits[3 * sizeof value + 1];
    size_t at = sizeof digits;
    // Negated as unsigned: LLONG_MIN has no positive twin.
    unsigned long long rest = value < 0 ? 0 - (unsigned long long)value : (unsigned long long)value;

    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0)
        digits[--at] = '-';
    buf_append(buf, digits + at, sizeof digits - at);
}

void buf_consume(struct buf *buf, size_t size)
{
    assert(size <= buf_length(buf));
    buf->start += size;
    if (buf->start == buf->end)
        buf->start = buf->end = 0;
}

void buf_truncate(struct buf *buf, size_t length)
{
    assert(length <= buf_length(buf));
    buf->end = buf->start + length;
}

void buf_trim(struct buf *buf)
{
    if (buf_length(buf) > 0)
        return;
    free(buf->data);
    buf->data = NULL;
    buf->start = buf->end = buf->capacity = 0;
}
