// SPDX-License-Identifier: Apache-2.0
//
// Grants: what clients may act on.
//
// - A grant is new, and its key's only live one of this sidecar's acquiring; or it is a lease that was
//   adopted, from elsewhere or from another client, which was told so first. Its valid_until is a
//   promise that counts from here.
// - revoked comes once for a live grant, to its client, with the promised safe_ms; nothing comes
//   after it, or after a release was handled, but replies.

#include <string.h>

#include "sidecar/value.h"
#include "tests/fuzz/core.h"

struct core_grant *core_find_grant(struct core *core, const struct message_token *token)
{
    for (size_t i = 0; i < core->grant_count; i++)
        if (memcmp(&core->grants[i].token, token, sizeof *token) == 0)
            return &core->grants[i];
    return NULL;
}

static const struct slot *slot_of(const struct core *core, const struct message_token *token)
{
    uint32_t number = table_find_token(&core->keeper.table, token);

    return number == SLOT_NONE ? NULL : table_slot(&core->keeper.table, number);
}

bool core_is_live(const struct core *core, const struct core_grant *grant)
{
    const struct slot *slot;

    if (!grant->live || grant->client >= 0)
        return grant->live;
    slot = slot_of(core, &grant->token); // nobody is told of its end
    return slot && slot->lease.state == LEASE_HELD;
}

struct core_grant *core_find_live(struct core *core, const char *key)
{
    for (size_t i = 0; i < core->grant_count; i++) {
        struct core_grant *grant = &core->grants[i];
        if (!grant->adopted && strcmp(grant->key, key) == 0 && core_is_live(core, grant))
            return grant;
    }
    return NULL;
}

int64_t core_revoke_at(const struct core *core, const struct core_grant *grant)
{
    return grant->promised_ms - lease_margin_ms(&core->keeper.options.rules, grant->ttl_ms);
}

void core_check_grants(struct core *core)
{
    bool shut = core->shut && core->keeper.walk == KEEPER_WALK_NONE;

    for (size_t i = 0; i < core->grant_count; i++) {
        struct core_grant *grant = &core->grants[i];

        grant->live = core_is_live(core, grant);
        if (!grant->live)
            continue;
        FUZZ_CHECK(!shut && slot_of(core, &grant->token));
        if (grant->bind != WIRE_BIND_CONNECTION && grant->client < 0)
            continue;
        FUZZ_CHECK(core->clients[grant->client].open);
        FUZZ_CHECK(!core->clients[grant->client].session.input_ended ||
                   grant->bind != WIRE_BIND_CONNECTION);
    }
}

void core_check_swept(struct core *core)
{
    for (size_t i = 0; i < core->grant_count; i++) {
        const struct core_grant *grant = &core->grants[i];

        if (!core_is_live(core, grant))
            continue;
        FUZZ_CHECK(core->now_ms < core_revoke_at(core, grant));
        FUZZ_CHECK(core->now_ms < grant->granted_ms + grant->deadline_ms);
        FUZZ_CHECK(core->now_ms < grant->beat_by_ms || core_is_renewing(core, &grant->token));
    }
}

// ---- Members ----

int64_t core_integer(const json_t *line, const char *name)
{
    const json_t *value = json_object_get(line, name);

    FUZZ_CHECK(json_is_integer(value));
    return json_integer_value(value);
}

const char *core_string(const json_t *line, const char *name)
{
    const char *value = json_string_value(json_object_get(line, name));

    FUZZ_CHECK(value);
    return value;
}

struct message_token core_token(const json_t *line)
{
    const char *digits = core_string(line, "lease");
    struct message_token token;

    FUZZ_CHECK(strlen(digits) == WIRE_LEASE_DIGITS && message_token_parse(digits, &token));
    return token;
}

// ---- Beginnings ----

static struct core_grant *new_grant(struct core *core, const struct core_request *request,
                                    const struct message_token *token)
{
    struct core_grant *grant = &core->grants[core->grant_count++];

    FUZZ_CHECK(core->grant_count <= CORE_GRANTS);
    *grant = (struct core_grant){.token = *token, .grace_ms = INT64_MAX};
    strcpy(grant->key, request->about);
    return grant;
}

// A new lease, valid from the send of the call whose answer is being told.
static void begin(const struct core *core, struct core_grant *grant, const json_t *line)
{
    grant->granted_ms = core->now_ms;
    grant->ttl_ms = core_integer(line, "ttl_ms");
    grant->deadline_ms = core_integer(line, "deadline_ms");
    grant->promised_ms = core->answered->sent_at_ms + grant->ttl_ms - (grant->ttl_ms / 100 + 2);
    grant->beat_by_ms = core->answered->sent_at_ms + grant->ttl_ms / 3;
    grant->fence = core_integer(line, "fence");
}

static struct core_grant *acquired(struct core *core, const struct core_request *request,
                                   const struct message_token *token, const json_t *line)
{
    struct core_grant *grant;

    FUZZ_CHECK(!core_find_grant(core, token) && !core_find_live(core, request->about));
    grant = new_grant(core, request, token);
    begin(core, grant, line);
    FUZZ_CHECK(grant->fence == core->keeper.fence_floor);
    return grant;
}

static struct core_grant *adopted(struct core *core, const struct core_request *request,
                                  const struct message_token *token, const json_t *line, int client)
{
    struct core_grant *grant = core_find_grant(core, token);
    int64_t age_ms;

    if (core->moves) { // from one connection here to another, which was told before
        FUZZ_CHECK(grant);
        FUZZ_CHECK(!core_is_live(core, grant) || grant->client == client || grant->client < 0);
        FUZZ_CHECK(core_integer(line, "fence") == grant->fence);
        if (grant->offered_ms > grant->promised_ms)
            grant->promised_ms = grant->offered_ms;
        return grant;
    }
    FUZZ_CHECK(core->adopted);
    if (!grant)
        grant = new_grant(core, request, token);
    strcpy(grant->key, request->about);
    grant->grace_ms = INT64_MAX;
    begin(core, grant, line);
    age_ms = (core->adopted_at_us - core->adopted->since_us) / 1000;
    grant->granted_ms = core->answered->sent_at_ms - age_ms;
    grant->adopted = true;
    FUZZ_CHECK(grant->fence == core->adopted->fence && grant->ttl_ms == core->adopted->ttl_ms);
    FUZZ_CHECK(core->now_ms < grant->granted_ms + grant->deadline_ms);
    core_key_adopted(core, token, grant->ttl_ms, core->answered->sent_at_ms);
    return grant;
}

void core_take_grant(struct core_client *client, const struct core_request *request,
                     const json_t *line)
{
    struct core *core = client->core;
    struct message_token token = core_token(line);
    const struct slot *slot = slot_of(core, &token);
    int number = (int)(client - core->clients);
    bool adopts = request->op == WIRE_OP_ADOPT;
    struct core_grant *grant;

    FUZZ_CHECK(strcmp(core_string(line, "key"), request->about) == 0 && !request->draining);
    FUZZ_CHECK(core->answered && core->answered->op == (adopts ? STORE_ADOPT : STORE_ACQUIRE) &&
               memcmp(&core->answered->token, &token, sizeof token) == 0 && slot);
    grant = adopts ? adopted(core, request, &token, line, number)
                   : acquired(core, request, &token, line);
    grant->client = number;
    grant->live = true;
    grant->unread = grant->release_began = grant->release_done = grant->lost = false;
    grant->bind = (enum wire_bind)slot->bind;
    grant->pid = (pid_t)slot->pid;
    grant->expires = slot->lease.flags & LEASE_EXPIRES;
    grant->unbound = client->session.input_ended && grant->bind == WIRE_BIND_CONNECTION;
    grant->offset = client->session.taken + buf_length(&client->session.out);
    FUZZ_CHECK(core_integer(line, "valid_until_ms") == grant->promised_ms);
    FUZZ_CHECK(core->now_ms < core_revoke_at(core, grant));
    FUZZ_CHECK(core_integer(line, "waited_ms") >= 0);
}

// ---- Ends ----

static bool is_reason(const struct core *core, const struct core_grant *grant, int reason)
{
    switch (reason) {
    case WIRE_REASON_LOST:
        return grant->lost || grant->losing;
    case WIRE_REASON_UNREACHABLE:
        return core->now_ms >= core_revoke_at(core, grant);
    case WIRE_REASON_DEADLINE:
        return core->now_ms >= grant->granted_ms + grant->deadline_ms;
    case WIRE_REASON_SHUTDOWN:
        return core->shut;
    case WIRE_REASON_BROKEN:
        return grant->grace_ms != INT64_MAX;
    case WIRE_REASON_MOVED:
        return core->answered && core->answered->op == STORE_ADOPT &&
               memcmp(&core->answered->token, &grant->token, sizeof grant->token) == 0;
    case WIRE_REASON_RELEASED:
        return grant->release_began;
    case WIRE_REASON_EOF:
        return core->clients[grant->client].session.input_ended || grant->unbound;
    default:
        return false;
    }
}

static void check_revoked(const struct core_client *client, struct core_grant *grant,
                          const json_t *line)
{
    int reason = wire_find(wire_reason_names, WIRE_REASON_COUNT, core_string(line, "reason"));
    bool broken = reason == WIRE_REASON_BROKEN;
    int64_t until_ms =
        broken && grant->grace_ms < grant->promised_ms ? grant->grace_ms : grant->promised_ms;
    int64_t left_ms = until_ms - client->core->now_ms;
    bool promises = reason == WIRE_REASON_UNREACHABLE || reason == WIRE_REASON_DEADLINE ||
                    reason == WIRE_REASON_SHUTDOWN || broken;

    FUZZ_CHECK(is_reason(client->core, grant, reason));
    FUZZ_CHECK(strcmp(core_string(line, "error"), "errLostActorLock") == 0);
    if (reason == WIRE_REASON_MOVED && grant->offered_ms > until_ms)
        until_ms = grant->offered_ms;
    FUZZ_CHECK(core_integer(line, "valid_until_ms") == until_ms);
    FUZZ_CHECK(core_integer(line, "safe_ms") == (promises && left_ms > 0 ? left_ms : 0));
    FUZZ_CHECK(core_integer(line, "held_ms") == client->core->now_ms - grant->granted_ms);
    grant->live = false;
}

void core_take_event(const struct core_client *client, const json_t *line)
{
    struct message_token token = core_token(line);
    struct core_grant *grant = core_find_grant(client->core, &token);
    int event = wire_find(wire_event_names, WIRE_EVENT_COUNT, core_string(line, "event"));

    FUZZ_CHECK(grant && grant->live && !grant->release_done);
    FUZZ_CHECK(grant->client >= 0 && &client->core->clients[grant->client] == client);
    FUZZ_CHECK(strcmp(core_string(line, "key"), grant->key) == 0);
    switch (event) {
    case WIRE_EVENT_REVOKED:
        check_revoked(client, grant, line);
        break;
    case WIRE_EVENT_RENEWED:
        FUZZ_CHECK(grant->offered_ms > grant->promised_ms);
        grant->promised_ms = core_integer(line, "valid_until_ms");
        FUZZ_CHECK(grant->promised_ms == grant->offered_ms);
        break;
    case WIRE_EVENT_AT_RISK:
        FUZZ_CHECK(core_integer(line, "valid_until_ms") == grant->promised_ms);
        break;
    default:
        FUZZ_CHECK(false && "an event");
    }
}

// The client ends its leases, those that it was told of too.
void core_unbind(struct core *core, int number)
{
    for (size_t i = 0; i < core->grant_count; i++)
        if (core->grants[i].client == number && core->grants[i].bind == WIRE_BIND_CONNECTION)
            core->grants[i].unbound = true;
}

void core_leave(struct core *core, int number, bool gone)
{
    uint64_t taken = core->clients[number].session.taken;

    if (gone)
        core_unbind(core, number);
    for (size_t i = 0; i < core->grant_count; i++) {
        struct core_grant *grant = &core->grants[i];
        bool stays = gone && grant->bind != WIRE_BIND_CONNECTION;
        if (grant->client != number)
            continue;
        // Who never read of it never had it, whatever it is bound to.
        grant->unread |= grant->offset > taken;
        grant->live &= stays && !grant->unread;
        grant->client = -1;
    }
}
