// SPDX-License-Identifier: Apache-2.0
//
// Keys in a hash index, and in a list in the order of their coming. A cursor divides the list into
// those that were handed out in this round and those that were not yet, so beginning anew after a
// reconnect costs nothing, however many there are: the cursor goes to the front and the round's
// number, which each key remembers, tells what was handed out before.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "sidecar/redis_channels.h"
#include "sidecar/siphash.h"

enum { MIN_CAPACITY = 64 };

static struct redis_channel *at(const struct redis_channels *channels, uint32_t number)
{
    return channels->slots[number].channel;
}

// ---- The index ----

static uint64_t hash_of(void *context, uint32_t number)
{
    const struct redis_channels *channels = context;
    const struct redis_channel *channel = at(channels, number);

    return siphash13(channels->hash_key, channel->key, channel->key_length);
}

static uint32_t *link_of(void *context, uint32_t number)
{
    return &at(context, number)->link;
}

static const struct index_ops ops = {.hash = hash_of, .link = link_of};

static uint32_t find(const struct redis_channels *channels, const char *key, size_t key_length)
{
    uint32_t number =
        index_bucket(&channels->index, siphash13(channels->hash_key, key, key_length));

    while (number != INDEX_NONE) {
        const struct redis_channel *channel = at(channels, number);

        if (channel->key_length == key_length && memcmp(channel->key, key, key_length) == 0)
            return number;
        number = channel->link;
    }
    return INDEX_NONE;
}

// ---- Slots ----

static int grow(struct redis_channels *channels)
{
    uint32_t capacity = channels->capacity ? channels->capacity * 2 : MIN_CAPACITY;
    struct redis_channel_slot *slots = reallocarray(channels->slots, capacity, sizeof *slots);

    if (!slots)
        return -ENOMEM;
    channels->slots = slots;
    for (uint32_t number = capacity - 1; number > 0 && number >= channels->capacity; number--) {
        slots[number] = (struct redis_channel_slot){NULL, channels->first_free};
        channels->first_free = number;
    }
    channels->capacity = capacity;
    return 0;
}

int redis_channels_init(struct redis_channels *channels)
{
    *channels = (struct redis_channels){.round = 1};
    // Without randomness the hash is no worse than any that is not keyed.
    if (getrandom(channels->hash_key, sizeof channels->hash_key, GRND_NONBLOCK) < 0)
        channels->hash_key[0] = (uintptr_t)channels;
    return index_init(&channels->index, &ops, channels);
}

void redis_channels_deinit(struct redis_channels *channels)
{
    for (uint32_t number = 1; number < channels->capacity; number++)
        free(at(channels, number));
    free(channels->slots);
    index_deinit(&channels->index);
}

// ---- The set ----

int redis_channels_add(struct redis_channels *channels, const char *key, size_t key_length)
{
    struct redis_channel *channel;
    uint32_t number;

    if (redis_channels_have(channels, key, key_length))
        return 0;
    if (channels->first_free == INDEX_NONE && grow(channels) < 0)
        return -ENOMEM;
    channel = malloc(sizeof *channel + key_length);
    if (!channel)
        return -ENOMEM;
    *channel = (struct redis_channel){.previous = channels->last, .key_length = key_length};
    memcpy(channel->key, key, key_length);
    number = channels->first_free;
    channels->first_free = channels->slots[number].next_free;
    channels->slots[number].channel = channel;
    if (channels->last != INDEX_NONE)
        at(channels, channels->last)->next = number;
    else
        channels->first = number;
    channels->last = number;
    if (channels->cursor == INDEX_NONE)
        channels->cursor = number;
    channels->count++;
    index_insert(&channels->index, number);
    return 0;
}

bool redis_channels_remove(struct redis_channels *channels, const char *key, size_t key_length)
{
    uint32_t number = find(channels, key, key_length);
    struct redis_channel *channel;
    bool handed_out;

    if (number == INDEX_NONE)
        return false;
    index_remove(&channels->index, number);
    channel = at(channels, number);
    handed_out = channel->round == channels->round;
    *(channel->previous != INDEX_NONE ? &at(channels, channel->previous)->next : &channels->first) =
        channel->next;
    *(channel->next != INDEX_NONE ? &at(channels, channel->next)->previous : &channels->last) =
        channel->previous;
    if (channels->cursor == number)
        channels->cursor = channel->next;
    channels->slots[number] = (struct redis_channel_slot){NULL, channels->first_free};
    channels->first_free = number;
    channels->count--;
    free(channel);
    return handed_out;
}

bool redis_channels_have(const struct redis_channels *channels, const char *key, size_t key_length)
{
    return find(channels, key, key_length) != INDEX_NONE;
}

// ---- Rounds ----

const struct redis_channel *redis_channels_next(struct redis_channels *channels)
{
    struct redis_channel *channel;

    if (channels->cursor == INDEX_NONE)
        return NULL;
    channel = at(channels, channels->cursor);
    channel->round = channels->round;
    channels->cursor = channel->next;
    return channel;
}

void redis_channels_restart(struct redis_channels *channels)
{
    channels->round++;
    channels->cursor = channels->first;
}
