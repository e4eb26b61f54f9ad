// SPDX-License-Identifier: Apache-2.0
//
// UTF-8, strictly: no form longer than needed, no surrogates, nothing above U+10FFFF. Whatever is
// not of this is read byte by byte, so that no wrong byte swallows a right one behind it.
#include <string.h>

#include "protocol/text.h"

uint32_t text_decode(const char *string, size_t length, size_t *size)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *bytes = (const unsigned char *)string;
    uint32_t code = bytes[0];
    size_t need = code < 0x80 ? 1 : code < 0xc0 ? 0 : code < 0xe0 ? 2 : code < 0xf0 ? 3 : 4;

    *size = 1;
    if (need == 1)
        return code;
    if (need == 0 || code > 0xf4 || need > length)
        return TEXT_REPLACEMENT;
    code &= 0xffu >> (need + 1);
    for (size_t i = 1; i < need; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return TEXT_REPLACEMENT;
        code = code << 6 | (bytes[i] & 0x3fu);
    }
    if (code < least[need] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return TEXT_REPLACEMENT;
    *size = need;
    return code;
}

void text_trim(char *string)
{
    size_t length = strlen(string);
    size_t at = length;
    unsigned char lead;
    size_t need;

    while (at > 0 && length - at < 3 && ((unsigned char)string[at - 1] & 0xc0) == 0x80)
        at--;
    if (at == 0)
        return;
    lead = (unsigned char)string[--at];
    need = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (at + need > length)
        string[at] = '\0';
}

size_t text_find_control(const char *string, size_t length, uint32_t *code)
{
    size_t size;

    for (size_t at = 0; at < length; at += size) {
        *code = text_decode(string + at, length - at, &size);
        if (*code < 0x20 || (*code >= 0x7f && *code < 0xa0))
            return at;
    }
    return length;
}
