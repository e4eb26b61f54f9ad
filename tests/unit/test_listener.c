// SPDX-License-Identifier: Apache-2.0
//
// The listening socket: what stands at its path before, meanwhile and after; and what becomes of
// clients when descriptors are out. Nothing is waited for: the test runs the loop's turns.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>

#include "sidecar/listener.h"
#include "tests/tool/fake_store.h"
#include "tests/tool/scratch.h"

static struct listener listener;
static char error[512];
static int descriptors;

static void begin(void)
{
    scratch_open();
    error[0] = '\0';
    descriptors = scratch_descriptors(0);
}

static void end(void)
{
    ck_assert_int_eq(scratch_descriptors(0), descriptors);
    scratch_close();
}

static int open_at(struct listener *at, const char *path)
{
    return listener_open(at, path, 0640, (gid_t)-1, error, sizeof error);
}

static bool is_there(const char *path)
{
    struct stat there;

    return lstat(path, &there) == 0;
}

// A client's descriptor, or -errno.
static int dial(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    ck_assert_int_ge(fd, 0);
    strcpy(address.sun_path, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -errno;
}

// ---- The path ----

START_TEST(opened_and_closed)
{
    const char *path = scratch_path("s");
    struct stat there;
    int fd;

    ck_assert_msg(open_at(&listener, path) == 0, "%s", error);
    ck_assert_int_eq(stat(path, &there), 0);
    ck_assert(S_ISSOCK(there.st_mode));
    ck_assert_uint_eq(there.st_mode & 07777, 0640);
    ck_assert(is_there(scratch_path("s.lock")));
    fd = dial(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    listener_close(&listener, NULL);
    ck_assert(!is_there(path));
    ck_assert(!is_there(scratch_path("s.lock")));
}
END_TEST

START_TEST(its_directory_is_made)
{
    ck_assert_msg(open_at(&listener, scratch_path("made/s")) == 0, "%s", error);
    listener_close(&listener, NULL);
    ck_assert_int_eq(open_at(&listener, scratch_path("a/b/s")), EX_OSERR);
    ck_assert_ptr_nonnull(strstr(error, "a/b/s"));
}
END_TEST

START_TEST(one_instance_only)
{
    const char *path = scratch_path("s");
    struct listener second;
    int fd;

    ck_assert_int_eq(open_at(&listener, path), 0);
    ck_assert_int_eq(open_at(&second, path), EX_TEMPFAIL);
    ck_assert_ptr_nonnull(strstr(error, "another lock-keeper"));
    fd = dial(path); // the first one's is untouched
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert(is_there(scratch_path("s.lock")));
    listener_close(&listener, NULL);
    ck_assert_int_eq(open_at(&second, path), 0);
    listener_close(&second, NULL);
}
END_TEST

// Left by an instance that was killed: socket and lock file without an owner.
START_TEST(a_stale_socket_is_replaced)
{
    const char *path = scratch_path("s");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(address.sun_path, path);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    scratch_write(scratch_path("s.lock"), "");
    ck_assert_int_eq(dial(path), -ECONNREFUSED);
    ck_assert_msg(open_at(&listener, path) == 0, "%s", error);
    fd = dial(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    listener_close(&listener, NULL);
}
END_TEST

START_TEST(something_else_is_left_alone)
{
    static const char *const what[] = {"file", "symlink", "dangling", "folder"};
    const char *path = scratch_path(what[_i]);

    if (_i == 0)
        scratch_write(path, "precious");
    else if (_i == 3)
        ck_assert_int_eq(mkdir(path, 0700), 0);
    else
        ck_assert_int_eq(symlink(_i == 1 ? "/dev/null" : "nowhere", path), 0);
    ck_assert_int_eq(open_at(&listener, path), EX_CANTCREAT);
    ck_assert_ptr_nonnull(strstr(error, path));
    ck_assert(is_there(path));
}
END_TEST

// The lock file is not followed into somebody else's file.
START_TEST(a_lock_that_is_a_symlink)
{
    scratch_write(scratch_path("target"), "precious");
    ck_assert_int_eq(symlink(scratch_path("target"), scratch_path("s.lock")), 0);
    ck_assert_int_eq(open_at(&listener, scratch_path("s")), EX_OSERR);
    ck_assert(is_there(scratch_path("target")));
    ck_assert(is_there(scratch_path("s.lock")));
    ck_assert(!is_there(scratch_path("s")));
}
END_TEST

// Somebody put another socket there meanwhile: it is not ours to remove.
START_TEST(a_socket_of_somebody_else_stays)
{
    const char *path = scratch_path("s");

    ck_assert_int_eq(open_at(&listener, path), 0);
    ck_assert_int_eq(unlink(path), 0);
    scratch_write(path, "other");
    listener_close(&listener, NULL);
    ck_assert(is_there(path));
}
END_TEST

// ---- Accepting ----

static struct ev_loop *loop;
static struct fake_store fake;
static struct keeper keeper;
static struct peers peers;

static void fill_random(void *context, void *bytes, size_t size)
{
    (void)context;
    memset(bytes, 7, size);
}

static void serve(uint32_t connections)
{
    const struct keeper_options options = {
        .lock_ttl_ms = 30000,
        .max_lock_ttl_ms = 300000,
        .workflow_deadline_ms = 300000,
        .max_workflow_deadline_ms = 3600000,
        .caps = {connections, 10, 1},
        .host = "pod-7",
        .random = fill_random,
    };

    loop = ev_loop_new(EVFLAG_AUTO);
    fake_store_init(&fake);
    ck_assert_int_eq(keeper_init(&keeper, &options, &fake.store), 0);
    ck_assert_msg(open_at(&listener, scratch_path("s")) == 0, "%s", error);
    peers_init(&peers, loop, &keeper);
    listener_start(&listener, &peers);
}

static void stop_serving(void)
{
    listener_close(&listener, loop);
    peers_deinit(&peers, scratch_boottime_ms());
    keeper_deinit(&keeper);
    fake_store_deinit(&fake);
    ev_loop_destroy(loop);
}

static void turn(void)
{
    ev_run(loop, EVRUN_NOWAIT);
    peers_read(&peers, scratch_boottime_ms());
    peers_flush(&peers, scratch_boottime_ms());
}

// What the client was told, and whether the end came.
static bool hear(int fd, char *text, size_t size)
{
    ssize_t length = recv(fd, text, size - 1, 0);

    text[length > 0 ? length : 0] = '\0';
    return length == 0 || (length > 0 && recv(fd, text + length, 1, 0) == 0);
}

START_TEST(clients_are_taken)
{
    int fds[100];

    serve(1000);
    for (int i = 0; i < 100; i++)
        fds[i] = dial(scratch_path("s"));
    turn();
    ck_assert_uint_eq(peers.count, LISTENER_ACCEPTS);
    turn();
    ck_assert_uint_eq(peers.count, 100);
    ck_assert_int_eq(listener_next_wake(&listener), INT64_MAX);
    for (int i = 0; i < 100; i++)
        close(fds[i]);
    turn();
    turn();
    ck_assert_uint_eq(peers.count, 0);
    stop_serving();
}
END_TEST

START_TEST(a_uid_at_its_cap_is_told)
{
    char text[512];
    int first, second;

    serve(1);
    first = dial(scratch_path("s"));
    turn();
    second = dial(scratch_path("s"));
    turn();
    ck_assert(hear(second, text, sizeof text));
    ck_assert_ptr_nonnull(strstr(text, "{\"ok\":false,\"error\":\"errLimitExceeded\""));
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    ck_assert_uint_eq(peers.count, 1);
    close(second);
    close(first);
    stop_serving();
}
END_TEST

static void limit_descriptors(rlim_t most)
{
    struct rlimit limit;

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = most;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

// Clients connect, then the limit falls to what is open: each is told and closed, none hangs, and
// the loop does not spin.
START_TEST(out_of_descriptors)
{
    char text[512];
    int fds[5];
    int64_t wake_ms;

    serve(1000);
    turn();
    for (int i = 0; i < 5; i++)
        fds[i] = dial(scratch_path("s"));
    limit_descriptors((rlim_t)fds[4] + 1);
    turn();
    ck_assert_uint_eq(peers.count, 0);
    for (int i = 0; i < 5; i++) {
        ck_assert_msg(hear(fds[i], text, sizeof text), "client %d was not closed", i);
        ck_assert_ptr_nonnull(strstr(text, "{\"ok\":false,\"error\":\"errLimitExceeded\""));
        ck_assert_ptr_nonnull(strstr(text, "descriptors"));
    }
    ck_assert_int_ge(listener.reserve_fd, 0); // it has its reserve again
    limit_descriptors(1024);
    wake_ms = listener_next_wake(&listener);
    if (wake_ms != INT64_MAX)
        listener_sweep(&listener, wake_ms);
    close(fds[0]);
    fds[0] = dial(scratch_path("s")); // and all is as before
    turn();
    ck_assert_uint_eq(peers.count, 1);
    for (int i = 0; i < 5; i++)
        close(fds[i]);
    stop_serving();
}
END_TEST

// Not even the reserve is there: accepting pauses, for a while, and then goes on.
START_TEST(out_of_descriptors_and_of_reserve)
{
    int64_t before_ms, wake_ms;
    int fd;

    serve(1000);
    fd = dial(scratch_path("s"));
    close(listener.reserve_fd);
    listener.reserve_fd = -1;
    limit_descriptors(3);
    before_ms = scratch_boottime_ms();
    turn();
    wake_ms = listener_next_wake(&listener);
    ck_assert_int_ge(wake_ms, before_ms + LISTENER_PAUSE_MS);
    ck_assert_int_le(wake_ms, scratch_boottime_ms() + LISTENER_PAUSE_MS);
    ck_assert(!ev_is_active(&listener.io)); // the socket is readable still, and nobody looks
    turn();
    ck_assert_int_eq(listener_next_wake(&listener), wake_ms);
    listener_sweep(&listener, wake_ms - 1);
    ck_assert_int_eq(listener_next_wake(&listener), wake_ms);
    limit_descriptors(1024);
    listener_sweep(&listener, wake_ms);
    ck_assert_int_eq(listener_next_wake(&listener), INT64_MAX);
    turn();
    ck_assert_uint_eq(peers.count, 1);
    close(fd);
    stop_serving();
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("listener");
    TCase *tcase = tcase_create("listener");

    tcase_set_timeout(tcase, 20);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, opened_and_closed);
    tcase_add_test(tcase, its_directory_is_made);
    tcase_add_test(tcase, one_instance_only);
    tcase_add_test(tcase, a_stale_socket_is_replaced);
    tcase_add_loop_test(tcase, something_else_is_left_alone, 0, 4);
    tcase_add_test(tcase, a_lock_that_is_a_symlink);
    tcase_add_test(tcase, a_socket_of_somebody_else_stays);
    tcase_add_test(tcase, clients_are_taken);
    tcase_add_test(tcase, a_uid_at_its_cap_is_told);
    tcase_add_test(tcase, out_of_descriptors);
    tcase_add_test(tcase, out_of_descriptors_and_of_reserve);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
