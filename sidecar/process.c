// SPDX-License-Identifier: Apache-2.0
//
// A pidfd is readable when its process has ended, and stands for that process alone, though its
// number be used again. So the order is: open the pidfd, look who owns the process of that number,
// and then ask through the pidfd whether it is still there: if so, the owner seen was its owner.
//
// A number means something only in a pid namespace. A peer's numbers are taken where the peer shares
// ours: the kernel shows its pid to us, and its NSpid line has one entry. Its own process is taken
// without a number, through SO_PEERPIDFD where the kernel has it.

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sidecar/clock.h"
#include "sidecar/process.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

struct process_watch {
    struct ev_io io;
    struct processes *processes;
};

static int open_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static bool is_alive(int pidfd)
{
    return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}

// The value of a line "Name:\t..." of /proc/PID/status, NUL-terminated in text.
static bool read_status(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64], line[512];
    size_t length = strlen(name);
    bool found = false;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%lld/status", (long long)pid);
    file = fopen(path, "re");
    if (!file)
        return false;
    while (!found && fgets(line, sizeof line, file)) {
        found = strncmp(line, name, length) == 0 && line[length] == ':';
        if (found)
            snprintf(text, size, "%s", line + length + 1);
    }
    fclose(file);
    return found;
}

static bool shares_our_pids(pid_t pid)
{
    char numbers[512];
    long long first;
    int read = 0;

    return pid > 0 && read_status(pid, "NSpid", numbers, sizeof numbers) &&
           sscanf(numbers, "%lld %n", &first, &read) == 1 && numbers[read] == '\0' && first == pid;
}

// The uid that the process runs with (its real one).
static bool read_uid(pid_t pid, uid_t *uid)
{
    char numbers[512];
    unsigned real;

    if (!read_status(pid, "Uid", numbers, sizeof numbers) || sscanf(numbers, "%u", &real) != 1)
        return false;
    *uid = real;
    return true;
}

// The peer's own process.
static const char *open_own(int socket, const struct session *session, int *pidfd)
{
    socklen_t size = sizeof *pidfd;

    if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, pidfd, &size) == 0)
        return NULL;
    if (!shares_our_pids(session->pid))
        return "the client's own process is not visible to the sidecar (another pid namespace)";
    *pidfd = open_pidfd(session->pid);
    return *pidfd < 0 ? "the client's own process is gone" : NULL;
}

static const char *open_named(const struct session *session, pid_t pid, int *pidfd)
{
    uid_t uid;

    if (!shares_our_pids(session->pid))
        return "\"pid\" cannot be used from another pid namespace; leave it out to name the client "
               "itself";
    *pidfd = open_pidfd(pid);
    if (*pidfd < 0)
        return errno == ESRCH || errno == EINVAL ? "no process has this \"pid\""
                                                 : "the process cannot be watched";
    if (!read_uid(pid, &uid) || !is_alive(*pidfd)) {
        close(*pidfd);
        return "no process has this \"pid\"";
    }
    if (session->uid == 0 || session->uid == uid)
        return NULL;
    close(*pidfd);
    return "the process of this \"pid\" belongs to another uid";
}

static void on_ended(struct ev_loop *loop, struct ev_io *io, int events)
{
    struct process_watch *watch = (struct process_watch *)io;

    (void)loop;
    (void)events;
    keeper_process_ended(watch->processes->keeper, watch, clock_boottime_ms());
}

const char *process_watch(struct processes *processes, int socket, const struct session *session,
                          pid_t *pid, void **watch_out)
{
    struct process_watch *watch;
    const char *why;
    int pidfd;

    if (*pid == 0 || *pid == session->pid) {
        *pid = session->pid > 0 ? session->pid : --processes->unseen;
        why = open_own(socket, session, &pidfd);
    } else {
        why = open_named(session, *pid, &pidfd);
    }
    if (why)
        return why;
    watch = calloc(1, sizeof *watch);
    if (!watch) {
        close(pidfd);
        return "out of memory";
    }
    watch->processes = processes;
    ev_io_init(&watch->io, on_ended, pidfd, EV_READ);
    ev_io_start(processes->loop, &watch->io);
    *watch_out = watch;
    return NULL;
}

void process_unwatch(struct processes *processes, void *pointer)
{
    struct process_watch *watch = pointer;

    ev_io_stop(processes->loop, &watch->io);
    close(watch->io.fd);
    free(watch);
}
