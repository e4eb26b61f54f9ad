// SPDX-License-Identifier: Apache-2.0
//
// See fuzz.h. Nothing of protocol/ or sidecar/ is used to judge them: UTF-8 is checked by its own
// table here, and JSON by jansson's strict reader.

#include <jansson.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

char *fuzz_take(struct fuzz_input *input, size_t *size)
{
    char *copy;

    if (*size > input->left)
        *size = input->left;
    copy = malloc(*size);
    FUZZ_CHECK(copy != NULL || *size == 0);
    if (*size > 0)
        memcpy(copy, input->at, *size);
    input->at += *size;
    input->left -= *size;
    return copy;
}

// The bytes of the character at text, 0 where there is none.
static size_t utf8_size(const unsigned char *text, size_t length)
{
    uint32_t code;
    size_t size = text[0] < 0x80 ? 1 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;

    if (size == 1)
        return 1;
    if (text[0] < 0xc2 || text[0] > 0xf4 || size > length)
        return 0;
    code = text[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (text[i] & 0x3fu);
    }
    if (code < (size == 2   ? 0x80u
                : size == 3 ? 0x800u
                            : 0x10000u) ||
        code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    return size;
}

bool fuzz_is_utf8(const char *text, size_t length)
{
    for (size_t at = 0, size; at < length; at += size) {
        size = utf8_size((const unsigned char *)text + at, length - at);
        if (size == 0)
            return false;
    }
    return true;
}

json_t *fuzz_check_line(const char *line, size_t length)
{
    json_t *object;

    FUZZ_CHECK(length <= WIRE_MAX_REPLY);
    for (size_t i = 0; i < length; i++)
        FUZZ_CHECK(line[i] >= ' ' && line[i] <= '~');
    FUZZ_CHECK((length > 6 && memcmp(line, "{\"ok\":", 6) == 0) ||
               (length > 9 && memcmp(line, "{\"event\":", 9) == 0));
    object = json_loadb(line, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    FUZZ_CHECK(json_is_object(object));
    return object;
}
