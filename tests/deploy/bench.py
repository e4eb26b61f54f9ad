# SPDX-License-Identifier: Apache-2.0
"""What the tests of deployment share: TAP, and a redis-server, a lock-keeper and clients of their own.

    def test_something(here):
        redis = here.redis()
        keeper = here.keeper(redis.url)
        client = here.client()
        assert client.ask(op="ping")["redis"] == "up"

    if __name__ == "__main__":
        bench.main(globals())

Everything lives in a folder of the test's own and is ended by its process id. A test that cannot run
here raises Skip. Paths of the programs come from the environment, else from the build folder.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("MESON_BUILD_ROOT", os.path.join(ROOT, "build"))
LOCK_KEEPER = os.environ.get(
    "LOCK_KEEPER_BINARY", os.path.join(BUILD, "sidecar", "lock-keeper")
)
LOCKCTL = os.environ.get("LOCKCTL_BINARY", os.path.join(BUILD, "client", "lockctl"))
PATIENCE_S = 20


class Skip(Exception):
    """Why a test cannot run here."""


def need(program):
    """The path of a program, or Skip."""
    path = shutil.which(program)
    if not path:
        raise Skip(f"{program} is not installed")
    return path


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def run(*command, **options):
    """The finished process; its output is text, stderr in stdout."""
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


class Redis:
    """A redis-server on a free loopback port. `rules`: ACL lines, beside an `admin` who may all."""

    def __init__(self, folder, rules):
        program = need("redis-server")
        acl = os.path.join(folder, "users.acl")
        with open(acl, "w", encoding="utf-8") as file:
            file.write("".join(rule + "\n" for rule in rules or ["user default on nopass ~* &* +@all"]))
            file.write("user admin on >admin ~* &* +@all\n")
        for _ in range(20):
            self.port = free_port()
            self.process = subprocess.Popen(
                [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "",
                 "--dir", folder, "--aclfile", acl],
                stdout=subprocess.DEVNULL,
            )
            if self._answers():
                break
            self.process.wait()
        self.url = f"redis://127.0.0.1:{self.port}"

    # False: it ended, since somebody was faster with the port.
    def _answers(self):
        until = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            try:
                if self.ask("PING") == "PONG":
                    return True
            except OSError:
                assert time.monotonic() < until, "redis-server does not answer"
                time.sleep(0.01)
        return False

    def ask(self, *words, database=0):
        """One command as admin; its reply: a text, a number, None, or a list."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            stream = connection.makefile("rwb")
            for command in (["AUTH", "admin", "admin"], ["SELECT", database], words):
                stream.write(b"*%d\r\n" % len(command))
                for word in command:
                    word = str(word).encode()
                    stream.write(b"$%d\r\n%s\r\n" % (len(word), word))
                stream.flush()
                reply = read_reply(stream)
        return reply


def read_reply(stream):
    line = stream.readline()
    if not line:
        raise ConnectionError("redis-server closed the connection")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise AssertionError(text)
    if kind == b":":
        return int(text)
    if kind == b"$":
        return None if text == "-1" else stream.read(int(text) + 2)[:-2].decode()
    if kind == b"*":
        return [read_reply(stream) for _ in range(int(text))]
    return text


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Keeper:
    """A lock-keeper, run by `before` (strace ...); ready when the constructor returns."""

    def __init__(self, folder, url, flags, environment, before=()):
        self.socket = os.path.join(folder, "keeper.sock")
        self.log_path = os.path.join(folder, "keeper.log")
        notify_path = os.path.join(folder, "notify")
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if os.path.exists(notify_path):
            os.unlink(notify_path)
        notify.bind(notify_path)
        notify.settimeout(PATIENCE_S)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*before, LOCK_KEEPER, "--socket", self.socket, "--redis", url, *flags],
                stderr=log,
                env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": notify_path, **environment},
            )
        with notify:
            assert notify.recv(100) == b"READY=1"
        # The pid is lock-keeper's own, whatever runs it.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(self.socket)
            peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.pid = int.from_bytes(peer[:4], sys.byteorder)

    def stop(self):
        """SIGTERM; its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def log(self):
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()


class Client:
    """One connection, spoken to in dicts."""

    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(PATIENCE_S)
        self.connection.connect(path)
        self.stream = self.connection.makefile("rwb")

    def send(self, **request):
        self.stream.write(json.dumps(request).encode() + b"\n")
        self.stream.flush()

    def receive(self):
        line = self.stream.readline()
        assert line, "the sidecar closed the connection"
        return json.loads(line)

    def ask(self, **request):
        """The reply to a request; events before it are passed over."""
        self.send(**request)
        while True:
            line = self.receive()
            if "ok" in line:
                return line

    def acquire(self, key, **more):
        reply = self.ask(op="acquire", key=key, **more)
        assert reply["ok"], reply
        return reply

    def close(self):
        self.stream.close()
        self.connection.close()


class Bench:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="lock-keeper-test.")
        self.processes = []
        self.clients = []
        self.keeper_started = None

    def path(self, name):
        return os.path.join(self.folder, name)

    def redis(self, *rules):
        redis = Redis(self.folder, rules)
        self.processes.append(redis.process)
        return redis

    def keeper(self, url, *flags, before=(), **environment):
        self.keeper_started = Keeper(self.folder, url, flags, environment, before)
        self.processes.append(self.keeper_started.process)
        return self.keeper_started

    def start(self, command, **options):
        """Any other process, ended with the test."""
        process = subprocess.Popen(command, **options)
        self.processes.append(process)
        return process

    def client(self, path=None):
        client = Client(path or self.keeper_started.socket)
        self.clients.append(client)
        return client

    def until(self, what, condition):
        """Asks until the condition holds, and returns its value."""
        end = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < end, f"not in {PATIENCE_S} s: {what}"
            time.sleep(0.02)
        return value

    def close(self):
        for client in self.clients:
            client.close()
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        shutil.rmtree(self.folder)


def main(names):
    """Runs the functions test_* of a module, each with a Bench of its own, and speaks TAP."""
    tests = [(name, test) for name, test in names.items() if name.startswith("test_")]
    print(f"1..{len(tests)}")
    failed = False
    for number, (name, test) in enumerate(tests, 1):
        bench = Bench()
        try:
            test(bench)
            print(f"ok {number} {name}")
        except Skip as why:
            print(f"ok {number} {name} # SKIP {why}")
        except Exception:
            failed = True
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")
            print(f"not ok {number} {name}")
        finally:
            bench.close()
        sys.stdout.flush()
    sys.exit(failed)
