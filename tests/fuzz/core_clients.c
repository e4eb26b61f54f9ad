// SPDX-License-Identifier: Apache-2.0
//
// The clients. Each line is parsed before it is handled, to know what its reply must echo; each line
// that comes back is looked at inside session->output, so that the order of what different clients
// are told is known.
//
// Every reply answers one request that is still unanswered, and session->unanswered counts those.

#include <string.h>

#include "sidecar/dispatch.h"
#include "tests/fuzz/core.h"

// ---- What a client is told ----

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
    // An id that is in use is not echoed.
    return id == NULL && (request->id.kind == MESSAGE_ID_NONE ||
                          (request->op == WIRE_OP_ACQUIRE && json_object_get(line, "error") &&
                           strcmp(core_string(line, "error"), "errBadRequest") == 0));
}

// Which of the requests that look alike it answers: the oldest that is about the same key or lease.
// A reply that names none comes at once, so it is to the newest.
static size_t find_request(const struct core_client *client, const json_t *line)
{
    struct core *core = client->core;
    const char *lease = json_string_value(json_object_get(line, "lease"));
    const char *key = json_string_value(json_object_get(line, "key"));
    const char *op = json_string_value(json_object_get(line, "op"));
    bool by_lease = op && (strcmp(op, "release") == 0 || strcmp(op, "extend") == 0);
    const char *about = by_lease ? lease : key;
    size_t found = SIZE_MAX;

    if (core->refused_at < core->refused_count)
        about = core->refused[core->refused_at++];
    for (size_t i = 0; i < client->request_count && (!about || found == SIZE_MAX); i++)
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
        FUZZ_CHECK(wire_find(wire_error_names, WIRE_ERROR_COUNT, core_string(line, "error")) >= 0 &&
                   core_string(line, "message")[0]);
    if (ok &&
        (client->requests[i].op == WIRE_OP_ACQUIRE || client->requests[i].op == WIRE_OP_ADOPT))
        core_take_grant(client, &client->requests[i], line);
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
            core_take_event(client, line);
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
    client->session = (struct session){.uid = number < 2 ? CORE_OPERATOR : CORE_OPERATOR + 1,
                                       .output = on_output};
    client->session.pid = CORE_FIRST_PID + number;
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

// A lease of this sidecar is broken: the holder is told, or there is nobody to tell.
static void foresee_break(struct core *core, const struct core_client *client,
                          const struct message_request *parsed)
{
    uint32_t head = table_find_key(&core->keeper.table, parsed->key, parsed->key_length);
    const struct slot *slot = head == SLOT_NONE ? NULL : table_slot(&core->keeper.table, head);
    struct core_grant *grant = slot ? core_find_grant(core, &slot->token) : NULL;

    if (client->session.uid == CORE_OPERATOR && grant && core_is_live(core, grant) &&
        core->now_ms + parsed->grace_ms < grant->grace_ms)
        grant->grace_ms = core->now_ms + parsed->grace_ms;
}

// Reads the line as the sidecar will, to know what its reply must say. The grant that it releases.
static struct core_grant *foresee(struct core *core, struct core_client *client,
                                  struct core_request *request, const char *line, size_t length)
{
    struct message_request parsed;
    struct message_error error;
    bool refused = message_parse(line, length, &parsed, &error) != 0;

    request->id = parsed.id;
    request->op = parsed.op;
    if (refused)
        return NULL;
    strcpy(request->about, parsed.key);
    if (parsed.op == WIRE_OP_BREAK)
        foresee_break(core, client, &parsed);
    if (parsed.op != WIRE_OP_RELEASE && parsed.op != WIRE_OP_EXTEND)
        return NULL;
    message_token_format(&parsed.lease, request->about);
    request->about[WIRE_LEASE_DIGITS] = '\0';
    return parsed.op == WIRE_OP_RELEASE ? core_find_grant(core, &parsed.lease) : NULL;
}

static void send_line(struct core *core, struct core_client *client, const char *line,
                      size_t length)
{
    struct core_grant *grant = foresee(core, client, await(client), line, length);

    if (grant)
        grant->release_began = true;
    dispatch_line(&core->keeper, &client->session, line, length, core->now_ms);
    if (!grant)
        return;
    // Who holds it and has not released it itself was told.
    FUZZ_CHECK(!grant->live || grant->client < 0 || &core->clients[grant->client] == client);
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

void core_drain(struct core *core)
{
    const struct table *table = &core->keeper.table;

    core->refused_count = core->refused_at = 0;
    for (uint32_t number = 1; number < table->used; number++) {
        const struct slot *slot = table_slot(table, number);
        if (!table_in_use(slot) || !slot->session || !lease_is_asking(&slot->lease) ||
            !(slot->lease.flags & LEASE_WAITS) || core->refused_count == CORE_REQUESTS)
            continue;
        memcpy(core->refused[core->refused_count], slot_key(slot), slot->key_length);
        core->refused[core->refused_count++][slot->key_length] = '\0';
    }
    keeper_drain(&core->keeper, core->now_ms);
    FUZZ_CHECK(core->refused_at == core->refused_count);
}

void core_too_slow(struct core *core, int number)
{
    await(&core->clients[number]);
    dispatch_too_slow(&core->clients[number].session);
    check_unanswered(&core->clients[number]);
}

void core_half_close(struct core *core, int number)
{
    struct core_client *client = &core->clients[number];

    if (client->session.input_ended)
        return;
    core_unbind(core, number);
    keeper_end_input(&core->keeper, &client->session, core->now_ms);
    check_unanswered(client);
    for (size_t i = 0; i < core->grant_count; i++)
        FUZZ_CHECK(core->grants[i].client != number || !core->grants[i].live ||
                   core->grants[i].bind != WIRE_BIND_CONNECTION);
}

void core_close(struct core *core, int number, bool gone)
{
    struct core_client *client = &core->clients[number];

    core_leave(core, number, gone);
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

void core_end_process(struct core *core, int number)
{
    pid_t pid = CORE_FIRST_PID + number;

    if (core->processes[number] == 0)
        return;
    for (size_t i = 0; i < core->grant_count; i++)
        if (core->grants[i].bind == WIRE_BIND_PID && core->grants[i].pid == pid)
            core->grants[i].unbound = true;
    keeper_process_ended(&core->keeper, &core->processes[number], core->now_ms);
    FUZZ_CHECK(core->processes[number] == 0);
    for (size_t i = 0; i < core->grant_count; i++)
        FUZZ_CHECK(core->grants[i].bind != WIRE_BIND_PID || core->grants[i].pid != pid ||
                   !core_is_live(core, &core->grants[i]));
}
