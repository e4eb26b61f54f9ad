// SPDX-License-Identifier: Apache-2.0
//
// The transcripts of PROTOCOL.md, replayed: the section "How to read the transcripts" there says
// what a line means.
#pragma once

#include <stddef.h>

struct transcript {
    char *text; // the block's lines, owned
    int line;   // the number, in the file, of the first of them
};

// All transcripts of a file; NULL: PROTOCOL.md. *all is to be given to transcript_free_all. 0 where
// the file cannot be read or has none. Needs no running test.
size_t transcript_load_all(const char *path, struct transcript **all);
void transcript_free_all(struct transcript *all, size_t count);

// Replays one with the bench's redis (which runs) and sidecar (which it starts). Fails the test with
// the number of the line.
void transcript_replay(const struct transcript *transcript);
