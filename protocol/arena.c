// SPDX-License-Identifier: Apache-2.0
//
// A bump allocator per thread: a block is the next bytes of a fixed array, and closing the arena
// gives all of them back by setting one number to 0. Releasing a block of the array does nothing;
// which kind a block is shows in its address. The arena has room for any request of 4096 bytes
// without needless nesting; one that nests more goes on in the heap.
#include <assert.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>

#include "protocol/arena.h"

enum { ARENA_SIZE = 32 * 1024, ARENA_ALIGN = alignof(max_align_t) };

struct arena {
    bool open;
    bool spilled;
    size_t used;
    alignas(max_align_t) char bytes[ARENA_SIZE];
};

static _Thread_local struct arena arena;

void *arena_alloc(size_t size)
{
    char *block = arena.bytes + arena.used;

    if (!arena.open)
        return malloc(size);
    if (size > ARENA_SIZE - arena.used) {
        arena.spilled = true;
        return malloc(size);
    }
    arena.used += (size + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return block;
}

void arena_release(void *block)
{
    uintptr_t at = (uintptr_t)block;

    if (at < (uintptr_t)arena.bytes || at >= (uintptr_t)arena.bytes + ARENA_SIZE)
        free(block);
}

void arena_open(void)
{
    assert(!arena.open);
    arena.open = true;
}

bool arena_spilled(void)
{
    return arena.spilled;
}

void arena_close(void)
{
    arena.open = arena.spilled = false;
    arena.used = 0;
}
