// SPDX-License-Identifier: Apache-2.0
//
// One run: a world made from its seed, the event queue, and the end: clients leave, faults stop, the
// sidecars finish what they owe, and nothing may be left.

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

enum { CALM_AT_END_MS = 15000 };

// ---- The event queue: the earliest, and of those the one scheduled first ----

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void sim_schedule(struct world *world, int64_t at_us, enum sim_event_kind kind, uint32_t a,
                  uint32_t b)
{
    struct sim_queue *queue = &world->queue;
    struct sim_event event = {
        .at_us = at_us > world->now_us ? at_us : world->now_us,
        .order = queue->order++,
        .a = a,
        .b = b,
        .kind = kind,
    };
    size_t i = queue->count++;

    if (queue->count > queue->room) {
        queue->room = queue->room ? queue->room * 2 : 256;
        queue->heap = realloc(queue->heap, queue->room * sizeof event);
        if (!queue->heap)
            abort();
    }
    for (; i > 0 && before(&event, &queue->heap[(i - 1) / 2]); i = (i - 1) / 2)
        queue->heap[i] = queue->heap[(i - 1) / 2];
    queue->heap[i] = event;
}

static struct sim_event take_event(struct sim_queue *queue)
{
    struct sim_event first = queue->heap[0];
    struct sim_event last = queue->heap[--queue->count];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < queue->count; i = child) {
        if (child + 1 < queue->count && before(&queue->heap[child + 1], &queue->heap[child]))
            child++;
        if (!before(&queue->heap[child], &last))
            break;
        queue->heap[i] = queue->heap[child];
    }
    queue->heap[i] = last;
    return first;
}

// ---- Words ----

void world_record(struct world *world, struct history_record record)
{
    char text[256];

    if (world->quiet)
        return;
    record.at_us = world->now_us;
    world->stats->records++;
    if (world->trace) {
        history_format(&record, text, sizeof text);
        puts(text);
    }
    if (history_add(world->history, &record) < 0)
        abort();
}

void world_say(const struct world *world, const char *format, ...)
{
    va_list arguments;

    if (!world->trace)
        return;
    printf("%12.3f ms  -- ", (double)world->now_us / 1000);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

void world_broken(struct world *world, const char *what)
{
    if (!world->broken)
        world->broken = what;
}

// ---- The making ----

static int64_t rate(struct world *world)
{
    switch (chance_below(&world->chance, 3)) {
    case 0:
        return -5000;
    case 1:
        return 5000;
    default:
        return chance_between(&world->chance, -5000, 5000);
    }
}

static uint32_t choose_faults(struct world *world, uint32_t allowed)
{
    uint32_t faults = 0;
    int percent = (int)chance_between(&world->chance, 0, 50);

    if (chance_percent(&world->chance, 6))
        return 0;
    for (int i = 0; i < SIM_FAULT_COUNT; i++)
        if (chance_percent(&world->chance, percent))
            faults |= 1u << i;
    return faults & allowed;
}

static void make_hosts(struct world *world)
{
    bool drifts = fault_is_on(world, SIM_CLIENT_DRIFT);

    for (uint32_t i = 0; i < world->host_count; i++) {
        struct sim_host *host = &world->hosts[i];
        host->world = world;
        host->index = i;
        host->offset_us = chance_between(&world->chance, 1000000, INT64_C(1000000000000));
        host->rate_ppm = drifts ? rate(world) : 0;
        for (uint32_t j = 0; j < world->client_count; j++) {
            struct sim_client *client = &world->clients[i * SIM_CLIENTS + j];
            client->world = world;
            client->host = i;
            client->index = i * SIM_CLIENTS + j;
        }
        host_start(host);
    }
    if (drifts) {
        world->redis.rate_ppm = rate(world);
        fault_count(world, SIM_CLIENT_DRIFT);
    }
}

static void make(struct world *world, const struct sim_run *run)
{
    static const int ttls[] = {500, 1000, 1500, 3000};
    static const int rooms[] = {400, 1500, 200000}; // bytes of a client's socket
    struct chance *chance = &world->chance;

    chance_seed(chance, run->seed);
    chance_seed(&world->tokens, run->seed ^ UINT64_C(0x746f6b656e73));
    world->faults = choose_faults(world, run->faults);
    world->host_count = (uint32_t)chance_between(chance, 1, SIM_HOSTS);
    world->client_count = (uint32_t)chance_between(chance, 1, SIM_CLIENTS);
    world->key_count = (uint32_t)chance_between(chance, 1, SIM_KEYS);
    world->lock_ttl_ms = ttls[chance_below(chance, 4)];
    world->deadline_ms = chance_between(chance, 500, 6000);
    world->latency_us = chance_percent(chance, 20) ? chance_between(chance, 2000, 6000)
                                                   : chance_between(chance, 20, 1500);
    world->pipe_room = rooms[chance_below(chance, 3)];
    world->rules.widen_ms = chance_percent(chance, 10) ? 20 : 0;
    world->end_us = 1000 * (run->length_ms ? run->length_ms : chance_between(chance, 5000, 30000));
    redis_init(world);
    make_hosts(world);
    if (world->faults)
        sim_schedule(world, chance_between(chance, 1000, 1000000), SIM_EVENT_FAULT, 0, 0);
    sim_schedule(world, world->end_us, SIM_EVENT_LAST, 0, 0);
}

// ---- The end ----

static void start_leaving(struct world *world)
{
    world->leaving = true;
    world->faults = 0;
    for (uint32_t i = 0; i < world->host_count; i++)
        for (uint32_t j = 0; j < world->client_count; j++) {
            struct sim_client *client = &world->clients[i * SIM_CLIENTS + j];
            client->deaf = false;
            client_later(client, 0, chance_between(&world->chance, 0, 1000000));
        }
    world->last_us = world->now_us + CALM_AT_END_MS * 1000;
}

static bool has_query(const struct keeper *keeper)
{
    for (uint32_t i = 1; i < keeper->query_count; i++)
        if (keeper->queries[i]->generation & 1)
            return true;
    return false;
}

// I12: nothing is left of anybody.
static void check_empty(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct sim_host *host = &world->hosts[i];
        struct keeper *keeper = &host->keeper;
        if (!host->alive)
            continue;
        if (keeper->table.live || keeper->pending || keeper->owed)
            world_broken(world, "I12: leases are left in a sidecar without clients");
        if (schedule_earliest(&keeper->schedule) != INT64_MAX)
            world_broken(world, "I12: a timer is left in a sidecar without leases");
        if (host->store.call_count)
            world_broken(world, "I12: calls to the store are left without leases");
        if (host->store.watched)
            world_broken(world, "I12: a key is watched that nobody waits for");
        if (keeper->breaking || has_query(keeper))
            world_broken(world, "I12: a query is left without a client");
        for (uint32_t j = 0; j < keeper->accounts.count; j++)
            for (int kind = 0; kind < ACCOUNT_KIND_COUNT; kind++)
                if (keeper->accounts.all[j].used[kind])
                    world_broken(world, "I12: an account is not back at zero");
    }
}

static void unmake(struct world *world)
{
    struct sim_message *message;

    world->quiet = true;
    for (uint32_t i = 0; i < world->host_count; i++)
        if (world->hosts[i].alive)
            host_end(&world->hosts[i], -1);
    for (uint32_t i = 0; i < SIM_CONNS; i++) {
        while ((message = net_pop(&world->conns[i].out)))
            net_free(world, message);
        while ((message = net_pop(&world->conns[i].in)))
            net_free(world, message);
    }
    while ((message = net_pop(&world->redis.backlog)))
        net_free(world, message);
    while ((message = world->free_messages)) {
        world->free_messages = message->next;
        free(message);
    }
    for (size_t i = 0; i < sizeof world->clients / sizeof world->clients[0]; i++) {
        free(world->clients[i].out.items);
        free(world->clients[i].pipe.items);
    }
    free(world->queue.heap);
}

// ---- The run ----

static void happen(struct world *world, const struct sim_event *event)
{
    switch (event->kind) {
    case SIM_EVENT_HOST:
        host_turn(&world->hosts[event->a], event->b);
        break;
    case SIM_EVENT_THAW:
        host_thaw(&world->hosts[event->a], event->b);
        break;
    case SIM_EVENT_START:
        host_start(&world->hosts[event->a]);
        break;
    case SIM_EVENT_ARRIVE:
        redis_arrive(world, event->a);
        break;
    case SIM_EVENT_EXPIRE:
        redis_expire(world, event->a, event->b);
        break;
    case SIM_EVENT_RESUME:
        redis_resume(world);
        break;
    case SIM_EVENT_FREED:
        store_hear(&world->hosts[event->a].store, event->b);
        break;
    case SIM_EVENT_READ:
        if (world->clients[event->a].number == event->b)
            client_read(world, &world->clients[event->a]);
        break;
    case SIM_EVENT_CLIENT: {
        struct sim_client *client = &world->clients[event->a];
        uint32_t hand = event->b & 0xff;
        if (hand == SIM_HANDS || client->hands[hand].serial == event->b >> 8)
            client_act(world, client, hand);
        break;
    }
    case SIM_EVENT_FAULT:
        if (world->leaving)
            break;
        fault_next(world);
        sim_schedule(world, world->now_us + chance_between(&world->chance, 1000, 2500000),
                     SIM_EVENT_FAULT, 0, 0);
        break;
    case SIM_EVENT_LAST:
        start_leaving(world);
        break;
    }
}

static int run_to_end(struct world *world)
{
    world->last_us = INT64_MAX;
    while (!world->broken && !history_invariant(world->history) && world->queue.count > 0) {
        struct sim_event event = take_event(&world->queue);
        if (event.at_us > world->last_us)
            break;
        world->now_us = event.at_us;
        world->stats->events++;
        happen(world, &event);
    }
    if (world->broken || history_invariant(world->history))
        return 1;
    history_finish(world->history, world->last_us);
    if (!history_invariant(world->history))
        check_empty(world);
    return world->broken || history_invariant(world->history);
}

static void sum_up(struct world *world, struct sim_stats *stats)
{
    int64_t slack_us = history_least_slack(world->history);

    stats->runs++;
    stats->world_ms += (uint64_t)(world->now_us / 1000);
    for (int i = 0; i < HISTORY_END_COUNT; i++)
        stats->ends[i] += history_count(world->history, (enum history_end)i);
    if (slack_us < stats->least_slack_us)
        stats->least_slack_us = slack_us;
}

int world_run(const struct sim_run *run, struct sim_stats *stats, char *why, size_t size)
{
    static struct world world; // too large for a stack; one at a time
    struct history_options options = {
        .late_us = HOST_LATEST_US,
        .answer_us = 400000,
        .tidy_us = 150000,
        .beat_us = 50000,
        .settle_us = 1500000,
        .idle_us = 1300000,
        .sends = true,
    };
    int r;

    memset(&world, 0, sizeof world);
    world.seed = run->seed;
    world.trace = run->trace;
    world.stats = stats;
    world.history = history_new(&options);
    if (!world.history)
        abort();
    cover_stats = stats;
    cover_world = &world;
    make(&world, run);
    r = run_to_end(&world);
    if (r)
        snprintf(why, size, "%s", world.broken ? world.broken : history_why(world.history));
    sum_up(&world, stats);
    unmake(&world);
    cover_stats = NULL;
    history_free(world.history);
    return r;
}
