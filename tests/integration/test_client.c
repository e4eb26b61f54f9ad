// SPDX-License-Identifier: Apache-2.0
//
// liblockkeeper against the real sidecar on a real Redis: what its calls do, and what its events
// say, while the sidecar is there. (What happens when it is not: test_client_loss.c.)

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lock_keeper.h"
#include "tests/tool/bench.h"
#include "tests/tool/library_client.h"

enum { MANY = 500, WAIT_MS = 5000 };

static struct lock_keeper *keeper;

static void begin(const char *ttl)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", ttl, NULL);
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_ptr_nonnull(keeper);
}

static void teardown(void)
{
    keeper = lock_keeper_free(keeper);
    bench_teardown();
}

// The sidecar is ready before it has reached Redis.
static bool is_redis_up(void)
{
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    return lock_keeper_get_reply(keeper)->redis_up;
}

START_TEST(acquire_and_release)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_reply *reply;
    char *value;

    begin("2s");
    lease = library_acquired(keeper, "k");
    ck_assert(lock_keeper_is_connected(keeper));
    ck_assert(lock_keeper_valid(lease));
    ck_assert(lock_keeper_lease_is_held(lease));
    ck_assert_str_eq(lock_keeper_lease_key(lease), "k");
    ck_assert_uint_eq(strlen(lock_keeper_lease_token(lease)), 32);
    ck_assert_int_gt(lock_keeper_lease_fence(lease), 0);
    ck_assert_int_eq(lock_keeper_lease_ttl_ms(lease), 2000);
    ck_assert_int_eq(lock_keeper_lease_deadline_ms(lease), 300000);
    ck_assert_int_gt(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms());
    ck_assert_int_le(lock_keeper_lease_valid_until_ms(lease), lock_keeper_now_ms() + 2000);
    reply = lock_keeper_get_reply(keeper);
    ck_assert_str_eq(reply->op, "acquire");
    ck_assert_ptr_eq(reply->lease, lease);
    ck_assert_ptr_nonnull(strstr(reply->line, lock_keeper_lease_token(lease)));
    value = strdup(private_redis_string(&redis, "GET lock:k"));
    ck_assert_int_eq(strncmp(value, lock_keeper_lease_token(lease), 32), 0);
    free(value);

    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
    ck_assert(!bench_exists("k"));
    ck_assert(!lock_keeper_valid(lease));
    ck_assert(!lock_keeper_lease_is_held(lease));
    ck_assert_int_eq(lock_keeper_lease_valid_until_ms(lease), 0);
    ck_assert_int_ge(lock_keeper_get_reply(keeper)->held_ms, 0);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_UNKNOWN_LEASE);
    ck_assert_ptr_null(lock_keeper_lease_free(lease));
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, LOCK_KEEPER_E_UNKNOWN_LEASE);
}
END_TEST

START_TEST(hello_says_what_the_sidecar_is)
{
    const struct lock_keeper_hello *hello;

    begin("2s");
    ck_assert_ptr_null(lock_keeper_get_hello(keeper));
    ck_assert(!lock_keeper_has_cap(keeper, "adopt"));
    SCRATCH_UNTIL(WAIT_MS, is_redis_up());
    keeper = lock_keeper_free(keeper);
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(lock_keeper_connect(keeper), 0);
    ck_assert_int_eq(lock_keeper_connect(keeper), 0);
    hello = lock_keeper_get_hello(keeper);
    ck_assert_int_eq(hello->protocol, 1);
    ck_assert_int_eq(strncmp(hello->server, "lock-keeper/", 12), 0);
    ck_assert_uint_eq(strlen(hello->instance), 16);
    ck_assert_int_eq(hello->lock_ttl_ms, 2000);
    ck_assert(hello->redis_up);
    ck_assert(lock_keeper_has_cap(keeper, "adopt"));
    ck_assert(!lock_keeper_has_cap(keeper, "telepathy"));
    ck_assert_int_ge(lock_keeper_get_socket(keeper), 0);
}
END_TEST

START_TEST(a_held_key_says_who_holds_it)
{
    struct lock_keeper *other;
    struct lock_keeper_lease *mine, *lease = (void *)&mine;
    const struct lock_keeper_reply *reply;

    begin("2s");
    other = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(
        lock_keeper_acquire(
            keeper, &(struct lock_keeper_acquire){.key = "k", .label = "caf\xc3\xa9 \"x\""}, &mine),
        0);
    ck_assert_int_eq(lock_keeper_acquire(other, &(struct lock_keeper_acquire){.key = "k"}, &lease),
                     LOCK_KEEPER_E_LOCK_HELD);
    ck_assert_ptr_null(lease);
    reply = lock_keeper_get_reply(other);
    ck_assert_int_eq(reply->code, LOCK_KEEPER_E_LOCK_HELD);
    ck_assert_str_eq(reply->name, "errLockHeld");
    ck_assert_str_eq(reply->key, "k");
    ck_assert_str_ne(reply->message, "");
    ck_assert_str_eq(reply->holder->label, "caf\xc3\xa9 \"x\"");
    ck_assert_int_eq(reply->holder->pid, getpid());
    ck_assert_int_eq(reply->holder->uid, getuid());
    ck_assert_int_eq(reply->holder->fence, lock_keeper_lease_fence(mine));
    ck_assert(!reply->holder->foreign);
    ck_assert_int_gt(reply->retry_after_ms, 0);
    ck_assert_int_le(reply->retry_after_ms, 2000);
    lock_keeper_free(other);
}
END_TEST

START_TEST(a_foreign_key)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_reply *reply;

    begin("2s");
    private_redis_run(&redis, "SET lock:k 3f2a-owner");
    private_redis_run(&redis, "HSET lock:h a b");
    ck_assert_int_eq(lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k"}, &lease),
                     LOCK_KEEPER_E_LOCK_HELD);
    reply = lock_keeper_get_reply(keeper);
    ck_assert(reply->holder->foreign);
    ck_assert_int_eq(reply->holder->bytes, 10);
    ck_assert_int_eq(reply->retry_after_ms, -1);
    ck_assert_int_eq(lock_keeper_inspect(keeper, "h"), 0);
    reply = lock_keeper_get_reply(keeper);
    ck_assert_str_eq(reply->holder->type, "hash");
    ck_assert(reply->held);
}
END_TEST

// ---- Waiting ----

START_TEST(a_waiting_acquire_gets_the_key_when_it_is_free)
{
    struct lock_keeper *other;
    struct lock_keeper_lease *first;
    const struct lock_keeper_event *event;
    uint64_t request = 0;
    int64_t fence;

    begin("5s");
    other = lock_keeper_new(sidecar.socket);
    first = library_acquired(keeper, "k");
    fence = lock_keeper_lease_fence(first);
    ck_assert_int_eq(lock_keeper_start_acquire(
                         other, &(struct lock_keeper_acquire){.key = "k", .wait_ms = -1}, &request),
                     0);
    library_event(other, LOCK_KEEPER_EVENT_CONNECTED);
    ck_assert_int_eq(lock_keeper_wait(other, 50), 0);
    ck_assert_int_eq(lock_keeper_release(keeper, first), 0);
    event = library_event(other, LOCK_KEEPER_EVENT_REPLY);
    ck_assert_uint_eq(event->request, request);
    ck_assert_int_eq(event->reply->code, 0);
    ck_assert_ptr_nonnull(event->lease);
    ck_assert_int_gt(lock_keeper_lease_fence(event->lease), fence);
    ck_assert_int_ge(event->reply->waited_ms, 0);
    lock_keeper_free(other);
}
END_TEST

START_TEST(a_wait_ends)
{
    struct lock_keeper *other;
    struct lock_keeper_lease *lease;
    int64_t began;

    begin("5s");
    other = lock_keeper_new(sidecar.socket);
    library_acquired(keeper, "k");
    began = lock_keeper_now_ms();
    ck_assert_int_eq(lock_keeper_acquire(
                         other, &(struct lock_keeper_acquire){.key = "k", .wait_ms = 300}, &lease),
                     LOCK_KEEPER_E_LOCK_HELD);
    ck_assert_int_ge(lock_keeper_now_ms() - began, 300 - BENCH_NOISE_MS);
    ck_assert_int_lt(lock_keeper_now_ms() - began, 300 + 10 * BENCH_NOISE_MS);
    ck_assert_int_ge(lock_keeper_get_reply(other)->waited_ms, 300 - BENCH_NOISE_MS);
    lock_keeper_free(other);
}
END_TEST

START_TEST(a_wait_is_cancelled)
{
    const struct lock_keeper_event *event;
    uint64_t request, unsent;

    begin("5s");
    library_acquired(keeper, "k");
    ck_assert_int_eq(
        lock_keeper_start_acquire(
            keeper, &(struct lock_keeper_acquire){.key = "k", .wait_ms = 60000}, &request),
        0);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0); // it is there
    ck_assert_int_eq(lock_keeper_cancel(keeper, request), 0);
    event = library_event(keeper, LOCK_KEEPER_EVENT_REPLY);
    ck_assert_uint_eq(event->request, request);
    ck_assert_int_eq(event->reply->code, LOCK_KEEPER_E_CANCELLED);
    ck_assert_ptr_null(event->lease);
    ck_assert_int_eq(lock_keeper_cancel(keeper, request), -ENOENT);
    ck_assert_int_eq(lock_keeper_cancel(keeper, 4711), -ENOENT);

    // Before it was ever sent.
    keeper = lock_keeper_free(keeper);
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(lock_keeper_start_acquire(
                         keeper, &(struct lock_keeper_acquire){.key = "k", .wait_ms = -1}, &unsent),
                     0);
    ck_assert_int_eq(lock_keeper_cancel(keeper, unsent), 0);
    event = library_event(keeper, LOCK_KEEPER_EVENT_REPLY);
    ck_assert_int_eq(event->reply->code, LOCK_KEEPER_E_CANCELLED);
}
END_TEST

// ---- Events ----

START_TEST(heartbeats_move_the_validity)
{
    struct lock_keeper_lease *lease;
    int64_t until, began = lock_keeper_now_ms();

    begin("600ms");
    lease = library_acquired(keeper, "k");
    until = lock_keeper_lease_valid_until_ms(lease);
    while (lock_keeper_now_ms() - began < 1500) {
        const struct lock_keeper_event *event = library_event(keeper, LOCK_KEEPER_EVENT_RENEWED);

        ck_assert_ptr_eq(event->lease, lease);
        ck_assert_int_gt(event->valid_until_ms, until);
        ck_assert_int_le(event->valid_until_ms, lock_keeper_lease_valid_until_ms(lease));
        ck_assert(lock_keeper_valid(lease));
        until = event->valid_until_ms;
    }
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
}
END_TEST

// What came in meanwhile speaks for the lease, although its time was over by what was read before.
START_TEST(a_program_that_was_busy)
{
    struct lock_keeper_lease *lease;

    begin("600ms");
    lease = library_acquired(keeper, "k");
    scratch_pause_ms(1000);
    ck_assert_int_ge(library_event(keeper, LOCK_KEEPER_EVENT_RENEWED)->valid_until_ms,
                     lock_keeper_now_ms());
    ck_assert(lock_keeper_valid(lease));
    ck_assert_ptr_null(lock_keeper_next_event(keeper));
    scratch_pause_ms(1000);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
}
END_TEST

START_TEST(the_workflow_deadline)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;

    begin("2s");
    ck_assert_int_eq(
        lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k", .deadline_ms = 300},
                            &lease),
        0);
    ck_assert_int_eq(lock_keeper_lease_deadline_ms(lease), 300);
    event = library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_ptr_eq(event->lease, lease);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_DEADLINE);
    ck_assert_str_eq(event->reason_name, "deadline");
    ck_assert_str_ne(event->message, "");
    ck_assert_int_gt(event->safe_ms, 0);
    ck_assert_int_le(event->safe_ms, 2000);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_lease_reason(lease), LOCK_KEEPER_REASON_DEADLINE);
    ck_assert(bench_exists("k"));
    ck_assert_ptr_null(lock_keeper_next_event(keeper));
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errLostActorLock");

    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert(lock_keeper_get_reply(keeper)->freed);
    ck_assert(!bench_exists("k"));
    ck_assert_int_eq(lock_keeper_lease_reason(lease), LOCK_KEEPER_REASON_DEADLINE);

    // To forget one that was lost frees its key as well.
    ck_assert_int_eq(
        lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "l", .deadline_ms = 100},
                            &lease),
        0);
    library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert(bench_exists("l"));
    lock_keeper_lease_free(lease);
    bench_await_gone("l", 1000);
}
END_TEST

START_TEST(an_extended_deadline)
{
    struct lock_keeper_lease *lease;

    begin("2s");
    ck_assert_int_eq(
        lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k", .deadline_ms = 400},
                            &lease),
        0);
    ck_assert_int_eq(lock_keeper_extend(keeper, lease, 60000), 0);
    ck_assert_int_eq(lock_keeper_lease_deadline_ms(lease), 60000);
    ck_assert_int_gt(lock_keeper_get_reply(keeper)->deadline_in_ms, 50000);
    ck_assert_int_eq(lock_keeper_extend_token(keeper, lock_keeper_lease_token(lease), 70000), 0);
    for (int i = 0; i < 2; i++) // past what the deadline was
        library_event(keeper, LOCK_KEEPER_EVENT_RENEWED);
    ck_assert(lock_keeper_lease_is_held(lease));
    ck_assert_int_eq(lock_keeper_extend(keeper, lease, 1), LOCK_KEEPER_E_BAD_REQUEST);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
    ck_assert_int_eq(lock_keeper_extend(keeper, lease, 60000), LOCK_KEEPER_E_UNKNOWN_LEASE);
}
END_TEST

START_TEST(a_lost_key)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;

    begin("1s");
    lease = library_acquired(keeper, "k");
    private_redis_run(&redis, "DEL lock:k");
    event = library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_ptr_eq(event->lease, lease);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_LOST);
    ck_assert_int_eq(event->safe_ms, 0);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert(!lock_keeper_get_reply(keeper)->freed);
}
END_TEST

START_TEST(redis_stands_still)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;
    int64_t until;

    begin("1s");
    lease = library_acquired(keeper, "k");
    private_redis_stop(&redis);
    event = library_event(keeper, LOCK_KEEPER_EVENT_AT_RISK);
    ck_assert_ptr_eq(event->lease, lease);
    ck_assert_int_gt(event->safe_ms, 0);
    ck_assert(lock_keeper_valid(lease));
    until = lock_keeper_lease_valid_until_ms(lease);
    event = library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_UNREACHABLE);
    ck_assert_int_gt(event->safe_ms, 0);
    ck_assert_int_lt(lock_keeper_now_ms(), until);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert(!lock_keeper_get_reply(keeper)->redis_up);
    ck_assert_str_ne(lock_keeper_get_reply(keeper)->redis_error, "");
    private_redis_continue(&redis);
}
END_TEST

START_TEST(a_draining_sidecar)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;

    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "2s", "--drain-timeout", "300ms",
                          NULL);
    keeper = lock_keeper_new(sidecar.socket);
    lease = library_acquired(keeper, "k");
    sidecar_process_stop(&sidecar, SIGTERM);
    event = library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_SHUTDOWN);
    ck_assert_int_gt(event->safe_ms, 0);
    ck_assert_int_eq(lock_keeper_release(keeper, lease), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert_int_eq(sidecar_process_wait(&sidecar, 5000), 0);
}
END_TEST

// ---- Bindings ----

START_TEST(what_is_bound_to_the_connection_ends_with_the_handle)
{
    struct lock_keeper_lease *lease;

    begin("30s");
    lease = library_acquired(keeper, "k");
    library_acquired(keeper, "l");
    lock_keeper_lease_free(lease);
    bench_await_gone("k", 2000);
    ck_assert(bench_exists("l"));
    keeper = lock_keeper_free(keeper);
    bench_await_gone("l", 2000);
}
END_TEST

START_TEST(a_detached_lease_is_adopted_and_released)
{
    struct lock_keeper_lease *lease, *again;
    char token[33];
    int64_t fence;

    begin("600ms");
    ck_assert_int_eq(lock_keeper_acquire(
                         keeper,
                         &(struct lock_keeper_acquire){.key = "k", .bind = LOCK_KEEPER_BIND_NONE},
                         &lease),
                     0);
    strcpy(token, lock_keeper_lease_token(lease));
    fence = lock_keeper_lease_fence(lease);
    keeper = lock_keeper_free(keeper);
    scratch_pause_ms(700); // a TTL: it is the sidecar that keeps it
    ck_assert(bench_exists("k"));

    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(
        lock_keeper_adopt(keeper, &(struct lock_keeper_adopt){.key = "k", .token = token}, &lease),
        0);
    ck_assert_int_eq(lock_keeper_lease_fence(lease), fence);
    ck_assert(lock_keeper_valid(lease));
    library_event(keeper, LOCK_KEEPER_EVENT_RENEWED);
    ck_assert_int_eq(
        lock_keeper_adopt(keeper, &(struct lock_keeper_adopt){.key = "k", .token = token}, &again),
        0);
    ck_assert_ptr_eq(again, lease);
    ck_assert_int_eq(lock_keeper_release_token(keeper, token), 0);
    ck_assert_int_eq(lock_keeper_release_token(keeper, token), LOCK_KEEPER_E_UNKNOWN_LEASE);
    ck_assert(!bench_exists("k"));
    ck_assert_int_eq(
        lock_keeper_adopt(keeper, &(struct lock_keeper_adopt){.key = "k", .token = token}, &again),
        LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert_ptr_null(again);
}
END_TEST

START_TEST(a_lease_that_moved)
{
    struct lock_keeper *other;
    struct lock_keeper_lease *lease, *moved;

    begin("2s");
    other = lock_keeper_new(sidecar.socket);
    lease = library_acquired(keeper, "k");
    ck_assert_int_eq(
        lock_keeper_adopt(
            other, &(struct lock_keeper_adopt){.key = "k", .token = lock_keeper_lease_token(lease)},
            &moved),
        0);
    ck_assert_int_eq(library_event(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_MOVED);
    ck_assert(!lock_keeper_valid(lease));
    ck_assert(lock_keeper_valid(moved));
    ck_assert_int_eq(lock_keeper_release_token(keeper, lock_keeper_lease_token(moved)), 0);
    ck_assert_int_eq(library_event(other, LOCK_KEEPER_EVENT_REVOKED)->reason,
                     LOCK_KEEPER_REASON_RELEASED);
    lock_keeper_free(other);
}
END_TEST

static struct lock_keeper_lease *adopted(struct lock_keeper *by, const char *key, const char *token)
{
    struct lock_keeper_lease *lease = NULL;

    ck_assert_int_eq(
        lock_keeper_adopt(by, &(struct lock_keeper_adopt){.key = key, .token = token}, &lease), 0);
    return lease;
}

// Everything the old holder may say when it has noticed, or has not noticed yet, that its lease has
// another one. The adopter goes on as if nothing had been said.
START_TEST(an_adopter_keeps_what_the_old_holder_lets_go)
{
    bool is_told = _i & 1, is_freed = _i & 2, is_again = _i & 4;
    struct pollfd moved = {.events = POLLIN};
    struct lock_keeper *other;
    struct lock_keeper_lease *old, *held;
    char token[33];

    begin("30s");
    other = lock_keeper_new(sidecar.socket);
    old = library_acquired(keeper, "k");
    strcpy(token, lock_keeper_lease_token(old));
    held = adopted(other, "k", token);
    moved.fd = lock_keeper_get_socket(keeper); // nothing else comes there so soon
    ck_assert_int_eq(poll(&moved, 1, WAIT_MS), 1);
    if (is_told)
        ck_assert_int_eq(library_event(keeper, LOCK_KEEPER_EVENT_REVOKED)->reason,
                         LOCK_KEEPER_REASON_MOVED);
    if (is_again) // and back, as another object
        held = adopted(keeper, "k", token);
    if (is_freed)
        ck_assert_ptr_null(lock_keeper_lease_free(old));
    else
        ck_assert_int_eq(lock_keeper_release(keeper, old), LOCK_KEEPER_E_LOST_ACTOR_LOCK);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0); // behind whatever was sent
    ck_assert_int_eq(lock_keeper_ping(other), 0);
    ck_assert(lock_keeper_valid(held) && lock_keeper_lease_is_held(held));
    ck_assert(bench_exists("k"));
    ck_assert_int_eq(lock_keeper_release(is_again ? keeper : other, held), 0);
    ck_assert(!bench_exists("k"));
    lock_keeper_free(other);
}
END_TEST

START_TEST(a_lease_that_is_bound_to_a_process)
{
    struct lock_keeper_lease *lease;
    const struct lock_keeper_event *event;
    pid_t pid;

    begin("30s");
    pid = scratch_fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    ck_assert_int_eq(lock_keeper_acquire(keeper,
                                         &(struct lock_keeper_acquire){
                                             .key = "k", .bind = LOCK_KEEPER_BIND_PID, .pid = pid},
                                         &lease),
                     0);
    keeper = lock_keeper_free(keeper);
    keeper = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(lock_keeper_inspect(keeper, "k"), 0);
    ck_assert(lock_keeper_get_reply(keeper)->held);
    ck_assert(lock_keeper_get_reply(keeper)->here);
    ck_assert_int_gt(lock_keeper_get_reply(keeper)->ttl_left_ms, 0);
    scratch_kill(pid);
    bench_await_gone("k", 2000);
    ck_assert_int_eq(lock_keeper_inspect(keeper, "k"), 0);
    ck_assert(!lock_keeper_get_reply(keeper)->held);
    event = lock_keeper_next_event(keeper);
    ck_assert_int_eq(event->kind, LOCK_KEEPER_EVENT_CONNECTED);
    ck_assert(!event->again);
}
END_TEST

// ---- Other calls ----

START_TEST(list_in_pages)
{
    const struct lock_keeper_reply *reply;
    char next[64] = "", key[32];
    size_t rows = 0;

    begin("30s");
    for (int i = 0; i < 7; i++) {
        snprintf(key, sizeof key, "k%d", i);
        library_acquired(keeper, key);
    }
    do {
        ck_assert_int_eq(lock_keeper_list(keeper, 3, *next ? next : NULL), 0);
        reply = lock_keeper_get_reply(keeper);
        ck_assert_uint_le(reply->row_count, 3);
        for (size_t i = 0; i < reply->row_count; i++) {
            ck_assert_str_eq(reply->rows[i].state, "held");
            ck_assert_int_eq(reply->rows[i].holder.pid, getpid());
            ck_assert_int_gt(reply->rows[i].fence, 0);
            ck_assert_int_ge(reply->rows[i].held_ms, 0);
            ck_assert_int_eq(reply->rows[i].waited_ms, -1);
        }
        rows += reply->row_count;
        snprintf(next, sizeof next, "%s", reply->next ? reply->next : "");
    } while (*next);
    ck_assert_uint_eq(rows, 7);
    ck_assert_int_eq(lock_keeper_list(keeper, 501, NULL), LOCK_KEEPER_E_BAD_REQUEST);
}
END_TEST

START_TEST(break_takes_the_key)
{
    struct lock_keeper *other;
    const struct lock_keeper_event *event;

    begin("5s");
    other = lock_keeper_new(sidecar.socket);
    library_acquired(keeper, "k");
    ck_assert_int_eq(lock_keeper_break(other, "k", 0), 0);
    ck_assert(lock_keeper_get_reply(other)->broken);
    event = library_event(keeper, LOCK_KEEPER_EVENT_REVOKED);
    ck_assert_int_eq(event->reason, LOCK_KEEPER_REASON_BROKEN);
    ck_assert_int_eq(lock_keeper_break(other, "k", 0), 0);
    ck_assert(!lock_keeper_get_reply(other)->broken);
    lock_keeper_free(other);
}
END_TEST

START_TEST(a_raw_call)
{
    const struct lock_keeper_reply *reply;

    begin("5s");
    SCRATCH_UNTIL(WAIT_MS, is_redis_up());
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\"ping\"}"), 0);
    ck_assert_str_eq(lock_keeper_get_reply(keeper)->line,
                     "{\"ok\":true,\"op\":\"ping\",\"redis\":\"up\"}");
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\"ping\",\"id\":7}"), 0);
    ck_assert_str_eq(lock_keeper_get_reply(keeper)->line,
                     "{\"ok\":true,\"id\":7,\"op\":\"ping\",\"redis\":\"up\"}");
    ck_assert_int_eq(lock_keeper_call(keeper, "nonsense"), LOCK_KEEPER_E_BAD_REQUEST);
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\"dance\",\"id\":\"x\"}"),
                     LOCK_KEEPER_E_UNKNOWN_OP);
    reply = lock_keeper_get_reply(keeper);
    ck_assert_str_eq(reply->name, "errUnknownOp");
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\n\"ping\"}"), -EINVAL);
    ck_assert_int_eq(lock_keeper_call(keeper, ""), -EINVAL);
    ck_assert_int_eq(lock_keeper_call(keeper, "{\"op\":\"acquire\",\"key\":\"k\"}"), 0);
    ck_assert(bench_exists("k"));
    keeper = lock_keeper_free(keeper);
    bench_await_gone("k", 2000);
}
END_TEST

// ---- Errors ----

START_TEST(the_first_error_stays)
{
    struct lock_keeper_lease *lease;

    begin("5s");
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "");
    ck_assert_str_eq(lock_keeper_get_error(keeper)->message, "");
    ck_assert_int_eq(
        lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k", .ttl_ms = 1}, &lease),
        LOCK_KEEPER_E_BAD_REQUEST);
    ck_assert_int_eq(lock_keeper_release_token(keeper, "00000000000000000000000000000000"),
                     LOCK_KEEPER_E_UNKNOWN_LEASE);
    ck_assert_int_eq(lock_keeper_ping(keeper), 0);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, LOCK_KEEPER_E_BAD_REQUEST);
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errBadRequest");
    ck_assert_ptr_nonnull(strstr(lock_keeper_get_error(keeper)->message, "ttl_ms"));
    lock_keeper_clear_error(keeper);
    ck_assert_int_eq(lock_keeper_get_error(keeper)->code, 0);
    ck_assert_int_eq(lock_keeper_release_token(keeper, "zz"), -EINVAL);
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errUsage");
}
END_TEST

START_TEST(arguments_that_cannot_be_right)
{
    static const struct lock_keeper_acquire wrong[] = {
        {.key = NULL},
        {.key = ""},
        {.key = "\xff"},
        {.key = "k", .label = "a\xc3"},
        {.key = "k", .ttl_ms = -1},
        {.key = "k", .wait_ms = -2},
        {.key = "k", .deadline_ms = INT64_MAX},
        {.key = "k", .pid = 1},
        {.key = "k", .bind = LOCK_KEEPER_BIND_PID, .pid = -1},
        {.key = "k", .bind = (enum lock_keeper_bind)3},
        {.key = "k", .on_disconnect = (enum lock_keeper_disconnect)2},
        {.key = "k", .reserved = {0, 0, 0, 1}},
    };
    struct lock_keeper_lease *lease;
    char long_key[514];

    keeper = lock_keeper_new(scratch_path("nobody.sock"));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        lock_keeper_clear_error(keeper);
        ck_assert_int_eq(lock_keeper_acquire(keeper, &wrong[i], &lease), -EINVAL);
        ck_assert_ptr_null(lease);
        ck_assert_int_eq(lock_keeper_get_reply(keeper)->code, -EINVAL);
        ck_assert_int_eq(lock_keeper_get_error(keeper)->code, -EINVAL);
        ck_assert_int_eq(lock_keeper_start_acquire(keeper, &wrong[i], NULL), -EINVAL);
    }
    memset(long_key, 'k', sizeof long_key - 1);
    long_key[sizeof long_key - 1] = '\0';
    ck_assert_int_eq(lock_keeper_inspect(keeper, long_key), -EINVAL);
    ck_assert_int_eq(lock_keeper_list(keeper, 0, long_key), -EINVAL);
    ck_assert_int_eq(lock_keeper_list(keeper, -1, NULL), -EINVAL);
}
END_TEST

START_TEST(no_sidecar)
{
    struct lock_keeper_lease *lease;
    char path[200];

    keeper = lock_keeper_new(scratch_path("nobody.sock"));
    ck_assert_int_eq(lock_keeper_connect(keeper), -ENOENT);
    ck_assert_int_eq(lock_keeper_acquire(keeper, &(struct lock_keeper_acquire){.key = "k"}, &lease),
                     -ENOENT);
    ck_assert_str_eq(lock_keeper_get_error(keeper)->name, "errNoSidecar");
    ck_assert_ptr_nonnull(strstr(lock_keeper_get_error(keeper)->message, "nobody.sock"));
    ck_assert_ptr_null(lock_keeper_get_reply(keeper)->line);
    keeper = lock_keeper_free(keeper);

    scratch_write(scratch_path("file"), "");
    keeper = lock_keeper_new(scratch_path("file"));
    ck_assert_int_eq(lock_keeper_ping(keeper), -ECONNREFUSED);
    keeper = lock_keeper_free(keeper);

    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    ck_assert_ptr_null(lock_keeper_new(path));
    ck_assert_int_eq(errno, ENAMETOOLONG);

    // Where none is named.
    setenv("LOCK_KEEPER_SOCKET", scratch_path("other.sock"), 1);
    keeper = lock_keeper_new(NULL);
    ck_assert_int_eq(lock_keeper_connect(keeper), -ENOENT);
    ck_assert_ptr_nonnull(strstr(lock_keeper_get_error(keeper)->message, "other.sock"));
    ck_assert_ptr_null(lock_keeper_free(NULL));
}
END_TEST

START_TEST(too_many_connections)
{
    struct lock_keeper *other;

    sidecar_process_start(&sidecar, redis.url, "--max-connections-per-uid", "1", NULL);
    keeper = lock_keeper_new(sidecar.socket);
    other = lock_keeper_new(sidecar.socket);
    ck_assert_int_eq(lock_keeper_connect(keeper), 0);
    ck_assert_int_eq(lock_keeper_connect(other), LOCK_KEEPER_E_LIMIT_EXCEEDED);
    ck_assert_str_eq(lock_keeper_get_error(other)->name, "errLimitExceeded");
    keeper = lock_keeper_free(keeper);
    SCRATCH_UNTIL(WAIT_MS, lock_keeper_connect(other) == 0);
    lock_keeper_free(other);
}
END_TEST

// ---- In an event loop ----

struct heard {
    int replies;
    int revoked;
    int connected;
    int result; // of a call that must not be made
    struct lock_keeper_lease *lease;
};

static void hear(struct lock_keeper *from, const struct lock_keeper_event *event, void *user)
{
    struct heard *heard = user;

    ck_assert_ptr_eq(from, keeper);
    switch (event->kind) {
    case LOCK_KEEPER_EVENT_CONNECTED:
        heard->connected++;
        heard->result = lock_keeper_ping(from);
        ck_assert_ptr_null(lock_keeper_next_event(from));
        break;
    case LOCK_KEEPER_EVENT_REPLY:
        heard->replies++;
        heard->lease = event->lease;
        break;
    case LOCK_KEEPER_EVENT_REVOKED:
        heard->revoked++;
        lock_keeper_start_release(from, event->lease, NULL);
        break;
    default:
        break;
    }
}

// One turn of a loop that knows the descriptor only.
static void turn(int fd)
{
    struct pollfd ready = {.fd = fd, .events = lock_keeper_get_events(keeper)};

    ck_assert_int_eq(poll(&ready, 1, WAIT_MS), 1);
    ck_assert_int_eq(lock_keeper_process(keeper), 0);
}

START_TEST(a_loop_with_poll)
{
    struct heard heard = {0};
    int fd;

    begin("600ms");
    fd = lock_keeper_get_fd(keeper);
    lock_keeper_set_handler(keeper, hear, &heard);
    ck_assert_int_eq(lock_keeper_get_timeout(keeper), -1);
    ck_assert_int_eq(
        lock_keeper_start_acquire(
            keeper, &(struct lock_keeper_acquire){.key = "k", .deadline_ms = 700}, NULL),
        0);
    ck_assert_int_ge(lock_keeper_get_timeout(keeper), 0);
    while (heard.replies < 1)
        turn(fd);
    ck_assert_int_eq(heard.connected, 1);
    ck_assert_int_eq(heard.result, -EDEADLK);
    ck_assert(lock_keeper_lease_is_held(heard.lease));
    while (heard.replies < 2)
        turn(fd);
    ck_assert_int_eq(heard.revoked, 1);
    ck_assert(!bench_exists("k"));
    ck_assert_int_eq(lock_keeper_get_fd(keeper), fd);
}
END_TEST

// What is known without asking is told from the loop too, not from within the call.
START_TEST(an_answer_of_the_librarys_own)
{
    struct heard heard = {0};
    struct lock_keeper_lease *lease;

    begin("5s");
    lease = library_acquired(keeper, "k");
    ck_assert_int_eq(lock_keeper_release(keeper, lease), 0);
    lock_keeper_set_handler(keeper, hear, &heard);
    turn(lock_keeper_get_fd(keeper)); // connected
    ck_assert_int_eq(heard.connected, 1);
    ck_assert_int_eq(lock_keeper_start_release(keeper, lease, NULL), 0);
    ck_assert_int_eq(heard.replies, 0);
    turn(lock_keeper_get_fd(keeper));
    ck_assert_int_eq(heard.replies, 1);
}
END_TEST

struct replies {
    int count;
    struct lock_keeper_lease *leases[MANY]; // of the first ones
};

static void count(struct lock_keeper *from, const struct lock_keeper_event *event, void *user)
{
    struct replies *replies = user;

    (void)from;
    if (event->kind != LOCK_KEEPER_EVENT_REPLY)
        return;
    ck_assert_msg(event->reply->code == 0, "%s", event->reply->message);
    if (replies->count < MANY)
        replies->leases[replies->count] = event->lease;
    replies->count++;
}

START_TEST(many_leases)
{
    static struct replies replies;
    int before;
    char key[32];

    begin("2s");
    ck_assert_int_eq(bench_count("*"), 0); // opens the test's own connection
    keeper = lock_keeper_free(keeper);
    before = scratch_descriptors(0);
    keeper = lock_keeper_new(sidecar.socket);
    lock_keeper_set_handler(keeper, count, &replies);
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "k%d", i);
        ck_assert_int_eq(
            lock_keeper_start_acquire(keeper, &(struct lock_keeper_acquire){.key = key}, NULL), 0);
    }
    while (replies.count < MANY)
        ck_assert_int_eq(lock_keeper_wait(keeper, WAIT_MS), 1);
    ck_assert_int_eq(bench_count("lock:k*"), MANY);
    lock_keeper_set_handler(keeper, NULL, NULL);
    for (int i = 0; i < MANY; i++)
        library_event(keeper, LOCK_KEEPER_EVENT_RENEWED);
    lock_keeper_set_handler(keeper, count, &replies);
    for (int i = 0; i < MANY; i += 2)
        lock_keeper_lease_free(replies.leases[i]);
    for (int i = 1; i < MANY; i += 2)
        ck_assert_int_eq(lock_keeper_start_release(keeper, replies.leases[i], NULL), 0);
    while (replies.count < MANY + MANY / 2)
        ck_assert_int_eq(lock_keeper_wait(keeper, WAIT_MS), 1);
    SCRATCH_UNTIL(WAIT_MS, bench_count("lock:k*") == 0);
    keeper = lock_keeper_free(keeper);
    ck_assert_int_eq(scratch_descriptors(0), before);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("client");
    TCase *tests = tcase_create("calls");

    tcase_add_checked_fixture(tests, bench_setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, acquire_and_release);
    tcase_add_test(tests, hello_says_what_the_sidecar_is);
    tcase_add_test(tests, a_held_key_says_who_holds_it);
    tcase_add_test(tests, a_foreign_key);
    tcase_add_test(tests, a_waiting_acquire_gets_the_key_when_it_is_free);
    tcase_add_test(tests, a_wait_ends);
    tcase_add_test(tests, a_wait_is_cancelled);
    tcase_add_test(tests, heartbeats_move_the_validity);
    tcase_add_test(tests, a_program_that_was_busy);
    tcase_add_test(tests, the_workflow_deadline);
    tcase_add_test(tests, an_extended_deadline);
    tcase_add_test(tests, a_lost_key);
    tcase_add_test(tests, redis_stands_still);
    tcase_add_test(tests, a_draining_sidecar);
    tcase_add_test(tests, what_is_bound_to_the_connection_ends_with_the_handle);
    tcase_add_test(tests, a_detached_lease_is_adopted_and_released);
    tcase_add_test(tests, a_lease_that_moved);
    tcase_add_loop_test(tests, an_adopter_keeps_what_the_old_holder_lets_go, 0, 8);
    tcase_add_test(tests, a_lease_that_is_bound_to_a_process);
    tcase_add_test(tests, list_in_pages);
    tcase_add_test(tests, break_takes_the_key);
    tcase_add_test(tests, a_raw_call);
    tcase_add_test(tests, the_first_error_stays);
    tcase_add_test(tests, arguments_that_cannot_be_right);
    tcase_add_test(tests, no_sidecar);
    tcase_add_test(tests, too_many_connections);
    tcase_add_test(tests, a_loop_with_poll);
    tcase_add_test(tests, an_answer_of_the_librarys_own);
    tcase_add_test(tests, many_leases);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
