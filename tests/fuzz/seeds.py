#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Inputs for the fuzzers to begin with, and their dictionary.

    seeds.py PROTOCOL.md CORPUS      writes CORPUS/<target>/<SHA-1 of the bytes>
    seeds.py --dictionary wire.def   prints a libFuzzer dictionary: every name, as a JSON string

The requests are those of PROTOCOL.md's transcripts; what a client must not send (and what a server
must not) comes from the lists here.
"""

import hashlib
import os
import re
import sys

# Rows 25 and 26 of the fault matrix: malformed lines, members out of range, attempts to inject.
LINES = [
    b"", b" ", b"{", b"}", b"[]", b"{}", b"null", b"0", b'"op"', b"[" * 2048, b'{"op":' * 400,
    b"{'op':'ping'}", b'{"op":"ping",}', b'{"op":"ping"', b'{"op":"ping"} x', b"\xef\xbb\xbf{}",
    b'{"op":"ping"}\x00', b'{"op":"pi\x00ng"}', b'{"op":"ping","id":"\xff"}',
    b'{"op":"ping","id":"\xed\xa0\x80"}', b'{"op":"ping","id":"\\ud800"}',
    b'{"op":"ping","id":"\\ud83d\\ude00"}', b'{"op":"ping","id":"\\u0000"}',
    b'{"op":"pi\\u0\xd4\x9ang"}', b'{"op":"ping","op":"ping"}', b'{"id":1,"id":2,"op":"ping"}',
    b'{"id":9007199254740991,"op":"ping"}', b'{"id":9007199254740992,"op":"ping"}',
    b'{"id":-9223372036854775808,"op":"ping"}', b'{"id":9223372036854775808,"op":"ping"}',
    b'{"id":1e400,"op":"ping"}', b'{"id":1.0,"op":"ping"}', b'{"id":-0,"op":"ping"}',
    b'{"id":[1],"op":"ping"}', b'{"id":"' + b"i" * 64 + b'","op":"ping"}',
    b'{"id":"' + b"i" * 65 + b'","op":"ping"}', b'{"op":"ping","' + b"n" * 200 + b'":1}',
    b'{"op":"ping","x_any":{"a":[1,2,{"b":null}]}}', b'{"op":["ping"]}', b'{"op":null}',
] + [b'{"op":"acquire","key":"k","ttl_ms":' + value + b"}" for value in (
    b"0", b"-1", b"1", b"499", b"500", b"9223372036854775807", b'"30"', b"30000.0", b"true",
    b"18446744073709551616", b"1e3", b"null",
)] + [b'{"op":"acquire","key":' + key + b"}" for key in (
    b'""', b'"' + b"k" * 512 + b'"', b'"' + b"k" * 513 + b'"', b'"%s%n%d"', b'"a\\r\\nb"',
    b'"\\u0000"', b'"\\u007f"', b'"\\u0085"', b'"*1\\r\\n$4\\r\\nPING\\r\\n"', b'"$5"',
    b'"\\ufeff"', '"\u00e9\u4e2d\U0001f600"'.encode(), b"1", b"null", b"[]",
)] + [b'{"op":"acquire","key":"k",' + more + b"}" for more in (
    b'"label":"' + b"l" * 128 + b'"', b'"label":"' + b"l" * 129 + b'"', b'"label":"a\\nb"',
    b'"bind":"pid","pid":4294967296', b'"bind":"pid","pid":0', b'"pid":1', b'"bind":"none"',
    b'"notify":["renewed","at_risk"]', b'"notify":["renewed","renewed"]', b'"notify":["x"]',
    b'"notify":"renewed"', b'"on_disconnect":"expire"', b'"wait_ms":-2', b'"deadline_ms":0',
)] + [
    b'{"op":"release","lease":"0123456789ABCDEF0123456789ABCDEF"}',
    b'{"op":"release","lease":"0123456789abcdef0123456789abcde"}',
    b'{"op":"list","limit":0}', b'{"op":"list","after":"' + b"f" * 33 + b'"}',
    b'{"op":"break","key":"k","grace_ms":-1}', b'{"op":"cancel","target":{}}',
    b'{"op":"adopt","key":"k","lease":"0123456789abcdef0123456789abcdef","bind":"pid","pid":7}',
]

# Row 16, and what a client library has fallen over before.
REPLIES = [
    b"+OK\r\n", b"-ERR unknown command 'AUTH', with args beginning with: 'secret'\r\n", b":1\r\n",
    b":-9223372036854775808\r\n", b":9223372036854775808\r\n", b":\r\n", b":1x\r\n", b"$-1\r\n",
    b"$-5\r\n", b"$0\r\n\r\n", b"$5\r\nhello\r\n", b"$5\r\nhelloxx", b"$2147483647\r\nx",
    b"$9223372036854775807\r\nx", b"$10485760\r\n", b"*0\r\n", b"*-1\r\n", b"*-2\r\n",
    b"*2147483647\r\n", b"*4294967297\r\n:1\r\n", b"*2\r\n:1\r\n:1790000000000000\r\n",
    b"*3\r\n:0\r\n:1500\r\n$5\r\nvalue\r\n", b"*3\r\n:2\r\n:-1\r\n$4\r\nhash\r\n", b"*1\r\n" * 5,
    b"*1\r\n" * 3 + b":1\r\n", b"*1\r\n" * 4 + b":1\r\n",
    b"*1024\r\n" + b":1\r\n" * 1024, b"*1025\r\n", b"*2\r\n*700\r\n" + b":1\r\n" * 700 + b"*700\r\n",
    b"*3\r\n$1\r\na\r\n$-1\r\n*1\r\n:5\r\n", b"%1\r\n+a\r\n+b\r\n", b"~1\r\n:1\r\n", b"_\r\n", b"#t\r\n",
    b",1.5\r\n", b"(3492890328409238509324850943850943825024385\r\n", b">2\r\n+a\r\n+b\r\n",
    b"=7\r\ntxt:abc\r\n", b"+" + b"x" * 3000 + b"\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"-ERR a\x00b, with args beginning with: 'secret'\r\n",
    b"+a\r\n-NOSCRIPT No matching script.\r\n:3\r\n$1\r\nb\r\n*1\r\n$-1\r\n",
]

TOKEN = b"0123456789abcdef0123456789abcdef 0123456789abcdef"
VALUES = [TOKEN + rest for rest in (
    b" lk1 7 30000 1790000000000000 1789999700000000 812 1000 pod-7 resume",
    b" lk1 7 30000 1790000000000000 1789999700000000 812 1000 pod-7",
    b" lk1 0 0 0 0 0 0 h l a b e l", b" lk1 07 1 1 1 1 1 h", b" lk1 7 1 1 1 1 1 h ",
    b" lk1 9007199254740991 1 1 1 1 1 h", b" lk1 9007199254740992 1 1 1 1 1 h", b" lk1 ", b"",
    b" lk1 1 1 1 1 1 1 " + b"h" * 255 + b" " + b"l" * 128,
    b" lk1 1 1 1 1 1 1 h \xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80", b" lk1 1 1 1 1 1 1 h \xff",
    b" lk2 1 1 1 1 1 1 h", b"  lk1 1 1 1 1 1 1 h",
)] + [b"3f2a-owner", b""]
URLS = [
    b"redis://127.0.0.1:6379", b"redis://host", b"redis://:p%40ss@host:1/15",
    b"redis://user:pass@[::1]:6380/0", b"redis://user@host", b"unix:///run/redis.sock",
    b"unix:///run/redis%20.sock?db=3", b"unix://relative", b"redis://", b"redis://[::1", b"redis://h:0",
    b"redis://h:65536", b"redis://u:p/w@h", b"redis://h/x", b"redis://h?x", b"rediss://h", b"http://h",
    b"redis://u:%zz@h", b"redis://%00:x@h", b"redis://h/1000001", b"redis://[fe80::1%25lo]:1",
    b"unix:///" + b"p" * 107,
]
DURATIONS = [
    b"0", b"30s", b"5m", b"1m30s", b"500ms", b"1.5s", b"1h0m0.001s", b"-1s", b"1", b"1us", b"0.5ms500us",
    b"8760h", b"8761h", b"9999999999999999999h", b".5s", b"1.s", b"+3s", b"1d", b"1s ", b"\xc2\xb5s", b"3\xce\xbcs",
]

STEPS = [
    ['A{"op":"acquire","key":"k"}', "c0O+1", 'A{"id":1,"op":"release","lease":"$0"}', "c0O+1"],
    ['A{"op":"acquire","key":"k"}', 'B{"op":"acquire","key":"k"}', "c0O+1", "t20000", "c0O+1", "x0"],
    ['A{"op":"acquire","key":"k","notify":["renewed","at_risk"]}', "c0O+1", "t10000", "w0", "c0T-",
     "t1000", "c0O+", "c0U- LOADING it", "t10000", "c0N+", 'A{"op":"release","lease":"$0"}'],
    ['A{"op":"acquire","key":"k","ttl_ms":2000}', "c0O+1", "t1000", "j2000", "c0O+", "t60000", "h0"],
    ['A{"op":"acquire","key":"k","on_disconnect":"expire"}', "c0O+1", "x0", "t40000"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "k0", "t40000", "c0O-", "t1000", "c0O+"],
    ['A{"op":"acquire","key":"k"}', "x0", "c0O+1", "c0L- gone", "t500", "nno route", "y", "c0O+"],
    ['A{"op":"acquire","key":"k"}', "h0", "c0O+1", "t1"],
    ['A{"op":"acquire","key":"k"}', "c0T-", "c0O-", "t500", "c0N+"],
    ['A{"op":"acquire","key":"k"}', "c0H+1501 " + (TOKEN + b" lk1 7 1 1 1 1 1 h l").decode()],
    ['A{"op":"acquire","key":"k"}', "c0H+0 !hash", 'A{"op":"acquire","key":"k"}', "c0R+ OOM no room"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", 'B{"op":"release","lease":"$0"}', "c0L-", "t3000", "c0N+"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "d", 'A{"op":"acquire","key":"l"}', "s", "t99999"],
    ["o11", 'A{"op":"acquire","key":"k","label":"me"}', 'A{"op":"list"}', "c0O+1", "z0",
     'A{"op":"list","limit":1}', "r0", 'B{"op":"hello"}', 'C{"op":"ping"}', 'A{"op":"acquire","key":"l"}'],
    ['A{"op":"acquire","key":"k","deadline_ms":15000}', "c0O+1", "t5000", "c0O+", "t9999", "c0O+", "t1", "t99999"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "w0", "t9000", "w0", "t14697", "t1", "c0O+", "t6000", "t99999", "c0O+"],
    ['A{"op":"acquire","key":"k"}', "w0", "j23697", "c0O+1", "t1", "c0N+"],
    ['A{"op":"acquire","key":"k"}', "w0", "j23698", "c0O+1", "c0N-", "t600", "c0N+"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", "j20000", "c0O+", "h0", "t99999"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", "c0T-", "t600", "w1", "c0O+", "t1", "c0O+", "t9999"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", 'A{"op":"release","lease":"$0"}', "c0O+", "c0L-", "y", "t1", "c0T-", "t9999"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "c0U- BUSY", "t500", "c0R- ERR", "t500", "c0N-", 'A{"op":"release","lease":"$0"}'],
    ['A{"op":"acquire","key":"k"}', "w0", "c0T-", "c0N-", "t500", "c0H-", "t99999"],
    ['A{"op":"acquire","key":"k"}', "w0", "c0L-", "nno", "t500", "c0U-", "y", "t1", "c0O-", "t99999"],
    ['A{"op":"acquire","key":"k"}', "w0", "k0", "c0O+1", "c0L-", "t600", "c0O+", "t99999"],
    ['A{"op":"acquire","key":"k"}', "w0", "x0", "c0T-", "t40000", "c0O-", "t99999"],
    ['A{"op":"acquire","key":"k"}', 'B{"op":"acquire","key":"k"}', 'C{"op":"acquire","key":"k"}', "c0T-", "c1T-", "c0N+", "c1O+1"],
    ['A{"op":"acquire","key":"k"}', 'B{"op":"acquire","key":"k"}', 'B{"op":"acquire","key":"k"}', "h1", "x0", "t1", "c0H-"],
    ['A{"op":"acquire","key":"k"}', 'B{"op":"acquire","key":"k"}', "h1", "c0R- OOM", "t1"],
    ['A{"op":"acquire","key":"k"}', 'A{"op":"acquire","key":"l"}', "c0O+1", "s", "c0O+1", "t1", 'A{"op":"release","lease":"$0"}', "c0O+"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", 'B{"op":"acquire","key":"k"}', "k0", 'B{"op":"acquire","key":"k"}', "c1O+1", "t40000"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", "x0", "c1O+", 'A{"op":"acquire","key":"k"}', "c0O+", "c0O+1"],
    ['A{"op":"acquire","key":"k"}', 'B{"op":"acquire","key":"k"}', 'C{"op":"acquire","key":"k"}', "x0", "c0O+1", "c1O+1", "c0O+"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", "t15000", "t5000", "c1O+", "t9999"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", "c0T-", "t600", "w1", "c1O+", "c0O+", "t23201"],
    ['A{"op":"acquire","key":"k","notify":["renewed"]}', "c0O+1", "t9999", "w0", "c0T-", "t600", "w1", "c1O+", "c0O+", "t600"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "c0U- BUSY", "t1", "t498", "t1", "c0N+"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", "c0T-", "t500", "t13100", "c1S-", "t100", "t5999", "t9999"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", "t2001", "c0O+", "t8000"],
    ['A{"op":"acquire","key":"k"}', "c0O+1", "t9999", "w0", 'A{"op":"release","lease":"$0"}', "c1O+",
     'A{"op":"acquire","key":"l"}', "c1O+1", "c0N-"],
    ["nno", 'A{"op":"ping"}', 'A{"op":"acquire","key":"k"}', "c0S- not connected", "l0", "y", "t1"],
]
# Waiting, hand-over, adoption, binding, breaking, extending.
HELD = ['A{"op":"acquire","key":"k","notify":["renewed","at_risk"]}', "c0O+1"]
QUEUE = HELD + ['B{"id":1,"op":"acquire","key":"k","wait_ms":9000}', 'C{"id":2,"op":"acquire","key":"k","wait_ms":-1}']
RELEASE = 'A{"op":"release","lease":"$0"}'
FREED = "c0H-5001 " + (TOKEN + b" lk1 7 1 1 1 1 1 h l").decode()
ADOPT = '{"id":7,"op":"adopt","key":"k","lease":"0123456789abcdef0123456789abcdef"%s}'
MOVE = '{"id":8,"op":"adopt","key":"k","lease":"$0"%s}'
STEPS += [["y"] + steps for steps in [
    QUEUE + [RELEASE, "c0O+1", 'B{"op":"release","lease":"$0"}', "c0O+1", "x2", "c0O+1"],
    QUEUE + [RELEASE, "c0O+4", 'B{"id":3,"op":"cancel","target":1}', "c0H+1", "t1001", "c0O+1"],
    QUEUE + [RELEASE, "c0L-", "t500", "c0O+1", "c0N+", "t500", "c0O+1"],
    QUEUE + [RELEASE, "c0T-", "t500", "c0U- LOADING", "t500", "c0N-", "t9000", "c0R- OOM"],
    QUEUE + ["x0", "c0U+ BUSY", "n", "y", "c0O+1", "k1", "t40000", "c0O+1"],
    QUEUE + ["h1", 'C{"op":"cancel","target":2}', 'C{"op":"cancel","target":"x"}', "k0", "t40000", "c0N+"],
    QUEUE + ["d", "s", "t99999", "c0O+1"], QUEUE + ["t9001", "h2", "t1"],
    ['A{"id":1,"op":"acquire","key":"k","wait_ms":5000}', FREED, "f0", "c0T-", "f0", "t500", "c0O-1", RELEASE, "c0O-1", "c0N+"],
    ['A{"id":1,"op":"acquire","key":"k","wait_ms":5000}', "w0", "f0", FREED, "c0L-", "t500", "c0U+", "t5000", "c0O+1"],
    ['A{"id":1,"op":"acquire","key":"k","wait_ms":-1}', "c0H+1", 'B{"op":"acquire","key":"k"}', "x0", "c0O+1"],
    ['A{"id":1,"op":"acquire","key":"k","wait_ms":-1}', "c0L-", "x0", "c0O-", "t500", "c0N+", "t40000"],
    ["A" + ADOPT % "", "c0O+5000", "t7000", "c0O+", "B" + MOVE % ',"bind":"none"', "c0O+", "x1", "t7000", "c0O+", "t20000"],
    ["A" + ADOPT % ',"notify":["renewed"]', "A" + ADOPT % "", "c0O+7001", "c0O+7001", RELEASE, "c0O+1"],
    ["A" + ADOPT % "", "x0", "c0O+5000", "c0O+1"], ["A" + ADOPT % "", "k0", "c0O+5000"],
    ["A" + ADOPT % "", "c0Y+"], ["A" + ADOPT % "", "c0N+", "A" + ADOPT % "", "c0T-", "A" + ADOPT % "", "c0U- LOADING"],
    ["A" + ADOPT % "", "c0O+9 " + (TOKEN + b" lk1 7 30000 1790000900000000 1789999700000000 812 1000 pod-7 me").decode()],
    ["A" + ADOPT % "", "h0", "c0O+5000", "t1"], ["d", "A" + ADOPT % ""],
    HELD + ["B" + MOVE % "", "t7000", "w1", "c0O+", "c0O+", 'A{"op":"release","lease":"$0"}', "c0O+1"],
    HELD + ["B" + MOVE % "", "x0", "c0O+"], HELD + ["C" + MOVE % "", "A" + MOVE % "", "c0O+", "B" + ADOPT % "", "c0O+3", "t9999"],
    HELD + ["A" + MOVE % ',"bind":"pid"', "c0O+", "x0", "t7000", "c0O+", "e0", "c0O+1"],
    QUEUE + ["B" + ADOPT % "", "c0O+5000", "t9000", "c0O+1"],
    ['A{"op":"acquire","key":"k","bind":"none"}', "c0O+1", "x0", 'B{"op":"acquire","key":"k","wait_ms":-1}', "t9999", "c0O+", "t300000"],
    ['A{"op":"acquire","key":"k","bind":"none"}', "z0", "c0O+1", "x0", "c0O+1"],
    ['A{"op":"acquire","key":"k","bind":"pid","pid":101}', "c0O+1", "x0", "t9999", "e1", "c0O+1"],
    ['A{"op":"acquire","key":"k","bind":"pid"}', 'A{"op":"acquire","key":"l","bind":"pid","pid":102}', "c0O+1", "e0", "c0O+1"],
    ['A{"op":"acquire","key":"k","bind":"pid","wait_ms":-1}', FREED, "e0"],
    HELD + ['B{"op":"break","key":"k"}', "c0O+1", "t1"], HELD + ['B{"op":"break","key":"k","grace_ms":50}', "t49", "t1", "c0L-", "t500", "c0N+"],
    HELD + ['B{"op":"break","key":"k","grace_ms":500}', RELEASE, "c0O+1"], ['C{"op":"break","key":"k"}', 'A{"op":"break","key":"k"}', "c0O+"],
    QUEUE + ['A{"op":"break","key":"k"}', "c0O+1", 'B{"op":"break","key":"k"}', "c0O+4"],
    HELD + ['A{"op":"extend","lease":"$0","deadline_ms":20000}', "c0O+", "t9999", "c0O+", "t9999", "c0O+", "t1"],
    HELD + ['A{"op":"extend","lease":"$0","deadline_ms":1}', "c0O+", "t1"], HELD + ['B{"op":"extend","lease":"$0","deadline_ms":9}', "x1", "c0O+", "t9"],
    HELD + ['A{"op":"extend","lease":"$0","deadline_ms":9000}', "c0N+"], HELD + ['A{"op":"extend","lease":"$0","deadline_ms":9000}', RELEASE, "c0O+", "c0O+"],
    ['A{"op":"inspect","key":"k"}', FREED, 'A{"op":"inspect","key":"k"}', "c0O+", 'A{"op":"inspect","key":"k"}', "c0H+3 !hash", 'A{"op":"inspect","key":"k"}', "c0R- NOPERM"],
    HELD + ['B{"op":"inspect","key":"k"}', "x1", "c0O+"],
]]
STORE_STEPS = [
    [".9", "ak", ".3", "r0", ".3", "d0", ".3"],
    ["o3", ".9", "ak", "al", "ak", ".3", "r0", "r1", "e1", ".3", "d1", ".3"],
    [".9", "m", "ak", ".2", "t100", "t200", "p0", ".2", "p9", ".2", "m", ".9"],
    [".9", "ak", ".3", "m", "r0", ".1", "t300", "p9", ".2", "t300", "m", "t50", ".9"],
    [".9", "m", "ak", ".1", "x", "t20", ".9", "m", "t20", ".9", "d0", ".3"],
    [".9", "m", "ak", ".1", "x", "v", "t20", "m", ".9", "t50", ".9"],
    [".9", "g", "ak", "al", ".9", "r0", ".3"],
    [".9", "m", "ak", ".1", "-LOADING it", ".1", "m", "t20", ".9"],
    [".9", "m", "ak", ".1", "-OOM command not allowed", ".1", "d0", ".1", "-NOPERM no", ".2"],
    [".9", "m", "ak", ".1", "!*2~:1~:77~", ".2"],
    [".9", "m", "ak", ".1", "!*3~:0~:5~$3~abc~", ".2", "!:1~", "t20", ".9"],
    [".9", "m", "ak", ".1", "!*3~:2~:5~$4~hash~", ".2", "ak", ".1", "!*1~*1~*1~*1~", ".2"],
    ["s1", ".9", ".9", ".9", "t10", "s0", ".9", "ak", "s3", ".9", "r0", ".9"],
    ["q", ".3", "t50", ".3", "t50", ".3", "q", "t200", ".9", "ak", ".3"],
    [".9", "m", "ak", ".1", "!$100000~" + "^" * 90, ".2", "t20", "m", ".9"],
    [".9", "f", "ak", ".3"], [".9", "m", "ak", "al", ".1", "f", "x", ".3"],
    [".9", "m", "ak", ".1", "x", "t20", "p20", ".2", "p20", ".2", "p20", ".2", "d0", ".2", "p20", ".2"],
    [".9", "m", "ak", ".1", "t260", "m", ".9", "t50", ".9", "d0", ".9", "t3300", ".9", "d0", ".9"],
    [".9", "m", "ak", ".1", "x", "t20", ".2", "p10", ".1", "-NOPERM no", ".1", "p20", "d0", ".2", "p20", ".2"],
    [".9", "m", "ak", ".1", "x", "t20", ".2", "p30", ".2", "-NOPERM no", ".1", "p20", ".2", "t500", "p20", ".2"],
    [".9", "m", "ak", ".1", "t201", ".1", "al", ".1", "p0", ".1", "p0", ".1", "p0", ".1", "t201", ".1"],
    [".9", "ak", ".3", "m", "r0", ".1", "t201", "r0", ".1", "p0", ".1", "p0", ".1", "-BUSY it", ".1"],
    [".9", "m", "ak", ".1", "x", "v", "t20", "m", ".9", "t50", ".9", "d0", ".9"],
    [".9", "g", "m", "ak", "al", ".1", "p0", "d0", ".1", "p9", ".1", "p9", ".1"],
    ["m", ".3", "-NOAUTH no", ".2", "t50", ".3", "p20", ".3"], ["ak", "t300", ".9"],
]

# fuzz_client's: hello is asked first (lk:1), then what the program starts.
CLIENT_STEPS = [
    ["h1", "a2", "g2", "n", "n", "r0", '<{"ok":true,"id":$3,"op":"release","lease":@0,"key":"k2","held_ms":5}', "n"],
    ["m", "h1", "a2", "g2", '<{"event":"renewed","lease":@0,"key":"k2","valid_until_ms":~}',
     '<{"event":"at_risk","lease":@0,"key":"k2","safe_ms":50,"valid_until_ms":~,"message":"m"}',
     '<{"event":"revoked","error":"errLostActorLock","reason":"lost","lease":@0,"safe_ms":0,"valid_until_ms":~}', "r0"],
    ["m", "h1", "w2", "c2", '<{"ok":false,"id":$2,"op":"acquire","error":"errCancelled","message":"m"}',
     '<{"ok":true,"id":$3,"op":"cancel","cancelled":true}', "x"],
    ["m", "h1", "a2", "g2", "a3", "g3", "f0", "e1", '<{"ok":true,"id":$5,"deadline_ms":9,"deadline_in_ms":5}', "x"],
    ["m", "a1", "x", "h2", "g1", "x"], ["h1", "a2", "x", "n", "n", "g2", "m"],
    ["h1", "l0", '<{"ok":true,"id":$2,"leases":[{"state":"held","key":"k","holder":{"host":"h","pid":1,"uid":0,"label":"l","fence":7},"held_ms":1,"valid_ms":2,"fence":7}],"next":"a"}', "n", "n"],
    ["h1", "l1", '<{"ok":true,"id":$2,"op":"ping","redis":"down","redis_error":"e"}', "n", "n"],
    ["h1", "l2", '<{"ok":true,"id":$2,"held":true,"here":false,"holder":{"foreign":true,"type":"hash"},"ttl_left_ms":null}', "n", "n"],
    ["h1", "l3", '<{"ok":false,"id":$2,"error":"errNotPermitted","message":"m"}', "n", "n"],
    ["h1", "a2", '<{"ok":false,"id":$2,"error":"errLockHeld","holder":{"foreign":true,"bytes":3},"retry_after_ms":null,"waited_ms":1}', "n", "n"],
    ['<{"ok":false,"error":"errLimitExceeded","message":"full"}', "x", "n"],
    ['-{"ok":true,"id":', '-$1,"protocol":1,"now_ms":5,"caps":["wait"],"instance":"i","server":"s"}', "<", "a2", "n"],
    ["h1", "a2", "g2", "g2", "n", "n"], ["h1", "<[]", "n"], ["h1", "<{}", "n"], ["<" + "[" * 300], ["h1", "-" + "x" * 3000],
]


def transcripts(text):
    """The transcripts' requests, each a list of (client, line)."""
    for block in re.findall(r"^```transcript$(.*?)^```$", text, re.M | re.S):
        client, lines = "A", []
        for line in block.splitlines():
            if line.startswith("# connection "):
                client = line[-1]
            elif line.startswith("-> "):
                line = re.sub(r"<fill:(\d+)>", lambda m: "x" * int(m[1]), line[3:])
                lines.append((client, line))
        yield lines


def as_core(lines):
    """Each request, and the store's answer to it."""
    steps = []
    for client, line in lines:
        steps += [client + re.sub(r"<[a-z]+>", "$0", line), "c0O+1"]
    return steps


def as_chunks(stream, plan=0):
    """fuzz_frame's form: chunks of up to 31 bytes (plan 0x20: of each one line is taken at once)."""
    stream = stream.replace(b"\r", b"R").replace(b"\n", b"N")
    chunks = [bytes([plan | size]) + stream[at : at + size] for at, size in
              ((at, min(31, len(stream) - at)) for at in range(0, len(stream), 31))]
    return b"".join(chunks)


def seeds(text):
    requests = list(transcripts(text))
    lines = [re.sub("<[a-z]+>", "0123456789abcdef" * 2, line).encode()
             for block in requests for _, line in block]
    for line in lines + LINES:
        yield "message", line
    for block in requests:
        yield "core", "\n".join(as_core(block)).encode()
        stream = "\n".join(line for _, line in block).encode() + b"\n"
        yield "frame", b"\xff" + as_chunks(stream[:1500])
        yield "frame", b"\x10" + as_chunks(stream[:600])
    for stream in (b"a\nbb\r\nccc\r\r\n\r\n\n" * 3, b"**\n*\n*", b"0123456789abcdef\r\n" * 3):
        yield "frame", b"\x0f" + as_chunks(stream)
        yield "frame", b"\x0f" + as_chunks(stream, 0x20)
        yield "frame", b"\x0f" + b"".join(b"\x21" + bytes([c]) for c in stream) + b"\x00\x00\x20"
    for steps in STEPS:
        yield "core", "\n".join(steps).encode()
    for steps in CLIENT_STEPS:
        yield "client", "\n".join(steps).encode()
    for steps in STORE_STEPS:
        yield "store", "\n".join(steps).encode()
    for reply in REPLIES:
        yield "reply", b"\x05\x00\x00" + reply
        yield "reply", b"\x02\xff\x00" + reply
    # Strings that are too much only together; an array whose elements come one at a time.
    yield "reply", b"\x05\x28\x05*50\r\n$2000\r\n" + b"s" * 2000 + b"\r\n"
    yield "reply", b"\x05\x1f\x05*32\r\n$2000\r\n" + b"s" * 2000 + b"\r\n"
    yield "reply", b"\x01\xff\x07*1024\r\n" + b":1\r\n" * 4
    for reply in REPLIES[20:30]:
        yield "store", b".9\nm\nak\n.1\n!" + reply.replace(b"\r\n", b"~") + b"\n.2\nt50\nm\n.9"
    for first, texts in ((b"0", VALUES), (b"1", URLS), (b"2", DURATIONS)):
        for text in texts:
            yield "parse", first + text


def dictionary(definition):
    names = re.findall(r'^WIRE_[A-Z]+\([A-Z_]+, "([^"]+)"\)', definition, re.M)
    for name in sorted(set(names)):
        print('"\\"%s\\""' % name)
    for word in ("\\\":", ",\\\"", "x_", "\\\\u0000", "\\\\ud83d\\\\ude00", "9007199254740991", "-1", "$0",
                 "\\x0d\\x0a", "c0O+1", "c0T-", "c0N+", "c0L-", "*2\\x0d\\x0a:1\\x0d\\x0a:7", "-NOSCRIPT", "-LOADING",
                 "redis://", "unix:///", " lk1 ", "1m30s", "f0\\x0a", "e0\\x0a", "wait_ms\\\":-1"):
        print('"%s"' % word)


def main():
    if sys.argv[1:2] == ["--dictionary"]:
        with open(sys.argv[2], encoding="utf-8") as file:
            dictionary(file.read())
        return
    with open(sys.argv[1], encoding="utf-8") as file:
        text = file.read()
    for target, data in seeds(text):
        folder = os.path.join(sys.argv[2], target)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, hashlib.sha1(data).hexdigest()), "wb") as file:
            file.write(data)


main()
