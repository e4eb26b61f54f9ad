// SPDX-License-Identifier: Apache-2.0
//
// xorshift64*: all of a run's chance comes from one of these. No two draws stand in one expression or
// argument list: compilers differ in which goes first, and a seed must mean the same to all.

#include "tests/sim/sim.h"

void chance_seed(struct chance *chance, uint64_t seed)
{
    // splitmix64 of the seed, so that neighbours have nothing in common; never 0.
    uint64_t z = seed + UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    chance->state = z ? z : 1;
}

uint64_t chance_next(struct chance *chance)
{
    uint64_t x = chance->state;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    chance->state = x;
    return x * UINT64_C(0x2545f4914f6cdd1d);
}

int64_t chance_below(struct chance *chance, int64_t bound)
{
    return (int64_t)((chance_next(chance) >> 1) % (uint64_t)bound);
}

int64_t chance_between(struct chance *chance, int64_t least, int64_t most)
{
    return least + chance_below(chance, most - least + 1);
}

bool chance_percent(struct chance *chance, int percent)
{
    return chance_below(chance, 100) < percent;
}
