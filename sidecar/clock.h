// SPDX-License-Identifier: Apache-2.0
//
// The one clock: CLOCK_BOOTTIME, which goes on in suspend and which nobody sets. Read only in the
// loop's outermost layer and in the store, just before it writes; below, `now` is a parameter.
#pragma once

#include <stdint.h>

int64_t clock_boottime_ms(void);
