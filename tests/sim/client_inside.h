// SPDX-License-Identifier: Apache-2.0
//
// What the parts of a client share: lines, plans, its connection. Private to client*.c.
#pragma once

#include "tests/sim/sim.h"

// A request's number says what it asks for, in its lowest bits.
enum { SIM_EXPIRES = 1, SIM_UNBOUND = 2, SIM_NEXT_REQUEST = 4 };

// ---- client_line.c: what it says, which reaches the sidecar later ----

// wait_ms: as in the protocol. The TTL, the deadline, the events are by chance.
void client_say_acquire(struct sim_client *client, uint32_t request, uint32_t key, int64_t wait_ms);
void client_say_adopt(struct sim_client *client, uint32_t request, uint32_t key,
                      const struct message_token *lease);
void client_say_release(struct sim_client *client, uint32_t request,
                        const struct message_token *lease);
void client_say_extend(struct sim_client *client, uint32_t request,
                       const struct message_token *lease, int64_t deadline_ms);
void client_say_break(struct sim_client *client, uint32_t request, uint32_t key, int64_t grace_ms);
void client_say_inspect(struct sim_client *client, uint32_t request, uint32_t key);
void client_say_cancel(struct sim_client *client, uint32_t request, uint32_t target);

// ---- client_plan.c ----

uint32_t client_next_request(struct world *world);
// How long it does nothing.
int64_t client_think(struct sim_client *client);
void client_idle(struct sim_client *client, struct sim_hand *hand, int64_t in_us);
// The hand has nothing to do: it asks for a lease.
void client_ask(struct sim_client *client, struct sim_hand *hand);
// It waits, and does not want to any more, or would rather go.
void client_tire(struct sim_client *client, struct sim_hand *hand);
// It has been granted the lease in hand->token.
void client_work(struct sim_client *client, struct sim_hand *hand);
void client_act_on_plan(struct sim_client *client, struct sim_hand *hand);
// Its lease has nobody to tell: it adopts it, lets it be adopted, or frees it.
void client_take_up(struct sim_client *client, struct sim_hand *hand);
void client_release(struct sim_client *client, struct sim_hand *hand);
