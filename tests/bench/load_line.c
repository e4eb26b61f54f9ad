// SPDX-License-Identifier: Apache-2.0
//
// A blocking client of lock-keeper. Replies are read by what the protocol promises of their
// beginning and by the name of the member, not as JSON: the client's own work is to be small.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/bench/load.h"

int load_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof address.sun_path)
        load_fail("the path %s is too long", path);
    strcpy(address.sun_path, path);
    while (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        if (errno != EINTR)
            load_fail("connect %s: %s", path, strerror(errno));
    if (fd < 0)
        load_fail("socket: %s", strerror(errno));
    return fd;
}

struct load_line *load_line_new(const char *path)
{
    struct load_line *line = malloc(sizeof *line);

    if (!line)
        load_fail("out of memory");
    line->fd = load_connect(path);
    line->used = line->read = 0;
    return line;
}

void load_send(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            load_fail("write: %s", strerror(errno));
        bytes += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

char *load_line_next(struct load_line *line)
{
    char *start = line->input + line->read;
    char *end;

    while (!(end = memchr(line->input + line->read, '\n', line->used - line->read))) {
        ssize_t n;

        memmove(line->input, line->input + line->read, line->used - line->read);
        line->used -= line->read;
        line->read = 0;
        start = line->input;
        n = recv(line->fd, line->input + line->used, sizeof line->input - line->used, 0);
        if (n == 0)
            load_fail("the sidecar closed the connection");
        if (n < 0 && errno != EINTR)
            load_fail("read: %s", strerror(errno));
        line->used += n > 0 ? (size_t)n : 0;
    }
    *end = '\0';
    line->read = (size_t)(end + 1 - line->input);
    return start;
}

char *load_line_call(struct load_line *line, const char *request, size_t length)
{
    char *reply;

    load_send(line->fd, request, length);
    reply = load_line_next(line);
    if (strncmp(reply, "{\"ok\":true", 10) != 0)
        load_fail("%.*s: %s", (int)length - 1, request, reply);
    return reply;
}

static size_t put(char *to, size_t at, const char *text)
{
    size_t length = strlen(text);

    memcpy(to + at, text, length);
    return at + length;
}

static size_t put_number(char *to, size_t at, long number)
{
    char digits[24];
    size_t n = sizeof digits;

    do {
        digits[--n] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    memcpy(to + at, digits + n, sizeof digits - n);
    return at + sizeof digits - n;
}

size_t load_acquire(char *to, long id, const char *key, long wait_ms, long ttl_ms)
{
    size_t n = put_number(to, put(to, 0, "{\"id\":"), id);

    n = put(to, put(to, put(to, n, ",\"op\":\"acquire\",\"key\":\""), key), "\"");
    if (wait_ms > 0)
        n = put_number(to, put(to, n, ",\"wait_ms\":"), wait_ms);
    if (ttl_ms > 0)
        n = put_number(to, put(to, n, ",\"deadline_ms\":3600000,\"ttl_ms\":"), ttl_ms);
    return put(to, n, "}\n");
}

size_t load_release(char *to, long id, const char *lease)
{
    size_t n = put_number(to, put(to, 0, "{\"id\":"), id);

    n = put(to, n, ",\"op\":\"release\",\"lease\":\"");
    memcpy(to + n, lease, LOAD_LEASE_DIGITS);
    return put(to, n + LOAD_LEASE_DIGITS, "\"}\n");
}

const char *load_lease_of(const char *line)
{
    static const char member[] = ",\"lease\":\"";
    const char *found = strstr(line, member);

    if (strncmp(line, "{\"ok\":true", 10) != 0 || !found)
        load_fail("not granted: %s", line);
    return found + sizeof member - 1;
}
