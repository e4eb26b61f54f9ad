// SPDX-License-Identifier: Apache-2.0
//
// What clients do: each has hands that ask for a lease, work under it and do with it what a plan says.
// Plans are a table: a name, how often, for how long, and the act at the end of the work.
//
// A hand waits for as long as its acquire says, or tires of it before. What it was granted it may
// hand to another client, of its own sidecar or of another one, by telling it the token. At the end
// of its connection it may go on, and look for a sidecar that adopts it.

#include <string.h>

#include "tests/sim/client_inside.h"

enum hold { HOLD_SHORT, HOLD_MIDDLE, HOLD_LONG, HOLD_ON, HOLD_LAST };

struct sim_plan {
    const char *name;
    int weight;
    enum hold hold;
    int needs; // a fault that must be on, or -1
    void (*act)(struct sim_client *client, struct sim_hand *hand);
};

// HOLD_LAST: until a moment before the workflow deadline.
static int64_t hold_us(struct world *world, const struct sim_hand *hand, enum hold hold)
{
    int64_t left_us = hand->deadline_us - world->now_us;

    switch (hold) {
    case HOLD_SHORT:
        return chance_between(&world->chance, 0, 4000);
    case HOLD_MIDDLE:
        return chance_between(&world->chance, 1000, 40000);
    case HOLD_LONG:
        return chance_between(&world->chance, 100000, 2500 * world->lock_ttl_ms);
    case HOLD_LAST:
        left_us -= chance_between(&world->chance, 0, 6000);
        return left_us > 0 ? left_us : 0;
    case HOLD_ON:
        break;
    }
    return INT64_MAX;
}

uint32_t client_next_request(struct world *world)
{
    return world->requests += SIM_NEXT_REQUEST;
}

static uint32_t next_lease_request(struct world *world)
{
    uint32_t request = client_next_request(world);

    if (chance_percent(&world->chance, 8))
        request |= SIM_EXPIRES;
    if (chance_percent(&world->chance, 5))
        request |= SIM_UNBOUND;
    return request;
}

static uint32_t number_of(const struct sim_client *client, const struct sim_hand *hand)
{
    return (uint32_t)(hand - client->hands);
}

void client_idle(struct sim_client *client, struct sim_hand *hand, int64_t in_us)
{
    hand->state = SIM_IDLE;
    client_later(client, number_of(client, hand), in_us);
}

int64_t client_think(struct sim_client *client)
{
    struct chance *chance = &client->world->chance;
    return chance_percent(chance, 90) ? chance_between(chance, 200, 12000)
                                      : chance_between(chance, 10000, 400000);
}

// ---- Ends ----

void client_release(struct sim_client *client, struct sim_hand *hand)
{
    hand->request = client_next_request(client->world);
    hand->state = SIM_FREEING;
    client_say_release(client, hand->request, &hand->token);
}

static void do_release_twice(struct sim_client *client, struct sim_hand *hand)
{
    client_release(client, hand);
    client_say_release(client, client_next_request(client->world), &hand->token);
}

// Another client of the host lets it go; the holder learns of it by its revoked event.
static void do_release_elsewhere(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;
    uint32_t first = client->host * SIM_CLIENTS;
    struct sim_client *other =
        &world->clients[first + (uint32_t)chance_below(&world->chance, world->client_count)];

    if (other == client || !other->connected || other->leaves != SIM_STAYS) {
        client_release(client, hand);
        return;
    }
    client_say_release(other, client_next_request(world), &hand->token);
    client_idle(client, hand, client_think(client));
}

static void do_crash(struct sim_client *client, struct sim_hand *hand)
{
    (void)hand;
    fault_count(client->world, SIM_CLIENT_CRASH);
    client_leave(client, SIM_GONE);
}

static void do_half_close(struct sim_client *client, struct sim_hand *hand)
{
    (void)hand;
    fault_count(client->world, SIM_CLIENT_HALF);
    client_leave(client, SIM_HALF_CLOSED);
}

static void do_deaf(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;

    (void)hand;
    fault_count(world, SIM_CLIENT_DEAF);
    client->deaf = true;
    sim_schedule(world, world->now_us + chance_between(&world->chance, 1000, 2500000),
                 SIM_EVENT_CLIENT, client->index, SIM_HANDS);
}

static void do_nothing(struct sim_client *client, struct sim_hand *hand)
{
    (void)client;
    (void)hand;
}

// ---- Adoption ----

static void adopt(struct sim_client *client, struct sim_hand *hand, uint32_t key,
                  const struct message_token *lease)
{
    struct world *world = client->world;

    hand->request = next_lease_request(world);
    hand->key = key;
    hand->state = SIM_ASKED;
    hand->waits = false;
    hand->serial++;
    client_say_adopt(client, hand->request, key, lease);
    if (chance_percent(&world->chance, 5)) // and once more, before it knows
        client_say_adopt(client, next_lease_request(world), key, lease);
}

static bool is_there(const struct sim_client *client)
{
    return client->number != 0 && client->connected && client->leaves == SIM_STAYS &&
           !client->closed && client->world->hosts[client->host].alive;
}

// Some other client adopts the lease; false: the one that chance chose cannot.
static bool adopt_elsewhere(struct sim_client *client, const struct sim_hand *hand)
{
    struct world *world = client->world;
    uint32_t host = (uint32_t)chance_below(&world->chance, world->host_count);
    struct sim_client *other =
        &world->clients[host * SIM_CLIENTS +
                        (uint32_t)chance_below(&world->chance, world->client_count)];

    if (other == client || !is_there(other) || world->leaving)
        return false;
    for (uint32_t i = 0; i < SIM_HANDS; i++) {
        if (other->hands[i].state != SIM_IDLE)
            continue;
        adopt(other, &other->hands[i], hand->key, &hand->token);
        return true;
    }
    return false;
}

// What it does with a lease that another has been told of: it has not stopped yet, or has.
static void do_hand_on(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;
    static const struct sim_plan afterwards[] = {
        {"stays until told", 0, HOLD_ON, -1, do_nothing},
        {"releases what was handed on", 0, HOLD_LONG, -1, client_release},
        {"leaves what was handed on", 0, HOLD_MIDDLE, -1, do_crash},
    };
    bool may_leave = fault_is_on(world, SIM_CLIENT_CRASH);

    if (!adopt_elsewhere(client, hand)) {
        client_release(client, hand);
        return;
    }
    hand->plan = &afterwards[chance_below(&world->chance, may_leave ? 3 : 2)];
    client_later(client, number_of(client, hand), hold_us(world, hand, hand->plan->hold));
}

// Over the same connection: for other options, say.
static void do_adopt_own(struct sim_client *client, struct sim_hand *hand)
{
    adopt(client, hand, hand->key, &hand->token);
}

void client_take_up(struct sim_client *client, struct sim_hand *hand)
{
    int64_t what = chance_below(&client->world->chance, 10);

    if (what == 0)
        client_release(client, hand);
    else if (what > 6 || !adopt_elsewhere(client, hand))
        adopt(client, hand, hand->key, &hand->token);
    else
        client_idle(client, hand, client_think(client));
}

// ---- Questions, and an operator ----

static void do_extend(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;
    static const struct sim_plan afterwards = {"releases late", 0, HOLD_LONG, -1, client_release};

    client_say_extend(client, client_next_request(world), &hand->token,
                      chance_between(&world->chance, 1, 8000));
    if (chance_percent(&world->chance, 30)) {
        client_release(client, hand);
        return;
    }
    hand->plan = &afterwards;
    client_later(client, number_of(client, hand), hold_us(world, hand, HOLD_LONG));
}

static void do_inspect(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;

    client_say_inspect(client, client_next_request(world),
                       (uint32_t)chance_below(&world->chance, world->key_count));
    client_release(client, hand);
}

static void do_break(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;
    struct chance *chance = &world->chance;
    uint32_t key =
        chance_percent(chance, 50) ? hand->key : (uint32_t)chance_below(chance, world->key_count);
    static const struct sim_plan afterwards = {"releases soon", 0, HOLD_MIDDLE, -1, client_release};

    client_say_break(client, client_next_request(world), key,
                     chance_percent(chance, 50) ? 0 : chance_between(chance, 1, 400));
    hand->plan = &afterwards;
    client_later(client, number_of(client, hand), hold_us(world, hand, HOLD_MIDDLE));
}

// ---- The plans ----

static const struct sim_plan plans[] = {
    {"releases soon", 520, HOLD_SHORT, -1, client_release},
    {"releases", 140, HOLD_MIDDLE, -1, client_release},
    {"releases late", 10, HOLD_LONG, -1, client_release},
    {"releases twice", 20, HOLD_SHORT, -1, do_release_twice},
    {"is released by another", 20, HOLD_MIDDLE, -1, do_release_elsewhere},
    {"holds until told", 4, HOLD_ON, -1, do_nothing},
    {"hands on", 20, HOLD_SHORT, -1, do_hand_on},
    {"hands on late", 6, HOLD_LONG, -1, do_hand_on},
    {"hands on at the last moment", 4, HOLD_LAST, -1, do_hand_on},
    {"adopts its own", 5, HOLD_MIDDLE, -1, do_adopt_own},
    {"extends", 10, HOLD_MIDDLE, -1, do_extend},
    {"inspects", 15, HOLD_SHORT, -1, do_inspect},
    {"breaks", 10, HOLD_SHORT, -1, do_break},
    {"dies soon", 30, HOLD_SHORT, SIM_CLIENT_CRASH, do_crash},
    {"dies", 15, HOLD_MIDDLE, SIM_CLIENT_CRASH, do_crash},
    {"dies late", 5, HOLD_LONG, SIM_CLIENT_CRASH, do_crash},
    {"half-closes", 15, HOLD_MIDDLE, SIM_CLIENT_HALF, do_half_close},
    {"half-closes late", 5, HOLD_LONG, SIM_CLIENT_HALF, do_half_close},
    {"stops reading", 20, HOLD_MIDDLE, SIM_CLIENT_DEAF, do_deaf},
    {"stops reading at once", 10, HOLD_SHORT, SIM_CLIENT_DEAF, do_deaf},
};

enum { PLAN_COUNT = sizeof plans / sizeof plans[0] };

static const struct sim_plan *choose_plan(struct world *world)
{
    const struct sim_plan *plan;

    do {
        int64_t at = chance_below(&world->chance, 880);
        plan = plans;
        while (at >= plan->weight && plan < plans + PLAN_COUNT - 1)
            at -= plan++->weight;
    } while (plan->needs >= 0 && !fault_is_on(world, (enum sim_fault)plan->needs));
    return plan;
}

void client_work(struct sim_client *client, struct sim_hand *hand)
{
    hand->state = SIM_WORKING;
    hand->plan = choose_plan(client->world);
    client_later(client, number_of(client, hand), hold_us(client->world, hand, hand->plan->hold));
}

void client_act_on_plan(struct sim_client *client, struct sim_hand *hand)
{
    hand->plan->act(client, hand);
}

// ---- Asking ----

static int64_t choose_wait(struct world *world)
{
    struct chance *chance = &world->chance;

    switch (chance_below(chance, 12)) {
    case 0:
        return -1;
    case 1:
        return chance_between(chance, 1, 30);
    case 2:
    case 3:
        return chance_between(chance, 20, 3000);
    default:
        return 0;
    }
}

void client_ask(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;
    struct chance *chance = &world->chance;
    int64_t wait_ms = choose_wait(world);

    hand->request = next_lease_request(world);
    hand->key = (uint32_t)chance_below(chance, world->key_count);
    hand->state = SIM_ASKED;
    hand->waits = wait_ms != 0;
    client_say_acquire(client, hand->request, hand->key, wait_ms);
    if (hand->waits && chance_percent(chance, 20))
        client_later(client, number_of(client, hand), chance_between(chance, 0, 60000));
    if (chance_percent(chance, 4)) // and once more, which must queue or be refused
        client_say_acquire(client, next_lease_request(world), hand->key, choose_wait(world));
    if (fault_is_on(world, SIM_CLIENT_CRASH) && chance_percent(chance, 2))
        do_crash(client, hand);
    else if (fault_is_on(world, SIM_CLIENT_HALF) && chance_percent(chance, 1))
        do_half_close(client, hand);
}

void client_rush(struct sim_client *client, uint32_t key)
{
    struct sim_hand *hand = &client->hands[0];

    if (!is_there(client) || hand->state != SIM_IDLE)
        return;
    hand->request = next_lease_request(client->world);
    hand->key = key;
    hand->state = SIM_ASKED;
    hand->waits = false;
    hand->serial++;
    client_say_acquire(client, hand->request, key, 0);
}

void client_tire(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;

    if (!hand->waits)
        return;
    if (fault_is_on(world, SIM_CLIENT_CRASH) && chance_percent(&world->chance, 30))
        do_crash(client, hand);
    else if (fault_is_on(world, SIM_CLIENT_HALF) && chance_percent(&world->chance, 20))
        do_half_close(client, hand);
    else
        client_say_cancel(client, client_next_request(world), hand->request);
    if (chance_percent(&world->chance, 10) && client->leaves == SIM_STAYS)
        client_say_cancel(client, client_next_request(world), hand->request);
}
