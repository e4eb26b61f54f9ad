// SPDX-License-Identifier: Apache-2.0
//
// Records in words, for explanations and for a readable trace.

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "tests/tool/history.h"

const char *const history_kind_names[HISTORY_KIND_COUNT] = {
#define HISTORY_KIND(symbol, name) [HISTORY_##symbol] = name,
    HISTORY_KINDS(HISTORY_KIND)
#undef HISTORY_KIND
};

struct text {
    char *bytes;
    size_t size;
    size_t length;
};

static __attribute__((format(printf, 2, 3))) void put(struct text *text, const char *format, ...)
{
    va_list arguments;
    int n;

    if (text->length + 1 >= text->size)
        return;
    va_start(arguments, format);
    n = vsnprintf(text->bytes + text->length, text->size - text->length, format, arguments);
    va_end(arguments);
    if (n > 0)
        text->length += (size_t)n;
}

static bool has_token(const struct message_token *token)
{
    for (size_t i = 0; i < sizeof token->bytes; i++)
        if (token->bytes[i])
            return true;
    return false;
}

static void put_ms(struct text *text, const char *name, int64_t us)
{
    if (us == INT64_MAX)
        put(text, " %s never", name);
    else if (us)
        put(text, " %s %.3f", name, (double)us / 1000);
}

static void put_number(struct text *text, const char *name, int64_t number)
{
    if (number)
        put(text, " %s %" PRId64, name, number);
}

void history_format(const struct history_record *record, char *text, size_t size)
{
    struct text out = {.bytes = text, .size = size};
    char digits[WIRE_LEASE_DIGITS + 1] = "";

    put(&out, "%12.3f ms  %-34s", (double)record->at_us / 1000, history_kind_names[record->kind]);
    put_number(&out, "sidecar", record->sidecar);
    put_number(&out, "client", record->client);
    put_number(&out, "request", record->request);
    put_number(&out, "key", record->key);
    if (has_token(&record->token)) {
        message_token_format(&record->token, digits);
        put(&out, " lease %.8s", digits);
    }
    if (record->kind == HISTORY_WROTE_REVOKED)
        put(&out, " reason %s", wire_reason_names[record->reason]);
    if (record->kind == HISTORY_WROTE_RELEASED)
        put(&out, record->ok ? " ok" : " refused");
    if (record->kind == HISTORY_CLOSED)
        put(&out, record->ok ? " as its client left" : " by itself");
    put_number(&out, "fence", record->fence);
    put_number(&out, "ttl_ms", record->ttl_ms);
    put_ms(&out, "until", record->until_us);
    put_ms(&out, "due", record->due_us);
}
