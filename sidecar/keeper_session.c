// SPDX-License-Identifier: Apache-2.0
//
// Clients and processes that come and go.
//
// A slot's session is whom its lease is told to. It is taken off the slot before the session goes,
// so that no slot ever names a session that is gone. A lease whose binding is the connection ends
// with it; one bound to a process, or to nothing, goes on with nobody to tell. Its grant must have
// reached the socket by then: one that is still in the output buffer is freed with the connection.
//
// A process that leases are bound to is watched once, whatever their number.

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/keeper_inside.h"
#include "sidecar/page.h"
#include "sidecar/tell.h"

// ---- Requests that wait for their answer ----

struct pending *keeper_take_pending(struct keeper *keeper)
{
    struct pending *pending = keeper->free_pending;

    if (!pending)
        return malloc(sizeof *pending);
    keeper->free_pending = pending->next;
    return pending;
}

void keeper_give_pending(struct keeper *keeper, struct pending *pending)
{
    free(pending->denial);
    pending->denial = NULL;
    pending->next = keeper->free_pending;
    keeper->free_pending = pending;
}

static bool has_pending(const struct slot *slot)
{
    bool may = lease_is_asking(&slot->lease) || slot->lease.state == LEASE_NEW ||
               slot->lease.state == LEASE_RELEASING;
    return may && slot->pending;
}

struct session *keeper_session_of(const struct keeper *keeper, const struct slot *slot)
{
    return slot->session ? keeper->sessions[slot->session] : NULL;
}

void keeper_drop_pending(struct keeper *keeper, struct session *session, struct slot *slot)
{
    keeper_give_pending(keeper, slot->pending);
    slot->pending = NULL;
    session->unanswered--;
    if (slot->lease.flags & LEASE_WAITS) {
        slot->lease.flags &= (uint16_t)~LEASE_WAITS;
        accounts_give(&keeper->accounts, slot->account, ACCOUNT_WAITERS);
    }
}

void keeper_attach(struct keeper *keeper, struct session *session, uint32_t number)
{
    bool waits = table_slot(&keeper->table, number)->lease.flags & LEASE_WAITS;

    table_session_add(&keeper->table, waits ? &session->waiters : &session->leases, session->number,
                      number);
}

void keeper_detach(struct keeper *keeper, struct session *session, uint32_t number)
{
    keeper_page_leave(session, table_slot(&keeper->table, number));
    table_session_remove(&keeper->table,
                         session->waiters == number ? &session->waiters : &session->leases, number);
}

// ---- Grants not yet written ----

struct unread {
    struct unread *next;
    uint64_t offset; // of the end of the grant, counted as session->taken is
    uint32_t number;
    uint32_t generation;
};

void keeper_note_unread(struct session *session, uint32_t number, const struct slot *slot)
{
    struct unread *unread;

    if (slot->bind == WIRE_BIND_CONNECTION && !(slot->lease.flags & LEASE_EXPIRES))
        return;
    while ((unread = session->unread) && unread->offset <= session->taken) {
        session->unread = unread->next;
        free(unread);
    }
    unread = malloc(sizeof *unread);
    if (!unread) {
        session->out.failed = true;
        return;
    }
    *unread = (struct unread){
        .next = session->unread,
        .offset = session->taken + buf_length(&session->out),
        .number = number,
        .generation = slot->generation,
    };
    session->unread = unread;
}

// The connection is over: what it was granted and never read is nobody's.
static void free_unread(struct keeper *keeper, struct session *session, int64_t now_ms)
{
    struct unread *unread;
    struct slot *slot;

    while ((unread = session->unread)) {
        session->unread = unread->next;
        slot = table_find(&keeper->table, unread->number, unread->generation);
        if (slot && unread->offset > session->taken && !slot->session) { // nobody adopted it since
            lease_set_expires(&slot->lease, false);
            keeper_apply_kind(keeper, unread->number, LEASE_ON_UNBIND, now_ms);
        }
        free(unread);
    }
}

// ---- Sessions ----

static int number_session(struct keeper *keeper, struct session *session)
{
    struct session **sessions;
    uint32_t number = keeper->session_free;
    uint32_t count = keeper->session_count * 2;

    while (number < keeper->session_count && keeper->sessions[number])
        number++;
    if (number == keeper->session_count) {
        sessions = realloc(keeper->sessions, count * sizeof(*sessions));
        if (!sessions)
            return -ENOMEM;
        memset(sessions + keeper->session_count, 0, keeper->session_count * sizeof(*sessions));
        keeper->sessions = sessions;
        keeper->session_count = count;
    }
    keeper->sessions[number] = session;
    keeper->session_free = number + 1;
    session->number = number;
    return 0;
}

int keeper_open_session(struct keeper *keeper, struct session *session)
{
    int r = accounts_open(&keeper->accounts, session->uid, &session->account);

    if (r != 0)
        return r == ACCOUNT_E_FULL ? KEEPER_E_FULL : r;
    session->tell_by_ms = INT64_MAX;
    r = number_session(keeper, session);
    if (r < 0)
        accounts_give(&keeper->accounts, session->account, ACCOUNT_CONNECTIONS);
    return r;
}

static void end_input_of(struct keeper *keeper, struct session *session, uint32_t number,
                         int64_t now_ms)
{
    struct slot *slot = table_slot(&keeper->table, number);
    bool bound = slot->bind == WIRE_BIND_CONNECTION;

    switch ((enum lease_state)slot->lease.state) {
    case LEASE_QUEUED:
    case LEASE_WAITING:
        tell_cancelled(session, slot, slot->pending, now_ms);
        keeper_drop_pending(keeper, session, slot);
        keeper_apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
        break;
    case LEASE_HELD:
    case LEASE_ENDING:
        if (bound)
            keeper_apply(keeper, number,
                         &(struct lease_event){.kind = LEASE_ON_UNBIND, .tell = true}, NULL,
                         now_ms);
        break;
    case LEASE_ACQUIRING: // one that waits is cancelled; one that tries once is answered
        if (!(slot->lease.flags & LEASE_WAITS))
            break;
        tell_cancelled(session, slot, slot->pending, now_ms);
        keeper_drop_pending(keeper, session, slot);
        keeper_detach(keeper, session, number);
        keeper_apply_kind(keeper, number, LEASE_ON_UNBIND, now_ms);
        break;
    default: // RELEASING: to be answered
        break;
    }
}

static void end_input_of_list(struct keeper *keeper, struct session *session, uint32_t first,
                              int64_t now_ms)
{
    uint32_t next;

    for (uint32_t number = first; number != SLOT_NONE; number = next) {
        next = table_slot(&keeper->table, number)->session_next;
        end_input_of(keeper, session, number, now_ms);
    }
}

void keeper_end_input(struct keeper *keeper, struct session *session, int64_t now_ms)
{
    session->input_ended = true;
    end_input_of_list(keeper, session, session->waiters, now_ms);
    end_input_of_list(keeper, session, session->leases, now_ms);
}

// Whether the lease goes on when its connection does not.
static bool outlives(const struct slot *slot, bool gone)
{
    return gone && slot->bind != WIRE_BIND_CONNECTION &&
           (slot->lease.state == LEASE_HELD || slot->lease.state == LEASE_ENDING);
}

void keeper_close_session(struct keeper *keeper, struct session *session, bool gone, int64_t now_ms)
{
    enum lease_event_kind kind = gone ? LEASE_ON_UNBIND : LEASE_ON_CUT;
    uint32_t number;

    while ((number = session->waiters ? session->waiters : session->leases) != SLOT_NONE) {
        struct slot *slot = table_slot(&keeper->table, number);
        if (has_pending(slot))
            keeper_drop_pending(keeper, session, slot);
        keeper_detach(keeper, session, number);
        if (!outlives(slot, gone))
            keeper_apply_kind(keeper, number, kind, now_ms);
    }
    session->page = page_free(session->page);
    free_unread(keeper, session, now_ms);
    keeper_forget_queries(keeper, session, gone);
    assert(session->unanswered == 0);
    accounts_give(&keeper->accounts, session->account, ACCOUNT_CONNECTIONS);
    keeper->sessions[session->number] = NULL;
    if (session->number < keeper->session_free)
        keeper->session_free = session->number;
    session->number = 0;
}

// ---- Processes ----

// Where pid is, or would be, among the processes.
static uint32_t process_place(const struct keeper *keeper, pid_t pid)
{
    uint32_t low = 0, high = keeper->process_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (keeper->processes[middle]->pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct process *find_process(const struct keeper *keeper, pid_t pid)
{
    uint32_t place = process_place(keeper, pid);

    if (place == keeper->process_count || keeper->processes[place]->pid != pid)
        return NULL;
    return keeper->processes[place];
}

static struct process *add_process(struct keeper *keeper, pid_t pid, void *watch)
{
    uint32_t place = process_place(keeper, pid);
    struct process **all =
        realloc(keeper->processes, (keeper->process_count + 1) * sizeof(struct process *));
    struct process *process = calloc(1, sizeof *process);

    if (all)
        keeper->processes = all;
    if (!all || !process) {
        free(process);
        return NULL;
    }
    *process = (struct process){.pid = pid, .watch = watch};
    memmove(all + place + 1, all + place,
            (keeper->process_count - place) * sizeof(struct process *));
    all[place] = process;
    keeper->process_count++;
    return process;
}

static void remove_process(struct keeper *keeper, struct process *process)
{
    uint32_t place = process_place(keeper, process->pid);

    keeper->process_count--;
    memmove(keeper->processes + place, keeper->processes + place + 1,
            (keeper->process_count - place) * sizeof(struct process *));
    free(process->bound);
    free(process);
}

static int add_bound(struct process *process, uint32_t number, uint32_t generation)
{
    uint32_t capacity = process->capacity ? process->capacity * 2 : 1;

    if (process->count == process->capacity) {
        void *bound = realloc(process->bound, capacity * sizeof *process->bound);
        if (!bound)
            return -ENOMEM;
        process->bound = bound;
        process->capacity = capacity;
    }
    process->bound[process->count].number = number;
    process->bound[process->count++].generation = generation;
    process->live++;
    return 0;
}

const char *keeper_bind_process(struct keeper *keeper, struct session *session, uint32_t number,
                                pid_t pid)
{
    const struct keeper_options *options = &keeper->options;
    struct slot *slot = table_slot(&keeper->table, number);
    struct process *process;
    const char *why;
    void *watch;

    // A process that is watched already has been found to be this one: its pid is not reused before
    // its end was seen. Its owner is asked again, for this session.
    why = options->watch_process ? options->watch_process(options->context, session, &pid, &watch)
                                 : "processes cannot be watched here";
    if (why)
        return why;
    process = find_process(keeper, pid);
    if (process)
        options->unwatch_process(options->context, watch);
    else
        process = add_process(keeper, pid, watch);
    if (!process) {
        options->unwatch_process(options->context, watch);
        return "out of memory";
    }
    slot->pid = (uint32_t)pid;
    slot->bind = WIRE_BIND_PID;
    if (add_bound(process, number, slot->generation) == 0)
        return NULL;
    slot->bind = WIRE_BIND_CONNECTION;
    if (process->live == 0) {
        options->unwatch_process(options->context, process->watch);
        remove_process(keeper, process);
    }
    return "out of memory";
}

static void drop_stale(struct keeper *keeper, struct process *process)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < process->count; i++)
        if (table_find(&keeper->table, process->bound[i].number, process->bound[i].generation))
            process->bound[kept++] = process->bound[i];
    process->count = kept;
}

void keeper_unbind_process(struct keeper *keeper, const struct slot *slot)
{
    struct process *process = find_process(keeper, (pid_t)slot->pid);

    if (!process)
        return; // it has ended, and with it the watch
    if (--process->live == 0) {
        keeper->options.unwatch_process(keeper->options.context, process->watch);
        remove_process(keeper, process);
    } else if (process->count > 16 && process->live < process->count / 2) {
        drop_stale(keeper, process);
    }
}

// Who waits for the lease is told that it is cancelled; who holds it, that it is over.
static void end_binding(struct keeper *keeper, uint32_t number, struct slot *slot, int64_t now_ms)
{
    struct session *session = keeper_session_of(keeper, slot);

    slot->bind = WIRE_BIND_NONE; // there is nothing left to unbind from
    if (slot->lease.state == LEASE_RELEASING)
        return;
    if (session && lease_is_asking(&slot->lease)) {
        tell_cancelled(session, slot, slot->pending, now_ms);
        keeper_drop_pending(keeper, session, slot);
        keeper_detach(keeper, session, number);
    }
    keeper_apply(keeper, number, &(struct lease_event){.kind = LEASE_ON_UNBIND, .tell = true}, NULL,
                 now_ms);
}

void keeper_process_ended(struct keeper *keeper, void *watch, int64_t now_ms)
{
    struct process *process = NULL;

    for (uint32_t i = 0; i < keeper->process_count; i++)
        if (keeper->processes[i]->watch == watch)
            process = keeper->processes[i];
    if (!process)
        return;
    for (uint32_t i = 0; i < process->count; i++) {
        struct slot *slot =
            table_find(&keeper->table, process->bound[i].number, process->bound[i].generation);
        if (slot && slot->bind == WIRE_BIND_PID)
            end_binding(keeper, process->bound[i].number, slot, now_ms);
    }
    keeper->options.unwatch_process(keeper->options.context, watch);
    remove_process(keeper, process);
}
