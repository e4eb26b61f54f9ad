// SPDX-License-Identifier: Apache-2.0
//
// The Redis store's connection, against a Redis that says what the test tells it to: silence, loss,
// CLIENT KILL and what is certain after it, errors that pass or not, the handshake, back-off.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/clock.h"
#include "tests/tool/fake_redis.h"
#include "tests/tool/store_rig.h"

#define ACQUIRED "*2\r\n:1\r\n:1790000000000000\r\n"

static struct fake_redis fake;
static struct store_rig rig;

static void setup(void)
{
    char url[128];

    scratch_open();
    snprintf(url, sizeof url, "unix://%s", scratch_path("fake.sock"));
    store_rig_init(&rig, url);
    fake_redis_open(&fake, rig.loop);
}

static void teardown(void)
{
    fake_redis_close(&fake);
    store_rig_deinit(&rig);
    scratch_close();
}

static void start(void)
{
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.up == 1);
}

static const struct store_rig_result *result(uint32_t lease, enum store_op op)
{
    return store_rig_result(&rig, lease, op);
}

// ---- Silence, loss and CLIENT KILL ----

// Leaves connection 1 with an acquire unanswered, by silence or by a cut.
static void lose_with_acquire(bool silent)
{
    rig.options.silence_ms = silent ? 60 : 2000;
    start();
    rig.timeout_ms = 500;
    fake_redis_reply(&fake, NULL);
    store_rig_acquire(&rig, 1);
    STORE_RIG_UNTIL(&rig, fake.calls == 1);
    if (!silent)
        fake_redis_cut(&fake);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_LOST);
    ck_assert_int_gt(result(1, STORE_ACQUIRE)->last.sent_at_ms, 0);
    ck_assert_ptr_nonnull(result(1, STORE_ACQUIRE)->last.error);
    ck_assert(!result(1, STORE_ACQUIRE)->last.certain);
}

static void release_after_loss(bool certain)
{
    fake_redis_reply(&fake, ":0\r\n");
    store_rig_release(&rig, 1);
    STORE_RIG_UNTIL(&rig, result(1, STORE_RELEASE)->count == 1);
    ck_assert_int_eq(result(1, STORE_RELEASE)->last.outcome, STORE_NOT_OWNER);
    ck_assert_int_eq(result(1, STORE_RELEASE)->last.certain, certain);
}

START_TEST(silence_replaces_the_connection)
{
    lose_with_acquire(true);
    ck_assert_int_ge(result(1, STORE_ACQUIRE)->now_ms,
                     result(1, STORE_ACQUIRE)->last.sent_at_ms + 60);
    ck_assert_ptr_nonnull(strstr(result(1, STORE_ACQUIRE)->error, "did not answer"));
    release_after_loss(true);
    ck_assert_str_eq(fake_redis_log(&fake),
                     "1:EVALSHA acquire lock:k1;2:CLIENT KILL ID 1;2:EVALSHA release lock:k1;");
}
END_TEST

START_TEST(idle_is_not_silence)
{
    int64_t begin_ms;

    rig.options.silence_ms = 300;
    start();
    fake_redis_reply(&fake, ACQUIRED);
    store_rig_acquire(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_OK);
    begin_ms = clock_boottime_ms();
    while (clock_boottime_ms() < begin_ms + 1000)
        store_rig_turn(&rig, 10);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// Bytes keep coming, but the oldest reply does not: five silences are the end.
START_TEST(dribble_without_end_is_silence)
{
    int64_t begin_ms;

    rig.options.silence_ms = 400;
    start();
    rig.timeout_ms = 10000;
    fake_redis_reply(&fake, NULL);
    begin_ms = clock_boottime_ms();
    store_rig_acquire(&rig, 1);
    STORE_RIG_UNTIL(&rig, fake.calls == 1);
    fake_redis_send(&fake, "+");
    while (rig.down == 0) {
        // Slowly, or the bound on unparsed bytes would end it first.
        scratch_pause_ms(2);
        fake_redis_send(&fake, "x");
        store_rig_turn(&rig, 5);
        ck_assert_int_lt(clock_boottime_ms(), begin_ms + 7 * 400);
    }
    ck_assert_int_ge(clock_boottime_ms(), begin_ms + 4 * 400);
    ck_assert_ptr_nonnull(strstr(result(1, STORE_ACQUIRE)->error, "did not answer"));
}
END_TEST

// This process stood still while Redis answered: the reply is in the socket, and is believed.
START_TEST(standing_still_is_not_silence)
{
    rig.options.silence_ms = 200;
    start();
    rig.timeout_ms = 10000;
    fake_redis_reply(&fake, NULL);
    store_rig_acquire(&rig, 1);
    STORE_RIG_UNTIL(&rig, fake.calls == 1);
    fake_redis_send(&fake, ACQUIRED);
    scratch_pause_ms(5 * 200);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_OK);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

static void drop_connections(struct store_rig *at, const struct store_completion *completion)
{
    (void)at;
    fake.drops = completion->outcome == STORE_LOST;
}

// Longer than what the acquire could live if it were executed at the loss: its bytes are still there.
START_TEST(kill_after_a_long_outage)
{
    int64_t lost_ms;

    rig.ttl_ms = 50;
    rig.on_completed = drop_connections;
    lose_with_acquire(false);
    lost_ms = result(1, STORE_ACQUIRE)->now_ms;
    while (clock_boottime_ms() < lost_ms + 50 + 500 + 100)
        store_rig_turn(&rig, 20);
    ck_assert_int_eq(rig.up, 1);
    fake.drops = false;
    release_after_loss(true);
    ck_assert(fake_redis_said(&fake, "CLIENT KILL ID 1;"));
}
END_TEST

START_TEST(kill_of_a_client_that_had_gone)
{
    fake.kill_reply = ":0\r\n";
    lose_with_acquire(false);
    release_after_loss(true);
    ck_assert(fake_redis_said(&fake, "2:CLIENT KILL ID 1;2:EVALSHA release"));
}
END_TEST

START_TEST(no_kill_after_a_restart)
{
    lose_with_acquire(false);
    fake.run_id = "another-process-with-ids-of-its-own";
    release_after_loss(true);
    ck_assert(!fake_redis_said(&fake, "KILL"));
}
END_TEST

START_TEST(no_kill_where_redis_is_unknown)
{
    lose_with_acquire(false);
    fake.run_id = NULL;
    release_after_loss(false);
    ck_assert(!fake_redis_said(&fake, "KILL"));
}
END_TEST

START_TEST(no_kill_without_acquires)
{
    start();
    fake_redis_reply(&fake, NULL);
    store_rig_release(&rig, 1);
    STORE_RIG_UNTIL(&rig, fake.calls == 1);
    fake_redis_cut(&fake);
    STORE_RIG_EXPECT(&rig, 1, STORE_RELEASE, STORE_LOST);
    STORE_RIG_UNTIL(&rig, rig.up == 2);
    ck_assert(!fake_redis_said(&fake, "KILL"));
}
END_TEST

// Refused: uncertain until nothing of the lost acquire can live (TTL and timeout after the loss).
START_TEST(refused_kill_is_waited_for)
{
    int64_t lost_ms;

    fake.kill_reply = "-NOPERM no\r\n";
    rig.ttl_ms = 100;
    lose_with_acquire(false);
    lost_ms = result(1, STORE_ACQUIRE)->now_ms;
    release_after_loss(false);
    while (clock_boottime_ms() < lost_ms + 100 + 500)
        store_rig_turn(&rig, 20);
    fake_redis_reply(&fake, ":0\r\n");
    store_rig_release(&rig, 2);
    STORE_RIG_EXPECT(&rig, 2, STORE_RELEASE, STORE_NOT_OWNER);
    ck_assert(result(2, STORE_RELEASE)->last.certain);
}
END_TEST

// A timed-out acquire, unanswered, counts as well; and each lost connection is killed.
START_TEST(several_losses)
{
    lose_with_acquire(false);
    STORE_RIG_UNTIL(&rig, rig.up == 2);
    fake.kill_reply = "";
    rig.timeout_ms = 30;
    fake_redis_reply(&fake, NULL);
    store_rig_acquire(&rig, 2);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_TIMEOUT);
    fake_redis_cut(&fake);
    fake.kill_reply = ":1\r\n";
    STORE_RIG_UNTIL(&rig, rig.up == 3);
    rig.timeout_ms = 2000;
    fake_redis_clear_log(&fake);
    release_after_loss(true);
    fake_redis_cut(&fake);
    STORE_RIG_UNTIL(&rig, rig.up == 4);
    store_rig_turn(&rig, 5);
    ck_assert(!fake_redis_said(&fake, "4:CLIENT KILL"));
}
END_TEST

// ---- Errors ----

static const struct {
    const char *reply;
    enum store_outcome outcome;
    bool retires;
} errors[] = {
    {"-LOADING Redis is loading\r\n", STORE_UNAVAILABLE, true},
    {"-READONLY You can't write\r\n", STORE_UNAVAILABLE, true},
    {"-MASTERDOWN Link with MASTER is down\r\n", STORE_UNAVAILABLE, true},
    {"-NOAUTH Authentication required.\r\n", STORE_UNAVAILABLE, true},
    {"-BUSY Redis is busy\r\n", STORE_UNAVAILABLE, false},
    {"-CLUSTERDOWN The cluster is down\r\n", STORE_UNAVAILABLE, false},
    {"-TRYAGAIN later\r\n", STORE_UNAVAILABLE, false},
    {"-WRONGPASS no\r\n", STORE_UNAVAILABLE, false},
    {"-OOM command not allowed\r\n", STORE_REFUSED, false},
    {"-MISCONF Errors writing\r\n", STORE_REFUSED, false},
    {"-NOREPLICAS Not enough\r\n", STORE_REFUSED, false},
    {"-NOPERM no\r\n", STORE_REFUSED, false},
    {"-ERR anything\r\n", STORE_REFUSED, false},
    {"-BUSYKEY not BUSY\r\n", STORE_REFUSED, false},
};

START_TEST(error_classes)
{
    char words[100];

    snprintf(words, sizeof words, "%.*s", (int)strlen(errors[_i].reply) - 3, errors[_i].reply + 1);
    start();
    for (int i = 0; i < 3; i++)
        fake_redis_reply(&fake, errors[_i].reply);
    store_rig_acquire(&rig, 1);
    store_rig_release(&rig, 1);
    store_rig_renew(&rig, 1, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, errors[_i].outcome);
    ck_assert_str_eq(result(1, STORE_ACQUIRE)->last.error, words);
    STORE_RIG_EXPECT(&rig, 1, STORE_RELEASE, errors[_i].outcome);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_UNAVAILABLE);
    if (errors[_i].retires)
        STORE_RIG_UNTIL(&rig, rig.up == 2);
    else
        store_rig_turn(&rig, 5);
    ck_assert_int_eq(rig.down, errors[_i].retires);
}
END_TEST

static const char *const handshake_errors[][2] = {
    {"-LOADING Redis is loading\r\n", "LOADING Redis is loading"},
    {"-MASTERDOWN no\r\n", "MASTERDOWN no"},
    {"-BUSY no\r\n", "BUSY no"},
    {"-NOAUTH no\r\n", "NOAUTH no"},
};

START_TEST(handshake_is_refused)
{
    fake.ping_reply = handshake_errors[_i][0];
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.down == 3);
    ck_assert_str_eq(rig.error, handshake_errors[_i][1]);
    ck_assert_int_eq(rig.up, 0);
    fake.ping_reply = "-NOPERM no\r\n";
    STORE_RIG_UNTIL(&rig, rig.up == 1);
}
END_TEST

// A Redis that does not know AUTH quotes its arguments: the password is not passed on.
START_TEST(password_is_not_quoted)
{
    char url[160];

    fake_redis_close(&fake);
    store_rig_deinit(&rig);
    snprintf(url, sizeof url, "unix://%s", scratch_path("fake.sock"));
    store_rig_init(&rig, url);
    fake_redis_open(&fake, rig.loop);
    rig.options.password_file = scratch_path("password");
    scratch_write(rig.options.password_file, "hunter2\n");
    fake.auth_reply = "-ERR unknown command 'AUTH', with args beginning with: 'hunter2' \r\n";
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.down == 1);
    ck_assert_str_eq(rig.error, "ERR unknown command 'AUTH'");
}
END_TEST

START_TEST(handshake_in_silence)
{
    int64_t begin_ms = clock_boottime_ms();

    rig.options.silence_ms = 60;
    fake.greets = false;
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.down == 1);
    ck_assert_int_ge(clock_boottime_ms(), begin_ms + 60);
    fake.greets = true;
    STORE_RIG_UNTIL(&rig, rig.up == 1);
}
END_TEST

// A server that accepts and drops is not called on without pause.
START_TEST(back_off)
{
    int64_t begin_ms = clock_boottime_ms();

    fake.drops = true;
    rig.options.backoff_min_ms = 20;
    rig.options.backoff_max_ms = 80;
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, fake.accepted == 6);
    // Pauses of at least half of 20, 40, 80, 80, 80.
    ck_assert_int_ge(clock_boottime_ms() - begin_ms, 10 + 20 + 40 + 40 + 40);
    fake.drops = false;
    STORE_RIG_UNTIL(&rig, rig.up == 1);
}
END_TEST

START_TEST(nobody_listens)
{
    fake_redis_close(&fake);
    store_rig_deinit(&rig);
    store_rig_init(&rig, "unix:///nonexistent/redis.sock");
    store_rig_start(&rig);
    rig.timeout_ms = 40;
    store_rig_acquire(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_UNSENT);
    ck_assert_ptr_nonnull(strstr(result(1, STORE_ACQUIRE)->last.error, "No such file"));
    fake_redis_open(&fake, rig.loop); // for the teardown
}
END_TEST

#define COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))

static Suite *make_suite(void)
{
    Suite *suite = suite_create("store_redis_loss");
    TCase *tests = tcase_create("store_redis_loss");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, silence_replaces_the_connection);
    tcase_add_test(tests, idle_is_not_silence);
    tcase_add_test(tests, dribble_without_end_is_silence);
    tcase_add_test(tests, standing_still_is_not_silence);
    tcase_add_test(tests, kill_of_a_client_that_had_gone);
    tcase_add_test(tests, no_kill_after_a_restart);
    tcase_add_test(tests, no_kill_where_redis_is_unknown);
    tcase_add_test(tests, no_kill_without_acquires);
    tcase_add_test(tests, refused_kill_is_waited_for);
    tcase_add_test(tests, several_losses);
    tcase_add_test(tests, kill_after_a_long_outage);
    tcase_add_loop_test(tests, error_classes, 0, COUNT(errors));
    tcase_add_loop_test(tests, handshake_is_refused, 0, COUNT(handshake_errors));
    tcase_add_test(tests, password_is_not_quoted);
    tcase_add_test(tests, handshake_in_silence);
    tcase_add_test(tests, back_off);
    tcase_add_test(tests, nobody_listens);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(make_suite());
}
