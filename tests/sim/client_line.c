// SPDX-License-Identifier: Apache-2.0
//
// Lines between clients and sidecars. What a client reads are notes: lines that were scanned when the
// sidecar wrote them, and arrive later. What it says are lines, and what the history is to know of
// them.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/client_inside.h"

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

// The instant of the lease's workflow deadline, as its sidecar has it.
static int64_t deadline_us(const struct sim_host *host, const struct message_token *lease)
{
    uint32_t slot = table_find_token(&host->keeper.table, lease);

    if (slot == SLOT_NONE)
        return 0;
    return host_us(host, lease_deadline_at(&table_slot(&host->keeper.table, slot)->lease));
}

static void scan_grant(const struct sim_host *host, const char *line, size_t length,
                       struct history_record *record)
{
    const char *key = member(line, length, "key");

    record->key = (uint32_t)(key[2] - '0') + 1;
    record->fence = number(line, length, "fence");
    record->ttl_ms = number(line, length, "ttl_ms");
    record->until_us = host_us(host, number(line, length, "valid_until_ms"));
    record->expires = record->request & SIM_EXPIRES;
    record->unbound = record->request & SIM_UNBOUND;
    token(line, length, &record->token);
    record->due_us = deadline_us(host, &record->token);
}

// Which record a reply makes, by its op and whether it is ok.
static enum history_kind reply_kind(const char *op, bool ok)
{
    if (is(op, 9, "\"acquire\""))
        return ok ? HISTORY_WROTE_GRANTED : HISTORY_WROTE_DENIED;
    if (is(op, 7, "\"adopt\""))
        return ok ? HISTORY_WROTE_ADOPTED : HISTORY_WROTE_ANSWER;
    if (is(op, 9, "\"release\""))
        return HISTORY_WROTE_RELEASED;
    return is(op, 8, "\"extend\"") ? HISTORY_WROTE_EXTENDED : HISTORY_WROTE_ANSWER;
}

static void scan_reply(const struct sim_host *host, const char *line, size_t length,
                       struct history_record *record)
{
    const char *op = member(line, length, "op");

    record->ok = is(line, length, "{\"ok\":true,");
    record->kind = reply_kind(op, record->ok);
    if (record->kind == HISTORY_WROTE_GRANTED || record->kind == HISTORY_WROTE_ADOPTED)
        scan_grant(host, line, length, record);
    if (record->kind == HISTORY_WROTE_GRANTED)
        host->world->stats->grants++;
    if (record->kind == HISTORY_WROTE_ADOPTED)
        host->world->stats->adopted++;
    if (record->kind == HISTORY_WROTE_RELEASED || record->kind == HISTORY_WROTE_EXTENDED)
        token(line, length, &record->token);
    if (record->kind == HISTORY_WROTE_EXTENDED && record->ok)
        record->due_us = deadline_us(host, &record->token);
}

void client_scan(const struct sim_client *client, const char *line, size_t length,
                 struct sim_note *note, struct history_record *record)
{
    const struct sim_host *host = &client->world->hosts[client->host];

    record->kind = HISTORY_KIND_COUNT;
    record->sidecar = host->process;
    record->client = client->number;
    record->request = (uint32_t)number(line, length, "id");
    if (is(line, length, "{\"event\":"))
        scan_event(host, line, length, record);
    else
        scan_reply(host, line, length, record);
    note->kind = record->kind;
    note->request = record->request;
    note->key = record->key;
    note->token = record->token;
    note->until_us = record->until_us;
    note->due_us = record->due_us;
}

// ---- Writing one ----

static void say(struct sim_client *client, const struct sim_line *said, const char *bytes)
{
    struct world *world = client->world;
    struct sim_line *line = &client->lines[(client->line_first + client->line_count) % SIM_LINES];
    int64_t at_us = world->now_us + chance_between(&world->chance, 5, 5 + world->latency_us / 2);

    if (client->closed || client->line_count == SIM_LINES)
        return; // nobody reads it, or its socket is full
    client->line_count++;
    client->line_us = at_us > client->line_us ? at_us : client->line_us;
    *line = *said;
    line->at_us = client->line_us;
    line->length = (uint16_t)strlen(bytes);
    memcpy(line->bytes, bytes, line->length);
    host_wake(&world->hosts[client->host], line->at_us);
}

static void put_options(struct chance *chance, uint32_t request, char *line, size_t size)
{
    int n = 0;

    if (request & SIM_EXPIRES)
        n += snprintf(line + n, size - (size_t)n, ",\"on_disconnect\":\"expire\"");
    if (request & SIM_UNBOUND)
        n += snprintf(line + n, size - (size_t)n, ",\"bind\":\"none\"");
    if (chance_percent(chance, 40))
        n += snprintf(line + n, size - (size_t)n, ",\"notify\":[\"renewed\",\"at_risk\"]");
    snprintf(line + n, size - (size_t)n, "}");
}

void client_say_acquire(struct sim_client *client, uint32_t request, uint32_t key, int64_t wait_ms)
{
    static const int ttls[] = {500, 600, 1000, 2000, 3000};
    struct chance *chance = &client->world->chance;
    struct sim_line said = {
        .kind = HISTORY_READ_ACQUIRE, .request = request, .key = key + 1, .span_ms = wait_ms};
    char line[sizeof said.bytes];
    int n =
        snprintf(line, sizeof line, "{\"id\":%u,\"op\":\"acquire\",\"key\":\"k%u\"", request, key);

    if (chance_percent(chance, 50))
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"ttl_ms\":%d",
                      ttls[chance_below(chance, 5)]);
    if (chance_percent(chance, 25))
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"deadline_ms\":%d",
                      (int)chance_between(chance, 1, 3000));
    if (wait_ms != 0)
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"wait_ms\":%d", (int)wait_ms);
    put_options(chance, request, line + n, sizeof line - (size_t)n);
    say(client, &said, line);
}

void client_say_adopt(struct sim_client *client, uint32_t request, uint32_t key,
                      const struct message_token *lease)
{
    struct sim_line said = {
        .kind = HISTORY_READ_ADOPT, .request = request, .key = key + 1, .token = *lease};
    char digits[WIRE_LEASE_DIGITS + 1] = "", line[sizeof said.bytes];
    int n;

    message_token_format(lease, digits);
    n = snprintf(line, sizeof line,
                 "{\"id\":%u,\"op\":\"adopt\",\"key\":\"k%u\",\"lease\":\"%.32s\"", request, key,
                 digits);
    put_options(&client->world->chance, request, line + n, sizeof line - (size_t)n);
    say(client, &said, line);
}

void client_say_release(struct sim_client *client, uint32_t request,
                        const struct message_token *lease)
{
    struct sim_line said = {.kind = HISTORY_READ_RELEASE, .request = request, .token = *lease};
    struct world *world = client->world;
    char digits[WIRE_LEASE_DIGITS + 1] = "", line[sizeof said.bytes];

    message_token_format(lease, digits);
    snprintf(line, sizeof line, "{\"id\":%u,\"op\":\"release\",\"lease\":\"%.32s\"}", request,
             digits);
    world_record(world, (struct history_record){.kind = HISTORY_CLIENT_RELEASES,
                                                .sidecar = world->hosts[client->host].process,
                                                .client = client->number,
                                                .token = *lease});
    say(client, &said, line);
}

void client_say_extend(struct sim_client *client, uint32_t request,
                       const struct message_token *lease, int64_t deadline_ms)
{
    struct sim_line said = {.kind = HISTORY_READ_EXTEND, .request = request, .token = *lease};
    char digits[WIRE_LEASE_DIGITS + 1] = "", line[sizeof said.bytes];

    message_token_format(lease, digits);
    snprintf(line, sizeof line,
             "{\"id\":%u,\"op\":\"extend\",\"lease\":\"%.32s\",\"deadline_ms\":%d}", request,
             digits, (int)deadline_ms);
    say(client, &said, line);
}

void client_say_break(struct sim_client *client, uint32_t request, uint32_t key, int64_t grace_ms)
{
    struct sim_line said = {
        .kind = HISTORY_READ_BREAK, .request = request, .key = key + 1, .span_ms = grace_ms};
    char line[sizeof said.bytes];

    snprintf(line, sizeof line, "{\"id\":%u,\"op\":\"break\",\"key\":\"k%u\",\"grace_ms\":%d}",
             request, key, (int)grace_ms);
    say(client, &said, line);
}

void client_say_inspect(struct sim_client *client, uint32_t request, uint32_t key)
{
    struct sim_line said = {.kind = HISTORY_READ_QUERY, .request = request};
    char line[sizeof said.bytes];

    snprintf(line, sizeof line, "{\"id\":%u,\"op\":\"inspect\",\"key\":\"k%u\"}", request, key);
    say(client, &said, line);
}

void client_say_cancel(struct sim_client *client, uint32_t request, uint32_t target)
{
    struct sim_line said = {.kind = HISTORY_READ_QUERY, .request = request};
    char line[sizeof said.bytes];

    snprintf(line, sizeof line, "{\"id\":%u,\"op\":\"cancel\",\"target\":%u}", request, target);
    say(client, &said, line);
}
