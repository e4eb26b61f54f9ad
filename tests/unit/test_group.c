// SPDX-License-Identifier: Apache-2.0
//
// Process groups: who of them is live, and that a signal reaches all.

#include <errno.h>
#include <poll.h>
#include <sys/wait.h>

#include "client/group.h"
#include "tests/tool/beats.h"
#include "tests/tool/scratch.h"

static void setup(void)
{
    scratch_open();
}

static void teardown(void)
{
    scratch_close();
}

// A group of its own, led by a beater with two children.
static pid_t start_group(struct beat **beats)
{
    const char *path = scratch_path("beats");
    pid_t leader;

    *beats = beats_open("beats");
    leader = scratch_fork();
    if (leader == 0) {
        setpgid(0, 0);
        execl(BEATER_PATH, BEATER_PATH, path, "2", "deaf", NULL);
        _exit(127);
    }
    beats_await(*beats, 3);
    return leader;
}

static size_t live(pid_t group)
{
    struct group_watch watch;
    size_t count;

    ck_assert_int_eq(group_watch_open(&watch, group), 0);
    count = watch.count;
    group_watch_close(&watch);
    return count;
}

START_TEST(all_live_members_are_found_and_killed)
{
    struct beat *beats;
    pid_t leader = start_group(&beats);
    struct group_watch watch;

    ck_assert_int_eq(group_watch_open(&watch, leader), 0);
    ck_assert_uint_eq(watch.count, 3);
    ck_assert_int_eq(group_signal(leader, SIGKILL), 0);
    for (size_t i = 0; i < watch.count; i++) {
        struct pollfd member = {.fd = watch.pidfds[i], .events = POLLIN};

        ck_assert_int_eq(poll(&member, 1, 5000), 1);
    }
    group_watch_close(&watch);
    // The leader is a zombie still: nobody has waited for it. It doesn't count.
    ck_assert_int_eq(kill(leader, 0), 0);
    ck_assert_uint_eq(live(leader), 0);
    beats_await_end(beats, 3, 1000);
    ck_assert_int_eq(scratch_exit_code(leader, 1000), -SIGKILL);
    SCRATCH_UNTIL(5000, group_signal(leader, 0) == -ESRCH);
    ck_assert_uint_eq(live(leader), 0);
}
END_TEST

// A group outlives its leader.
START_TEST(members_without_leader_are_found)
{
    struct beat *beats;
    pid_t leader = start_group(&beats);
    struct group_watch watch;

    ck_assert_int_eq(kill(leader, SIGKILL), 0);
    ck_assert_int_eq(scratch_exit_code(leader, 5000), -SIGKILL);
    ck_assert_int_eq(group_watch_open(&watch, leader), 0);
    ck_assert_uint_eq(watch.count, 2);
    ck_assert(watch.first == beats[1].pid || watch.first == beats[2].pid);
    group_watch_close(&watch);
    ck_assert_int_eq(group_signal(leader, SIGKILL), 0);
    beats_await_end(beats, 3, 5000);
}
END_TEST

START_TEST(no_more_than_fits_is_watched)
{
    pid_t leader = scratch_fork();
    struct group_watch watch;
    int before = scratch_descriptors(0);

    if (leader == 0) {
        setpgid(0, 0);
        for (int i = 0; i < GROUP_WATCHED + 4; i++) {
            if (fork() == 0)
                break;
        }
        for (;;)
            pause();
    }
    SCRATCH_UNTIL(5000, live(leader) == GROUP_WATCHED);
    ck_assert_int_eq(group_watch_open(&watch, leader), 0);
    ck_assert_int_eq(scratch_descriptors(0), before + GROUP_WATCHED);
    group_watch_close(&watch);
    ck_assert_int_eq(scratch_descriptors(0), before);
    ck_assert_int_eq(group_signal(leader, SIGKILL), 0);
    scratch_exit_code(leader, 5000);
    SCRATCH_UNTIL(5000, live(leader) == 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("group");
    TCase *tests = tcase_create("group");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, all_live_members_are_found_and_killed);
    tcase_add_test(tests, members_without_leader_are_found);
    tcase_add_test(tests, no_more_than_fits_is_watched);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
