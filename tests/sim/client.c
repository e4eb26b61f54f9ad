// SPDX-License-Identifier: Apache-2.0
//
// Clients: their connections, what they read, and when they act.
//
//     client_line.c  lines to and from sidecars    client_plan.c  what a client does

#include <string.h>

#include "tests/sim/client_inside.h"

// ---- Acting ----

static void drop_unread(struct sim_client *client)
{
    while (notes_first(&client->pipe))
        notes_pop(&client->pipe);
    client->pipe_bytes = 0;
}

static void open_connection(struct sim_client *client)
{
    client->number = ++client->world->connections;
    client->connected = true;
    client->closed = false;
    client->leaves = SIM_STAYS;
    client->line_count = 0;
    drop_unread(client);
    client->line_us = client->pipe_us = client->world->now_us;
    for (uint32_t i = 1; i < SIM_HANDS; i++)
        client_later(client, i, client_think(client));
}

static void after_told(struct sim_client *client, struct sim_hand *hand)
{
    if (chance_percent(&client->world->chance, 60))
        client_release(client, hand); // "I have stopped"
    else
        client_idle(client, hand, client_think(client));
}

static void hear_again(struct world *world, struct sim_client *client)
{
    client->deaf = false;
    client_read(world, client);
}

void client_act(struct world *world, struct sim_client *client, uint32_t number)
{
    struct sim_hand *hand = &client->hands[number % SIM_HANDS];

    if (number == SIM_HANDS) {
        hear_again(world, client);
        return;
    }
    if (!world->hosts[client->host].alive || client->leaves == SIM_HALF_CLOSED)
        return;
    if (client->number == 0 && number == 0 && !world->leaving)
        open_connection(client);
    if (!client->connected)
        return;
    if (world->leaving)
        client_leave(client, SIM_GONE);
    else if (hand->state == SIM_IDLE)
        client_ask(client, hand);
    else if (hand->state == SIM_ASKED)
        client_tire(client, hand);
    else if (hand->state == SIM_WORKING)
        client_act_on_plan(client, hand);
    else if (hand->state == SIM_TOLD)
        after_told(client, hand);
    else if (hand->state == SIM_ALONE)
        client_take_up(client, hand);
}

void client_later(struct sim_client *client, uint32_t number, int64_t in_us)
{
    struct sim_hand *hand = &client->hands[number];

    hand->serial = (hand->serial + 1) & 0xffffff;
    if (in_us != INT64_MAX)
        sim_schedule(client->world, client->world->now_us + in_us, SIM_EVENT_CLIENT, client->index,
                     hand->serial << 8 | number);
}

// ---- The end of a connection ----

// goes_on: what it works on it may adopt; else only what outlives its connection.
static bool empty_hands(struct sim_client *client, bool goes_on)
{
    bool any = false;

    for (uint32_t i = 0; i < SIM_HANDS; i++) {
        struct sim_hand *hand = &client->hands[i];
        bool alone = hand->state == SIM_ALONE ||
                     (hand->state == SIM_WORKING && (goes_on || hand->request & SIM_UNBOUND) &&
                      chance_percent(&client->world->chance, 70));
        hand->state = alone ? SIM_ALONE : SIM_IDLE;
        hand->serial++;
        any |= alone;
    }
    return any;
}

void client_leave(struct sim_client *client, enum sim_leaves how)
{
    struct world *world = client->world;
    bool still = !client->closed;

    world_record(world, (struct history_record){
                            .kind = still ? HISTORY_CLIENT_LEAVES : HISTORY_CLIENT_EOF,
                            .sidecar = world->hosts[client->host].process,
                            .client = client->number,
                        });
    empty_hands(client, false);
    client->leaves = how;
    client->leaves_us = world->now_us + chance_between(&world->chance, 5, 500);
    if (client->leaves_us < client->line_us)
        client->leaves_us = client->line_us;
    host_wake(&world->hosts[client->host], client->leaves_us);
    if (how == SIM_HALF_CLOSED)
        return;
    client->connected = false;
    client->deaf = false;
    drop_unread(client);
    if (still)
        return;
    client->number = 0;
    client_later(client, 0, client_think(client));
}

static void at_end(struct sim_client *client)
{
    bool goes_on = empty_hands(client, client->leaves == SIM_STAYS && !client->world->leaving);

    world_record(client->world, (struct history_record){.kind = HISTORY_CLIENT_EOF,
                                                        .client = client->number,
                                                        .ok = goes_on});
    client->connected = client->deaf = false;
    client->number = 0;
    client->leaves = SIM_STAYS;
    client_later(client, 0, client_think(client));
}

// ---- Reading ----

static void on_granted(struct sim_client *client, struct sim_hand *hand,
                       const struct sim_note *note)
{
    if (!hand || hand->state != SIM_ASKED) {
        if (client->leaves == SIM_STAYS) // the second of two asked for: not wanted
            client_say_release(client, client_next_request(client->world), &note->token);
        return;
    }
    hand->token = note->token;
    hand->deadline_us = note->due_us;
    client_work(client, hand);
}

static struct sim_hand *hand_of_request(struct sim_client *client, uint32_t request)
{
    for (uint32_t i = 0; i < SIM_HANDS; i++)
        if (client->hands[i].state != SIM_IDLE && client->hands[i].request == request)
            return &client->hands[i];
    return NULL;
}

static struct sim_hand *hand_of_lease(struct sim_client *client, const struct message_token *lease)
{
    for (uint32_t i = 0; i < SIM_HANDS; i++)
        if (client->hands[i].state == SIM_WORKING &&
            memcmp(&client->hands[i].token, lease, sizeof *lease) == 0)
            return &client->hands[i];
    return NULL;
}

static void on_note(struct sim_client *client, const struct sim_note *note)
{
    static const uint8_t kinds[HISTORY_KIND_COUNT] = {
        [HISTORY_WROTE_GRANTED] = HISTORY_CLIENT_GRANTED,
        [HISTORY_WROTE_ADOPTED] = HISTORY_CLIENT_GRANTED,
        [HISTORY_WROTE_RENEWED] = HISTORY_CLIENT_RENEWED,
        [HISTORY_WROTE_REVOKED] = HISTORY_CLIENT_REVOKED,
    };
    struct sim_hand *hand = hand_of_request(client, note->request);
    struct world *world = client->world;

    if (note->kind < HISTORY_KIND_COUNT && kinds[note->kind])
        world_record(world, (struct history_record){.kind = (enum history_kind)kinds[note->kind],
                                                    .client = client->number,
                                                    .key = note->key,
                                                    .token = note->token,
                                                    .until_us = note->until_us});
    if (note->kind == HISTORY_WROTE_GRANTED || note->kind == HISTORY_WROTE_ADOPTED) {
        on_granted(client, hand, note);
    } else if (note->kind == HISTORY_WROTE_REVOKED) {
        hand = hand_of_lease(client, &note->token);
        if (!hand)
            return;
        hand->state = SIM_TOLD;
        client_later(client, (uint32_t)(hand - client->hands),
                     chance_between(&world->chance, 0, 200 * world->lock_ttl_ms));
    } else if (hand && (note->kind == HISTORY_WROTE_DENIED || note->kind == HISTORY_WROTE_ANSWER ||
                        note->kind == HISTORY_WROTE_RELEASED)) {
        // Whoever was refused waits a while longer.
        client_idle(client, hand,
                    note->kind != HISTORY_WROTE_RELEASED ? 10 * client_think(client)
                                                         : client_think(client));
    }
}

void client_read(struct world *world, struct sim_client *client)
{
    struct sim_note *first;

    while (client->connected && !client->deaf && (first = notes_first(&client->pipe)) &&
           first->at_us <= world->now_us) {
        struct sim_note note = *first;
        notes_pop(&client->pipe);
        client->pipe_bytes -= note.length;
        if (note.end)
            at_end(client);
        else
            on_note(client, &note);
    }
    if (client->accepted && notes_first(&client->out))
        host_wake(&world->hosts[client->host], world->now_us); // there is room again
}
