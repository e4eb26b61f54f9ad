// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper against a sidecar that says anything, while a program does anything.
//
// Input: lines. The first character says who does what; digits name leases (of those granted so far)
// and requests:
//
//     <TEXT   the sidecar sends TEXT and a newline, -TEXT without; in both $N is the id "lk:N", @N the
//             token of lease N, ~ CLOCK_BOOTTIME in ms
//     x       the sidecar closes the connection
//     hN      it answers hello, whose id is lk:N
//     gN      it grants the acquire lk:N, with the next token
//     aN      the program starts to acquire the key kN, wN: and waits
//     rN eN   it starts to release, to extend lease N
//     fN      it frees lease N
//     cN      it cancels request N
//     lN      it starts another request: list, ping, inspect, break by N
//     n       it collects an event
//     m       it sets, or takes off, its handler
//
// After each line the library may do what there is to do, at once.
//
// Oracle: of a lease nothing is told after its end, and nothing after its release or its freeing; it
// is not valid then; each request is answered once.

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/lock_keeper.h"
#include "protocol/buf.h"
#include "tests/fuzz/fuzz.h"

enum { LEASES = 10, REQUESTS = 256, MAX_LINES = 64 };

static struct {
    char folder[32];
    struct sockaddr_un address;
    int listener;
} place = {.listener = -1};

struct world {
    struct lock_keeper *keeper;
    int fd; // the sidecar's end
    unsigned tokens;
    struct lock_keeper_lease *leases[LEASES];
    unsigned lease_count;
    bool over[LEASES]; // nothing more is to be told
    bool answered[REQUESTS];
    bool handles;
};

// ---- The place of the socket ----

static void clear_place(void)
{
    unlink(place.address.sun_path);
    rmdir(place.folder);
}

static void open_place(void)
{
    if (place.listener >= 0)
        return;
    strcpy(place.folder, "/tmp/fuzz-client-XXXXXX");
    FUZZ_CHECK(mkdtemp(place.folder));
    place.address.sun_family = AF_UNIX;
    snprintf(place.address.sun_path, sizeof place.address.sun_path, "%s/s", place.folder);
    place.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    FUZZ_CHECK(bind(place.listener, (struct sockaddr *)&place.address, sizeof place.address) == 0);
    FUZZ_CHECK(listen(place.listener, 64) == 0);
    atexit(clear_place);
}

// ---- The program ----

static int index_of(const struct world *world, const struct lock_keeper_lease *lease)
{
    for (unsigned i = 0; i < world->lease_count; i++)
        if (world->leases[i] == lease)
            return (int)i;
    return -1;
}

static void hear_reply(struct world *world, const struct lock_keeper_event *event)
{
    const struct lock_keeper_reply *reply = event->reply;

    FUZZ_CHECK(event->request < REQUESTS && !world->answered[event->request]);
    world->answered[event->request] = true;
    FUZZ_CHECK(reply && reply->name && reply->message && (reply->code == 0) == !*reply->name);
    if (event->lease && index_of(world, event->lease) < 0 && world->lease_count < LEASES)
        world->leases[world->lease_count++] = event->lease;
}

static void hear(struct lock_keeper *keeper, const struct lock_keeper_event *event, void *user)
{
    struct world *world = user;
    int lease = index_of(world, event->lease);

    FUZZ_CHECK(keeper == world->keeper);
    if (event->kind == LOCK_KEEPER_EVENT_REPLY)
        hear_reply(world, event);
    if (event->kind < LOCK_KEEPER_EVENT_RENEWED || lease < 0)
        return;
    FUZZ_CHECK(!world->over[lease]);
    FUZZ_CHECK(event->safe_ms >= 0);
    if (event->kind != LOCK_KEEPER_EVENT_REVOKED)
        return;
    world->over[lease] = true;
    FUZZ_CHECK(!lock_keeper_valid(event->lease) && !lock_keeper_lease_is_held(event->lease));
    FUZZ_CHECK(event->reason != LOCK_KEEPER_REASON_NONE && event->message && event->reason_name);
}

static void start(struct world *world, char what, unsigned number)
{
    char key[] = {'k', (char)('0' + number % 10), '\0'};
    struct lock_keeper_acquire acquire = {.key = key, .wait_ms = what == 'w' ? 60000 : 0};

    if (what == 'a' || what == 'w')
        lock_keeper_start_acquire(world->keeper, &acquire, NULL);
    else if (number % 4 == 0)
        lock_keeper_start_list(world->keeper, 3, NULL, NULL);
    else if (number % 4 == 1)
        lock_keeper_start_ping(world->keeper, NULL);
    else if (number % 4 == 2)
        lock_keeper_start_inspect(world->keeper, key, NULL);
    else
        lock_keeper_start_break(world->keeper, key, 5, NULL);
}

static void use_lease(struct world *world, char what, unsigned number)
{
    struct lock_keeper_lease *lease = number < LEASES ? world->leases[number] : NULL;

    if (!lease)
        return;
    if (what == 'e') {
        lock_keeper_start_extend(world->keeper, lease, 1000, NULL);
        return;
    }
    if (what == 'r')
        lock_keeper_start_release(world->keeper, lease, NULL);
    else
        world->leases[number] = lock_keeper_lease_free(lease);
    world->over[number] = true;
    FUZZ_CHECK(what == 'f' || !lock_keeper_valid(lease));
}

// ---- The sidecar ----

static void close_connection(struct world *world)
{
    if (world->fd >= 0)
        close(world->fd);
    world->fd = -1;
}

static void say(struct world *world, const char *text, size_t length)
{
    if (world->fd < 0)
        world->fd = accept4(place.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (world->fd >= 0)
        (void)!send(world->fd, text, length, MSG_NOSIGNAL);
}

static void say_expanded(struct world *world, const char *text, size_t length, bool newline)
{
    struct buf out = BUF_INIT;
    char piece[64];

    for (size_t i = 0; i < length; i++) {
        bool has_digit = i + 1 < length && text[i + 1] >= '0' && text[i + 1] <= '9';

        if (text[i] == '$' && has_digit)
            snprintf(piece, sizeof piece, "\"lk:%c\"", text[++i]);
        else if (text[i] == '@' && has_digit)
            snprintf(piece, sizeof piece, "\"%032d\"", text[++i] - '0');
        else if (text[i] == '~')
            snprintf(piece, sizeof piece, "%lld", (long long)lock_keeper_now_ms());
        else
            snprintf(piece, sizeof piece, "%c", text[i]);
        if (text[i] == '\0')
            buf_append(&out, "", 1);
        buf_append_string(&out, piece);
    }
    if (newline)
        buf_append_string(&out, "\n");
    say(world, buf_bytes(&out), buf_length(&out));
    buf_deinit(&out);
}

static void say_hello(struct world *world, unsigned number)
{
    char line[200];
    int length = snprintf(line, sizeof line,
                          "{\"ok\":true,\"id\":\"lk:%u\",\"op\":\"hello\",\"protocol\":1,"
                          "\"now_ms\":%lld}\n",
                          number, (long long)lock_keeper_now_ms());

    say(world, line, (size_t)length);
}

static void grant(struct world *world, unsigned number)
{
    char line[400];
    int length =
        snprintf(line, sizeof line,
                 "{\"ok\":true,\"id\":\"lk:%u\",\"key\":\"k%u\",\"lease\":\"%032u\","
                 "\"fence\":7,\"ttl_ms\":30000,\"deadline_ms\":60000,"
                 "\"valid_until_ms\":%lld}\n",
                 number, number % 10, world->tokens++, (long long)lock_keeper_now_ms() + 29000);

    say(world, line, (size_t)length);
}

// ---- A line ----

static void act(struct world *world, const char *line, size_t length)
{
    unsigned number = 0;

    for (size_t i = 1; i < length && i < 4 && line[i] >= '0' && line[i] <= '9'; i++)
        number = number * 10 + (unsigned)(line[i] - '0');
    switch (length > 0 ? line[0] : '\0') {
    case '<':
    case '-':
        say_expanded(world, line + 1, length - 1, line[0] == '<');
        break;
    case 'x':
        close_connection(world);
        break;
    case 'h':
        say_hello(world, number);
        break;
    case 'g':
        grant(world, number);
        break;
    case 'a':
    case 'w':
    case 'l':
        start(world, line[0], number);
        break;
    case 'r':
    case 'e':
    case 'f':
        use_lease(world, line[0], number);
        break;
    case 'c':
        lock_keeper_cancel(world->keeper, number);
        break;
    case 'm':
        world->handles = !world->handles;
        lock_keeper_set_handler(world->keeper, world->handles ? hear : NULL, world);
        break;
    case 'n': {
        const struct lock_keeper_event *event = lock_keeper_next_event(world->keeper);
        if (event)
            hear(world->keeper, event, world);
        break;
    }
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world world = {.fd = -1};
    const char *line = (const char *)data, *end = line + size;
    const char *newline;

    open_place();
    world.keeper = lock_keeper_new(place.address.sun_path);
    FUZZ_CHECK(world.keeper);
    lock_keeper_open(world.keeper);
    for (int i = 0; i < MAX_LINES && line < end; i++, line = newline + 1) {
        newline = memchr(line, '\n', (size_t)(end - line));
        if (!newline)
            newline = end;
        act(&world, line, (size_t)(newline - line));
        FUZZ_CHECK(lock_keeper_process(world.keeper) == 0);
        FUZZ_CHECK(lock_keeper_get_timeout(world.keeper) >= -1);
    }
    for (unsigned i = 0; i < world.lease_count; i++)
        FUZZ_CHECK(!world.over[i] || !world.leases[i] || !lock_keeper_valid(world.leases[i]));
    lock_keeper_free(world.keeper);
    close_connection(&world);
    for (int fd; (fd = accept(place.listener, NULL, NULL)) >= 0;)
        close(fd);
    return 0;
}
