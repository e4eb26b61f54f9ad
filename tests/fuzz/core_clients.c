// SPDX-License-Identifier: Apache-2.0
//
// The clients. Each line is parsed before it is handled, to know what its reply must echo; each line
// that comes back is looked at inside session->output, so that the order of what different clients
// are told is known.
//
// - Every reply answers one request that is still unanswered, and session->unanswered counts those.
// - A grant is new, and its key's only live one; its valid_until is a promise that counts from here.
// - revoked comes once for a live grant, to its client, with the promised safe_ms; nothing comes
//   after it, or after a release was handled, but replies.

#include <jansson.h>
#include <string.h>

#include "sidecar/dispatch.h"
#include "tests/fuzz/core.h"

// ---- Grants ----

struct core_grant *core_find_grant(struct core *core, const struct message_token *token)
{
    for (size_t i = 0; i < core->grant_count; i++)
        if (memcmp(&core->grants[i].token, token, sizeof *token) == 0)
            return &core->grants[i];
    return NULL;
}

struct core_grant *core_find_live(struct core *core, const char *key)
{
    for (size_t i = 0; i < core->grant_count; i++)
        if (core->grants[i].live && strcmp(core->grants[i].key, key) == 0)
            return &core->grants[i];
    return NULL;
}

static int64_t revoke_at(const struct core *core, const struct core_grant *grant)
{
    return grant->promised_ms - lease_margin_ms(&core->keeper.options.rules, grant->ttl_ms);
}

void core_check_grants(struct core *core)
{
    bool shut = core->shut && core->keeper.walk == KEEPER_WALK_NONE;

    for (size_t i = 0; i < core->grant_count; i++) {
        const struct core_grant *grant = &core->grants[i];

        if (!grant->live)
            continue;
        FUZZ_CHECK(!shut && core->clients[grant->client].open);
        FUZZ_CHECK(!core->clients[grant->client].session.input_ended);
        FUZZ_CHECK(table_find_token(&core->keeper.table, &grant->token) != SLOT_NONE);
    }
}

void core_check_swept(struct core *core)
{
    for (size_t i = 0; i < core->grant_count; i++) {
        const struct core_grant *grant = &core->grants[i];

        if (!grant->live)
            continue;
        FUZZ_CHECK(core->now_ms < revoke_at(core, grant));
        FUZZ_CHECK(core->now_ms < grant->granted_ms + grant->deadline_ms);
        FUZZ_CHECK(core->now_ms < grant->beat_by_ms || core_is_renewing(core, &grant->token));
    }
}

// ---- What a client is told ----

static int64_t integer(const json_t *line, const char *name)
{
    const json_t *value = json_object_get(line, name);

    FUZZ_CHECK(json_is_integer(value));
    return json_integer_value(value);
}

static const char *string(const json_t *line, const char *name)
{
    const char *value = json_string_value(json_object_get(line, name));

    FUZZ_CHECK(value);
    return value;
}

static struct message_token token_of(const json_t *line)
{
    const char *digits = string(line, "lease");
    struct message_token token;

    FUZZ_CHECK(strlen(digits) == WIRE_LEASE_DIGITS && message_token_parse(digits, &token));
    return token;
}

static void take_grant(struct core_client *client, const struct core_request *request,
                       const json_t *line)
{
    struct core *core = client->core;
    struct message_token token = token_of(line);
    struct core_grant *grant = &core->grants[core->grant_count];

    FUZZ_CHECK(core->grant_count < CORE_GRANTS && !core_find_grant(core, &token));
    FUZZ_CHECK(strcmp(string(line, "key"), request->about) == 0 && !request->draining);
    FUZZ_CHECK(!core_find_live(core, request->about));
    FUZZ_CHECK(core->answered && core->answered->op == STORE_ACQUIRE &&
               memcmp(&core->answered->token, &token, sizeof token) == 0);
    *grant = (struct core_grant){
        .token = token,
        .client = (int)(client - core->clients),
        .live = true,
        .unbound = client->session.input_ended,
        .expires = request->expires,
        .granted_ms = core->now_ms,
        .ttl_ms = integer(line, "ttl_ms"),
        .deadline_ms = integer(line, "deadline_ms"),
        .promised_ms = integer(line, "valid_until_ms"),
    };
    strcpy(grant->key, request->about);
    grant->beat_by_ms = core->answered->sent_at_ms + grant->ttl_ms / 3;
    FUZZ_CHECK(grant->promised_ms ==
               core->answered->sent_at_ms + grant->ttl_ms - (grant->ttl_ms / 100 + 2));
    FUZZ_CHECK(core->now_ms < revoke_at(core, grant) && integer(line, "waited_ms") >= 0);
    FUZZ_CHECK(integer(line, "fence") == core->keeper.fence_floor);
    core->grant_count++;
}

static bool is_reason(const struct core *core, const struct core_grant *grant, int reason)
{
    switch (reason) {
    case WIRE_REASON_LOST:
        return grant->lost;
    case WIRE_REASON_UNREACHABLE:
        return core->now_ms >= revoke_at(core, grant);
    case WIRE_REASON_DEADLINE:
        return core->now_ms >= grant->granted_ms + grant->deadline_ms;
    case WIRE_REASON_SHUTDOWN:
        return core->shut;
    case WIRE_REASON_RELEASED:
        return grant->release_began;
    case WIRE_REASON_EOF:
        return core->clients[grant->client].session.input_ended;
    default:
        return false;
    }
}

static void check_revoked(const struct core_client *client, struct core_grant *grant,
                          const json_t *line)
{
    int reason = wire_find(wire_reason_names, WIRE_REASON_COUNT, string(line, "reason"));
    int64_t left_ms = grant->promised_ms - client->core->now_ms;
    bool promises = reason == WIRE_REASON_UNREACHABLE || reason == WIRE_REASON_DEADLINE ||
                    reason == WIRE_REASON_SHUTDOWN;

    FUZZ_CHECK(is_reason(client->core, grant, reason));
    FUZZ_CHECK(strcmp(string(line, "error"), "errLostActorLock") == 0);
    FUZZ_CHECK(integer(line, "valid_until_ms") == grant->promised_ms);
    FUZZ_CHECK(integer(line, "safe_ms") == (promises && left_ms > 0 ? left_ms : 0));
    FUZZ_CHECK(integer(line, "held_ms") == client->core->now_ms - grant->granted_ms);
    grant->live = false;
}

static void check_event(const struct core_client *client, const json_t *line)
{
    struct message_token token = token_of(line);
    struct core_grant *grant = core_find_grant(client->core, &token);
    int event = wire_find(wire_event_names, WIRE_EVENT_COUNT, string(line, "event"));

    FUZZ_CHECK(grant && grant->live && !grant->release_done);
    FUZZ_CHECK(&client->core->clients[grant->client] == client);
    FUZZ_CHECK(strcmp(string(line, "key"), grant->key) == 0);
    switch (event) {
    case WIRE_EVENT_REVOKED:
        check_revoked(client, grant, line);
        break;
    case WIRE_EVENT_RENEWED:
        FUZZ_CHECK(grant->offered_ms > grant->promised_ms);
        grant->promised_ms = integer(line, "valid_until_ms");
        FUZZ_CHECK(grant->promised_ms == grant->offered_ms);
        break;
    case WIRE_EVENT_AT_RISK:
        FUZZ_CHECK(integer(line, "valid_until_ms") == grant->promised_ms);
        break;
    default:
        FUZZ_CHECK(false && "an event");
    }
}

static bool echoes(const struct core_request *request, const json_t *line)
{
    const json_t *id = json_object_get(line, "id");
    const json_t *op = json_object_get(line, "op");

    if ((op == NULL) != (request->op == WIRE_OP_COUNT) ||
        (op && strcmp(json_string_value(op), wire_op_names[request->op]) != 0))
        return false;
    if (json_is_integer(id))
        return request->id.kind == MESSAGE_ID_INTEGER &&
               request->id.integer == json_integer_value(id);
    if (json_is_string(id))
        return request->id.kind == MESSAGE_ID_STRING &&
               strcmp(request->id.string, json_string_value(id)) == 0;
    return id == NULL && request->id.kind == MESSAGE_ID_NONE;
}

// Which of the requests that look alike it answers: the oldest that is about the same key or lease.
// A reply that names none comes at once, so it is to the newest; and those that wait are cancelled
// while the oldest of them is with the store.
static size_t find_request(const struct core_client *client, const json_t *line)
{
    const char *lease = json_string_value(json_object_get(line, "lease"));
    const char *key = json_string_value(json_object_get(line, "key"));
    const char *op = json_string_value(json_object_get(line, "op"));
    const char *error = json_string_value(json_object_get(line, "error"));
    const char *about = op && strcmp(op, "release") == 0 ? lease : key;
    bool newest = !about || (error && strcmp(error, "errCancelled") == 0);
    size_t found = SIZE_MAX;

    for (size_t i = 0; i < client->request_count && (newest || found == SIZE_MAX); i++)
        if (echoes(&client->requests[i], line) &&
            (!about || strcmp(client->requests[i].about, about) == 0))
            found = i;
    FUZZ_CHECK(found != SIZE_MAX);
    return found;
}

static void check_reply(struct core_client *client, const json_t *line)
{
    bool ok = json_is_true(json_object_get(line, "ok"));
    size_t i = find_request(client, line);

    if (!ok)
        FUZZ_CHECK(wire_find(wire_error_names, WIRE_ERROR_COUNT, string(line, "error")) >= 0 &&
                   string(line, "message")[0]);
    if (ok && client->requests[i].op == WIRE_OP_ACQUIRE)
        take_grant(client, &client->requests[i], line);
    client->request_count--;
    memmove(client->requests + i, client->requests + i + 1,
            (client->request_count - i) * sizeof client->requests[0]);
}

static void check_output(struct core_client *client)
{
    const struct buf *out = &client->session.out;
    const char *newline;

    FUZZ_CHECK(!out->failed && buf_length(out) > client->parsed);
    FUZZ_CHECK(buf_bytes(out)[buf_length(out) - 1] == '\n');
    while (client->parsed < buf_length(out)) {
        const char *bytes = buf_bytes(out) + client->parsed;
        json_t *line;

        newline = memchr(bytes, '\n', buf_length(out) - client->parsed);
        line = fuzz_check_line(bytes, (size_t)(newline - bytes));
        client->parsed += (size_t)(newline - bytes) + 1;
        if (json_object_get(line, "event"))
            check_event(client, line);
        else
            check_reply(client, line);
        json_decref(line);
    }
}

static void read_all(struct core_client *client)
{
    session_took(&client->session, buf_length(&client->session.out));
    client->parsed = 0;
    buf_trim(&client->session.out);
}

static void on_output(struct session *session)
{
    struct core_client *client = (struct core_client *)(void *)session; // its first member

    check_output(client);
    if (!client->stalled)
        read_all(client);
}

// ---- What a client does ----

bool core_open(struct core *core, int number)
{
    struct core_client *client = &core->clients[number];

    if (client->open)
        return true;
    client->session = (struct session){.uid = number < 2 ? 1000 : 1001, .output = on_output};
    client->session.pid = 100 + number;
    client->core = core;
    client->stalled = false;
    client->parsed = client->request_count = 0;
    client->open = keeper_open_session(&core->keeper, &client->session) == 0;
    return client->open;
}

static struct core_request *await(struct core_client *client)
{
    struct core_request *request = &client->requests[client->request_count++];

    FUZZ_CHECK(client->request_count <= CORE_REQUESTS);
    request->draining = client->core->keeper.draining;
    request->id.kind = MESSAGE_ID_NONE;
    request->op = WIRE_OP_COUNT;
    request->about[0] = '\0';
    return request;
}

static void check_unanswered(const struct core_client *client)
{
    FUZZ_CHECK(client->session.unanswered == client->request_count);
}

// Reads the line as the sidecar will, to know what its reply must say. The grant that it releases.
static struct core_grant *foresee(struct core *core, struct core_request *request, const char *line,
                                  size_t length)
{
    struct message_request parsed;
    struct message_error error;
    bool refused = message_parse(line, length, &parsed, &error) != 0;

    request->id = parsed.id;
    request->op = parsed.op;
    request->expires = !refused && parsed.on_disconnect == WIRE_DISCONNECT_EXPIRE;
    if (refused)
        return NULL;
    strcpy(request->about, parsed.key);
    if (parsed.op != WIRE_OP_RELEASE)
        return NULL;
    message_token_format(&parsed.lease, request->about);
    request->about[WIRE_LEASE_DIGITS] = '\0';
    return core_find_grant(core, &parsed.lease);
}

static void send_line(struct core *core, struct core_client *client, const char *line,
                      size_t length)
{
    struct core_grant *grant = foresee(core, await(client), line, length);

    if (grant)
        grant->release_began = true;
    dispatch_line(&core->keeper, &client->session, line, length, core->now_ms);
    if (!grant)
        return;
    // Who holds it and has not released it itself was told.
    FUZZ_CHECK(!grant->live || &core->clients[grant->client] == client);
    grant->release_done = true;
    grant->live = false;
}

void core_send(struct core *core, int number, const char *line, size_t length)
{
    struct core_client *client = &core->clients[number];

    if (length <= WIRE_MAX_LINE) {
        send_line(core, client, line, length);
    } else {
        await(client);
        dispatch_too_long(&client->session);
    }
    check_unanswered(client);
}

void core_too_slow(struct core *core, int number)
{
    await(&core->clients[number]);
    dispatch_too_slow(&core->clients[number].session);
    check_unanswered(&core->clients[number]);
}

// The client ends its leases, those that it was told of too.
static void unbind(struct core *core, int number)
{
    for (size_t i = 0; i < core->grant_count; i++)
        if (core->grants[i].client == number)
            core->grants[i].unbound = true;
}

void core_half_close(struct core *core, int number)
{
    struct core_client *client = &core->clients[number];

    if (client->session.input_ended)
        return;
    unbind(core, number);
    keeper_end_input(&core->keeper, &client->session, core->now_ms);
    check_unanswered(client);
    for (size_t i = 0; i < core->grant_count; i++)
        FUZZ_CHECK(core->grants[i].client != number || !core->grants[i].live);
}

void core_close(struct core *core, int number, bool gone)
{
    struct core_client *client = &core->clients[number];

    if (gone)
        unbind(core, number);
    for (size_t i = 0; i < core->grant_count; i++) {
        if (core->grants[i].client == number) {
            core->grants[i].live = false;
            core->grants[i].client = -1;
        }
    }
    keeper_close_session(&core->keeper, &client->session, gone, core->now_ms);
    FUZZ_CHECK(client->session.unanswered == 0);
    buf_deinit(&client->session.out);
    client->open = false;
}

void core_read(struct core *core, int number, bool stalled)
{
    read_all(&core->clients[number]);
    core->clients[number].stalled = stalled;
}
