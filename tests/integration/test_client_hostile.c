// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper against a sidecar that says what it should not, or what a later version may say.

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/lock_keeper.h"
#include "tests/tool/fake_sidecar.h"
#include "tests/tool/library_client.h"
#include "tests/tool/scratch.h"

enum { WAIT_MS = 5000 };

#define ACQUIRE "? {'op':'acquire','key':'k','notify':['renewed','at_risk']}\n"
#define GRANT_MEMBERS                                                                              \
    "'ok':true,'id':$id,'op':'acquire','key':'k','ttl_ms':3000,'deadline_ms':60000,"
#define GRANT                                                                                      \
    "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE                                                     \
    "','fence':7,'valid_until_ms':$now+2900,'waited_ms':0}\n"
#define PING "? {'op':'ping'}\n> {'ok':true,'id':$id,'op':'ping','redis':'up'}\n"

static struct fake_sidecar fake;
static struct lock_keeper *keeper;

static void begin(const char *steps)
{
    fake_sidecar_start(&fake, steps);
    keeper = lock_keeper_new(fake.socket);
    ck_assert_ptr_nonnull(keeper);
}

static void end(void)
{
    keeper = lock_keeper_free(keeper);
    fake_sidecar_stop(&fake);
}

static int acquire(struct lock_keeper_lease **lease)
{
    return lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k"}, lease);
}

// ---- The first words ----

static const struct {
    const char *steps;
    int code;
} greetings[] = {
    {"? {'op':'hello'}\nclose\n", -ECONNRESET},
    {"? {'op':'hello'}\n> \xff\xfe\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> []\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'ok':true,'id':$id}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':1,'id':$id}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':2,'now_ms':$now}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':1}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':1,'now_ms':-5}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':1,'now_ms':1e3}\nclose\n", -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':1,'now_ms':9007199254740992}\nclose\n",
     -EPROTO},
    {"? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':1,'now_ms':$now,'caps':[1]}\nclose\n",
     -EPROTO},
    {"? {'op':'hello'}\n>- $x(65537,x)\nwait-close\n", -EPROTO},
    {"? {'op':'hello'}\n>- {'ok':true\nclose\n", -ECONNRESET},
    {"? {'op':'hello'}\n> {'ok':false,'id':$id,'error':'errNew','message':'m'}\nclose\n",
     LOCK_KEEPER_E_OTHER},
    {"> {'ok':false,'error':'errLimitExceeded','message':'full'}\nclose\n",
     LOCK_KEEPER_E_LIMIT_EXCEEDED},
    {"> HTTP/1.1 400 Bad Request\nclose\n", -EPROTO},
    {"deaf\n", -ETIMEDOUT},
};

START_TEST(a_greeting_that_is_none)
{
    begin(greetings[_i].steps);
    lock_keeper_set_timeout(keeper, greetings[_i].code == -ETIMEDOUT ? 200 : WAIT_MS);
    ck_assert_int_eq(lock_keeper_connect(keeper), greetings[_i].code);
    ck_assert(!lock_keeper_is_connected(keeper));
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, greetings[_i].code);
    ck_assert_str_ne(lock_keeper_get_error(keeper)->message, "");
    keeper = lock_keeper_free(keeper);
    if (greetings[_i].code == -ETIMEDOUT)
        scratch_kill(fake.pid);
    else
        fake_sidecar_stop(&fake);
}
END_TEST

// A later version says more, in other orders, and in pieces.
START_TEST(what_is_not_known_is_ignored)
{
    struct lock_keeper_lease *lease;

    begin("? {'op':'hello'}\n"
          ">b {'x':{'y':[1,null]},'now_ms':$now,'protocol':1,'id':$id,'ok':true,'tide':'?'}\n"
          "> {'event':'moonrise','phase':3}\n"
          "> {'event':'renewed','lease':'ffffffffffffffffffffffffffffffff','valid_until_ms':5}\n"
          "> {'ok':true,'id':'lk:999'}\n"
          "> {'ok':true,'id':77}\n" ACQUIRE GRANT
          "> {'event':'revoked','reason':'eclipse','lease':'" FAKE_LEASE
          "','key':'k','safe_ms':100,'valid_until_ms':$now+100,'message':'m'}\n"
          "> {'event':'revoked','reason':'lost','lease':'" FAKE_LEASE "','safe_ms':0}\n"
          "> {'event':'renewed','lease':'" FAKE_LEASE "','valid_until_ms':$now+3000}\n" PING);
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_int_eq(lock_keeper_lease_fence(lease), 7);
    const struct lock_keeper_event *event = library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_OTHER);
    ck_assert_str_eq(event->reason_name, "eclipse");
    ck_assert_int_le(event->safe_ms, 100);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_ptr_null(lock_keeper_next_event(keeper));
    end();
}
END_TEST

START_TEST(an_error_of_a_later_version)
{
    struct lock_keeper_lease *lease;

    begin(FAKE_HELLO ACQUIRE
          "> {'ok':false,'id':$id,'op':'acquire','error':'errFrozen','message':'brr'}\n" ACQUIRE
          "> {'ok':false,'id':$id,'op':'acquire','error':'errFrozen'}\n");
    ck_assert_int_eq(acquire(&lease), LOCK_KEEPER_E_OTHER);
    ck_assert_str_eq(lock_keeper_get_reply(keeper)->name, "errFrozen");
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errFrozen");
    ck_assert_str_eq(lock_keeper_get_error(keeper)->message, "brr");
    ck_assert_int_eq(acquire(&lease), LOCK_KEEPER_E_OTHER);
    ck_assert_str_eq(lock_keeper_get_reply(keeper)->message, "");
    end();
}
END_TEST

// ---- Grants that are none ----

static const char *const grants[] = {
    "> {" GRANT_MEMBERS "'fence':7,'valid_until_ms':$now+2900}\n",
    "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE "','valid_until_ms':$now+2900}\n",
    "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE "','fence':7}\n",
    "> {" GRANT_MEMBERS "'lease':'0011','fence':7,'valid_until_ms':$now+2900}\n",
    "> {" GRANT_MEMBERS "'lease':7,'fence':7,'valid_until_ms':$now+2900}\n",
    "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE "','fence':'7','valid_until_ms':$now+2900}\n",
    "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE "','fence':-7,'valid_until_ms':$now+2900}\n",
    "> {'ok':true,'id':$id,'key':'K','ttl_ms':3000,'deadline_ms':60000,'lease':'" FAKE_LEASE
    "','fence':7,'valid_until_ms':$now+2900}\n",
    "> {'ok':true,'id':$id,'key':'k','ttl_ms':0,'deadline_ms':60000,'lease':'" FAKE_LEASE
    "','fence':7,'valid_until_ms':$now+2900}\n",
    "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE
    "','fence':7,'valid_until_ms':$now+2900,'holder':3}\n",
    "> {'ok':true,'id':$id}\n",
};

// The connection is given up, and the acquire asked again on the next one.
START_TEST(a_grant_that_is_none)
{
    struct lock_keeper_lease *lease;
    char steps[4096];

    snprintf(steps, sizeof steps, "%s%swait-close\n%s%swait-close\n", FAKE_HELLO ACQUIRE,
             grants[_i], FAKE_HELLO ACQUIRE, GRANT);
    begin(steps);
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, -EPROTO);
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errProtocol");
    ck_assert(lock_keeper_valid(lease));
    end();
}
END_TEST

START_TEST(the_same_lease_twice)
{
    struct lock_keeper_lease *lease, *again;

    begin(FAKE_HELLO ACQUIRE GRANT ACQUIRE GRANT
          "wait-close\n"
          "? {'op':'hello'}\n" FAKE_HELLO_OK "? {'op':'adopt','lease':'" FAKE_LEASE
          "','key':'k','bind':'connection'}\n"
          "> {'ok':false,'id':$id,'error':'errLostActorLock','message':'gone'}\n" ACQUIRE
          "> {'ok':false,'id':$id,'error':'errLockHeld','message':'held'}\n");
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_int_eq(acquire(&again), LOCK_KEEPER_E_LOCK_HELD);
    ck_assert_int_eq(library_event(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_LOST);
    end();
}
END_TEST

// Nobody can promise more than a TTL from now.
START_TEST(a_validity_without_end)
{
    struct lock_keeper_lease *lease;

    begin(FAKE_HELLO ACQUIRE "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE
                             "','fence':7,'valid_until_ms':9007199254740991}\n"
                             "> {'event':'renewed','lease':'" FAKE_LEASE
                             "','valid_until_ms':9007199254740991}\n"
                             "> {'event':'renewed','lease':'" FAKE_LEASE "','valid_until_ms':0}\n"
                             "> {'event':'revoked','reason':'deadline','lease':'" FAKE_LEASE
                             "','safe_ms':300,'valid_until_ms':9007199254740991}\n");
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_int_le(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 3000);
    ck_assert_int_le(library_event(keeper, LOCK_KEEPER_EVENT_REVOKED)->safe_ms, 300);
    end();
}
END_TEST

START_TEST(an_old_validity_does_not_come_back)
{
    struct lock_keeper_lease *lease;
    int64_t until;

    begin(FAKE_HELLO ACQUIRE GRANT "> {'event':'renewed','lease':'" FAKE_LEASE
                                   "','valid_until_ms':$now+10}\n" PING);
    ck_assert_int_eq(acquire(&lease), 0);
    until = lock_keeper_lease_valid_until_ms(lease);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), until);
    end();
}
END_TEST

static const char *const events[] = {
    "> {'event':'renewed','lease':'" FAKE_LEASE "'}\n",
    "> {'event':'renewed','valid_until_ms':$now+3000}\n",
    "> {'event':'revoked','reason':'lost'}\n",
    "> {'event':'revoked','lease':'" FAKE_LEASE "','reason':7}\n",
    "> {'event':'at_risk','lease':'" FAKE_LEASE "','valid_until_ms':-1}\n",
    "> {'event':7}\n",
    "> {'event':'renewed','ok':true}\n",
    "> {'event':'renewed','lease':'" FAKE_LEASE "','valid_until_ms':1,'key':'a\\u0000b'}\n",
};

START_TEST(an_event_that_is_none)
{
    struct lock_keeper_lease *lease;
    char steps[4096];

    snprintf(steps, sizeof steps, "%s%swait-close\n%s? {'op':'adopt'}\n%s",
             FAKE_HELLO ACQUIRE GRANT, events[_i], FAKE_HELLO,
             "> {'ok':true,'id':$id,'op':'adopt','key':'k','ttl_ms':3000,'deadline_ms':60000,"
             "'lease':'" FAKE_LEASE "','fence':7,'valid_until_ms':$now+2900}\n");
    begin(steps);
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_ptr_eq(library_event(keeper, LOCK_KEEPER_EVENT_ADOPTED)->lease, lease);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, -EPROTO);
    end();
}
END_TEST

// ---- Adoption ----

// Refusals that may pass are asked again; the margin ends that.
START_TEST(an_adoption_that_is_refused_for_now)
{
    struct lock_keeper_lease *lease;

    begin(FAKE_HELLO ACQUIRE GRANT
          "close\n" FAKE_HELLO
          "? {'op':'adopt'}\n> {'ok':false,'id':$id,'error':'errRedisUnavailable','message':'m'}\n"
          "? {'op':'adopt'}\n> {'ok':false,'id':$id,'error':'errShuttingDown','message':'m'}\n"
          "? {'op':'adopt'}\n> {'ok':false,'id':$id,'error':'errLimitExceeded','message':'m'}\n"
          "? {'op':'adopt'}\n> {'ok':true,'id':$id,'key':'k','ttl_ms':3000,'deadline_ms':60000,"
          "'lease':'" FAKE_LEASE "','fence':7,'valid_until_ms':$now+2900}\n");
    ck_assert_int_eq(acquire(&lease), 0);
    library_event(keeper, LOCK_KEEPER_EVENT_ADOPTED);
    ck_assert(lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
    end();
}
END_TEST

START_TEST(an_adoption_that_is_never_answered)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;
    int64_t until;

    begin(FAKE_HELLO ACQUIRE "> {'ok':true,'id':$id,'key':'k','ttl_ms':600,'deadline_ms':60000,"
                             "'lease':'" FAKE_LEASE "','fence':7,'valid_until_ms':$now+590}\n"
                             "close\n" FAKE_HELLO "? {'op':'adopt'}\n"
                             "? {'op':'release','lease':'" FAKE_LEASE "'}\n"
                             "> {'ok':false,'id':$id,'error':'errUnknownLease','message':'m'}\n");
    ck_assert_int_eq(acquire(&lease), 0);
    until = lock_keeper_lease_valid_until_ms(lease);
    event = library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_UNCONFIRMED);
    ck_assert_int_ge(scratch_boottime_ms(), until - 120);
    ck_assert_int_lt(scratch_boottime_ms(), until);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert_str_eq(lock_keeper_get_reply(keeper)->name, "errLostActorLock");
    end();
}
END_TEST

// The adoption succeeds when the lease has been reported lost here: nobody acts on it, and it is given
// back with its object.
START_TEST(an_adoption_that_succeeds_too_late)
{
    struct lock_keeper_lease *lease;

    begin(FAKE_HELLO ACQUIRE "> {'ok':true,'id':$id,'key':'k','ttl_ms':600,'deadline_ms':60000,"
                             "'lease':'" FAKE_LEASE "','fence':7,'valid_until_ms':$now+590}\n"
                             "close\n" FAKE_HELLO "? {'op':'adopt','id':'<string>'}\n"
                             "? {'op':'ping'}\n"
                             "> {'ok':true,'id':'lk:4','op':'adopt','key':'k','ttl_ms':600,"
                             "'deadline_ms':60000,'lease':'" FAKE_LEASE
                             "','fence':7,'valid_until_ms':$now+590}\n"
                             "> {'ok':true,'id':$id}\n"
                             "? {'op':'release','lease':'" FAKE_LEASE "'}\n");
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_int_eq(library_event(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_UNCONFIRMED);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_ptr_null(lock_keeper_lease_free(lease));
    end();
}
END_TEST

// Another sidecar, of a release without adopt.
START_TEST(a_sidecar_that_cannot_adopt)
{
    struct lock_keeper_lease *lease;

    begin(FAKE_HELLO ACQUIRE GRANT
          "close\n" FAKE_HELLO "? {'op':'adopt'}\n"
          "> {'ok':false,'id':$id,'error':'errUnknownOp','message':'m'}\n");
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_int_eq(library_event(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_LOST);
    end();
}
END_TEST

// The answer to a release is lost with the connection: the next sidecar finds no such lease.
START_TEST(a_release_whose_answer_is_lost)
{
    struct lock_keeper_lease *lease;

    begin(FAKE_HELLO ACQUIRE GRANT
          "? {'op':'release'}\nclose\n" FAKE_HELLO "? {'op':'adopt'}\n"
          "> {'ok':false,'id':$id,'error':'errLostActorLock','message':'m'}\n");
    ck_assert_int_eq(acquire(&lease), 0);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
    end();
}
END_TEST

START_TEST(what_cannot_be_repeated)
{
    begin(FAKE_HELLO "? {'op':'break'}\nclose\n" FAKE_HELLO "? {'op':'dance'}\nclose\n" FAKE_HELLO
                     "? {'op':'list'}\nclose\n" FAKE_HELLO
                     "? {'op':'list'}\n> {'ok':true,'id':$id,'leases':[]}\n");
    ck_assert_int_eq(lock_keeper_break(keeper, "k", 0), -ECONNRESET);
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\"dance\"}"), -ECONNRESET);
    ck_assert_int_eq(lock_keeper_list(keeper, 0, NULL), 0);
    end();
}
END_TEST

// ---- Time ----

START_TEST(another_time_namespace)
{
    static const char *const steps[] = {
        "? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':1,'now_ms':$now+86400000}\n" ACQUIRE
        "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE "','fence':7,'valid_until_ms':$now+86402900}\n",
        "? {'op':'hello'}\n> {'ok':true,'id':$id,'protocol':1,'now_ms':5}\n" ACQUIRE
        "> {" GRANT_MEMBERS "'lease':'" FAKE_LEASE "','fence':7,'valid_until_ms':2905}\n",
    };
    struct lock_keeper_lease *lease;
    int64_t left;

    begin(steps[_i]);
    ck_assert_int_eq(acquire(&lease), 0);
    left = lock_keeper_lease_valid_until_ms(lease) - lock_keeper_now_ms();
    ck_assert_int_le(left, 2900);
    ck_assert_int_gt(left, 1500);
    end();
}
END_TEST

// ---- Raw calls ----

START_TEST(a_raw_call_that_is_given_up)
{
    begin(FAKE_HELLO "? {'op':'slow'}\n"
                     "? {'op':'ping','id':'<string>'}\n> {'ok':true,'id':$id,'redis':'up'}\n"
                     "? {'op':'fast'}\n> {'ok':true,'op':'slow'}\n> {'ok':true,'op':'fast'}\n");
    ck_assert_int_eq(lock_keeper_connect(keeper), 0);
    lock_keeper_set_timeout(keeper, 50);
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\"slow\"}"), -ETIMEDOUT);
    lock_keeper_set_timeout(keeper, WAIT_MS);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\"fast\"}"), 0);
    ck_assert_str_eq(lock_keeper_get_reply(keeper)->line, "{\"ok\":true,\"op\":\"fast\"}");
    end();
}
END_TEST

// What comes with the end of the connection is believed before the end is.
START_TEST(last_words)
{
    struct lock_keeper_lease *lease;

    begin(FAKE_HELLO ACQUIRE GRANT "> {'event':'revoked','reason':'shutdown','lease':'" FAKE_LEASE
                                   "','safe_ms':2000,'valid_until_ms':$now+2000}\nclose\n");
    ck_assert_int_eq(acquire(&lease), 0);
    SCRATCH_UNTIL(WAIT_MS, lock_keeper_wait(keeper, 10) >= 0 && !lock_keeper_is_connected(keeper));
    ck_assert_int_eq(library_event(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_SHUTDOWN);
    end();
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("client_hostile");
    TCase *tests = tcase_create("hostile");

    tcase_add_checked_fixture(tests, scratch_open, scratch_close);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, a_greeting_that_is_none, 0,
                        (int)(sizeof greetings / sizeof greetings[0]));
    tcase_add_test(tests, what_is_not_known_is_ignored);
    tcase_add_test(tests, an_error_of_a_later_version);
    tcase_add_loop_test(tests, a_grant_that_is_none, 0, (int)(sizeof grants / sizeof grants[0]));
    tcase_add_test(tests, the_same_lease_twice);
    tcase_add_test(tests, a_validity_without_end);
    tcase_add_test(tests, an_old_validity_does_not_come_back);
    tcase_add_loop_test(tests, an_event_that_is_none, 0, (int)(sizeof events / sizeof events[0]));
    tcase_add_test(tests, an_adoption_that_is_refused_for_now);
    tcase_add_test(tests, an_adoption_that_is_never_answered);
    tcase_add_test(tests, an_adoption_that_succeeds_too_late);
    tcase_add_test(tests, a_sidecar_that_cannot_adopt);
    tcase_add_test(tests, a_release_whose_answer_is_lost);
    tcase_add_test(tests, what_cannot_be_repeated);
    tcase_add_loop_test(tests, another_time_namespace, 0, 2);
    tcase_add_test(tests, a_raw_call_that_is_given_up);
    tcase_add_test(tests, last_words);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
