// SPDX-License-Identifier: Apache-2.0
//
// The composition root: builds everything in order, runs the loop, tears it down in reverse.
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sidecar/config.h"
#include "sidecar/keeper.h"
#include "sidecar/lateness.h"
#include "sidecar/listener.h"
#include "sidecar/peer.h"
#include "sidecar/process.h"
#include "sidecar/store.h"
#include "sidecar/wakeup.h"

struct sidecar {
    struct ev_loop *loop;
    struct ev_check first;    // in each turn, before anything is believed
    struct ev_prepare last;   // before the loop sleeps
    struct ev_idle awake;     // active while there is work that no descriptor reports
    struct ev_signal stop[2]; // SIGTERM, SIGINT
    struct ev_signal leave;   // SIGUSR2
    struct wakeup wakeup;
    struct listener listener;
    struct store *store;
    struct keeper keeper;
    struct peers peers;
    struct processes processes;
    struct lateness lateness;
    char host[256];
    int64_t drain_timeout_ms;
    int64_t drain_until_ms; // INT64_MAX: not draining
};

// 0, or a sysexits code with the reason in error; then nothing is left of it. config outlives it.
int sidecar_init(struct sidecar *sidecar, const struct config *config, char *error, size_t size);
// Until a signal ends it and all is done.
void sidecar_run(struct sidecar *sidecar);
void sidecar_deinit(struct sidecar *sidecar);
