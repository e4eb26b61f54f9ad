// SPDX-License-Identifier: Apache-2.0
//
// Coverage of the lease machine: lease_step is wrapped at link time (-Wl,--wrap=lease_step), and each
// (state, event, state after) is counted. The table says which of them there are; one that happens
// without standing there is an error, and so is one that stands there and never happens.

#include <inttypes.h>
#include <stdio.h>

#include "tests/sim/sim.h"

struct sim_stats *cover_stats;
const struct world *cover_world;

struct lease_actions __real_lease_step(struct lease *lease, const struct lease_rules *rules,
                                       const struct lease_event *event, int64_t now_ms);
struct lease_actions __wrap_lease_step(struct lease *lease, const struct lease_rules *rules,
                                       const struct lease_event *event, int64_t now_ms);

struct lease_actions __wrap_lease_step(struct lease *lease, const struct lease_rules *rules,
                                       const struct lease_event *event, int64_t now_ms)
{
    unsigned before = lease->state;
    struct lease_actions actions = __real_lease_step(lease, rules, event, now_ms);

    if (cover_stats)
        cover_stats->steps[before][event->kind][lease->state]++;
    if (cover_world && cover_world->trace && before != lease->state)
        world_say(cover_world, "lease: %s, %s -> %s", lease_state_names[before],
                  lease_event_names[event->kind], lease_state_names[lease->state]);
    return actions;
}

#define BIT(state) (1u << LEASE_##state)

static const struct {
    bool is_there;
    unsigned after; // bits of states; 0: never
} table[LEASE_STATE_COUNT][LEASE_EVENT_COUNT] = {
#define HAPPENS(state, event, bits) [LEASE_##state][LEASE_ON_##event] = {true, bits},
#define NEVER(state, event, reason) [LEASE_##state][LEASE_ON_##event] = {true, 0},
#define SELDOM(state, event, bits)
#include "tests/sim/transitions.def"
#undef HAPPENS
#undef NEVER
#undef SELDOM
};

static const unsigned seldom[LEASE_STATE_COUNT][LEASE_EVENT_COUNT] = {
#define HAPPENS(state, event, bits)
#define NEVER(state, event, reason)
#define SELDOM(state, event, bits) [LEASE_##state][LEASE_ON_##event] = bits,
#include "tests/sim/transitions.def"
};

int cover_report(const struct sim_stats *stats, bool verbose)
{
    unsigned all = 0, reached = 0;
    int wrong = 0;

    for (unsigned a = 0; a < LEASE_GONE; a++)
        for (unsigned e = 0; e < LEASE_EVENT_COUNT; e++)
            if (!table[a][e].is_there) {
                printf("  without a row: %s, %s\n", lease_state_names[a], lease_event_names[e]);
                wrong++;
            }
    for (unsigned a = 0; a < LEASE_STATE_COUNT; a++)
        for (unsigned e = 0; e < LEASE_EVENT_COUNT; e++)
            for (unsigned b = 0; b < LEASE_STATE_COUNT; b++) {
                bool due = table[a][e].after >> b & 1;
                uint64_t count = stats->steps[a][e][b];
                all += due;
                reached += due && count;
                if (due && !count)
                    printf("  never: %s, %s -> %s\n", lease_state_names[a], lease_event_names[e],
                           lease_state_names[b]);
                if (seldom[a][e] >> b & 1)
                    continue;
                if (!due && count)
                    printf("  not in the table: %s, %s -> %s (%" PRIu64 ")\n", lease_state_names[a],
                           lease_event_names[e], lease_state_names[b], count);
                if (verbose && count)
                    printf("  %-10s %-14s %-10s %12" PRIu64 "\n", lease_state_names[a],
                           lease_event_names[e], lease_state_names[b], count);
                wrong += due != (count > 0);
            }
    printf("transitions of the lease machine: %u of %u reached\n", reached, all);
    return wrong;
}
