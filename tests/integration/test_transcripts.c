// SPDX-License-Identifier: Apache-2.0
//
// Every transcript of PROTOCOL.md, replayed against the real binary: the text says what the program
// does.

#include <stdio.h>
#include <stdlib.h>

#include "tests/tool/bench.h"
#include "tests/tool/transcript.h"

static struct transcript *transcripts;
static size_t count;

START_TEST(transcript)
{
    transcript_replay(&transcripts[_i]);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("transcripts");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_loop_test(tests, transcript, 0, (int)count);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    int status;

    count = transcript_load_all(NULL, &transcripts);
    if (count == 0) {
        printf("Bail out! no transcript in PROTOCOL.md\n");
        return EXIT_FAILURE;
    }
    status = scratch_main(suite());
    transcript_free_all(transcripts, count);
    return status;
}
