// SPDX-License-Identifier: Apache-2.0
//
// Bytes into lines. A frame keeps at most one unfinished line and the chunk it was fed last; it
// knows no socket and no loop.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "protocol/buf.h"

enum {
    FRAME_E_TOO_LONG = 2, // a line passed its limit; it was dropped, up to and with its newline
};

struct frame {
    size_t max_line;
    struct buf rest;   // bytes carried from one feed to the next
    size_t scanned;    // bytes of rest known to hold no newline
    const char *chunk; // borrowed, between frame_feed and frame_save
    size_t chunk_length;
    size_t chunk_line; // where the unfinished (or next) line begins in it
    size_t chunk_at;   // the first byte not yet looked at
    bool skipping;     // inside an over-long line
};

// max_line: the longest line in bytes, its newline (and the "\r" before it) not counted.
void frame_init(struct frame *frame, size_t max_line);
void frame_deinit(struct frame *frame);

// Gives the frame a chunk. It is borrowed until frame_save, which must come before the next feed.
void frame_feed(struct frame *frame, const char *chunk, size_t length);

// The next line: 1 and a borrowed line without its newline (and without one "\r" before it), valid
// until the next call on this frame; 0 when the bytes end before a newline does; FRAME_E_TOO_LONG
// once for each over-long line, as soon as it is known to be one (its rest is skipped silently);
// -ENOMEM. Blank lines are skipped. No byte is looked at twice.
int frame_next(struct frame *frame, const char **line, size_t *length);

// Copies what was not consumed (an unfinished line, or whole lines the caller had no turn for), so
// that the chunk may go. 0 or -ENOMEM. After it the frame owns no chunk; an idle frame owns no memory.
int frame_save(struct frame *frame);

// True when frame_next may return a whole line (or an error) without another feed.
bool frame_has_backlog(const struct frame *frame);

// True when bytes of an unfinished (or over-long) line are held.
bool frame_is_partial(const struct frame *frame);

// Gives up an unfinished line: its rest is skipped, up to its newline, without an error.
void frame_give_up(struct frame *frame);
