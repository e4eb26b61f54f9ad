// SPDX-License-Identifier: Apache-2.0
//
// A message is one value; an array is one value that announces others. So counting how many values
// are still to come needs no stack: each array adds its length, each value takes one.

#include <stdlib.h>
#include <string.h>

#include "sidecar/redis_scripts.h"
#include "tests/tool/resp.h"

static int end_value(struct resp_scan *scan)
{
    if (scan->more > 0) {
        scan->more--;
        return 0;
    }
    return 1;
}

static int end_line(struct resp_scan *scan)
{
    int64_t number = strtoll(scan->line + 1, NULL, 10);
    char type = scan->line[0];

    memset(scan->line, 0, sizeof scan->line);
    scan->length = 0;
    switch (type) {
    case '*':
        scan->more += number > 0 ? number : 0;
        return end_value(scan);
    case '$':
        if (number < 0)
            return end_value(scan);
        scan->bulk = number + 2;
        return 0;
    case '+':
    case '-':
    case ':':
        return end_value(scan);
    default:
        return -1;
    }
}

int resp_scan_byte(struct resp_scan *scan, char byte)
{
    if (scan->bulk > 0)
        return --scan->bulk == 0 ? end_value(scan) : 0;
    if (byte == '\n')
        return end_line(scan);
    if (scan->length < sizeof scan->line - 1)
        scan->line[scan->length++] = byte;
    return 0;
}

// The next bulk string of a request: its bytes, and *at moved behind it. NULL: there is none.
static const char *next_word(const char *request, size_t length, size_t *at, size_t *size)
{
    const char *line = memchr(request + *at, '$', length - *at);
    const char *word;

    if (!line)
        return NULL;
    word = memchr(line, '\n', length - (size_t)(line - request));
    if (!word)
        return NULL;
    *size = (size_t)strtoul(line + 1, NULL, 10);
    word++;
    if (*size > length - (size_t)(word - request))
        return NULL;
    *at = (size_t)(word - request) + *size;
    return word;
}

static int is_word(const char *word, size_t size, const char *text)
{
    return word && size == strlen(text) && memcmp(word, text, size) == 0;
}

enum resp_kind resp_kind_of(const char *request, size_t length)
{
    static const enum resp_kind kinds[REDIS_SCRIPT_COUNT] = {
        [REDIS_SCRIPT_ACQUIRE] = RESP_ACQUIRE,
        [REDIS_SCRIPT_RENEW] = RESP_RENEW,
        [REDIS_SCRIPT_RELEASE] = RESP_RELEASE,
        [REDIS_SCRIPT_CHECK] = RESP_OTHER,
    };
    size_t at = 0, size = 0, name_size = 0;
    const char *name = next_word(request, length, &at, &name_size);
    const char *script = name ? next_word(request, length, &at, &size) : NULL;

    if (!is_word(name, name_size, "EVALSHA") && !is_word(name, name_size, "EVAL"))
        return RESP_OTHER;
    for (int i = 0; i < REDIS_SCRIPT_COUNT; i++) {
        if (is_word(script, size, redis_scripts[i].sha) ||
            is_word(script, size, redis_scripts[i].text))
            return kinds[i];
    }
    return RESP_OTHER;
}
