// SPDX-License-Identifier: Apache-2.0
//
// The whole Redis store, with a real socket, its loop and a clock that only the input moves, against
// a server that is slow, dies, or lies.
//
// Input: lines of text. The first character of each says what happens; a turn of the loop follows.
//
//     a<key>  r<lease>  d<lease>    acquire (a new lease), renew, release
//     e<lease>                      the lease's renewals are not wanted any more
//     t<ms>                         time passes
//     .<n>                          n more turns
//     m                             the server answers only when told to, or by itself again
//     p<n>  -<error>                it answers n commands properly, one with an error
//     !<bytes>                      it sends bytes (~ is "\r\n"; ^ a KiB) that answer nothing
//     s<n>                          it sends n bytes a turn (0: all)
//     x  v  g  q                    it hangs up; restarts; loses its scripts; refuses, or not
//     f                             the store is freed from inside the next completion
//     o<n>                          first line only: with credentials (1), a database (2)
//
// Oracle: store.h's contract. Everything submitted completes once, in time, never from inside the
// submission; what is told was so answered (as long as the server does not lie); the server reads
// nothing but commands; a delete that is certain comes after what could still take its key; no
// descriptor is left.

#include <ev.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/clock.h"
#include "sidecar/store_redis.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/store_server.h"

enum {
    MAX_STEPS = 200,
    MAX_TURNS = 20,
    TIMEOUT_MS = 200,
    SILENCE_MS = 250,
    TTL_MS = 3000,
};

_Static_assert(SERVER_LIFE_MS == TTL_MS + TIMEOUT_MS, "what a ghost can do");

struct lease {
    char key[40];
    bool unwanted;
    bool may_be_late;              // a renewal timed out
    unsigned open[SERVER_OPS];     // submitted, not completed
    int64_t due_by_ms[SERVER_OPS]; // of the last one submitted
};

static struct world {
    struct server server;
    struct ev_loop *loop;
    struct store *store;
    int64_t now_ms;
    struct lease leases[SERVER_LEASES + 1];
    uint32_t lease_count;
    bool submitting;
    bool free_next;
    bool freed; // from inside a completion
} world;

// In place of sidecar/clock.c.
int64_t clock_boottime_ms(void)
{
    return world.now_ms;
}

// ---- Submission ----

static struct store_token token_of(uint32_t lease)
{
    struct store_token token = {.instance = "0123456789abcde"};

    token.instance[15] = 'f';
    memset(&token.token, 0x11, sizeof token.token);
    for (int i = 0; i < 4; i++)
        token.token.bytes[i] = (uint8_t)(lease >> (24 - 8 * i));
    return token;
}

static void begin(uint32_t lease, enum store_op op, int64_t timeout_ms)
{
    world.leases[lease].open[op]++;
    world.leases[lease].due_by_ms[op] = world.now_ms + timeout_ms;
    world.submitting = true;
}

static void submit_release(uint32_t lease)
{
    struct store_release release = {
        .lease = lease,
        .generation = 7 * lease,
        .key = world.leases[lease].key,
        .key_length = strlen(world.leases[lease].key),
        .token = token_of(lease),
        .timeout_ms = TIMEOUT_MS,
    };

    // The keeper, too, gives back only what was answered, or was not in time.
    if (!world.store || world.leases[lease].open[STORE_RELEASE] ||
        world.leases[lease].open[STORE_ACQUIRE])
        return;
    begin(lease, STORE_RELEASE, TIMEOUT_MS);
    world.store->ops->release(world.store, &release, world.now_ms);
    world.submitting = false;
}

static void submit_acquire(const char *key, size_t length)
{
    uint32_t lease = world.lease_count + 1;
    struct store_acquire acquire = {
        .lease = lease,
        .generation = 7 * lease,
        .token = token_of(lease),
        .ttl_ms = TTL_MS,
        .deadline_ms = 60000,
        .fence_floor = lease,
        .pid = 1,
        .uid = 2,
        .host = "pod-7",
        .label = "resume",
        .label_length = lease % 2 ? 6 : 0,
        .timeout_ms = TIMEOUT_MS,
    };

    if (!world.store || lease > SERVER_LEASES || length == 0)
        return;
    world.lease_count++;
    memset(&world.leases[lease], 0, sizeof world.leases[lease]);
    memcpy(world.leases[lease].key, key,
           length < sizeof world.leases[lease].key ? length : sizeof world.leases[lease].key - 1);
    for (char *at = world.leases[lease].key; *at; at++)
        *at = (char)('a' + (unsigned char)*at % 3);
    acquire.key = world.leases[lease].key;
    acquire.key_length = strlen(acquire.key);
    if (acquire.key_length == 0) { // it began with a NUL
        world.lease_count--;
        return;
    }
    begin(lease, STORE_ACQUIRE, TIMEOUT_MS);
    world.store->ops->acquire(world.store, &acquire, world.now_ms);
    world.submitting = false;
}

static void submit_renewal(uint32_t lease)
{
    if (!world.store || world.leases[lease].open[STORE_RENEW])
        return;
    begin(lease, STORE_RENEW, INT32_MAX);
    world.store->ops->renew(world.store, lease, 7 * lease, world.now_ms + TTL_MS, world.now_ms);
    world.submitting = false;
}

// ---- Hooks ----

static int64_t on_believe(void *context)
{
    FUZZ_CHECK(context == &world && !world.submitting);
    return world.now_ms;
}

static void check_counts(const struct store_completion *completion)
{
    struct lease *lease = &world.leases[completion->lease];

    FUZZ_CHECK(completion->lease > 0 && completion->lease <= world.lease_count);
    FUZZ_CHECK(completion->generation == 7 * completion->lease);
    if (completion->late) {
        FUZZ_CHECK(completion->op == STORE_RENEW && lease->may_be_late);
        return;
    }
    FUZZ_CHECK(lease->open[completion->op]-- > 0);
    lease->may_be_late |= completion->outcome == STORE_TIMEOUT;
}

// What is told was answered so.
static void check_answer(const struct store_completion *completion)
{
    unsigned *given = completion->outcome == STORE_OK ? world.server.yes[completion->op]
                                                      : world.server.no[completion->op];

    if (world.server.lied)
        return;
    FUZZ_CHECK(given[completion->lease] > 0);
    given[completion->lease]--;
    if (completion->op == STORE_ACQUIRE && completion->outcome == STORE_OK)
        FUZZ_CHECK(completion->fence == SERVER_FENCE + (int64_t)completion->lease);
}

// An answer that is certain comes after whatever could still take the key.
static void check_certain(const struct store_completion *completion)
{
    FUZZ_CHECK(completion->op == STORE_RELEASE || completion->op == STORE_ACQUIRE);
    FUZZ_CHECK(completion->outcome != STORE_UNSENT && completion->outcome != STORE_TIMEOUT &&
               completion->outcome != STORE_LOST);
    FUZZ_CHECK(world.server.lied || !server_may_acquire(&world.server, completion->lease));
}

static void check_held(const struct store_completion *completion)
{
    FUZZ_CHECK(completion->op == STORE_ACQUIRE);
    FUZZ_CHECK(!completion->value || completion->value[completion->value_length] == '\0');
    FUZZ_CHECK(!completion->type || !completion->value);
    FUZZ_CHECK(!completion->type || strlen(completion->type) < 65536);
}

static void on_completed(void *context, const struct store_completion *completion, int64_t now_ms)
{
    bool unsent = completion->outcome == STORE_UNSENT;

    FUZZ_CHECK(context == &world && !world.submitting && now_ms == world.now_ms);
    FUZZ_CHECK(completion->outcome < STORE_OUTCOME_COUNT);
    FUZZ_CHECK(unsent ? completion->sent_at_ms == 0
                      : completion->sent_at_ms > 0 && completion->sent_at_ms <= now_ms);
    check_counts(completion);
    if (completion->outcome == STORE_HELD)
        check_held(completion);
    if (completion->outcome == STORE_NOT_OWNER)
        FUZZ_CHECK(completion->op != STORE_ACQUIRE);
    if (completion->outcome <= STORE_NOT_OWNER)
        check_answer(completion);
    // A server that does not lie is never misunderstood.
    if (completion->outcome == STORE_LOST && !world.server.lied)
        FUZZ_CHECK(strncmp(completion->error, "protocol error:", 15) != 0);
    if (completion->certain)
        check_certain(completion);
    if (completion->op == STORE_ACQUIRE && completion->outcome == STORE_OK)
        FUZZ_CHECK(completion->fence > 0 && completion->fence <= WIRE_MAX_INTEGER);
    if (world.free_next) {
        struct store *store = world.store;

        world.free_next = false;
        world.freed = true;
        world.store = NULL;
        store_redis_free(store);
        return;
    }
    // As the keeper does: what may have been taken is given back.
    if (completion->op == STORE_ACQUIRE &&
        (completion->outcome == STORE_LOST || completion->outcome == STORE_TIMEOUT))
        submit_release(completion->lease);
}

static void on_status(void *context, bool up, const char *error, int64_t now_ms)
{
    FUZZ_CHECK(context == &world && !world.submitting && now_ms == world.now_ms);
    FUZZ_CHECK(world.store->up == up && (error == NULL) == up);
    FUZZ_CHECK(up || (error[0] && strlen(error) < 192));
}

static bool on_describe(void *context, uint32_t number, uint32_t generation, int64_t now_ms,
                        struct store_subject *subject)
{
    struct lease *lease = &world.leases[number];

    FUZZ_CHECK(context == &world && number > 0 && number <= world.lease_count);
    FUZZ_CHECK(generation == 7 * number && now_ms == world.now_ms);
    FUZZ_CHECK(lease->open[STORE_RENEW] > 0);
    if (lease->unwanted)
        return false;
    lease->due_by_ms[STORE_RENEW] = now_ms + TIMEOUT_MS;
    *subject = (struct store_subject){
        .key = lease->key,
        .key_length = strlen(lease->key),
        .token = token_of(number),
        .ttl_ms = TTL_MS,
        .timeout_ms = TIMEOUT_MS,
    };
    return true;
}

static const struct store_hooks hooks = {
    .believe = on_believe,
    .completed = on_completed,
    .status = on_status,
    .describe = on_describe,
};

// ---- Turns ----

static void check_in_time(void)
{
    for (uint32_t i = 1; i <= world.lease_count; i++)
        for (int op = 0; op < SERVER_OPS; op++)
            FUZZ_CHECK(!world.leases[i].open[op] || !world.store ||
                       world.leases[i].due_by_ms[op] > world.now_ms);
}

static void turn(void)
{
    world.server.now_ms = world.now_ms;
    server_turn(&world.server);
    if (world.store)
        world.store->ops->sweep(world.store, world.now_ms);
    check_in_time();
    ev_run(world.loop, EVRUN_NOWAIT);
    if (world.store)
        store_redis_flush(world.store, world.now_ms);
}

// ---- Steps ----

static int64_t number(const char *text, size_t length, int64_t limit)
{
    int64_t value = 0;

    for (size_t i = 0; i < length && text[i] >= '0' && text[i] <= '9'; i++)
        value = (value * 10 + (text[i] - '0')) % limit;
    return value;
}

static void lie(const char *text, size_t length)
{
    static const char filler[1024] = "x";
    struct buf bytes = BUF_INIT;

    for (size_t i = 0; i < length && buf_length(&bytes) < 200000; i++) {
        if (text[i] == '~')
            buf_append(&bytes, "\r\n", 2);
        else if (text[i] == '^')
            buf_append(&bytes, filler, sizeof filler);
        else
            buf_append(&bytes, text + i, 1);
    }
    server_lie(&world.server, buf_bytes(&bytes), buf_length(&bytes));
    buf_deinit(&bytes);
}

static void answer_error(const char *text, size_t length)
{
    char error[200];
    size_t size = length < sizeof error - 1 ? length : sizeof error - 1;

    for (size_t i = 0; i < size; i++)
        error[i] = text[i] >= ' ' ? text[i] : '?';
    error[size] = '\0';
    server_answer(&world.server, error);
}

static void step_server(char what, const char *text, size_t length)
{
    struct server *server = &world.server;

    switch (what) {
    case 'm':
        server->manual = !server->manual;
        break;
    case 'p':
        for (int64_t n = number(text, length, 100); n >= 0 && server_answer(server, NULL); n--)
            ;
        break;
    case '-':
        answer_error(text, length);
        break;
    case '!':
        lie(text, length);
        break;
    case 's':
        server->chunk = (size_t)number(text, length, 1000);
        break;
    case 'x':
        server_hang_up(server);
        break;
    case 'v':
        server_restart(server);
        break;
    case 'g':
        server->scripts_lost = true;
        break;
    case 'q':
        server->refusing = !server->refusing;
        break;
    default:
        break;
    }
}

static void step(const char *text, size_t length)
{
    char what = *text++;
    uint32_t lease = 0;

    length--;
    if (world.lease_count > 0)
        lease = 1 + (uint32_t)number(text, length, world.lease_count);
    switch (what) {
    case 'a':
        submit_acquire(text, length);
        break;
    case 'r':
        if (lease > 0)
            submit_renewal(lease);
        break;
    case 'd':
        if (lease > 0)
            submit_release(lease);
        break;
    case 'e':
        world.leases[lease].unwanted = true;
        break;
    case 't':
        world.now_ms += number(text, length, 100000);
        break;
    case '.':
        for (int64_t n = number(text, length, MAX_TURNS); n > 0; n--)
            turn();
        break;
    case 'f':
        world.free_next = true;
        break;
    default:
        step_server(what, text, length);
        break;
    }
    turn();
}

// ---- Life ----

static void open_world(char options)
{
    char path[64];
    struct store_redis_options store = {
        .url = {.path = path},
        .key_prefix = "lock:",
        .silence_ms = SILENCE_MS,
        .backoff_min_ms = 10,
        .backoff_max_ms = 100,
    };

    // The store keeps what the URL points at.
    static char kept_path[sizeof path], user[] = "me", password[] = "secret";

    snprintf(path, sizeof path, "%s", server_path());
    memcpy(kept_path, path, sizeof path);
    store.url.path = kept_path;
    if (options & 1) {
        store.url.user = user;
        store.url.password = password;
    }
    store.url.database = options & 2 ? 3 : 0;
    server_open(&world.server);
    world.now_ms = 1000000;
    world.lease_count = 0;
    world.leases[0].unwanted = false;
    world.submitting = world.free_next = world.freed = false;
    world.loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
    FUZZ_CHECK(world.loop);
    FUZZ_CHECK(store_redis_new(world.loop, &store, &world.store) == 0);
    world.store->hooks = &hooks;
    world.store->context = &world;
}

static void close_world(void)
{
    struct store *store = world.store;

    world.free_next = false;
    if (store) {
        world.store = NULL;
        store_redis_free(store);
    }
    // Freed from inside a completion, it is over after that: of the batch that was being told, the
    // renewals behind it are not.
    for (uint32_t i = 1; i <= world.lease_count; i++)
        for (int op = 0; op < SERVER_OPS; op++)
            FUZZ_CHECK(world.leases[i].open[op] == 0 || (world.freed && op == STORE_RENEW));
    ev_loop_destroy(world.loop);
    server_close(&world.server);
}

// How many of the lowest are open: each input opens a handful, and closes them.
static int count_descriptors(void)
{
    int count = 0;

    for (int fd = 0; fd < 64; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *end = text + size;
    int open_before = (server_path(), count_descriptors());

    open_world(size > 1 && text[0] == 'o' ? text[1] : '0');
    for (int steps = 0; text < end && steps < MAX_STEPS; steps++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t length = newline ? (size_t)(newline - text) : (size_t)(end - text);

        if (length > 0)
            step(text, length);
        text += length + 1;
    }
    close_world();
    FUZZ_CHECK(count_descriptors() == open_before);
    return 0;
}
