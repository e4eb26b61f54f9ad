// SPDX-License-Identifier: Apache-2.0
//
// The reader's side of the beater.

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "tests/tool/beats.h"
#include "tests/tool/scratch.h"

struct beat *beats_open(const char *name)
{
    int fd = open(scratch_path(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct beat *beats;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, BEATS_SLOTS * sizeof *beats), 0);
    beats = mmap(NULL, BEATS_SLOTS * sizeof *beats, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert(beats != MAP_FAILED);
    close(fd);
    return beats;
}

void beats_await(const struct beat *beats, int count)
{
    for (int i = 0; i < count; i++)
        SCRATCH_UNTIL(10000, beats[i].at_ms != 0);
}

// Gone, or a zombie that nobody reaps.
static bool has_ended(pid_t pid)
{
    struct pollfd process = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    bool ended = process.fd < 0 || poll(&process, 1, 0) == 1;

    if (process.fd >= 0)
        close(process.fd);
    return ended;
}

void beats_await_end(const struct beat *beats, int count, int64_t timeout_ms)
{
    int64_t deadline = scratch_deadline(timeout_ms);

    for (int i = 0; i < count; i++)
        SCRATCH_UNTIL(scratch_left(deadline), has_ended(beats[i].pid));
}

int64_t beats_last_ms(const struct beat *beats, int count)
{
    int64_t last = 0;

    for (int i = 0; i < count; i++)
        last = beats[i].at_ms > last ? beats[i].at_ms : last;
    return last;
}
