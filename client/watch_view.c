// SPDX-License-Identifier: Apache-2.0
//
// The view of `lockctl watch`.
//
// Model: a lease is known by its fencing token, which no other has. One that is `ending` and was not
// in the snapshot before was lost in between; one that is not there any more was released, or its
// holder has gone, which is nothing to tell. A lease that is lost and over between two snapshots is
// not seen.
//
// A bar for the TTL is full at the most that was seen of that lease, since rows don't tell the TTL. A
// bar for the deadline needs no guess: it is what has passed and what is left.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lockctl_print.h"
#include "client/watch_view.h"

enum {
    BAR = 10,
    LEAST_KEY = 10,
    OTHERS = 90, // columns of a row without its key, the start of the label among them
};

static const char *const state_names[] = {"held", "ending", "waiting"};

void watch_view_init(struct watch_view *view, const char *socket)
{
    *view = (struct watch_view){.socket = socket};
}

static void clear_rows(struct watch_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++)
        free(rows->all[i].text);
    rows->count = 0;
}

void watch_view_deinit(struct watch_view *view)
{
    clear_rows(&view->rows);
    clear_rows(&view->next);
    free(view->rows.all);
    free(view->next.all);
}

// ---- Snapshots ----

static struct watch_row *append(struct watch_rows *rows)
{
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity * 2 + 16;
        struct watch_row *all = realloc(rows->all, capacity * sizeof *all);

        if (!all)
            return NULL;
        rows->all = all;
        rows->capacity = capacity;
    }
    return &rows->all[rows->count];
}

// One block for the three texts of a row.
static bool copy_texts(struct watch_row *row, const struct lock_keeper_row *from)
{
    char holder[PRINT_HOLDER_SIZE];
    const char *label = from->holder.label ? from->holder.label : "";
    size_t key = strlen(from->key) + 1, named;

    print_holder(&from->holder, holder);
    named = strlen(holder) + 1;
    row->text = malloc(key + named + strlen(label) + 1);
    if (!row->text)
        return false;
    row->key = strcpy(row->text, from->key);
    row->holder = strcpy(row->text + key, holder);
    row->label = strcpy(row->text + key + named, label);
    return true;
}

static enum watch_state state_of(const char *name)
{
    if (strcmp(name, "waiting") == 0)
        return WATCH_WAITING;
    return strcmp(name, "ending") == 0 ? WATCH_ENDING : WATCH_HELD;
}

void watch_view_add(struct watch_view *view, const struct lock_keeper_row *row)
{
    struct watch_row *added = append(&view->next);

    if (!added || !copy_texts(added, row)) {
        view->failed = true;
        return;
    }
    added->state = state_of(row->state);
    added->fence = row->fence;
    added->since_ms = row->held_ms >= 0 ? row->held_ms : row->waited_ms;
    added->valid_ms = row->valid_ms;
    added->valid_most_ms = row->valid_ms;
    added->deadline_in_ms = row->deadline_in_ms;
    view->next.count++;
}

static int by_fence(const void *a, const void *b)
{
    const struct watch_row *left = a, *right = b;

    return (left->fence > right->fence) - (left->fence < right->fence);
}

static int by_key(const void *a, const void *b)
{
    const struct watch_row *left = a, *right = b;
    int order = strcmp(left->key, right->key);

    if (order == 0)
        order = (int)left->state - (int)right->state;
    if (order == 0) // who waits longest comes first
        order = (left->since_ms < right->since_ms) - (left->since_ms > right->since_ms);
    return order;
}

static void sort(struct watch_rows *rows, int (*order)(const void *, const void *))
{
    if (rows->count > 1)
        qsort(rows->all, rows->count, sizeof *rows->all, order);
}

static void format_clock(time_t now, char *text, size_t size)
{
    struct tm local;

    if (!localtime_r(&now, &local) || strftime(text, size, "%H:%M:%S", &local) == 0)
        snprintf(text, size, "?");
}

static void note_loss(struct watch_view *view, const struct watch_row *row, time_t now)
{
    struct watch_loss *newest = &view->losses[0];
    char clock[16];

    memmove(newest + 1, newest, sizeof view->losses - sizeof *newest);
    view->loss_count += view->loss_count < WATCH_VIEW_LOSSES;
    format_clock(now, clock, sizeof clock);
    snprintf(newest->text, sizeof newest->text, "%s  %.*s  %.*s", clock,
             (int)print_cut(row->key, 48), row->key, (int)print_cut(row->holder, 32), row->holder);
}

static void compare(struct watch_view *view, struct watch_row *row, const struct watch_rows *before,
                    time_t now)
{
    const struct watch_row *was = NULL;

    if (row->fence < 0)
        return;
    if (before->count > 0)
        was = bsearch(row, before->all, before->count, sizeof *row, by_fence);
    if (was && was->valid_most_ms > row->valid_most_ms)
        row->valid_most_ms = was->valid_most_ms;
    if (row->state == WATCH_ENDING && (was ? was->state == WATCH_HELD : view->has_snapshot))
        note_loss(view, row, now);
}

void watch_view_commit(struct watch_view *view, bool redis_up, time_t now)
{
    struct watch_rows before = view->rows;

    sort(&before, by_fence);
    for (size_t i = 0; i < view->next.count; i++)
        compare(view, &view->next.all[i], &before, now);
    view->rows = view->next;
    sort(&view->rows, by_key);
    clear_rows(&before);
    view->next = before;
    view->problem[0] = '\0';
    view->redis_up = redis_up;
    view->has_snapshot = true;
}

void watch_view_drop(struct watch_view *view, const char *problem)
{
    clear_rows(&view->next);
    snprintf(view->problem, sizeof view->problem, "%s", problem);
}

// ---- Frames ----

struct frame {
    struct buf *out;
    size_t columns;
    size_t left; // lines
    size_t key_width;
    struct buf line;
};

static void add_text(struct frame *frame, const char *text)
{
    buf_append_string(&frame->line, text);
}

// text in exactly width columns and a blank.
static void add_cell(struct frame *frame, const char *text, size_t width)
{
    size_t bytes = print_cut(text, width);

    buf_append(&frame->line, text, bytes);
    for (size_t used = print_width(text); used < width; used++)
        add_text(frame, " ");
    add_text(frame, " ");
}

static void add_bar(struct frame *frame, int64_t left, int64_t whole)
{
    char bar[BAR + 3];
    int64_t filled = whole > 0 ? (left * BAR + whole - 1) / whole : 0;

    for (int64_t i = 0; i < BAR; i++)
        bar[i + 1] = i < filled ? '#' : '.';
    bar[0] = '[';
    bar[BAR + 1] = ']';
    bar[BAR + 2] = '\0';
    add_cell(frame, left >= 0 ? bar : "", BAR + 2);
}

static void add_span(struct frame *frame, int64_t ms, size_t width)
{
    char text[PRINT_SPAN_SIZE];

    add_cell(frame, ms >= 0 ? print_span(ms, text) : "", width);
}

static void end_line(struct frame *frame)
{
    if (frame->left > 0) {
        buf_append(&frame->line, "", 1);
        if (!frame->line.failed)
            buf_append(frame->out, buf_bytes(&frame->line),
                       print_cut(buf_bytes(&frame->line), frame->columns));
        buf_append_string(frame->out, "\033[K");
        if (--frame->left > 0)
            buf_append_string(frame->out, "\r\n");
    }
    buf_truncate(&frame->line, 0);
}

static void render_head(struct frame *frame, const struct watch_view *view, time_t now)
{
    size_t counts[3] = {0};
    char clock[16], text[96];

    for (size_t i = 0; i < view->rows.count; i++)
        counts[view->rows.all[i].state]++;
    format_clock(now, clock, sizeof clock);
    snprintf(text, sizeof text, "%s  held %zu  ending %zu  waiting %zu  ", clock, counts[0],
             counts[1], counts[2]);
    add_text(frame, text);
    if (*view->problem)
        add_text(frame, view->problem);
    else
        add_text(frame, view->redis_up ? "Redis is up" : "Redis is DOWN");
    add_text(frame, "  ");
    add_text(frame, view->socket);
    end_line(frame);
    end_line(frame);
}

// As wide as the longest key, where there is room.
static size_t key_width(const struct watch_view *view, size_t columns)
{
    size_t most = columns > OTHERS + LEAST_KEY ? columns - OTHERS : LEAST_KEY;
    size_t widest = LEAST_KEY;

    for (size_t i = 0; i < view->rows.count && widest < most; i++) {
        size_t width = print_width(view->rows.all[i].key);

        widest = width > widest ? width : widest;
    }
    return widest < most ? widest : most;
}

static void render_headings(struct frame *frame)
{
    add_cell(frame, "KEY", frame->key_width);
    add_cell(frame, "STATE", 7);
    add_cell(frame, "SINCE", 6);
    add_cell(frame, "VALID", BAR + 2 + 7);
    add_cell(frame, "DEADLINE", BAR + 2 + 7);
    add_cell(frame, "HOLDER", 20);
    add_text(frame, "LABEL");
    end_line(frame);
}

static void render_row(struct frame *frame, const struct watch_row *row)
{
    add_cell(frame, row->key, frame->key_width);
    add_cell(frame, state_names[row->state], 7);
    add_span(frame, row->since_ms, 6);
    add_bar(frame, row->valid_ms, row->valid_most_ms);
    add_span(frame, row->valid_ms, 6);
    add_bar(frame, row->deadline_in_ms, row->since_ms + row->deadline_in_ms);
    add_span(frame, row->deadline_in_ms, 6);
    add_cell(frame, row->holder, 20);
    add_text(frame, row->label);
    end_line(frame);
}

// What is lost stands below the rows, and is shown first where there is little room.
static size_t lines_for_losses(const struct watch_view *view, size_t left)
{
    size_t wanted = view->loss_count ? view->loss_count + 2 : 0;

    return wanted < left / 2 ? wanted : left / 2;
}

static void render_rows(struct frame *frame, const struct watch_view *view, size_t room)
{
    char text[48];
    size_t shown = view->rows.count <= room ? view->rows.count : room > 0 ? room - 1 : 0;

    for (size_t i = 0; i < shown; i++)
        render_row(frame, &view->rows.all[i]);
    if (shown < view->rows.count) {
        snprintf(text, sizeof text, "... and %zu more", view->rows.count - shown);
        add_text(frame, text);
        end_line(frame);
    }
}

void watch_view_render(const struct watch_view *view, size_t columns, size_t lines, time_t now,
                       struct buf *out)
{
    struct frame frame = {
        .out = out, .columns = columns, .left = lines, .key_width = key_width(view, columns)};
    size_t losses;

    buf_append_string(out, "\033[H");
    render_head(&frame, view, now);
    render_headings(&frame);
    losses = lines_for_losses(view, frame.left);
    render_rows(&frame, view, frame.left - losses);
    if (losses > 2) {
        end_line(&frame);
        add_text(&frame, "RECENTLY LOST");
        end_line(&frame);
        for (size_t i = 0; i + 2 < losses; i++) {
            add_text(&frame, view->losses[i].text);
            end_line(&frame);
        }
    }
    buf_append_string(out, "\033[J");
    buf_deinit(&frame.line);
}
