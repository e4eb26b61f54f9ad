// SPDX-License-Identifier: Apache-2.0
//
// lock-keeper: reads its configuration, runs the sidecar.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "sidecar/config.h"
#include "sidecar/log.h"
#include "sidecar/sidecar.h"
#include "sidecar/version.h"

extern char **environ;

static int fail(int code, const char *error)
{
    fprintf(stderr, "lock-keeper: %s\n", error);
    return code;
}

// As many connections as the hard limit allows.
static void raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void log_start(const struct config *config)
{
    char url[512];

    log_info("started", LOG_FIELD_STR("version", LOCK_KEEPER_VERSION),
             LOG_FIELD_STR("socket", config->socket_path),
             LOG_FIELD_STR("redis", redis_url_format(&config->redis, url, sizeof url)),
             LOG_FIELD_INT("lock_ttl_ms", config->lock_ttl_ms));
}

static int run(const struct config *config)
{
    static struct sidecar sidecar;
    char error[512];
    int code;

    signal(SIGPIPE, SIG_IGN);
    raise_descriptors();
    log_init(STDERR_FILENO, config->log_level, config->log_format);
    code = sidecar_init(&sidecar, config, error, sizeof error);
    if (code != 0) {
        log_deinit();
        return fail(code, error);
    }
    log_start(config);
    sidecar_run(&sidecar);
    sidecar_deinit(&sidecar);
    log_info("stopped");
    log_deinit();
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    enum config_action action;
    struct config config;
    char error[512];
    int code = config_read(&config, argc, argv, environ, &action, error, sizeof error);

    if (code != 0) {
        code = fail(code, error);
    } else if (action == CONFIG_RUN) {
        code = run(&config);
    } else if (action == CONFIG_CHECK) {
        puts("configuration ok");
    } else if (action == CONFIG_VERSION) {
        config_print_version(STDOUT_FILENO);
    } else {
        config_print_help(STDOUT_FILENO);
    }
    config_deinit(&config);
    return code;
}
