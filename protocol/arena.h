// SPDX-License-Identifier: Apache-2.0
//
// Memory for a parse: blocks that are all given back at once. One arena per thread.
#pragma once

#include <stdbool.h>
#include <stddef.h>

// malloc and free for a library that is told its allocator once for the whole process. Between
// arena_open and arena_close of the same thread, blocks come from that thread's arena, or from the
// heap when it is full; outside, from the heap. Either kind may be released at any time.
void *arena_alloc(size_t size);
void arena_release(void *block);

void arena_open(void);
// Whether blocks of this opening went to the heap: then they are to be released one by one, else
// they may be forgotten.
bool arena_spilled(void);
void arena_close(void);
