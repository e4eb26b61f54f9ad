// SPDX-License-Identifier: Apache-2.0
//
// Which lock-keeper this is, and which libraries it runs with.
#pragma once

#include <stddef.h>

enum { VERSION_SIZE = 128 };

// Two lines, "lock-keeper 0.1.0" and "hiredis 1.2.3, libev 4.33, jansson 2.14", without a newline
// at the end; size at least VERSION_SIZE. Returns text.
char *version_format(char *text, size_t size);
