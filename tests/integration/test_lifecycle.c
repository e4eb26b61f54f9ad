// SPDX-License-Identifier: Apache-2.0
//
// The sidecar's own life: its command line, its socket, how it starts beside another, and how it
// ends.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>

#include "tests/tool/bench.h"

static struct line_client connected(void)
{
    struct line_client client;

    line_client_connect(&client, sidecar.socket);
    return client;
}

// ---- The end ----

START_TEST(sigterm_without_leases_ends_at_once)
{
    struct line_client client;
    int64_t began;

    sidecar_process_start(&sidecar, redis.url, NULL);
    client = connected();
    line_client_ping(&client);
    began = scratch_monotonic_us();
    ck_assert_int_eq(sidecar_process_terminate(&sidecar), 0);
    ck_assert_int_lt(scratch_monotonic_us() - began, 1000000);
    line_client_expect_eof(&client);
    ck_assert_int_ne(access(sidecar.socket, F_OK), 0);
    bench_check_log(&sidecar);
    line_client_close(&client);
}
END_TEST

// Work goes on in the drain time, heartbeated; the release at its end ends the sidecar.
START_TEST(sigterm_lets_the_work_finish)
{
    struct line_client client, other;
    struct line_lease lease;
    int64_t until;
    char *log;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", "--drain-timeout", "20s", NULL);
    client = connected();
    other = connected();
    line_client_acquire(&client, &lease, "drain", ",'notify':['renewed']");
    sidecar_process_stop(&sidecar, SIGTERM);
    line_client_send(&other, "{'id':1,'op':'acquire','key':'new'}");
    line_client_expect(&other, "{'ok':false,'id':1,'op':'acquire','error':'errShuttingDown'}");
    until = scratch_boottime_ms() + 1500;
    do
        line_client_expect(&client, "{'event':'renewed','lease':'%s'}", lease.lease);
    while (client.received_ms < until);
    ck_assert(bench_exists("drain"));
    line_client_ping(&other);
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':true,'op':'release'}");
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 2000), 0);
    ck_assert(!bench_exists("drain"));
    log = sidecar_process_read_log(&sidecar);
    ck_assert_ptr_nonnull(strstr(log, "lateness of the loop's wake-ups"));
    free(log);
    bench_check_log(&sidecar);
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

START_TEST(sigterm_revokes_when_the_drain_time_is_over)
{
    struct line_client client;
    struct line_lease lease;
    int64_t began;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "20s", "--drain-timeout", "500ms",
                          NULL);
    client = connected();
    line_client_acquire(&client, &lease, "drain", "");
    began = scratch_boottime_ms();
    sidecar_process_signal(&sidecar, SIGTERM);
    line_client_expect(&client,
                       "{'event':'revoked','error':'errLostActorLock','reason':'shutdown',"
                       "'lease':'%s','safe_ms':'<int>'}",
                       lease.lease);
    ck_assert_int_ge(client.received_ms, began + 500);
    ck_assert_int_le(client.received_ms, began + 500 + 300);
    ck_assert_int_gt(line_client_int(&client, "safe_ms"), 10000);
    ck_assert(bench_exists("drain"));
    // The acknowledgement frees the key and lets it go.
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
    line_client_expect(&client, "{'ok':false,'error':'errLostActorLock','freed':true}");
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 2000), 0);
    ck_assert(!bench_exists("drain"));
    bench_check_log(&sidecar);
    line_client_close(&client);
}
END_TEST

// Nobody acknowledges: it ends when the last validity has passed, and frees nothing before.
START_TEST(sigterm_unacknowledged_ends_at_valid_until)
{
    struct line_client client;
    struct line_lease lease;
    int64_t valid_until;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1500ms", "--drain-timeout", "0",
                          NULL);
    client = connected();
    line_client_acquire(&client, &lease, "drain", "");
    sidecar_process_signal(&sidecar, SIGTERM);
    line_client_expect(&client, "{'event':'revoked','reason':'shutdown','lease':'%s'}",
                       lease.lease);
    valid_until = line_client_int(&client, "valid_until_ms");
    ck_assert(bench_exists("drain"));
    ck_assert_int_ge(bench_await_gone("drain", 1500 + BENCH_NOISE_MS), valid_until);
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 1500), 0);
    ck_assert_int_ge(scratch_boottime_ms(), valid_until);
    line_client_expect_eof(&client);
    bench_check_log(&sidecar);
    line_client_close(&client);
}
END_TEST

START_TEST(sigusr2_ends_at_once_and_keeps_the_keys)
{
    struct line_client client;
    struct line_lease lease;
    int64_t began, left;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "20s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "kept", "");
    began = scratch_monotonic_us();
    sidecar_process_signal(&sidecar, SIGUSR2);
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 2000), 0);
    ck_assert_int_lt(scratch_monotonic_us() - began, 1000000);
    line_client_expect_eof(&client);
    left = bench_pttl("kept");
    ck_assert_int_gt(left, 15000);
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET lock:kept"), lease.lease, 32), 0);
    // The next one starts on the same socket at once and finds the key held.
    sidecar_process_restart(&sidecar);
    line_client_close(&client);
    client = connected();
    line_client_send(&client, "{'op':'acquire','key':'kept'}");
    line_client_expect(&client, "{'ok':false,'error':'errLockHeld','holder':{'pid':%d}}",
                       (int)getpid());
    line_client_close(&client);
}
END_TEST

START_TEST(killed_sidecar_closes_its_clients_and_is_replaced)
{
    struct line_client client;
    struct line_lease lease;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    client = connected();
    line_client_acquire(&client, &lease, "orphan", "");
    sidecar_process_kill(&sidecar);
    line_client_expect_eof(&client);
    line_client_close(&client);
    // A socket file without anybody behind it is taken over.
    ck_assert_int_eq(access(sidecar.socket, F_OK), 0);
    sidecar_process_restart(&sidecar);
    client = connected();
    line_client_ping(&client);
    // The host did not die, but the sidecar did: the key costs a TTL, no more.
    bench_await_gone("orphan", 1000 + BENCH_NOISE_MS);
    line_client_acquire(&client, &lease, "orphan", "");
    line_client_close(&client);
}
END_TEST

// ---- The socket ----

START_TEST(second_instance_exits_and_says_why)
{
    char output[4096];
    struct line_client client;
    int code;

    sidecar_process_start(&sidecar, redis.url, NULL);
    code = sidecar_process_run(output, sizeof output, NULL, "--socket", sidecar.socket, "--redis",
                               redis.url, NULL);
    ck_assert_msg(code == EX_TEMPFAIL || code == EX_UNAVAILABLE, "exit code %d: %s", code, output);
    ck_assert_msg(strstr(output, sidecar.socket) != NULL, "%s", output);
    ck_assert_msg(strstr(output, ".lock") != NULL, "%s", output);
    // The first one was not disturbed.
    client = connected();
    line_client_ping(&client);
    line_client_close(&client);
}
END_TEST

START_TEST(what_is_no_socket_is_not_removed)
{
    char output[4096], target[SCRATCH_MAX_PATH];
    const char *path;
    char *text;
    int code;

    path = scratch_path("a.file");
    scratch_write(path, "precious");
    code = sidecar_process_run(output, sizeof output, NULL, "--socket", path, "--redis", redis.url,
                               NULL);
    ck_assert_msg(code > 0 && strstr(output, path), "exit code %d: %s", code, output);
    text = scratch_read(path);
    ck_assert_str_eq(text, "precious");
    free(text);

    // A link to it neither.
    snprintf(target, sizeof target, "%s", path);
    path = scratch_path("a.link");
    ck_assert_int_eq(symlink(target, path), 0);
    code = sidecar_process_run(output, sizeof output, NULL, "--socket", path, "--redis", redis.url,
                               NULL);
    ck_assert_msg(code > 0 && strstr(output, path), "exit code %d: %s", code, output);
    ck_assert_int_eq(faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW), 0);
    text = scratch_read(target);
    ck_assert_str_eq(text, "precious");
    free(text);

    // And no folder.
    path = scratch_path("a.folder");
    ck_assert_int_eq(mkdir(path, 0700), 0);
    code = sidecar_process_run(output, sizeof output, NULL, "--socket", path, "--redis", redis.url,
                               NULL);
    ck_assert_msg(code > 0 && strstr(output, path), "exit code %d: %s", code, output);
    ck_assert_int_eq(access(path, F_OK), 0);
}
END_TEST

START_TEST(path_too_long_is_refused)
{
    char output[4096], path[160];
    int code;

    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[108] = '\0';
    code = sidecar_process_run(output, sizeof output, NULL, "--socket", path, NULL);
    ck_assert_msg(code == EX_USAGE && strstr(output, "--socket") && strstr(output, "107"),
                  "exit code %d: %s", code, output);
}
END_TEST

START_TEST(missing_folder_is_named)
{
    char output[4096];
    const char *path = scratch_path("no/such/folder/s");
    int code = sidecar_process_run(output, sizeof output, NULL, "--socket", path, NULL);

    ck_assert_msg(code > 0 && strstr(output, "no/such/folder"), "exit code %d: %s", code, output);
}
END_TEST

START_TEST(socket_has_its_mode)
{
    struct stat info;
    mode_t old = umask(077);

    sidecar_process_start(&sidecar, redis.url, "--socket-mode", "0666", NULL);
    umask(old);
    ck_assert_int_eq(stat(sidecar.socket, &info), 0);
    ck_assert(S_ISSOCK(info.st_mode));
    ck_assert_int_eq(info.st_mode & 07777, 0666);
    ck_assert_int_eq(sidecar_process_terminate(&sidecar), 0);
    sidecar.arguments[0] = NULL;
    sidecar_process_restart(&sidecar);
    ck_assert_int_eq(stat(sidecar.socket, &info), 0);
    ck_assert_int_eq(info.st_mode & 07777, 0660);
}
END_TEST

START_TEST(socket_has_its_group)
{
    struct stat info;

    if (geteuid() != 0)
        return; // only root may give it to any group
    sidecar_process_start(&sidecar, redis.url, "--socket-group", "4242", NULL);
    ck_assert_int_eq(stat(sidecar.socket, &info), 0);
    ck_assert_int_eq(info.st_gid, 4242);
    ck_assert_int_eq(info.st_mode & 07777, 0660);
}
END_TEST

START_TEST(socket_is_given_by_systemd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct line_client client;
    struct line_lease lease;

    strcpy(address.sun_path, scratch_path("given.sock"));
    sidecar.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(sidecar.listen_fd, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(sidecar.listen_fd, 16), 0);
    sidecar_process_start(&sidecar, redis.url, NULL);
    line_client_connect(&client, address.sun_path);
    line_client_acquire(&client, &lease, "given", "");
    line_client_release(&client, &lease);
    line_client_close(&client);
    bench_stop(&sidecar);
    // It is systemd's to remove.
    ck_assert_int_eq(access(address.sun_path, F_OK), 0);
    close(sidecar.listen_fd);
}
END_TEST

// ---- The command line ----

static const struct command {
    const char *arguments[4];
    int code;
    const char *says;
} commands[] = {
    {{"--version"}, 0, "lock-keeper 0."},
    {{"--version"}, 0, "hiredis"},
    {{"--version"}, 0, "jansson"},
    {{"--version"}, 0, "libev"},
    {{"--help"}, 0, "--actor-workflow-deadline"},
    {{"--help"}, 0, "LOCK_KEEPER_"},
    {{"--check-config"}, 0, "ok"},
    {{"--check-config", "--lock-ttl", "2s"}, 0, "ok"},
    {{"--check-config", "--lock-ttl=2s"}, 0, "ok"},
    {{"--no-such-flag"}, EX_USAGE, "--no-such-flag"},
    {{"argument"}, EX_USAGE, NULL},
    {{"--lock-ttl"}, EX_USAGE, "--lock-ttl"},
    {{"--lock-ttl", "30"}, EX_USAGE, "--lock-ttl"},
    {{"--lock-ttl", "0"}, EX_USAGE, "--lock-ttl"},
    {{"--lock-ttl", "499ms"}, EX_USAGE, "--lock-ttl"},
    {{"--lock-ttl", "-1s"}, EX_USAGE, "--lock-ttl"},
    {{"--check-config", "--lock-ttl", "10m"}, EX_CONFIG, "--max-lock-ttl"},
    {{"--check-config", "--revoke-margin", "29s"}, EX_CONFIG, "--revoke-margin"},
    {{"--check-config", "--revoke-margin", "1ms"}, EX_CONFIG, "--revoke-margin"},
    {{"--redis", "http://example"}, EX_USAGE, "--redis"},
    {{"--socket-mode", "rw"}, EX_USAGE, "--socket-mode"},
    {{"--log-level", "loud"}, EX_USAGE, "--log-level"},
    {{"--log-format", "xml"}, EX_USAGE, "--log-format"},
    {{"--drain-timeout", "soon"}, EX_USAGE, "--drain-timeout"},
    {{"--max-leases-per-uid", "many"}, EX_USAGE, "--max-leases-per-uid"},
};

START_TEST(command_line)
{
    const struct command *c = &commands[_i];
    static char output[65536];
    int code = sidecar_process_run(output, sizeof output, NULL, c->arguments[0], c->arguments[1],
                                   c->arguments[2], NULL);

    ck_assert_msg(code == c->code, "exit code %d, expected %d: %s", code, c->code, output);
    if (c->says)
        ck_assert_msg(strstr(output, c->says) != NULL, "without %s: %s", c->says, output);
}
END_TEST

START_TEST(environment_twins)
{
    static const char *const good[] = {"LOCK_KEEPER_LOCK_TTL=2s",
                                       "LOCK_KEEPER_KEY_PREFIX=env:", NULL};
    static const char *const bad[] = {"LOCK_KEEPER_LOCK_TTL=2", NULL};
    char output[4096];
    struct line_client client;
    struct line_lease lease;
    int code;

    code = sidecar_process_run(output, sizeof output, bad, "--check-config", NULL);
    ck_assert_msg(code == EX_CONFIG && strstr(output, "LOCK_KEEPER_LOCK_TTL"), "exit code %d: %s",
                  code, output);
    // A flag wins over its twin, even a bad one.
    code =
        sidecar_process_run(output, sizeof output, bad, "--check-config", "--lock-ttl", "3s", NULL);
    ck_assert_msg(code == 0 || code == EX_CONFIG, "exit code %d: %s", code, output);
    sidecar.environment = good;
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "3s", NULL);
    client = connected();
    line_client_send(&client, "{'op':'hello'}");
    line_client_expect(&client, "{'ok':true,'op':'hello','lock_ttl_ms':3000}");
    line_client_acquire(&client, &lease, "twin", "");
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS env:twin"), 1);
    line_client_close(&client);
}
END_TEST

START_TEST(hello_tells_the_configuration)
{
    struct line_client client;
    int64_t before;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "6s", "--actor-workflow-deadline",
                          "2m", "--max-workflow-deadline", "10m", NULL);
    client = connected();
    before = scratch_boottime_ms();
    line_client_send(&client, "{'op':'hello','id':'h'}");
    line_client_expect(&client,
                       "{'ok':true,'id':'h','op':'hello','protocol':1,'instance':'<hex:16>',"
                       "'lock_ttl_ms':6000,'heartbeat_ms':2000,'revoke_margin_ms':1200,"
                       "'deadline_ms':120000,'max_deadline_ms':600000,'max_line':4096,"
                       "'max_reply':65536,'now_ms':'<int>','redis':'<string>'}");
    ck_assert_int_eq(strncmp(line_client_string(&client, "server"), "lock-keeper/", 12), 0);
    ck_assert(json_is_array(line_client_member(&client, "caps")));
    ck_assert_int_ge(line_client_int(&client, "now_ms"), before);
    ck_assert_int_le(line_client_int(&client, "now_ms"), client.received_ms);
    line_client_close(&client);
}
END_TEST

START_TEST(log_in_json)
{
    struct line_client client;
    struct line_lease lease;
    char *log, *rest = NULL;
    int lines = 0;

    sidecar_process_start(&sidecar, redis.url, "--log-format", "json", "--log-level", "debug",
                          NULL);
    client = connected();
    line_client_acquire(&client, &lease, "quo\\\"te %s", "");
    line_client_close(&client);
    bench_await_gone("quo\"te %s", 5000);
    bench_stop(&sidecar);
    log = sidecar_process_read_log(&sidecar);
    for (char *line = strtok_r(log, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

        ck_assert_msg(json_is_object(object), "no JSON object: %s", line);
        json_decref(object);
        lines++;
    }
    ck_assert_int_gt(lines, 2);
    free(log);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("lifecycle");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, sigterm_without_leases_ends_at_once);
    tcase_add_test(tests, sigterm_lets_the_work_finish);
    tcase_add_test(tests, sigterm_revokes_when_the_drain_time_is_over);
    tcase_add_test(tests, sigterm_unacknowledged_ends_at_valid_until);
    tcase_add_test(tests, sigusr2_ends_at_once_and_keeps_the_keys);
    tcase_add_test(tests, killed_sidecar_closes_its_clients_and_is_replaced);
    tcase_add_test(tests, second_instance_exits_and_says_why);
    tcase_add_test(tests, what_is_no_socket_is_not_removed);
    tcase_add_test(tests, path_too_long_is_refused);
    tcase_add_test(tests, missing_folder_is_named);
    tcase_add_test(tests, socket_has_its_mode);
    tcase_add_test(tests, socket_has_its_group);
    tcase_add_test(tests, socket_is_given_by_systemd);
    tcase_add_test(tests, environment_twins);
    tcase_add_test(tests, hello_tells_the_configuration);
    tcase_add_test(tests, log_in_json);
    suite_add_tcase(suite, tests);

    tests = tcase_create("command line");
    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup_bare, bench_teardown);
    tcase_add_loop_test(tests, command_line, 0, (int)(sizeof commands / sizeof commands[0]));
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
