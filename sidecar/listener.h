// SPDX-License-Identifier: Apache-2.0
//
// The socket that clients connect to: its lock file, its place in the file system, accepting.
#pragma once

#include <ev.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "sidecar/peer.h"

enum {
    LISTENER_BACKLOG = 4096,
    LISTENER_ACCEPTS = 64,  // connections taken in one turn of the loop
    LISTENER_PAUSE_MS = 100 // without a descriptor to refuse with
};

struct listener {
    struct ev_io io;
    struct peers *peers;
    char *path;      // owned; NULL when the socket was passed in
    char *lock_path; // owned
    int lock_fd;
    int reserve_fd;       // given up to refuse a client when descriptors are out; -1: spent
    int64_t resume_at_ms; // INT64_MAX: accepting
    dev_t device;         // of the socket that was bound
    ino_t inode;
};

// Binds path (whose directory is made when only that is missing), or takes the socket that the
// service manager passed in. 0, or a sysexits code with the reason in error: EX_TEMPFAIL when
// another instance holds the lock file, EX_CANTCREAT when something that is no socket stands at
// path, EX_NOPERM, EX_OSERR.
int listener_open(struct listener *listener, const char *path, mode_t mode, gid_t group,
                  char *error, size_t error_size);
void listener_start(struct listener *listener, struct peers *peers);
// Removes socket and lock file, if they are still the ones made here.
void listener_close(struct listener *listener, struct ev_loop *loop);

void listener_sweep(struct listener *listener, int64_t now_ms);
int64_t listener_next_wake(const struct listener *listener);
