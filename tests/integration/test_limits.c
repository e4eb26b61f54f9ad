// SPDX-License-Identifier: Apache-2.0
//
// What one client or one user may not have more of: connections, leases, descriptors, output. Each
// has a named refusal, and the others do not notice.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"

static struct line_client connected(void)
{
    struct line_client client;

    line_client_connect(&client, sidecar.socket);
    return client;
}

// Out of descriptors (FAULTS row 30): whoever comes is told, or waits in the kernel; whoever is
// there is heartbeated; and the sidecar does not spin.
START_TEST(out_of_descriptors)
{
    struct line_client holder, clients[200];
    struct line_lease lease;
    int refused = 0, served = 0, waiting = 0;
    int64_t cpu_ms, until;

    sidecar.descriptor_limit = 64;
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    holder = connected();
    line_client_acquire(&holder, &lease, "kept", ",'notify':['renewed']");
    for (int i = 0; i < 200; i++) {
        int r = line_client_try_connect(&clients[i], sidecar.socket);

        // A full backlog is the kernel's polite refusal.
        ck_assert_msg(r == 0 || r == -EAGAIN, "connect: %s", strerror(-r));
        if (r == 0)
            line_client_send_bytes(&clients[i], "{\"op\":\"ping\"}\n", 14);
    }
    // Two TTLs of heartbeats, during which it must hardly use the processor.
    cpu_ms = scratch_cpu_ms(sidecar.pid);
    until = scratch_boottime_ms() + 2000;
    do
        line_client_expect(&holder, "{'event':'renewed'}");
    while (holder.received_ms < until);
    cpu_ms = scratch_cpu_ms(sidecar.pid) - cpu_ms;
    ck_assert_int_lt(cpu_ms, 600);
    for (int i = 0; i < 200; i++) {
        if (clients[i].fd < 0 || !line_client_wait(&clients[i], 0)) {
            waiting++;
            continue;
        }
        line_client_receive(&clients[i]);
        if (json_is_true(line_client_member(&clients[i], "ok"))) {
            served++;
            continue;
        }
        ck_assert_str_eq(line_client_string(&clients[i], "error"), "errLimitExceeded");
        line_client_expect_eof(&clients[i]);
        refused++;
    }
    ck_assert_int_ge(served, 30);
    ck_assert_int_ge(refused, 1);
    ck_assert_int_eq(served + refused + waiting, 200);
    line_client_send(&holder, "{'op':'ping'}");
    line_client_await(&holder, "{'ok':true,'op':'ping'}");
    for (int i = 0; i < 200; i++)
        line_client_close(&clients[i]);
    // There is room again.
    SCRATCH_UNTIL(5000, sidecar_process_descriptors(&sidecar) < 30);
    clients[0] = connected();
    line_client_ping(&clients[0]);
    line_client_close(&clients[0]);
    line_client_close(&holder);
}
END_TEST

START_TEST(connections_of_a_user)
{
    struct line_client clients[4], more;

    sidecar_process_start(&sidecar, redis.url, "--max-connections-per-uid", "4", NULL);
    for (int i = 0; i < 4; i++) {
        clients[i] = connected();
        line_client_ping(&clients[i]);
    }
    more = connected();
    line_client_expect(&more, "{'ok':false,'error':'errLimitExceeded','message':'<string>'}");
    ck_assert_ptr_nonnull(
        strstr(line_client_string(&more, "message"), "--max-connections-per-uid"));
    line_client_expect_eof(&more);
    line_client_close(&more);
    for (int i = 1; i < 4; i++)
        line_client_ping(&clients[i]);
    // One leaves, one may come.
    line_client_close(&clients[0]);
    for (int64_t deadline = scratch_deadline(5000);; line_client_close(&more)) {
        more = connected();
        line_client_send_bytes(&more, "{\"op\":\"ping\"}\n", 14);
        line_client_receive(&more);
        if (json_is_true(line_client_member(&more, "ok")))
            break;
        ck_assert_int_gt(scratch_left(deadline), 0);
    }
    line_client_close(&more);
    for (int i = 1; i < 4; i++)
        line_client_close(&clients[i]);
}
END_TEST

START_TEST(leases_of_a_user)
{
    struct line_client client, other;
    struct line_lease leases[3], more;

    sidecar_process_start(&sidecar, redis.url, "--max-leases-per-uid", "3", "--lock-ttl", "1s",
                          NULL);
    client = connected();
    other = connected();
    line_client_acquire(&client, &leases[0], "a", "");
    line_client_acquire(&client, &leases[1], "b", "");
    line_client_acquire(&other, &leases[2], "c", "");
    line_client_send(&other, "{'id':4,'op':'acquire','key':'d'}");
    line_client_expect(&other, "{'ok':false,'id':4,'op':'acquire','error':'errLimitExceeded'}");
    ck_assert_ptr_nonnull(strstr(line_client_string(&other, "message"), "--max-leases-per-uid"));
    ck_assert(!bench_exists("d"));
    line_client_release(&client, &leases[1]);
    line_client_acquire(&other, &more, "d", "");
    // A refused acquire (held) takes nothing of the cap.
    line_client_release(&other, &more);
    private_redis_run(&redis, "SET lock:e x");
    for (int i = 0; i < 10; i++) {
        line_client_send(&client, "{'op':'acquire','key':'e'}");
        line_client_expect(&client, "{'ok':false,'error':'errLockHeld'}");
    }
    line_client_acquire(&other, &more, "d", "");
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

enum {
    LEASES = 1200,
};

struct listing {
    int seen[LEASES]; // by the number at the end of the key
    int pages;
};

// All pages from the first, each row checked and counted.
static void read_pages(struct line_client *client, int limit, struct listing *listing)
{
    char cursor[WIRE_MAX_CURSOR + 1] = "";

    memset(listing, 0, sizeof *listing);
    do {
        const json_t *row;
        size_t i;

        if (cursor[0])
            line_client_send(client, "{'op':'list','limit':%d,'after':'%s'}", limit, cursor);
        else
            line_client_send(client, "{'op':'list','limit':%d}", limit);
        line_client_expect(client, "{'ok':true,'op':'list'}");
        ck_assert_uint_le(json_array_size(line_client_member(client, "leases")), (size_t)limit);
        json_array_foreach(line_client_member(client, "leases"), i, row)
        {
            const char *key = json_string_value(json_object_get(row, "key"));
            int number = atoi(strrchr(key, ':') + 1);

            ck_assert(number >= 0 && number < LEASES);
            listing->seen[number]++;
            ck_assert_str_eq(json_string_value(json_object_get(row, "state")), "held");
            ck_assert(json_is_integer(json_object_get(row, "held_ms")));
            ck_assert_int_gt(json_integer_value(json_object_get(row, "valid_ms")), 0);
            ck_assert_int_gt(json_integer_value(json_object_get(row, "deadline_in_ms")), 0);
            ck_assert_int_gt(json_integer_value(json_object_get(row, "fence")), 0);
            ck_assert_int_eq(
                json_integer_value(json_object_get(json_object_get(row, "holder"), "pid")),
                getpid());
            ck_assert_ptr_null(json_object_get(row, "lease"));
        }
        snprintf(cursor, sizeof cursor, "%s",
                 line_client_member(client, "next") ? line_client_string(client, "next") : "");
        ck_assert_int_lt(listing->pages++, LEASES);
    } while (cursor[0]);
}

// Keys and labels of the longest kind, so that a page of 500 would not fit a line.
START_TEST(list_in_pages)
{
    static struct listing listing;
    static char leases[LEASES][33];
    struct line_client client, other;
    char key[512], label[129];

    sidecar_process_start(&sidecar, redis.url, NULL);
    client = connected();
    other = connected();
    memset(label, 'l', sizeof label - 1);
    label[sizeof label - 1] = '\0';
    memset(key, 'k', sizeof key);
    for (int i = 0; i < LEASES; i++) {
        // Every third is long, of characters that take six bytes each in the reply.
        if (i % 3 == 0) {
            for (int c = 0; c < 160; c++)
                memcpy(key + 3 * c, "\xe2\x82\xac", 3);
            snprintf(key + 480, sizeof key - 480, ":%d", i);
        } else {
            snprintf(key, sizeof key, "k:%d", i);
        }
        line_client_send(&client, "{'id':%d,'op':'acquire','key':'%s','label':'%s'}", i, key,
                         i % 3 ? "" : label);
    }
    for (int i = 0; i < LEASES; i++) {
        line_client_expect(&client, "{'ok':true,'op':'acquire','id':%d}", i);
        strcpy(leases[i], line_client_string(&client, "lease"));
    }
    for (int limit = 500; limit >= 7; limit /= 4) {
        read_pages(&other, limit, &listing);
        ck_assert_int_ge(listing.pages, LEASES / limit);
        for (int i = 0; i < LEASES; i++)
            ck_assert_msg(listing.seen[i] == 1, "limit %d: lease %d is listed %d times", limit, i,
                          listing.seen[i]);
    }
    // By default a hundred.
    line_client_send(&other, "{'op':'list'}");
    line_client_expect(&other, "{'ok':true,'next':'<string>'}");
    ck_assert_uint_le(json_array_size(line_client_member(&other, "leases")), 100);
    line_client_close(&client);
    line_client_close(&other);
}
END_TEST

// Rows that come and go between the pages change nothing for those that stay.
START_TEST(list_while_leases_come_and_go)
{
    struct line_client client, other;
    struct line_lease lease, passing;
    int seen[60] = {0};
    char cursor[WIRE_MAX_CURSOR + 1] = "", key[32];
    int round = 0;

    sidecar_process_start(&sidecar, redis.url, NULL);
    client = connected();
    other = connected();
    for (int i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "stays:%d", i);
        line_client_acquire(&client, &lease, key, "");
        snprintf(key, sizeof key, "goes:%d", i);
        line_client_acquire(&other, &passing, key, "");
    }
    do {
        const json_t *row;
        size_t i;

        line_client_send(&client,
                         cursor[0] ? "{'op':'list','limit':7,'after':'%s'}"
                                   : "{'op':'list','limit':7%s}",
                         cursor);
        line_client_expect(&client, "{'ok':true,'op':'list'}");
        json_array_foreach(line_client_member(&client, "leases"), i, row)
        {
            const char *name = json_string_value(json_object_get(row, "key"));

            if (strncmp(name, "stays:", 6) == 0)
                seen[atoi(name + 6)]++;
        }
        snprintf(cursor, sizeof cursor, "%s",
                 line_client_member(&client, "next") ? line_client_string(&client, "next") : "");
        if (round++ == 1) {
            line_client_close(&other);
            SCRATCH_UNTIL(5000, bench_count("lock:goes:*") == 0);
            other = connected();
        }
        snprintf(key, sizeof key, "comes:%d", round);
        line_client_acquire(&other, &passing, key, "");
    } while (cursor[0]);
    for (int i = 0; i < 60; i++)
        ck_assert_msg(seen[i] == 1, "stays:%d is listed %d times", i, seen[i]);
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

// stderr is a pipe that nobody reads (FAULTS row 35).
START_TEST(full_log_pipe_blocks_nothing)
{
    struct line_client client;
    struct line_lease lease;
    int ends[2];

    scratch_full_pipe(ends);
    sidecar.stderr_fd = ends[1];
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", "--log-level", "debug", NULL);
    client = connected();
    for (int i = 0; i < 200; i++) {
        line_client_acquire(&client, &lease, "logged", "");
        line_client_release(&client, &lease);
    }
    line_client_acquire(&client, &lease, "logged", ",'notify':['renewed']");
    for (int i = 0; i < 4; i++)
        line_client_expect(&client, "{'event':'renewed'}");
    line_client_close(&client);
    bench_await_gone("logged", 1000);
    bench_stop(&sidecar);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("limits");

    tcase_set_timeout(tests, 40);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, out_of_descriptors);
    tcase_add_test(tests, connections_of_a_user);
    tcase_add_test(tests, leases_of_a_user);
    tcase_add_test(tests, list_in_pages);
    tcase_add_test(tests, list_while_leases_come_and_go);
    tcase_add_test(tests, full_log_pipe_blocks_nothing);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
