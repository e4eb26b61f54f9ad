// SPDX-License-Identifier: Apache-2.0
//
// The log: what a line looks like, that no value can forge one, that a reader who does not read
// neither blocks us nor goes unnoticed, and that a shared description is left as it was.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sidecar/log.h"

static char text[1 << 20];

// All that can be read now, NUL-terminated. The descriptor is non-blocking.
static size_t drain(int fd)
{
    size_t length = 0;
    ssize_t size;
    while ((size = read(fd, text + length, sizeof text - 1 - length)) > 0) {
        length += (size_t)size;
    }
    text[length] = '\0';
    return length;
}

static void open_pipe(int ends[2])
{
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    ck_assert_int_eq(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
}

// What stands between the time (checked here) and the newline.
static const char *after_time(const char *prefix, const char *separator)
{
    int year, month, day, hour, minute, second, ms;
    char zone = 0;
    size_t start = strlen(prefix);
    ck_assert_int_eq(strncmp(text, prefix, start), 0);
    ck_assert_int_eq(sscanf(text + start, "%4d-%2d-%2dT%2d:%2d:%2d.%3d%c", &year, &month, &day,
                            &hour, &minute, &second, &ms, &zone),
                     8);
    ck_assert_int_eq(zone, 'Z');
    ck_assert_int_ge(year, 2024);
    start += strlen("2026-01-02T03:04:05.678Z");
    ck_assert_int_eq(strncmp(text + start, separator, strlen(separator)), 0);
    char *end = strchr(text, '\n');
    ck_assert_ptr_nonnull(end);
    ck_assert_int_eq(end[1], '\0');
    *end = '\0';
    return text + start + strlen(separator);
}

struct value_case {
    const char *value;
    size_t length;
    const char *logfmt;
    const char *json;
};

#define VALUE(bytes) bytes, sizeof(bytes) - 1

static const struct value_case value_cases[] = {
    {VALUE("plain"), "plain", "\"plain\""},
    {VALUE("/run/a-b_c.sock:1,2"), "/run/a-b_c.sock:1,2", "\"/run/a-b_c.sock:1,2\""},
    {VALUE(""), "\"\"", "\"\""},
    {VALUE("two words"), "\"two words\"", "\"two words\""},
    {VALUE("a=b"), "\"a=b\"", "\"a=b\""},
    {VALUE("say \"hi\""), "\"say \\\"hi\\\"\"", "\"say \\\"hi\\\"\""},
    {VALUE("back\\slash"), "\"back\\\\slash\"", "\"back\\\\slash\""},
    {VALUE("x\nlevel=error"), "\"x\\u000alevel=error\"", "\"x\\u000alevel=error\""},
    {VALUE("a\0b"), "\"a\\u0000b\"", "\"a\\u0000b\""},
    {VALUE("\x1b[31m\x7f"), "\"\\u001b[31m\\u007f\"", "\"\\u001b[31m\\u007f\""},
    {VALUE("gr\xc3\xbc\xc3\x9f"), "\"gr\xc3\xbc\xc3\x9f\"", "\"gr\xc3\xbc\xc3\x9f\""},
    {VALUE("\xf0\x9f\x94\x92"), "\"\xf0\x9f\x94\x92\"", "\"\xf0\x9f\x94\x92\""},
    {VALUE("\xc2\x9b"), "\"\\u009b\"", "\"\\u009b\""}, // C1: a terminal's CSI
    {VALUE("\xe2\x80\xae\xe2\x80\xa8"), "\"\\u202e\\u2028\"", "\"\\u202e\\u2028\""},
    {VALUE("\xc3("), "\"\\ufffd(\"", "\"\\ufffd(\""},                // cut sequence
    {VALUE("\xc0\xaf"), "\"\\ufffd\\ufffd\"", "\"\\ufffd\\ufffd\""}, // overlong
    {VALUE("\xed\xa0\x80"), "\"\\ufffd\\ufffd\\ufffd\"", "\"\\ufffd\\ufffd\\ufffd\""}, // surrogate
    {VALUE("\xe2\x82"), "\"\\ufffd\\ufffd\"", "\"\\ufffd\\ufffd\""}, // ends too early
    {VALUE("\xff"), "\"\\ufffd\"", "\"\\ufffd\""},
};

START_TEST(test_values)
{
    const struct value_case *c = &value_cases[_i];
    char want[256];
    int ends[2];
    open_pipe(ends);

    log_init(ends[1], LOG_INFO, LOG_LOGFMT);
    log_info("m", LOG_FIELD_BYTES("v", c->value, c->length), LOG_FIELD_INT("n", -7));
    drain(ends[0]);
    snprintf(want, sizeof want, "level=info msg=\"m\" v=%s n=-7", c->logfmt);
    ck_assert_str_eq(after_time("time=", " "), want);

    log_init(ends[1], LOG_INFO, LOG_JSON);
    log_info("m", LOG_FIELD_BYTES("v", c->value, c->length), LOG_FIELD_INT("n", -7));
    drain(ends[0]);
    snprintf(want, sizeof want, "\"level\":\"info\",\"msg\":\"m\",\"v\":%s,\"n\":-7}", c->json);
    ck_assert_str_eq(after_time("{\"time\":\"", "\","), want);
    log_deinit();
}
END_TEST

START_TEST(test_message_is_quoted)
{
    int ends[2];
    open_pipe(ends);
    log_init(ends[1], LOG_DEBUG, LOG_LOGFMT);
    log_error("lost \"it\"\n");
    drain(ends[0]);
    ck_assert_str_eq(after_time("time=", " "), "level=error msg=\"lost \\\"it\\\"\\u000a\"");
    log_deinit();
}
END_TEST

START_TEST(test_level)
{
    int ends[2];
    int evaluated = 0;
    open_pipe(ends);
    ck_assert(!log_enabled(LOG_ERROR));
    log_init(ends[1], LOG_WARN, LOG_LOGFMT);
    ck_assert(!log_enabled(LOG_INFO));
    ck_assert(log_enabled(LOG_WARN));
    log_info("m", LOG_FIELD_INT("n", ++evaluated));
    ck_assert_uint_eq(drain(ends[0]), 0);
    ck_assert_int_eq(evaluated, 0);
    log_warn("m", LOG_FIELD_INT("n", ++evaluated));
    ck_assert_uint_gt(drain(ends[0]), 0);
    ck_assert_int_eq(evaluated, 1);
    log_deinit();
    ck_assert(!log_enabled(LOG_ERROR));
}
END_TEST

// The whole line stays within 2048 bytes and well-formed, whatever the values are.
START_TEST(test_bounds)
{
    enum log_format format = _i % 2 ? LOG_JSON : LOG_LOGFMT;
    char fill = "x\n\xff "[_i / 2];
    static char value[5000];
    int ends[2];
    open_pipe(ends);
    memset(value, fill, sizeof value);
    log_init(ends[1], LOG_INFO, format);
    log_info("m", LOG_FIELD_BYTES("one", value, sizeof value),
             LOG_FIELD_BYTES("two", value, sizeof value), LOG_FIELD_INT("three", 3),
             LOG_FIELD_BYTES("four", value, sizeof value));
    size_t length = drain(ends[0]);
    ck_assert_uint_le(length, 2048);
    ck_assert_uint_gt(length, 1800);
    ck_assert_int_eq(text[length - 1], '\n');
    ck_assert_ptr_nonnull(strstr(text, "...\""));
    if (format == LOG_JSON) {
        json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        ck_assert(json_is_true(json_object_get(object, "truncated")));
        ck_assert_ptr_nonnull(json_object_get(object, "two"));
        ck_assert_ptr_null(json_object_get(object, "four"));
        json_decref(object);
    } else {
        ck_assert_ptr_nonnull(strstr(text, " truncated=true\n"));
    }
    log_deinit();
}
END_TEST

START_TEST(test_512_bytes_fit)
{
    char key[513];
    int ends[2];
    open_pipe(ends);
    memset(key, 'k', 512);
    key[512] = '\0';
    log_init(ends[1], LOG_INFO, LOG_LOGFMT);
    log_info("m", LOG_FIELD_STR("key", key), LOG_FIELD_STR("label", "l"));
    drain(ends[0]);
    ck_assert_ptr_nonnull(strstr(text, key));
    ck_assert_ptr_null(strstr(text, "..."));
    log_deinit();
}
END_TEST

static size_t count_lines(void)
{
    size_t lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')); at++) {
        lines++;
    }
    return lines;
}

// Logs until the reader's side is full and 100 lines more; then reads, and expects the count. The
// test hangs (and times out) if a write blocks.
static void overfill(int reader)
{
    uint64_t sent = 0;
    while (log_dropped() < 100) {
        log_info("filling the pipe", LOG_FIELD_INT("n", (int64_t)sent));
        sent++;
    }
    ck_assert_uint_eq(log_dropped(), 100);
    drain(reader);
    ck_assert_uint_eq(count_lines(), sent - 100);
    ck_assert_ptr_null(strstr(text, "dropped="));

    log_info("through");
    drain(reader);
    ck_assert_ptr_nonnull(strstr(text, "level=info msg=\"through\" dropped=100\n"));
    log_info("again");
    drain(reader);
    ck_assert_ptr_nonnull(strstr(text, "msg=\"again\"\n"));
    ck_assert_uint_eq(log_dropped(), 100);
}

START_TEST(test_full_pipe)
{
    int ends[2];
    open_pipe(ends);
    log_init(ends[1], LOG_INFO, LOG_LOGFMT);
    overfill(ends[0]);
    ck_assert_int_eq(fcntl(ends[1], F_GETFL) & (O_NONBLOCK | O_APPEND), 0);
    log_deinit();
    ck_assert_int_eq(fcntl(ends[1], F_GETFD) >= 0, 1);
}
END_TEST

// The file may not be opened again: somebody else's, or without permission.
START_TEST(test_full_pipe_not_ours)
{
    int ends[2];
    open_pipe(ends);
    ck_assert_int_eq(fchmod(ends[1], 0), 0);
    if (geteuid() == 0) {
        ck_assert_int_eq(setresuid(65534, 65534, 65534), 0);
    }
    log_init(ends[1], LOG_INFO, LOG_LOGFMT);
    overfill(ends[0]);
    ck_assert_int_eq(fcntl(ends[1], F_GETFL) & O_NONBLOCK, 0);
    log_deinit();
    prctl(PR_SET_DUMPABLE, 1); // or the leak check at exit cannot look at us
}
END_TEST

START_TEST(test_full_socket)
{
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    log_init(ends[1], LOG_INFO, LOG_LOGFMT);
    overfill(ends[0]);
    ck_assert_int_eq(fcntl(ends[1], F_GETFL) & O_NONBLOCK, 0);
    log_deinit();
}
END_TEST

START_TEST(test_reader_gone)
{
    int ends[2];
    signal(SIGPIPE, SIG_IGN);
    open_pipe(ends);
    log_init(ends[1], LOG_INFO, LOG_LOGFMT);
    close(ends[0]);
    errno = E2BIG;
    log_info("nobody reads");
    ck_assert_int_eq(errno, E2BIG);
    ck_assert_uint_eq(log_dropped(), 1);
    log_deinit();
}
END_TEST

// Somebody else writes to the same description: neither overwrites the other.
START_TEST(test_shared_file)
{
    FILE *file = tmpfile();
    ck_assert_ptr_nonnull(file);
    int fd = fileno(file);
    ck_assert_int_eq(write(fd, "first\n", 6), 6);
    log_init(fd, LOG_INFO, LOG_LOGFMT);
    log_info("second");
    ck_assert_int_eq(write(fd, "third\n", 6), 6);
    log_deinit();
    ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
    drain(fd);
    ck_assert_uint_eq(count_lines(), 3);
    ck_assert_int_eq(strncmp(text, "first\ntime=", 11), 0);
    ck_assert_ptr_nonnull(strstr(text, "msg=\"second\"\nthird\n"));
    fclose(file);
}
END_TEST

START_TEST(test_not_open)
{
    log_init(1000, LOG_INFO, LOG_LOGFMT);
    ck_assert(!log_enabled(LOG_ERROR));
    log_error("nowhere");
    log_deinit();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tests = tcase_create("log");
    tcase_set_timeout(tests, 20);
    tcase_add_loop_test(tests, test_values, 0, sizeof value_cases / sizeof value_cases[0]);
    tcase_add_test(tests, test_message_is_quoted);
    tcase_add_test(tests, test_level);
    tcase_add_loop_test(tests, test_bounds, 0, 8);
    tcase_add_test(tests, test_512_bytes_fit);
    tcase_add_test(tests, test_full_pipe);
    tcase_add_test(tests, test_full_pipe_not_ours);
    tcase_add_test(tests, test_full_socket);
    tcase_add_test(tests, test_reader_gone);
    tcase_add_test(tests, test_shared_file);
    tcase_add_test(tests, test_not_open);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
