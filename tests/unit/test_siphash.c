// SPDX-License-Identifier: Apache-2.0
//
// SipHash-1-3: the values that two independent implementations give (CPython's, whose hash of bytes
// it is, and Rust's for the key 00..0f), and what the table relies on: key, length and every bit of
// the input matter.
#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/siphash.h"

// 00 01 .. 0f, read as two little-endian words.
static const uint64_t counting_key[2] = {UINT64_C(0x0706050403020100),
                                         UINT64_C(0x0f0e0d0c0b0a0908)};

// Of the first n bytes of 00 01 02 .. under the counting key.
static const uint64_t vectors[] = {
    UINT64_C(0xabac0158050fc4dc), UINT64_C(0xc9f49bf37d57ca93), UINT64_C(0x82cb9b024dc7d44d),
    UINT64_C(0x8bf80ab8e7ddf7fb), UINT64_C(0xcf75576088d38328), UINT64_C(0xdef9d52f49533b67),
    UINT64_C(0xc50d2b50c59f22a7), UINT64_C(0xd3927d989bb11140), UINT64_C(0x369095118d299a8e),
    UINT64_C(0x25a48eb36c063de4), UINT64_C(0x79de85ee92ff097f), UINT64_C(0x70c118c1f94dc352),
    UINT64_C(0x78a384b157b4d9a2), UINT64_C(0x306f760c1229ffa7), UINT64_C(0x605aa111c0f95d34),
    UINT64_C(0xd320d86d2a519956), UINT64_C(0xcc4fdd1a7d908b66), UINT64_C(0x9cf2689063dbd80c),
    UINT64_C(0x8ffc389cb473e63e), UINT64_C(0xf21f9de58d297d1c), UINT64_C(0xc0dc2f46a6cce040),
    UINT64_C(0xb992abfe2b45f844), UINT64_C(0x7ffe7b9ba320872e), UINT64_C(0x525a0e7fdae6c123),
    UINT64_C(0xf464aeb267349c8c), UINT64_C(0x45cd5928705b0979), UINT64_C(0x3a3e35e3ca9913a5),
    UINT64_C(0xa91dc74e4ade3b35), UINT64_C(0xfb0bed02ef6cd00d), UINT64_C(0x88d93cb44ab1e1f4),
    UINT64_C(0x540f11d643c5e663), UINT64_C(0x2370dd1f8c21d1bc), UINT64_C(0x81157b6c16a7b60d),
};

enum { VECTORS = sizeof vectors / sizeof vectors[0] };

static void count_up(unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)i;
}

START_TEST(known_values)
{
    unsigned char bytes[VECTORS];

    count_up(bytes, sizeof bytes);
    ck_assert_uint_eq(siphash13(counting_key, bytes, (size_t)_i), vectors[_i]);
}
END_TEST

START_TEST(known_values_under_other_keys)
{
    static const uint64_t zero[2] = {0, 0};
    static const uint64_t other[2] = {UINT64_C(0xdc504fd368cd90af), UINT64_C(0xb920bb9ffe99e9c1)};
    unsigned char bytes[15];

    count_up(bytes, sizeof bytes);
    ck_assert_uint_eq(siphash13(zero, bytes, sizeof bytes), UINT64_C(0xf30eb725bb91c9ea));
    ck_assert_uint_eq(siphash13(other, bytes, sizeof bytes), UINT64_C(0x94ace24d68c18cf8));
}
END_TEST

// A word that is read from an odd address must be the same word.
START_TEST(alignment_does_not_matter)
{
    unsigned char room[VECTORS + 8];

    for (size_t shift = 0; shift < 8; shift++) {
        count_up(room + shift, VECTORS - 1);
        ck_assert_uint_eq(siphash13(counting_key, room + shift, VECTORS - 1), vectors[VECTORS - 1]);
    }
}
END_TEST

START_TEST(every_bit_spreads)
{
    unsigned char bytes[33];
    int least = 64, most = 0, sum = 0;
    uint64_t before;

    count_up(bytes, sizeof bytes);
    before = siphash13(counting_key, bytes, sizeof bytes);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        int changed;
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        changed = __builtin_popcountll(before ^ siphash13(counting_key, bytes, sizeof bytes));
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        least = changed < least ? changed : least;
        most = changed > most ? changed : most;
        sum += changed;
    }
    ck_assert_int_ge(least, 14);
    ck_assert_int_le(most, 50);
    ck_assert_int_gt(sum / (int)(8 * sizeof bytes), 29);
    ck_assert_int_lt(sum / (int)(8 * sizeof bytes), 35);
}
END_TEST

START_TEST(zeros_are_told_apart_by_their_number)
{
    static const unsigned char zeros[256];
    uint64_t seen[256];

    for (size_t length = 0; length < 256; length++) {
        seen[length] = siphash13(counting_key, zeros, length);
        for (size_t other = 0; other < length; other++)
            ck_assert_uint_ne(seen[length], seen[other]);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("siphash");
    TCase *tcase = tcase_create("siphash");

    tcase_add_loop_test(tcase, known_values, 0, VECTORS);
    tcase_add_test(tcase, known_values_under_other_keys);
    tcase_add_test(tcase, alignment_does_not_matter);
    tcase_add_test(tcase, every_bit_spreads);
    tcase_add_test(tcase, zeros_are_told_apart_by_their_number);
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
