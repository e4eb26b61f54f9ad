// SPDX-License-Identifier: Apache-2.0
//
// The life of the store's connection.
//
//     WAITING -> RESOLVING -> CONNECTING -> GREETING -> UP -> WAITING ...
//
// An attempt has silence_ms in all. A name is asked for anew in each, and when its answer is slow or
// bad, the addresses that were good last are used; the answer is taken for the next attempt then.
// The addresses are tried one after another, beginning with the one that worked last.
//
// Before a connection is UP it was told who Redis is. If that is the same process as before, each
// former connection with unanswered acquires is ended there by CLIENT KILL first, on the same
// connection as all that follows, so Redis executes it before. If it is another process, its ids
// mean other clients and nothing of ours can be left in it.
//
// The first attempt after a loss is made at once, later ones after growing pauses. What ends the
// series is a connection that was good for something: up for a while, with a call that succeeded. So
// a server that accepts and drops, or a demoted one that refuses every write, is not called on
// without pause.
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "sidecar/log.h"
#include "sidecar/store_redis_state.h"

static void connect_next(struct store_redis *store, int64_t now_ms);

// ---- Back-off ----

// xorshift: the pauses of many sidecars must differ, no more.
static uint64_t next_random(struct store_redis *store)
{
    uint64_t x = store->random ? store->random : 1;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return store->random = x;
}

// Doubled with each attempt up to the maximum; the second half of it at random.
static int64_t next_pause(struct store_redis *store, unsigned attempts)
{
    int64_t pause_ms = store->options.backoff_min_ms;
    int64_t half_ms;

    if (attempts == 0)
        return 0;
    for (unsigned i = 1; i < attempts && pause_ms < store->options.backoff_max_ms; i++)
        pause_ms *= 2;
    if (pause_ms > store->options.backoff_max_ms)
        pause_ms = store->options.backoff_max_ms;
    half_ms = pause_ms / 2;
    return pause_ms - half_ms + (int64_t)(next_random(store) % (uint64_t)(half_ms + 1));
}

static void schedule(struct store_redis *store, int64_t now_ms, bool was_up)
{
    int64_t up_ms = now_ms - store->up_since_ms;

    if (was_up && (up_ms >= store->options.backoff_max_ms ||
                   (store->succeeded && up_ms >= store->options.backoff_min_ms)))
        store->attempts = store->retiring ? 1 : 0;
    store->link = STORE_REDIS_WAITING;
    store->link_until_ms = now_ms + next_pause(store, store->attempts);
    store->attempts++;
}

// ---- Loss ----

void store_redis_abandon(struct store_redis *store, int64_t now_ms)
{
    int64_t lives_until_ms = 0;
    struct redis_call *call;

    redis_connection_close(&store->connection);
    while ((call = redis_due_pop(&store->connection.due))) {
        if (call->lives_ms > 0 && lives_until_ms < now_ms + call->lives_ms)
            lives_until_ms = now_ms + call->lives_ms;
        store_redis_stop_timeout(store, call);
        redis_due_push(&store->lost_due, call, call->sent_at_ms);
    }
    if (lives_until_ms > 0)
        redis_lost_add(&store->lost, store->handshake.client_id, lives_until_ms);
}

void store_redis_complete_lost(struct store_redis *store, int64_t now_ms)
{
    struct redis_call *call;

    while ((call = redis_due_pop(&store->lost_due))) {
        if (call->kind <= REDIS_CALL_BATCH && !call->answered) {
            if (call->kind == REDIS_CALL_BATCH)
                store->batches--;
            store_redis_complete(store, call, STORE_LOST, store->error, now_ms);
        }
        store_redis_drop_call(store, call);
    }
}

void store_redis_lose(struct store_redis *store, const char *error, int64_t now_ms)
{
    bool was_up = store->store.up;

    bool is_news = was_up || strcmp(error, store->error) != 0;

    if (error != store->error)
        snprintf(store->error, sizeof store->error, "%s", error);
    store_redis_abandon(store, now_ms);
    redis_watch_main_down(&store->watch);
    schedule(store, now_ms, was_up);
    store->store.up = false;
    store->retiring = false;
    // In a long outage the same words come with the 2nd, 4th, 8th, ... attempt only.
    if (is_news || (store->attempts & (store->attempts - 1)) == 0)
        log_warn(was_up ? "Redis was lost" : "Redis cannot be reached",
                 LOG_FIELD_STR("error", store->error),
                 LOG_FIELD_INT("retry_ms", store->link_until_ms - now_ms));
    // The first failure of all is news too: until then the keeper only knew of nothing.
    store->store.hooks->status(store->store.context, false, store->error, now_ms);
    store_redis_complete_lost(store, now_ms);
}

// ---- Connecting ----

static void take_address_failure(struct store_redis *store, const char *error, int64_t now_ms)
{
    redis_connection_close(&store->connection);
    store->tried++;
    if (store->tried < store->addresses.count && now_ms < store->attempt_until_ms) {
        connect_next(store, now_ms);
        return;
    }
    store->address = (store->address + store->tried) % store->addresses.count;
    store_redis_lose(store, error, now_ms);
}

static void connect_next(struct store_redis *store, int64_t now_ms)
{
    int left = store->addresses.count - store->tried;
    int index = (store->address + store->tried) % store->addresses.count;
    int64_t share_ms = (store->attempt_until_ms - now_ms) / left;

    store->link = STORE_REDIS_CONNECTING;
    store->link_until_ms = now_ms + (share_ms > 1 ? share_ms : 1);
    if (redis_connection_open(&store->connection, &store->addresses.addresses[index],
                              store->options.silence_ms) < 0)
        take_address_failure(store, store->connection.error, now_ms);
}

static void begin_connecting(struct store_redis *store, int64_t now_ms)
{
    store->tried = 0;
    store->address %= store->addresses.count;
    connect_next(store, now_ms);
}

static void resolved_badly(struct store_redis *store, const char *why, int64_t now_ms)
{
    char error[sizeof store->error];

    if (store->addresses.count > 0) {
        begin_connecting(store, now_ms);
        return;
    }
    snprintf(error, sizeof error, "cannot resolve %s: %s", store->options.url.host, why);
    store_redis_lose(store, error, now_ms);
}

static void on_resolved(void *context, const struct resolver_result *result)
{
    struct store_redis *store = context;
    int64_t now_ms;

    store_redis_enter(store);
    now_ms = store->store.hooks->believe(store->store.context);
    if (!store->closing) {
        if (result->count > 0)
            store->addresses = *result;
        if (store->link == STORE_REDIS_RESOLVING) {
            if (result->count > 0)
                begin_connecting(store, now_ms);
            else
                resolved_badly(store, result->error, now_ms);
        }
    }
    store_redis_leave(store);
}

static void resolve(struct store_redis *store, int64_t now_ms)
{
    int r = resolver_ask(&store->resolver, store->options.url.host, store->options.url.port);

    store->link = STORE_REDIS_RESOLVING;
    // With an address to fall back on, a slow name is not waited for to the end.
    store->link_until_ms = store->addresses.count > 0 ? now_ms + store->options.silence_ms / 4
                                                      : store->attempt_until_ms;
    if (r < 0)
        resolved_badly(store, strerror(-r), now_ms);
}

static void unix_address(const char *path, struct resolver_result *result)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    *result = (struct resolver_result){.count = 1};
    memcpy(&result->addresses[0].storage, &address, sizeof address);
    result->addresses[0].length = sizeof address;
}

static void attempt(struct store_redis *store, int64_t now_ms)
{
    const struct redis_url *url = &store->options.url;
    struct resolver_result numeric;

    store->attempt_until_ms = now_ms + store->options.silence_ms;
    if (url->path) {
        unix_address(url->path, &store->addresses);
    } else if (resolver_numeric(url->host, url->port, &numeric) == 0) {
        store->addresses = numeric;
    } else {
        resolve(store, now_ms);
        return;
    }
    begin_connecting(store, now_ms);
}

// ---- Handshake ----

static void on_opened(void *context, int64_t now_ms)
{
    struct store_redis *store = context;
    enum redis_handshake_step steps[REDIS_HANDSHAKE_MAX_REPLIES];
    char error[sizeof store->error];
    int count;

    store->address = (store->address + store->tried) % store->addresses.count;
    store->tried = 0;
    store->link = STORE_REDIS_GREETING;
    count = redis_handshake_begin(&store->handshake, &store->options.url,
                                  store->options.password_file, store->options.key_prefix,
                                  &store->connection.output, steps, error, sizeof error);
    if (count < 0) {
        store_redis_lose(store, error, now_ms);
        return;
    }
    for (int i = 0; i < count; i++) {
        struct redis_call *call = store_redis_new_call(store, REDIS_CALL_HANDSHAKE);

        call->number = steps[i];
        store_redis_written(store, call, now_ms);
    }
    redis_connection_write(&store->connection);
}

static void kill_client(struct store_redis *store, int64_t id, int64_t now_ms)
{
    struct redis_call *call = store_redis_new_call(store, REDIS_CALL_KILL);
    char digits[24];

    snprintf(digits, sizeof digits, "%lld", (long long)id);
    call->number = id;
    redis_call_write_words(&store->connection.output,
                           (const char *const[]){"CLIENT", "KILL", "ID", digits}, 4);
    store_redis_written(store, call, now_ms);
}

// Unknown on either side: no KILL, which might hit a stranger, and no certainty before its time.
static void end_former_clients(struct store_redis *store, int64_t now_ms)
{
    const char *run_id = store->handshake.run_id;

    if (!run_id[0] || !store->run_id[0]) {
        redis_lost_spare(&store->lost, 0);
    } else if (strcmp(run_id, store->run_id) != 0) {
        redis_lost_clear(&store->lost);
    } else {
        for (int i = 0; i < store->lost.count; i++)
            kill_client(store, store->lost.clients[i].id, now_ms);
    }
    if (run_id[0])
        memcpy(store->run_id, run_id, sizeof store->run_id);
}

static void come_up(struct store_redis *store, int64_t now_ms)
{
    char url[256];

    end_former_clients(store, now_ms);
    store->link = STORE_REDIS_UP;
    store->store.up = true;
    store->up_since_ms = now_ms;
    store->succeeded = false;
    store->error[0] = '\0';
    redis_url_format(&store->options.url, url, sizeof url);
    log_info("connected to Redis", LOG_FIELD_STR("url", url),
             LOG_FIELD_STR("version", store->handshake.version),
             LOG_FIELD_INT("client", store->handshake.client_id));
    if (store->handshake.role[0] && strcmp(store->handshake.role, "master") != 0)
        log_warn("this Redis is not a master: it refuses locks",
                 LOG_FIELD_STR("role", store->handshake.role));
    // The keeper submits owed deletes from its hook: they go before the acquires that wait here.
    redis_watch_main_up(&store->watch, &store->addresses.addresses[store->address]);
    store->holding = true;
    store->store.hooks->status(store->store.context, true, NULL, now_ms);
    store_redis_sort_queue(store);
    store->holding = false;
}

void store_redis_greeted(struct store_redis *store, enum redis_handshake_step step,
                         const struct redis_reply *reply, int64_t now_ms)
{
    char error[sizeof store->error];

    if (redis_handshake_answer(&store->handshake, step, reply, error, sizeof error) < 0)
        store_redis_lose(store, error, now_ms);
    else if (step == REDIS_HANDSHAKE_PING)
        come_up(store, now_ms);
}

// ---- The connection's hooks ----

static int64_t on_begin(void *context)
{
    struct store_redis *store = context;

    store_redis_enter(store);
    return store->store.hooks->believe(store->store.context);
}

static void on_end(void *context, int64_t now_ms)
{
    struct store_redis *store = context;

    if (store->retiring && store->link == STORE_REDIS_UP && !store->closing)
        store_redis_lose(store, store->error, now_ms);
    store_redis_leave(store);
}

static void on_answered(void *context, void *call, const struct redis_reply *reply, int64_t now_ms)
{
    store_redis_answer(context, call, reply, now_ms);
}

static void on_broke(void *context, int64_t now_ms)
{
    struct store_redis *store = context;

    if (store->link == STORE_REDIS_CONNECTING)
        take_address_failure(store, store->connection.error, now_ms);
    else
        store_redis_lose(store, store->connection.error, now_ms);
}

static const struct redis_connection_hooks hooks = {
    .begin = on_begin,
    .end = on_end,
    .opened = on_opened,
    .answered = on_answered,
    .broke = on_broke,
};

// ---- The watch ----

static void on_freed(void *context, const char *key, size_t key_length, int64_t now_ms)
{
    struct store_redis *store = context;

    if (!store->closing)
        store->store.hooks->freed(store->store.context, key, key_length, now_ms);
}

static int64_t on_pause(void *context, unsigned failures)
{
    return next_pause(context, failures);
}

static const struct redis_watch_hooks watch_hooks = {
    .begin = on_begin,
    .end = on_end,
    .freed = on_freed,
    .pause = on_pause,
};

// ---- Time and life ----

int64_t store_redis_link_wake(const struct store_redis *store)
{
    if (store->connection.state == REDIS_CONNECTION_BROKEN)
        return 0;
    switch (store->link) {
    case STORE_REDIS_UP:
        return redis_connection_silent_at(&store->connection, store->options.silence_ms);
    case STORE_REDIS_GREETING:
        return store->attempt_until_ms;
    default:
        return store->link_until_ms;
    }
}

static void lose_silent(struct store_redis *store, int64_t now_ms)
{
    char error[sizeof store->error];

    snprintf(error, sizeof error, "Redis did not answer within %lld ms",
             (long long)store->options.silence_ms);
    store_redis_lose(store, error, now_ms);
}

void store_redis_link_sweep(struct store_redis *store, int64_t now_ms)
{
    if (now_ms < store_redis_link_wake(store))
        return;
    if (store->connection.state == REDIS_CONNECTION_BROKEN) {
        on_broke(store, now_ms);
        return;
    }
    switch (store->link) {
    case STORE_REDIS_WAITING:
        attempt(store, now_ms);
        break;
    case STORE_REDIS_RESOLVING:
        resolved_badly(store, "no answer in time", now_ms);
        break;
    case STORE_REDIS_CONNECTING:
        take_address_failure(store, "connect: no answer in time", now_ms);
        break;
    case STORE_REDIS_GREETING:
        lose_silent(store, now_ms);
        break;
    case STORE_REDIS_UP:
        if (redis_connection_is_silent(&store->connection, store->options.silence_ms, now_ms))
            lose_silent(store, now_ms);
        break;
    }
}

int store_redis_link_init(struct store_redis *store)
{
    store->attempts = 1;
    snprintf(store->error, sizeof store->error, "not connected to Redis yet");
    resolver_init(&store->resolver, store->loop, on_resolved, store);
    redis_connection_init(&store->connection, store->loop, &hooks, store);
    return redis_watch_init(&store->watch, store->loop, &store->options, &watch_hooks, store);
}

void store_redis_link_deinit(struct store_redis *store)
{
    resolver_deinit(&store->resolver);
}
