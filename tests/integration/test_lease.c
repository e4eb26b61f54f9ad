// SPDX-License-Identifier: Apache-2.0
//
// A lease on a real Redis: taken, held, refused to others, lost, released.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"

// T and what follows from it (DESIGN section 3).
enum {
    T = 1000,
    P = T / 3,
    C = T / 12,
    DRIFT = T / 100 + 2,
};

static void start(void)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
}

static struct line_client connected(void)
{
    struct line_client client;

    line_client_connect(&client, sidecar.socket);
    return client;
}

// Samples the key for some TTLs, and holds every promise of validity against what Redis says.
START_TEST(is_held_over_four_ttls)
{
    struct line_client client;
    struct line_lease lease;
    int64_t least = T, valid_until, deadline;
    int renewed = 0;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "held", ",'notify':['renewed']");
    ck_assert_int_le(lease.valid_until_ms, client.received_ms + T - DRIFT);
    valid_until = lease.valid_until_ms;
    deadline = scratch_deadline(4 * T + P);
    while (scratch_left(deadline) > 0) {
        int64_t left = bench_pttl("held");

        // The key outlives what was promised before the question was asked.
        ck_assert_msg(scratch_boottime_ms() + left + 1 >= valid_until,
                      "%lld ms left in Redis, promised for %lld more", (long long)left,
                      (long long)(valid_until - scratch_boottime_ms()));
        least = left < least ? left : least;
        while (line_client_wait(&client, 1)) {
            line_client_expect(&client, "{'event':'renewed','lease':'%s','key':'held'}",
                               lease.lease);
            ck_assert_int_gt(line_client_int(&client, "valid_until_ms"), valid_until);
            valid_until = line_client_int(&client, "valid_until_ms");
            ck_assert_int_le(valid_until, client.received_ms + T - DRIFT);
            renewed++;
        }
    }
    ck_assert_int_ge(least, T - P - C - BENCH_NOISE_MS);
    // Every third of T, spread a little; never twice as often.
    ck_assert_int_ge(renewed, 10);
    ck_assert_int_le(renewed, 26);
    line_client_release(&client, &lease);
    ck_assert(!bench_exists("held"));
    line_client_close(&client);
}
END_TEST

START_TEST(value_is_of_the_grammar)
{
    struct line_client client;
    struct line_lease lease;
    char token[33], instance[17], host[257], label[129], version[4];
    long long fence, ttl, deadline, since, pid, uid, seconds;
    const char *value;
    int end = 0;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "value", ",'label':'a label','deadline_ms':60000");
    value = private_redis_string(&redis, "GET lock:value");
    ck_assert_ptr_nonnull(value);
    ck_assert_int_eq(
        sscanf(value, "%32[0-9a-f] %16[0-9a-f] %3s %lld %lld %lld %lld %lld %lld %256s %n%128[^\n]",
               token, instance, version, &fence, &ttl, &deadline, &since, &pid, &uid, host, &end,
               label),
        11);
    ck_assert_str_eq(token, lease.lease);
    ck_assert_uint_eq(strlen(instance), 16);
    ck_assert_str_eq(version, "lk1");
    ck_assert_int_eq(fence, lease.fence);
    ck_assert_int_eq(ttl, T);
    ck_assert_int_eq(pid, getpid());
    ck_assert_int_eq(uid, getuid());
    ck_assert_str_eq(label, "a label");
    // Redis' time, in us: since is now, the deadline a minute later.
    seconds = atoll(private_redis_reply(&redis, "TIME")->element[0]->str);
    ck_assert_int_ge(since, (seconds - 10) * 1000000);
    ck_assert_int_le(since, (seconds + 1) * 1000000);
    ck_assert_int_eq(deadline - since, 60 * 1000000LL);
    line_client_release(&client, &lease);
    line_client_close(&client);
}
END_TEST

// The refusal of a key that a client of ours holds, whoever asks.
static void expect_held(struct line_client *other, const struct line_lease *lease)
{
    line_client_send(other, "{'id':'i','op':'acquire','key':'conflict'}");
    line_client_expect(other,
                       "{'ok':false,'id':'i','op':'acquire','error':'errLockHeld',"
                       "'message':'<string>','key':'conflict','waited_ms':'<int>',"
                       "'holder':{'host':'<string>','pid':%d,'uid':%d,'label':'first',"
                       "'fence':%lld}}",
                       (int)getpid(), (int)getuid(), (long long)lease->fence);
    ck_assert_int_gt(line_client_int(other, "retry_after_ms"), 0);
    ck_assert_int_le(line_client_int(other, "retry_after_ms"), T);
    ck_assert_ptr_null(strstr(other->line, lease->lease));
}

START_TEST(conflict_is_refused_with_the_holder)
{
    struct sidecar_process second = {.name = "second"};
    struct line_client client, other, far;
    struct line_lease lease;

    start();
    sidecar_process_start(&second, redis.url, "--lock-ttl", "1s", NULL);
    client = connected();
    other = connected();
    line_client_connect(&far, second.socket);
    line_client_acquire(&client, &lease, "conflict", ",'label':'first'");
    expect_held(&client, &lease);
    expect_held(&other, &lease);
    expect_held(&far, &lease);
    line_client_release(&client, &lease);
    line_client_acquire(&far, &lease, "conflict", "");
    line_client_release(&far, &lease);
    line_client_close(&far);
    line_client_close(&other);
    line_client_close(&client);
    bench_stop(&second);
}
END_TEST

START_TEST(foreign_key_is_held_and_secret)
{
    struct line_client client;

    start();
    client = connected();
    private_redis_run(&redis, "SET lock:foreign %s PX 5000",
                      "0123456789abcdef-a-foreign-capability");
    line_client_send(&client, "{'op':'acquire','key':'foreign'}");
    line_client_expect(&client, "{'ok':false,'error':'errLockHeld','key':'foreign',"
                                "'holder':{'foreign':true,'bytes':37}}");
    ck_assert_int_gt(line_client_int(&client, "retry_after_ms"), 4000);
    ck_assert_int_le(line_client_int(&client, "retry_after_ms"), 5000);
    ck_assert_ptr_null(strstr(client.line, "capability"));

    private_redis_run(&redis, "SET lock:foreign x");
    line_client_send(&client, "{'op':'acquire','key':'foreign'}");
    line_client_expect(&client, "{'ok':false,'error':'errLockHeld','retry_after_ms':null,"
                                "'holder':{'foreign':true,'bytes':1}}");

    private_redis_run(&redis, "HSET lock:hash field value");
    line_client_send(&client, "{'op':'acquire','key':'hash'}");
    line_client_expect(&client, "{'ok':false,'error':'errLockHeld','retry_after_ms':null,"
                                "'holder':{'foreign':true,'type':'hash'}}");
    ck_assert_str_eq(private_redis_string(&redis, "GET lock:foreign"), "x");
    ck_assert_str_eq(private_redis_string(&redis, "HGET lock:hash field"), "value");
    line_client_close(&client);
}
END_TEST

// What a peer does to the key, and what must be left of it after the holder was told.
static const struct loss {
    const char *commands[3];
    const char *check; // a command
    const char *left;  // its answer, NULL: nil
} losses[] = {
    {{"DEL lock:lost"}, "GET lock:lost", NULL},
    {{"FLUSHALL"}, "GET lock:lost", NULL},
    {{"SET lock:lost another"}, "GET lock:lost", "another"},
    {{"SET lock:lost another PX 60000"}, "GET lock:lost", "another"},
    // The same length, another token.
    {{"SET lock:lost 00000000000000000000000000000000"},
     "GET lock:lost",
     "00000000000000000000000000000000"},
    {{"DEL lock:lost", "HSET lock:lost f v"}, "HGET lock:lost f", "v"},
    {{"DEL lock:lost", "RPUSH lock:lost e"}, "LINDEX lock:lost 0", "e"},
};

START_TEST(loss_is_told_by_the_next_heartbeat)
{
    const struct loss *loss = &losses[_i];
    struct line_client client;
    struct line_lease lease;
    const char *left;
    int64_t done_ms, ttl;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "lost", "");
    for (size_t i = 0; i < 3 && loss->commands[i]; i++)
        private_redis_run(&redis, loss->commands[i]);
    done_ms = scratch_boottime_ms();
    ttl = bench_pttl("lost");
    line_client_expect(&client,
                       "{'event':'revoked','error':'errLostActorLock','reason':'lost',"
                       "'lease':'%s','key':'lost','safe_ms':0,'held_ms':'<int>',"
                       "'message':'<string>','valid_until_ms':'<int>'}",
                       lease.lease);
    ck_assert_int_le(client.received_ms - done_ms, P + C + BENCH_NOISE_MS);
    // The acknowledgement frees nothing of anybody else's.
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client,
                       "{'ok':false,'op':'release','error':'errLostActorLock','lease':'%s',"
                       "'key':'lost','freed':false}",
                       lease.lease);
    line_client_close(&client);
    left = private_redis_string(&redis, loss->check);
    if (loss->left)
        ck_assert_str_eq(left, loss->left);
    else
        ck_assert_ptr_null(left);
    if (ttl < 0)
        ck_assert_int_eq(bench_pttl("lost"), ttl);
    else
        ck_assert_int_gt(bench_pttl("lost"), 50000);
}
END_TEST

// The holder goes before it was told: what is in the key now is not its to delete.
START_TEST(end_of_an_overwritten_lease_touches_nothing)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, NULL); // no heartbeat in this test's time
    client = connected();
    line_client_acquire(&client, &lease, "released", "");
    private_redis_run(&redis, "SET lock:released another");
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client,
                       "{'ok':false,'op':'release','error':'errLostActorLock','lease':'%s',"
                       "'freed':false}",
                       lease.lease);
    ck_assert_str_eq(private_redis_string(&redis, "GET lock:released"), "another");

    line_client_acquire(&client, &lease, "left", "");
    line_client_acquire(&client, &lease, "hash", "");
    line_client_acquire(&client, &lease, "ours", "");
    private_redis_run(&redis, "SET lock:left another");
    private_redis_run(&redis, "DEL lock:hash");
    private_redis_run(&redis, "HSET lock:hash f v");
    line_client_close(&client);
    bench_await_gone("ours", 2000); // its delete was sent after those of the others
    client = connected();
    line_client_send(&client, "{'op':'list'}");
    line_client_expect(&client, "{'ok':true,'leases':[]}");
    ck_assert_str_eq(private_redis_string(&redis, "GET lock:left"), "another");
    ck_assert_str_eq(private_redis_string(&redis, "HGET lock:hash f"), "v");
    line_client_close(&client);
}
END_TEST

START_TEST(shortened_or_persistent_key_is_mended)
{
    struct line_client client;
    struct line_lease lease;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "mended", ",'notify':['renewed']");
    private_redis_run(&redis, "PERSIST lock:mended");
    line_client_await(&client, "{'event':'renewed'}");
    ck_assert_int_gt(bench_pttl("mended"), T - P - C - BENCH_NOISE_MS);
    ck_assert_int_le(bench_pttl("mended"), T);
    private_redis_run(&redis, "PEXPIRE lock:mended 600");
    line_client_await(&client, "{'event':'renewed'}");
    ck_assert_int_gt(bench_pttl("mended"), T - P - C - BENCH_NOISE_MS);
    line_client_release(&client, &lease);
    line_client_close(&client);
}
END_TEST

START_TEST(release_deletes_and_is_not_repeated)
{
    struct line_client client;
    struct line_lease lease;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "twice", "");
    ck_assert(bench_exists("twice"));
    line_client_send(&client, "{'id':2,'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client,
                       "{'ok':true,'id':2,'op':'release','lease':'%s','key':'twice',"
                       "'held_ms':'<int>'}",
                       lease.lease);
    ck_assert(!bench_exists("twice"));
    line_client_send(&client, "{'id':3,'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':false,'id':3,'op':'release','error':'errUnknownLease'}");
    line_client_close(&client);
}
END_TEST

// Both in one write: the second is read before the first's delete is answered.
START_TEST(release_twice_in_one_write)
{
    struct line_client client;
    struct line_lease lease;
    char lines[256];

    start();
    client = connected();
    line_client_acquire(&client, &lease, "twice", "");
    snprintf(lines, sizeof lines,
             "{\"id\":1,\"op\":\"release\",\"lease\":\"%s\"}\n"
             "{\"id\":2,\"op\":\"release\",\"lease\":\"%s\"}\n",
             lease.lease, lease.lease);
    ck_assert(line_client_send_bytes(&client, lines, strlen(lines)));
    for (int i = 0; i < 2; i++) {
        line_client_receive(&client);
        if (line_client_int(&client, "id") == 1)
            ck_assert(json_is_true(line_client_member(&client, "ok")));
        else
            ck_assert_str_eq(line_client_string(&client, "error"), "errUnknownLease");
    }
    ck_assert(!bench_exists("twice"));
    line_client_ping(&client);
    line_client_close(&client);
}
END_TEST

START_TEST(release_elsewhere_revokes_the_holder)
{
    struct line_client holder, other;
    struct line_lease lease;

    start();
    holder = connected();
    other = connected();
    line_client_acquire(&holder, &lease, "elsewhere", "");
    line_client_release(&other, &lease);
    ck_assert_msg(line_client_wait(&holder, 0), "the holder was not told first");
    line_client_expect(&holder,
                       "{'event':'revoked','error':'errLostActorLock','reason':'released',"
                       "'lease':'%s','key':'elsewhere','safe_ms':0}",
                       lease.lease);
    ck_assert(!bench_exists("elsewhere"));
    line_client_ping(&holder);
    line_client_close(&other);
    line_client_close(&holder);
}
END_TEST

START_TEST(expire_keeps_the_key_to_its_ttl)
{
    struct line_client client;
    struct line_lease lease;
    int64_t left, closed_ms, gone_ms;

    start();
    client = connected();
    line_client_acquire(&client, &lease, "expire", ",'on_disconnect':'expire'");
    line_client_close(&client);
    closed_ms = scratch_boottime_ms();
    left = bench_pttl("expire");
    ck_assert_int_gt(left, 0);
    gone_ms = bench_await_gone("expire", T + BENCH_NOISE_MS);
    // No heartbeat after the close, and no delete either.
    ck_assert_int_le(gone_ms, closed_ms + left + BENCH_NOISE_MS);
    ck_assert_int_ge(gone_ms, closed_ms + left - 2 * DRIFT);
}
END_TEST

START_TEST(fence_rises_across_sidecars)
{
    struct sidecar_process second = {.name = "second"};
    struct line_client clients[2];
    struct line_lease lease;
    int64_t fence = 0;

    start();
    sidecar_process_start(&second, redis.url, "--lock-ttl", "1s", NULL);
    clients[0] = connected();
    line_client_connect(&clients[1], second.socket);
    for (int i = 0; i < 10; i++) {
        line_client_acquire(&clients[i % 2], &lease, "fence", "");
        // From one counter of Redis', whoever asks.
        if (i > 0)
            ck_assert_int_eq(lease.fence, fence + 1);
        ck_assert_int_ge(lease.fence, INT64_C(1000000000000000));
        ck_assert_int_lt(lease.fence, INT64_C(1) << 53);
        fence = lease.fence;
        line_client_release(&clients[i % 2], &lease);
    }
    line_client_close(&clients[0]);
    line_client_close(&clients[1]);
    bench_stop(&second);
}
END_TEST

// Flushed, evicted, or set back by a failover: fences go on rising.
START_TEST(fence_rises_after_the_counter_was_lost)
{
    struct line_client client;
    struct line_lease lease;
    int64_t fence;
    char counter[64];

    start();
    client = connected();
    line_client_acquire(&client, &lease, "first", "");
    line_client_release(&client, &lease);
    ck_assert_int_eq(bench_count("*"), 1);
    snprintf(counter, sizeof counter, "%s", private_redis_reply(&redis, "KEYS *")->element[0]->str);
    ck_assert_int_eq(private_redis_int(&redis, "PTTL %s", counter), -1);
    fence = lease.fence;
    for (int i = 0; i < 3; i++) {
        private_redis_run(&redis, i == 1 ? "SET %s 7" : "DEL %s", counter);
        line_client_acquire(&client, &lease, "next", "");
        ck_assert_int_gt(lease.fence, fence);
        fence = lease.fence;
        line_client_release(&client, &lease);
    }
    // Behind what this sidecar has seen, and no longer small: raised above it.
    private_redis_run(&redis, "SET %s 1000000000000000", counter);
    line_client_acquire(&client, &lease, "next", "");
    ck_assert_int_gt(lease.fence, fence);
    fence = lease.fence;
    line_client_release(&client, &lease);
    line_client_acquire(&client, &lease, "next", "");
    ck_assert_int_eq(lease.fence, fence + 1);
    line_client_close(&client);
}
END_TEST

START_TEST(own_ttl_and_deadline)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", "--max-lock-ttl", "10s",
                          "--max-workflow-deadline", "1m", "--actor-workflow-deadline", "30s",
                          "--key-prefix", "other:", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "own", ",'ttl_ms':5000,'deadline_ms':3600000");
    ck_assert_int_eq(line_client_int(&client, "ttl_ms"), 5000);
    ck_assert_int_eq(line_client_int(&client, "deadline_ms"), 60000);
    ck_assert_int_gt(private_redis_int(&redis, "PTTL other:own"), 4000);
    ck_assert_int_le(lease.valid_until_ms, client.received_ms + 5000 - 52);
    ck_assert_int_ge(lease.valid_until_ms, lease.sent_ms + 5000 - 52);
    line_client_release(&client, &lease);
    // Over the cap, and under the least.
    line_client_send(&client, "{'op':'acquire','key':'own','ttl_ms':10001}");
    line_client_expect(&client, "{'ok':false,'error':'errBadRequest'}");
    line_client_send(&client, "{'op':'acquire','key':'own','ttl_ms':499}");
    line_client_expect(&client, "{'ok':false,'error':'errBadRequest'}");
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS other:own"), 0);
    line_client_close(&client);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("lease");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, is_held_over_four_ttls);
    tcase_add_test(tests, value_is_of_the_grammar);
    tcase_add_test(tests, conflict_is_refused_with_the_holder);
    tcase_add_test(tests, foreign_key_is_held_and_secret);
    tcase_add_loop_test(tests, loss_is_told_by_the_next_heartbeat, 0,
                        (int)(sizeof losses / sizeof losses[0]));
    tcase_add_test(tests, end_of_an_overwritten_lease_touches_nothing);
    tcase_add_test(tests, shortened_or_persistent_key_is_mended);
    tcase_add_test(tests, release_deletes_and_is_not_repeated);
    tcase_add_test(tests, release_twice_in_one_write);
    tcase_add_test(tests, release_elsewhere_revokes_the_holder);
    tcase_add_test(tests, expire_keeps_the_key_to_its_ttl);
    tcase_add_test(tests, fence_rises_across_sidecars);
    tcase_add_test(tests, fence_rises_after_the_counter_was_lost);
    tcase_add_test(tests, own_ttl_and_deadline);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
