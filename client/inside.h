// SPDX-License-Identifier: Apache-2.0
//
// What the files of liblockkeeper share. Nothing of it is seen from outside.
//
//     call.c      the public calls: arguments into requests, and waiting for them
//     handle.c    the handle: one step of its work, what is due when, its descriptors
//     link.c      the connection: connects, says hello, reads and writes, tries again
//     request.c   requests: sent, repeated on the next connection, answered or given up
//     lease.c     leases: what the sidecar says of them, the local end
//     adopt.c     leases of a connection that ended, on the next one
//     page.c      the sidecar's validity page: received, mapped, the slots of leases
//     validity.c  what a program reads of a lease
//     event.c     news of these, one event at a time
//     answer.c    a reply as the program sees it
//     error.c     names, words, the first failure
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/lock_keeper.h"
#include "client/map.h"
#include "protocol/buf.h"
#include "protocol/frame.h"
#include "protocol/message.h"
#include "protocol/reply.h"

enum {
    CLIENT_WORDS = 256,
    CLIENT_NAME = 48,
};

#define CLIENT_NEVER INT64_MAX

enum client_link_state {
    CLIENT_LINK_IDLE,     // nobody asked for one yet, or reconnecting is off
    CLIENT_LINK_AWAY,     // no connection; the next attempt comes at retry_ms
    CLIENT_LINK_GREETING, // connected, hello not answered
    CLIENT_LINK_UP,
};

// A mapping, owned.
struct client_page {
    struct client_page *next; // all of the handle
    const uint64_t *slots;
    unsigned users; // the connection, and each lease whose slot is there; 0: for the next page
};

struct client_link {
    enum client_link_state state;
    int fd; // -1 when closed
    bool watches_output;
    struct frame frame;
    struct buf out;
    bool output_failed;       // what comes in may still be read
    bool persists;            // a failed attempt is followed by another
    int64_t retry_ms;         // AWAY: when to try again
    int64_t pause_ms;         // the pause before that
    int64_t away_ms;          // since when it is not UP, or not asked for
    int64_t up_ms;            // since when it is
    unsigned failures;        // attempts that did not come UP
    int64_t hello_ms;         // when it was sent
    int64_t offset_ms;        // to be added to an instant of the sidecar's
    bool asks_page;           // hello does
    int passed_fd;            // owned: a descriptor that came with the greeting, -1
    unsigned passed;          // how many did
    struct client_page *page; // NULL: messages only
    // Why it is to be, or was, closed: a code, with words.
    bool ends;
    int end_code;
    char end_words[CLIENT_WORDS];
};

enum client_audience {
    CLIENT_NOBODY,  // the library's own
    CLIENT_STARTED, // the answer is an event
    CLIENT_CALLER,  // a call waits for it
};

struct client_request {
    struct client_node node; // by number, in requests
    struct client_request *previous, *next;
    struct lock_keeper *keeper;
    enum client_audience audience;
    struct message_request ask;      // what to send; op WIRE_OP_COUNT: `raw`
    char *raw;                       // owned
    struct lock_keeper_lease *lease; // release, extend, adoption of a known one; NULL once freed
    int64_t asked_ms;
    int64_t wait_until_ms; // acquire; CLIENT_NEVER: without end
    int64_t give_up_ms;
    bool is_sent;  // on this connection
    bool was_sent; // on one before
    bool is_cancelled;
    bool is_done;

    struct reply reply; // of its newest answer
    bool has_reply;
    char *line;                   // owned
    struct lock_keeper_row *rows; // owned
    struct lock_keeper_holder holder;
    char name[CLIENT_NAME];
    char words[CLIENT_WORDS];
    struct lock_keeper_reply answer; // as the program sees it
};

struct client_list {
    struct client_request *first, *last;
};

enum client_lease_state {
    CLIENT_LEASE_HELD,
    CLIENT_LEASE_RELEASING, // a release is asked for: nothing is told any more
    CLIENT_LEASE_RELEASED,
    CLIENT_LEASE_LOST,
};

enum { // in the order in which they are told
    CLIENT_NEWS_RENEWED = 1,
    CLIENT_NEWS_ADOPTED = 2,
    CLIENT_NEWS_AT_RISK = 4,
    CLIENT_NEWS_REVOKED = 8,
};

struct lock_keeper_lease {
    struct client_node node; // by its token, while HELD
    struct lock_keeper *keeper;
    struct lock_keeper_lease *previous, *next; // all of the handle
    struct lock_keeper_lease *next_news;
    bool has_news; // in the list
    unsigned news;

    enum client_lease_state state;
    bool is_ours;                   // on this connection: acquired or adopted, and not moved
    bool is_adopting;               // an adoption is under way
    int64_t adopt_ms;               // when to ask again for it, CLIENT_NEVER
    int64_t deadline_at_ms;         // CLIENT_NEVER where unknown
    _Atomic int64_t valid_until_ms; // 0 once it is over
    int64_t last_until_ms;          // the same, kept
    struct client_page *page;       // where its slot is
    _Atomic(const uint64_t *) slot; // valid_until in ns; NULL: valid_until_ms is all there is
    atomic_uint moves;              // changes of slot

    char key[WIRE_MAX_KEY + 1];
    struct message_token token;
    char digits[WIRE_LEASE_DIGITS + 1];
    int64_t fence;
    int64_t ttl_ms;
    int64_t deadline_ms;
    enum wire_bind bind;
    enum wire_disconnect on_disconnect;
    int64_t pid;
    void *user;

    // Of the newest at_risk or revoked.
    enum lock_keeper_reason reason;
    char reason_name[CLIENT_NAME];
    char message[CLIENT_WORDS];
    int64_t safe_until_ms; // 0: nothing is safe
};

struct lock_keeper {
    int epoll_fd;
    int timer_fd;
    int64_t armed_ms; // what the timer is set to
    char path[108];
    int64_t timeout_ms;
    int64_t margin_ms; // 0: by the TTL
    bool reconnects;

    struct client_link link;
    struct reply hello; // of the newest one
    bool has_hello;
    char *hello_line;
    struct lock_keeper_hello greeting;

    struct client_map requests; // pending ones
    struct client_list pending; // in the order in which they were asked
    struct client_list done;    // STARTED ones, to be told
    uint64_t last_number;
    struct client_request *raw; // the call that has no id of ours
    unsigned raw_stale;         // replies still to come to raw calls that were given up

    struct client_map tokens;
    struct lock_keeper_lease *leases;
    struct client_page *pages;
    struct lock_keeper_lease *news_first, *news_last;

    bool told_up; // the last event about the connection said so
    bool told_ever;
    bool has_broken; // since it was told

    int64_t due_ms;    // nothing is due before
    bool is_unblocked; // a request may be sent that could not
    lock_keeper_handler *handler;
    void *user;
    bool is_telling;
    uint64_t told; // events
    struct lock_keeper_event event;
    struct client_request *collected; // whose reply the last event showed
    struct client_request *replied;   // whose reply the last call gave
    struct lock_keeper_reply failed;  // of a call that made no request

    struct lock_keeper_error error;
    char error_name[CLIENT_NAME];
    char error_words[CLIENT_WORDS];
    char failed_words[CLIENT_WORDS];
};

// ---- handle.c ----

int64_t client_now_ms(void);
// Something is due at that instant.
void client_due(struct lock_keeper *keeper, int64_t due_ms);
// Sets the timer to what is due next. After every change from outside of a step.
void client_arm(struct lock_keeper *keeper);

// ---- link.c ----

// Begins to connect where nothing is on the way. persists: until it succeeds.
void client_link_open(struct lock_keeper *keeper, bool persists);
// Tries at once, where it waits to try again.
void client_link_hurry(struct lock_keeper *keeper);
// Reads all there is, writes, closes, connects when it is time.
void client_link_step(struct lock_keeper *keeper);
// Takes what has come in, so that what follows knows of it. Not while events are told.
void client_link_read(struct lock_keeper *keeper);
// Writes what is queued.
void client_link_flush(struct lock_keeper *keeper);
// The connection is no good; the next step closes it. The first reason counts.
__attribute__((format(printf, 3, 4))) void client_link_end(struct lock_keeper *keeper, int code,
                                                           const char *format, ...);
// The answer to its hello.
void client_link_greeted(struct lock_keeper *keeper, struct client_request *request);
// An instant of the sidecar's as one of ours.
int64_t client_link_local_ms(const struct lock_keeper *keeper, int64_t instant_ms);
// When it has something to do by time alone.
int64_t client_link_due_ms(const struct lock_keeper *keeper);
void client_link_deinit(struct lock_keeper *keeper);

// ---- request.c ----

// A pending request, not sent; NULL: no memory.
struct client_request *client_request_new(struct lock_keeper *keeper, enum wire_op op,
                                          enum client_audience audience);
// Of one that is not pending. NULL is allowed. Returns NULL.
struct client_request *client_request_free(struct client_request *request);
// The same of one that is: nobody asked it.
void client_request_drop(struct client_request *request);
// NULL: none of that number is pending.
struct client_request *client_request_find(const struct lock_keeper *keeper, uint64_t number);
// Sends it if that can be now.
void client_request_send(struct client_request *request);
void client_requests_send(struct lock_keeper *keeper);
// Takes the reply (its owner from now on), whosever it is. line is borrowed.
void client_requests_answer(struct lock_keeper *keeper, struct reply *reply, const char *line,
                            size_t length);
// Ends a pending acquire, here or by asking the sidecar to. 0 or -ENOMEM.
int client_cancel(struct client_request *request);
// It is done without a reply: a code and words, which may be its own.
__attribute__((format(printf, 3, 4))) void client_request_end(struct client_request *request,
                                                              int code, const char *format, ...);
// The connection ended.
void client_requests_interrupted(struct lock_keeper *keeper);
// There will be none: all of them fail.
void client_requests_fail(struct lock_keeper *keeper, int code, const char *words);
// The lease is over and could not be adopted: what waits for that is done.
void client_requests_orphaned(const struct lock_keeper_lease *lease, int code, const char *words);
// Gives up what waited too long.
void client_requests_sweep(struct lock_keeper *keeper, int64_t now_ms);
// Asks for a release whose answer is for nobody.
void client_release_token(struct lock_keeper *keeper, const struct message_token *token);
// The lease object goes.
void client_requests_forget(const struct lock_keeper_lease *lease);
void client_requests_deinit(struct lock_keeper *keeper);

// ---- page.c ----

// recv, which keeps the descriptors that come along. Until greeted.
ssize_t client_page_receive(struct client_link *link, char *bytes, size_t size);
// Maps the page, where one came. When offset_ms is known.
void client_page_greeted(struct lock_keeper *keeper);
void client_page_disconnected(struct lock_keeper *keeper);
// The lease's slot is this one of the connection's page from now on; -1: it has none.
void client_page_enter(struct lock_keeper_lease *lease, int64_t slot);
void client_page_leave(struct lock_keeper_lease *lease);
// What its slot says, 0 included; false: it has none. Any thread.
bool client_page_until(const struct lock_keeper_lease *lease, uint64_t *until_ns);
// Unmaps what nobody can be reading: when no lease is left.
void client_pages_trim(struct lock_keeper *keeper);
void client_pages_deinit(struct lock_keeper *keeper);

// ---- lease.c ----

// The one that is HELD; NULL: none is.
struct lock_keeper_lease *client_lease_find(const struct lock_keeper *keeper,
                                            const struct message_token *token);

// HELD or RELEASING.
bool client_lease_is_live(const struct lock_keeper_lease *lease);
// A reply has what a grant must have: else the link is ended.
bool client_lease_is_grant(struct lock_keeper *keeper, const struct reply *reply, const char *key);
// It is of this connection, as the grant says.
void client_lease_take(struct lock_keeper_lease *lease, const struct reply *reply);
// It is over, for a reason that is known here.
void client_lease_lose(struct lock_keeper_lease *lease, enum lock_keeper_reason reason,
                       const char *message, int64_t safe_until_ms);
// The lease of a grant, new or known; NULL: no memory, or the grant is none (the link is ended).
struct lock_keeper_lease *client_lease_granted(const struct client_request *request,
                                               const struct reply *reply);
void client_lease_event(struct lock_keeper *keeper, const struct reply *reply);
void client_lease_extended(struct lock_keeper_lease *lease, const struct reply *reply);
// The program asks for its release: nothing is told of it any more.
void client_lease_releasing(struct lock_keeper_lease *lease);
void client_leases_interrupted(struct lock_keeper *keeper);
void client_leases_sweep(struct lock_keeper *keeper, int64_t now_ms);
int64_t client_leases_least_ttl(const struct lock_keeper *keeper); // CLIENT_NEVER: none is held
void client_leases_deinit(struct lock_keeper *keeper);

// ---- adopt.c ----

// It is over, and nothing can be asked about it: it is not, or no longer, this connection's.
bool client_lease_is_gone(const struct lock_keeper_lease *lease);
// It is not of this connection, and must be before anything is asked about it.
bool client_lease_is_blocked(const struct lock_keeper_lease *lease);
// Asks for it.
void client_lease_adopt(struct lock_keeper_lease *lease);
// Asks for every lease that is not of this connection yet.
void client_leases_adopt(struct lock_keeper *keeper);
// The answer to an adoption that the library asked for.
void client_lease_adopted(struct lock_keeper_lease *lease, const struct reply *reply);

// ---- event.c ----

void client_news(struct lock_keeper_lease *lease, unsigned news);
void client_news_forget(struct lock_keeper_lease *lease);
bool client_has_event(const struct lock_keeper *keeper);
// Tells the handler all there is to tell, where there is one.
void client_tell(struct lock_keeper *keeper);

// ---- answer.c ----

void client_answer_clear(struct client_request *request);
// That of a call that failed before there was a request, with failed_words.
void client_answer_failed(struct lock_keeper *keeper, int code);
// The public view of its reply and code.
void client_answer(struct client_request *request, int code, const char *words);

// ---- error.c ----

// The first one is kept.
void client_error(struct lock_keeper *keeper, int code, const char *name, const char *words);
int client_code(const struct reply *reply);
enum lock_keeper_reason client_reason(enum wire_reason reason);
void client_copy(char *to, size_t size, const char *from); // cut at a whole character; NULL is ""
