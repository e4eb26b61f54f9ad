// SPDX-License-Identifier: Apache-2.0
//
// A sidecar that says what a test tells it to, line by line: for what the real one never does.
//
//     fake_sidecar_start(&fake,
//         FAKE_HELLO                                              // a hello, and its answer
//         "? {'op':'acquire'}\n"                                  // a line that must fit the pattern
//         "> {'ok':true,'id':$id,'op':'acquire','key':'k'}\n"     // is answered by this
//         "close\n");
//
// It is a child with a listening Unix socket in the scratch folder, that takes one connection after
// the other and goes through the steps once. In a step ' stands for ", $id for the id of the newest
// line that was read, $now for CLOCK_BOOTTIME in ms, which may be followed by +N or -N, and
// $x(N,C) for N times the character C.
//
//     ? PATTERN    reads a line (skipping none), which must fit the pattern (pattern.h)
//     ?= PATTERN   the same; the line has no member that the pattern has not
//     > LINE       sends the line and a newline
//     >- TEXT      sends the text without a newline
//     >b LINE      the same as >, byte by byte
//     pass WHAT    what is sent next carries descriptors: "page" (a validity page, a new one), or
//                  what is none: "two" (pages), "short", "long" (of another size), "unsealed",
//                  "pipe"
//     slot N T     slot N of the newest page says T, in ms of CLOCK_BOOTTIME ($now+N); 0: 0
//     pause N      for N ms (between bytes of one answer, never to wait for a state)
//     close        closes the connection; the next step is on the next one
//     half-close   closes the sending side
//     deaf         reads and says nothing any more, and keeps the connection
//     wait-close   reads until the client closes the connection
//
// A step that cannot be done ends it with an exit code other than 0, which fake_sidecar_stop
// asserts.
#pragma once

#include <sys/types.h>

#include "tests/tool/scratch.h"

#define FAKE_HELLO_OK                                                                              \
    "> {'ok':true,'id':$id,'op':'hello','protocol':1,'server':'fake/1','instance':"                \
    "'0123456789abcdef','caps':['wait','adopt'],'lock_ttl_ms':30000,'heartbeat_ms':10000,"         \
    "'revoke_margin_ms':6000,'deadline_ms':300000,'max_deadline_ms':3600000,'max_line':4096,"      \
    "'max_reply':65536,'now_ms':$now,'redis':'up'}\n"
#define FAKE_HELLO "? {'op':'hello'}\n" FAKE_HELLO_OK
#define FAKE_LEASE "00112233445566778899aabbccddeeff"

struct fake_sidecar {
    pid_t pid;
    char socket[SCRATCH_MAX_PATH];
};

// Returns when it listens.
void fake_sidecar_start(struct fake_sidecar *fake, const char *steps);
// Waits until it has done all its steps, and asserts that it could.
void fake_sidecar_stop(struct fake_sidecar *fake);
