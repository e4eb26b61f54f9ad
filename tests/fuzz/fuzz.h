// SPDX-License-Identifier: Apache-2.0
//
// What the fuzz targets share. A target is one function that libFuzzer calls with bytes of its
// making, and that tests/fuzz/replay.c calls with the files of a corpus. It keeps nothing from one
// call to the next, so a failing input fails alone.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "protocol/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A fact that holds for every input. Both runners see the abort, and both print the input's name.
#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

// What is left of an input. Past its end there are only zeros.
struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t fuzz_byte(struct fuzz_input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->at++;
}

// A copy of the next size bytes (or of what is left) in a block of just that size, so that a read
// past its end is seen. *size is what it holds. The caller frees it.
char *fuzz_take(struct fuzz_input *input, size_t *size);

bool fuzz_is_utf8(const char *text, size_t length);

// A line of output without its newline: compact printable ASCII of at most WIRE_MAX_REPLY bytes, one
// JSON object without duplicate members whose first is "ok" or "event". Returns it (a json_t, the
// caller's to give back).
struct json_t *fuzz_check_line(const char *line, size_t length);
