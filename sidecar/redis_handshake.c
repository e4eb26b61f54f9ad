// SPDX-License-Identifier: Apache-2.0
//
// The handshake.
//
// All commands go out at once; the replies come in order and PING's is the last. AUTH and SELECT
// must succeed. The name, the client's id and INFO are worth having but an ACL may forbid them: then
// the store knows less (see redis_lost.h) and says so once for each connection. The scripts are
// loaded so that a new server does not answer NOSCRIPT to a whole pipeline of calls, whose repeats
// would then overtake each other. PING is asked because it is refused whenever locks would be
// (LOADING, MASTERDOWN, a busy script), so the store does not come up only to see every call fail.
//
// What people should know is asked on the way and only logged: whether the eviction policy may take
// locks away, whether Redis' clock is off (whoever corrects it by a step moves every expiry), and
// which of the commands that locks need are forbidden, by name.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sidecar/log.h"
#include "sidecar/redis_call.h"
#include "sidecar/redis_handshake.h"

enum {
    MAX_PASSWORD = 4096,
    MAX_CLOCK_DIFFERENCE_MS = 500,
};

// No client key has a control character in it, so this is none.
static const char probe_key[] = "\x1f"
                                "check";
static const char nobody[] = "9223372036854775807"; // a client's id that is never reached

static const char *const step_names[REDIS_HANDSHAKE_STEPS] = {
    [REDIS_HANDSHAKE_AUTH] = "AUTH",           [REDIS_HANDSHAKE_SELECT] = "SELECT",
    [REDIS_HANDSHAKE_NAME] = "CLIENT SETNAME", [REDIS_HANDSHAKE_ID] = "CLIENT ID",
    [REDIS_HANDSHAKE_SERVER] = "INFO server",  [REDIS_HANDSHAKE_ROLE] = "INFO replication",
    [REDIS_HANDSHAKE_LOAD] = "SCRIPT LOAD",    [REDIS_HANDSHAKE_MEMORY] = "INFO memory",
    [REDIS_HANDSHAKE_TIME] = "TIME",           [REDIS_HANDSHAKE_CHECK] = "EVALSHA",
    [REDIS_HANDSHAKE_EVAL] = "EVAL",           [REDIS_HANDSHAKE_KILL] = "CLIENT KILL",
    [REDIS_HANDSHAKE_PING] = "PING",
};

// Errors by which no command can work, against those that forbid one command.
static const char *const fatal_codes[] = {
    "NOAUTH", "WRONGPASS", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN",
};

// The file's text without its newline, in password (MAX_PASSWORD + 1 bytes). 0 or -errno.
static int read_password(const char *path, char *password)
{
    size_t length = 0;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return -errno;
    while ((n = read(fd, password + length, MAX_PASSWORD + 1 - length)) > 0) {
        length += (size_t)n;
        if (length > MAX_PASSWORD)
            break;
    }
    if (n < 0)
        n = -errno;
    close(fd);
    if (n < 0)
        return (int)n;
    if (length > MAX_PASSWORD)
        return -EFBIG;
    while (length > 0 && (password[length - 1] == '\n' || password[length - 1] == '\r'))
        length--;
    password[length] = '\0';
    return 0;
}

static void write_auth(struct buf *out, const char *user, const char *password)
{
    const char *const with_user[] = {"AUTH", user, password};
    const char *const without[] = {"AUTH", password};

    if (user)
        redis_call_write_words(out, with_user, 3);
    else
        redis_call_write_words(out, without, 2);
}

// 1 when AUTH was written, 0 when there are no credentials, or a negative errno.
static int begin_auth(const struct redis_url *url, const char *password_file, struct buf *out,
                      char *error, size_t error_size)
{
    char password[MAX_PASSWORD + 2];
    int r;

    if (!password_file) {
        if (!url->user && !url->password)
            return 0;
        write_auth(out, url->user, url->password ? url->password : "");
        return 1;
    }
    r = read_password(password_file, password);
    if (r == 0)
        write_auth(out, url->user, password);
    else
        snprintf(error, error_size, "cannot read the Redis password file: %s", strerror(-r));
    explicit_bzero(password, sizeof password);
    return r < 0 ? r : 1;
}

static int64_t wall_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void write_check(const char *key_prefix, struct buf *out)
{
    char probe[256], counter[256];

    snprintf(probe, sizeof probe, "%s%s", key_prefix, probe_key);
    snprintf(counter, sizeof counter, "%s%s", redis_call_counter, key_prefix);
    redis_call_write_words(out,
                           (const char *const[]){"EVALSHA", redis_scripts[REDIS_SCRIPT_CHECK].sha,
                                                 "2", probe, counter},
                           5);
}

// The questions that need no arguments of ours, before and after the scripts are loaded.
static const struct question {
    enum redis_handshake_step step;
    const char *words[4];
} questions[] = {
    {REDIS_HANDSHAKE_NAME, {"CLIENT", "SETNAME", "lock-keeper"}},
    {REDIS_HANDSHAKE_ID, {"CLIENT", "ID"}},
    {REDIS_HANDSHAKE_SERVER, {"INFO", "server"}},
    {REDIS_HANDSHAKE_ROLE, {"INFO", "replication"}},
    {REDIS_HANDSHAKE_MEMORY, {"INFO", "memory"}},
    {REDIS_HANDSHAKE_TIME, {"TIME"}},
    {REDIS_HANDSHAKE_EVAL, {"EVAL", "return 0", "0"}},
    {REDIS_HANDSHAKE_KILL, {"CLIENT", "KILL", "ID", nobody}},
};

static int ask_questions(struct buf *out, enum redis_handshake_step *steps)
{
    int count = 0;

    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        int words = 0;

        while (words < 4 && questions[i].words[words])
            words++;
        redis_call_write_words(out, questions[i].words, words);
        steps[count++] = questions[i].step;
    }
    return count;
}

int redis_handshake_begin(struct redis_handshake *handshake, const struct redis_url *url,
                          const char *password_file, const char *key_prefix, struct buf *out,
                          enum redis_handshake_step steps[REDIS_HANDSHAKE_MAX_REPLIES], char *error,
                          size_t error_size)
{
    int count;

    *handshake = (struct redis_handshake){.began_us = wall_us()};
    count = begin_auth(url, password_file, out, error, error_size);
    if (count < 0)
        return count;
    steps[0] = REDIS_HANDSHAKE_AUTH; // where there is one
    if (url->database > 0) {
        char database[16];

        snprintf(database, sizeof database, "%d", url->database);
        redis_call_write_words(out, (const char *const[]){"SELECT", database}, 2);
        steps[count++] = REDIS_HANDSHAKE_SELECT;
    }
    count += ask_questions(out, steps + count);
    for (int i = 0; i < REDIS_SCRIPT_COUNT; i++) {
        redis_call_write_words(out, (const char *const[]){"SCRIPT", "LOAD", redis_scripts[i].text},
                               3);
        steps[count++] = REDIS_HANDSHAKE_LOAD;
    }
    write_check(key_prefix, out);
    steps[count++] = REDIS_HANDSHAKE_CHECK;
    redis_call_write_words(out, (const char *const[]){"PING"}, 1);
    steps[count++] = REDIS_HANDSHAKE_PING;
    return count;
}

int redis_handshake_begin_watch(struct redis_handshake *handshake, const struct redis_url *url,
                                const char *password_file, struct buf *out,
                                enum redis_handshake_step steps[REDIS_HANDSHAKE_MAX_REPLIES],
                                char *error, size_t error_size)
{
    int count;

    *handshake = (struct redis_handshake){0};
    count = begin_auth(url, password_file, out, error, error_size);
    if (count < 0)
        return count;
    steps[0] = REDIS_HANDSHAKE_AUTH; // where there is one
    redis_call_write_words(out, (const char *const[]){"CLIENT", "SETNAME", "lock-keeper-watch"}, 3);
    steps[count++] = REDIS_HANDSHAKE_NAME;
    return count;
}

// Copies the value of "name:value\r\n" in INFO's text. A value that does not fit is left out.
static void take_field(const struct redis_reply *info, const char *name, char *value, size_t size)
{
    size_t name_length = strlen(name);

    for (const char *line = info->string; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, name_length) == 0 && line[name_length] == ':') {
            const char *start = line + name_length + 1;
            size_t length = strcspn(start, "\r\n");

            if (length < size) {
                memcpy(value, start, length);
                value[length] = '\0';
            }
            return;
        }
    }
}

static bool is_fatal(enum redis_handshake_step step, const struct redis_reply *reply)
{
    if (step == REDIS_HANDSHAKE_AUTH || step == REDIS_HANDSHAKE_SELECT)
        return true;
    for (size_t i = 0; i < sizeof fatal_codes / sizeof fatal_codes[0]; i++) {
        if (redis_reply_is_error(reply, fatal_codes[i]))
            return true;
    }
    return false;
}

// ---- What is only logged ----

static void warn_of_policy(const struct redis_reply *reply)
{
    char policy[32] = "";

    take_field(reply, "maxmemory_policy", policy, sizeof policy);
    if (policy[0] && strcmp(policy, "noeviction") != 0)
        log_warn("this Redis may evict locks when its memory is full: set maxmemory-policy to "
                 "noeviction",
                 LOG_FIELD_STR("policy", policy));
}

// It was read between the beginning of the handshake and now.
static void warn_of_clock(const struct redis_handshake *handshake, const struct redis_reply *reply)
{
    int64_t redis_us, now_us = wall_us(), ahead_ms;

    if (reply->length != 2 || !redis_reply_is(&reply->elements[0], REDIS_REPLY_IS_STRING) ||
        !redis_reply_is(&reply->elements[1], REDIS_REPLY_IS_STRING))
        return;
    redis_us = strtoll(reply->elements[0].string, NULL, 10) % INT64_C(100000000000) * 1000000 +
               strtoll(reply->elements[1].string, NULL, 10) % 1000000;
    ahead_ms = (redis_us > now_us                ? redis_us - now_us
                : redis_us < handshake->began_us ? redis_us - handshake->began_us
                                                 : 0) /
               1000;
    if (ahead_ms > MAX_CLOCK_DIFFERENCE_MS || ahead_ms < -MAX_CLOCK_DIFFERENCE_MS)
        log_warn("Redis' clock differs from this host's: locks expire by Redis' clock, and a step "
                 "that corrects it moves every expiry",
                 LOG_FIELD_INT("redis_ahead_ms", ahead_ms));
}

static void warn_of_forbidden(const struct redis_reply *reply)
{
    if (reply->length > 0)
        log_warn("Redis forbids this user commands that locks need",
                 LOG_FIELD_BYTES("commands", reply->string, reply->length));
}

static void take_answer(struct redis_handshake *handshake, enum redis_handshake_step step,
                        const struct redis_reply *reply)
{
    if (step == REDIS_HANDSHAKE_ID && redis_reply_is(reply, REDIS_REPLY_IS_INTEGER))
        handshake->client_id = reply->integer;
    if (step == REDIS_HANDSHAKE_TIME && redis_reply_is(reply, REDIS_REPLY_IS_ARRAY))
        warn_of_clock(handshake, reply);
    if (!redis_reply_is(reply, REDIS_REPLY_IS_STRING))
        return;
    if (step == REDIS_HANDSHAKE_SERVER) {
        take_field(reply, "run_id", handshake->run_id, sizeof handshake->run_id);
        take_field(reply, "redis_version", handshake->version, sizeof handshake->version);
    }
    if (step == REDIS_HANDSHAKE_ROLE)
        take_field(reply, "role", handshake->role, sizeof handshake->role);
    if (step == REDIS_HANDSHAKE_MEMORY)
        warn_of_policy(reply);
    if (step == REDIS_HANDSHAKE_CHECK)
        warn_of_forbidden(reply);
}

int redis_handshake_answer(struct redis_handshake *handshake, enum redis_handshake_step step,
                           const struct redis_reply *reply, char *error, size_t error_size)
{
    char words[REDIS_REPLY_WORDS_SIZE];

    if (!redis_reply_is(reply, REDIS_REPLY_IS_ERROR)) {
        take_answer(handshake, step, reply);
        return 0;
    }
    redis_reply_words(reply, words);
    if (is_fatal(step, reply)) {
        snprintf(error, error_size, "%s", words);
        return -EACCES;
    }
    // Without SCRIPT LOAD, which has been told, the check is not there.
    if (!redis_reply_is_error(reply, "NOSCRIPT"))
        log_warn("Redis refuses a command of the handshake",
                 LOG_FIELD_STR("command", step_names[step]), LOG_FIELD_STR("error", words));
    return 0;
}
