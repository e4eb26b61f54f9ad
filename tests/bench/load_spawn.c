// SPDX-License-Identifier: Apache-2.0
//
// How long programs take: a command from its start to its end; lock-keeper from its start until it
// answers on its socket.
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/load.h"

extern char **environ;

static pid_t spawn(char **argv)
{
    pid_t pid;
    int error = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);

    if (error)
        load_fail("%s: %s", argv[0], strerror(error));
    return pid;
}

static void wait_for(pid_t pid, const char *name)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            load_fail("waitpid: %s", strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        load_fail("%s ended with status %x", name, (unsigned)status);
}

int load_spawn(int argc, char **argv)
{
    struct load_samples samples = {0};
    int64_t ms = load_number(argc > 1 ? argv[0] : NULL);
    int64_t start_ns = load_now_ns(), now_ns = start_ns;
    uint64_t count = 0;

    for (; now_ns < start_ns + ms * 1000000; count++) {
        int64_t before_ns = load_now_ns();
        wait_for(spawn(argv + 1), argv[1]);
        now_ns = load_now_ns();
        load_samples_add(&samples, now_ns - before_ns);
    }
    load_report(count, now_ns - start_ns, &samples);
    return 0;
}

// Connects and is answered {"ok":true ... "redis":"up"}.
static bool answers(const struct sockaddr_un *address)
{
    static const char ping[] = "{\"op\":\"ping\"}\n";
    char reply[512] = "";
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool up = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 &&
              send(fd, ping, sizeof ping - 1, MSG_NOSIGNAL) > 0 &&
              recv(fd, reply, sizeof reply - 1, 0) > 0 && strstr(reply, "\"redis\":\"up\"");

    close(fd);
    return up;
}

int load_ready(int argc, char **argv)
{
    struct load_samples samples = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    long times = load_number(argc > 2 ? argv[1] : NULL);
    int64_t total_ns = 0;

    snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[0]);
    for (long i = 0; i < times; i++) {
        int64_t start_ns = load_now_ns();
        pid_t pid = spawn(argv + 2);
        int64_t ns;

        while (!answers(&address)) {
            if (waitpid(pid, NULL, WNOHANG) == pid)
                load_fail("%s ended before it answered", argv[2]);
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        }
        ns = load_now_ns() - start_ns;
        total_ns += ns;
        load_samples_add(&samples, ns);
        kill(pid, SIGTERM);
        wait_for(pid, argv[2]);
    }
    load_report((uint64_t)times, total_ns, &samples);
    return 0;
}
