// SPDX-License-Identifier: Apache-2.0
//
// The scripted sidecar: a child that goes through its steps with blocking reads and writes. What
// it cannot do it says on stderr, and ends with exit code 1. It calls nothing of check's: those
// are for the test's own process.

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "protocol/wire.h"
#include "tests/tool/fake_sidecar.h"
#include "tests/tool/pattern.h"

enum { END_MS = 20000, MAX_LINE = 1 << 20, PAGE = WIRE_PAGE_SLOTS * 8, PASSED = 2 };

struct actor {
    int listener;
    int fd;
    char *id; // as JSON, of the newest line read
    int64_t *page;
    int passed[PASSED]; // go with what is sent next
    unsigned passed_count;
    const char *step;
};

__attribute__((noreturn, format(printf, 2, 3))) static void give_up(const struct actor *actor,
                                                                    const char *format, ...)
{
    va_list args;

    fprintf(stderr, "fake sidecar, at \"%s\": ", actor->step);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    _exit(1);
}

static void need_connection(struct actor *actor)
{
    if (actor->fd >= 0)
        return;
    actor->fd = accept(actor->listener, NULL, NULL);
    if (actor->fd < 0)
        give_up(actor, "accept: %s", strerror(errno));
}

// ---- Reading ----

static char *read_line(struct actor *actor)
{
    size_t length = 0;
    char *line = malloc(MAX_LINE);

    while (line && length + 1 < MAX_LINE) {
        ssize_t n = read(actor->fd, line + length, 1);

        if (n <= 0)
            give_up(actor, "the client closed the connection instead");
        if (line[length] == '\n')
            break;
        length++;
    }
    if (!line)
        give_up(actor, "no memory");
    line[length] = '\0';
    return line;
}

static void expect_line(struct actor *actor, const char *text, bool exact)
{
    char *line = read_line(actor);
    json_t *pattern = json_loads(text, 0, NULL);
    json_t *value = json_loads(line, 0, NULL);
    char why[256];

    if (!pattern || !value)
        give_up(actor, "no JSON: %s", line);
    if (!pattern_matches(pattern, value, NULL, exact, why, sizeof why))
        give_up(actor, "%s: %s", why, line);
    free(actor->id);
    actor->id = json_dumps(json_object_get(value, "id"), JSON_ENCODE_ANY);
    json_decref(pattern);
    json_decref(value);
    free(line);
}

static void await_close(struct actor *actor)
{
    char bytes[4096];
    ssize_t n;

    while ((n = read(actor->fd, bytes, sizeof bytes)) > 0)
        ;
    close(actor->fd);
    actor->fd = -1;
}

// ---- Writing ----

static size_t put_times(char *to, const char *arguments, const char **end)
{
    char *comma;
    size_t count = strtoul(arguments, &comma, 10);

    memset(to, comma[1], count);
    *end = comma + 3;
    return count;
}

// $id, $now, $x(N,C); ' as ". To be freed.
static char *expand(const struct actor *actor, const char *text, size_t *length)
{
    char *line = malloc(MAX_LINE);
    char *at = line;

    if (!line)
        give_up(actor, "no memory");
    while (*text) {
        if (strncmp(text, "$id", 3) == 0) {
            at += sprintf(at, "%s", actor->id ? actor->id : "null");
            text += 3;
        } else if (strncmp(text, "$now", 4) == 0) {
            char *end = NULL;
            long long more = text[4] == '+' || text[4] == '-' ? strtoll(text + 4, &end, 10) : 0;
            at += sprintf(at, "%lld", (long long)scratch_boottime_ms() + more);
            text = end ? end : text + 4;
        } else if (strncmp(text, "$x(", 3) == 0) {
            at += put_times(at, text + 3, &text);
        } else {
            *at++ = *text == '\'' ? '"' : *text;
            text++;
        }
    }
    *length = (size_t)(at - line);
    return line;
}

static ssize_t send_some(struct actor *actor, char *bytes, size_t size)
{
    union {
        char bytes[CMSG_SPACE(PASSED * sizeof(int))];
        struct cmsghdr align;
    } control = {.bytes = {0}};
    struct iovec data = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    size_t passed = actor->passed_count * sizeof(int);
    struct cmsghdr *header;
    ssize_t n;

    if (passed == 0)
        return send(actor->fd, bytes, size, MSG_NOSIGNAL);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(passed);
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(passed);
    memcpy(CMSG_DATA(header), actor->passed, passed);
    n = sendmsg(actor->fd, &message, MSG_NOSIGNAL);
    while (actor->passed_count > 0)
        close(actor->passed[--actor->passed_count]);
    return n;
}

static void say(struct actor *actor, const char *text, const char *end, size_t piece)
{
    size_t length, done = 0;
    char *line = expand(actor, text, &length);

    if (*end)
        line[length++] = *end;
    while (done < length) {
        size_t size = length - done < piece ? length - done : piece;
        ssize_t n = send_some(actor, line + done, size);

        if (n < 0)
            break; // the client has had enough
        done += (size_t)n;
    }
    free(line);
}

// ---- The page ----

static int make_page(struct actor *actor, size_t size, int seals)
{
    int fd = memfd_create("fake-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *memory;

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        give_up(actor, "memfd: %s", strerror(errno));
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED || (seals != 0 && fcntl(fd, F_ADD_SEALS, seals) != 0))
        give_up(actor, "page: %s", strerror(errno));
    actor->page = memory;
    return fd;
}

static void pass(struct actor *actor, int fd)
{
    actor->passed[actor->passed_count++] = fd;
}

static void make_passed(struct actor *actor, const char *what)
{
    static const int seals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    int ends[2];

    if (strcmp(what, "page") == 0)
        pass(actor, make_page(actor, PAGE, seals));
    else if (strcmp(what, "two") == 0)
        pass(actor, make_page(actor, PAGE, seals)), pass(actor, make_page(actor, PAGE, seals));
    else if (strcmp(what, "short") == 0)
        pass(actor, make_page(actor, PAGE / 2, seals));
    else if (strcmp(what, "long") == 0)
        pass(actor, make_page(actor, PAGE * (size_t)2, seals));
    else if (strcmp(what, "unsealed") == 0)
        pass(actor, make_page(actor, PAGE, F_SEAL_FUTURE_WRITE | F_SEAL_GROW));
    else if (strcmp(what, "pipe") == 0 && pipe2(ends, O_CLOEXEC) == 0)
        pass(actor, ends[0]), close(ends[1]);
    else
        give_up(actor, "no such thing to pass");
}

static void set_slot(struct actor *actor, const char *text)
{
    char *rest;
    unsigned long slot = strtoul(text, &rest, 10);
    size_t length;
    char *value = expand(actor, rest, &length);

    if (!actor->page || slot >= WIRE_PAGE_SLOTS)
        give_up(actor, "no such slot");
    value[length] = '\0';
    __atomic_store_n(&actor->page[slot], strtoll(value, NULL, 10) * 1000000, __ATOMIC_SEQ_CST);
    free(value);
}

// ---- Steps ----

static const char *after(const char *step, const char *word)
{
    size_t length = strlen(word);

    return strncmp(step, word, length) == 0 ? step + length : NULL;
}

static void take_step(struct actor *actor, const char *step)
{
    const char *rest;

    actor->step = step;
    need_connection(actor);
    if ((rest = after(step, "? ")))
        expect_line(actor, rest, false);
    else if ((rest = after(step, "?= ")))
        expect_line(actor, rest, true);
    else if ((rest = after(step, "pass ")))
        make_passed(actor, rest);
    else if ((rest = after(step, "slot ")))
        set_slot(actor, rest);
    else if ((rest = after(step, "> ")))
        say(actor, rest, "\n", SIZE_MAX);
    else if ((rest = after(step, ">- ")))
        say(actor, rest, "", SIZE_MAX);
    else if ((rest = after(step, ">b ")))
        say(actor, rest, "\n", 1);
    else if ((rest = after(step, "pause ")))
        scratch_pause_ms(atoi(rest));
    else if (after(step, "wait-close"))
        await_close(actor);
    else if (after(step, "half-close"))
        shutdown(actor->fd, SHUT_WR);
    else if (after(step, "deaf"))
        pause();
    else if (after(step, "close"))
        close(actor->fd), actor->fd = -1;
    else
        give_up(actor, "no such step");
}

__attribute__((noreturn)) static void act(int listener, const char *steps)
{
    struct actor actor = {.listener = listener, .fd = -1};
    char *copy = strdup(steps);
    char *rest = copy;
    char *step;

    while ((step = strsep(&rest, "\n"))) {
        if (step[0] == '?')
            for (char *quote = step; (quote = strchr(quote, '\''));)
                *quote = '"';
        if (*step)
            take_step(&actor, step);
    }
    if (actor.fd >= 0)
        await_close(&actor);
    _exit(0);
}

void fake_sidecar_start(struct fake_sidecar *fake, const char *steps)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(fake->socket, sizeof fake->socket, "%s", scratch_path("fake.sock"));
    ck_assert_uint_lt(strlen(fake->socket), sizeof address.sun_path);
    strcpy(address.sun_path, fake->socket);
    unlink(fake->socket);
    ck_assert_int_ge(listener, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(listener, 16), 0);
    fake->pid = scratch_fork();
    if (fake->pid == 0)
        act(listener, steps);
    close(listener);
}

void fake_sidecar_stop(struct fake_sidecar *fake)
{
    ck_assert_int_eq(scratch_exit_code(fake->pid, END_MS), 0);
}
