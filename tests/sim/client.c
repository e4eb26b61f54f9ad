// SPDX-License-Identifier: Apache-2.0
//
// Clients: each has hands that ask for a lease, work under it and do with it what a plan says. Plans
// are a table: a name, how often, for how long, and the act at the end of the work; a later feature
// of the protocol adds rows (and kinds of notes).
//
// A client's word is its line to the sidecar. What it reads are notes: lines that were scanned when
// the sidecar wrote them, and arrive later.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

// ---- Notes ----

void notes_push(struct sim_notes *notes, const struct sim_note *note)
{
    if (notes->count == notes->room) {
        uint32_t room = notes->room ? notes->room * 2 : 16;
        struct sim_note *items = calloc(room, sizeof *items);
        if (!items)
            abort();
        for (uint32_t i = 0; i < notes->count; i++)
            items[i] = notes->items[(notes->first + i) % notes->room];
        free(notes->items);
        notes->items = items;
        notes->room = room;
        notes->first = 0;
    }
    notes->items[(notes->first + notes->count++) % notes->room] = *note;
}

struct sim_note *notes_first(struct sim_notes *notes)
{
    return notes->count ? &notes->items[notes->first] : NULL;
}

void notes_pop(struct sim_notes *notes)
{
    notes->first = (notes->first + 1) % notes->room;
    notes->count--;
}

// ---- Reading a line ----

static const char *member(const char *line, size_t length, const char *name)
{
    char wanted[32];
    int n = snprintf(wanted, sizeof wanted, "\"%s\":", name);
    const char *at = memmem(line, length, wanted, (size_t)n);

    return at ? at + n : NULL;
}

static int64_t number(const char *line, size_t length, const char *name)
{
    const char *at = member(line, length, name);
    return at ? strtoll(at, NULL, 10) : 0;
}

static bool token(const char *line, size_t length, struct message_token *out)
{
    const char *at = member(line, length, "lease");
    return at && message_token_parse(at + 1, out);
}

static bool is(const char *line, size_t length, const char *start)
{
    size_t n = strlen(start);
    return length >= n && memcmp(line, start, n) == 0;
}

static void scan_event(const struct sim_host *host, const char *line, size_t length,
                       struct history_record *record)
{
    const char *reason = member(line, length, "reason");
    int64_t safe_ms = number(line, length, "safe_ms");

    token(line, length, &record->token);
    record->until_us = host_us(host, number(line, length, "valid_until_ms"));
    if (is(line, length, "{\"event\":\"renewed\"")) {
        record->kind = HISTORY_WROTE_RENEWED;
    } else if (is(line, length, "{\"event\":\"revoked\"")) {
        record->kind = HISTORY_WROTE_REVOKED;
        record->due_us = safe_ms ? host_us(host, host_ms(host) + safe_ms) : 0;
        for (int i = 0; reason && i < WIRE_REASON_COUNT; i++)
            if (is(reason + 1, strlen(wire_reason_names[i]), wire_reason_names[i]))
                record->reason = (enum wire_reason)i;
        host->world->stats->revoked[record->reason]++;
    }
}

static void scan_acquire(const struct sim_host *host, const char *line, size_t length, bool ok,
                         struct history_record *record)
{
    const char *key = member(line, length, "key");

    record->kind = HISTORY_WROTE_DENIED;
    if (!ok)
        return;
    record->kind = HISTORY_WROTE_GRANTED;
    record->key = (uint32_t)(key[2] - '0') + 1;
    record->fence = number(line, length, "fence");
    record->ttl_ms = number(line, length, "ttl_ms");
    record->until_us = host_us(host, number(line, length, "valid_until_ms"));
    record->due_us = host_us(host, host_ms(host) + number(line, length, "deadline_ms"));
    record->expires = record->request & 1;
    token(line, length, &record->token);
    host->world->stats->grants++;
}

void client_scan(const struct sim_client *client, const char *line, size_t length,
                 struct sim_note *note, struct history_record *record)
{
    const struct sim_host *host = &client->world->hosts[client->host];
    bool ok = is(line, length, "{\"ok\":true,");
    const char *op = member(line, length, "op");

    record->kind = HISTORY_KIND_COUNT;
    record->sidecar = host->process;
    record->client = client->number;
    record->request = (uint32_t)number(line, length, "id");
    if (is(line, length, "{\"event\":")) {
        scan_event(host, line, length, record);
    } else if (op && is(op, 9, "\"acquire\"")) {
        scan_acquire(host, line, length, ok, record);
    } else if (op && is(op, 9, "\"release\"")) {
        record->ok = ok;
        record->kind = HISTORY_WROTE_RELEASED;
        token(line, length, &record->token);
    }
    note->kind = record->kind;
    note->request = record->request;
    note->key = record->key;
    note->token = record->token;
    note->until_us = record->until_us;
}

// ---- Writing one ----

static void say(struct sim_client *client, enum history_kind kind, uint32_t request, uint32_t key,
                const struct message_token *lease, const char *bytes)
{
    struct world *world = client->world;
    struct sim_line *line = &client->lines[(client->line_first + client->line_count) % SIM_LINES];
    int64_t at_us = world->now_us + chance_between(&world->chance, 5, 5 + world->latency_us / 2);

    if (client->closed || client->line_count == SIM_LINES)
        return; // nobody reads it, or its socket is full
    client->line_count++;
    client->line_us = at_us > client->line_us ? at_us : client->line_us;
    line->at_us = client->line_us;
    line->kind = kind;
    line->request = request;
    line->key = key;
    line->token = lease ? *lease : (struct message_token){{0}};
    line->length = (uint16_t)strlen(bytes);
    memcpy(line->bytes, bytes, line->length);
    host_wake(&world->hosts[client->host], line->at_us);
}

static void send_release(struct sim_client *client, uint32_t request,
                         const struct message_token *lease)
{
    char digits[WIRE_LEASE_DIGITS + 1] = "", line[128];

    message_token_format(lease, digits);
    snprintf(line, sizeof line, "{\"id\":%u,\"op\":\"release\",\"lease\":\"%.32s\"}", request,
             digits);
    world_record(client->world, (struct history_record){.kind = HISTORY_CLIENT_RELEASES,
                                                        .client = client->number,
                                                        .token = *lease});
    say(client, HISTORY_READ_RELEASE, request, 0, lease, line);
}

// ---- Plans ----

enum hold { HOLD_SHORT, HOLD_MIDDLE, HOLD_LONG, HOLD_ON };

struct sim_plan {
    const char *name;
    int weight;
    enum hold hold;
    int needs; // a fault that must be on, or -1
    void (*act)(struct sim_client *client, struct sim_hand *hand);
};

static uint32_t next_request(struct world *world)
{
    return world->requests += 2; // the lowest bit says "expire"
}

static void idle(struct sim_client *client, struct sim_hand *hand, int64_t in_us)
{
    hand->state = SIM_IDLE;
    client_later(client, (uint32_t)(hand - client->hands), in_us);
}

static int64_t think(struct sim_client *client)
{
    struct chance *chance = &client->world->chance;
    return chance_percent(chance, 90) ? chance_between(chance, 200, 12000)
                                      : chance_between(chance, 10000, 400000);
}

static void do_release(struct sim_client *client, struct sim_hand *hand)
{
    hand->request = next_request(client->world);
    hand->state = SIM_FREEING;
    send_release(client, hand->request, &hand->token);
}

static void do_release_twice(struct sim_client *client, struct sim_hand *hand)
{
    do_release(client, hand);
    send_release(client, next_request(client->world), &hand->token);
}

// Another client of the host lets it go; the holder learns of it by its revoked event.
static void do_release_elsewhere(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;
    uint32_t first = client->host * SIM_CLIENTS;
    struct sim_client *other =
        &world->clients[first + (uint32_t)chance_below(&world->chance, world->client_count)];

    if (other == client || !other->connected || other->leaves != SIM_STAYS) {
        do_release(client, hand);
        return;
    }
    send_release(other, next_request(world), &hand->token);
    idle(client, hand, think(client));
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

static const struct sim_plan plans[] = {
    {"releases soon", 560, HOLD_SHORT, -1, do_release},
    {"releases", 160, HOLD_MIDDLE, -1, do_release},
    {"releases late", 14, HOLD_LONG, -1, do_release},
    {"releases twice", 20, HOLD_SHORT, -1, do_release_twice},
    {"is released by another", 20, HOLD_MIDDLE, -1, do_release_elsewhere},
    {"holds until told", 6, HOLD_ON, -1, do_nothing},
    {"dies soon", 30, HOLD_SHORT, SIM_CLIENT_CRASH, do_crash},
    {"dies", 15, HOLD_MIDDLE, SIM_CLIENT_CRASH, do_crash},
    {"dies late", 5, HOLD_LONG, SIM_CLIENT_CRASH, do_crash},
    {"half-closes", 15, HOLD_MIDDLE, SIM_CLIENT_HALF, do_half_close},
    {"half-closes late", 5, HOLD_LONG, SIM_CLIENT_HALF, do_half_close},
    {"stops reading", 20, HOLD_MIDDLE, SIM_CLIENT_DEAF, do_deaf},
    {"stops reading at once", 10, HOLD_SHORT, SIM_CLIENT_DEAF, do_deaf},
};

static const struct sim_plan *choose_plan(struct world *world)
{
    const struct sim_plan *plan;

    do {
        int64_t at = chance_below(&world->chance, 880);
        plan = plans;
        while (at >= plan->weight && plan < plans + sizeof plans / sizeof plans[0] - 1)
            at -= plan++->weight;
    } while (plan->needs >= 0 && !fault_is_on(world, (enum sim_fault)plan->needs));
    return plan;
}

static int64_t hold_us(struct world *world, enum hold hold)
{
    switch (hold) {
    case HOLD_SHORT:
        return chance_between(&world->chance, 0, 4000);
    case HOLD_MIDDLE:
        return chance_between(&world->chance, 1000, 40000);
    case HOLD_LONG:
        return chance_between(&world->chance, 100000, 2500 * world->lock_ttl_ms);
    case HOLD_ON:
        break;
    }
    return INT64_MAX;
}

// ---- Asking ----

static void write_acquire(struct sim_client *client, uint32_t request, uint32_t key)
{
    static const int ttls[] = {500, 600, 1000, 2000, 3000};
    struct chance *chance = &client->world->chance;
    char line[230];
    int n =
        snprintf(line, sizeof line, "{\"id\":%u,\"op\":\"acquire\",\"key\":\"k%u\"", request, key);

    if (chance_percent(chance, 50))
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"ttl_ms\":%d",
                      ttls[chance_below(chance, 5)]);
    if (chance_percent(chance, 25))
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"deadline_ms\":%d",
                      (int)chance_between(chance, 1, 3000));
    if (request & 1)
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"on_disconnect\":\"expire\"");
    if (chance_percent(chance, 40))
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"notify\":[\"renewed\",\"at_risk\"]");
    snprintf(line + n, sizeof line - (size_t)n, "}");
    say(client, HISTORY_READ_ACQUIRE, request, key + 1, NULL, line);
}

static void ask(struct sim_client *client, struct sim_hand *hand)
{
    struct world *world = client->world;
    struct chance *chance = &world->chance;

    hand->request = next_request(world) + chance_percent(chance, 8);
    hand->key = (uint32_t)chance_below(chance, world->key_count);
    hand->state = SIM_ASKED;
    write_acquire(client, hand->request, hand->key);
    if (chance_percent(chance, 4)) // and once more, which must queue or be refused
        write_acquire(client, next_request(world), hand->key);
    if (fault_is_on(world, SIM_CLIENT_CRASH) && chance_percent(chance, 2))
        do_crash(client, hand);
    else if (fault_is_on(world, SIM_CLIENT_HALF) && chance_percent(chance, 1))
        do_half_close(client, hand);
}

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
        client_later(client, i, think(client));
}

static void after_told(struct sim_client *client, struct sim_hand *hand)
{
    if (chance_percent(&client->world->chance, 60))
        do_release(client, hand); // "I have stopped"
    else
        idle(client, hand, think(client));
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
        ask(client, hand);
    else if (hand->state == SIM_WORKING)
        hand->plan->act(client, hand);
    else if (hand->state == SIM_TOLD)
        after_told(client, hand);
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

static void empty_hands(struct sim_client *client)
{
    for (uint32_t i = 0; i < SIM_HANDS; i++) {
        client->hands[i].state = SIM_IDLE;
        client->hands[i].serial++;
    }
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
    empty_hands(client);
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
    client_later(client, 0, think(client));
}

static void at_end(struct sim_client *client)
{
    world_record(client->world,
                 (struct history_record){.kind = HISTORY_CLIENT_EOF, .client = client->number});
    empty_hands(client);
    client->connected = client->deaf = false;
    client->number = 0;
    client->leaves = SIM_STAYS;
    client_later(client, 0, think(client));
}

// ---- Reading ----

static void on_granted(struct sim_client *client, struct sim_hand *hand,
                       const struct sim_note *note)
{
    if (!hand || hand->state != SIM_ASKED) {
        if (client->leaves == SIM_STAYS) // the second of two asked for: not wanted
            send_release(client, next_request(client->world), &note->token);
        return;
    }
    hand->state = SIM_WORKING;
    hand->token = note->token;
    hand->plan = choose_plan(client->world);
    client_later(client, (uint32_t)(hand - client->hands),
                 hold_us(client->world, hand->plan->hold));
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
        [HISTORY_WROTE_RENEWED] = HISTORY_CLIENT_RENEWED,
        [HISTORY_WROTE_REVOKED] = HISTORY_CLIENT_REVOKED,
    };
    struct sim_hand *hand = hand_of_request(client, note->request);
    struct world *world = client->world;

    if (note->kind == HISTORY_WROTE_GRANTED || note->kind == HISTORY_WROTE_RENEWED ||
        note->kind == HISTORY_WROTE_REVOKED)
        world_record(world, (struct history_record){.kind = (enum history_kind)kinds[note->kind],
                                                    .client = client->number,
                                                    .key = note->key,
                                                    .token = note->token,
                                                    .until_us = note->until_us});
    if (note->kind == HISTORY_WROTE_GRANTED) {
        on_granted(client, hand, note);
    } else if (note->kind == HISTORY_WROTE_REVOKED) {
        hand = hand_of_lease(client, &note->token);
        if (!hand)
            return;
        hand->state = SIM_TOLD;
        client_later(client, (uint32_t)(hand - client->hands),
                     chance_between(&world->chance, 0, 200 * world->lock_ttl_ms));
    } else if (hand &&
               (note->kind == HISTORY_WROTE_DENIED || note->kind == HISTORY_WROTE_RELEASED)) {
        // Whoever was refused waits a while longer.
        idle(client, hand, note->kind == HISTORY_WROTE_DENIED ? 10 * think(client) : think(client));
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
