// SPDX-License-Identifier: Apache-2.0
//
// The two protocols are a datagram and three variables; they are spoken here by hand, so that the
// sidecar runs the same in images without libsystemd.
//
// Descriptors are passed from 3 on. LISTEN_PID guards against variables that were inherited from a
// parent which was meant: they are ignored then, as if unset. Each call to systemd_notify opens its
// own socket; there are two or three in a life.
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sidecar/systemd.h"

enum { FIRST_FD = 3 };

// Fills address from a path, or "@name" in the abstract namespace. 0 or -EINVAL.
static int make_address(const char *name, struct sockaddr_un *address, socklen_t *size)
{
    size_t length = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || length < 2 || length >= sizeof address->sun_path) {
        return -EINVAL;
    }
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, name, length);
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (name[0] == '@') {
        address->sun_path[0] = '\0'; // its length ends an abstract name
    } else {
        (*size)++;
    }
    return 0;
}

int systemd_notify(const char *state)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address;
    socklen_t size;
    if (!name || !*name) {
        return 0;
    }
    int result = make_address(name, &address, &size);
    if (result < 0) {
        return result;
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    size_t length = strlen(state);
    ssize_t sent = sendto(fd, state, length, MSG_NOSIGNAL, (const struct sockaddr *)&address, size);
    result = sent < 0 ? -errno : 1;
    close(fd);
    return result;
}

// The variable as a number of digits only; -1 when it is missing or none.
static long read_number(const char *name)
{
    const char *text = getenv(name);
    char *end;
    if (!text || *text < '0' || *text > '9') {
        return -1;
    }
    errno = 0;
    long value = strtol(text, &end, 10);
    return errno == 0 && *end == '\0' ? value : -1;
}

static bool has_option(int fd, int option, int want)
{
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 && value == want;
}

static int check_listener(int fd)
{
    bool is_listener = has_option(fd, SO_DOMAIN, AF_UNIX) && has_option(fd, SO_TYPE, SOCK_STREAM) &&
                       has_option(fd, SO_ACCEPTCONN, 1);
    if (!is_listener) {
        return -EINVAL;
    }
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : fd;
}

int systemd_listen_fd(void)
{
    int result;
    const char *pid = getenv("LISTEN_PID");
    const char *count = getenv("LISTEN_FDS");
    long number = read_number("LISTEN_FDS");
    if (!pid || !count) {
        result = -ENOENT;
    } else if (read_number("LISTEN_PID") < 0 || number < 0) {
        result = -EINVAL;
    } else if (read_number("LISTEN_PID") != getpid() || number == 0) {
        result = -ENOENT;
    } else if (number > 1) {
        result = -E2BIG;
    } else {
        result = check_listener(FIRST_FD);
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return result;
}
