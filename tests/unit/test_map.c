// SPDX-License-Identifier: Apache-2.0
//
// client/map: against a plain array, with many nodes and few numbers.
#include <check.h>
#include <stdlib.h>

#include "client/map.h"

enum { NODES = 3000, NUMBERS = 700, STEPS = 20000 };

static size_t count_of(const struct client_map *map, uint64_t number)
{
    size_t count = 0;

    for (struct client_node *node = client_map_find(map, number); node;
         node = client_map_after(node)) {
        ck_assert_uint_eq(node->number, number);
        count++;
    }
    return count;
}

START_TEST(like_an_array)
{
    static struct client_node nodes[NODES];
    static size_t expected[NUMBERS];
    static char in[NODES];
    struct client_map map = {0};
    size_t total = 0;

    srand(7);
    ck_assert_ptr_null(client_map_find(&map, 1));
    client_map_remove(&map, &nodes[0]);
    for (int i = 0; i < STEPS; i++) {
        size_t at = (size_t)rand() % NODES;
        uint64_t number = in[at] ? nodes[at].number : (uint64_t)rand() % NUMBERS;

        if (in[at])
            client_map_remove(&map, &nodes[at]);
        else
            ck_assert_int_eq(client_map_add(&map, &nodes[at], number), 0);
        expected[number] += in[at] ? SIZE_MAX : 1;
        total += in[at] ? SIZE_MAX : 1;
        in[at] = !in[at];
        ck_assert_uint_eq(count_of(&map, number), expected[number]);
        ck_assert_uint_eq(map.count, total);
    }
    client_map_remove(&map, &(struct client_node){.number = 3}); // one that was never in it
    ck_assert_uint_eq(map.count, total);
    client_map_deinit(&map);
    ck_assert_ptr_null(client_map_find(&map, 1));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("map");
    TCase *tcase = tcase_create("map");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tcase, like_an_array);
    suite_add_tcase(suite, tcase);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
