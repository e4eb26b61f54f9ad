// SPDX-License-Identifier: Apache-2.0
//
// A line into a request.
//
// Two tables say what is allowed: fields (which members an op takes, and which it needs) and rules
// (what a member's value may be; the same in every op). A rule has two functions: `check` stores a
// value or refuses it, `expect` puts what is allowed into words, only when a refusal is written. So
// every refusal reads alike: "ttl_ms" must be <what is allowed>, not <what was given>.
//
// jansson reads the line into a tree that lives in arena.h's arena for the length of one
// message_parse, so that a request allocates nothing. While nothing spilled into the heap the tree is
// dropped by forgetting it.
//
// Refusals quote what was sent. They belong to the client that sent it and into no log: it may have
// been a lease.
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/arena.h"
#include "protocol/message.h"
#include "protocol/text.h"

enum { QUOTE_MAX = 40, WORDS_MAX = 120 };

__attribute__((format(printf, 3, 4))) static int
refuse(struct message_error *error, enum wire_error name, const char *format, ...)
{
    va_list args;

    error->error = name;
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    text_trim(error->message);
    return 1;
}

// Copies at most QUOTE_MAX bytes of string, whole characters; "..." tells that it went on.
static const char *shorten(const char *string, size_t length, char text[QUOTE_MAX + 4])
{
    size_t size = length < QUOTE_MAX ? length : QUOTE_MAX;

    memcpy(text, string, size);
    text[size] = '\0';
    text_trim(text);
    if (length > QUOTE_MAX)
        strcat(text, "...");
    return text;
}

// A number as the client would have written it: the shortest of two precisions, with its point.
static void describe_real(double value, char *text, size_t size)
{
    snprintf(text, size, "%.15g", value);
    if (strtod(text, NULL) != value)
        snprintf(text, size, "%.17g", value);
    if (strpbrk(text, ".e") == NULL)
        strncat(text, ".0", size - strlen(text) - 1);
}

// A value in words, for the "not ..." of a refusal.
static const char *describe(const json_t *value, char text[WORDS_MAX])
{
    char quote[QUOTE_MAX + 4];

    switch (json_typeof(value)) {
    case JSON_STRING:
        snprintf(text, WORDS_MAX, "\"%s\"",
                 shorten(json_string_value(value), json_string_length(value), quote));
        break;
    case JSON_INTEGER:
        snprintf(text, WORDS_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        describe_real(json_real_value(value), text, WORDS_MAX);
        break;
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return text;
}

struct rule {
    enum wire_member member;
    // 0: stored; 1: *error is filled; -1: refused with the usual words.
    int (*check)(const struct rule *rule, const json_t *value, struct message_request *request,
                 struct message_error *error);
    void (*expect)(const struct rule *rule, char text[WORDS_MAX]);
    int64_t min; // of an integer, or of the length of a string
    int64_t max;
    const char *unit;     // of an integer, or NULL
    size_t offset;        // where the value goes in struct message_request
    size_t length_offset; // and the length of a string (0: nowhere)
    const char *const *names;
    size_t names_count;
};

static void expect_integer(const struct rule *rule, char text[WORDS_MAX])
{
    snprintf(text, WORDS_MAX, "an integer from %" PRId64 " to %" PRId64 "%s%s%s", rule->min,
             rule->max, rule->unit ? " (" : "", rule->unit ? rule->unit : "",
             rule->unit ? ")" : "");
}

static int check_integer(const struct rule *rule, const json_t *value,
                         struct message_request *request, struct message_error *error)
{
    int64_t number = json_integer_value(value); // 0 where it is none

    (void)error;
    if (!json_is_integer(value) || number < rule->min || number > rule->max)
        return -1;
    memcpy((char *)request + rule->offset, &number, sizeof number);
    return 0;
}

static void expect_string(const struct rule *rule, char text[WORDS_MAX])
{
    if (rule->min > 0)
        snprintf(text, WORDS_MAX, "a string of %" PRId64 " to %" PRId64 " bytes", rule->min,
                 rule->max);
    else
        snprintf(text, WORDS_MAX, "a string of up to %" PRId64 " bytes", rule->max);
}

static int check_string(const struct rule *rule, const json_t *value,
                        struct message_request *request, struct message_error *error)
{
    const char *name = wire_member_names[rule->member];
    char words[WORDS_MAX];
    const char *string;
    size_t length;
    size_t control;
    uint32_t code;

    if (!json_is_string(value))
        return -1;
    string = json_string_value(value);
    length = json_string_length(value);
    if (length < (size_t)rule->min || length > (size_t)rule->max) {
        rule->expect(rule, words);
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"%s\" must be %s, not one of %zu bytes",
                      name, words, length);
    }
    control = text_find_control(string, length, &code);
    if (control < length)
        return refuse(error, WIRE_ERROR_BAD_REQUEST,
                      "\"%s\" must not hold control characters: remove U+%04X at byte %zu of it",
                      name, (unsigned)code, control);
    memcpy((char *)request + rule->offset, string, length + 1);
    if (rule->length_offset > 0)
        memcpy((char *)request + rule->length_offset, &length, sizeof length);
    return 0;
}

static void expect_id(const struct rule *rule, char text[WORDS_MAX])
{
    (void)rule;
    snprintf(text, WORDS_MAX,
             "a string of up to %d bytes or an integer from %" PRId64 " to %" PRId64, WIRE_MAX_ID,
             -WIRE_MAX_INTEGER, WIRE_MAX_INTEGER);
}

static int check_id(const struct rule *rule, const json_t *value, struct message_request *request,
                    struct message_error *error)
{
    struct message_id *id = (void *)((char *)request + rule->offset);
    int64_t number = json_integer_value(value);
    size_t length = json_string_length(value);

    (void)error;
    if (json_is_integer(value) && number >= -WIRE_MAX_INTEGER && number <= WIRE_MAX_INTEGER) {
        id->kind = MESSAGE_ID_INTEGER;
        id->integer = number;
        return 0;
    }
    // It is kept as a C string.
    if (!json_is_string(value) || length > WIRE_MAX_ID ||
        memchr(json_string_value(value), '\0', length) != NULL)
        return -1;
    id->kind = MESSAGE_ID_STRING;
    id->length = length;
    memcpy(id->string, json_string_value(value), length + 1);
    return 0;
}

// Whether a JSON string is exactly one of names, and which; else -1.
static int find_name(const json_t *value, const char *const *names, size_t count)
{
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
        return -1;
    return wire_find(names, count, json_string_value(value));
}

static void list_names(const char *const *names, size_t count, const char *quote,
                       const char *last_separator, char *text, size_t size)
{
    size_t at = 0;

    for (size_t i = 0; i < count && at < size; i++) {
        const char *separator = i == 0 ? "" : i + 1 < count ? ", " : last_separator;
        int n = snprintf(text + at, size - at, "%s%s%s%s", separator, quote, names[i], quote);

        at += (size_t)n;
    }
}

static void expect_name(const struct rule *rule, char text[WORDS_MAX])
{
    list_names(rule->names, rule->names_count, "\"", " or ", text, WORDS_MAX);
}

static int check_name(const struct rule *rule, const json_t *value, struct message_request *request,
                      struct message_error *error)
{
    int found = find_name(value, rule->names, rule->names_count);

    (void)error;
    if (found < 0)
        return -1;
    memcpy((char *)request + rule->offset, &found, sizeof found);
    return 0;
}

_Static_assert(sizeof(enum wire_bind) == sizeof(int), "stored by check_name");
_Static_assert(sizeof(enum wire_disconnect) == sizeof(int), "stored by check_name");

static void expect_notify(const struct rule *rule, char text[WORDS_MAX])
{
    char names[WORDS_MAX - 32];

    list_names(rule->names, rule->names_count, "\"", " and ", names, sizeof names);
    snprintf(text, WORDS_MAX, "an array of names out of %s", names);
}

static int check_notify(const struct rule *rule, const json_t *value,
                        struct message_request *request, struct message_error *error)
{
    char expected[WORDS_MAX];
    char given[WORDS_MAX];

    if (!json_is_array(value))
        return -1;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        int found = find_name(item, rule->names, rule->names_count);

        if (found < 0) {
            rule->expect(rule, expected);
            return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"notify\" must be %s, not one with %s",
                          expected, describe(item, given));
        }
        if (request->notify >> found & 1)
            return refuse(error, WIRE_ERROR_BAD_REQUEST,
                          "\"notify\" must name \"%s\" once, not twice", rule->names[found]);
        request->notify |= 1u << found;
    }
    return 0;
}

static void expect_lease(const struct rule *rule, char text[WORDS_MAX])
{
    (void)rule;
    snprintf(text, WORDS_MAX, "the %d lower-case hex digits that the acquire reply gave",
             WIRE_LEASE_DIGITS);
}

// A string is not quoted back: it may be a lease with a slip in it.
static int check_lease(const struct rule *rule, const json_t *value,
                       struct message_request *request, struct message_error *error)
{
    size_t length = json_string_length(value);
    char words[WORDS_MAX];

    if (!json_is_string(value))
        return -1;
    if (length == WIRE_LEASE_DIGITS &&
        message_token_parse(json_string_value(value), &request->lease))
        return 0;
    rule->expect(rule, words);
    return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"lease\" must be %s, not these %zu bytes", words,
                  length);
}

static void expect_boolean(const struct rule *rule, char text[WORDS_MAX])
{
    (void)rule;
    strcpy(text, "true or false");
}

static int check_page(const struct rule *rule, const json_t *value, struct message_request *request,
                      struct message_error *error)
{
    (void)rule;
    (void)error;
    if (!json_is_boolean(value))
        return -1;
    request->page = json_is_true(value);
    return 0;
}

#define AT(field) offsetof(struct message_request, field)
#define INTEGER(symbol, field, low, high, in)                                                      \
    [WIRE_MEMBER_##symbol] = {.member = WIRE_MEMBER_##symbol,                                      \
                              .check = check_integer,                                              \
                              .expect = expect_integer,                                            \
                              .min = (low),                                                        \
                              .max = (high),                                                       \
                              .unit = (in),                                                        \
                              .offset = AT(field)}
#define STRING(symbol, field, low, high, length_at)                                                \
    [WIRE_MEMBER_##symbol] = {.member = WIRE_MEMBER_##symbol,                                      \
                              .check = check_string,                                               \
                              .expect = expect_string,                                             \
                              .min = (low),                                                        \
                              .max = (high),                                                       \
                              .offset = AT(field),                                                 \
                              .length_offset = (length_at)}
#define OTHER(symbol, check_fn, expect_fn, field, names_table, count)                              \
    [WIRE_MEMBER_##symbol] = {.member = WIRE_MEMBER_##symbol,                                      \
                              .check = (check_fn),                                                 \
                              .expect = (expect_fn),                                               \
                              .offset = AT(field),                                                 \
                              .names = (names_table),                                              \
                              .names_count = (count)}

static const struct rule rules[WIRE_MEMBER_COUNT] = {
    OTHER(ID, check_id, expect_id, id, NULL, 0),
    STRING(KEY, key, 1, WIRE_MAX_KEY, AT(key_length)),
    OTHER(LEASE, check_lease, expect_lease, lease, NULL, 0),
    INTEGER(TTL_MS, ttl_ms, WIRE_MIN_TTL, WIRE_MAX_INTEGER, "milliseconds"),
    INTEGER(DEADLINE_MS, deadline_ms, 1, WIRE_MAX_INTEGER, "milliseconds"),
    INTEGER(WAIT_MS, wait_ms, -1, WIRE_MAX_INTEGER, "milliseconds; -1: without end"),
    STRING(LABEL, label, 0, WIRE_MAX_LABEL, AT(label_length)),
    OTHER(BIND, check_name, expect_name, bind, wire_bind_names, WIRE_BIND_COUNT),
    INTEGER(PID, pid, 1, INT32_MAX, NULL),
    OTHER(ON_DISCONNECT, check_name, expect_name, on_disconnect, wire_disconnect_names,
          WIRE_DISCONNECT_COUNT),
    OTHER(NOTIFY, check_notify, expect_notify, notify, wire_notify_names, WIRE_NOTIFY_COUNT),
    OTHER(TARGET, check_id, expect_id, target, NULL, 0),
    INTEGER(GRACE_MS, grace_ms, 0, WIRE_MAX_INTEGER, "milliseconds"),
    INTEGER(LIMIT, limit, 1, WIRE_LIST_MAX, NULL),
    STRING(AFTER, after, 0, WIRE_MAX_CURSOR, 0),
    OTHER(PAGE, check_page, expect_boolean, page, NULL, 0),
};

#undef AT
#undef INTEGER
#undef STRING
#undef OTHER

struct field {
    enum wire_member member;
    bool required;
};

// "op" and "id" belong to every op.
#define OPTIONAL(symbol)                                                                           \
    {                                                                                              \
        WIRE_MEMBER_##symbol, false                                                                \
    }
#define REQUIRED(symbol)                                                                           \
    {                                                                                              \
        WIRE_MEMBER_##symbol, true                                                                 \
    }
#define COMMON REQUIRED(OP), OPTIONAL(ID)

static const struct field hello_fields[] = {COMMON, OPTIONAL(PAGE)};
static const struct field acquire_fields[] = {
    COMMON,          REQUIRED(KEY),  OPTIONAL(TTL_MS), OPTIONAL(DEADLINE_MS),   OPTIONAL(WAIT_MS),
    OPTIONAL(LABEL), OPTIONAL(BIND), OPTIONAL(PID),    OPTIONAL(ON_DISCONNECT), OPTIONAL(NOTIFY)};
static const struct field release_fields[] = {COMMON, REQUIRED(LEASE)};
static const struct field cancel_fields[] = {COMMON, REQUIRED(TARGET)};
static const struct field extend_fields[] = {COMMON, REQUIRED(LEASE), REQUIRED(DEADLINE_MS)};
static const struct field adopt_fields[] = {COMMON,          REQUIRED(KEY), REQUIRED(LEASE),
                                            OPTIONAL(BIND),  OPTIONAL(PID), OPTIONAL(ON_DISCONNECT),
                                            OPTIONAL(NOTIFY)};
static const struct field inspect_fields[] = {COMMON, REQUIRED(KEY)};
static const struct field list_fields[] = {COMMON, OPTIONAL(LIMIT), OPTIONAL(AFTER)};
static const struct field ping_fields[] = {COMMON};
static const struct field break_fields[] = {COMMON, REQUIRED(KEY), OPTIONAL(GRACE_MS)};

#undef OPTIONAL
#undef REQUIRED
#undef COMMON

#define FIELDS(symbol, table) [WIRE_OP_##symbol] = {(table), sizeof(table) / sizeof(table)[0]}

static const struct {
    const struct field *fields;
    size_t count;
} forms[WIRE_OP_COUNT] = {
    FIELDS(HELLO, hello_fields),     FIELDS(ACQUIRE, acquire_fields),
    FIELDS(RELEASE, release_fields), FIELDS(CANCEL, cancel_fields),
    FIELDS(EXTEND, extend_fields),   FIELDS(ADOPT, adopt_fields),
    FIELDS(INSPECT, inspect_fields), FIELDS(LIST, list_fields),
    FIELDS(PING, ping_fields),       FIELDS(BREAK, break_fields),
};

#undef FIELDS

bool message_id_equal(const struct message_id *a, const struct message_id *b)
{
    if (a->kind != b->kind)
        return false;
    if (a->kind == MESSAGE_ID_INTEGER)
        return a->integer == b->integer;
    return a->kind == MESSAGE_ID_NONE ||
           (a->length == b->length && memcmp(a->string, b->string, a->length) == 0);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool message_token_parse(const char *digits, struct message_token *token)
{
    for (size_t i = 0; i < sizeof token->bytes; i++) {
        int high = hex_value(digits[2 * i]);
        int low = high < 0 ? -1 : hex_value(digits[2 * i + 1]);

        if (low < 0)
            return false;
        token->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

void message_token_format(const struct message_token *token, char *digits)
{
    static const char hex[] = "0123456789abcdef";

    for (size_t i = 0; i < sizeof token->bytes; i++) {
        digits[2 * i] = hex[token->bytes[i] >> 4];
        digits[2 * i + 1] = hex[token->bytes[i] & 15];
    }
}

// Only what may be read without being given; the strings' first bytes, not all of them.
static void set_defaults(struct message_request *request)
{
    request->op = WIRE_OP_COUNT;
    request->given = 0;
    request->id.kind = request->target.kind = MESSAGE_ID_NONE;
    request->id.integer = request->target.integer = 0;
    request->id.length = request->target.length = 0;
    request->id.string[0] = request->target.string[0] = '\0';
    request->key[0] = request->label[0] = request->after[0] = '\0';
    request->key_length = request->label_length = 0;
    memset(&request->lease, 0, sizeof request->lease);
    request->ttl_ms = request->deadline_ms = request->wait_ms = 0;
    request->grace_ms = request->pid = 0;
    request->bind = WIRE_BIND_CONNECTION;
    request->on_disconnect = WIRE_DISCONNECT_RELEASE;
    request->notify = 0;
    request->limit = WIRE_LIST_DEFAULT;
    request->page = false;
}

// "id" and "op" come first, wherever they stand: a refusal of anything else is to echo them.
static void take_echo(json_t *root, struct message_request *request)
{
    json_t *id = json_object_get(root, wire_member_names[WIRE_MEMBER_ID]);
    json_t *op = json_object_get(root, wire_member_names[WIRE_MEMBER_OP]);
    int found = find_name(op, wire_op_names, WIRE_OP_COUNT);

    if (id != NULL)
        (void)check_id(&rules[WIRE_MEMBER_ID], id, request, NULL);
    request->op = found < 0 ? WIRE_OP_COUNT : (enum wire_op)found;
}

// The same from a tree in which every integer was read as a real.
static void take_echo_of_reals(json_t *root, struct message_request *request)
{
    json_t *id = json_object_get(root, wire_member_names[WIRE_MEMBER_ID]);
    double number = json_real_value(id); // 0 where it is none

    take_echo(root, request);
    if (json_is_real(id) && number >= (double)-WIRE_MAX_INTEGER &&
        number <= (double)WIRE_MAX_INTEGER && (double)(int64_t)number == number) {
        request->id.kind = MESSAGE_ID_INTEGER;
        request->id.integer = (int64_t)number;
    }
}

// The text between the last near '" and "' of jansson's words: the name given twice.
static bool duplicate_name(const json_error_t *why, char name[QUOTE_MAX + 4])
{
    const char *begin = strstr(why->text, "near '\"");
    const char *end = strrchr(why->text, '"');

    if (begin == NULL || end <= begin + strlen("near '\""))
        return false;
    begin += strlen("near '\"");
    shorten(begin, (size_t)(end - begin), name);
    return true;
}

static int refuse_duplicate(const json_error_t *why, struct message_request *request,
                            struct message_error *error)
{
    char name[QUOTE_MAX + 4];

    if (!duplicate_name(why, name))
        return refuse(error, WIRE_ERROR_BAD_REQUEST,
                      "a member is given twice (at byte %d): remove one", why->position);
    // Of two ids neither is the request's; of two ops, neither.
    if (strcmp(name, wire_member_names[WIRE_MEMBER_ID]) == 0)
        request->id.kind = MESSAGE_ID_NONE;
    if (strcmp(name, wire_member_names[WIRE_MEMBER_OP]) == 0)
        request->op = WIRE_OP_COUNT;
    return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"%s\" is given twice (at byte %d): remove one",
                  name, why->position);
}

// jansson stops behind a number that is too big for it and does not say whose it is. Walking back
// from there gives the number's text and, where it is a member's value, the member.
static int refuse_number(const char *line, const json_error_t *why, struct message_error *error)
{
    size_t end = (size_t)why->position;
    size_t begin = end;
    char number[QUOTE_MAX + 4];
    char expected[WORDS_MAX];

    while (begin > 0 && strchr("0123456789+-.eE", line[begin - 1]) != NULL)
        begin--;
    shorten(line + begin, end - begin, number);
    while (begin > 0 && strchr(" \t\r:", line[begin - 1]) != NULL)
        begin--;
    for (size_t i = 0; i < WIRE_MEMBER_COUNT && begin > 1 && line[begin - 1] == '"'; i++) {
        const char *name = wire_member_names[i];
        size_t length = strlen(name);

        if (rules[i].expect == NULL || begin < length + 2 || line[begin - length - 2] != '"' ||
            memcmp(line + begin - length - 1, name, length) != 0)
            continue;
        rules[i].expect(&rules[i], expected);
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"%s\" must be %s, not %s", name, expected,
                      number);
    }
    return refuse(error, WIRE_ERROR_BAD_REQUEST,
                  "the number %s (at byte %d) is out of range: use one from %" PRId64
                  " to %" PRId64,
                  number, why->position, -WIRE_MAX_INTEGER, WIRE_MAX_INTEGER);
}

// jansson quotes what it could not read, cut anywhere.
static void copy_words(const json_error_t *why, char text[JSON_ERROR_TEXT_LENGTH])
{
    size_t size;

    memcpy(text, why->text, JSON_ERROR_TEXT_LENGTH);
    for (; *text != '\0'; text += size) {
        if (text_decode(text, strlen(text), &size) == TEXT_REPLACEMENT && size == 1)
            *text = '?';
    }
}

// A line that jansson does not take.
static int refuse_line(const char *line, size_t length, const json_error_t *why,
                       struct message_request *request, struct message_error *error)
{
    enum json_error_code code = json_error_code(why);
    char words[JSON_ERROR_TEXT_LENGTH];
    int at = why->position;
    json_t *root = NULL;

    // Of these jansson has a way to read on, and so the id can be echoed.
    if (code == json_error_duplicate_key || code == json_error_numeric_overflow)
        root = json_loadb(line, length, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
    if (root != NULL)
        take_echo_of_reals(root, request);
    json_decref(root);

    switch (code) {
    case json_error_duplicate_key:
        return refuse_duplicate(why, request, error);
    case json_error_numeric_overflow:
        return refuse_number(line, why, error);
    case json_error_out_of_memory:
        return refuse(error, WIRE_ERROR_INTERNAL, "the sidecar is out of memory: try again later");
    case json_error_stack_overflow:
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "the line nests too deeply (at byte %d)", at);
    case json_error_invalid_utf8:
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "the line is not UTF-8 (at byte %d)", at);
    case json_error_premature_end_of_input:
        return refuse(error, WIRE_ERROR_BAD_REQUEST,
                      "the line ends within a JSON value (at byte %d): a request is one JSON "
                      "object on one line",
                      at);
    case json_error_end_of_input_expected:
        return refuse(error, WIRE_ERROR_BAD_REQUEST,
                      "something follows the JSON object (at byte %d): end each with a newline",
                      at);
    default:
        copy_words(why, words);
        return refuse(error, WIRE_ERROR_BAD_REQUEST,
                      "the line is not a JSON object: %s (at byte %d)", words, at);
    }
}

static int refuse_op(json_t *root, struct message_error *error)
{
    json_t *op = json_object_get(root, wire_member_names[WIRE_MEMBER_OP]);
    char names[WORDS_MAX];
    char given[WORDS_MAX];

    list_names(wire_op_names, WIRE_OP_COUNT, "", " or ", names, sizeof names);
    if (op == NULL)
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"op\" is missing: it must be one of %s",
                      names);
    if (!json_is_string(op))
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"op\" must be one of %s, not %s", names,
                      describe(op, given));
    return refuse(error, WIRE_ERROR_UNKNOWN_OP, "\"op\" must be one of %s, not %s", names,
                  describe(op, given));
}

static int refuse_member(const char *name, enum wire_op op, struct message_error *error)
{
    const char *known[WIRE_MEMBER_COUNT];
    char names[WORDS_MAX];
    char given[QUOTE_MAX + 4];

    for (size_t i = 0; i < forms[op].count; i++)
        known[i] = wire_member_names[forms[op].fields[i].member];
    list_names(known, forms[op].count, "", " and ", names, sizeof names);
    return refuse(error, WIRE_ERROR_BAD_REQUEST,
                  "\"%s\" is not a member of %s, which takes %s; begin your own with x_",
                  shorten(name, strlen(name), given), wire_op_names[op], names);
}

// One member of the request. 0, or 1 with *error filled.
static int take_member(const char *name, const json_t *value, struct message_request *request,
                       struct message_error *error)
{
    const struct rule *rule = NULL;
    char expected[WORDS_MAX];
    char given[WORDS_MAX];
    int r = 0;

    for (size_t i = 0; i < forms[request->op].count; i++) {
        enum wire_member member = forms[request->op].fields[i].member;

        if (strcmp(wire_member_names[member], name) == 0) {
            rule = &rules[member];
            request->given |= UINT64_C(1) << member;
            break;
        }
    }
    if (rule == NULL)
        return strncmp(name, "x_", 2) == 0 ? 0 : refuse_member(name, request->op, error);
    if (rule->check != NULL)
        r = rule->check(rule, value, request, error);
    if (r >= 0)
        return r;
    rule->expect(rule, expected);
    return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"%s\" must be %s, not %s", name, expected,
                  describe(value, given));
}

// What only shows when all members were read.
static int check_whole(const struct message_request *request, struct message_error *error)
{
    char expected[WORDS_MAX];

    for (size_t i = 0; i < forms[request->op].count; i++) {
        const struct field *field = &forms[request->op].fields[i];

        if (!field->required || message_has(request, field->member))
            continue;
        rules[field->member].expect(&rules[field->member], expected);
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "\"%s\" is missing: %s needs it, %s",
                      wire_member_names[field->member], wire_op_names[request->op], expected);
    }
    if (message_has(request, WIRE_MEMBER_PID) && request->bind != WIRE_BIND_PID)
        return refuse(error, WIRE_ERROR_BAD_REQUEST,
                      "\"pid\" is only allowed with \"bind\":\"pid\": add that or remove it");
    return 0;
}

static int take_root(json_t *root, struct message_request *request, struct message_error *error)
{
    char given[WORDS_MAX];
    int r = 0;

    if (!json_is_object(root))
        return refuse(error, WIRE_ERROR_BAD_REQUEST, "the line must be a JSON object, not %s",
                      describe(root, given));
    take_echo(root, request);
    if (request->op == WIRE_OP_COUNT)
        return refuse_op(root, error);
    for (void *at = json_object_iter(root); at != NULL && r == 0;
         at = json_object_iter_next(root, at))
        r = take_member(json_object_iter_key(at), json_object_iter_value(at), request, error);
    return r != 0 ? r : check_whole(request, error);
}

static void install_arena(void)
{
    json_set_alloc_funcs(arena_alloc, arena_release);
    json_object_seed(0); // now, while there is a descriptor for its entropy
}

int message_parse(const char *line, size_t length, struct message_request *request,
                  struct message_error *error)
{
    static pthread_once_t installed = PTHREAD_ONCE_INIT;
    json_error_t why;
    json_t *root;
    int r;

    pthread_once(&installed, install_arena);
    set_defaults(request);
    arena_open();
    // NUL is let through to be refused as the control character it is, naming the member.
    root =
        json_loadb(line, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    r = root == NULL ? refuse_line(line, length, &why, request, error)
                     : take_root(root, request, error);
    if (arena_spilled())
        json_decref(root);
    arena_close();
    return r;
}

const char *message_library_version(void)
{
#if JANSSON_VERSION_HEX >= 0x020d00
    return jansson_version_str();
#else
    return JANSSON_VERSION;
#endif
}
