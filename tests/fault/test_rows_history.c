// SPDX-License-Identifier: Apache-2.0
//
// The history checker of the simulator, fed from real processes: clients at random on two sidecars
// that contend for few keys, real faults at random, what each client saw and what Redis executed.
//
// A record of a sidecar (WROTE_x) is made when its client reads it, READ_x when its client has
// written it; so what depends on a sidecar's own clock or on its sends is left to the simulator. A
// grant is taken for written when Redis set the key: by the time it is read, the key may have been
// deleted by hand.
// LOCK_KEEPER_SEED chooses another run; the seed of one that failed is in its message.

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/fault/rows.h"
#include "tests/tool/history.h"
#include "tests/tool/monitor.h"

enum {
    T = 2000,
    CLIENTS = 8,
    KEYS = 3,
    LAST_FAULT_MS = 1500, // so long before the end
    RUN_MS = 10000,
    LONG_RUN_MS = 120000,
    SETTLE_US = 1500000,
    STALL_US = 30000, // this process, or the machine, stood still
};

enum state { AWAY, IDLE, ASKED, HOLDING, TOLD, RELEASING };

struct actor {
    struct line_client client;
    enum state state;
    uint32_t number; // of the connection
    uint32_t sidecar;
    uint32_t request;
    uint32_t key;
    struct message_token token;
    char lease[WIRE_LEASE_DIGITS + 1];
    int64_t until_us; // of the state
};

static struct sidecar_process second;
static struct actor actors[CLIENTS];
static struct history_record *records;
static size_t count, room;
static uint64_t seed;
static uint32_t connections, requests;
static int64_t now_us;

// ---- Chance and records ----

static int64_t below(int64_t limit)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)((seed >> 33) % (uint64_t)limit);
}

static int64_t clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void record(struct history_record what)
{
    if (count == room) {
        room = room ? room * 2 : 4096;
        records = realloc(records, room * sizeof *records);
        ck_assert_ptr_nonnull(records);
    }
    what.at_us = clock_us();
    records[count++] = what;
}

static struct history_record about(const struct actor *actor, enum history_kind kind)
{
    return (struct history_record){.kind = kind,
                                   .sidecar = actor->sidecar,
                                   .client = actor->number,
                                   .request = actor->request,
                                   .key = actor->key,
                                   .token = actor->token};
}

static void trouble(int64_t until_us)
{
    record((struct history_record){.kind = HISTORY_TROUBLE, .until_us = until_us});
}

// ---- Clients ----

static void enter(struct actor *actor, enum state state, int64_t for_ms)
{
    actor->state = state;
    actor->until_us = now_us + for_ms * 1000;
}

static void leave(struct actor *actor)
{
    struct history_record closed = about(actor, HISTORY_CLOSED);

    record(about(actor, HISTORY_CLIENT_LEAVES));
    line_client_close(&actor->client);
    closed.ok = true;
    record(closed);
    enter(actor, AWAY, below(50));
}

static void sees_end(struct actor *actor)
{
    record(about(actor, HISTORY_CLIENT_EOF));
    record(about(actor, HISTORY_CLOSED)); // cut off
    line_client_close(&actor->client);
    enter(actor, AWAY, below(50));
}

static void come(struct actor *actor)
{
    actor->sidecar = 1 + (uint32_t)below(2);
    if (line_client_try_connect(&actor->client,
                                actor->sidecar == 1 ? sidecar.socket : second.socket) < 0)
        ck_abort_msg("a sidecar is gone");
    actor->number = ++connections;
    enter(actor, IDLE, below(20));
}

static void ask(struct actor *actor)
{
    static const int waits[] = {0, 0, 50, 1000, 5000};

    actor->request = ++requests;
    actor->key = 1 + (uint32_t)below(KEYS);
    record(about(actor, HISTORY_READ_ACQUIRE));
    line_client_send(&actor->client,
                     "{'op':'acquire','key':'h%u','wait_ms':%d,'deadline_ms':%d,"
                     "'notify':['renewed']}",
                     actor->key, waits[below(5)], below(4) ? 60000 : 300 + (int)below(2000));
    enter(actor, ASKED, 60000);
}

static void release(struct actor *actor)
{
    record(about(actor, HISTORY_CLIENT_RELEASES));
    record(about(actor, HISTORY_READ_RELEASE));
    line_client_send(&actor->client, "{'op':'release','lease':'%s'}", actor->lease);
    enter(actor, RELEASING, 60000);
}

static void act(struct actor *actor)
{
    switch (actor->state) {
    case AWAY:
        come(actor);
        break;
    case IDLE:
        ask(actor);
        break;
    case HOLDING:
    case TOLD:
        if (below(4))
            release(actor);
        else
            leave(actor);
        break;
    case ASKED:
    case RELEASING:
        ck_abort_msg("client %u: no answer within a minute", actor->number);
    }
}

// ---- What they are told ----

static bool is(const struct actor *actor, const char *member, const char *text)
{
    json_t *value = line_client_member(&actor->client, member);

    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static void take_token(struct actor *actor)
{
    snprintf(actor->lease, sizeof actor->lease, "%s", line_client_string(&actor->client, "lease"));
    for (size_t i = 0; i < sizeof actor->token.bytes; i++) {
        unsigned byte;
        ck_assert_int_eq(sscanf(actor->lease + 2 * i, "%2x", &byte), 1);
        actor->token.bytes[i] = (uint8_t)byte;
    }
}

static void take_answer(struct actor *actor, bool ok)
{
    struct history_record wrote;

    if (!ok) {
        actor->token = (struct message_token){{0}};
        record(about(actor, HISTORY_WROTE_DENIED));
        enter(actor, IDLE, below(60));
        return;
    }
    take_token(actor);
    wrote = about(actor, HISTORY_WROTE_GRANTED);
    wrote.fence = line_client_int(&actor->client, "fence");
    wrote.until_us = line_client_int(&actor->client, "valid_until_ms") * 1000;
    // Counted from the grant, which was after the send that valid_until tells; to a millisecond.
    wrote.due_us = wrote.until_us +
                   (line_client_int(&actor->client, "deadline_ms") - (T - T / 100 - 2) - 1) * 1000;
    record(wrote);
    wrote.kind = HISTORY_CLIENT_GRANTED;
    record(wrote);
    enter(actor, HOLDING, below(8) ? below(150) : below(4000));
}

static void take_event(struct actor *actor)
{
    bool revoked = is(actor, "event", "revoked");
    struct history_record wrote =
        about(actor, revoked ? HISTORY_WROTE_REVOKED : HISTORY_WROTE_RENEWED);

    wrote.until_us = line_client_int(&actor->client, "valid_until_ms") * 1000;
    if (revoked) {
        while (strcmp(line_client_string(&actor->client, "reason"),
                      wire_reason_names[wrote.reason]) != 0)
            wrote.reason++;
        if (line_client_int(&actor->client, "safe_ms") > 0)
            wrote.due_us = wrote.until_us;
    }
    if (actor->state != RELEASING) // else they crossed
        record(wrote);
    wrote.kind = revoked ? HISTORY_CLIENT_REVOKED : HISTORY_CLIENT_RENEWED;
    record(wrote);
    if (revoked && actor->state == HOLDING)
        enter(actor, TOLD, below(300));
}

static void hear(struct actor *actor)
{
    struct history_record wrote;
    bool ok;

    while (actor->state != AWAY && line_client_wait(&actor->client, 0)) {
        if (actor->client.ended && buf_length(&actor->client.input) == 0) {
            sees_end(actor);
            return;
        }
        line_client_receive(&actor->client);
        if (line_client_member(&actor->client, "event")) {
            take_event(actor);
            continue;
        }
        ok = json_is_true(line_client_member(&actor->client, "ok"));
        if (is(actor, "op", "acquire")) {
            take_answer(actor, ok);
            continue;
        }
        wrote = about(actor, HISTORY_WROTE_RELEASED);
        wrote.ok = ok;
        record(wrote);
        enter(actor, IDLE, below(20));
    }
}

// ---- Faults ----

static void (*undo)(void);
static int64_t undo_us;
static int by_sidecar;

static void hold_no_more(void)
{
    fault_proxy_hold(proxy, FAULT_UP, false);
    fault_proxy_hold(proxy, FAULT_DOWN, false);
}

static void drop_no_more(void)
{
    fault_proxy_drop(proxy, FAULT_UP, false);
    fault_proxy_drop(proxy, FAULT_DOWN, false);
    fault_proxy_cut(proxy);
}

static void accept_again(void)
{
    fault_proxy_refuse(proxy, false);
}

static void redis_goes_on(void)
{
    private_redis_continue(&redis);
}

static void sidecar_goes_on(void)
{
    sidecar_process_signal(by_sidecar == 1 ? &sidecar : &second, SIGCONT);
    record((struct history_record){.kind = HISTORY_THAWED, .sidecar = (uint32_t)by_sidecar});
}

static void fault_for(void (*how)(void), int64_t ms)
{
    undo = how;
    undo_us = clock_us() + ms * 1000;
    trouble(undo_us + 200000);
}

static void inject(void)
{
    const int64_t ms = below(3) ? 20 + below(400) : 500 + below(2500);
    const enum fault_direction direction = below(2) ? FAULT_UP : FAULT_DOWN;

    switch (below(9)) {
    case 0:
        fault_for(hold_no_more, ms);
        fault_proxy_hold(proxy, direction, true);
        break;
    case 1:
        fault_for(drop_no_more, ms);
        fault_proxy_drop(proxy, direction, true);
        break;
    case 2:
        fault_for(NULL, 0);
        fault_proxy_cut(proxy);
        break;
    case 3:
        fault_for(accept_again, ms);
        fault_proxy_refuse(proxy, true);
        fault_proxy_cut(proxy);
        break;
    case 4:
        fault_for(NULL, 0);
        fault_proxy_strand(proxy);
        break;
    case 5:
        fault_for(redis_goes_on, ms);
        private_redis_stop(&redis);
        break;
    case 6:
        by_sidecar = 1 + (int)below(2);
        fault_for(sidecar_goes_on, ms);
        record((struct history_record){.kind = HISTORY_FROZEN, .sidecar = (uint32_t)by_sidecar});
        sidecar_process_signal(by_sidecar == 1 ? &sidecar : &second, SIGSTOP);
        break;
    case 7: // its bytes reach Redis when its connection is long over
        fault_for(NULL, 1000);
        fault_proxy_arm(proxy, &(struct fault_rule){.kind = RESP_ACQUIRE,
                                                    .at = FAULT_REQUEST,
                                                    .act = FAULT_LATE,
                                                    .after_ms = 20 + below(800)});
        break;
    case 8:
        fault_for(NULL, 0);
        private_redis_run(&redis, "DEL lock:h%d", 1 + (int)below(KEYS));
        break;
    default:
        break;
    }
}

// ---- A run ----

static void wait_for_all(int64_t ms)
{
    struct pollfd sockets[CLIENTS];
    nfds_t open = 0;

    for (int i = 0; i < CLIENTS; i++)
        if (actors[i].state != AWAY)
            sockets[open++] = (struct pollfd){.fd = actors[i].client.fd, .events = POLLIN};
    poll(sockets, open, (int)ms);
}

static void turn(void)
{
    int64_t before_us = now_us;

    wait_for_all(1);
    now_us = clock_us();
    if (now_us - before_us > STALL_US)
        trouble(now_us);
    for (int i = 0; i < CLIENTS; i++)
        hear(&actors[i]);
    for (int i = 0; i < CLIENTS; i++)
        if (actors[i].until_us <= now_us)
            act(&actors[i]);
}

static void run_for(int64_t ms)
{
    int64_t end_us = clock_us() + ms * 1000;
    int64_t next_fault_us = clock_us() + 300000;

    now_us = clock_us();
    while (now_us < end_us) {
        turn();
        if (undo_us && now_us >= undo_us) {
            if (undo)
                undo();
            undo_us = 0;
            next_fault_us = now_us + 1000 * (below(3) ? below(600) : 2500);
        } else if (!undo_us && now_us >= next_fault_us && now_us < end_us - LAST_FAULT_MS * 1000) {
            inject();
        }
    }
    if (undo_us && undo)
        undo();
    undo_us = 0;
}

// Each grant back to the newest SET of its token before it.
static void date_grants(const struct history_record *executed, size_t executed_count)
{
    for (size_t i = 0; i < count; i++) {
        int64_t set_at_us = 0;
        if (records[i].kind != HISTORY_WROTE_GRANTED)
            continue;
        for (size_t k = 0; k < executed_count && executed[k].at_us <= records[i].at_us; k++)
            if (executed[k].kind == HISTORY_SET &&
                memcmp(&executed[k].token, &records[i].token, sizeof records[i].token) == 0)
                set_at_us = executed[k].at_us;
        ck_assert_msg(set_at_us > 0, "a grant of a token that Redis never set");
        records[i].at_us = set_at_us;
    }
}

static int by_time(const void *a, const void *b)
{
    const struct history_record *one = a, *other = b;

    if (one->at_us != other->at_us)
        return one->at_us < other->at_us ? -1 : 1;
    return one->request < other->request ? -1 : one->request > other->request; // as they came
}

// Both traces in the order of time, what Redis executed first. `request` is lent to keep the order of
// equal instants.
static void merge(const struct history_record *executed, size_t executed_count)
{
    uint32_t *kept;

    records = realloc(records, (count + executed_count) * sizeof *records);
    ck_assert_ptr_nonnull(records);
    date_grants(executed, executed_count);
    memmove(records + executed_count, records, count * sizeof *records);
    memcpy(records, executed, executed_count * sizeof *records);
    count += executed_count;
    kept = malloc(count * sizeof *kept);
    ck_assert_ptr_nonnull(kept);
    for (size_t i = 0; i < count; i++) {
        kept[i] = records[i].request;
        records[i].request = (uint32_t)i;
    }
    qsort(records, count, sizeof *records, by_time);
    for (size_t i = 0; i < count; i++)
        records[i].request = kept[records[i].request];
    free(kept);
}

static void check(uint64_t first_seed)
{
    const struct history_options options = {
        .late_us = 500000,
        .answer_us = 20000000,
        .tidy_us = 1000000,
        .beat_us = 300000,
        .settle_us = SETTLE_US,
    };
    struct history *history = history_new(&options);

    ck_assert_ptr_nonnull(history);
    for (size_t i = 0; i < count; i++)
        if (history_add(history, &records[i]) != 0)
            break;
    ck_assert_msg(history_invariant(history) == 0, "LOCK_KEEPER_SEED=%llu\n%s",
                  (unsigned long long)first_seed, history_why(history));
    printf(
        "# seed %llu: %zu records, %u acquires; released %llu, told %llu, left %llu, denied %llu\n",
        (unsigned long long)first_seed, count, requests,
        (unsigned long long)history_count(history, HISTORY_RELEASED),
        (unsigned long long)history_count(history, HISTORY_TOLD),
        (unsigned long long)history_count(history, HISTORY_LEFT),
        (unsigned long long)history_count(history, HISTORY_DENIED));
    fflush(stdout);
    ck_assert_uint_gt(history_count(history, HISTORY_RELEASED), 15);
    history_free(history);
}

START_TEST(what_really_happened)
{
    const char *given = getenv("LOCK_KEEPER_SEED");
    uint64_t first_seed = given ? strtoull(given, NULL, 10) : (uint64_t)scratch_monotonic_us();
    const struct history_record *executed;
    size_t executed_count;
    struct monitor *monitor = monitor_new(redis.socket, "h");

    seed = first_seed + (uint64_t)_i;
    second = (struct sidecar_process){.name = "keeper-2"};
    rows_start("2s");
    sidecar_process_start(&second, fault_proxy_url(proxy), "--lock-ttl", "2s", NULL);
    run_for(rows_long() ? LONG_RUN_MS : RUN_MS);
    for (int i = 0; i < CLIENTS; i++)
        if (actors[i].state != AWAY)
            leave(&actors[i]);
    SCRATCH_UNTIL(3 * T, bench_count("lock:h*") == 0);
    executed_count = monitor_stop(monitor, &executed);
    merge(executed, executed_count);
    check(first_seed);
    free(records);
    monitor_free(monitor);
    bench_stop(&second);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("history of real faults");
    TCase *tests = rows_case(suite, "history", rows_setup);

    rows_add_loop(tests, what_really_happened, 4);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
