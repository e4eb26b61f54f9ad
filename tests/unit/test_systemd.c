// SPDX-License-Identifier: Apache-2.0
//
// The service manager's side of both protocols, played by the test.
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sidecar/systemd.h"
#include "tests/tool/scratch.h"

static void bind_to(int fd, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    ck_assert_uint_lt(length, sizeof address.sun_path);
    memcpy(address.sun_path, name, length);
    if (name[0] == '@') {
        address.sun_path[0] = '\0';
    }
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, size), 0);
}

START_TEST(test_notify_unset)
{
    unsetenv("NOTIFY_SOCKET");
    ck_assert_int_eq(systemd_notify("READY=1"), 0);
    setenv("NOTIFY_SOCKET", "", 1);
    ck_assert_int_eq(systemd_notify("READY=1"), 0);
}
END_TEST

// 0: a path. 1: an abstract name.
START_TEST(test_notify)
{
    char name[SCRATCH_MAX_PATH];
    char text[64] = "";
    scratch_open();
    snprintf(name, sizeof name, "%s%s", _i ? "@" : "", scratch_path("notify"));
    int descriptors = scratch_descriptors(0);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bind_to(fd, name);
    setenv("NOTIFY_SOCKET", name, 1);
    ck_assert_int_eq(systemd_notify("READY=1\nSTATUS=up"), 1);
    ck_assert_int_eq(recv(fd, text, sizeof text - 1, MSG_DONTWAIT), 17);
    ck_assert_str_eq(text, "READY=1\nSTATUS=up");
    close(fd);
    ck_assert_int_eq(scratch_descriptors(0), descriptors);
    scratch_close();
}
END_TEST

START_TEST(test_notify_full)
{
    int result;
    scratch_open();
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bind_to(fd, scratch_path("notify"));
    setenv("NOTIFY_SOCKET", scratch_path("notify"), 1);
    while ((result = systemd_notify("WATCHDOG=1")) == 1) {
    }
    ck_assert_int_eq(result, -EAGAIN);
    close(fd);
    scratch_close();
}
END_TEST

struct name_case {
    const char *name;
    int want;
};

#define TEN "0123456789"
static const struct name_case name_cases[] = {
    {"relative", -EINVAL},
    {"/", -EINVAL},
    {"@", -EINVAL},
    {"/" TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN, -EINVAL},
    {"/no/such/socket", -ENOENT},
    {"@no such lock-keeper", -ECONNREFUSED},
};

START_TEST(test_notify_names)
{
    setenv("NOTIFY_SOCKET", name_cases[_i].name, 1);
    ck_assert_int_eq(systemd_notify("READY=1"), name_cases[_i].want);
}
END_TEST

// What stands at descriptor 3.
enum passed { NOTHING, LISTENER, NOT_LISTENING, DATAGRAM, INTERNET, A_PIPE };

struct listen_case {
    const char *pid; // "self": this process
    const char *count;
    enum passed passed;
    int want; // 3, or a negative errno
};

static const struct listen_case listen_cases[] = {
    {"self", "1", LISTENER, 3},
    {NULL, NULL, LISTENER, -ENOENT},
    {NULL, "1", LISTENER, -ENOENT},
    {"self", NULL, LISTENER, -ENOENT},
    {"1", "1", LISTENER, -ENOENT}, // meant for another process
    {"self", "0", LISTENER, -ENOENT},
    {"self", "2", LISTENER, -E2BIG},
    {"self", "-1", LISTENER, -EINVAL},
    {"self", "1x", LISTENER, -EINVAL},
    {"self", "", LISTENER, -EINVAL},
    {"x", "1", LISTENER, -EINVAL},
    {"99999999999999999999", "1", LISTENER, -EINVAL},
    {"self", "1", NOTHING, -EINVAL},
    {"self", "1", NOT_LISTENING, -EINVAL},
    {"self", "1", DATAGRAM, -EINVAL},
    {"self", "1", INTERNET, -EINVAL},
    {"self", "1", A_PIPE, -EINVAL},
};

static int make_passed(enum passed passed)
{
    const struct sockaddr_in loopback = {.sin_family = AF_INET,
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int ends[2];
    int fd = -1;
    switch (passed) {
    case NOTHING:
        break;
    case LISTENER:
    case NOT_LISTENING:
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        bind_to(fd, scratch_path("socket"));
        ck_assert(passed == NOT_LISTENING || listen(fd, 1) == 0);
        break;
    case DATAGRAM:
        fd = socket(AF_UNIX, SOCK_DGRAM, 0);
        break;
    case INTERNET:
        fd = socket(AF_INET, SOCK_STREAM, 0);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&loopback, sizeof loopback), 0);
        ck_assert_int_eq(listen(fd, 1), 0);
        break;
    case A_PIPE:
        ck_assert_int_eq(pipe(ends), 0);
        close(ends[1]);
        fd = ends[0];
        break;
    }
    return fd;
}

static void set_variable(const char *name, const char *value)
{
    char self[16];
    snprintf(self, sizeof self, "%d", (int)getpid());
    if (value) {
        setenv(name, strcmp(value, "self") == 0 ? self : value, 1);
    } else {
        unsetenv(name);
    }
}

// The exec'd service, in a child: descriptor 3 may be one of the test framework's here. Its exit
// code is the number of the expectation that failed.
static int run_service(const struct listen_case *c, int fd)
{
    if (c->passed == NOTHING) {
        close(3);
    } else if (fd != 3 && dup2(fd, 3) < 0) {
        return 1;
    }
    set_variable("LISTEN_PID", c->pid);
    set_variable("LISTEN_FDS", c->count);
    setenv("LISTEN_FDNAMES", "x", 1);
    if (systemd_listen_fd() != c->want) {
        return 2;
    }
    if (c->want == 3 && fcntl(3, F_GETFD) != FD_CLOEXEC) {
        return 3;
    }
    if (getenv("LISTEN_PID") || getenv("LISTEN_FDS") || getenv("LISTEN_FDNAMES")) {
        return 4;
    }
    return systemd_listen_fd() == -ENOENT ? 0 : 5;
}

START_TEST(test_listen)
{
    const struct listen_case *c = &listen_cases[_i];
    scratch_open();
    int fd = make_passed(c->passed);
    pid_t pid = scratch_fork();
    if (pid == 0) {
        _exit(run_service(c, fd));
    }
    ck_assert_int_eq(scratch_exit_code(pid, 5000), 0);
    scratch_close();
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

int main(void)
{
    Suite *suite = suite_create("systemd");
    TCase *tests = tcase_create("systemd");
    tcase_add_test(tests, test_notify_unset);
    tcase_add_loop_test(tests, test_notify, 0, 2);
    tcase_add_test(tests, test_notify_full);
    tcase_add_loop_test(tests, test_notify_names, 0, COUNT(name_cases));
    tcase_add_loop_test(tests, test_listen, 0, COUNT(listen_cases));
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
