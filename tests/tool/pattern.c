// SPDX-License-Identifier: Apache-2.0
//
// Patterns of JSON: a walk over pattern and value side by side, which stops at the first
// difference and says where it was, as a path of members and indices.

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/pattern.h"

struct walk {
    json_t *names;
    bool exact;
    char path[256];
    char *why;
    size_t size;
};

json_t *pattern_parse(const char *text)
{
    json_error_t error;
    json_t *pattern = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);

    ck_assert_msg(pattern != NULL, "pattern %s: %s", text, error.text);
    return pattern;
}

static bool differ(struct walk *walk, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool differ(struct walk *walk, const char *format, ...)
{
    va_list arguments;
    int length = snprintf(walk->why, walk->size, "%s: ", walk->path[0] ? walk->path : "(top)");

    va_start(arguments, format);
    if (length >= 0 && (size_t)length < walk->size)
        vsnprintf(walk->why + length, walk->size - (size_t)length, format, arguments);
    va_end(arguments);
    return false;
}

static bool is_hex(const json_t *value, size_t digits)
{
    const char *text = json_string_value(value);

    return text && strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

static bool named_fits(struct walk *walk, const char *name, json_t *value)
{
    json_t *before = walk->names ? json_object_get(walk->names, name) : NULL;

    if (walk->names && !before)
        json_object_set(walk->names, name, value);
    return !before || json_equal(before, value) || differ(walk, "not the <%s> of before", name);
}

static bool placeholder_fits(struct walk *walk, const char *text, json_t *value)
{
    char name[64] = "";
    unsigned digits;

    if (strcmp(text, "<any>") == 0)
        return true;
    if (strcmp(text, "<bool>") == 0)
        return json_is_boolean(value) || differ(walk, "neither true nor false");
    if (strcmp(text, "<int>") == 0 || sscanf(text, "<int:%63[^>]", name) == 1) {
        if (!json_is_integer(value))
            return differ(walk, "no integer");
        return name[0] == '\0' || named_fits(walk, name, value);
    }
    if (sscanf(text, "<hex:%u>", &digits) == 1)
        return is_hex(value, digits) || differ(walk, "not %u hex digits", digits);
    if (!json_is_string(value))
        return differ(walk, "no string");
    if (strcmp(text, "<string>") == 0)
        return true;
    ck_assert_int_eq(sscanf(text, "<%63[^>]", name), 1);
    return named_fits(walk, name, value);
}

static bool fits(struct walk *walk, const json_t *pattern, json_t *value);

static bool below_fits(struct walk *walk, const json_t *pattern, json_t *value, const char *name,
                       size_t index)
{
    size_t length = strlen(walk->path);
    bool ok;

    if (name)
        snprintf(walk->path + length, sizeof walk->path - length, ".%s", name);
    else
        snprintf(walk->path + length, sizeof walk->path - length, "[%zu]", index);
    ok = value ? fits(walk, pattern, value) : differ(walk, "missing");
    walk->path[length] = '\0';
    return ok;
}

static bool object_fits(struct walk *walk, const json_t *pattern, json_t *value)
{
    const char *name;
    json_t *below;

    if (!json_is_object(value))
        return differ(walk, "no object");
    json_object_foreach((json_t *)(uintptr_t)pattern, name, below)
    {
        if (!below_fits(walk, below, json_object_get(value, name), name, 0))
            return false;
    }
    if (!walk->exact)
        return true;
    json_object_foreach(value, name, below)
    {
        if (!json_object_get(pattern, name))
            return differ(walk, "unexpected member %s", name);
    }
    return true;
}

static bool array_fits(struct walk *walk, const json_t *pattern, json_t *value)
{
    if (!json_is_array(value) || json_array_size(value) != json_array_size(pattern))
        return differ(walk, "no array of %zu", json_array_size(pattern));
    for (size_t i = 0; i < json_array_size(pattern); i++) {
        if (!below_fits(walk, json_array_get(pattern, i), json_array_get(value, i), NULL, i))
            return false;
    }
    return true;
}

static bool fits(struct walk *walk, const json_t *pattern, json_t *value)
{
    const char *text = json_string_value(pattern);
    size_t length = text ? strlen(text) : 0;
    char *want, *have;

    if (length > 2 && text[0] == '<' && text[length - 1] == '>')
        return placeholder_fits(walk, text, value);
    if (json_is_object(pattern))
        return object_fits(walk, pattern, value);
    if (json_is_array(pattern))
        return array_fits(walk, pattern, value);
    if (json_equal(pattern, value))
        return true;
    want = json_dumps(pattern, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    have = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    differ(walk, "%s, expected %s", have, want);
    free(want);
    free(have);
    return false;
}

bool pattern_matches(const json_t *pattern, const json_t *value, json_t *names, bool exact,
                     char *why, size_t size)
{
    struct walk walk = {.names = names, .exact = exact, .why = why, .size = size};

    // jansson takes no const where it counts references; nothing is changed.
    return fits(&walk, pattern, (json_t *)(uintptr_t)value);
}
