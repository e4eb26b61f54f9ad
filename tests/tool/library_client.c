// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper as its tests use it.

#include <check.h>
#include <stdbool.h>

#include "tests/tool/library_client.h"
#include "tests/tool/scratch.h"

enum { WAIT_MS = 5000 };

struct lock_keeper_lease *library_acquired(struct lock_keeper *keeper, const char *key)
{
    struct lock_keeper_lease *lease = NULL;
    int r = lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = key}, &lease);

    ck_assert_msg(r == 0, "%d %s", r, lock_keeper_get_reply(keeper)->message);
    ck_assert_ptr_nonnull(lease);
    return lease;
}

static const struct lock_keeper_event *await(struct lock_keeper *keeper,
                                             enum lock_keeper_event_kind kind, bool is_alive)
{
    int64_t deadline = scratch_deadline(WAIT_MS);

    for (;;) {
        const struct lock_keeper_event *event = lock_keeper_next_event(keeper);

        if (event && event->kind == kind)
            return event;
        if (event)
            ck_assert_msg(!is_alive || event->kind != LOCK_KEEPER_EVENT_REVOKED, "revoked: %s",
                          event->message);
        else
            ck_assert_msg(lock_keeper_wait(keeper, scratch_left(deadline)) == 1,
                          "no event of kind %d", kind);
    }
}

const struct lock_keeper_event *library_event(struct lock_keeper *keeper,
                                              enum lock_keeper_event_kind kind)
{
    return await(keeper, kind, false);
}

const struct lock_keeper_event *library_event_alive(struct lock_keeper *keeper,
                                                    enum lock_keeper_event_kind kind)
{
    return await(keeper, kind, true);
}
