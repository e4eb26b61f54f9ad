// SPDX-License-Identifier: Apache-2.0
//
// What a program reads of a lease without asking anybody.
//
// Where the lease has a slot in the sidecar's validity page, that says it all, and what the sidecar
// has said in messages is behind it. Else valid_until is an atomic number, written by the thread that
// processes the handle. Either is 0 once the lease is known to be over.
//
// The clock is read after the instant that it is compared with: a thread that is held up in between
// errs towards stopping.
#include <time.h>

#include "client/inside.h"

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

bool lock_keeper_valid(const struct lock_keeper_lease *lease)
{
    uint64_t until_ns;
    int64_t until_ms;

    if (client_page_until(lease, &until_ns))
        return now_ns() < until_ns;
    until_ms = atomic_load(&lease->valid_until_ms);
    return client_now_ms() < until_ms;
}

int64_t lock_keeper_lease_valid_until_ms(const struct lock_keeper_lease *lease)
{
    uint64_t until_ns;

    if (client_page_until(lease, &until_ns))
        return (int64_t)(until_ns / 1000000);
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
