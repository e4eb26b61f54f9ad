// SPDX-License-Identifier: Apache-2.0
//
// Connections between stores and Redis: two queues each, in order, delayed. As with TCP nothing in
// between is lost while the connection lives; a direction may be held. After the host has closed its
// end, what is on its way out may be lost, may arrive, or may arrive much later.

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

struct sim_message *net_message(struct world *world, enum sim_message_kind kind)
{
    struct sim_message *message = world->free_messages;

    if (message)
        world->free_messages = message->next;
    else
        message = malloc(sizeof *message);
    if (!message)
        abort();
    memset(message, 0, offsetof(struct sim_message, items));
    memset(&message->fence, 0, sizeof *message - offsetof(struct sim_message, fence));
    message->kind = kind;
    return message;
}

void net_free(struct world *world, struct sim_message *message)
{
    message->next = world->free_messages;
    world->free_messages = message;
}

void net_push(struct sim_fifo *fifo, struct sim_message *message)
{
    message->next = NULL;
    if (fifo->first)
        fifo->last->next = message;
    else
        fifo->first = message;
    fifo->last = message;
}

struct sim_message *net_pop(struct sim_fifo *fifo)
{
    struct sim_message *message = fifo->first;

    if (message)
        fifo->first = message->next;
    return message;
}

static void drop_all(struct world *world, struct sim_fifo *fifo)
{
    struct sim_message *message;

    while ((message = net_pop(fifo)))
        net_free(world, message);
}

uint32_t net_open(struct world *world, uint32_t host)
{
    // The slot of a connection that is closed, and through whose queue nothing comes any more.
    for (uint32_t i = 0; i < SIM_CONNS; i++) {
        struct sim_conn *conn = &world->conns[i];
        if (conn->used && (!conn->closed || conn->out.first || conn->waiting))
            continue;
        drop_all(world, &conn->in);
        *conn = (struct sim_conn){.used = true, .host = host};
        return i;
    }
    world_broken(world, "too many connections for the model");
    return 0;
}

static int64_t latency(struct world *world, uint32_t host)
{
    int64_t us = world->latency_us + chance_below(&world->chance, world->latency_us);

    if (fault_is_on(world, SIM_SPIKE) && chance_below(&world->chance, 1000) < 3) {
        us += chance_between(&world->chance, 5000, 400000);
        fault_count(world, SIM_SPIKE);
        fault_trouble(world, (int)host, world->now_us + us);
    }
    return us;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void net_send(struct world *world, uint32_t number, struct sim_message *message)
{
    struct sim_conn *conn = &world->conns[number];

    message->at_us = max64(world->now_us + latency(world, conn->host),
                           max64(conn->out_us + 1, conn->out_held_us));
    conn->out_us = message->at_us;
    net_push(&conn->out, message);
    sim_schedule(world, message->at_us, SIM_EVENT_ARRIVE, number, 0);
}

void net_reply(struct world *world, uint32_t number, struct sim_message *message)
{
    struct sim_conn *conn = &world->conns[number];

    if (conn->closed) {
        net_free(world, message);
        return;
    }
    message->at_us =
        max64(world->now_us + latency(world, conn->host), max64(conn->in_us + 1, conn->in_held_us));
    conn->in_us = message->at_us;
    net_push(&conn->in, message);
    host_wake(&world->hosts[conn->host], message->at_us);
}

struct sim_message *net_read(struct world *world, uint32_t number)
{
    struct sim_conn *conn = &world->conns[number];

    if (!conn->in.first || conn->in.first->at_us > world->now_us)
        return NULL;
    return net_pop(&conn->in);
}

int64_t net_next_read(const struct world *world, uint32_t number)
{
    const struct sim_conn *conn = &world->conns[number];

    return conn->in.first ? conn->in.first->at_us : INT64_MAX;
}

void net_close(struct world *world, uint32_t number)
{
    struct sim_conn *conn = &world->conns[number];

    conn->closed = true;
    conn->closed_us = world->now_us;
    drop_all(world, &conn->in);
    if (!conn->out.first)
        return;
    if (chance_percent(&world->chance, 30)) {
        conn->killed = true; // a reset overtakes them: each is dropped as it arrives
        return;
    }
    if (fault_is_on(world, SIM_ZOMBIE) && chance_percent(&world->chance, 50)) {
        int64_t until_us = world->now_us + chance_between(&world->chance, 1000, 3000000);
        struct sim_message *message;
        struct sim_fifo late = {0};
        // Their events fire in vain; new ones bring them.
        while ((message = net_pop(&conn->out))) {
            message->at_us = max64(message->at_us, until_us++);
            net_push(&late, message);
            sim_schedule(world, message->at_us, SIM_EVENT_ARRIVE, number, 0);
        }
        conn->out = late;
        conn->out_us = until_us;
        fault_count(world, SIM_ZOMBIE);
        fault_trouble(world, (int)conn->host, until_us);
    }
}
