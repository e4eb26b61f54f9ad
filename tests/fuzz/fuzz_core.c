// SPDX-License-Identifier: Apache-2.0
//
// dispatch, the keeper and the lease machine, driven by any sequence of lines from three clients
// (the third has another uid), answers of the store, and time.
//
// Input: lines of text. The first character of each says what happens:
//
//     A...  B...  C...    the client sends the rest as one line ($0 stands for the newest lease's
//                         digits, $1 for those of the one before, and so on); opens it if need be
//     c<n><outcome><+|-><number> <text>
//                         the store completes its n-th oldest call; outcome is the first letter of
//                         OK Held Not_owner not_Yours Unavailable Refused unSent Timeout Lost; + is
//                         `certain`; the text is a value (of an adoption, too), "!" and a type, or
//                         an error
//     w<n>                it writes that call
//     t<ms>  j<ms>        time passes, and what is due is swept; or the loop is late, and it is not
//     h<client>  x<client>  k<client>    half-close; gone; cut off
//     l<client>  z<client>  r<client>    a line too slow; stops to read; reads
//     f<n>                the n-th watched key was freed
//     e<n>                process 100 + n ends (the clients' pids are 100 to 102)
//     y  n<text>  d  s    the store is up, or down; drain; shutdown
//     o<ttl><caps>        first line only: --lock-ttl and caps, by digits
//
// A step that makes no sense (a call that is not there) does nothing. At the end everything is
// answered, the clients go, time passes.
//
// Oracle, beside what core_clients.c and core_store.c check: then nothing is left.

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/core.h"

enum {
    MAX_STEPS = 400,
    MAX_ROUNDS = 10000,
    MAX_TIME_MS = 100000000,
    MAX_LINE = 3 * WIRE_MAX_LINE,
};

static struct core core;

// ---- The world ----

static void fill_random(void *context, void *bytes, size_t size)
{
    struct core *self = context;

    for (size_t i = 0; i < size; i++) {
        self->seed = self->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        ((uint8_t *)bytes)[i] = (uint8_t)(self->seed >> 56);
    }
}

static int64_t read_clock(void *context)
{
    return ((struct core *)context)->now_ms;
}

static size_t digit(char c, size_t count)
{
    return (unsigned char)(c - '0') % count;
}

// Processes 100 to 103 are there, the first two of the first two clients' uid.
static const char *watch_process(void *context, struct session *session, pid_t *pid, void **watch)
{
    struct core *self = context;
    int number;

    if (*pid == 0)
        *pid = session->pid;
    number = *pid - CORE_FIRST_PID;
    if (number < 0 || number >= CORE_PROCESSES)
        return "there is no such process";
    if ((number < 2) != (session->uid == CORE_OPERATOR))
        return "it is another user's";
    self->processes[number]++;
    *watch = &self->processes[number];
    return NULL;
}

static void unwatch_process(void *context, void *watch)
{
    int *count = watch;

    (void)context;
    FUZZ_CHECK(*count > 0);
    --*count;
}

static void open_core(const char *options, size_t length)
{
    static const int64_t ttls[] = {30000, 500, 2000};
    static const uint32_t caps[][ACCOUNT_KIND_COUNT] = {{99, 999, 999}, {2, 3, 2}, {1, 1, 1}};
    struct keeper_options keeper = {
        .lock_ttl_ms = ttls[length > 1 ? digit(options[1], 3) : 0],
        .max_lock_ttl_ms = 300000,
        .workflow_deadline_ms = 300000,
        .max_workflow_deadline_ms = 3600000,
        .host = "pod-7",
        .random = fill_random,
        .clock = read_clock,
        .watch_process = watch_process,
        .unwatch_process = unwatch_process,
        .context = &core,
        .uid = CORE_OPERATOR,
    };

    memcpy(keeper.caps, caps[length > 2 ? digit(options[2], 3) : 0], sizeof keeper.caps);
    core.now_ms = 1000000;
    core.seed = 42;
    core.grant_count = 0;
    core.shut = false;
    core.refused_count = core.refused_at = 0;
    memset(core.processes, 0, sizeof core.processes);
    for (int i = 0; i < CORE_CLIENTS; i++)
        core.clients[i].open = false;
    core_store_init(&core);
    FUZZ_CHECK(keeper_init(&core.keeper, &keeper, &core.store) == 0);
}

static void pass(int64_t ms)
{
    int rounds = 0;

    core.now_ms += ms;
    do {
        keeper_sweep(&core.keeper, core.now_ms);
        FUZZ_CHECK(rounds++ < MAX_ROUNDS);
    } while (keeper_next_wake(&core.keeper) <= core.now_ms);
    core_check_swept(&core);
    core_check_keys(&core);
    // What a client that has half-closed waits for is here: its peer closes.
    for (int i = 0; i < CORE_CLIENTS; i++)
        if (core.clients[i].open && core.clients[i].session.input_ended &&
            core.clients[i].request_count == 0)
            core_close(&core, i, true);
}

static void set_store(bool up, const char *error)
{
    core.store.up = up;
    core.store.hooks->status(core.store.context, up, error, core.now_ms);
}

// ---- The end ----

static void answer_all(void)
{
    // Answers may submit further calls; those are answered in the next round.
    for (size_t calls = core.call_count; calls > 0 && core.call_count > 0; calls--)
        core_complete(&core, 0,
                      &(struct core_answer){.outcome = STORE_OK, .certain = true, .text = ""});
}

// Who waits for a key, or for the end of one that is broken, may do so for as long as it likes.
static size_t count_waiting(const struct core_client *client)
{
    size_t count = 0;
    uint32_t number = client->session.waiters;

    for (; number != SLOT_NONE; number = table_slot(&core.keeper.table, number)->session_next)
        count++;
    for (size_t i = 0; i < client->request_count; i++)
        count += client->requests[i].op == WIRE_OP_BREAK;
    return count;
}

static bool all_answered(void)
{
    for (int i = 0; i < CORE_CLIENTS; i++)
        if (core.clients[i].open && core.clients[i].request_count > count_waiting(&core.clients[i]))
            return false;
    return true;
}

static bool has_query(const struct keeper *keeper)
{
    for (uint32_t i = 1; i < keeper->query_count; i++)
        if (keeper->queries[i]->generation & 1)
            return true;
    return false;
}

static void check_idle(void)
{
    struct keeper *keeper = &core.keeper;

    FUZZ_CHECK(keeper->table.live == 0 && keeper->pending == 0 && keeper->owed == 0);
    FUZZ_CHECK(keeper->schedule.count == 0 && keeper_next_wake(keeper) == INT64_MAX);
    FUZZ_CHECK(core.watch_count == 0 && keeper->process_count == 0 && !has_query(keeper));
    FUZZ_CHECK(keeper->table.by_token.items == 0 && keeper->table.by_key.items == 0);
    for (uint32_t i = 0; i < keeper->accounts.count; i++)
        for (int kind = 0; kind < ACCOUNT_KIND_COUNT; kind++)
            FUZZ_CHECK(keeper->accounts.all[i].used[kind] == 0);
    for (size_t i = 0; i < core.grant_count; i++)
        FUZZ_CHECK(!core_is_live(&core, &core.grants[i]));
    FUZZ_CHECK(!keeper->draining || keeper_is_drained(&core.keeper, core.now_ms));
}

static void shut_down(void)
{
    core.shut = true;
    keeper_shutdown(&core.keeper, core.now_ms);
}

static void close_core(void)
{
    int rounds = 0;

    do {
        answer_all();
        pass(1);
        FUZZ_CHECK(rounds++ < MAX_ROUNDS);
    } while (!all_answered());
    for (int i = 0; i < CORE_CLIENTS; i++)
        if (core.clients[i].open)
            core_close(&core, i, true);
    for (size_t i = 0; i < core.grant_count && !core.shut; i++)
        if (core_is_live(&core, &core.grants[i])) // bound to no connection: until its deadline
            shut_down();
    while (core.keeper.table.live > 0 || core.call_count > 0) {
        int64_t wake_ms;

        answer_all();
        wake_ms = keeper_next_wake(&core.keeper);
        pass(wake_ms > core.now_ms && wake_ms < INT64_MAX ? wake_ms - core.now_ms : 1);
        FUZZ_CHECK(rounds++ < MAX_ROUNDS);
    }
    check_idle();
    keeper_deinit(&core.keeper);
}

// ---- Steps ----

static int64_t number(const char **at, const char *end)
{
    int64_t value = 0;

    while (*at < end && **at >= '0' && **at <= '9')
        value = (value * 10 + (*(*at)++ - '0')) % MAX_TIME_MS;
    return value;
}

// The step's rest with leases for "$0" and the like, in a block of just its size.
static char *expand(const char *text, size_t length, size_t *size)
{
    static char line[MAX_LINE + WIRE_LEASE_DIGITS];
    size_t at = 0;
    char *copy;

    for (size_t i = 0; i < length && at < MAX_LINE; i++) {
        size_t back = i + 1 < length && text[i] == '$' ? digit(text[i + 1], 10) : 0;

        if (text[i] != '$' || back >= core.grant_count) {
            line[at++] = text[i];
            continue;
        }
        message_token_format(&core.grants[core.grant_count - 1 - back].token, line + at);
        at += WIRE_LEASE_DIGITS;
        i++;
    }
    copy = malloc(at + !at);
    FUZZ_CHECK(copy);
    memcpy(copy, line, at);
    *size = at;
    return copy;
}

static void step_line(int client, const char *text, size_t length)
{
    size_t size;
    char *line;

    if (!core_open(&core, client) || core.clients[client].request_count == CORE_REQUESTS - 1)
        return;
    line = expand(text, length, &size);
    core_send(&core, client, line, size);
    free(line);
}

static enum store_outcome outcome_of(char c)
{
    static const char letters[STORE_OUTCOME_COUNT + 1] = "OHNYURSTL";
    const char *found = c ? strchr(letters, c) : NULL;

    return (enum store_outcome)(found ? (size_t)(found - letters)
                                      : (unsigned char)c % STORE_OUTCOME_COUNT);
}

// c<n><outcome><+|-><number> <text>
static void step_complete(const char *at, const char *end)
{
    struct core_answer answer;
    size_t index;
    char *text;

    if (end - at < 3 || core.call_count == 0)
        return;
    index = digit(at[0], 10) % core.call_count;
    answer.outcome = outcome_of(at[1]);
    answer.certain = at[2] == '+';
    at += 3;
    answer.number = number(&at, end);
    at += at < end;
    answer.text_length = (size_t)(end - at);
    text = malloc(answer.text_length + 1);
    FUZZ_CHECK(text);
    memcpy(text, at, answer.text_length);
    text[answer.text_length] = '\0';
    answer.text = text;
    core_complete(&core, index, &answer);
    free(text);
}

static void step_client(char what, int client)
{
    if (!core.clients[client].open)
        return;
    switch (what) {
    case 'h':
        core_half_close(&core, client);
        break;
    case 'l':
        core_too_slow(&core, client);
        break;
    case 'z':
    case 'r':
        core_read(&core, client, what == 'z');
        break;
    default:
        core_close(&core, client, what == 'x');
        break;
    }
}

static void step_store(char what, const char *text, size_t length)
{
    char *error = strndup(text, length);

    FUZZ_CHECK(error);
    set_store(what == 'y', what == 'y' ? NULL : error);
    free(error);
}

static void step(const char *text, size_t length)
{
    const char *at = text + 1;
    const char *end = text + length;
    char argument = length > 1 ? text[1] : '0';

    switch (text[0]) {
    case 'A':
    case 'B':
    case 'C':
        step_line(text[0] - 'A', at, length - 1);
        break;
    case 'c':
        step_complete(at, end);
        break;
    case 'w':
        if (core.call_count > 0)
            core_write(&core, digit(argument, 10) % core.call_count);
        break;
    case 'f':
        if (core.watch_count > 0)
            core_free_key(&core, digit(argument, 10) % core.watch_count);
        break;
    case 'e':
        core_end_process(&core, (int)digit(argument, CORE_PROCESSES));
        break;
    case 't':
        pass(number(&at, end));
        break;
    case 'j':
        core.now_ms += number(&at, end);
        break;
    case 'h':
    case 'l':
    case 'z':
    case 'r':
    case 'x':
    case 'k':
        step_client(text[0], (int)digit(argument, CORE_CLIENTS));
        break;
    case 'y':
    case 'n':
        step_store(text[0], at, length - 1);
        break;
    case 'd':
        core_drain(&core);
        break;
    case 's':
        shut_down();
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *end = text + size;

    open_core(text, size > 0 && text[0] == 'o' ? size : 0);
    for (int steps = 0; text < end && steps < MAX_STEPS; steps++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t length = newline ? (size_t)(newline - text) : (size_t)(end - text);

        if (length > 0)
            step(text, length);
        core_check_grants(&core);
        core_check_keys(&core);
        text += length + 1;
    }
    close_core();
    return 0;
}
