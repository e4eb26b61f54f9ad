// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper: leases on keys in Redis or Valkey, through the lock-keeper of this host.
//
//     struct lock_keeper *keeper = lock_keeper_new(NULL);
//     struct lock_keeper_lease *lease;
//
//     if (lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "actor:42"}, &lease)) {
//         fprintf(stderr, "%s\n", lock_keeper_get_error(keeper)->message);
//     } else {
//         while (work_is_left() && lock_keeper_wait(keeper, 0) >= 0 && lock_keeper_valid(lease))
//             do_a_bit_of_work(lock_keeper_lease_fence(lease));
//         lock_keeper_release(keeper, lease);
//     }
//     lock_keeper_free(keeper);
//
// A program hears of its leases when it lets the library read: in a call that waits, or in
// lock_keeper_process from an event loop. lock_keeper_valid needs neither where the sidecar hands out
// its validity page: it sees each heartbeat, and the end, as soon as they are. Without a page (an
// older sidecar, one out of descriptors, another time namespace, more than 512 leases) valid_until
// stands still until the library reads. Read now and then in any case: events are kept for it, and a
// client that leaves 1 MiB of them unread is cut off.
//
// Time. Spans and instants are milliseconds; an instant is one of CLOCK_BOOTTIME, as
// lock_keeper_now_ms reads it. What the sidecar says is converted where it runs in another time
// namespace.
//
// Results. 0 is success. A positive number, LOCK_KEEPER_E_*, is the sidecar's refusal. A negative
// one is an errno: something between here and the sidecar went wrong:
//
//     -EINVAL        an argument that cannot be right; nothing was done
//     -ENOMEM        no memory
//     -ENOENT, -ECONNREFUSED, -EACCES, ... of connect(2): there is no sidecar, or it is not for us
//     -ENAMETOOLONG  the path of the socket is too long for one
//     -ENOTCONN      the sidecar went away and none came back in time
//     -ECONNRESET    the connection ended before the answer, and the question cannot be repeated
//     -ETIMEDOUT     no answer in time (lock_keeper_set_timeout)
//     -EPROTO        what answers does not speak the protocol
//     -EDEADLK       a call that waits was made from the event handler
//
// Threads. A handle and its leases are used by one thread at a time. The exception is
// lock_keeper_valid, lock_keeper_lease_valid_until_ms, _key, _token and _fence: any thread may
// call them at any time, as long as the lease is not being freed. The library starts no thread,
// touches no signal, and keeps no state outside its handles. Every descriptor is close-on-exec.
//
// fork. After a fork one of the two processes may use the handle; the other closes its descriptors
// by lock_keeper_free, which sends nothing (and frees nothing in Redis as long as the other lives).
//
// Losing the sidecar. A handle that was connected once connects again by itself, and adopts its
// leases, so that a restart of the sidecar within their validity goes unnoticed. A lease that is
// not confirmed by valid_until less a margin is reported lost from here, by a timer that needs
// nobody.
#ifndef LOCK_KEEPER_H
#define LOCK_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LOCK_KEEPER_API __attribute__((visibility("default")))

struct lock_keeper;
struct lock_keeper_lease;

// The sidecar's refusals; the names of the protocol are behind them.
enum lock_keeper_code {
    LOCK_KEEPER_OK = 0,
    LOCK_KEEPER_E_BAD_REQUEST = 1,        // errBadRequest
    LOCK_KEEPER_E_UNKNOWN_OP = 2,         // errUnknownOp: an older sidecar
    LOCK_KEEPER_E_LINE_TOO_LONG = 3,      // errLineTooLong
    LOCK_KEEPER_E_LOCK_HELD = 4,          // errLockHeld: see holder and retry_after_ms of the reply
    LOCK_KEEPER_E_CANCELLED = 5,          // errCancelled
    LOCK_KEEPER_E_UNKNOWN_LEASE = 6,      // errUnknownLease
    LOCK_KEEPER_E_LOST_ACTOR_LOCK = 7,    // errLostActorLock: the lease was over before
    LOCK_KEEPER_E_NOT_PERMITTED = 8,      // errNotPermitted
    LOCK_KEEPER_E_LIMIT_EXCEEDED = 9,     // errLimitExceeded
    LOCK_KEEPER_E_REDIS_UNAVAILABLE = 10, // errRedisUnavailable
    LOCK_KEEPER_E_REDIS_REFUSED = 11,     // errRedisRefused
    LOCK_KEEPER_E_SHUTTING_DOWN = 12,     // errShuttingDown
    LOCK_KEEPER_E_INTERNAL = 13,          // errInternal
    LOCK_KEEPER_E_OTHER = 99,             // a name that this library does not know
};

// Why a lease ended without its release.
enum lock_keeper_reason {
    LOCK_KEEPER_REASON_NONE = 0, // it did not
    LOCK_KEEPER_REASON_LOST = 1, // "lost": Redis says that the key is not ours; also where an
                                 // adoption was refused for good
    LOCK_KEEPER_REASON_UNREACHABLE = 2, // "unreachable": Redis confirmed nothing in time
    LOCK_KEEPER_REASON_DEADLINE = 3,    // "deadline": the workflow deadline has come
    LOCK_KEEPER_REASON_SHUTDOWN = 4,    // "shutdown": the sidecar ends
    LOCK_KEEPER_REASON_BROKEN = 5,      // "broken": an operator took the key away
    LOCK_KEEPER_REASON_RELEASED = 6,    // "released": another connection released it
    LOCK_KEEPER_REASON_MOVED = 7,       // "moved": another connection adopted it
    LOCK_KEEPER_REASON_EOF = 8,         // "eof"
    // "unconfirmed": said by this library, not by the sidecar: it is gone or silent, and what it last
    // said is about to run out.
    LOCK_KEEPER_REASON_UNCONFIRMED = 9,
    LOCK_KEEPER_REASON_OTHER = 99, // a name that this library does not know
};

// What ends a lease.
enum lock_keeper_bind {
    LOCK_KEEPER_BIND_CONNECTION = 0, // the end of this handle's connection
    LOCK_KEEPER_BIND_PID = 1,        // the end of a process, whatever becomes of the connection
    LOCK_KEEPER_BIND_NONE = 2,       // its release or its workflow deadline only
};

enum lock_keeper_disconnect {
    LOCK_KEEPER_DISCONNECT_RELEASE = 0, // at the end of the binding the key is deleted
    LOCK_KEEPER_DISCONNECT_EXPIRE = 1,  // ... or runs out by itself
};

// ---- The handle ----

// A handle, which opens nothing yet but two descriptors of its own. socket: the path of
// lock-keeper's socket (copied), or NULL for $LOCK_KEEPER_SOCKET, else
// /run/lock-keeper/lock-keeper.sock. NULL and errno: ENOMEM, EMFILE, ENFILE, ENAMETOOLONG.
LOCK_KEEPER_API struct lock_keeper *lock_keeper_new(const char *socket);

// Closes the connection, which ends the leases bound to it, and frees all that belongs to the
// handle, its leases too. Not from the event handler. NULL is allowed. Returns NULL.
LOCK_KEEPER_API struct lock_keeper *lock_keeper_free(struct lock_keeper *keeper);

// How long a request waits for its answer, or for a sidecar to come back; 5000 (and 0) by default.
// The time that an acquire may wait for the key comes on top. For requests made from now on.
LOCK_KEEPER_API void lock_keeper_set_timeout(struct lock_keeper *keeper, int64_t timeout_ms);

// How long before valid_until a lease that nobody confirms is reported lost: what its holder has
// to stop in. 0, the default: a fifth of its TTL (at least 50 ms) while there is no connection or
// the adoption is not answered; half of that while the sidecar is connected and silent (unless it
// stands still it reports by itself, before that).
LOCK_KEEPER_API void lock_keeper_set_margin(struct lock_keeper *keeper, int64_t margin_ms);

// false: the end of the connection ends the leases bound to it (as unconfirmed) and fails what was
// asked, and the next request connects anew. true, the default: see above.
LOCK_KEEPER_API void lock_keeper_set_reconnect(struct lock_keeper *keeper, bool reconnect);

// Connects and says hello, unless that is done: one attempt, for at most the timeout. Calls that
// wait do it by themselves where the handle is not connected and not about to be.
// LOCK_KEEPER_E_LIMIT_EXCEEDED, or an errno as above.
LOCK_KEEPER_API int lock_keeper_connect(struct lock_keeper *keeper);

// The same for an event loop: begins to connect, again and again until it succeeds, and returns at
// once. lock_keeper_start_* do it by themselves. 0.
LOCK_KEEPER_API int lock_keeper_open(struct lock_keeper *keeper);

LOCK_KEEPER_API bool lock_keeper_is_connected(const struct lock_keeper *keeper);

// What the sidecar said of itself when it was connected last; NULL before. Valid until the next
// call that takes the handle.
struct lock_keeper_hello {
    int64_t protocol;        // 1
    const char *server;      // "lock-keeper/0.1.0"
    const char *instance;    // 16 hex digits, others after each restart
    const char *const *caps; // names, the last one NULL
    int64_t lock_ttl_ms;     // its defaults
    int64_t heartbeat_ms;
    int64_t revoke_margin_ms;
    int64_t deadline_ms;
    int64_t max_deadline_ms;
    bool redis_up;
    const char *line; // the reply as it came
};
LOCK_KEEPER_API const struct lock_keeper_hello *
lock_keeper_get_hello(const struct lock_keeper *keeper);
LOCK_KEEPER_API bool lock_keeper_has_cap(const struct lock_keeper *keeper, const char *cap);

// ---- Errors ----

// The first failure of the handle: of a call, of a request that was started, or of the connection
// itself. It stays until it is cleared; later ones do not replace it, so that a program may go
// through its steps and look once. A lease that is lost counts as one (errLostActorLock); a
// connection that comes back in time does not. code 0 and empty words where there was none.
struct lock_keeper_error {
    int code;            // as calls return it
    const char *name;    // "errLockHeld", ...; of an errno: "errNoSidecar", "errTimeout",
                         // "errProtocol", "errNoMemory", "errUsage"
    const char *message; // for people
};
// Valid until the next call that takes the handle.
LOCK_KEEPER_API const struct lock_keeper_error *
lock_keeper_get_error(const struct lock_keeper *keeper);
LOCK_KEEPER_API void lock_keeper_clear_error(struct lock_keeper *keeper);
// The names of a code (or negative errno) and a reason, as above.
LOCK_KEEPER_API const char *lock_keeper_code_name(int code);
LOCK_KEEPER_API const char *lock_keeper_reason_name(enum lock_keeper_reason reason);

// ---- Replies ----

struct lock_keeper_holder {
    bool foreign;     // the key's value is none of lock-keeper's: only bytes or type are known
    int64_t bytes;    // of a foreign value; -1: it is no string, see type
    const char *type; // NULL, or the type in Redis
    const char *host; // "" where unknown, as the label
    const char *label;
    int64_t pid;
    int64_t uid;
    int64_t fence; // -1: none
};

struct lock_keeper_row {
    const char *state; // "held", "waiting", "ending"
    const char *key;
    struct lock_keeper_holder holder;
    int64_t held_ms;        // -1 where the row has none of it, as the others
    int64_t valid_ms;       // how much longer the key may live without a heartbeat
    int64_t deadline_in_ms; // until the workflow deadline
    int64_t waited_ms;
    int64_t fence;
};

// Any reply. What it does not have is NULL, false, or -1.
struct lock_keeper_reply {
    int code;            // as the call returned it
    const char *name;    // of the error; "" where there was none
    const char *message; // for people; "" where there was none
    const char *op;      // "acquire", ...
    const char *line;    // the reply as it came, without its newline; NULL where none came

    struct lock_keeper_lease *lease; // acquire, adopt: the lease that was granted
    const char *key;
    const struct lock_keeper_holder *holder; // errLockHeld, inspect
    int64_t retry_after_ms; // errLockHeld: when the key runs out, if it is not renewed
    int64_t waited_ms;      // acquire
    int64_t held_ms;        // release
    bool freed;             // release: errLostActorLock, and the key was still there and is deleted
    int64_t deadline_ms;    // acquire, adopt, extend: in effect, from the grant
    int64_t deadline_in_ms; // extend, inspect
    bool held;              // inspect
    bool here;              // inspect: through this sidecar
    int64_t ttl_left_ms;    // inspect: -1: the key has no TTL
    int64_t since_ms;       // inspect: how long ago it was granted
    bool broken;            // break: there was something to delete
    bool redis_up;          // ping
    const char *redis_error;            // ping: why it is not up
    const struct lock_keeper_row *rows; // list
    size_t row_count;
    const char *next; // list: there is more
};

// That of the newest call that waited, also where it was a refusal or failed in between. Valid
// until the next call that takes the handle (its lease stays).
LOCK_KEEPER_API const struct lock_keeper_reply *
lock_keeper_get_reply(const struct lock_keeper *keeper);

// ---- Calls that wait ----
//
// They go on handling events meanwhile: a handler is called from within; without one, the events
// can be collected afterwards. A signal does not end them.

// What is not set, 0 or NULL, is the default. Set the whole struct, by an initialiser.
struct lock_keeper_acquire {
    const char *key;     // required: UTF-8, 1 to 512 bytes
    int64_t wait_ms;     // 0: try once; -1: wait until granted
    int64_t ttl_ms;      // 0: as configured (--lock-ttl)
    int64_t deadline_ms; // 0: as configured (--actor-workflow-deadline); counted from the grant
    const char *label;   // shown to people, up to 128 bytes
    enum lock_keeper_bind bind;
    int64_t pid; // with LOCK_KEEPER_BIND_PID; 0: of the process that connected
    enum lock_keeper_disconnect on_disconnect;
    uint64_t reserved[4];
};

// 0 and the lease in *lease, which belongs to the handle; else NULL. Where the connection breaks
// meanwhile, it is asked again on the next one, for the rest of the time.
LOCK_KEEPER_API int lock_keeper_acquire(struct lock_keeper *keeper,
                                        const struct lock_keeper_acquire *options,
                                        struct lock_keeper_lease **lease);

// Whatever it returns, the lease is over and no event about it follows; the object stays until it
// is freed. 0: the key was ours to the end and is free. LOCK_KEEPER_E_LOST_ACTOR_LOCK: the lease
// was over before; the normal answer after a revoked event. LOCK_KEEPER_E_REDIS_UNAVAILABLE: the
// key is freed when Redis answers, or runs out. LOCK_KEEPER_E_UNKNOWN_LEASE: it was released
// before. Where the sidecar is away it is waited for (for the timeout, while the lease is valid),
// then the lease is adopted and released; else -ENOTCONN, and the key runs out by itself.
//
// Whose lease it is. Whoever has the digits may adopt a lease, and the key is the adopter's then. So
// of a lease that is over the sidecar is told only where the connection acquired or adopted it
// itself, and has read of no other that did; else nothing is sent, and the answer is
// LOCK_KEEPER_E_LOST_ACTOR_LOCK. What has come in is read first. (An adoption that crosses with a
// release of the same lease on its way cannot be seen: do not release what you have passed on.)
LOCK_KEEPER_API int lock_keeper_release(struct lock_keeper *keeper,
                                        struct lock_keeper_lease *lease);

// The same for a lease that is known by its 32 digits only (one with bind none, of another
// process): it is released whoever holds it. One that this handle holds is over here, too.
LOCK_KEEPER_API int lock_keeper_release_token(struct lock_keeper *keeper, const char *token);

// Moves the workflow deadline: deadline_ms counts from the grant. What is in effect then (the
// sidecar has a maximum) is in the reply, and in lock_keeper_lease_deadline_ms.
LOCK_KEEPER_API int lock_keeper_extend(struct lock_keeper *keeper, struct lock_keeper_lease *lease,
                                       int64_t deadline_ms);
LOCK_KEEPER_API int lock_keeper_extend_token(struct lock_keeper *keeper, const char *token,
                                             int64_t deadline_ms);

// As lock_keeper_acquire's. Set the whole struct, by an initialiser.
struct lock_keeper_adopt {
    const char *key;   // required
    const char *token; // required: the lease's 32 hex digits
    enum lock_keeper_bind bind;
    int64_t pid;
    enum lock_keeper_disconnect on_disconnect;
    uint64_t reserved[4];
};

// Takes over a lease that this process has only the digits of. As lock_keeper_acquire;
// LOCK_KEEPER_E_LOST_ACTOR_LOCK where it is over. (Those of this handle are adopted by themselves;
// of one that it holds already, the lease is the same object.)
LOCK_KEEPER_API int lock_keeper_adopt(struct lock_keeper *keeper,
                                      const struct lock_keeper_adopt *options,
                                      struct lock_keeper_lease **lease);

// The answers of these are in lock_keeper_get_reply.
LOCK_KEEPER_API int lock_keeper_inspect(struct lock_keeper *keeper, const char *key);
// A page of at most limit rows (0: the sidecar's default, at most 500). after: NULL, or the next of
// the page before.
LOCK_KEEPER_API int lock_keeper_list(struct lock_keeper *keeper, int64_t limit, const char *after);
LOCK_KEEPER_API int lock_keeper_ping(struct lock_keeper *keeper);
// Takes a key from whoever holds it; grace_ms: what a holder in this sidecar has to stop in.
LOCK_KEEPER_API int lock_keeper_break(struct lock_keeper *keeper, const char *key,
                                      int64_t grace_ms);

// Sends one line as it is (no newline in it) and returns when its reply is there, in `line` of the
// reply. The return value is the code of its error. A lease that is acquired like this is unknown
// to the library: nothing is reported about it or adopted. Not repeated on another connection. Not
// for releasing a lease of the library's, which would go on looking at it, nor for "page".
LOCK_KEEPER_API int lock_keeper_call(struct lock_keeper *keeper, const char *json);

// ---- Leases ----
//
// A lease object lives until lock_keeper_lease_free or the end of its handle, also when the lease
// itself is over.

// Whether the lease may be acted on: now < valid_until, and it is not known to be over. Costs a
// clock read and no system call, asks nobody; right also where the sidecar stands still or is gone.
// Never true again once the lease was reported lost, or its release was asked for. Any thread.
LOCK_KEEPER_API bool lock_keeper_valid(const struct lock_keeper_lease *lease);

// The newest instant known, cut to a whole millisecond; 0 once the lease is known to be over. With a
// validity page both may be known here before the event about it has been read.
LOCK_KEEPER_API int64_t lock_keeper_lease_valid_until_ms(const struct lock_keeper_lease *lease);
LOCK_KEEPER_API const char *lock_keeper_lease_key(const struct lock_keeper_lease *lease);
// 32 hex digits: the capability to release or adopt it. Keep them secret.
LOCK_KEEPER_API const char *lock_keeper_lease_token(const struct lock_keeper_lease *lease);
// The fencing token: goes into every write that the lock protects.
LOCK_KEEPER_API int64_t lock_keeper_lease_fence(const struct lock_keeper_lease *lease);
LOCK_KEEPER_API int64_t lock_keeper_lease_ttl_ms(const struct lock_keeper_lease *lease);
// The workflow deadline in effect, counted from the grant.
LOCK_KEEPER_API int64_t lock_keeper_lease_deadline_ms(const struct lock_keeper_lease *lease);
// Held: granted, not released, and not known to be over. (lock_keeper_valid looks at the clock
// too.)
LOCK_KEEPER_API bool lock_keeper_lease_is_held(const struct lock_keeper_lease *lease);
// Why it ended: NONE while it is held, and where it was released before anything else ended it.
LOCK_KEEPER_API enum lock_keeper_reason
lock_keeper_lease_reason(const struct lock_keeper_lease *lease);

LOCK_KEEPER_API void lock_keeper_lease_set_user(struct lock_keeper_lease *lease, void *user);
LOCK_KEEPER_API void *lock_keeper_lease_get_user(const struct lock_keeper_lease *lease);

// Forgets the lease as the end of the connection would: one that is bound to the connection is
// released, unless it was, or is somebody else's by now, as above (the answer is not waited for); one
// that is bound to a process or to nothing goes on by itself. No event about it follows. NULL is
// allowed. Returns NULL.
LOCK_KEEPER_API struct lock_keeper_lease *lock_keeper_lease_free(struct lock_keeper_lease *lease);

// ---- Events ----

enum lock_keeper_event_kind {
    LOCK_KEEPER_EVENT_CONNECTED = 1, // greeted, the first time or again
    LOCK_KEEPER_EVENT_DISCONNECTED,  // the connection ended; leases stand until their margin
    LOCK_KEEPER_EVENT_REPLY,         // to a lock_keeper_start_*
    LOCK_KEEPER_EVENT_RENEWED,       // a heartbeat was confirmed: a new valid_until_ms
    LOCK_KEEPER_EVENT_ADOPTED,       // the same, on a new connection
    LOCK_KEEPER_EVENT_AT_RISK,       // a heartbeat failed; it is tried again
    LOCK_KEEPER_EVENT_REVOKED,       // the lease is over: stop. Once per lease, nothing follows
};

struct lock_keeper_event {
    enum lock_keeper_event_kind kind;
    struct lock_keeper_lease *lease; // of RENEWED and what stands below it; of REPLY: as in reply
    uint64_t request;                // REPLY: its number
    const struct lock_keeper_reply *reply; // REPLY
    enum lock_keeper_reason reason;        // REVOKED
    const char *reason_name;               // REVOKED: "deadline", ...; else ""
    const char *message;                   // for people; "" where there is none
    int64_t valid_until_ms;                // of the four about a lease
    int64_t safe_ms; // REVOKED, AT_RISK: how long from now nobody else can have the key, unless
                     // Redis itself loses it; 0: somebody may have it already
    bool again;      // CONNECTED: not the first time
};

// Who is told. Called from lock_keeper_process and from calls that wait, never from elsewhere; what
// it is given is valid until it returns. It may call everything but calls that wait,
// lock_keeper_next_event and lock_keeper_free; if it frees the event's lease, as its last deed.
// NULL, the default: events are kept to be collected. What is not collected is merged (of a lease,
// the newest of each kind; a connection that broke and came back, once), so nothing grows.
typedef void lock_keeper_handler(struct lock_keeper *keeper, const struct lock_keeper_event *event,
                                 void *user);
LOCK_KEEPER_API void lock_keeper_set_handler(struct lock_keeper *keeper,
                                             lock_keeper_handler *handler, void *user);

// The next event, or NULL. Valid until the next call that takes the handle. Reads nothing.
LOCK_KEEPER_API const struct lock_keeper_event *lock_keeper_next_event(struct lock_keeper *keeper);

// Without an event loop: waits until there is an event to collect (1), or a handler was told one
// (1), or timeout_ms have passed (0; -1: without end).
LOCK_KEEPER_API int lock_keeper_wait(struct lock_keeper *keeper, int64_t timeout_ms);

// ---- Event loops ----
//
// The descriptor is the same for the life of the handle, over reconnects too: it is readable when
// there is something to do, also when only time has passed. So an event loop watches it for
// lock_keeper_get_events and calls lock_keeper_process whenever it is ready; no timer is needed.

LOCK_KEEPER_API int lock_keeper_get_fd(const struct lock_keeper *keeper);
// POLLIN.
LOCK_KEEPER_API short lock_keeper_get_events(const struct lock_keeper *keeper);
// Until lock_keeper_process has something to do by time alone; -1: nothing. For loops that rather
// have a timer, or poll(2): waiting without end on the descriptor is as good.
LOCK_KEEPER_API int lock_keeper_get_timeout(const struct lock_keeper *keeper);
// Does what can be done without waiting: reads, writes, connects, tells the handler. 0, or a
// negative errno of the handle's own descriptors. Failures of the connection are not its result:
// they are dealt with, and reported as events.
LOCK_KEEPER_API int lock_keeper_process(struct lock_keeper *keeper);

// The socket of the connection, -1 where there is none. To know, not to read or write: the
// connection, and with it what is bound to it, lives while any process has a copy of it.
LOCK_KEEPER_API int lock_keeper_get_socket(const struct lock_keeper *keeper);

// Requests whose REPLY comes as an event, with the number that is put in *request (NULL is
// allowed). They may be started while there is no connection, are sent when there is one, and
// given up like those of calls that wait (lock_keeper_set_timeout). 0, -EINVAL or -ENOMEM. The
// lease of an acquire or adopt is in the reply, and belongs to the handle.
LOCK_KEEPER_API int lock_keeper_start_acquire(struct lock_keeper *keeper,
                                              const struct lock_keeper_acquire *options,
                                              uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_adopt(struct lock_keeper *keeper,
                                            const struct lock_keeper_adopt *options,
                                            uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_release(struct lock_keeper *keeper,
                                              struct lock_keeper_lease *lease, uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_release_token(struct lock_keeper *keeper, const char *token,
                                                    uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_extend(struct lock_keeper *keeper,
                                             struct lock_keeper_lease *lease, int64_t deadline_ms,
                                             uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_inspect(struct lock_keeper *keeper, const char *key,
                                              uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_list(struct lock_keeper *keeper, int64_t limit,
                                           const char *after, uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_ping(struct lock_keeper *keeper, uint64_t *request);
LOCK_KEEPER_API int lock_keeper_start_break(struct lock_keeper *keeper, const char *key,
                                            int64_t grace_ms, uint64_t *request);

// Ends a started acquire that waits: its REPLY is LOCK_KEEPER_E_CANCELLED, or the grant if that was
// faster. -ENOENT: no such request is waiting.
LOCK_KEEPER_API int lock_keeper_cancel(struct lock_keeper *keeper, uint64_t request);

// ---- Other ----

// CLOCK_BOOTTIME, now.
LOCK_KEEPER_API int64_t lock_keeper_now_ms(void);
// Of the library, "0.1.0".
LOCK_KEEPER_API const char *lock_keeper_version(void);

#ifdef __cplusplus
}
#endif

#endif
