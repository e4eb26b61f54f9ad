// SPDX-License-Identifier: Apache-2.0
//
// Histories as tables: steps of a good beginning and what may follow, and whether the checker flags
// them.
#pragma once

#include <check.h>
#include <string.h>

#include "tests/tool/history.h"

// Times in ms, for people; T = 3000, so P = 1000, C = 250, drift = 32, M = 600.
enum { T = 3000, WORTH = T - 32, MARGIN = 600, MAX_STEPS = 40 };

#define AT(ms) .at_us = (int64_t)(ms)*1000
#define UNTIL(ms) .until_us = (int64_t)(ms)*1000
#define DUE(ms) .due_us = (int64_t)(ms)*1000
#define LEASE(n) .token = {{n}}

// What a sidecar, its client and Redis do when client c of sidecar s gets lease n of key 1 at t.
#define READS(t, s, c, r)                                                                          \
    {                                                                                              \
        AT(t), .kind = HISTORY_READ_ACQUIRE, .sidecar = s, .client = c, .request = r, .key = 1,    \
               .ttl_ms = T                                                                         \
    }
#define SENDS(t, s, r, n)                                                                          \
    {                                                                                              \
        AT(t), .kind = HISTORY_SENT_ACQUIRE, .sidecar = s, .request = r, .key = 1, LEASE(n),       \
               .ttl_ms = T                                                                         \
    }
#define SETS(t, n, f)                                                                              \
    {                                                                                              \
        AT(t), .kind = HISTORY_SET, .key = 1, LEASE(n), .fence = f, .ttl_ms = T                    \
    }
#define ANSWERED(t, s, n, sent)                                                                    \
    {                                                                                              \
        AT(t), .kind = HISTORY_ANSWERED, .sidecar = s, LEASE(n), UNTIL((sent) + WORTH),            \
               DUE((sent) + WORTH - MARGIN)                                                        \
    }
#define GRANTS(t, s, c, r, n, sent)                                                                \
    {                                                                                              \
        AT(t), .kind = HISTORY_WROTE_GRANTED, .sidecar = s, .client = c, .request = r, .key = 1,   \
               LEASE(n), UNTIL((sent) + WORTH), DUE((t) + 10000)                                   \
    }
#define RECEIVES(t, c, n, until)                                                                   \
    {                                                                                              \
        AT(t), .kind = HISTORY_CLIENT_GRANTED, .client = c, .key = 1, LEASE(n), UNTIL(until)       \
    }
#define BEGIN                                                                                      \
    READS(0, 1, 1, 1), SENDS(0, 1, 1, 1), SETS(1, 1, 100), ANSWERED(2, 1, 1, 0),                   \
        GRANTS(2, 1, 1, 1, 1, 0), RECEIVES(3, 1, 1, WORTH)

#define CLIENT_DOES(t, what, c, n)                                                                 \
    {                                                                                              \
        AT(t), .kind = HISTORY_CLIENT_##what, .client = c, LEASE(n)                                \
    }
#define CLIENT_GOES(t, s, c)                                                                       \
    {                                                                                              \
        AT(t), .kind = HISTORY_CLIENT_LEAVES, .sidecar = s, .client = c                            \
    }
#define SIDECAR(t, what, s, c, n, ...)                                                             \
    {                                                                                              \
        AT(t), .kind = HISTORY_##what, .sidecar = s, .client = c, LEASE(n), ##__VA_ARGS__          \
    }
#define REDIS(t, what, n)                                                                          \
    {                                                                                              \
        AT(t), .kind = HISTORY_##what, .key = 1, LEASE(n)                                          \
    }
#define KEY(t, what)                                                                               \
    {                                                                                              \
        AT(t), .kind = HISTORY_##what, .key = 1                                                    \
    }
#define PROCESS(t, what, s)                                                                        \
    {                                                                                              \
        AT(t), .kind = HISTORY_##what, .sidecar = s                                                \
    }
#define REVOKES(t, why, safe_until)                                                                \
    SIDECAR(t, WROTE_REVOKED, 1, 1, 1, .reason = WIRE_REASON_##why, UNTIL(WORTH), DUE(safe_until))
#define RENEWS(t)                                                                                  \
    SIDECAR(t, SENT_RENEW, 1, 0, 1), REDIS((t) + 1, EXTENDED, 1), ANSWERED((t) + 2, 1, 1, t)
#define TROUBLE(t, until)                                                                          \
    {                                                                                              \
        AT(t), .kind = HISTORY_TROUBLE, UNTIL(until)                                               \
    }
#define RELEASES(t)                                                                                \
    CLIENT_DOES(t, RELEASES, 1, 1), SIDECAR((t) + 1, READ_RELEASE, 1, 1, 1),                       \
        SIDECAR((t) + 1, SENT_DELETE, 1, 0, 1), REDIS((t) + 2, DELETED, 1),                        \
        SIDECAR((t) + 3, WROTE_RELEASED, 1, 1, 1, .ok = true)

struct example {
    const char *name;
    int invariant; // 0: a good one
    int64_t end_ms;
    struct history_record steps[MAX_STEPS];
};

// The invariant that it breaks, 0 for none. sends: the trace has what sidecars sent.
static inline int history_example(const struct example *example, bool sends, char *why, size_t size)
{
    struct history_options options = {
        .late_us = 15000,
        .answer_us = 400000,
        .tidy_us = 150000,
        .beat_us = 30000,
        .settle_us = 500000,
        .idle_us = 1500000,
        .sends = sends,
    };
    struct history *history = history_new(&options);
    int r = 0, invariant;

    ck_assert_ptr_nonnull(history);
    for (size_t i = 0; i < MAX_STEPS && r == 0; i++)
        if (example->steps[i].at_us || example->steps[i].kind || example->steps[i].client)
            r = history_add(history, &example->steps[i]);
    if (r == 0)
        r = history_finish(history, example->end_ms * 1000);
    ck_assert_int_ge(r, 0);
    invariant = history_invariant(history);
    ck_assert_int_eq(r, invariant ? HISTORY_E_VIOLATION : 0);
    strncpy(why, history_why(history), size - 1);
    why[size - 1] = '\0';
    history_free(history);
    return invariant;
}
