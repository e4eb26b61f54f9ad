// SPDX-License-Identifier: Apache-2.0
//
// What the operator set: flags, then their environment twins (LOCK_KEEPER_<NAME>), then defaults.
// One table in config.c is the source of the parser, of --help and of the man page's list.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "sidecar/log.h"
#include "sidecar/redis_url.h"

struct config {
    char *socket_path;                // --socket
    mode_t socket_mode;               // --socket-mode, octal
    gid_t socket_group;               // --socket-group, name or number; (gid_t)-1: not set
    struct redis_url redis;           // --redis, else REDIS_URL, else the default
    char *redis_password_file;        // --redis-password-file, or NULL
    char *key_prefix;                 // --key-prefix
    int64_t lock_ttl_ms;              // --lock-ttl
    int64_t max_lock_ttl_ms;          // --max-lock-ttl
    int64_t revoke_margin_ms;         // --revoke-margin; 0: a fifth of each lease's TTL
    int64_t workflow_deadline_ms;     // --actor-workflow-deadline
    int64_t max_workflow_deadline_ms; // --max-workflow-deadline
    int64_t max_leases_per_uid;       // --max-leases-per-uid
    int64_t max_connections_per_uid;  // --max-connections-per-uid
    int64_t max_waiters_per_uid;      // --max-waiters-per-uid
    int64_t drain_timeout_ms;         // --drain-timeout
    enum log_level log_level;         // --log-level
    enum log_format log_format;       // --log-format
};

enum config_action {
    CONFIG_RUN,     // go on
    CONFIG_CHECK,   // --check-config: validate, say "configuration ok", exit 0
    CONFIG_VERSION, // --version
    CONFIG_HELP,    // --help
};

// Reads argv and the environment (environ-like, "NAME=value" strings). 0 and *action; or a positive
// sysexits code (EX_USAGE for a flag, EX_CONFIG for a combination or an environment value) with a
// message in error that names the flag (or variable), the value (never a password) and the remedy.
// config is to be config_deinit-ed either way.
int config_read(struct config *config, int argc, char *const *argv, char *const *environment,
                enum config_action *action, char *error, size_t error_size);
void config_deinit(struct config *config);

// Prints --help's text, made from the table, to stdout-like fd. And the version with the versions of
// the libraries it runs with.
void config_print_help(int fd);
void config_print_version(int fd);
