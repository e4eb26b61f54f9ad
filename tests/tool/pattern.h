// SPDX-License-Identifier: Apache-2.0
//
// What a line of JSON must look like: a pattern is JSON itself, in which a member that is missing
// says nothing (unless exact is asked for) and a string in angle brackets is a placeholder.
//
//     "<int>"      any integer          "<string>"   any string
//     "<bool>"     true or false        "<any>"      anything
//     "<hex:32>"   a string of so many lower-case hex digits
//     "<name>"     any other name: a string, the same wherever the name comes again
//     "<int:name>" an integer, likewise
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

// Fails the test where text is no JSON. To be given to json_decref.
json_t *pattern_parse(const char *text);

// Whether value fits. names: an object in which placeholders with names are kept, or NULL: they
// match anything. exact: an object may have no member that the pattern's has not. why gets the
// first difference.
bool pattern_matches(const json_t *pattern, const json_t *value, json_t *names, bool exact,
                     char *why, size_t size);
