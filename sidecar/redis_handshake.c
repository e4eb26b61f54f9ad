// SPDX-License-Identifier: Apache-2.0
//
// The handshake.
//
// All commands go out at once; the replies come in order and PING's is the last. AUTH and SELECT
// must succeed. The name, the client's id and INFO are worth having but an ACL may forbid them: then
// the store knows less (see redis_lost.h) and says so once for each connection. The scripts are
// loaded so that a new server does not answer NOSCRIPT to a whole pipeline of calls, whose repeats
// would then overtake each other. PING is asked because it is refused whenever locks would be (LOADING, MASTERDOWN, a busy script), so the store
// does not come up only to see every call fail.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sidecar/log.h"
#include "sidecar/redis_call.h"
#include "sidecar/redis_handshake.h"

enum {
    MAX_PASSWORD = 4096,
};

static const char *const step_names[REDIS_HANDSHAKE_STEPS] = {
    [REDIS_HANDSHAKE_AUTH] = "AUTH",           [REDIS_HANDSHAKE_SELECT] = "SELECT",
    [REDIS_HANDSHAKE_NAME] = "CLIENT SETNAME", [REDIS_HANDSHAKE_ID] = "CLIENT ID",
    [REDIS_HANDSHAKE_SERVER] = "INFO server",  [REDIS_HANDSHAKE_ROLE] = "INFO replication",
    [REDIS_HANDSHAKE_LOAD] = "SCRIPT LOAD",    [REDIS_HANDSHAKE_PING] = "PING",
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

int redis_handshake_begin(struct redis_handshake *handshake, const struct redis_url *url,
                          const char *password_file, struct buf *out,
                          enum redis_handshake_step steps[REDIS_HANDSHAKE_MAX_REPLIES], char *error,
                          size_t error_size)
{
    int count = 0;
    int r;

    *handshake = (struct redis_handshake){0};
    r = begin_auth(url, password_file, out, error, error_size);
    if (r < 0)
        return r;
    if (r > 0)
        steps[count++] = REDIS_HANDSHAKE_AUTH;
    if (url->database > 0) {
        char database[16];

        snprintf(database, sizeof database, "%d", url->database);
        redis_call_write_words(out, (const char *const[]){"SELECT", database}, 2);
        steps[count++] = REDIS_HANDSHAKE_SELECT;
    }
    redis_call_write_words(out, (const char *const[]){"CLIENT", "SETNAME", "lock-keeper"}, 3);
    steps[count++] = REDIS_HANDSHAKE_NAME;
    redis_call_write_words(out, (const char *const[]){"CLIENT", "ID"}, 2);
    steps[count++] = REDIS_HANDSHAKE_ID;
    redis_call_write_words(out, (const char *const[]){"INFO", "server"}, 2);
    steps[count++] = REDIS_HANDSHAKE_SERVER;
    redis_call_write_words(out, (const char *const[]){"INFO", "replication"}, 2);
    steps[count++] = REDIS_HANDSHAKE_ROLE;
    for (int i = 0; i < REDIS_SCRIPT_COUNT; i++) {
        redis_call_write_words(out, (const char *const[]){"SCRIPT", "LOAD", redis_scripts[i].text},
                               3);
        steps[count++] = REDIS_HANDSHAKE_LOAD;
    }
    redis_call_write_words(out, (const char *const[]){"PING"}, 1);
    steps[count++] = REDIS_HANDSHAKE_PING;
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

int redis_handshake_answer(struct redis_handshake *handshake, enum redis_handshake_step step,
                           const struct redis_reply *reply, char *error, size_t error_size)
{
    if (redis_reply_is(reply, REDIS_REPLY_IS_ERROR)) {
        char words[REDIS_REPLY_WORDS_SIZE];

        redis_reply_words(reply, words);
        if (is_fatal(step, reply)) {
            snprintf(error, error_size, "%s", words);
            return -EACCES;
        }
        log_warn("Redis refuses a command of the handshake",
                 LOG_FIELD_STR("command", step_names[step]), LOG_FIELD_STR("error", words));
        return 0;
    }
    if (step == REDIS_HANDSHAKE_ID && redis_reply_is(reply, REDIS_REPLY_IS_INTEGER))
        handshake->client_id = reply->integer;
    if (step == REDIS_HANDSHAKE_SERVER && redis_reply_is(reply, REDIS_REPLY_IS_STRING)) {
        take_field(reply, "run_id", handshake->run_id, sizeof handshake->run_id);
        take_field(reply, "redis_version", handshake->version, sizeof handshake->version);
    }
    if (step == REDIS_HANDSHAKE_ROLE && redis_reply_is(reply, REDIS_REPLY_IS_STRING))
        take_field(reply, "role", handshake->role, sizeof handshake->role);
    return 0;
}
