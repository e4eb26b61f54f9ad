// SPDX-License-Identifier: Apache-2.0
//
// Redis URLs.
//
// The text is cut from the outside in: scheme, then (TCP) the database after the first '/', the
// credentials before the last '@', and the port after the last ':' outside of brackets. A URL that
// is cut wrong shows a piece of the password where the host or the port should be, so no message
// here quotes any part of the text: it names the part and the remedy.
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "sidecar/redis_url.h"

enum {
    REDIS_URL_PORT = 6379,
    REDIS_URL_MAX_HOST = 255,
    REDIS_URL_MAX_DATABASE = 1000000,
};

struct span {
    const char *start;
    size_t length;
};

static int refuse(char *error, size_t error_size, const char *message)
{
    snprintf(error, error_size, "%s", message);
    return -EINVAL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// The percent-decoded text, or NULL: a bad escape, an encoded NUL, or no memory.
static char *decode(struct span in)
{
    char *out = malloc(in.length + 1);
    size_t end = 0;

    if (!out)
        return NULL;
    for (size_t i = 0; i < in.length; i++) {
        char c = in.start[i];

        if (c == '%') {
            int high = in.length - i > 2 ? hex_digit(in.start[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(in.start[i + 2]) : -1;

            if (low < 0 || high * 16 + low == 0) {
                free(out);
                return NULL;
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        out[end++] = c;
    }
    out[end] = '\0';
    return out;
}

// Decimal digits only, at most max; -1 for anything else.
static int parse_number(struct span text, int max)
{
    int64_t number = 0;

    if (text.length == 0 || text.length > 9)
        return -1;
    for (size_t i = 0; i < text.length; i++) {
        if (!isdigit((unsigned char)text.start[i]))
            return -1;
        number = number * 10 + (text.start[i] - '0');
    }
    return number <= max ? (int)number : -1;
}

static int parse_database(struct span text, struct redis_url *url, char *error, size_t error_size)
{
    url->database = parse_number(text, REDIS_URL_MAX_DATABASE);
    if (url->database < 0)
        return refuse(error, error_size,
                      "the database of the Redis URL must be a number, as in /0");
    return 0;
}

static int parse_credentials(struct span text, struct redis_url *url, char *error,
                             size_t error_size)
{
    const char *colon = memchr(text.start, ':', text.length);
    size_t user_length = colon ? (size_t)(colon - text.start) : text.length;

    if (user_length > 0) {
        url->user = decode((struct span){text.start, user_length});
        if (!url->user)
            return refuse(error, error_size,
                          "the user of the Redis URL holds a bad %-escape (a literal % is %25)");
    }
    if (colon && user_length + 1 < text.length) {
        url->password = decode((struct span){colon + 1, text.length - user_length - 1});
        if (!url->password)
            return refuse(
                error, error_size,
                "the password of the Redis URL holds a bad %-escape (a literal % is %25)");
    }
    return 0;
}

static bool host_is_valid(struct span host)
{
    if (host.length == 0 || host.length > REDIS_URL_MAX_HOST)
        return false;
    for (size_t i = 0; i < host.length; i++) {
        unsigned char c = (unsigned char)host.start[i];

        if (!isalnum(c) && !strchr(".-_:%", c))
            return false;
    }
    return true;
}

// host, host:port, [v6] or [v6]:port
static int parse_host(struct span text, struct redis_url *url, char *error, size_t error_size)
{
    struct span host = text;
    struct span port = {0};

    if (text.length > 0 && text.start[0] == '[') {
        const char *close = memchr(text.start, ']', text.length);

        if (!close)
            return refuse(error, error_size, "the IPv6 host of the Redis URL lacks its ']'");
        host = (struct span){text.start + 1, (size_t)(close - text.start) - 1};
        port = (struct span){close + 1, text.length - host.length - 2};
    } else {
        const char *colon = memchr(text.start, ':', text.length);

        if (colon) {
            host.length = (size_t)(colon - text.start);
            port = (struct span){colon, text.length - host.length};
        }
    }
    if (!host_is_valid(host))
        return refuse(error, error_size, "the host of the Redis URL is missing or not a host name");

    url->port = REDIS_URL_PORT;
    if (port.length > 0) {
        int number = port.start[0] == ':'
                         ? parse_number((struct span){port.start + 1, port.length - 1}, UINT16_MAX)
                         : -1;

        if (number <= 0)
            return refuse(error, error_size,
                          "the port of the Redis URL must be 1 to 65535 (an IPv6 host stands in "
                          "brackets; ':', '/' and '@' in a password are %3A, %2F and %40)");
        url->port = number;
    }
    url->host = strndup(host.start, host.length);
    return url->host ? 0 : refuse(error, error_size, "out of memory");
}

static int parse_tcp(const char *text, struct redis_url *url, char *error, size_t error_size)
{
    size_t authority_length = strcspn(text, "/?#");
    const char *rest = text + authority_length;
    struct span host = {text, authority_length};
    const char *at = memrchr(text, '@', authority_length);
    int r;

    if (strchr(rest, '@'))
        return refuse(error, error_size,
                      "the password of the Redis URL holds a '/', '?' or '#': write %2F, %3F, %23");
    if (at) {
        struct span credentials = {text, (size_t)(at - text)};

        r = parse_credentials(credentials, url, error, error_size);
        if (r)
            return r;
        host = (struct span){at + 1, authority_length - credentials.length - 1};
    }
    r = parse_host(host, url, error, error_size);
    if (r)
        return r;
    if (rest[0] == '?' || rest[0] == '#')
        return refuse(error, error_size, "a redis:// URL takes no '?' or '#' part");
    if (rest[0] == '/' && rest[1])
        return parse_database((struct span){rest + 1, strlen(rest + 1)}, url, error, error_size);
    return 0;
}

static int parse_unix(const char *text, struct redis_url *url, char *error, size_t error_size)
{
    size_t path_length = strcspn(text, "?");
    const char *query = text + path_length;

    if (text[0] != '/')
        return refuse(error, error_size,
                      "the path of a unix:// URL must be absolute, as in unix:///run/redis.sock");
    url->path = decode((struct span){text, path_length});
    if (!url->path)
        return refuse(error, error_size,
                      "the path of the Redis URL holds a bad %-escape (a literal % is %25)");
    if (strlen(url->path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return refuse(error, error_size, "the path of the Redis URL is longer than 107 bytes");
    if (!*query)
        return 0;
    if (strncmp(query, "?db=", 4) != 0)
        return refuse(error, error_size, "a unix:// URL takes no parameter but ?db=N");
    return parse_database((struct span){query + 4, strlen(query + 4)}, url, error, error_size);
}

int redis_url_parse(const char *text, struct redis_url *url, char *error, size_t error_size)
{
    int r;

    *url = (struct redis_url){0};
    if (strncmp(text, "redis://", 8) == 0)
        r = parse_tcp(text + 8, url, error, error_size);
    else if (strncmp(text, "unix://", 7) == 0)
        r = parse_unix(text + 7, url, error, error_size);
    else if (strncmp(text, "rediss://", 9) == 0)
        r = refuse(error, error_size, "TLS (rediss://) is not supported by this version");
    else
        r = refuse(error, error_size,
                   "the Redis URL must be redis://[user[:password]@]host[:port][/db] or "
                   "unix:///path[?db=N]");
    if (r)
        redis_url_deinit(url);
    return r;
}

void redis_url_deinit(struct redis_url *url)
{
    free(url->host);
    free(url->path);
    free(url->user);
    free(url->password);
    *url = (struct redis_url){0};
}

char *redis_url_format(const struct redis_url *url, char *text, size_t size)
{
    char database[16] = "";

    if (url->path) {
        if (url->database)
            snprintf(database, sizeof database, "?db=%d", url->database);
        snprintf(text, size, "unix://%s%s", url->path, database);
    } else {
        bool brackets = strchr(url->host, ':') != NULL;

        if (url->database)
            snprintf(database, sizeof database, "/%d", url->database);
        snprintf(text, size, "redis://%s%s%s:%d%s", brackets ? "[" : "", url->host,
                 brackets ? "]" : "", url->port, database);
    }
    return text;
}
