// SPDX-License-Identifier: Apache-2.0
//
// Host names into addresses without ever blocking the loop: getaddrinfo in a thread of its own, its
// result delivered to the loop. One question at a time; a slow answer may be waited for, or
// forgotten.
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <sys/socket.h>

enum {
    RESOLVER_MAX_ADDRESSES = 8,
};

struct resolver_address {
    socklen_t length;
    struct sockaddr_storage storage;
};

struct resolver_result {
    int count;         // 0: see error
    const char *error; // static words of gai_strerror, or NULL
    struct resolver_address addresses[RESOLVER_MAX_ADDRESSES];
};

struct resolver_question;

struct resolver {
    struct ev_loop *loop;
    void (*answered)(void *context, const struct resolver_result *result);
    void *context;
    ev_async wakeup;
    struct resolver_question *question; // NULL: none is open
};

void resolver_init(struct resolver *resolver, struct ev_loop *loop,
                   void (*answered)(void *context, const struct resolver_result *result),
                   void *context);
// Forgets the open question, without waiting for its thread.
void resolver_deinit(struct resolver *resolver);

// Asks: answered follows from the loop, once, never from inside this call. Nothing is done while a
// question is open. 0, or a negative errno (no thread, no memory).
int resolver_ask(struct resolver *resolver, const char *host, int port);

// An address in digits, at once: 0 and *result, or -ENOENT when host is a name.
int resolver_numeric(const char *host, int port, struct resolver_result *result);
