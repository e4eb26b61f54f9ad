// SPDX-License-Identifier: Apache-2.0
//
// A keeper on a fake store, with clients that are only sessions: lines in, lines out, and a clock
// that stands until the test moves it.
//
//     struct rig rig;
//     struct rig_client client;
//     rig_open(&rig);
//     rig_connect(&rig, &client, 1000);
//     rig_send(&client, "{'op':'acquire','key':'k'}");
//     fake_store_grant(&rig.fake, fake_store_expect(&rig.fake, STORE_ACQUIRE), 7, rig.now_ms);
//     rig_expect(&client, "{'ok':true,'op':'acquire','key':'k','fence':7}");
//     rig_gone(&client);
//     ...
//     rig_close(&rig);
//
// In the formats ' stands for ". What is expected is a pattern (pattern.h): a subset of the line.
// Every request gets an id of its own, and every line that a client is sent is looked at: one ASCII
// object whose first member is "ok" or "event"; a reply to an id that was asked and not answered.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sidecar/keeper.h"
#include "tests/tool/fake_store.h"

enum {
    // The rules' numbers for the rig's TTL of 30 s.
    RIG_T = 30000,
    RIG_P = 10000,
    RIG_C = 2500,
    RIG_R = 500,
    RIG_M = 6000,
    RIG_DRIFT = 302,
    RIG_VALID = RIG_T - RIG_DRIFT, // from the send to valid_until
    RIG_D = RIG_VALID - RIG_M,     // from the send to the revoke time
    RIG_START = 1000000,           // the clock at first
    RIG_CLIENTS = 64,
};

struct rig_client {
    struct session session;
    struct rig *rig; // NULL: closed
    json_t *replies; // by id: how often it was answered
    json_t *line;    // the newest one taken
    char text[WIRE_MAX_REPLY + 2];
    int64_t next_id;
    size_t calls_at_output; // calls the store had got when the newest line was written
    bool may_fail;          // the test makes `out` fail
};

struct rig {
    struct fake_store fake;
    struct keeper keeper;
    int64_t now_ms;
    uint64_t seed;
    struct rig_client *clients[RIG_CLIENTS]; // open ones
};

// A lease as its client knows it.
struct rig_lease {
    char lease[WIRE_LEASE_DIGITS + 1];
    int64_t valid_until_ms;
    struct fake_call *call; // the acquire
};

// TTL 30 s, at most 5 m; workflow deadline 5 m, at most 1 h; caps of 2000; host "pod-7".
struct keeper_options rig_options(struct rig *rig);
void rig_open(struct rig *rig);
void rig_open_with(struct rig *rig, const struct keeper_options *options);
// Takes the clients that are left as gone. Renewals still with the store are completed as UNSENT;
// other calls must be done. Then rig_check_idle.
void rig_close(struct rig *rig);
// Conservation: no slot, nothing pending or owed, an empty heap, empty indexes, and accounts that
// count open connections only.
void rig_check_idle(struct rig *rig);

// The clock moves to at_ms (or by ms), and all that is due is swept.
void rig_at(struct rig *rig, int64_t at_ms);
void rig_pass(struct rig *rig, int64_t ms);

void rig_connect(struct rig *rig, struct rig_client *client, uid_t uid);
// The client's end: gone by itself, or cut off. Lines that it has not taken are looked at.
void rig_gone(struct rig_client *client);
void rig_cut(struct rig_client *client);
void rig_half_close(struct rig_client *client);
// After a half-close: all is answered, and the owner closes.
void rig_finish(struct rig_client *client);

// One line with an id put in front; returns the id.
int64_t rig_send(struct rig_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// The line as it is, without a newline.
void rig_send_raw(struct rig_client *client, const char *line, size_t length);

// Takes the next line: false when there is none. rig_line: as text, rig_json: parsed.
bool rig_take(struct rig_client *client);
void rig_expect(struct rig_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// No member but those named.
void rig_expect_exact(struct rig_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void rig_expect_nothing(struct rig_client *client);
int64_t rig_int(const struct rig_client *client, const char *member);
const char *rig_string(const struct rig_client *client, const char *member);

// The next call to the store is answered now.
struct fake_call *rig_complete(struct rig *rig, enum store_op op, enum store_outcome outcome);
// No call was made since.
void rig_expect_no_call(struct rig *rig);

// A whole acquire, granted at once. more: further members with a comma before them, or "".
void rig_acquire(struct rig_client *client, struct rig_lease *lease, const char *key,
                 const char *more);
// A whole release; the key was there.
void rig_release(struct rig_client *client, const struct rig_lease *lease);
