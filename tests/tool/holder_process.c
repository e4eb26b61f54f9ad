// SPDX-License-Identifier: Apache-2.0
//
// The holder is a child of scratch_fork, so it ends with the test at the latest; its own child is to
// outlive it and cannot be, hence the alarm.

#include <check.h>
#include <signal.h>
#include <unistd.h>

#include "tests/tool/bench.h"
#include "tests/tool/holder_process.h"
#include "tests/tool/scratch.h"

static pid_t fork_keeper(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        signal(SIGALRM, SIG_DFL);
        alarm(20);
        for (;;)
            pause();
    }
    return pid;
}

static _Noreturn void hold(const char *key, holder_acquire *acquire, const char *more,
                           bool with_keeper, int ready)
{
    struct line_client client;
    struct line_lease lease;
    pid_t kept;

    line_client_connect(&client, sidecar.socket);
    if (acquire)
        acquire(&client, &lease, key, more);
    else
        line_client_send(&client, "{'op':'acquire','key':'%s'}", key);
    kept = with_keeper ? fork_keeper() : 0;
    if (write(ready, &kept, sizeof kept) != sizeof kept)
        _exit(1);
    for (;;)
        pause();
}

pid_t holder_process_start(const char *key, holder_acquire *acquire, const char *more,
                           pid_t *keeper)
{
    int ready[2];
    pid_t pid, kept;

    ck_assert_int_eq(pipe(ready), 0);
    pid = scratch_fork();
    if (pid == 0)
        hold(key, acquire, more, keeper != NULL, ready[1]);
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &kept, sizeof kept), sizeof kept);
    close(ready[0]);
    if (keeper)
        *keeper = kept;
    return pid;
}
