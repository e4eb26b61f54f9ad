// SPDX-License-Identifier: Apache-2.0
//
// The inside of the keeper, shared by its files and nobody else:
//
//     keeper.c          steps a lease and carries the actions out; time, drain, life
//     keeper_store.c    calls to the store and its answers
//     keeper_queue.c    who waits behind a key; hand-over
//     keeper_session.c  clients and processes that come and go
//     keeper_request.c  acquire, release, cancel
//     keeper_query.c    adopt, extend, inspect, break
//     keeper_page.c     the validity pages
#pragma once

#include "sidecar/keeper.h"

// ---- keeper.c ----

// Steps the lease with the event and carries the actions out. May close the slot. completion: the
// store's answer that the event was made of, or NULL.
void keeper_apply(struct keeper *keeper, uint32_t number, const struct lease_event *event,
                  const struct store_completion *completion, int64_t now_ms);
void keeper_apply_kind(struct keeper *keeper, uint32_t number, enum lease_event_kind kind,
                       int64_t now_ms);
// Random bytes.
void keeper_draw(struct keeper *keeper, void *bytes, size_t size);
// The phase of a slot's heartbeats: that of its block, so that a block is renewed in one call.
uint32_t keeper_phase(const struct keeper *keeper, uint32_t number);
// Counts the lease's state, +1 or -1, into what keeper_is_drained looks at.
void keeper_count(struct keeper *keeper, const struct lease *lease, int difference);
// Goes on with the walk over all slots, some of them.
void keeper_go_on_walking(struct keeper *keeper, int64_t now_ms);
// A grant to a client that has half-closed, or after the drain: it is told, and then it ends.
void keeper_end_late_grant(struct keeper *keeper, uint32_t number, uint32_t generation,
                           int64_t now_ms);

// ---- keeper_store.c ----

extern const struct store_hooks keeper_store_hooks;

struct store_token keeper_token(const struct keeper *keeper, const struct slot *slot);
// replaces: the lease that hands over, or SLOT_NONE.
void keeper_submit_acquire(struct keeper *keeper, uint32_t number, uint32_t replaces,
                           int64_t now_ms);
void keeper_submit_release(struct keeper *keeper, uint32_t number, int64_t now_ms);

// ---- keeper_queue.c ----

// The key's lease is granted: who tried once behind it is answered, who waits goes on waiting.
void keeper_queue_granted(struct keeper *keeper, uint32_t head, int64_t now_ms);
// The key's lease was denied, and waits or not: who tried once gets the same answer.
void keeper_queue_denied(struct keeper *keeper, uint32_t head,
                         const struct store_completion *completion, int64_t now_ms);
// The key's lease is no longer that: the next one is asked for, from `replaces` where not SLOT_NONE.
void keeper_leave_key(struct keeper *keeper, uint32_t number, uint32_t replaces, int64_t now_ms);
// A lease with a queue may hand over.
bool keeper_may_hand_over(const struct keeper *keeper, uint32_t number);
// Takes a queued slot out of its queue.
void keeper_leave_queue(struct keeper *keeper, uint32_t number);
// The key's lease begins, or stops, to be told when the key is freed.
void keeper_watch(struct keeper *keeper, uint32_t head);
void keeper_unwatch(struct keeper *keeper, uint32_t head);

// ---- keeper_session.c ----

struct session *keeper_session_of(const struct keeper *keeper, const struct slot *slot);
struct pending *keeper_take_pending(struct keeper *keeper);
void keeper_give_pending(struct keeper *keeper, struct pending *pending);
// The request is answered, or there is nobody left to answer.
void keeper_drop_pending(struct keeper *keeper, struct session *session, struct slot *slot);
void keeper_attach(struct keeper *keeper, struct session *session, uint32_t number);
void keeper_detach(struct keeper *keeper, struct session *session, uint32_t number);
// Remembers, of a lease that the connection's end does not free, that its grant is not written yet.
void keeper_note_unread(struct session *session, uint32_t number, const struct slot *slot);
// Binds a slot to process pid (0: the session's own); NULL, or why not.
const char *keeper_bind_process(struct keeper *keeper, struct session *session, uint32_t number,
                                pid_t pid);
void keeper_unbind_process(struct keeper *keeper, const struct slot *slot);

// ---- keeper_page.c ----

// Gives the lease a slot in its session's page, with its validity: the number; or PAGE_NONE, where
// there is no page or no free slot.
int keeper_page_grant(struct session *session, struct slot *slot);
// Of a lease with LEASE_PAGED: its slot says what its state is.
void keeper_page_follow(const struct keeper *keeper, const struct slot *slot);
// The lease is no longer told to this session: 0.
void keeper_page_leave(struct session *session, struct slot *slot);
// The session's client is done with the lease, whatever has become of it.
void keeper_page_release(struct session *session, const struct message_token *token);

// ---- keeper_request.c ----

// Whether a further request of the session may wait for its answer; false after a refusal.
bool keeper_may_wait(struct session *session, const struct message_request *request);

// ---- keeper_query.c ----

// A query of the session; 0 after a refusal.
uint32_t keeper_open_query(struct keeper *keeper, struct session *session,
                           const struct message_request *request);
void keeper_submit_query(struct keeper *keeper, uint32_t number, enum store_op op,
                         const struct session *session, int64_t now_ms);
// Whom to answer; NULL: gone.
struct session *keeper_asker(const struct keeper *keeper, const struct query *query);
void keeper_query_completed(struct keeper *keeper, const struct store_completion *completion,
                            int64_t now_ms);
// The session is over: its queries go on, unheard. gone: by the client's own doing.
void keeper_forget_queries(struct keeper *keeper, struct session *session, bool gone);
// A lease that is being broken here is deleted (or can be nobody's any more).
void keeper_query_forgotten(struct keeper *keeper, uint32_t number, uint32_t generation);

// ---- keeper_adopt.c ----

void keeper_adopted(struct keeper *keeper, struct query *query,
                    const struct store_completion *completion, int64_t now_ms);
