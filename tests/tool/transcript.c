// SPDX-License-Identifier: Apache-2.0
//
// Replaying transcripts.
//
// Model: a replay goes through the block's lines once, from the first to the last. It has up to 26
// connections, one of them current, and the names that placeholders have kept.
//
// A received line's pattern becomes a pattern of pattern.h: a bare <word> becomes a string there,
// "<int:word>", so that the line is JSON; a trailing ",...}" becomes "}" and allows other members.

#include <check.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"
#include "tests/tool/pattern.h"
#include "tests/tool/transcript.h"

#ifndef PROTOCOL_TEXT_PATH
#define PROTOCOL_TEXT_PATH "protocol/PROTOCOL.md"
#endif

enum {
    UNTIL_MS = 5000,
    MAX_FLAGS = 16,
};

struct replay {
    struct line_client connections[26];
    bool open[26];
    bool half_closed[26];
    int current;
    json_t *names;
    char *rest; // the lines to come
    int line;
};

// ---- Extraction ----

// No test runs yet: check's asserts, and so the scratch, may not be used.
static char *read_whole(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t size = 0;

    if (!file || getdelim(&text, &size, '\0', file) < 0) {
        free(text);
        text = strdup("");
    }
    if (file)
        fclose(file);
    return text;
}

size_t transcript_load_all(const char *path, struct transcript **all)
{
    char *text = read_whole(path ? path : PROTOCOL_TEXT_PATH), *next = text;
    struct transcript *grown;
    size_t count = 0, length;
    bool inside = false;

    *all = NULL;
    for (int line = 1; *next; line++, next += length + (next[length] == '\n')) {
        length = strcspn(next, "\n");
        if (!inside && length == 13 && strncmp(next, "```transcript", 13) == 0) {
            grown = realloc(*all, (count + 1) * sizeof **all);
            if (!grown)
                abort();
            *all = grown;
            grown[count++] = (struct transcript){.text = next + length + 1, .line = line + 1};
            inside = true;
        } else if (inside && length == 3 && strncmp(next, "```", 3) == 0) {
            grown = *all + count - 1;
            grown->text = strndup(grown->text, (size_t)(next - grown->text));
            inside = false;
        }
    }
    if (inside) // a block without an end
        count--;
    free(text);
    return count;
}

void transcript_free_all(struct transcript *all, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(all[i].text);
    free(all);
}

// ---- Text ----

static void stop_at(const struct replay *replay, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

static void stop_at(const struct replay *replay, const char *format, ...)
{
    char message[4096];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    ck_abort_msg("PROTOCOL.md:%d: %s", replay->line, message);
}

static const char *after(const char *text, const char *prefix)
{
    size_t length = strlen(prefix);

    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

// The word of a placeholder that begins at text, or 0 where there is none.
static size_t placeholder(const char *text, char word[64])
{
    int length = 0;

    return sscanf(text, "<%63[a-z_0-9:]>%n", word, &length) == 1 && length > 0 ? (size_t)length : 0;
}

static void put_value(struct replay *replay, FILE *out, const char *word)
{
    const json_t *value = json_object_get(replay->names, word);
    unsigned fill;

    if (sscanf(word, "fill:%u", &fill) == 1) {
        while (fill-- > 0)
            fputc('x', out);
    } else if (json_is_string(value)) {
        fputs(json_string_value(value), out);
    } else if (json_is_integer(value)) {
        fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else {
        stop_at(replay, "<%s> has no value yet", word);
    }
}

// A line to send: names have become values. To be freed.
static char *fill_in(struct replay *replay, const char *line)
{
    char *text = NULL, word[64];
    size_t size, length;
    FILE *out = open_memstream(&text, &size);

    ck_assert_ptr_nonnull(out);
    while (*line) {
        length = placeholder(line, word);
        if (length > 0) {
            put_value(replay, out, word);
            line += length;
        } else {
            fputc(*line++, out);
        }
    }
    fclose(out);
    return text;
}

// A pattern from a line to receive. *exact: no other members may be there.
static json_t *read_pattern(const char *line, bool *exact)
{
    char *text = NULL, word[64];
    size_t size, length = strlen(line);
    FILE *out = open_memstream(&text, &size);
    const char *end = line + length;
    json_t *pattern;

    ck_assert_ptr_nonnull(out);
    *exact = length < 5 || strcmp(end - 5, ",...}") != 0;
    if (!*exact)
        end -= 5;
    for (char before = '\0'; line < end; before = line[-1]) {
        length = before == '"' ? 0 : placeholder(line, word);
        if (length == 0) {
            fputc(*line++, out);
            continue;
        }
        if (strcmp(word, "int") == 0 || strcmp(word, "bool") == 0)
            fprintf(out, "\"<%s>\"", word);
        else
            fprintf(out, "\"<int:%s>\"", word);
        line += length;
    }
    if (!*exact)
        fputc('}', out);
    fclose(out);
    pattern = pattern_parse(text);
    free(text);
    return pattern;
}

// ---- Steps ----

static struct line_client *client_of(struct replay *replay)
{
    if (!replay->open[replay->current])
        stop_at(replay, "the connection is closed");
    return &replay->connections[replay->current];
}

static void go_to(struct replay *replay, int connection)
{
    replay->current = connection;
    if (replay->open[connection])
        return;
    line_client_connect(&replay->connections[connection], sidecar.socket);
    replay->open[connection] = true;
}

static void send_line(struct replay *replay, const char *line)
{
    char *text = fill_in(replay, line);
    size_t length = strlen(text);

    text[length] = '\n'; // in place of the NUL
    if (!line_client_send_bytes(client_of(replay), text, length + 1))
        stop_at(replay, "the sidecar has closed the connection");
    free(text);
}

static bool receive(struct replay *replay, const char *line, char *why, size_t size)
{
    struct line_client *client = client_of(replay);
    bool exact, fits;
    json_t *pattern = read_pattern(line, &exact);

    if (!line_client_wait(client, UNTIL_MS))
        stop_at(replay, "no line within %d ms", UNTIL_MS);
    line_client_receive(client);
    fits = pattern_matches(pattern, client->json, replay->names, exact, why, size);
    json_decref(pattern);
    return fits;
}

static void expect_line(struct replay *replay, const char *line)
{
    char why[512];

    if (!receive(replay, line, why, sizeof why))
        stop_at(replay, "%s; got %s; expected %s", why, client_of(replay)->line, line);
}

static char *next_line(struct replay *replay)
{
    char *line = replay->rest;
    size_t length = strcspn(line, "\n");

    if (line[0] == '\0')
        return NULL;
    replay->rest = line + length + (line[length] == '\n');
    line[length] = '\0';
    replay->line++;
    return line;
}

static void until_reply(struct replay *replay, const char *request)
{
    int64_t deadline = scratch_deadline(UNTIL_MS);
    const char *line = next_line(replay);
    const char *pattern = line ? after(line, "<- ") : NULL;
    char why[512];

    if (!pattern)
        stop_at(replay, "no <- line after # until: ->");
    for (;;) {
        send_line(replay, request);
        if (receive(replay, pattern, why, sizeof why))
            return;
        if (scratch_left(deadline) == 0)
            stop_at(replay, "not within %d ms: %s; got %s; expected %s", UNTIL_MS, why,
                    client_of(replay)->line, pattern);
        scratch_pause_ms(5);
    }
}

static bool prints_as(const redisReply *reply, const char *text)
{
    char number[24];

    if (reply->type == REDIS_REPLY_NIL)
        return text[0] == '\0';
    if (reply->type != REDIS_REPLY_INTEGER)
        return reply->str && strcmp(reply->str, text) == 0;
    snprintf(number, sizeof number, "%lld", reply->integer);
    return strcmp(number, text) == 0;
}

// hiredis splits a format at its spaces; a command of a transcript has nothing to format.
static const redisReply *run_redis(struct replay *replay, const char *command)
{
    if (strchr(command, '%'))
        stop_at(replay, "a %% in a command to Redis");
    return private_redis_reply(&redis, command);
}

static void until_redis(struct replay *replay, char *condition)
{
    int64_t deadline = scratch_deadline(UNTIL_MS);
    char *is = strstr(condition, " is ");

    if (!is)
        stop_at(replay, "# until: without \" is \"");
    *is = '\0';
    while (!prints_as(run_redis(replay, condition), is + 4)) {
        if (scratch_left(deadline) == 0)
            stop_at(replay, "%s is not %s within %d ms", condition, is + 4, UNTIL_MS);
        scratch_pause_ms(1);
    }
}

static void signal_sidecar(struct replay *replay, const char *name)
{
    if (strcmp(name, "SIGTERM") == 0)
        sidecar_process_stop(&sidecar, SIGTERM);
    else if (strcmp(name, "SIGUSR2") == 0)
        sidecar_process_stop(&sidecar, SIGUSR2);
    else
        stop_at(replay, "an unknown signal: %s", name);
}

// "<slot> is valid", or "<slot> is 0".
static void check_slot(struct replay *replay, const char *condition)
{
    char *text = fill_in(replay, condition), *end;
    long long slot = strtoll(text, &end, 10);
    const struct line_client *client = client_of(replay);

    if (!client->page || slot < 0 || slot >= WIRE_PAGE_SLOTS)
        stop_at(replay, "no page, or slot %lld is not in it", slot);
    if (strcmp(end, " is valid") == 0 ? !line_client_valid(client, slot)
                                      : line_client_slot(client, slot) != 0)
        stop_at(replay, "slot %lld says %lld", slot, (long long)line_client_slot(client, slot));
    if (strcmp(end, " is valid") != 0 && strcmp(end, " is 0") != 0)
        stop_at(replay, "# slot: N is valid, or is 0");
    free(text);
}

static void close_connection(struct replay *replay)
{
    line_client_close(client_of(replay));
    replay->open[replay->current] = replay->half_closed[replay->current] = false;
}

static void directive(struct replay *replay, char *line)
{
    const char *rest;

    if (strcmp(line, "wait") == 0)
        return;
    if (strcmp(line, "half-close") == 0) {
        line_client_half_close(client_of(replay));
        replay->half_closed[replay->current] = true;
    } else if (strcmp(line, "close") == 0) {
        close_connection(replay);
    } else if (strcmp(line, "eof") == 0) {
        line_client_expect_eof(client_of(replay));
        close_connection(replay);
    } else if (strcmp(line, "redis: stop") == 0) {
        private_redis_kill(&redis);
    } else if ((rest = after(line, "connection ")) && *rest >= 'A' && *rest <= 'Z' && !rest[1]) {
        go_to(replay, *rest - 'A');
    } else if (strcmp(line, "page") == 0) {
        line_client_map_page(client_of(replay));
    } else if ((rest = after(line, "slot: "))) {
        check_slot(replay, rest);
    } else if ((rest = after(line, "redis: "))) {
        run_redis(replay, rest);
    } else if ((rest = after(line, "until: -> "))) {
        until_reply(replay, rest);
    } else if (after(line, "until: ")) {
        until_redis(replay, line + strlen("until: "));
    } else if ((rest = after(line, "sidecar: "))) {
        signal_sidecar(replay, rest);
    } else {
        stop_at(replay, "an unknown directive: # %s", line);
    }
}

static void step(struct replay *replay, char *line)
{
    const char *rest;

    if ((rest = after(line, "-> ")))
        send_line(replay, rest);
    else if ((rest = after(line, "<- ")))
        expect_line(replay, rest);
    else if (after(line, "# "))
        directive(replay, line + 2);
    else
        stop_at(replay, "neither ->, <- nor #: %s", line);
}

// ---- The whole ----

// Starts the sidecar with the flags of the first line, if that has any, and waits until it has
// reached its Redis, on connection A.
static void begin(struct replay *replay)
{
    const char *arguments[MAX_FLAGS + 3] = {"--lock-ttl", "2s"};
    bool flags = after(replay->rest, "# flags: ") != NULL;
    char *words = flags ? next_line(replay) + strlen("# flags: ") : NULL, *rest;
    int64_t deadline;
    size_t n = 2;

    for (char *word = flags ? strtok_r(words, " ", &rest) : NULL; word;
         word = strtok_r(NULL, " ", &rest)) {
        ck_assert_uint_lt(n, MAX_FLAGS + 2);
        arguments[n++] = word;
    }
    sidecar_process_start_with(&sidecar, redis.url, arguments);
    go_to(replay, 0);
    deadline = scratch_deadline(UNTIL_MS);
    do {
        line_client_ping(client_of(replay));
        if (scratch_left(deadline) == 0)
            stop_at(replay, "Redis is not up");
    } while (strcmp(line_client_string(client_of(replay), "redis"), "up") != 0);
}

// Nothing may have come that the transcript does not show. A ping shows that nothing more does.
static void end_connection(struct replay *replay)
{
    struct line_client *client = client_of(replay);
    bool ping = !replay->half_closed[replay->current] && !client->ended;

    if (ping && !line_client_send_bytes(client, "{\"id\":\"end\",\"op\":\"ping\"}\n", 25))
        ping = false;
    while (ping || (line_client_wait(client, 0) && buf_length(&client->input) > 0)) {
        const json_t *event;

        line_client_receive(client);
        event = line_client_member(client, "event");
        if (ping && !event && strcmp(line_client_string(client, "op"), "ping") == 0)
            ping = false;
        else if (!event || strcmp(json_string_value(event), "renewed") != 0)
            stop_at(replay, "not in the transcript: %s", client->line);
    }
    close_connection(replay);
}

void transcript_replay(const struct transcript *transcript)
{
    char *text = strdup(transcript->text), *line;
    struct replay replay = {.names = json_object(), .rest = text, .line = transcript->line - 1};

    ck_assert_ptr_nonnull(text);
    begin(&replay);
    while ((line = next_line(&replay)))
        step(&replay, line);
    for (replay.current = 0; replay.current < 26; replay.current++) {
        if (replay.open[replay.current])
            end_connection(&replay);
    }
    json_decref(replay.names);
    free(text);
}
