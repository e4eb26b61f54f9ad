// SPDX-License-Identifier: Apache-2.0
//
// The kinds of settings. Each setter reads the whole text or refuses it: no blanks, signs, suffixes
// or empty texts pass that were not asked for, and a refusal says what would have been right. The
// messages show what was read, made harmless, but for a Redis URL: that may hold a password.
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "protocol/duration.h"
#include "protocol/text.h"
#include "protocol/wire.h"
#include "sidecar/config_value.h"
#include "sidecar/log.h"
#include "sidecar/redis_url.h"

const char *config_show(const char *text, char shown[CONFIG_SHOWN_SIZE])
{
    size_t length = 0;
    while (text[length] && length < CONFIG_SHOWN_SIZE - 4) {
        shown[length] = text[length] >= ' ' && text[length] <= '~' ? text[length] : '?';
        length++;
    }
    strcpy(shown + length, text[length] ? "..." : "");
    return shown;
}

int config_set_duration(void *field, const char *text, const struct config_range *range, char *why,
                        size_t size)
{
    char shown[CONFIG_SHOWN_SIZE], from[32], to[32];
    int64_t ms = 0;
    int result = duration_parse(text, &ms);
    if (result == -EINVAL) {
        snprintf(why, size, "\"%s\" is not a duration: write it as 30s, 5m, 1m30s or 500ms",
                 config_show(text, shown));
        return 1;
    }
    if (result < 0 || ms < range->least || ms > range->most) {
        snprintf(why, size, "\"%s\" is out of range: use whole milliseconds from %s to %s",
                 config_show(text, shown), duration_format(range->least, from, sizeof from),
                 duration_format(range->most, to, sizeof to));
        return 1;
    }
    *(int64_t *)field = ms;
    return 0;
}

// A number in base 8 or 10, of digits only. False when it is none, or above INT64_MAX.
static bool parse_digits(const char *text, int base, int64_t *value)
{
    char *end;
    if (*text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    *value = strtoll(text, &end, base);
    return errno == 0 && *end == '\0';
}

int config_set_count(void *field, const char *text, const struct config_range *range, char *why,
                     size_t size)
{
    char shown[CONFIG_SHOWN_SIZE];
    int64_t value = 0;
    if (!parse_digits(text, 10, &value) || value < range->least || value > range->most) {
        snprintf(why, size, "\"%s\" is not a whole number from %" PRId64 " to %" PRId64,
                 config_show(text, shown), range->least, range->most);
        return 1;
    }
    *(int64_t *)field = value;
    return 0;
}

static int copy_string(void *field, const char *text)
{
    char *copy = strdup(text);
    if (!copy) {
        return -ENOMEM;
    }
    *(char **)field = copy;
    return 0;
}

int config_set_path(void *field, const char *text, const struct config_range *range, char *why,
                    size_t size)
{
    size_t length = strlen(text);
    if (length == 0 || (int64_t)length > range->most) {
        snprintf(why, size, "the path has %zu bytes: use 1 to %" PRId64, length, range->most);
        return 1;
    }
    return copy_string(field, text);
}

int config_set_prefix(void *field, const char *text, const struct config_range *range, char *why,
                      size_t size)
{
    uint32_t code;
    size_t length = strlen(text);
    if ((int64_t)length > range->most) {
        snprintf(why, size, "the prefix has %zu bytes: use at most %" PRId64, length, range->most);
        return 1;
    }
    size_t at = text_find_control(text, length, &code);
    if (at < length) {
        snprintf(why, size, "byte %zu of the prefix is a control character: remove it", at + 1);
        return 1;
    }
    return copy_string(field, text);
}

int config_set_mode(void *field, const char *text, const struct config_range *range, char *why,
                    size_t size)
{
    char shown[CONFIG_SHOWN_SIZE];
    int64_t mode = 0;
    if (!parse_digits(text, 8, &mode) || mode < range->least || mode > range->most) {
        snprintf(why, size, "\"%s\" is not a file mode: write it in octal, from 0 to 0777",
                 config_show(text, shown));
        return 1;
    }
    *(mode_t *)field = (mode_t)mode;
    return 0;
}

int config_set_group(void *field, const char *text, const struct config_range *range, char *why,
                     size_t size)
{
    char shown[CONFIG_SHOWN_SIZE];
    int64_t number = 0;
    if (parse_digits(text, 10, &number) && number <= range->most) {
        *(gid_t *)field = (gid_t)number;
        return 0;
    }
    const struct group *group = getgrnam(text);
    if (!group) {
        snprintf(why, size, "there is no group \"%s\" here: name one of /etc/group or its number",
                 config_show(text, shown));
        return 1;
    }
    *(gid_t *)field = group->gr_gid;
    return 0;
}

int config_set_redis(void *field, const char *text, const struct config_range *range, char *why,
                     size_t size)
{
    (void)range;
    int result = redis_url_parse(text, field, why, size);
    return result == -EINVAL ? 1 : result;
}

static int find_name(const char *const *names, int count, int *index, const char *text, char *why,
                     size_t size)
{
    char shown[CONFIG_SHOWN_SIZE];
    *index = wire_find(names, (size_t)count, text);
    if (*index >= 0) {
        return 0;
    }
    int length = snprintf(why, size, "\"%s\" is not one of", config_show(text, shown));
    for (int i = 0; i < count && length > 0 && (size_t)length < size; i++) {
        length += snprintf(why + length, size - (size_t)length, "%s %s", i ? "," : "", names[i]);
    }
    return 1;
}

int config_set_level(void *field, const char *text, const struct config_range *range, char *why,
                     size_t size)
{
    (void)range;
    int index = 0;
    int result = find_name(log_level_names, LOG_LEVEL_COUNT, &index, text, why, size);
    if (result == 0) {
        *(enum log_level *)field = (enum log_level)index;
    }
    return result;
}

int config_set_format(void *field, const char *text, const struct config_range *range, char *why,
                      size_t size)
{
    (void)range;
    int index = 0;
    int result = find_name(log_format_names, LOG_FORMAT_COUNT, &index, text, why, size);
    if (result == 0) {
        *(enum log_format *)field = (enum log_format)index;
    }
    return result;
}
