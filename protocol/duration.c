// SPDX-License-Identifier: Apache-2.0
//
// Durations as Go writes them: one or more of <decimal><unit>, e.g. "1h30m", "1.5s", with an
// optional sign before the first; "0" needs no unit.
//
// The sum is kept in whole nanoseconds, so that "0.5ms500us" is the millisecond it says, and nothing
// is ever rounded: what is no whole number of milliseconds is refused. The text is read to its end
// before a range is complained of, so that "1us!" is not a duration rather than one too fine.
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "protocol/duration.h"

#define NS_PER_MS INT64_C(1000000)
#define MAX_NS (INT64_C(365) * 24 * 3600 * 1000 * NS_PER_MS)

struct unit {
    const char *name;
    int64_t ns;
};

// Longer names first where one begins another.
static const struct unit units[] = {
    {"ns", 1},
    {"us", 1000},
    {"\xc2\xb5s", 1000}, // micro sign
    {"\xce\xbcs", 1000}, // Greek mu
    {"ms", NS_PER_MS},
    {"s", 1000 * NS_PER_MS},
    {"m", 60 * 1000 * NS_PER_MS},
    {"h", 3600 * 1000 * NS_PER_MS},
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const struct unit *find_unit(const char *text)
{
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strncmp(text, units[i].name, strlen(units[i].name)) == 0)
            return &units[i];
    }
    return NULL;
}

// digits[0..count) of unit, added to *sum. False where that is out of range.
static bool add_whole(int64_t *sum, const char *digits, size_t count, int64_t unit)
{
    int64_t number = 0;

    for (size_t i = 0; i < count; i++) {
        number = number * 10 + (digits[i] - '0');
        if (number > MAX_NS / unit)
            return false;
    }
    *sum += number * unit;
    return *sum <= MAX_NS;
}

// The same for the digits behind the point. False also where one is worth no whole nanosecond.
static bool add_fraction(int64_t *sum, const char *digits, size_t count, int64_t unit)
{
    for (size_t i = 0; i < count; i++) {
        if (digits[i] != '0' && (unit == 0 || unit % 10 != 0))
            return false;
        unit /= 10;
        *sum += (digits[i] - '0') * unit;
    }
    return *sum <= MAX_NS;
}

// Reads one <decimal><unit> at *text and moves past it. -EINVAL, -ERANGE or 0.
static int read_part(const char **text, int64_t *sum)
{
    const char *whole = *text;
    size_t whole_count = 0;
    const char *fraction;
    size_t fraction_count = 0;
    const struct unit *unit;

    while (is_digit(whole[whole_count]))
        whole_count++;
    fraction = whole + whole_count;
    if (*fraction == '.') {
        fraction++;
        while (is_digit(fraction[fraction_count]))
            fraction_count++;
    }
    if (whole_count + fraction_count == 0)
        return -EINVAL;
    unit = find_unit(fraction + fraction_count);
    if (unit == NULL)
        return -EINVAL;

    *text = fraction + fraction_count + strlen(unit->name);
    if (!add_whole(sum, whole, whole_count, unit->ns) ||
        !add_fraction(sum, fraction, fraction_count, unit->ns))
        return -ERANGE;
    return 0;
}

int duration_parse(const char *text, int64_t *ms)
{
    bool negative = *text == '-';
    bool in_range = true;
    int64_t sum = 0;

    if (*text == '-' || *text == '+')
        text++;
    if (strcmp(text, "0") == 0) {
        *ms = 0;
        return 0;
    }
    do {
        int r = read_part(&text, &sum);

        if (r == -EINVAL)
            return r;
        if (r == -ERANGE) {
            in_range = false;
            sum = 0; // only the grammar matters from here, and the sum must not overflow
        }
    } while (*text != '\0');

    if (!in_range || sum % NS_PER_MS != 0 || (negative && sum > 0))
        return -ERANGE;
    *ms = sum / NS_PER_MS;
    return 0;
}

char *duration_format(int64_t ms, char *text, size_t size)
{
    char fraction[8] = "";
    int64_t hours = ms / 3600000;
    int64_t minutes = ms / 60000 % 60;
    int64_t seconds = ms / 1000 % 60;
    int64_t rest = ms % 1000;
    size_t at = 0;

    assert(ms >= 0 && size >= 32);
    if (ms == 0)
        return strcpy(text, "0");
    text[0] = '\0';
    if (hours > 0)
        at += (size_t)snprintf(text + at, size - at, "%" PRId64 "h", hours);
    if (minutes > 0)
        at += (size_t)snprintf(text + at, size - at, "%" PRId64 "m", minutes);
    if (seconds == 0 && rest > 0) {
        snprintf(text + at, size - at, "%" PRId64 "ms", rest);
    } else if (seconds > 0) {
        if (rest > 0) {
            size_t last = (size_t)snprintf(fraction, sizeof fraction, ".%03d", (int)rest) - 1;

            while (fraction[last] == '0')
                fraction[last--] = '\0';
        }
        snprintf(text + at, size - at, "%" PRId64 "%ss", seconds, fraction);
    }
    return text;
}
