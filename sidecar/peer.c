// SPDX-License-Identifier: Apache-2.0
//
// A peer is freed only from peers_read, peers_flush and peers_sweep: the keeper's calls into session->output never free one, so a handler may go on writing to a session
// whose socket has just failed.
//
// That a socket is ready is only noted; it is read in peers_read, after all that Redis said in this
// turn. libev calls back the last of the ready descriptors first, so each is put in front of those
// noted before: they are read in the order of the kernel's list, first come, first served.
//
// The socket is read into one buffer that all share. What is left of it after a turn (an unfinished
// line, or requests over the turn's bound) is copied into the peer's frame; an idle peer owns no
// buffer at all. While whole lines are left, the peer stands in the backlog and is not read.

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sidecar/clock.h"
#include "sidecar/dispatch.h"
#include "sidecar/log.h"
#include "sidecar/page.h"
#include "sidecar/peer.h"

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

static struct peer *peer_of(struct session *session)
{
    return container_of(session, struct peer, session);
}

int peer_socket(struct session *session)
{
    return peer_of(session)->io.fd;
}

static struct peer *peer_by_number(const struct peers *peers, uint32_t number)
{
    return peer_of(peers->keeper->sessions[number]);
}

static void want(struct peer *peer, int events)
{
    int now = peer->io.active ? peer->io.events & (EV_READ | EV_WRITE) : 0;

    if (now == events)
        return;
    ev_io_stop(peer->peers->loop, &peer->io);
    ev_io_set(&peer->io, peer->io.fd, events);
    if (events)
        ev_io_start(peer->peers->loop, &peer->io);
}

static int reading(const struct peer *peer)
{
    return peer->session.input_ended ? 0 : EV_READ;
}

// ---- The end of a peer ----

static void unlink_from(struct peer **list, struct peer *peer, size_t link)
{
    while (*list != peer)
        list = (struct peer **)((char *)*list + link);
    *list = *(struct peer **)((char *)peer + link);
}

static void peer_close(struct peer *peer, bool gone, int64_t now_ms)
{
    struct peers *peers = peer->peers;
    uint32_t number = peer->session.number;

    want(peer, 0);
    heap_set(&peers->heap, number, INT64_MAX);
    keeper_close_session(peers->keeper, &peer->session, gone, now_ms);
    if (peer->is_dirty)
        unlink_from(&peers->dirty, peer, offsetof(struct peer, next_dirty));
    if (peer->in_backlog)
        unlink_from(&peers->backlog, peer, offsetof(struct peer, next_backlog));
    if (peer->is_ready)
        unlink_from(&peers->ready, peer, offsetof(struct peer, next_ready));
    close(peer->io.fd);
    frame_deinit(&peer->frame);
    buf_deinit(&peer->session.out);
    peers->count--;
    free(peer);
}

// Closed in both directions, as by the client's death. A client that only shut its reading down may
// be working on, untold.
static bool has_hung_up(const struct peer *peer)
{
    struct pollfd state = {.fd = peer->io.fd, .events = 0};

    return poll(&state, 1, 0) == 1 && state.revents & (POLLHUP | POLLERR);
}

static void cut_off(struct peer *peer, const char *why, int64_t now_ms)
{
    log_warn("client cut off", LOG_FIELD_STR("reason", why),
             LOG_FIELD_INT("pid", peer->session.pid), LOG_FIELD_INT("uid", peer->session.uid),
             LOG_FIELD_INT("unread_bytes", (int64_t)buf_length(&peer->session.out)));
    peer_close(peer, has_hung_up(peer), now_ms);
}

// ---- Writing ----

static void mark_dirty(struct peer *peer)
{
    if (peer->is_dirty)
        return;
    peer->is_dirty = 1;
    peer->next_dirty = peer->peers->dirty;
    peer->peers->dirty = peer;
}

// The page's descriptor goes with the first byte of its reply. What is queued before goes first.
static ssize_t send_some(struct peer *peer)
{
    struct session *session = &peer->session;
    const char *bytes = buf_bytes(&session->out);
    size_t length = buf_length(&session->out);
    bool passing = session->page && session->page->fd >= 0;

    if (passing && session->taken == session->page_at)
        return page_send(session->page, peer->io.fd, bytes, length);
    if (passing && session->page_at - session->taken < length)
        length = (size_t)(session->page_at - session->taken);
    return send(peer->io.fd, bytes, length, MSG_NOSIGNAL);
}

static void write_out(struct peer *peer)
{
    struct buf *out = &peer->session.out;

    peer->queued = 0;
    while (buf_length(out) > 0) {
        ssize_t n = send_some(peer);
        if (n > 0) {
            session_took(&peer->session, (size_t)n);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            peer->is_deaf = 1;
        return;
    }
    buf_trim(out);
}

static void on_output(struct session *session)
{
    struct peer *peer = peer_of(session);

    mark_dirty(peer);
    if (++peer->queued >= PEER_BATCH && !peer->is_deaf && !(peer->io.events & EV_WRITE))
        write_out(peer);
}

static void watch_deadline(struct peer *peer)
{
    int64_t at_ms = peer->line_by_ms;

    if (peer->session.tell_by_ms < at_ms)
        at_ms = peer->session.tell_by_ms;
    if (peer->close_by_ms < at_ms)
        at_ms = peer->close_by_ms;
    heap_set(&peer->peers->heap, peer->session.number, at_ms);
}

// From here on there is nothing to wait for but the client. When a write fails, its death may be about
// to show; a half-closed one is to read what it was answered, and answers come in their own time.
static void begin_closing(struct peer *peer, int64_t now_ms)
{
    int64_t left_ms = INT64_MAX;

    if (peer->is_deaf)
        left_ms = PEER_DEAF_MS;
    else if (peer->session.input_ended && peer->session.unanswered == 0)
        left_ms = PEER_LINGER_MS;
    if (left_ms < peer->close_by_ms - now_ms)
        peer->close_by_ms = now_ms + left_ms;
}

// Writes; then the peer stays, is cut off, or is closed because all is said.
static void settle(struct peer *peer, int64_t now_ms)
{
    struct session *session = &peer->session;
    bool empty;

    if (!peer->is_deaf)
        write_out(peer);
    empty = buf_length(&session->out) == 0;
    if (peer->is_deaf && has_hung_up(peer)) {
        peer_close(peer, true, now_ms);
    } else if (session->out.failed) {
        cut_off(peer, "out of memory", now_ms);
    } else if (buf_length(&session->out) > WIRE_MAX_UNREAD) {
        cut_off(peer, "too much unread output", now_ms);
    } else if (empty && session->input_ended && session->unanswered == 0 && !peer->in_backlog) {
        peer_close(peer, true, now_ms);
    } else {
        begin_closing(peer, now_ms);
        want(peer, reading(peer) | (empty || peer->is_deaf ? 0 : EV_WRITE));
        watch_deadline(peer);
    }
}

void peers_flush(struct peers *peers, int64_t now_ms)
{
    struct peer *peer;

    // Closing one may add lines for others, which are marked then; there are only so many to close.
    while ((peer = peers->dirty)) {
        peers->dirty = peer->next_dirty;
        peer->is_dirty = 0;
        settle(peer, now_ms);
    }
}

// ---- Reading ----

static void into_backlog(struct peer *peer)
{
    if (peer->in_backlog)
        return;
    peer->in_backlog = 1;
    peer->next_backlog = peer->peers->backlog;
    peer->peers->backlog = peer;
}

// A line's age counts from when it was first seen unfinished; `began` says that it is a new one.
static void time_line(struct peer *peer, bool began, int64_t now_ms)
{
    bool unfinished =
        frame_is_partial(&peer->frame) && !peer->frame.skipping && !frame_has_backlog(&peer->frame);

    if (!unfinished)
        peer->line_by_ms = INT64_MAX;
    else if (began || peer->line_by_ms == INT64_MAX)
        peer->line_by_ms = now_ms + WIRE_MAX_LINE_AGE;
    watch_deadline(peer);
}

// Handles up to a turn's worth of lines. The frame holds the rest.
static void handle_lines(struct peer *peer, int64_t now_ms)
{
    struct keeper *keeper = peer->peers->keeper;
    const char *line;
    size_t length;
    int lines = 0;
    int r = 1;

    for (; lines < PEER_REQUESTS && r != 0; lines++) {
        r = frame_next(&peer->frame, &line, &length);
        if (r == 1)
            dispatch_line(keeper, &peer->session, line, length, now_ms);
        else if (r == FRAME_E_TOO_LONG)
            dispatch_too_long(&peer->session);
        else if (r < 0)
            break;
    }
    if (r < 0 || frame_save(&peer->frame) < 0)
        peer->session.out.failed = true;
    if (peer->session.out.failed)
        mark_dirty(peer);
    else if (frame_has_backlog(&peer->frame))
        into_backlog(peer);
    time_line(peer, lines > 1, now_ms);
}

// The client sends no more; it may be gone altogether, or still read.
static void end_of_input(struct peer *peer, int64_t now_ms)
{
    if (has_hung_up(peer)) {
        peer_close(peer, true, now_ms);
        return;
    }
    keeper_end_input(peer->peers->keeper, &peer->session, now_ms);
    peer->line_by_ms = INT64_MAX;
    want(peer, peer->io.events & EV_WRITE);
    mark_dirty(peer);
}

static void peer_read(struct peer *peer, int64_t now_ms)
{
    struct peers *peers = peer->peers;
    ssize_t n = read(peer->io.fd, peers->chunk, sizeof peers->chunk);

    if (n > 0) {
        frame_feed(&peer->frame, peers->chunk, (size_t)n);
        handle_lines(peer, now_ms);
    } else if (n == 0) {
        end_of_input(peer, now_ms);
    } else if (errno != EAGAIN && errno != EINTR) {
        peer_close(peer, true, now_ms);
    }
}

static void read_ready(struct peers *peers)
{
    struct peer *peer;

    while ((peer = peers->ready)) {
        peers->ready = peer->next_ready;
        peer->is_ready = 0;
        peer_read(peer, clock_boottime_ms());
    }
}

static void run_backlog(struct peer *backlog, int64_t now_ms)
{
    while (backlog) {
        struct peer *peer = backlog;
        backlog = peer->next_backlog;
        peer->in_backlog = 0;
        frame_feed(&peer->frame, NULL, 0);
        handle_lines(peer, now_ms);
        mark_dirty(peer);
    }
}

void peers_read(struct peers *peers, int64_t now_ms)
{
    struct peer *backlog = peers->backlog;

    peers->backlog = NULL; // those that have one are not ready, and none of them is closed here
    run_backlog(backlog, now_ms);
    read_ready(peers);
}

static void on_ready(struct ev_loop *loop, struct ev_io *io, int events)
{
    struct peer *peer = (struct peer *)io;

    (void)loop;
    if (events & EV_WRITE)
        mark_dirty(peer);
    if (!(events & EV_READ) || peer->in_backlog || peer->is_ready)
        return;
    peer->is_ready = 1;
    peer->next_ready = peer->peers->ready;
    peer->peers->ready = peer;
}

// ---- Time ----

static void give_line_up(struct peer *peer)
{
    peer->line_by_ms = INT64_MAX;
    frame_give_up(&peer->frame);
    dispatch_too_slow(&peer->session);
    watch_deadline(peer);
}

void peers_sweep(struct peers *peers, int64_t now_ms)
{
    while (heap_earliest(&peers->heap) <= now_ms) {
        struct peer *peer = peer_by_number(peers, heap_first(&peers->heap));
        if (peer->session.tell_by_ms <= now_ms)
            cut_off(peer, "a revoked event was not read in time", now_ms);
        else if (peer->close_by_ms <= now_ms)
            cut_off(peer,
                    peer->is_deaf ? "it shut its reading down"
                                  : "output was not read after the end of input",
                    now_ms);
        else if (peer->line_by_ms <= now_ms)
            give_line_up(peer);
        else
            watch_deadline(peer); // written since it was set
    }
}

int64_t peers_next_wake(const struct peers *peers)
{
    return peers->backlog || peers->dirty ? INT64_MIN : heap_earliest(&peers->heap);
}

// ---- Life ----

void peers_init(struct peers *peers, struct ev_loop *loop, struct keeper *keeper)
{
    peers->loop = loop;
    peers->keeper = keeper;
    peers->dirty = peers->backlog = peers->ready = NULL;
    peers->count = 0;
    heap_init(&peers->heap);
}

void peers_deinit(struct peers *peers, int64_t now_ms)
{
    for (uint32_t i = 1; i < peers->keeper->session_count; i++) {
        if (!peers->keeper->sessions[i])
            continue;
        struct peer *peer = peer_by_number(peers, i);
        write_out(peer);
        // Who adopts its leases elsewhere goes by what its page says until then.
        peer->session.page = page_free(peer->session.page);
        peer_close(peer, false, now_ms);
    }
    assert(peers->count == 0);
    heap_deinit(&peers->heap);
}

int peers_add(struct peers *peers, int fd)
{
    struct ucred who;
    socklen_t size = sizeof who;
    struct peer *peer;
    int r;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
        return -errno;
    peer = calloc(1, sizeof *peer);
    if (!peer)
        return -ENOMEM;
    peer->session.pid = who.pid;
    peer->session.uid = who.uid;
    peer->session.output = on_output;
    r = keeper_open_session(peers->keeper, &peer->session);
    if (r == 0 && heap_reserve(&peers->heap, peer->session.number + 1) < 0) {
        keeper_close_session(peers->keeper, &peer->session, true, clock_boottime_ms());
        r = -ENOMEM;
    }
    if (r != 0) {
        free(peer);
        return r;
    }
    peer->peers = peers;
    peer->close_by_ms = INT64_MAX;
    peer->line_by_ms = INT64_MAX;
    frame_init(&peer->frame, WIRE_MAX_LINE);
    ev_io_init(&peer->io, on_ready, fd, EV_READ);
    ev_io_start(peers->loop, &peer->io);
    peers->count++;
    return 0;
}
