// SPDX-License-Identifier: Apache-2.0
//
// UTF-8, as far as the protocol needs it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_REPLACEMENT 0xfffdu

// The code point that begins at bytes (length > 0) and the bytes it takes in *size. A byte that
// begins none counts alone, as TEXT_REPLACEMENT.
uint32_t text_decode(const char *bytes, size_t length, size_t *size);

// Drops the character at the end of string that a cut left unfinished.
void text_trim(char *string);

// The place of the first control character (U+0000 to 1F, 7F to 9F), or length; its code in *code.
size_t text_find_control(const char *string, size_t length, uint32_t *code);
