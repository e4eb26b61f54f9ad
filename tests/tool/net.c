// SPDX-License-Identifier: Apache-2.0
//
// A namespace lives as long as a process is in it: the near one is the test's own, the far one that
// of a child that does nothing. The cable is a veth pair; a blackhole route at either end swallows
// what goes that way, without a reset or an ICMP message, as a broken network does.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/tool/net.h"
#include "tests/tool/scratch.h"

static int near_fd = -1, far_fd = -1;

static bool run(const char *command)
{
    pid_t pid = scratch_fork();

    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    return scratch_exit_code(pid, 5000) == 0;
}

// The child that keeps the far side: its pid.
static pid_t fork_far(void)
{
    int ready[2];
    char byte;
    pid_t pid;

    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid = scratch_fork();
    if (pid == 0) {
        byte = unshare(CLONE_NEWNET) == 0 ? 'y' : 'n';
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1 || byte != 'y')
        pid = 0;
    close(ready[0]);
    return pid;
}

static int open_namespace(pid_t pid)
{
    char path[32];

    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

void net_far(bool far)
{
    ck_assert_int_eq(setns(far ? far_fd : near_fd, CLONE_NEWNET), 0);
}

static bool lay_cable(pid_t far)
{
    char command[128];
    bool good;

    snprintf(command, sizeof command, "ip link add near type veth peer name far netns %d",
             (int)far);
    good = run("ip link set lo up") && run(command) &&
           run("ip addr add " NET_NEAR "/24 dev near && ip link set near up");
    net_far(true);
    good = good &&
           run("ip link set lo up && ip addr add " NET_FAR "/24 dev far && ip link set far up");
    net_far(false);
    return good;
}

bool net_open(const char **why)
{
    pid_t far;

    *why = "network namespaces need root";
    if (unshare(CLONE_NEWNET) != 0)
        return false;
    far = fork_far();
    near_fd = open_namespace(getpid());
    far_fd = far ? open_namespace(far) : -1;
    if (near_fd < 0 || far_fd < 0)
        return false;
    *why = "ip(8) cannot make a veth pair here";
    return lay_cable(far);
}

void net_blackhole(enum net_way way, bool on)
{
    char command[96];

    snprintf(command, sizeof command, "ip route %s blackhole %s/32", on ? "add" : "del",
             way == NET_TO_FAR ? NET_FAR : NET_NEAR);
    net_far(way == NET_FROM_FAR);
    ck_assert_msg(run(command), "%s", command);
    net_far(false);
}
