// SPDX-License-Identifier: Apache-2.0
//
// The fake store: a log of calls and nothing else.
//
// Model: a call is recorded when the keeper makes it, `seen` when the test takes it, `sent_at_ms`
// when the test (or its completion) writes it, `done` when the test completes it. The contract's
// "exactly once" is asserted on the fake's side too, so a test cannot complete a call twice by
// mistake; only a renewal that timed out may be answered once more, and is then reported as late.
//
// Lifetimes: calls live in one array that never moves, until fake_store_deinit. Strings that the
// keeper passes are copied at the submission, as a real store would.

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/fake_store.h"

static const char *const op_names[] = {
    [STORE_ACQUIRE] = "acquire", [STORE_RENEW] = "renew",   [STORE_RELEASE] = "release",
    [STORE_ADOPT] = "adopt",     [STORE_EXTEND] = "extend", [STORE_INSPECT] = "inspect",
    [STORE_BREAK] = "break",
};

static struct fake_store *fake_of(struct store *store)
{
    // store is the first member.
    return (struct fake_store *)store;
}

static struct fake_call *record(struct store *store, enum store_op op, uint32_t lease,
                                uint32_t generation, int64_t now_ms)
{
    struct fake_store *fake = fake_of(store);
    struct fake_call *call;

    ck_assert_msg(fake->count < FAKE_STORE_CALLS, "fake store: more than %d calls in one test",
                  FAKE_STORE_CALLS);
    call = &fake->calls[fake->count++];
    call->op = op;
    call->lease = lease;
    call->generation = generation;
    call->now_ms = now_ms;
    return call;
}

static void record_key(struct fake_call *call, const char *key, size_t length)
{
    ck_assert_uint_le(length, WIRE_MAX_KEY);
    memcpy(call->key, key, length);
    call->key[length] = '\0';
    call->key_length = length;
}

static void fake_acquire(struct store *store, const struct store_acquire *acquire, int64_t now_ms)
{
    struct fake_call *call =
        record(store, STORE_ACQUIRE, acquire->lease, acquire->generation, now_ms);

    ck_assert_uint_le(acquire->label_length, WIRE_MAX_LABEL);
    record_key(call, acquire->key, acquire->key_length);
    call->token = acquire->token;
    call->ttl_ms = acquire->ttl_ms;
    call->timeout_ms = acquire->timeout_ms;
    call->acquire = *acquire;
    if (acquire->host)
        strncpy(call->host, acquire->host, sizeof call->host - 1);
    if (acquire->label)
        memcpy(call->label, acquire->label, acquire->label_length);
    call->acquire.key = call->key;
    call->acquire.host = call->host;
    call->acquire.label = call->label;
}

static void fake_renew(struct store *store, uint32_t lease, uint32_t generation, int64_t due_by_ms,
                       int64_t now_ms)
{
    record(store, STORE_RENEW, lease, generation, now_ms)->due_by_ms = due_by_ms;
}

static void fake_release(struct store *store, const struct store_release *release, int64_t now_ms)
{
    struct fake_call *call =
        record(store, STORE_RELEASE, release->lease, release->generation, now_ms);

    record_key(call, release->key, release->key_length);
    call->token = release->token;
    call->timeout_ms = release->timeout_ms;
}

static void fake_query(struct store *store, const struct store_query *query, int64_t now_ms)
{
    struct fake_call *call = record(store, query->op, query->lease, query->generation, now_ms);

    ck_assert_int_ge(query->op, STORE_ADOPT);
    record_key(call, query->key, query->key_length);
    call->token = query->token;
    call->timeout_ms = query->timeout_ms;
    call->query = *query;
    if (query->host)
        strncpy(call->host, query->host, sizeof call->host - 1);
    call->query.key = call->key;
    call->query.host = call->host;
}

// ---- Watches ----

static struct fake_watch *find_watch(const struct fake_store *fake, const char *key, size_t length)
{
    for (size_t i = 0; i < fake->watch_count; i++) {
        struct fake_watch *watch = &fake->watches[i];

        if (watch->key_length == length && memcmp(watch->key, key, length) == 0)
            return watch;
    }
    return NULL;
}

static void fake_watch(struct store *store, const char *key, size_t key_length)
{
    struct fake_store *fake = fake_of(store);
    struct fake_watch *watch;

    ck_assert_uint_le(key_length, WIRE_MAX_KEY);
    ck_assert_msg(!find_watch(fake, key, key_length), "fake store: watched twice: %.*s",
                  (int)key_length, key);
    fake->watches = reallocarray(fake->watches, fake->watch_count + 1, sizeof *fake->watches);
    ck_assert_ptr_nonnull(fake->watches);
    watch = &fake->watches[fake->watch_count++];
    *watch = (struct fake_watch){.key_length = key_length};
    memcpy(watch->key, key, key_length);
    fake->watched++;
}

static void fake_unwatch(struct store *store, const char *key, size_t key_length)
{
    struct fake_store *fake = fake_of(store);
    struct fake_watch *watch = find_watch(fake, key, key_length);

    ck_assert_msg(watch, "fake store: not watched: %.*s", (int)key_length, key);
    *watch = fake->watches[--fake->watch_count];
}

bool fake_store_is_watched(const struct fake_store *fake, const char *key)
{
    return find_watch(fake, key, strlen(key)) != NULL;
}

void fake_store_free_key(struct fake_store *fake, const char *key)
{
    int64_t now_ms = fake->store.hooks->believe(fake->store.context);

    ck_assert_msg(fake_store_is_watched(fake, key), "fake store: not watched: %s", key);
    fake->store.hooks->freed(fake->store.context, key, strlen(key), now_ms);
}

// ---- The store ----

static int64_t fake_next_timeout(const struct store *store)
{
    return ((const struct fake_store *)store)->next_timeout_ms;
}

static void fake_sweep(struct store *store, int64_t now_ms)
{
    fake_of(store)->swept_at_ms = now_ms;
}

static const struct store_ops fake_ops = {
    .acquire = fake_acquire,
    .renew = fake_renew,
    .release = fake_release,
    .query = fake_query,
    .watch = fake_watch,
    .unwatch = fake_unwatch,
    .next_timeout = fake_next_timeout,
    .sweep = fake_sweep,
};

void fake_store_init(struct fake_store *fake)
{
    *fake = (struct fake_store){
        .store = {.ops = &fake_ops},
        .next_timeout_ms = INT64_MAX,
        .swept_at_ms = -1,
    };
    fake->calls = calloc(FAKE_STORE_CALLS, sizeof *fake->calls);
    ck_assert_ptr_nonnull(fake->calls);
}

void fake_store_deinit(struct fake_store *fake)
{
    free(fake->calls);
    free(fake->watches);
    *fake = (struct fake_store){0};
}

void fake_store_set_up(struct fake_store *fake, int64_t now_ms)
{
    fake->store.up = true;
    fake->store.hooks->status(fake->store.context, true, NULL, now_ms);
}

void fake_store_set_down(struct fake_store *fake, const char *error, int64_t now_ms)
{
    fake->store.up = false;
    fake->store.hooks->status(fake->store.context, false, error, now_ms);
}

struct fake_call *fake_store_expect(struct fake_store *fake, enum store_op op)
{
    for (size_t i = 0; i < fake->count; i++) {
        struct fake_call *call = &fake->calls[i];

        if (call->seen)
            continue;
        ck_assert_msg(call->op == op, "the store was asked to %s, expected %s", op_names[call->op],
                      op_names[op]);
        call->seen = true;
        return call;
    }
    ck_abort_msg("the store was asked for nothing, expected %s", op_names[op]);
}

size_t fake_store_unseen(const struct fake_store *fake)
{
    size_t unseen = 0;

    for (size_t i = 0; i < fake->count; i++)
        unseen += !fake->calls[i].seen;
    return unseen;
}

void fake_store_expect_none(struct fake_store *fake)
{
    for (size_t i = 0; i < fake->count; i++) {
        const struct fake_call *call = &fake->calls[i];

        ck_assert_msg(call->seen,
                      "the store was asked to %s lease %u (at %lld ms), expected nothing",
                      op_names[call->op], (unsigned)call->lease, (long long)call->now_ms);
    }
}

bool fake_store_write(struct fake_store *fake, struct fake_call *call, int64_t now_ms)
{
    struct store_subject subject = {0};

    ck_assert_msg(!call->done && call->sent_at_ms == 0, "fake store: written twice");
    if (call->op == STORE_RENEW) {
        if (!fake->store.hooks->describe(fake->store.context, call->lease, call->generation, now_ms,
                                         &subject)) {
            fake_store_complete(fake, call, STORE_UNSENT, now_ms);
            return false;
        }
        record_key(call, subject.key, subject.key_length);
        call->token = subject.token;
        call->ttl_ms = subject.ttl_ms;
        call->timeout_ms = subject.timeout_ms;
    }
    call->sent_at_ms = now_ms;
    return true;
}

// Whether the outcome is an answer of Redis', before which believe is called.
static bool is_answer(enum store_outcome outcome)
{
    switch (outcome) {
    case STORE_OK:
    case STORE_HELD:
    case STORE_NOT_OWNER:
    case STORE_NOT_YOURS:
    case STORE_UNAVAILABLE:
    case STORE_REFUSED:
        return true;
    default:
        return false;
    }
}

void fake_store_complete_with(struct fake_store *fake, struct fake_call *call,
                              struct store_completion completion, int64_t now_ms)
{
    if (call->done) {
        ck_assert_msg(call->late_allowed, "fake store: completed twice");
        call->late_allowed = false;
        completion.late = true;
    } else {
        call->late_allowed = call->op == STORE_RENEW && completion.outcome == STORE_TIMEOUT;
        call->done = true;
        fake->completed++;
    }
    if (completion.outcome != STORE_UNSENT && call->sent_at_ms == 0)
        call->sent_at_ms = call->now_ms;
    completion.op = call->op;
    completion.lease = call->lease;
    completion.generation = call->generation;
    completion.replaces = call->acquire.replaces;
    completion.replaces_generation = call->acquire.replaces_generation;
    completion.sent_at_ms = completion.outcome == STORE_UNSENT ? 0 : call->sent_at_ms;
    if (is_answer(completion.outcome))
        now_ms = fake->store.hooks->believe(fake->store.context);
    fake->store.hooks->completed(fake->store.context, &completion, now_ms);
}

void fake_store_complete(struct fake_store *fake, struct fake_call *call,
                         enum store_outcome outcome, int64_t now_ms)
{
    struct store_completion completion = {
        .outcome = outcome,
        .certain = (call->op == STORE_ACQUIRE || call->op == STORE_RELEASE) && is_answer(outcome),
        .fence = call->op == STORE_ACQUIRE && outcome == STORE_OK ? 1 : 0,
        .pttl_ms = -1,
    };

    fake_store_complete_with(fake, call, completion, now_ms);
}

void fake_store_grant(struct fake_store *fake, struct fake_call *call, int64_t fence,
                      int64_t now_ms)
{
    fake_store_complete_with(fake, call,
                             (struct store_completion){
                                 .outcome = STORE_OK,
                                 .certain = true,
                                 .replaced = call->acquire.replaces != 0,
                                 .fence = fence,
                                 .pttl_ms = -1,
                             },
                             now_ms);
}

void fake_store_adopt(struct fake_store *fake, struct fake_call *call, const char *value,
                      int64_t now_us, int64_t now_ms)
{
    fake_store_complete_with(fake, call,
                             (struct store_completion){
                                 .outcome = STORE_OK,
                                 .value = value,
                                 .value_length = strlen(value),
                                 .now_us = now_us,
                             },
                             now_ms);
}

void fake_store_hold(struct fake_store *fake, struct fake_call *call, const char *value,
                     int64_t pttl_ms, int64_t now_ms)
{
    fake_store_complete_with(fake, call,
                             (struct store_completion){
                                 .outcome = STORE_HELD,
                                 .certain = true,
                                 .pttl_ms = pttl_ms,
                                 .value = value,
                                 .value_length = value ? strlen(value) : 0,
                             },
                             now_ms);
}
