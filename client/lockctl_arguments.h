// SPDX-License-Identifier: Apache-2.0
//
// The command line: one table of commands and one of options, from which the parser and every --help
// are made.
#pragma once

#include <stdio.h>

#include "client/lockctl.h"

struct lockctl_command {
    const char *name;
    const char *operands; // as --help shows them
    const char *summary;  // one line
    const char *details;  // paragraphs; may be NULL
    int (*run)(const struct lockctl_arguments *arguments);
    int least; // operands
    int most;  // -1: any number, and the first that follows KEY ends the options
};

extern const struct lockctl_command lockctl_commands[]; // the last one without a name

// LOCKCTL_DONE with *arguments filled, or LOCKCTL_USAGE, having said why. With help or version set
// nothing else need be right; command is NULL then if none was named. What it points to is argv's.
int lockctl_arguments_parse(struct lockctl_arguments *arguments, int argc, char **argv);

// --help of one command, or (NULL) of the program.
void lockctl_arguments_help(FILE *file, const struct lockctl_command *command);
