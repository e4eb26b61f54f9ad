// SPDX-License-Identifier: Apache-2.0
//
// The value's grammar.
//
// A value that this code would not have written is another locker's, and may itself be the secret
// that frees that lock. So there is no leniency: numbers are canonical, fields are separated by one
// space, nothing follows the last one. The parser is a cursor that each field moves on; the first
// field that does not fit ends it.
#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "protocol/buf.h"
#include "sidecar/value.h"

struct cursor {
    const char *at;
    const char *end;
};

static bool take_text(struct cursor *cursor, const char *text)
{
    size_t length = strlen(text);

    if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, text, length) != 0)
        return false;
    cursor->at += length;
    return true;
}

static bool take_token(struct cursor *cursor, struct store_token *token)
{
    if (cursor->end - cursor->at < VALUE_HEAD_LENGTH ||
        !message_token_parse(cursor->at, &token->token))
        return false;
    cursor->at += WIRE_LEASE_DIGITS;
    if (!take_text(cursor, " "))
        return false;
    for (size_t i = 0; i < WIRE_INSTANCE_DIGITS; i++) {
        char c = cursor->at[i];

        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return false;
        token->instance[i] = c;
    }
    cursor->at += WIRE_INSTANCE_DIGITS;
    return take_text(cursor, " lk1 ");
}

// Canonical decimal, and the space after it.
static bool take_number(struct cursor *cursor, int64_t *number)
{
    const char *start = cursor->at;
    int64_t sum = 0;

    while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9') {
        sum = sum * 10 + (*cursor->at++ - '0');
        if (sum > WIRE_MAX_INTEGER)
            return false;
    }
    if (cursor->at == start || (*start == '0' && cursor->at - start > 1))
        return false;
    *number = sum;
    return take_text(cursor, " ");
}

static bool take_host(struct cursor *cursor, struct value *value)
{
    value->host = cursor->at;
    while (cursor->at<cursor->end && * cursor->at> ' ' && *cursor->at < 0x7f)
        cursor->at++;
    value->host_length = (size_t)(cursor->at - value->host);
    return value->host_length > 0 && value->host_length <= VALUE_MAX_HOST;
}

// The length of one UTF-8 character, 0 where there is none (overlong, a surrogate, over U+10FFFF).
static size_t utf8_length(const unsigned char *s, size_t left)
{
    static const struct {
        unsigned char lead_low, lead_high, next_low, next_high, length;
    } forms[] = {
        {0x20, 0x7e, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (s[0] < forms[i].lead_low || s[0] > forms[i].lead_high)
            continue;
        if (left < forms[i].length)
            return 0;
        if (forms[i].length > 1 && (s[1] < forms[i].next_low || s[1] > forms[i].next_high))
            return 0;
        for (size_t j = 2; j < forms[i].length; j++) {
            if ((s[j] & 0xc0) != 0x80)
                return 0;
        }
        return forms[i].length;
    }
    return 0;
}

// All that is left: nothing, or a space and UTF-8 without ASCII's control characters.
static bool take_label(struct cursor *cursor, struct value *value)
{
    value->label = cursor->end;
    value->label_length = 0;
    if (cursor->at == cursor->end)
        return true;
    if (!take_text(cursor, " "))
        return false;
    value->label = cursor->at;
    value->label_length = (size_t)(cursor->end - cursor->at);
    if (value->label_length == 0 || value->label_length > WIRE_MAX_LABEL)
        return false;
    while (cursor->at < cursor->end) {
        size_t length =
            utf8_length((const unsigned char *)cursor->at, (size_t)(cursor->end - cursor->at));

        if (length == 0)
            return false;
        cursor->at += length;
    }
    return true;
}

int value_parse(const char *text, size_t length, struct value *value)
{
    struct cursor cursor = {text, text + length};

    *value = (struct value){0};
    if (take_token(&cursor, &value->token) && take_number(&cursor, &value->fence) &&
        take_number(&cursor, &value->ttl_ms) && take_number(&cursor, &value->deadline_us) &&
        take_number(&cursor, &value->since_us) && take_number(&cursor, &value->pid) &&
        take_number(&cursor, &value->uid) && take_host(&cursor, value) &&
        take_label(&cursor, value))
        return 0;
    *value = (struct value){0};
    return VALUE_E_FOREIGN;
}

size_t value_format_head(const struct store_token *token, char *head)
{
    message_token_format(&token->token, head);
    head[WIRE_LEASE_DIGITS] = ' ';
    memcpy(head + WIRE_LEASE_DIGITS + 1, token->instance, WIRE_INSTANCE_DIGITS);
    memcpy(head + WIRE_LEASE_DIGITS + 1 + WIRE_INSTANCE_DIGITS, " lk1 ", 5);
    return VALUE_HEAD_LENGTH;
}

size_t value_format_tail(const struct value *value, char *text)
{
    struct buf out = {.data = text, .capacity = VALUE_TAIL_SIZE}; // enough, so it never grows

    assert(value->host_length <= VALUE_MAX_HOST && value->label_length <= WIRE_MAX_LABEL);
    buf_append_int(&out, value->pid);
    buf_append(&out, " ", 1);
    buf_append_int(&out, value->uid);
    buf_append(&out, " ", 1);
    buf_append(&out, value->host, value->host_length);
    if (value->label_length > 0) {
        buf_append(&out, " ", 1);
        buf_append(&out, value->label, value->label_length);
    }
    text[out.end] = 0;
    return out.end;
}

size_t value_format(const struct value *value, char *text)
{
    size_t head = value_format_head(&value->token, text);
    int middle = snprintf(text + head, VALUE_SIZE - head, "%lld %lld %lld %lld ",
                          (long long)value->fence, (long long)value->ttl_ms,
                          (long long)value->deadline_us, (long long)value->since_us);

    assert(middle > 0);
    return head + (size_t)middle + value_format_tail(value, text + head + middle);
}
