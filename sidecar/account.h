// SPDX-License-Identifier: Apache-2.0
//
// What each uid uses of the sidecar, and its caps. An account lives while anything counts against
// it; slots and sessions name it by a 12-bit number.
#pragma once

#include <stdint.h>
#include <sys/types.h>

enum account_kind { ACCOUNT_CONNECTIONS, ACCOUNT_LEASES, ACCOUNT_WAITERS, ACCOUNT_KIND_COUNT };

enum { ACCOUNT_MAX = 4096 }; // uids at a time

enum { ACCOUNT_E_FULL = 1 }; // the uid is at its cap, or there are too many uids

struct account {
    uid_t uid;
    uint32_t used[ACCOUNT_KIND_COUNT];
};

struct accounts {
    struct account *all; // owned
    uint32_t count;
    uint32_t caps[ACCOUNT_KIND_COUNT];
};

void accounts_init(struct accounts *accounts, const uint32_t caps[ACCOUNT_KIND_COUNT]);
void accounts_deinit(struct accounts *accounts);

// Counts one connection of uid: 0 and the number of its account, ACCOUNT_E_FULL, or -ENOMEM.
int accounts_open(struct accounts *accounts, uid_t uid, uint16_t *number);

// Counts one more of kind: 0 or ACCOUNT_E_FULL. And one less.
int accounts_take(struct accounts *accounts, uint16_t number, enum account_kind kind);
void accounts_give(struct accounts *accounts, uint16_t number, enum account_kind kind);

static inline uid_t accounts_uid(const struct accounts *accounts, uint16_t number)
{
    return accounts->all[number].uid;
}
