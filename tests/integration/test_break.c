// SPDX-License-Identifier: Apache-2.0
//
// Who holds what (inspect, list, holder), and what an operator or a holder may change about it: break
// and extend.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/pair.h"

static void inspect(struct line_client *client, const char *key)
{
    line_client_send(client, "{'op':'inspect','key':'%s'}", key);
    line_client_expect(client, "{'ok':true,'op':'inspect','key':'%s'}", key);
}

// Neither the token nor any part of it that would help is in the newest line.
static void expect_no_token(const struct line_client *client, const char *token)
{
    char part[9];

    snprintf(part, sizeof part, "%.8s", token);
    ck_assert_msg(strstr(client->line, part) == NULL, "a token is shown: %s", client->line);
}

// ---- inspect and list ----

START_TEST(says_who_holds_a_key)
{
    struct line_client holder, other;
    struct line_lease lease;

    pair_start("30s");
    holder = pair_connect(&sidecar);
    other = pair_connect(&second);
    inspect(&other, "whose");
    ck_assert(json_is_false(line_client_member(&other, "held")));
    ck_assert_ptr_null(line_client_member(&other, "holder"));
    line_client_acquire(&holder, &lease, "whose", ",'label':'resume it','deadline_ms':60000");
    for (int here = 0; here < 2; here++) {
        struct line_client *client = here ? &holder : &other;

        line_client_send(client, "{'op':'inspect','key':'whose'}");
        line_client_expect(client,
                           "{'ok':true,'op':'inspect','held':true,'here':%s,"
                           "'holder':{'host':'<string>','pid':%d,'uid':%d,'label':'resume it',"
                           "'fence':%lld},'ttl_left_ms':'<int>','deadline_in_ms':'<int>',"
                           "'since_ms':'<int>'}",
                           here ? "true" : "false", (int)getpid(), (int)getuid(),
                           (long long)lease.fence);
        ck_assert_int_le(line_client_int(client, "ttl_left_ms"), 30000);
        ck_assert_int_gt(line_client_int(client, "ttl_left_ms"), 15000);
        ck_assert_int_le(line_client_int(client, "deadline_in_ms"), 60000);
        ck_assert_int_gt(line_client_int(client, "deadline_in_ms"), 50000);
        ck_assert_int_lt(line_client_int(client, "since_ms"), 10000);
        expect_no_token(client, lease.lease);
        line_client_send(client, "{'op':'acquire','key':'whose'}");
        line_client_expect(client,
                           "{'ok':false,'error':'errLockHeld','retry_after_ms':'<int>',"
                           "'holder':{'pid':%d,'label':'resume it','fence':%lld}}",
                           (int)getpid(), (long long)lease.fence);
        expect_no_token(client, lease.lease);
    }
    line_client_close(&other);
    line_client_close(&holder);
}
END_TEST

START_TEST(lists_holder_and_waiters)
{
    struct line_client holder, waiter;
    struct line_lease lease, elsewhere;

    pair_start("30s");
    holder = pair_connect(&sidecar);
    waiter = pair_connect(&second);
    line_client_acquire(&waiter, &elsewhere, "elsewhere", "");
    line_client_acquire(&holder, &lease, "listed", ",'label':'holds'");
    line_client_send(&holder, "{'id':1,'op':'acquire','key':'listed','wait_ms':-1,'label':'w1'}");
    line_client_send(&holder, "{'id':2,'op':'acquire','key':'elsewhere','wait_ms':-1}");
    line_client_send(&holder, "{'id':3,'op':'list'}");
    line_client_expect(&holder, "{'ok':true,'id':3,'op':'list'}");
    ck_assert_uint_eq(json_array_size(line_client_member(&holder, "leases")), 3);
    for (int i = 0; i < 3; i++) {
        char path[32];
        const char *state, *key;

        snprintf(path, sizeof path, "leases.%d.state", i);
        state = line_client_string(&holder, path);
        snprintf(path, sizeof path, "leases.%d.key", i);
        key = line_client_string(&holder, path);
        snprintf(path, sizeof path, "leases.%d.fence", i);
        if (strcmp(state, "held") == 0) {
            ck_assert_str_eq(key, "listed");
            ck_assert_int_eq(line_client_int(&holder, path), lease.fence);
            continue;
        }
        ck_assert_str_eq(state, "waiting");
        ck_assert_ptr_null(line_client_member(&holder, path));
        snprintf(path, sizeof path, "leases.%d.waited_ms", i);
        ck_assert_int_ge(line_client_int(&holder, path), 0);
        snprintf(path, sizeof path, "leases.%d.holder.pid", i); // the waiter itself
        ck_assert_int_eq(line_client_int(&holder, path), getpid());
    }
    expect_no_token(&holder, lease.lease);
    expect_no_token(&holder, elsewhere.lease);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

// ---- What is not ours ----

static const struct {
    const char *command[6];
    const char *holder; // what is shown
    const char *secret;
} foreign[] = {
    {{"SET", "lock:its", "5f1c9b0e2d3a4c5b6a7988776655aabb", "PX", "60000"}, // redis-py's
     "{\"foreign\":true,\"bytes\":32}",
     "5f1c"},
    {{"SET", "lock:its", "5f1c9b0e2d3a4c5b6a7988776655aabb 0123456789abcdef lk1 what", "PX",
      "60000"},
     "{\"foreign\":true,\"bytes\":58}",
     "5f1c"},
    {{"SET", "lock:its", "xyzzy-capability"}, "{\"foreign\":true,\"bytes\":16}", "xyzzy"},
    {{"SETRANGE", "lock:its", "4999", "x"}, "{\"foreign\":true,\"bytes\":5000}", "x000"},
    {{"HSET", "lock:its", "owner", "xyzzy"}, "{\"foreign\":true,\"type\":\"hash\"}", "xyzzy"},
    {{"RPUSH", "lock:its", "xyzzy"}, "{\"foreign\":true,\"type\":\"list\"}", "xyzzy"},
};

static void set_foreign(int which)
{
    const char *argv[6];
    int argc = 0;
    redisReply *reply;

    while (argc < 6 && foreign[which].command[argc]) {
        argv[argc] = foreign[which].command[argc];
        argc++;
    }
    private_redis_run(&redis, "PING");
    reply = redisCommandArgv(redis.connection, argc, argv, NULL);
    ck_assert(reply && reply->type != REDIS_REPLY_ERROR);
    freeReplyObject(reply);
}

static void expect_shown(const struct line_client *client, int which)
{
    json_t *expected = json_loads(foreign[which].holder, 0, NULL);

    ck_assert_msg(json_equal(line_client_member(client, "holder"), expected), "%s", client->line);
    ck_assert_msg(strstr(client->line, foreign[which].secret) == NULL, "%s", client->line);
    json_decref(expected);
}

START_TEST(a_foreign_value_is_never_shown)
{
    struct line_client client;
    redisReply *before;
    long long left_ms;

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    set_foreign(_i);
    left_ms = bench_pttl("its");
    before = redisCommand(redis.connection, "DUMP lock:its");
    inspect(&client, "its");
    ck_assert(json_is_true(line_client_member(&client, "held")));
    ck_assert(json_is_false(line_client_member(&client, "here")));
    ck_assert_ptr_null(line_client_member(&client, "since_ms"));
    ck_assert_int_eq(json_is_null(line_client_member(&client, "ttl_left_ms")), left_ms < 0);
    expect_shown(&client, _i);
    line_client_send(&client, "{'op':'acquire','key':'its'}");
    line_client_expect(&client, "{'ok':false,'op':'acquire','error':'errLockHeld'}");
    expect_shown(&client, _i);
    line_client_send(&client, "{'op':'acquire','key':'its','wait_ms':100}");
    line_client_expect(&client, "{'ok':false,'op':'acquire','error':'errLockHeld'}");
    expect_shown(&client, _i);
    ck_assert_str_eq(private_redis_string(&redis, "DUMP lock:its"), before->str); // untouched
    ck_assert(left_ms < 0 ? bench_pttl("its") == -1 : bench_pttl("its") > left_ms - 10000);
    // But by an operator.
    line_client_send(&client, "{'op':'break','key':'its'}");
    line_client_expect(&client, "{'ok':true,'op':'break','key':'its','broken':true}");
    ck_assert(!bench_exists("its"));
    freeReplyObject(before);
    line_client_close(&client);
}
END_TEST

// ---- break ----

START_TEST(the_holder_is_told_before_the_key_goes)
{
    enum { GRACE = 400 };
    struct line_client holder, operator;
    struct line_lease lease;
    int64_t told_ms, gone_ms;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    operator= pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "broken", "");
    line_client_send(&operator, "{'op':'break','key':'broken','grace_ms':%d}", GRACE);
    line_client_expect(&holder,
                       "{'event':'revoked','error':'errLostActorLock','reason':'broken',"
                       "'lease':'%s','key':'broken','safe_ms':'<int>','valid_until_ms':'<int>'}",
                       lease.lease);
    told_ms = holder.received_ms;
    ck_assert_int_le(line_client_int(&holder, "safe_ms"), GRACE);
    ck_assert_int_gt(line_client_int(&holder, "safe_ms"), GRACE - BENCH_NOISE_MS);
    gone_ms = bench_await_gone("broken", 2000);
    ck_assert_int_ge(gone_ms, line_client_int(&holder, "valid_until_ms"));
    ck_assert_int_ge(gone_ms, told_ms + line_client_int(&holder, "safe_ms") - BENCH_NOISE_MS);
    ck_assert_int_le(gone_ms, told_ms + GRACE + BENCH_NOISE_MS);
    line_client_expect(&operator, "{'ok':true,'op':'break','key':'broken','broken':true}");
    ck_assert_int_ge(operator.received_ms, line_client_int(&holder, "valid_until_ms"));
    line_client_send(&operator, "{'op':'break','key':'broken'}");
    line_client_expect(&operator, "{'ok':true,'op':'break','key':'broken','broken':false}");
    line_client_close(&operator);
    line_client_close(&holder);
}
END_TEST

// Who says that it has stopped need not use its grace up.
START_TEST(the_holder_stops_within_its_grace)
{
    struct line_client holder, operator;
    struct line_lease lease;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    operator= pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "broken", "");
    line_client_send(&operator, "{'op':'break','key':'broken','grace_ms':20000}");
    line_client_expect(&holder, "{'event':'revoked','reason':'broken'}");
    ck_assert(bench_exists("broken"));
    line_client_send(&holder, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&holder,
                       "{'ok':false,'op':'release','error':'errLostActorLock','freed':true}");
    line_client_expect(&operator, "{'ok':true,'op':'break','key':'broken','broken':true}");
    ck_assert(!bench_exists("broken"));
    line_client_close(&operator);
    line_client_close(&holder);
}
END_TEST

START_TEST(without_grace_the_waiter_has_it_at_once)
{
    struct line_client holder, waiter, operator;
    struct line_lease lease, next;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    waiter = pair_connect(&sidecar);
    operator= pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "broken", "");
    pair_wait(&waiter, "broken", -1);
    line_client_send(&operator, "{'op':'break','key':'broken'}");
    line_client_expect(&holder, "{'event':'revoked','reason':'broken','safe_ms':0}");
    line_client_expect(&operator, "{'ok':true,'op':'break','broken':true}");
    pair_expect_granted(&waiter, "broken", &next);
    ck_assert_int_gt(next.fence, lease.fence);
    line_client_close(&operator);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

// With grace, who waits has to: nobody acts before it is over.
START_TEST(who_waits_has_it_after_the_grace)
{
    struct line_client holder, waiter, operator;
    struct line_lease lease, next;
    int64_t valid_until_ms;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    waiter = pair_connect(&sidecar);
    operator= pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "broken", "");
    pair_wait(&waiter, "broken", -1);
    line_client_send(&operator, "{'op':'break','key':'broken','grace_ms':300}");
    line_client_expect(&holder, "{'event':'revoked','reason':'broken'}");
    valid_until_ms = line_client_int(&holder, "valid_until_ms");
    pair_expect_granted(&waiter, "broken", &next);
    ck_assert_int_ge(waiter.received_ms, valid_until_ms);
    ck_assert_int_le(waiter.received_ms, valid_until_ms + 3 * BENCH_NOISE_MS);
    line_client_expect(&operator, "{'ok':true,'op':'break','broken':true}");
    line_client_close(&operator);
    line_client_close(&waiter);
    line_client_close(&holder);
}
END_TEST

// The holder of another sidecar learns it at its next heartbeat.
START_TEST(through_another_sidecar)
{
    enum { T = 1000 };
    struct line_client holder, operator;
    struct line_lease lease, next;
    int64_t broken_ms;

    pair_start("1s");
    holder = pair_connect(&sidecar);
    operator= pair_connect(&second);
    line_client_acquire(&holder, &lease, "broken", "");
    line_client_send(&operator, "{'op':'break','key':'broken','grace_ms':5000}");
    line_client_expect(&operator, "{'ok':true,'op':'break','key':'broken','broken':true}");
    broken_ms = operator.received_ms;
    line_client_acquire(&operator, & next, "broken", "");
    line_client_expect(&holder, "{'event':'revoked','reason':'lost','lease':'%s','safe_ms':0}",
                       lease.lease);
    ck_assert_int_le(holder.received_ms, broken_ms + T / 3 + T / 12 + 2 * BENCH_NOISE_MS);
    line_client_release(&operator, & next); // nothing was done to it
    line_client_close(&operator);
    line_client_close(&holder);
}
END_TEST

START_TEST(not_by_everybody)
{
    struct line_client holder;
    struct line_lease lease;
    pid_t pid;

    pair_start_one("30s");
    holder = pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "kept", "");
    pid = pair_fork_other_user();
    if (pid == 0) {
        struct line_client other = pair_connect(&sidecar);

        line_client_send(&other, "{'op':'break','key':'kept'}");
        line_client_expect(&other, "{'ok':false,'op':'break','error':'errNotPermitted'}");
        line_client_send(&other, "{'op':'inspect','key':'kept'}"); // to look is free
        line_client_expect(&other, "{'ok':true,'op':'inspect','held':true}");
        expect_no_token(&other, lease.lease);
        _exit(0);
    }
    if (pid > 0) {
        ck_assert_int_eq(scratch_exit_code(pid, 5000), 0);
        ck_assert(bench_exists("kept"));
        line_client_ping(&holder);
    }
    line_client_close(&holder);
}
END_TEST

// ---- extend ----

static void extend(struct line_client *client, const struct line_lease *lease, long long ms)
{
    line_client_send(client, "{'op':'extend','lease':'%s','deadline_ms':%lld}", lease->lease, ms);
}

// The workflow deadline in the value, ms from the grant.
static int64_t stored_deadline_ms(const char *key)
{
    long long deadline_us, since_us;

    ck_assert_int_eq(
        sscanf(pair_value(key), "%*s %*s lk1 %*d %*d %lld %lld", &deadline_us, &since_us), 2);
    return (deadline_us - since_us) / 1000;
}

START_TEST(the_deadline_is_moved)
{
    struct line_client client;
    struct line_lease lease;
    int64_t granted_ms, pttl_ms;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "2s", "--max-workflow-deadline", "1m",
                          NULL);
    client = pair_connect(&sidecar);
    line_client_acquire(&client, &lease, "extended", ",'deadline_ms':30000,'label':'a b'");
    granted_ms = client.received_ms;
    ck_assert_int_eq(stored_deadline_ms("extended"), 30000);
    pttl_ms = bench_pttl("extended");
    extend(&client, &lease, 40000);
    line_client_expect(&client,
                       "{'ok':true,'op':'extend','lease':'%s','key':'extended',"
                       "'deadline_ms':40000,'deadline_in_ms':'<int>'}",
                       lease.lease);
    ck_assert_int_le(line_client_int(&client, "deadline_in_ms"), 40000);
    ck_assert_int_gt(line_client_int(&client, "deadline_in_ms"), 30000);
    ck_assert_int_eq(stored_deadline_ms("extended"), 40000);
    ck_assert_ptr_nonnull(strstr(pair_value("extended"), " a b"));
    ck_assert_int_le(bench_pttl("extended"), pttl_ms); // the TTL is the heartbeat's business
    // Over the cap: the cap, and it is said.
    extend(&client, &lease, 3600000);
    line_client_expect(&client, "{'ok':true,'op':'extend','deadline_ms':60000}");
    ck_assert_int_eq(stored_deadline_ms("extended"), 60000);
    // A moment that is past is refused, and nothing is changed.
    while (scratch_boottime_ms() < granted_ms + 300)
        scratch_pause_ms(1);
    extend(&client, &lease, 200);
    line_client_expect(&client, "{'ok':false,'op':'extend','error':'errBadRequest'}");
    ck_assert_int_eq(stored_deadline_ms("extended"), 60000);
    // Earlier, but to come.
    extend(&client, &lease, 1000);
    line_client_expect(&client, "{'ok':true,'op':'extend','deadline_ms':1000}");
    line_client_expect(&client, "{'event':'revoked','reason':'deadline'}");
    ck_assert_int_ge(client.received_ms, lease.sent_ms + 1000);
    ck_assert_int_le(client.received_ms, granted_ms + 1000 + 2 * BENCH_NOISE_MS);
    extend(&client, &lease, 5000); // it is over for good
    line_client_expect(&client, "{'ok':false,'op':'extend','error':'errLostActorLock'}");
    line_client_close(&client);
}
END_TEST

START_TEST(a_lost_lease_is_not_extended)
{
    struct line_client client;
    struct line_lease lease;

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    line_client_acquire(&client, &lease, "lost", "");
    private_redis_run(&redis, "SET lock:lost somebody PX 60000");
    extend(&client, &lease, 60000);
    line_client_expect(&client, "{'event':'revoked','reason':'lost','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':false,'op':'extend','error':'errLostActorLock'}");
    ck_assert_str_eq(pair_value("lost"), "somebody");
    line_client_close(&client);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("who holds what");
    TCase *tests = tcase_create("who holds what");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, pair_teardown);
    tcase_add_test(tests, says_who_holds_a_key);
    tcase_add_test(tests, lists_holder_and_waiters);
    tcase_add_loop_test(tests, a_foreign_value_is_never_shown, 0,
                        sizeof foreign / sizeof foreign[0]);
    tcase_add_test(tests, the_holder_is_told_before_the_key_goes);
    tcase_add_test(tests, the_holder_stops_within_its_grace);
    tcase_add_test(tests, without_grace_the_waiter_has_it_at_once);
    tcase_add_test(tests, who_waits_has_it_after_the_grace);
    tcase_add_test(tests, through_another_sidecar);
    tcase_add_test(tests, not_by_everybody);
    tcase_add_test(tests, the_deadline_is_moved);
    tcase_add_test(tests, a_lost_lease_is_not_extended);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
