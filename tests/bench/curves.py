# SPDX-License-Identifier: Apache-2.0
"""How cost grows: each curve is some series over one quantity."""

import statistics
import subprocess
import time

from servers import cpu_seconds, resident_bytes

REPEATS = 3


def powers(base, most):
    values, value = [], 1
    while value < most:
        values.append(value)
        value *= base
    return values + [most]


def measure(bench, *arguments, value):
    return statistics.median(bench.stage.load(*arguments)[value] for _ in range(REPEATS))


def curve(name, title, x, y, points, log_y=False):
    """points: of (x, {series: y})"""
    labels = list(points[0][1])
    return {"name": name, "title": title, "x": x, "y": y, "log_y": log_y,
            "xs": [point[0] for point in points],
            "series": {label: [point[1][label] for point in points] for label in labels}}


def leases(bench):
    """One sidecar that is given more and more."""
    stage = bench.stage
    redis = stage.redis()
    keeper = stage.keeper(redis)
    held, cost, memory = 0, [], []
    for count in powers(10, bench.options.leases):
        stage.holder("hold", keeper.path, count - held, 4 if count > 1000 else 1, 30000)
        held = count
        time.sleep(11)  # until each was renewed once, and they have spread
        before = cpu_seconds(keeper.pid), cpu_seconds(redis.pid), time.monotonic()
        time.sleep(5)
        seconds = time.monotonic() - before[2]
        cost.append((count, {
            "lock-keeper": 100 * (cpu_seconds(keeper.pid) - before[0]) / seconds,
            "Redis": 100 * (cpu_seconds(redis.pid) - before[1]) / seconds}))
        memory.append((count, {"lock-keeper": resident_bytes(keeper.pid) / 2**20}))
    bench.stop_all_after(redis)
    return [curve("leases-cpu", "Heartbeats: a TTL of 30 s, renewed each 10 s", "leases held",
                  "% of a core", cost, log_y=True),
            curve("leases-memory", "Resident memory of a sidecar", "leases held", "MiB", memory,
                  log_y=True)]


def connections(bench):
    redis, keeper = bench.redis.path, bench.keeper.path

    def long_enough(count):  # for a few pairs of each
        return bench.ms + count // 4

    points = [(count, {
        "lock-keeper": measure(bench, "pairs", keeper, count, 1, long_enough(count),
                               value="per_second"),
        "floor": measure(bench, "floor-pairs", redis, "scripts", count, 1, long_enough(count),
                         value="per_second"),
    }) for count in powers(10, bench.options.connections)]
    return [curve("connections", "Acquire + release, 1 in flight on each connection",
                  "connections", "pairs/s", points)]


def waiters(bench):
    points = [(count, {
        "lock-keeper": measure(bench, "handover", bench.keeper.path, count, 2 * bench.ms,
                               value="p50_us"),
        "floor (BLPOP)": measure(bench, "floor-handover", bench.redis.path, count, 2 * bench.ms,
                                 value="p50_us"),
    }) for count in powers(10, 1000)]
    return [curve("waiters", "Hand-over inside a sidecar (p50)", "waiters on the key", "us", points)]


def key_lengths(bench):
    points = [(length, {
        "lock-keeper": measure(bench, "pairs", bench.keeper.path, 1, 64, bench.ms, length,
                               value="per_second"),
        "floor": measure(bench, "floor-pairs", bench.redis.path, "scripts", 1, 64, bench.ms, length,
                         value="per_second"),
    }) for length in (24, 32, 64, 128, 256, 500)]
    return [curve("key-length", "Acquire + release, 64 in flight on one connection",
                  "bytes of a key", "pairs/s", points)]


def sidecars_at_once(bench, keepers):
    """64 in flight, shared out among so many sidecars, each with a client of its own."""
    commands = [[bench.stage.load_program, "pairs", keeper.path, "1", str(64 // len(keepers)),
                 str(bench.ms)] for keeper in keepers]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
               for command in commands]
    outputs = [process.communicate()[0] for process in running]
    return sum(float(output.split('"per_second":')[1].split(",")[0]) for output in outputs)


def sidecars(bench):
    keepers = [bench.stage.keeper(bench.redis) for _ in range(16)]
    points = [(count, {"lock-keeper": statistics.median(
        sidecars_at_once(bench, keepers[:count]) for _ in range(REPEATS))})
        for count in powers(2, 16)]
    for keeper in keepers:
        bench.stage.end(keeper)
    return [curve("sidecars", "All sidecars of one Redis together, 64 in flight", "sidecars",
                  "pairs/s", points)]


def measure_curves(bench):
    found = []
    for part in (leases, connections, waiters, key_lengths, sidecars):
        print(f"curve: {part.__name__.replace('_', ' ')}", flush=True)
        found += part(bench)
    return found
