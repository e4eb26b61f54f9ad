// SPDX-License-Identifier: Apache-2.0
//
// Where a RESP2 message ends, and what a request of the sidecar's asks for.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Fed byte by byte; both directions have the same grammar. Zeroed it is ready for a message.
struct resp_scan {
    int64_t bulk; // bytes of a bulk string still to come, its CRLF among them
    int64_t more; // values still to come, but for the first
    size_t length;
    char line[32]; // the beginning of the line in progress
};

// 1 with the last byte of a message, else 0; -1: this is no RESP.
int resp_scan_byte(struct resp_scan *scan, char byte);

enum resp_kind {
    RESP_ANY, // for filters
    RESP_ACQUIRE,
    RESP_RENEW,
    RESP_RELEASE,
    RESP_OTHER, // the handshake, CLIENT KILL
    RESP_KIND_COUNT,
};

// A whole request, which an array of bulk strings is.
enum resp_kind resp_kind_of(const char *request, size_t length);
