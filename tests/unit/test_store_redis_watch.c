// SPDX-License-Identifier: Apache-2.0
//
// The Redis store against a real redis-server: who is told, and when, that a key was freed.
//
// `rig` watches; `other` is another sidecar, whose releases it hears of. Where a test is to see that
// nothing was said, it breaks another watched key afterwards and waits for that: messages keep their
// order.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/clock.h"
#include "tests/tool/private_redis.h"
#include "tests/tool/store_rig.h"

#define CHANNEL_OF                                                                                 \
    "lock:k%u\x1f"                                                                                 \
    "freed"

enum { SENTINEL = 4000 };

static struct private_redis redis;
static struct store_rig rig, other;

static void begin(void)
{
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.up == 1);
}

static void begin_other(void)
{
    store_rig_start(&other);
    STORE_RIG_UNTIL(&other, other.up == 1);
}

static void setup(void)
{
    scratch_open();
    redis = (struct private_redis){.tcp = true};
    private_redis_start(&redis, NULL);
    store_rig_init(&rig, redis.url);
    store_rig_init(&other, redis.tcp_url);
    other.instance = "0123456789abcdef";
}

static void teardown(void)
{
    store_rig_deinit(&rig);
    store_rig_deinit(&other);
    private_redis_deinit(&redis);
    scratch_close();
}

static void watch(uint32_t key)
{
    int before = rig.freed[key];

    store_rig_watch(&rig, key);
    STORE_RIG_UNTIL(&rig, rig.freed[key] == before + 1);
}

static void acquire(struct store_rig *of, uint32_t lease)
{
    memset(&of->results[lease][STORE_ACQUIRE], 0, sizeof of->results[lease][STORE_ACQUIRE]);
    store_rig_acquire(of, lease);
    STORE_RIG_EXPECT(of, lease, STORE_ACQUIRE, STORE_OK);
}

static enum store_outcome release(struct store_rig *of, uint32_t lease)
{
    memset(&of->results[lease][STORE_RELEASE], 0, sizeof of->results[lease][STORE_RELEASE]);
    store_rig_release(of, lease);
    STORE_RIG_UNTIL(of, of->results[lease][STORE_RELEASE].count == 1);
    return of->results[lease][STORE_RELEASE].last.outcome;
}

static long long subscribers(uint32_t key)
{
    return private_redis_reply(&redis, "PUBSUB NUMSUB " CHANNEL_OF, key)->element[1]->integer;
}

// Whatever was published before this has been heard.
static void hear_all(void)
{
    int before = rig.freed[SENTINEL];

    private_redis_run(&redis, "PUBLISH " CHANNEL_OF " %s", SENTINEL, "");
    STORE_RIG_UNTIL(&rig, rig.freed[SENTINEL] == before + 1);
}

static void kill_watches(void)
{
    private_redis_run(&redis, "CLIENT KILL TYPE pubsub");
}

// ---- What is told ----

START_TEST(a_release_is_heard)
{
    begin();
    begin_other();
    acquire(&other, 1);
    watch(1);
    watch(2);
    ck_assert_int_eq(release(&other, 1), STORE_OK);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 2);
    acquire(&rig, 1); // its own is heard as well
    release(&rig, 1);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 3);
    ck_assert_int_eq(rig.freed[2], 1);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

START_TEST(a_break_is_heard)
{
    begin();
    private_redis_run(&redis, "HSET lock:k1 a b");
    watch(1);
    store_rig_query(&rig, STORE_BREAK, 1);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 2);
    STORE_RIG_EXPECT(&rig, 1, STORE_BREAK, STORE_OK);
}
END_TEST

// A hand-over, a renewal, an adoption, a release and a break that find nothing free no key.
START_TEST(nothing_else_is_heard)
{
    begin();
    watch(SENTINEL);
    acquire(&rig, 1);
    watch(1);
    store_rig_hand_over(&rig, 2, 1, 1);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_OK);
    ck_assert(rig.results[2][STORE_ACQUIRE].last.replaced);
    ck_assert_int_eq(release(&rig, 1), STORE_NOT_OWNER);
    acquire(&rig, 3);
    watch(3);
    store_rig_renew(&rig, 3, clock_boottime_ms() + 1000);
    STORE_RIG_EXPECT(&rig, 3, STORE_RENEW, STORE_OK);
    store_rig_query(&rig, STORE_ADOPT, 3);
    STORE_RIG_EXPECT(&rig, 3, STORE_ADOPT, STORE_OK);
    store_rig_query(&rig, STORE_EXTEND, 3);
    STORE_RIG_EXPECT(&rig, 3, STORE_EXTEND, STORE_OK);
    watch(4);
    store_rig_query(&rig, STORE_BREAK, 4);
    STORE_RIG_EXPECT(&rig, 4, STORE_BREAK, STORE_NOT_OWNER);
    hear_all();
    ck_assert_int_eq(rig.freed[1], 1);
    ck_assert_int_eq(rig.freed[3], 1);
    ck_assert_int_eq(rig.freed[4], 1);
}
END_TEST

START_TEST(unwatched_is_not_heard)
{
    begin();
    watch(SENTINEL);
    watch(1);
    ck_assert_int_eq(subscribers(1), 1);
    store_rig_unwatch(&rig, 1);
    private_redis_run(&redis, "PUBLISH " CHANNEL_OF " %s", 1u, "");
    hear_all();
    ck_assert_int_eq(rig.freed[1], 1);
    ck_assert_int_eq(subscribers(1), 0);
    // Away and back in one turn, and the reverse: the last word counts.
    for (int i = 0; i < 5; i++) {
        store_rig_watch(&rig, 1);
        store_rig_unwatch(&rig, 1);
    }
    hear_all();
    ck_assert_int_eq(subscribers(1), 0);
    watch(2);
    for (int i = 0; i < 5; i++) {
        store_rig_unwatch(&rig, 2);
        store_rig_watch(&rig, 2);
    }
    STORE_RIG_UNTIL(&rig, rig.freed[2] == 2);
    hear_all();
    ck_assert_int_eq(subscribers(2), 1);
}
END_TEST

START_TEST(watched_before_it_is_up)
{
    store_rig_start(&rig);
    for (uint32_t key = 0; key < 5; key++)
        store_rig_watch(&rig, key);
    store_rig_unwatch(&rig, 0); // the first, the last, one between
    store_rig_unwatch(&rig, 4);
    store_rig_unwatch(&rig, 2);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 1 && rig.freed[3] == 1);
    ck_assert_int_eq(rig.all_freed, 2);
}
END_TEST

// What somebody else publishes there is taken for what it says, whatever it holds.
START_TEST(strange_messages)
{
    static char big[100000];

    begin();
    watch(1);
    memset(big, 'x', sizeof big);
    private_redis_run(&redis, "PUBLISH " CHANNEL_OF " %b", 1u, "\0\r\n", (size_t)3);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 2);
    private_redis_run(&redis, "PUBLISH " CHANNEL_OF " %b", 1u, big, sizeof big);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 3); // by the new connection
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// ---- Connections ----

START_TEST(watches_outlive_their_connection)
{
    begin();
    watch(1);
    for (int i = 2; i < 8; i++) {
        kill_watches();
        STORE_RIG_UNTIL(&rig, rig.freed[1] == i);
    }
    private_redis_run(&redis, "PUBLISH " CHANNEL_OF " %s", 1u, "");
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 8);
    ck_assert_int_eq(rig.down, 0);
    ck_assert_int_eq(rig.up, 1);
}
END_TEST

START_TEST(watches_outlive_redis)
{
    begin();
    watch(1);
    private_redis_kill(&redis);
    STORE_RIG_UNTIL(&rig, rig.down >= 1);
    store_rig_watch(&rig, 2);
    store_rig_watch(&rig, 3);
    store_rig_unwatch(&rig, 3);
    private_redis_restart(&redis);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 2 && rig.freed[2] == 1);
    ck_assert_int_eq(rig.freed[3], 0);
    ck_assert_int_eq(subscribers(1), 1);
    ck_assert_int_eq(subscribers(2), 1);
}
END_TEST

START_TEST(a_thousand_keys)
{
    begin();
    for (uint32_t key = 0; key < 1000; key++)
        store_rig_watch(&rig, key);
    STORE_RIG_UNTIL(&rig, rig.all_freed == 1000);
    kill_watches();
    STORE_RIG_UNTIL(&rig, rig.all_freed == 2000);
    for (uint32_t key = 0; key < 1000; key++) {
        ck_assert_int_eq(rig.freed[key], 2);
        private_redis_run(&redis, "PUBLISH " CHANNEL_OF " %s", key, "");
    }
    STORE_RIG_UNTIL(&rig, rig.all_freed == 3000);
    for (uint32_t key = 0; key < 1000; key += 2)
        store_rig_unwatch(&rig, key);
    watch(SENTINEL);
    ck_assert_uint_eq(private_redis_reply(&redis, "PUBSUB CHANNELS")->elements, 501);
    kill_watches();
    STORE_RIG_UNTIL(&rig, rig.all_freed == 3001 + 501);
    for (uint32_t key = 0; key < 1000; key++)
        ck_assert_int_eq(rig.freed[key], key % 2 ? 4 : 3);
}
END_TEST

// Forbidden by an ACL: said once and left alone; locks work, and so do releases, which publish.
START_TEST(subscribing_is_refused)
{
    long long connections;

    private_redis_run(&redis, "ACL SETUSER default resetchannels");
    begin();
    store_rig_watch(&rig, 1);
    STORE_RIG_UNTIL(&rig,
                    strstr(private_redis_string(&redis, "INFO commandstats"), "cmdstat_subscribe"));
    acquire(&rig, 1);
    ck_assert_int_eq(release(&rig, 1), STORE_OK);
    connections = atoll(strstr(private_redis_string(&redis, "INFO stats"), "received:") + 9);
    for (uint32_t lease = 2; lease < 50; lease++) {
        store_rig_watch(&rig, lease);
        acquire(&rig, lease);
        store_rig_unwatch(&rig, lease);
    }
    ck_assert_int_le(atoll(strstr(private_redis_string(&redis, "INFO stats"), "received:") + 9),
                     connections + 1);
    ck_assert_int_eq(rig.all_freed, 0);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

START_TEST(with_a_password)
{
    char url[200];

    private_redis_run(&redis, "ACL SETUSER me on >secret ~* &lock:* +@all");
    private_redis_run(&redis, "ACL SETUSER default resetchannels");
    snprintf(url, sizeof url, "redis://me:secret@localhost:%d/3", redis.port);
    store_rig_deinit(&rig);
    store_rig_init(&rig, url);
    begin();
    watch(1);
    ck_assert_ptr_nonnull(
        strstr(private_redis_string(&redis, "CLIENT LIST TYPE pubsub"), "name=lock-keeper-watch"));
    acquire(&rig, 1);
    release(&rig, 1);
    STORE_RIG_UNTIL(&rig, rig.freed[1] == 2);
}
END_TEST

// A connection that is half open would never tell: it is asked now and then.
START_TEST(silence_is_questioned)
{
    rig.options.silence_ms = 100;
    begin();
    watch(1);
    STORE_RIG_UNTIL(&rig,
                    strstr(private_redis_string(&redis, "CLIENT LIST TYPE pubsub"), "cmd=ping"));
    ck_assert_int_eq(rig.freed[1], 1);
    ck_assert_int_eq(rig.down, 0);
    // Also when it has no subscription any more, and so is answered otherwise.
    store_rig_unwatch(&rig, 1);
    store_rig_turn(&rig, 20);
    watch(2);
}
END_TEST

// ---- From inside the hook ----

static void watch_other_key(struct store_rig *of, uint32_t key)
{
    store_rig_unwatch(of, key);
    if (key < 100)
        store_rig_watch(of, key + 1);
}

START_TEST(the_hook_may_watch)
{
    begin();
    rig.on_freed = watch_other_key;
    store_rig_watch(&rig, 1);
    STORE_RIG_UNTIL(&rig, rig.freed[100] == 1);
    ck_assert_int_eq(rig.all_freed, 100);
}
END_TEST

static void free_store(struct store_rig *of, uint32_t key)
{
    (void)key;
    of->store = store_redis_free(of->store);
}

START_TEST(the_hook_may_free_the_store)
{
    begin();
    for (uint32_t key = 0; key < 10; key++)
        store_rig_watch(&rig, key);
    rig.on_freed = free_store;
    STORE_RIG_UNTIL(&rig, rig.store == NULL);
    store_rig_turn(&rig, 5);
    ck_assert_int_eq(rig.all_freed, 1);
}
END_TEST

START_TEST(nothing_is_left_open)
{
    int before;

    store_rig_deinit(&rig);
    before = scratch_descriptors(0);
    store_rig_init(&rig, redis.tcp_url);
    begin();
    watch(1);
    ck_assert_int_eq(rig.up, 1);
    store_rig_deinit(&rig);
    ck_assert_int_eq(scratch_descriptors(0), before);
    store_rig_init(&rig, redis.url);
}
END_TEST

// Who watches nothing has one connection.
START_TEST(no_connection_without_a_watch)
{
    begin();
    acquire(&rig, 1);
    ck_assert_int_eq(release(&rig, 1), STORE_OK);
    ck_assert_ptr_null(strstr(private_redis_string(&redis, "CLIENT LIST"), "lock-keeper-watch"));
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("store_redis_watch");
    TCase *tests = tcase_create("store_redis_watch");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_release_is_heard);
    tcase_add_test(tests, a_break_is_heard);
    tcase_add_test(tests, nothing_else_is_heard);
    tcase_add_test(tests, unwatched_is_not_heard);
    tcase_add_test(tests, watched_before_it_is_up);
    tcase_add_test(tests, strange_messages);
    tcase_add_test(tests, watches_outlive_their_connection);
    tcase_add_test(tests, watches_outlive_redis);
    tcase_add_test(tests, a_thousand_keys);
    tcase_add_test(tests, subscribing_is_refused);
    tcase_add_test(tests, with_a_password);
    tcase_add_test(tests, silence_is_questioned);
    tcase_add_test(tests, the_hook_may_watch);
    tcase_add_test(tests, the_hook_may_free_the_store);
    tcase_add_test(tests, nothing_is_left_open);
    tcase_add_test(tests, no_connection_without_a_watch);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(make_suite());
}
