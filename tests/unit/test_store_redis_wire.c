// SPDX-License-Identifier: Apache-2.0
//
// The Redis store against a Redis that says what the test tells it to: order, lateness, hostile
// replies, partial writes, and that every call is answered exactly once.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "sidecar/clock.h"
#include "tests/tool/fake_redis.h"
#include "tests/tool/store_rig.h"

#define ACQUIRED "*2\r\n:1\r\n:1790000000000000\r\n"

static struct fake_redis fake;
static struct store_rig rig;

static void setup(void)
{
    char url[128];

    scratch_open();
    snprintf(url, sizeof url, "unix://%s", scratch_path("fake.sock"));
    store_rig_init(&rig, url);
    fake_redis_open(&fake, rig.loop);
}

static void teardown(void)
{
    fake_redis_close(&fake);
    store_rig_deinit(&rig);
    scratch_close();
}

static void start(void)
{
    store_rig_start(&rig);
    STORE_RIG_UNTIL(&rig, rig.up == 1);
}

static const struct store_rig_result *result(uint32_t lease, enum store_op op)
{
    return store_rig_result(&rig, lease, op);
}

// ---- NOSCRIPT and order ----

START_TEST(noscript_is_followed_by_the_text)
{
    start();
    fake.noscript = true;
    fake_redis_reply(&fake, ACQUIRED);
    fake_redis_reply(&fake, "*1\r\n:1\r\n");
    fake_redis_reply(&fake, ":1\r\n");
    store_rig_acquire(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_OK);
    ck_assert_int_eq(result(1, STORE_ACQUIRE)->last.fence, 1790000000000000);
    store_rig_renew(&rig, 1, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_OK);
    store_rig_release(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RELEASE, STORE_OK);
    ck_assert_str_eq(fake_redis_log(&fake), "1:EVALSHA acquire lock:k1;1:EVAL acquire lock:k1;"
                                            "1:EVALSHA renew lock:k1;1:EVAL renew lock:k1;"
                                            "1:EVALSHA release lock:k1;1:EVAL release lock:k1;");
}
END_TEST

// A release that was written before the acquire's repeat cannot vouch for it.
START_TEST(overtaken_release_is_not_certain)
{
    start();
    fake_redis_reply(&fake, "-NOSCRIPT x\r\n");
    fake_redis_reply(&fake, ":0\r\n");
    fake_redis_reply(&fake, ACQUIRED);
    fake_redis_reply(&fake, ":1\r\n");
    store_rig_acquire(&rig, 1);
    store_rig_release(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RELEASE, STORE_NOT_OWNER);
    ck_assert(!result(1, STORE_RELEASE)->last.certain);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_OK);
    store_rig_release(&rig, 2);
    STORE_RIG_EXPECT(&rig, 2, STORE_RELEASE, STORE_OK);
    ck_assert(result(2, STORE_RELEASE)->last.certain);
}
END_TEST

// A timed-out acquire is not sent again.
START_TEST(noscript_after_the_timeout)
{
    start();
    rig.timeout_ms = 30;
    fake_redis_reply(&fake, NULL);
    store_rig_acquire(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_TIMEOUT);
    fake_redis_send(&fake, "-NOSCRIPT x\r\n");
    fake_redis_reply(&fake, ":1\r\n");
    rig.timeout_ms = 2000;
    store_rig_release(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RELEASE, STORE_OK);
    ck_assert_str_eq(fake_redis_log(&fake), "1:EVALSHA acquire lock:k1;1:EVALSHA release lock:k1;");
    ck_assert_int_eq(result(1, STORE_ACQUIRE)->count, 1);
}
END_TEST

static void release_owed(struct store_rig *at)
{
    for (uint32_t lease = 100; lease < 120; lease++)
        store_rig_release(at, lease);
}

// Releases (those of the status hook too, more than fill a write), acquires, then renewals, earliest
// first.
START_TEST(order_when_it_comes_up)
{
    char expected[2048] = "1:EVALSHA release lock:k2;";
    char *end = expected + strlen(expected);

    store_rig_start(&rig);
    rig.on_up = release_owed;
    store_rig_renew(&rig, 5, 300);
    store_rig_renew(&rig, 6, 100);
    store_rig_renew(&rig, 7, 200);
    store_rig_acquire(&rig, 1);
    store_rig_release(&rig, 2);
    store_rig_acquire(&rig, 3);
    STORE_RIG_UNTIL(&rig, fake.calls == 24);
    for (int lease = 100; lease < 120; lease++)
        end += sprintf(end, "1:EVALSHA release lock:k%d;", lease);
    strcpy(end, "1:EVALSHA acquire lock:k1;1:EVALSHA acquire lock:k3;"
                "1:EVALSHA renew lock:k6 lock:k7 lock:k5;");
    ck_assert_str_eq(fake_redis_log(&fake), expected);
}
END_TEST

static int waiting_bytes(void)
{
    int bytes = -1;

    ck_assert_int_eq(ioctl(fake.connections[0].fd, FIONREAD, &bytes), 0);
    return bytes;
}

// 16 submissions are written without waiting for the loop to sleep.
START_TEST(sixteen_are_written_at_once)
{
    start();
    for (uint32_t lease = 0; lease < 15; lease++)
        store_rig_acquire(&rig, lease);
    ck_assert_int_eq(waiting_bytes(), 0);
    store_rig_release(&rig, 15);
    ck_assert_int_gt(waiting_bytes(), 1000);
    STORE_RIG_UNTIL(&rig, fake.calls == 16);
}
END_TEST

// At most 100 in a batch, at most four batches unanswered, the earliest first.
START_TEST(batches_are_bounded)
{
    struct buf reply = BUF_INIT;

    start();
    for (uint32_t lease = 1000; lease-- > 0;)
        store_rig_renew(&rig, lease, lease);
    STORE_RIG_UNTIL(&rig, fake.calls == 4);
    for (int turn = 0; turn < 20; turn++)
        store_rig_turn(&rig, 1);
    ck_assert_int_eq(fake.calls, 4);
    ck_assert(fake_redis_said(&fake, "1:EVALSHA renew lock:k0 lock:k1 lock:k2 "));
    ck_assert(fake_redis_said(&fake, "lock:k99;1:EVALSHA renew lock:k100 "));
    ck_assert(fake_redis_said(&fake, "lock:k399;"));
    ck_assert(!fake_redis_said(&fake, "lock:k400"));
    buf_append_string(&reply, "*100\r\n");
    for (int i = 0; i < 100; i++)
        buf_append_string(&reply, ":1\r\n");
    buf_append(&reply, "", 1);
    for (int i = 0; i < 6; i++)
        fake_redis_reply(&fake, buf_bytes(&reply));
    // One answer makes room for one batch.
    fake_redis_send(&fake, buf_bytes(&reply));
    STORE_RIG_UNTIL(&rig, fake_redis_said(&fake, "lock:k400 "));
    for (int i = 0; i < 3; i++)
        fake_redis_send(&fake, buf_bytes(&reply));
    STORE_RIG_UNTIL(&rig, rig.completions == 1000);
    for (uint32_t lease = 0; lease < 1000; lease++)
        STORE_RIG_EXPECT(&rig, lease, STORE_RENEW, STORE_OK);
    ck_assert_int_eq(fake.calls, 10);
    buf_deinit(&reply);
}
END_TEST

START_TEST(answers_within_a_batch)
{
    start();
    fake_redis_reply(&fake, "*6\r\n:1\r\n:0\r\n:-1\r\n:-2\r\n-OOM no\r\n-READONLY no\r\n");
    for (uint32_t lease = 0; lease < 6; lease++)
        store_rig_renew(&rig, lease, lease);
    STORE_RIG_EXPECT(&rig, 0, STORE_RENEW, STORE_OK);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_NOT_OWNER);
    STORE_RIG_EXPECT(&rig, 2, STORE_RENEW, STORE_NOT_OWNER);
    STORE_RIG_EXPECT(&rig, 3, STORE_RENEW, STORE_UNAVAILABLE);
    STORE_RIG_EXPECT(&rig, 4, STORE_RENEW, STORE_UNAVAILABLE);
    ck_assert_str_eq(result(4, STORE_RENEW)->last.error, "OOM no");
    STORE_RIG_EXPECT(&rig, 5, STORE_RENEW, STORE_UNAVAILABLE);
    // One of them says that this Redis is not the one to talk to.
    STORE_RIG_UNTIL(&rig, rig.up == 2);
    ck_assert_int_eq(rig.down, 1);
}
END_TEST

// The batch's timeout is its members' least one, and runs from the write.
START_TEST(batch_times_out_from_its_write)
{
    int64_t begin_ms;

    store_rig_start(&rig);
    rig.timeout_ms = 60;
    fake.greets = false;
    store_rig_renew(&rig, 1, 1);
    begin_ms = clock_boottime_ms();
    while (clock_boottime_ms() < begin_ms + 100)
        store_rig_turn(&rig, 5);
    ck_assert_int_eq(rig.completions, 0);
    fake.greets = true;
    fake_redis_cut(&fake);
    STORE_RIG_UNTIL(&rig, rig.up == 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_TIMEOUT);
    ck_assert_int_ge(result(1, STORE_RENEW)->last.sent_at_ms, begin_ms + 100);
    ck_assert_int_ge(result(1, STORE_RENEW)->now_ms, result(1, STORE_RENEW)->last.sent_at_ms + 60);
}
END_TEST

// ---- Late replies ----

static const struct {
    const char *reply;
    int late;
    enum store_outcome outcome;
} lates[] = {
    {"*1\r\n:1\r\n", 1, STORE_OK},         {"*1\r\n:0\r\n", 1, STORE_NOT_OWNER},
    {"*1\r\n:-1\r\n", 1, STORE_NOT_OWNER}, {"*1\r\n:-2\r\n", 0, STORE_TIMEOUT},
    {"*1\r\n-OOM\r\n", 0, STORE_TIMEOUT},  {"-BUSY\r\n", 0, STORE_TIMEOUT},
};

START_TEST(late_renewals)
{
    start();
    rig.timeout_ms = 30;
    fake_redis_reply(&fake, NULL);
    store_rig_renew(&rig, 1, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_TIMEOUT);
    ck_assert(!result(1, STORE_RENEW)->last.late);
    // The next call goes out on the same connection, and each reply finds its own.
    fake_redis_reply(&fake, lates[_i].reply);
    fake_redis_reply(&fake, NULL);
    rig.timeout_ms = 2000;
    store_rig_acquire(&rig, 2);
    STORE_RIG_UNTIL(&rig, fake.calls == 2);
    fake_redis_send(&fake, ACQUIRED);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_OK);
    ck_assert_int_eq(result(1, STORE_RENEW)->count, 1);
    ck_assert_int_eq(result(1, STORE_RENEW)->late, lates[_i].late);
    ck_assert_int_eq(result(1, STORE_RENEW)->last.outcome, lates[_i].outcome);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

START_TEST(late_acquire_and_release_are_dropped)
{
    start();
    rig.timeout_ms = 30;
    fake_redis_reply(&fake, NULL);
    fake_redis_reply(&fake, NULL);
    store_rig_acquire(&rig, 1);
    store_rig_release(&rig, 2);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_TIMEOUT);
    STORE_RIG_EXPECT(&rig, 2, STORE_RELEASE, STORE_TIMEOUT);
    fake_redis_send(&fake, ACQUIRED ":1\r\n");
    fake_redis_reply(&fake, ":1\r\n");
    rig.timeout_ms = 2000;
    store_rig_release(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RELEASE, STORE_OK);
    ck_assert(result(1, STORE_RELEASE)->last.certain); // the same connection
    ck_assert_int_eq(rig.completions, 3);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// ---- Hostile replies ----

static const char *const hostiles[] = {
    "$-5\r\n",
    "*-2\r\n",
    "*2147483647\r\n",
    "*1\r\n*1\r\n*1\r\n*1\r\n",
    "what\r\n",
    ":1\r\n",
    "+OK\r\n",
    "$-1\r\n",
    "*0\r\n",
    "*1\r\n:1\r\n",
    "*2\r\n:1\r\n$1\r\n1\r\n",
    "*2\r\n:1\r\n:0\r\n",
    "*2\r\n:1\r\n:-5\r\n",
    "*2\r\n:1\r\n:9007199254740992\r\n",
    "*2\r\n:0\r\n:1\r\n",
    "*3\r\n:1\r\n:1\r\n:1\r\n",
    "*3\r\n:3\r\n:1\r\n:1\r\n",
    "*3\r\n:0\r\n$-1\r\n+x\r\n",
    "*3\r\n:0\r\n:1\r\n:-1\r\n",
    "*3\r\n:0\r\n:1\r\n*0\r\n",
    "*3\r\n:2\r\n:1\r\n:1\r\n",
    "*4\r\n:0\r\n:1\r\n+x\r\n+y\r\n",
};

START_TEST(hostile_replies)
{
    start();
    fake_redis_reply(&fake, hostiles[_i]);
    for (int i = 0; i < 2; i++)
        fake_redis_reply(&fake, NULL);
    fake_redis_reply(&fake, ACQUIRED);
    store_rig_acquire(&rig, 1);
    store_rig_release(&rig, 2);
    store_rig_renew(&rig, 3, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_LOST);
    STORE_RIG_EXPECT(&rig, 2, STORE_RELEASE, STORE_LOST);
    STORE_RIG_EXPECT(&rig, 3, STORE_RENEW, STORE_LOST);
    ck_assert_int_eq(rig.down, 1);
    store_rig_acquire(&rig, 4);
    STORE_RIG_EXPECT(&rig, 4, STORE_ACQUIRE, STORE_OK);
    ck_assert_int_eq(rig.up, 2);
    ck_assert(fake_redis_said(&fake, "2:CLIENT KILL ID 1;"));
}
END_TEST

static const char *const bad_batches[] = {":1\r\n", "*1\r\n:1\r\n", "*3\r\n:1\r\n:1\r\n:1\r\n",
                                          "$-1\r\n"};

START_TEST(batch_of_another_length)
{
    start();
    fake_redis_reply(&fake, bad_batches[_i]);
    store_rig_renew(&rig, 1, 1);
    store_rig_renew(&rig, 2, 2);
    STORE_RIG_EXPECT(&rig, 1, STORE_RENEW, STORE_LOST);
    STORE_RIG_EXPECT(&rig, 2, STORE_RENEW, STORE_LOST);
    ck_assert_int_eq(rig.down, 1);
}
END_TEST

START_TEST(a_reply_too_many)
{
    start();
    fake_redis_reply(&fake, ACQUIRED ":1\r\n");
    store_rig_acquire(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_OK);
    STORE_RIG_UNTIL(&rig, rig.up == 2);
    ck_assert_int_eq(rig.down, 1);
}
END_TEST

START_TEST(a_flood_without_a_reply)
{
    start();
    fake_redis_reply(&fake, "$10485760\r\n");
    store_rig_acquire(&rig, 1);
    STORE_RIG_UNTIL(&rig, fake.calls == 1);
    for (int i = 0; i < 3 && rig.down == 0; i++) {
        char bytes[30001];

        memset(bytes, 'x', sizeof bytes - 1);
        bytes[sizeof bytes - 1] = '\0';
        fake_redis_send(&fake, bytes);
        store_rig_turn(&rig, 5);
        store_rig_turn(&rig, 5);
    }
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_LOST);
    ck_assert_ptr_nonnull(strstr(result(1, STORE_ACQUIRE)->error, "64 KiB"));
}
END_TEST

START_TEST(dribbled_bytes)
{
    fake.dribbles = true;
    fake_redis_reply(&fake, ACQUIRED);
    fake_redis_reply(&fake, "*3\r\n:0\r\n:1234\r\n$5\r\na\r\nbc\r\n");
    fake_redis_reply(&fake, "*2\r\n:1\r\n:0\r\n");
    start();
    store_rig_acquire(&rig, 1);
    store_rig_acquire(&rig, 2);
    store_rig_renew(&rig, 3, 1);
    store_rig_renew(&rig, 4, 2);
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_OK);
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_HELD);
    ck_assert_str_eq(result(2, STORE_ACQUIRE)->last.value, "a\r\nbc");
    ck_assert_int_eq(result(2, STORE_ACQUIRE)->last.pttl_ms, 1234);
    STORE_RIG_EXPECT(&rig, 3, STORE_RENEW, STORE_OK);
    STORE_RIG_EXPECT(&rig, 4, STORE_RENEW, STORE_NOT_OWNER);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// ---- A socket that takes no more ----

// What does not fit into the socket waits, and is answered UNSENT in time; what was written may be
// done. Nothing is answered twice, and the rest goes on when Redis reads again.
START_TEST(partial_writes)
{
    enum { CALLS = 3000 };
    int timeouts = 0, unsent = 0;

    start();
    fake.deaf = true;
    ev_io_stop(rig.loop, &fake.connections[0].readable);
    rig.timeout_ms = 100;
    rig.options.silence_ms = 10000;
    for (uint32_t lease = 0; lease < CALLS; lease++)
        store_rig_acquire(&rig, lease);
    STORE_RIG_UNTIL(&rig, rig.completions == CALLS);
    for (uint32_t lease = 0; lease < CALLS; lease++) {
        const struct store_rig_result *at = result(lease, STORE_ACQUIRE);

        ck_assert_int_eq(at->count, 1);
        timeouts += at->last.outcome == STORE_TIMEOUT;
        unsent += at->last.outcome == STORE_UNSENT;
        ck_assert_int_eq(at->last.sent_at_ms == 0, at->last.outcome == STORE_UNSENT);
        // In order: what was written came first.
        if (at->last.outcome == STORE_TIMEOUT)
            ck_assert_int_eq(unsent, 0);
    }
    ck_assert_int_eq(timeouts + unsent, CALLS);
    ck_assert_int_gt(timeouts, 100);
    ck_assert_int_gt(unsent, 100);
    fake.deaf = false;
    for (int i = 0; i < timeouts; i++)
        fake_redis_reply(&fake, ACQUIRED);
    fake_redis_reply(&fake, ":1\r\n");
    ev_io_start(rig.loop, &fake.connections[0].readable);
    rig.timeout_ms = 2000;
    store_rig_release(&rig, 1);
    STORE_RIG_EXPECT(&rig, 1, STORE_RELEASE, STORE_OK);
    ck_assert_int_eq(rig.completions, CALLS + 1);
    ck_assert_int_eq(fake.calls, timeouts + 1);
    ck_assert_int_eq(rig.down, 0);
}
END_TEST

// ---- The end ----

static void submit_all_kinds(void)
{
    for (uint32_t lease = 0; lease < 150; lease++) {
        store_rig_acquire(&rig, lease);
        store_rig_release(&rig, lease);
        store_rig_renew(&rig, lease, lease);
    }
}

static void expect_once_each(enum store_outcome outcome)
{
    ck_assert_int_eq(rig.completions, 450);
    for (uint32_t lease = 0; lease < 150; lease++) {
        for (enum store_op op = STORE_ACQUIRE; op <= STORE_RELEASE; op++) {
            ck_assert_int_eq(result(lease, op)->count, 1);
            ck_assert_int_eq(result(lease, op)->last.outcome, outcome);
        }
    }
}

START_TEST(free_completes_what_was_written)
{
    start();
    submit_all_kinds();
    STORE_RIG_UNTIL(&rig, fake.calls == 302);
    rig.store = store_redis_free(rig.store);
    expect_once_each(STORE_LOST);
}
END_TEST

START_TEST(free_completes_what_was_not)
{
    store_rig_start(&rig);
    submit_all_kinds();
    rig.store = store_redis_free(rig.store);
    expect_once_each(STORE_UNSENT);
}
END_TEST

START_TEST(loss_completes_each_once)
{
    start();
    submit_all_kinds();
    STORE_RIG_UNTIL(&rig, fake.calls == 302);
    fake_redis_cut(&fake);
    STORE_RIG_UNTIL(&rig, rig.completions == 450);
    expect_once_each(STORE_LOST);
}
END_TEST

static void submit_again(struct store_rig *at, const struct store_completion *completion)
{
    if (completion->op == STORE_RENEW && completion->outcome == STORE_LOST &&
        result(completion->lease, STORE_RENEW)->count == 1)
        store_rig_renew(at, completion->lease, 1);
}

// A hook that submits anew, from inside the loss: it goes to the next connection.
START_TEST(submission_from_a_completion)
{
    start();
    rig.on_completed = submit_again;
    store_rig_renew(&rig, 1, 1);
    STORE_RIG_UNTIL(&rig, fake.calls == 1);
    fake_redis_reply(&fake, "*1\r\n:1\r\n");
    fake_redis_cut(&fake);
    STORE_RIG_UNTIL(&rig, result(1, STORE_RENEW)->count == 2);
    ck_assert_int_eq(result(1, STORE_RENEW)->last.outcome, STORE_OK);
    ck_assert_str_eq(fake_redis_log(&fake), "1:EVALSHA renew lock:k1;2:EVALSHA renew lock:k1;");
}
END_TEST

static void free_store(struct store_rig *at, const struct store_completion *completion)
{
    struct store *store = at->store;

    (void)completion;
    at->store = NULL;
    at->on_completed = NULL;
    store_redis_free(store);
}

static const struct {
    const char *acquired; // NULL: renewals only
    const char *renewed;
    int64_t timeout_ms;
    bool cut;
} frees[] = {
    {ACQUIRED ":1\r\n", "", 2000, false},      // of a reply
    {NULL, "*2\r\n:1\r\n:1\r\n", 2000, false}, // of a batch's member
    {"", "", 30, false},                       // of a timeout
    {NULL, "", 30, false},                     // of a batch's timeout
    {"", "", 2000, true},                      // of a loss
    {NULL, "", 2000, true},                    // of a batch's loss
};

// From inside a completion. What is still outstanding is completed before the call returns, but for
// the rest of the batch whose member's completion it is.
START_TEST(free_from_a_completion)
{
    start();
    rig.timeout_ms = frees[_i].timeout_ms;
    rig.on_completed = free_store;
    if (frees[_i].acquired) {
        fake_redis_reply(&fake, frees[_i].acquired);
        fake_redis_reply(&fake, NULL);
        store_rig_acquire(&rig, 1);
        store_rig_release(&rig, 1);
    }
    fake_redis_reply(&fake, frees[_i].renewed);
    store_rig_renew(&rig, 1, 1);
    store_rig_renew(&rig, 2, 2);
    STORE_RIG_UNTIL(&rig, fake.calls > 0);
    if (frees[_i].cut)
        fake_redis_cut(&fake);
    STORE_RIG_UNTIL(&rig, rig.store == NULL);
    for (uint32_t lease = 1; lease <= 2; lease++) {
        for (enum store_op op = STORE_ACQUIRE; op <= STORE_RELEASE; op++)
            ck_assert_int_le(result(lease, op)->count, 1);
    }
    if (frees[_i].acquired)
        ck_assert_int_eq(rig.completions, 4);
    else
        ck_assert_int_ge(rig.completions, 1);
    for (int i = 0; i < 5; i++)
        store_rig_turn(&rig, 1);
    ck_assert_int_le(rig.completions, 4);
}
END_TEST

// The clock of a call is read before the write that carries it, and all calls of a write share it.
START_TEST(sent_at)
{
    int64_t before_ms, after_ms;

    start();
    before_ms = clock_boottime_ms();
    fake_redis_reply(&fake, ACQUIRED);
    fake_redis_reply(&fake, "*3\r\n:2\r\n:-1\r\n+list\r\n");
    fake_redis_reply(&fake, "*1\r\n:1\r\n");
    store_rig_acquire(&rig, 1);
    scratch_pause_ms(20);
    store_rig_acquire(&rig, 2);
    store_rig_renew(&rig, 3, 1);
    STORE_RIG_EXPECT(&rig, 3, STORE_RENEW, STORE_OK);
    after_ms = clock_boottime_ms();
    STORE_RIG_EXPECT(&rig, 2, STORE_ACQUIRE, STORE_HELD);
    ck_assert_str_eq(result(2, STORE_ACQUIRE)->last.type, "list");
    ck_assert_int_ge(result(1, STORE_ACQUIRE)->last.sent_at_ms, before_ms + 20);
    ck_assert_int_le(result(3, STORE_RENEW)->last.sent_at_ms, after_ms);
    ck_assert_int_eq(result(1, STORE_ACQUIRE)->last.sent_at_ms,
                     result(2, STORE_ACQUIRE)->last.sent_at_ms);
    ck_assert_int_eq(result(1, STORE_ACQUIRE)->last.sent_at_ms,
                     result(3, STORE_RENEW)->last.sent_at_ms);
}
END_TEST

// How slow the replies are changes nothing about it.
START_TEST(sent_at_of_slow_replies)
{
    int64_t written_ms;

    start();
    fake_redis_reply(&fake, NULL);
    fake_redis_reply(&fake, NULL);
    store_rig_acquire(&rig, 1);
    store_rig_renew(&rig, 2, 1);
    STORE_RIG_UNTIL(&rig, fake.calls == 2);
    written_ms = clock_boottime_ms();
    scratch_pause_ms(20);
    fake_redis_send(&fake, ACQUIRED "*1\r\n:1\r\n");
    STORE_RIG_EXPECT(&rig, 1, STORE_ACQUIRE, STORE_OK);
    STORE_RIG_EXPECT(&rig, 2, STORE_RENEW, STORE_OK);
    ck_assert_int_le(result(1, STORE_ACQUIRE)->last.sent_at_ms, written_ms);
    ck_assert_int_le(result(2, STORE_RENEW)->last.sent_at_ms, written_ms);
}
END_TEST

#define COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))

static Suite *make_suite(void)
{
    Suite *suite = suite_create("store_redis_wire");
    TCase *tests = tcase_create("store_redis_wire");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, noscript_is_followed_by_the_text);
    tcase_add_test(tests, overtaken_release_is_not_certain);
    tcase_add_test(tests, noscript_after_the_timeout);
    tcase_add_test(tests, order_when_it_comes_up);
    tcase_add_test(tests, sixteen_are_written_at_once);
    tcase_add_test(tests, batches_are_bounded);
    tcase_add_test(tests, answers_within_a_batch);
    tcase_add_test(tests, batch_times_out_from_its_write);
    tcase_add_loop_test(tests, late_renewals, 0, COUNT(lates));
    tcase_add_test(tests, late_acquire_and_release_are_dropped);
    tcase_add_loop_test(tests, hostile_replies, 0, COUNT(hostiles));
    tcase_add_loop_test(tests, batch_of_another_length, 0, COUNT(bad_batches));
    tcase_add_test(tests, a_reply_too_many);
    tcase_add_test(tests, a_flood_without_a_reply);
    tcase_add_test(tests, dribbled_bytes);
    tcase_add_test(tests, partial_writes);
    tcase_add_test(tests, free_completes_what_was_written);
    tcase_add_test(tests, free_completes_what_was_not);
    tcase_add_test(tests, loss_completes_each_once);
    tcase_add_test(tests, submission_from_a_completion);
    tcase_add_loop_test(tests, free_from_a_completion, 0, COUNT(frees));
    tcase_add_test(tests, sent_at);
    tcase_add_test(tests, sent_at_of_slow_replies);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(make_suite());
}
