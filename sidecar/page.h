// SPDX-License-Identifier: Apache-2.0
//
// The validity page of one connection: memory that its client reads the deadlines of its leases
// from, without a message and without a system call. A slot is 64 bits: valid_until in nanoseconds
// of CLOCK_BOOTTIME, or 0 when there is no lease to act on.
//
// A slot is named by random bits of its lease's token, so it can be found after the lease itself
// has been forgotten. It stays taken, at 0, until page_give.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/wire.h"

enum {
    PAGE_BYTES = WIRE_PAGE_SLOTS * sizeof(int64_t),
    PAGE_NONE = -1, // no slot is free
};

struct page {
    int64_t *slots;                  // owned: the mapping
    int fd;                          // owned: for the client, read-only; -1 once it has been passed
    uint32_t next;                   // where a free slot is looked for first
    uint64_t names[WIRE_PAGE_SLOTS]; // 0: free
};

// 0, or -errno: -EMFILE and -ENFILE when descriptors are out.
int page_new(struct page **page);
// Leaves the slots as they are: a client goes on reading what stood there last. NULL-safe.
struct page *page_free(struct page *page);

// As send(2), with the descriptor: a client that gets any of the bytes gets it. After a success it is
// closed here. Where the kernel allows no more descriptors on their way, the bytes go without it.
ssize_t page_send(struct page *page, int socket, const char *bytes, size_t length);

// The slot of this name, taken before or now; or PAGE_NONE. Its value does not change.
int page_take(struct page *page, uint64_t name);
// Nothing where the name has no slot.
void page_set(struct page *page, uint64_t name, int64_t value_ns);
// 0, and free to be taken for another name: its client knows that the lease is over.
void page_give(struct page *page, uint64_t name);
