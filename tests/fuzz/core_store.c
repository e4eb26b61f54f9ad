// SPDX-License-Identifier: Apache-2.0
//
// The store. Calls stand in the order of their submission until they are completed. A completion is
// what store.h allows for its kind: an outcome of another kind becomes its neighbour, and what was
// not written yet is written first (so that its send time is the latest that it could be).
//
// Checked at a submission: a key whose lease is live here is not asked for; a lease has one renewal
// at a time, and is live then; a delete of a granted lease comes after its release, its client's
// end or valid_until. At a renewal's write: its lease is live, and in time. After each step: what may
// be in Redis has a slot that knows it.

#include <string.h>

#include "tests/fuzz/core.h"

static struct core *core_of(struct store *store)
{
    return (struct core *)(void *)store; // its first member
}

static struct core_call *add(struct core *core, enum store_op op, uint32_t lease,
                             uint32_t generation, int64_t now_ms)
{
    struct core_call *call = &core->calls[core->call_count++];

    FUZZ_CHECK(core->call_count <= CORE_CALLS && now_ms == core->now_ms);
    *call = (struct core_call){.op = op, .lease = lease, .generation = generation};
    return call;
}

// ---- Keys in Redis ----

static struct core_key *find_key(struct core *core, const struct message_token *token)
{
    for (size_t i = 0; i < core->key_count; i++)
        if (memcmp(&core->keys[i].token, token, sizeof *token) == 0)
            return &core->keys[i];
    return NULL;
}

static void open_key(struct core *core, const struct message_token *token, int64_t ttl_ms)
{
    FUZZ_CHECK(core->key_count < CORE_GRANTS && !find_key(core, token));
    core->keys[core->key_count++] = (struct core_key){.token = *token, .ttl_ms = ttl_ms};
}

// A send of an acquire or a renewal: the key may live for a TTL from now. (Queries name none of these
// keys: an adoption is never answered with a value, so nothing is held by it.)
static void key_sent(struct core *core, const struct core_call *call)
{
    struct core_key *key = find_key(core, &call->token);

    if (call->op == STORE_RELEASE || !key)
        return;
    key->exists |= call->op == STORE_ACQUIRE;
    key->until_ms = core->now_ms + key->ttl_ms;
}

static void key_answered(struct core *core, const struct core_call *call,
                         enum store_outcome outcome, bool certain)
{
    struct core_key *key = find_key(core, &call->token);
    bool unknown = outcome == STORE_TIMEOUT || outcome == STORE_LOST;

    if (!key)
        return;
    if (call->op == STORE_ACQUIRE) {
        key->uncertain = unknown;
        key->exists = unknown || outcome == STORE_OK;
    } else if (call->op == STORE_RENEW) {
        key->exists &= outcome != STORE_NOT_OWNER;
    } else if (outcome == STORE_OK || outcome == STORE_NOT_OWNER) {
        key->exists &= key->uncertain && !certain;
    }
}

void core_check_keys(const struct core *core)
{
    for (size_t i = 0; i < core->key_count; i++) {
        const struct core_key *key = &core->keys[i];

        // The sidecar's TTL is shorter than Redis', by the drift.
        FUZZ_CHECK(!key->exists || core->now_ms >= key->until_ms - key->ttl_ms / 100 - 2 ||
                   table_find_token(&core->keeper.table, &key->token) != SLOT_NONE);
    }
}

bool core_is_renewing(const struct core *core, const struct message_token *token)
{
    uint32_t number = table_find_token(&core->keeper.table, token);

    for (size_t i = 0; i < core->call_count && number != SLOT_NONE; i++) {
        const struct core_call *call = &core->calls[i];

        if (call->op == STORE_RENEW && call->lease == number && !call->timed_out &&
            call->generation == table_slot(&core->keeper.table, number)->generation)
            return true;
    }
    return false;
}

// ---- Submission ----

static void on_acquire(struct store *store, const struct store_acquire *acquire, int64_t now_ms)
{
    struct core *core = core_of(store);
    char key[WIRE_MAX_KEY + 1] = "";

    FUZZ_CHECK(acquire->key_length > 0 && acquire->key_length <= WIRE_MAX_KEY);
    memcpy(key, acquire->key, acquire->key_length);
    FUZZ_CHECK(!core_find_live(core, key));
    FUZZ_CHECK(!core_find_grant(core, &acquire->token.token));
    FUZZ_CHECK(acquire->ttl_ms >= WIRE_MIN_TTL && acquire->deadline_ms > 0);
    FUZZ_CHECK(acquire->timeout_ms > 0 && acquire->label_length <= WIRE_MAX_LABEL);
    FUZZ_CHECK(acquire->fence_floor == core->keeper.fence_floor);
    open_key(core, &acquire->token.token, acquire->ttl_ms);
    add(core, STORE_ACQUIRE, acquire->lease, acquire->generation, now_ms)->token =
        acquire->token.token;
}

static void on_renew(struct store *store, uint32_t lease, uint32_t generation, int64_t due_by_ms,
                     int64_t now_ms)
{
    struct core *core = core_of(store);
    const struct message_token *token = &table_slot(&core->keeper.table, lease)->token;
    const struct core_grant *grant = core_find_grant(core, token);

    FUZZ_CHECK(due_by_ms > now_ms && !core_is_renewing(core, token));
    FUZZ_CHECK(grant && grant->live);
    // A retry waits, but where the store came up meanwhile.
    FUZZ_CHECK(now_ms >= grant->retry_ms || core->keeper.walk != KEEPER_WALK_NONE);
    add(core, STORE_RENEW, lease, generation, now_ms)->token = *token;
}

static void on_release(struct store *store, const struct store_release *release, int64_t now_ms)
{
    struct core *core = core_of(store);
    const struct core_grant *grant = core_find_grant(core, &release->token.token);

    if (grant) {
        FUZZ_CHECK(strlen(grant->key) == release->key_length &&
                   memcmp(grant->key, release->key, release->key_length) == 0);
        FUZZ_CHECK(!grant->live || grant->release_began);
        FUZZ_CHECK(grant->release_began || (grant->unbound && !grant->expires) ||
                   now_ms >= grant->promised_ms);
    }
    FUZZ_CHECK(release->timeout_ms > 0);
    add(core, STORE_RELEASE, release->lease, release->generation, now_ms)->token =
        release->token.token;
}

static void on_query(struct store *store, const struct store_query *query, int64_t now_ms)
{
    FUZZ_CHECK(query->op >= STORE_ADOPT && query->timeout_ms > 0);
    FUZZ_CHECK(query->key_length > 0 && query->key_length <= WIRE_MAX_KEY);
    add(core_of(store), query->op, query->lease, query->generation, now_ms);
}

static void on_watch(struct store *store, const char *key, size_t key_length)
{
    (void)store;
    FUZZ_CHECK(key && key_length > 0 && key_length <= WIRE_MAX_KEY);
}

static int64_t on_next_timeout(const struct store *store)
{
    (void)store;
    return INT64_MAX;
}

static void on_sweep(struct store *store, int64_t now_ms)
{
    (void)store;
    (void)now_ms;
}

static const struct store_ops ops = {
    .acquire = on_acquire,
    .renew = on_renew,
    .release = on_release,
    .query = on_query,
    .watch = on_watch,
    .unwatch = on_watch,
    .next_timeout = on_next_timeout,
    .sweep = on_sweep,
};

void core_store_init(struct core *core)
{
    core->store = (struct store){.ops = &ops};
    core->call_count = core->key_count = 0;
    core->answered = NULL;
}

// ---- Writing ----

// False: a renewal that is not wanted any more.
static bool describe(struct core *core, struct core_call *call)
{
    struct store_subject subject = {0};
    const struct core_grant *grant;

    if (!core->store.hooks->describe(core->store.context, call->lease, call->generation,
                                     core->now_ms, &subject))
        return false;
    grant = core_find_grant(core, &subject.token.token);
    FUZZ_CHECK(grant && grant->live && !grant->release_done);
    FUZZ_CHECK(core->now_ms < grant->promised_ms && subject.ttl_ms == grant->ttl_ms);
    FUZZ_CHECK(subject.timeout_ms > 0 && core->now_ms + subject.timeout_ms < grant->promised_ms);
    FUZZ_CHECK(strlen(grant->key) == subject.key_length &&
               memcmp(grant->key, subject.key, subject.key_length) == 0);
    FUZZ_CHECK(memcmp(&call->token, &subject.token.token, sizeof call->token) == 0);
    return true;
}

static bool write_call(struct core *core, struct core_call *call)
{
    if (call->written)
        return true;
    if (call->op == STORE_RENEW && !describe(core, call))
        return false;
    call->written = true;
    call->sent_at_ms = core->now_ms;
    key_sent(core, call);
    return true;
}

// ---- Completing ----

static void drop(struct core *core, size_t index)
{
    core->call_count--;
    memmove(core->calls + index, core->calls + index + 1,
            (core->call_count - index) * sizeof *core->calls);
}

static bool is_answer(enum store_outcome outcome)
{
    return outcome != STORE_UNSENT && outcome != STORE_TIMEOUT && outcome != STORE_LOST;
}

static enum store_outcome allowed(const struct core_call *call, enum store_outcome outcome)
{
    if (outcome == STORE_UNSENT && call->written)
        return STORE_LOST;
    if (call->op == STORE_ACQUIRE || call->op == STORE_INSPECT)
        return outcome == STORE_NOT_OWNER ? STORE_HELD : outcome;
    return outcome == STORE_HELD ? STORE_NOT_OWNER : outcome;
}

static void put_text(struct store_completion *completion, const struct core_answer *answer)
{
    bool any = answer->text_length > 0;

    if (completion->outcome != STORE_HELD) {
        if (completion->outcome != STORE_OK && completion->outcome != STORE_TIMEOUT)
            completion->error = any ? answer->text : NULL;
        return;
    }
    completion->pttl_ms = answer->number % 2 ? answer->number : -1;
    if (any && answer->text[0] == '!') {
        completion->type = answer->text + 1;
        return;
    }
    completion->value = any ? answer->text : NULL;
    completion->value_length = any ? answer->text_length : (size_t)answer->number + 1;
}

static int64_t retry_ms(int64_t ttl_ms)
{
    return ttl_ms / 60 > 5 ? ttl_ms / 60 : 5;
}

// What the answer to a renewal makes of the grant, should it be live by then.
static void offer(struct core *core, struct core_grant *grant, const struct core_call *call,
                  const struct store_completion *completion)
{
    grant->offered_ms = grant->promised_ms;
    if (completion->outcome == STORE_NOT_OWNER)
        grant->lost = true;
    else if (completion->outcome != STORE_OK)
        grant->beat_by_ms = grant->retry_ms = core->now_ms + retry_ms(grant->ttl_ms);
    else
        grant->offered_ms = call->sent_at_ms + grant->ttl_ms - (grant->ttl_ms / 100 + 2);
    if (completion->outcome == STORE_OK && !completion->late)
        grant->beat_by_ms = call->sent_at_ms + grant->ttl_ms / 3;
}

// A grant whose renewal was just confirmed holds for longer, whether its client is told or not.
static void settle(struct core_grant *grant)
{
    FUZZ_CHECK(!grant->lost || !grant->live);
    if (grant->live && grant->offered_ms > grant->promised_ms)
        grant->promised_ms = grant->offered_ms;
}

static void report(struct core *core, const struct core_call *call,
                   const struct store_completion *completion)
{
    struct core_grant *grant = call->op == STORE_RENEW ? core_find_grant(core, &call->token) : NULL;
    int64_t now_ms = core->now_ms;

    key_answered(core, call, completion->outcome, completion->certain);
    if (is_answer(completion->outcome))
        now_ms = core->store.hooks->believe(core->store.context);
    FUZZ_CHECK(now_ms == core->now_ms);
    if (grant)
        offer(core, grant, call, completion);
    core->answered = call;
    core->store.hooks->completed(core->store.context, completion, now_ms);
    core->answered = NULL;
    if (grant)
        settle(grant);
}

void core_write(struct core *core, size_t index)
{
    if (!write_call(core, &core->calls[index]))
        core_complete(core, index, &(struct core_answer){.outcome = STORE_UNSENT, .text = ""});
}

void core_complete(struct core *core, size_t index, const struct core_answer *answer)
{
    struct core_call *entry = &core->calls[index];
    enum store_outcome outcome = allowed(entry, answer->outcome);
    struct store_completion completion = {.late = entry->timed_out};
    struct core_call call;

    if (outcome != STORE_UNSENT && !write_call(core, entry))
        outcome = STORE_UNSENT;
    call = *entry;
    if (outcome == STORE_TIMEOUT && call.op == STORE_RENEW && !call.timed_out)
        entry->timed_out = true;
    else
        drop(core, index);
    // Late, only what Redis did or found is told.
    if (call.timed_out && outcome != STORE_OK && outcome != STORE_NOT_OWNER)
        return;
    completion.op = call.op;
    completion.outcome = outcome;
    completion.lease = call.lease;
    completion.generation = call.generation;
    completion.sent_at_ms = outcome == STORE_UNSENT ? 0 : call.sent_at_ms;
    completion.certain = call.op == STORE_RELEASE && is_answer(outcome) && answer->certain;
    if (call.op == STORE_ACQUIRE && outcome == STORE_OK)
        completion.fence = core->keeper.fence_floor + 1 + answer->number % 1000;
    put_text(&completion, answer);
    report(core, &call, &completion);
}
