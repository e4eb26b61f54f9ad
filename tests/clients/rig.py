# SPDX-License-Identifier: Apache-2.0
"""What the conformance script works with: a redis-server, the real sidecar, a sidecar that lies
(FakeSidecar), and the adapter, the small program through which a client in some language is driven.

Everything lives in one scratch folder and is ended, by its id, with it. Nothing here sleeps to wait
for a state: it waits for a line, for a reply, or asks Redis or the sidecar again until it is so."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

PATIENCE = 10.0  # s; for what comes at once on a machine that has nothing else to do


class Failure(Exception):
    """What a scenario found wrong."""


def check(condition, *what):
    if not condition:
        raise Failure(" ".join(str(w) for w in what))


def until(is_so, what, patience=PATIENCE):
    """Asks again until it is so; returns what it was."""
    end = time.monotonic() + patience
    while True:
        found = is_so()
        if found:
            return found
        if time.monotonic() > end:
            raise Failure("in %g s it did not come true that %s" % (patience, what))
        time.sleep(0.005)


def boottime_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Lines:
    """The lines that come from a file descriptor, each waited for."""

    def __init__(self, stream):
        self.queue = queue.Queue()
        self.thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self.thread.start()

    def _read(self, stream):
        try:
            for line in stream:
                self.queue.put((time.monotonic(), line))
        except (OSError, ValueError):
            pass
        self.queue.put((time.monotonic(), None))

    def next(self, timeout):
        try:
            return self.queue.get(timeout=timeout)[1]
        except queue.Empty:
            raise TimeoutError from None


class Redis:
    def __init__(self, folder):
        self.path = os.path.join(folder, "redis.sock")
        self.log = open(os.path.join(folder, "redis.log"), "ab")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "",
             "--dir", os.path.dirname(self.path)], stdout=self.log, stderr=self.log)
        until(self._answers, "redis-server answers")

    def _answers(self):
        try:
            return self.command("PING") == "PONG"
        except OSError:
            return False

    def command(self, *words):
        """The reply of Redis; None for nil."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self.path)
            encoded = [w.encode() for w in words]
            sock.sendall(b"*%d\r\n" % len(words)
                         + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
            reader = sock.makefile("rb")
            head = reader.readline().decode().rstrip("\r\n")
            if head[:1] == "$" and head != "$-1":
                return reader.read(int(head[1:])).decode()
            if head[:1] == ":":
                return int(head[1:])
            check(head[:1] != "-", "Redis answered", head)
            return None if head == "$-1" else head[1:]

    def lock(self, key):
        return self.command("GET", "lock:" + key)

    def pttl(self, key):
        return self.command("PTTL", "lock:" + key)

    def wait_free(self, key, patience=PATIENCE):
        until(lambda: self.lock(key) is None, "the key %s is free" % key, patience)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.kill()
        self.log.close()


class Sidecar:
    def __init__(self, binary, folder, redis, ttl_ms):
        self.binary, self.redis, self.ttl_ms = binary, redis, ttl_ms
        self.path = os.path.join(folder, "keeper.sock")
        self.log = open(os.path.join(folder, "keeper.log"), "ab")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.binary, "--socket", self.path, "--redis", "unix://" + self.redis.path,
             "--lock-ttl", "%dms" % self.ttl_ms, "--log-level", "debug"],
            stdout=self.log, stderr=self.log)
        until(self._answers, "the sidecar answers")

    def _answers(self):
        check(self.process.poll() is None, "the sidecar ended with", self.process.returncode)
        try:
            return self.ask({"op": "ping"})["redis"] == "up"
        except OSError:
            return False

    def ask(self, request):
        with Rival(self) as rival:
            return rival.ask(request)

    def states(self, key):
        rows = self.ask({"op": "list", "limit": 500})["leases"]
        return sorted(row["state"] for row in rows if row["key"] == key)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            self.kill()
        self.log.close()


class Rival:
    """Another client of the sidecar: lines over a socket, no library."""

    def __init__(self, sidecar):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect(sidecar.path)
        except OSError:
            self.sock.close()
            raise
        self.reader = self.sock.makefile("rb")

    def ask(self, request):
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self.reader.readline()
            if not line:
                raise ConnectionError("the sidecar closed the connection")
            reply = json.loads(line)
            if "ok" in reply:
                return reply

    def hold(self, key, **members):
        reply = self.ask({"op": "acquire", "key": key, **members})
        check(reply["ok"], "the rival cannot hold", key, reply)
        return reply["lease"]

    def release(self, lease):
        check(self.ask({"op": "release", "lease": lease})["ok"], "the rival cannot release")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.reader.close()
        self.sock.close()


class FakeSidecar:
    """Listens where a sidecar would, and says what a scenario wants it to say. It answers `hello` by
    itself; the other requests of all connections are waited for by `request`."""

    HELLO = {"protocol": 1, "server": "fake/1", "instance": "0" * 16,
             "caps": ["wait", "adopt", "bind", "extend", "inspect", "break", "notify", "list"],
             "lock_ttl_ms": 2000, "heartbeat_ms": 666, "revoke_margin_ms": 400,
             "deadline_ms": 300000, "max_deadline_ms": 3600000, "max_line": 4096,
             "max_reply": 65536, "redis": "up"}
    TOKEN = "0123456789abcdef" * 2

    def __init__(self, folder, hello=None, clock_ms=boottime_ms, page=None, refusal=None):
        self.path = os.path.join(folder, "fake.sock")
        self.hello = {**self.HELLO, **(hello or {})}
        self.clock_ms = clock_ms
        self.page = page
        self.refusal = refusal  # said in place of anything else, before it hangs up
        self.requests = queue.Queue()
        self.ended = threading.Event()  # a client has closed its sending side
        self.conns = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            self.conns.append(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        try:
            for line in conn.makefile("rb"):
                request = json.loads(line)
                if request["op"] == "hello":
                    self._greet(conn, request)
                else:
                    self.requests.put((conn, request))
        except (OSError, ValueError):
            pass
        self.ended.set()

    def _greet(self, conn, request):
        if self.refusal:
            conn.sendall(self.line(self.refusal))
            self.hang_up()
            return
        reply = self.reply_line(request, now_ms=self.clock_ms(), **self.hello)
        if request.get("page"):
            socket.send_fds(conn, [reply[:1]], [self.page])
            reply = reply[1:]
        conn.sendall(reply)

    @staticmethod
    def line(message):
        return json.dumps(message, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def reply_line(cls, request, ok=True, **members):
        head = {"ok": ok}
        if "id" in request:
            head["id"] = request["id"]
        return cls.line({**head, "op": request["op"], **members})

    def request(self, op):
        """The next request, which must be this: (connection, request)."""
        try:
            conn, request = self.requests.get(timeout=PATIENCE)
        except queue.Empty:
            raise Failure("the client did not ask for %s" % op) from None
        check(request["op"] == op, "the client asked", request, "instead of", op)
        return conn, request

    def wait_hung_up(self):
        check(self.ended.wait(PATIENCE), "the client did not hang up")

    def no_request(self):
        check(self.requests.empty(), "the client asked for more")

    def grant_line(self, request, **members):
        grant = {"key": request["key"], "lease": self.TOKEN, "fence": 42,
                 "ttl_ms": request.get("ttl_ms", 2000), "deadline_ms": 300000, "waited_ms": 0,
                 "valid_until_ms": self.clock_ms() + 1900, **members}
        return self.reply_line(request, **grant)

    def revoked_line(self, reason="lost", **members):
        return self.line({"event": "revoked", "error": "errLostActorLock", "reason": reason,
                          "lease": self.TOKEN, "key": "k", "safe_ms": 0,
                          "valid_until_ms": self.clock_ms(), "held_ms": 1, "message": "m",
                          **members})

    def hang_up(self):
        conns, self.conns = self.conns, []  # the client may be back at once
        for conn in conns:
            try:
                conn.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            conn.close()

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.hang_up()
        os.unlink(self.path)


class Adapter:
    """The program that drives the client under test. See README.md here for what it says."""

    def __init__(self, command, env, log):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log, env=env, text=True, encoding="utf-8",
                                        start_new_session=True)
        self.lines = Lines(self.process.stdout)
        self.kept = []

    def say(self, *words):
        try:
            self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise Failure("the adapter has ended") from None

    def hear(self, *head, patience=PATIENCE):
        """The next line that begins with these words, as {"": the words, member: value}. Lines that
        come before it are kept for whoever waits for them."""
        for line in self.kept:
            if line[""][:len(head)] == list(head):
                self.kept.remove(line)
                return line
        end = time.monotonic() + patience
        while True:
            try:
                line = self.lines.next(max(0, end - time.monotonic()))
            except TimeoutError:
                raise Failure("the adapter did not say", head, "but", self.kept) from None
            check(line is not None, "the adapter ended before it said", head, self.kept)
            words = line.split()
            said = {"": [w for w in words if "=" not in w]}
            said.update(w.split("=", 1) for w in words if "=" in w)
            if said[""][:len(head)] == list(head):
                return said
            self.kept.append(said)

    def acquire(self, name, key, **options):
        self.say("acquire", name, key, *("%s=%s" % o for o in options.items()))

    def granted(self, name, key, **options):
        self.acquire(name, key, **options)
        line = self.hear_either("granted", "refused", name)
        check(line[""][0] == "granted", "not granted:", line)
        return line

    def refused(self, name, key, error, **options):
        self.acquire(name, key, **options)
        line = self.hear_either("granted", "refused", name)
        check(line[""] == ["refused", name, error], "not refused with", error, "but", line)
        return line

    def hear_either(self, one, other, name):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self.hear(one, name, patience=0.01)
            except Failure:
                pass
            for line in self.kept:
                if line[""][:2] == [other, name]:
                    self.kept.remove(line)
                    return line
            if time.monotonic() > end or self.process.poll() is not None:
                raise Failure("the adapter said neither", one, "nor", other, name, self.kept)

    def release(self, name):
        self.say("release", name)
        return self.hear_either("released", "refused", name)

    def released(self, name):
        line = self.release(name)
        check(line[""][0] == "released", "not released:", line)
        return line

    def valid(self, name):
        self.say("valid", name)
        return self.hear("valid", name)[""][2] == "true"

    def not_told(self, name):
        """What it said until now does not have the loss of that lease."""
        self.valid(name)  # whatever came before it has been read
        check(not any(line[""][:2] == ["lost", name] for line in self.kept),
              "told a loss:", self.kept)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def session(self):
        """The processes that it has left in its session."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open("/proc/%s/stat" % entry) as stat:
                        fields = stat.read().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self.process.pid and fields[0] not in "ZX":
                    found.append(int(entry))
        return found

    def quit(self):
        """It ends when it is told to, and leaves no process behind."""
        self.say("quit")
        self.process.stdin.close()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure("the adapter does not end") from None
        check(status == 0, "the adapter ended with", status)
        until(lambda: not self.session(), "nothing of the adapter is left")

    def end(self):
        for pid in self.session():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process.stdout.close()
        if not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except OSError:
                pass


class Scratch:
    """A folder for all of it; LOCK_KEEPER_TEST_KEEP=1 keeps it."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="lk-clients-")

    def end(self):
        if os.environ.get("LOCK_KEEPER_TEST_KEEP"):
            print("# kept:", self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
