// SPDX-License-Identifier: Apache-2.0
//
// The table of slots: numbers and generations, keys and labels of every size, the two indexes, the
// ring behind a key's lease against a model in all its shapes, the lists of sessions.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/heap.h"
#include "sidecar/table.h"

// check notes every assertion that holds in a file, which is slow a million times over.
#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

static const uint64_t hash_key[2] = {1, 2};
static struct table table;
static uint64_t seed;

static void begin(void)
{
    ck_assert_int_eq(table_init(&table, hash_key), 0);
    seed = 88172645463325252u;
}

static void end(void)
{
    table_deinit(&table);
}

static uint32_t draw(uint32_t bound)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 20) % bound;
}

static struct message_token token_of(uint32_t n)
{
    struct message_token token = {{0}};
    uint64_t bits = n * UINT64_C(0x9e3779b97f4a7c15);

    memcpy(token.bytes, &bits, sizeof bits);
    memcpy(token.bytes + 8, &n, sizeof n);
    return token;
}

static uint32_t open_named(uint32_t n, const char *key, const char *label)
{
    struct message_token token = token_of(n);

    return table_open(&table, &token, key, strlen(key), label, strlen(label));
}

// ---- Slots ----

START_TEST(numbers_are_reused_oldest_first)
{
    uint32_t first = open_named(1, "a", "");
    uint32_t second = open_named(2, "b", "");
    uint32_t generation = table_slot(&table, first)->generation;

    ck_assert_uint_eq(first, 1);
    ck_assert_uint_eq(second, 2);
    ck_assert_uint_eq(table.live, 2);
    ck_assert(table_in_use(table_slot(&table, first)));
    ck_assert_ptr_eq(table_find(&table, first, generation), table_slot(&table, first));
    table_close(&table, second);
    table_close(&table, first);
    ck_assert_uint_eq(table.live, 0);
    ck_assert(!table_in_use(table_slot(&table, first)));
    ck_assert_ptr_null(table_find(&table, first, generation));
    ck_assert_ptr_null(table_find(&table, first, generation + 1));

    ck_assert_uint_eq(open_named(3, "c", ""), second); // freed first
    ck_assert_uint_eq(open_named(4, "d", ""), first);
    ck_assert_uint_eq(open_named(5, "e", ""), 3);
    ck_assert_ptr_null(table_find(&table, first, generation));
    ck_assert_ptr_eq(table_find(&table, first, generation + 2), table_slot(&table, first));
}
END_TEST

START_TEST(nothing_has_no_number)
{
    ck_assert_ptr_null(table_find(&table, SLOT_NONE, 0));
    ck_assert_ptr_null(table_find(&table, SLOT_NONE, 1));
    ck_assert_ptr_null(table_find(&table, 1, 0));
    ck_assert_ptr_null(table_find(&table, 1, 1));
    ck_assert_ptr_null(table_find(&table, UINT32_MAX, 1));
}
END_TEST

// A slot is opened as new: nothing of its use before is left.
START_TEST(a_slot_is_opened_clean)
{
    uint32_t first = 0, number = open_named(1, "a", "label");
    struct slot *slot = table_slot(&table, number);

    table_session_add(&table, &first, 9, number);
    slot->fence = 77;
    slot->notify = 3;
    slot->pid = 5;
    table_session_remove(&table, &first, number);
    table_close(&table, number);
    ck_assert_uint_eq(open_named(2, "b", ""), number);
    ck_assert_int_eq(slot->fence, 0);
    ck_assert_uint_eq(slot->notify, 0);
    ck_assert_uint_eq(slot->pid, 0);
    ck_assert_uint_eq(slot->session, 0);
    ck_assert_uint_eq(slot->queue, SLOT_NONE);
    ck_assert_int_eq(slot->lease.state, LEASE_NEW);
}
END_TEST

START_TEST(a_closed_slot_forgets_its_token)
{
    struct message_token none = {{0}};
    struct message_token token = token_of(1);
    uint32_t number = open_named(1, "a", "");

    table_close(&table, number);
    ck_assert_mem_eq(&table_slot(&table, number)->token, &none, sizeof none);
    ck_assert_uint_eq(table_find_token(&table, &token), SLOT_NONE);
}
END_TEST

static const struct text_case {
    size_t key_length;
    size_t label_length;
    bool outside;
} text_cases[] = {
    {1, 0, false}, {23, 0, false}, {24, 0, false},  {25, 0, true},    {512, 0, true},
    {1, 1, true},  {24, 1, true},  {24, 128, true}, {512, 128, true}, {300, 127, true},
};

static void fill(char *text, size_t length, char from)
{
    for (size_t i = 0; i < length; i++)
        text[i] = (char)(from + (char)(i % 20));
}

START_TEST(keys_and_labels_of_every_size)
{
    const struct text_case *c = &text_cases[_i];
    struct message_token token = token_of(1);
    char key[WIRE_MAX_KEY], label[WIRE_MAX_LABEL];
    const struct slot *slot;
    size_t length = 999;
    uint32_t number;

    fill(key, c->key_length, 'A');
    fill(label, c->label_length, 'a');
    number = table_open(&table, &token, key, c->key_length, label, c->label_length);
    slot = table_slot(&table, number);
    ck_assert_uint_eq(slot->is_outside, c->outside);
    ck_assert_uint_eq(slot->key_length, c->key_length);
    ck_assert_mem_eq(slot_key(slot), key, c->key_length);
    ck_assert_mem_eq(slot_label(slot, &length), label, c->label_length);
    ck_assert_uint_eq(length, c->label_length);

    table_set_key(&table, number);
    memset(label, 0, sizeof label); // the table has its own copy
    ck_assert_uint_eq(table_find_key(&table, key, c->key_length), number);
    if (c->key_length > 1)
        ck_assert_uint_eq(table_find_key(&table, key, c->key_length - 1), SLOT_NONE);
    key[c->key_length - 1] ^= 1;
    ck_assert_uint_eq(table_find_key(&table, key, c->key_length), SLOT_NONE);
    table_clear_key(&table, number);
    table_close(&table, number);
}
END_TEST

// Left open, to be freed by table_deinit (the sanitizer looks).
START_TEST(deinit_frees_what_is_open)
{
    char key[600] = {0};

    memset(key, 'k', 400);
    for (uint32_t n = 1; n <= 3000; n++)
        HOLDS(open_named(n, key + 200 * (n & 1), "label") == n);
    table_close(&table, 7);
}
END_TEST

// ---- Lookup ----

enum { SLOTS = 3000 };

// Opens, closes, keys and unkeys at random; every token and key finds its slot or none.
START_TEST(lookups_against_a_model)
{
    static uint32_t of[SLOTS];
    static uint32_t generations[SLOTS];
    uint32_t open = 0;

    memset(of, 0, sizeof of);
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t n = draw(SLOTS);
        struct message_token token = token_of(n);
        char key[64];
        snprintf(key, sizeof key, n % 3 ? "k%u" : "a-key-that-has-no-room-inside-%u", (unsigned)n);
        if (of[n] == SLOT_NONE) {
            HOLDS(table_find_key(&table, key, strlen(key)) == SLOT_NONE);
            HOLDS(table_find_token(&table, &token) == SLOT_NONE);
            of[n] = open_named(n, key, n % 5 ? "" : "x");
            generations[n] = table_slot(&table, of[n])->generation;
            if (n % 2)
                table_set_key(&table, of[n]);
            open++;
        } else {
            HOLDS(table_find(&table, of[n], generations[n]) != NULL);
            HOLDS(table_find_token(&table, &token) == of[n]);
            HOLDS(table_find_key(&table, key, strlen(key)) == (n % 2 ? of[n] : SLOT_NONE));
            if (n % 2)
                table_clear_key(&table, of[n]);
            table_close(&table, of[n]);
            of[n] = SLOT_NONE;
            open--;
        }
        HOLDS(table.live == open);
    }
    HOLDS(table.by_token.items == open);
}
END_TEST

// Tokens whose hashed half is the same are told apart by the other.
START_TEST(tokens_that_collide)
{
    struct message_token token = token_of(1);
    uint32_t numbers[20];

    for (uint8_t i = 0; i < 20; i++) {
        token.bytes[15] = i;
        numbers[i] = table_open(&table, &token, "k", 1, "", 0);
    }
    for (uint8_t i = 0; i < 20; i++) {
        token.bytes[15] = i;
        ck_assert_uint_eq(table_find_token(&table, &token), numbers[i]);
    }
    token.bytes[15] = 20;
    ck_assert_uint_eq(table_find_token(&table, &token), SLOT_NONE);
}
END_TEST

// ---- The queue behind a key ----

enum { QUEUE = 12 };

static void check_queue(uint32_t head, const uint32_t *model, uint32_t count)
{
    uint32_t at = table_queue_first(&table, head);

    if (count == 0) {
        HOLDS(at == SLOT_NONE);
        HOLDS(table_slot(&table, head)->queue == SLOT_NONE);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        HOLDS(at == model[i]);
        HOLDS(table_slot(&table, at)->key_next == (i ? model[i - 1] : SLOT_NONE));
        at = table_slot(&table, at)->queue;
    }
    HOLDS(at == model[0]); // a ring
    HOLDS(table_slot(&table, head)->queue == model[count - 1]);
}

static uint32_t remove_from(uint32_t *model, uint32_t count, uint32_t place)
{
    uint32_t number = model[place];

    memmove(model + place, model + place + 1, (count - place - 1) * sizeof *model);
    return number;
}

// From every length, the removal of every place, and a push after it.
START_TEST(queue_removal_in_every_place)
{
    uint32_t head = open_named(1, "key", "");
    uint32_t numbers[QUEUE + 1], model[QUEUE + 1];

    table_set_key(&table, head);
    for (uint32_t i = 0; i <= QUEUE; i++)
        numbers[i] = open_named(10 + i, "key", "");
    for (uint32_t count = 1; count <= QUEUE; count++) {
        for (uint32_t place = 0; place < count; place++) {
            memcpy(model, numbers, sizeof model);
            for (uint32_t i = 0; i < count; i++)
                table_queue_push(&table, head, model[i]);
            check_queue(head, model, count);
            table_queue_remove(&table, head, remove_from(model, count, place));
            check_queue(head, model, count - 1);
            model[count - 1] = numbers[QUEUE];
            table_queue_push(&table, head, numbers[QUEUE]);
            check_queue(head, model, count);
            for (uint32_t i = 0; i < count; i++)
                table_queue_remove(&table, head, table_queue_first(&table, head));
            check_queue(head, model, 0);
        }
    }
}
END_TEST

START_TEST(queue_against_a_model)
{
    uint32_t head = open_named(1, "key", "");
    uint32_t free_[64], model[64], waiting = 0, unused = 64;

    table_set_key(&table, head);
    for (uint32_t i = 0; i < 64; i++)
        free_[i] = open_named(10 + i, "key", "");
    for (uint32_t step = 0; step < 5000; step++) {
        if (unused > 0 && (waiting == 0 || draw(2))) {
            model[waiting] = remove_from(free_, unused, draw(unused));
            unused--;
            table_queue_push(&table, head, model[waiting++]);
        } else {
            free_[unused] = remove_from(model, waiting, draw(waiting));
            waiting--;
            table_queue_remove(&table, head, free_[unused++]);
            HOLDS(table_slot(&table, free_[unused - 1])->queue == SLOT_NONE);
            HOLDS(table_slot(&table, free_[unused - 1])->key_next == SLOT_NONE);
        }
        check_queue(head, model, waiting);
    }
}
END_TEST

// The first takes the rest over and becomes its key's lease, until none is left.
START_TEST(queue_moves_from_head_to_head)
{
    uint32_t head = open_named(1, "key", "");
    uint32_t numbers[QUEUE];

    table_set_key(&table, head);
    for (uint32_t i = 0; i < QUEUE; i++) {
        numbers[i] = open_named(10 + i, "key", "");
        table_queue_push(&table, head, numbers[i]);
    }
    for (uint32_t i = 0; i < QUEUE; i++) {
        uint32_t next = table_queue_first(&table, head);
        ck_assert_uint_eq(next, numbers[i]);
        table_queue_remove(&table, head, next);
        table_queue_move(&table, head, next);
        ck_assert_uint_eq(table_slot(&table, head)->queue, SLOT_NONE);
        table_clear_key(&table, head);
        table_set_key(&table, next);
        ck_assert_uint_eq(table_find_key(&table, "key", 3), next);
        table_close(&table, head);
        head = next;
        check_queue(head, numbers + i + 1, QUEUE - i - 1);
    }
}
END_TEST

// Queued slots use the link of the key index: other keys in the same index must not notice.
START_TEST(queues_and_the_key_index_do_not_meet)
{
    uint32_t heads[40];
    char key[16];

    for (uint32_t i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "key%u", (unsigned)i);
        heads[i] = open_named(100 + i, key, "");
        table_set_key(&table, heads[i]);
        for (uint32_t j = 0; j < i % 4; j++)
            table_queue_push(&table, heads[i], open_named(1000 + 10 * i + j, key, ""));
    }
    for (uint32_t i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "key%u", (unsigned)i);
        ck_assert_uint_eq(table_find_key(&table, key, strlen(key)), heads[i]);
        ck_assert_uint_eq(table_queue_first(&table, heads[i]), i % 4 ? heads[i] + 1 : SLOT_NONE);
    }
    ck_assert_uint_eq(table.by_key.items, 40);
}
END_TEST

// ---- Sessions ----

static void check_sessions(const uint32_t *first, const uint32_t *of, const uint32_t *numbers,
                           uint32_t count)
{
    for (uint32_t session = 1; session <= 3; session++) {
        uint32_t before = SLOT_NONE, listed = 0, expected = 0;
        for (uint32_t at = first[session]; at != SLOT_NONE; listed++) {
            const struct slot *slot = table_slot(&table, at);
            HOLDS(slot->session == session);
            HOLDS(slot->session_previous == before);
            before = at;
            at = slot->session_next;
            HOLDS(listed < count);
        }
        for (uint32_t i = 0; i < count; i++)
            expected += of[i] == session;
        HOLDS(listed == expected);
    }
    for (uint32_t i = 0; i < count; i++)
        HOLDS(table_slot(&table, numbers[i])->session == of[i]);
}

START_TEST(session_lists_against_a_model)
{
    uint32_t first[4] = {0}, of[40] = {0}, numbers[40];

    for (uint32_t i = 0; i < 40; i++)
        numbers[i] = open_named(1 + i, "key", "");
    for (uint32_t step = 0; step < 4000; step++) {
        uint32_t i = draw(40);
        if (of[i] == 0) {
            of[i] = 1 + draw(3);
            table_session_add(&table, &first[of[i]], of[i], numbers[i]);
        } else {
            table_session_remove(&table, &first[of[i]], numbers[i]);
            of[i] = 0;
        }
        check_sessions(first, of, numbers, 40);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("table");
    TCase *tcase = tcase_create("table");

    tcase_set_timeout(tcase, 20);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, numbers_are_reused_oldest_first);
    tcase_add_test(tcase, nothing_has_no_number);
    tcase_add_test(tcase, a_slot_is_opened_clean);
    tcase_add_test(tcase, a_closed_slot_forgets_its_token);
    tcase_add_loop_test(tcase, keys_and_labels_of_every_size, 0,
                        sizeof text_cases / sizeof text_cases[0]);
    tcase_add_test(tcase, deinit_frees_what_is_open);
    tcase_add_test(tcase, lookups_against_a_model);
    tcase_add_test(tcase, tokens_that_collide);
    tcase_add_test(tcase, queue_removal_in_every_place);
    tcase_add_test(tcase, queue_against_a_model);
    tcase_add_test(tcase, queue_moves_from_head_to_head);
    tcase_add_test(tcase, queues_and_the_key_index_do_not_meet);
    tcase_add_test(tcase, session_lists_against_a_model);
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
