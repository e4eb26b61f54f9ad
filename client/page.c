// SPDX-License-Identifier: Apache-2.0
//
// The validity page of a connection: memory in which the sidecar keeps the valid_until of leases.
//
// Getting it. The descriptor comes with the first byte of the reply to hello, so until the greeting
// everything is read here. One descriptor, of a memory that nobody can shrink or write, is mapped;
// anything else is closed, and the connection goes by messages. So it does where the sidecar runs in
// another time namespace: the slots are of its clock.
//
// Which slot. A lease has one slot at a time: that of the grant, then that of the newest adoption; in
// between, with no connection, the old page is right, as the sidecar left it. A lease that is over, or
// that was granted without a slot, has none.
//
// Mappings. Any thread may stand between loading a slot's address and its value, for as long as it
// likes. So an address stays readable while the handle has a lease. A page without users is not
// unmapped then, but the next one is mapped over it: as many mappings as were in use at a time,
// however often the sidecar comes and goes. Who was held up there may read a slot of another lease;
// `moves`, counted before the page loses its user, tells, and it reads again.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/inside.h"

enum {
    PAGE_BYTES = WIRE_PAGE_SLOTS * sizeof(uint64_t),
    PASSED_ROOM = 4, // more than one, to see that there were more
    SEALS = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW,
};

_Static_assert(__atomic_always_lock_free(sizeof(uint64_t), NULL), "a slot is read at once");

// ---- The descriptor ----

static void take_descriptor(struct client_link *link, int fd)
{
    if (link->passed++ == 0)
        link->passed_fd = fd;
    else
        close(fd);
}

static void take_descriptors(struct client_link *link, struct cmsghdr *header)
{
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
        return;
    for (size_t i = 0; i < count; i++) {
        int fd;

        memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        take_descriptor(link, fd);
    }
}

ssize_t client_page_receive(struct client_link *link, char *bytes, size_t size)
{
    union {
        char bytes[CMSG_SPACE(PASSED_ROOM * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec data = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    ssize_t n = recvmsg(link->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0)
        return n;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at))
        take_descriptors(link, at);
    if (message.msg_flags & MSG_CTRUNC) // some were lost
        link->passed += 2;
    return n;
}

static void forget_passed(struct client_link *link)
{
    if (link->passed_fd >= 0)
        close(link->passed_fd);
    link->passed_fd = -1;
    link->passed = 0;
}

static bool is_page(int fd)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & SEALS) == SEALS && fstat(fd, &status) == 0 &&
           status.st_size == PAGE_BYTES;
}

// ---- Mappings ----

static struct client_page *find_unused(const struct lock_keeper *keeper)
{
    struct client_page *page = keeper->pages;

    while (page && page->users > 0)
        page = page->next;
    return page;
}

static struct client_page *new_page(struct lock_keeper *keeper)
{
    struct client_page *page = calloc(1, sizeof *page);

    if (!page)
        return NULL;
    page->next = keeper->pages;
    keeper->pages = page;
    return page;
}

static struct client_page *map(struct lock_keeper *keeper, int fd)
{
    struct client_page *page = find_unused(keeper);
    void *place, *memory;

    if (!page)
        page = new_page(keeper);
    if (!page)
        return NULL;
    place = (void *)(uintptr_t)page->slots;
    memory = mmap(place, PAGE_BYTES, PROT_READ, MAP_SHARED | (place ? MAP_FIXED : 0), fd, 0);
    if (memory == MAP_FAILED)
        return NULL;
    page->slots = memory;
    page->users = 1; // the connection
    return page;
}

static void unmap(struct client_page **at)
{
    struct client_page *page = *at;

    *at = page->next;
    if (page->slots)
        munmap((void *)(uintptr_t)page->slots, PAGE_BYTES);
    free(page);
}

void client_pages_trim(struct lock_keeper *keeper)
{
    struct client_page **at = &keeper->pages;

    if (keeper->leases)
        return;
    while (*at) {
        if ((*at)->users == 0)
            unmap(at);
        else
            at = &(*at)->next;
    }
}

void client_pages_deinit(struct lock_keeper *keeper)
{
    forget_passed(&keeper->link);
    while (keeper->pages)
        unmap(&keeper->pages);
}

// ---- The connection ----

void client_page_greeted(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;

    if (link->passed == 1 && link->asks_page && link->offset_ms == 0 && is_page(link->passed_fd))
        link->page = map(keeper, link->passed_fd);
    forget_passed(link);
}

void client_page_disconnected(struct lock_keeper *keeper)
{
    struct client_link *link = &keeper->link;

    forget_passed(link);
    if (link->page)
        link->page->users--;
    link->page = NULL;
    client_pages_trim(keeper);
}

// ---- The slot of a lease ----

static void move(struct lock_keeper_lease *lease, struct client_page *page, const uint64_t *slot)
{
    struct client_page *before = lease->page;

    if (page)
        page->users++;
    lease->page = page;
    atomic_store(&lease->slot, slot);
    atomic_fetch_add(&lease->moves, 1);
    if (before)
        before->users--;
}

void client_page_enter(struct lock_keeper_lease *lease, int64_t slot)
{
    struct client_page *page = lease->keeper->link.page;

    if (page && slot >= 0 && slot < WIRE_PAGE_SLOTS)
        move(lease, page, page->slots + slot);
    else
        client_page_leave(lease);
}

void client_page_leave(struct lock_keeper_lease *lease)
{
    if (lease->page)
        move(lease, NULL, NULL);
}

bool client_page_until(const struct lock_keeper_lease *lease, uint64_t *until_ns)
{
    const uint64_t *slot;
    unsigned moves;

    do {
        moves = atomic_load_explicit(&lease->moves, memory_order_acquire);
        slot = atomic_load_explicit(&lease->slot, memory_order_acquire);
        *until_ns = slot ? __atomic_load_n(slot, __ATOMIC_ACQUIRE) : 0;
    } while (moves != atomic_load_explicit(&lease->moves, memory_order_acquire));
    return slot != NULL;
}
