// SPDX-License-Identifier: Apache-2.0
//
// A page by itself: who can write it and who cannot, how its descriptor travels, and its slots.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sidecar/page.h"
#include "tests/tool/scratch.h"

static struct page *page;
static const int64_t *view; // a client's
static int descriptors;

static void begin(void)
{
    descriptors = scratch_descriptors(0);
    ck_assert_int_eq(page_new(&page), 0);
    view = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, page->fd, 0);
    ck_assert(view != MAP_FAILED);
}

static void end(void)
{
    ck_assert_int_eq(munmap((void *)(uintptr_t)view, PAGE_BYTES), 0);
    page = page_free(page);
    ck_assert_int_eq(scratch_descriptors(0), descriptors);
}

// ---- Who can write ----

#define REFUSED(call, number)                                                                      \
    do {                                                                                           \
        errno = 0;                                                                                 \
        ck_assert_msg((intptr_t)(call) == -1, "%s works", #call);                                  \
        ck_assert_msg(errno == (number), "%s: %s", #call, strerror(errno));                        \
    } while (0)

START_TEST(a_client_cannot_write)
{
    void *memory = (void *)(uintptr_t)view;
    int64_t value = 1;

    REFUSED(mprotect(memory, PAGE_BYTES, PROT_READ | PROT_WRITE), EACCES);
    REFUSED(mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, page->fd, 0), EACCES);
    REFUSED(pwrite(page->fd, &value, sizeof value, 0), EBADF);
    REFUSED(ftruncate(page->fd, 0), EINVAL);
    REFUSED(fallocate(page->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES), EBADF);
    REFUSED(fcntl(page->fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    ck_assert_int_eq(madvise(memory, PAGE_BYTES, MADV_REMOVE) == -1, 1);
    page_take(page, 7);
    page_set(page, 7, 99);
    ck_assert_int_eq(view[0], 99);
}
END_TEST

// As the page's owner, and as root, whom no mode keeps out: the seals do.
START_TEST(nor_through_another_descriptor)
{
    char path[32];
    int64_t value = 1;
    int fd;

    snprintf(path, sizeof path, "/proc/self/fd/%d", page->fd);
    if (geteuid() != 0)
        REFUSED(open(path, O_RDWR | O_CLOEXEC), EACCES);
    ck_assert_int_eq(fchmod(page->fd, 0666), 0);
    fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    REFUSED(pwrite(fd, &value, sizeof value, 0), EPERM);
    REFUSED(mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    REFUSED(mmap(NULL, PAGE_BYTES, PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    REFUSED(ftruncate(fd, 0), EPERM);
    REFUSED(ftruncate(fd, 2 * PAGE_BYTES), EPERM);
    REFUSED(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES), EPERM);
    close(fd);
}
END_TEST

// Without any rights the mode alone refuses another descriptor, for reading too.
START_TEST(the_mode_keeps_others_out)
{
    char path[32];
    int status;
    pid_t pid;

    if (geteuid() != 0)
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", page->fd);
    pid = fork();
    if (pid == 0) {
        if (setresuid(65534, 65534, 65534) < 0)
            _exit(2);
        _exit(open(path, O_RDWR) < 0 && open(path, O_RDONLY) < 0 && fchmod(page->fd, 0666) < 0 ? 0
                                                                                               : 1);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(it_is_sealed_and_whole)
{
    struct stat state;
    int seals = fcntl(page->fd, F_GET_SEALS);
    int wanted = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

    ck_assert_int_eq(seals & wanted, wanted);
    ck_assert_int_eq(fcntl(page->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    ck_assert_int_ne(fcntl(page->fd, F_GETFD) & FD_CLOEXEC, 0);
    ck_assert_int_eq(fstat(page->fd, &state), 0);
    ck_assert_int_eq(state.st_size, 4096);
    ck_assert_int_eq(state.st_size, PAGE_BYTES);
    ck_assert_int_eq(state.st_mode & 0777, 0400);
    ck_assert_int_eq(state.st_blocks * 512, 4096); // allocated
    ck_assert_int_eq(scratch_descriptors(0), descriptors + 1);
}
END_TEST

// What stood there last stays for the client; the sidecar has gone.
START_TEST(it_outlives_the_sidecar)
{
    page_take(page, 7);
    page_set(page, 7, 1234567);
    page = page_free(page);
    ck_assert_int_eq(view[0], 1234567);
}
END_TEST

static void limit_descriptors(rlim_t most)
{
    struct rlimit limit;

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = most;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

START_TEST(descriptors_are_out)
{
    struct page *other;
    int fds[64], count = 0;

    limit_descriptors((rlim_t)page->fd + 8);
    while (count < 64 && (fds[count] = dup(0)) >= 0)
        count++;
    ck_assert_int_lt(count, 64);
    for (int left = 0; left < 2; left++) { // a page takes two while it is made
        ck_assert_int_eq(page_new(&other), -EMFILE);
        ck_assert_ptr_null(other);
        close(fds[--count]);
    }
    ck_assert_int_eq(page_new(&other), 0);
    page_free(other);
    while (count > 0)
        close(fds[--count]);
}
END_TEST

// ---- Passing ----

static ssize_t receive(int socket, char *bytes, size_t size, int *fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec data = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);

    *fd = -1;
    if (n > 0 && CMSG_FIRSTHDR(&message))
        memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof *fd);
    return n;
}

START_TEST(the_descriptor_is_passed_once)
{
    char bytes[16];
    int ends[2], fd;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    ck_assert_int_eq(page_send(page, ends[1], "hello", 5), 5);
    ck_assert_int_eq(page->fd, -1);
    ck_assert_int_eq(receive(ends[0], bytes, 2, &fd), 2);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    close(fd);
    ck_assert_int_eq(receive(ends[0], bytes, sizeof bytes, &fd), 3);
    ck_assert_int_eq(fd, -1);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(a_full_socket_takes_neither)
{
    char bytes[65536] = {0};
    int ends[2], fd, passed = -1;
    ssize_t n;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    while (send(ends[1], bytes, sizeof bytes, 0) > 0)
        ;
    ck_assert_int_eq(page_send(page, ends[1], "h", 1), -1);
    ck_assert_int_eq(errno, EAGAIN);
    ck_assert_int_ge(page->fd, 0);
    while ((n = receive(ends[0], bytes, sizeof bytes, &fd)) > 0)
        ck_assert_int_eq(fd, -1);
    ck_assert_int_eq(page_send(page, ends[1], "h", 1), 1);
    ck_assert_int_eq(receive(ends[0], bytes, sizeof bytes, &passed), 1);
    ck_assert_int_ge(passed, 0);
    close(passed);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(a_plain_read_loses_it_harmlessly)
{
    char bytes[16];
    int ends[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    ck_assert_int_eq(page_send(page, ends[1], "hello", 5), 5);
    ck_assert_int_eq(read(ends[0], bytes, sizeof bytes), 5);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

// ---- Slots ----

START_TEST(slots_are_values)
{
    int a = page_take(page, 11), b = page_take(page, 12);

    ck_assert_int_ne(a, b);
    ck_assert_int_eq(page_take(page, 11), a);
    page_set(page, 11, INT64_MAX);
    page_set(page, 12, 5);
    page_set(page, 13, 6); // has none
    ck_assert_int_eq(view[a], INT64_MAX);
    ck_assert_int_eq(view[b], 5);
    page_set(page, 11, 0);
    ck_assert_int_eq(view[a], 0);
    ck_assert_int_eq(page_take(page, 11), a); // still its own
    page_give(page, 12);
    page_give(page, 13);
    for (int i = 0; i < WIRE_PAGE_SLOTS; i++)
        ck_assert_int_eq(view[i], 0);
}
END_TEST

START_TEST(no_slot_is_given_twice)
{
    bool seen[WIRE_PAGE_SLOTS] = {false};

    for (uint64_t name = 1; name <= WIRE_PAGE_SLOTS; name++) {
        int slot = page_take(page, name);
        ck_assert(slot >= 0 && slot < WIRE_PAGE_SLOTS && !seen[slot]);
        seen[slot] = true;
        page_set(page, name, (int64_t)name);
    }
    ck_assert_int_eq(page_take(page, 1000), PAGE_NONE);
    page_set(page, 17, 0); // over, and not given back
    ck_assert_int_eq(page_take(page, 1000), PAGE_NONE);
    page_give(page, 17);
    ck_assert_int_ge(page_take(page, 1000), 0);
    ck_assert_int_eq(page_take(page, 1001), PAGE_NONE);
}
END_TEST

// A slot that was given back is the last to be used again.
START_TEST(the_longest_free_is_used_first)
{
    int slot = page_take(page, 1);

    for (uint64_t name = 2; name <= WIRE_PAGE_SLOTS; name++) {
        page_give(page, name - 1);
        ck_assert_int_ne(page_take(page, name), slot);
    }
    page_give(page, WIRE_PAGE_SLOTS);
    ck_assert_int_eq(page_take(page, 9999), slot);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("page");
    TCase *tcase = tcase_create("page");

    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, a_client_cannot_write);
    tcase_add_test(tcase, nor_through_another_descriptor);
    tcase_add_test(tcase, the_mode_keeps_others_out);
    tcase_add_test(tcase, it_is_sealed_and_whole);
    tcase_add_test(tcase, it_outlives_the_sidecar);
    tcase_add_test(tcase, descriptors_are_out);
    tcase_add_test(tcase, the_descriptor_is_passed_once);
    tcase_add_test(tcase, a_full_socket_takes_neither);
    tcase_add_test(tcase, a_plain_read_loses_it_harmlessly);
    tcase_add_test(tcase, slots_are_values);
    tcase_add_test(tcase, no_slot_is_given_twice);
    tcase_add_test(tcase, the_longest_free_is_used_first);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
