// SPDX-License-Identifier: Apache-2.0
//
// The rig: a client's `out` is its socket. Lines are taken from it one by one, through session_took
// as a peer does, and each is checked as it is taken, so that a test sees every line, also those it
// doesn't ask for. Ids are counted from 1 in each client; `replies` maps each to 0 or 1.

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/dispatch.h"
#include "tests/tool/keeper_rig.h"
#include "tests/tool/pattern.h"

// For what is checked of every line: check notes each assertion that holds in a file, which is slow.
#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s: %s", __func__, #condition);                                          \
    } while (0)

static void fill_random(void *context, void *bytes, size_t size)
{
    struct rig *rig = context;

    for (size_t i = 0; i < size; i++) {
        rig->seed = rig->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        ((uint8_t *)bytes)[i] = (uint8_t)(rig->seed >> 56);
    }
}

static int64_t read_clock(void *context)
{
    return ((struct rig *)context)->now_ms;
}

// ---- Life ----

struct keeper_options rig_options(struct rig *rig)
{
    return (struct keeper_options){
        .lock_ttl_ms = RIG_T,
        .max_lock_ttl_ms = 300000,
        .workflow_deadline_ms = 300000,
        .max_workflow_deadline_ms = 3600000,
        .caps = {2000, 2000, 2000},
        .host = "pod-7",
        .random = fill_random,
        .clock = read_clock,
        .context = rig,
    };
}

void rig_open_with(struct rig *rig, const struct keeper_options *options)
{
    *rig = (struct rig){.now_ms = RIG_START, .seed = 42};
    fake_store_init(&rig->fake);
    ck_assert_int_eq(keeper_init(&rig->keeper, options, &rig->fake.store), 0);
    fake_store_set_up(&rig->fake, rig->now_ms);
    rig_at(rig, rig->now_ms);
}

void rig_open(struct rig *rig)
{
    struct keeper_options options = rig_options(rig);

    rig_open_with(rig, &options);
}

static uint32_t open_clients(const struct rig *rig)
{
    uint32_t open = 0;

    for (int i = 0; i < RIG_CLIENTS; i++)
        open += rig->clients[i] != NULL;
    return open;
}

void rig_check_idle(struct rig *rig)
{
    const struct keeper *keeper = &rig->keeper;
    uint32_t connections = 0;

    for (int i = 0; i < RIG_CLIENTS; i++) {
        if (!rig->clients[i])
            continue;
        ck_assert_uint_eq(rig->clients[i]->session.unanswered, 0);
        ck_assert_uint_eq(rig->clients[i]->session.leases, SLOT_NONE);
    }
    ck_assert_uint_eq(keeper->table.live, 0);
    ck_assert_uint_eq(keeper->pending, 0);
    ck_assert_uint_eq(keeper->owed, 0);
    ck_assert_uint_eq(keeper->schedule.count, 0);
    ck_assert_uint_eq(keeper->table.by_token.items, 0);
    ck_assert_uint_eq(keeper->table.by_key.items, 0);
    for (uint32_t i = 0; i < keeper->accounts.count; i++) {
        connections += keeper->accounts.all[i].used[ACCOUNT_CONNECTIONS];
        ck_assert_uint_eq(keeper->accounts.all[i].used[ACCOUNT_LEASES], 0);
        ck_assert_uint_eq(keeper->accounts.all[i].used[ACCOUNT_WAITERS], 0);
    }
    ck_assert_uint_eq(connections, open_clients(rig));
}

void rig_close(struct rig *rig)
{
    for (int i = 0; i < RIG_CLIENTS; i++)
        if (rig->clients[i])
            rig_gone(rig->clients[i]);
    for (size_t i = 0; i < rig->fake.count; i++) {
        struct fake_call *call = &rig->fake.calls[i];
        if (call->op == STORE_RENEW && !call->done)
            fake_store_complete(&rig->fake, call, STORE_UNSENT, rig->now_ms);
    }
    ck_assert_uint_eq(rig->fake.completed, rig->fake.count);
    rig_check_idle(rig);
    keeper_deinit(&rig->keeper);
    fake_store_deinit(&rig->fake);
}

void rig_at(struct rig *rig, int64_t at_ms)
{
    ck_assert_int_ge(at_ms, rig->now_ms);
    rig->now_ms = at_ms;
    do
        keeper_sweep(&rig->keeper, at_ms);
    while (keeper_next_wake(&rig->keeper) <= at_ms && !rig->keeper.give_up_ms);
}

void rig_pass(struct rig *rig, int64_t ms)
{
    rig_at(rig, rig->now_ms + ms);
}

// ---- Clients ----

static struct rig_client *client_of(struct session *session)
{
    return (struct rig_client *)session; // its first member
}

static void on_output(struct session *session)
{
    struct rig_client *client = client_of(session);
    const struct buf *out = &session->out;

    NEED(client->rig);
    client->calls_at_output = client->rig->fake.count;
    if (client->may_fail)
        return;
    NEED(!out->failed && buf_length(out) > 0);
    NEED(buf_bytes(out)[buf_length(out) - 1] == '\n');
}

void rig_connect(struct rig *rig, struct rig_client *client, uid_t uid)
{
    int place = 0;

    memset(client, 0, sizeof *client);
    client->rig = rig;
    client->replies = json_object();
    client->next_id = 1;
    client->session.uid = uid;
    client->session.pid = 4000 + (pid_t)uid;
    client->session.output = on_output;
    ck_assert_int_eq(keeper_open_session(&rig->keeper, &client->session), 0);
    while (rig->clients[place])
        ck_assert_int_lt(++place, RIG_CLIENTS);
    rig->clients[place] = client;
}

static void end(struct rig_client *client, bool gone)
{
    struct rig *rig = client->rig;

    while (!client->may_fail && rig_take(client))
        ;
    keeper_close_session(&rig->keeper, &client->session, gone, rig->now_ms);
    ck_assert_uint_eq(client->session.unanswered, 0);
    for (int i = 0; i < RIG_CLIENTS; i++)
        if (rig->clients[i] == client)
            rig->clients[i] = NULL;
    buf_deinit(&client->session.out);
    json_decref(client->replies);
    json_decref(client->line);
    client->line = client->replies = NULL;
    client->rig = NULL;
}

void rig_gone(struct rig_client *client)
{
    end(client, true);
}

void rig_cut(struct rig_client *client)
{
    end(client, false);
}

void rig_half_close(struct rig_client *client)
{
    keeper_end_input(&client->rig->keeper, &client->session, client->rig->now_ms);
}

void rig_finish(struct rig_client *client)
{
    const char *id;
    json_t *times;

    ck_assert(client->session.input_ended);
    ck_assert_uint_eq(client->session.unanswered, 0);
    while (rig_take(client))
        ;
    json_object_foreach(client->replies, id, times)
        ck_assert_msg(json_integer_value(times) == 1, "request %s was not answered", id);
    end(client, true);
}

// ---- Lines ----

static void put_quotes(char *text)
{
    for (; *text; text++)
        if (*text == '\'')
            *text = '"';
}

int64_t rig_send(struct rig_client *client, const char *format, ...)
{
    char text[WIRE_MAX_LINE + 1], line[WIRE_MAX_LINE + 64], name[24];
    va_list arguments;
    int length;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put_quotes(text);
    NEED(text[0] == '{');
    snprintf(name, sizeof name, "%lld", (long long)client->next_id);
    json_object_set_new(client->replies, name, json_integer(0));
    length = snprintf(line, sizeof line, "{\"id\":%s,%s", name, text + 1);
    rig_send_raw(client, line, (size_t)length);
    return client->next_id++;
}

void rig_send_raw(struct rig_client *client, const char *line, size_t length)
{
    dispatch_line(&client->rig->keeper, &client->session, line, length, client->rig->now_ms);
}

// What is true of every line.
static void check_line(struct rig_client *client, size_t length)
{
    json_t *id = json_object_get(client->line, "id");
    json_t *times;
    char name[24];

    if (!client->line)
        ck_abort_msg("no JSON: %s", client->text);
    NEED(strncmp(client->text, "{\"ok\":", 6) == 0 || strncmp(client->text, "{\"event\":", 9) == 0);
    for (size_t i = 0; i < length; i++)
        if (client->text[i] < ' ' || client->text[i] > '~')
            ck_abort_msg("not printable ASCII: %s", client->text);
    if (!json_is_integer(id))
        return;
    snprintf(name, sizeof name, "%lld", (long long)json_integer_value(id));
    times = json_object_get(client->replies, name);
    if (!times || json_integer_value(times) != 0)
        ck_abort_msg("%s: %s", times ? "a second reply" : "a reply to what was not asked",
                     client->text);
    json_integer_set(times, 1);
}

bool rig_take(struct rig_client *client)
{
    struct buf *out = &client->session.out;
    const char *bytes = buf_bytes(out);
    const char *newline = bytes ? memchr(bytes, '\n', buf_length(out)) : NULL;
    size_t length;

    if (!newline)
        return false;
    length = (size_t)(newline - bytes);
    NEED(length <= WIRE_MAX_REPLY);
    memcpy(client->text, bytes, length);
    client->text[length] = '\0';
    session_took(&client->session, length + 1);
    json_decref(client->line);
    client->line = json_loads(client->text, JSON_REJECT_DUPLICATES, NULL);
    check_line(client, length);
    return true;
}

__attribute__((format(printf, 3, 0))) static void expect(struct rig_client *client, bool exact,
                                                         const char *format, va_list arguments)
{
    char text[4096], why[256];
    json_t *pattern;

    vsnprintf(text, sizeof text, format, arguments);
    put_quotes(text);
    if (!rig_take(client))
        ck_abort_msg("nothing was said, expected %s", text);
    pattern = pattern_parse(text);
    if (!pattern_matches(pattern, client->line, NULL, exact, why, sizeof why))
        ck_abort_msg("%s\nexpected %s\ngot      %s", why, text, client->text);
    json_decref(pattern);
}

void rig_expect(struct rig_client *client, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    expect(client, false, format, arguments);
    va_end(arguments);
}

void rig_expect_exact(struct rig_client *client, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    expect(client, true, format, arguments);
    va_end(arguments);
}

void rig_expect_nothing(struct rig_client *client)
{
    ck_assert_msg(!rig_take(client), "expected nothing, got %s", client->text);
}

int64_t rig_int(const struct rig_client *client, const char *member)
{
    json_t *value = json_object_get(client->line, member);

    ck_assert_msg(json_is_integer(value), "no integer %s in %s", member, client->text);
    return json_integer_value(value);
}

const char *rig_string(const struct rig_client *client, const char *member)
{
    json_t *value = json_object_get(client->line, member);

    ck_assert_msg(json_is_string(value), "no string %s in %s", member, client->text);
    return json_string_value(value);
}

// ---- The store ----

struct fake_call *rig_complete(struct rig *rig, enum store_op op, enum store_outcome outcome)
{
    struct fake_call *call = fake_store_expect(&rig->fake, op);

    fake_store_complete(&rig->fake, call, outcome, rig->now_ms);
    return call;
}

void rig_expect_no_call(struct rig *rig)
{
    fake_store_expect_none(&rig->fake);
}

void rig_acquire(struct rig_client *client, struct rig_lease *lease, const char *key,
                 const char *more)
{
    struct rig *rig = client->rig;

    rig_send(client, "{'op':'acquire','key':'%s'%s}", key, more);
    lease->call = rig_complete(rig, STORE_ACQUIRE, STORE_OK);
    rig_expect(client, "{'ok':true,'op':'acquire','key':'%s','lease':'<hex:32>'}", key);
    lease->valid_until_ms = rig_int(client, "valid_until_ms");
    memcpy(lease->lease, rig_string(client, "lease"), sizeof lease->lease);
}

void rig_release(struct rig_client *client, const struct rig_lease *lease)
{
    rig_send(client, "{'op':'release','lease':'%s'}", lease->lease);
    rig_complete(client->rig, STORE_RELEASE, STORE_OK);
    rig_expect(client, "{'ok':true,'op':'release','lease':'%s'}", lease->lease);
}
