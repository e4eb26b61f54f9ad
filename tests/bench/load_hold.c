// SPDX-License-Identifier: Apache-2.0
//
// Leases and connections that are only held, until standard input ends. "ready" is printed when all
// are there; at the end, how many revoked events came meanwhile.
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/load.h"

enum { KEY_LENGTH = 24, WINDOW = 256, WAIT_MS = 60000 }; // outlasts a busy machine

static long revoked;

// A reply; events before it are counted.
static const char *next_reply(struct load_line *line)
{
    const char *reply;

    while (strncmp(reply = load_line_next(line), "{\"event\":", 9) == 0)
        revoked += strstr(reply, "\"revoked\"") != NULL;
    return reply;
}

// Leases [first, end), a window of them unanswered.
static void open_leases(struct load_line *line, long first, long end, long ttl_ms,
                        size_t key_length)
{
    char request[LOAD_KEY_MAX + 256];
    char key[LOAD_KEY_MAX];
    long asked = first;

    for (long granted = first; granted < end; granted++) {
        for (; asked < end && asked < granted + WINDOW; asked++) {
            load_key(key, key_length, "hold", asked);
            load_send(line->fd, request, load_acquire(request, asked, key, WAIT_MS, ttl_ms));
        }
        load_lease_of(next_reply(line));
    }
}

static bool has_ended(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;

    return poll(&input, 1, 0) == 1 && read(STDIN_FILENO, &byte, 1) <= 0;
}

static void count_events(struct load_line **lines, long count)
{
    for (long i = 0; i < count; i++) {
        while (recv(lines[i]->fd, lines[i]->input, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
            if (strstr(load_line_next(lines[i]), "\"revoked\""))
                revoked++;
        }
    }
}

static void say_ready(void)
{
    puts("ready");
    fflush(stdout);
}

int load_hold(int argc, char **argv)
{
    long leases = load_number(argc > 3 ? argv[1] : NULL);
    long connections = load_number(argv[2]);
    long ttl_ms = load_number(argv[3]);
    size_t key_length = argc > 4 ? (size_t)load_number(argv[4]) : KEY_LENGTH;
    struct load_line **lines = calloc((size_t)connections, sizeof(*lines));

    for (long i = 0; i < connections; i++) {
        lines[i] = load_line_new(argv[0]);
        open_leases(lines[i], leases * i / connections, leases * (i + 1) / connections, ttl_ms,
                    key_length);
    }
    say_ready();
    while (!has_ended()) {
        load_sleep_ms(50);
        count_events(lines, connections);
    }
    printf("{\"revoked\":%ld}\n", revoked);
    return 0;
}

int load_idle(int argc, char **argv)
{
    long count = load_number(argc > 1 ? argv[1] : NULL);
    static const char ping[] = "{\"op\":\"ping\"}\n";
    char reply[256];

    for (long i = 0; i < count; i++) {
        int fd = load_connect(argv[0]);

        load_send(fd, ping, sizeof ping - 1);
        if (recv(fd, reply, sizeof reply, 0) <= 0)
            load_fail("connection %ld was closed", i + 1);
        if (strncmp(reply, "{\"ok\":true", 10) != 0)
            load_fail("connection %ld: %.*s", i + 1, (int)sizeof reply, reply);
    }
    say_ready();
    while (!has_ended())
        load_sleep_ms(50);
    puts("{}");
    return 0;
}
