// SPDX-License-Identifier: Apache-2.0
//
// The server. Its socket is bound once, for all inputs, and its file removed at once: what remains is
// a descriptor of the file, whose name in /proc/self/fd connects as the file did. So nothing is left
// behind by an input that crashes.
//
// It has one connection, the newest. Commands stay in `input` until they are answered, whole or not.
// It executes a command when it answers it, which is as if Redis had been slow. What a connection
// leaves behind unanswered is its ghost, until CLIENT KILL ends it, the server restarts, or its time
// is over.

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sidecar/redis_scripts.h"
#include "sidecar/store.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/store_server.h"

enum {
    MAX_WORDS = 512,
};

// A command: words in the input buffer.
struct command {
    size_t count;
    size_t size; // bytes in all
    const char *words[MAX_WORDS];
    size_t lengths[MAX_WORDS];
};

static int listener = -1;
static char path[32];

// ---- The socket ----

static void bind_once(void)
{
    char folder[] = "/tmp/fuzz_store.XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int file;

    FUZZ_CHECK(mkdtemp(folder));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", folder);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    FUZZ_CHECK(listener >= 0);
    FUZZ_CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    FUZZ_CHECK(listen(listener, 64) == 0);
    file = open(address.sun_path, O_PATH | O_CLOEXEC);
    FUZZ_CHECK(file >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    unlink(address.sun_path);
    rmdir(folder);
}

const char *server_path(void)
{
    if (listener < 0)
        bind_once();
    return path;
}

void server_open(struct server *server)
{
    memset(server, 0, sizeof *server);
    server->connection = -1;
}

static void drop_ghost(struct server_ghost *ghost)
{
    buf_deinit(&ghost->input);
    *ghost = (struct server_ghost){0};
}

// In place of the oldest.
static void leave_ghost(struct server *server)
{
    struct server_ghost *ghosts = server->ghosts;

    drop_ghost(&ghosts[0]);
    memmove(ghosts, ghosts + 1, (SERVER_GHOSTS - 1) * sizeof ghosts[0]);
    ghosts[SERVER_GHOSTS - 1] = (struct server_ghost){
        .client_id = server->client_id,
        .until_ms = server->read_ms + SERVER_LIFE_MS,
        .input = server->input,
    };
    server->input = BUF_INIT;
}

void server_hang_up(struct server *server)
{
    if (server->connection >= 0) {
        close(server->connection);
        leave_ghost(server);
    }
    server->connection = -1;
    buf_deinit(&server->output);
}

static void drop_ghosts(struct server *server, int64_t client_id)
{
    for (int i = 0; i < SERVER_GHOSTS; i++)
        if (client_id == 0 || server->ghosts[i].client_id == client_id)
            drop_ghost(&server->ghosts[i]);
}

void server_close(struct server *server)
{
    int fd;

    server_hang_up(server);
    drop_ghosts(server, 0);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        close(fd);
}

void server_restart(struct server *server)
{
    server_hang_up(server);
    drop_ghosts(server, 0);
    memset(server->keys, 0, sizeof server->keys);
    server->scripts_lost = true;
    server->client_id = 0;
    server->run++;
}

// ---- Commands ----

// A number after `sign`, and its "\r\n". False: it is not all there yet.
static bool take_header(const struct buf *input, size_t *at, char sign, size_t *number)
{
    const char *bytes = buf_bytes(input);
    size_t length = buf_length(input);
    size_t i = *at;

    *number = 0;
    if (i >= length)
        return false;
    FUZZ_CHECK(bytes[i] == sign);
    for (i++; i < length && bytes[i] != '\r'; i++) {
        FUZZ_CHECK(bytes[i] >= '0' && bytes[i] <= '9');
        *number = *number * 10 + (size_t)(bytes[i] - '0');
        FUZZ_CHECK(*number < 100000);
    }
    if (i + 1 >= length)
        return false;
    FUZZ_CHECK(bytes[i + 1] == '\n');
    *at = i + 2;
    return true;
}

static bool take_command(const struct buf *input, struct command *command)
{
    size_t at = 0;

    if (!take_header(input, &at, '*', &command->count))
        return false;
    FUZZ_CHECK(command->count > 0 && command->count <= MAX_WORDS);
    for (size_t i = 0; i < command->count; i++) {
        if (!take_header(input, &at, '$', &command->lengths[i]) ||
            buf_length(input) - at < command->lengths[i] + 2)
            return false;
        command->words[i] = buf_bytes(input) + at;
        at += command->lengths[i] + 2;
        FUZZ_CHECK(memcmp(buf_bytes(input) + at - 2, "\r\n", 2) == 0);
    }
    command->size = at;
    return true;
}

static bool is(const struct command *command, size_t word, const char *text)
{
    return word < command->count && command->lengths[word] == strlen(text) &&
           memcmp(command->words[word], text, strlen(text)) == 0;
}

static size_t number_in(const struct command *command, size_t word)
{
    size_t number = 0;

    FUZZ_CHECK(word < command->count && command->lengths[word] > 0);
    for (size_t i = 0; i < command->lengths[word]; i++) {
        FUZZ_CHECK(command->words[word][i] >= '0' && command->words[word][i] <= '9');
        number = number * 10 + (size_t)(command->words[word][i] - '0');
    }
    return number;
}

// ---- Answers ----

__attribute__((format(printf, 2, 3))) static void say(struct server *server, const char *format,
                                                      ...)
{
    char line[512];
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    FUZZ_CHECK(length > 0 && (size_t)length < sizeof line);
    buf_append(&server->output, line, (size_t)length);
}

static void say_text(struct server *server, const char *text)
{
    say(server, "$%zu\r\n%s\r\n", strlen(text), text);
}

// ---- Keys ----

// The lease that the head of a value, "<token> <instance> lk1 ", belongs to.
static size_t lease_of(const struct command *command, size_t word)
{
    char digits[9] = "";
    size_t lease;

    FUZZ_CHECK(word < command->count && command->lengths[word] == 54);
    memcpy(digits, command->words[word], 8);
    lease = strtoul(digits, NULL, 16);
    FUZZ_CHECK(lease > 0 && lease <= SERVER_LEASES);
    return lease;
}

static struct server_key *find_key(struct server *server, const struct command *command,
                                   size_t word)
{
    struct server_key *key = NULL;
    char name[sizeof key->name] = "";

    FUZZ_CHECK(word < command->count && command->lengths[word] < sizeof name);
    memcpy(name, command->words[word], command->lengths[word]);
    FUZZ_CHECK(strncmp(name, "lock:", 5) == 0);
    for (int i = 0; i < SERVER_LEASES; i++) {
        if (strcmp(server->keys[i].name, name) == 0)
            return &server->keys[i];
        if (!key && !server->keys[i].name[0])
            key = &server->keys[i];
    }
    FUZZ_CHECK(key);
    strcpy(key->name, name);
    key->head[0] = '\0';
    return key;
}

static bool owns(const struct server_key *key, const struct command *command, size_t word)
{
    return strlen(key->head) == command->lengths[word] &&
           memcmp(key->head, command->words[word], command->lengths[word]) == 0;
}

static void execute_acquire(struct server *server, const struct command *command)
{
    struct server_key *key = find_key(server, command, 3);
    size_t lease = lease_of(command, 5);

    FUZZ_CHECK(command->count == 10 && number_in(command, 2) == 2);
    FUZZ_CHECK(number_in(command, 6) > 0 && number_in(command, 7) > 0);
    if (key->head[0] && !owns(key, command, 5)) {
        server->no[STORE_ACQUIRE][lease]++;
        buf_append_string(&server->output, "*3\r\n:0\r\n:1500\r\n");
        say_text(server, key->head);
        return;
    }
    memcpy(key->head, command->words[5], command->lengths[5]);
    server->yes[STORE_ACQUIRE][lease]++;
    buf_append_string(&server->output, "*2\r\n:1\r\n");
    say(server, ":%zu\r\n", SERVER_FENCE + lease);
}

static void execute_renew(struct server *server, const struct command *command)
{
    size_t keys = number_in(command, 2);

    FUZZ_CHECK(keys > 0 && command->count == 3 + 3 * keys);
    say(server, "*%zu\r\n", keys);
    for (size_t i = 0; i < keys; i++) {
        size_t head = 3 + keys + 2 * i;
        bool mine = owns(find_key(server, command, 3 + i), command, head);

        FUZZ_CHECK(number_in(command, head + 1) > 0);
        (mine ? server->yes : server->no)[STORE_RENEW][lease_of(command, head)]++;
        say(server, ":%d\r\n", mine);
    }
}

static void execute_release(struct server *server, const struct command *command)
{
    struct server_key *key = find_key(server, command, 3);
    bool mine = owns(key, command, 4);

    FUZZ_CHECK(command->count == 5 && number_in(command, 2) == 1);
    if (mine)
        key->head[0] = '\0';
    (mine ? server->yes : server->no)[STORE_RELEASE][lease_of(command, 4)]++;
    say(server, ":%d\r\n", mine);
}

static bool is_script(const struct command *command, enum redis_script_name name)
{
    return is(command, 0, "EVAL") ? is(command, 1, redis_scripts[name].text)
                                  : is(command, 1, redis_scripts[name].sha);
}

// A script that asks for something and changes nothing.
static void execute_other(struct server *server, const struct command *command)
{
    int name = 0;

    while (name < REDIS_SCRIPT_COUNT && !is_script(command, (enum redis_script_name)name))
        name++;
    FUZZ_CHECK(name < REDIS_SCRIPT_COUNT);
    say_text(server, "");
}

static void execute_script(struct server *server, const struct command *command)
{
    if (is(command, 0, "EVAL"))
        server->scripts_lost = false;
    if (server->scripts_lost)
        buf_append_string(&server->output, "-NOSCRIPT No matching script.\r\n");
    else if (is_script(command, REDIS_SCRIPT_ACQUIRE))
        execute_acquire(server, command);
    else if (is_script(command, REDIS_SCRIPT_RENEW))
        execute_renew(server, command);
    else if (is_script(command, REDIS_SCRIPT_RELEASE))
        execute_release(server, command);
    else
        execute_other(server, command);
}

static void execute_info(struct server *server, const struct command *command)
{
    char text[128];

    if (is(command, 1, "replication"))
        snprintf(text, sizeof text, "# Replication\r\nrole:master\r\n");
    else if (is(command, 1, "memory"))
        snprintf(text, sizeof text, "# Memory\r\nmaxmemory_policy:allkeys-lru\r\n");
    else
        snprintf(text, sizeof text, "# Server\r\nredis_version:7.0.15\r\nrun_id:%040d\r\n",
                 server->run);
    say_text(server, text);
}

// It never kills the one that asks, nor one that is yet to come; but asks whether it may.
static void execute_kill(struct server *server, const struct command *command)
{
    size_t id = number_in(command, 3);

    FUZZ_CHECK(is(command, 2, "ID"));
    FUZZ_CHECK(server->lied || id == INT64_MAX || id < (size_t)server->client_id);
    drop_ghosts(server, (int64_t)id);
    say(server, ":%d\r\n", id != INT64_MAX);
}

static void execute(struct server *server, const struct command *command)
{
    if (is(command, 0, "EVAL") && is(command, 2, "0")) {
        say(server, ":0\r\n");
    } else if (is(command, 0, "EVALSHA") || is(command, 0, "EVAL")) {
        execute_script(server, command);
    } else if (is(command, 0, "INFO")) {
        execute_info(server, command);
    } else if (is(command, 0, "SCRIPT")) {
        server->scripts_lost = false;
        say_text(server, "digest");
    } else if (is(command, 0, "CLIENT") && is(command, 1, "ID")) {
        say(server, ":%lld\r\n", (long long)server->client_id);
    } else if (is(command, 0, "CLIENT") && is(command, 1, "KILL")) {
        execute_kill(server, command);
    } else if (is(command, 0, "TIME")) {
        say(server, "*2\r\n$10\r\n1790000000\r\n$1\r\n0\r\n");
    } else if (is(command, 0, "PING")) {
        say(server, "+PONG\r\n");
    } else {
        FUZZ_CHECK(is(command, 0, "AUTH") || is(command, 0, "SELECT") || is(command, 0, "CLIENT"));
        say(server, "+OK\r\n");
    }
}

bool server_answer(struct server *server, const char *error)
{
    static struct command command;

    if (server->connection < 0 || !take_command(&server->input, &command))
        return false;
    if (error)
        say(server, "-%s\r\n", error);
    else
        execute(server, &command);
    buf_consume(&server->input, command.size);
    return true;
}

static bool holds_acquire(const struct buf *input, uint32_t lease)
{
    static struct command command;
    struct buf rest = *input; // read only, and given back by its owner

    while (take_command(&rest, &command)) {
        if (is_script(&command, REDIS_SCRIPT_ACQUIRE) && command.count == 10 &&
            lease_of(&command, 5) == lease)
            return true;
        buf_consume(&rest, command.size);
    }
    return false;
}

bool server_may_acquire(const struct server *server, uint32_t lease)
{
    for (int i = 0; i < SERVER_GHOSTS; i++)
        if (server->now_ms < server->ghosts[i].until_ms &&
            holds_acquire(&server->ghosts[i].input, lease))
            return true;
    return holds_acquire(&server->input, lease);
}

void server_lie(struct server *server, const char *bytes, size_t size)
{
    if (server->connection < 0)
        return;
    server->lied = true;
    buf_append(&server->output, bytes, size);
}

// ---- A turn ----

static void read_input(struct server *server)
{
    char chunk[16384];
    ssize_t size;

    while (server->connection >= 0 &&
           (size = recv(server->connection, chunk, sizeof chunk, 0)) > 0) {
        buf_append(&server->input, chunk, (size_t)size);
        server->read_ms = server->now_ms;
    }
}

static void accept_one(struct server *server)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return;
    read_input(server);
    server_hang_up(server);
    if (server->refusing) {
        close(fd);
        return;
    }
    server->connection = fd;
    server->client_id++;
}

static void send_output(struct server *server)
{
    size_t size = buf_length(&server->output);
    ssize_t sent;

    if (server->connection < 0 || size == 0)
        return;
    if (server->chunk > 0 && size > server->chunk)
        size = server->chunk;
    sent = send(server->connection, buf_bytes(&server->output), size, MSG_NOSIGNAL);
    if (sent > 0)
        buf_consume(&server->output, (size_t)sent);
}

void server_turn(struct server *server)
{
    accept_one(server);
    read_input(server);
    while (!server->manual && server_answer(server, NULL))
        ;
    send_output(server);
}
