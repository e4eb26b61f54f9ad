// SPDX-License-Identifier: Apache-2.0
//
// What `lockctl watch` shows: a snapshot of the sidecar's list after the other, and what has been
// lost between them. Knows no terminal and no clock.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "client/lock_keeper.h"
#include "protocol/buf.h"

enum {
    WATCH_VIEW_LOSSES = 8,
};

enum watch_state { WATCH_HELD, WATCH_ENDING, WATCH_WAITING };

struct watch_row {
    char *text; // owned; key, holder and label are in it
    const char *key;
    const char *holder;
    const char *label;
    enum watch_state state;
    int64_t fence; // -1: a waiter
    int64_t since_ms;
    int64_t valid_ms;
    int64_t valid_most_ms; // the most that was seen of this lease
    int64_t deadline_in_ms;
};

struct watch_rows {
    struct watch_row *all; // owned
    size_t count;
    size_t capacity;
};

struct watch_loss {
    char text[400]; // "12:00:01  key  holder"
};

struct watch_view {
    const char *socket; // borrowed
    char problem[256];  // "" where the newest snapshot is there
    bool redis_up;
    struct watch_rows rows; // sorted: by key, the holder before the waiters
    struct watch_rows next; // being filled
    bool has_snapshot;
    struct watch_loss losses[WATCH_VIEW_LOSSES]; // the newest first
    size_t loss_count;
    bool failed; // out of memory: rows are missing
};

void watch_view_init(struct watch_view *view, const char *socket);
void watch_view_deinit(struct watch_view *view);

// A snapshot: rows are added, and then it replaces the one before (or is dropped where it failed,
// for the reason told: the rows of the one before stay, as they were).
void watch_view_add(struct watch_view *view, const struct lock_keeper_row *row);
void watch_view_commit(struct watch_view *view, bool redis_up, time_t now);
void watch_view_drop(struct watch_view *view, const char *problem);

// A whole frame for a screen of this size: at most `lines` lines of at most `columns` characters,
// each with the codes that clear what was there before.
void watch_view_render(const struct watch_view *view, size_t columns, size_t lines, time_t now,
                       struct buf *out);
