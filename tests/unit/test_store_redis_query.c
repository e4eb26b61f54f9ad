// SPDX-License-Identifier: Apache-2.0
//
// The Redis store against a real redis-server: what moves a key between leases and between sidecars
// (hand-over, adopt), what asks about it (inspect) and what changes it (extend, break).
//
// `rig` and `other` are two sidecars: each its own instance, its own loop, the same keys.
#include <stdio.h>
#include <string.h>

#include "sidecar/clock.h"
#include "sidecar/value.h"
#include "tests/tool/private_redis.h"
#include "tests/tool/store_rig.h"

#define COUNTER "lock-keeper:fence\x1flock:"
#define TOKEN_OF_1 "00000000000000000000000000000001"

static struct private_redis redis;
static struct store_rig rig, other;

static void setup(void)
{
    scratch_open();
    redis = (struct private_redis){.tcp = true};
    private_redis_start(&redis, NULL);
    store_rig_init(&rig, redis.url);
    store_rig_init(&other, redis.tcp_url);
    other.instance = "0123456789abcdef";
    store_rig_start(&rig);
    store_rig_start(&other);
    STORE_RIG_UNTIL(&rig, rig.up == 1);
    STORE_RIG_UNTIL(&other, other.up == 1);
}

static void teardown(void)
{
    store_rig_deinit(&rig);
    store_rig_deinit(&other);
    private_redis_deinit(&redis);
    scratch_close();
}

static struct store_rig_result *result_of(struct store_rig *of, enum store_op op, uint32_t lease)
{
    return op >= STORE_ADOPT ? &of->query_results[lease][op - STORE_ADOPT]
                             : &of->results[lease][op];
}

// A call's completion, waited for.
static const struct store_completion *call(struct store_rig *of, enum store_op op, uint32_t lease)
{
    struct store_rig_result *result = result_of(of, op, lease);

    memset(result, 0, sizeof *result);
    switch (op) {
    case STORE_ACQUIRE:
        store_rig_acquire(of, lease);
        break;
    case STORE_RENEW:
        store_rig_renew(of, lease, clock_boottime_ms() + 10000);
        break;
    case STORE_RELEASE:
        store_rig_release(of, lease);
        break;
    default:
        store_rig_query(of, op, lease);
        break;
    }
    STORE_RIG_UNTIL(of, result->count == 1);
    ck_assert_int_eq(result->last.op, op);
    return &result->last;
}

static const struct store_completion *hand_over(uint32_t lease, uint32_t key, uint32_t replaces)
{
    struct store_rig_result *result = result_of(&rig, STORE_ACQUIRE, lease);

    memset(result, 0, sizeof *result);
    store_rig_hand_over(&rig, lease, key, replaces);
    STORE_RIG_UNTIL(&rig, result->count == 1);
    ck_assert_uint_eq(result->last.replaces, replaces);
    ck_assert_uint_eq(result->last.replaces_generation, replaces + 1000);
    return &result->last;
}

// The value of lock:k<key>, which must be ours. Its text stays until the next command.
static struct value value_of(uint32_t key)
{
    const char *text = private_redis_string(&redis, "GET lock:k%u", key);
    struct value value;

    ck_assert_ptr_nonnull(text);
    ck_assert_msg(value_parse(text, strlen(text), &value) == 0, "%s", text);
    return value;
}

static bool is_lease(const struct value *value, uint32_t lease, const char *instance)
{
    struct store_token token;

    store_rig_token(lease, &token);
    return memcmp(&value->token.token, &token.token, sizeof token.token) == 0 &&
           memcmp(value->token.instance, instance, WIRE_INSTANCE_DIGITS) == 0;
}

static int64_t pttl_of(uint32_t key)
{
    return private_redis_int(&redis, "PTTL lock:k%u", key);
}

// ---- Hand-over ----

START_TEST(hand_over_swaps_the_token)
{
    int64_t last_fence = call(&rig, STORE_ACQUIRE, 1)->fence;

    for (uint32_t lease = 2; lease < 30; lease++) {
        const struct store_completion *done;
        struct value value;

        if (lease == 10)
            private_redis_run(&redis, "DEL %s", COUNTER);
        if (lease == 20)
            private_redis_run(&redis, "SET %s 5", COUNTER);
        private_redis_run(&redis, "PEXPIRE lock:k1 9000");
        done = hand_over(lease, 1, lease - 1);
        ck_assert_int_eq(done->outcome, STORE_OK);
        ck_assert(done->replaced);
        ck_assert(done->certain);
        ck_assert_int_gt(done->fence, last_fence);
        last_fence = done->fence;
        ck_assert_int_gt(pttl_of(1), 29000);
        value = value_of(1);
        ck_assert(is_lease(&value, lease, rig.instance));
        ck_assert_int_eq(value.fence, last_fence);
    }
    // The old one has nothing left of it.
    ck_assert_int_eq(result_of(&rig, STORE_RENEW, 28)->count, 0);
    memset(&rig.results[1], 0, sizeof rig.results[1]);
    store_rig_acquire_key(&rig, 1, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_HELD);
    ck_assert(!rig.results[1][STORE_ACQUIRE].last.replaced);
    ck_assert(rig.results[1][STORE_ACQUIRE].last.certain);
}
END_TEST

START_TEST(hand_over_repeated)
{
    int64_t fence;

    call(&rig, STORE_ACQUIRE, 1);
    fence = hand_over(2, 1, 1)->fence;
    private_redis_run(&redis, "PEXPIRE lock:k1 9000");
    ck_assert_int_eq(hand_over(2, 1, 1)->outcome, STORE_OK);
    ck_assert(!result_of(&rig, STORE_ACQUIRE, 2)->last.replaced);
    ck_assert_int_eq(result_of(&rig, STORE_ACQUIRE, 2)->last.fence, fence);
    ck_assert_int_gt(pttl_of(1), 29000);
}
END_TEST

// What it was to replace is not there: it takes a free key, and leaves another's alone.
START_TEST(hand_over_from_nobody)
{
    call(&rig, STORE_ACQUIRE, 1);
    ck_assert_int_eq(hand_over(3, 1, 2)->outcome, STORE_HELD);
    ck_assert_ptr_nonnull(result_of(&rig, STORE_ACQUIRE, 3)->last.value);
    ck_assert_int_eq(hand_over(3, 4, 2)->outcome, STORE_OK);
    ck_assert(!result_of(&rig, STORE_ACQUIRE, 3)->last.replaced);
    // The same lease under another instance has been adopted: it is not ours to give.
    call(&other, STORE_ADOPT, 1);
    ck_assert_int_eq(hand_over(5, 1, 1)->outcome, STORE_HELD);
    private_redis_run(&redis, "SET lock:k6 " TOKEN_OF_1);
    ck_assert_int_eq(hand_over(6, 6, 1)->outcome, STORE_HELD);
    private_redis_run(&redis, "HSET lock:k7 a b");
    ck_assert_int_eq(hand_over(7, 7, 1)->outcome, STORE_HELD);
}
END_TEST

// The names come back whatever happens to the call.
START_TEST(hand_over_fails)
{
    call(&rig, STORE_ACQUIRE, 1);
    private_redis_run(&redis, "CONFIG SET maxmemory 1");
    ck_assert_int_eq(hand_over(2, 1, 1)->outcome, STORE_REFUSED);
    private_redis_run(&redis, "CONFIG SET maxmemory 0");
    rig.timeout_ms = 50;
    private_redis_stop(&redis);
    ck_assert_int_eq(hand_over(2, 1, 1)->outcome, STORE_TIMEOUT);
    rig.timeout_ms = 5000;
    store_rig_hand_over(&rig, 3, 1, 1);
    store_rig_turn(&rig, 1);
    private_redis_kill(&redis);
    STORE_RIG_EXPECT(&rig, 3, STORE_ACQUIRE, STORE_LOST);
    ck_assert_uint_eq(result_of(&rig, STORE_ACQUIRE, 3)->last.replaces, 1);
    ck_assert_uint_eq(result_of(&rig, STORE_ACQUIRE, 3)->last.replaces_generation, 1001);
    ck_assert(!result_of(&rig, STORE_ACQUIRE, 3)->last.certain);
    rig.timeout_ms = 50;
    ck_assert_int_eq(hand_over(4, 1, 1)->outcome, STORE_UNSENT);
    private_redis_restart(&redis);
}
END_TEST

// ---- Adopt ----

static void adopted_moves_everything(struct store_rig *from, struct store_rig *to, uint32_t lease)
{
    const struct store_completion *done;
    struct value before, after, told;

    call(from, STORE_ACQUIRE, lease);
    before = value_of(lease);
    private_redis_run(&redis, "PEXPIRE lock:k%u 5000", lease);
    done = call(to, STORE_ADOPT, lease);
    ck_assert_int_eq(done->outcome, STORE_OK);
    ck_assert_int_eq(value_parse(done->value, done->value_length, &told), 0);
    ck_assert_int_ge(done->now_us, before.since_us);
    ck_assert_int_lt(done->now_us, before.since_us + 10000000);
    after = value_of(lease);
    ck_assert(is_lease(&after, lease, to->instance));
    ck_assert(is_lease(&told, lease, to->instance));
    ck_assert_int_eq(after.fence, before.fence);
    ck_assert_int_eq(told.fence, before.fence);
    ck_assert_int_eq(after.ttl_ms, before.ttl_ms);
    ck_assert_int_eq(after.deadline_us, before.deadline_us);
    ck_assert_int_eq(after.since_us, before.since_us);
    ck_assert_int_eq(after.pid, 900);
    ck_assert_int_eq(after.uid, 1000);
    ck_assert_uint_eq(after.host_length, 5);
    ck_assert_mem_eq(after.host, "pod-9", 5);
    ck_assert_uint_eq(after.label_length, 9);
    ck_assert_mem_eq(after.label, "two words", 9);
    ck_assert_int_gt(pttl_of(lease), 29000);
}

// The one that it was adopted away from touches it no more; nor does it, once adopted back, the other.
START_TEST(adopt_moves_the_lease)
{
    adopted_moves_everything(&rig, &other, 1);
    private_redis_run(&redis, "PEXPIRE lock:k1 9000");
    ck_assert_int_eq(call(&rig, STORE_RENEW, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(call(&rig, STORE_EXTEND, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(call(&rig, STORE_RELEASE, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_le(pttl_of(1), 9000);
    ck_assert_int_eq(call(&other, STORE_RENEW, 1)->outcome, STORE_OK);
    ck_assert_int_gt(pttl_of(1), 29000);

    ck_assert_int_eq(call(&rig, STORE_ADOPT, 1)->outcome, STORE_OK);
    ck_assert_int_eq(call(&other, STORE_RENEW, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(call(&other, STORE_RELEASE, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(call(&rig, STORE_RENEW, 1)->outcome, STORE_OK);
    ck_assert_int_eq(call(&rig, STORE_RELEASE, 1)->outcome, STORE_OK);

    adopted_moves_everything(&other, &rig, 2);
    adopted_moves_everything(&rig, &rig, 3);
}
END_TEST

// The old sidecar was first: then there is nothing to adopt.
START_TEST(adopt_comes_too_late)
{
    call(&rig, STORE_ACQUIRE, 1);
    ck_assert_int_eq(call(&rig, STORE_RELEASE, 1)->outcome, STORE_OK);
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k1"), 0);
    store_rig_acquire_key(&rig, 2, 1);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_OK);
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_ptr_null(result_of(&other, STORE_ADOPT, 1)->last.value);
    ck_assert_int_eq(result_of(&other, STORE_ADOPT, 1)->last.now_us, 0);
}
END_TEST

START_TEST(adopt_wants_the_uid)
{
    call(&rig, STORE_ACQUIRE, 1);
    private_redis_run(&redis, "PEXPIRE lock:k1 9000");
    other.adopter_uid = 1001;
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_NOT_YOURS);
    ck_assert_ptr_null(result_of(&other, STORE_ADOPT, 1)->last.value);
    other.adopter_uid = 100;
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_NOT_YOURS);
    ck_assert_int_le(pttl_of(1), 9000);
    ck_assert_int_eq(call(&rig, STORE_RENEW, 1)->outcome, STORE_OK);
    other.adopter_uid = 0; // root; the lease stays its uid's
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_OK);
    ck_assert_int_eq(value_of(1).uid, 1000);
}
END_TEST

START_TEST(adopt_ends_with_the_deadline)
{
    const struct store_completion *done;

    rig.deadline_ms = 150;
    call(&rig, STORE_ACQUIRE, 1);
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_OK);
    do {
        done = call(&other, STORE_INSPECT, 1);
    } while (done->now_us < value_of(1).deadline_us);
    private_redis_run(&redis, "PEXPIRE lock:k1 9000");
    ck_assert_int_eq(call(&rig, STORE_ADOPT, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_le(pttl_of(1), 9000);
    ck_assert_int_gt(pttl_of(1), 0);
}
END_TEST

#define T1 TOKEN_OF_1 " "
#define INSTANCE "feedfacefeedface "
#define FAR "9007199254740990 "

// Values that begin like ours, and are another's: neither adopted, nor extended, nor renewed or freed.
static const char *const foreign[] = {
    TOKEN_OF_1, // what redis-py's lock writes
    T1,
    T1 "feedfacefeedface",
    T1 INSTANCE,
    T1 INSTANCE "lk1",
    T1 INSTANCE "lk1 ",
    T1 INSTANCE "lk1 1 30000",
    T1 INSTANCE "lk1 1 30000 " FAR "1 812 1000",
    T1 INSTANCE "lk1 1 30000 " FAR "1 812 1000 ",
    T1 INSTANCE "lk2 1 30000 " FAR "1 812 1000 pod-7",
    T1 "feedfacefeedfac lk1 1 30000 " FAR "1 812 1000 pod-7",
    T1 "FEEDFACEFEEDFACE lk1 1 30000 " FAR "1 812 1000 pod-7",
    T1 INSTANCE "lk1  1 30000 " FAR "1 812 1000 pod-7",
    T1 INSTANCE "lk1 01 30000 " FAR "1 812 1000 pod-7",
    T1 INSTANCE "lk1 1 0 " FAR "1 812 1000 pod-7",
    T1 INSTANCE "lk1 1 -1 " FAR "1 812 1000 pod-7",
    T1 INSTANCE "lk1 1 30000 9007199254740992 1 812 1000 pod-7",
    T1 INSTANCE "lk1 1 30000 " FAR "1 812 x1000 pod-7",
    T1 INSTANCE "lk1 1 30000 " FAR "1 812 1000 pod-7 ",
    T1 INSTANCE "lk1 1 30000 " FAR "1 812 1000 pod-7 a\nb",
    "0" TOKEN_OF_1 " " INSTANCE "lk1 1 30000 " FAR "1 812 1000 pod-7",
    " " T1 INSTANCE "lk1 1 30000 " FAR "1 812 1000 pod-7",
};

START_TEST(foreign_values_are_left_alone)
{
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        bool has_our_head = strncmp(foreign[i], T1 INSTANCE "lk1 ", VALUE_HEAD_LENGTH) == 0;

        private_redis_run(&redis, "SET lock:k1 %s PX 9000", foreign[i]);
        rig.adopter_uid = i % 2 ? 0 : 1000;
        ck_assert_int_eq(call(&rig, STORE_ADOPT, 1)->outcome, STORE_NOT_OWNER);
        if (!has_our_head) {
            ck_assert_int_eq(call(&rig, STORE_EXTEND, 1)->outcome, STORE_NOT_OWNER);
            ck_assert_int_eq(call(&rig, STORE_RENEW, 1)->outcome, STORE_NOT_OWNER);
            ck_assert_int_eq(call(&rig, STORE_RELEASE, 1)->outcome, STORE_NOT_OWNER);
        }
        ck_assert_str_eq(private_redis_string(&redis, "GET lock:k1"), foreign[i]);
        ck_assert_int_le(pttl_of(1), 9000);
    }
}
END_TEST

// The grammar of the table is right: with one more lease of ours it is adopted.
START_TEST(the_least_value_of_ours)
{
    private_redis_run(&redis, "SET lock:k1 %s PX 9000",
                      T1 "0000000000000000 lk1 0 1500 " FAR "0 0 1000 h");
    ck_assert_int_eq(call(&rig, STORE_ADOPT, 1)->outcome, STORE_OK);
    ck_assert_str_eq(private_redis_string(&redis, "GET lock:k1"),
                     T1 INSTANCE "lk1 0 1500 " FAR "0 900 1000 pod-9");
    ck_assert_int_le(pttl_of(1), 1500);
}
END_TEST

START_TEST(adopt_of_another_type)
{
    private_redis_run(&redis, "HSET lock:k1 a b");
    ck_assert_int_eq(call(&rig, STORE_ADOPT, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(call(&rig, STORE_EXTEND, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(private_redis_int(&redis, "HLEN lock:k1"), 1);
}
END_TEST

// What keeps work alive needs no memory.
START_TEST(adopt_and_extend_without_memory)
{
    call(&rig, STORE_ACQUIRE, 1);
    private_redis_run(&redis, "CONFIG SET maxmemory 1");
    ck_assert_int_eq(call(&other, STORE_ADOPT, 1)->outcome, STORE_OK);
    ck_assert_int_eq(call(&other, STORE_EXTEND, 1)->outcome, STORE_OK);
    ck_assert_int_eq(call(&other, STORE_RELEASE, 1)->outcome, STORE_OK);
}
END_TEST

// ---- Extend ----

START_TEST(extend_rewrites_the_deadline_alone)
{
    struct value before, after;
    char label[16];

    call(&rig, STORE_ACQUIRE, 1);
    before = value_of(1);
    private_redis_run(&redis, "PEXPIRE lock:k1 9000");
    rig.deadline_ms = 1234567;
    ck_assert_int_eq(call(&rig, STORE_EXTEND, 1)->outcome, STORE_OK);
    after = value_of(1);
    snprintf(label, sizeof label, "%.*s", (int)after.label_length, after.label);
    ck_assert_int_eq(after.deadline_us, before.since_us + 1234567000);
    ck_assert_int_eq(after.since_us, before.since_us);
    ck_assert_int_eq(after.fence, before.fence);
    ck_assert_int_eq(after.ttl_ms, before.ttl_ms);
    ck_assert_int_eq(after.pid, 812);
    ck_assert_int_eq(after.uid, 1000);
    ck_assert_str_eq(label, "two words");
    ck_assert(is_lease(&after, 1, rig.instance));
    ck_assert_int_le(pttl_of(1), 9000);
    ck_assert_int_gt(pttl_of(1), 8000);
    // Nothing of TTL is made up where somebody took it away.
    private_redis_run(&redis, "PERSIST lock:k1");
    rig.deadline_ms = 7;
    ck_assert_int_eq(call(&rig, STORE_EXTEND, 1)->outcome, STORE_OK);
    ck_assert_int_eq(value_of(1).deadline_us, before.since_us + 7000);
    ck_assert_int_eq(pttl_of(1), -1);

    ck_assert_int_eq(call(&other, STORE_EXTEND, 1)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(call(&rig, STORE_EXTEND, 2)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k2"), 0);
}
END_TEST

// ---- Inspect ----

START_TEST(inspect_says_what_is_there)
{
    const struct store_completion *done = call(&rig, STORE_INSPECT, 1);
    struct value value;
    char text[2000];

    ck_assert_int_eq(done->outcome, STORE_OK);
    ck_assert_ptr_null(done->value);
    ck_assert_int_gt(done->now_us, INT64_C(1500000000000000));

    call(&other, STORE_ACQUIRE, 1);
    done = call(&rig, STORE_INSPECT, 1);
    ck_assert_int_eq(done->outcome, STORE_HELD);
    ck_assert_int_eq(value_parse(done->value, done->value_length, &value), 0);
    ck_assert_int_ge(done->now_us, value.since_us);
    ck_assert_int_le(done->now_us, value.since_us + 10000000);
    ck_assert_int_gt(done->pttl_ms, 29000);
    ck_assert_ptr_null(done->type);

    private_redis_run(&redis, "SET lock:k2 somebody");
    done = call(&rig, STORE_INSPECT, 2);
    ck_assert_int_eq(done->outcome, STORE_HELD);
    ck_assert_str_eq(done->value, "somebody");
    ck_assert_int_eq(done->pttl_ms, -1);

    private_redis_run(&redis, "HSET lock:k3 a b");
    private_redis_run(&redis, "PEXPIRE lock:k3 9000");
    done = call(&rig, STORE_INSPECT, 3);
    ck_assert_int_eq(done->outcome, STORE_HELD);
    ck_assert_str_eq(done->type, "hash");
    ck_assert_ptr_null(done->value);
    ck_assert_int_gt(done->pttl_ms, 8000);
    ck_assert_int_gt(done->now_us, INT64_C(1500000000000000));

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    private_redis_run(&redis, "SET lock:k4 %s", text);
    done = call(&rig, STORE_INSPECT, 4);
    ck_assert_int_eq(done->outcome, STORE_HELD);
    ck_assert_ptr_null(done->value);
    ck_assert_uint_eq(done->value_length, sizeof text - 1);
}
END_TEST

// ---- Break ----

START_TEST(break_deletes_whatever_it_is)
{
    call(&other, STORE_ACQUIRE, 1);
    private_redis_run(&redis, "SET lock:k2 somebody");
    private_redis_run(&redis, "HSET lock:k3 a b");
    for (uint32_t key = 1; key <= 3; key++) {
        ck_assert_int_eq(call(&rig, STORE_BREAK, key)->outcome, STORE_OK);
        ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k%u", key), 0);
        ck_assert_int_eq(call(&rig, STORE_BREAK, key)->outcome, STORE_NOT_OWNER);
    }
    ck_assert_int_eq(call(&other, STORE_RENEW, 1)->outcome, STORE_NOT_OWNER);
}
END_TEST

// A break in the buffers of a connection that was given up is not executed after the next holder
// got the key: that connection is ended first.
static int64_t calls_of(const char *command)
{
    char name[64];
    const char *line;

    snprintf(name, sizeof name, "cmdstat_%s:calls=", command);
    line = strstr(private_redis_string(&redis, "INFO commandstats"), name);
    return line ? strtoll(line + strlen(name), NULL, 10) : 0;
}

START_TEST(break_of_a_lost_connection_is_ended)
{
    call(&rig, STORE_ACQUIRE, 1);
    rig.timeout_ms = 100;
    private_redis_stop(&redis);
    store_rig_query(&rig, STORE_BREAK, 2);
    STORE_RIG_EXPECT(&rig, 2, STORE_BREAK, STORE_TIMEOUT);
    STORE_RIG_UNTIL(&rig, rig.down >= 1);
    private_redis_continue(&redis);
    STORE_RIG_UNTIL(&rig, rig.up == 2);
    rig.timeout_ms = 5000;
    ck_assert_int_eq(call(&rig, STORE_RENEW, 1)->outcome, STORE_OK);
    // Each handshake tries the command once, on no client.
    ck_assert_int_eq(calls_of("client|kill"), calls_of("client|setname") + 1);
}
END_TEST

// ---- Ends of a query ----

START_TEST(queries_end_once)
{
    static const enum store_op ops[] = {STORE_ADOPT, STORE_EXTEND, STORE_INSPECT, STORE_BREAK};

    private_redis_run(&redis, "SCRIPT FLUSH");
    for (size_t i = 0; i < 4; i++)
        call(&rig, ops[i], 1);
    private_redis_stop(&redis);
    rig.timeout_ms = 50;
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(call(&rig, ops[i], 2)->outcome, STORE_TIMEOUT);
        ck_assert_int_gt(result_of(&rig, ops[i], 2)->last.sent_at_ms, 0);
    }
    rig.timeout_ms = 5000;
    for (size_t i = 0; i < 4; i++)
        store_rig_query(&rig, ops[i], 3);
    store_rig_turn(&rig, 1);
    private_redis_kill(&redis);
    for (size_t i = 0; i < 4; i++)
        STORE_RIG_EXPECT(&rig, 3, ops[i], STORE_LOST);
    rig.timeout_ms = 50;
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(call(&rig, ops[i], 4)->outcome, STORE_UNSENT);
        ck_assert_int_eq(result_of(&rig, ops[i], 4)->last.sent_at_ms, 0);
        ck_assert_ptr_nonnull(result_of(&rig, ops[i], 4)->last.error);
        ck_assert_int_eq(result_of(&rig, ops[i], 2)->count, 1);
    }
    private_redis_restart(&redis);
    private_redis_run(&redis, "CONFIG SET min-replicas-to-write 1");
    STORE_RIG_UNTIL(&rig, rig.store->up);
    rig.timeout_ms = 5000;
    ck_assert_int_eq(call(&rig, STORE_BREAK, 5)->outcome, STORE_REFUSED);
    ck_assert_ptr_nonnull(strstr(result_of(&rig, STORE_BREAK, 5)->last.error, "NOREPLICAS"));
    ck_assert_int_eq(call(&rig, STORE_INSPECT, 5)->outcome, STORE_OK);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("store_redis_query");
    TCase *tests = tcase_create("store_redis_query");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, hand_over_swaps_the_token);
    tcase_add_test(tests, hand_over_repeated);
    tcase_add_test(tests, hand_over_from_nobody);
    tcase_add_test(tests, hand_over_fails);
    tcase_add_test(tests, adopt_moves_the_lease);
    tcase_add_test(tests, adopt_comes_too_late);
    tcase_add_test(tests, adopt_wants_the_uid);
    tcase_add_test(tests, adopt_ends_with_the_deadline);
    tcase_add_test(tests, foreign_values_are_left_alone);
    tcase_add_test(tests, the_least_value_of_ours);
    tcase_add_test(tests, adopt_of_another_type);
    tcase_add_test(tests, adopt_and_extend_without_memory);
    tcase_add_test(tests, extend_rewrites_the_deadline_alone);
    tcase_add_test(tests, inspect_says_what_is_there);
    tcase_add_test(tests, break_deletes_whatever_it_is);
    tcase_add_test(tests, break_of_a_lost_connection_is_ended);
    tcase_add_test(tests, queries_end_once);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(make_suite());
}
