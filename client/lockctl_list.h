// SPDX-License-Identifier: Apache-2.0
//
// All rows of the sidecar's list, over its pages.
#pragma once

#include "client/lock_keeper.h"

typedef void lockctl_list_taker(const struct lock_keeper_row *row, void *user);

// Calls take for each row. The library's result; rows may have been taken before it failed.
int lockctl_list_all(struct lock_keeper *keeper, lockctl_list_taker *take, void *user);
