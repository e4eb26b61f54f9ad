// SPDX-License-Identifier: Apache-2.0
//
// Peers on real sockets, with a keeper on a fake store behind them. The test is the loop: `turn`
// runs what the sidecar runs in one turn, so nothing has to be waited for; later instants are given
// to the sweeps by hand.

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "sidecar/page.h"
#include "sidecar/peer.h"
#include "tests/tool/fake_store.h"
#include "tests/tool/scratch.h"

enum { T = 30000, C = T / 12 };

static struct ev_loop *loop;
static struct fake_store fake;
static struct keeper keeper;
static struct peers peers;
static int descriptors;
static char text[1 << 22];

// ---- A sidecar's turn ----

static void fill_random(void *context, void *bytes, size_t size)
{
    (void)context;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)random();
}

static int64_t now(void)
{
    return scratch_boottime_ms();
}

static int64_t read_clock(void *context)
{
    (void)context;
    return now();
}

static void begin(void)
{
    const struct keeper_options options = {
        .lock_ttl_ms = T,
        .max_lock_ttl_ms = 300000,
        .workflow_deadline_ms = 300000,
        .max_workflow_deadline_ms = 3600000,
        .caps = {5, 10000, 1},
        .host = "pod-7",
        .random = fill_random,
        .clock = read_clock,
    };

    descriptors = scratch_descriptors(0);
    loop = ev_loop_new(EVFLAG_AUTO);
    fake_store_init(&fake);
    ck_assert_int_eq(keeper_init(&keeper, &options, &fake.store), 0);
    fake_store_set_up(&fake, now());
    peers_init(&peers, loop, &keeper);
}

static void end(void)
{
    peers_deinit(&peers, now());
    ck_assert_uint_eq(peers.count, 0);
    keeper_deinit(&keeper);
    fake_store_deinit(&fake);
    ev_loop_destroy(loop);
    ck_assert_int_eq(scratch_descriptors(0), descriptors);
}

static void turn(void)
{
    ev_run(loop, EVRUN_NOWAIT);
    peers_read(&peers, now());
    peers_flush(&peers, now());
}

static void turns(void)
{
    do
        turn();
    while (peers_next_wake(&peers) == INT64_MIN);
}

// ---- Clients: the other ends of socket pairs ----

static int attach(void)
{
    int ends[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ck_assert_int_eq(peers_add(&peers, ends[1]), 0);
    return ends[0];
}

static void put(int fd, const char *bytes)
{
    ck_assert_int_eq(send(fd, bytes, strlen(bytes), MSG_NOSIGNAL), (ssize_t)strlen(bytes));
}

// All there is, NUL-terminated in `text`; true when the end was read too.
static bool get(int fd)
{
    size_t length = 0;
    ssize_t size;

    while ((size = recv(fd, text + length, sizeof text - 1 - length, 0)) > 0)
        length += (size_t)size;
    text[length] = '\0';
    return size == 0;
}

static size_t lines(void)
{
    size_t count = 0;

    for (const char *at = text; (at = strchr(at, '\n')); at++)
        count++;
    return count;
}

#define EXPECT(fd, part)                                                                           \
    do {                                                                                           \
        get(fd);                                                                                   \
        ck_assert_msg(strstr(text, (part)) != NULL, "no %s in %s", (part), text);                  \
    } while (0)

static void complete(enum store_op op, enum store_outcome outcome)
{
    fake_store_complete(&fake, fake_store_expect(&fake, op), outcome, now());
}

static void acquire(int fd)
{
    put(fd, "{\"op\":\"acquire\",\"key\":\"k\"}\n");
    turn();
    complete(STORE_ACQUIRE, STORE_OK);
    turn();
    EXPECT(fd, "{\"ok\":true,\"op\":\"acquire\",\"key\":\"k\"");
}

// ---- Lines ----

START_TEST(lines_in_pieces)
{
    static const char bytes[] =
        "\r\n\n{\"op\":\"ping\",\"id\":1}\r\n{\"op\":\"ping\",\"id\":2}\n{\"";
    int fd = attach();

    for (size_t i = 0; i + 1 < sizeof bytes; i++) {
        ck_assert_int_eq(send(fd, bytes + i, 1, 0), 1);
        turn();
    }
    get(fd);
    ck_assert_str_eq(text, "{\"ok\":true,\"id\":1,\"op\":\"ping\",\"redis\":\"up\"}\n"
                           "{\"ok\":true,\"id\":2,\"op\":\"ping\",\"redis\":\"up\"}\n");
    put(fd, "op\":\"ping\"}\n");
    turn();
    get(fd);
    ck_assert_str_eq(text, "{\"ok\":true,\"op\":\"ping\",\"redis\":\"up\"}\n");
    close(fd);
    turn();
    ck_assert_uint_eq(peers.count, 0);
}
END_TEST

// Who asked first is handled first, on whichever connection, also within one turn.
START_TEST(clients_are_read_in_the_order_in_which_they_sent)
{
    static const int order[] = {3, 0, 4, 1, 2};
    char line[64];
    int fds[5];

    for (int i = 0; i < 5; i++)
        fds[i] = attach();
    turn();
    for (int i = 0; i < 5; i++) {
        snprintf(line, sizeof line, "{\"op\":\"acquire\",\"key\":\"%d\"}\n", order[i]);
        put(fds[order[i]], line);
    }
    turn();
    for (int i = 0; i < 5; i++) {
        struct fake_call *call = fake_store_expect(&fake, STORE_ACQUIRE);
        snprintf(line, sizeof line, "%d", order[i]);
        ck_assert_str_eq(call->key, line);
        fake_store_complete(&fake, call, STORE_HELD, now());
    }
    for (int i = 0; i < 5; i++)
        close(fds[i]);
    turn();
}
END_TEST

// 64 in a turn, for each client; all in order, and nothing more is read meanwhile.
START_TEST(a_turn_is_bounded)
{
    enum { PINGS = 1000 };
    int fd = attach(), other = attach();
    char *at = text;
    int turns_taken = 0;

    for (int i = 0; i < PINGS; i++)
        at += sprintf(at, "{\"op\":\"ping\",\"id\":%d}\n", i);
    put(fd, text);
    put(other, "{\"op\":\"ping\"}\n");
    for (size_t seen = 0; seen < PINGS; turns_taken++) {
        size_t before = seen;
        turn();
        get(fd);
        for (at = text; (at = strstr(at, "\"id\":")); at++)
            ck_assert_int_eq(atoi(at + 5), (int)seen++);
        ck_assert_uint_le(seen - before, 2 * PEER_REQUESTS); // a read and the rest of one before
        ck_assert(seen == PINGS || peers_next_wake(&peers) == INT64_MIN);
        if (turns_taken == 0)
            EXPECT(other, "{\"ok\":true,\"op\":\"ping\"");
    }
    ck_assert_int_ge(turns_taken, PINGS / PEER_REQUESTS / 2);
    ck_assert_int_gt(peers_next_wake(&peers), now());
    close(fd);
    close(other);
    turn();
    ck_assert_uint_eq(peers.count, 0);
}
END_TEST

// The client closes while requests of its still wait for their turn: they are handled, and freed.
START_TEST(gone_in_the_middle_of_many)
{
    int fd = attach();
    char *at = text;

    for (int i = 0; i < 300; i++)
        at += sprintf(at, "{\"op\":\"acquire\",\"key\":\"k%d\"}\n", i);
    put(fd, text);
    turn();
    close(fd);
    turns();
    turns();
    ck_assert_uint_eq(peers.count, 0);
    for (int i = 0; i < 300; i++)
        complete(STORE_ACQUIRE, STORE_OK);
    for (int i = 0; i < 300; i++)
        complete(STORE_RELEASE, STORE_OK);
    ck_assert_uint_eq(keeper.table.live, 0);
}
END_TEST

START_TEST(an_over_long_line)
{
    int fd = attach();

    memset(text, ' ', 3 * WIRE_MAX_LINE);
    memcpy(text + 3 * WIRE_MAX_LINE, "\n{\"op\":\"ping\"}\n", 16);
    put(fd, text);
    turns();
    get(fd);
    ck_assert_uint_eq(lines(), 2);
    ck_assert_ptr_nonnull(strstr(text, "{\"ok\":false,\"error\":\"errLineTooLong\""));
    ck_assert_ptr_nonnull(strstr(text, "\n{\"ok\":true,\"op\":\"ping\""));
    close(fd);
    turn();
}
END_TEST

START_TEST(a_line_that_is_never_finished)
{
    int fd = attach();
    int64_t start_ms = now();

    put(fd, "{\"op\":");
    turn();
    ck_assert_int_ge(peers_next_wake(&peers), start_ms + WIRE_MAX_LINE_AGE);
    peers_sweep(&peers, start_ms + WIRE_MAX_LINE_AGE - 1);
    put(fd, "\"pi");
    turn();
    get(fd);
    ck_assert_str_eq(text, "");
    peers_sweep(&peers, now() + WIRE_MAX_LINE_AGE);
    peers_flush(&peers, now());
    EXPECT(fd, "{\"ok\":false,\"error\":\"errLimitExceeded\"");
    put(fd, "ng\"}\n{\"op\":\"ping\"}\n");
    turn();
    get(fd);
    ck_assert_str_eq(text, "{\"ok\":true,\"op\":\"ping\",\"redis\":\"up\"}\n");
    ck_assert_int_eq(peers_next_wake(&peers), INT64_MAX);
    close(fd);
    turn();
}
END_TEST

START_TEST(connections_are_capped)
{
    int fds[5], ends[2];

    for (int i = 0; i < 5; i++)
        fds[i] = attach();
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    ck_assert_int_eq(peers_add(&peers, ends[1]), KEEPER_E_FULL);
    ck_assert_uint_eq(peers.count, 5);
    close(fds[2]);
    turn();
    ck_assert_int_eq(peers_add(&peers, ends[1]), 0);
    close(ends[0]);
    for (int i = 0; i < 5; i++)
        if (i != 2)
            close(fds[i]);
    turn();
    ck_assert_uint_eq(peers.count, 0);
}
END_TEST

// ---- Ends ----

// A key that stays until valid_until.
static void expect_key_stays(void)
{
    fake_store_expect_none(&fake);
    ck_assert_uint_eq(keeper.table.live, 1);
    keeper_sweep(&keeper, now() + T);
    complete(STORE_RELEASE, STORE_NOT_OWNER);
    ck_assert_uint_eq(keeper.table.live, 0);
}

START_TEST(a_client_that_is_gone)
{
    int fd = attach();

    acquire(fd);
    if (_i == 1) { // with something unread in its socket: ECONNRESET instead of the end
        put(fd, "{\"op\":\"ping\"}\n");
        turn();
    } else if (_i == 2) { // with something unread in ours
        put(fd, "{\"op\":\"ping\"}\n{\"op\"");
    }
    close(fd);
    turns();
    turns();
    complete(STORE_RELEASE, STORE_OK);
    ck_assert_uint_eq(peers.count, 0);
    ck_assert_uint_eq(keeper.table.live, 0);
}
END_TEST

START_TEST(a_half_closed_client_with_a_lease)
{
    int fd = attach();

    acquire(fd);
    put(fd, "{\"op\":\"ping\"}\n{\"op\"");
    shutdown(fd, SHUT_WR);
    turns();
    turns();
    complete(STORE_RELEASE, STORE_OK);
    ck_assert(get(fd));
    ck_assert_uint_eq(lines(), 2);
    ck_assert_ptr_nonnull(strstr(text, "{\"ok\":true,\"op\":\"ping\""));
    ck_assert_ptr_nonnull(strstr(text, "\"reason\":\"eof\""));
    ck_assert_uint_eq(peers.count, 0);
    close(fd);
}
END_TEST

// What was asked is answered, however long that takes; then the socket closes.
START_TEST(a_half_closed_client_that_waits)
{
    int fd = attach();

    put(fd, "{\"op\":\"acquire\",\"key\":\"k\"}\n");
    shutdown(fd, SHUT_WR);
    turns();
    turns();
    ck_assert(!get(fd));
    ck_assert_str_eq(text, "");
    peers_sweep(&peers, now() + PEER_LINGER_MS + C);
    ck_assert_uint_eq(peers.count, 1);
    complete(STORE_ACQUIRE, STORE_UNSENT);
    turn();
    ck_assert(get(fd));
    ck_assert_ptr_nonnull(strstr(text, "\"errRedisUnavailable\""));
    ck_assert_uint_eq(peers.count, 0);
    close(fd);
}
END_TEST

// Fills the socket until the peer has output that it cannot write.
static void stuff(int fd)
{
    for (int i = 0; i < 100000; i++) {
        put(fd, "{\"op\":\"hello\"}\n{\"op\":\"hello\"}\n{\"op\":\"hello\"}\n");
        turn();
        if (buf_length(&keeper.sessions[1]->out) > 0)
            return;
    }
    ck_abort_msg("the socket takes everything");
}

START_TEST(a_half_closed_client_that_does_not_read)
{
    int fd = attach();
    int64_t end_ms;

    stuff(fd);
    shutdown(fd, SHUT_WR);
    turns();
    turns();
    end_ms = now();
    peers_sweep(&peers, end_ms);
    ck_assert_uint_eq(peers.count, 1);
    ck_assert_int_le(peers_next_wake(&peers), end_ms + PEER_LINGER_MS);
    peers_sweep(&peers, end_ms + PEER_LINGER_MS);
    ck_assert_uint_eq(peers.count, 0);
    close(fd);
}
END_TEST

START_TEST(a_half_closed_client_that_reads_late)
{
    int fd = attach();

    stuff(fd);
    shutdown(fd, SHUT_WR);
    turns();
    turns();
    ck_assert_uint_eq(peers.count, 1);
    ck_assert(!get(fd));
    turns();
    ck_assert(get(fd));
    ck_assert_uint_eq(peers.count, 0);
    close(fd);
}
END_TEST

START_TEST(too_much_unread)
{
    int fd = attach();

    acquire(fd);
    for (int i = 0; i < 100000 && peers.count > 0; i++) {
        ssize_t size = send(fd, "{\"op\":\"hello\"}\n{\"op\":\"hello\"}\n", 30, MSG_NOSIGNAL);
        ck_assert(size == 30 || peers.count == 0);
        turn();
    }
    ck_assert_uint_eq(peers.count, 0);
    ck_assert(get(fd)); // what the socket had taken, whole or cut, and the end
    ck_assert_uint_gt(strlen(text), 1000);
    expect_key_stays();
    close(fd);
}
END_TEST

START_TEST(a_revoked_event_that_is_not_read)
{
    int fd = attach();
    int64_t revoked_ms;

    put(fd, "{\"op\":\"acquire\",\"key\":\"k\",\"deadline_ms\":1}\n");
    turn();
    complete(STORE_ACQUIRE, STORE_OK);
    stuff(fd);
    revoked_ms = now() + 1;
    keeper_sweep(&keeper, revoked_ms);
    peers_flush(&peers, revoked_ms);
    ck_assert_int_eq(peers_next_wake(&peers), revoked_ms + C);
    if (_i == 0) {
        peers_sweep(&peers, revoked_ms + C - 1);
        ck_assert_uint_eq(peers.count, 1);
        peers_sweep(&peers, revoked_ms + C);
        ck_assert_uint_eq(peers.count, 0);
        expect_key_stays();
    } else if (_i == 1) { // read in time
        get(fd);
        turns();
        EXPECT(fd, "\"reason\":\"deadline\"");
        ck_assert_int_eq(peers_next_wake(&peers), INT64_MAX);
        peers_sweep(&peers, revoked_ms + C);
        ck_assert_uint_eq(peers.count, 1);
        close(fd);
        turn();
        complete(STORE_RELEASE, STORE_OK);
        return;
    } else { // it died meanwhile, and nobody has looked yet: that is its own end
        close(fd);
        peers_sweep(&peers, revoked_ms + C);
        ck_assert_uint_eq(peers.count, 0);
        complete(STORE_RELEASE, STORE_OK);
        return;
    }
    close(fd);
}
END_TEST

// It shut its reading down and lives on: it cannot be told, and its key is not given away.
START_TEST(a_client_that_reads_no_more)
{
    int fd = attach();

    acquire(fd);
    shutdown(fd, SHUT_RD);
    put(fd, "{\"op\":\"ping\"}\n");
    turn();
    turn();
    if (_i == 0) {
        peers_sweep(&peers, now() + PEER_DEAF_MS);
        ck_assert_uint_eq(peers.count, 0);
        expect_key_stays();
        close(fd);
    } else { // and then its death shows
        ck_assert_uint_eq(peers.count, 1);
        close(fd);
        turn();
        ck_assert_uint_eq(peers.count, 0);
        complete(STORE_RELEASE, STORE_OK);
    }
}
END_TEST

START_TEST(out_of_memory)
{
    int fd = attach();

    acquire(fd);
    keeper.sessions[1]->out.failed = true;
    put(fd, "{\"op\":\"ping\"}\n");
    turn();
    ck_assert_uint_eq(peers.count, 0);
    ck_assert(get(fd));
    expect_key_stays();
    close(fd);
}
END_TEST

// The sidecar leaves: what is queued is still written, and keys stay.
START_TEST(the_sidecar_leaves)
{
    int fds[3];

    for (int i = 0; i < 3; i++)
        fds[i] = attach();
    acquire(fds[1]);
    put(fds[2], "{\"op\":\"ping\"}\n");
    ev_run(loop, EVRUN_NOWAIT);
    peers_read(&peers, now()); // answered, not yet written
    peers_deinit(&peers, now());
    ck_assert(get(fds[0]));
    ck_assert(get(fds[2]));
    ck_assert_ptr_nonnull(strstr(text, "{\"ok\":true,\"op\":\"ping\""));
    expect_key_stays();
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}
END_TEST

// ---- Pages ----

// One read as a client that wants a page makes it: what came is added to `text`, a descriptor to
// *passed, which must be -1 then. False: there is nothing.
static bool get_with(int fd, size_t most, int *passed)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    size_t length = strlen(text);
    struct iovec data = {.iov_base = text + length, .iov_len = most};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);

    if (n <= 0)
        return false;
    text[length + (size_t)n] = '\0';
    if (CMSG_FIRSTHDR(&message)) {
        ck_assert_int_eq(*passed, -1);
        memcpy(passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    }
    return true;
}

static const int64_t *map_page(int passed)
{
    const void *page;

    ck_assert_int_ge(passed, 0);
    page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, passed, 0);
    ck_assert(page != MAP_FAILED);
    close(passed);
    return page;
}

#define HELLO "{\"id\":\"h\",\"op\":\"hello\",\"page\":true}\n"
#define HELLO_REPLY "{\"ok\":true,\"id\":\"h\",\"op\":\"hello\""

// With the first byte of its reply and no other, wherever that stands in what is written: with
// output before and after it, and read a byte at a time.
START_TEST(a_page_goes_with_its_reply)
{
    static const char *const before[] = {"", "{\"op\":\"ping\"}\n", "7\n\n{}\n"};
    int fd = attach(), passed = -1, own = scratch_descriptors(0);

    sprintf(text, "%s" HELLO "{\"op\":\"ping\"}\n", before[_i]);
    put(fd, text);
    turns();
    ck_assert_int_eq(scratch_descriptors(0), own); // on its way, and nowhere else
    text[0] = '\0';
    while (passed < 0)
        ck_assert(get_with(fd, 1, &passed));
    ck_assert_int_eq(text[strlen(text) - 1], '{');
    ck_assert_uint_eq(lines(), (size_t)_i);
    while (get_with(fd, 1, &passed))
        ;
    ck_assert_uint_eq(lines(), (size_t)_i + 2);
    ck_assert_ptr_nonnull(strstr(text, HELLO_REPLY));
    munmap((void *)(uintptr_t)map_page(passed), PAGE_BYTES);
    close(fd);
    turns();
    ck_assert_int_eq(scratch_descriptors(0), own - 2);
}
END_TEST

// The socket is full when the reply's turn comes, and takes it in pieces: earlier output first.
START_TEST(a_page_waits_for_room)
{
    int fd = attach(), passed = -1, own = scratch_descriptors(0);
    size_t pings = 0, size = 0;
    char *reply;

    while (size <= 65536) { // until it cannot be written
        for (int i = 0; i < 64; i++, pings++)
            put(fd, "{\"op\":\"ping\"}\n");
        turns();
        size = buf_length(&keeper.sessions[1]->out);
    }
    put(fd, HELLO);
    turns();
    ck_assert_int_eq(scratch_descriptors(0), own + 1); // kept for it
    text[0] = '\0';
    for (size_t read = 0; passed < 0; read++) {
        if (!get_with(fd, 1000, &passed))
            turns();
        ck_assert_uint_lt(read, 1 << 20);
    }
    ck_assert_int_eq(scratch_descriptors(0), own + 1); // ours now
    reply = strstr(text, HELLO_REPLY);
    ck_assert_msg(reply || text[strlen(text) - 1] == '{', "the descriptor came early");
    ck_assert_uint_eq(lines(), pings + (reply && strchr(reply, '\n') ? 1 : 0));
    while (get_with(fd, 65536, &passed))
        turns();
    ck_assert_ptr_nonnull(strstr(text, HELLO_REPLY));
    ck_assert_uint_eq(lines(), pings + 1);
    close(passed);
    close(fd);
    turns();
}
END_TEST

// It goes, or is given up, before the page's descriptor could be written.
START_TEST(a_client_that_never_takes_its_page)
{
    int fd = attach(), own = scratch_descriptors(0);
    size_t size = 0;

    while (size <= 65536) {
        for (int i = 0; i < 64; i++)
            put(fd, "{\"op\":\"ping\"}\n");
        turns();
        size = buf_length(&keeper.sessions[1]->out);
    }
    put(fd, HELLO);
    turns();
    ck_assert_int_eq(scratch_descriptors(0), own + 1);
    if (_i == 0) {
        close(fd);
        turns();
    } else {
        shutdown(fd, SHUT_WR);
        turns();
        peers_sweep(&peers, now() + PEER_LINGER_MS);
        close(fd);
    }
    ck_assert_uint_eq(peers.count, 0);
    ck_assert_int_eq(scratch_descriptors(0), own - 2);
}
END_TEST

START_TEST(a_client_without_recvmsg)
{
    int fd = attach(), own = scratch_descriptors(0);

    put(fd, HELLO);
    turns();
    EXPECT(fd, HELLO_REPLY);
    ck_assert_int_eq(scratch_descriptors(0), own);
    put(fd, "{\"op\":\"acquire\",\"key\":\"k\"}\n");
    turns();
    complete(STORE_ACQUIRE, STORE_OK);
    turns();
    EXPECT(fd, "\"slot\":0}");
    close(fd);
    turns();
    complete(STORE_RELEASE, STORE_OK);
}
END_TEST

// A client gets its page, and a lease in slot 0.
static const int64_t *hold_with_page(int fd)
{
    const int64_t *page;
    int passed = -1;

    put(fd, HELLO);
    turns();
    text[0] = '\0';
    ck_assert(get_with(fd, 65536, &passed));
    page = map_page(passed);
    acquire(fd);
    ck_assert_int_gt(page[0], now() * 1000000);
    return page;
}

// The sidecar leaves without a word: who will adopt goes on by its page.
START_TEST(a_page_stays_when_the_sidecar_leaves)
{
    int fd = attach();
    const int64_t *page = hold_with_page(fd);
    int64_t until_ns = page[0];

    peers_deinit(&peers, now());
    ck_assert(get(fd));
    ck_assert_int_eq(page[0], until_ns);
    expect_key_stays();
    ck_assert_int_eq(page[0], until_ns);
    munmap((void *)(uintptr_t)page, PAGE_BYTES);
    close(fd);
}
END_TEST

// Who does not read is cut off, and its page says so.
START_TEST(a_page_ends_with_the_cut)
{
    int fd = attach();
    const int64_t *page = hold_with_page(fd);

    while (peers.count == 1) {
        ck_assert_int_gt(page[0], 0);
        for (int i = 0; i < 64; i++)
            put(fd, "{\"op\":\"hello\"}\n");
        turns();
    }
    ck_assert_uint_eq(peers.count, 0);
    ck_assert_int_eq(page[0], 0);
    expect_key_stays();
    munmap((void *)(uintptr_t)page, PAGE_BYTES);
    close(fd);
}
END_TEST

// Clients come, ask, and go at random, several in one turn: the lists of peers hold.
START_TEST(random_coming_and_going)
{
    int fds[5] = {-1, -1, -1, -1, -1};

    srandom(7);
    for (int step = 0; step < 3000; step++) {
        int i = (int)(random() % 5);
        if (fds[i] < 0 && peers.count < 5)
            fds[i] = attach();
        else if (fds[i] >= 0 && random() % 3 == 0)
            close(fds[i]), fds[i] = -1;
        else if (fds[i] >= 0)
            for (long n = random() % 100; n > 0; n--)
                if (send(fds[i], "{\"op\":\"ping\"}\n", 14, MSG_NOSIGNAL) < 14)
                    break;
        if (fds[i] >= 0 && random() % 2)
            get(fds[i]);
        if (random() % 3 == 0)
            turn();
        if (random() % 50 == 0)
            peers_sweep(&peers, now() + C);
    }
    for (int i = 0; i < 5; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    for (int i = 0; i < 100 && peers.count > 0; i++)
        turn();
    ck_assert_uint_eq(peers.count, 0);
    ck_assert_ptr_null(peers.dirty);
    ck_assert_ptr_null(peers.backlog);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("peer");
    TCase *tcase = tcase_create("peer");

    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, lines_in_pieces);
    tcase_add_test(tcase, clients_are_read_in_the_order_in_which_they_sent);
    tcase_add_test(tcase, a_turn_is_bounded);
    tcase_add_test(tcase, gone_in_the_middle_of_many);
    tcase_add_test(tcase, an_over_long_line);
    tcase_add_test(tcase, a_line_that_is_never_finished);
    tcase_add_test(tcase, connections_are_capped);
    tcase_add_loop_test(tcase, a_client_that_is_gone, 0, 3);
    tcase_add_test(tcase, a_half_closed_client_with_a_lease);
    tcase_add_test(tcase, a_half_closed_client_that_waits);
    tcase_add_test(tcase, a_half_closed_client_that_does_not_read);
    tcase_add_test(tcase, a_half_closed_client_that_reads_late);
    tcase_add_test(tcase, too_much_unread);
    tcase_add_loop_test(tcase, a_revoked_event_that_is_not_read, 0, 3);
    tcase_add_loop_test(tcase, a_client_that_reads_no_more, 0, 2);
    tcase_add_test(tcase, out_of_memory);
    tcase_add_test(tcase, the_sidecar_leaves);
    tcase_add_loop_test(tcase, a_page_goes_with_its_reply, 0, 3);
    tcase_add_test(tcase, a_page_waits_for_room);
    tcase_add_loop_test(tcase, a_client_that_never_takes_its_page, 0, 2);
    tcase_add_test(tcase, a_client_without_recvmsg);
    tcase_add_test(tcase, a_page_stays_when_the_sidecar_leaves);
    tcase_add_test(tcase, a_page_ends_with_the_cut);
    tcase_add_test(tcase, random_coming_and_going);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
