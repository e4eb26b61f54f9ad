// SPDX-License-Identifier: Apache-2.0
//
// lockctl watch: the view on a terminal.
//
// Model: one loop over the keyboard, signals and the time of the next look. The terminal is put into
// its other screen without echo, and put back at every end that leaves us a word: q, Ctrl-C, SIGTERM,
// SIGHUP, and while we are stopped by Ctrl-Z. Looks are calls that wait, for at most a second: a
// sidecar that stands still shows as that.

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "client/lockctl.h"
#include "client/lockctl_list.h"
#include "client/watch_view.h"

enum {
    ANSWER_MS = 1000,
};

static const char enter_screen[] = "\033[?1049h\033[?25l\033[2J";
static const char leave_screen[] = "\033[?25h\033[?1049l";

struct watch {
    const struct lockctl_arguments *arguments;
    struct lock_keeper *keeper;
    struct watch_view view;
    struct termios before;
    int signals;
    bool over;
};

static void write_all(const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, length);

        if (written < 0 && errno != EINTR)
            return;
        if (written > 0) {
            bytes += written;
            length -= (size_t)written;
        }
    }
}

static void take_terminal(struct watch *watch)
{
    struct termios mode;

    tcgetattr(STDIN_FILENO, &watch->before);
    mode = watch->before;
    mode.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    mode.c_cc[VMIN] = 1;
    mode.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &mode);
    write_all(enter_screen, sizeof enter_screen - 1);
}

static void leave_terminal(const struct watch *watch)
{
    write_all(leave_screen, sizeof leave_screen - 1);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &watch->before);
}

static void take_row(const struct lock_keeper_row *row, void *user)
{
    watch_view_add(user, row);
}

static void look(struct watch *watch)
{
    int result = lock_keeper_ping(watch->keeper);
    bool redis_up = result == 0 && lock_keeper_get_reply(watch->keeper)->redis_up;

    if (result == 0)
        result = lockctl_list_all(watch->keeper, take_row, &watch->view);
    if (result == 0)
        watch_view_commit(&watch->view, redis_up, time(NULL));
    else
        watch_view_drop(&watch->view, result == -ETIMEDOUT ? "the sidecar does not answer"
                                                           : "there is no sidecar");
}

static void draw(const struct watch *watch)
{
    struct winsize size = {0};
    struct buf frame = BUF_INIT;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
        size = (struct winsize){.ws_col = 80, .ws_row = 24};
    watch_view_render(&watch->view, size.ws_col, size.ws_row, time(NULL), &frame);
    if (!frame.failed)
        write_all(buf_bytes(&frame), buf_length(&frame));
    buf_deinit(&frame);
}

// Ctrl-Z: stands still in raise, the terminal as it was before us.
static void stop(struct watch *watch)
{
    sigset_t this;

    sigemptyset(&this);
    sigaddset(&this, SIGTSTP);
    leave_terminal(watch);
    raise(SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &this, NULL);
    sigprocmask(SIG_BLOCK, &this, NULL);
    take_terminal(watch);
}

static void on_signal(struct watch *watch)
{
    struct signalfd_siginfo signal;

    if (read(watch->signals, &signal, sizeof signal) != (ssize_t)sizeof signal)
        return;
    if (signal.ssi_signo == SIGTSTP)
        stop(watch);
    else if (signal.ssi_signo != SIGWINCH) // which only asks for a new frame
        watch->over = true;
}

static void on_key(struct watch *watch)
{
    char key = 'q';
    ssize_t length = read(STDIN_FILENO, &key, 1);

    if (length == 0 || (length < 0 && errno != EINTR) || key == 'q')
        watch->over = true;
}

// Until it is time to look again, or there is something else to show.
static void wait_until(struct watch *watch, int64_t next_look)
{
    struct pollfd polled[] = {
        {.fd = STDIN_FILENO, .events = POLLIN},
        {.fd = watch->signals, .events = POLLIN},
    };
    int64_t left = next_look - lock_keeper_now_ms();

    if (left <= 0 || poll(polled, 2, (int)left) <= 0)
        return;
    if (polled[1].revents)
        on_signal(watch);
    if (polled[0].revents)
        on_key(watch);
}

static void show(struct watch *watch)
{
    int64_t next_look = 0;

    while (!watch->over) {
        int64_t now = lock_keeper_now_ms();

        if (now >= next_look) {
            look(watch);
            next_look = now + watch->arguments->interval;
        }
        draw(watch);
        wait_until(watch, next_look);
    }
}

static int take_signals(void)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};

    return lockctl_take_signals(signals, sizeof signals / sizeof signals[0]);
}

// The first connection has to succeed; later a sidecar may come and go.
static int watch_sidecar(struct watch *watch)
{
    int code;

    lock_keeper_set_timeout(watch->keeper, ANSWER_MS);
    code = lockctl_refused(watch->arguments, watch->keeper, lock_keeper_connect(watch->keeper));
    if (code != LOCKCTL_DONE)
        return code;
    watch->signals = take_signals();
    if (watch->signals < 0)
        return LOCKCTL_SOFTWARE;
    watch_view_init(&watch->view, lockctl_socket(watch->arguments));
    take_terminal(watch);
    show(watch);
    leave_terminal(watch);
    watch_view_deinit(&watch->view);
    close(watch->signals);
    return LOCKCTL_DONE;
}

int lockctl_watch(const struct lockctl_arguments *arguments)
{
    struct watch watch = {.arguments = arguments};
    int code;

    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        lockctl_say("watch is for a terminal; programs use lockctl list --json");
        return LOCKCTL_USAGE;
    }
    watch.keeper = lockctl_open(arguments);
    if (!watch.keeper)
        return LOCKCTL_SOFTWARE;
    code = watch_sidecar(&watch);
    lock_keeper_free(watch.keeper);
    return code;
}
