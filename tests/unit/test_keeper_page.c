// SPDX-License-Identifier: Apache-2.0
//
// The keeper and validity pages: what a slot says from the grant to the end, in which order with
// what the client is told, and when a slot is used again. Slots are read as a client reads them,
// through the descriptor.

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "sidecar/page.h"
#include "tests/tool/keeper_rig.h"
#include "tests/tool/scratch.h"

static struct rig rig;
static struct rig_client a, b, root;
static struct rig_lease lease;
static const int64_t *page; // a's
static int descriptors;

// The rig's own hook, and what this test's sees of a's page each time a line is written to it.
static void (*rig_output)(struct session *session);
static int64_t slot_at_output;

static void on_output(struct session *session)
{
    slot_at_output = page[0];
    rig_output(session);
}

static const int64_t *open_page(struct rig_client *client)
{
    const void *view;

    rig_send(client, "{'op':'hello','page':true}");
    rig_expect(client, "{'ok':true,'op':'hello'}");
    view = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, client->session.page->fd, 0);
    ck_assert(view != MAP_FAILED);
    return view;
}

static void begin(void)
{
    struct keeper_options options = rig_options(&rig);

    descriptors = scratch_descriptors(0);
    options.uid = 4321;
    rig_open_with(&rig, &options);
    rig_connect(&rig, &a, 1000);
    rig_connect(&rig, &b, 1000);
    rig_connect(&rig, &root, 0);
    page = open_page(&a);
    rig_output = a.session.output;
    a.session.output = on_output;
}

static void end(void)
{
    for (int i = 0; i < RIG_CLIENTS; i++)
        if (rig.clients[i])
            rig_gone(rig.clients[i]);
    while (fake_store_unseen(&rig.fake) > 0) { // what the last ones held is deleted
        for (size_t i = 0; i < rig.fake.count; i++) {
            struct fake_call *call = &rig.fake.calls[i];
            if (!call->seen && call->op != STORE_RENEW)
                fake_store_complete(&rig.fake, call, STORE_OK, rig.now_ms);
            call->seen = true;
        }
    }
    rig_close(&rig);
    for (int i = 0; i < WIRE_PAGE_SLOTS; i++)
        ck_assert_int_eq(page[i], 0);
    munmap((void *)(uintptr_t)page, PAGE_BYTES);
    ck_assert_int_eq(scratch_descriptors(0), descriptors);
}

// In nanoseconds.
static int64_t until(void)
{
    return lease.valid_until_ms * 1000000;
}

static bool has_slot(const struct rig_client *client)
{
    return json_object_get(client->line, "slot") != NULL;
}

static void acquire(const char *more)
{
    rig_acquire(&a, &lease, "k", more);
    ck_assert_int_eq(rig_int(&a, "slot"), 0);
    ck_assert_int_eq(page[0], until());
    ck_assert_int_eq(slot_at_output, until()); // before the grant was written
}

// ---- From the grant on ----

START_TEST(a_grant_names_its_slot)
{
    struct rig_lease second;

    acquire("");
    rig_acquire(&a, &second, "other", "");
    ck_assert_int_eq(rig_int(&a, "slot"), 1);
    ck_assert_int_eq(page[1], second.valid_until_ms * 1000000);
    for (int i = 2; i < WIRE_PAGE_SLOTS; i++)
        ck_assert_int_eq(page[i], 0);
    rig_acquire(&b, &second, "third", ""); // it has no page
    ck_assert(!has_slot(&b));
}
END_TEST

START_TEST(one_page_for_a_connection)
{
    struct page *before = a.session.page;

    rig_send(&a, "{'op':'hello','page':true}");
    rig_expect(&a, "{'ok':false,'op':'hello','error':'errBadRequest'}");
    ck_assert_ptr_nonnull(strstr(rig_string(&a, "message"), "\"page\""));
    ck_assert_ptr_eq(a.session.page, before);
    rig_send(&a, "{'op':'hello','page':false}");
    rig_expect(&a, "{'ok':true,'op':'hello'}");
    rig_send(&b, "{'op':'hello'}");
    rig_expect(&b, "{'ok':true,'op':'hello'}");
    ck_assert_ptr_null(b.session.page);
    acquire("");
}
END_TEST

// What was granted before there was a page has no slot; what was asked for before has one.
START_TEST(granted_before_and_after)
{
    struct rig_lease before;
    const int64_t *other;

    rig_acquire(&b, &before, "before", "");
    rig_send(&b, "{'op':'acquire','key':'after'}");
    other = open_page(&b);
    fake_store_grant(&rig.fake, fake_store_expect(&rig.fake, STORE_ACQUIRE), 9, rig.now_ms);
    rig_expect(&b, "{'ok':true,'op':'acquire','key':'after','slot':0}");
    ck_assert_int_eq(other[0], rig_int(&b, "valid_until_ms") * 1000000);
    rig_pass(&rig, RIG_P);
    for (int i = 0; i < 2; i++)
        rig_complete(&rig, STORE_RENEW, STORE_OK);
    for (int i = 1; i < WIRE_PAGE_SLOTS; i++)
        ck_assert_int_eq(other[i], 0);
    munmap((void *)(uintptr_t)other, PAGE_BYTES);
}
END_TEST

// With `renewed` asked for, or not.
START_TEST(a_heartbeat_moves_it)
{
    struct fake_call *call;

    acquire(_i ? ",'notify':['renewed']" : "");
    rig_pass(&rig, RIG_P);
    call = fake_store_expect(&rig.fake, STORE_RENEW);
    fake_store_write(&rig.fake, call, rig.now_ms);
    ck_assert_int_eq(page[0], until()); // asked is not answered
    rig_pass(&rig, 100);
    fake_store_complete(&rig.fake, call, STORE_OK, rig.now_ms);
    ck_assert_int_eq(page[0], (rig.now_ms - 100 + RIG_VALID) * 1000000);
    if (_i) {
        rig_expect(&a, "{'event':'renewed'}");
        ck_assert_int_eq(page[0], rig_int(&a, "valid_until_ms") * 1000000);
        ck_assert_int_eq(slot_at_output, page[0]);
    }
    rig_expect_nothing(&a);
}
END_TEST

START_TEST(a_failed_heartbeat_moves_nothing)
{
    struct fake_call *call;

    acquire("");
    rig_pass(&rig, RIG_P);
    call = fake_store_expect(&rig.fake, STORE_RENEW);
    fake_store_write(&rig.fake, call, rig.now_ms);
    fake_store_complete(&rig.fake, call, STORE_UNAVAILABLE, rig.now_ms);
    ck_assert_int_eq(page[0], until());
}
END_TEST

// ---- Ends: 0 by the time that the line is written ----

static void ask_to_move(struct rig_client *to)
{
    rig_send(to, "{'op':'adopt','key':'k','lease':'%s'}", lease.lease);
    rig_complete(&rig, STORE_ADOPT, STORE_OK);
}

// Before any heartbeat is due.
static void by_deadline(void)
{
    rig_at(&rig, RIG_START + 2000);
}

// Its heartbeat is not answered, and D comes.
static void by_d(void)
{
    rig_at(&rig, RIG_START + RIG_P);
    fake_store_write(&rig.fake, fake_store_expect(&rig.fake, STORE_RENEW), rig.now_ms);
    ck_assert_int_eq(page[0], until());
    rig_at(&rig, RIG_START + RIG_D - 1);
    ck_assert_int_eq(page[0], until());
    rig_at(&rig, RIG_START + RIG_D);
}

static void by_loss(void)
{
    rig_at(&rig, RIG_START + RIG_P);
    rig_complete(&rig, STORE_RENEW, STORE_NOT_OWNER);
}

static void by_shutdown(void)
{
    keeper_shutdown(&rig.keeper, rig.now_ms);
}

static void by_break(void)
{
    rig_send(&root, "{'op':'break','key':'k','grace_ms':1000}");
}

static void by_anothers_release(void)
{
    rig_send(&b, "{'op':'release','lease':'%s'}", lease.lease);
}

static void by_moving(void)
{
    ask_to_move(&b);
}

static void by_half_close(void)
{
    rig_half_close(&a);
}

static const struct ending {
    const char *reason, *more;
    void (*end)(void);
} endings[] = {
    {"deadline", ",'deadline_ms':2000", by_deadline},
    {"unreachable", "", by_d},
    {"lost", "", by_loss},
    {"shutdown", "", by_shutdown},
    {"broken", "", by_break},
    {"released", "", by_anothers_release},
    {"moved", "", by_moving},
    {"eof", "", by_half_close},
};

START_TEST(zero_before_revoked)
{
    const struct ending *ending = &endings[_i];

    acquire(ending->more);
    slot_at_output = -1;
    ending->end();
    ck_assert_int_eq(page[0], 0);
    while (rig_take(&a) && strcmp(rig_string(&a, "event"), "revoked") != 0)
        ;
    ck_assert_str_eq(rig_string(&a, "reason"), ending->reason);
    ck_assert_int_eq(slot_at_output, 0);
}
END_TEST

// Whatever the store says later: an answer on its way when the lease was revoked changes nothing.
START_TEST(zero_for_ever)
{
    struct fake_call *call;

    acquire("");
    rig_at(&rig, RIG_START + RIG_P);
    call = fake_store_expect(&rig.fake, STORE_RENEW);
    fake_store_write(&rig.fake, call, rig.now_ms);
    rig_at(&rig, RIG_START + RIG_D);
    rig_expect(&a, "{'event':'revoked','reason':'unreachable'}");
    fake_store_complete(&rig.fake, call, STORE_OK, rig.now_ms);
    ck_assert_int_eq(page[0], 0);
}
END_TEST

// As soon as it is read, though its reply takes Redis' time.
START_TEST(zero_at_the_release)
{
    acquire("");
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    ck_assert_int_eq(page[0], 0);
    rig_expect_nothing(&a);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'release'}");
}
END_TEST

// By itself, cut off, or with a lease that goes on without it.
START_TEST(zero_at_the_connections_end)
{
    acquire(_i == 2 ? ",'bind':'none'" : "");
    if (_i == 1)
        rig_cut(&a);
    else
        rig_gone(&a);
    ck_assert_int_eq(page[0], 0);
    if (_i == 1)
        rig_at(&rig, lease.valid_until_ms); // its key stays until then
    if (_i != 2)
        return;
    rig_pass(&rig, RIG_P);
    rig_complete(&rig, STORE_RENEW, STORE_OK); // it is renewed, and nobody is told
    ck_assert_int_eq(page[0], 0);
    rig_send(&b, "{'op':'release','lease':'%s'}", lease.lease);
}
END_TEST

// ---- Adoption ----

START_TEST(a_lease_that_moves_takes_the_adopters_slot)
{
    const int64_t *other = open_page(&b);
    struct rig_lease more;

    acquire("");
    rig_acquire(&b, &more, "other", "");
    rig_pass(&rig, 1000);
    ask_to_move(&b);
    rig_expect(&a, "{'event':'revoked','reason':'moved'}");
    rig_expect(&b, "{'ok':true,'op':'adopt','slot':1}");
    ck_assert_int_eq(page[0], 0);
    ck_assert_int_eq(other[1], (rig.now_ms + RIG_VALID) * 1000000);
    ask_to_move(&a); // and back, where its slot was kept
    rig_expect(&a, "{'ok':true,'op':'adopt','slot':0}");
    ck_assert_int_eq(other[1], 0);
    ck_assert_int_eq(page[0], (rig.now_ms + RIG_VALID) * 1000000);
    munmap((void *)(uintptr_t)other, PAGE_BYTES);
}
END_TEST

// Its validity is never in doubt, and its slot the same.
START_TEST(a_lease_adopted_by_its_own_connection)
{
    acquire("");
    rig_pass(&rig, 1000);
    ask_to_move(&a);
    rig_expect(&a, "{'ok':true,'op':'adopt','slot':0,'valid_until_ms':%lld}",
               (long long)rig.now_ms + RIG_VALID);
    ck_assert_int_eq(page[0], (rig.now_ms + RIG_VALID) * 1000000);
    ck_assert_int_eq(slot_at_output, page[0]);
    rig_expect_nothing(&a);
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'release'}");
    ck_assert_uint_eq(a.session.leases, SLOT_NONE);
}
END_TEST

START_TEST(a_lease_from_elsewhere)
{
    static const char value[] = "00112233445566778899aabbccddeeff 0123456789abcdef lk1 77 30000 "
                                "1790000300000000 1790000000000000 812 1000 pod-9";

    rig_send(&a, "{'op':'adopt','key':'k','lease':'00112233445566778899aabbccddeeff'}");
    fake_store_adopt(&rig.fake, fake_store_expect(&rig.fake, STORE_ADOPT), value,
                     INT64_C(1790000060000000), rig.now_ms);
    rig_expect(&a, "{'ok':true,'op':'adopt','slot':0}");
    ck_assert_int_eq(page[0], (rig.now_ms + RIG_VALID) * 1000000);
}
END_TEST

// ---- When a slot is used again ----

// All but the one of `lease`.
static void fill_page(void)
{
    struct rig_lease other;
    char key[16];

    for (int i = 1; i < WIRE_PAGE_SLOTS; i++) {
        snprintf(key, sizeof key, "fill%d", i);
        rig_acquire(&a, &other, key, "");
        ck_assert_int_eq(rig_int(&a, "slot"), i);
    }
}

// One more lease of a. Whether it has a slot, which is 0 then.
static bool next_has_slot(const char *key)
{
    struct rig_lease next;

    rig_acquire(&a, &next, key, "");
    if (!has_slot(&a))
        return false;
    ck_assert_int_eq(rig_int(&a, "slot"), 0);
    ck_assert_int_eq(page[0], next.valid_until_ms * 1000000);
    return true;
}

// The client has not said that it knows: its check of the old lease must not see a new one's time.
START_TEST(not_before_the_client_said_so)
{
    acquire(",'deadline_ms':2000");
    fill_page();
    ck_assert(!next_has_slot("more"));
    by_deadline();
    rig_expect(&a, "{'event':'revoked','reason':'deadline'}");
    ck_assert(!next_has_slot("one"));
    rig_send(&b, "{'op':'release','lease':'%s'}", lease.lease); // somebody else says it
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&b, "{'ok':false,'op':'release','error':'errLostActorLock'}");
    ck_assert(!next_has_slot("two"));
    ck_assert_int_eq(page[0], 0);
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    rig_expect(&a, "{'ok':false,'op':'release','error':'errUnknownLease'}");
    ck_assert(next_has_slot("three"));
}
END_TEST

START_TEST(after_the_acknowledgement)
{
    struct fake_call *call;

    acquire(",'deadline_ms':2000");
    fill_page();
    by_deadline();
    rig_expect(&a, "{'event':'revoked','reason':'deadline'}");
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    call = fake_store_expect(&rig.fake, STORE_RELEASE);
    ck_assert(next_has_slot("one"));
    ck_assert(!next_has_slot("two"));
    fake_store_complete(&rig.fake, call, STORE_OK, rig.now_ms);
    rig_expect(&a, "{'ok':false,'op':'release','error':'errLostActorLock','freed':true}");
    ck_assert_int_ne(page[0], 0); // the old lease's end is not the new one's
}
END_TEST

START_TEST(after_the_release)
{
    acquire("");
    fill_page();
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    rig_complete(&rig, STORE_RELEASE, STORE_OK);
    rig_expect(&a, "{'ok':true,'op':'release'}");
    ck_assert(next_has_slot("one"));
}
END_TEST

// A release that was refused is none.
START_TEST(a_refused_release_changes_nothing)
{
    acquire("");
    a.session.unanswered += WIRE_MAX_UNANSWERED;
    rig_send(&a, "{'op':'release','lease':'%s'}", lease.lease);
    rig_expect(&a, "{'ok':false,'op':'release','error':'errLimitExceeded'}");
    a.session.unanswered -= WIRE_MAX_UNANSWERED;
    ck_assert_int_eq(page[0], until());
    rig_send(&a, "{'op':'release','lease':'00112233445566778899aabbccddeeff'}");
    rig_expect(&a, "{'ok':false,'op':'release','error':'errUnknownLease'}");
    ck_assert_int_eq(page[0], until());
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("keeper_page");
    TCase *tcase = tcase_create("keeper_page");

    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, a_grant_names_its_slot);
    tcase_add_test(tcase, one_page_for_a_connection);
    tcase_add_test(tcase, granted_before_and_after);
    tcase_add_loop_test(tcase, a_heartbeat_moves_it, 0, 2);
    tcase_add_test(tcase, a_failed_heartbeat_moves_nothing);
    tcase_add_loop_test(tcase, zero_before_revoked, 0, (int)(sizeof endings / sizeof endings[0]));
    tcase_add_test(tcase, zero_for_ever);
    tcase_add_test(tcase, zero_at_the_release);
    tcase_add_loop_test(tcase, zero_at_the_connections_end, 0, 3);
    tcase_add_test(tcase, a_lease_that_moves_takes_the_adopters_slot);
    tcase_add_test(tcase, a_lease_adopted_by_its_own_connection);
    tcase_add_test(tcase, a_lease_from_elsewhere);
    tcase_add_test(tcase, not_before_the_client_said_so);
    tcase_add_test(tcase, after_the_acknowledgement);
    tcase_add_test(tcase, after_the_release);
    tcase_add_test(tcase, a_refused_release_changes_nothing);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
