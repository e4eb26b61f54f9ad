// SPDX-License-Identifier: Apache-2.0
//
// A program on a terminal of its own, and somebody who types and reads there.
//
//     struct pty pty;
//     pty_start(&pty, (char *[]){"bash", "--norc", NULL});
//     pty_type(&pty, "echo $((1 + 1))\r");
//     pty_expect(&pty, "\n2");
//     pty_type(&pty, "\x03");                  // Ctrl-C
//     pty_close(&pty);
//
// Every helper that cannot do its work fails the test.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PTY_TIMEOUT_MS = 10000,
};

struct pty {
    pid_t pid; // the leader of the terminal's session; of scratch_fork
    int fd;    // our end
    char *seen;
    size_t length;
    size_t expected; // what pty_expect has found already
};

// 80 columns by 24 lines. argv[0] is looked for in PATH; the environment is the test's, with TERM=dumb.
void pty_start(struct pty *pty, char *const *argv);
void pty_type(struct pty *pty, const char *keys);
// Waits for the text, after what was expected before.
void pty_expect(struct pty *pty, const char *text);
// Which process group has the terminal.
pid_t pty_foreground(const struct pty *pty);
// Hangs up, and ends the program.
void pty_close(struct pty *pty);
