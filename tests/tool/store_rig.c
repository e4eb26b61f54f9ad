// SPDX-License-Identifier: Apache-2.0
//
// The rig.
//
// Model: the sidecar's loop in small. ev_check sweeps first, ev_prepare flushes last and arms one
// timer by the store's next_timeout. Every completion is kept by lease and kind of call, with a
// count, so that "exactly once" is a number a test compares.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/clock.h"
#include "tests/tool/store_rig.h"

static int64_t on_believe(void *context)
{
    struct store_rig *rig = context;
    int64_t now_ms = clock_boottime_ms();

    if (rig->store)
        rig->store->ops->sweep(rig->store, now_ms);
    rig->believed_ms = now_ms;
    return now_ms;
}

static const char *keep(char *copy, size_t size, const char *text)
{
    copy[0] = '\0';
    if (!text)
        return NULL;
    snprintf(copy, size, "%s", text);
    return copy;
}

static void on_completed(void *context, const struct store_completion *completion, int64_t now_ms)
{
    struct store_rig *rig = context;
    struct store_rig_result *result;

    ck_assert_msg(!rig->submitting, "a completion from inside a submission");
    ck_assert_uint_lt(completion->lease, STORE_RIG_MAX_LEASES);
    ck_assert_uint_eq(completion->generation, completion->lease + 1000);
    ck_assert(completion->op < STORE_ADOPT || completion->lease < STORE_RIG_MAX_QUERIES);
    result = completion->op >= STORE_ADOPT
                 ? &rig->query_results[completion->lease][completion->op - STORE_ADOPT]
                 : &rig->results[completion->lease][completion->op];
    result->order = ++rig->completions;
    result->now_ms = now_ms;
    if (completion->late)
        result->late++;
    else
        result->count++;
    result->last = *completion;
    ck_assert_uint_lt(completion->value ? completion->value_length : 0, sizeof result->value);
    result->last.value = keep(result->value, sizeof result->value, completion->value);
    result->last.type = keep(result->type, sizeof result->type, completion->type);
    result->last.error = keep(result->error, sizeof result->error, completion->error);
    if (rig->on_completed)
        rig->on_completed(rig, completion);
}

static void on_status(void *context, bool up, const char *error, int64_t now_ms)
{
    struct store_rig *rig = context;

    (void)now_ms;
    ck_assert_int_eq(rig->store->up, up);
    ck_assert_int_eq(error == NULL, up);
    snprintf(rig->error, sizeof rig->error, "%s", error ? error : "up");
    if (up)
        rig->up++;
    else
        rig->down++;
    if (up && rig->on_up)
        rig->on_up(rig);
}

static void name_token(const struct store_rig *rig, uint32_t lease, struct store_token *token)
{
    store_rig_token(lease, token);
    memcpy(token->instance, rig->instance, WIRE_INSTANCE_DIGITS);
}

static bool on_describe(void *context, uint32_t lease, uint32_t generation, int64_t now_ms,
                        struct store_subject *subject)
{
    static char key[16];
    struct store_rig *rig = context;

    (void)now_ms;
    ck_assert_uint_eq(generation, lease + 1000);
    if (rig->unwanted[lease])
        return false;
    snprintf(key, sizeof key, "k%u", lease);
    *subject = (struct store_subject){
        .key = key,
        .key_length = strlen(key),
        .ttl_ms = rig->ttl_ms,
        .timeout_ms = rig->timeout_ms,
    };
    name_token(rig, lease, &subject->token);
    return true;
}

static void on_freed(void *context, const char *key, size_t key_length, int64_t now_ms)
{
    struct store_rig *rig = context;
    char text[16] = "";
    unsigned number;

    ck_assert(!rig->submitting);
    ck_assert_int_eq(now_ms, rig->believed_ms);
    ck_assert_uint_lt(key_length, sizeof text);
    memcpy(text, key, key_length);
    ck_assert_msg(sscanf(text, "k%u", &number) == 1, "%s", text);
    ck_assert_uint_lt(number, STORE_RIG_MAX_LEASES);
    rig->freed[number]++;
    rig->all_freed++;
    if (rig->on_freed)
        rig->on_freed(rig, number);
}

static const struct store_hooks hooks = {
    .believe = on_believe,
    .completed = on_completed,
    .status = on_status,
    .describe = on_describe,
    .freed = on_freed,
};

// ---- The loop ----

static void on_idle(struct ev_loop *loop, ev_idle *idle, int events)
{
    (void)events;
    ev_idle_stop(loop, idle);
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)timer;
    (void)events;
}

static void on_check(struct ev_loop *loop, ev_check *check, int events)
{
    struct store_rig *rig = check->data;

    (void)loop;
    (void)events;
    if (rig->store)
        rig->store->ops->sweep(rig->store, clock_boottime_ms());
}

static void on_prepare(struct ev_loop *loop, ev_prepare *prepare, int events)
{
    struct store_rig *rig = prepare->data;
    int64_t now_ms = clock_boottime_ms();
    int64_t next_ms;

    (void)events;
    if (!rig->store)
        return;
    store_redis_flush(rig->store, now_ms);
    if (!rig->store)
        return;
    next_ms = rig->store->ops->next_timeout(rig->store);
    if (next_ms <= now_ms)
        ev_idle_start(loop, &rig->idle);
    else if (next_ms - now_ms < 20) {
        ev_timer_stop(loop, &rig->timer);
        ev_timer_set(&rig->timer, (double)(next_ms - now_ms) / 1000, 0);
        ev_timer_start(loop, &rig->timer);
    }
}

void store_rig_turn(struct store_rig *rig, int64_t limit_ms)
{
    ev_now_update(rig->loop);
    ev_timer_stop(rig->loop, &rig->timer);
    ev_timer_set(&rig->timer, (double)limit_ms / 1000, 0);
    ev_timer_start(rig->loop, &rig->timer);
    ev_run(rig->loop, EVRUN_ONCE);
}

// ---- Life ----

void store_rig_init(struct store_rig *rig, const char *url)
{
    char error[200];

    memset(rig, 0, sizeof *rig);
    // Not a member: most of it is never touched, and a test that forks need not clear it.
    rig->results = calloc(STORE_RIG_MAX_LEASES, sizeof *rig->results);
    ck_assert_ptr_nonnull(rig->results);
    rig->loop = ev_loop_new(EVFLAG_AUTO);
    ck_assert_ptr_nonnull(rig->loop);
    ck_assert_msg(redis_url_parse(url, &rig->url, error, sizeof error) == 0, "%s", error);
    rig->options = (struct store_redis_options){
        .url = rig->url,
        .key_prefix = "lock:",
        .silence_ms = 2000,
        .backoff_min_ms = 10,
        .backoff_max_ms = 40,
    };
    rig->ttl_ms = 30000;
    rig->timeout_ms = 2000;
    rig->instance = "feedfacefeedface";
    rig->deadline_ms = 300000;
    rig->adopter_uid = 1000;
    ev_prepare_init(&rig->prepare, on_prepare);
    ev_check_init(&rig->check, on_check);
    ev_set_priority(&rig->check, EV_MAXPRI);
    ev_set_priority(&rig->prepare, EV_MINPRI);
    ev_init(&rig->timer, on_timer);
    ev_idle_init(&rig->idle, on_idle);
    rig->prepare.data = rig;
    rig->check.data = rig;
    ev_prepare_start(rig->loop, &rig->prepare);
    ev_check_start(rig->loop, &rig->check);
}

void store_rig_start(struct store_rig *rig)
{
    ck_assert_int_eq(store_redis_new(rig->loop, &rig->options, &rig->store), 0);
    rig->store->hooks = &hooks;
    rig->store->context = rig;
}

void store_rig_deinit(struct store_rig *rig)
{
    rig->store = store_redis_free(rig->store);
    ev_prepare_stop(rig->loop, &rig->prepare);
    ev_check_stop(rig->loop, &rig->check);
    ev_timer_stop(rig->loop, &rig->timer);
    ev_idle_stop(rig->loop, &rig->idle);
    ev_loop_destroy(rig->loop);
    redis_url_deinit(&rig->url);
    free(rig->results);
}

// ---- Submissions ----

void store_rig_token(uint32_t lease, struct store_token *token)
{
    char digits[WIRE_LEASE_DIGITS + 1];

    snprintf(digits, sizeof digits, "%032x", lease);
    ck_assert(message_token_parse(digits, &token->token));
    memcpy(token->instance, "feedfacefeedface", WIRE_INSTANCE_DIGITS);
}

static void acquire(struct store_rig *rig, uint32_t lease, uint32_t key, uint32_t replaces)
{
    char name[16];
    struct store_acquire acquire = {
        .lease = lease,
        .generation = lease + 1000,
        .key = name,
        .ttl_ms = rig->ttl_ms,
        .deadline_ms = rig->deadline_ms,
        .fence_floor = rig->fence_floor,
        .pid = 812,
        .uid = 1000,
        .host = "pod-7",
        .label = "two words",
        .label_length = 9,
        .timeout_ms = rig->timeout_ms,
    };

    snprintf(name, sizeof name, "k%u", key);
    acquire.key_length = strlen(name);
    name_token(rig, lease, &acquire.token);
    if (replaces) {
        acquire.replaces = replaces;
        acquire.replaces_generation = replaces + 1000;
        name_token(rig, replaces, &acquire.replaces_token);
    }
    rig->submitting = true;
    rig->store->ops->acquire(rig->store, &acquire, clock_boottime_ms());
    rig->submitting = false;
    memset(name, '?', sizeof name); // it must have been copied
}

void store_rig_acquire_key(struct store_rig *rig, uint32_t lease, uint32_t key)
{
    acquire(rig, lease, key, 0);
}

void store_rig_hand_over(struct store_rig *rig, uint32_t lease, uint32_t key, uint32_t replaces)
{
    acquire(rig, lease, key, replaces);
}

void store_rig_acquire(struct store_rig *rig, uint32_t lease)
{
    store_rig_acquire_key(rig, lease, lease);
}

void store_rig_renew(struct store_rig *rig, uint32_t lease, int64_t due_by_ms)
{
    rig->submitting = true;
    rig->store->ops->renew(rig->store, lease, lease + 1000, due_by_ms, clock_boottime_ms());
    rig->submitting = false;
}

void store_rig_release(struct store_rig *rig, uint32_t lease)
{
    char name[16];
    struct store_release release = {
        .lease = lease,
        .generation = lease + 1000,
        .key = name,
        .timeout_ms = rig->timeout_ms,
    };

    snprintf(name, sizeof name, "k%u", lease);
    release.key_length = strlen(name);
    name_token(rig, lease, &release.token);
    rig->submitting = true;
    rig->store->ops->release(rig->store, &release, clock_boottime_ms());
    rig->submitting = false;
    memset(name, '?', sizeof name);
}

void store_rig_query(struct store_rig *rig, enum store_op op, uint32_t lease)
{
    char name[16];
    char host[] = "pod-9";
    struct store_query query = {
        .op = op,
        .lease = lease,
        .generation = lease + 1000,
        .key = name,
        .deadline_ms = rig->deadline_ms,
        .pid = 900,
        .uid = rig->adopter_uid,
        .host = host,
        .timeout_ms = rig->timeout_ms,
    };

    snprintf(name, sizeof name, "k%u", lease);
    query.key_length = strlen(name);
    name_token(rig, lease, &query.token);
    rig->submitting = true;
    rig->store->ops->query(rig->store, &query, clock_boottime_ms());
    rig->submitting = false;
    memset(name, '?', sizeof name);
    memset(host, '?', sizeof host);
}

// ---- Watches ----

static void watch(struct store_rig *rig, uint32_t key,
                  void (*op)(struct store *store, const char *key, size_t key_length))
{
    char name[16];
    bool submitting = rig->submitting;

    snprintf(name, sizeof name, "k%u", key);
    rig->submitting = true;
    op(rig->store, name, strlen(name));
    rig->submitting = submitting;
    memset(name, '?', sizeof name);
}

void store_rig_watch(struct store_rig *rig, uint32_t key)
{
    watch(rig, key, rig->store->ops->watch);
}

void store_rig_unwatch(struct store_rig *rig, uint32_t key)
{
    watch(rig, key, rig->store->ops->unwatch);
}
