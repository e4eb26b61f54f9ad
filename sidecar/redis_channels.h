// SPDX-License-Identifier: Apache-2.0
//
// The set of keys that are watched, and how far a connection has got with subscribing to them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sidecar/index.h"

struct redis_channel {
    uint32_t link; // in its bucket of the index
    uint32_t previous;
    uint32_t next;
    uint32_t round; // the last one in which it was handed out
    size_t key_length;
    char key[];
};

struct redis_channel_slot {
    struct redis_channel *channel; // owned, or NULL
    uint32_t next_free;
};

struct redis_channels {
    struct index index;
    uint64_t hash_key[2];
    struct redis_channel_slot *slots; // owned; [0] names none
    uint32_t capacity;
    uint32_t first_free;
    uint32_t count;
    uint32_t first; // all of them in one list
    uint32_t last;
    uint32_t cursor; // the first one that was not handed out in this round
    uint32_t round;
};

int redis_channels_init(struct redis_channels *channels); // 0 or -ENOMEM
void redis_channels_deinit(struct redis_channels *channels);

// 0 (also when it is there already), or -ENOMEM.
int redis_channels_add(struct redis_channels *channels, const char *key, size_t key_length);
// Whether it was there and handed out in this round.
bool redis_channels_remove(struct redis_channels *channels, const char *key, size_t key_length);
bool redis_channels_have(const struct redis_channels *channels, const char *key, size_t key_length);

// The next one to subscribe to, each once in a round; NULL when there is none. It stays valid until
// it is removed.
const struct redis_channel *redis_channels_next(struct redis_channels *channels);
// All of them anew.
void redis_channels_restart(struct redis_channels *channels);

static inline bool redis_channels_have_next(const struct redis_channels *channels)
{
    return channels->cursor != INDEX_NONE;
}
