// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper and the validity page: what it shows without a message, which slot a lease is read
// from, and what becomes of it without a page, or with something that is none.

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lock_keeper.h"
#include "protocol/wire.h"
#include "tests/tool/bench.h"
#include "tests/tool/fake_sidecar.h"
#include "tests/tool/library_client.h"

enum { WAIT_MS = 8000, TTL_MS = 900 };
#define TTL "900ms"

static struct lock_keeper *keeper;
static struct fake_sidecar fake;

static void begin(const char *ttl)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", ttl, NULL);
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_ptr_nonnull(keeper);
}

static void teardown(void)
{
    keeper = lock_keeper_free(keeper);
    bench_teardown();
}

// Mappings of pages in this process.
static int pages(void)
{
    char *maps = scratch_read("/proc/self/maps");
    int count = 0;

    for (const char *at = maps; (at = strstr(at, "/memfd:")); at++)
        count++;
    free(maps);
    return count;
}

// It is valid for so long, by nothing that this process reads.
static void stays_valid(const struct lock_keeper_lease *lease, int64_t ms)
{
    int64_t deadline = scratch_deadline(ms);

    while (scratch_left(deadline) > 0) {
        ck_assert(lock_keeper_valid(lease));
        scratch_pause_ms(1);
    }
}

// ---- With the real sidecar ----

START_TEST(heartbeats_show_without_a_message)
{
    struct lock_keeper_lease *lease;
    int64_t until;

    begin(TTL);
    lease = library_acquired(keeper, "k");
    ck_assert_int_eq(pages(), 1);
    until = lock_keeper_lease_valid_until_ms(lease);
    stays_valid(lease, 4 * TTL_MS);
    ck_assert_int_ge(lock_keeper_lease_valid_until_ms(lease), until + 3 * TTL_MS);
    ck_assert_int_le(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + TTL_MS);
    library_event_alive(keeper,
                        LOCK_KEEPER_EVENT_RENEWED); // all that while there was something to read
    sidecar_process_signal(&sidecar, SIGSTOP);
    SCRATCH_UNTIL(WAIT_MS, !lock_keeper_valid(lease));
    ck_assert_int_ge(lock_keeper_now_ms(), lock_keeper_lease_valid_until_ms(lease));
    sidecar_process_signal(&sidecar, SIGCONT);
}
END_TEST

START_TEST(its_end_shows_without_a_message)
{
    struct lock_keeper_lease *lease;
    struct lock_keeper *other;

    begin("30s");
    lease = library_acquired(keeper, "k");
    other = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(lock_keeper_release_token(other, lock_keeper_lease_token(lease)), 0);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), 0);
    ck_assert(lock_keeper_lease_is_held(lease)); // nothing was read yet
    SCRATCH_UNTIL(WAIT_MS, lock_keeper_wait(keeper, 10) >= 0 && !lock_keeper_lease_is_held(lease));
    ck_assert_int_eq(lock_keeper_lease_reason(lease), LOCK_KEEPER_REASON_RELEASED);
    ck_assert(!lock_keeper_valid(lease));
    lock_keeper_free(other);
}
END_TEST

START_TEST(released_by_its_digits)
{
    struct lock_keeper_lease *lease;

    begin("30s");
    lease = library_acquired(keeper, "k");
    ck_assert_int_eq(lock_keeper_release_token(keeper, lock_keeper_lease_token(lease)), 0);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert(!lock_keeper_lease_is_held(lease));
    ck_assert_ptr_null(lock_keeper_lease_free(lease));
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
}
END_TEST

// Those without a slot live by messages.
START_TEST(more_leases_than_slots)
{
    enum { LEASES = WIRE_PAGE_SLOTS + 8 };
    struct lock_keeper_lease *leases[LEASES];
    char key[16];

    begin("30s");
    for (int i = 0; i < LEASES; i++) {
        snprintf(key, sizeof key, "k%d", i);
        leases[i] = library_acquired(keeper, key);
    }
    for (int i = 0; i < LEASES; i++)
        ck_assert(lock_keeper_valid(leases[i]));
    for (int i = 0; i < LEASES; i++)
        ck_assert_int_eq(lock_keeper_release(keeper, leases[i]), 0);
    ck_assert_int_eq(pages(), 1);
}
END_TEST

static struct checker {
    pthread_t thread;
    const struct lock_keeper_lease *lease;
    atomic_bool ending;
    atomic_long checks, invalid;
} checker;

// In bursts: other tests want the processors, too. (tests/fault checks without pause.)
static void *check(void *context)
{
    struct checker *own = context;

    while (!own->ending) {
        for (int i = 0; i < 5000; i++)
            own->invalid += !lock_keeper_valid(own->lease);
        own->checks++;
        scratch_pause_ms(1);
    }
    return NULL;
}

// A thread checks while the sidecar goes and comes, again and again: the old page is
// right until the lease is adopted, then the new one. Nothing piles up.
START_TEST(many_reconnects)
{
    enum { ROUNDS = 10 };
    struct lock_keeper_lease *lease;
    int before;

    begin("6s");
    lease = library_acquired(keeper, "k");
    before = scratch_descriptors(0);
    checker = (struct checker){.lease = lease};
    ck_assert_int_eq(pthread_create(&checker.thread, NULL, check, &checker), 0);
    for (int i = 0; i < ROUNDS; i++) {
        sidecar_process_kill(&sidecar);
        library_event_alive(keeper, LOCK_KEEPER_EVENT_DISCONNECTED);
        ck_assert_int_eq(pages(), i == 0 ? 1 : 2); // the second is for the next one
        sidecar_process_restart(&sidecar);
        library_event_alive(keeper, LOCK_KEEPER_EVENT_ADOPTED);
        ck_assert_int_eq(pages(), 2);
    }
    ck_assert_int_eq(scratch_descriptors(0), before);
    checker.ending = true;
    pthread_join(checker.thread, NULL);
    ck_assert_int_gt(checker.checks, ROUNDS);
    ck_assert_int_eq(checker.invalid, 0);
    ck_assert_ptr_null(lock_keeper_lease_free(lease));
    ck_assert_int_eq(pages(), 1);
    keeper = lock_keeper_free(keeper);
    ck_assert_int_eq(pages(), 0);
}
END_TEST

// After the adoption nothing is read any more.
START_TEST(adopted_into_the_new_page)
{
    struct lock_keeper_lease *lease;

    begin("1500ms");
    library_acquired(keeper, "first"); // so that the slots differ
    lease = library_acquired(keeper, "k");
    library_event_alive(keeper, LOCK_KEEPER_EVENT_CONNECTED);
    sidecar_process_kill(&sidecar);
    library_event_alive(keeper, LOCK_KEEPER_EVENT_DISCONNECTED);
    sidecar_process_restart(&sidecar);
    while (library_event_alive(keeper, LOCK_KEEPER_EVENT_ADOPTED)->lease != lease)
        ck_assert(lock_keeper_valid(lease));
    stays_valid(lease, 2 * 1500);
}
END_TEST

// The sidecar has descriptors for a connection, and none for a page.
START_TEST(no_descriptor_for_a_page)
{
    enum { CLIENTS = 64 };
    struct line_client clients[CLIENTS];
    struct lock_keeper_lease *lease;
    int count = 0;

    sidecar.descriptor_limit = CLIENTS;
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", TTL, NULL);
    for (;; count++) {
        ck_assert_int_lt(count, CLIENTS);
        line_client_connect(&clients[count], sidecar.socket);
        line_client_send(&clients[count], "{'op':'ping'}");
        line_client_receive(&clients[count]);
        if (json_is_false(line_client_member(&clients[count], "ok")))
            break;
    }
    line_client_close(&clients[count]);
    line_client_close(&clients[--count]);
    keeper = lock_keeper_new(sidecar.socket);
    SCRATCH_UNTIL(WAIT_MS, lock_keeper_ping(keeper) == 0);
    lock_keeper_clear_error(keeper); // it may have been too early for a connection
    ck_assert_int_eq(pages(), 0);
    lease = library_acquired(keeper, "k");
    for (int i = 0; i < 4; i++)
        library_event_alive(keeper, LOCK_KEEPER_EVENT_RENEWED);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
    for (int i = 0; i < count; i++)
        line_client_close(&clients[i]);
}
END_TEST

// ---- With one that says anything ----

#define HELLO_PAGE "? {'op':'hello','page':true}\npass page\n" FAKE_HELLO_OK
#define ACQUIRE "? {'op':'acquire'}\n"
#define GRANT_MEMBERS "'ok':true,'id':$id,'key':'k','fence':7,'ttl_ms':3000,'deadline_ms':60000,"
#define GRANT(lease, more) "> {" GRANT_MEMBERS "'lease':'" lease "','valid_until_ms':$now+2900" more
#define SLOT_0 ",'slot':0}\n"
#define SLOT_7 ",'slot':7}\n"
#define NO_SLOT "}\n"
#define PING "? {'op':'ping'}\n> {'ok':true,'id':$id,'op':'ping','redis':'up'}\n"
#define OTHER_LEASE "ffeeddccbbaa99887766554433221100"

static void begin_fake(const char *steps)
{
    fake_sidecar_start(&fake, steps);
    keeper = lock_keeper_new(fake.socket);
    ck_assert_ptr_nonnull(keeper);
}

static void end_fake(void)
{
    keeper = lock_keeper_free(keeper);
    fake_sidecar_stop(&fake);
    ck_assert_int_eq(pages(), 0);
}

// By messages: what is granted, and what is read of a renewal.
static void lives_by_messages(void)
{
    int before = scratch_descriptors(0);
    struct lock_keeper_lease *lease = library_acquired(keeper, "k");
    int64_t until = lock_keeper_lease_valid_until_ms(lease);

    ck_assert_int_eq(pages(), 0);
    ck_assert_int_eq(scratch_descriptors(0), before + 1);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_gt(until, lock_keeper_now_ms() + 1000);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_int_gt(lock_keeper_lease_valid_until_ms(lease), until);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
}
#define MESSAGES                                                                                   \
    ACQUIRE GRANT(FAKE_LEASE, SLOT_0) "pause 5\n> {'event':'renewed','lease':'" FAKE_LEASE         \
                                      "','valid_until_ms':$now+2900}\n" PING

// An older sidecar, one without descriptors, one without memory.
static const char *const refusals[] = {
    "'error':'errBadRequest','message':'page: no such member'",
    "'error':'errLimitExceeded','message':'page: out of descriptors'",
    "'error':'errInternal','message':'page: out of memory'",
};

START_TEST(a_page_that_is_refused)
{
    char steps[4096];

    snprintf(steps, sizeof steps, "%s> {'ok':false,'id':$id,%s}\n%s%s%s",
             "? {'op':'hello','page':true}\n", refusals[_i], "?= {'id':'<string>','op':'hello'}\n",
             FAKE_HELLO_OK, MESSAGES);
    begin_fake(steps);
    lives_by_messages();
    end_fake();
}
END_TEST

// Twice is enough.
START_TEST(a_greeting_that_is_refused_without_a_page_too)
{
    begin_fake("? {'op':'hello','page':true}\n"
               "> {'ok':false,'id':$id,'error':'errLimitExceeded','message':'m'}\n"
               "?= {'id':'<string>','op':'hello'}\n"
               "> {'ok':false,'id':$id,'error':'errLimitExceeded','message':'m'}\nwait-close\n");
    ck_assert_int_eq(lock_keeper_connect(keeper), LOCK_KEEPER_E_LIMIT_EXCEEDED);
    end_fake();
}
END_TEST

static const char *const strangers[] = {
    "", "pass two\n", "pass short\n", "pass long\n", "pass unsealed\n", "pass pipe\n",
};

START_TEST(a_descriptor_that_is_none_of_a_page)
{
    char steps[4096];

    snprintf(steps, sizeof steps, "? {'op':'hello','page':true}\n%s%s%s", strangers[_i],
             FAKE_HELLO_OK, MESSAGES);
    begin_fake(steps);
    lives_by_messages();
    end_fake();
}
END_TEST

// With two of its lines, with a hello that did not ask, and with what comes after it.
static const char *const misplaced[] = {
    "? {'op':'hello'}\npass page\n> {'event':'moonrise'}\npass page\n" FAKE_HELLO_OK,
    "? {'op':'hello'}\n> {'ok':false,'id':$id,'error':'errBadRequest','message':'m'}\n"
    "? {'op':'hello'}\npass page\n" FAKE_HELLO_OK,
    "? {'op':'hello'}\n" FAKE_HELLO_OK PING "pass page\n",
};

START_TEST(a_descriptor_at_the_wrong_time)
{
    char steps[4096];

    snprintf(steps, sizeof steps, "%s%s", misplaced[_i], MESSAGES);
    begin_fake(steps);
    if (_i == 2)
        ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    if (_i == 2) {
        struct lock_keeper_lease *lease = library_acquired(keeper, "k");

        ck_assert(lock_keeper_valid(lease));
        ck_assert_int_eq(lock_keeper_ping(keeper), 0);
        ck_assert_int_eq(pages(), 0);
    } else {
        lives_by_messages();
    }
    end_fake();
}
END_TEST

// A connection that breaks between the descriptor and the end of the greeting.
START_TEST(a_greeting_that_breaks_off)
{
    int before;

    begin_fake("? {'op':'hello'}\npass page\n>- {'ok':true\nclose\n" HELLO_PAGE PING);
    before = scratch_descriptors(0);
    ck_assert_int_ne(lock_keeper_connect(keeper), 0);
    ck_assert_int_eq(scratch_descriptors(0), before);
    ck_assert_int_eq(pages(), 0);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_int_eq(scratch_descriptors(0), before + 1);
    ck_assert_int_eq(pages(), 1);
    end_fake();
}
END_TEST

static const char *const no_slots[] = {NO_SLOT, ",'slot':512}\n", ",'slot':9007199254740991}\n"};

START_TEST(a_grant_without_a_slot)
{
    struct lock_keeper_lease *lease;
    char steps[4096];

    snprintf(steps, sizeof steps, "%s%s%s%s%s", HELLO_PAGE, ACQUIRE, GRANT(FAKE_LEASE, ""),
             no_slots[_i], PING);
    begin_fake(steps);
    lease = library_acquired(keeper, "k");
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    end_fake();
}
END_TEST

// Without a page: a program that was itself held up reads what has come in before it believes its clock.
START_TEST(what_has_come_in_is_read_first)
{
    struct pollfd renewed = {.events = POLLIN};
    struct lock_keeper_lease *lease;

    begin_fake(FAKE_HELLO ACQUIRE
               "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE "','valid_until_ms':$now+300}\n"
               "? {'op':'ping'}\n"
               "> {'event':'renewed','lease':'" FAKE_LEASE "','valid_until_ms':$now+60000}\n"
               "> {'ok':true,'id':$id,'op':'ping','redis':'up'}\n");
    lock_keeper_set_margin(keeper, 50);
    lease = library_acquired(keeper, "k");
    ck_assert_int_eq(lock_keeper_start_ping(keeper, NULL), 0);
    renewed.fd = lock_keeper_get_socket(keeper);
    ck_assert_int_eq(poll(&renewed, 1, WAIT_MS), 1);
    SCRATCH_UNTIL(WAIT_MS, !lock_keeper_valid(lease));
    library_event_alive(keeper, LOCK_KEEPER_EVENT_REPLY);
    ck_assert(lock_keeper_lease_is_held(lease) && lock_keeper_valid(lease));
    end_fake();
}
END_TEST

// The page has the word: not what a message said before or since.
START_TEST(what_the_slot_says)
{
    struct lock_keeper_lease *lease;
    int64_t until;

    begin_fake(HELLO_PAGE ACQUIRE "slot 7 $now+50000\n" GRANT(
        FAKE_LEASE, SLOT_7) "? {'op':'ping'}\nslot 7 0\n"
                            "> {'event':'renewed','lease':'" FAKE_LEASE
                            "','valid_until_ms':$now+2950}\n"
                            "> {'ok':true,'id':$id}\n" PING);
    lease = library_acquired(keeper, "k");
    until = lock_keeper_lease_valid_until_ms(lease);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_gt(until, lock_keeper_now_ms() + 40000);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), 0);
    ck_assert(lock_keeper_lease_is_held(lease));
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    end_fake();
}
END_TEST

START_TEST(what_is_over_does_not_look_at_its_slot)
{
    static const char *const ends[] = {
        "> {'event':'revoked','reason':'deadline','lease':'" FAKE_LEASE
        "','safe_ms':1000,'valid_until_ms':$now+1000}\n",
        "> {'event':'moonrise'}\n",
    };
    struct lock_keeper_lease *lease, *other;
    char steps[4096];

    snprintf(steps, sizeof steps, "%s%sslot 7 $now+2900\n%s%s%s%s%sslot 7 $now+2900\n%s%s",
             HELLO_PAGE, ACQUIRE, GRANT(FAKE_LEASE, SLOT_7), PING, ends[_i],
             "? {'op':'release'}\n> {'ok':true,'id':$id}\n", ACQUIRE, GRANT(OTHER_LEASE, SLOT_7),
             PING);
    begin_fake(steps);
    lease = library_acquired(keeper, "k");
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_int_eq(lock_keeper_release_token(keeper, FAKE_LEASE), 0);
    ck_assert(!lock_keeper_valid(lease));
    other = library_acquired(keeper, "k");
    ck_assert(lock_keeper_valid(other));
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    end_fake();
}
END_TEST

#define ADOPT "? {'op':'adopt'}\n"

// The next page, its other slot, and no page at all.
START_TEST(the_slot_of_an_adoption)
{
    struct lock_keeper_lease *lease;

    begin_fake(HELLO_PAGE ACQUIRE "slot 0 $now+20000\n" GRANT(FAKE_LEASE, SLOT_0) PING "close\n" //
               HELLO_PAGE ADOPT "slot 0 $now+90000\nslot 7 $now+30000\n" GRANT(FAKE_LEASE, SLOT_7)
                   PING "close\n" //
               FAKE_HELLO ADOPT GRANT(FAKE_LEASE, SLOT_7) PING);
    lease = library_acquired(keeper, "k");
    ck_assert_int_gt(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 10000);
    ck_assert_int_le(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 20000);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0); // it closes after each
    library_event_alive(keeper, LOCK_KEEPER_EVENT_ADOPTED);
    ck_assert_int_gt(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 20000);
    ck_assert_int_le(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 30000);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    library_event_alive(keeper, LOCK_KEEPER_EVENT_ADOPTED);
    ck_assert_int_le(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 3000);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    end_fake();
}
END_TEST

START_TEST(another_time_namespace)
{
    struct lock_keeper_lease *lease;

    begin_fake("? {'op':'hello','page':true}\npass page\n"
               "> {'ok':true,'id':$id,'protocol':1,'now_ms':$now+86400000}\n" ACQUIRE
               "slot 0 $now+86402900\n"
               "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE
               "','valid_until_ms':$now+86402900" SLOT_0 PING);
    lease = library_acquired(keeper, "k");
    ck_assert_int_eq(pages(), 0);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_le(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 2900);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    end_fake();
}
END_TEST

#define LOOP(tests, name, cases)                                                                   \
    tcase_add_loop_test(tests, name, 0, (int)(sizeof(cases) / sizeof(cases)[0]))

static TCase *fake_cases(void)
{
    TCase *tests = tcase_create("fake");

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, scratch_open, scratch_close);
    LOOP(tests, a_page_that_is_refused, refusals);
    tcase_add_test(tests, a_greeting_that_is_refused_without_a_page_too);
    LOOP(tests, a_descriptor_that_is_none_of_a_page, strangers);
    LOOP(tests, a_descriptor_at_the_wrong_time, misplaced);
    tcase_add_test(tests, a_greeting_that_breaks_off);
    LOOP(tests, a_grant_without_a_slot, no_slots);
    tcase_add_test(tests, what_has_come_in_is_read_first);
    tcase_add_test(tests, what_the_slot_says);
    tcase_add_loop_test(tests, what_is_over_does_not_look_at_its_slot, 0, 2);
    tcase_add_test(tests, the_slot_of_an_adoption);
    tcase_add_test(tests, another_time_namespace);
    return tests;
}

static Suite *suite(void)
{
    Suite *suite = suite_create("client_page");
    TCase *tests = tcase_create("real");

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, bench_setup, teardown);
    tcase_add_test(tests, heartbeats_show_without_a_message);
    tcase_add_test(tests, its_end_shows_without_a_message);
    tcase_add_test(tests, released_by_its_digits);
    tcase_add_test(tests, more_leases_than_slots);
    tcase_add_test(tests, many_reconnects);
    tcase_add_test(tests, adopted_into_the_new_page);
    tcase_add_test(tests, no_descriptor_for_a_page);
    suite_add_tcase(suite, tests);
    suite_add_tcase(suite, fake_cases());
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
