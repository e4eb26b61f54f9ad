// SPDX-License-Identifier: Apache-2.0
//
// Lines to stderr, in logfmt or JSON, that never block the loop: a line that stderr will not take at
// once is dropped and counted, and the next line that goes through says how many were ("dropped").
// No caller ever passes a lease token or a password.
//
//     log_info("lease revoked", LOG_FIELD_BYTES("key", key, key_length),
//              LOG_FIELD_STR("reason", reason), LOG_FIELD_INT("held_ms", held));
//
// For the loop's thread only. The caller ignores SIGPIPE.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_LEVEL_COUNT };
enum log_format { LOG_LOGFMT, LOG_JSON, LOG_FORMAT_COUNT };

extern const char *const log_level_names[LOG_LEVEL_COUNT];   // "debug" "info" "warn" "error"
extern const char *const log_format_names[LOG_FORMAT_COUNT]; // "logfmt" "json"

// fd stays the caller's. Its file description's flags are not changed (others may share it).
void log_init(int fd, enum log_level level, enum log_format format);
void log_deinit(void);
bool log_enabled(enum log_level level);
uint64_t log_dropped(void);

struct log_field {
    const char *name;
    const char *string; // NULL: the integer
    size_t length;
    int64_t integer;
};

void log_write(enum log_level level, const char *message, const struct log_field *fields,
               size_t count);

#define LOG_FIELD_STR(field_name, value)                                                           \
    ((struct log_field){.name = (field_name), .string = (value), .length = strlen(value)})
#define LOG_FIELD_BYTES(field_name, value, size)                                                   \
    ((struct log_field){.name = (field_name), .string = (value), .length = (size)})
#define LOG_FIELD_INT(field_name, value)                                                           \
    ((struct log_field){.name = (field_name), .integer = (value)})

// Field names are constants of [a-z_]. Fields are optional, and not evaluated when level is off.
#define LOG_AT(level, message, ...)                                                                \
    do {                                                                                           \
        if (log_enabled(level)) {                                                                  \
            const struct log_field log_fields_[] = {{0}, ##__VA_ARGS__};                           \
            log_write(level, message, log_fields_ + 1,                                             \
                      sizeof log_fields_ / sizeof log_fields_[0] - 1);                             \
        }                                                                                          \
    } while (0)
#define log_debug(...) LOG_AT(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) LOG_AT(LOG_INFO, __VA_ARGS__)
#define log_warn(...) LOG_AT(LOG_WARN, __VA_ARGS__)
#define log_error(...) LOG_AT(LOG_ERROR, __VA_ARGS__)
