// SPDX-License-Identifier: Apache-2.0
//
// The terminal's foreground group.
//
// Model: the shell gave the terminal to our own group. A command that may use it from the start gets
// it (terminal_is_for_command); one in a pipeline doesn't, since `lockctl run key -- report | less`
// would otherwise take the terminal away from less. Such a command is stopped by the kernel
// (SIGTTIN, SIGTTOU) when it wants the terminal all the same, and gets it then.
//
// The controlling terminal is used and not standard input: a command whose input is redirected may
// still ask for a password there.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/terminal.h"

void terminal_open(struct terminal *terminal)
{
    terminal->fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    terminal->own = terminal->fd < 0 ? 0 : getpgrp();
    terminal->given = 0;
}

void terminal_close(struct terminal *terminal)
{
    if (terminal->fd >= 0)
        close(terminal->fd);
    terminal->fd = -1;
}

bool terminal_is_ours(const struct terminal *terminal)
{
    return terminal->fd >= 0 && tcgetpgrp(terminal->fd) == terminal->own;
}

static bool is_pipe(int fd)
{
    struct stat info;

    return fstat(fd, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode));
}

bool terminal_is_for_command(const struct terminal *terminal)
{
    return terminal_is_ours(terminal) && !is_pipe(STDIN_FILENO) && !is_pipe(STDOUT_FILENO) &&
           !is_pipe(STDERR_FILENO);
}

bool terminal_give(struct terminal *terminal, pid_t group)
{
    if (!terminal_is_ours(terminal) || tcsetpgrp(terminal->fd, group) != 0)
        return false;
    terminal->given = group;
    return true;
}

void terminal_take_back(struct terminal *terminal)
{
    if (terminal->given && tcgetpgrp(terminal->fd) == terminal->given)
        tcsetpgrp(terminal->fd, terminal->own);
    terminal->given = 0;
}
