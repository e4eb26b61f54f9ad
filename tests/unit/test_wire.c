// SPDX-License-Identifier: Apache-2.0
//
// The tables of names: complete, distinct, in the order of their enums, and findable.
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/wire.h"

struct table {
    const char *label;
    const char *const *names;
    size_t count;
};

static const struct table tables[] = {
    {"op", wire_op_names, WIRE_OP_COUNT},
    {"member", wire_member_names, WIRE_MEMBER_COUNT},
    {"event", wire_event_names, WIRE_EVENT_COUNT},
    {"reason", wire_reason_names, WIRE_REASON_COUNT},
    {"error", wire_error_names, WIRE_ERROR_COUNT},
    {"bind", wire_bind_names, WIRE_BIND_COUNT},
    {"disconnect", wire_disconnect_names, WIRE_DISCONNECT_COUNT},
    {"notify", wire_notify_names, WIRE_NOTIFY_COUNT},
    {"state", wire_state_names, WIRE_STATE_COUNT},
    {"cap", wire_cap_names, WIRE_CAP_COUNT},
};

START_TEST(every_name_is_found_at_its_own_place)
{
    const struct table *table = &tables[_i];

    for (size_t i = 0; i < table->count; i++) {
        ck_assert_msg(table->names[i] != NULL && table->names[i][0] != '\0', "%s %zu has no name",
                      table->label, i);
        // Also proves that no name stands twice: the first of two would be found for the second.
        ck_assert_int_eq(wire_find(table->names, table->count, table->names[i]), (int)i);
    }
}
END_TEST

START_TEST(names_stand_beside_their_symbols)
{
    ck_assert_str_eq(wire_op_names[WIRE_OP_BREAK], "break");
    ck_assert_str_eq(wire_member_names[WIRE_MEMBER_OP], "op");
    ck_assert_str_eq(wire_member_names[WIRE_MEMBER_VALID_UNTIL_MS], "valid_until_ms");
    ck_assert_str_eq(wire_event_names[WIRE_EVENT_AT_RISK], "at_risk");
    ck_assert_str_eq(wire_reason_names[WIRE_REASON_EOF], "eof");
    ck_assert_str_eq(wire_error_names[WIRE_ERROR_LOST_ACTOR_LOCK], "errLostActorLock");
    ck_assert_str_eq(wire_bind_names[WIRE_BIND_NONE], "none");
    ck_assert_str_eq(wire_disconnect_names[WIRE_DISCONNECT_EXPIRE], "expire");
    ck_assert_str_eq(wire_state_names[WIRE_STATE_ENDING], "ending");
}
END_TEST

// Clients are written against these numbers: they are part of version 1.
START_TEST(limits_are_what_clients_count_on)
{
    static const struct {
        int64_t limit;
        int64_t value;
    } limits[] = {
        {WIRE_PROTOCOL, 1},          {WIRE_MAX_LINE, 4096},
        {WIRE_MAX_REPLY, 65536},     {WIRE_MAX_UNREAD, 1048576},
        {WIRE_MAX_UNANSWERED, 4096}, {WIRE_MAX_LINE_AGE, 60000},
        {WIRE_MAX_KEY, 512},         {WIRE_MAX_LABEL, 128},
        {WIRE_MAX_ID, 64},           {WIRE_MAX_CURSOR, 32},
        {WIRE_LEASE_DIGITS, 32},     {WIRE_INSTANCE_DIGITS, 16},
        {WIRE_MIN_TTL, 500},         {WIRE_LIST_DEFAULT, 100},
        {WIRE_LIST_MAX, 500},        {WIRE_MAX_INTEGER, INT64_C(9007199254740991)},
    };

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        ck_assert_int_eq(limits[i].limit, limits[i].value);
}
END_TEST

START_TEST(what_is_no_name_is_not_found)
{
    ck_assert_int_eq(wire_find(wire_op_names, WIRE_OP_COUNT, ""), -1);
    ck_assert_int_eq(wire_find(wire_op_names, WIRE_OP_COUNT, "Ping"), -1);
    ck_assert_int_eq(wire_find(wire_op_names, WIRE_OP_COUNT, "pin"), -1);
    ck_assert_int_eq(wire_find(wire_op_names, WIRE_OP_COUNT, "pings"), -1);
    ck_assert_int_eq(wire_find(wire_op_names, 0, "ping"), -1);
}
END_TEST

START_TEST(a_set_of_members_fits_its_integer)
{
    // struct message_request's `given` has one bit for each member of a request.
    ck_assert_int_lt(WIRE_MEMBER_PAGE, 64);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wire");
    TCase *tcase = tcase_create("wire");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_loop_test(tcase, every_name_is_found_at_its_own_place, 0,
                        (int)(sizeof tables / sizeof tables[0]));
    tcase_add_test(tcase, names_stand_beside_their_symbols);
    tcase_add_test(tcase, limits_are_what_clients_count_on);
    tcase_add_test(tcase, what_is_no_name_is_not_found);
    tcase_add_test(tcase, a_set_of_members_fits_its_integer);
    suite_add_tcase(suite, tcase);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
