// SPDX-License-Identifier: Apache-2.0
//
// The validity page of the real sidecar: how a client gets it, that it can only read it, what it
// costs, and what stands in it when the sidecar ends.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tool/bench.h"

static struct line_client connected(void)
{
    struct line_client client;

    line_client_connect(&client, sidecar.socket);
    return client;
}

// A lease of a client that has a page: its slot.
static int64_t hold(struct line_client *client, struct line_lease *lease, const char *key,
                    const char *more)
{
    int64_t slot;

    line_client_acquire(client, lease, key, more);
    slot = line_client_int(client, "slot");
    ck_assert_int_eq(line_client_slot(client, slot), lease->valid_until_ms * 1000000);
    return slot;
}

// Heartbeats of a client that wants to hear of nothing.
START_TEST(it_follows_the_heartbeats)
{
    struct line_client client;
    struct line_lease lease;
    int64_t slot, before_ns;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    client = connected();
    line_client_open_page(&client);
    slot = hold(&client, &lease, "k", "");
    for (int i = 0; i < 4; i++) {
        before_ns = line_client_slot(&client, slot);
        SCRATCH_UNTIL(1000, line_client_slot(&client, slot) != before_ns);
        ck_assert_int_gt(line_client_slot(&client, slot), before_ns);
        // Never more than was sent for: at most a TTL from now.
        ck_assert_int_lt(line_client_slot(&client, slot),
                         (scratch_boottime_ms() + 1000) * INT64_C(1000000));
        ck_assert(line_client_valid(&client, slot));
    }
    line_client_release(&client, &lease);
    ck_assert_int_eq(line_client_slot(&client, slot), 0);
    line_client_ping(&client); // nothing else was said
    line_client_close(&client);
}
END_TEST

// Through the mapping, the descriptor, and others made of it; as the sidecar's own user, too.
START_TEST(a_client_cannot_write_it)
{
    struct line_client client;
    struct line_lease lease;
    int64_t slot, value = INT64_MAX;
    char path[32];
    void *memory;
    int fd;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", NULL);
    client = connected();
    line_client_open_page(&client);
    slot = hold(&client, &lease, "k", "");
    memory = (void *)(uintptr_t)client.page;
    ck_assert_int_eq(mprotect(memory, LINE_CLIENT_PAGE, PROT_READ | PROT_WRITE), -1);
    ck_assert_int_eq(madvise(memory, LINE_CLIENT_PAGE, MADV_REMOVE), -1);
    ck_assert_int_eq(pwrite(client.passed_fd, &value, sizeof value, 0), -1);
    ck_assert_int_eq(ftruncate(client.passed_fd, 0), -1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", client.passed_fd);
    if (fchmod(client.passed_fd, 0600) == 0) { // its owner may
        fd = open(path, O_RDWR | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(pwrite(fd, &value, sizeof value, 0), -1);
        ck_assert_int_eq(ftruncate(fd, 0), -1);
        ck_assert_int_eq(ftruncate(fd, 2 * LINE_CLIENT_PAGE), -1);
        ck_assert_ptr_eq(mmap(NULL, LINE_CLIENT_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
                         MAP_FAILED);
        close(fd);
    }
    ck_assert_int_eq(line_client_slot(&client, slot), lease.valid_until_ms * 1000000);
    line_client_close(&client);
}
END_TEST

// A hundred clients with a page each: as many descriptors as without.
START_TEST(a_page_that_was_passed_costs_no_descriptor)
{
    enum { CLIENTS = 100 };
    struct line_client clients[CLIENTS];
    int before;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", NULL);
    clients[0] = connected();
    line_client_ping(&clients[0]);
    SCRATCH_UNTIL(5000, (line_client_send(&clients[0], "{'op':'ping'}"),
                         line_client_expect(&clients[0], "{'ok':true}"),
                         strcmp(line_client_string(&clients[0], "redis"), "up") == 0));
    before = sidecar_process_descriptors(&sidecar);
    for (int i = 1; i < CLIENTS; i++) {
        clients[i] = connected();
        line_client_open_page(&clients[i]);
    }
    ck_assert_int_eq(sidecar_process_descriptors(&sidecar), before + CLIENTS - 1);
    for (int i = 0; i < CLIENTS; i++)
        line_client_close(&clients[i]);
}
END_TEST

// The sidecar is out of descriptors: refused by name, and the client goes on without.
START_TEST(no_descriptor_for_a_page)
{
    enum { CLIENTS = 64 };
    struct line_client clients[CLIENTS];
    struct line_lease lease;
    int count = 0;

    sidecar.descriptor_limit = CLIENTS;
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", NULL);
    for (;; count++) {
        ck_assert_int_lt(count, CLIENTS);
        clients[count] = connected();
        line_client_send(&clients[count], "{'op':'ping'}");
        line_client_receive(&clients[count]);
        if (json_is_false(line_client_member(&clients[count], "ok")))
            break;
    }
    line_client_send(&clients[0], "{'op':'hello','page':true}");
    line_client_expect(&clients[0], "{'ok':false,'op':'hello','error':'errLimitExceeded'}");
    ck_assert_ptr_nonnull(strstr(line_client_string(&clients[0], "message"), "page"));
    line_client_acquire(&clients[0], &lease, "k", "");
    ck_assert_ptr_null(line_client_member(&clients[0], "slot"));
    for (int i = 1; i <= count; i++) // there is room again
        line_client_close(&clients[i]);
    SCRATCH_UNTIL(5000, sidecar_process_descriptors(&sidecar) < CLIENTS / 2);
    line_client_open_page(&clients[0]);
    line_client_close(&clients[0]);
}
END_TEST

// socat reads without recvmsg: it loses the descriptor and nothing else.
START_TEST(a_client_that_knows_nothing_of_descriptors)
{
    char command[512], text[4096];
    size_t length;
    FILE *pipe;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", NULL);
    snprintf(command, sizeof command,
             "printf '%%s\\n' '{\"op\":\"hello\",\"page\":true}' "
             "'{\"op\":\"acquire\",\"key\":\"k\"}' | socat -t 5 - UNIX-CONNECT:%s",
             sidecar.socket);
    pipe = popen(command, "re");
    ck_assert_ptr_nonnull(pipe);
    length = fread(text, 1, sizeof text - 1, pipe);
    text[length] = '\0';
    ck_assert_int_eq(pclose(pipe), 0);
    ck_assert_msg(strstr(text, "\"op\":\"hello\"") != NULL, "%s", text);
    ck_assert_msg(strstr(text, "\"slot\":0}") != NULL, "%s", text);
    bench_await_gone("k", 5000);
}
END_TEST

// More leases than slots: the others are told of by messages alone, as ever.
START_TEST(more_leases_than_slots)
{
    struct line_client client;
    struct line_lease lease;
    bool seen[WIRE_PAGE_SLOTS] = {false};
    int slots = 0;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", NULL);
    client = connected();
    line_client_open_page(&client);
    for (int i = 0; i < WIRE_PAGE_SLOTS + 10; i++) {
        char key[16];
        const json_t *slot;

        snprintf(key, sizeof key, "k%d", i);
        line_client_acquire(&client, &lease, key, "");
        slot = line_client_member(&client, "slot");
        if (!slot)
            continue;
        ck_assert(!seen[json_integer_value(slot)]);
        seen[json_integer_value(slot)] = true;
        slots++;
    }
    ck_assert_int_eq(slots, WIRE_PAGE_SLOTS);
    line_client_close(&client);
}
END_TEST

// SIGUSR2: who adopts goes on by what stands there. SIGTERM: 0 by the time that it is told.
START_TEST(when_the_sidecar_ends)
{
    struct line_client client;
    struct line_lease lease;
    int64_t slot;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "30s", "--drain-timeout", "100ms",
                          NULL);
    client = connected();
    line_client_open_page(&client);
    slot = hold(&client, &lease, "k", "");
    sidecar_process_stop(&sidecar, _i == 0 ? SIGUSR2 : SIGTERM);
    if (_i == 0) {
        line_client_expect_eof(&client);
        ck_assert_int_eq(sidecar_process_wait(&sidecar, 5000), 0);
        ck_assert(line_client_valid(&client, slot));
    } else {
        line_client_expect(&client, "{'event':'revoked','reason':'shutdown'}");
        ck_assert_int_eq(line_client_slot(&client, slot), 0);
        line_client_send(&client, "{'op':'release','lease':'%s'}", lease.lease);
        line_client_expect(&client, "{'ok':false,'op':'release','freed':true}");
        ck_assert_int_eq(sidecar_process_wait(&sidecar, 5000), 0);
    }
    bench_check_log(&sidecar);
    line_client_close(&client);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("page");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, it_follows_the_heartbeats);
    tcase_add_test(tests, a_client_cannot_write_it);
    tcase_add_test(tests, a_page_that_was_passed_costs_no_descriptor);
    tcase_add_test(tests, no_descriptor_for_a_page);
    tcase_add_test(tests, a_client_that_knows_nothing_of_descriptors);
    tcase_add_test(tests, more_leases_than_slots);
    tcase_add_loop_test(tests, when_the_sidecar_ends, 0, 2);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
