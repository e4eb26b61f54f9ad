// SPDX-License-Identifier: Apache-2.0
//
// SipHash-1-3 (Aumasson and Bernstein): a keyed hash, so that a client cannot choose keys that
// collide.
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t siphash13(const uint64_t key[2], const void *bytes, size_t length);
