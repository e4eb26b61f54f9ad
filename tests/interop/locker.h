// SPDX-License-Identifier: Apache-2.0
//
// A foreign locker: a child that locks a key in Redis in its own way, and does so when it is told.
// It says each word on a line of its own:
//
//     after its start     ready
//     lock                locked, when it has waited for it (or refused)
//     try                 locked or refused, at once
//     unlock              unlocking, before it asks Redis; then unlocked, or lost where the key was
//                         not its own any more
#pragma once

#include <stdbool.h>
#include <sys/types.h>

enum locker_kind { LOCKER_PLAIN, LOCKER_REDIS_PY, LOCKER_REDLOCK, LOCKER_SEMAPHORE, LOCKER_KINDS };

extern const char *const locker_names[LOCKER_KINDS];

struct locker {
    pid_t pid;
    int in;  // commands to it
    int out; // what it says
};

// False where its library cannot be had here: it has been said why.
bool locker_start(struct locker *locker, enum locker_kind kind, const char *redis_socket,
                  const char *key);
void locker_stop(struct locker *locker);

void locker_tell(struct locker *locker, const char *command);
// The next word, in a static buffer; NULL where none comes within ms.
const char *locker_hear(struct locker *locker, int ms);
// The next word must be this one.
void locker_expect(struct locker *locker, const char *word);
