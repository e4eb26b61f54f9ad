// SPDX-License-Identifier: Apache-2.0
//
// Faults: one after the other at random moments, each of a class that the seed has switched on. Those
// of clients are plans of theirs; those of the loop happen in its turns.

#include "tests/sim/sim.h"

const char *const sim_fault_names[SIM_FAULT_COUNT] = {
#define SIM_FAULT(symbol, name) [SIM_##symbol] = name,
    SIM_FAULTS(SIM_FAULT)
#undef SIM_FAULT
};

void fault_count(struct world *world, enum sim_fault fault)
{
    world->stats->faults[fault]++;
    world_say(world, "fault: %s", sim_fault_names[fault]);
}

void fault_trouble(struct world *world, int host, int64_t until_us)
{
    world_record(world, (struct history_record){
                            .kind = HISTORY_TROUBLE,
                            .sidecar = host < 0 ? 0 : world->hosts[host].process,
                            .until_us = until_us,
                        });
}

// Mostly short against a TTL, at times longer than one.
static int64_t duration(struct world *world)
{
    int64_t ttl_us = world->lock_ttl_ms * 1000;

    switch (chance_below(&world->chance, 4)) {
    case 0:
        return chance_between(&world->chance, 1000, ttl_us / 10);
    case 1:
    case 2:
        return chance_between(&world->chance, ttl_us / 20, ttl_us);
    default:
        return chance_between(&world->chance, ttl_us / 2, 3 * ttl_us);
    }
}

static struct sim_host *some_host(struct world *world)
{
    return &world->hosts[chance_below(&world->chance, world->host_count)];
}

static struct sim_conn *some_conn(struct world *world)
{
    const struct sim_host *host = some_host(world);

    if (!host->alive || host->store.link == SIM_LINK_DOWN)
        return NULL;
    return &world->conns[host->store.conn];
}

static uint32_t some_key(struct world *world)
{
    return (uint32_t)chance_below(&world->chance, world->key_count);
}

static bool hold(struct world *world)
{
    struct sim_conn *conn = some_conn(world);
    int64_t until_us = world->now_us + duration(world);
    int64_t way = chance_below(&world->chance, 3);

    if (!conn)
        return false;
    if (way != 0)
        conn->out_held_us = until_us;
    if (way != 1)
        conn->in_held_us = until_us;
    fault_trouble(world, (int)conn->host, until_us);
    return true;
}

static bool cut(struct world *world)
{
    struct sim_conn *conn = some_conn(world);

    if (!conn)
        return false;
    conn->reset = true;
    fault_trouble(world, (int)conn->host, world->now_us);
    host_wake(&world->hosts[conn->host], world->now_us);
    return true;
}

static bool pause(struct world *world)
{
    int64_t for_us = duration(world);

    if (world->redis.down_until_us > world->now_us)
        return false;
    redis_pause(world, for_us);
    fault_trouble(world, -1, world->now_us + for_us);
    return true;
}

static bool restart(struct world *world, bool keep)
{
    int64_t down_us = duration(world);

    redis_restart(world, down_us, keep);
    fault_trouble(world, -1, world->now_us + down_us);
    return true;
}

static bool restart_keep(struct world *world)
{
    return restart(world, true);
}

static bool restart_wipe(struct world *world)
{
    return restart(world, false);
}

static bool errors(struct world *world)
{
    world->redis.error = chance_percent(&world->chance, 80) ? STORE_UNAVAILABLE : STORE_REFUSED;
    world->redis.erring_until_us = world->now_us + duration(world);
    fault_trouble(world, -1, world->redis.erring_until_us);
    // At times just after answers were lost: what had been done does not show in the errors.
    if (chance_percent(&world->chance, 30))
        cut(world);
    return true;
}

static bool oom(struct world *world)
{
    world->redis.oom_until_us = world->now_us + duration(world);
    return true;
}

static bool nokill(struct world *world)
{
    world->redis.nokill_until_us = world->now_us + duration(world) + 3000000;
    fault_trouble(world, -1, world->redis.nokill_until_us);
    return true;
}

// Clients that are just there leave, while what is on its way for them still comes.
static void leave_all(struct world *world, enum sim_hand_state state, uint32_t key)
{
    for (uint32_t i = 0; i < world->host_count * SIM_CLIENTS; i++) {
        struct sim_client *client = &world->clients[i];
        const struct sim_hand *hand = &client->hands[0];
        if (fault_is_on(world, SIM_CLIENT_CRASH) && client->connected &&
            client->leaves == SIM_STAYS && hand->state == state && hand->key == key)
            client_leave(client, SIM_GONE);
    }
}

// The clients of a host that have nothing to do ask for the same key, all at once.
static void rush(struct world *world, const struct sim_host *host, uint32_t key)
{
    for (uint32_t i = 0; i < world->client_count; i++)
        client_rush(&world->clients[host->index * SIM_CLIENTS + i], key);
}

static bool delete_key(struct world *world)
{
    for (int64_t i = chance_below(&world->chance, 4); i >= 0; i--) {
        uint32_t key = some_key(world);
        redis_remove(world, key);
        if (chance_percent(&world->chance, 50))
            leave_all(world, SIM_WORKING, key);
    }
    return true;
}

static bool foreign(struct world *world)
{
    int64_t ttl_ms = chance_between(&world->chance, 1, 500);

    redis_take(world, some_key(world), SIM_STRANGER, ttl_ms);
    return true;
}

static bool wrong_type(struct world *world)
{
    int64_t ttl_ms = chance_between(&world->chance, 1, 500);

    redis_take(world, some_key(world), SIM_HASH, ttl_ms);
    return true;
}

static bool shorten(struct world *world)
{
    int64_t ttl_ms = chance_between(&world->chance, 0, 300);

    redis_set_ttl(world, some_key(world), ttl_ms);
    return true;
}

static bool persist(struct world *world)
{
    redis_set_ttl(world, some_key(world), INT64_MAX);
    return true;
}

static bool step(struct world *world)
{
    redis_step(world, chance_between(&world->chance, -5000000, 5000000));
    return true;
}

static bool freeze(struct world *world)
{
    struct sim_host *host = some_host(world);

    if (!host->alive || host->frozen)
        return false;
    host_freeze(host, duration(world));
    world->stats->faults[SIM_FREEZE]--; // it counts by itself
    return true;
}

static bool crash(struct world *world)
{
    struct sim_host *host = some_host(world);

    if (!host->alive)
        return false;
    host_end(host, chance_between(&world->chance, 1000, 1000000));
    return true;
}

static bool drain(struct world *world)
{
    struct sim_host *host = some_host(world);

    if (!host->alive || host->frozen || host->draining)
        return false;
    if (chance_percent(&world->chance, 50))
        rush(world, host, some_key(world));
    leave_all(world, SIM_ASKED, some_key(world));
    host_drain(host);
    world->stats->faults[SIM_DRAIN]--;
    return true;
}

static bool (*const doers[SIM_FAULT_COUNT])(struct world *world) = {
    [SIM_HOLD] = hold,
    [SIM_CUT] = cut,
    [SIM_PAUSE] = pause,
    [SIM_RESTART] = restart_keep,
    [SIM_WIPE] = restart_wipe,
    [SIM_ERRORS] = errors,
    [SIM_OOM] = oom,
    [SIM_NOKILL] = nokill,
    [SIM_DEL] = delete_key,
    [SIM_FOREIGN] = foreign,
    [SIM_WRONGTYPE] = wrong_type,
    [SIM_SHORTEN] = shorten,
    [SIM_PERSIST] = persist,
    [SIM_STEP] = step,
    [SIM_FREEZE] = freeze,
    [SIM_CRASH] = crash,
    [SIM_DRAIN] = drain,
};

void fault_next(struct world *world)
{
    int64_t which = chance_below(&world->chance, SIM_FAULT_COUNT);

    for (int i = 0; i < SIM_FAULT_COUNT; i++) {
        enum sim_fault fault = (enum sim_fault)((which + i) % SIM_FAULT_COUNT);
        if (!doers[fault] || !fault_is_on(world, fault))
            continue;
        world_say(world, "fault: %s", sim_fault_names[fault]);
        if (doers[fault](world))
            world->stats->faults[fault]++;
        return;
    }
}
