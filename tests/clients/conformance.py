# SPDX-License-Identifier: Apache-2.0
"""What every client of lock-keeper must do, in whatever language: one script drives them all.

    conformance.py --sidecar BINARY [--build FOLDER] LANGUAGE [SCENARIO...]

LANGUAGE is one of python, asyncio, node, go, bash. It runs against the real sidecar on a real
redis-server, and against one that lies, says TAP, and skips what the machine has no tool for. What an
adapter is told and what it answers is in README.md here; another language needs only one of those.

At a TTL of 1.5 s the sidecar heartbeats every 500 ms and revokes 300 ms before the key can go."""

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import time
import traceback

import languages
import rig
from rig import Failure, check, until

TTL_MS = 1500
SCENARIOS = []


def scenario(function):
    SCENARIOS.append(function)
    return function


class Stage:
    """What one scenario stands on; all of it is ended after it."""

    def __init__(self, language, folder, redis, sidecar, env):
        self.language, self.folder, self.redis, self.sidecar = language, folder, redis, sidecar
        self.env = env
        self.log = open(os.path.join(folder, "adapter.log"), "ab")
        self.ends = [self.log.close]

    def adapter(self, path=None, timeout_ms=10_000):
        adapter = rig.Adapter(self.language.command, self.env, self.log)
        self.ends.append(adapter.end)
        adapter.say("open", path or self.sidecar.path, timeout_ms)
        return adapter

    def fake(self, **options):
        fake = rig.FakeSidecar(self.folder, **options)
        self.ends.append(fake.end)
        return fake

    def end(self):
        for end in reversed(self.ends):
            end()


# ---- The real sidecar ----


@scenario
def no_sidecar(t):
    """No sidecar at the path: errSidecarUnavailable, at once or after the wait"""
    a = t.adapter(os.path.join(t.folder, "none.sock"))
    a.refused("a", "k", "errSidecarUnavailable")
    a.refused("b", "k", "errSidecarUnavailable", wait=100)
    a.quit()


@scenario
def acquire_and_release(t):
    """Acquire, hold, release; each grant's fencing token is higher"""
    a = t.adapter()
    granted = a.granted("a", "actor:1", deadline=60000, label="resume")
    value = t.redis.lock("actor:1").split(" ", 10)
    check(value[2] == "lk1" and value[3] == granted["fence"] and value[10] == "resume", value)
    check(granted["ttl"] == str(TTL_MS) and granted["deadline"] == "60000", granted)
    check(a.valid("a"), "not valid while it is held")
    check(a.released("a")["freed"] == "true", "not freed")
    check(t.redis.lock("actor:1") is None, "the key is still there")
    check(not a.valid("a"), "valid after the release")
    again = a.granted("b", "actor:1", ttl=1000)
    check(int(again["fence"]) > int(granted["fence"]), "the fence does not grow")
    check(again["ttl"] == "1000", again)
    a.released("b")
    a.not_told("a")
    a.quit()


@scenario
def odd_keys(t):
    """Keys and labels with quotes, backslashes and letters of the world arrive as they are"""
    a = t.adapter()
    for name, key in (("a", 'actor:"1"\\'), ("b", "Müller:東京:🦀"), ("c", 'x","op":"ping'), ("d", "a/b%s$(c)`d`*")):
        a.granted(name, key, label=key)
        check(t.redis.lock(key).split(" ", 10)[10] == key, "the label is", t.redis.lock(key))
        a.released(name)
        check(t.redis.lock(key) is None, "not released:", key)
    a.refused("e", "k" * 513, "errBadRequest")
    a.refused("f", "k", "errBadRequest", ttl=1)
    a.quit()


@scenario
def held(t):
    """A held key: errLockHeld with the holder and retry_after"""
    a = t.adapter()
    with rig.Rival(t.sidecar) as rival:
        rival.hold("k", label="rival")
        line = a.refused("a", "k", "errLockHeld")
        check(line["holder"] == "rival", line)
        check(0 < int(line["retry_after"]) <= TTL_MS, line)
        a.refused("b", "k", "errLockHeld", wait=100)
    t.redis.command("SET", "lock:foreign", "of somebody else")
    check(a.refused("c", "foreign", "errLockHeld")["retry_after"] == "none", "retry_after")
    a.quit()


@scenario
def wait_and_get(t):
    """A wait ends with the grant as soon as the holder has gone"""
    a = t.adapter()
    with rig.Rival(t.sidecar) as rival:
        lease = rival.hold("k")
        a.acquire("a", "k", wait=-1)
        a.acquire("b", "other", wait=60000)
        a.hear("granted", "b")  # a wait holds up nothing else
        until(lambda: "waiting" in t.sidecar.states("k"), "it waits")
        rival.release(lease)
        a.hear("granted", "a")
    check(a.valid("a"), "not valid")
    a.released("a")
    a.quit()


@scenario
def cancel(t):
    """A wait that is cancelled: errCancelled, and nothing waits any more"""
    a = t.adapter()
    with rig.Rival(t.sidecar) as rival:
        lease = rival.hold("k")
        a.acquire("a", "k", wait=-1)
        until(lambda: "waiting" in t.sidecar.states("k"), "it waits")
        a.say("cancel", "a")
        a.hear("refused", "a", "errCancelled")
        until(lambda: t.sidecar.states("k") == ["held"], "nothing waits")
        rival.release(lease)
    check(t.redis.lock("k") is None, "granted all the same")
    a.granted("b", "k")
    a.quit()
    t.redis.wait_free("k")


@scenario
def deadline(t):
    """The workflow deadline: told, with time to stop; the release then frees the key early"""
    a = t.adapter()
    a.granted("a", "k", deadline=200, ttl=3000)
    lost = a.hear("lost", "a")
    check(lost["reason"] == "deadline" and int(lost["safe"]) > 500, lost)
    check(not a.valid("a"), "valid after the loss")
    check(t.redis.lock("k"), "the key went before the work has stopped")
    refused = a.release("a")
    check(refused[""] == ["refused", "a", "errLostActorLock"], refused)
    check(refused["reason"] == "deadline", refused)
    t.redis.wait_free("k", 1)
    a.not_told("a")  # a second time
    a.quit()


@scenario
def deleted_by_hand(t):
    """DEL by hand: told at the next heartbeat at the latest"""
    a = t.adapter()
    a.granted("a", "k")
    a.granted("b", "l")
    t.redis.command("DEL", "lock:k")
    lost = a.hear("lost", "a", patience=TTL_MS / 1000)
    check(lost["reason"] == "lost" and lost["safe"] == "0", lost)
    check(not a.valid("a") and a.valid("b"), "which lease was lost?")
    check(a.release("a")[""][2:] == ["errLostActorLock"], "the release did not say so")
    a.released("b")
    a.quit()


@scenario
def redis_frozen(t):
    """Redis does not answer: told before it can give the key away; then errRedisUnavailable"""
    a = t.adapter()
    a.granted("a", "k")
    t.redis.process.send_signal(signal.SIGSTOP)
    try:
        frozen = time.monotonic()
        lost = a.hear("lost", "a")
        told = time.monotonic() - frozen
        check(lost["reason"] == "unreachable" and int(lost["safe"]) > 100, lost)
        check(told < TTL_MS / 1000, "told after", told)
        a.refused("b", "l", "errRedisUnavailable")
    finally:
        t.redis.process.send_signal(signal.SIGCONT)
    a.release("a")
    a.quit()
    t.redis.wait_free("k")


@scenario
def holder_killed(t):
    """A holder that is killed frees its key at once, whatever its lease is bound to"""
    a = t.adapter()
    a.granted("a", "k", ttl=60000)
    a.granted("b", "l", ttl=60000, bind="pid")
    a.kill()
    t.redis.wait_free("k", 2)
    t.redis.wait_free("l", 2)


@scenario
def renewed(t):
    """A lease stays valid for many times its TTL while it is heartbeated"""
    a = t.adapter()
    a.granted("a", "k", ttl=500)
    end = time.monotonic() + 1.5
    checks = 0
    while time.monotonic() < end:
        check(a.valid("a"), "not valid after", checks, "checks")
        checks += 1
    a.released("a")
    a.not_told("a")
    a.quit()


@scenario
def sidecar_restarted(t):
    """The sidecar is killed and back in time: every lease goes on, and its holder hears nothing"""
    a = t.adapter()
    names = ["a%d" % i for i in range(5)]
    for name in names:
        a.granted(name, name, bind="pid" if name == "a0" else "connection")
    before = {name: t.redis.lock(name).split(" ") for name in names}
    t.sidecar.kill()
    check(a.valid("a0"), "not valid while the sidecar is away")
    t.sidecar.start()
    until(lambda: all(t.sidecar.states(name) == ["held"] for name in names), "all are adopted")
    for name in names:
        after = t.redis.lock(name).split(" ")
        check(after[0] == before[name][0] and after[1] != before[name][1], "not the same lease")
        check(after[3] == before[name][3], "not the same fence")
    # Beyond what was valid before.
    first = t.redis.command("PTTL", "lock:a0")
    until(lambda: t.redis.pttl("a0") > first, "it is heartbeated")
    for name in names:
        check(a.valid(name), "not valid", name)
        a.not_told(name)
        check(a.released(name)["freed"] == "true", "not freed")
        check(t.redis.lock(name) is None, "not free")
    a.granted("b", "a0")
    a.quit()


@scenario
def sidecar_gone(t):
    """The sidecar is killed for good: told while nobody else can have the key yet"""
    a = t.adapter()
    a.granted("a", "k", ttl=1000)
    t.sidecar.kill()
    lost = a.hear("lost", "a")
    left = t.redis.pttl("k")
    check(lost["reason"] == "disconnected" and left > 0, lost, "with", left, "ms left")
    check(0 < int(lost["safe"]) <= left + 50, "safe for", lost["safe"], "with", left, "ms left")
    check(not a.valid("a"), "valid after the loss")
    check(a.release("a")[""][2:] == ["errLostActorLock"], "the release did not say so")
    a.not_told("a")
    t.sidecar.start()
    until(lambda: t.redis.lock("k") is None, "the key runs out")
    a.granted("b", "k")  # the client goes on with the next sidecar
    a.quit()


@scenario
def sidecar_frozen(t):
    """The sidecar is frozen: told while nobody else can have the key yet; not valid from then on"""
    a = t.adapter()
    a.granted("a", "k", ttl=1000)
    t.sidecar.signal(signal.SIGSTOP)
    try:
        lost = a.hear("lost", "a")
        left = t.redis.pttl("k")
        check(left > 0, "told with", left, "ms left")
        check(lost["reason"] == "silent" and 0 < int(lost["safe"]) <= left + 50, lost, left)
        check(not a.valid("a"), "valid after the loss")
        t.redis.wait_free("k")
    finally:
        t.sidecar.signal(signal.SIGCONT)
    a.release("a")
    a.not_told("a")
    a.quit()


@scenario
def released_while_away(t):
    """A release while the sidecar is away: the next one is told, and the key does not wait"""
    a = t.adapter()
    a.granted("a", "k", ttl=10000)
    a.granted("b", "l", ttl=10000)  # keeps the client busy with the next sidecar
    t.sidecar.kill()
    until(lambda: a.valid("b"), "it is still valid")
    check(a.released("a")["freed"] == "false", "freed by nobody")
    check(t.redis.lock("k"), "who deleted the key?")
    t.sidecar.start()
    t.redis.wait_free("k", 3)
    a.not_told("a")
    check(a.valid("b"), "the other lease was lost")
    a.quit()


@scenario
def waits_for_the_sidecar(t):
    """A wait outlasts a sidecar that is restarted meanwhile"""
    if not t.language.waits_on:
        return "this client's wait ends with the sidecar"
    a = t.adapter()
    with rig.Rival(t.sidecar) as rival:
        rival.hold("k", bind="none", deadline_ms=700)
    a.acquire("a", "k", wait=20000)
    until(lambda: "waiting" in t.sidecar.states("k"), "it waits")
    t.sidecar.kill()
    t.sidecar.start()
    a.hear("granted", "a")
    a.released("a")
    a.quit()


@scenario
def the_page(t):
    """The page of the real sidecar, where it offers one"""
    if "page" not in t.sidecar.ask({"op": "hello"})["caps"] or not t.language.has_page:
        return "no page here"
    a = t.adapter()
    a.granted("a", "k", ttl=1000)
    t.sidecar.signal(signal.SIGSTOP)
    try:
        is_held = True
        while is_held:
            is_held = t.redis.lock("k") is not None
            check(is_held or not a.valid("a"), "valid when the key is free")
    finally:
        t.sidecar.signal(signal.SIGCONT)
    a.quit()


# ---- A sidecar that lies ----


@scenario
def error_names(t):
    """Every error name of the protocol, and one of a later version, arrives as what it is"""
    fake = t.fake()
    a = t.adapter(fake.path)
    for number, name in enumerate(languages.error_names() + ["errFromTheFuture"]):
        a.acquire("a%d" % number, "k")
        conn, request = fake.request("acquire")
        conn.sendall(fake.reply_line(request, False, error=name, message='"m" \\ \u00e9', key="k"))
        a.hear("refused", "a%d" % number, name)
    a.quit()


@scenario
def unknown_members_and_events(t):
    """Members and events of a later version are ignored, wherever they stand"""
    fake = t.fake(hello={"x": {"lock_ttl_ms": 1, "y": [{}, "}]\"{"]}, "caps": ["wait", "notify", "z"]})
    a = t.adapter(fake.path)
    a.acquire("a", "k")
    conn, request = fake.request("acquire")
    nested = {"error": "errLockHeld", "lease": "no", "fence": 1, "deep": [[{"ok": False, "s": '"}'}]]}
    conn.sendall(fake.line({"event": "weather", "lease": fake.TOKEN, "reason": "rain"}))
    conn.sendall(fake.line({"event": "revoked", "lease": "f" * 32, "reason": "lost", "safe_ms": 0}))
    conn.sendall(fake.line({"ok": True, "id": "nobody's", "op": "acquire", "lease": "e" * 32}))
    conn.sendall(fake.grant_line(request, **{"a": nested, "b": "\"lease\":\"x\",\\", "c": None}))
    check(a.hear("granted", "a")["fence"] == "42", "the fence")
    conn.sendall(fake.line({"event": "weather", "lease": fake.TOKEN, "key": "k"}))
    conn.sendall(fake.line({"event": "at_risk", "lease": fake.TOKEN, "key": "k", "safe_ms": 1,
                            "valid_until_ms": 1, "message": "m"}))
    a.not_told("a")
    check(a.valid("a"), "not valid")
    a.say("release", "a")
    conn, request = fake.request("release")
    check(request["lease"] == fake.TOKEN, request)
    conn.sendall(fake.reply_line(request, lease=fake.TOKEN, key="k", held_ms=1, new={"ok": 0}))
    a.hear("released", "a")
    a.quit()


@scenario
def bytes_one_by_one(t):
    """Lines that come byte by byte, and several in one piece"""
    fake = t.fake()
    a = t.adapter(fake.path)
    a.acquire("a", "k")
    conn, request = fake.request("acquire")
    for byte in fake.grant_line(request):
        conn.sendall(bytes([byte]))
    a.hear("granted", "a")
    renewed = fake.line({"event": "renewed", "lease": fake.TOKEN, "key": "k",
                         "valid_until_ms": rig.boottime_ms() + 1900})
    conn.sendall(renewed * 50 + fake.revoked_line("broken", safe_ms=7))
    lost = a.hear("lost", "a")
    check(lost["reason"] == "broken" and lost["safe"] == "7", lost)
    a.say("quit")


@scenario
def told_once(t):
    """A second revoked, or a renewed after it, changes nothing"""
    fake = t.fake()
    a = t.adapter(fake.path)
    a.acquire("a", "k")
    conn, request = fake.request("acquire")
    conn.sendall(fake.grant_line(request))
    a.hear("granted", "a")
    later = fake.line({"event": "renewed", "lease": fake.TOKEN, "key": "k",
                       "valid_until_ms": rig.boottime_ms() + 100000})
    conn.sendall(fake.revoked_line("lost") + later + fake.revoked_line("deadline") + later)
    check(a.hear("lost", "a")["reason"] == "lost", "the reason")
    a.acquire("b", "l")
    conn, request = fake.request("acquire")
    conn.sendall(fake.reply_line(request, False, error="errLockHeld", message="m", key="l",
                                 holder={"foreign": True, "bytes": 1}, retry_after_ms=None))
    check(a.hear("refused", "b", "errLockHeld")["retry_after"] == "none", "retry_after")
    a.not_told("a")
    check(not a.valid("a"), "valid again")
    a.say("quit")


@scenario
def silence(t):
    """A sidecar that says nothing more: told in time; what it says too late changes nothing"""
    fake = t.fake()
    a = t.adapter(fake.path)
    a.acquire("a", "k")
    conn, request = fake.request("acquire")
    check("renewed" in request["notify"], "it does not ask for renewed")
    until_ms = rig.boottime_ms() + 700
    conn.sendall(fake.grant_line(request, valid_until_ms=until_ms))
    a.hear("granted", "a")
    until_ms += 200
    conn.sendall(fake.line({"event": "renewed", "lease": fake.TOKEN, "key": "k",
                            "valid_until_ms": until_ms}))
    lost = a.hear("lost", "a")
    now_ms = rig.boottime_ms()
    check(until_ms - 400 <= now_ms < until_ms, "told", until_ms - now_ms, "ms before the end")
    check(lost["reason"] == "silent" and 0 < int(lost["safe"]) <= 400, lost)
    conn.sendall(fake.line({"event": "renewed", "lease": fake.TOKEN, "key": "k",
                            "valid_until_ms": rig.boottime_ms() + 100000}))
    check(not a.valid("a"), "valid after the loss")
    a.say("release", "a")
    conn, request = fake.request("release")  # the sidecar hears that the work has stopped
    conn.sendall(fake.reply_line(request, lease=fake.TOKEN, key="k", held_ms=1))
    a.hear("refused", "a", "errLostActorLock")
    a.quit()


@scenario
def crossing(t):
    """A revoked that crosses the release: the release says errLostActorLock, and nothing else does"""
    fake = t.fake()
    a = t.adapter(fake.path)
    a.acquire("a", "k")
    conn, request = fake.request("acquire")
    conn.sendall(fake.grant_line(request))
    a.hear("granted", "a")
    a.say("release", "a")
    conn, request = fake.request("release")
    conn.sendall(fake.revoked_line("deadline", safe_ms=100))
    conn.sendall(fake.reply_line(request, False, error="errLostActorLock", message="m",
                                 lease=fake.TOKEN, key="k", freed=True, held_ms=1))
    line = a.hear("refused", "a", "errLostActorLock")
    check(line["reason"] == "deadline", line)
    a.not_told("a")
    a.quit()


@scenario
def release_without_redis(t):
    """errRedisUnavailable, or errUnknownLease, to a release: it is over, and not lost"""
    fake = t.fake()
    a = t.adapter(fake.path)
    for name, error in (("a", "errRedisUnavailable"), ("b", "errUnknownLease")):
        a.acquire(name, "k")
        conn, request = fake.request("acquire")
        conn.sendall(fake.grant_line(request))
        a.hear("granted", name)
        a.say("release", name)
        conn, request = fake.request("release")
        conn.sendall(fake.reply_line(request, False, error=error, message="m", lease=fake.TOKEN))
        check(a.hear("released", name)["freed"] == "false", "freed")
    a.quit()


@scenario
def adoption(t):
    """The adopt after a lost connection: what it says, and each of its answers"""
    fake = t.fake()
    a = t.adapter(fake.path)
    for name, error, reason in (("a", "errLostActorLock", "lost"),
                                ("b", "errNotPermitted", "disconnected")):
        a.acquire(name, "k", bind="pid")
        conn, request = fake.request("acquire")
        pid = request.get("pid")
        conn.sendall(fake.grant_line(request, valid_until_ms=rig.boottime_ms() + 30000))
        a.hear("granted", name)
        fake.hang_up()
        conn, request = fake.request("adopt")
        check(request["lease"] == fake.TOKEN and request["key"] == "k", request)
        check(request["bind"] == "pid" and request.get("pid") == pid, request)
        check(request["notify"] == ["renewed"], request)
        conn.sendall(fake.reply_line(request, False, error="errRedisUnavailable", message="m"))
        conn, request = fake.request("adopt")  # again
        conn.sendall(fake.reply_line(request, False, error=error, message="m"))
        check(a.hear("lost", name)["reason"] == reason, "the reason")
        check(not a.valid(name), "valid after the loss")
    a.quit()


@scenario
def another_protocol(t):
    """A sidecar of another protocol is not used"""
    fake = t.fake(hello={"protocol": 2})
    a = t.adapter(fake.path)
    a.refused("a", "k", "errSidecarUnavailable")
    fake.no_request()
    a.quit()


@scenario
def refused_connection(t):
    """A connection that is refused says why"""
    fake = t.fake(refusal={"ok": False, "error": "errLimitExceeded", "message": "m"})
    a = t.adapter(fake.path)
    a.refused("a", "k", "errLimitExceeded")
    a.quit()


@scenario
def no_answer(t):
    """A sidecar that answers nothing: errSidecarUnavailable; a late grant is given back"""
    fake = t.fake()
    a = t.adapter(fake.path, 300)
    a.acquire("a", "k")
    conn, request = fake.request("acquire")
    a.hear("refused", "a", "errSidecarUnavailable")
    if t.language.hangs_up:
        fake.wait_hung_up()
        return None
    fake.request("cancel")
    conn.sendall(fake.grant_line(request))
    conn, request = fake.request("release")
    check(request["lease"] == fake.TOKEN, request)
    a.say("quit")


@scenario
def another_clock(t):
    """A sidecar whose CLOCK_BOOTTIME is another (a time namespace): its instants are converted"""
    for shift in (-5_000_000, 10_000_000):
        fake = t.fake(clock_ms=lambda shift=shift: rig.boottime_ms() + shift)
        a = t.adapter(fake.path)
        a.acquire("a", "k", ttl=2000)
        conn, request = fake.request("acquire")
        conn.sendall(fake.grant_line(request, valid_until_ms=fake.clock_ms() + 900))
        granted_ms = rig.boottime_ms()
        a.hear("granted", "a")
        check(a.valid("a"), "not valid with a clock off by", shift)
        a.hear("lost", "a")
        took = rig.boottime_ms() - granted_ms
        check(took < 900, "told after", took, "ms with a clock off by", shift)
        a.say("quit")
        t.ends.pop()()
        t.ends.pop()()


@scenario
def a_page(t):
    """The page of a sidecar: validity is what its slot says, at every moment"""
    if not t.language.has_page:
        return "this client uses none"
    page = os.memfd_create("page")
    os.ftruncate(page, 4096)
    t.ends.append(lambda: os.close(page))
    fake = t.fake(page=page, hello={"caps": ["wait", "adopt", "bind", "notify", "page"]})

    def slot(number, instant_ns):
        os.pwrite(page, struct.pack("=Q", instant_ns), 8 * number)

    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    slot(6, now + 10**12)
    slot(7, now + 10**12)
    slot(8, now + 10**12)
    a = t.adapter(fake.path)
    a.acquire("a", "k")
    conn, request = fake.request("acquire")
    conn.sendall(fake.grant_line(request, slot=7, valid_until_ms=rig.boottime_ms() + 30000))
    a.hear("granted", "a")
    check(a.valid("a"), "not valid by the page")
    slot(7, now)
    check(not a.valid("a"), "valid past the slot's instant")
    slot(7, now + 10**12)
    check(a.valid("a"), "not valid after a heartbeat")
    slot(7, 0)
    check(not a.valid("a"), "valid after the slot's end")
    a.not_told("a")  # the event is still to come
    conn.sendall(fake.revoked_line("lost"))
    a.hear("lost", "a")
    slot(7, now + 10**12)
    check(not a.valid("a"), "valid by somebody else's slot")
    a.say("quit")


@scenario
def tutorial(t):
    """The README's program runs as it stands"""
    program, expected = t.language.tutorial(t.folder)
    env = {**t.env, "LOCK_KEEPER_SOCKET": t.sidecar.path}
    done = subprocess.run(program, env=env, cwd=t.folder, capture_output=True, text=True, timeout=30)
    check(done.returncode == 0, "exit", done.returncode, done.stdout, done.stderr)
    check(languages.masked(done.stdout) == languages.masked(expected), "it said", done.stdout)
    t.redis.wait_free("nightly-report", 2)


# ---- The run ----


def run(number, function, make_stage):
    name = "%s: %s" % (function.__name__, function.__doc__)
    begun = time.monotonic()
    stage = None
    try:
        stage = make_stage()
        why_not = function(stage)
        print("ok %d - %s%s" % (number, name, " # SKIP " + why_not if why_not else ""))
        good = True
    except Failure as failure:
        print("not ok %d - %s\n# %s" % (number, name, str(failure).replace("\n", "\n# ")))
        good = False
    except Exception:  # noqa: B902 of a scenario; the others run all the same
        print("not ok %d - %s\n# %s" % (number, name, traceback.format_exc().replace("\n", "\n# ")))
        good = False
    try:
        if stage:
            stage.end()
    except Exception:
        print("# " + traceback.format_exc().replace("\n", "\n# "))
    print("# %.2f s" % (time.monotonic() - begun), flush=True)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sidecar", required=True)
    parser.add_argument("--build", default=".")
    parser.add_argument("language")
    parser.add_argument("scenarios", nargs="*")
    arguments = parser.parse_args()

    chosen = [s for s in SCENARIOS if not arguments.scenarios or s.__name__ in arguments.scenarios]
    why_not = languages.missing(arguments.language)
    if why_not:
        print("1..0 # SKIP " + why_not)
        return 0
    language = languages.make(arguments.language, arguments.build)
    print("1..%d" % len(chosen))
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    env.pop("LOCK_KEEPER_SOCKET", None)
    scratch = rig.Scratch()
    redis = rig.Redis(scratch.path)
    sidecar = None
    good = True
    try:
        sidecar = rig.Sidecar(arguments.sidecar, scratch.path, redis, TTL_MS)

        def make_stage():
            redis.command("FLUSHALL")
            if sidecar.process.poll() is not None:
                sidecar.start()
            return Stage(language, scratch.path, redis, sidecar, env)

        for number, function in enumerate(chosen, 1):
            good &= run(number, function, make_stage)
    finally:
        if sidecar:
            sidecar.end()
        redis.end()
        scratch.end()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
