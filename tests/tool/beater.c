// SPDX-License-Identifier: Apache-2.0
//
// A command that shows until when it could act:
//
//     beater FILE CHILDREN [deaf]
//
// It and CHILDREN children each go on writing CLOCK_BOOTTIME (ms) into their slot of FILE, several
// times a millisecond's length apart, until they are ended. deaf: SIGTERM is ignored. What stands in a
// slot after the end is the last instant at which that process ran. See beats.h.

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/tool/beats.h"

static struct beat *map(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct beat *beats;

    if (fd < 0 || ftruncate(fd, BEATS_SLOTS * sizeof *beats) != 0)
        exit(2);
    beats = mmap(NULL, BEATS_SLOTS * sizeof *beats, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (beats == MAP_FAILED)
        exit(2);
    return beats;
}

static _Noreturn void beat(struct beat *slot)
{
    const struct timespec pause = {.tv_nsec = 300000};

    slot->pid = getpid();
    for (;;) {
        struct timespec now;

        clock_gettime(CLOCK_BOOTTIME, &now);
        slot->at_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv)
{
    struct beat *beats;
    int children;

    if (argc < 3)
        return 64;
    if (argc > 3 && strcmp(argv[3], "deaf") == 0)
        signal(SIGTERM, SIG_IGN);
    beats = map(argv[1]);
    children = atoi(argv[2]);
    for (int i = 1; i <= children && i < BEATS_SLOTS; i++) {
        if (fork() == 0)
            beat(&beats[i]);
    }
    beat(&beats[0]);
}
