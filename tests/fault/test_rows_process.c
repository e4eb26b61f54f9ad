// SPDX-License-Identifier: Apache-2.0
//
// Rows 32 to 36: the sidecar's own process, from its socket to its signals.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/fault/rows.h"

// ---- Row 32 ----

// Killed with many leases: clients see the end at once, and the next sidecar heartbeats what they adopt.
// Nothing is lost, and what nobody adopts is left to run out.
START_TEST(row_32_killed_with_a_thousand_leases)
{
    enum { LEASES = 1000, CLIENTS = 10, LEFT = 7 };
    static struct line_lease leases[LEASES];
    struct line_client clients[CLIENTS], *client;
    int64_t killed_ms, least_ms = INT64_MAX;
    char key[16];

    rows_start("4s");
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = rows_connect();
    for (int i = 0; i < LEASES; i++) {
        snprintf(key, sizeof key, "kept:%d", i);
        rows_acquire(&clients[i % CLIENTS], &leases[i], key, "");
    }
    sidecar_process_kill(&sidecar);
    killed_ms = scratch_boottime_ms();
    for (int i = 0; i < CLIENTS; i++) {
        line_client_expect_eof(&clients[i]);
        ck_assert_int_le(scratch_boottime_ms() - killed_ms, 2 * ROWS_NOISE_MS);
        line_client_close(&clients[i]);
    }
    // The same command line again: the stale socket is no hindrance.
    sidecar_process_restart(&sidecar);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = rows_connect();
        rows_await_up(&clients[i]);
    }
    for (int i = 0; i < LEASES; i++) {
        if (i != LEFT)
            line_client_send(&clients[i % CLIENTS], "{'op':'adopt','key':'kept:%d','lease':'%s'}",
                             i, leases[i].lease);
    }
    for (int i = 0; i < LEASES; i++) {
        if (i == LEFT)
            continue;
        client = &clients[i % CLIENTS];
        line_client_await(client, "{'ok':true,'op':'adopt','key':'kept:%d','fence':%lld}", i,
                          (long long)leases[i].fence);
        // In time: before what the client was told by the one that died.
        if (leases[i].valid_until_ms - client->received_ms < least_ms)
            least_ms = leases[i].valid_until_ms - client->received_ms;
    }
    ck_assert_int_gt(least_ms, 0);
    line_client_send(&clients[0], "{'op':'acquire','key':'kept:%d'}", LEFT);
    line_client_await(&clients[0], "{'ok':false,'op':'acquire','error':'errLockHeld'}");
    line_client_send(&clients[0], "{'op':'release','lease':'%s'}", leases[LEFT].lease);
    line_client_await(&clients[0], "{'ok':false,'op':'release','error':'errUnknownLease'}");
    SCRATCH_UNTIL(4000 + ROWS_NOISE_MS, !bench_exists("kept:7"));
    ck_assert_int_ge(scratch_boottime_ms(), leases[LEFT].valid_until_ms);
    for (int i = 0; i < LEASES; i++) {
        if (i == LEFT)
            continue;
        client = &clients[i % CLIENTS];
        line_client_send(client, "{'op':'release','lease':'%s'}", leases[i].lease);
        line_client_expect(client, "{'ok':true,'op':'release','key':'kept:%d'}", i);
    }
    ck_assert_int_eq(bench_count("lock:kept:*"), 0);
    for (int i = 0; i < CLIENTS; i++)
        line_client_close(&clients[i]);
}
END_TEST

// The old one lives, behind the proxy; another one adopts. The old one's heartbeat, and its delete when
// its client goes, reach Redis and find nothing of theirs.
START_TEST(row_32_adopted_while_the_old_one_lives)
{
    struct sidecar_process next = {.name = "next"};
    struct rows_holder holder;
    struct line_client adopter;
    char value[512];
    int64_t since_ms;
    int deletes = _i, kind = deletes ? RESP_RELEASE : RESP_RENEW;

    rows_start("1s");
    sidecar_process_start(&next, redis.url, "--lock-ttl", "1s", NULL);
    rows_hold(&holder, "adopted", "");
    line_client_connect(&adopter, next.socket);
    line_client_send(&adopter, "{'op':'adopt','key':'adopted','lease':'%s','notify':['renewed']}",
                     holder.lease.lease);
    line_client_expect(&adopter, "{'ok':true,'op':'adopt','fence':%lld}",
                       (long long)holder.lease.fence);
    snprintf(value, sizeof value, "%s", private_redis_string(&redis, "GET lock:adopted"));
    since_ms = scratch_boottime_ms();
    if (deletes) {
        rows_leave(&holder);
    } else {
        rows_await_revoked(&holder, 1000);
        ck_assert_str_eq(holder.reason, "lost");
    }
    SCRATCH_UNTIL(1000,
                  fault_proxy_count(proxy, (enum resp_kind)kind, holder.lease.lease, since_ms) > 0);
    for (int renewed = 0; renewed < 4;) {
        ck_assert_str_eq(private_redis_string(&redis, "GET lock:adopted"), value);
        while (line_client_wait(&adopter, 1)) {
            line_client_expect(&adopter, "{'event':'renewed'}");
            renewed++;
        }
    }
    line_client_close(&adopter);
    bench_await_gone("adopted", 1000);
    rows_leave(&holder);
    bench_stop(&next);
}
END_TEST

// ---- Row 33 ----

START_TEST(row_33_sigterm)
{
    struct rows_holder worker, stubborn;
    struct line_client other;
    struct rival *rival;
    int64_t stopped_ms, ended_ms;

    sidecar_process_start(&sidecar, fault_proxy_url(proxy), "--lock-ttl", "1s", "--drain-timeout",
                          "1500ms", "--log-level", "debug", NULL);
    rows_hold(&worker, "finishes", "");
    rows_hold(&stubborn, "stubborn", "");
    other = rows_connect();
    line_client_ping(&other);
    rival = rival_new(redis.socket, "stubborn");
    sidecar_process_stop(&sidecar, SIGTERM);
    stopped_ms = scratch_boottime_ms();
    line_client_send(&other, "{'op':'acquire','key':'new'}");
    line_client_expect(&other, "{'ok':false,'op':'acquire','error':'errShuttingDown'}");
    // Work goes on, heartbeated, for the drain time.
    for (int i = 0; i < 3; i++)
        rows_await_renewed(&worker);
    rows_release(&worker);
    rows_await_revoked(&stubborn, 3000);
    ck_assert_str_eq(stubborn.reason, "shutdown");
    ck_assert_int_ge(stubborn.revoked_ms, stopped_ms + 1500 - ROWS_NOISE_MS);
    ck_assert_int_gt(stubborn.safe_ms, 0);
    // It says nothing: its key lives to the end of what was promised, the sidecar not much longer.
    rows_check_slack(&stubborn, rival, 3000);
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 3000), 0);
    ended_ms = scratch_boottime_ms();
    ck_assert_int_ge(ended_ms, stubborn.valid_until_ms);
    ck_assert_int_le(ended_ms, stubborn.valid_until_ms + 1000 / 12 + 2 * ROWS_NOISE_MS);
    bench_check_log(&sidecar);
    rival_free(rival);
    line_client_close(&other);
    rows_leave(&worker);
    rows_leave(&stubborn);
}
END_TEST

START_TEST(row_33_sigterm_without_work)
{
    struct line_client client;
    struct line_lease lease;
    int64_t stopped_ms;

    rows_start("10s");
    client = rows_connect();
    rows_acquire(&client, &lease, "done", "");
    sidecar_process_stop(&sidecar, SIGTERM);
    stopped_ms = scratch_boottime_ms();
    line_client_release(&client, &lease);
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 3000), 0);
    ck_assert_int_le(scratch_boottime_ms() - stopped_ms, 3 * ROWS_NOISE_MS);
    ck_assert(!bench_exists("done"));
    line_client_close(&client);
}
END_TEST

START_TEST(row_33_sigusr2)
{
    struct rows_holder holder;
    int64_t left_ms;

    rows_start("4s");
    rows_hold(&holder, "stays", "");
    sidecar_process_signal(&sidecar, SIGUSR2);
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 1000), 0);
    line_client_expect_eof(&holder.client);
    left_ms = bench_pttl("stays");
    ck_assert_int_gt(left_ms, 4000 - 4000 / 3 - 2 * ROWS_NOISE_MS);
    ck_assert_int_eq(
        strncmp(private_redis_string(&redis, "GET lock:stays"), holder.lease.lease, 32), 0);
    rows_leave(&holder);
}
END_TEST

// ---- Row 34 ----

START_TEST(row_34_double_start)
{
    struct line_client client;
    struct line_lease lease;
    char output[1024];
    struct stat before, after;

    rows_start("1s");
    client = rows_connect();
    rows_acquire(&client, &lease, "live", "");
    ck_assert_int_eq(stat(sidecar.socket, &before), 0);
    ck_assert_int_ne(sidecar_process_run(output, sizeof output, NULL, "--socket", sidecar.socket,
                                         "--redis", redis.url, NULL),
                     0);
    ck_assert_ptr_nonnull(strstr(output, sidecar.socket));
    ck_assert_int_eq(stat(sidecar.socket, &after), 0);
    ck_assert(before.st_ino == after.st_ino);
    line_client_ping(&client);
    line_client_close(&client);
    client = rows_connect(); // by the path: it is the live one's still
    line_client_ping(&client);
    line_client_close(&client);
}
END_TEST

// Many at once, over a stale socket: exactly one lives, and it can be connected to.
START_TEST(row_34_stale_socket)
{
    struct line_client client;

    rows_start("1s");
    sidecar_process_kill(&sidecar);
    ck_assert_int_eq(access(sidecar.socket, F_OK), 0);
    for (int i = 0; i < 3; i++) {
        sidecar_process_restart(&sidecar);
        client = rows_connect();
        line_client_ping(&client);
        line_client_close(&client);
        sidecar_process_kill(&sidecar);
    }
    sidecar_process_restart(&sidecar);
}
END_TEST

START_TEST(row_34_what_is_no_socket_of_ours)
{
    char output[1024], path[200], target[SCRATCH_MAX_PATH];
    struct stat info;
    char *text;

    // A symlink, with a file at its end.
    snprintf(target, sizeof target, "%s", scratch_path("target"));
    scratch_write(target, "precious");
    ck_assert_int_eq(symlink(target, scratch_path("link.sock")), 0);
    ck_assert_int_ne(sidecar_process_run(output, sizeof output, NULL, "--socket",
                                         scratch_path("link.sock"), "--redis", redis.url, NULL),
                     0);
    ck_assert_int_eq(lstat(scratch_path("link.sock"), &info), 0);
    ck_assert(S_ISLNK(info.st_mode));
    text = scratch_read(target);
    ck_assert_str_eq(text, "precious");
    free(text);
    ck_assert_int_ne(sidecar_process_run(output, sizeof output, NULL, "--socket", target, "--redis",
                                         redis.url, NULL),
                     0);
    ck_assert_int_eq(stat(target, &info), 0);
    ck_assert(S_ISREG(info.st_mode));
    // A path that does not fit a socket's address.
    memset(path, 'p', sizeof path - 1);
    path[0] = '/';
    path[108] = '\0';
    ck_assert_int_ne(sidecar_process_run(output, sizeof output, NULL, "--socket", path, "--redis",
                                         redis.url, NULL),
                     0);
    ck_assert_ptr_nonnull(strstr(output, "107"));
}
END_TEST

// ---- Row 35 ----

START_TEST(row_35_stderr_is_full)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    char line[8192];
    int ends[2];
    ssize_t length;
    bool counted = false;

    scratch_full_pipe(ends);
    sidecar.stderr_fd = ends[1];
    rows_start("1s");
    rows_hold(&holder, "logged", "");
    client = rows_connect();
    for (int i = 0; i < 200; i++) {
        rows_acquire(&client, &lease, "chatty", "");
        line_client_release(&client, &lease);
    }
    rows_expect_held(&holder, 700);
    ck_assert_int_ge(holder.renewed, 2);
    ck_assert_int_eq(holder.at_risk, 0);
    // Read at last: how many lines are missing is said.
    ck_assert_int_eq(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    while (read(ends[0], line, sizeof line - 1) > 0)
        ;
    for (int i = 0; i < 50 && !counted; i++) {
        rows_acquire(&client, &lease, "chatty", "");
        line_client_release(&client, &lease);
        while ((length = read(ends[0], line, sizeof line - 1)) > 0) {
            line[length] = '\0';
            counted = counted || strstr(line, "dropped") || strstr(line, "lost");
        }
    }
    ck_assert_msg(counted, "nothing is said of the lines that were dropped: %.200s", line);
    line_client_close(&client);
    rows_release(&holder);
    rows_leave(&holder);
    bench_stop(&sidecar);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

// ---- Row 36 ----

// Signals come in the middle of every system call.
START_TEST(row_36_interrupted_calls)
{
    struct rows_holder holder;
    struct line_client client;
    struct line_lease lease;
    siginfo_t info;

    rows_start("3s");
    rows_hold(&holder, "signals", "");
    client = rows_connect();
    for (int i = 0; i < 200; i++) {
        sidecar_process_signal(&sidecar, SIGSTOP);
        ck_assert_int_eq(waitid(P_PID, (id_t)sidecar.pid, &info, WSTOPPED | WNOWAIT), 0);
        sidecar_process_signal(&sidecar, SIGCONT);
        rows_acquire(&client, &lease, "much", "");
        line_client_release(&client, &lease);
    }
    rows_await_renewed(&holder);
    rows_release(&holder);
    line_client_close(&client);
    rows_leave(&holder);
}
END_TEST

// Reads in small bites what comes in large pieces: each write of the sidecar's is short, or none.
START_TEST(row_36_short_writes)
{
    enum { LISTS = 300 };
    struct line_client client, other;
    struct line_lease lease;
    char key[16];

    rows_start("10s");
    other = rows_connect();
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "row:%d", i);
        rows_acquire(&other, &lease, key, "");
    }
    client = rows_connect();
    client.deaf = true;
    for (int i = 0; i < LISTS; i += 30) {
        for (int k = 0; k < 30; k++)
            line_client_send(&client, "{'id':%d,'op':'list','limit':100}", i + k);
        for (int k = 0; k < 30; k++) {
            line_client_expect(&client, "{'ok':true,'id':%d,'op':'list'}", i + k);
            ck_assert_uint_eq(json_array_size(line_client_member(&client, "leases")), 100);
        }
    }
    line_client_close(&client);
    line_client_close(&other);
}
END_TEST

// Ends with unread bytes (ECONNRESET, EPIPE), many times; Redis' side, too, in the middle of writes.
START_TEST(row_36_broken_pipes)
{
    static const char request[] = "{\"op\":\"list\",\"limit\":500}\n";
    struct line_client client, other;
    struct line_lease lease;
    struct linger hard = {.l_onoff = 1};
    char key[16];

    rows_start("10s");
    other = rows_connect();
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "row:%d", i);
        rows_acquire(&other, &lease, key, "");
    }
    for (int i = 0; i < 50; i++) {
        client = rows_connect();
        for (int k = 0; k < 20; k++)
            line_client_send_some(&client, request, sizeof request - 1);
        setsockopt(client.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        line_client_close(&client);
    }
    line_client_ping(&other);
    other.deaf = true;
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 200; k++)
            line_client_send(&other, "{'id':%d,'op':'acquire','key':'cut:%d'}", k, k);
        fault_proxy_cut(proxy);
        for (int k = 0; k < 200; k++) {
            line_client_receive(&other);
            ck_assert_ptr_nonnull(line_client_member(&other, "ok"));
        }
    }
    rows_await_up(&other);
    line_client_close(&other);
    SCRATCH_UNTIL(3000, bench_count("lock:*") == 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("rows of the process");
    TCase *tests = rows_case(suite, "process", rows_setup);

    rows_add(tests, row_32_killed_with_a_thousand_leases);
    rows_add_loop(tests, row_32_adopted_while_the_old_one_lives, 2);
    rows_add(tests, row_33_sigterm);
    rows_add(tests, row_33_sigterm_without_work);
    rows_add(tests, row_33_sigusr2);
    rows_add(tests, row_34_double_start);
    rows_add(tests, row_34_stale_socket);
    rows_add(tests, row_34_what_is_no_socket_of_ours);
    rows_add(tests, row_35_stderr_is_full);
    rows_add(tests, row_36_interrupted_calls);
    rows_add(tests, row_36_short_writes);
    rows_add(tests, row_36_broken_pipes);
    return suite;
}

int main(void)
{
    return rows_main(suite);
}
