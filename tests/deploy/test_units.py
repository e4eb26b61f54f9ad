# SPDX-License-Identifier: Apache-2.0
"""The systemd units: what systemd says of them, and that lock-keeper takes what they set."""

import os
import re
import shutil

import bench

FOLDER = os.path.join(bench.ROOT, "examples", "systemd")
MOST_EXPOSED = 1.5


def settings(name):
    """(key, value) of a unit, in order."""
    text = bench.read("examples", "systemd", name)
    return [tuple(line.split("=", 1)) for line in text.splitlines() if re.match(r"^\w+=", line)]


def exposure(folder):
    bench.need("systemd-analyze")
    done = bench.run("systemd-analyze", "security", "--offline=yes", "--no-pager", f"{folder}/lock-keeper.service")
    level = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    if not level:
        raise bench.Skip("this systemd-analyze knows no --offline")
    return float(level[1])


def test_the_service_is_hardened(_):
    assert exposure(FOLDER) <= MOST_EXPOSED


def test_systemd_understands_the_units(here):
    bench.need("systemd-analyze")
    for name in ("lock-keeper.service", "lock-keeper.socket"):
        text = bench.read("examples", "systemd", name).replace("/usr/bin/lock-keeper", bench.LOCK_KEEPER)
        with open(here.path(name), "w", encoding="utf-8") as file:
            file.write(text)
    shutil.copytree(f"{FOLDER}/lock-keeper.service.d", here.path("lock-keeper.service.d"))
    units = [here.path("lock-keeper.service"), here.path("lock-keeper.socket")]
    done = bench.run("systemd-analyze", "verify", "--man=no", *units)
    ours = [line for line in done.stdout.splitlines() if "lock-keeper" in line]
    assert not ours, ours


# Were one of them set, the sidecar would work less than it says: see the comment in the unit.
def test_what_the_sidecar_needs_is_left_open(_):
    keys = {key for key, _ in settings("lock-keeper.service")}
    assert not keys & {"PrivateUsers", "ProtectProc", "PrivateNetwork", "IPAddressDeny"}, keys
    families = dict(settings("lock-keeper.service"))["RestrictAddressFamilies"].split()
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(families)


def test_stopping_takes_less_than_systemd_allows(_):
    seconds = int(dict(settings("lock-keeper.service"))["TimeoutStopSec"])
    help_text = " ".join(bench.run(bench.LOCK_KEEPER, "--help").stdout.split())
    defaults = dict(re.findall(r"--([\w-]+) DURATION (?:(?!--).)*\(default (\d+)s\)", help_text))
    assert seconds > int(defaults["lock-ttl"]) + int(defaults["drain-timeout"])


def test_the_variables_of_the_defaults_file_are_flags(_):
    variables = re.findall(r"^#?(LOCK_KEEPER_\w+)=(.*)", bench.read("examples", "systemd", "lock-keeper.default"), re.M)
    assert variables
    done = bench.run(bench.LOCK_KEEPER, "--check-config", env=dict(variables))
    assert done.returncode == 0, done.stdout
    help_text = bench.run(bench.LOCK_KEEPER, "--help").stdout
    for name, _ in variables:
        flag = "--" + name.removeprefix("LOCK_KEEPER_").lower().replace("_", "-")
        assert f"  {flag} " in help_text, flag


def test_every_system_call_is_allowed(here):
    """What the unit's filter allows, against what a run with leases and Redis really calls."""
    strace = bench.need("strace")
    bench.need("systemd-analyze")
    calls = here.path("calls")
    keeper = here.keeper(
        here.redis().url,
        before=[strace, "-f", "-qq", "-e", "signal=none", "-o", calls],
        ASAN_OPTIONS="detect_leaks=0",  # which cannot be done to a traced process
    )
    client = here.client()
    lease = client.acquire("a", bind="pid")["lease"]
    client.ask(op="extend", lease=lease, deadline_ms=60000)
    client.ask(op="release", lease=lease)
    client.send(op="acquire", key="b", wait_ms=-1)
    client.receive()
    client.close()
    assert keeper.stop() == 0
    with open(calls, encoding="utf-8") as file:
        used = set(re.findall(r"^\d+ +(\w+)\(", file.read(), re.M))
    assert "epoll_wait" in used or "epoll_pwait" in used, used
    refused = used - allowed_calls()
    assert not refused, refused


def allowed_calls():
    sets, current = {}, None
    for line in bench.run("systemd-analyze", "syscall-filter", "--no-pager").stdout.splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            current.append(line.strip())

    def members(name):
        if not name.startswith("@"):
            return {name}
        return set().union(*(members(member) for member in sets[name]))

    allowed = set()
    for key, value in settings("lock-keeper.service"):
        if key == "SystemCallFilter":
            chosen = set().union(*(members(name) for name in value.removeprefix("~").split()))
            allowed = allowed - chosen if value.startswith("~") else allowed | chosen
    return allowed


def test_a_socket_is_passed_in_and_outlives_a_restart(here):
    """What lock-keeper.socket does, by systemd's own tool."""
    activate = bench.need("systemd-socket-activate")
    redis = here.redis()
    path = here.path("passed.sock")
    command = [activate, "-l", path, bench.LOCK_KEEPER, "--redis", redis.url]
    with open(here.path("activate.log"), "wb") as log:
        process = here.start(command, stderr=log)
    here.until("the socket", lambda: os.path.exists(path))
    client = here.client(path)
    assert client.ask(op="hello")["ok"]
    client.acquire("a")
    assert redis.ask("EXISTS", "lock:a") == 1
    process.terminate()
    client.close()
    assert process.wait(bench.PATIENCE_S) == 0
    assert os.path.exists(path), "a socket that was passed in is not lock-keeper's to remove"


if __name__ == "__main__":
    bench.main(globals())
