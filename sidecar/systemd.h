// SPDX-License-Identifier: Apache-2.0
//
// What a service manager gives and wants to know: the socket activation and readiness protocols of
// systemd (sd_listen_fds(3), sd_notify(3)), without its library.
#pragma once

// Sends state ("READY=1", "STOPPING=1", lines of NAME=value) to NOTIFY_SOCKET. 1 when it was sent,
// 0 when nobody asked for it, or a negative errno. Never waits: -EAGAIN when the receiver is full.
int systemd_notify(const char *state);

// The listening socket that was passed in (LISTEN_PID, LISTEN_FDS), made close-on-exec; the caller
// owns it. -ENOENT when none was; -E2BIG when there is more than one; -EINVAL when the variables or
// the descriptor are not what they should be (a listening AF_UNIX stream socket). The variables are
// unset in every case, so that no child takes them for its own.
int systemd_listen_fd(void);
