// SPDX-License-Identifier: Apache-2.0
//
// The Redis store against a real redis-server: what its scripts do to keys, what it makes of Redis'
// answers, and how it comes back after a failure.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/clock.h"
#include "sidecar/value.h"
#include "tests/tool/private_redis.h"
#include "tests/tool/store_rig.h"

#define HEAD_OF_1 "00000000000000000000000000000001 feedfacefeedface lk1 "
#define COUNTER "lock-keeper:fence\x1flock:"

static struct private_redis redis;
static struct store_rig rig;

static void setup(void)
{
    scratch_open();
    redis = (struct private_redis){.tcp = true};
    private_redis_start(&redis, NULL);
    store_rig_init(&rig, redis.url);
}

static void teardown(void)
{
    store_rig_deinit(&rig);
    private_redis_deinit(&redis);
    scratch_close();
}

static void start(void)
{
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.up == 1);
}

static const struct store_completion *acquire(uint32_t lease)
{
    memset(&rig.results[lease][STORE_ACQUIRE], 0, sizeof rig.results[lease][STORE_ACQUIRE]);
    store_rig_acquire(&rig, lease);
    STORE_RIG_UNTIL(&rig, store_rig_result(&rig, lease, STORE_ACQUIRE)->count == 1);
    return &store_rig_result(&rig, lease, STORE_ACQUIRE)->last;
}

static const struct store_completion *renew(uint32_t lease)
{
    memset(&rig.results[lease][STORE_RENEW], 0, sizeof rig.results[lease][STORE_RENEW]);
    store_rig_renew(&rig, lease, clock_boottime_ms() + 10000);
    STORE_RIG_UNTIL(&rig, store_rig_result(&rig, lease, STORE_RENEW)->count == 1);
    return &store_rig_result(&rig, lease, STORE_RENEW)->last;
}

static const struct store_completion *release(uint32_t lease)
{
    memset(&rig.results[lease][STORE_RELEASE], 0, sizeof rig.results[lease][STORE_RELEASE]);
    store_rig_release(&rig, lease);
    STORE_RIG_UNTIL(&rig, store_rig_result(&rig, lease, STORE_RELEASE)->count == 1);
    return &store_rig_result(&rig, lease, STORE_RELEASE)->last;
}

// ---- Scripts ----

START_TEST(acquire_sets_the_value)
{
    const struct store_completion *done;
    struct value value;
    int64_t before_ms, us;
    const char *text;

    start();
    before_ms = clock_boottime_ms();
    done = acquire(1);
    ck_assert_int_eq(done->outcome, STORE_OK);
    ck_assert_int_ge(done->sent_at_ms, before_ms);
    ck_assert_int_le(done->sent_at_ms, clock_boottime_ms());
    text = private_redis_string(&redis, "GET lock:k1");
    ck_assert_int_eq(value_parse(text, strlen(text), &value), 0);
    ck_assert_int_eq(strncmp(text, HEAD_OF_1, VALUE_HEAD_LENGTH), 0);
    ck_assert_int_eq(value.fence, done->fence);
    ck_assert_int_eq(value.ttl_ms, 30000);
    ck_assert_int_eq(value.deadline_us - value.since_us, 300000000);
    ck_assert_int_eq(value.pid, 812);
    ck_assert_int_eq(value.uid, 1000);
    ck_assert_mem_eq(value.host, "pod-7", value.host_length);
    ck_assert_mem_eq(value.label, "two words", value.label_length);
    us = value.since_us;
    ck_assert_int_eq(value.fence, us); // the counter was not there
    ck_assert_int_gt(private_redis_int(&redis, "PTTL lock:k1"), 29000);
    ck_assert_int_le(private_redis_int(&redis, "PTTL lock:k1"), 30000);
    // The counter lies outside of the prefix, and is never to expire.
    ck_assert_int_eq(private_redis_int(&redis, "PTTL %s", COUNTER), -1);
    ck_assert_int_eq((int)private_redis_reply(&redis, "KEYS lock:*")->elements, 1);
}
END_TEST

START_TEST(fences_increase)
{
    int64_t last;

    start();
    last = acquire(1)->fence;
    ck_assert_int_gt(last, 1000000000000000);
    ck_assert_int_eq(acquire(2)->fence, last + 1);
    // A held key costs no fence and no write.
    store_rig_acquire_key(&rig, 3, 1);
    STORE_RIG_EXPECT(&rig, 3, STORE_ACQUIRE, STORE_HELD);
    ck_assert_int_eq(acquire(4)->fence, last + 2);
    // The counter lost: time takes its place, and the highest that was seen is the floor.
    private_redis_run(&redis, "DEL %s", COUNTER);
    ck_assert_int_gt(acquire(5)->fence, last + 2);
    private_redis_run(&redis, "DEL %s", COUNTER);
    rig.fence_floor = last + INT64_C(100000000000000);
    ck_assert_int_eq(acquire(6)->fence, rig.fence_floor + 1);
    rig.fence_floor = 0;
    ck_assert_int_eq(acquire(7)->fence, last + INT64_C(100000000000002));
    private_redis_run(&redis, "SET %s 9007199254740991", COUNTER);
    ck_assert_int_eq(acquire(8)->outcome, STORE_REFUSED);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k8"), 0);
    private_redis_run(&redis, "SET %s garbage", COUNTER);
    ck_assert_int_eq(acquire(9)->outcome, STORE_REFUSED);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k9"), 0);
}
END_TEST

START_TEST(acquire_is_idempotent_by_token)
{
    int64_t fence;

    start();
    fence = acquire(1)->fence;
    private_redis_run(&redis, "PEXPIRE lock:k1 5000");
    acquire(2);
    ck_assert_int_eq(acquire(1)->outcome, STORE_OK);
    ck_assert_int_eq(store_rig_result(&rig, 1, STORE_ACQUIRE)->last.fence, fence);
    ck_assert_int_gt(private_redis_int(&redis, "PTTL lock:k1"), 29000);
}
END_TEST

START_TEST(held_by_our_kind)
{
    const struct store_rig_result *result = store_rig_result(&rig, 2, STORE_ACQUIRE);
    struct value value;

    start();
    acquire(1);
    store_rig_acquire_key(&rig, 2, 1);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_HELD);
    ck_assert_int_eq(value_parse(result->value, result->last.value_length, &value), 0);
    ck_assert_int_eq(value.pid, 812);
    ck_assert_int_gt(result->last.pttl_ms, 29000);
    ck_assert_int_le(result->last.pttl_ms, 30000);
    ck_assert_ptr_null(result->last.type);
}
END_TEST

START_TEST(held_by_others)
{
    const struct store_completion *done;
    char text[2000];

    start();
    private_redis_run(&redis, "SET lock:k1 somebody");
    done = acquire(1);
    ck_assert_int_eq(done->outcome, STORE_HELD);
    ck_assert_str_eq(done->value, "somebody");
    ck_assert_uint_eq(done->value_length, 8);
    ck_assert_int_eq(done->pttl_ms, -1);

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    private_redis_run(&redis, "SET lock:k2 %s PX 7000", text);
    done = acquire(2);
    ck_assert_int_eq(done->outcome, STORE_HELD);
    ck_assert_ptr_null(done->value);
    ck_assert_uint_eq(done->value_length, sizeof text - 1);
    ck_assert_int_gt(done->pttl_ms, 6000);

    private_redis_run(&redis, "HSET lock:k3 a b");
    done = acquire(3);
    ck_assert_int_eq(done->outcome, STORE_HELD);
    ck_assert_str_eq(done->type, "hash");
    ck_assert_ptr_null(done->value);

    // An empty string is a value too.
    private_redis_run(&redis, "SET lock:k4 %s", "");
    ck_assert_int_eq(acquire(4)->outcome, STORE_HELD);
    ck_assert_uint_eq(store_rig_result(&rig, 4, STORE_ACQUIRE)->last.value_length, 0);
    ck_assert_str_eq(store_rig_result(&rig, 4, STORE_ACQUIRE)->last.value, "");
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS %s", COUNTER), 0);
}
END_TEST

START_TEST(release_compares)
{
    start();
    acquire(1);
    ck_assert_int_eq(release(1)->outcome, STORE_OK);
    ck_assert(store_rig_result(&rig, 1, STORE_RELEASE)->last.certain);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k1"), 0);
    ck_assert_int_eq(release(1)->outcome, STORE_NOT_OWNER);
    ck_assert(store_rig_result(&rig, 1, STORE_RELEASE)->last.certain);
    private_redis_run(&redis, "SET lock:k2 somebody");
    ck_assert_int_eq(release(2)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k2"), 1);
    private_redis_run(&redis, "HSET lock:k3 a b");
    ck_assert_int_eq(release(3)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k3"), 1);
    // The same lease of another instance is not ours.
    private_redis_run(&redis, "SET lock:k4 %s",
                      "00000000000000000000000000000004 0000000000000000 lk1 1 1 1 1 1 1 h");
    ck_assert_int_eq(release(4)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(renew(4)->outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(private_redis_int(&redis, "PTTL lock:k4"), -1);
}
END_TEST

// 250 in three batches: each key has its own answer, whatever is wrong with others.
START_TEST(renewals_answer_by_key)
{
    start();
    for (uint32_t lease = 0; lease < 250; lease++)
        store_rig_acquire(&rig, lease);
    STORE_RIG_UNTIL(&rig, rig.completions == 250);
    private_redis_run(&redis, "DEL lock:k10 lock:k11 lock:k12");
    private_redis_run(&redis, "HSET lock:k11 a b");
    private_redis_run(&redis, "SET lock:k12 somebody PX 9000");
    for (uint32_t lease = 0; lease < 250; lease++) {
        if (lease < 10 || lease > 12)
            private_redis_run(&redis, "PEXPIRE lock:k%d 9000", (int)lease);
    }
    rig.unwanted[13] = true;
    for (uint32_t lease = 0; lease < 250; lease++)
        store_rig_renew(&rig, lease, 1000 + lease);
    STORE_RIG_UNTIL(&rig, rig.completions == 500);
    for (uint32_t lease = 0; lease < 250; lease++) {
        int64_t pttl_ms = private_redis_int(&redis, "PTTL lock:k%d", (int)lease);
        bool lost = lease >= 10 && lease <= 12;

        STORE_RIG_EXPECT(&rig, lease, STORE_RENEW,
                         lease == 13 ? STORE_UNSENT
                         : lost      ? STORE_NOT_OWNER
                                     : STORE_OK);
        if (!lost && lease != 13)
            ck_assert_int_gt(pttl_ms, 20000);
    }
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k10"), 0);
    ck_assert_int_le(private_redis_int(&redis, "PTTL lock:k12"), 9000);
    ck_assert_int_le(private_redis_int(&redis, "PTTL lock:k13"), 9000);
    ck_assert_int_eq(private_redis_int(&redis, "PTTL lock:k11"), -1);
}
END_TEST

// To the millisecond: of whole seconds the first would be none, and PEXPIRE 0 deletes.
START_TEST(renewals_of_short_ttls)
{
    static const int64_t ttls_ms[] = {999, 2999};

    start();
    for (uint32_t lease = 0; lease < 2; lease++) {
        rig.ttl_ms = ttls_ms[lease];
        ck_assert_int_eq(acquire(lease)->outcome, STORE_OK);
        ck_assert_int_eq(renew(lease)->outcome, STORE_OK);
        ck_assert_int_gt(private_redis_int(&redis, "PTTL lock:k%d", (int)lease),
                         ttls_ms[lease] - 999);
        ck_assert_int_le(private_redis_int(&redis, "PTTL lock:k%d", (int)lease), ttls_ms[lease]);
    }
}
END_TEST

START_TEST(script_flush_costs_nothing)
{
    start();
    ck_assert_int_eq(acquire(1)->outcome, STORE_OK);
    private_redis_run(&redis, "SCRIPT FLUSH");
    ck_assert_int_eq(renew(1)->outcome, STORE_OK);
    private_redis_run(&redis, "SCRIPT FLUSH");
    for (uint32_t lease = 2; lease < 102; lease++)
        store_rig_acquire(&rig, lease);
    for (uint32_t lease = 2; lease < 102; lease++)
        STORE_RIG_EXPECT(&rig, lease, STORE_ACQUIRE, STORE_OK);
    private_redis_run(&redis, "SCRIPT FLUSH");
    ck_assert_int_eq(release(1)->outcome, STORE_OK);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// ---- Errors ----

START_TEST(out_of_memory_refuses_acquires_alone)
{
    start();
    acquire(1);
    private_redis_run(&redis, "CONFIG SET maxmemory 1");
    ck_assert_int_eq(acquire(2)->outcome, STORE_REFUSED);
    ck_assert_ptr_nonnull(strstr(store_rig_result(&rig, 2, STORE_ACQUIRE)->last.error, "OOM"));
    ck_assert_int_eq(renew(1)->outcome, STORE_OK);
    store_rig_acquire_key(&rig, 3, 1);
    STORE_RIG_EXPECT(&rig, 3, STORE_ACQUIRE, STORE_HELD);
    ck_assert_int_eq(release(1)->outcome, STORE_OK);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

START_TEST(read_only_is_left_with_a_pause)
{
    int64_t deadline;
    int downs;

    start();
    acquire(1);
    private_redis_run(&redis, "REPLICAOF 127.0.0.1 1");
    ck_assert_int_eq(renew(1)->outcome, STORE_UNAVAILABLE);
    STORE_RIG_UNTIL(&rig, rig.down >= 1);
    ck_assert_ptr_nonnull(strstr(rig.error, "READONLY"));
    // Each renewal ends a connection, at most one for each pause.
    downs = rig.down;
    deadline = scratch_deadline(300);
    while (scratch_left(deadline) > 0) {
        if (store_rig_result(&rig, 1, STORE_RENEW)->count > 0) {
            memset(&rig.results[1][STORE_RENEW], 0, sizeof rig.results[1][STORE_RENEW]);
            store_rig_renew(&rig, 1, 1);
        }
        store_rig_turn(&rig, 5);
    }
    ck_assert_int_gt(rig.down, downs);
    ck_assert_int_lt(rig.down - downs, 60);
    private_redis_run(&redis, "REPLICAOF NO ONE");
    STORE_RIG_UNTIL(&rig, store_rig_result(&rig, 1, STORE_RENEW)->count > 0);
    STORE_RIG_UNTIL(&rig, rig.store->up);
    while (renew(1)->outcome != STORE_OK)
        ck_assert_int_eq(store_rig_result(&rig, 1, STORE_RENEW)->last.outcome, STORE_UNAVAILABLE);
}
END_TEST

START_TEST(wrong_password_then_the_right_one)
{
    const char *file = scratch_path("password");

    private_redis_run(&redis, "CONFIG SET requirepass right");
    scratch_write(file, "wrong-secret\n");
    rig.options.password_file = file;
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.down >= 2);
    ck_assert_ptr_nonnull(strstr(rig.error, "WRONGPASS"));
    ck_assert_ptr_null(strstr(rig.error, "secret"));
    // In the meantime a call ends by its own timeout, with those words.
    rig.timeout_ms = 50;
    ck_assert_int_eq(acquire(1)->outcome, STORE_UNSENT);
    ck_assert_ptr_nonnull(
        strstr(store_rig_result(&rig, 1, STORE_ACQUIRE)->last.error, "WRONGPASS"));
    ck_assert_int_eq(store_rig_result(&rig, 1, STORE_ACQUIRE)->last.sent_at_ms, 0);
    unlink(file);
    STORE_RIG_UNTIL(&rig, strstr(rig.error, "password file"));
    scratch_write(file, "right\r\n");
    STORE_RIG_UNTIL(&rig, rig.up == 1);
    rig.timeout_ms = 2000;
    ck_assert_int_eq(acquire(1)->outcome, STORE_OK);
}
END_TEST

START_TEST(no_password_is_said_by_redis)
{
    private_redis_run(&redis, "CONFIG SET requirepass right");
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.down >= 1);
    ck_assert_ptr_nonnull(strstr(rig.error, "NOAUTH"));
}
END_TEST

START_TEST(user_password_and_database_over_tcp)
{
    char url[200];

    private_redis_run(&redis, "ACL SETUSER me on >s%%c ~* +@all");
    snprintf(url, sizeof url, "redis://me:s%%25c@localhost:%d/3", redis.port);
    store_rig_deinit(&rig);
    store_rig_init(&rig, url);
    start();
    ck_assert_int_eq(acquire(1)->outcome, STORE_OK);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k1"), 0);
    private_redis_run(&redis, "SELECT 3");
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k1"), 1);
    ck_assert_ptr_nonnull(strstr(private_redis_string(&redis, "CLIENT LIST"), "name=lock-keeper"));
}
END_TEST

START_TEST(name_that_does_not_exist)
{
    store_rig_deinit(&rig);
    store_rig_init(&rig, "redis://no-such-host.invalid:6379");
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.down >= 2);
    ck_assert_ptr_nonnull(strstr(rig.error, "cannot resolve no-such-host.invalid"));
}
END_TEST

// What an ACL forbids of the handshake is done without; what it forbids of the locks is refused.
START_TEST(narrow_acl)
{
    private_redis_run(&redis, "ACL SETUSER default -client -info -script|load -ping -del");
    start();
    ck_assert_int_eq(acquire(1)->outcome, STORE_OK);
    ck_assert_int_eq(renew(1)->outcome, STORE_OK);
    ck_assert_int_eq(release(1)->outcome, STORE_REFUSED);
    ck_assert_msg(
        strstr(store_rig_result(&rig, 1, STORE_RELEASE)->last.error, "can't run this command"),
        "%s", store_rig_result(&rig, 1, STORE_RELEASE)->last.error);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// ---- Loss ----

START_TEST(killed_and_back)
{
    start();
    acquire(1);
    private_redis_kill(&redis);
    STORE_RIG_UNTIL(&rig, rig.down >= 1);
    store_rig_renew(&rig, 1, 1);
    store_rig_acquire(&rig, 2);
    private_redis_restart(&redis);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_NOT_OWNER);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_OK);
    ck_assert_int_eq(rig.up, 2);
}
END_TEST

// Stopped: calls time out, the connection is replaced, and the acquire that lies in the old one's
// socket is never executed, since the old client is killed first.
START_TEST(stopped_and_continued)
{
    start();
    acquire(1);
    rig.timeout_ms = 100;
    rig.store->ops->sweep(rig.store, clock_boottime_ms());
    private_redis_stop(&redis);
    store_rig_acquire(&rig, 2);
    store_rig_renew(&rig, 1, 1);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_TIMEOUT);
    ck_assert_int_gt(store_rig_result(&rig, 2, STORE_ACQUIRE)->last.sent_at_ms, 0);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_TIMEOUT);
    STORE_RIG_UNTIL(&rig, rig.down >= 1);
    ck_assert_ptr_nonnull(strstr(rig.error, "did not answer"));
    rig.timeout_ms = 5000;
    store_rig_release(&rig, 2);
    private_redis_continue(&redis);
    STORE_RIG_UNTIL(&rig, store_rig_result(&rig, 2, STORE_RELEASE)->count == 1);
    ck_assert(store_rig_result(&rig, 2, STORE_RELEASE)->last.certain);
    // Whichever came first, SET or KILL: the delete came after both.
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS lock:k2"), 0);
    ck_assert_int_eq(rig.up, 2);
    ck_assert_int_eq(store_rig_result(&rig, 2, STORE_ACQUIRE)->count, 1);
}
END_TEST

START_TEST(paused_is_transient)
{
    start();
    acquire(1);
    private_redis_run(&redis, "CLIENT PAUSE 300");
    rig.timeout_ms = 100;
    store_rig_renew(&rig, 1, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_TIMEOUT);
    STORE_RIG_UNTIL(&rig, store_rig_result(&rig, 1, STORE_RENEW)->late == 1);
    ck_assert_int_eq(store_rig_result(&rig, 1, STORE_RENEW)->last.outcome, STORE_OK);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// ---- Life ----

START_TEST(nothing_is_left_open)
{
    int before;

    store_rig_deinit(&rig);
    before = scratch_descriptors(0);
    store_rig_init(&rig, redis.tcp_url);
    start();
    acquire(1);
    store_rig_deinit(&rig);
    ck_assert_int_eq(scratch_descriptors(0), before);
    store_rig_init(&rig, redis.url);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("store_redis");
    TCase *tests = tcase_create("store_redis");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, acquire_sets_the_value);
    tcase_add_test(tests, fences_increase);
    tcase_add_test(tests, acquire_is_idempotent_by_token);
    tcase_add_test(tests, held_by_our_kind);
    tcase_add_test(tests, held_by_others);
    tcase_add_test(tests, release_compares);
    tcase_add_test(tests, renewals_answer_by_key);
    tcase_add_test(tests, renewals_of_short_ttls);
    tcase_add_test(tests, script_flush_costs_nothing);
    tcase_add_test(tests, out_of_memory_refuses_acquires_alone);
    tcase_add_test(tests, read_only_is_left_with_a_pause);
    tcase_add_test(tests, wrong_password_then_the_right_one);
    tcase_add_test(tests, no_password_is_said_by_redis);
    tcase_add_test(tests, user_password_and_database_over_tcp);
    tcase_add_test(tests, name_that_does_not_exist);
    tcase_add_test(tests, narrow_acl);
    tcase_add_test(tests, killed_and_back);
    tcase_add_test(tests, stopped_and_continued);
    tcase_add_test(tests, paused_is_transient);
    tcase_add_test(tests, nothing_is_left_open);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(make_suite());
}
