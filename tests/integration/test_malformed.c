// SPDX-License-Identifier: Apache-2.0
//
// Lines that no client should send (FAULTS rows 25 and 26): each gets its exact error, changes
// nothing, and leaves the connection usable. And odd keys that are right: they reach Redis byte for
// byte.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tool/bench.h"

#define LEASE "00112233445566778899aabbccddeeff"
#define BYTES(text) (text), sizeof(text) - 1
#define TEN(text) text text text text text text text text text text
#define HUNDRED(text) TEN(TEN(text))

static const struct malformed {
    const char *line;
    size_t length;
    const char *error;
    const char *mention; // in "message", NULL: nothing particular
} malformed[] = {
    // No JSON object.
    {BYTES("hello"), "errBadRequest", NULL},
    {BYTES("{"), "errBadRequest", NULL},
    {BYTES("}"), "errBadRequest", NULL},
    {BYTES("[]"), "errBadRequest", "object"},
    {BYTES("[{\"op\":\"ping\"}]"), "errBadRequest", "object"},
    {BYTES("null"), "errBadRequest", "object"},
    {BYTES("7"), "errBadRequest", NULL},
    {BYTES("\"ping\""), "errBadRequest", NULL},
    {BYTES("{\"op\":\"ping\"} x"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"ping\"}{\"op\":\"ping\"}"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"ping\",}"), "errBadRequest", NULL},
    {BYTES("{'op':'ping'}"), "errBadRequest", NULL},
    {BYTES("{op:\"ping\"}"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"ping\""), "errBadRequest", NULL},
    {BYTES("{\"op\":\"ping\",\"x_a\":NaN}"), "errBadRequest", NULL},
    {BYTES("GET / HTTP/1.1"), "errBadRequest", NULL},
    {BYTES("*1"), "errBadRequest", NULL},
    {BYTES("\xef\xbb\xbf{\"op\":\"ping\"}"), "errBadRequest", NULL},
    // Bytes.
    {BYTES("\0"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"ping\0\"}"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"ping\"}\0"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\\u0000b\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\xff\"}"), "errBadRequest", "UTF-8"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"\xc0\xaf\"}"), "errBadRequest", "UTF-8"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"\xed\xa0\x80\"}"), "errBadRequest", "UTF-8"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"\\ud800\"}"), "errBadRequest", NULL},
    // Depth.
    {BYTES("{\"op\":\"ping\",\"x_a\":" HUNDRED(TEN("[")) HUNDRED(TEN("]")) "}"), NULL, NULL},
    {BYTES(HUNDRED(TEN("["))), "errBadRequest", NULL},
    {BYTES(HUNDRED(TEN("{\"a\":"))), "errLineTooLong", NULL},
    // Members given twice.
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"key\":\"b\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"ping\",\"op\":\"ping\"}"), "errBadRequest", "op"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"\\u006bey\":\"b\"}"), "errBadRequest", NULL},
    // The op.
    {BYTES("{}"), "errBadRequest", "op"},
    {BYTES("{\"id\":1}"), "errBadRequest", "op"},
    {BYTES("{\"op\":7}"), "errBadRequest", "op"},
    {BYTES("{\"op\":null}"), "errBadRequest", "op"},
    {BYTES("{\"op\":\"\"}"), "errUnknownOp", NULL},
    {BYTES("{\"op\":\"steal\"}"), "errUnknownOp", "steal"},
    {BYTES("{\"op\":\"PING\"}"), "errUnknownOp", NULL},
    {BYTES("{\"op\":\"ping \"}"), "errUnknownOp", NULL},
    // Unknown members, among them a typo that would change the lock's meaning.
    {BYTES("{\"op\":\"ping\",\"key\":\"a\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl\":5000}"), "errBadRequest", "ttl"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"TTL_MS\":5000}"), "errBadRequest", "TTL_MS"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"\":1}"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"X_\":1}"), "errBadRequest", "X_"},
    // The id.
    {BYTES("{\"op\":\"ping\",\"id\":1.5}"), "errBadRequest", "id"},
    {BYTES("{\"op\":\"ping\",\"id\":null}"), "errBadRequest", "id"},
    {BYTES("{\"op\":\"ping\",\"id\":[1]}"), "errBadRequest", "id"},
    {BYTES("{\"op\":\"ping\",\"id\":9007199254740992}"), "errBadRequest", "id"},
    {BYTES("{\"op\":\"ping\",\"id\":\"" TEN("0123456") "\"}"), "errBadRequest", "id"},
    // The key.
    {BYTES("{\"op\":\"acquire\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":7}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":null}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":[\"a\"]}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"" HUNDRED("12345") "1234567890123\"}"), "errBadRequest",
     "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\\nb\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\\r\\nDEL x\\r\\n\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"\\t\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"\\u007f\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"\\u001b[2J\"}"), "errBadRequest", "key"},
    // The numbers.
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":0}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":-1}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":1}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":499}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":9223372036854775807}"), "errBadRequest",
     "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":9223372036854775808}"), "errBadRequest",
     "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":1e400}"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":300001}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":30000.0}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":3e4}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":\"30000\"}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":\"30\"}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":null}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":true}"), "errBadRequest", "ttl_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"ttl_ms\":030000}"), "errBadRequest", NULL},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"deadline_ms\":0}"), "errBadRequest", "deadline_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"deadline_ms\":-5}"), "errBadRequest",
     "deadline_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"wait_ms\":-2}"), "errBadRequest", "wait_ms"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"wait_ms\":0.5}"), "errBadRequest", "wait_ms"},
    // The label and the names.
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"label\":7}"), "errBadRequest", "label"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"label\":\"a\\nb\"}"), "errBadRequest", "label"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"label\":\"" TEN("1234567890123") "\"}"),
     "errBadRequest", "label"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"bind\":\"forever\"}"), "errBadRequest", "bind"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"on_disconnect\":\"keep\"}"), "errBadRequest",
     "on_disconnect"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"on_disconnect\":1}"), "errBadRequest",
     "on_disconnect"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"notify\":\"renewed\"}"), "errBadRequest", "notify"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"notify\":[\"lost\"]}"), "errBadRequest", "notify"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"notify\":[1]}"), "errBadRequest", "notify"},
    {BYTES("{\"op\":\"acquire\",\"key\":\"a\",\"pid\":1}"), "errBadRequest", "pid"},
    // The lease.
    {BYTES("{\"op\":\"release\"}"), "errBadRequest", "lease"},
    {BYTES("{\"op\":\"release\",\"lease\":7}"), "errBadRequest", "lease"},
    {BYTES("{\"op\":\"release\",\"lease\":\"\"}"), "errBadRequest", "lease"},
    {BYTES("{\"op\":\"release\",\"lease\":\"0011\"}"), "errBadRequest", "lease"},
    {BYTES("{\"op\":\"release\",\"lease\":\"00112233445566778899AABBCCDDEEFF\"}"), "errBadRequest",
     "lease"},
    {BYTES("{\"op\":\"release\",\"lease\":\"0011223344556677 899aabbccddeef\"}"), "errBadRequest",
     "lease"},
    {BYTES("{\"op\":\"release\",\"lease\":\"" LEASE "\",\"key\":\"a\"}"), "errBadRequest", "key"},
    {BYTES("{\"op\":\"release\",\"lease\":\"" LEASE "\"}"), "errUnknownLease", NULL},
    // The list.
    {BYTES("{\"op\":\"list\",\"limit\":0}"), "errBadRequest", "limit"},
    {BYTES("{\"op\":\"list\",\"limit\":501}"), "errBadRequest", "limit"},
    {BYTES("{\"op\":\"list\",\"limit\":\"10\"}"), "errBadRequest", "limit"},
    {BYTES("{\"op\":\"list\",\"after\":7}"), "errBadRequest", "after"},
    {BYTES("{\"op\":\"list\",\"after\":\"no such cursor\"}"), "errBadRequest", "after"},
};

static void start(struct line_client *client)
{
    sidecar_process_start(&sidecar, redis.url, "--lock-ttl", "1s", NULL);
    line_client_connect(client, sidecar.socket);
}

static void expect_error(struct line_client *client, const struct malformed *c)
{
    line_client_receive(client);
    if (!c->error)
        return; // either answer will do, but exactly one
    ck_assert_msg(json_is_false(line_client_member(client, "ok")), "%s; taken: %s", c->line,
                  client->line);
    ck_assert_msg(strcmp(line_client_string(client, "error"), c->error) == 0, "%s; expected %s: %s",
                  c->line, c->error, client->line);
    ck_assert_str_ne(line_client_string(client, "message"), "");
    if (c->mention)
        ck_assert_msg(strstr(line_client_string(client, "message"), c->mention) != NULL,
                      "%s; message without %s: %s", c->line, c->mention, client->line);
}

static void expect_no_side_effect(struct line_client *client)
{
    line_client_send(client, "{'op':'list'}");
    line_client_expect(client, "{'ok':true,'op':'list','leases':[]}");
    ck_assert_int_eq(bench_count("lock:*"), 0);
}

START_TEST(each_gets_its_error)
{
    struct line_client client;

    start(&client);
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        ck_assert(line_client_send_bytes(&client, malformed[i].line, malformed[i].length));
        ck_assert(line_client_send_bytes(&client, "\n", 1));
        expect_error(&client, &malformed[i]);
        line_client_ping(&client);
    }
    expect_no_side_effect(&client);
    line_client_close(&client);
}
END_TEST

// All in one write, each followed by a ping: the order of the replies is that of the lines.
START_TEST(all_pipelined)
{
    struct line_client client;

    start(&client);
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        char ping[64];

        snprintf(ping, sizeof ping, "\r\n\r\n\n{\"id\":%zu,\"op\":\"ping\"}\n", i);
        ck_assert(line_client_send_bytes(&client, malformed[i].line, malformed[i].length));
        ck_assert(line_client_send_bytes(&client, ping, strlen(ping)));
    }
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        expect_error(&client, &malformed[i]);
        line_client_expect(&client, "{'ok':true,'id':%zu,'op':'ping'}", i);
    }
    expect_no_side_effect(&client);
    line_client_close(&client);
}
END_TEST

START_TEST(refusals_echo_id_and_op)
{
    struct line_client client;

    start(&client);
    line_client_send(&client, "{'op':'acquire','key':'','id':'a'}");
    line_client_expect(&client, "{'ok':false,'id':'a','op':'acquire','error':'errBadRequest'}");
    line_client_send(&client, "{'op':'acquire','key':'a','ttl_ms':0,'id':-7}");
    line_client_expect(&client, "{'ok':false,'id':-7,'op':'acquire','error':'errBadRequest'}");
    line_client_send(&client, "{'id':9007199254740991,'op':'nothing'}");
    line_client_expect(&client, "{'ok':false,'id':9007199254740991,'error':'errUnknownOp'}");
    line_client_send(&client, "{'id':'\\u20ac \\u0007 \\\" <','op':'ping'}");
    line_client_expect(&client, "{'ok':true,'id':'\\u20ac \\u0007 \\\" <','op':'ping'}");
    // Members of their own are ignored, whatever is in them.
    line_client_send(&client, "{'op':'ping','x_trace':{'a':[1.5,null]},'x_':1}");
    line_client_expect(&client, "{'ok':true,'op':'ping'}");
    line_client_close(&client);
}
END_TEST

// A line of exactly length bytes (no newline) that pings and pads with a member of its own.
static char *padded_ping(size_t length)
{
    static const char head[] = "{\"op\":\"ping\",\"x_pad\":\"", tail[] = "\"}\n";
    char *line = malloc(length + 2);
    size_t padding = length + 1 - (sizeof head - 1) - (sizeof tail - 1);

    ck_assert_ptr_nonnull(line);
    memcpy(line, head, sizeof head - 1);
    memset(line + sizeof head - 1, 'x', padding);
    memcpy(line + sizeof head - 1 + padding, tail, sizeof tail);
    return line;
}

START_TEST(longest_line_and_one_byte_more)
{
    struct line_client client;
    char *line;

    start(&client);
    line = padded_ping(WIRE_MAX_LINE);
    ck_assert(line_client_send_bytes(&client, line, WIRE_MAX_LINE + 1));
    line_client_expect(&client, "{'ok':true,'op':'ping'}");
    // A carriage return does not count.
    ck_assert(line_client_send_bytes(&client, line, WIRE_MAX_LINE));
    ck_assert(line_client_send_bytes(&client, "\r\n", 2));
    line_client_expect(&client, "{'ok':true,'op':'ping'}");
    free(line);
    line = padded_ping(WIRE_MAX_LINE + 1);
    ck_assert(line_client_send_bytes(&client, line, WIRE_MAX_LINE + 2));
    line_client_expect(&client, "{'ok':false,'error':'errLineTooLong','message':'<string>'}");
    line_client_ping(&client);
    free(line);
    line_client_close(&client);
}
END_TEST

// Reported once, before its end is known, and skipped to its newline.
START_TEST(endless_line)
{
    static const char chunk[] = HUNDRED(TEN("{\"op\":\"release\",\"lease\":\"" LEASE "\"} "));
    struct line_client client, other;

    start(&client);
    line_client_connect(&other, sidecar.socket);
    for (int i = 0; i < 40; i++)
        ck_assert(line_client_send_bytes(&client, chunk, sizeof chunk - 1));
    line_client_expect(&client, "{'ok':false,'error':'errLineTooLong'}");
    line_client_ping(&other);
    ck_assert(line_client_send_bytes(&client, "\n{\"op\":\"ping\"}\n", 15));
    line_client_expect(&client, "{'ok':true,'op':'ping'}");
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

START_TEST(a_byte_at_a_time)
{
    static const char lines[] = "{\"op\":\"acquire\",\"key\":\"slow\"}\r\n\n{\"op\":\"ping\"}\n";
    struct line_client client, other;

    start(&client);
    line_client_connect(&other, sidecar.socket);
    for (size_t i = 0; i < sizeof lines - 1; i++) {
        ck_assert(line_client_send_bytes(&client, &lines[i], 1));
        line_client_ping(&other);
    }
    line_client_expect(&client, "{'ok':true,'op':'acquire','key':'slow'}");
    line_client_expect(&client, "{'ok':true,'op':'ping'}");
    line_client_close(&other);
    line_client_close(&client);
}
END_TEST

// The last line has no newline: it is no request.
START_TEST(unfinished_line_at_the_end)
{
    struct line_client client;

    start(&client);
    line_client_send(&client, "{'op':'ping'}");
    ck_assert(line_client_send_bytes(&client, BYTES("{\"op\":\"acquire\",\"key\":\"half\"}")));
    line_client_half_close(&client);
    line_client_expect(&client, "{'ok':true,'op':'ping'}");
    line_client_drain(&client);
    ck_assert(!bench_exists("half"));
    line_client_close(&client);
}
END_TEST

// As JSON, and the bytes that must be in Redis.
static const struct odd_key {
    const char *json;
    const char *bytes;
} odd_keys[] = {
    {"actor:42", "actor:42"},
    {"%s%n%d%%", "%s%n%d%%"},
    {"two words  and more ", "two words  and more "},
    {"*3\\\\r\\\\n$3\\\\r\\\\nDEL", "*3\\r\\n$3\\r\\nDEL"},
    {"*1 $8 FLUSHALL", "*1 $8 FLUSHALL"},
    {"\\\"quoted\\\" \\\\ {braces} [x]?*", "\"quoted\" \\ {braces} [x]?*"},
    {"'; return redis.call('flushall') --", "'; return redis.call('flushall') --"},
    {"KEYS[1]", "KEYS[1]"},
    {"gr\xc3\xbc\xc3\x9f"
     "e \xe2\x82\xac \xf0\x9f\x94\x92",
     "gr\xc3\xbc\xc3\x9f"
     "e \xe2\x82\xac \xf0\x9f\x94\x92"},
    {"\\u00fc\\u20ac\\ud83d\\udd12", "\xc3\xbc\xe2\x82\xac\xf0\x9f\x94\x92"},
    {"x", "x"},
    {HUNDRED("12345") "123456789012", HUNDRED("12345") "123456789012"},
};

START_TEST(odd_keys_pass_byte_for_byte)
{
    const struct odd_key *key = &odd_keys[_i];
    struct line_client client;
    char line[1024], *lease;

    start(&client);
    private_redis_run(&redis, "SET witness alive");
    snprintf(line, sizeof line, "{\"op\":\"acquire\",\"key\":\"%s\",\"label\":\"%%s \\\"l\\\"\"}\n",
             key->json);
    ck_assert(line_client_send_bytes(&client, line, strlen(line)));
    line_client_expect(&client, "{'ok':true,'op':'acquire'}");
    ck_assert_str_eq(line_client_string(&client, "key"), key->bytes);
    lease = strdup(line_client_string(&client, "lease"));
    snprintf(line, sizeof line, "lock:%s", key->bytes);
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS %s", line), 1);
    ck_assert_int_eq(strncmp(private_redis_string(&redis, "GET %s", line), lease, 32), 0);
    // It is shown as it came, too.
    line_client_send(&client, "{'op':'list'}");
    line_client_expect(&client, "{'leases':[{'state':'held','holder':{'label':'%%s \\\"l\\\"'}}]}");
    ck_assert_str_eq(line_client_string(&client, "leases.0.key"), key->bytes);
    line_client_send(&client, "{'op':'release','lease':'%s'}", lease);
    line_client_expect(&client, "{'ok':true,'op':'release'}");
    ck_assert_int_eq(private_redis_int(&redis, "EXISTS %s", line), 0);
    ck_assert_str_eq(private_redis_string(&redis, "GET witness"), "alive");
    free(lease);
    line_client_close(&client);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("integration");
    TCase *tests = tcase_create("malformed");

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, bench_setup, bench_teardown);
    tcase_add_test(tests, each_gets_its_error);
    tcase_add_test(tests, all_pipelined);
    tcase_add_test(tests, refusals_echo_id_and_op);
    tcase_add_test(tests, longest_line_and_one_byte_more);
    tcase_add_test(tests, endless_line);
    tcase_add_test(tests, a_byte_at_a_time);
    tcase_add_test(tests, unfinished_line_at_the_end);
    tcase_add_loop_test(tests, odd_keys_pass_byte_for_byte, 0,
                        (int)(sizeof odd_keys / sizeof odd_keys[0]));
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return scratch_main(suite());
}
