// SPDX-License-Identifier: Apache-2.0
//
// The terminal, and which process group it listens to. A command in a group of its own can read the
// terminal and gets Ctrl-C and Ctrl-Z only where that group is the foreground one.
//
// All of it expects SIGTTOU to be blocked: a process in the background is stopped by it otherwise.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct terminal {
    int fd;      // the controlling terminal, CLOEXEC; -1: there is none
    pid_t own;   // the group that we came in
    pid_t given; // the group that the terminal was given to; 0: none
};

// One system call where there is no terminal.
void terminal_open(struct terminal *terminal);
void terminal_close(struct terminal *terminal);

// True where a terminal is there and listens to our own group.
bool terminal_is_ours(const struct terminal *terminal);
// True where a command should have the terminal from the start: it is ours, and nobody else in our
// group reads it (that is, our input and output are no pipes to them).
bool terminal_is_for_command(const struct terminal *terminal);
// Gives it to a group of this session, where it is ours. False where it isn't, or the group is gone.
bool terminal_give(struct terminal *terminal, pid_t group);
// Takes it back where the group that it was given to still has it.
void terminal_take_back(struct terminal *terminal);
