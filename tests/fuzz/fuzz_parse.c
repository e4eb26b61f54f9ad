// SPDX-License-Identifier: Apache-2.0
//
// The small parsers: Redis URLs, values in Redis, durations. The input's first byte says which of
// them reads the rest.
//
// Oracle: what was accepted is written and read again, and is the same; a value is even the same
// text, since a value that value_format would not have written must be foreign. What was refused has
// its code, and words where words are promised, and left nothing behind.

#include <errno.h>
#include <string.h>

#include "protocol/duration.h"
#include "sidecar/redis_url.h"
#include "sidecar/value.h"
#include "tests/fuzz/fuzz.h"

static bool same_string(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void check_url(const struct redis_url *url)
{
    char text[1024], error[256];
    struct redis_url again;

    FUZZ_CHECK((url->host == NULL) != (url->path == NULL));
    FUZZ_CHECK(url->database >= 0);
    redis_url_format(url, text, sizeof text);
    if (url->path) {
        FUZZ_CHECK(url->path[0] == '/' && strlen(url->path) <= 107);
        FUZZ_CHECK(!url->user && !url->password);
        return; // decoded, so it need not read back
    }
    FUZZ_CHECK(url->port > 0 && url->port <= UINT16_MAX);
    FUZZ_CHECK(url->host[0] && strlen(url->host) <= 255);
    FUZZ_CHECK(redis_url_parse(text, &again, error, sizeof error) == 0);
    FUZZ_CHECK(same_string(url->host, again.host) && !again.user && !again.password);
    FUZZ_CHECK(url->port == again.port && url->database == again.database);
    redis_url_deinit(&again);
}

static void parse_url(const char *text)
{
    struct redis_url url;
    char error[256] = "";
    int r = redis_url_parse(text, &url, error, sizeof error);

    if (r == 0) {
        check_url(&url);
    } else {
        FUZZ_CHECK(r == -EINVAL && error[0] && fuzz_is_utf8(error, strlen(error)));
        FUZZ_CHECK(!url.host && !url.path && !url.user && !url.password);
    }
    redis_url_deinit(&url);
}

static void parse_value(const char *text, size_t length)
{
    struct value value;
    char again[VALUE_SIZE];
    int r = value_parse(text, length, &value);

    if (r != 0) {
        FUZZ_CHECK(r == VALUE_E_FOREIGN && value.host == NULL && value.label == NULL);
        return;
    }
    FUZZ_CHECK(value.host_length > 0 && value.label_length <= WIRE_MAX_LABEL);
    FUZZ_CHECK(fuzz_is_utf8(text, length));
    FUZZ_CHECK(value_format(&value, again) == length && memcmp(again, text, length) == 0);
}

static void parse_duration(const char *text)
{
    char again[32];
    int64_t ms = -1, twice = -1;
    int r = duration_parse(text, &ms);

    if (r != 0) {
        FUZZ_CHECK(r == -EINVAL || r == -ERANGE);
        return;
    }
    FUZZ_CHECK(ms >= 0);
    duration_format(ms, again, sizeof again);
    FUZZ_CHECK(duration_parse(again, &twice) == 0 && twice == ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    uint8_t which = fuzz_byte(&input);
    size_t length = input.left;
    char *text;

    if (which % 3 == 0) {
        text = fuzz_take(&input, &length);
        parse_value(text, length);
    } else {
        text = strndup((const char *)input.at, input.left);
        FUZZ_CHECK(text);
        which % 3 == 1 ? parse_url(text) : parse_duration(text);
    }
    free(text);
    return 0;
}
