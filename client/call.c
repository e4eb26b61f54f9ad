// SPDX-License-Identifier: Apache-2.0
//
// The public calls: arguments into requests, and waiting for them.
//
// Each call has a maker, which checks its arguments and makes a pending request;
// lock_keeper_start_x sends that and returns, lock_keeper_x waits until it is done. Waiting is the
// same work that an event loop would do, with poll in between.
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/inside.h"
#include "protocol/text.h"

#define GIVEN(symbol) (UINT64_C(1) << WIRE_MEMBER_##symbol)

// ---- Failures without a request ----

__attribute__((format(printf, 3, 4))) static int fail(struct lock_keeper *keeper, int code,
                                                      const char *format, ...)
{
    char words[CLIENT_WORDS];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    client_copy(keeper->failed_words, sizeof keeper->failed_words, words);
    client_answer_failed(keeper, code);
    client_error(keeper, code, lock_keeper_code_name(code), keeper->failed_words);
    return code;
}

// ---- Arguments ----

static bool is_text(const char *string, size_t max)
{
    size_t length = strlen(string);
    size_t size;

    for (size_t at = 0; at < length; at += size) {
        if (text_decode(string + at, length - at, &size) == TEXT_REPLACEMENT && size == 1)
            return false;
    }
    return length <= max;
}

static int take_key(struct lock_keeper *keeper, struct message_request *ask, const char *key)
{
    if (!key || !*key || !is_text(key, WIRE_MAX_KEY))
        return fail(keeper, -EINVAL, "\"key\" must be UTF-8 of 1 to %d bytes", WIRE_MAX_KEY);
    ask->key_length = strlen(key);
    memcpy(ask->key, key, ask->key_length + 1);
    ask->given |= GIVEN(KEY);
    return 0;
}

static int take_label(struct lock_keeper *keeper, struct message_request *ask, const char *label)
{
    if (!label || !*label)
        return 0;
    if (!is_text(label, WIRE_MAX_LABEL))
        return fail(keeper, -EINVAL, "\"label\" must be UTF-8 of up to %d bytes", WIRE_MAX_LABEL);
    ask->label_length = strlen(label);
    memcpy(ask->label, label, ask->label_length + 1);
    ask->given |= GIVEN(LABEL);
    return 0;
}

static int take_token(struct lock_keeper *keeper, struct message_request *ask, const char *token)
{
    if (!token || strlen(token) != WIRE_LEASE_DIGITS || !message_token_parse(token, &ask->lease))
        return fail(keeper, -EINVAL, "\"lease\" must be %d lower-case hex digits",
                    WIRE_LEASE_DIGITS);
    ask->given |= GIVEN(LEASE);
    return 0;
}

// A number that goes to the sidecar as it is. 0 is its default, and not said.
static int take_number(struct lock_keeper *keeper, struct message_request *ask,
                       enum wire_member member, int64_t value, int64_t *place)
{
    if (value < 0 || value > WIRE_MAX_INTEGER)
        return fail(keeper, -EINVAL, "\"%s\" must not be negative, or so large",
                    wire_member_names[member]);
    *place = value;
    if (value > 0)
        ask->given |= UINT64_C(1) << member;
    return 0;
}

static int take_binding(struct lock_keeper *keeper, struct message_request *ask,
                        enum lock_keeper_bind bind, int64_t pid,
                        enum lock_keeper_disconnect on_disconnect, const uint64_t reserved[4])
{
    static const uint64_t none[4];

    if ((unsigned)bind > LOCK_KEEPER_BIND_NONE ||
        (unsigned)on_disconnect > LOCK_KEEPER_DISCONNECT_EXPIRE ||
        (pid != 0 && bind != LOCK_KEEPER_BIND_PID) || memcmp(reserved, none, sizeof none) != 0)
        return fail(keeper, -EINVAL,
                    "\"bind\", \"pid\" or \"on_disconnect\" is out of range, or the options were "
                    "not initialised");
    ask->bind = (enum wire_bind)bind;
    ask->on_disconnect = (enum wire_disconnect)on_disconnect;
    ask->notify = 1u << WIRE_NOTIFY_RENEWED | 1u << WIRE_NOTIFY_AT_RISK;
    ask->given |= GIVEN(NOTIFY);
    if (bind != LOCK_KEEPER_BIND_CONNECTION)
        ask->given |= GIVEN(BIND);
    if (on_disconnect != LOCK_KEEPER_DISCONNECT_RELEASE)
        ask->given |= GIVEN(ON_DISCONNECT);
    return take_number(keeper, ask, WIRE_MEMBER_PID, pid, &ask->pid);
}

_Static_assert((int)LOCK_KEEPER_BIND_CONNECTION == (int)WIRE_BIND_CONNECTION &&
                   (int)LOCK_KEEPER_BIND_PID == (int)WIRE_BIND_PID &&
                   (int)LOCK_KEEPER_BIND_NONE == (int)WIRE_BIND_NONE,
               "taken as they are");
_Static_assert((int)LOCK_KEEPER_DISCONNECT_EXPIRE == (int)WIRE_DISCONNECT_EXPIRE,
               "taken as they are");

// ---- Makers: *made and 0, or a failure, which is told ----

struct ask {
    enum wire_op op;
    const struct lock_keeper_acquire *acquire;
    const struct lock_keeper_adopt *adopt;
    struct lock_keeper_lease *lease;
    const char *token;
    const char *key;
    const char *after;
    int64_t number; // deadline_ms, limit, grace_ms
};

static int fill_acquire(struct lock_keeper *keeper, struct message_request *ask,
                        const struct lock_keeper_acquire *options)
{
    int r = take_key(keeper, ask, options->key);

    if (r == 0)
        r = take_label(keeper, ask, options->label);
    if (r == 0)
        r = take_number(keeper, ask, WIRE_MEMBER_TTL_MS, options->ttl_ms, &ask->ttl_ms);
    if (r == 0)
        r = take_number(keeper, ask, WIRE_MEMBER_DEADLINE_MS, options->deadline_ms,
                        &ask->deadline_ms);
    if (r == 0 && options->wait_ms != -1)
        r = take_number(keeper, ask, WIRE_MEMBER_WAIT_MS, options->wait_ms, &ask->wait_ms);
    else if (r == 0)
        ask->given |= GIVEN(WAIT_MS);
    if (r == 0)
        r = take_binding(keeper, ask, options->bind, options->pid, options->on_disconnect,
                         options->reserved);
    return r;
}

static int fill_adopt(struct lock_keeper *keeper, struct message_request *ask,
                      const struct lock_keeper_adopt *options)
{
    int r = take_key(keeper, ask, options->key);

    if (r == 0)
        r = take_token(keeper, ask, options->token);
    if (r == 0)
        r = take_binding(keeper, ask, options->bind, options->pid, options->on_disconnect,
                         options->reserved);
    return r;
}

static int fill_list(struct lock_keeper *keeper, struct message_request *ask,
                     const struct ask *what)
{
    if (what->after) {
        if (!is_text(what->after, WIRE_MAX_CURSOR))
            return fail(keeper, -EINVAL, "\"after\" must be the \"next\" of the page before");
        strcpy(ask->after, what->after);
        ask->given |= GIVEN(AFTER);
    }
    return take_number(keeper, ask, WIRE_MEMBER_LIMIT, what->number, &ask->limit);
}

static int fill(struct lock_keeper *keeper, struct message_request *ask, const struct ask *what)
{
    const char *token = what->lease ? what->lease->digits : what->token;
    int r = 0;

    switch (what->op) {
    case WIRE_OP_ACQUIRE:
        return fill_acquire(keeper, ask, what->acquire);
    case WIRE_OP_ADOPT:
        return fill_adopt(keeper, ask, what->adopt);
    case WIRE_OP_RELEASE:
        return take_token(keeper, ask, token);
    case WIRE_OP_EXTEND:
        r = take_token(keeper, ask, token);
        return r != 0 ? r
                      : take_number(keeper, ask, WIRE_MEMBER_DEADLINE_MS, what->number,
                                    &ask->deadline_ms);
    case WIRE_OP_INSPECT:
        return take_key(keeper, ask, what->key);
    case WIRE_OP_BREAK:
        r = take_key(keeper, ask, what->key);
        return r != 0
                   ? r
                   : take_number(keeper, ask, WIRE_MEMBER_GRACE_MS, what->number, &ask->grace_ms);
    case WIRE_OP_LIST:
        return fill_list(keeper, ask, what);
    default:
        return 0;
    }
}

static void set_wait(struct client_request *request, const struct lock_keeper_acquire *options)
{
    bool is_endless =
        options->wait_ms == -1 || options->wait_ms > CLIENT_NEVER - request->give_up_ms;

    request->wait_until_ms = is_endless ? CLIENT_NEVER : request->asked_ms + options->wait_ms;
    request->give_up_ms = is_endless ? CLIENT_NEVER : request->give_up_ms + options->wait_ms;
}

// What the answer is already, if the sidecar need not be asked. It may be done at once.
static void begin_lease(struct client_request *request, struct lock_keeper_lease *lease)
{
    enum client_lease_state state = lease->state;
    bool is_gone = client_lease_is_gone(lease);

    if (request->ask.op == WIRE_OP_RELEASE)
        client_lease_releasing(lease);
    if (state == CLIENT_LEASE_RELEASED || state == CLIENT_LEASE_RELEASING)
        client_request_end(request, LOCK_KEEPER_E_UNKNOWN_LEASE, "the lease was released already");
    else if (is_gone)
        client_request_end(request, LOCK_KEEPER_E_LOST_ACTOR_LOCK,
                           "the lease was over before, and its key is not this connection's");
    else
        request->lease = lease;
}

static int make(struct lock_keeper *keeper, const struct ask *what, enum client_audience audience,
                struct client_request **made)
{
    struct message_request ask = {.op = what->op};
    struct lock_keeper_lease *lease = what->lease;
    struct client_request *request;
    int r = fill(keeper, &ask, what);

    *made = NULL;
    if (r != 0)
        return r;
    if (ask.op == WIRE_OP_RELEASE || ask.op == WIRE_OP_EXTEND)
        client_link_read(keeper);            // somebody else may have the lease
    if (ask.op == WIRE_OP_RELEASE && !lease) // its slot may be another's from now on
        lease = client_lease_find(keeper, &ask.lease);
    request = client_request_new(keeper, what->op, audience);
    if (!request)
        return fail(keeper, -ENOMEM, "no memory for a request");
    ask.id = request->ask.id;
    ask.given |= request->ask.given;
    request->ask = ask;
    if (what->op == WIRE_OP_ACQUIRE)
        set_wait(request, what->acquire);
    if (lease)
        begin_lease(request, lease);
    *made = request;
    return 0;
}

// ---- Waiting ----

static bool may_wait(struct lock_keeper *keeper)
{
    keeper->failed.code = 0;
    keeper->replied = client_request_free(keeper->replied);
    if (keeper->is_telling)
        (void)fail(keeper, -EDEADLK, "a call that waits was made from the event handler");
    return !keeper->is_telling;
}

static int wait_for(struct lock_keeper *keeper, struct client_request *request)
{
    struct pollfd fd = {.fd = keeper->epoll_fd, .events = POLLIN};
    int code;

    if (!request->is_done) {
        client_link_open(keeper, false);
        client_request_send(request);
    }
    client_arm(keeper);
    while (!request->is_done) {
        int r = lock_keeper_process(keeper);

        if (r == 0 && !request->is_done && poll(&fd, 1, -1) < 0 && errno != EINTR)
            r = -errno;
        if (r < 0 && !request->is_done)
            client_request_end(request, r, "the handle's descriptors: %s", strerror(-r));
    }
    code = request->answer.code;
    keeper->replied = request;
    return code;
}

static int ask_and_wait(struct lock_keeper *keeper, const struct ask *what)
{
    struct client_request *request;
    int r;

    if (!may_wait(keeper))
        return -EDEADLK;
    r = make(keeper, what, CLIENT_CALLER, &request);
    return r != 0 ? r : wait_for(keeper, request);
}

static int start(struct lock_keeper *keeper, const struct ask *what, uint64_t *number)
{
    struct client_request *request;
    int r = make(keeper, what, CLIENT_STARTED, &request);

    if (r != 0)
        return r;
    if (number)
        *number = request->node.number;
    if (!request->is_done) {
        client_link_open(keeper, true);
        client_request_send(request);
    }
    client_arm(keeper);
    return 0;
}

// ---- Connecting ----

int lock_keeper_open(struct lock_keeper *keeper)
{
    client_link_open(keeper, true);
    client_arm(keeper);
    return 0;
}

static int connect_failed(struct lock_keeper *keeper, int code)
{
    return fail(keeper, code != 0 ? code : -ENOTCONN, "%s", keeper->link.end_words);
}

int lock_keeper_connect(struct lock_keeper *keeper)
{
    struct pollfd fd = {.fd = keeper->epoll_fd, .events = POLLIN};
    const struct client_link *link = &keeper->link;
    int64_t until_ms = client_now_ms() + keeper->timeout_ms;
    unsigned failures = link->failures;

    if (!may_wait(keeper))
        return -EDEADLK;
    client_link_open(keeper, false);
    client_link_hurry(keeper);
    for (;;) {
        int64_t left_ms = until_ms - client_now_ms();
        int r = lock_keeper_process(keeper);

        if (link->state == CLIENT_LINK_UP)
            return 0;
        if (link->failures != failures)
            return connect_failed(keeper, link->end_code);
        if (left_ms <= 0) {
            client_link_end(keeper, -ETIMEDOUT, "the sidecar did not answer in time");
            (void)lock_keeper_process(keeper);
            return fail(keeper, -ETIMEDOUT, "the sidecar did not answer in time");
        }
        if (r < 0 ||
            (poll(&fd, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms) < 0 && errno != EINTR))
            return fail(keeper, r < 0 ? r : -errno, "the handle's descriptors are no good");
    }
}

// ---- Calls that wait ----

static int grant(struct lock_keeper *keeper, const struct ask *what,
                 struct lock_keeper_lease **lease)
{
    int r = ask_and_wait(keeper, what);

    *lease = r == 0 ? keeper->replied->answer.lease : NULL;
    return r;
}

int lock_keeper_acquire(struct lock_keeper *keeper, const struct lock_keeper_acquire *options,
                        struct lock_keeper_lease **lease)
{
    return grant(keeper, &(struct ask){.op = WIRE_OP_ACQUIRE, .acquire = options}, lease);
}

int lock_keeper_adopt(struct lock_keeper *keeper, const struct lock_keeper_adopt *options,
                      struct lock_keeper_lease **lease)
{
    return grant(keeper, &(struct ask){.op = WIRE_OP_ADOPT, .adopt = options}, lease);
}

int lock_keeper_release(struct lock_keeper *keeper, struct lock_keeper_lease *lease)
{
    return ask_and_wait(keeper, &(struct ask){.op = WIRE_OP_RELEASE, .lease = lease});
}

int lock_keeper_release_token(struct lock_keeper *keeper, const char *token)
{
    return ask_and_wait(keeper, &(struct ask){.op = WIRE_OP_RELEASE, .token = token});
}

int lock_keeper_extend(struct lock_keeper *keeper, struct lock_keeper_lease *lease,
                       int64_t deadline_ms)
{
    return ask_and_wait(keeper,
                        &(struct ask){.op = WIRE_OP_EXTEND, .lease = lease, .number = deadline_ms});
}

int lock_keeper_extend_token(struct lock_keeper *keeper, const char *token, int64_t deadline_ms)
{
    return ask_and_wait(keeper,
                        &(struct ask){.op = WIRE_OP_EXTEND, .token = token, .number = deadline_ms});
}

int lock_keeper_inspect(struct lock_keeper *keeper, const char *key)
{
    return ask_and_wait(keeper, &(struct ask){.op = WIRE_OP_INSPECT, .key = key});
}

int lock_keeper_list(struct lock_keeper *keeper, int64_t limit, const char *after)
{
    return ask_and_wait(keeper, &(struct ask){.op = WIRE_OP_LIST, .number = limit, .after = after});
}

int lock_keeper_ping(struct lock_keeper *keeper)
{
    return ask_and_wait(keeper, &(struct ask){.op = WIRE_OP_PING});
}

int lock_keeper_break(struct lock_keeper *keeper, const char *key, int64_t grace_ms)
{
    return ask_and_wait(keeper, &(struct ask){.op = WIRE_OP_BREAK, .key = key, .number = grace_ms});
}

int lock_keeper_call(struct lock_keeper *keeper, const char *json)
{
    struct client_request *request;

    if (!may_wait(keeper))
        return -EDEADLK;
    if (!json || strchr(json, '\n') || json[strspn(json, "\r")] == '\0')
        return fail(keeper, -EINVAL, "a call must be one line, and not an empty one");
    request = client_request_new(keeper, WIRE_OP_COUNT, CLIENT_CALLER);
    if (request)
        request->raw = strdup(json);
    if (!request || !request->raw) {
        if (request)
            client_request_drop(request);
        return fail(keeper, -ENOMEM, "no memory for a request");
    }
    keeper->raw = request;
    return wait_for(keeper, request);
}

// ---- The same, started ----

int lock_keeper_start_acquire(struct lock_keeper *keeper, const struct lock_keeper_acquire *options,
                              uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_ACQUIRE, .acquire = options}, request);
}

int lock_keeper_start_adopt(struct lock_keeper *keeper, const struct lock_keeper_adopt *options,
                            uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_ADOPT, .adopt = options}, request);
}

int lock_keeper_start_release(struct lock_keeper *keeper, struct lock_keeper_lease *lease,
                              uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_RELEASE, .lease = lease}, request);
}

int lock_keeper_start_release_token(struct lock_keeper *keeper, const char *token,
                                    uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_RELEASE, .token = token}, request);
}

int lock_keeper_start_extend(struct lock_keeper *keeper, struct lock_keeper_lease *lease,
                             int64_t deadline_ms, uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_EXTEND, .lease = lease, .number = deadline_ms},
                 request);
}

int lock_keeper_start_inspect(struct lock_keeper *keeper, const char *key, uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_INSPECT, .key = key}, request);
}

int lock_keeper_start_list(struct lock_keeper *keeper, int64_t limit, const char *after,
                           uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_LIST, .number = limit, .after = after},
                 request);
}

int lock_keeper_start_ping(struct lock_keeper *keeper, uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_PING}, request);
}

int lock_keeper_start_break(struct lock_keeper *keeper, const char *key, int64_t grace_ms,
                            uint64_t *request)
{
    return start(keeper, &(struct ask){.op = WIRE_OP_BREAK, .key = key, .number = grace_ms},
                 request);
}

int lock_keeper_cancel(struct lock_keeper *keeper, uint64_t number)
{
    struct client_request *request = client_request_find(keeper, number);
    int r = -ENOENT;

    if (request && request->ask.op == WIRE_OP_ACQUIRE && request->audience == CLIENT_STARTED)
        r = client_cancel(request);
    client_arm(keeper);
    return r;
}
