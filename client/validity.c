// SPDX-License-Identifier: Apache-2.0
//
// What a program reads of a lease without asking anybody.
//
// valid_until is one atomic number, written by the thread that processes the handle and read by any.
// It is 0 once the lease is known to be over, so there is one comparison to make. (With the
// sidecar's validity page, the number will be that of the lease's slot in it.)
#include "client/inside.h"

bool lock_keeper_valid(const struct lock_keeper_lease *lease)
{
    return client_now_ms() < lock_keeper_lease_valid_until_ms(lease);
}

int64_t lock_keeper_lease_valid_until_ms(const struct lock_keeper_lease *lease)
{
    return atomic_load(&lease->valid_until_ms);
}

const char *lock_keeper_lease_key(const struct lock_keeper_lease *lease)
{
    return lease->key;
}

const char *lock_keeper_lease_token(const struct lock_keeper_lease *lease)
{
    return lease->digits;
}

int64_t lock_keeper_lease_fence(const struct lock_keeper_lease *lease)
{
    return lease->fence;
}

int64_t lock_keeper_lease_ttl_ms(const struct lock_keeper_lease *lease)
{
    return lease->ttl_ms;
}

int64_t lock_keeper_lease_deadline_ms(const struct lock_keeper_lease *lease)
{
    return lease->deadline_ms;
}

bool lock_keeper_lease_is_held(const struct lock_keeper_lease *lease)
{
    return lease->state == CLIENT_LEASE_HELD;
}

enum lock_keeper_reason lock_keeper_lease_reason(const struct lock_keeper_lease *lease)
{
    return lease->reason;
}

void lock_keeper_lease_set_user(struct lock_keeper_lease *lease, void *user)
{
    lease->user = user;
}

void *lock_keeper_lease_get_user(const struct lock_keeper_lease *lease)
{
    return lease->user;
}
