// SPDX-License-Identifier: Apache-2.0
//
// The configuration: what is set where nothing is said, who wins (flag, variable, default), and
// that each refusal names the flag or variable and the remedy, and never a password.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "sidecar/config.h"
#include "tests/tool/scratch.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { MAX_WORDS = 8 };

static struct config config;
static enum config_action action;
static char error[512];

// Reads the words (argv without the program) and variables, both ended by NULL.
static int read_config(const char *const *words, const char *const *variables)
{
    char *argv[MAX_WORDS + 2] = {(char *)(uintptr_t) "lock-keeper"};
    char *environment[MAX_WORDS + 1] = {NULL};
    int argc = 1;
    for (int i = 0; i < MAX_WORDS && words[i]; i++) {
        argv[argc++] = (char *)(uintptr_t)words[i];
    }
    for (int i = 0; i < MAX_WORDS && variables[i]; i++) {
        environment[i] = (char *)(uintptr_t)variables[i];
    }
    memset(error, 0, sizeof error);
    return config_read(&config, argc, argv, environment, &action, error, sizeof error);
}

static const char *const none[MAX_WORDS] = {NULL};

START_TEST(test_defaults)
{
    ck_assert_int_eq(read_config(none, none), 0);
    ck_assert_int_eq(action, CONFIG_RUN);
    ck_assert_str_eq(config.socket_path, "/run/lock-keeper/lock-keeper.sock");
    ck_assert_uint_eq(config.socket_mode, 0660);
    ck_assert_uint_eq(config.socket_group, (gid_t)-1);
    ck_assert_str_eq(config.redis.host, "127.0.0.1");
    ck_assert_int_eq(config.redis.port, 6379);
    ck_assert_int_eq(config.redis.database, 0);
    ck_assert_ptr_null(config.redis.password);
    ck_assert_ptr_null(config.redis_password_file);
    ck_assert_str_eq(config.key_prefix, "lock:");
    ck_assert_int_eq(config.lock_ttl_ms, 30000);
    ck_assert_int_eq(config.max_lock_ttl_ms, 300000);
    ck_assert_int_eq(config.revoke_margin_ms, 0);
    ck_assert_int_eq(config.workflow_deadline_ms, 300000);
    ck_assert_int_eq(config.max_workflow_deadline_ms, 3600000);
    ck_assert_int_eq(config.max_leases_per_uid, 65536);
    ck_assert_int_eq(config.max_connections_per_uid, 4096);
    ck_assert_int_eq(config.max_waiters_per_uid, 4096);
    ck_assert_int_eq(config.drain_timeout_ms, 10000);
    ck_assert_int_eq(config.log_level, LOG_INFO);
    ck_assert_int_eq(config.log_format, LOG_LOGFMT);
    config_deinit(&config);
    ck_assert_ptr_null(config.socket_path);
}
END_TEST

// Every flag reaches its own field, in both spellings; so does its variable.
struct set_case {
    const char *flag;
    const char *variable;
    const char *value;
    size_t field;
    size_t size;
    int64_t want;          // of an integer
    const char *want_text; // of a string
};

#define INTEGER(name, number)                                                                      \
    offsetof(struct config, name), sizeof(((struct config *)NULL)->name), number, NULL
#define TEXT(name, text) offsetof(struct config, name), sizeof(char *), 0, text

static const struct set_case set_cases[] = {
    {"--socket", "LOCK_KEEPER_SOCKET", "/tmp/s", TEXT(socket_path, "/tmp/s")},
    {"--socket-mode", "LOCK_KEEPER_SOCKET_MODE", "0606", INTEGER(socket_mode, 0606)},
    {"--socket-mode", "LOCK_KEEPER_SOCKET_MODE", "777", INTEGER(socket_mode, 0777)},
    {"--socket-group", "LOCK_KEEPER_SOCKET_GROUP", "4711", INTEGER(socket_group, 4711)},
    {"--socket-group", "LOCK_KEEPER_SOCKET_GROUP", "root", INTEGER(socket_group, 0)},
    {"--redis", "LOCK_KEEPER_REDIS", "redis://there:7000", TEXT(redis.host, "there")},
    {"--redis", "LOCK_KEEPER_REDIS", "unix:///r.sock?db=3", INTEGER(redis.database, 3)},
    {"--redis", "REDIS_URL", "redis://:pw@there", TEXT(redis.password, "pw")},
    {"--redis-password-file", "LOCK_KEEPER_REDIS_PASSWORD_FILE", "/pw",
     TEXT(redis_password_file, "/pw")},
    {"--key-prefix", "LOCK_KEEPER_KEY_PREFIX", "a:b:", TEXT(key_prefix, "a:b:")},
    {"--lock-ttl", "LOCK_KEEPER_LOCK_TTL", "500ms", INTEGER(lock_ttl_ms, 500)},
    {"--max-lock-ttl", "LOCK_KEEPER_MAX_LOCK_TTL", "576h", INTEGER(max_lock_ttl_ms, 2073600000)},
    {"--revoke-margin", "LOCK_KEEPER_REVOKE_MARGIN", "3s", INTEGER(revoke_margin_ms, 3000)},
    {"--actor-workflow-deadline", "LOCK_KEEPER_ACTOR_WORKFLOW_DEADLINE", "1ms",
     INTEGER(workflow_deadline_ms, 1)},
    {"--max-workflow-deadline", "LOCK_KEEPER_MAX_WORKFLOW_DEADLINE", "1h1ms",
     INTEGER(max_workflow_deadline_ms, 3600001)},
    {"--max-leases-per-uid", "LOCK_KEEPER_MAX_LEASES_PER_UID", "1", INTEGER(max_leases_per_uid, 1)},
    {"--max-connections-per-uid", "LOCK_KEEPER_MAX_CONNECTIONS_PER_UID", "100000000",
     INTEGER(max_connections_per_uid, 100000000)},
    {"--max-waiters-per-uid", "LOCK_KEEPER_MAX_WAITERS_PER_UID", "09",
     INTEGER(max_waiters_per_uid, 9)},
    {"--drain-timeout", "LOCK_KEEPER_DRAIN_TIMEOUT", "0", INTEGER(drain_timeout_ms, 0)},
    {"--log-level", "LOCK_KEEPER_LOG_LEVEL", "error", INTEGER(log_level, LOG_ERROR)},
    {"--log-format", "LOCK_KEEPER_LOG_FORMAT", "json", INTEGER(log_format, LOG_JSON)},
};

static void check_field(const struct set_case *c)
{
    const char *field = (const char *)&config + c->field;
    int64_t wide = 0;
    uint32_t narrow = 0;
    if (c->want_text) {
        ck_assert_str_eq(*(const char *const *)(const void *)field, c->want_text);
    } else if (c->size == sizeof wide) {
        memcpy(&wide, field, sizeof wide);
        ck_assert_msg(wide == c->want, "%s: %lld", c->variable, (long long)wide);
    } else {
        ck_assert_uint_eq(c->size, sizeof narrow);
        memcpy(&narrow, field, sizeof narrow);
        ck_assert_msg((int64_t)narrow == c->want, "%s: %u", c->variable, (unsigned)narrow);
    }
}

static void check_case_set(const struct set_case *c)
{
    char joined[128];
    snprintf(joined, sizeof joined, "%s=%s", c->flag, c->value);
    ck_assert_msg(read_config((const char *[]){joined, NULL}, none) == 0, "%s", error);
    check_field(c);
    config_deinit(&config);

    ck_assert_int_eq(read_config((const char *[]){c->flag, c->value, NULL}, none), 0);
    check_field(c);
    config_deinit(&config);

    snprintf(joined, sizeof joined, "%s=%s", c->variable, c->value);
    ck_assert_int_eq(read_config(none, (const char *[]){joined, NULL}), 0);
    check_field(c);
    config_deinit(&config);
}

START_TEST(test_set)
{
    for (size_t i = 0; i < COUNT(set_cases); i++) {
        check_case_set(&set_cases[i]);
    }
}
END_TEST

struct order_case {
    const char *words[MAX_WORDS];
    const char *variables[MAX_WORDS];
    int64_t ttl;
    const char *host;
};

static const struct order_case order_cases[] = {
    {{"--lock-ttl", "3s"}, {"LOCK_KEEPER_LOCK_TTL=4s"}, 3000, "127.0.0.1"},
    {{"--lock-ttl=3s", "--lock-ttl", "5s"}, {NULL}, 5000, "127.0.0.1"},
    {{NULL}, {"LOCK_KEEPER_LOCK_TTL="}, 30000, "127.0.0.1"},
    {{NULL}, {"LOCK_KEEPER_LOCK_TTL_=4s", "XLOCK_KEEPER_LOCK_TTL=5s"}, 30000, "127.0.0.1"},
    {{NULL}, {"LOCK_KEEPER_PORT=tcp://10.0.0.1:80"}, 30000, "127.0.0.1"},
    {{NULL}, {"REDIS_URL=redis://b", "LOCK_KEEPER_REDIS=redis://a"}, 30000, "a"},
    {{NULL}, {"REDIS_URL=redis://b", "LOCK_KEEPER_REDIS="}, 30000, "b"},
    {{"--redis=redis://c"}, {"REDIS_URL=rediss://b", "LOCK_KEEPER_REDIS=?"}, 30000, "c"},
    {{"--lock-ttl=8m", "--max-lock-ttl=8m"}, {NULL}, 480000, "127.0.0.1"},
};

static void check_case_order(const struct order_case *c)
{
    ck_assert_msg(read_config(c->words, c->variables) == 0, "%s", error);
    ck_assert_int_eq(config.lock_ttl_ms, c->ttl);
    ck_assert_str_eq(config.redis.host, c->host);
    config_deinit(&config);
}

START_TEST(test_order)
{
    for (size_t i = 0; i < COUNT(order_cases); i++) {
        check_case_order(&order_cases[i]);
    }
}
END_TEST

struct refusal_case {
    const char *words[MAX_WORDS];
    const char *variables[MAX_WORDS];
    int code;
    const char *want[4]; // all of these stand in the message
};

#define TEN "0123456789"
#define LONG100 TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static const struct refusal_case refusal_cases[] = {
    {{"--lock-tll", "3s"}, {0}, EX_USAGE, {"no flag --lock-tll:", "--help"}},
    {{"-lock-ttl", "3s"}, {0}, EX_USAGE, {"no flag -lock-ttl:", "--help"}},
    {{"---lock-ttl=3s"}, {0}, EX_USAGE, {"no flag ---lock-ttl:"}},
    {{"--lock-ttl-ms=3s"}, {0}, EX_USAGE, {"no flag --lock-ttl-ms:"}},
    {{"--=3s"}, {0}, EX_USAGE, {"no flag --:"}},
    {{"-"}, {0}, EX_USAGE, {"no flag -:"}},
    {{"--"}, {0}, EX_USAGE, {"no flag --:"}},
    {{"--\x1b[2J"}, {0}, EX_USAGE, {"no flag --?[2J:"}},
    {{"--log-level", "info", "x"}, {0}, EX_USAGE, {"argument 3 is not a flag", "--help"}},
    {{""}, {0}, EX_USAGE, {"argument 1 is not a flag"}},
    {{"--lock-ttl"}, {0}, EX_USAGE, {"--lock-ttl needs a value: --lock-ttl DURATION"}},
    {{"--socket", "--redis=redis://a"}, {0}, EX_USAGE, {"--socket needs a value: --socket PATH"}},
    {{"--version=1"}, {0}, EX_USAGE, {"--version takes no value"}},
    {{"--check-config=yes"}, {0}, EX_USAGE, {"--check-config takes no value"}},
    // Durations.
    {{"--lock-ttl", "30"}, {0}, EX_USAGE, {"--lock-ttl: \"30\" is not a duration", "30s"}},
    {{"--lock-ttl="}, {0}, EX_USAGE, {"--lock-ttl: \"\" is not a duration"}},
    {{"--lock-ttl", "-5s"}, {0}, EX_USAGE, {"--lock-ttl: \"-5s\" is out of range", "500ms"}},
    {{"--lock-ttl", "499ms"}, {0}, EX_USAGE, {"--lock-ttl: \"499ms\"", "from 500ms to 576h"}},
    {{"--lock-ttl", "0"}, {0}, EX_USAGE, {"--lock-ttl: \"0\" is out of range"}},
    {{"--lock-ttl", "500.5ms"}, {0}, EX_USAGE, {"--lock-ttl: \"500.5ms\"", "whole milli"}},
    {{"--max-lock-ttl", "577h"}, {0}, EX_USAGE, {"--max-lock-ttl: \"577h\" is out of range"}},
    {{"--actor-workflow-deadline=0"}, {0}, EX_USAGE, {"--actor-workflow-deadline", "from 1ms"}},
    {{0}, {"LOCK_KEEPER_LOCK_TTL=soon"}, EX_CONFIG, {"LOCK_KEEPER_LOCK_TTL", "\"soon\" is not a"}},
    {{0},
     {"LOCK_KEEPER_DRAIN_TIMEOUT=5"},
     EX_CONFIG,
     {"LOCK_KEEPER_DRAIN_TIMEOUT", "\"5\" is not"}},
    // Numbers.
    {{"--max-leases-per-uid=0"}, {0}, EX_USAGE, {"--max-leases-per-uid: \"0\"", "from 1 to"}},
    {{"--max-leases-per-uid=-1"}, {0}, EX_USAGE, {"\"-1\" is not a whole number"}},
    {{"--max-leases-per-uid=+1"}, {0}, EX_USAGE, {"\"+1\" is not a whole number"}},
    {{"--max-leases-per-uid= 1"}, {0}, EX_USAGE, {"\" 1\" is not a whole number"}},
    {{"--max-leases-per-uid=10k"}, {0}, EX_USAGE, {"\"10k\" is not a whole number"}},
    {{"--max-leases-per-uid=0x10"}, {0}, EX_USAGE, {"\"0x10\" is not a whole number"}},
    {{"--max-leases-per-uid=18446744073709551617"}, {0}, EX_USAGE, {"is not a whole number"}},
    {{"--max-leases-per-uid", LONG100}, {0}, EX_USAGE, {"56789...\" is not a whole number"}},
    {{0}, {"LOCK_KEEPER_MAX_WAITERS_PER_UID=many"}, EX_CONFIG, {"LOCK_KEEPER_MAX_WAITERS_PER_UID"}},
    // The socket.
    {{"--socket="}, {0}, EX_USAGE, {"--socket: the path has 0 bytes", "1 to 107"}},
    {{"--socket=/" LONG100 "1234567"}, {0}, EX_USAGE, {"the path has 108 bytes: use 1 to 107"}},
    {{"--socket-mode=0880"}, {0}, EX_USAGE, {"--socket-mode: \"0880\"", "octal"}},
    {{"--socket-mode=1777"}, {0}, EX_USAGE, {"--socket-mode: \"1777\"", "0777"}},
    {{"--socket-mode=rw"}, {0}, EX_USAGE, {"--socket-mode: \"rw\"", "octal"}},
    {{"--socket-group=no such"}, {0}, EX_USAGE, {"--socket-group: there is no group \"no such\""}},
    {{"--socket-group=4294967295"}, {0}, EX_USAGE, {"no group \"4294967295\""}},
    // Redis.
    {{"--redis=http://a"}, {0}, EX_USAGE, {"--redis: ", "redis://"}},
    {{"--redis="}, {0}, EX_USAGE, {"--redis: "}},
    {{0}, {"LOCK_KEEPER_REDIS=x"}, EX_CONFIG, {"LOCK_KEEPER_REDIS (in the environment): "}},
    {{0}, {"REDIS_URL=x"}, EX_CONFIG, {"REDIS_URL (in the environment): "}},
    {{"--redis-password-file="}, {0}, EX_USAGE, {"--redis-password-file: the path has 0 bytes"}},
    {{"--key-prefix=a\nb"}, {0}, EX_USAGE, {"--key-prefix: byte 2", "control character"}},
    {{"--key-prefix=a\x7f"}, {0}, EX_USAGE, {"--key-prefix: byte 2", "control character"}},
    {{"--key-prefix=" LONG100 TEN TEN "123456789"}, {0}, EX_USAGE, {"129 bytes", "at most 128"}},
    // Words.
    {{"--log-level=trace"}, {0}, EX_USAGE, {"\"trace\"", "one of debug, info, warn, error"}},
    {{"--log-level=INFO"}, {0}, EX_USAGE, {"--log-level: \"INFO\" is not one of"}},
    {{"--log-format=xml"}, {0}, EX_USAGE, {"--log-format: \"xml\"", "logfmt, json"}},
    // Combinations.
    {{"--lock-ttl=301s"}, {0}, EX_CONFIG, {"--lock-ttl 5m1s is above --max-lock-ttl 5m", "raise"}},
    {{"--lock-ttl=30s", "--max-lock-ttl=1s"},
     {0},
     EX_CONFIG,
     {"--lock-ttl 30s is above --max-lock-ttl 1s"}},
    {{"--actor-workflow-deadline=2h"},
     {0},
     EX_CONFIG,
     {"--actor-workflow-deadline 2h is above --max-workflow-deadline 1h"}},
    {{"--revoke-margin=2999ms"}, {0}, EX_CONFIG, {"--revoke-margin", "2999 ms", "3000 ms"}},
    {{"--lock-ttl=500ms", "--revoke-margin=49ms"}, {0}, EX_CONFIG, {"49 ms", "50 ms"}},
    // 10000 + 2 * 2500 + 500 = 15500 <= 30000 - 302 - 14198.
    {{"--revoke-margin=14199ms"}, {0}, EX_CONFIG, {"14199 ms", "15499 ms", "15500 ms"}},
    {{0}, {"LOCK_KEEPER_REVOKE_MARGIN=20s"}, EX_CONFIG, {"--revoke-margin", "20000 ms"}},
};

static void check_case_refusals(const struct refusal_case *c)
{
    int code = read_config(c->words, c->variables);
    ck_assert_msg(code == c->code, "%s %s: %d, not %d: %s", c->words[0], c->variables[0], code,
                  c->code, error);
    for (size_t i = 0; i < 4 && c->want[i]; i++) {
        ck_assert_msg(strstr(error, c->want[i]) != NULL, "\"%s\" lacks \"%s\"", error, c->want[i]);
    }
    config_deinit(&config);
}

START_TEST(test_refusals)
{
    for (size_t i = 0; i < COUNT(refusal_cases); i++) {
        check_case_refusals(&refusal_cases[i]);
    }
}
END_TEST

// A default gives way to a lower limit that was set, in every source; a limit never gives way.
START_TEST(test_defaults_that_give_way)
{
    const char *flags[] = {"--max-lock-ttl=10s", "--max-workflow-deadline=1m", NULL};
    const char *variables[] = {"LOCK_KEEPER_MAX_LOCK_TTL=20s", NULL};

    ck_assert_msg(read_config(flags, none) == 0, "%s", error);
    ck_assert_int_eq(config.lock_ttl_ms, 10000);
    ck_assert_int_eq(config.workflow_deadline_ms, 60000);
    config_deinit(&config);
    ck_assert_msg(read_config(none, variables) == 0, "%s", error);
    ck_assert_int_eq(config.lock_ttl_ms, 20000);
    ck_assert_int_eq(config.workflow_deadline_ms, 300000);
    config_deinit(&config);
}
END_TEST

START_TEST(test_margins_that_fit)
{
    static const char *const margins[] = {"0", "3s", "14198ms"};
    const char *words[] = {"--revoke-margin", margins[_i], NULL};
    ck_assert_msg(read_config(words, none) == 0, "%s", error);
    config_deinit(&config);
}
END_TEST

// Whatever is wrong with it, the password is not told.
static const struct order_case secret_cases[] = {
    {{"--redis=redis://:hunter2@host:99999"}, {NULL}, 0, NULL},
    {{"--redis", "redis://me:hunter2@"}, {NULL}, 0, NULL},
    {{"--redis=hunter2"}, {NULL}, 0, NULL},
    {{"--rdis=redis://:hunter2@host"}, {NULL}, 0, NULL},
    {{"--rdis", "redis://:hunter2@host"}, {NULL}, 0, NULL},
    {{"redis://:hunter2@host"}, {NULL}, 0, NULL},
    {{"--version=hunter2"}, {NULL}, 0, NULL},
    {{NULL}, {"REDIS_URL=redis://:hunter2@host/x"}, 0, NULL},
    {{NULL}, {"LOCK_KEEPER_REDIS=rediss://:hunter2@host"}, 0, NULL},
};

static void check_case_secrets(const struct order_case *c)
{
    ck_assert_msg(read_config(c->words, c->variables) != 0, "%s %s", c->words[0], c->variables[0]);
    ck_assert_uint_gt(strlen(error), 0);
    ck_assert_msg(!strstr(error, "hunter2"), "%s", error);
    config_deinit(&config);
}

START_TEST(test_secrets)
{
    for (size_t i = 0; i < COUNT(secret_cases); i++) {
        check_case_secrets(&secret_cases[i]);
    }
}
END_TEST

struct action_case {
    const char *words[MAX_WORDS];
    enum config_action action;
};

// --help and --version answer at once, so that they work in a broken environment too.
static const struct action_case action_cases[] = {
    {{"--help"}, CONFIG_HELP},
    {{"-h"}, CONFIG_HELP},
    {{"--lock-ttl", "nonsense", "--help", "--nonsense"}, CONFIG_HELP},
    {{"--version"}, CONFIG_VERSION},
    {{"--version", "--help"}, CONFIG_VERSION},
};

static void check_case_actions(const struct action_case *c)
{
    ck_assert_int_eq(read_config(c->words, (const char *[]){"LOCK_KEEPER_LOCK_TTL=x", NULL}), 0);
    ck_assert_int_eq(action, c->action);
    config_deinit(&config);
}

START_TEST(test_actions)
{
    for (size_t i = 0; i < COUNT(action_cases); i++) {
        check_case_actions(&action_cases[i]);
    }
}
END_TEST

START_TEST(test_check_config)
{
    const char *words[] = {"--check-config", "--lock-ttl", "2s", NULL};
    ck_assert_int_eq(read_config(words, none), 0);
    ck_assert_int_eq(action, CONFIG_CHECK);
    ck_assert_int_eq(config.lock_ttl_ms, 2000);
    config_deinit(&config);
    ck_assert_int_eq(read_config(words, (const char *[]){"LOCK_KEEPER_LOG_LEVEL=x", NULL}),
                     EX_CONFIG);
    config_deinit(&config);
}
END_TEST

// What a print function writes.
static const char *printed(void (*print)(int fd))
{
    static char text[1 << 14];
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    print(ends[1]);
    close(ends[1]);
    ssize_t length = 0, size;
    while ((size = read(ends[0], text + length, sizeof text - 1 - (size_t)length)) > 0) {
        length += size;
    }
    close(ends[0]);
    text[length] = '\0';
    return text;
}

START_TEST(test_help)
{
    const char *text = printed(config_print_help);
    for (size_t i = 0; i < COUNT(set_cases); i++) {
        char line[64];
        snprintf(line, sizeof line, "\n  %s ", set_cases[i].flag);
        ck_assert_msg(strstr(text, line) != NULL, "%s", line);
    }
    ck_assert_ptr_nonnull(strstr(text, "\n  --check-config "));
    ck_assert_ptr_nonnull(strstr(text, "(default /run/lock-keeper/lock-keeper.sock)"));
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
        size_t length = strcspn(line, "\n");
        ck_assert_msg(length <= 100, "%.*s", (int)length, line);
        ck_assert_int_ne(length > 0 ? line[length - 1] : 'x', ' ');
    }
}
END_TEST

START_TEST(test_version)
{
    const char *text = printed(config_print_version);
    int parts[9], end = 0;
    ck_assert_int_eq(sscanf(text,
                            "lock-keeper %d.%d.%d\nhiredis %d.%d.%d, libev %d.%d, jansson 2.%d%n",
                            &parts[0], &parts[1], &parts[2], &parts[3], &parts[4], &parts[5],
                            &parts[6], &parts[7], &parts[8], &end),
                     9);
    ck_assert_int_ge(parts[6], 4);
    ck_assert_int_gt(end, 0);
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tests = tcase_create("config");
    tcase_add_test(tests, test_defaults);
    tcase_add_test(tests, test_set);
    tcase_add_test(tests, test_order);
    tcase_add_test(tests, test_refusals);
    tcase_add_test(tests, test_defaults_that_give_way);
    tcase_add_loop_test(tests, test_margins_that_fit, 0, 3);
    tcase_add_test(tests, test_secrets);
    tcase_add_test(tests, test_actions);
    tcase_add_test(tests, test_check_config);
    tcase_add_test(tests, test_help);
    tcase_add_test(tests, test_version);
    suite_add_tcase(suite, tests);
    return scratch_main(suite);
}
