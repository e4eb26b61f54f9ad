// SPDX-License-Identifier: Apache-2.0
//
// Which clock it is that the sidecar goes by: CLOCK_BOOTTIME, to be read and to be woken by. On a
// machine that was never suspended, and whose wall clock nobody sets, the others look the same; so
// what libc is asked is looked at, by functions of its names that the linker finds first.
#include <check.h>
#include <ev.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "sidecar/clock.h"
#include "sidecar/wakeup.h"

static clockid_t asked = -1; // by the newest clock_gettime
static int64_t stopped_ms;   // what it says then; 0: the truth
static clockid_t timer = -1; // of the newest timerfd

int clock_gettime(clockid_t clock, struct timespec *now)
{
    asked = clock;
    if (stopped_ms == 0)
        return (int)syscall(SYS_clock_gettime, clock, now);
    now->tv_sec = stopped_ms / 1000;
    now->tv_nsec = stopped_ms % 1000 * 1000000 + 999999;
    return 0;
}

int timerfd_create(clockid_t clock, int flags)
{
    timer = clock;
    return (int)syscall(SYS_timerfd_create, clock, flags);
}

static int64_t truth_ms(void)
{
    struct timespec now;

    syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

START_TEST(test_time_goes_on_in_suspend)
{
    int64_t before_ms = truth_ms();
    int64_t now_ms = clock_boottime_ms();

    ck_assert_int_eq(asked, CLOCK_BOOTTIME);
    ck_assert_int_ge(now_ms, before_ms);
    ck_assert_int_le(now_ms, truth_ms());
}
END_TEST

START_TEST(test_milliseconds_begin_when_they_are_full)
{
    stopped_ms = INT64_C(1790000000123);
    ck_assert_int_eq(clock_boottime_ms(), INT64_C(1790000000123));
    stopped_ms = 1;
    ck_assert_int_eq(clock_boottime_ms(), 1);
    stopped_ms = 0;
}
END_TEST

static void stop_waiting(struct ev_loop *loop, ev_timer *limit, int events)
{
    (void)limit;
    (void)events;
    ev_break(loop, EVBREAK_ALL);
}

// One turn, at most 5 s long; when it ended.
static int64_t turn(struct ev_loop *loop)
{
    ev_timer limit;

    ev_timer_init(&limit, stop_waiting, 5, 0);
    ev_timer_start(loop, &limit);
    ev_run(loop, EVRUN_ONCE);
    ev_timer_stop(loop, &limit);
    return truth_ms();
}

START_TEST(test_wake_up)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    struct wakeup wakeup;
    int64_t due_ms, woken_ms;

    ck_assert_int_eq(wakeup_init(&wakeup, loop), 0);
    ck_assert_int_eq(timer, CLOCK_BOOTTIME);
    due_ms = truth_ms() + 30;
    wakeup_arm(&wakeup, due_ms + 60000);
    wakeup_arm(&wakeup, due_ms);
    wakeup_arm(&wakeup, due_ms + 60000); // the earlier one stays
    ck_assert_int_eq(wakeup.armed_ms, due_ms);
    woken_ms = turn(loop);
    ck_assert_int_ge(woken_ms, due_ms);
    ck_assert_int_lt(woken_ms, due_ms + 4000);
    ck_assert_int_eq(wakeup.armed_ms, INT64_MAX);
    // What is long past wakes at once, 0 and less too.
    wakeup_arm(&wakeup, -5);
    ck_assert_int_lt(turn(loop), woken_ms + 4000);
    ck_assert_int_eq(wakeup.armed_ms, INT64_MAX);
    wakeup_deinit(&wakeup, loop);
    ev_loop_destroy(loop);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("clock");
    TCase *tc = tcase_create("clock");

    tcase_add_test(tc, test_time_goes_on_in_suspend);
    tcase_add_test(tc, test_milliseconds_begin_when_they_are_full);
    tcase_add_test(tc, test_wake_up);
    tcase_set_timeout(tc, 30);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    SRunner *sr = srunner_create(suite());
    int failed;

    srunner_set_tap(sr, "-");
    srunner_run_all(sr, CK_SILENT);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
