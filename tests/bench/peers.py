# SPDX-License-Identifier: Apache-2.0
"""Other lock clients, in a folder of their own: npm's and Debian's packages, unpacked there and
installed nowhere. What cannot be had is left out, with a word about it."""

import glob
import json
import os
import shutil
import socket
import subprocess

from servers import Failed, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
NODE_PACKAGES = ["redlock@5.0.0-beta.2", "redis-semaphore@5", "ioredis@5"]
DEBIAN_PACKAGES = ["python3-redis", "python3-async-timeout", "python3-deprecated", "python3-wrapt",
                   "python3-packaging", "etcd-server", "etcd-client"]
NODE_PEERS = ["redlock", "redis-semaphore"]


def try_to(what, *command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"Not measured, {what} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.returncode == 0


def install_node(folder):
    if not shutil.which("node") or not shutil.which("npm"):
        print("Not measured: redlock and redis-semaphore, for there is no node or no npm here.")
        return False
    wanted = os.path.join(folder, "node_modules", "redlock")
    return os.path.isdir(wanted) or try_to("npm install", "npm", "install", "--no-audit",
                                           "--no-fund", "--prefix", ".", *NODE_PACKAGES,
                                           folder=folder)


def install_debian(folder):
    root = os.path.join(folder, "debian")
    if os.path.isdir(root):
        return True
    if not shutil.which("dpkg-deb") or not shutil.which("apt-get"):
        print("Not measured: redis-py and etcd, which are taken from Debian's packages.")
        return False
    if not try_to("apt-get download", "apt-get", "download", *DEBIAN_PACKAGES, folder=folder):
        return False
    return all(try_to("dpkg-deb", "dpkg-deb", "-x", package, "debian", folder=folder)
               for package in glob.glob(os.path.join(folder, "*.deb")))


class Peers:
    def __init__(self, bench, folder):
        os.makedirs(folder, exist_ok=True)
        self.bench = bench
        self.folder = folder
        self.node = install_node(folder)
        self.debian = install_debian(folder)

    def run(self, command, **environment):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False,
                              env={**os.environ, **environment}, timeout=600)
        if done.returncode != 0:
            raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip()[-400:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def run_node(self, name, *arguments):
        return self.run(["node", "--expose-gc", os.path.join(HERE, "peer.js"),
                         self.bench.redis.path, name, *arguments], LOCK_KEEPER_PEERS=self.folder)

    def run_python(self, *arguments):
        modules = os.path.join(self.folder, "debian", "usr", "lib", "python3", "dist-packages")
        return self.run(["/usr/bin/python3", "-B", os.path.join(HERE, "peer_redis.py"),
                         self.bench.redis.path, *arguments], PYTHONPATH=modules)

    def start_etcd(self):
        """etcd on loopback; the command that takes a lock there."""
        binaries = os.path.join(self.folder, "debian", "usr", "bin")
        stage = self.bench.stage
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        command = [os.path.join(binaries, "etcdctl"), "--endpoints", client]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        process = stage.start(
            [os.path.join(binaries, "etcd"), "--data-dir", stage.name("etcd-data"),
             "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}"],
            stdout=subprocess.DEVNULL, env=environment)
        wait_until("etcd", process, lambda: subprocess.run(
            [*command, "get", "x"], capture_output=True, env=environment, check=False,
            timeout=10).returncode == 0)
        os.environ["ETCDCTL_API"] = "3"
        return [*command, "lock", "bench", "true"]


def free_ports(count):
    """Nobody listens on them now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def value_of(measured, name):
    return {"value": measured[name], **measured}


def add_peers(rows, bench, folder):
    """Puts the peers among the contestants of the rows that have some."""
    by_name = {row.name: row for row in rows}
    peers = Peers(bench, folder)
    ms = bench.ms

    def add(row, name, measure):
        if row in by_name:
            by_name[row].contestants[name] = measure

    for name in NODE_PEERS if peers.node else []:
        run = lambda *arguments, name=name: peers.run_node(name, *arguments)
        add("pairs", name, lambda run=run: value_of(run("pairs", 64, ms), "per_second"))
        add("latency", name, lambda run=run: value_of(run("pairs", 1, ms), "p50_us"))
        add("handover", name, lambda run=run: value_of(run("handover", 4 * ms), "p50_us"))
        add("renewals-10k", name, lambda run=run: value_of(run("renew", 10000, 3000),
                                                           "cpu_percent"))
        add("memory-lease", name, lambda run=run: value_of(run("memory", 10000), "bytes_each"))
    if peers.debian:
        add("pairs", "redis-py", lambda: value_of(peers.run_python("pairs", 64, ms), "per_second"))
        add("latency", "redis-py", lambda: value_of(peers.run_python("pairs", 1, ms), "p50_us"))
        add("handover", "redis-py", lambda: value_of(peers.run_python("handover", 4 * ms),
                                                     "p50_us"))
    if peers.debian and "lockctl" in by_name:
        try:
            lock = peers.start_etcd()
            add("lockctl", "etcdctl lock", lambda: bench.spawn(*lock))
        except Failed as failure:
            print(f"Not measured: etcd ({failure}).")
