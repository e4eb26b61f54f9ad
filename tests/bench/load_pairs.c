// SPDX-License-Identifier: Apache-2.0
//
// Acquire and release, over and over: `connections` connections with `in flight` keys each, every key
// with one request outstanding. A connection is written each WRITE_AFTER requests and at the end of
// what was read, as pipelining clients do.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/load.h"

enum { WRITE_AFTER = 16, KEY_LENGTH = 24, EVENTS = 64 };

struct key {
    int64_t asked_ns;
    bool held;
    char name[LOAD_KEY_MAX];
};

struct client {
    struct load_line line;
    struct key *keys;
    char *output;
    size_t queued_bytes;
    int queued;
};

static struct load_samples samples;
static uint64_t pairs;
static long in_flight;
static size_t request_max;

static void flush(struct client *client)
{
    if (client->queued_bytes > 0)
        load_send(client->line.fd, client->output, client->queued_bytes);
    client->queued_bytes = 0;
    client->queued = 0;
}

static void room(struct client *client)
{
    if (++client->queued > WRITE_AFTER)
        flush(client);
}

static void ask(struct client *client, long id)
{
    struct key *key = &client->keys[id];

    room(client);
    key->asked_ns = load_now_ns();
    client->queued_bytes +=
        load_acquire(client->output + client->queued_bytes, id, key->name, 0, 0);
}

// {"ok":true,"id":N,...
static void handle(struct client *client, const char *line, bool count)
{
    static const char start[] = "{\"ok\":true,\"id\":";
    long id;
    struct key *key;

    if (strncmp(line, start, sizeof start - 1) != 0)
        load_fail("not ok: %s", line);
    id = strtol(line + sizeof start - 1, NULL, 10);
    if (id < 0 || id >= in_flight)
        load_fail("a reply to no request: %s", line);
    key = &client->keys[id];
    if (key->held) {
        key->held = false;
        if (count) {
            pairs++;
            load_samples_add(&samples, load_now_ns() - key->asked_ns);
        }
        ask(client, id);
    } else {
        key->held = true;
        room(client);
        client->queued_bytes +=
            load_release(client->output + client->queued_bytes, id, load_lease_of(line));
    }
}

static void on_readable(struct client *client, bool count)
{
    struct load_line *line = &client->line;
    ssize_t n = recv(line->fd, line->input + line->used, sizeof line->input - line->used, 0);
    char *at, *end;

    if (n <= 0)
        load_fail("read: %s", n == 0 ? "closed" : strerror(errno));
    line->used += (size_t)n;
    for (at = line->input; (end = memchr(at, '\n', line->used - (size_t)(at - line->input)));
         at = end + 1) {
        *end = '\0';
        handle(client, at, count);
    }
    line->used -= (size_t)(at - line->input);
    memmove(line->input, at, line->used);
    flush(client);
}

static struct client *open_clients(const char *path, long connections, size_t key_length, int epoll)
{
    struct client *clients = calloc((size_t)connections, sizeof *clients);

    request_max = key_length + 256;
    for (long i = 0; clients && i < connections; i++) {
        struct client *client = &clients[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};

        client->line.fd = load_connect(path);
        client->keys = calloc((size_t)in_flight, sizeof *client->keys);
        client->output = malloc((WRITE_AFTER + 1) * request_max);
        if (!client->keys || !client->output)
            load_fail("out of memory");
        for (long id = 0; id < in_flight; id++)
            load_key(client->keys[id].name, key_length, "pairs", i * in_flight + id);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->line.fd, &event) < 0)
            load_fail("epoll_ctl: %s", strerror(errno));
    }
    if (!clients)
        load_fail("out of memory");
    return clients;
}

static void serve(int epoll, int64_t until_ns, bool count)
{
    struct epoll_event events[EVENTS];

    while (load_now_ns() < until_ns) {
        int n = epoll_wait(epoll, events, EVENTS, 1000);
        for (int i = 0; i < n; i++)
            on_readable(events[i].data.ptr, count);
    }
}

int load_pairs(int argc, char **argv)
{
    long connections = load_number(argv[1]);
    int64_t ms = load_number(argv[3]);
    size_t key_length = argc > 4 ? (size_t)load_number(argv[4]) : KEY_LENGTH;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients;
    int64_t start_ns;

    in_flight = load_number(argv[2]);
    clients = open_clients(argv[0], connections, key_length, epoll);
    for (long i = 0; i < connections; i++) {
        for (long id = 0; id < in_flight; id++)
            ask(&clients[i], id);
        flush(&clients[i]);
    }
    serve(epoll, load_now_ns() + ms * 100000, false); // a tenth, to warm up
    start_ns = load_now_ns();
    serve(epoll, start_ns + ms * 1000000, true);
    load_report(pairs, load_now_ns() - start_ns, &samples);
    return 0;
}

// ---- One in flight, blocking ----

static void run_pair(struct load_line *line, const char *key)
{
    char request[LOAD_KEY_MAX + 256];
    const char *reply;
    size_t n = load_acquire(request, 1, key, 0, 0);

    reply = load_line_call(line, request, n);
    n = load_release(request, 2, load_lease_of(reply));
    load_line_call(line, request, n);
}

int load_latency(int argc, char **argv)
{
    struct load_line *line = load_line_new(argv[0]);
    int64_t ms = argc > 1 ? load_number(argv[1]) : 1000;
    int64_t start_ns, now_ns, end_ns;
    char key[LOAD_KEY_MAX];

    load_key(key, KEY_LENGTH, "latency", 1);
    for (int i = 0; i < 50; i++)
        run_pair(line, key);
    start_ns = now_ns = load_now_ns();
    end_ns = start_ns + ms * 1000000;
    for (; now_ns < end_ns; pairs++) {
        int64_t before_ns = now_ns;
        run_pair(line, key);
        now_ns = load_now_ns();
        load_samples_add(&samples, now_ns - before_ns);
    }
    load_report(pairs, now_ns - start_ns, &samples);
    return 0;
}

// ---- Many processes ----

static void one_process(const char *path, long number, uint64_t *sum)
{
    struct load_line *line = load_line_new(path);
    char key[LOAD_KEY_MAX];

    load_key(key, KEY_LENGTH, "process", number);
    for (;;) {
        run_pair(line, key);
        __atomic_add_fetch(sum, 1, __ATOMIC_RELAXED);
    }
}

int load_processes(int argc, char **argv)
{
    return load_count_processes(argc, argv, one_process);
}
