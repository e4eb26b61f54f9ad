// SPDX-License-Identifier: Apache-2.0
//
// One detached thread for each question, because getaddrinfo can neither be polled nor interrupted.
//
// The question is shared by its thread and its resolver, and belongs to whoever comes last: the
// thread, when it finds the question abandoned; else the resolver, which was told through an
// ev_async that the answer is there. One mutex decides which of the two it is. It is held across
// ev_async_send, so a resolver that is torn down never has its watcher used afterwards.
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/resolver.h"

struct resolver_question {
    pthread_mutex_t mutex;
    struct resolver *resolver; // NULL: abandoned
    bool done;
    struct resolver_result result;
    char service[16];
    char host[];
};

static void question_free(struct resolver_question *question)
{
    pthread_mutex_destroy(&question->mutex);
    free(question);
}

static int look_up(const char *host, const char *service, int flags, struct resolver_result *result)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICSERV | flags,
    };
    struct addrinfo *list = NULL;
    int r = getaddrinfo(host, service, &hints, &list);

    *result = (struct resolver_result){.error = r ? gai_strerror(r) : NULL};
    if (r)
        return r;
    for (struct addrinfo *at = list; at && result->count < RESOLVER_MAX_ADDRESSES;
         at = at->ai_next) {
        struct resolver_address *address = &result->addresses[result->count];

        if (at->ai_addrlen > sizeof address->storage)
            continue;
        memcpy(&address->storage, at->ai_addr, at->ai_addrlen);
        address->length = at->ai_addrlen;
        result->count++;
    }
    freeaddrinfo(list);
    if (result->count == 0)
        result->error = "no address";
    return 0;
}

static void *answer(void *context)
{
    struct resolver_question *question = context;
    struct resolver_result result;
    bool abandoned;

    look_up(question->host, question->service, 0, &result);
    pthread_mutex_lock(&question->mutex);
    question->result = result;
    question->done = true;
    abandoned = !question->resolver;
    if (!abandoned)
        ev_async_send(question->resolver->loop, &question->resolver->wakeup);
    pthread_mutex_unlock(&question->mutex);
    if (abandoned)
        question_free(question);
    return NULL;
}

static void woken(struct ev_loop *loop, ev_async *watcher, int events)
{
    struct resolver *resolver =
        (struct resolver *)(void *)((char *)watcher - offsetof(struct resolver, wakeup));
    struct resolver_question *question = resolver->question;
    struct resolver_result result;
    bool done;

    (void)loop;
    (void)events;
    if (!question)
        return;
    pthread_mutex_lock(&question->mutex);
    done = question->done;
    pthread_mutex_unlock(&question->mutex);
    if (!done)
        return;
    resolver->question = NULL;
    result = question->result;
    question_free(question);
    resolver->answered(resolver->context, &result);
}

void resolver_init(struct resolver *resolver, struct ev_loop *loop,
                   void (*answered)(void *context, const struct resolver_result *result),
                   void *context)
{
    *resolver = (struct resolver){.loop = loop, .answered = answered, .context = context};
    ev_async_init(&resolver->wakeup, woken);
}

void resolver_deinit(struct resolver *resolver)
{
    struct resolver_question *question = resolver->question;
    bool done;

    if (ev_is_active(&resolver->wakeup))
        ev_async_stop(resolver->loop, &resolver->wakeup);
    resolver->question = NULL;
    if (!question)
        return;
    pthread_mutex_lock(&question->mutex);
    question->resolver = NULL;
    done = question->done;
    pthread_mutex_unlock(&question->mutex);
    if (done)
        question_free(question);
}

// Signals are the loop's business: a thread that took SIGTERM would interrupt getaddrinfo instead.
static int start_thread(struct resolver_question *question)
{
    sigset_t all;
    sigset_t before;
    pthread_t thread;
    pthread_attr_t attributes;
    int r;

    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&thread, &attributes, answer, question);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -r;
}

int resolver_ask(struct resolver *resolver, const char *host, int port)
{
    struct resolver_question *question;
    size_t size = strlen(host) + 1;
    int r;

    if (resolver->question)
        return 0;
    question = calloc(1, sizeof *question + size);
    if (!question)
        return -ENOMEM;
    pthread_mutex_init(&question->mutex, NULL);
    question->resolver = resolver;
    memcpy(question->host, host, size);
    snprintf(question->service, sizeof question->service, "%d", port);
    if (!ev_is_active(&resolver->wakeup))
        ev_async_start(resolver->loop, &resolver->wakeup);
    resolver->question = question;
    r = start_thread(question);
    if (r) {
        resolver->question = NULL;
        question_free(question);
    }
    return r;
}

int resolver_numeric(const char *host, int port, struct resolver_result *result)
{
    char service[16];

    snprintf(service, sizeof service, "%d", port);
    return look_up(host, service, AI_NUMERICHOST, result) == 0 && result->count > 0 ? 0 : -ENOENT;
}
