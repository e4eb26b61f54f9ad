// SPDX-License-Identifier: Apache-2.0
//
// The lock file comes first: whoever holds its flock owns the path, so what stands there may be
// removed as stale. A live socket is never unlinked, since its owner holds the lock. The lock file is
// unlinked only under its lock, and whoever locks it checks that it is still the one at its path.
//
// When descriptors are out, one held in reserve is given up for as long as it takes to accept a
// client, say why and close. Without even that, accepting pauses, so that the loop does not spin on
// a socket that stays readable.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "protocol/writer.h"
#include "sidecar/clock.h"
#include "sidecar/listener.h"
#include "sidecar/log.h"
#include "sidecar/systemd.h"

// ---- Opening ----

static int fail(int code, char *error, size_t size, const char *path, const char *what)
{
    snprintf(error, size, "%s: %s: %s", path, what, strerror(errno));
    return code;
}

static int os_code(void)
{
    return errno == EACCES || errno == EPERM || errno == EROFS ? EX_NOPERM : EX_OSERR;
}

static int make_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *directory;
    int r;

    if (!slash || slash == path)
        return 0;
    directory = strndup(path, (size_t)(slash - path));
    r = directory && (mkdir(directory, 0755) == 0 || errno == EEXIST) ? 0 : -1;
    free(directory);
    return r;
}

static bool same_file(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

// Holds the lock of the file that is at lock_path now.
static int take_lock(struct listener *listener, char *error, size_t size)
{
    for (;;) {
        int fd = open(listener->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return fail(os_code(), error, size, listener->lock_path, "cannot open the lock file");
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            int code = errno == EWOULDBLOCK ? EX_TEMPFAIL : EX_OSERR;
            fail(code, error, size, listener->lock_path,
                 errno == EWOULDBLOCK
                     ? "another lock-keeper serves this socket and holds the lock file"
                     : "cannot lock");
            close(fd);
            return code;
        }
        if (same_file(fd, listener->lock_path)) {
            listener->lock_fd = fd;
            return 0;
        }
        close(fd); // its owner removed it in between
    }
}

static int remove_stale(const char *path, char *error, size_t size)
{
    struct stat there;

    if (lstat(path, &there) < 0)
        return errno == ENOENT ? 0 : fail(os_code(), error, size, path, "cannot look at it");
    if (!S_ISSOCK(there.st_mode)) {
        snprintf(error, size,
                 "%s: something that is no socket stands there; remove it, or choose "
                 "another --socket",
                 path);
        return EX_CANTCREAT;
    }
    if (unlink(path) < 0)
        return fail(os_code(), error, size, path, "cannot remove the stale socket");
    log_info("stale socket removed", LOG_FIELD_STR("socket", path));
    return 0;
}

static int bind_socket(int fd, const char *path, mode_t mode, gid_t group)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    mode_t mask = umask(0177); // nobody else connects before mode and group are set
    int r;

    memcpy(address.sun_path, path, strlen(path) + 1);
    r = bind(fd, (struct sockaddr *)&address, sizeof address);
    umask(mask);
    if (r == 0 && group != (gid_t)-1)
        r = lchown(path, (uid_t)-1, group);
    if (r == 0)
        r = chmod(path, mode);
    if (r == 0)
        r = listen(fd, LISTENER_BACKLOG);
    return r;
}

static int open_path(struct listener *listener, const char *path, mode_t mode, gid_t group,
                     char *error, size_t size)
{
    struct stat made;
    int fd, code;

    listener->path = strdup(path);
    if (!listener->path || asprintf(&listener->lock_path, "%s.lock", path) < 0)
        return fail(EX_OSERR, error, size, path, "out of memory");
    if (make_directory(path) < 0)
        return fail(os_code(), error, size, path, "cannot make its directory");
    code = take_lock(listener, error, size);
    if (code == 0)
        code = remove_stale(path, error, size);
    if (code != 0)
        return code;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(EX_OSERR, error, size, path, "cannot make a socket");
    listener->io.fd = fd;
    if (bind_socket(fd, path, mode, group) < 0 || lstat(path, &made) < 0)
        return fail(os_code(), error, size, path, "cannot bind the socket");
    listener->device = made.st_dev;
    listener->inode = made.st_ino;
    return 0;
}

static int adopt_passed(struct listener *listener, int fd, char *error, size_t size)
{
    if (fd < 0) {
        snprintf(error, size,
                 "LISTEN_FDS: exactly one listening Unix stream socket must be passed in: %s",
                 strerror(-fd));
        return EX_CONFIG;
    }
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return fail(EX_OSERR, error, size, "LISTEN_FDS", "cannot use the socket");
    listener->io.fd = fd;
    return 0;
}

static int open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void release_all(struct listener *listener)
{
    struct stat there;

    if (listener->path && listener->inode && lstat(listener->path, &there) == 0 &&
        there.st_dev == listener->device && there.st_ino == listener->inode)
        unlink(listener->path);
    if (listener->io.fd >= 0)
        close(listener->io.fd);
    if (listener->lock_fd >= 0) {
        unlink(listener->lock_path);
        close(listener->lock_fd);
    }
    if (listener->reserve_fd >= 0)
        close(listener->reserve_fd);
    free(listener->path);
    free(listener->lock_path);
}

int listener_open(struct listener *listener, const char *path, mode_t mode, gid_t group,
                  char *error, size_t error_size)
{
    int passed = systemd_listen_fd();
    int code;

    *listener = (struct listener){
        .io.fd = -1, .lock_fd = -1, .reserve_fd = open_reserve(), .resume_at_ms = INT64_MAX};
    if (passed == -ENOENT)
        code = open_path(listener, path, mode, group, error, error_size);
    else
        code = adopt_passed(listener, passed, error, error_size);
    if (code != 0)
        release_all(listener);
    return code;
}

// ---- Accepting ----

static void refuse(int fd, const char *why)
{
    struct buf line = BUF_INIT;

    writer_error(&line, WIRE_OP_COUNT, NULL, WIRE_ERROR_LIMIT_EXCEEDED, why);
    writer_end(&line);
    if (!line.failed && send(fd, buf_bytes(&line), buf_length(&line), MSG_NOSIGNAL) < 0)
        log_debug("a refused client was not told");
    buf_deinit(&line);
    close(fd);
}

static void take(struct listener *listener, int fd)
{
    int r = peers_add(listener->peers, fd);

    if (r == 0)
        return;
    log_warn("client refused",
             LOG_FIELD_STR("reason", r < 0 ? strerror(-r) : "too many connections of its uid"));
    refuse(fd, r < 0 ? "the sidecar cannot take another connection now; try again later"
                     : "this uid has the most connections it may (--max-connections-per-uid); "
                       "close some, or share one");
}

static int accept_one(const struct listener *listener)
{
    return accept4(listener->io.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

// Descriptors are out: one client is refused with the reserve's. False: not even that was possible.
static bool refuse_one(struct listener *listener)
{
    int fd;

    if (listener->reserve_fd < 0)
        listener->reserve_fd = open_reserve();
    if (listener->reserve_fd < 0)
        return false;
    close(listener->reserve_fd);
    fd = accept_one(listener);
    if (fd >= 0) {
        log_warn("client refused", LOG_FIELD_STR("reason", "out of descriptors"));
        refuse(fd, "the sidecar is out of descriptors; try again later");
    }
    listener->reserve_fd = open_reserve();
    return fd >= 0;
}

static void pause_accepting(struct listener *listener, struct ev_loop *loop)
{
    ev_io_stop(loop, &listener->io);
    listener->resume_at_ms = clock_boottime_ms() + LISTENER_PAUSE_MS;
}

static void on_connection(struct ev_loop *loop, struct ev_io *io, int events)
{
    struct listener *listener = (struct listener *)io;

    (void)events;
    for (int i = 0; i < LISTENER_ACCEPTS; i++) {
        int fd = accept_one(listener);
        if (fd >= 0) {
            take(listener, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            if (refuse_one(listener))
                continue;
            pause_accepting(listener, loop);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

void listener_start(struct listener *listener, struct peers *peers)
{
    int fd = listener->io.fd;

    listener->peers = peers;
    ev_io_init(&listener->io, on_connection, fd, EV_READ);
    ev_io_start(peers->loop, &listener->io);
}

void listener_close(struct listener *listener, struct ev_loop *loop)
{
    if (listener->peers)
        ev_io_stop(loop, &listener->io);
    release_all(listener);
}

void listener_sweep(struct listener *listener, int64_t now_ms)
{
    if (now_ms < listener->resume_at_ms)
        return;
    listener->resume_at_ms = INT64_MAX;
    ev_io_start(listener->peers->loop, &listener->io);
}

int64_t listener_next_wake(const struct listener *listener)
{
    return listener->resume_at_ms;
}
