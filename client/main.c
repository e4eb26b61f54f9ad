// SPDX-License-Identifier: Apache-2.0
//
// lockctl: the command line of lock-keeper.

#include <stdio.h>
#include <stdlib.h>

#include "client/lockctl.h"
#include "client/lockctl_arguments.h"

static int flushed(int code)
{
    if (fflush(stdout) == 0)
        return code;
    lockctl_say("standard output can't be written");
    return code == LOCKCTL_DONE ? LOCKCTL_OUTPUT : code;
}

int main(int argc, char **argv)
{
    struct lockctl_arguments arguments;
    int code = lockctl_arguments_parse(&arguments, argc, argv);

    if (code != LOCKCTL_DONE)
        return code;
    if (arguments.version) {
        printf("lockctl %s\n", lock_keeper_version());
        return flushed(LOCKCTL_DONE);
    }
    if (arguments.help) {
        lockctl_arguments_help(stdout, arguments.command);
        return flushed(LOCKCTL_DONE);
    }
    return flushed(arguments.command->run(&arguments));
}
