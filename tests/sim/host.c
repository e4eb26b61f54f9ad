// SPDX-License-Identifier: Apache-2.0
//
// A host: one sidecar process around the real keeper, with the turns of sidecar.c and the peers of
// peer.c. A turn has four phases, and time may pass between them (a busy machine, SIGSTOP):
//
//     SWEEP     what is due: the keeper's, the store's, clients that do not take what they are told
//     STORE     Redis' answers; the keeper sweeps again before they are believed
//     CLIENTS   lines and ends of clients (before STORE at times: the core relies on no order)
//     FLUSH     what was said is written to clients, then to Redis; the timer is armed
//
// A stopped process takes up the phase at which it stopped.

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/dispatch.h"
#include "tests/sim/sim.h"

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

enum { LINGER_MS = 2000, LINES_PER_TURN = 64 };

// ---- Clock ----

static int64_t clock_us(const struct sim_host *host, int64_t at_us)
{
    return host->offset_us + at_us + at_us * host->rate_ppm / 1000000;
}

int64_t host_ms(const struct sim_host *host)
{
    return clock_us(host, host->world->now_us) / 1000;
}

int64_t host_us(const struct sim_host *host, int64_t ms)
{
    int64_t at_us = (ms * 1000 - host->offset_us) * 1000000 / (1000000 + host->rate_ppm) - 1;

    while (clock_us(host, at_us) < ms * 1000)
        at_us++;
    return at_us;
}

// ---- What the keeper asks of the world ----

static void fill_random(void *context, void *bytes, size_t size)
{
    struct sim_host *host = context;
    uint64_t *words = bytes;

    for (size_t i = 0; i < size / sizeof *words; i++)
        words[i] = chance_next(&host->world->tokens);
}

static int64_t read_clock(void *context)
{
    return host_ms(context);
}

// ---- Clients, as a sidecar sees them ----

static struct sim_client *client_of(struct session *session)
{
    return container_of(session, struct sim_client, session);
}

static struct sim_client *first_client(const struct sim_host *host)
{
    return &host->world->clients[host->index * SIM_CLIENTS];
}

#define EACH_CLIENT(host, client)                                                                  \
    (struct sim_client *client = first_client(host),                                               \
     *client##_end = client + host->world->client_count;                                           \
     client < client##_end; client++)

// Each line that the keeper has written becomes a note, and a record of what was said when.
static void on_output(struct session *session)
{
    struct sim_client *client = client_of(session);
    const char *bytes = buf_bytes(&session->out);
    size_t length = buf_length(&session->out);

    while (client->scanned < length) {
        const char *line = bytes + client->scanned;
        const char *newline = memchr(line, '\n', length - client->scanned);
        struct history_record record = {0};
        struct sim_note note = {0};
        if (!newline)
            return;
        client_scan(client, line, (size_t)(newline - line), &note, &record);
        note.length = (size_t)(newline - line) + 1;
        notes_push(&client->out, &note);
        client->scanned += note.length;
        if (record.kind != HISTORY_KIND_COUNT)
            world_record(client->world, record);
    }
}

// Grants that the client's socket never took.
static void record_unwritten(const struct sim_host *host, struct sim_client *client)
{
    struct sim_note *note;

    for (; (note = notes_first(&client->out)); notes_pop(&client->out))
        if (note->kind == HISTORY_WROTE_GRANTED || note->kind == HISTORY_WROTE_ADOPTED)
            world_record(client->world, (struct history_record){.kind = HISTORY_UNWRITTEN,
                                                                .sidecar = host->process,
                                                                .client = client->number,
                                                                .token = note->token});
}

// After this the client's end is closed or closing, and nothing of it is left in the keeper.
static void close_client(struct sim_host *host, struct sim_client *client, bool gone)
{
    struct world *world = host->world;
    struct sim_note end = {.end = true, .at_us = world->now_us + world->latency_us};

    record_unwritten(host, client);
    world_record(world, (struct history_record){.kind = HISTORY_CLOSED,
                                                .sidecar = host->process,
                                                .client = client->number,
                                                .ok = gone});
    keeper_close_session(&host->keeper, &client->session, gone, host_ms(host));
    buf_deinit(&client->session.out);
    client->session = (struct session){0};
    client->accepted = false;
    client->closed = true;
    client->scanned = 0;
    client->line_count = 0;
    if (!client->connected) {
        client->number = 0;
        client_later(client, 0, chance_between(&world->chance, 1000, 20000));
        return;
    }
    end.at_us = end.at_us > client->pipe_us ? end.at_us : client->pipe_us;
    notes_push(&client->pipe, &end);
    sim_schedule(world, end.at_us, SIM_EVENT_READ, client->index, client->number);
}

static void accept_client(struct sim_host *host, struct sim_client *client)
{
    client->session = (struct session){
        .pid = 100 + (pid_t)client->index, .uid = 1000 + client->index % 2, .output = on_output};
    client->close_by_ms = INT64_MAX;
    if (keeper_open_session(&host->keeper, &client->session) != 0)
        world_broken(host->world, "a session could not be opened");
    client->accepted = true;
}

// The end of what a line spans, by the host's clock.
static int64_t span_end(const struct sim_host *host, const struct sim_line *line)
{
    if (line->span_ms == 0)
        return 0;
    return line->span_ms < 0 ? INT64_MAX : host_us(host, host_ms(host) + line->span_ms);
}

static void read_line(struct sim_host *host, struct sim_client *client)
{
    struct sim_line *line = &client->lines[client->line_first++ % SIM_LINES];
    struct history_record record = {
        .kind = line->kind,
        .sidecar = host->process,
        .client = client->number,
        .request = line->request,
        .key = line->key,
        .token = line->token,
        .due_us = span_end(host, line),
    };

    client->line_count--;
    if (line->kind != HISTORY_KIND_COUNT)
        world_record(host->world, record);
    dispatch_line(&host->keeper, &client->session, line->bytes, line->length, host_ms(host));
}

static void read_end(struct sim_host *host, struct sim_client *client)
{
    world_record(host->world, (struct history_record){.kind = HISTORY_READ_EOF,
                                                      .sidecar = host->process,
                                                      .client = client->number});
    if (client->leaves == SIM_GONE) {
        close_client(host, client, true);
        return;
    }
    keeper_end_input(&host->keeper, &client->session, host_ms(host));
    client->close_by_ms = host_ms(host) + LINGER_MS;
}

static bool has_line(const struct sim_client *client)
{
    return client->line_count > 0 &&
           client->lines[client->line_first % SIM_LINES].at_us <= client->world->now_us;
}

static bool has_end(const struct sim_client *client)
{
    return client->leaves != SIM_STAYS && client->leaves_us <= client->world->now_us &&
           client->line_count == 0 && !client->session.input_ended;
}

// A client's connection that the sidecar has to look at: when?
static int64_t next_input(const struct sim_client *client)
{
    int64_t at_us = INT64_MAX;

    if (client->number == 0 || client->closed || (client->accepted && client->session.input_ended))
        return INT64_MAX;
    if (client->line_count > 0)
        at_us = client->lines[client->line_first % SIM_LINES].at_us;
    else if (client->leaves != SIM_STAYS)
        at_us = client->leaves_us;
    return at_us;
}

static void read_client(struct sim_host *host, struct sim_client *client)
{
    int i = 0;

    if (next_input(client) > host->world->now_us)
        return;
    if (!client->accepted)
        accept_client(host, client);
    // One read: lines, or else the end.
    if (has_line(client)) {
        while (i++ < LINES_PER_TURN && has_line(client))
            read_line(host, client);
    } else if (has_end(client)) {
        read_end(host, client);
    }
}

// Writes what the client's socket takes; then it stays, or is closed.
static void flush_client(struct sim_host *host, struct sim_client *client)
{
    struct world *world = host->world;
    struct sim_note *note;
    bool writes = notes_first(&client->out) != NULL;

    if (writes && client->leaves == SIM_GONE && client->leaves_us <= world->now_us) {
        close_client(host, client, true); // EPIPE
        return;
    }
    while ((note = notes_first(&client->out)) &&
           client->pipe_bytes + note->length <= (size_t)world->pipe_room) {
        int64_t at_us =
            world->now_us + world->latency_us / 4 + chance_below(&world->chance, world->latency_us);
        client->pipe_us = at_us > client->pipe_us ? at_us : client->pipe_us + 1;
        note->at_us = client->pipe_us;
        client->pipe_bytes += note->length;
        client->scanned -= note->length;
        session_took(&client->session, note->length);
        notes_push(&client->pipe, note);
        sim_schedule(world, note->at_us, SIM_EVENT_READ, client->index, client->number);
        notes_pop(&client->out);
    }
    if (client->session.input_ended && client->session.unanswered == 0 &&
        !notes_first(&client->out))
        close_client(host, client, true);
}

static void sweep_clients(struct sim_host *host)
{
    int64_t now_ms = host_ms(host);

    for
        EACH_CLIENT(host, client)
    if (client->accepted && (client->session.tell_by_ms <= now_ms || client->close_by_ms <= now_ms))
        close_client(host, client, false);
}

// ---- Phases ----

static void do_sweep(struct sim_host *host)
{
    int64_t now_ms = host_ms(host);

    keeper_sweep(&host->keeper, now_ms);
    host->store.store.ops->sweep(&host->store.store, now_ms);
    sweep_clients(host);
    if (now_ms < host->drain_until_ms)
        return;
    host->drain_until_ms = INT64_MAX;
    host->stopping = true;
    world_record(host->world,
                 (struct history_record){.kind = HISTORY_STOPPING, .sidecar = host->process});
    keeper_shutdown(&host->keeper, now_ms);
}

static void do_clients(struct sim_host *host)
{
    for
        EACH_CLIENT(host, client)
    read_client(host, client);
}

static int64_t next_turn(struct sim_host *host)
{
    int64_t next_ms = keeper_next_wake(&host->keeper);
    int64_t store_ms = host->store.store.ops->next_timeout(&host->store.store);
    int64_t at_us = INT64_MAX;

    next_ms = store_ms < next_ms ? store_ms : next_ms;
    next_ms = host->drain_until_ms < next_ms ? host->drain_until_ms : next_ms;
    if (host->store.link != SIM_LINK_DOWN) {
        at_us = net_next_read(host->world, host->store.conn);
        if (host->world->conns[host->store.conn].reset || host->store.heard)
            at_us = host->world->now_us;
    }
    for
        EACH_CLIENT(host, client)
        {
            int64_t input_us = next_input(client);
            at_us = input_us < at_us ? input_us : at_us;
            if (!client->accepted)
                continue;
            next_ms = client->session.tell_by_ms < next_ms ? client->session.tell_by_ms : next_ms;
            next_ms = client->close_by_ms < next_ms ? client->close_by_ms : next_ms;
        }
    if (next_ms <= host_ms(host))
        return host->world->now_us;
    if (next_ms != INT64_MAX && host_us(host, next_ms) < at_us)
        at_us = host_us(host, next_ms);
    return at_us;
}

static void do_flush(struct sim_host *host)
{
    for
        EACH_CLIENT(host, client)
    if (client->accepted)
        flush_client(host, client);
    store_flush(&host->store);
}

static void plan(struct sim_host *host, enum sim_phase phase, int64_t at_us)
{
    host->phase = phase;
    host->turn_us = at_us;
    host->serial++;
    if (at_us != INT64_MAX)
        sim_schedule(host->world, at_us, SIM_EVENT_HOST, host->index, host->serial);
}

static int64_t lateness(struct sim_host *host)
{
    struct chance *chance = &host->world->chance;

    if (!fault_is_on(host->world, SIM_LATE))
        return chance_between(chance, 5, 100);
    if (chance_percent(chance, 3)) {
        fault_count(host->world, SIM_LATE);
        return chance_between(chance, 1000, HOST_LATE_US);
    }
    return chance_between(chance, 5, 1000);
}

static void end_turn(struct sim_host *host)
{
    int64_t next_us;

    if (keeper_is_drained(&host->keeper, host_ms(host))) {
        host_end(host, chance_between(&host->world->chance, 1000, 2000000));
        return;
    }
    next_us = next_turn(host);
    if (next_us <= host->world->now_us)
        next_us = host->world->now_us + 1;
    if (next_us != INT64_MAX)
        next_us += lateness(host);
    plan(host, SIM_PHASE_IDLE, next_us);
}

// Between two phases: how long the process does not run. It may be stopped there.
static int64_t gap_us(struct sim_host *host)
{
    struct chance *chance = &host->world->chance;

    if (fault_is_on(host->world, SIM_FREEZE) && chance_below(chance, 2000) == 0) {
        host_freeze(host, chance_between(chance, 1000, 2500 * host->world->lock_ttl_ms));
        return 0;
    }
    if (fault_is_on(host->world, SIM_LATE) && chance_below(chance, 20) == 0)
        return chance_between(chance, 10, HOST_GAP_US);
    return 0;
}

static void run_phase(struct sim_host *host)
{
    switch (host->phase) {
    case SIM_PHASE_IDLE:
    case SIM_PHASE_SWEEP:
        do_sweep(host);
        host->clients_first = chance_percent(&host->world->chance, 20);
        host->phase = host->clients_first ? SIM_PHASE_CLIENTS : SIM_PHASE_STORE;
        break;
    case SIM_PHASE_STORE:
        store_input(&host->store);
        host->phase = host->clients_first ? SIM_PHASE_FLUSH : SIM_PHASE_CLIENTS;
        break;
    case SIM_PHASE_CLIENTS:
        do_clients(host);
        host->phase = host->clients_first ? SIM_PHASE_STORE : SIM_PHASE_FLUSH;
        break;
    case SIM_PHASE_FLUSH:
        do_flush(host);
        host->phase = SIM_PHASE_IDLE;
        break;
    }
}

void host_turn(struct sim_host *host, uint32_t serial)
{
    int64_t gap = 0;

    if (serial != host->serial || !host->alive || host->frozen)
        return;
    do {
        run_phase(host);
        if (host->phase != SIM_PHASE_IDLE)
            gap = gap_us(host);
        if (host->frozen)
            return;
    } while (gap == 0 && host->phase != SIM_PHASE_IDLE);
    if (host->phase == SIM_PHASE_IDLE)
        end_turn(host);
    else
        plan(host, host->phase, host->world->now_us + gap);
}

// Never later for it: what was due at a time of its own stays due then.
void host_wake(struct sim_host *host, int64_t at_us)
{
    int64_t turn_us;

    if (!host->alive || host->frozen || host->phase != SIM_PHASE_IDLE || at_us >= host->turn_us)
        return;
    turn_us = at_us + lateness(host);
    if (turn_us < host->turn_us)
        plan(host, SIM_PHASE_IDLE, turn_us);
}

// ---- Life ----

void host_freeze(struct sim_host *host, int64_t for_us)
{
    struct world *world = host->world;

    host->frozen = true;
    host->serial++;
    fault_count(world, SIM_FREEZE);
    fault_trouble(world, (int)host->index, world->now_us + for_us);
    world_record(world, (struct history_record){.kind = HISTORY_FROZEN, .sidecar = host->process});
    sim_schedule(world, world->now_us + for_us, SIM_EVENT_THAW, host->index, host->process);
}

void host_thaw(struct sim_host *host, uint32_t process)
{
    if (!host->alive || !host->frozen || host->process != process)
        return;
    host->frozen = false;
    world_record(host->world,
                 (struct history_record){.kind = HISTORY_THAWED, .sidecar = host->process});
    plan(host, host->phase, host->world->now_us + chance_between(&host->world->chance, 1, 100));
}

void host_drain(struct sim_host *host)
{
    struct chance *chance = &host->world->chance;
    int64_t lock_ttl_ms = host->world->lock_ttl_ms;

    if (host->draining)
        return;
    host->draining = true;
    fault_count(host->world, SIM_DRAIN);
    keeper_drain(&host->keeper, host_ms(host));
    // At times so soon that acquires are still with the store.
    host->drain_until_ms =
        host_ms(host) + (chance_percent(chance, 50) ? chance_between(chance, 0, 3)
                                                    : chance_between(chance, 0, lock_ttl_ms));
    host_wake(host, host->world->now_us);
}

void host_start(struct sim_host *host)
{
    struct world *world = host->world;
    struct keeper_options options = {
        .rules = world->rules,
        .lock_ttl_ms = world->lock_ttl_ms,
        .max_lock_ttl_ms = 10000,
        .workflow_deadline_ms = world->deadline_ms,
        .max_workflow_deadline_ms = 60000,
        .caps = {1000, 1000, 1000},
        .host = "here",
        .random = fill_random,
        .clock = read_clock,
        .context = host,
        .uid = 1000,
    };

    host->process = ++world->processes;
    host->alive = true;
    host->frozen = host->draining = host->stopping = false;
    host->drain_until_ms = INT64_MAX;
    host->phase = SIM_PHASE_IDLE;
    host->turn_us = INT64_MAX;
    store_init(&host->store, world, host->index, lease_call_ms(world->lock_ttl_ms));
    if (keeper_init(&host->keeper, &options, &host->store.store) < 0)
        abort();
    host_wake(host, world->now_us);
    for
        EACH_CLIENT(host, client)
    for (uint32_t hand = 0; hand < SIM_HANDS; hand++)
        client_later(client, hand, chance_between(&world->chance, 1000, 50000));
}

// The process is over, by a signal or at the end of its drain: its sockets close, its keys stay.
void host_end(struct sim_host *host, int64_t restart_us)
{
    struct world *world = host->world;
    bool quiet = world->quiet;

    world_record(world, (struct history_record){.kind = HISTORY_ENDED, .sidecar = host->process});
    store_end(&host->store);
    world->quiet = true; // what follows is no doing of its
    for
        EACH_CLIENT(host, client)
        {
            if (client->accepted)
                close_client(host, client, false);
            else if (client->connected)
                notes_push(&client->pipe, &(struct sim_note){.end = true, .at_us = world->now_us});
            else
                client->number = 0;
            client->line_count = 0;
            client->closed = true;
            if (client->connected)
                sim_schedule(world, world->now_us + 1, SIM_EVENT_READ, client->index,
                             client->number);
        }
    world->quiet = quiet;
    keeper_deinit(&host->keeper);
    host->alive = false;
    host->serial++;
    if (restart_us >= 0)
        sim_schedule(world, world->now_us + restart_us, SIM_EVENT_START, host->index, 0);
}
