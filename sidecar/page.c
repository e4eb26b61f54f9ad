// SPDX-License-Identifier: Apache-2.0
//
// A memfd, mapped writable here and read-only by the client.
//
// Nobody else can write it. The mapping here is made first; F_SEAL_FUTURE_WRITE then refuses every
// further one that could write, and every write(2), through whatever descriptor, also one that is
// opened anew through /proc. SHRINK and GROW keep the client from SIGBUS, SEAL keeps the seals. The
// client's descriptor is read-only besides, and the mode lets nobody open another for writing.
// Only the mapping is kept: after the descriptor was passed a page costs none.
//
// The memory is allocated when the page is made, so that writing a slot cannot fail.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sidecar/page.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

_Static_assert(__atomic_always_lock_free(sizeof(int64_t), NULL), "a slot is written at once");

// Kernels since 6.3 may refuse a memfd that could be executed; those before know no such flag.
static int make_memory(void)
{
    static const char name[] = "lock-keeper-page";
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd;
}

static int map_and_seal(struct page *page, int fd)
{
    static const int seals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    void *memory;

    if (fallocate(fd, 0, 0, PAGE_BYTES) < 0)
        return -errno;
    memory = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    page->slots = memory;
    return fcntl(fd, F_ADD_SEALS, seals) < 0 || fchmod(fd, 0400) < 0 ? -errno : 0;
}

static int open_for_reading(int fd)
{
    char path[32];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static int make(struct page *page)
{
    int fd = make_memory();
    int r;

    if (fd < 0)
        return -errno;
    r = map_and_seal(page, fd);
    if (r == 0) {
        page->fd = open_for_reading(fd);
        r = page->fd < 0 ? -errno : 0;
    }
    close(fd);
    return r;
}

int page_new(struct page **page)
{
    int r;

    *page = calloc(1, sizeof **page);
    if (!*page)
        return -ENOMEM;
    (*page)->fd = -1;
    r = make(*page);
    if (r < 0)
        *page = page_free(*page);
    return r;
}

struct page *page_free(struct page *page)
{
    if (!page)
        return NULL;
    if (page->fd >= 0)
        close(page->fd);
    if (page->slots)
        munmap(page->slots, PAGE_BYTES);
    free(page);
    return NULL;
}

// ---- Passing ----

static ssize_t send_with(int fd, int socket, const char *bytes, size_t length)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {.bytes = {0}};
    struct iovec data = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

ssize_t page_send(struct page *page, int socket, const char *bytes, size_t length)
{
    ssize_t n = send_with(page->fd, socket, bytes, length);

    if (n < 0 && errno == ETOOMANYREFS)
        n = send(socket, bytes, length, MSG_NOSIGNAL);
    if (n > 0) {
        close(page->fd);
        page->fd = -1;
    }
    return n;
}

// ---- Slots ----

static int find(const struct page *page, uint64_t name)
{
    for (int i = 0; i < WIRE_PAGE_SLOTS; i++)
        if (page->names[i] == name)
            return i;
    return PAGE_NONE;
}

static void store(struct page *page, int slot, int64_t value_ns)
{
    __atomic_store_n(&page->slots[slot], value_ns, __ATOMIC_SEQ_CST);
}

int page_take(struct page *page, uint64_t name)
{
    int slot = find(page, name);

    for (int i = 0; slot == PAGE_NONE && i < WIRE_PAGE_SLOTS; i++) {
        uint32_t at = page->next++ % WIRE_PAGE_SLOTS;
        if (page->names[at] == 0)
            slot = (int)at;
    }
    if (slot != PAGE_NONE)
        page->names[slot] = name;
    return slot;
}

void page_set(struct page *page, uint64_t name, int64_t value_ns)
{
    int slot = find(page, name);

    if (slot != PAGE_NONE)
        store(page, slot, value_ns);
}

void page_give(struct page *page, uint64_t name)
{
    int slot = find(page, name);

    if (slot == PAGE_NONE)
        return;
    store(page, slot, 0);
    page->names[slot] = 0;
}
