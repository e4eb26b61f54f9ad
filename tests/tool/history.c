// SPDX-License-Identifier: Apache-2.0
//
// One struct per lease, found by its token: what Redis did with it, what its sidecar said of it and
// when its client acts on it. Each kind of record has one function, which checks what the record may
// not be, and then takes it in. A key knows the lease that it holds in Redis, and those that act.
//
//     Redis     absent -> stored -> absent (gone: the rules of I2, I3 and I6 are applied here)
//     sidecar   ACQUIRING -> LIVE -> one of the ends; or ACQUIRING -> DENIED
//     client    acts from CLIENT_GRANTED until it stops by itself, is told, or until_us has come
//
// A lease is finished when its sidecar has ended it and Redis has it no more. It stays in a queue for
// a while, so that a second end or a renewal after the end is caught, and comes back to life when
// bytes that were late store it once more.

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/lease.h"
#include "tests/tool/history.h"

enum { BUCKETS = 4096, ACTING = 8, SHOWN = 40 };

struct tracked {
    struct tracked *bucket_next;
    struct tracked *previous, *next; // of all
    struct tracked *finished_next;
    struct message_token token;
    uint32_t key, sidecar, client, request;
    int64_t ttl_ms;
    int64_t stored_at_us;  // executed last: SET or EXTENDED
    int64_t published_us;  // the latest until_us that its client was given
    int64_t confirmed_us;  // the latest until_us of a positive answer that counts
    int64_t revoke_us;     // D of that
    int64_t deadline_us;   // the workflow deadline
    int64_t safe_until_us; // what its revoked event promised
    int64_t free_from_us;  // its client has stopped: the key may go
    int64_t granted_us;
    int64_t eof_us;
    int64_t released_us;   // the sidecar has read its release
    int64_t over_us;       // the sidecar knows that it has stopped: the key is to go
    int64_t acts_until_us; // by the client's own clock
    enum history_end end;
    bool stored;         // in Redis
    bool was_set;        // at some time
    bool gone;           // at some time after it was set
    bool lost;           // Redis let it go or may do so: promise 1 is out of force
    bool granted;        // its client was told so, or will read it
    bool releasing;      // the sidecar has read a release
    bool released_live;  // and that ended it
    bool freed_by_other; // and it came on another connection
    bool eof;            // the sidecar has read the end of its client's input
    bool acts;
    bool expires;
    bool in_finished;
};

struct request {
    uint32_t number, client, sidecar, key;
    int64_t asked_at_us;
};

struct connection {
    uint32_t number, sidecar;
    bool left; // by its own doing
    bool eof;  // and the sidecar has read it
};

struct process {
    int64_t thawed_at_us;
    int64_t trouble_until_us;
    int64_t stopping_us;
    bool frozen, stopping, ended;
};

struct lock {
    struct tracked *holder;
    struct tracked *acting[ACTING];
    int64_t fence;
};

#define VECTOR(type)                                                                               \
    struct {                                                                                       \
        type *items;                                                                               \
        size_t count, room;                                                                        \
    }

struct history {
    struct history_options options;
    struct tracked *buckets[BUCKETS];
    struct tracked *all;
    struct tracked *finished, **finished_end;
    size_t finished_count;
    VECTOR(struct request) requests;
    VECTOR(struct connection) connections;
    VECTOR(struct process) processes; // by number
    VECTOR(struct lock) locks;        // by number
    struct process everybody;         // trouble of all
    int64_t now_us;
    int64_t least_slack_us;
    uint64_t ends[HISTORY_END_COUNT];
    struct history_record *recent; // a ring
    uint64_t recorded;
    int invariant;
    bool no_memory;
    char why[HISTORY_WHY];
};

// ---- Memory ----

static void *grown(struct history *history, void *items, size_t *room, size_t need, size_t size)
{
    size_t more = *room ? *room : 16;
    char *bigger;

    if (need <= *room)
        return items;
    while (more < need)
        more *= 2;
    bigger = realloc(items, more * size);
    if (!bigger) {
        history->no_memory = true;
        return items;
    }
    memset(bigger + *room * size, 0, (more - *room) * size);
    *room = more;
    return bigger;
}

#define RESERVE(history, vector, need)                                                             \
    ((vector).items = grown(history, (vector).items, &(vector).room, need, sizeof *(vector).items))

#define REMOVE(vector, i) ((vector).items[i] = (vector).items[--(vector).count])

static struct process *process_of(struct history *history, uint32_t number)
{
    RESERVE(history, history->processes, (size_t)number + 1);
    return &history->processes.items[number];
}

static struct lock *lock_of(struct history *history, uint32_t number)
{
    RESERVE(history, history->locks, (size_t)number + 1);
    if (history->locks.count <= number)
        history->locks.count = (size_t)number + 1;
    return &history->locks.items[number];
}

static struct tracked **bucket_of(struct history *history, const struct message_token *token)
{
    uint32_t hash;

    memcpy(&hash, token->bytes, sizeof hash);
    return &history->buckets[hash % BUCKETS];
}

static struct tracked *find(struct history *history, const struct message_token *token)
{
    struct tracked *at = *bucket_of(history, token);

    while (at && memcmp(&at->token, token, sizeof *token) != 0)
        at = at->bucket_next;
    return at;
}

static struct tracked *track(struct history *history, const struct message_token *token)
{
    struct tracked *lease = find(history, token);
    struct tracked **bucket;

    if (lease)
        return lease;
    lease = calloc(1, sizeof *lease);
    if (!lease) {
        history->no_memory = true;
        return NULL;
    }
    bucket = bucket_of(history, token);
    lease->bucket_next = *bucket;
    *bucket = lease;
    lease->next = history->all;
    if (history->all)
        history->all->previous = lease;
    history->all = lease;
    lease->token = *token;
    lease->free_from_us = lease->over_us = lease->revoke_us = lease->deadline_us = INT64_MAX;
    history->ends[HISTORY_ACQUIRING]++;
    return lease;
}

static void untrack(struct history *history, struct tracked *lease)
{
    struct tracked **at = bucket_of(history, &lease->token);

    while (*at != lease)
        at = &(*at)->bucket_next;
    *at = lease->bucket_next;
    if (lease->previous)
        lease->previous->next = lease->next;
    else
        history->all = lease->next;
    if (lease->next)
        lease->next->previous = lease->previous;
    free(lease);
}

// ---- Violations ----

static bool is_about(const struct history_record *record, const struct history_record *subject,
                     const struct tracked *lease)
{
    static const struct message_token none;
    uint32_t key = lease ? lease->key : subject->key;
    uint32_t client = lease && lease->client ? lease->client : subject->client;
    uint32_t sidecar = lease && lease->sidecar ? lease->sidecar : subject->sidecar;
    bool has_token = memcmp(&record->token, &none, sizeof none) != 0;

    if (lease && memcmp(&record->token, &lease->token, sizeof none) == 0)
        return true;
    if (record->client == 0 && record->key == 0 && !has_token) // what befell a process, or all
        return record->sidecar == 0 || record->sidecar == sidecar;
    if (record->kind >= HISTORY_SET && key && (record->key == key || record->key == 0))
        return true;
    if (lease && (has_token || record->request != lease->request) && record->request)
        return false;
    return client && record->client == client && !has_token;
}

static void show(struct history *history, size_t length, const struct history_record *subject,
                 const struct tracked *lease)
{
    uint64_t oldest = history->recorded > HISTORY_RECENT ? history->recorded - HISTORY_RECENT : 0;
    uint64_t shown[SHOWN];
    size_t count = 0;

    for (uint64_t i = history->recorded; i-- > oldest && count < SHOWN;)
        if (is_about(&history->recent[i % HISTORY_RECENT], subject, lease))
            shown[count++] = i;
    while (count-- > 0 && length + 2 < sizeof history->why) {
        history->why[length++] = ' ';
        history_format(&history->recent[shown[count] % HISTORY_RECENT], history->why + length,
                       sizeof history->why - length - 1);
        length += strlen(history->why + length);
        history->why[length++] = '\n';
        history->why[length] = '\0';
    }
}

static __attribute__((format(printf, 5, 6))) void violated(struct history *history, int invariant,
                                                           const struct history_record *record,
                                                           const struct tracked *lease,
                                                           const char *format, ...)
{
    va_list arguments;
    size_t length;
    int n;

    if (history->invariant)
        return;
    history->invariant = invariant;
    n = snprintf(history->why, sizeof history->why, "I%d: ", invariant);
    va_start(arguments, format);
    n += vsnprintf(history->why + n, sizeof history->why - (size_t)n, format, arguments);
    va_end(arguments);
    length = (size_t)n;
    history->why[length++] = '\n';
    history->why[length] = '\0';
    show(history, length, record, lease);
}

static double ms(int64_t us)
{
    return (double)us / 1000;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

// ---- What can be expected of a sidecar ----

// Something due at an instant, by a loop that runs: is it late now?
static bool is_late(struct history *history, uint32_t sidecar, int64_t due_us, int64_t at_us)
{
    const struct process *process = process_of(history, sidecar);

    if (process->frozen || due_us == INT64_MAX)
        return false;
    return at_us > max64(due_us, process->thawed_at_us) + history->options.late_us;
}

// The instant since when nothing is at fault and everything is in time again.
static int64_t calm_since(struct history *history, uint32_t sidecar)
{
    const struct process *process = process_of(history, sidecar);
    int64_t end_us = max64(process->trouble_until_us, history->everybody.trouble_until_us);

    end_us = max64(end_us, process->thawed_at_us);
    return end_us > 0 ? end_us + history->options.settle_us : 0;
}

static bool is_up(struct history *history, uint32_t sidecar)
{
    return sidecar && !process_of(history, sidecar)->ended;
}

// ---- The life of a lease ----

static bool is_finished(const struct tracked *lease)
{
    return !lease->stored && lease->end != HISTORY_ACQUIRING && lease->end != HISTORY_LIVE;
}

static void to_finished(struct history *history, struct tracked *lease)
{
    if (lease->in_finished || !is_finished(lease))
        return;
    lease->in_finished = true;
    lease->finished_next = NULL;
    *history->finished_end = lease;
    history->finished_end = &lease->finished_next;
    history->finished_count++;
}

static void stop_acting(struct history *history, const struct tracked *lease)
{
    struct lock *lock = lock_of(history, lease->key);

    for (size_t i = 0; i < ACTING; i++)
        if (lock->acting[i] == lease)
            lock->acting[i] = NULL;
}

// The one that was finished first is forgotten, unless its client may still act on it.
static void forget_old(struct history *history)
{
    struct tracked *lease = history->finished;

    if (history->finished_count <= HISTORY_FINISHED)
        return;
    history->finished = lease->finished_next;
    if (!history->finished)
        history->finished_end = &history->finished;
    history->finished_count--;
    lease->in_finished = false;
    if (max64(lease->published_us, lease->acts_until_us) > history->now_us) {
        to_finished(history, lease);
        return;
    }
    stop_acting(history, lease);
    if (is_finished(lease))
        untrack(history, lease);
}

static void end(struct history *history, struct tracked *lease, enum history_end how)
{
    if (lease->end != HISTORY_ACQUIRING && lease->end != HISTORY_LIVE)
        return;
    history->ends[lease->end]--;
    history->ends[how]++;
    lease->end = how;
    to_finished(history, lease);
}

// ---- I1: who acts on a key ----

static void acts(struct history *history, const struct history_record *record,
                 struct tracked *lease, int64_t until_us)
{
    struct lock *lock = lock_of(history, lease->key);
    size_t room = ACTING, mine = ACTING;

    if (until_us <= record->at_us)
        return;
    for (size_t i = 0; i < ACTING; i++) {
        struct tracked *other = lock->acting[i];
        if (other && other != lease && (!other->acts || other->acts_until_us <= record->at_us))
            other = lock->acting[i] = NULL;
        if (other == lease)
            mine = i;
        else if (!other)
            room = i;
        else if (!other->lost && !lease->lost)
            violated(history, 1, record, lease,
                     "client %" PRIu32 " acts on key %" PRIu32 " until %.3f, and client %" PRIu32
                     " may act on it until %.3f",
                     lease->client, lease->key, ms(until_us), other->client,
                     ms(other->acts_until_us));
    }
    lease->acts = true;
    lease->acts_until_us = max64(lease->acts_until_us, until_us);
    if (mine < ACTING)
        return;
    assert(room < ACTING);
    lock->acting[room] = lease;
}

static void on_client_granted(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (!lease && record->until_us > record->at_us)
        lease = track(history, &record->token);
    if (!lease)
        return; // long over
    if (!lease->key)
        lease->key = record->key;
    if (!lease->client)
        lease->client = record->client;
    if (history->options.sends && !lease->granted)
        violated(history, 7, record, lease, "a grant was received that nobody wrote");
    // A client that has left, or released at once, does not act on what it still reads.
    if (lease->free_from_us == INT64_MAX)
        acts(history, record, lease, record->until_us);
}

static void on_client_renewed(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (lease && lease->acts)
        acts(history, record, lease, record->until_us);
}

static void on_client_revoked(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (lease)
        lease->acts = false;
}

static void stops(struct tracked *lease, int64_t at_us)
{
    lease->acts = false;
    if (lease->free_from_us == INT64_MAX)
        lease->free_from_us = at_us;
}

static void on_client_releases(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (!lease)
        return;
    stops(lease, record->at_us);
    lease->expires = false; // whoever releases it wants it gone
}

static struct connection *connection_of(struct history *history, uint32_t number, uint32_t sidecar)
{
    struct connection *connection;

    for (size_t i = 0; i < history->connections.count; i++)
        if (history->connections.items[i].number == number)
            return &history->connections.items[i];
    RESERVE(history, history->connections, history->connections.count + 1);
    connection = &history->connections.items[history->connections.count++];
    *connection = (struct connection){.number = number, .sidecar = sidecar};
    return connection;
}

static void on_client_leaves(struct history *history, const struct history_record *record)
{
    connection_of(history, record->client, record->sidecar)->left = true;
    for (struct tracked *lease = history->all; lease; lease = lease->next)
        if (lease->client == record->client)
            stops(lease, record->at_us);
}

static void on_client_eof(struct history *history, const struct history_record *record)
{
    for (struct tracked *lease = history->all; lease; lease = lease->next)
        if (lease->client == record->client)
            lease->acts = false;
}

// ---- Requests: I7 ----

static void on_read_acquire(struct history *history, const struct history_record *record)
{
    connection_of(history, record->client, record->sidecar);
    RESERVE(history, history->requests, history->requests.count + 1);
    history->requests.items[history->requests.count++] = (struct request){
        .number = record->request,
        .client = record->client,
        .sidecar = record->sidecar,
        .key = record->key,
        .asked_at_us = record->at_us,
    };
}

// The token that was asked for a request, if any, is over unless it was granted.
static void request_is_over(struct history *history, uint32_t number, int64_t at_us)
{
    for (struct tracked *lease = history->all; lease; lease = lease->next) {
        if (lease->request != number || lease->end != HISTORY_ACQUIRING)
            continue;
        lease->over_us = at_us;
        end(history, lease, HISTORY_DENIED);
        return;
    }
}

static void on_outcome(struct history *history, const struct history_record *record)
{
    size_t i = 0;

    while (i < history->requests.count && history->requests.items[i].number != record->request)
        i++;
    if (i == history->requests.count) {
        violated(history, 7, record, NULL,
                 "request %" PRIu32 " has a second outcome, or was never read", record->request);
        return;
    }
    if (is_late(history, record->sidecar,
                history->requests.items[i].asked_at_us + history->options.answer_us, record->at_us))
        violated(history, 7, record, NULL,
                 "request %" PRIu32 " was read at %.3f and answered only now", record->request,
                 ms(history->requests.items[i].asked_at_us));
    REMOVE(history->requests, i);
}

static void on_wrote_denied(struct history *history, const struct history_record *record)
{
    on_outcome(history, record);
    request_is_over(history, record->request, record->at_us);
}

static void reads_eof(struct tracked *lease, int64_t at_us)
{
    if (!lease->eof)
        lease->eof_us = at_us;
    lease->eof = true;
    if (lease->over_us == INT64_MAX && !lease->expires)
        lease->over_us = at_us;
}

static void on_wrote_granted(struct history *history, const struct history_record *record)
{
    struct tracked *lease = track(history, &record->token);
    const struct connection *connection;

    if (!lease)
        return;
    on_outcome(history, record);
    if (lease->granted)
        violated(history, 4, record, lease, "the same lease is granted twice");
    else if (lease->end != HISTORY_ACQUIRING)
        violated(history, 4, record, lease, "a lease is granted whose request was over");
    if (history->options.sends && record->until_us > lease->confirmed_us)
        violated(history, 3, record, lease, "valid until %.3f is published, %.3f is confirmed",
                 ms(record->until_us), ms(lease->confirmed_us));
    if (history->options.sends && record->at_us >= lease->revoke_us)
        violated(history, 8, record, lease, "granted after its revoke time %.3f",
                 ms(lease->revoke_us));
    lease->key = record->key;
    lease->client = record->client;
    lease->sidecar = record->sidecar;
    lease->granted = true;
    lease->granted_us = record->at_us;
    lease->published_us = record->until_us;
    lease->deadline_us = record->due_us;
    lease->expires = record->expires;
    history->ends[lease->end]--;
    lease->end = HISTORY_LIVE;
    history->ends[lease->end]++;
    connection = connection_of(history, record->client, record->sidecar);
    if (connection->left)
        stops(lease, record->at_us);
    if (connection->eof)
        reads_eof(lease, record->at_us);
}

// ---- What a sidecar says of a lease: I3, I4, I8, I10 ----

static struct tracked *granted_lease(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (lease && lease->granted)
        return lease;
    violated(history, 4, record, lease, "an event for a lease that was not granted");
    return NULL;
}

static void publish(struct history *history, const struct history_record *record,
                    struct tracked *lease)
{
    if (history->options.sends && record->until_us > lease->confirmed_us)
        violated(history, 3, record, lease, "valid until %.3f is published, %.3f is confirmed",
                 ms(record->until_us), ms(lease->confirmed_us));
    lease->published_us = max64(lease->published_us, record->until_us);
}

static void on_wrote_renewed(struct history *history, const struct history_record *record)
{
    struct tracked *lease = granted_lease(history, record);

    if (!lease)
        return;
    if (lease->end != HISTORY_LIVE || lease->releasing)
        violated(history, 4, record, lease, "renewed after the end");
    publish(history, record, lease);
}

// A revoked event needs its reason.
static void check_reason(struct history *history, const struct history_record *record,
                         const struct tracked *lease)
{
    switch (record->reason) {
    case WIRE_REASON_LOST:
        if (lease->stored && !lease->lost)
            violated(history, 8, record, lease, "revoked as lost, but Redis has the key");
        break;
    case WIRE_REASON_UNREACHABLE:
        if (history->options.sends && record->at_us < lease->revoke_us)
            violated(history, 8, record, lease,
                     "revoked as unreachable before its revoke time %.3f", ms(lease->revoke_us));
        if (calm_since(history, lease->sidecar) < lease->stored_at_us && lease->was_set)
            violated(history, 8, record, lease,
                     "revoked as unreachable, but nothing was at fault since its last renewal");
        break;
    case WIRE_REASON_DEADLINE:
        if (record->at_us < lease->deadline_us)
            violated(history, 8, record, lease, "revoked before its workflow deadline %.3f",
                     ms(lease->deadline_us));
        break;
    case WIRE_REASON_SHUTDOWN:
        if (!process_of(history, lease->sidecar)->stopping)
            violated(history, 8, record, lease, "revoked for a shutdown that nobody asked for");
        break;
    case WIRE_REASON_EOF:
        if (!lease->eof)
            violated(history, 8, record, lease, "revoked for an end of input that nobody sent");
        break;
    case WIRE_REASON_RELEASED:
        if (!lease->freed_by_other)
            violated(history, 8, record, lease, "revoked as released, but nobody else released it");
        break;
    default:
        break;
    }
}

// Nobody who holds may be told late: neither of D nor of the workflow deadline.
static void check_late(struct history *history, const struct history_record *record,
                       const struct tracked *lease)
{
    if (is_late(history, lease->sidecar, lease->deadline_us, record->at_us))
        violated(history, 10, record, lease, "it outlived its workflow deadline %.3f",
                 ms(lease->deadline_us));
    else if (is_late(history, lease->sidecar, lease->revoke_us, record->at_us))
        violated(history, 2, record, lease, "it outlived its revoke time %.3f",
                 ms(lease->revoke_us));
}

static void on_wrote_revoked(struct history *history, const struct history_record *record)
{
    struct tracked *lease = granted_lease(history, record);

    if (!lease)
        return;
    if (lease->end != HISTORY_LIVE)
        violated(history, 4, record, lease, "it ends a second time");
    // A sidecar may look at what is overdue when it reads the release: that was before it.
    if (lease->releasing && record->at_us > lease->released_us &&
        !(lease->freed_by_other && record->reason == WIRE_REASON_RELEASED))
        violated(history, 4, record, lease, "revoked after its release was read");
    check_reason(history, record, lease);
    check_late(history, record, lease);
    publish(history, record, lease);
    lease->safe_until_us = record->due_us;
    if (record->due_us > 0 && !lease->stored && lease->was_set && !lease->lost &&
        lease->free_from_us == INT64_MAX)
        violated(history, 2, record, lease, "time is promised, but the key is gone already");
    end(history, lease, HISTORY_TOLD);
}

static void on_read_release(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (!lease || !lease->granted)
        return;
    lease->releasing = true;
    lease->released_us = record->at_us;
    // What was left to its TTL may still be released by whoever knows its token.
    lease->released_live |= lease->end == HISTORY_LIVE || lease->end == HISTORY_LEFT;
    lease->freed_by_other |= lease->client != record->client;
    if (lease->over_us == INT64_MAX)
        lease->over_us = record->at_us;
}

static void on_wrote_released(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (!lease || !lease->granted)
        return;
    if (record->ok && !lease->released_live)
        violated(history, 4, record, lease, "success after the end");
    if (!lease->releasing)
        violated(history, 4, record, lease, "an answer to a release that nobody sent");
    if (lease->freed_by_other && lease->end == HISTORY_LIVE)
        violated(history, 7, record, lease,
                 "another connection released it and its holder was not told");
    end(history, lease, HISTORY_RELEASED);
}

static void on_read_eof(struct history *history, const struct history_record *record)
{
    connection_of(history, record->client, record->sidecar)->eof = true;
    for (struct tracked *lease = history->all; lease; lease = lease->next)
        if (lease->client == record->client && lease->granted)
            reads_eof(lease, record->at_us);
}

static void close_requests(struct history *history, uint32_t client, uint32_t sidecar,
                           int64_t at_us)
{
    for (size_t i = history->requests.count; i-- > 0;) {
        const struct request *request = &history->requests.items[i];
        if (request->client != client && request->sidecar != sidecar)
            continue;
        request_is_over(history, request->number, at_us);
        REMOVE(history->requests, i);
    }
}

// Nobody told its client, which may still have read it.
static void check_left(struct history *history, const struct history_record *record,
                       const struct tracked *lease)
{
    check_late(history, record, lease);
    if (lease->eof && lease->eof_us < record->at_us)
        violated(history, 7, record, lease, "its client half-closed and heard no last words");
}

static void on_closed(struct history *history, const struct history_record *record)
{
    close_requests(history, record->client, UINT32_MAX, record->at_us);
    for (size_t i = 0; i < history->connections.count; i++)
        if (history->connections.items[i].number == record->client) {
            REMOVE(history->connections, i);
            break;
        }
    for (struct tracked *lease = history->all, *next; lease; lease = next) {
        next = lease->next;
        if (lease->client != record->client || !lease->granted)
            continue;
        if (record->ok && lease->over_us == INT64_MAX && !lease->expires)
            lease->over_us = record->at_us;
        if (lease->end == HISTORY_LIVE && !lease->releasing)
            check_left(history, record, lease);
        end(history, lease, record->ok ? HISTORY_LEFT : HISTORY_CUT);
    }
}

// ---- What a sidecar sends ----

static void on_sent_acquire(struct history *history, const struct history_record *record)
{
    struct tracked *lease = track(history, &record->token);

    if (!lease)
        return;
    if (lease->key && (lease->key != record->key || lease->request != record->request))
        violated(history, 5, record, lease, "the token was used before");
    lease->key = record->key;
    lease->sidecar = record->sidecar;
    lease->ttl_ms = record->ttl_ms;
    lease->request = record->request;
    for (size_t i = 0; i < history->requests.count; i++)
        if (history->requests.items[i].number == record->request)
            return;
    lease->over_us = record->at_us; // nobody waits for it
    end(history, lease, HISTORY_DENIED);
}

static void check_shutdown(struct history *history, const struct history_record *record,
                           const struct tracked *lease)
{
    const struct process *process = process_of(history, lease->sidecar);

    if (process->stopping && lease->end == HISTORY_LIVE && !lease->releasing &&
        is_late(history, lease->sidecar, max64(process->stopping_us, lease->granted_us),
                record->at_us))
        violated(history, 7, record, lease, "it outlived the shutdown");
}

static void on_sent_renew(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (!lease || !lease->granted) {
        violated(history, 4, record, lease, "a renewal of a lease that was not granted");
        return;
    }
    if (lease->end != HISTORY_LIVE || lease->releasing || lease->eof)
        violated(history, 4, record, lease, "a renewal sent after the end");
    if (record->at_us >= lease->deadline_us)
        violated(history, 10, record, lease, "a renewal sent after the workflow deadline");
    check_shutdown(history, record, lease);
}

static bool may_free(const struct tracked *lease, int64_t at_us)
{
    if (!lease->granted || at_us >= lease->published_us)
        return true;
    return !lease->expires && at_us >= lease->free_from_us;
}

static void on_sent_delete(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (lease && !may_free(lease, record->at_us))
        violated(history, 6, record, lease,
                 "a delete is sent before its client has stopped and before %.3f",
                 ms(lease->published_us));
}

static void on_answered(struct history *history, const struct history_record *record)
{
    struct tracked *lease = find(history, &record->token);

    if (!lease || record->at_us >= lease->revoke_us)
        return;
    if (lease->end != HISTORY_ACQUIRING && lease->end != HISTORY_LIVE)
        return;
    if (record->until_us <= lease->confirmed_us)
        return;
    lease->confirmed_us = record->until_us;
    lease->revoke_us = record->due_us;
}

// ---- What Redis does ----

// By when a key that is over must be gone; INT64_MAX: it may stay.
static int64_t gone_by(struct history *history, const struct tracked *lease)
{
    int64_t by_us = lease->over_us;
    int64_t given_up_us;

    if (lease->lost || !is_up(history, lease->sidecar))
        return INT64_MAX;
    if (by_us == INT64_MAX && lease->granted && lease->end != HISTORY_LIVE)
        by_us = max64(lease->published_us, lease->confirmed_us) + lease->ttl_ms * 1000 / 50;
    if (by_us == INT64_MAX)
        return by_us;
    // Stopped for so long, a sidecar gives up what it owes: by then the key has run out by itself,
    // unless Redis was stopped, too.
    given_up_us = by_us + (lease->ttl_ms + lease_call_ms(lease->ttl_ms)) * 1000;
    if (process_of(history, lease->sidecar)->thawed_at_us > given_up_us)
        return INT64_MAX;
    return max64(by_us, calm_since(history, lease->sidecar)) + history->options.tidy_us;
}

static void check_promises(struct history *history, const struct history_record *record,
                           struct tracked *lease)
{
    int64_t at_us = record->at_us;

    if (!lease->granted || lease->lost || may_free(lease, at_us))
        return;
    if (lease->published_us > at_us)
        violated(history, 3, record, lease,
                 "its client was told that it is valid until %.3f, and it is gone",
                 ms(lease->published_us));
}

static void check_told(struct history *history, const struct history_record *record,
                       const struct tracked *lease)
{
    const struct process *process = process_of(history, lease->sidecar);
    int64_t slack_us = record->at_us - lease->safe_until_us;

    if (!lease->granted || lease->lost || !is_up(history, lease->sidecar))
        return;
    if (lease->free_from_us <= record->at_us && !lease->expires)
        return;
    if (lease->end == HISTORY_TOLD && lease->safe_until_us > 0) {
        if (slack_us < 0)
            violated(history, 2, record, lease, "the key is gone, but %.3f was promised",
                     ms(lease->safe_until_us));
        else if (slack_us < history->least_slack_us)
            history->least_slack_us = slack_us;
    }
    if (lease->end == HISTORY_LIVE && history->options.sends && !process->frozen &&
        process->thawed_at_us + history->options.late_us < record->at_us &&
        lease->free_from_us == INT64_MAX)
        violated(history, 2, record, lease, "the key is gone, and its holder was not told");
}

// The lease is in Redis no more.
static void goes(struct history *history, const struct history_record *record, struct lock *lock)
{
    struct tracked *lease = lock->holder;
    int64_t by_us;

    lock->holder = NULL;
    if (!lease)
        return;
    check_promises(history, record, lease);
    check_told(history, record, lease);
    by_us = gone_by(history, lease);
    if (by_us < record->at_us && history->options.sends)
        violated(history, 6, record, lease, "it was over at %.3f and should be gone by %.3f",
                 ms(lease->over_us), ms(by_us));
    lease->stored = false;
    lease->gone = true;
    // Nobody says more of it: late bytes had stored what was forgotten, or the trace has no sidecars.
    if (lease->sidecar == 0)
        end(history, lease, HISTORY_DENIED);
    to_finished(history, lease);
}

static void on_set(struct history *history, const struct history_record *record)
{
    struct lock *lock = lock_of(history, record->key);
    struct tracked *lease = track(history, &record->token);

    if (!lease)
        return;
    if (lock->holder)
        violated(history, 5, record, lock->holder, "the key is set although it is held");
    if (lease->was_set)
        violated(history, 5, record, lease, "the same token is set twice");
    if (record->fence && record->fence <= lock->fence)
        violated(history, 11, record, lease, "the key's fencing token before was %" PRId64,
                 lock->fence);
    lock->fence = max64(lock->fence, record->fence);
    lock->holder = lease;
    lease->key = record->key;
    lease->stored = lease->was_set = true;
    lease->stored_at_us = record->at_us;
    if (!lease->ttl_ms)
        lease->ttl_ms = record->ttl_ms;
}

// The holder that a compare-and-set has compared with, or NULL after a violation.
static struct tracked *compared(struct history *history, const struct history_record *record)
{
    struct tracked *holder = lock_of(history, record->key)->holder;

    if (holder && memcmp(&holder->token, &record->token, sizeof record->token) == 0)
        return holder;
    violated(history, 5, record, holder, "it was done to a key that holds another token, or none");
    return NULL;
}

static void on_extended(struct history *history, const struct history_record *record)
{
    struct tracked *lease = compared(history, record);
    int64_t gap_us, most_us;

    if (!lease)
        return;
    gap_us = record->at_us - lease->stored_at_us;
    most_us = (lease_heartbeat_ms(lease->ttl_ms) + lease_call_ms(lease->ttl_ms)) * 1000 +
              history->options.beat_us;
    if (lease->granted && lease->end == HISTORY_LIVE && is_up(history, lease->sidecar) &&
        calm_since(history, lease->sidecar) < lease->stored_at_us && gap_us > most_us)
        violated(history, 9, record, lease, "%.3f ms since the last renewal; at most %.3f",
                 ms(gap_us), ms(most_us));
    lease->stored_at_us = record->at_us;
}

static void on_deleted(struct history *history, const struct history_record *record)
{
    struct tracked *lease = compared(history, record);

    if (!lease)
        return;
    if (!may_free(lease, record->at_us))
        violated(history, 6, record, lease, "deleted before its client has stopped and before %.3f",
                 ms(lease->published_us));
    goes(history, record, lock_of(history, record->key));
}

static void on_expired(struct history *history, const struct history_record *record)
{
    goes(history, record, lock_of(history, record->key));
}

static void forfeit(struct history *history, const struct history_record *record)
{
    for (uint32_t key = 0; key < history->locks.count; key++) {
        struct lock *lock = &history->locks.items[key];
        if (record->key && record->key != key)
            continue;
        if (lock->holder)
            lock->holder->lost = true;
        if (record->kind == HISTORY_LOST)
            goes(history, record, lock);
    }
}

static void on_fences_lost(struct history *history, const struct history_record *record)
{
    (void)record;
    for (size_t key = 0; key < history->locks.count; key++)
        history->locks.items[key].fence = 0;
}

// ---- The world ----

static void on_frozen(struct history *history, const struct history_record *record)
{
    process_of(history, record->sidecar)->frozen = true;
}

static void on_thawed(struct history *history, const struct history_record *record)
{
    process_of(history, record->sidecar)->frozen = false;
    process_of(history, record->sidecar)->thawed_at_us = record->at_us;
}

static void on_stopping(struct history *history, const struct history_record *record)
{
    process_of(history, record->sidecar)->stopping = true;
    process_of(history, record->sidecar)->stopping_us = record->at_us;
}

static void on_ended(struct history *history, const struct history_record *record)
{
    process_of(history, record->sidecar)->ended = true;
    close_requests(history, UINT32_MAX, record->sidecar, record->at_us);
    for (size_t i = history->connections.count; i-- > 0;)
        if (history->connections.items[i].sidecar == record->sidecar)
            REMOVE(history->connections, i);
    for (struct tracked *lease = history->all, *next; lease; lease = next) {
        next = lease->next;
        if (lease->sidecar != record->sidecar)
            continue;
        check_shutdown(history, record, lease);
        end(history, lease, HISTORY_DIED);
    }
}

static void on_trouble(struct history *history, const struct history_record *record)
{
    struct process *process =
        record->sidecar ? process_of(history, record->sidecar) : &history->everybody;

    process->trouble_until_us = max64(process->trouble_until_us, record->until_us);
}

// ---- The checker ----

typedef void handler(struct history *history, const struct history_record *record);

static handler *const handlers[HISTORY_KIND_COUNT] = {
    [HISTORY_CLIENT_GRANTED] = on_client_granted,
    [HISTORY_CLIENT_RENEWED] = on_client_renewed,
    [HISTORY_CLIENT_REVOKED] = on_client_revoked,
    [HISTORY_CLIENT_RELEASES] = on_client_releases,
    [HISTORY_CLIENT_LEAVES] = on_client_leaves,
    [HISTORY_CLIENT_EOF] = on_client_eof,
    [HISTORY_READ_ACQUIRE] = on_read_acquire,
    [HISTORY_READ_RELEASE] = on_read_release,
    [HISTORY_READ_EOF] = on_read_eof,
    [HISTORY_WROTE_GRANTED] = on_wrote_granted,
    [HISTORY_WROTE_DENIED] = on_wrote_denied,
    [HISTORY_WROTE_RENEWED] = on_wrote_renewed,
    [HISTORY_WROTE_REVOKED] = on_wrote_revoked,
    [HISTORY_WROTE_RELEASED] = on_wrote_released,
    [HISTORY_CLOSED] = on_closed,
    [HISTORY_SENT_ACQUIRE] = on_sent_acquire,
    [HISTORY_SENT_RENEW] = on_sent_renew,
    [HISTORY_SENT_DELETE] = on_sent_delete,
    [HISTORY_ANSWERED] = on_answered,
    [HISTORY_FROZEN] = on_frozen,
    [HISTORY_THAWED] = on_thawed,
    [HISTORY_STOPPING] = on_stopping,
    [HISTORY_ENDED] = on_ended,
    [HISTORY_SET] = on_set,
    [HISTORY_EXTENDED] = on_extended,
    [HISTORY_DELETED] = on_deleted,
    [HISTORY_EXPIRED] = on_expired,
    [HISTORY_LOST] = forfeit,
    [HISTORY_FORFEIT] = forfeit,
    [HISTORY_FENCES_LOST] = on_fences_lost,
    [HISTORY_TROUBLE] = on_trouble,
};

static int result(const struct history *history)
{
    if (history->no_memory)
        return -ENOMEM;
    return history->invariant ? HISTORY_E_VIOLATION : 0;
}

int history_add(struct history *history, const struct history_record *record)
{
    if (history->invariant || history->no_memory)
        return result(history);
    assert(record->at_us >= history->now_us);
    history->now_us = record->at_us;
    history->recent[history->recorded++ % HISTORY_RECENT] = *record;
    handlers[record->kind](history, record);
    forget_old(history);
    return result(history);
}

static void finish_lease(struct history *history, const struct history_record *record,
                         const struct tracked *lease)
{
    if (lease->end == HISTORY_LIVE && is_up(history, lease->sidecar) && history->options.sends &&
        !lease->releasing)
        check_late(history, record, lease);
    if (lease->stored && history->options.sends && gone_by(history, lease) < record->at_us)
        violated(history, 6, record, lease, "it was over at %.3f, and its key is still there",
                 ms(lease->over_us));
}

int history_finish(struct history *history, int64_t at_us)
{
    struct history_record record = {.at_us = at_us, .kind = HISTORY_TROUBLE};

    for (size_t i = 0; i < history->requests.count; i++) {
        const struct request *request = &history->requests.items[i];
        record.client = request->client;
        if (is_late(history, request->sidecar, request->asked_at_us + history->options.answer_us,
                    at_us))
            violated(history, 7, &record, NULL, "request %" PRIu32 " has no outcome",
                     request->number);
    }
    record.client = 0;
    for (const struct tracked *lease = history->all; lease; lease = lease->next)
        finish_lease(history, &record, lease);
    return result(history);
}

int history_invariant(const struct history *history)
{
    return history->invariant;
}

const char *history_why(const struct history *history)
{
    return history->why;
}

int64_t history_least_slack(const struct history *history)
{
    return history->least_slack_us;
}

uint64_t history_count(const struct history *history, enum history_end end)
{
    return history->ends[end];
}

size_t history_tracked(const struct history *history)
{
    size_t count = 0;

    for (const struct tracked *lease = history->all; lease; lease = lease->next)
        count++;
    return count;
}

struct history *history_new(const struct history_options *options)
{
    struct history *history = calloc(1, sizeof *history);

    if (!history)
        return NULL;
    history->options = *options;
    history->finished_end = &history->finished;
    history->least_slack_us = INT64_MAX;
    history->recent = calloc(HISTORY_RECENT, sizeof(*history->recent));
    return history->recent ? history : history_free(history);
}

struct history *history_free(struct history *history)
{
    if (!history)
        return NULL;
    for (struct tracked *lease = history->all, *next; lease; lease = next) {
        next = lease->next;
        free(lease);
    }
    free(history->requests.items);
    free(history->connections.items);
    free(history->processes.items);
    free(history->locks.items);
    free(history->recent);
    free(history);
    return NULL;
}
