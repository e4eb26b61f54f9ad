// SPDX-License-Identifier: Apache-2.0
//
// The store. Calls stand in the order of their submission until they are completed. A completion is
// what store.h allows for its kind: an outcome of another kind becomes its neighbour, and what was
// not written yet is written first (so that its send time is the latest that it could be).
//
// Checked at a submission: a key whose lease is live here is not asked for, but in its place when it
// hands over; a key is asked for by one at a time; a lease has one renewal at a time, and is live
// then; a delete of a granted lease comes after its release, its client's end, a break's grace or
// valid_until. At a renewal's write: its lease is live, and in time. After each step: what may be in
// Redis has a slot that knows it.

#include <string.h>

#include "sidecar/value.h"
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

// A send of an acquire or a renewal: the key may live for a TTL from now.
static void key_sent(struct core *core, const struct core_call *call)
{
    struct core_key *key = find_key(core, &call->token);

    if (!key || (call->op != STORE_ACQUIRE && call->op != STORE_RENEW))
        return;
    key->exists |= call->op == STORE_ACQUIRE;
    key->until_ms = core->now_ms + key->ttl_ms;
}

void core_key_adopted(struct core *core, const struct message_token *token, int64_t ttl_ms,
                      int64_t sent_at_ms)
{
    struct core_key *key = find_key(core, token);

    if (!key) {
        open_key(core, token, ttl_ms);
        key = find_key(core, token);
    }
    key->exists = true;
    key->ttl_ms = ttl_ms;
    key->until_ms = sent_at_ms + ttl_ms;
}

static void acquire_answered(struct core_key *key, enum store_outcome outcome, bool certain)
{
    bool unknown = outcome == STORE_TIMEOUT || outcome == STORE_LOST;

    // An earlier attempt of the same token may be what is there, or come yet.
    key->exists = unknown || outcome == STORE_OK || key->uncertain;
    key->uncertain |= unknown;
    if (!certain || (outcome != STORE_OK && outcome != STORE_HELD))
        return;
    key->uncertain = false;
    key->exists = outcome == STORE_OK;
}

// Redis has, or had, nothing of the token any more; what was sent before may come yet.
static void key_gone(struct core_key *key, bool certain)
{
    key->uncertain &= !certain;
    key->exists &= key->uncertain;
}

static void key_answered(struct core *core, const struct core_call *call,
                         enum store_outcome outcome, bool certain)
{
    struct core_key *key = find_key(core, &call->token);
    struct core_key *old = call->op == STORE_ACQUIRE && call->replaces != SLOT_NONE
                               ? find_key(core, &call->replaces_token)
                               : NULL;

    if (old && (outcome == STORE_OK || outcome == STORE_HELD))
        key_gone(old, certain);
    if (!key)
        return;
    if (call->op == STORE_ACQUIRE)
        acquire_answered(key, outcome, certain);
    else if ((call->op == STORE_RENEW || call->op == STORE_EXTEND) && outcome == STORE_NOT_OWNER)
        key_gone(key, false);
    else if (call->op == STORE_RELEASE && (outcome == STORE_OK || outcome == STORE_NOT_OWNER))
        key_gone(key, certain);
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

// A key of the store's callers, NUL-terminated.
static void copy_key(char to[WIRE_MAX_KEY + 1], const char *key, size_t length)
{
    FUZZ_CHECK(length > 0 && length <= WIRE_MAX_KEY);
    memcpy(to, key, length);
    to[length] = '\0';
}

// A lease whose key is deleted, or handed over.
static void check_may_go(struct core *core, const struct message_token *token, const char *key)
{
    const struct core_grant *grant = core_find_grant(core, token);

    if (!grant)
        return;
    FUZZ_CHECK(strcmp(grant->key, key) == 0);
    FUZZ_CHECK(!core_is_live(core, grant) || grant->release_began);
    FUZZ_CHECK(grant->release_began || (grant->unbound && !grant->expires) || grant->unread ||
               core->now_ms >= grant->grace_ms || core->now_ms >= grant->promised_ms);
}

static void check_contender(const struct core *core, const char *key)
{
    for (size_t i = 0; i < core->call_count; i++)
        FUZZ_CHECK(core->calls[i].op != STORE_ACQUIRE || strcmp(core->calls[i].key, key) != 0);
}

static void on_acquire(struct store *store, const struct store_acquire *acquire, int64_t now_ms)
{
    struct core *core = core_of(store);
    const struct core_grant *live;
    struct core_call *call;
    char key[WIRE_MAX_KEY + 1];

    copy_key(key, acquire->key, acquire->key_length);
    check_contender(core, key);
    live = core_find_live(core, key);
    FUZZ_CHECK(!live || live->release_began);
    FUZZ_CHECK(!core_find_grant(core, &acquire->token.token));
    FUZZ_CHECK(acquire->ttl_ms >= WIRE_MIN_TTL && acquire->deadline_ms > 0);
    FUZZ_CHECK(acquire->timeout_ms > 0 && acquire->label_length <= WIRE_MAX_LABEL);
    FUZZ_CHECK(acquire->fence_floor == core->keeper.fence_floor);
    if (!find_key(core, &acquire->token.token)) // who waits asks again
        open_key(core, &acquire->token.token, acquire->ttl_ms);
    call = add(core, STORE_ACQUIRE, acquire->lease, acquire->generation, now_ms);
    call->token = acquire->token.token;
    strcpy(call->key, key);
    call->replaces = acquire->replaces;
    call->replaces_generation = acquire->replaces_generation;
    call->replaces_token = acquire->replaces_token.token;
    if (acquire->replaces != SLOT_NONE)
        check_may_go(core, &acquire->replaces_token.token, key);
}

static void on_renew(struct store *store, uint32_t lease, uint32_t generation, int64_t due_by_ms,
                     int64_t now_ms)
{
    struct core *core = core_of(store);
    const struct message_token *token = &table_slot(&core->keeper.table, lease)->token;
    const struct core_grant *grant = core_find_grant(core, token);

    FUZZ_CHECK(due_by_ms > now_ms && !core_is_renewing(core, token));
    FUZZ_CHECK(grant && core_is_live(core, grant));
    // A retry waits, but where the store came up meanwhile.
    FUZZ_CHECK(now_ms >= grant->retry_ms || core->keeper.walk != KEEPER_WALK_NONE);
    add(core, STORE_RENEW, lease, generation, now_ms)->token = *token;
}

static void on_release(struct store *store, const struct store_release *release, int64_t now_ms)
{
    struct core *core = core_of(store);
    char key[WIRE_MAX_KEY + 1];

    copy_key(key, release->key, release->key_length);
    check_may_go(core, &release->token.token, key);
    FUZZ_CHECK(release->timeout_ms > 0);
    add(core, STORE_RELEASE, release->lease, release->generation, now_ms)->token =
        release->token.token;
}

static void on_query(struct store *store, const struct store_query *query, int64_t now_ms)
{
    struct core *core = core_of(store);
    struct core_call *call = add(core, query->op, query->lease, query->generation, now_ms);

    FUZZ_CHECK(query->op >= STORE_ADOPT && query->timeout_ms > 0);
    copy_key(call->key, query->key, query->key_length);
    call->token = query->token.token;
    call->deadline_ms = query->deadline_ms;
}

static size_t find_watch(const struct core *core, const char *key)
{
    size_t i = 0;

    while (i < core->watch_count && strcmp(core->watches[i], key) != 0)
        i++;
    return i;
}

static void on_watch(struct store *store, const char *key, size_t key_length)
{
    struct core *core = core_of(store);
    char copy[WIRE_MAX_KEY + 1];

    copy_key(copy, key, key_length);
    FUZZ_CHECK(find_watch(core, copy) == core->watch_count && core->watch_count < CORE_GRANTS);
    strcpy(core->watches[core->watch_count++], copy);
}

static void on_unwatch(struct store *store, const char *key, size_t key_length)
{
    struct core *core = core_of(store);
    char copy[WIRE_MAX_KEY + 1];
    size_t i;

    copy_key(copy, key, key_length);
    i = find_watch(core, copy);
    FUZZ_CHECK(i < core->watch_count);
    if (i != --core->watch_count)
        strcpy(core->watches[i], core->watches[core->watch_count]);
}

void core_free_key(struct core *core, size_t index)
{
    char key[WIRE_MAX_KEY + 1];

    strcpy(key, core->watches[index]);
    core->store.hooks->believe(core->store.context);
    if (find_watch(core, key) < core->watch_count)
        core->store.hooks->freed(core->store.context, key, strlen(key), core->now_ms);
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
    .unwatch = on_unwatch,
    .next_timeout = on_next_timeout,
    .sweep = on_sweep,
};

void core_store_init(struct core *core)
{
    core->store = (struct store){.ops = &ops};
    core->call_count = core->key_count = core->watch_count = 0;
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
    FUZZ_CHECK(grant && core_is_live(core, grant) && !grant->release_done);
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
    if (outcome == STORE_NOT_YOURS && call->op != STORE_ADOPT)
        outcome = STORE_NOT_OWNER;
    if (call->op == STORE_ACQUIRE || call->op == STORE_INSPECT)
        return outcome == STORE_NOT_OWNER ? STORE_HELD : outcome;
    return outcome == STORE_HELD ? STORE_NOT_OWNER : outcome;
}

// A token is used for one key; what is known to have gone from there is not adopted.
static bool may_be_adopted(struct core *core, const struct core_call *call)
{
    const struct core_grant *grant = core_find_grant(core, &call->token);
    const struct core_key *key = find_key(core, &call->token);

    return (!grant || strcmp(grant->key, call->key) == 0) && (!key || key->exists);
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

// The value of a lease that Redis has moved here: what the input says, or one that fits.
static void put_adopted(struct core *core, const struct core_call *call,
                        const struct core_answer *answer, char text[VALUE_SIZE],
                        struct store_completion *completion)
{
    static const int64_t ttls[] = {30000, 500, 2000};
    const struct core_grant *grant = core_find_grant(core, &call->token);
    int64_t age_us = answer->number % 9000 * 1000;
    struct value value = {
        .token = {.token = call->token},
        .fence = 1 + answer->number % 1000,
        .ttl_ms = grant ? grant->ttl_ms : ttls[answer->number % 3],
        .since_us = completion->now_us - age_us,
        .pid = CORE_FIRST_PID,
        .uid = CORE_OPERATOR,
        .host = "pod-8",
        .host_length = 5,
    };

    value.deadline_us = value.since_us + (1 + answer->number % 20000) * 1000;
    memcpy(value.token.instance, core->keeper.instance, sizeof value.token.instance);
    completion->value = text;
    completion->value_length = value_format(&value, text);
    if (answer->text_length > 0) {
        completion->value = answer->text;
        completion->value_length = answer->text_length;
    }
}

static int64_t retry_ms(int64_t ttl_ms)
{
    return ttl_ms / 60 > 5 ? ttl_ms / 60 : 5;
}

static int64_t validity(const struct core_grant *grant, int64_t sent_at_ms)
{
    return sent_at_ms + grant->ttl_ms - (grant->ttl_ms / 100 + 2);
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
        grant->offered_ms = validity(grant, call->sent_at_ms);
    if (completion->outcome == STORE_OK && !completion->late)
        grant->beat_by_ms = call->sent_at_ms + grant->ttl_ms / 3;
}

// What Redis says of the workflow deadline counts, where such a lease may be held here.
static void offer_deadline(struct core *core, struct core_grant *grant)
{
    const struct value *value = core->adopted;
    char why[256];

    if (!value || !core_is_live(core, grant))
        return;
    if (value->ttl_ms <= LEASE_MAX_SPAN_MS && value->deadline_us - value->since_us >= 1000 &&
        value->deadline_us - value->since_us < (LEASE_MAX_SPAN_MS + 1) * 1000 &&
        lease_rules_check(&core->keeper.options.rules, value->ttl_ms, why, sizeof why) == 0)
        grant->deadline_ms = (value->deadline_us - value->since_us) / 1000;
}

// An adoption prolongs a lease that is held here; and whoever else was said to have the key has not.
static void offer_adoption(struct core *core, struct core_grant *grant,
                           const struct core_call *call, const struct store_completion *completion)
{
    if (completion->outcome != STORE_OK)
        return;
    if (grant && core->moves) {
        grant->offered_ms = validity(grant, call->sent_at_ms);
        offer_deadline(core, grant);
    }
    for (size_t i = 0; i < core->grant_count; i++) {
        struct core_grant *other = &core->grants[i];
        other->losing = other != grant && strcmp(other->key, call->key) == 0;
        if (other->losing)
            key_gone(find_key(core, &other->token), false);
    }
}

static void offer_extension(struct core *core, struct core_grant *grant,
                            const struct core_call *call, const struct store_completion *completion)
{
    if (completion->outcome == STORE_NOT_OWNER)
        grant->lost = true;
    if (completion->outcome == STORE_OK && core_is_live(core, grant))
        grant->deadline_ms = call->deadline_ms;
}

// A grant whose renewal was just confirmed holds for longer, whether its client is told or not.
static void settle(const struct core *core, struct core_grant *grant)
{
    bool live = core_is_live(core, grant);

    FUZZ_CHECK(!grant->lost || !live);
    if (live && grant->offered_ms > grant->promised_ms)
        grant->promised_ms = grant->offered_ms;
}

static void foretell(struct core *core, struct core_grant *grant, const struct core_call *call,
                     const struct store_completion *completion)
{
    if (call->op == STORE_RENEW && grant)
        offer(core, grant, call, completion);
    else if (call->op == STORE_EXTEND && grant)
        offer_extension(core, grant, call, completion);
    else if (call->op == STORE_ADOPT)
        offer_adoption(core, grant, call, completion);
}

static void report(struct core *core, const struct core_call *call,
                   const struct store_completion *completion)
{
    struct core_grant *grant = core_find_grant(core, &call->token);
    int64_t now_ms = core->now_ms;
    struct value value;

    key_answered(core, call, completion->outcome, completion->certain);
    if (is_answer(completion->outcome))
        now_ms = core->store.hooks->believe(core->store.context);
    FUZZ_CHECK(now_ms == core->now_ms);
    core->moves = table_find_token(&core->keeper.table, &call->token) != SLOT_NONE;
    if (call->op == STORE_ADOPT && completion->value &&
        value_parse(completion->value, completion->value_length, &value) == 0) {
        core->adopted = &value;
        core->adopted_at_us = completion->now_us;
    }
    foretell(core, grant, call, completion);
    core->answered = call;
    core->store.hooks->completed(core->store.context, completion, now_ms);
    core->answered = NULL;
    core->adopted = NULL;
    if (grant && (call->op == STORE_RENEW || call->op == STORE_ADOPT))
        settle(core, grant);
    for (size_t i = 0; i < core->grant_count; i++) {
        core->grants[i].losing = false;
        core->grants[i].offered_ms = 0;
    }
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
    char text[VALUE_SIZE];
    struct core_call call;

    if (outcome == STORE_OK && entry->op == STORE_ADOPT && !may_be_adopted(core, entry))
        outcome = STORE_NOT_OWNER;
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
    completion.certain =
        call.op <= STORE_RELEASE && call.op != STORE_RENEW && is_answer(outcome) && answer->certain;
    completion.replaces = call.replaces;
    completion.replaces_generation = call.replaces_generation;
    completion.replaced = call.replaces != SLOT_NONE && outcome == STORE_OK && answer->number % 4;
    completion.now_us = INT64_C(1790000000000000) + core->now_ms * 1000;
    if (call.op == STORE_ACQUIRE && outcome == STORE_OK)
        completion.fence = core->keeper.fence_floor + 1 + answer->number % 1000;
    put_text(&completion, answer);
    if (call.op == STORE_ADOPT && outcome == STORE_OK)
        put_adopted(core, &call, answer, text, &completion);
    report(core, &call, &completion);
}
