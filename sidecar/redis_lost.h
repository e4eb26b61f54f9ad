// SPDX-License-Identifier: Apache-2.0
//
// Connections that were lost with acquires (or breaks) unanswered. Redis may still execute such an
// acquire, from the dead connection's buffers, and set a key that nobody knows of; until CLIENT KILL
// has ended it there, no delete is certain to come after it. (And a break that comes late deletes
// somebody else's key.)
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    REDIS_LOST_MAX = 16,
};

struct redis_lost_client {
    int64_t id;       // of CLIENT ID
    int64_t until_ms; // what counts if it cannot be killed: T + C after the loss
};

struct redis_lost {
    int count;
    struct redis_lost_client clients[REDIS_LOST_MAX];
    int64_t
        until_ms; // of those that are not in the list: too many, without an id, not to be killed
};

// id 0: unknown.
void redis_lost_add(struct redis_lost *lost, int64_t id, int64_t until_ms);
// The client was killed, or had gone already.
void redis_lost_confirm(struct redis_lost *lost, int64_t id);
// It cannot be killed (id 0: none can): from now on its instant counts.
void redis_lost_spare(struct redis_lost *lost, int64_t id);
// Redis was started anew: it holds nothing of any former connection.
void redis_lost_clear(struct redis_lost *lost);
// Whether nothing of a lost connection is to be reckoned with any more.
bool redis_lost_is_certain(const struct redis_lost *lost, int64_t now_ms);
