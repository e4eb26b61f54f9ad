// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into redis-server: gettimeofday, time and CLOCK_REALTIME as the page says. The real time
// comes from system calls, so that nothing has to be looked up: the first call is made by the memory
// allocator, before libraries are ready.

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/tool/fake_clock_page.h"

static const struct fake_clock_page *page;

__attribute__((constructor)) static void map_page(void)
{
    const char *path = getenv(FAKE_CLOCK_VARIABLE);
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped;

    if (fd < 0)
        return;
    mapped = mmap(NULL, sizeof *page, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        page = mapped;
}

static int64_t faked_us(int64_t real_us)
{
    unsigned before;
    int64_t us;

    if (!page)
        return real_us;
    do {
        before = page->sequence;
        us = real_us + page->offset_us + (real_us - page->since_us) * page->rate_ppm / 1000000;
    } while (before % 2 == 1 || before != page->sequence);
    return us;
}

static int64_t wall_us(void)
{
    struct timespec now;

    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return faked_us((int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

// Declared here, since the libraries' own declarations differ (restrict, attributes).
int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    int64_t us = wall_us();

    (void)zone;
    tv->tv_sec = us / 1000000;
    tv->tv_usec = us % 1000000;
    return 0;
}

time_t time(time_t *result)
{
    time_t now = wall_us() / 1000000;

    if (result)
        *result = now;
    return now;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int64_t us;

    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
        return (int)syscall(SYS_clock_gettime, clock, now);
    us = wall_us();
    now->tv_sec = us / 1000000;
    now->tv_nsec = us % 1000000 * 1000;
    return 0;
}
