// SPDX-License-Identifier: Apache-2.0
//
// Rows 21 to 31: clients that die, do not read, say nonsense, or want too much.

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/fault/rows.h"
#include "tests/tool/holder_process.h"

enum {
    SOON_MS = 150, // milliseconds, on a busy machine; every T here is far longer
    NOBODY = 65534,
};

static void expect_no_leases(struct line_client *client)
{
    line_client_send(client, "{'op':'list'}");
    line_client_expect(client, "{'ok':true,'op':'list','leases':[]}");
}

// ---- Row 21 ----

START_TEST(row_21_killed_while_idle)
{
    struct line_client other;
    char key[16];

    rows_start("30s");
    other = rows_connect();
    for (int i = 0; i < 10; i++) {
        pid_t holder;
        int64_t killed_ms;

        snprintf(key, sizeof key, "killed:%d", i);
        holder = holder_process_start(key, rows_acquire, "", NULL);
        ck_assert(bench_exists(key));
        killed_ms = scratch_boottime_ms();
        scratch_kill(holder);
        ck_assert_int_le(bench_await_gone(key, 5000), killed_ms + SOON_MS);
    }
    expect_no_leases(&other);
    line_client_close(&other);
}
END_TEST

// The acquire is in Redis, its answer is not back yet.
START_TEST(row_21_killed_in_the_middle_of_an_acquire)
{
    struct line_client other;
    int64_t released_ms;
    pid_t holder;

    rows_start("30s");
    other = rows_connect();
    rows_await_up(&other);
    fault_proxy_hold(proxy, FAULT_DOWN, true);
    holder = holder_process_start("middle", NULL, NULL, NULL);
    SCRATCH_UNTIL(2000, bench_exists("middle"));
    scratch_kill(holder);
    line_client_ping(&other);
    ck_assert(bench_exists("middle"));
    fault_proxy_hold(proxy, FAULT_DOWN, false);
    released_ms = scratch_boottime_ms();
    ck_assert_int_le(bench_await_gone("middle", 5000), released_ms + SOON_MS);
    expect_no_leases(&other);
    line_client_close(&other);
}
END_TEST

// ---- Row 22 ----

// The client dies, but a child of its has inherited the descriptor, so no end of the connection is to
// be seen. bind "pid" sees the end of the process itself.
START_TEST(row_22_child_keeps_the_descriptor)
{
    struct line_client other;
    int64_t killed_ms;
    pid_t holder, keeper;

    rows_start("30s");
    other = rows_connect();
    holder = holder_process_start("bound", rows_acquire, ",'bind':'pid'", &keeper);
    ck_assert(bench_exists("bound"));
    killed_ms = scratch_boottime_ms();
    scratch_kill(holder);
    ck_assert_int_le(bench_await_gone("bound", 5000), killed_ms + SOON_MS);
    ck_assert_int_eq(kill(keeper, SIGKILL), 0); // it was there to the end
    expect_no_leases(&other);
    line_client_close(&other);
}
END_TEST

// Bound to its connection, such a lease has its workflow deadline all the same.
START_TEST(row_22_the_deadline_ends_it)
{
    struct line_client other;
    int64_t granted_ms, gone_ms;
    pid_t holder, keeper;

    rows_start("1s");
    other = rows_connect();
    holder = holder_process_start("inherited", rows_acquire, ",'deadline_ms':1000", &keeper);
    granted_ms = scratch_boottime_ms();
    scratch_kill(holder);
    line_client_send(&other, "{'op':'list'}");
    line_client_expect(&other, "{'ok':true,'leases':[{'state':'held','key':'inherited'}]}");
    gone_ms = bench_await_gone("inherited", 4000);
    ck_assert_int_eq(kill(keeper, SIGKILL), 0);
    ck_assert_int_ge(gone_ms, granted_ms + 1000 - ROWS_NOISE_MS);
    ck_assert_int_le(gone_ms, granted_ms + 1000 + 1000 + ROWS_NOISE_MS);
    line_client_close(&other);
}
END_TEST

// ---- Row 23 ----

// Returns when the sidecar has closed the client's connection; the others are asked meanwhile.
static int64_t flood_until_cut(struct line_client *client, struct line_client *other)
{
    static const char request[] = "{\"op\":\"list\",\"limit\":500}\n";
    struct pollfd polled = {.fd = client->fd, .events = POLLOUT};

    client->deaf = true;
    do {
        int64_t began_ms = scratch_boottime_ms();

        line_client_send_some(client, request, sizeof request - 1);
        line_client_ping(other);
        ck_assert_int_le(scratch_boottime_ms() - began_ms, SOON_MS);
        poll(&polled, 1, 5);
    } while (!(polled.revents & (POLLHUP | POLLERR)));
    return scratch_boottime_ms();
}

START_TEST(row_23_floods_and_does_not_read)
{
    struct line_client client, other;
    struct line_lease lease;
    struct rival *rival;
    int64_t cut_ms, memory_kib, left_ms;
    char key[32];

    rows_start("2s");
    other = rows_connect();
    client = rows_connect();
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "others:%d", i);
        rows_acquire(&other, &lease, key, "");
    }
    rows_acquire(&client, &lease, "deaf", ",'notify':['renewed']");
    memory_kib = rows_memory_kib(sidecar.pid);
    cut_ms = flood_until_cut(&client, &other);
    left_ms = bench_pttl("deaf");
    ck_assert_int_lt(rows_memory_kib(sidecar.pid) - memory_kib, 16384);
    // Nobody told it to stop: its key stays, unrenewed, as long as it may think it holds it.
    rival = rival_new(redis.socket, "deaf");
    ck_assert_int_gt(left_ms, 0);
    rival_await(rival, 3000);
    ck_assert_int_ge(rival_won_ms(rival), cut_ms + left_ms - 22 - 10);
    ck_assert_int_le(rival_won_ms(rival), cut_ms + 2000 + ROWS_NOISE_MS);
    ck_assert_int_eq(bench_count("lock:others:*"), 200);
    rival_free(rival);
    line_client_close(&client);
    line_client_close(&other);
}
END_TEST

// Its revoked cannot be written: it is cut off C later.
START_TEST(row_23_cannot_be_told)
{
    static const char request[] = "{\"op\":\"list\",\"limit\":500}\n";
    struct line_client client, other;
    struct line_lease lease;
    struct pollfd polled = {.events = 0};
    struct rival *rival;
    int64_t cut_ms;
    char key[32];

    rows_start("2s");
    other = rows_connect();
    client = rows_connect();
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "others:%d", i);
        rows_acquire(&other, &lease, key, "");
    }
    rows_acquire(&client, &lease, "untold", ",'deadline_ms':700");
    client.deaf = true;
    for (int i = 0; i < 16; i++) // fills the socket, and is far from the cap
        ck_assert(line_client_send_bytes(&client, request, sizeof request - 1));
    polled.fd = client.fd;
    while (!(poll(&polled, 1, 5) > 0 && polled.revents & POLLHUP))
        ck_assert_int_lt(scratch_boottime_ms(), lease.sent_ms + 700 + 2000 / 12 + 500);
    cut_ms = scratch_boottime_ms();
    ck_assert_int_ge(cut_ms, lease.sent_ms + 700 + 2000 / 12);
    rival = rival_new(redis.socket, "untold");
    rival_await(rival, 3000);
    ck_assert_int_ge(rival_won_ms(rival), lease.valid_until_ms);
    line_client_ping(&other);
    rival_free(rival);
    line_client_close(&client);
    line_client_close(&other);
}
END_TEST

// ---- Row 24 ----

START_TEST(row_24_half_close)
{
    struct line_client client, other;
    struct line_lease lease;
    int before;

    rows_start("30s");
    other = rows_connect();
    line_client_ping(&other);
    before = sidecar_process_descriptors(&sidecar);
    client = rows_connect();
    rows_acquire(&client, &lease, "half", "");
    line_client_send(&client, "{'id':7,'op':'ping'}");
    line_client_half_close(&client);
    // What was asked is answered; then the lease ends with last words; then the end.
    line_client_expect(&client, "{'ok':true,'id':7,'op':'ping'}");
    line_client_expect(&client, "{'event':'revoked','reason':'eof','lease':'%s','safe_ms':0}",
                       lease.lease);
    line_client_expect_eof(&client);
    bench_await_gone("half", SOON_MS);
    expect_no_leases(&other);
    // An acquire that was read: answered, and over.
    line_client_close(&client);
    client = rows_connect();
    line_client_send(&client, "{'id':8,'op':'acquire','key':'half'}");
    line_client_half_close(&client);
    line_client_drain(&client);
    bench_await_gone("half", SOON_MS);
    line_client_close(&client);
    SCRATCH_UNTIL(2000, sidecar_process_descriptors(&sidecar) == before);
    expect_no_leases(&other);
    line_client_close(&other);
}
END_TEST

// ---- Row 25 ----

#define KEY "\"op\":\"acquire\",\"key\":\"k\""

static const struct {
    const char *line;
    const char *error;
} nonsense[] = {
    {"", NULL}, // a blank line: nothing
    {"\r", NULL},
    {"hello", "errBadRequest"},
    {"{" KEY, "errBadRequest"},
    {"{" KEY "}}", "errBadRequest"},
    {"{" KEY ",}", "errBadRequest"},
    {"[{" KEY "}]", "errBadRequest"},
    {"{'op':'ping'}", "errBadRequest"},
    {"\xef\xbb\xbf{" KEY "}", "errBadRequest"},
    {"{" KEY ",\"key\":\"l\"}", "errBadRequest"},
    {"{" KEY ",\"label\":\"\xff\xfe\"}", "errBadRequest"},
    {"{" KEY ",\"label\":\"\xed\xa0\x80\"}", "errBadRequest"},
    {"{" KEY ",\"label\":\"\\ud800\"}", "errBadRequest"},
    {"{" KEY ",\"label\":\"\\u0000\"}", "errBadRequest"},
    {"{" KEY ",\"ttl_ms\":1e999}", "errBadRequest"},
    {"{" KEY ",\"ttl_ms\":9223372036854775808}", "errBadRequest"},
    {"{" KEY ",\"ttl_ms\":1000.5}", "errBadRequest"},
    {"{" KEY ",\"ttl_ms\":1000.0}", "errBadRequest"},
    {"{" KEY ",\"ttl_ms\":null}", "errBadRequest"},
    {"{" KEY ",\"ttl_ms\":true}", "errBadRequest"},
    {"{" KEY ",\"ttl_ms\":[1000]}", "errBadRequest"},
    {"{" KEY ",\"notify\":\"renewed\"}", "errBadRequest"},
    {"{" KEY ",\"notify\":[\"renewed\",\"renewed\"]}", "errBadRequest"},
    {"{" KEY ",\"notify\":[\"all\"]}", "errBadRequest"},
    {"{" KEY ",\"bind\":\"forever\"}", "errBadRequest"},
    {"{" KEY ",\"ttl\":30}", "errBadRequest"},
    {"{" KEY ",\"id\":{}}", "errBadRequest"},
    {"{" KEY ",\"id\":1.5}", "errBadRequest"},
    {"{\"op\":\"acquire\"}", "errBadRequest"},
    {"{\"op\":\"acquire\",\"key\":7}", "errBadRequest"},
    {"{\"op\":7,\"key\":\"k\"}", "errBadRequest"},
    {"{\"key\":\"k\"}", "errBadRequest"},
    {"{\"op\":\"aquire\",\"key\":\"k\"}", "errUnknownOp"},
};

static void expect_error(struct line_client *client, const char *error)
{
    line_client_expect(client, "{'ok':false,'error':'%s','message':'<string>'}", error);
}

START_TEST(row_25_nonsense)
{
    struct line_client client;
    char deep[3072], nul[64];
    size_t length;

    rows_start("1s");
    client = rows_connect();
    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        line_client_send_bytes(&client, nonsense[i].line, strlen(nonsense[i].line));
        line_client_send_bytes(&client, "\n", 1);
        if (nonsense[i].error)
            expect_error(&client, nonsense[i].error);
        line_client_ping(&client);
    }
    // Depth, and a NUL, which is no text.
    length = (size_t)snprintf(deep, sizeof deep, "{" KEY ",\"x_deep\":");
    memset(deep + length, '[', 2100);
    deep[length + 2100] = '\n';
    line_client_send_bytes(&client, deep, length + 2101);
    expect_error(&client, "errBadRequest");
    length = (size_t)snprintf(nul, sizeof nul, "{" KEY "}");
    nul[length] = '\0';
    nul[length + 1] = '\n';
    line_client_send_bytes(&client, nul, length + 2);
    expect_error(&client, "errBadRequest");
    line_client_ping(&client);
    // Not one of them has done anything.
    ck_assert_int_eq(bench_count("*"), 0);
    expect_no_leases(&client);
    line_client_close(&client);
}
END_TEST

START_TEST(row_25_lines_too_long)
{
    static char line[WIRE_MAX_LINE + 2];
    struct line_client client, other;
    size_t length;

    rows_start("1s");
    client = rows_connect();
    other = rows_connect();
    length = (size_t)snprintf(line, sizeof line, "{" KEY ",\"x_pad\":\"");
    memset(line + length, 'p', sizeof line - length);
    memcpy(line + WIRE_MAX_LINE + 1 - 2, "\"}", 2);
    line_client_send_bytes(&client, line, WIRE_MAX_LINE + 1);
    line_client_send_bytes(&client, "\n", 1);
    expect_error(&client, "errLineTooLong");
    line_client_ping(&client);
    // Endless: told once, as soon as it is too long, and skipped to its end, whenever that comes.
    memset(line, 'e', sizeof line);
    for (int i = 0; i < 2000; i++)
        ck_assert(line_client_send_bytes(&client, line, WIRE_MAX_LINE));
    expect_error(&client, "errLineTooLong");
    line_client_ping(&other);
    line_client_send_bytes(&client, "\n", 1);
    line_client_ping(&client);
    ck_assert_int_eq(bench_count("*"), 0);
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

// One byte after another, each alone: a request all the same, and no burden to others.
START_TEST(row_25_a_byte_at_a_time)
{
    static const char line[] = "{\"op\":\"acquire\",\"key\":\"slow\"}\n";
    struct line_client client, other;

    rows_start("1s");
    client = rows_connect();
    other = rows_connect();
    for (size_t i = 0; i < sizeof line - 1; i++) {
        line_client_send_bytes(&client, line + i, 1);
        line_client_ping(&other);
    }
    line_client_expect(&client, "{'ok':true,'op':'acquire','key':'slow'}");
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

// ---- Row 26 ----

static const char *const bad_members[] = {
    "\"ttl_ms\":0",        "\"ttl_ms\":-1",
    "\"ttl_ms\":1",        "\"ttl_ms\":9223372036854775807",
    "\"ttl_ms\":\"30\"",   "\"deadline_ms\":0",
    "\"deadline_ms\":-1",  "\"deadline_ms\":9223372036854775807",
    "\"label\":\"a\\nb\"", "\"label\":\"a\\u001bb\"",
};

static const char *const bad_keys[] = {
    "", "a\\u0000b", "a\\nb", "a\\rb", "\\u001b[31m", "a\\u007fb", "a\\u0085b",
};

static const char *const odd_keys[] = {
    "%s%n%d%100000d",
    "*3\\\\r\\\\n$3\\\\r\\\\nDEL",
    "$-1",
    "{a}b{c}",
    "a b\\u00e9\\ud83d\\ude00",
    "'; redis.call('FLUSHALL') --",
    "\\\"quoted\\\"",
    "lock:lock:",
    "../../etc",
    "*",
    "[a-z]?",
};

START_TEST(row_26_bad_ttl_and_key)
{
    struct line_client client;
    char line[2048], longest[WIRE_MAX_KEY + 2];

    rows_start("1s");
    client = rows_connect();
    rows_await_up(&client);
    for (size_t i = 0; i < sizeof bad_members / sizeof bad_members[0]; i++) {
        snprintf(line, sizeof line, "{\"op\":\"acquire\",\"key\":\"k\",%s}\n", bad_members[i]);
        line_client_send_bytes(&client, line, strlen(line));
        expect_error(&client, "errBadRequest");
    }
    for (size_t i = 0; i < sizeof bad_keys / sizeof bad_keys[0]; i++) {
        snprintf(line, sizeof line, "{\"op\":\"acquire\",\"key\":\"%s\"}\n", bad_keys[i]);
        line_client_send_bytes(&client, line, strlen(line));
        expect_error(&client, "errBadRequest");
    }
    memset(longest, 'l', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    line_client_send(&client, "{'op':'acquire','key':'%s'}", longest);
    expect_error(&client, "errBadRequest");
    ck_assert_int_eq(fault_proxy_count(proxy, RESP_ACQUIRE, NULL, 0), 0); // before Redis
    line_client_close(&client);
}
END_TEST

START_TEST(row_26_odd_keys_pass_byte_for_byte)
{
    struct line_client client;
    char line[512], name[256];

    rows_start("30s");
    client = rows_connect();
    private_redis_run(&redis, "SET canary alive");
    for (size_t i = 0; i < sizeof odd_keys / sizeof odd_keys[0]; i++) {
        snprintf(line, sizeof line, "{\"op\":\"acquire\",\"key\":\"%s\"}\n", odd_keys[i]);
        line_client_send_bytes(&client, line, strlen(line));
        line_client_expect(&client, "{'ok':true,'op':'acquire'}");
        snprintf(name, sizeof name, "lock:%s", line_client_string(&client, "key"));
        ck_assert_int_eq(private_redis_int(&redis, "EXISTS %s", name), 1);
        line_client_send(&client, "{'op':'release','lease':'%s'}",
                         line_client_string(&client, "lease"));
        line_client_expect(&client, "{'ok':true,'op':'release'}");
        ck_assert_int_eq(private_redis_int(&redis, "EXISTS %s", name), 0);
    }
    ck_assert_str_eq(private_redis_string(&redis, "GET canary"), "alive");
    line_client_close(&client);
}
END_TEST

// ---- Row 27 ----

static void expect_held(struct line_client *client, const char *key, int64_t fence)
{
    line_client_send(client, "{'op':'acquire','key':'%s'}", key);
    line_client_expect(client,
                       "{'ok':false,'op':'acquire','error':'errLockHeld','key':'%s',"
                       "'retry_after_ms':'<int>','holder':{'fence':%lld,'pid':%d}}",
                       key, (long long)fence, (int)getpid());
    ck_assert_int_gt(line_client_int(client, "retry_after_ms"), 0);
    ck_assert_int_le(line_client_int(client, "retry_after_ms"), 2000);
}

START_TEST(row_27_same_key_twice)
{
    struct sidecar_process second = {.name = "second"};
    struct line_client client, same_sidecar, other_sidecar;
    struct line_lease lease;

    rows_start("2s");
    sidecar_process_start(&second, redis.url, "--lock-ttl", "2s", NULL);
    client = rows_connect();
    same_sidecar = rows_connect();
    line_client_connect(&other_sidecar, second.socket);
    rows_acquire(&client, &lease, "same", "");
    expect_held(&client, "same", lease.fence);
    expect_held(&same_sidecar, "same", lease.fence);
    expect_held(&other_sidecar, "same", lease.fence);
    line_client_release(&client, &lease);
    rows_acquire(&other_sidecar, &lease, "same", "");
    expect_held(&client, "same", lease.fence);
    line_client_release(&other_sidecar, &lease);
    line_client_close(&other_sidecar);
    line_client_close(&same_sidecar);
    line_client_close(&client);
    bench_stop(&second);
}
END_TEST

START_TEST(row_27_foreign_locker)
{
    struct line_client client;
    struct line_lease lease;

    rows_start("2s");
    client = rows_connect();
    private_redis_run(&redis, "SET lock:foreign its-capability NX PX 60000");
    line_client_send(&client, "{'op':'acquire','key':'foreign'}");
    line_client_expect(&client, "{'ok':false,'error':'errLockHeld','retry_after_ms':'<int>',"
                                "'holder':{'foreign':true,'bytes':14}}");
    ck_assert_ptr_null(strstr(client.line, "its-capability"));
    // And the other way round: what we hold, its SET NX does not get.
    rows_acquire(&client, &lease, "ours", "");
    ck_assert_int_eq(private_redis_reply(&redis, "SET lock:ours its NX PX 60000")->type,
                     REDIS_REPLY_NIL);
    line_client_close(&client);
}
END_TEST

// Everybody wants it at once, through two sidecars: one gets it, and the fence only rises.
START_TEST(row_27_all_at_once)
{
    enum { CLIENTS = 8, ROUNDS = 40 };
    struct sidecar_process second = {.name = "second"};
    struct line_client clients[CLIENTS];
    char lease[33];
    int64_t fence = 0;

    rows_start("2s");
    sidecar_process_start(&second, redis.url, "--lock-ttl", "2s", NULL);
    for (int i = 0; i < CLIENTS; i++)
        line_client_connect(&clients[i], i % 2 ? second.socket : sidecar.socket);
    for (int round = 0; round < ROUNDS; round++) {
        int winners = 0, winner = 0;

        for (int i = 0; i < CLIENTS; i++)
            line_client_send(&clients[i], "{'op':'acquire','key':'all'}");
        for (int i = 0; i < CLIENTS; i++) {
            line_client_receive(&clients[i]);
            if (json_is_false(line_client_member(&clients[i], "ok"))) {
                ck_assert_str_eq(line_client_string(&clients[i], "error"), "errLockHeld");
                continue;
            }
            winners++;
            winner = i;
            strcpy(lease, line_client_string(&clients[i], "lease"));
            ck_assert_int_gt(line_client_int(&clients[i], "fence"), fence);
            fence = line_client_int(&clients[i], "fence");
        }
        ck_assert_int_eq(winners, 1);
        line_client_send(&clients[winner], "{'op':'release','lease':'%s'}", lease);
        line_client_expect(&clients[winner], "{'ok':true,'op':'release'}");
    }
    for (int i = 0; i < CLIENTS; i++)
        line_client_close(&clients[i]);
    bench_stop(&second);
}
END_TEST

// ---- Row 28 ----

// A renewal is under way, its answer held up, when the client releases.
START_TEST(row_28_release_and_a_renewal_in_flight)
{
    struct rows_holder holder;
    int64_t since_ms;

    rows_start("3s");
    rows_hold(&holder, "racing", "");
    since_ms = scratch_boottime_ms();
    fault_proxy_hold(proxy, FAULT_DOWN, true);
    SCRATCH_UNTIL(2000, fault_proxy_count(proxy, RESP_RENEW, NULL, since_ms) > 0);
    line_client_send(&holder.client, "{'id':1,'op':'release','lease':'%s'}", holder.lease.lease);
    SCRATCH_UNTIL(200, fault_proxy_count(proxy, RESP_RELEASE, NULL, since_ms) > 0);
    since_ms = scratch_boottime_ms() + 1;
    fault_proxy_hold(proxy, FAULT_DOWN, false);
    line_client_expect(&holder.client, "{'ok':true,'id':1,'op':'release'}");
    ck_assert(!bench_exists("racing"));
    // No word and no renewal after it.
    scratch_pause_ms(1200);
    rows_expect_silence(&holder);
    ck_assert_int_eq(fault_proxy_count(proxy, RESP_RENEW, holder.lease.lease, since_ms), 0);
    ck_assert(!bench_exists("racing"));
    rows_leave(&holder);
}
END_TEST

// The release and the deadline come together, in every order: one terminal message, and a reply.
START_TEST(row_28_release_and_a_revoke)
{
    struct line_client client;
    struct line_lease lease;
    int revoked = 0, released = 0;

    rows_start("1s");
    client = rows_connect();
    for (int i = 0; i < 24; i++) {
        int64_t at_ms;
        bool told = false;

        rows_acquire(&client, &lease, "racing", ",'deadline_ms':40");
        at_ms = client.received_ms + 30 + i;
        while (scratch_boottime_ms() < at_ms)
            ;
        line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
        line_client_receive(&client);
        if (line_client_member(&client, "event")) {
            ck_assert_str_eq(line_client_string(&client, "reason"), "deadline");
            told = true;
            line_client_receive(&client);
        }
        ck_assert_str_eq(line_client_string(&client, "op"), "release");
        ck_assert_int_eq(json_is_true(line_client_member(&client, "ok")), !told);
        if (told)
            ck_assert(json_is_true(line_client_member(&client, "freed")));
        line_client_ping(&client); // nothing behind it
        ck_assert(!bench_exists("racing"));
        revoked += told;
        released += !told;
    }
    ck_assert_int_gt(revoked, 0);
    ck_assert_int_gt(released, 0);
    line_client_close(&client);
}
END_TEST

START_TEST(row_28_release_and_another_release)
{
    struct line_client holder, other;
    struct line_lease lease;
    int good;

    rows_start("2s");
    holder = rows_connect();
    other = rows_connect();
    for (int i = 0; i < 20; i++) {
        rows_acquire(&holder, &lease, "racing", "");
        line_client_send(i % 2 ? &holder : &other, "{'op':'release','lease':'%s'}", lease.lease);
        line_client_send(i % 2 ? &other : &holder, "{'op':'release','lease':'%s'}", lease.lease);
        line_client_receive(&other);
        good = json_is_true(line_client_member(&other, "ok"));
        line_client_receive(&holder);
        if (line_client_member(&holder, "event")) {
            ck_assert_str_eq(line_client_string(&holder, "reason"), "released");
            line_client_receive(&holder);
        }
        good += json_is_true(line_client_member(&holder, "ok"));
        ck_assert_int_eq(good, 1);
        ck_assert(!bench_exists("racing"));
        line_client_ping(&holder);
        line_client_ping(&other);
    }
    line_client_close(&holder);
    line_client_close(&other);
}
END_TEST

// ---- Row 29 ----

enum stops { BY_RELEASE, BY_END, NEVER, STOPS };

START_TEST(row_29_deadline_while_the_client_works)
{
    struct rows_holder holder;
    struct rival *rival;
    int64_t stopped_ms;

    rows_start("2s");
    rows_hold(&holder, "works", ",'deadline_ms':500");
    rival = rival_new(redis.socket, "works");
    rows_await_revoked(&holder, 1500);
    ck_assert_str_eq(holder.reason, "deadline");
    ck_assert_int_ge(holder.revoked_ms, holder.lease.sent_ms + 500);
    ck_assert_int_gt(holder.safe_ms, 0);
    scratch_pause_ms(200); // it goes on working: the key is there
    ck_assert_int_eq(rival_won_ms(rival), 0);
    stopped_ms = scratch_boottime_ms();
    if (_i == BY_RELEASE) {
        line_client_send(&holder.client, "{'op':'release','lease':'%s'}", holder.lease.lease);
        line_client_expect(&holder.client, "{'ok':false,'error':'errLostActorLock','freed':true}");
    } else if (_i == BY_END) {
        rows_leave(&holder);
    }
    rival_await(rival, 3000);
    if (_i == NEVER) {
        ck_assert_int_ge(rival_won_ms(rival), holder.valid_until_ms);
        ck_assert_int_le(rival_won_ms(rival), holder.valid_until_ms + 22 + ROWS_NOISE_MS);
        rows_expect_silence(&holder);
    } else {
        ck_assert_int_ge(rival_won_ms(rival), stopped_ms);
        ck_assert_int_le(rival_won_ms(rival), stopped_ms + SOON_MS);
    }
    rival_free(rival);
    rows_leave(&holder);
}
END_TEST

// ---- Row 30 ----

START_TEST(row_30_out_of_descriptors)
{
    struct rows_holder holder;
    struct line_client clients[200];
    int refused = 0, served = 0;
    int64_t cpu_ms;

    sidecar.descriptor_limit = 64;
    rows_start("1s");
    rows_hold(&holder, "kept", "");
    for (int i = 0; i < 200; i++) {
        int r = line_client_try_connect(&clients[i], sidecar.socket);

        ck_assert_msg(r == 0 || r == -EAGAIN, "connect: %s", strerror(-r));
        if (r == 0)
            line_client_send_bytes(&clients[i], "{\"op\":\"ping\"}\n", 14);
    }
    cpu_ms = scratch_cpu_ms(sidecar.pid);
    rows_expect_held(&holder, 1500);
    cpu_ms = scratch_cpu_ms(sidecar.pid) - cpu_ms;
    ck_assert_int_ge(holder.renewed, 4);
    ck_assert_int_lt(cpu_ms, 500);
    for (int i = 0; i < 200; i++) {
        if (clients[i].fd < 0 || !line_client_wait(&clients[i], 0))
            continue;
        line_client_receive(&clients[i]);
        if (json_is_true(line_client_member(&clients[i], "ok"))) {
            served++;
            continue;
        }
        ck_assert_str_eq(line_client_string(&clients[i], "error"), "errLimitExceeded");
        refused++;
    }
    ck_assert_int_gt(served, 20);
    ck_assert_int_gt(refused, 0);
    // A new connection to Redis can be had all the same: there is a reserve.
    fault_proxy_cut(proxy);
    rows_await_renewed(&holder);
    for (int i = 0; i < 200; i++)
        line_client_close(&clients[i]);
    rows_release(&holder);
    rows_leave(&holder);
}
END_TEST

// ---- Row 31 ----

// Another user, who acquires and releases, each time in time. Exits 0 if so.
static pid_t fork_other_user(int *done)
{
    int ends[2];
    pid_t pid;

    ck_assert_int_eq(pipe(ends), 0);
    pid = scratch_fork();
    if (pid == 0) {
        struct line_client client;
        struct line_lease lease;
        char byte;

        if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0)
            _exit(2);
        line_client_connect(&client, sidecar.socket);
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        close(ends[1]);
        while (read(ends[0], &byte, 1) != 0) {
            int64_t began_ms = scratch_boottime_ms();

            rows_acquire(&client, &lease, "others", "");
            line_client_release(&client, &lease);
            if (scratch_boottime_ms() - began_ms > 2 * SOON_MS)
                _exit(3);
            scratch_pause_ms(5);
        }
        _exit(0);
    }
    close(ends[0]);
    *done = ends[1];
    return pid;
}

START_TEST(row_31_one_user_opens_too_many_leases)
{
    int asked = rows_long() ? 100000 : 6000, cap = rows_long() ? 65536 : 4000;
    struct line_client client;
    int granted = 0, done;
    char number[16], line[128];
    pid_t other;

    if (geteuid() != 0) {
        rows_skip("another user needs root");
        return;
    }
    snprintf(number, sizeof number, "%d", cap);
    ck_assert_int_eq(chmod(scratch_path(""), 0711), 0);
    ck_assert_int_eq(chmod(scratch_path(".."), 0711), 0);
    sidecar_process_start(&sidecar, redis.url, "--max-leases-per-uid", number, "--socket-mode",
                          "0666", NULL);
    client = rows_connect();
    other = fork_other_user(&done);
    for (int sent = 0, read = 0; read < asked; read++) {
        while (sent < asked && sent - read < 500) {
            snprintf(line, sizeof line, "{\"op\":\"acquire\",\"key\":\"many:%d\"}\n", sent++);
            line_client_send_bytes(&client, line, strlen(line));
        }
        line_client_receive(&client);
        if (json_is_true(line_client_member(&client, "ok"))) {
            granted++;
            continue;
        }
        ck_assert_str_eq(line_client_string(&client, "error"), "errLimitExceeded");
        ck_assert_ptr_nonnull(
            strstr(line_client_string(&client, "message"), "--max-leases-per-uid"));
    }
    ck_assert_int_eq(granted, cap);
    // At its cap, the other one goes on as before.
    scratch_pause_ms(200);
    close(done);
    ck_assert_int_eq(scratch_exit_code(other, 5000), 0);
    line_client_close(&client);
    SCRATCH_UNTIL(30000, bench_count("lock:many:*") == 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of clients");
    TCase *tests = rows_case(suite, "clients", rows_setup);

    rows_add(tests, row_21_killed_while_idle);
    rows_add(tests, row_21_killed_in_the_middle_of_an_acquire);
    rows_add(tests, row_22_child_keeps_the_descriptor);
    rows_add(tests, row_22_the_deadline_ends_it);
    rows_add(tests, row_23_floods_and_does_not_read);
    rows_add(tests, row_23_cannot_be_told);
    rows_add(tests, row_24_half_close);
    rows_add(tests, row_25_nonsense);
    rows_add(tests, row_25_lines_too_long);
    rows_add(tests, row_25_a_byte_at_a_time);
    rows_add(tests, row_26_bad_ttl_and_key);
    rows_add(tests, row_26_odd_keys_pass_byte_for_byte);
    rows_add(tests, row_27_same_key_twice);
    rows_add(tests, row_27_foreign_locker);
    rows_add(tests, row_27_all_at_once);
    rows_add(tests, row_28_release_and_a_renewal_in_flight);
    rows_add(tests, row_28_release_and_a_revoke);
    rows_add(tests, row_28_release_and_another_release);
    rows_add_loop(tests, row_29_deadline_while_the_client_works, STOPS);
    rows_add(tests, row_30_out_of_descriptors);
    rows_add(tests, row_31_one_user_opens_too_many_leases);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
