// SPDX-License-Identifier: Apache-2.0
//
// The handle: one step of its work, and when the next is due.
//
// The program sees one descriptor, an epoll that holds the connection's socket and a timer on
// CLOCK_BOOTTIME. So reconnects do not concern its event loop, and what is due comes on time after
// the host was suspended, when poll's timeouts stand still.
//
// A step reads what there is before it looks at the clock: a program that was itself stopped for a
// while finds renewals in the socket that speak for its leases.
//
// due_ms is a lower bound. Whatever sets a time lowers it (client_due); a sweep, which looks at
// everything, computes it anew.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "client/inside.h"

#define DEFAULT_SOCKET "/run/lock-keeper/lock-keeper.sock"

enum { DEFAULT_TIMEOUT_MS = 5000 };

int64_t client_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t lock_keeper_now_ms(void)
{
    return client_now_ms();
}

const char *lock_keeper_version(void)
{
    return LOCK_KEEPER_VERSION;
}

// ---- New and free ----

static int take_path(struct lock_keeper *keeper, const char *path)
{
    if (!path)
        path = getenv("LOCK_KEEPER_SOCKET");
    if (!path || !*path)
        path = DEFAULT_SOCKET;
    if (strlen(path) >= sizeof keeper->path)
        return -ENAMETOOLONG;
    strcpy(keeper->path, path);
    return 0;
}

static int open_descriptors(struct lock_keeper *keeper)
{
    struct epoll_event event = {.events = EPOLLIN};

    keeper->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (keeper->epoll_fd < 0)
        return -errno;
    keeper->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (keeper->timer_fd < 0 ||
        epoll_ctl(keeper->epoll_fd, EPOLL_CTL_ADD, keeper->timer_fd, &event) != 0)
        return -errno;
    return 0;
}

struct lock_keeper *lock_keeper_new(const char *socket)
{
    struct lock_keeper *keeper = calloc(1, sizeof *keeper);
    int r;

    if (!keeper)
        return NULL;
    keeper->epoll_fd = keeper->timer_fd = keeper->link.fd = keeper->link.passed_fd = -1;
    keeper->timeout_ms = DEFAULT_TIMEOUT_MS;
    keeper->reconnects = true;
    keeper->due_ms = keeper->armed_ms = CLIENT_NEVER;
    keeper->error.name = keeper->error_name;
    keeper->error.message = keeper->error_words;
    r = take_path(keeper, socket);
    if (r == 0)
        r = open_descriptors(keeper);
    if (r == 0)
        return keeper;
    lock_keeper_free(keeper);
    errno = -r;
    return NULL;
}

struct lock_keeper *lock_keeper_free(struct lock_keeper *keeper)
{
    if (!keeper)
        return NULL;
    client_link_deinit(keeper);
    client_requests_deinit(keeper);
    client_leases_deinit(keeper);
    client_pages_deinit(keeper);
    if (keeper->timer_fd >= 0)
        close(keeper->timer_fd);
    if (keeper->epoll_fd >= 0)
        close(keeper->epoll_fd);
    free(keeper);
    return NULL;
}

// ---- Settings ----

void lock_keeper_set_timeout(struct lock_keeper *keeper, int64_t timeout_ms)
{
    keeper->timeout_ms = timeout_ms > 0 ? timeout_ms : DEFAULT_TIMEOUT_MS;
}

void lock_keeper_set_margin(struct lock_keeper *keeper, int64_t margin_ms)
{
    keeper->margin_ms = margin_ms > 0 ? margin_ms : 0;
    client_due(keeper, 0);
    client_arm(keeper);
}

void lock_keeper_set_reconnect(struct lock_keeper *keeper, bool reconnect)
{
    keeper->reconnects = reconnect;
    keeper->link.persists &= reconnect;
    if (reconnect && keeper->link.state == CLIENT_LINK_UP)
        keeper->link.persists = true;
}

void lock_keeper_set_handler(struct lock_keeper *keeper, lock_keeper_handler *handler, void *user)
{
    keeper->handler = handler;
    keeper->user = user;
    client_arm(keeper);
}

bool lock_keeper_is_connected(const struct lock_keeper *keeper)
{
    return keeper->link.state == CLIENT_LINK_UP;
}

int lock_keeper_get_socket(const struct lock_keeper *keeper)
{
    return keeper->link.fd;
}

int lock_keeper_get_fd(const struct lock_keeper *keeper)
{
    return keeper->epoll_fd;
}

short lock_keeper_get_events(const struct lock_keeper *keeper)
{
    (void)keeper;
    return POLLIN;
}

// ---- When ----

void client_due(struct lock_keeper *keeper, int64_t due_ms)
{
    if (due_ms < keeper->due_ms)
        keeper->due_ms = due_ms;
}

static int64_t next_ms(const struct lock_keeper *keeper)
{
    int64_t link_ms = client_link_due_ms(keeper);

    if (keeper->handler && !keeper->is_telling && client_has_event(keeper))
        return 0;
    return link_ms < keeper->due_ms ? link_ms : keeper->due_ms;
}

void client_arm(struct lock_keeper *keeper)
{
    int64_t next = next_ms(keeper);
    struct itimerspec when = {0};

    if (next == keeper->armed_ms)
        return;
    if (next <= 0)
        when.it_value.tv_nsec = 1; // at once; 0 would be never
    else if (next != CLIENT_NEVER)
        when.it_value = (struct timespec){.tv_sec = (time_t)(next / 1000),
                                          .tv_nsec = (long)(next % 1000 * 1000000)};
    timerfd_settime(keeper->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    keeper->armed_ms = next;
}

int lock_keeper_get_timeout(const struct lock_keeper *keeper)
{
    int64_t next = next_ms(keeper);
    int64_t left_ms = next - client_now_ms();

    if (next == CLIENT_NEVER)
        return -1;
    return left_ms <= 0 ? 0 : left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
}

// ---- A step ----

static int take_timer(struct lock_keeper *keeper)
{
    uint64_t count;

    if (read(keeper->timer_fd, &count, sizeof count) == (ssize_t)sizeof count) {
        keeper->armed_ms = CLIENT_NEVER; // it has fired: it is not set
        return 0;
    }
    return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static void sweep(struct lock_keeper *keeper)
{
    int64_t now_ms = client_now_ms();

    if (now_ms < keeper->due_ms)
        return;
    keeper->due_ms = CLIENT_NEVER;
    client_leases_sweep(keeper, now_ms);
    client_requests_sweep(keeper, now_ms);
    client_link_flush(keeper);
}

int lock_keeper_process(struct lock_keeper *keeper)
{
    int r = take_timer(keeper);

    client_link_step(keeper);
    sweep(keeper);
    client_tell(keeper);
    client_arm(keeper);
    return r;
}

int lock_keeper_wait(struct lock_keeper *keeper, int64_t timeout_ms)
{
    int64_t until_ms = timeout_ms < 0 ? CLIENT_NEVER : client_now_ms() + timeout_ms;
    uint64_t told = keeper->told;

    if (keeper->is_telling)
        return -EDEADLK;
    for (;;) {
        struct pollfd fd = {.fd = keeper->epoll_fd, .events = POLLIN};
        int r = lock_keeper_process(keeper);
        int64_t left_ms = until_ms == CLIENT_NEVER ? -1 : until_ms - client_now_ms();

        if (r < 0)
            return r;
        if (keeper->told != told || (!keeper->handler && client_has_event(keeper)))
            return 1;
        if (timeout_ms >= 0 && left_ms <= 0)
            return 0;
        if (poll(&fd, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms) < 0 && errno != EINTR)
            return -errno;
    }
}
