// SPDX-License-Identifier: Apache-2.0
//
// The load generators and floors of scripts/bench: one program, a measurement per run, one line of
// JSON on standard output. A client of lock-keeper here does what a careful client in C would, and
// no more, so that what is measured is the sidecar; a floor does the same with hiredis or the kernel
// alone. Anything unexpected ends the program with a word about it: a figure that is printed counts
// only what was granted and freed.
#pragma once

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LOAD_LEASE_DIGITS = 32, LOAD_KEY_MAX = 512, LOAD_HEAD_LENGTH = 54, LOAD_REPLY_MAX = 65536 };

// ---- load.c ----

__attribute__((noreturn, format(printf, 1, 2))) void load_fail(const char *format, ...);
int64_t load_now_ns(void);
void load_sleep_ms(int64_t ms);
long load_number(const char *text); // an argument, or the end of the program

// Durations, ns. Kept up to a bound; the rest is only counted.
struct load_samples {
    uint32_t *ns;
    size_t count;
    size_t capacity;
};
void load_samples_add(struct load_samples *samples, int64_t ns);
// The value below which `share` of the samples lie, in microseconds; sorts them.
double load_samples_us(struct load_samples *samples, double share);

// Prints the one line: pairs a second, and percentiles where there are samples.
void load_report(uint64_t pairs, int64_t ns, struct load_samples *samples);

// Arguments: path, processes, ms. Runs `one` in so many processes, which never returns and adds what
// it has done to the sum that all share; reports the sum's growth in ms, when all have begun.
typedef void load_process(const char *path, long number, uint64_t *sum);
int load_count_processes(int argc, char **argv, load_process *one);

// The number-th key of this process, so that a killed one leaves no other's key behind: `length`
// bytes, without prefix.
void load_key(char *key, size_t length, const char *name, long number);

// ---- load_relay.c: hand-over from process to process ----

// How long each holds before it hands over: long enough for all others to be asleep.
enum { LOAD_HOLD_MS = 2 };

struct load_relay;

// Runs `count` processes of run(relay, number, context) for ms, ends them and reports.
int load_relay_run(long count, int64_t ms,
                   void (*run)(struct load_relay *relay, long number, void *context),
                   void *context);
// Just before the write that hands over; just after the read that says it is ours.
void load_relay_hand_over(struct load_relay *relay);
void load_relay_taken(struct load_relay *relay);

// ---- load_line.c: a client of lock-keeper ----

struct load_line {
    int fd;
    size_t used; // of input
    size_t read; // of those, given out as lines
    char input[LOAD_REPLY_MAX];
};

int load_connect(const char *path); // blocking
struct load_line *load_line_new(const char *path);
void load_send(int fd, const char *bytes, size_t size);
// The next line without its newline, NUL-terminated; borrowed until the next call. Waits.
char *load_line_next(struct load_line *line);
// Writes a request of its own; its reply must be ok.
char *load_line_call(struct load_line *line, const char *request, size_t length);

// Write a request; the length. lease: LOAD_LEASE_DIGITS characters.
size_t load_acquire(char *to, long id, const char *key, long wait_ms, long ttl_ms);
size_t load_release(char *to, long id, const char *lease);
// Where a granted reply's lease begins; ends the program at any other reply.
const char *load_lease_of(const char *line);

// ---- floor.c: Redis without lock-keeper ----

// The heads of values that nobody else writes; "<32 hex> <16 hex> lk1 ".
void floor_head(char head[LOAD_HEAD_LENGTH + 1]);
// The same arguments that the sidecar sends. Returns how many argv has.
int floor_acquire_argv(const char **argv, size_t *sizes, const char *key, const char *head);
int floor_release_argv(const char **argv, size_t *sizes, const char *key, const char *head);
enum { FLOOR_ARGV = 12 };
redisContext *floor_connect(const char *path); // and loads the scripts
void floor_check(const redisReply *reply, const char *what);

// ---- The measurements: argv[1] on, without the name ----

int load_pairs(int argc, char **argv);
int load_processes(int argc, char **argv);
int load_latency(int argc, char **argv);
int load_handover(int argc, char **argv);
int load_handover_between(int argc, char **argv);
int load_hold(int argc, char **argv);
int load_idle(int argc, char **argv);
int load_spawn(int argc, char **argv);
int load_ready(int argc, char **argv);
int load_valid(int argc, char **argv);
int floor_clock(int argc, char **argv);
int floor_pairs(int argc, char **argv);
int floor_processes(int argc, char **argv);
int floor_latency(int argc, char **argv);
int floor_handover(int argc, char **argv);
int floor_handover_between(int argc, char **argv);
int floor_renew(int argc, char **argv);
int floor_memory(int argc, char **argv);
