// SPDX-License-Identifier: Apache-2.0
//
// Bytes into lines.
//
// The unread bytes are those of `rest`, then those of the chunk from chunk_line on. Of these, the
// first `scanned` of rest and, once all of rest was scanned, chunk[chunk_line..chunk_at) are known
// to hold no newline: together they are the unfinished line. A line that lies in the chunk is lent
// from there without a copy; one that began in an earlier chunk is completed in rest and lent from
// there. Only frame_save copies what stays over.
//
// Lent lines: the bytes of a line are given up (buf_consume, chunk_line) before it is returned, but
// nothing overwrites them before the next call, which is as long as the loan lasts.
//
// A line is too long when more than max_line bytes, or max_line + 1 of which the last is no "\r",
// precede its newline. From the moment that is known nothing of it is kept: an endless line costs
// max_line + 1 bytes and a bool.
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "protocol/frame.h"

void frame_init(struct frame *frame, size_t max_line)
{
    *frame = (struct frame){.max_line = max_line};
}

void frame_deinit(struct frame *frame)
{
    buf_deinit(&frame->rest);
}

void frame_feed(struct frame *frame, const char *chunk, size_t length)
{
    assert(frame->chunk_length == 0);
    frame->chunk = chunk;
    frame->chunk_length = length;
    frame->chunk_line = frame->chunk_at = 0;
}

// Bytes of a line of which no newline was seen yet: can it still fit?
static bool fits_unfinished(const struct frame *frame, size_t length, char last)
{
    return length <= frame->max_line || (length == frame->max_line + 1 && last == '\r');
}

// What to return for a whole line without its newline.
static int lend(const struct frame *frame, const char *bytes, size_t size, const char **line,
                size_t *length)
{
    if (size > 0 && bytes[size - 1] == '\r')
        size--;
    if (size > frame->max_line)
        return FRAME_E_TOO_LONG;
    *line = bytes;
    *length = size;
    return size > 0;
}

// The part of frame_next that looks into rest. 0 when all of it was scanned.
static int next_in_rest(struct frame *frame, const char **line, size_t *length)
{
    while (frame->scanned < buf_length(&frame->rest)) {
        const char *bytes = buf_bytes(&frame->rest);
        const char *newline =
            memchr(bytes + frame->scanned, '\n', buf_length(&frame->rest) - frame->scanned);
        int r;

        if (newline == NULL) {
            frame->scanned = buf_length(&frame->rest);
            break;
        }
        r = frame->skipping ? 0 : lend(frame, bytes, (size_t)(newline - bytes), line, length);
        frame->skipping = false;
        buf_consume(&frame->rest, (size_t)(newline - bytes) + 1);
        frame->scanned = 0;
        if (r != 0)
            return r;
    }
    return 0;
}

static void drop_unfinished(struct frame *frame)
{
    buf_consume(&frame->rest, buf_length(&frame->rest));
    frame->scanned = 0;
    frame->chunk_line = frame->chunk_at;
}

// No newline in what is there: gives the line up as soon as no "\r\n" can save it.
static int check_unfinished(struct frame *frame)
{
    size_t in_rest = buf_length(&frame->rest);
    size_t in_chunk = frame->chunk_at - frame->chunk_line;
    char last;

    if (in_rest + in_chunk == 0)
        return 0;
    if (frame->skipping) {
        drop_unfinished(frame);
        return 0;
    }
    last = in_chunk > 0 ? frame->chunk[frame->chunk_at - 1] : buf_bytes(&frame->rest)[in_rest - 1];
    if (fits_unfinished(frame, in_rest + in_chunk, last))
        return 0;
    drop_unfinished(frame);
    frame->skipping = true;
    return FRAME_E_TOO_LONG;
}

// A newline at chunk[at]: the line is what rest holds and the chunk up to there.
static int end_line(struct frame *frame, size_t at, const char **line, size_t *length)
{
    const char *tail = frame->chunk + frame->chunk_line;
    size_t in_rest = buf_length(&frame->rest);
    size_t in_chunk = at - frame->chunk_line;

    frame->chunk_line = frame->chunk_at = at + 1;
    if (in_rest == 0)
        return lend(frame, tail, in_chunk, line, length);

    frame->scanned = 0;
    if (in_rest + in_chunk > frame->max_line + 1) {
        buf_consume(&frame->rest, in_rest);
        return FRAME_E_TOO_LONG;
    }
    buf_append(&frame->rest, tail, in_chunk);
    if (frame->rest.failed)
        return -ENOMEM;
    tail = buf_bytes(&frame->rest);
    buf_consume(&frame->rest, in_rest + in_chunk);
    return lend(frame, tail, in_rest + in_chunk, line, length);
}

int frame_next(struct frame *frame, const char **line, size_t *length)
{
    int r = next_in_rest(frame, line, length);

    while (r == 0 && frame->chunk_at < frame->chunk_length) {
        const char *from = frame->chunk + frame->chunk_at;
        const char *newline = memchr(from, '\n', frame->chunk_length - frame->chunk_at);

        if (newline == NULL) {
            frame->chunk_at = frame->chunk_length;
        } else if (frame->skipping) {
            frame->chunk_at = (size_t)(newline - frame->chunk) + 1;
            drop_unfinished(frame);
            frame->skipping = false;
        } else {
            r = end_line(frame, (size_t)(newline - frame->chunk), line, length);
        }
    }
    return r != 0 ? r : check_unfinished(frame);
}

int frame_save(struct frame *frame)
{
    size_t left = frame->chunk_length - frame->chunk_line;

    if (left > 0) {
        frame->scanned += frame->chunk_at - frame->chunk_line;
        buf_append(&frame->rest, frame->chunk + frame->chunk_line, left);
    }
    frame->chunk = NULL;
    frame->chunk_length = frame->chunk_line = frame->chunk_at = 0;
    buf_trim(&frame->rest);
    return frame->rest.failed ? -ENOMEM : 0;
}

bool frame_has_backlog(const struct frame *frame)
{
    return frame->scanned < buf_length(&frame->rest) || frame->chunk_at < frame->chunk_length;
}

bool frame_is_partial(const struct frame *frame)
{
    return frame->skipping || buf_length(&frame->rest) > 0 ||
           frame->chunk_line < frame->chunk_length;
}

void frame_give_up(struct frame *frame)
{
    assert(frame->chunk_length == 0 && !frame_has_backlog(frame));
    if (!frame_is_partial(frame))
        return;
    drop_unfinished(frame);
    frame->skipping = true;
    buf_trim(&frame->rest);
}
