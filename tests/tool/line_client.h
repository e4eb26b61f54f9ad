// SPDX-License-Identifier: Apache-2.0
//
// A client of the protocol that sends lines and expects lines.
//
//     struct line_client client;
//     line_client_connect(&client, sidecar.socket);
//     line_client_send(&client, "{'op':'acquire','key':'%s'}", key);
//     line_client_expect(&client, "{'ok':true,'op':'acquire','key':'%s'}", key);
//     valid_until = line_client_int(&client, "valid_until_ms");
//     line_client_close(&client);
//
// In the formats ' stands for " (not in what is formatted into them). What is expected is a pattern
// (pattern.h): members that it doesn't name may be there too. Every line that is received, whether
// it is looked at or not, must be one ASCII JSON object of at most 65536 bytes whose first member
// is "ok" or "event". Nothing is ever expected not to come: to see that nothing came, ask something
// (line_client_ping) and expect its reply next.
//
// Every helper that cannot do its work, within timeout_ms, fails the test.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/buf.h"
#include "protocol/wire.h"

enum {
    LINE_CLIENT_TIMEOUT_MS = 5000,
    LINE_CLIENT_PAGE = 8 * WIRE_PAGE_SLOTS, // bytes
};

struct line_client {
    int fd; // non-blocking; -1 when closed
    int64_t timeout_ms;
    bool deaf;           // sends without reading in between
    struct buf input;    // received, not yet expected
    char *line;          // the newest line received, owned
    json_t *json;        // the same, parsed
    int64_t received_ms; // CLOCK_BOOTTIME when it was taken from the socket
    bool ended;          // EOF was read
    int passed_fd;       // a descriptor that came with what was read; -1: none
    const int64_t *page; // the validity page, once mapped
};

// A grant as it was received.
struct line_lease {
    char lease[WIRE_LEASE_DIGITS + 1];
    int64_t fence;
    int64_t valid_until_ms;
    int64_t sent_ms; // CLOCK_BOOTTIME before the acquire was sent
};

void line_client_connect(struct line_client *client, const char *socket_path);
// 0, or a negative errno where the connect was refused (client is closed then).
int line_client_try_connect(struct line_client *client, const char *socket_path);
// NULL-safe for what is open; may be called twice.
void line_client_close(struct line_client *client);
void line_client_half_close(struct line_client *client); // no more from our side

// One line; the newline is added.
void line_client_send(struct line_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// Bytes as they are. False when the other side has closed meanwhile.
bool line_client_send_bytes(struct line_client *client, const char *bytes, size_t length);
// As many of the bytes as the socket takes at once.
size_t line_client_send_some(struct line_client *client, const char *bytes, size_t length);

// The next line, whatever it is, without its newline; borrowed until the next one.
const char *line_client_receive(struct line_client *client);
// True when a line (or the end) is there already, or comes within ms.
bool line_client_wait(struct line_client *client, int64_t ms);
// The next line, which must fit the pattern.
void line_client_expect(struct line_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// The same after any number of other events.
void line_client_await(struct line_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// Nothing but EOF comes. / Takes all lines until EOF, and says how many.
void line_client_expect_eof(struct line_client *client);
size_t line_client_drain(struct line_client *client);

// Members of the newest line, by path ("holder.pid", "leases.0.key"). They must be there and of
// this type; line_client_member answers NULL where there is none. Borrowed until the next line.
json_t *line_client_member(const struct line_client *client, const char *path);
int64_t line_client_int(const struct line_client *client, const char *path);
const char *line_client_string(const struct line_client *client, const char *path);

// hello with a page, which is mapped then. / What one of its slots says.
void line_client_open_page(struct line_client *client);
int64_t line_client_slot(const struct line_client *client, int64_t slot);
// A client's check: the slot first, then the clock.
bool line_client_valid(const struct line_client *client, int64_t slot);
// The descriptor that came last is a page: mapped. The test fails where none came.
void line_client_map_page(struct line_client *client);

// Whole exchanges, each of which expects success and no event in between. more: further members of
// the acquire with a comma before them, ",'ttl_ms':1000", or "".
void line_client_acquire(struct line_client *client, struct line_lease *lease, const char *key,
                         const char *more);
void line_client_release(struct line_client *client, const struct line_lease *lease);
void line_client_ping(struct line_client *client);
