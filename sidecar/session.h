// SPDX-License-Identifier: Apache-2.0
//
// One client as the keeper sees it: who it is, the lines that wait for it, the leases it is told
// about. A peer (a socket) embeds one; tests and the simulator make them without a socket.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/buf.h"

struct session {
    struct buf out; // lines to be written; taken from the front by the session's owner
    uint64_t taken; // bytes taken from `out` so far
    // A revoked event that is not taken by tell_by_ms (INT64_MAX: there is none) cuts the client off;
    // it ends at tell_offset, counted as `taken` is.
    int64_t tell_by_ms;
    uint64_t tell_offset;
    uint32_t number;       // in the keeper; 0 while not open
    uint32_t leases;       // the keeper's list of slots
    uint32_t waiters;      // and that of acquires which wait, for they are looked for by their id
    uint32_t unanswered;   // requests whose reply is still to come
    struct page *page;     // owned by the keeper; NULL: the client has not asked for one
    uint64_t page_at;      // the byte that its descriptor goes with, counted as `taken` is
    struct unread *unread; // owned by the keeper; grants in `out` of leases that outlive it
    pid_t pid;             // by SO_PEERCRED
    uid_t uid;
    uint16_t account;
    bool input_ended;                        // half-closed: what is granted now ends at once
    void (*output)(struct session *session); // lines were added to `out`
};

// The owner took size bytes from the front of `out` and wrote them.
static inline void session_took(struct session *session, size_t size)
{
    buf_consume(&session->out, size);
    session->taken += size;
    if (session->taken >= session->tell_offset)
        session->tell_by_ms = INT64_MAX;
}
