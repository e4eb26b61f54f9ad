// SPDX-License-Identifier: Apache-2.0
//
// The configuration: one table, from which the parser, the environment's names, the defaults and
// --help are made.
//
// argv is only sorted at first: it fills `given`, one text for each row of the table, and finds the
// actions (--help and --version are answered at once, whatever else is set). Then each row's text
// (flag, else variable, else default) goes through the row's setter, and then the combinations are
// checked. So a bad flag is told as that flag, a bad variable as that variable, and what only
// together makes no sense as both, each with its number.
//
// Flags and variables may hold passwords: in a Redis URL, and in whatever was mistyped. No message
// shows the text of --redis, of an unknown flag behind its "=", or of an argument that is no flag.
//
// Variables that start with LOCK_KEEPER_ and are not in the table are no error: Kubernetes makes
// such names for a Service called lock-keeper.
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sysexits.h>

#include "protocol/duration.h"
#include "protocol/wire.h"
#include "sidecar/config.h"
#include "sidecar/config_value.h"
#include "sidecar/lease.h"
#include "sidecar/version.h"

enum {
    MAX_PATH = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1,
    MAX_PREFIX = 128,
    MAX_COUNT = 100000000,
    NAME_SIZE = 64,
    HELP_COLUMN = 38,
    HELP_WIDTH = 98,
};

#define MAX_SPAN_MS (INT64_C(24) * 24 * 3600 * 1000)
_Static_assert(MAX_SPAN_MS <= LEASE_MAX_SPAN_MS, "the lease machine takes every span set here");

struct option {
    const char *name;     // NULL: a heading of --help
    const char *argument; // NULL: an action
    const char *initial;  // NULL: not set by default
    const char *help;
    config_setter *set;
    size_t field; // of struct config
    struct config_range range;
    const char *fallback; // a variable of others' that is read after ours
    enum config_action action;
};

#define FIELD(name) .field = offsetof(struct config, name)

static const struct option options[] = {
    {.help = "Clients"},
    {"socket", "PATH", "/run/lock-keeper/lock-keeper.sock",
     "the Unix socket to listen on; clients read LOCK_KEEPER_SOCKET too. At most 107 bytes",
     config_set_path, FIELD(socket_path), .range.most = MAX_PATH},
    {"socket-mode", "OCTAL", "0660",
     "the socket's file mode. Whoever may write to it may hold locks: the owner and the socket's "
     "group, unless you say otherwise (0600, 0666)",
     config_set_mode, FIELD(socket_mode), .range.most = 0777},
    {"socket-group", "GROUP", NULL,
     "the socket's group, by name or number; not set: lock-keeper's own", config_set_group,
     FIELD(socket_group), .range.most = UINT32_MAX - 1},
    {"max-leases-per-uid", "N", "65536",
     "leases one user may hold at a time; over it, errLimitExceeded for that user alone",
     config_set_count, FIELD(max_leases_per_uid), .range.least = 1, .range.most = MAX_COUNT},
    {"max-connections-per-uid", "N", "4096", "connections one user may have open", config_set_count,
     FIELD(max_connections_per_uid), .range.least = 1, .range.most = MAX_COUNT},
    {"max-waiters-per-uid", "N", "4096", "acquires of one user that may wait at a time",
     config_set_count, FIELD(max_waiters_per_uid), .range.least = 1, .range.most = MAX_COUNT},

    {.help = "Redis"},
    {"redis", "URL", "redis://127.0.0.1:6379",
     "redis://[user[:password]@]host[:port][/db] or unix:///path[?db=N]; REDIS_URL is read too. "
     "Everybody here can read a command line: keep a password in a file",
     config_set_redis, FIELD(redis), .fallback = "REDIS_URL"},
    {"redis-password-file", "PATH", NULL,
     "a file with the password alone, read again at each connect; goes before the URL's",
     config_set_path, FIELD(redis_password_file), .range.most = PATH_MAX - 1},
    {"key-prefix", "TEXT",
     "lock:", "put before a client's key to make the key in Redis. At most 128 bytes",
     config_set_prefix, FIELD(key_prefix), .range.most = MAX_PREFIX},

    {.help = "Time (as in Go: 30s, 5m, 1m30s, 500ms)"},
    {"lock-ttl", "DURATION", "30s",
     "a lock's time to live in Redis: how long others wait after this whole host has died. "
     "Renewed every third of it. From 500ms",
     config_set_duration, FIELD(lock_ttl_ms), .range.least = WIRE_MIN_TTL,
     .range.most = MAX_SPAN_MS},
    {"max-lock-ttl", "DURATION", "5m", "the longest time to live that a client may ask for",
     config_set_duration, FIELD(max_lock_ttl_ms), .range.least = WIRE_MIN_TTL,
     .range.most = MAX_SPAN_MS},
    {"revoke-margin", "DURATION", "0",
     "how long before Redis may free a lock that could not be renewed its holder is told. At least "
     "a tenth of the time to live, and 50ms; 0: a fifth of it",
     config_set_duration, FIELD(revoke_margin_ms), .range.most = MAX_SPAN_MS},
    {"actor-workflow-deadline", "DURATION", "5m",
     "how long a client may hold a lock, whatever it does, unless it asks for another deadline",
     config_set_duration, FIELD(workflow_deadline_ms), .range.least = 1, .range.most = MAX_SPAN_MS},
    {"max-workflow-deadline", "DURATION", "1h", "the longest deadline that a client may ask for",
     config_set_duration, FIELD(max_workflow_deadline_ms), .range.least = 1,
     .range.most = MAX_SPAN_MS},
    {"drain-timeout", "DURATION", "10s",
     "after SIGTERM, how long work that holds a lock may go on before it is told to stop",
     config_set_duration, FIELD(drain_timeout_ms), .range.most = MAX_SPAN_MS},

    {.help = "Log (to stderr)"},
    {"log-level", "LEVEL", "info", "debug, info, warn or error", config_set_level,
     FIELD(log_level)},
    {"log-format", "FORMAT", "logfmt", "logfmt or json", config_set_format, FIELD(log_format)},

    {.help = "Instead of running"},
    {"check-config", .help = "check the flags and variables, and exit with 0 if all is well",
     .action = CONFIG_CHECK},
    {"version", .help = "print the version, and those of the libraries", .action = CONFIG_VERSION},
    {"help", .help = "print this", .action = CONFIG_HELP},
};

enum { OPTION_COUNT = sizeof options / sizeof options[0] };

// "lock-ttl" becomes "LOCK_KEEPER_LOCK_TTL".
static const char *variable_name(const struct option *option, char name[NAME_SIZE])
{
    size_t length = (size_t)snprintf(name, NAME_SIZE, "LOCK_KEEPER_%s", option->name);
    assert(length < NAME_SIZE);
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '-') {
            name[i] = '_';
        } else if (name[i] >= 'a' && name[i] <= 'z') {
            name[i] = (char)(name[i] - 'a' + 'A');
        }
    }
    return name;
}

// The variable's value, NULL when it is missing or empty.
static const char *look_up(char *const *environment, const char *name)
{
    size_t length = strlen(name);
    for (; environment && *environment; environment++) {
        if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=') {
            return (*environment)[length + 1] ? *environment + length + 1 : NULL;
        }
    }
    return NULL;
}

static int find_option(const char *name, size_t length)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (options[i].name && strlen(options[i].name) == length &&
            strncmp(options[i].name, name, length) == 0) {
            return i;
        }
    }
    return -1;
}

// The row of a flag; its value, where it is written as --flag=value, in *value. NULL with error.
static const struct option *read_flag(const char *argument, const char **value, char *error,
                                      size_t size)
{
    char name[NAME_SIZE], shown[CONFIG_SHOWN_SIZE];
    size_t length = strcspn(argument, "=");
    *value = argument[length] ? argument + length + 1 : NULL;
    if (strcmp(argument, "-h") == 0) {
        return &options[find_option("help", 4)];
    }
    int index = strncmp(argument, "--", 2) == 0 ? find_option(argument + 2, length - 2) : -1;
    if (index >= 0) {
        return &options[index];
    }
    snprintf(name, sizeof name, "%.*s", (int)length, argument);
    snprintf(error, size, "there is no flag %s: see lock-keeper --help", config_show(name, shown));
    return NULL;
}

// Sorts argv[*at], and the value behind it, into given or *action. 0 or EX_USAGE with error.
static int sort_argument(int argc, char *const *argv, int *at, const char *given[OPTION_COUNT],
                         enum config_action *action, char *error, size_t size)
{
    const char *value = NULL;
    if (argv[*at][0] != '-') {
        snprintf(error, size, "argument %d is not a flag: see lock-keeper --help", *at);
        return EX_USAGE;
    }
    const struct option *option = read_flag(argv[*at], &value, error, size);
    if (!option) {
        return EX_USAGE;
    }
    if (!option->argument) {
        if (value) {
            snprintf(error, size, "--%s takes no value: leave \"=\" and what follows out",
                     option->name);
            return EX_USAGE;
        }
        *action = option->action;
        return 0;
    }
    if (!value && *at + 1 < argc && strncmp(argv[*at + 1], "--", 2) != 0) {
        value = argv[++*at];
    }
    if (!value) {
        snprintf(error, size, "--%s needs a value: --%s %s", option->name, option->name,
                 option->argument);
        return EX_USAGE;
    }
    given[option - options] = value;
    return 0;
}

// Sets one row's field, and whether it is the default. 0 or a sysexits code with error.
static int apply(struct config *config, const struct option *option, const char *flag,
                 char *const *environment, bool *is_default, char *error, size_t size)
{
    char name[NAME_SIZE], why[384];
    const char *text = flag;
    const char *variable = NULL;
    if (!text) {
        variable = variable_name(option, name);
        text = look_up(environment, variable);
    }
    if (!text && option->fallback) {
        variable = option->fallback;
        text = look_up(environment, variable);
    }
    *is_default = !text;
    if (!text) {
        text = option->initial;
    }
    if (!text) {
        return 0;
    }
    int result = option->set((char *)config + option->field, text, &option->range, why, sizeof why);
    if (result < 0) {
        snprintf(error, size, "%s", strerror(-result));
        return EX_OSERR;
    }
    if (result > 0 && flag) {
        snprintf(error, size, "--%s: %s", option->name, why);
        return EX_USAGE;
    }
    if (result > 0) {
        snprintf(error, size, "%s (in the environment): %s", variable, why);
        return EX_CONFIG;
    }
    return 0;
}

static bool is_default_of(const bool *defaults, const int64_t *field, const struct config *config)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options[i].set && (const char *)config + options[i].field == (const char *)field)
            return defaults[i];
    return false;
}

// A default gives way to a limit that the operator set lower.
static void fit(const struct config *config, const bool *defaults, int64_t *value, int64_t limit)
{
    if (*value > limit && is_default_of(defaults, value, config))
        *value = limit;
}

static int refuse_above(const char *name, int64_t value, const char *limit_name, int64_t limit,
                        char *error, size_t size)
{
    char value_text[32], limit_text[32];
    if (value <= limit) {
        return 0;
    }
    snprintf(error, size, "--%s %s is above --%s %s: lower the one or raise the other", name,
             duration_format(value, value_text, sizeof value_text), limit_name,
             duration_format(limit, limit_text, sizeof limit_text));
    return EX_CONFIG;
}

static int check_combinations(const struct config *config, char *error, size_t size)
{
    const struct lease_rules rules = {.revoke_margin_ms = config->revoke_margin_ms};
    char why[384];
    int result = refuse_above("lock-ttl", config->lock_ttl_ms, "max-lock-ttl",
                              config->max_lock_ttl_ms, error, size);
    if (result == 0) {
        result =
            refuse_above("actor-workflow-deadline", config->workflow_deadline_ms,
                         "max-workflow-deadline", config->max_workflow_deadline_ms, error, size);
    }
    if (result == 0 && lease_rules_check(&rules, config->lock_ttl_ms, why, sizeof why) < 0) {
        snprintf(error, size, "--lock-ttl and --revoke-margin: %s", why);
        result = EX_CONFIG;
    }
    return result;
}

int config_read(struct config *config, int argc, char *const *argv, char *const *environment,
                enum config_action *action, char *error, size_t error_size)
{
    const char *given[OPTION_COUNT] = {NULL};
    bool defaults[OPTION_COUNT] = {false};
    *config = (struct config){.socket_group = (gid_t)-1};
    *action = CONFIG_RUN;
    for (int i = 1; i < argc; i++) {
        int result = sort_argument(argc, argv, &i, given, action, error, error_size);
        if (result != 0 || *action == CONFIG_HELP || *action == CONFIG_VERSION) {
            return result;
        }
    }
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (options[i].set) {
            int result =
                apply(config, &options[i], given[i], environment, &defaults[i], error, error_size);
            if (result != 0) {
                return result;
            }
        }
    }
    fit(config, defaults, &config->lock_ttl_ms, config->max_lock_ttl_ms);
    fit(config, defaults, &config->workflow_deadline_ms, config->max_workflow_deadline_ms);
    return check_combinations(config, error, error_size);
}

void config_deinit(struct config *config)
{
    free(config->socket_path);
    free(config->redis_password_file);
    free(config->key_prefix);
    redis_url_deinit(&config->redis);
    *config = (struct config){.socket_group = (gid_t)-1};
}

// Prints a word of a row's help, on the next line where it no longer fits. *column is the cursor's.
static void print_word(int fd, int *column, const char *word, int length)
{
    int blanks = 1;
    if (*column < HELP_COLUMN) {
        blanks = HELP_COLUMN - *column;
    } else if (*column + 1 + length > HELP_WIDTH) {
        dprintf(fd, "\n");
        *column = 0;
        blanks = HELP_COLUMN;
    }
    dprintf(fd, "%*s%.*s", blanks, "", length, word);
    *column += blanks + length;
}

static void print_option(int fd, const struct option *option)
{
    char word[NAME_SIZE];
    const char *text = option->help;
    int column = snprintf(word, sizeof word, "  --%s %s", option->name,
                          option->argument ? option->argument : "");
    dprintf(fd, "%s", word);
    while (*text) {
        size_t length = strcspn(text, " ");
        print_word(fd, &column, text, (int)length);
        text += length;
        text += strspn(text, " ");
    }
    if (option->initial) {
        int length = snprintf(word, sizeof word, "(default %s)", option->initial);
        print_word(fd, &column, word, length);
    }
    dprintf(fd, "\n");
}

void config_print_help(int fd)
{
    dprintf(fd, "Usage: lock-keeper [FLAG]...\n\n"
                "Holds Redis locks for local processes, which open them over a Unix socket.\n"
                "A flag's twin in the environment is LOCK_KEEPER_ and its name: --lock-ttl 30s is\n"
                "LOCK_KEEPER_LOCK_TTL=30s. The flag goes before the variable; an empty variable\n"
                "counts as none.\n");
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (options[i].name) {
            print_option(fd, &options[i]);
        } else {
            dprintf(fd, "\n%s\n", options[i].help);
        }
    }
}

void config_print_version(int fd)
{
    char text[VERSION_SIZE];
    dprintf(fd, "%s\n", version_format(text, sizeof text));
}
