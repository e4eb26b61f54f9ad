// SPDX-License-Identifier: Apache-2.0
//
// The inside of the fault proxy, which its thread (fault_proxy.c) and its functions
// (fault_control.c) share. proxy->mutex covers all of it.
#pragma once

#include <pthread.h>

#include "protocol/buf.h"
#include "tests/tool/fault_proxy.h"
#include "tests/tool/scratch.h"

enum {
    FAULT_MAX_LINKS = 64,
    FAULT_MAX_RULES = 16,
    FAULT_MAX_RECORDS = 65536,
};

struct fault_chunk {
    struct fault_chunk *next;
    int64_t due_us;
    size_t length, written;
    char bytes[];
};

struct fault_pipe {
    struct resp_scan scan;
    struct buf message; // in progress
    struct fault_chunk *first, **last;
    int64_t not_before_us; // of the whole pipe: stalled, or the next byte of a dribble
    bool ended;            // its source
};

struct fault_link {
    int fd[FAULT_DIRECTIONS]; // where that direction's bytes go; -1: that side is closed
    bool used;
    bool stranded;
    struct fault_pipe pipes[FAULT_DIRECTIONS];
    enum resp_kind *due; // kinds of the requests whose replies are to come
    size_t due_count, due_room;
};

struct fault_mode {
    bool hold, drop;
    int64_t delay_us, dribble_us;
};

struct fault_record {
    int64_t at_ms;
    enum resp_kind kind;
    char *text; // NUL-terminated; NULs inside became blanks
};

struct fault_proxy {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t fired_changed;
    bool ending, refusing;
    int listener, wake;
    int port;
    char redis_socket[SCRATCH_MAX_PATH];
    char url[SCRATCH_MAX_PATH + 16];
    struct fault_mode modes[FAULT_DIRECTIONS];
    struct fault_link links[FAULT_MAX_LINKS];
    struct fault_rule rules[FAULT_MAX_RULES];
    int rule_count, fired;
    struct fault_record *records;
    size_t record_count;
    int connections, late_written, late_lost;
    char input[65536];
};

void fault_proxy_add_chunk(struct fault_pipe *pipe, const char *bytes, size_t length,
                           int64_t due_us);
void fault_proxy_close_link(struct fault_proxy *proxy, struct fault_link *link);
void *fault_proxy_run(void *context); // the thread
