// SPDX-License-Identifier: Apache-2.0
//
// The typist.

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <utmp.h>

#include "tests/tool/pty.h"
#include "tests/tool/scratch.h"

void pty_start(struct pty *pty, char *const *argv)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    int other;

    *pty = (struct pty){0};
    ck_assert_int_eq(openpty(&pty->fd, &other, NULL, NULL, &size), 0);
    ck_assert_int_eq(fcntl(pty->fd, F_SETFD, FD_CLOEXEC), 0);
    pty->pid = scratch_fork();
    if (pty->pid == 0) {
        close_range(3, (unsigned)other - 1, CLOSE_RANGE_CLOEXEC);
        signal(SIGPIPE, SIG_DFL);
        setenv("TERM", "dumb", 1);
        if (login_tty(other) == 0)
            execvp(argv[0], argv);
        _exit(99);
    }
    close(other);
}

void pty_type(struct pty *pty, const char *keys)
{
    ck_assert_int_eq(write(pty->fd, keys, strlen(keys)), (ssize_t)strlen(keys));
}

pid_t pty_foreground(const struct pty *pty)
{
    pid_t group = tcgetpgrp(pty->fd);

    ck_assert_int_ge(group, 0);
    return group;
}

// False at the end: nobody has the terminal open any more.
static bool read_more(struct pty *pty)
{
    char chunk[4096];
    ssize_t length = read(pty->fd, chunk, sizeof chunk);

    if (length <= 0)
        return false;
    pty->seen = realloc(pty->seen, pty->length + (size_t)length + 1);
    ck_assert_ptr_nonnull(pty->seen);
    memcpy(pty->seen + pty->length, chunk, (size_t)length);
    pty->length += (size_t)length;
    pty->seen[pty->length] = '\0';
    return true;
}

void pty_expect(struct pty *pty, const char *text)
{
    int64_t deadline = scratch_deadline(PTY_TIMEOUT_MS);

    for (;;) {
        struct pollfd polled = {.fd = pty->fd, .events = POLLIN};
        const char *found = pty->seen ? strstr(pty->seen + pty->expected, text) : NULL;

        if (found) {
            pty->expected = (size_t)(found - pty->seen) + strlen(text);
            return;
        }
        ck_assert_msg(poll(&polled, 1, scratch_left(deadline)) > 0 && read_more(pty),
                      "no \"%s\" on the terminal (whose foreground is %d) after: %s", text,
                      (int)pty_foreground(pty), pty->seen ? pty->seen + pty->expected : "");
    }
}

void pty_close(struct pty *pty)
{
    close(pty->fd);
    scratch_kill(pty->pid);
    free(pty->seen);
    *pty = (struct pty){.fd = -1};
}
