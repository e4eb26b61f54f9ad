// SPDX-License-Identifier: Apache-2.0
//
// redis://[user[:password]@]host[:port][/db]  and  unix:///path[?db=N]
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct redis_url {
    char *host;     // NULL for a Unix socket
    char *path;     // NULL for TCP
    char *user;     // or NULL
    char *password; // or NULL
    int port;
    int database;
};

// 0, or -EINVAL with a message in error that names the part and never shows a password. An IPv6 host
// stands in brackets; user and password are percent-decoded; "redis://:password@host" has no user.
int redis_url_parse(const char *text, struct redis_url *url, char *error, size_t error_size);
void redis_url_deinit(struct redis_url *url);
// The URL without user and password, for logs. Returns text.
char *redis_url_format(const struct redis_url *url, char *text, size_t size);
