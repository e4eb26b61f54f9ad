// SPDX-License-Identifier: Apache-2.0
//
// Process groups.
//
// Model: the kernel signals a group as a whole, with no member missed: a fork that is under way when
// a signal comes is begun anew after it, so nobody escapes SIGKILL. What it doesn't offer is to wait
// for a group, or to tell its live members from its zombies (which stay where nobody reaps, as in a
// container whose pid 1 doesn't). So every process in /proc is asked for its group, which is cheap,
// and the few that belong to it are opened as pidfds: readable when all threads have ended.
//
// Should a number have been used again between the two, a stranger's end is waited for, and the next
// look puts that right.

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/group.h"

int group_signal(pid_t group, int signal)
{
    return kill(-group, signal) == 0 ? 0 : -errno;
}

static void add(struct group_watch *watch, pid_t pid)
{
    struct pollfd process = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

    if (process.fd < 0)
        return;
    if (poll(&process, 1, 0) != 0) {
        close(process.fd);
        return;
    }
    if (watch->count == 0)
        watch->first = pid;
    watch->pidfds[watch->count++] = process.fd;
}

int group_watch_open(struct group_watch *watch, pid_t group)
{
    const struct dirent *entry;
    DIR *processes;

    *watch = (struct group_watch){0};
    if (group_signal(group, 0) == -ESRCH)
        return 0;
    processes = opendir("/proc");
    if (!processes)
        return -errno;
    while (watch->count < GROUP_WATCHED && (entry = readdir(processes)) != NULL) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

        if (pid > 0 && getpgid(pid) == group)
            add(watch, pid);
    }
    closedir(processes);
    return 0;
}

void group_watch_close(struct group_watch *watch)
{
    for (size_t i = 0; i < watch->count; i++)
        close(watch->pidfds[i]);
    *watch = (struct group_watch){0};
}
