// SPDX-License-Identifier: Apache-2.0
//
// The scratch of a test.
//
// Model: the program (scratch_main) makes one root folder; each test process makes its own folder
// in it and keeps the pids of its children in a table.
//
// Lifetimes: a test that ends well closes its scratch. One that fails leaves by _exit, deep inside
// check, and one that hangs is killed; nothing of ours runs then. So the kernel is asked to do it:
// every child, and the test process itself, gets SIGKILL when its parent goes. Folders are removed
// once more by the program, from the root.

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/tool/scratch.h"

enum {
    MAX_CHILDREN = 512,
    PATHS = 16,
};

static char root[48];
static pid_t root_owner;
static char folder[64];
static pid_t children[MAX_CHILDREN];
static size_t child_count;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where)
{
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void make_root(void)
{
    const char *parent = getenv("TMPDIR");

    // Socket paths are short, whatever TMPDIR says.
    if (!parent || strlen(parent) > 24)
        parent = "/tmp";
    snprintf(root, sizeof root, "%s/lktest-XXXXXX", parent);
    if (!mkdtemp(root)) { // no ck_assert: no test runs yet
        perror(root);
        exit(EXIT_FAILURE);
    }
    root_owner = getpid();
}

int scratch_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int failed;

    make_root();
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (getenv("LOCK_KEEPER_TEST_KEEP"))
        fprintf(stderr, "# kept: %s\n", root);
    else
        remove_tree(root);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

void scratch_open(void)
{
    if (root[0] == '\0')
        make_root();
    if (getpid() != root_owner)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    snprintf(folder, sizeof folder, "%s/XXXXXX", root);
    ck_assert_msg(mkdtemp(folder) != NULL, "mkdtemp %s: %s", folder, strerror(errno));
    child_count = 0;
}

void scratch_close(void)
{
    while (child_count > 0)
        scratch_kill(children[child_count - 1]);
    if (!getenv("LOCK_KEEPER_TEST_KEEP"))
        remove_tree(folder);
    folder[0] = '\0';
}

const char *scratch_path(const char *name)
{
    static char paths[PATHS][SCRATCH_MAX_PATH];
    static size_t next;
    char *path = paths[next++ % PATHS];

    ck_assert_msg(folder[0] != '\0', "no scratch_open in this test's setup");
    ck_assert_int_lt(snprintf(path, SCRATCH_MAX_PATH, "%s/%s", folder, name), SCRATCH_MAX_PATH);
    return path;
}

char *scratch_read(const char *path)
{
    size_t length = 0, capacity = 4096;
    char *text = malloc(capacity);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;

    ck_assert_ptr_nonnull(text);
    while (fd >= 0 && (n = read(fd, text + length, capacity - length - 1)) > 0) {
        length += (size_t)n;
        if (capacity - length < 2048) {
            capacity *= 2;
            text = realloc(text, capacity);
            ck_assert_ptr_nonnull(text);
        }
    }
    if (fd >= 0)
        close(fd);
    text[length] = '\0';
    return text;
}

void scratch_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

// What the child does first, its signals still blocked. check's handlers of these kill the whole
// group of the test: a child must not run them.
static void begin_child(pid_t parent, const sigset_t *mask)
{
    // Ours; and whoever runs the tests in the background, or under nohup, has some of them ignored.
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGALRM};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) // it went before we could ask
        _exit(127);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    child_count = 0;
}

pid_t scratch_fork(void)
{
    pid_t parent = getpid();
    sigset_t all, mask;
    pid_t pid;

    ck_assert_uint_lt(child_count, MAX_CHILDREN);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &mask);
    pid = fork();
    if (pid == 0) {
        begin_child(parent, &mask);
        return 0;
    }
    sigprocmask(SIG_SETMASK, &mask, NULL);
    ck_assert_msg(pid >= 0, "fork: %s", strerror(errno));
    children[child_count++] = pid;
    return pid;
}

static void forget(pid_t pid)
{
    for (size_t i = 0; i < child_count; i++) {
        if (children[i] == pid) {
            children[i] = children[--child_count];
            return;
        }
    }
    ck_abort_msg("pid %d is no child of scratch_fork, or has been waited for", (int)pid);
}

void scratch_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    ck_assert_msg(scratch_reap(pid, 10000, NULL), "pid %d does not die", (int)pid);
}

bool scratch_reap(pid_t pid, int64_t timeout_ms, int *status)
{
    int64_t deadline = scratch_deadline(timeout_ms);
    struct pollfd ended = {.events = POLLIN};
    int ignored;

    ended.fd = (int)syscall(SYS_pidfd_open, pid, 0);
    ck_assert_msg(ended.fd >= 0, "pidfd_open %d: %s", (int)pid, strerror(errno));
    while (poll(&ended, 1, scratch_left(deadline)) < 0)
        ck_assert_int_eq(errno, EINTR);
    close(ended.fd);
    if (!(ended.revents & POLLIN))
        return false;
    ck_assert_int_eq(waitpid(pid, status ? status : &ignored, 0), pid);
    forget(pid);
    return true;
}

int scratch_exit_code(pid_t pid, int64_t timeout_ms)
{
    int status;

    ck_assert_msg(scratch_reap(pid, timeout_ms, &status), "pid %d still runs after %lld ms",
                  (int)pid, (long long)timeout_ms);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t scratch_boottime_ms(void)
{
    return clock_us(CLOCK_BOOTTIME) / 1000;
}

int64_t scratch_monotonic_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

int64_t scratch_deadline(int64_t ms)
{
    return scratch_monotonic_us() + ms * 1000;
}

int scratch_left(int64_t deadline)
{
    int64_t left = deadline - scratch_monotonic_us();

    return left <= 0 ? 0 : (int)((left + 999) / 1000);
}

void scratch_pause_ms(int64_t ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    while (nanosleep(&pause, &pause) != 0 && errno == EINTR)
        ;
}

int scratch_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    close(fd);
    return ntohs(address.sin_port);
}

int scratch_descriptors(pid_t pid)
{
    char path[32];
    DIR *entries;
    int count = 0;

    snprintf(path, sizeof path, "/proc/%d/fd", pid ? (int)pid : (int)getpid());
    entries = opendir(path);
    ck_assert_msg(entries != NULL, "%s: %s", path, strerror(errno));
    for (struct dirent *entry = readdir(entries); entry; entry = readdir(entries))
        count += entry->d_name[0] != '.';
    closedir(entries);
    // Ours held the folder itself while it was read.
    return pid ? count : count - 1;
}

int64_t scratch_cpu_ms(pid_t pid)
{
    unsigned long long user = 0, system = 0;
    char path[32], *text, *after;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    text = scratch_read(path);
    after = strrchr(text, ')'); // the name before it may hold anything
    ck_assert_msg(after && sscanf(after, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu",
                                  &user, &system) == 2,
                  "%s: unexpected", path);
    free(text);
    return (int64_t)((user + system) * 1000 / (unsigned long long)sysconf(_SC_CLK_TCK));
}

void scratch_full_pipe(int ends[2])
{
    char fill[4096];

    memset(fill, '#', sizeof fill);
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    ck_assert_int_eq(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    while (write(ends[1], fill, sizeof fill) > 0)
        continue;
    ck_assert_int_eq(fcntl(ends[1], F_SETFL, 0), 0);
}
