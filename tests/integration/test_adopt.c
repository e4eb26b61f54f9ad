// SPDX-License-Identifier: Apache-2.0
//
// Adoption: from a sidecar that was killed or restarted, from one that lives, from another
// connection; and everything that must not be adopted.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/pair.h"

enum {
    // Of --lock-ttl 1s.
    T = 1000,
    P = T / 3,
    C = T / 12,
};

static void send_adopt(struct line_client *client, const char *key, const struct line_lease *lease,
                       const char *more)
{
    line_client_send(client, "{'op':'adopt','key':'%s','lease':'%s'%s}", key, lease->lease, more);
}

static void expect_adopted(struct line_client *client, const char *key,
                           const struct line_lease *lease)
{
    line_client_await(client,
                      "{'ok':true,'op':'adopt','key':'%s','lease':'%s','fence':%lld,"
                      "'ttl_ms':'<int>','deadline_ms':'<int>','valid_until_ms':'<int>'}",
                      key, lease->lease, (long long)lease->fence);
    ck_assert_int_gt(line_client_int(client, "valid_until_ms"), client->received_ms);
}

static void adopt(struct line_client *client, const char *key, const struct line_lease *lease,
                  const char *more)
{
    send_adopt(client, key, lease, more);
    expect_adopted(client, key, lease);
}

#define RENEWED ",\"notify\":[\"renewed\"]"

// Lost, and no word about what is there.
static void expect_not_adopted(struct line_client *client, const char *key)
{
    line_client_expect(client, "{'ok':false,'op':'adopt','error':'errLostActorLock','key':'%s'}",
                       key);
    ck_assert_uint_eq(json_object_size(client->json), 5); // and message
    ck_assert_ptr_null(strstr(line_client_string(client, "message"), key));
}

// ---- After the end of a sidecar ----

enum { LEASES = 1000, CLIENTS = 10 };

static struct line_client clients[CLIENTS];
static struct line_lease leases[LEASES];

static const char *name(int i)
{
    static char key[32];

    snprintf(key, sizeof key, "kept:%d", i);
    return key;
}

static void acquire_all(void)
{
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = pair_connect(&sidecar);
    for (int i = 0; i < LEASES; i++)
        line_client_acquire(&clients[i % CLIENTS], &leases[i], name(i), "");
}

static void adopt_all(void)
{
    for (int i = 0; i < LEASES; i++)
        send_adopt(&clients[i % CLIENTS], name(i), &leases[i], RENEWED);
    for (int i = 0; i < LEASES; i++)
        expect_adopted(&clients[i % CLIENTS], name(i), &leases[i]);
}

// Each lease is heartbeated: it is told so, and nobody is revoked.
static void expect_all_renewed(void)
{
    static int renewed[LEASES];
    int left = LEASES;

    for (int64_t deadline = scratch_deadline(10000); left > 0;) {
        ck_assert_msg(scratch_left(deadline) > 0, "%d leases are not renewed", left);
        for (int i = 0; i < CLIENTS; i++) {
            while (line_client_wait(&clients[i], 1)) {
                line_client_expect(&clients[i], "{'event':'renewed'}");
                left -= renewed[atoi(line_client_string(&clients[i], "key") + 5)]++ == 0;
            }
        }
    }
}

// The sidecar is killed, or asked to leave the keys (SIGUSR2), and started again.
START_TEST(a_thousand_leases_survive_a_restart)
{
    char *log;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "4s", NULL);
    acquire_all();
    if (_i == 0) {
        sidecar_process_kill(&sidecar);
    } else {
        sidecar_process_signal(&sidecar, SIGUSR2);
        ck_assert_int_eq(sidecar_process_wait(&sidecar, 5000), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        line_client_expect_eof(&clients[i]);
        line_client_close(&clients[i]);
    }
    ck_assert_int_eq(bench_count("lock:kept:*"), LEASES);
    sidecar_process_restart(&sidecar);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = pair_connect(&sidecar);
        pair_await_up(&clients[i]);
    }
    adopt_all();
    expect_all_renewed();
    ck_assert_int_eq(bench_count("lock:kept:*"), LEASES);
    for (int i = 0; i < LEASES; i++) {
        line_client_send(&clients[i % CLIENTS], "{'op':'release','lease':'%s'}", leases[i].lease);
        line_client_await(&clients[i % CLIENTS], "{'ok':true,'op':'release','lease':'%s'}",
                          leases[i].lease);
    }
    ck_assert_int_eq(bench_count("lock:kept:*"), 0);
    log = sidecar_process_read_log(&sidecar);
    ck_assert_ptr_null(strstr(log, leases[0].lease)); // no token in a log
    free(log);
    for (int i = 0; i < CLIENTS; i++)
        line_client_close(&clients[i]);
}
END_TEST

// The workflow deadline goes on from where it was, and so does the fencing token.
START_TEST(the_deadline_goes_on)
{
    enum { DEADLINE = 1500 };
    struct line_client client;
    struct line_lease lease;
    int64_t granted_ms;

    pair_start_one("4s");
    client = pair_connect(&sidecar);
    line_client_acquire(&client, &lease, "deadline", ",'deadline_ms':1500,'label':'resume'");
    granted_ms = client.received_ms;
    while (scratch_boottime_ms() < granted_ms + 500) // some of its time is spent
        scratch_pause_ms(1);
    sidecar_process_kill(&sidecar);
    line_client_expect_eof(&client);
    line_client_close(&client);
    sidecar_process_restart(&sidecar);
    client = pair_connect(&sidecar);
    pair_await_up(&client);
    adopt(&client, "deadline", &lease, "");
    ck_assert_int_eq(line_client_int(&client, "deadline_ms"), DEADLINE);
    line_client_send(&client, "{'op':'list'}");
    line_client_expect(&client,
                       "{'ok':true,'leases':[{'state':'held','key':'deadline','fence':%lld,"
                       "'holder':{'label':'resume','pid':%d}}]}",
                       (long long)lease.fence, (int)getpid());
    ck_assert_int_le(line_client_int(&client, "leases.0.deadline_in_ms"), DEADLINE - 500);
    line_client_expect(&client, "{'event':'revoked','reason':'deadline','lease':'%s'}",
                       lease.lease);
    ck_assert_int_ge(client.received_ms, lease.sent_ms + DEADLINE - BENCH_NOISE_MS);
    ck_assert_int_le(client.received_ms, granted_ms + DEADLINE + BENCH_NOISE_MS);
    // Past it there is nothing to adopt, though the key is still there.
    ck_assert(bench_exists("deadline"));
    line_client_close(&client);
    bench_await_gone("deadline", 1000);
}
END_TEST

START_TEST(past_its_deadline_nothing_is_adopted)
{
    struct line_client client;
    struct line_lease lease;

    pair_start_one("4s");
    client = pair_connect(&sidecar);
    line_client_acquire(&client, &lease, "past", ",'deadline_ms':300");
    sidecar_process_kill(&sidecar);
    line_client_close(&client);
    sidecar_process_restart(&sidecar);
    client = pair_connect(&sidecar);
    pair_await_up(&client);
    while (scratch_boottime_ms() <= lease.valid_until_ms - 4000 + 400)
        scratch_pause_ms(1);
    ck_assert(bench_exists("past"));
    send_adopt(&client, "past", &lease, "");
    expect_not_adopted(&client, "past");
    ck_assert_int_lt(bench_pttl("past"), 3900); // and it was not lengthened
    line_client_close(&client);
}
END_TEST

// ---- While the old sidecar lives ----

// Renewed three times by the new one; at every moment in between the key has the adopted value.
static void expect_kept(struct line_client *client, const char *key, const struct line_lease *lease)
{
    char value[1024];
    int renewed = 0;

    snprintf(value, sizeof value, "%s", pair_value(key));
    ck_assert_int_eq(strncmp(value, lease->lease, 32), 0);
    while (renewed < 3) {
        ck_assert_str_eq(pair_value(key), value);
        ck_assert_int_gt(bench_pttl(key), T - P - C - 2 * BENCH_NOISE_MS);
        while (line_client_wait(client, 1)) {
            line_client_expect(client, "{'event':'renewed','lease':'%s'}", lease->lease);
            renewed++;
        }
    }
}

// The new one takes the lease over; then the old one sees its client go. It deletes nothing.
START_TEST(the_old_sidecar_sees_its_client_go_after_the_adoption)
{
    struct line_client old, new;
    struct line_lease lease;

    pair_start("1s");
    old = pair_connect(&sidecar);
    new = pair_connect(&second);
    line_client_acquire(&old, &lease, "adopted", "");
    adopt(&new, "adopted", &lease, RENEWED);
    line_client_close(&old);
    expect_kept(&new, "adopted", &lease);
    line_client_release(&new, &lease);
    ck_assert(!bench_exists("adopted"));
    line_client_close(&new);
}
END_TEST

// It goes on with its heartbeats: the first one finds the lease gone, and nothing is lengthened.
START_TEST(the_old_sidecar_finds_out_by_its_heartbeat)
{
    struct line_client old, new;
    struct line_lease lease;
    int64_t adopted_ms;

    pair_start("1s");
    old = pair_connect(&sidecar);
    new = pair_connect(&second);
    line_client_acquire(&old, &lease, "adopted", "");
    adopt(&new, "adopted", &lease, RENEWED);
    adopted_ms = scratch_boottime_ms();
    line_client_expect(&old, "{'event':'revoked','reason':'lost','lease':'%s','safe_ms':0}",
                       lease.lease);
    ck_assert_int_le(old.received_ms, adopted_ms + P + C + 2 * BENCH_NOISE_MS);
    line_client_send(&old, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&old, "{'ok':false,'op':'release','error':'errLostActorLock',"
                             "'freed':false}");
    expect_kept(&new, "adopted", &lease);
    line_client_close(&new);
    line_client_close(&old);
    bench_await_gone("adopted", 1000);
}
END_TEST

// The other order: the old one has seen its client go, and is to let the key expire, when the new one
// adopts. At the old one's valid_until its delete finds nothing of its own.
START_TEST(the_old_sidecar_saw_its_client_go_before_the_adoption)
{
    struct line_client old, new, ask;
    struct line_lease lease;

    pair_start("1s");
    old = pair_connect(&sidecar);
    ask = pair_connect(&sidecar);
    new = pair_connect(&second);
    line_client_acquire(&old, &lease, "adopted", ",'on_disconnect':'expire'");
    line_client_close(&old);
    line_client_send(&ask, "{'op':'list'}");
    line_client_expect(&ask, "{'ok':true,'leases':[{'state':'ending','key':'adopted'}]}");
    adopt(&new, "adopted", &lease, RENEWED);
    expect_kept(&new, "adopted", &lease);
    SCRATCH_UNTIL(2 * T, (line_client_send(&ask, "{'op':'list'}"),
                          line_client_expect(&ask, "{'ok':true,'op':'list'}"),
                          json_array_size(line_client_member(&ask, "leases")) == 0));
    line_client_release(&new, &lease);
    line_client_close(&ask);
    line_client_close(&new);
}
END_TEST

// And where the client's end freed the key, there is nothing to adopt.
START_TEST(a_released_lease_is_not_adopted)
{
    struct line_client old, new;
    struct line_lease lease;

    pair_start("1s");
    old = pair_connect(&sidecar);
    new = pair_connect(&second);
    line_client_acquire(&old, &lease, "released", "");
    line_client_close(&old);
    bench_await_gone("released", 1000);
    send_adopt(&new, "released", &lease, "");
    expect_not_adopted(&new, "released");
    ck_assert(!bench_exists("released"));
    line_client_close(&new);
}
END_TEST

// It stands still, with a heartbeat that is due, while the lease moves; then it goes on.
START_TEST(the_old_sidecar_stood_still)
{
    struct line_client old, new;
    struct line_lease lease;

    pair_start("1s");
    old = pair_connect(&sidecar);
    new = pair_connect(&second);
    line_client_acquire(&old, &lease, "adopted", "");
    sidecar_process_signal(&sidecar, SIGSTOP);
    adopt(&new, "adopted", &lease, RENEWED);
    line_client_expect(&new, "{'event':'renewed'}"); // a period later: its own is due as well
    sidecar_process_signal(&sidecar, SIGCONT);
    line_client_expect(&old, "{'event':'revoked','lease':'%s'}", lease.lease);
    expect_kept(&new, "adopted", &lease);
    line_client_close(&new);
    line_client_close(&old);
}
END_TEST

// ---- Between connections ----

START_TEST(moves_between_connections)
{
    struct line_client from, to;
    struct line_lease lease;

    pair_start_one("1s");
    from = pair_connect(&sidecar);
    to = pair_connect(&sidecar);
    line_client_acquire(&from, &lease, "moved", "");
    adopt(&to, "moved", &lease, RENEWED);
    line_client_expect(&from, "{'event':'revoked','reason':'moved','lease':'%s','safe_ms':0}",
                       lease.lease);
    line_client_close(&from); // it is bound to the other one now
    expect_kept(&to, "moved", &lease);
    adopt(&to, "moved", &lease, ""); // again, by itself: no event
    line_client_ping(&to);
    from = pair_connect(&sidecar);
    adopt(&from, "moved", &lease, "");
    line_client_await(&to, "{'event':'revoked','reason':'moved'}");
    line_client_close(&from);
    bench_await_gone("moved", 1000);
    line_client_close(&to);
}
END_TEST

// ---- What is not adopted ----

START_TEST(a_wrong_token_reveals_nothing)
{
    struct line_client holder, other;
    struct line_lease lease, wrong;
    char value[1024];
    int64_t pttl_ms;

    pair_start("30s");
    holder = pair_connect(&second);
    other = pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "secret", "");
    snprintf(value, sizeof value, "%s", pair_value("secret"));
    pttl_ms = bench_pttl("secret");
    wrong = lease;
    wrong.lease[31] = wrong.lease[31] == '0' ? '1' : '0';
    send_adopt(&other, "secret", &wrong, "");
    expect_not_adopted(&other, "secret");
    send_adopt(&other, "another", &lease, ""); // a key that there is not
    expect_not_adopted(&other, "another");
    send_adopt(&holder, "secret", &wrong, ""); // in the sidecar that has it
    expect_not_adopted(&holder, "secret");
    send_adopt(&holder, "another", &lease, "");
    expect_not_adopted(&holder, "another");
    ck_assert_str_eq(pair_value("secret"), value);
    ck_assert_int_le(bench_pttl("secret"), pttl_ms);
    line_client_ping(&holder);
    line_client_release(&holder, &lease);
    line_client_close(&other);
    line_client_close(&holder);
}
END_TEST

// What redis-py and others write: 32 hex digits, and whatever looks a little like ours.
static const char *const foreign[] = {
    "00112233445566778899aabbccddeeff",
    "00112233445566778899aabbccddeeff ",
    "00112233445566778899aabbccddeeff 0123456789abcdef lk1",
    "00112233445566778899aabbccddeeff 0123456789abcdef lk1 ",
    "00112233445566778899aabbccddeeff 0123456789abcdef lk2 77 30000 1890000000000000 "
    "1789999999000000 812 0 pod-9",
    "00112233445566778899aabbccddeeff 0123456789ABCDEF lk1 77 30000 1890000000000000 "
    "1789999999000000 812 0 pod-9",
    "00112233445566778899aabbccddeeff 0123456789abcdef lk1 77 30000 1890000000000000 "
    "1789999999000000 812 0",
};

START_TEST(a_foreign_value_is_never_taken_for_ours)
{
    static const struct line_lease lease = {.lease = "00112233445566778899aabbccddeeff"};
    struct line_client client;

    pair_start_one("30s");
    client = pair_connect(&sidecar);
    private_redis_run(&redis, "SET lock:foreign %s PX 60000", foreign[_i]);
    send_adopt(&client, "foreign", &lease, "");
    expect_not_adopted(&client, "foreign");
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':false,'op':'release','error':'errUnknownLease'}");
    line_client_send(&client, "{'op':'extend','lease':'%s','deadline_ms':1000}", lease.lease);
    line_client_expect(&client, "{'ok':false,'op':'extend','error':'errUnknownLease'}");
    line_client_send(&client, "{'op':'acquire','key':'foreign'}");
    line_client_expect(&client,
                       "{'ok':false,'error':'errLockHeld','holder':{'foreign':true,'bytes':%d}}",
                       (int)strlen(foreign[_i]));
    ck_assert_ptr_null(strstr(client.line, "0011"));
    ck_assert_str_eq(pair_value("foreign"), foreign[_i]);
    ck_assert_int_gt(bench_pttl("foreign"), 50000);
    line_client_close(&client);
}
END_TEST

// The right token from another user, in the sidecar that holds the lease and in another one.
START_TEST(another_users_lease)
{
    struct line_client holder;
    struct line_lease lease;
    char value[1024];
    pid_t pid;

    pair_start("30s");
    holder = pair_connect(&sidecar);
    line_client_acquire(&holder, &lease, "users", "");
    snprintf(value, sizeof value, "%s", pair_value("users"));
    pid = pair_fork_other_user();
    if (pid == 0) {
        struct line_client here = pair_connect(&sidecar), there = pair_connect(&second);

        send_adopt(&here, "users", &lease, "");
        line_client_expect(&here, "{'ok':false,'op':'adopt','error':'errNotPermitted'}");
        send_adopt(&there, "users", &lease, "");
        line_client_expect(&there, "{'ok':false,'op':'adopt','error':'errNotPermitted'}");
        _exit(0);
    }
    if (pid > 0) {
        ck_assert_int_eq(scratch_exit_code(pid, 5000), 0);
        ck_assert_str_eq(pair_value("users"), value);
        line_client_ping(&holder);
    }
    line_client_close(&holder);
}
END_TEST

// At the uid's cap: refused, and the one that has it goes on with it.
START_TEST(over_the_cap)
{
    struct line_client holder, other;
    struct line_lease lease, own;

    second = (struct sidecar_process){.name = "second"};
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    sidecar_process_start(&second, redis.url, "--lock-ttl", "1s", "--max-leases-per-uid", "1",
                          NULL);
    holder = pair_connect(&sidecar);
    other = pair_connect(&second);
    line_client_acquire(&holder, &lease, "stays", RENEWED);
    line_client_acquire(&other, &own, "own", "");
    send_adopt(&other, "stays", &lease, "");
    line_client_expect(&other, "{'ok':false,'op':'adopt','error':'errLimitExceeded'}");
    expect_kept(&holder, "stays", &lease);
    line_client_release(&other, &own);
    adopt(&other, "stays", &lease, "");
    line_client_close(&other);
    line_client_close(&holder);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("adoption");
    TCase *tests = tcase_create("adoption");

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, bench_setup, pair_teardown);
    tcase_add_loop_test(tests, a_thousand_leases_survive_a_restart, 0, 2);
    tcase_add_test(tests, the_deadline_goes_on);
    tcase_add_test(tests, past_its_deadline_nothing_is_adopted);
    tcase_add_test(tests, the_old_sidecar_sees_its_client_go_after_the_adoption);
    tcase_add_test(tests, the_old_sidecar_finds_out_by_its_heartbeat);
    tcase_add_test(tests, the_old_sidecar_saw_its_client_go_before_the_adoption);
    tcase_add_test(tests, a_released_lease_is_not_adopted);
    tcase_add_test(tests, the_old_sidecar_stood_still);
    tcase_add_test(tests, moves_between_connections);
    tcase_add_test(tests, a_wrong_token_reveals_nothing);
    tcase_add_loop_test(tests, a_foreign_value_is_never_taken_for_ours, 0,
                        sizeof foreign / sizeof foreign[0]);
    tcase_add_test(tests, another_users_lease);
    tcase_add_test(tests, over_the_cap);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
