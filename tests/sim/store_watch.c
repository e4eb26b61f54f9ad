// SPDX-License-Identifier: Apache-2.0
//
// Word of freed keys. A store hears it on a connection of its own, which lives while the other one
// does. What is published before a subscription began is not heard, but its beginning counts as word
// of the key. Word may be late and, where the seed has that fault, lost.

#include "tests/sim/store_inside.h"

static void schedule_word(struct sim_store *store, uint32_t key, int64_t in_us)
{
    struct world *world = store->world;

    sim_schedule(world, world->now_us + in_us, SIM_EVENT_FREED, store->host,
                 store->subscription << 8 | key);
}

static int64_t way(struct world *world)
{
    return world->latency_us + chance_below(&world->chance, world->latency_us);
}

// The subscription's confirmation; publications are heard from then on.
static void begin(struct sim_store *store, uint32_t key)
{
    schedule_word(store, key, 2 * way(store->world));
}

void store_subscribe(struct sim_store *store)
{
    store->subscription = (store->subscription + 1) & 0xffffff;
    for (uint32_t key = 0; key < SIM_KEYS; key++)
        if (store->watched >> key & 1)
            begin(store, key);
}

void store_unsubscribe(struct sim_store *store)
{
    store->subscription = (store->subscription + 1) & 0xffffff;
    store->subscribed = store->heard = 0;
}

void store_watch(struct store *base, const char *key, size_t key_length)
{
    struct sim_store *store = (struct sim_store *)base;
    uint32_t bit = 1u << store_key(key, key_length);

    if (store->watched & bit)
        world_broken(store->world, "a key is watched twice");
    store->watched |= bit;
    if (!store->dead && store->link == SIM_LINK_UP)
        begin(store, store_key(key, key_length));
}

void store_unwatch(struct store *base, const char *key, size_t key_length)
{
    struct sim_store *store = (struct sim_store *)base;
    uint32_t bit = 1u << store_key(key, key_length);

    if (!(store->watched & bit))
        world_broken(store->world, "a key is unwatched that was not watched");
    store->watched &= ~bit;
    store->subscribed &= ~bit;
    store->heard &= ~bit;
}

void store_publish(struct world *world, uint32_t key)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct sim_store *store = &world->hosts[i].store;
        int64_t in_us;
        if (store->dead || !(store->subscribed >> key & 1))
            continue;
        in_us = way(world);
        if (fault_is_on(world, SIM_UNHEARD) && chance_percent(&world->chance, 20)) {
            fault_count(world, SIM_UNHEARD);
            if (chance_percent(&world->chance, 50))
                continue;
            in_us += chance_between(&world->chance, 1000, 2000000);
        }
        schedule_word(store, key, in_us);
    }
}

void store_hear(struct sim_store *store, uint32_t word)
{
    uint32_t bit = 1u << (word & 0xff);

    if (store->dead || word >> 8 != store->subscription || !(store->watched & bit))
        return;
    store->subscribed |= bit;
    store->heard |= bit;
    host_wake(&store->world->hosts[store->host], store->world->now_us);
}

void store_tell_freed(struct sim_store *store, int64_t now_ms)
{
    for (uint32_t key = 0; key < SIM_KEYS; key++) {
        char name[] = {'k', (char)('0' + key)};
        if (!(store->heard >> key & 1))
            continue;
        store->heard &= ~(1u << key);
        store->store.hooks->freed(store->store.context, name, sizeof name, now_ms);
    }
}
