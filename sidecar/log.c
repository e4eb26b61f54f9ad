// SPDX-License-Identifier: Apache-2.0
//
// The log.
//
// A line is built in one buffer on the stack and handed to the kernel in one call, or dropped: the
// loop that renews leases must not wait for whoever reads our stderr. O_NONBLOCK belongs to the
// open file description, which we share with the shell and with other processes in the container,
// so it is not ours to set. Instead, by what the descriptor is:
//
//   regular file      written as it is: it never makes a writer wait for a reader, and a second
//                     description with its own offset would overwrite what others write
//   pipe, terminal    opened again through /proc/self/fd, which gives a description of our own
//   socket            cannot be opened again; send() takes MSG_DONTWAIT for each call
//   the rest          (no /proc, no permission) polled before the write
//
// A line is at most LINE_SIZE bytes, which is less than PIPE_BUF: a pipe takes it whole or not at
// all. What a terminal or a socket took only in part is ended with a newline before the next line.
//
// Names of fields are ours; every value may come from a client or from Redis. Both formats share
// one encoder that lets no control character, no line or direction separator and no byte that is
// not UTF-8 through, so that a value can neither forge a line nor reach the reader's terminal.
// Values are cut at VALUE_SIZE bytes (marked "..."), and fields that no longer fit are left out
// (marked truncated=true); room for the marks and for the count of dropped lines is kept free.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "protocol/text.h"
#include "sidecar/log.h"

enum {
    LINE_SIZE = 2048,
    TAIL_SIZE = 96, // "..." and a quote, both marks and the line's end
    VALUE_SIZE = 1024,
};

_Static_assert(LINE_SIZE <= PIPE_BUF, "a pipe takes a line whole");

enum sink { SINK_NONE, SINK_WRITE, SINK_SEND, SINK_POLL };

static struct {
    enum sink sink;
    int fd;
    bool owned; // fd is a description of our own
    bool torn;  // the last line went out in part
    enum log_level level;
    enum log_format format;
    uint64_t dropped;
    uint64_t reported; // how many of dropped a line has told
} state = {.fd = -1};

const char *const log_level_names[LOG_LEVEL_COUNT] = {"debug", "info", "warn", "error"};
const char *const log_format_names[LOG_FORMAT_COUNT] = {"logfmt", "json"};

struct line {
    char text[LINE_SIZE];
    size_t length;
    bool truncated;
};

static int open_again(int fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

void log_init(int fd, enum log_level level, enum log_format format)
{
    struct stat status;
    log_deinit();
    state.level = level;
    state.format = format;
    state.fd = fd;
    state.torn = false;
    state.dropped = 0;
    state.reported = 0;
    if (fstat(fd, &status) < 0) {
        state.sink = SINK_NONE;
    } else if (S_ISREG(status.st_mode)) {
        state.sink = SINK_WRITE;
    } else if (S_ISSOCK(status.st_mode)) {
        state.sink = SINK_SEND;
    } else {
        int own = open_again(fd);
        state.owned = own >= 0;
        state.fd = own >= 0 ? own : fd;
        state.sink = own >= 0 ? SINK_WRITE : SINK_POLL;
    }
}

void log_deinit(void)
{
    if (state.owned) {
        close(state.fd);
    }
    state.sink = SINK_NONE;
    state.fd = -1;
    state.owned = false;
}

bool log_enabled(enum log_level level)
{
    return state.sink != SINK_NONE && level >= state.level;
}

uint64_t log_dropped(void)
{
    return state.dropped;
}

static void put(struct line *line, const char *bytes, size_t size)
{
    if (size > LINE_SIZE - line->length) {
        size = LINE_SIZE - line->length;
    }
    memcpy(line->text + line->length, bytes, size);
    line->length += size;
}

static void put_string(struct line *line, const char *string)
{
    put(line, string, strlen(string));
}

__attribute__((format(printf, 2, 3))) static void put_format(struct line *line, const char *format,
                                                             ...)
{
    char text[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put_string(line, text);
}

// Controls (C0, DEL, C1), line and paragraph separators, and what turns the writing direction.
static bool is_hidden(uint32_t character)
{
    return character < 0x20 || (character >= 0x7f && character < 0xa0) || character == 0x61c ||
           (character >= 0x200e && character <= 0x200f) ||
           (character >= 0x2028 && character <= 0x202e) ||
           (character >= 0x2066 && character <= 0x2069) || character == 0xfeff;
}

// Encodes the character at the front of text into out (at least 8 bytes). Returns the bytes eaten.
static size_t encode(const char *text, size_t length, char *out, size_t *out_length)
{
    size_t size = 0;
    uint32_t character = text_decode(text, length, &size);
    if (character == '"' || character == '\\') {
        *out_length = 2;
        out[0] = '\\';
        out[1] = (char)character;
    } else if (is_hidden(character) || (character == TEXT_REPLACEMENT && size == 1)) {
        *out_length = 6;
        snprintf(out, 8, "\\u%04x", (unsigned)character & 0xffff);
    } else {
        *out_length = size;
        memcpy(out, text, size);
    }
    return size;
}

static void put_quoted(struct line *line, const char *value, size_t length)
{
    size_t limit = line->length + VALUE_SIZE;
    if (limit > LINE_SIZE - TAIL_SIZE) {
        limit = LINE_SIZE - TAIL_SIZE;
    }
    put(line, "\"", 1);
    while (length > 0) {
        char encoded[8];
        size_t encoded_length = 0;
        size_t size = encode(value, length, encoded, &encoded_length);
        if (line->length + encoded_length > limit) {
            put_string(line, "...");
            break;
        }
        put(line, encoded, encoded_length);
        value += size;
        length -= size;
    }
    put(line, "\"", 1);
}

static bool is_plain(const char *value, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (value[i] <= ' ' || value[i] > '~' || strchr("\"\\=", value[i])) {
            return false;
        }
    }
    return length > 0 && length <= VALUE_SIZE;
}

static void put_name(struct line *line, const char *name)
{
    if (state.format == LOG_JSON) {
        put_string(line, line->length == 0 ? "{\"" : ",\"");
        put_string(line, name);
        put_string(line, "\":");
    } else {
        put_string(line, line->length == 0 ? "" : " ");
        put_string(line, name);
        put_string(line, "=");
    }
}

static void put_field(struct line *line, const struct log_field *field)
{
    bool plain =
        state.format == LOG_LOGFMT && field->string && is_plain(field->string, field->length);
    // An integer or a short cut value needs 24 bytes; a plain one is written whole or quoted.
    size_t room = LINE_SIZE - TAIL_SIZE;
    if (line->length + strlen(field->name) + 4 + 24 > room) {
        line->truncated = true;
        return;
    }
    put_name(line, field->name);
    if (!field->string) {
        put_format(line, "%" PRId64, field->integer);
    } else if (plain && line->length + field->length <= room) {
        put(line, field->string, field->length);
    } else {
        put_quoted(line, field->string, field->length);
    }
}

static void put_head(struct line *line, enum log_level level, const char *message)
{
    struct timespec now;
    struct tm utc;
    char day[24];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &utc);
    const char *quote = state.format == LOG_JSON ? "\"" : "";
    put_name(line, "time");
    put_format(line, "%s%s.%03dZ%s", quote, day, (int)(now.tv_nsec / 1000000), quote);
    put_name(line, "level");
    put_format(line, "%s%s%s", quote, log_level_names[level], quote);
    put_name(line, "msg");
    put_quoted(line, message, strlen(message));
}

static void put_tail(struct line *line)
{
    if (line->truncated) {
        put_name(line, "truncated");
        put_string(line, "true");
    }
    if (state.dropped > state.reported) {
        put_name(line, "dropped");
        put_format(line, "%" PRIu64, state.dropped - state.reported);
    }
    put_string(line, state.format == LOG_JSON ? "}\n" : "\n");
}

static ssize_t hand_over(const char *bytes, size_t size)
{
    struct pollfd poller = {.fd = state.fd, .events = POLLOUT};
    switch (state.sink) {
    case SINK_SEND:
        return send(state.fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    case SINK_POLL:
        if (poll(&poller, 1, 0) == 1 && poller.revents & POLLOUT) {
            return write(state.fd, bytes, size);
        }
        break;
    case SINK_WRITE:
        return write(state.fd, bytes, size);
    case SINK_NONE:
        break;
    }
    errno = EAGAIN;
    return -1;
}

static bool deliver(const char *bytes, size_t size)
{
    ssize_t written;
    if (state.torn && hand_over("\n", 1) != 1) {
        return false;
    }
    state.torn = false;
    do {
        written = hand_over(bytes, size);
    } while (written < 0 && errno == EINTR);
    state.torn = written > 0 && (size_t)written < size;
    return written == (ssize_t)size;
}

void log_write(enum log_level level, const char *message, const struct log_field *fields,
               size_t count)
{
    struct line line;
    int saved_errno = errno;
    line.length = 0;
    line.truncated = false;
    put_head(&line, level, message);
    for (size_t i = 0; i < count; i++) {
        put_field(&line, &fields[i]);
    }
    put_tail(&line);
    uint64_t told = state.dropped;
    if (deliver(line.text, line.length)) {
        state.reported = told;
    } else {
        state.dropped++;
    }
    errno = saved_errno;
}
