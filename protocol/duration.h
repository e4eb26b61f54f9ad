// SPDX-License-Identifier: Apache-2.0
//
// Durations as Go writes them ("30s", "1m30s", "500ms", "1h", "1.5s", "0") to and from milliseconds.
#pragma once

#include <stddef.h>
#include <stdint.h>

// 0 and *ms (>= 0), or -EINVAL (not a duration: a unit is required but for "0") or -ERANGE (negative,
// finer than a millisecond, or beyond a year).
int duration_parse(const char *text, int64_t *ms);

// Writes the shortest exact form, NUL-terminated; size of 32 is always enough. Returns text.
char *duration_format(int64_t ms, char *text, size_t size);
