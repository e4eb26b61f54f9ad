// SPDX-License-Identifier: Apache-2.0
//
// The send/expect client.
//
// Model: a non-blocking socket and a buffer of what came. Sending reads in between (unless deaf),
// so that a test may pipeline without end and never deadlocks with a sidecar that waits for its
// output to be read. The newest line is kept, as text and parsed, for the getters; json_decref of
// the one before happens when the next is taken.

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/tool/line_client.h"
#include "tests/tool/pattern.h"
#include "tests/tool/scratch.h"

int line_client_try_connect(struct line_client *client, const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *client = (struct line_client){.fd = -1, .timeout_ms = LINE_CLIENT_TIMEOUT_MS, .passed_fd = -1};
    ck_assert_uint_lt(strlen(socket_path), sizeof address.sun_path);
    strcpy(address.sun_path, socket_path);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_msg(client->fd >= 0, "socket: %s", strerror(errno));
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;

        close(client->fd);
        client->fd = -1;
        return -error;
    }
    return 0;
}

void line_client_connect(struct line_client *client, const char *socket_path)
{
    int r = line_client_try_connect(client, socket_path);

    ck_assert_msg(r == 0, "connect %s: %s", socket_path, strerror(-r));
}

static void forget_line(struct line_client *client)
{
    free(client->line);
    client->line = NULL;
    json_decref(client->json);
    client->json = NULL;
}

void line_client_close(struct line_client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    if (client->passed_fd > 0)
        close(client->passed_fd);
    client->passed_fd = -1;
    if (client->page)
        munmap((void *)(uintptr_t)client->page, LINE_CLIENT_PAGE);
    client->page = NULL;
    forget_line(client);
    buf_deinit(&client->input);
    client->input = BUF_INIT;
}

void line_client_half_close(struct line_client *client)
{
    ck_assert_int_eq(shutdown(client->fd, SHUT_WR), 0);
}

// As read; what descriptor comes with it is kept.
static ssize_t read_with(struct line_client *client, char *to, size_t size)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec data = {.iov_base = to, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    ssize_t n = recvmsg(client->fd, &message, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;

    if (header && header->cmsg_type == SCM_RIGHTS) {
        ck_assert_int_eq(client->passed_fd, -1);
        ck_assert_uint_eq(header->cmsg_len, CMSG_LEN(sizeof(int)));
        memcpy(&client->passed_fd, CMSG_DATA(header), sizeof(int));
    }
    return n;
}

static void fill(struct line_client *client)
{
    for (;;) {
        char *to = buf_reserve(&client->input, 65536);
        ssize_t n;

        ck_assert_ptr_nonnull(to);
        n = read_with(client, to, 65536);
        if (n > 0) {
            buf_commit(&client->input, (size_t)n);
            continue;
        }
        // A socket that was closed with input of ours unread says ECONNRESET at its end.
        if (n == 0 || errno == ECONNRESET)
            client->ended = true;
        else
            ck_assert_msg(errno == EAGAIN || errno == EINTR, "read: %s", strerror(errno));
        return;
    }
}

size_t line_client_send_some(struct line_client *client, const char *bytes, size_t length)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = send(client->fd, bytes + done, length - done, MSG_NOSIGNAL);

        if (n < 0)
            break;
        done += (size_t)n;
    }
    return done;
}

bool line_client_send_bytes(struct line_client *client, const char *bytes, size_t length)
{
    int64_t deadline = scratch_deadline(client->timeout_ms);
    size_t done = 0;

    while (done < length) {
        struct pollfd socket = {.fd = client->fd, .events = POLLOUT};
        ssize_t n = send(client->fd, bytes + done, length - done, MSG_NOSIGNAL);

        if (n > 0) {
            done += (size_t)n;
            continue;
        }
        if (errno == EPIPE || errno == ECONNRESET)
            return false;
        ck_assert_msg(errno == EAGAIN || errno == EINTR, "send: %s", strerror(errno));
        if (!client->deaf && !client->ended)
            socket.events = POLLOUT | POLLIN;
        ck_assert_msg(scratch_left(deadline) > 0, "the sidecar reads nothing");
        poll(&socket, 1, scratch_left(deadline));
        if (socket.revents & POLLIN)
            fill(client);
    }
    return true;
}

// A copy with ' made ", to be freed.
static char *requote(const char *text)
{
    char *quoted = strdup(text);

    ck_assert_ptr_nonnull(quoted);
    for (char *p = quoted; (p = strchr(p, '\'')) != NULL;)
        *p = '"';
    return quoted;
}

static char *format_line(const char *format, va_list arguments)
{
    char *quoted = requote(format), *line = NULL;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    ck_assert_int_ge(vasprintf(&line, quoted, arguments), 0);
#pragma GCC diagnostic pop
    free(quoted);
    return line;
}

void line_client_send(struct line_client *client, const char *format, ...)
{
    va_list arguments;
    char *line;
    size_t length;

    va_start(arguments, format);
    line = format_line(format, arguments);
    va_end(arguments);
    length = strlen(line);
    line[length] = '\n'; // in place of the NUL
    ck_assert_msg(line_client_send_bytes(client, line, length + 1),
                  "the sidecar has closed the connection");
    free(line);
}

static const char *find_newline(const struct line_client *client)
{
    size_t length = buf_length(&client->input);

    return length ? memchr(buf_bytes(&client->input), '\n', length) : NULL;
}

bool line_client_wait(struct line_client *client, int64_t ms)
{
    int64_t deadline = scratch_deadline(ms);

    while (!find_newline(client) && !client->ended) {
        struct pollfd socket = {.fd = client->fd, .events = POLLIN};
        int left = scratch_left(deadline);

        if (poll(&socket, 1, left) > 0)
            fill(client);
        else if (left == 0)
            return false;
    }
    return true;
}

static void check_line(const struct line_client *client, size_t length)
{
    const char *line = client->line;

    ck_assert_msg(length <= WIRE_MAX_REPLY, "a line of %zu bytes", length);
    ck_assert_msg(strlen(line) == length, "a NUL in a line: %s", line);
    for (const char *p = line; *p; p++) {
        if (*p < 0x20 || *p >= 0x7f) // each ck_assert writes to a file
            ck_abort_msg("byte 0x%02x in: %s", (unsigned char)*p, line);
    }
    ck_assert_msg(strncmp(line, "{\"ok\":true,", 11) == 0 ||
                      strncmp(line, "{\"ok\":false,", 12) == 0 ||
                      strncmp(line, "{\"event\":\"", 10) == 0,
                  "neither a reply nor an event: %s", line);
}

const char *line_client_receive(struct line_client *client)
{
    json_error_t error;
    const char *newline;
    size_t length;

    ck_assert_msg(line_client_wait(client, client->timeout_ms), "no line within %lld ms",
                  (long long)client->timeout_ms);
    newline = find_newline(client);
    ck_assert_msg(newline != NULL, "the end instead of a line (%zu bytes of one)",
                  buf_length(&client->input));
    forget_line(client);
    client->received_ms = scratch_boottime_ms();
    length = (size_t)(newline - buf_bytes(&client->input));
    client->line = malloc(length + 1);
    ck_assert_ptr_nonnull(client->line);
    memcpy(client->line, buf_bytes(&client->input), length);
    client->line[length] = '\0';
    buf_consume(&client->input, length + 1);
    check_line(client, length);
    client->json = json_loads(client->line, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(json_is_object(client->json), "%s: %s", error.text, client->line);
    return client->line;
}

static bool fits(const struct line_client *client, const json_t *pattern, char *why, size_t size)
{
    return pattern_matches(pattern, client->json, NULL, false, why, size);
}

void line_client_expect(struct line_client *client, const char *format, ...)
{
    va_list arguments;
    char *text, why[512];
    json_t *pattern;

    va_start(arguments, format);
    text = format_line(format, arguments);
    va_end(arguments);
    pattern = pattern_parse(text);
    line_client_receive(client);
    ck_assert_msg(fits(client, pattern, why, sizeof why), "%s; got %s; expected %s", why,
                  client->line, text);
    json_decref(pattern);
    free(text);
}

void line_client_await(struct line_client *client, const char *format, ...)
{
    va_list arguments;
    char *text, why[512];
    json_t *pattern;

    va_start(arguments, format);
    text = format_line(format, arguments);
    va_end(arguments);
    pattern = pattern_parse(text);
    while (line_client_receive(client), !fits(client, pattern, why, sizeof why))
        ck_assert_msg(line_client_member(client, "event") != NULL, "%s; got %s; expected %s", why,
                      client->line, text);
    json_decref(pattern);
    free(text);
}

void line_client_expect_eof(struct line_client *client)
{
    ck_assert_msg(line_client_wait(client, client->timeout_ms), "no EOF within %lld ms",
                  (long long)client->timeout_ms);
    ck_assert_msg(!find_newline(client), "a line instead of EOF: %s", line_client_receive(client));
    ck_assert_uint_eq(buf_length(&client->input), 0);
}

size_t line_client_drain(struct line_client *client)
{
    size_t lines = 0;

    for (;;) {
        ck_assert_msg(line_client_wait(client, client->timeout_ms), "no EOF within %lld ms",
                      (long long)client->timeout_ms);
        if (!find_newline(client))
            return lines;
        line_client_receive(client);
        lines++;
    }
}

json_t *line_client_member(const struct line_client *client, const char *path)
{
    json_t *value = client->json;
    char copy[256], *rest = NULL;

    snprintf(copy, sizeof copy, "%s", path);
    for (char *name = strtok_r(copy, ".", &rest); name && value; name = strtok_r(NULL, ".", &rest))
        value = json_is_array(value) ? json_array_get(value, (size_t)strtoul(name, NULL, 10))
                                     : json_object_get(value, name);
    return value;
}

int64_t line_client_int(const struct line_client *client, const char *path)
{
    const json_t *value = line_client_member(client, path);

    ck_assert_msg(json_is_integer(value), "no integer %s in %s", path, client->line);
    return json_integer_value(value);
}

const char *line_client_string(const struct line_client *client, const char *path)
{
    const json_t *value = line_client_member(client, path);

    ck_assert_msg(json_is_string(value), "no string %s in %s", path, client->line);
    return json_string_value(value);
}

// ---- The page ----

void line_client_map_page(struct line_client *client)
{
    void *page;

    ck_assert_msg(client->passed_fd >= 0, "no descriptor came");
    ck_assert_ptr_null(client->page);
    page = mmap(NULL, LINE_CLIENT_PAGE, PROT_READ, MAP_SHARED, client->passed_fd, 0);
    ck_assert_msg(page != MAP_FAILED, "mmap: %s", strerror(errno));
    client->page = page;
}

void line_client_open_page(struct line_client *client)
{
    line_client_send(client, "{'op':'hello','page':true}");
    line_client_expect(client, "{'ok':true,'op':'hello'}");
    line_client_map_page(client);
}

int64_t line_client_slot(const struct line_client *client, int64_t slot)
{
    ck_assert(client->page && slot >= 0 && slot < WIRE_PAGE_SLOTS);
    return __atomic_load_n(&client->page[slot], __ATOMIC_ACQUIRE);
}

bool line_client_valid(const struct line_client *client, int64_t slot)
{
    int64_t until_ns = __atomic_load_n(&client->page[slot], __ATOMIC_ACQUIRE);
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec < until_ns;
}

// ---- Whole exchanges ----

void line_client_acquire(struct line_client *client, struct line_lease *lease, const char *key,
                         const char *more)
{
    char *members = requote(more);

    lease->sent_ms = scratch_boottime_ms();
    line_client_send(client, "{'op':'acquire','key':'%s'%s}", key, members);
    free(members);
    line_client_expect(client,
                       "{'ok':true,'op':'acquire','key':'%s','lease':'<hex:32>','fence':'<int>',"
                       "'ttl_ms':'<int>','deadline_ms':'<int>','valid_until_ms':'<int>'}",
                       key);
    strcpy(lease->lease, line_client_string(client, "lease"));
    lease->fence = line_client_int(client, "fence");
    lease->valid_until_ms = line_client_int(client, "valid_until_ms");
}

void line_client_release(struct line_client *client, const struct line_lease *lease)
{
    line_client_send(client, "{'op':'release','lease':'%s'}", lease->lease);
    line_client_expect(client, "{'ok':true,'op':'release','lease':'%s'}", lease->lease);
}

void line_client_ping(struct line_client *client)
{
    line_client_send(client, "{'op':'ping'}");
    line_client_expect(client, "{'ok':true,'op':'ping'}");
}
