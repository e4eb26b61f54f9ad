// SPDX-License-Identifier: Apache-2.0
//
// Accounts: each cap is its uid's own and its kind's own; an account lives while anything counts
// against it, and its number is another's afterwards.
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/account.h"

static struct accounts accounts;

static void begin(uint32_t connections, uint32_t leases, uint32_t waiters)
{
    const uint32_t caps[ACCOUNT_KIND_COUNT] = {
        [ACCOUNT_CONNECTIONS] = connections,
        [ACCOUNT_LEASES] = leases,
        [ACCOUNT_WAITERS] = waiters,
    };
    accounts_init(&accounts, caps);
}

static void end(void)
{
    accounts_deinit(&accounts);
}

static uint16_t open_one(uid_t uid)
{
    uint16_t number = UINT16_MAX;

    ck_assert_int_eq(accounts_open(&accounts, uid, &number), 0);
    ck_assert_uint_eq(accounts_uid(&accounts, number), uid);
    return number;
}

START_TEST(connections_are_capped_per_uid)
{
    uint16_t first, number;

    begin(3, 1, 1);
    first = open_one(1000);
    ck_assert_uint_eq(open_one(1000), first);
    ck_assert_uint_eq(open_one(1000), first);
    ck_assert_int_eq(accounts_open(&accounts, 1000, &number), ACCOUNT_E_FULL);
    ck_assert_uint_ne(open_one(0), first);
    accounts_give(&accounts, first, ACCOUNT_CONNECTIONS);
    ck_assert_uint_eq(open_one(1000), first);
    ck_assert_int_eq(accounts_open(&accounts, 1000, &number), ACCOUNT_E_FULL);
    ck_assert_uint_eq(accounts.all[first].used[ACCOUNT_CONNECTIONS], 3);
}
END_TEST

START_TEST(kinds_do_not_share_a_cap)
{
    uint16_t number;

    begin(1, 2, 0);
    number = open_one(7);
    ck_assert_int_eq(accounts_take(&accounts, number, ACCOUNT_WAITERS), ACCOUNT_E_FULL);
    ck_assert_int_eq(accounts_take(&accounts, number, ACCOUNT_LEASES), 0);
    ck_assert_int_eq(accounts_take(&accounts, number, ACCOUNT_LEASES), 0);
    ck_assert_int_eq(accounts_take(&accounts, number, ACCOUNT_LEASES), ACCOUNT_E_FULL);
    accounts_give(&accounts, number, ACCOUNT_LEASES);
    ck_assert_int_eq(accounts_take(&accounts, number, ACCOUNT_LEASES), 0);
}
END_TEST

// A lease outlives its connection: its uid keeps its account, and its cap, meanwhile.
START_TEST(a_lease_keeps_the_account)
{
    uint16_t first, other;

    begin(10, 1, 1);
    first = open_one(1000);
    ck_assert_int_eq(accounts_take(&accounts, first, ACCOUNT_LEASES), 0);
    accounts_give(&accounts, first, ACCOUNT_CONNECTIONS);
    other = open_one(2000);
    ck_assert_uint_ne(other, first);
    ck_assert_uint_eq(open_one(1000), first);
    ck_assert_int_eq(accounts_take(&accounts, first, ACCOUNT_LEASES), ACCOUNT_E_FULL);
    accounts_give(&accounts, first, ACCOUNT_CONNECTIONS);
    ck_assert_uint_eq(accounts_uid(&accounts, first), 1000);
    accounts_give(&accounts, first, ACCOUNT_LEASES);
    ck_assert_uint_eq(open_one(3000), first); // nothing named it any more
    ck_assert_uint_eq(accounts.count, 2);
}
END_TEST

// An unused account before the uid's own one must not be taken for it.
START_TEST(a_uid_has_one_account)
{
    uint16_t a, b;

    begin(10, 1, 1);
    a = open_one(1);
    b = open_one(2);
    accounts_give(&accounts, a, ACCOUNT_CONNECTIONS);
    ck_assert_uint_eq(open_one(2), b);
    ck_assert_uint_eq(accounts.all[b].used[ACCOUNT_CONNECTIONS], 2);
}
END_TEST

START_TEST(uids_are_bounded)
{
    uint16_t number;

    begin(1, 1, 1);
    for (uid_t uid = 0; uid <= 300; uid++)
        ck_assert_uint_eq(open_one(uid + 5), uid);
    for (uint16_t i = 0; i <= 300; i++)
        ck_assert_int_eq(accounts_open(&accounts, i + 5u, &number), ACCOUNT_E_FULL);
    ck_assert_uint_eq(accounts.count, 301);
}
END_TEST

START_TEST(a_cap_of_nothing)
{
    uint16_t number;

    begin(0, 0, 0);
    ck_assert_int_eq(accounts_open(&accounts, 1, &number), ACCOUNT_E_FULL);
    ck_assert_int_eq(accounts_open(&accounts, 2, &number), ACCOUNT_E_FULL);
    ck_assert_uint_le(accounts.count, 1); // the refused leave nothing behind
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("account");
    TCase *tcase = tcase_create("account");

    tcase_add_checked_fixture(tcase, NULL, end);
    tcase_add_test(tcase, connections_are_capped_per_uid);
    tcase_add_test(tcase, kinds_do_not_share_a_cap);
    tcase_add_test(tcase, a_lease_keeps_the_account);
    tcase_add_test(tcase, a_uid_has_one_account);
    tcase_add_test(tcase, uids_are_bounded);
    tcase_add_test(tcase, a_cap_of_nothing);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    int failed;

    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
