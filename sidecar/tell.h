// SPDX-License-Identifier: Apache-2.0
//
// Every line the sidecar says about a lease, written into a session. A line is either whole in the
// session's buffer or, when memory is out, marks the buffer failed, which cuts the client off.
#pragma once

#include <stdint.h>

#include "protocol/message.h"
#include "sidecar/keeper.h"

// op: acquire or adopt. page_slot: PAGE_NONE, or where the lease is in the session's page.
void tell_granted(struct session *session, const struct slot *slot, enum wire_op op,
                  const struct message_id *id, int64_t waited_ms, int page_slot);

// The refusal of an acquire, by what the store said.
void tell_denied(struct session *session, const struct slot *slot, const struct pending *pending,
                 const struct store_completion *completion, int64_t now_ms);
// errLockHeld to one who would overtake those that wait, by what they were told age_ms ago.
void tell_held_there(struct session *session, const struct message_request *request,
                     const struct store_completion *completion, int64_t age_ms);
// errLockHeld, the holder being a lease of this sidecar.
void tell_held_here(const struct keeper *keeper, struct session *session, const char *key,
                    size_t key_length, const struct message_id *id, const struct slot *holder,
                    int64_t waited_ms, int64_t now_ms);
void tell_cancelled(struct session *session, const struct slot *slot, const struct pending *pending,
                    int64_t now_ms);

void tell_revoked(const struct keeper *keeper, struct session *session, const struct slot *slot,
                  int64_t valid_until_ms, int64_t now_ms);
void tell_renewed(struct session *session, const struct slot *slot);
void tell_at_risk(struct session *session, const struct slot *slot, int64_t now_ms);

void tell_cancel(struct session *session, const struct message_request *request, bool cancelled);

void tell_released(struct session *session, const struct slot *slot, const struct message_id *id);

// ---- Queries ----

// errLostActorLock for a lease that has been revoked.
void tell_lost(struct session *session, const struct message_request *request,
               const struct slot *slot);
// slot: the lease, or NULL when it is gone.
void tell_extended(struct session *session, const struct query *query, const struct slot *slot,
                   const struct store_completion *completion, int64_t now_ms);
// errLostActorLock; says nothing of who has the key.
void tell_not_adopted(struct session *session, const struct message_id *id, const char *key,
                      size_t key_length);
void tell_inspected(const struct keeper *keeper, struct session *session, const struct query *query,
                    const struct store_completion *completion);
void tell_broken(struct session *session, const struct query *query, bool broken);
// Redis did not answer, or refused.
void tell_query_failed(struct session *session, const struct query *query,
                       const struct store_completion *completion);

// A refusal with a message (printf-like). op may be WIRE_OP_COUNT, id NULL.
void tell_error(struct session *session, enum wire_op op, const struct message_id *id,
                enum wire_error error, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

// The "holder" member for a lease of this sidecar.
void tell_holder(const struct keeper *keeper, struct buf *out, const struct slot *slot);
