// SPDX-License-Identifier: Apache-2.0
//
// Accounts stand in a small array: the uids of one host's or pod's processes are few, and the array
// is searched only when a connection opens. An account with nothing in use may be taken by another
// uid; nothing names it then.

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "sidecar/account.h"

void accounts_init(struct accounts *accounts, const uint32_t caps[ACCOUNT_KIND_COUNT])
{
    *accounts = (struct accounts){0};
    for (int kind = 0; kind < ACCOUNT_KIND_COUNT; kind++)
        accounts->caps[kind] = caps[kind];
}

void accounts_deinit(struct accounts *accounts)
{
    free(accounts->all);
    *accounts = (struct accounts){0};
}

static bool is_unused(const struct account *account)
{
    for (int kind = 0; kind < ACCOUNT_KIND_COUNT; kind++)
        if (account->used[kind])
            return false;
    return true;
}

// The account of uid, else one that is free for it, else one more.
static int find(struct accounts *accounts, uid_t uid, uint32_t *number)
{
    uint32_t unused = accounts->count;
    struct account *all;

    for (uint32_t i = 0; i < accounts->count; i++) {
        if (is_unused(&accounts->all[i])) {
            unused = i;
        } else if (accounts->all[i].uid == uid) {
            *number = i;
            return 0;
        }
    }
    if (unused == accounts->count) {
        if (accounts->count == ACCOUNT_MAX)
            return ACCOUNT_E_FULL;
        all = realloc(accounts->all, (accounts->count + 1) * sizeof *all);
        if (!all)
            return -ENOMEM;
        accounts->all = all;
        accounts->count++;
    }
    accounts->all[unused] = (struct account){.uid = uid};
    *number = unused;
    return 0;
}

int accounts_open(struct accounts *accounts, uid_t uid, uint16_t *number)
{
    uint32_t found;
    int r = find(accounts, uid, &found);

    if (r != 0)
        return r;
    *number = (uint16_t)found;
    return accounts_take(accounts, *number, ACCOUNT_CONNECTIONS);
}

int accounts_take(struct accounts *accounts, uint16_t number, enum account_kind kind)
{
    if (accounts->all[number].used[kind] >= accounts->caps[kind])
        return ACCOUNT_E_FULL;
    accounts->all[number].used[kind]++;
    return 0;
}

void accounts_give(struct accounts *accounts, uint16_t number, enum account_kind kind)
{
    assert(accounts->all[number].used[kind] > 0);
    accounts->all[number].used[kind]--;
}
