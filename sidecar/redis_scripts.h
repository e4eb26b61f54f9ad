// SPDX-License-Identifier: Apache-2.0
//
// The Lua scripts of sidecar/lua, embedded at build time by scripts/embed-lua.
#pragma once

#include <stddef.h>

enum redis_script_name {
    REDIS_SCRIPT_ACQUIRE,
    REDIS_SCRIPT_RENEW,
    REDIS_SCRIPT_RELEASE,
    REDIS_SCRIPT_CHECK,
    REDIS_SCRIPT_ADOPT,
    REDIS_SCRIPT_EXTEND,
    REDIS_SCRIPT_INSPECT,
    REDIS_SCRIPT_BREAK,
    REDIS_SCRIPT_COUNT,
};

struct redis_script {
    const char *name;
    const char *sha; // 40 hex digits, for EVALSHA
    const char *text;
    size_t length;
};

extern const struct redis_script redis_scripts[REDIS_SCRIPT_COUNT];
