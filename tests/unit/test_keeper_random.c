// SPDX-License-Identifier: Apache-2.0
//
// The keeper under random requests, completions, ends and times, each run from its seed. The model
// knows only what clients are told and what the store is asked for, and checks after every step:
//
// - every request is answered exactly once (the rig counts);
// - a key has one holder: no grant before the lease before it has ended, and its client was told or
//   is gone; nor is Redis asked for such a key;
// - after a terminal message nothing more is said of a lease, and no renewal of it is written;
// - `revoked` repeats the newest valid_until that was told, and comes for its reason;
// - a slot of a page says the newest valid_until that was told, and 0 once the lease is over, until its
//   own client has released it;
// - a granted key is deleted only after its release, the end of its binding, or valid_until;
// - in the end nothing is left.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/page.h"
#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

enum { SEEDS = 120, ROUNDS = 10, STEPS = 700, KEYS = 4, CLIENTS = 6, LEASES = 2000 };

struct model_lease {
    char lease[WIRE_LEASE_DIGITS + 1];
    int key;
    int client; // -1: gone
    int64_t granted_ms;
    int64_t valid_until_ms;
    int64_t ttl_ms;
    int64_t deadline_ms;
    bool expires;
    int64_t slot;    // in its client's page; -1: it has none
    bool slot_given; // its client has released it: another lease may have the slot
    bool over;       // its client was told, released it, or is gone
    bool released;   // a release was sent
    bool may_delete; // before valid_until, by the client's own doing
};

static struct rig rig;
static struct rig_client clients[CLIENTS];
static struct model_lease leases[LEASES];
static size_t lease_count, calls_looked_at;
static unsigned long long seed, state;

#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("seed %llu, %lld ms: %s", seed, (long long)(rig.now_ms - RIG_START),      \
                         #condition);                                                              \
    } while (0)

static unsigned draw(unsigned bound)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(state >> 33) % bound;
}

// ---- What clients are told ----

static struct model_lease *find(const char *digits)
{
    for (size_t i = lease_count; i-- > 0;)
        if (memcmp(leases[i].lease, digits, WIRE_LEASE_DIGITS) == 0)
            return &leases[i];
    return NULL;
}

static void see_grant(int number, struct rig_client *client)
{
    struct model_lease *lease = &leases[lease_count];
    const char *key = rig_string(client, "key");
    const json_t *slot = json_object_get(client->line, "slot");

    HOLDS(!find(rig_string(client, "lease")));
    HOLDS(++lease_count < LEASES);
    *lease = (struct model_lease){
        .key = key[1] - '0',
        .client = number,
        .granted_ms = rig.now_ms,
        .valid_until_ms = rig_int(client, "valid_until_ms"),
        .ttl_ms = rig_int(client, "ttl_ms"),
        .deadline_ms = rig_int(client, "deadline_ms"),
        // The odd deadlines are those of on_disconnect "expire".
        .expires = rig_int(client, "deadline_ms") & 1,
        .slot = slot ? json_integer_value(slot) : -1,
    };
    memcpy(lease->lease, rig_string(client, "lease"), sizeof lease->lease);
    HOLDS((lease->slot >= 0) == (client->session.page != NULL));
    HOLDS(rig.now_ms < lease->valid_until_ms - lease->ttl_ms / 5);
    for (size_t i = 0; i + 1 < lease_count; i++)
        HOLDS(leases[i].over || leases[i].key != lease->key);
}

static void see_revoked(struct rig_client *client, struct model_lease *lease)
{
    const char *reason = rig_string(client, "reason");
    int64_t left_ms = lease->valid_until_ms - rig.now_ms;
    int64_t safe_ms = rig_int(client, "safe_ms");

    HOLDS(!lease->over);
    HOLDS(rig_int(client, "valid_until_ms") == lease->valid_until_ms);
    HOLDS(rig_int(client, "held_ms") == rig.now_ms - lease->granted_ms);
    HOLDS(safe_ms == 0 || safe_ms == left_ms);
    if (strcmp(reason, "unreachable") == 0)
        HOLDS(left_ms <= lease->ttl_ms / 5);
    else if (strcmp(reason, "deadline") == 0)
        HOLDS(rig.now_ms >= lease->granted_ms + lease->deadline_ms);
    else if (strcmp(reason, "released") == 0)
        HOLDS(lease->released);
    else if (strcmp(reason, "eof") == 0)
        HOLDS(client->session.input_ended);
    else
        HOLDS(strcmp(reason, "lost") == 0);
    lease->over = true;
    if (strcmp(reason, "eof") == 0)
        lease->may_delete = !lease->expires;
}

static void see_event(int number, struct rig_client *client, const char *event)
{
    struct model_lease *lease = find(rig_string(client, "lease"));

    HOLDS(lease && lease->client == number);
    if (strcmp(event, "revoked") == 0) {
        see_revoked(client, lease);
        return;
    }
    HOLDS(!lease->over && rig.now_ms < lease->valid_until_ms - lease->ttl_ms / 5);
    if (strcmp(event, "renewed") == 0) {
        int64_t valid_until_ms = rig_int(client, "valid_until_ms");
        HOLDS(valid_until_ms > lease->valid_until_ms);
        HOLDS(valid_until_ms <= rig.now_ms + lease->ttl_ms);
        lease->valid_until_ms = valid_until_ms;
    } else {
        HOLDS(rig_int(client, "valid_until_ms") == lease->valid_until_ms);
    }
}

static void listen_to(int number)
{
    struct rig_client *client = &clients[number];

    while (client->rig && rig_take(client)) {
        const char *event = json_string_value(json_object_get(client->line, "event"));
        const char *op = json_string_value(json_object_get(client->line, "op"));
        if (event)
            see_event(number, client, event);
        else if (json_is_true(json_object_get(client->line, "ok")) && strcmp(op, "acquire") == 0)
            see_grant(number, client);
    }
}

// ---- What the store is asked for ----

static void see_call(const struct fake_call *call)
{
    char digits[WIRE_LEASE_DIGITS + 1] = "";
    const struct model_lease *lease;

    if (call->op == STORE_RENEW)
        return;
    message_token_format(&call->token.token, digits);
    lease = find(digits);
    if (call->op == STORE_RELEASE) {
        HOLDS(!lease || lease->may_delete || lease->released ||
              rig.now_ms >= lease->valid_until_ms);
        return;
    }
    HOLDS(!lease);
    for (size_t i = 0; i < lease_count; i++)
        HOLDS(leases[i].over || leases[i].key != call->key[1] - '0');
}

static void see_slot(const struct model_lease *lease)
{
    const struct page *page = lease->client < 0 ? NULL : clients[lease->client].session.page;

    if (lease->slot < 0 || lease->slot_given || !page)
        return;
    HOLDS(page->slots[lease->slot] == (lease->over ? 0 : lease->valid_until_ms * 1000000));
}

// After every step: first what was said, then what was asked for, since that is the order.
static void look(void)
{
    for (int i = 0; i < CLIENTS; i++)
        listen_to(i);
    for (; calls_looked_at < rig.fake.count; calls_looked_at++)
        see_call(&rig.fake.calls[calls_looked_at]);
    for (size_t i = 0; i < lease_count; i++)
        see_slot(&leases[i]);
    HOLDS(rig.keeper.owed <= rig.keeper.pending);
    HOLDS(rig.keeper.pending <= rig.keeper.table.live);
    HOLDS(rig.keeper.schedule.count <= rig.keeper.table.live);
}

// ---- Steps ----

static void ask(int number)
{
    static const int ttls[] = {500, 900, 3000, 30000};
    bool expires = draw(4) == 0;
    int deadline_ms = (draw(3) ? 2 * (int)draw(3000) + 200 : 200000) + (expires ? 1 : 0);

    rig_send(&clients[number],
             "{'op':'acquire','key':'k%u','ttl_ms':%d,'deadline_ms':%d,'on_disconnect':'%s',"
             "'notify':['renewed','at_risk']}",
             draw(KEYS), ttls[draw(4)], deadline_ms, expires ? "expire" : "release");
}

static void release(int number)
{
    struct model_lease *lease;

    if (lease_count == 0)
        return;
    lease = &leases[lease_count - 1 - draw(lease_count < 8 ? (unsigned)lease_count : 8)];
    lease->released = true;
    lease->slot_given = lease->slot_given || lease->client == number;
    rig_send(&clients[number], "{'op':'release','lease':'%s'}", lease->lease);
    listen_to(lease->client < 0 ? number : lease->client); // "revoked", when it was another's
    lease->over = true;
}

static void leave(int number, bool gone)
{
    for (size_t i = 0; i < lease_count; i++) {
        if (leases[i].client != number)
            continue;
        leases[i].over = true;
        leases[i].client = -1;
        if (gone && !leases[i].expires)
            leases[i].may_delete = true;
    }
    if (gone)
        rig_gone(&clients[number]);
    else
        rig_cut(&clients[number]);
}

static void forget_client(int number)
{
    for (size_t i = 0; i < lease_count; i++)
        if (leases[i].client == number)
            leases[i].client = -1;
}

static void half_close(int number)
{
    for (size_t i = 0; i < lease_count; i++)
        if (leases[i].client == number && !leases[i].expires)
            leases[i].may_delete = true;
    rig_half_close(&clients[number]);
}

static void act(int number)
{
    struct rig_client *client = &clients[number];
    unsigned what = draw(100);

    if (!client->rig) {
        rig_connect(&rig, client, 1000 + (uid_t)draw(3));
        if (draw(2))
            rig_send(client, "{'op':'hello','page':true}");
    } else if (client->session.input_ended) {
        if (client->session.unanswered == 0) {
            rig_finish(client);
            forget_client(number);
        } else if (what < 20) {
            leave(number, what < 10);
        }
    } else if (what < 60) {
        ask(number);
    } else if (what < 85) {
        release(number);
    } else if (what < 88) {
        rig_send(client, what & 1 ? "{'op':'ping'}" : "{'op':'list','limit':3}");
    } else if (what < 93) {
        half_close(number);
    } else if (what < 97) {
        leave(number, true);
    } else {
        leave(number, false);
    }
}

static struct fake_call *some_call(bool written)
{
    for (int tries = 0; tries < 20 && rig.fake.count > 0; tries++) {
        unsigned back = draw(rig.fake.count < 40 ? (unsigned)rig.fake.count : 40);
        struct fake_call *call = &rig.fake.calls[rig.fake.count - 1 - back];
        if (!call->done && (call->sent_at_ms != 0) == written)
            return call;
        if (written && call->done && call->late_allowed)
            return call;
    }
    return NULL;
}

static void write_one(void)
{
    struct fake_call *call = some_call(false);
    char digits[WIRE_LEASE_DIGITS + 1] = "";
    const struct model_lease *lease;

    if (!call || !fake_store_write(&rig.fake, call, rig.now_ms) || call->op != STORE_RENEW)
        return;
    message_token_format(&call->token.token, digits);
    lease = find(digits);
    HOLDS(lease && !lease->over && !lease->released);
}

static enum store_outcome some_outcome(const struct fake_call *call)
{
    static const enum store_outcome failures[] = {STORE_UNAVAILABLE, STORE_REFUSED, STORE_TIMEOUT,
                                                  STORE_LOST, STORE_TIMEOUT};
    unsigned what = draw(10);

    if (what < 6)
        return STORE_OK;
    if (what == 6)
        return call->op == STORE_ACQUIRE ? STORE_HELD : STORE_NOT_OWNER;
    return failures[draw(5)];
}

static void complete_one(void)
{
    struct fake_call *call = some_call(true);

    if (!call)
        return;
    if (call->done)
        fake_store_complete(&rig.fake, call, draw(2) ? STORE_OK : STORE_NOT_OWNER, rig.now_ms);
    else
        fake_store_complete_with(&rig.fake, call,
                                 (struct store_completion){
                                     .outcome = some_outcome(call),
                                     .certain = draw(4) > 0,
                                     .fence = rig.keeper.fence_floor + 1,
                                     .pttl_ms = (int64_t)draw(1000) - 1,
                                 },
                                 rig.now_ms);
}

static void pass_time(void)
{
    int64_t ms = draw(20) ? draw(40) : draw(10) ? draw(800) : draw(40000);

    if (draw(4))
        rig_pass(&rig, ms);
    else
        rig.now_ms += ms; // what comes next finds it so, as in a turn that began late
}

static void step(void)
{
    unsigned what = draw(100);

    if (what < 40)
        act((int)draw(CLIENTS));
    else if (what < 60)
        write_one();
    else if (what < 82)
        complete_one();
    else if (what < 98)
        pass_time();
    else if (rig.fake.store.up)
        fake_store_set_down(&rig.fake, "down", rig.now_ms);
    else
        fake_store_set_up(&rig.fake, rig.now_ms);
    look();
}

// ---- A run ----

static void complete_all(void)
{
    for (size_t i = 0; i < rig.fake.count; i++) {
        struct fake_call *call = &rig.fake.calls[i];
        if (!call->done && (call->sent_at_ms || fake_store_write(&rig.fake, call, rig.now_ms)))
            fake_store_complete(&rig.fake, call,
                                call->op == STORE_ACQUIRE ? STORE_REFUSED : STORE_NOT_OWNER,
                                rig.now_ms);
        look();
    }
}

static void run(void)
{
    struct keeper_options options = rig_options(&rig);

    state = seed * 7919;
    lease_count = calls_looked_at = 0;
    options.caps[ACCOUNT_LEASES] = 12;
    rig_open_with(&rig, &options);
    for (int i = 0; i < STEPS && rig.fake.count < FAKE_STORE_CALLS - 600; i++)
        step();
    for (int i = 0; i < CLIENTS; i++)
        if (clients[i].rig && !clients[i].session.input_ended)
            half_close(i);
    look();
    complete_all();
    rig_pass(&rig, 400000);
    look();
    complete_all();
    for (int i = 0; i < CLIENTS; i++)
        if (clients[i].rig)
            rig_finish(&clients[i]); // all was answered
    rig_close(&rig);
}

START_TEST(random_runs)
{
    for (int round = 0; round < ROUNDS; round++) {
        seed = (unsigned long long)(_i * ROUNDS + round + 1);
        run();
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("keeper_random");
    TCase *tcase = tcase_create("random");

    tcase_set_timeout(tcase, 30);
    tcase_add_loop_test(tcase, random_runs, 0, SEEDS / ROUNDS);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
