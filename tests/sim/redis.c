// SPDX-License-Identifier: Apache-2.0
//
// A model Redis: a few keys, what the scripts do, expiry by its own wall clock, the counter of fencing
// tokens. Stopped, it takes bytes and executes them later; down, it loses its connections. What it
// executes is recorded, but what a compare-and-set did not do is not.

#include <string.h>

#include "tests/sim/sim.h"

static const int64_t first_wall_us = INT64_C(1790000000000000);

static int64_t wall_at(const struct sim_redis *redis, int64_t at_us)
{
    int64_t since_us = at_us - redis->anchor_us;

    return redis->anchor_wall_us + since_us + since_us * redis->rate_ppm / 1000000;
}

int64_t redis_wall_us(const struct world *world)
{
    return wall_at(&world->redis, world->now_us);
}

static int64_t wall_ms(const struct world *world)
{
    return redis_wall_us(world) / 1000;
}

// The instant at which the wall clock shows wall_us.
static int64_t when(const struct world *world, int64_t wall_us)
{
    const struct sim_redis *redis = &world->redis;
    int64_t since_us = wall_us - redis->anchor_wall_us;
    int64_t at_us = redis->anchor_us + since_us * 1000000 / (1000000 + redis->rate_ppm) - 1;

    while (wall_at(redis, at_us) < wall_us)
        at_us++;
    return at_us;
}

void redis_init(struct world *world)
{
    world->redis.anchor_wall_us = first_wall_us;
    world->redis.run = 1;
}

// ---- Keys ----

// process: whose call it is, 0: nobody's.
static void record(struct world *world, enum history_kind kind, uint32_t process, uint32_t key,
                   const struct sim_key *value)
{
    world_record(world, (struct history_record){.kind = kind,
                                                .sidecar = process,
                                                .key = key + 1,
                                                .token = value->token.token,
                                                .fence = kind == HISTORY_SET ? value->fence : 0});
}

static void schedule_expiry(struct world *world, uint32_t key)
{
    struct sim_key *value = &world->redis.keys[key];

    value->serial++;
    if (value->value != SIM_NONE && value->expire_ms != INT64_MAX)
        sim_schedule(world, when(world, (value->expire_ms + 1) * 1000), SIM_EVENT_EXPIRE, key,
                     value->serial);
}

static void clear(struct world *world, uint32_t key)
{
    world->redis.keys[key].value = SIM_NONE;
    world->redis.keys[key].serial++;
}

static struct sim_key *live_key(struct world *world, uint32_t key)
{
    struct sim_key *value = &world->redis.keys[key];

    if (value->value == SIM_NONE || value->expire_ms >= wall_ms(world))
        return value;
    if (value->value == SIM_LEASE)
        record(world, HISTORY_EXPIRED, 0, key, value);
    clear(world, key);
    return value;
}

void redis_expire(struct world *world, uint32_t key, uint32_t serial)
{
    struct sim_key *value = &world->redis.keys[key];

    if (serial != value->serial)
        return;
    if (live_key(world, key)->value != SIM_NONE)
        schedule_expiry(world, key);
}

void redis_remove(struct world *world, uint32_t key)
{
    if (live_key(world, key)->value == SIM_LEASE)
        world_record(world, (struct history_record){.kind = HISTORY_LOST, .key = key + 1});
    clear(world, key);
}

void redis_take(struct world *world, uint32_t key, enum sim_value value, int64_t ttl_ms)
{
    redis_remove(world, key);
    world->redis.keys[key].value = value;
    world->redis.keys[key].expire_ms = wall_ms(world) + ttl_ms;
    schedule_expiry(world, key);
}

void redis_set_ttl(struct world *world, uint32_t key, int64_t ttl_ms)
{
    struct sim_key *value = live_key(world, key);

    if (value->value != SIM_LEASE)
        return;
    // Longer is no licence: it must go as if nothing had been done to it.
    if (ttl_ms != INT64_MAX)
        world_record(world, (struct history_record){.kind = HISTORY_FORFEIT, .key = key + 1});
    value->expire_ms = ttl_ms == INT64_MAX ? INT64_MAX : wall_ms(world) + ttl_ms;
    schedule_expiry(world, key);
}

void redis_step(struct world *world, int64_t by_us)
{
    struct sim_redis *redis = &world->redis;

    redis->anchor_wall_us = redis_wall_us(world) + by_us;
    redis->anchor_us = world->now_us;
    redis->stepped_back |= by_us < 0;
    world_record(world, (struct history_record){.kind = HISTORY_FORFEIT});
    for (uint32_t key = 0; key < world->key_count; key++)
        if (live_key(world, key)->value != SIM_NONE)
            schedule_expiry(world, key);
}

// ---- Commands ----

static bool is_token(const struct sim_key *value, const struct store_token *token)
{
    return value->value == SIM_LEASE && memcmp(&value->token, token, sizeof *token) == 0;
}

static int64_t next_fence(struct world *world, int64_t floor)
{
    struct sim_redis *redis = &world->redis;
    int64_t fence = redis->counter + 1;

    if (fence < INT64_C(1000000000000000)) {
        fence = redis_wall_us(world);
        if (redis->stepped_back)
            world_record(world, (struct history_record){.kind = HISTORY_FENCES_LOST});
    }
    if (fence <= floor)
        fence = floor + 1;
    redis->counter = fence;
    return fence;
}

static void held(struct world *world, struct sim_message *message, const struct sim_key *value)
{
    message->items[0].outcome = STORE_HELD;
    message->pttl_ms = value->expire_ms == INT64_MAX ? -1 : value->expire_ms - wall_ms(world);
    message->found = *value;
}

static void take_key(struct world *world, struct sim_message *message, struct sim_key *value)
{
    struct sim_item *item = &message->items[0];
    int64_t now_us = redis_wall_us(world);

    value->value = SIM_LEASE;
    value->token = item->token;
    value->fence = next_fence(world, message->fence);
    value->ttl_ms = item->ttl_ms;
    value->since_us = now_us;
    value->deadline_us = now_us + message->deadline_ms * 1000;
    value->uid = message->uid;
    value->process = message->process;
    value->expire_ms = now_us / 1000 + item->ttl_ms;
    record(world, HISTORY_SET, message->process, item->key, value);
}

static void acquire(struct world *world, struct sim_message *message)
{
    struct sim_item *item = &message->items[0];
    struct sim_key *value = live_key(world, item->key);
    bool replaces = message->hands_over && is_token(value, &message->replaces);

    item->outcome = STORE_OK;
    if (is_token(value, &item->token)) {
        value->expire_ms = wall_ms(world) + item->ttl_ms;
        record(world, HISTORY_EXTENDED, message->process, item->key, value);
    } else if (value->value != SIM_NONE && !replaces) {
        held(world, message, value);
        return;
    } else if (world->redis.oom_until_us > world->now_us) {
        item->outcome = STORE_REFUSED;
        return;
    } else {
        if (replaces)
            record(world, HISTORY_HANDED, message->process, item->key, value);
        message->replaced = replaces;
        take_key(world, message, value);
    }
    message->fence = value->fence;
    schedule_expiry(world, item->key);
}

static void renew(struct world *world, const struct sim_message *message, struct sim_item *item)
{
    struct sim_key *value = live_key(world, item->key);

    item->outcome = STORE_NOT_OWNER;
    if (!is_token(value, &item->token))
        return;
    item->outcome = STORE_OK;
    value->expire_ms = wall_ms(world) + item->ttl_ms;
    record(world, HISTORY_EXTENDED, message->process, item->key, value);
    schedule_expiry(world, item->key);
}

static void release(struct world *world, struct sim_message *message)
{
    struct sim_item *item = &message->items[0];
    struct sim_key *value = live_key(world, item->key);

    item->outcome = STORE_NOT_OWNER;
    if (!is_token(value, &item->token))
        return;
    item->outcome = STORE_OK;
    record(world, HISTORY_DELETED, message->process, item->key, value);
    clear(world, item->key);
    store_publish(world, item->key);
}

static void adopt(struct world *world, struct sim_message *message)
{
    struct sim_item *item = &message->items[0];
    struct sim_key *value = live_key(world, item->key);

    message->now_us = redis_wall_us(world);
    item->outcome = STORE_NOT_OWNER;
    if (value->value != SIM_LEASE || message->now_us >= value->deadline_us ||
        memcmp(&value->token.token, &item->token.token, sizeof item->token.token) != 0)
        return;
    item->outcome = STORE_NOT_YOURS;
    if (message->uid != 0 && message->uid != value->uid)
        return;
    item->outcome = STORE_OK;
    value->token = item->token;
    value->process = message->process;
    value->expire_ms = message->now_us / 1000 + value->ttl_ms;
    record(world, HISTORY_ADOPTED, message->process, item->key, value);
    schedule_expiry(world, item->key);
    item->ttl_ms = value->ttl_ms;
    message->found = *value;
}

static void extend(struct world *world, struct sim_message *message)
{
    struct sim_item *item = &message->items[0];
    struct sim_key *value = live_key(world, item->key);
    bool persistent = value->expire_ms == INT64_MAX;

    item->outcome = STORE_NOT_OWNER;
    if (!is_token(value, &item->token))
        return;
    item->outcome = STORE_REFUSED;
    if (persistent && world->redis.oom_until_us > world->now_us)
        return;
    item->outcome = STORE_OK;
    value->deadline_us = value->since_us + message->deadline_ms * 1000;
}

static void inspect(struct world *world, struct sim_message *message)
{
    const struct sim_key *value = live_key(world, message->items[0].key);

    message->now_us = redis_wall_us(world);
    message->items[0].outcome = STORE_OK;
    if (value->value != SIM_NONE)
        held(world, message, value);
}

static void break_key(struct world *world, struct sim_item *item)
{
    const struct sim_key *value = live_key(world, item->key);

    item->outcome = STORE_NOT_OWNER;
    if (value->value == SIM_NONE)
        return;
    item->outcome = STORE_OK;
    if (value->value == SIM_LEASE)
        world_record(world, (struct history_record){.kind = HISTORY_BROKEN, .key = item->key + 1});
    clear(world, item->key);
    store_publish(world, item->key);
}

static void hello(struct world *world, struct sim_conn *conn, struct sim_message *message)
{
    conn->id = message->id = ++world->redis.next_id;
    conn->run = message->run = world->redis.run;
}

static void kill_client(struct world *world, struct sim_message *message)
{
    message->refused = world->redis.nokill_until_us > world->now_us;
    for (uint32_t i = 0; i < SIM_CONNS; i++) {
        struct sim_conn *conn = &world->conns[i];
        if (!conn->used || conn->run != world->redis.run || conn->id != message->id)
            continue;
        if (!conn->closed)
            world_broken(world, "CLIENT KILL hit a connection that is in use");
        conn->spared |= message->refused;
        conn->killed |= !message->refused;
    }
}

// Where KILL is refused a sidecar repeats its deletes for T + C. What arrives later still lives for a
// TTL; nobody can help it.
static void excuse_late_bytes(struct world *world, const struct sim_conn *conn,
                              const struct sim_item *item)
{
    int64_t repeated_us = (item->ttl_ms + lease_call_ms(item->ttl_ms)) * 1000;

    if (conn->spared && item->outcome == STORE_OK &&
        world->now_us > conn->closed_us + repeated_us - world->lock_ttl_ms * 1000 / 12)
        world_record(world, (struct history_record){.kind = HISTORY_FORFEIT, .key = item->key + 1});
}

static void execute_item(struct world *world, struct sim_message *message, struct sim_item *item)
{
    switch (message->kind) {
    case SIM_ACQUIRE:
        acquire(world, message);
        break;
    case SIM_RENEW:
        renew(world, message, item);
        break;
    case SIM_RELEASE:
        release(world, message);
        break;
    case SIM_ADOPT:
        adopt(world, message);
        break;
    case SIM_EXTEND:
        extend(world, message);
        break;
    case SIM_INSPECT:
        inspect(world, message);
        break;
    case SIM_BREAK:
        break_key(world, item);
        break;
    case SIM_HELLO:
    case SIM_KILL:
        break;
    }
}

static void execute(struct world *world, uint32_t number, struct sim_message *message)
{
    struct sim_conn *conn = &world->conns[number];
    bool errs = world->redis.erring_until_us > world->now_us;

    for (uint32_t i = 0; i < message->count; i++) {
        struct sim_item *item = &message->items[i];
        if (errs)
            item->outcome = world->redis.error;
        else
            execute_item(world, message, item);
    }
    if (message->kind == SIM_ACQUIRE)
        excuse_late_bytes(world, conn, &message->items[0]);
    if (message->kind == SIM_HELLO)
        hello(world, conn, message);
    else if (message->kind == SIM_KILL)
        kill_client(world, message);
    net_reply(world, number, message);
}

// ---- Arrival ----

static void deliver(struct world *world, uint32_t number, struct sim_message *message)
{
    const struct sim_conn *conn = &world->conns[number];

    if (conn->killed || (message->kind != SIM_HELLO && conn->run != world->redis.run))
        net_free(world, message);
    else
        execute(world, number, message);
}

void redis_arrive(struct world *world, uint32_t number)
{
    struct sim_redis *redis = &world->redis;
    struct sim_conn *conn = &world->conns[number];
    struct sim_message *message = conn->out.first;

    if (!message || message->at_us > world->now_us)
        return; // it was put off
    net_pop(&conn->out);
    if (redis->down_until_us > world->now_us) {
        if (message->kind == SIM_HELLO) {
            message->refused = true;
            net_reply(world, number, message);
        } else {
            net_free(world, message);
        }
    } else if (redis->paused_until_us > world->now_us && !conn->killed) {
        net_push(&redis->backlog, message);
        conn->waiting++;
        redis->backlog_conns[redis->backlog_last++ % SIM_BACKLOG] = number;
    } else {
        deliver(world, number, message);
    }
}

void redis_pause(struct world *world, int64_t for_us)
{
    world->redis.paused_until_us = world->now_us + for_us;
    sim_schedule(world, world->redis.paused_until_us, SIM_EVENT_RESUME, 0, 0);
}

void redis_resume(struct world *world)
{
    struct sim_redis *redis = &world->redis;
    struct sim_message *message;

    if (redis->paused_until_us > world->now_us)
        return;
    while ((message = net_pop(&redis->backlog))) {
        uint32_t number = redis->backlog_conns[redis->backlog_first++ % SIM_BACKLOG];
        world->conns[number].waiting--;
        deliver(world, number, message);
    }
}

void redis_restart(struct world *world, int64_t down_us, bool keep)
{
    struct sim_redis *redis = &world->redis;
    struct sim_message *message;

    redis->down_until_us = world->now_us + down_us;
    redis->paused_until_us = 0;
    redis->run++;
    redis->next_id = 0;
    while ((message = net_pop(&redis->backlog)))
        net_free(world, message);
    redis->backlog_first = redis->backlog_last;
    for (uint32_t i = 0; i < SIM_CONNS; i++) {
        struct sim_conn *conn = &world->conns[i];
        conn->waiting = 0;
        if (!conn->used || conn->closed || conn->reset)
            continue;
        // A host that is cut off hears nothing of it.
        conn->reset = conn->in_held_us <= world->now_us && chance_percent(&world->chance, 80);
        if (conn->reset)
            host_wake(&world->hosts[conn->host], world->now_us + world->latency_us);
    }
    if (keep)
        return;
    for (uint32_t key = 0; key < world->key_count; key++)
        redis_remove(world, key);
    redis->counter = 0;
}
