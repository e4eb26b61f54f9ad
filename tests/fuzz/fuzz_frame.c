// SPDX-License-Identifier: Apache-2.0
//
// protocol/frame against a splitter that looks at one byte at a time.
//
// Input: a byte for the limit, then chunks: a byte that says how many bytes follow and how many lines
// the caller takes before it saves, and the bytes. In the chunk's bytes 'N' stands for a newline and
// 'R' for "\r", so that they are not rare; a run of a hundred comes from '*'. A chunk of no bytes is
// a turn for what was left over, or (when nothing was) gives the unfinished line up.
//
// Oracle: after every call of frame_next what it returned is the next of what the splitter found; 0
// only when the splitter has nothing left. And a frame holds no more than it must.

#include <string.h>

#include "protocol/frame.h"
#include "tests/fuzz/fuzz.h"

enum {
    MAX_EVENTS = 8192,
    MAX_BYTES = 262144,
    RUN = 100,
};

// What the naive splitter has found and frame_next has not returned yet.
struct splitter {
    size_t max_line;
    char line[MAX_BYTES]; // all lines found, one after another, then the unfinished one
    size_t line_start;
    size_t line_end;
    bool skipping;
    struct event {
        size_t start;
        size_t length; // SIZE_MAX: too long
    } events[MAX_EVENTS];
    size_t found;
    size_t taken;
};

static struct splitter splitter;

static void find(struct splitter *naive, size_t length)
{
    FUZZ_CHECK(naive->found < MAX_EVENTS);
    naive->events[naive->found++] = (struct event){naive->line_start, length};
    naive->line_start = naive->line_end;
}

static void split(struct splitter *naive, char c)
{
    size_t length = naive->line_end - naive->line_start;

    if (c == '\n') {
        if (length > 0 && naive->line[naive->line_end - 1] == '\r')
            length--;
        if (!naive->skipping && length > 0)
            find(naive, length);
        naive->line_start = naive->line_end;
        naive->skipping = false;
        return;
    }
    if (naive->skipping)
        return;
    naive->line[naive->line_end++] = c;
    length++;
    if (length > naive->max_line + 1 || (length == naive->max_line + 1 && c != '\r')) {
        find(naive, SIZE_MAX);
        naive->skipping = true;
    }
}

// Up to turns lines are taken. Whether all were.
static bool take_lines(struct frame *frame, struct splitter *naive, int turns)
{
    const char *line;
    size_t length;

    for (; turns > 0; turns--) {
        int r = frame_next(frame, &line, &length);
        const struct event *event = &naive->events[naive->taken];

        if (r == 0) {
            FUZZ_CHECK(naive->taken == naive->found);
            FUZZ_CHECK(!frame_has_backlog(frame));
            return true;
        }
        FUZZ_CHECK(naive->taken++ < naive->found);
        if (event->length == SIZE_MAX) {
            FUZZ_CHECK(r == FRAME_E_TOO_LONG);
            continue;
        }
        FUZZ_CHECK(r == 1 && length == event->length);
        FUZZ_CHECK(memcmp(line, naive->line + event->start, length) == 0);
    }
    return false;
}

static void check_saved(const struct frame *frame, const struct splitter *naive, bool all,
                        size_t most)
{
    size_t held = buf_length(&frame->rest);
    bool partial = naive->skipping || naive->line_end > naive->line_start;

    if (all) {
        FUZZ_CHECK(held == (naive->skipping ? 0 : naive->line_end - naive->line_start));
        FUZZ_CHECK(held <= naive->max_line + 1);
        FUZZ_CHECK(frame_is_partial(frame) == partial);
        FUZZ_CHECK(held > 0 || frame->rest.data == NULL);
    }
    // A block that was once needed may stay while anything is in it, twice as large as that.
    FUZZ_CHECK(held <= most && frame->rest.capacity <= 1024 + 2 * most);
}

// The chunk that the input describes, of just its size.
static char *make_chunk(struct fuzz_input *input, size_t size, size_t *length)
{
    char *chunk;
    size_t at = 0;
    size_t room = 0;

    if (size > input->left)
        size = input->left;
    for (size_t i = 0; i < size; i++)
        room += input->at[i] == '*' ? RUN : 1;
    chunk = malloc(room + !room);
    FUZZ_CHECK(chunk);
    for (size_t i = 0; i < size; i++) {
        char c = (char)fuzz_byte(input);

        for (int times = c == '*' ? RUN : 1; times > 0; times--)
            chunk[at++] = c == 'N' ? '\n' : c == 'R' ? '\r' : c;
    }
    *length = at;
    return chunk;
}

static void give_up(struct frame *frame, struct splitter *naive)
{
    frame_give_up(frame);
    naive->skipping |= naive->line_end > naive->line_start;
    naive->line_start = naive->line_end;
    FUZZ_CHECK(buf_length(&frame->rest) == 0 && frame_is_partial(frame) == naive->skipping);
}

static void run(struct frame *frame, struct splitter *naive, struct fuzz_input *input)
{
    size_t most = 0; // bytes that were to be kept at some time, with those of the chunk
    bool all = true;

    while (input->left > 0) {
        uint8_t plan = fuzz_byte(input);
        size_t length;
        char *chunk = make_chunk(input, plan & 31, &length);

        if (naive->line_end + length >= MAX_BYTES || naive->found + length >= MAX_EVENTS) {
            free(chunk);
            break;
        }
        for (size_t i = 0; i < length; i++)
            split(naive, chunk[i]);
        if (length == 0 && all)
            give_up(frame, naive);
        if (most < buf_length(&frame->rest) + length)
            most = buf_length(&frame->rest) + length;
        frame_feed(frame, chunk, length);
        all = take_lines(frame, naive, plan & 32 ? 1 + (plan >> 6) : MAX_EVENTS);
        FUZZ_CHECK(frame_save(frame) == 0);
        // The frame borrows no chunk any more: what it still needs, it has copied.
        memset(chunk, '!', length);
        free(chunk);
        check_saved(frame, naive, all, most);
    }
    frame_feed(frame, NULL, 0);
    FUZZ_CHECK(take_lines(frame, naive, MAX_EVENTS + 1));
    FUZZ_CHECK(frame_save(frame) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    uint8_t limit = fuzz_byte(&input);
    struct frame frame;

    splitter.max_line = limit < 200 ? 1u + limit % 40 : (size_t)(limit - 199) * 73;
    splitter.line_start = splitter.line_end = splitter.found = splitter.taken = 0;
    splitter.skipping = false;
    frame_init(&frame, splitter.max_line);
    run(&frame, &splitter, &input);
    frame_deinit(&frame);
    return 0;
}
