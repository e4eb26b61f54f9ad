// SPDX-License-Identifier: Apache-2.0
//
// One setting's text into its value, for config.c's table.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct config_range {
    int64_t least;
    int64_t most;
};

// Sets *field, of the type that stands behind the setter. 0; or 1 with the reason and the remedy in
// why, *field as it was; or -ENOMEM. Strings are the caller's to free.
typedef int config_setter(void *field, const char *text, const struct config_range *range,
                          char *why, size_t size);

config_setter config_set_duration; // int64_t, milliseconds from least to most
config_setter config_set_count;    // int64_t, from least to most
config_setter config_set_path;     // char *, not empty, at most `most` bytes
config_setter config_set_prefix;   // char *, at most `most` bytes, no control characters
config_setter config_set_mode;     // mode_t, octal, from least to most
config_setter config_set_group;    // gid_t, a name, or a number up to most
config_setter config_set_redis;    // struct redis_url
config_setter config_set_level;    // enum log_level
config_setter config_set_format;   // enum log_format

enum { CONFIG_SHOWN_SIZE = 64 };

// What a message may show of a text: one line, printable, not too long. Returns shown.
const char *config_show(const char *text, char shown[CONFIG_SHOWN_SIZE]);
