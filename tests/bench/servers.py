# SPDX-License-Identifier: Apache-2.0
"""The processes of a measurement: a private redis-server, sidecars, load generators; and what the
kernel says of them. Everything that is started is ended by its pid."""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

READY_S = 20


class Failed(Exception):
    pass


def resident_bytes(pid):
    """Resident memory without what is shared with files, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise Failed(f"/proc/{pid}/status has no RssAnon")


def cpu_seconds(pid):
    """What all threads of a process have run, by the scheduler's own nanoseconds."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with open(path, encoding="ascii") as schedstat:
            total += int(schedstat.read().split()[0])
    return total / 1e9


def call(path, request, timeout=READY_S):
    """One request, its first line of reply."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        client.connect(path)
        client.sendall(request)
        reply = b""
        while b"\n" not in reply:
            part = client.recv(65536)
            if not part:
                break
            reply += part
    return reply


def wait_until(what, process, ready):
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Failed(f"{what} ended with {process.returncode}")
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.002)
    raise Failed(f"{what} does not answer")


class Stage:
    """A temporary folder and all that runs in it."""

    def __init__(self, keeper, load):
        self.keeper_program = keeper
        self.load_program = load
        self.folder = tempfile.mkdtemp(prefix="lock-keeper-bench.")
        self.processes = []
        self.names = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            self.end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def name(self, ending):
        self.names += 1
        return os.path.join(self.folder, f"{self.names}.{ending}")

    def start(self, arguments, **options):
        with open(self.name("log"), "wb") as log:
            process = subprocess.Popen(arguments, stderr=log, **options)
        process.log = log.name
        self.processes.append(process)
        return process

    def end(self, process, by=signal.SIGTERM):
        if process in self.processes:
            self.processes.remove(process)
        if process.poll() is None:
            process.send_signal(by)
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()

    def redis(self):
        path = self.name("redis")
        process = self.start(
            ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly",
             "no", "--dir", self.folder, "--maxclients", "20000",
             "--slowlog-log-slower-than", "500", "--slowlog-max-len", "1000"],
            stdout=subprocess.DEVNULL)
        process.path = path
        wait_until("redis-server", process, lambda: call(path, b"PING\r\n").startswith(b"+PONG"))
        return process

    def keeper_arguments(self, path, redis, *flags):
        return [self.keeper_program, "--socket", path, "--redis", f"unix://{redis.path}",
                "--max-leases-per-uid", "4000000", "--max-connections-per-uid", "60000",
                "--max-waiters-per-uid", "60000", "--drain-timeout", "0s", "--log-level", "error",
                *flags]

    def keeper(self, redis, *flags):
        path = self.name("socket")
        process = self.start(self.keeper_arguments(path, redis, *flags), stdout=subprocess.DEVNULL)
        process.path = path
        wait_until("lock-keeper", process,
                   lambda: b'"redis":"up"' in call(path, b'{"op":"ping"}\n'))
        return process

    def load(self, *arguments):
        """Runs a measurement to its end; what it printed."""
        words = [self.load_program, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"load {' '.join(words[1:])}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def holder(self, *arguments):
        """Starts one that says "ready" and goes on; end_holder ends it."""
        process = self.start([self.load_program, *map(str, arguments)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
        if process.stdout.readline().strip() != "ready":
            with open(process.log, encoding="utf-8") as log:
                raise Failed(f"load {' '.join(map(str, arguments))}: {log.read()[-300:]}")
        return process

    def end_holder(self, process):
        """Its last words."""
        process.stdin.close()
        words = process.stdout.readline()
        process.wait()
        process.stdin = None
        self.end(process)
        return json.loads(words or "{}")


def slow_log(redis):
    """The longest entry, in ms, of those over half a millisecond; and how many there are."""
    reply = call_redis(redis, "SLOWLOG", "GET", "1000")
    times = [entry[2] for entry in reply]
    return max(times, default=0) / 1000, len(times)


def scripts_run(redis):
    """How many scripts, and their microseconds in all, by Redis' own count."""
    for line in call_redis(redis, "INFO", "commandstats").splitlines():
        if line.startswith("cmdstat_evalsha:"):
            figures = dict(part.split("=") for part in line.split(":")[1].split(","))
            return int(figures["calls"]), int(figures["usec"])
    return 0, 0


def call_redis(redis, *words):
    """One command of RESP2, its reply as Python values."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(READY_S)
        client.connect(redis.path)
        client.sendall(b"*%d\r\n" % len(words) +
                       b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words))
        with client.makefile("rb") as stream:
            return read_reply(stream)


def read_reply(stream):
    line = stream.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"*":
        return [read_reply(stream) for _ in range(int(rest))]
    if kind == b"$":
        if int(rest) < 0:
            return None
        return stream.read(int(rest) + 2)[:-2].decode("utf-8", "replace")
    if kind == b":":
        return int(rest)
    if kind == b"-":
        raise Failed(rest.decode())
    return rest.decode()
