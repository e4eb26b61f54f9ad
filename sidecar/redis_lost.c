// SPDX-License-Identifier: Apache-2.0
//
// A short list: one entry for each loss until the next connection comes up and kills it. An entry has
// no end of its own, since an outage, or a Redis that stands still, can keep a dead connection's bytes
// for any time. What does not fit, or cannot be killed, becomes one common instant: then every delete
// is uncertain until that has passed, which costs repeats, and leaves to the TTL what comes later.
#include "sidecar/redis_lost.h"

static void remove_at(struct redis_lost *lost, int i)
{
    lost->clients[i] = lost->clients[--lost->count];
}

void redis_lost_add(struct redis_lost *lost, int64_t id, int64_t until_ms)
{
    if (id > 0 && lost->count < REDIS_LOST_MAX)
        lost->clients[lost->count++] = (struct redis_lost_client){id, until_ms};
    else if (lost->until_ms < until_ms)
        lost->until_ms = until_ms;
}

void redis_lost_confirm(struct redis_lost *lost, int64_t id)
{
    for (int i = lost->count - 1; i >= 0; i--) {
        if (lost->clients[i].id == id)
            remove_at(lost, i);
    }
}

void redis_lost_spare(struct redis_lost *lost, int64_t id)
{
    for (int i = lost->count - 1; i >= 0; i--) {
        if (id == 0 || lost->clients[i].id == id) {
            redis_lost_add(lost, 0, lost->clients[i].until_ms);
            remove_at(lost, i);
        }
    }
}

void redis_lost_clear(struct redis_lost *lost)
{
    *lost = (struct redis_lost){0};
}

bool redis_lost_is_certain(const struct redis_lost *lost, int64_t now_ms)
{
    return lost->count == 0 && now_ms >= lost->until_ms;
}
