// SPDX-License-Identifier: Apache-2.0
//
// The test's side of the page. It is a file in the scratch folder, mapped by both.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/tool/fake_clock.h"
#include "tests/tool/fake_clock_page.h"
#include "tests/tool/scratch.h"

#ifndef FAKE_CLOCK_PRELOAD_PATH
#define FAKE_CLOCK_PRELOAD_PATH "build/tests/libfake_clock_preload.so"
#endif

void fake_clock_begin(struct fake_clock *clock)
{
    const char *path = scratch_path("clock");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *mapped;

    ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
    ck_assert_int_eq(ftruncate(fd, sizeof *clock->page), 0);
    mapped = mmap(NULL, sizeof *clock->page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert(mapped != MAP_FAILED);
    close(fd);
    clock->page = mapped;
    setenv(FAKE_CLOCK_VARIABLE, path, 1);
    setenv("LD_PRELOAD", FAKE_CLOCK_PRELOAD_PATH, 1);
}

void fake_clock_end_start(struct fake_clock *clock)
{
    (void)clock;
    unsetenv("LD_PRELOAD");
    unsetenv(FAKE_CLOCK_VARIABLE);
}

static int64_t real_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

// What has run up at the old rate becomes offset, so that the shown time goes on without a jump.
static void write_page(struct fake_clock_page *page, int64_t step_us, int64_t rate_ppm)
{
    int64_t now_us = real_us();
    int64_t gone_us = (now_us - page->since_us) * page->rate_ppm / 1000000;

    page->sequence++;
    page->offset_us += step_us + gone_us;
    page->since_us = now_us;
    page->rate_ppm = rate_ppm;
    page->sequence++;
}

void fake_clock_step(struct fake_clock *clock, int64_t ms)
{
    write_page(clock->page, ms * 1000, clock->page->rate_ppm);
}

void fake_clock_rate(struct fake_clock *clock, int64_t ppm)
{
    write_page(clock->page, 0, ppm);
}
