# SPDX-License-Identifier: Apache-2.0
"""The rows of the table: who is measured, in what unit, and what lock-keeper is to reach.

A row has contestants, of which one is "lock-keeper" and one is "floor"; each is a function that
measures once and returns a number, or a dict of them ("value" being the row's). All of a row are
measured in turn, round by round, and compared within the round."""

import os
import time

from servers import call_redis, cpu_seconds, resident_bytes, scripts_run, slow_log

US, NS, PER_SECOND, PERCENT, BYTES, MS = "us", "ns", "pairs/s", "% of a core", "B", "ms"


class Row:
    def __init__(self, name, title, unit, contestants, reach, notes=""):
        self.name = name
        self.title = title
        self.unit = unit
        self.contestants = contestants
        self.reach = reach  # of Reach
        self.notes = notes

    @property
    def more_is_better(self):
        return self.unit == PER_SECOND


class Reach:
    """A bound on lock-keeper's figure: against a contestant's of the same round, or by itself."""

    def __init__(self, against, sign, bound, value="value"):
        self.against = against  # None: lock-keeper's own number
        self.sign = sign  # ">=" or "<="
        self.bound = bound
        self.value = value

    def holds(self, number):
        return number >= self.bound if self.sign == ">=" else number <= self.bound

    def name(self):
        return self.value.removesuffix("_us").removesuffix("_ms").replace("_", " ")

    def words(self, unit):
        """What is to be reached; a value other than the row's has its unit in its name."""
        what = "" if self.value == "value" else self.name() + " "
        unit = unit if self.value == "value" else "ms" if self.value.endswith("_ms") else ""
        if self.against is None:
            return f"{what}{'at least' if self.sign == '>=' else 'at most'} {self.bound:g} {unit}".rstrip()
        return f"{what}{self.sign} {self.bound:g} x {self.against}"


class Bench:
    """What rows are measured with: a Redis and two sidecars that live as long as the run."""

    def __init__(self, stage, options):
        self.stage = stage
        self.ms = options.ms
        self.options = options
        self.redis = stage.redis()
        self.keeper = stage.keeper(self.redis)
        self.second = stage.keeper(self.redis)

    def rate(self, *arguments):
        """Pairs a second; and what a pair cost Redis and the sidecar."""
        before = cpu_seconds(self.redis.pid), cpu_seconds(self.keeper.pid)
        measured = self.stage.load(*arguments)
        # The warm-up, a tenth, is in the CPU but not in the count.
        pairs = 1.1 * measured["count"]
        return {"value": measured["per_second"], **measured,
                "redis_us_a_pair": 1e6 * (cpu_seconds(self.redis.pid) - before[0]) / pairs,
                "sidecar_us_a_pair": 1e6 * (cpu_seconds(self.keeper.pid) - before[1]) / pairs}

    def latency(self, *arguments):
        measured = self.stage.load(*arguments)
        return {"value": measured["p50_us"], **measured}

    # ---- Renewals and memory need servers of their own ----

    def renewals(self, leases, period_ms, window_ms):
        """CPU of a sidecar that renews so many leases each period; and what Redis did meanwhile."""
        stage = self.stage
        redis = stage.redis()
        keeper = stage.keeper(redis)
        holder = stage.holder("hold", keeper.path, leases, 8, 3 * period_ms)
        time.sleep(period_ms / 1000 * 1.2)  # until each has had a heartbeat, most in step
        call_redis(redis, "SLOWLOG", "RESET")
        scripts, scripts_us = scripts_run(redis)
        before = cpu_seconds(keeper.pid), cpu_seconds(redis.pid), time.monotonic()
        time.sleep(window_ms / 1000)
        seconds = time.monotonic() - before[2]
        calls, us = scripts_run(redis)
        measured = {
            "value": 100 * (cpu_seconds(keeper.pid) - before[0]) / seconds,
            "redis_percent": 100 * (cpu_seconds(redis.pid) - before[1]) / seconds,
            "scripts": calls - scripts,
            "script_us": (us - scripts_us) / max(calls - scripts, 1),
        }
        measured["slowest_script_ms"], measured["scripts_over_half_ms"] = slow_log(redis)
        measured["revoked"] = stage.end_holder(holder)["revoked"]
        stage.end(keeper)
        stage.end(redis)
        return measured

    def renewals_floor(self, leases, period_ms, window_ms):
        stage = self.stage
        redis = stage.redis()
        holder = stage.holder("floor-renew", redis.path, leases, period_ms, window_ms)
        before = cpu_seconds(redis.pid), time.monotonic()
        measured = stage.end_holder(holder)
        seconds = time.monotonic() - before[1]
        redis_percent = 100 * (cpu_seconds(redis.pid) - before[0]) / seconds
        stage.end(redis)
        return {"value": measured["cpu_percent"], "redis_percent": redis_percent, **measured}

    def memory_of_leases(self, first, then):
        """Growth of resident memory from `first` leases to `then`, each."""
        stage = self.stage
        redis = stage.redis()
        keeper = stage.keeper(redis)
        stage.holder("hold", keeper.path, first, 4, 300000)
        before = resident_bytes(keeper.pid)
        stage.holder("hold", keeper.path, then - first, 4, 300000)
        grown = resident_bytes(keeper.pid) - before
        self.stop_all_after(redis)
        return {"value": grown / (then - first), "rss_mib": (before + grown) / 2**20}

    def memory_of_connections(self, count):
        stage = self.stage
        redis = stage.redis()
        keeper = stage.keeper(redis)
        before = resident_bytes(keeper.pid)
        stage.holder("idle", keeper.path, count)
        grown = resident_bytes(keeper.pid) - before
        self.stop_all_after(redis)
        return {"value": grown / count}

    def stop_all_after(self, redis):
        """Ends redis and what was started after it."""
        processes = self.stage.processes
        for process in reversed(processes[processes.index(redis):]):
            self.stage.end(process)

    def memory_floor(self, what, count):
        return self.stage.load("floor-memory", what, count)["bytes_each"]

    # ---- Programs ----

    def ready(self, times):
        path = self.stage.name("socket")
        measured = self.stage.load("ready", path, times,
                                   *self.stage.keeper_arguments(path, self.redis))
        return {"value": measured["p50_us"] / 1000}

    def each(self, *arguments):
        return {"value": self.stage.load(*arguments)["ns_each"]}

    def spawn(self, *command):
        return {"value": self.stage.load("spawn", self.ms, *command)["p50_us"] / 1000}


def throughput_rows(bench):
    redis, keeper, ms = bench.redis.path, bench.keeper.path, bench.ms
    return [
        Row("pairs", "acquire + release, 64 in flight on one connection", PER_SECOND, {
            "lock-keeper": lambda: bench.rate("pairs", keeper, 1, 64, ms),
            "floor": lambda: bench.rate("floor-pairs", redis, "scripts", 1, 64, ms),
            "plain SET": lambda: bench.rate("floor-pairs", redis, "set", 1, 64, ms),
        }, [Reach("floor", ">=", 0.85), Reach("plain SET", ">=", 0.40), Reach("redlock", ">=", 3)]),
        Row("connections", "the same, 64 connections with 1 in flight", PER_SECOND, {
            "lock-keeper": lambda: bench.rate("pairs", keeper, 64, 1, ms),
            "floor": lambda: bench.rate("floor-pairs", redis, "scripts", 64, 1, ms),
        }, [Reach("floor", ">=", 0.9)]),
        Row("processes", "the same, from 64 processes", PER_SECOND, {
            "lock-keeper": lambda: bench.rate("processes", keeper, 64, ms),
            "floor": lambda: bench.rate("floor-processes", redis, 64, ms),
        }, [Reach("floor", ">=", 1.0)]),
    ]


def latency_rows(bench):
    redis, keeper, ms = bench.redis.path, bench.keeper.path, bench.ms
    second = bench.second.path
    return [
        Row("latency", "latency of a pair, 1 in flight (p50)", US, {
            "lock-keeper": lambda: bench.latency("latency", keeper, ms),
            "floor": lambda: bench.latency("floor-latency", redis, ms),
        }, [Reach("floor", "<=", 2.1), Reach("floor", "<=", 2.3, "p99_us")]),
        Row("handover", "hand-over inside a sidecar, 1 waiter (p50)", US, {
            "lock-keeper": lambda: bench.latency("handover", keeper, 1, ms),
            "floor": lambda: bench.latency("floor-handover", redis, 1, ms),
        }, [Reach("floor", "<=", 2)]),
        Row("handover-50", "the same, 50 waiters", US, {
            "lock-keeper": lambda: bench.latency("handover", keeper, 50, ms),
            "floor": lambda: bench.latency("floor-handover", redis, 50, ms),
        }, [Reach("floor", "<=", 2)]),
        Row("handover-between", "hand-over between two sidecars (p50)", US, {
            "lock-keeper": lambda: bench.latency("handover-between", keeper, second, ms),
            "floor": lambda: bench.latency("floor-handover-between", redis, ms),
        }, [Reach("floor", "<=", 2)]),
    ]


def size_rows(bench):
    options = bench.options
    leases, period = options.leases, options.period_ms
    window = options.window_ms
    return [
        Row("renewals", f"renewing {leases:,} leases each {period / 1000:g} s", PERCENT, {
            "lock-keeper": lambda: bench.renewals(leases, period, window),
            "floor": lambda: bench.renewals_floor(leases, period, window),
        }, [Reach("floor", "<=", 1.5), Reach(None, "<=", 4),
            Reach(None, "<=", 0, "revoked"), Reach(None, "<=", 0.5, "slowest_script_ms")]),
        Row("renewals-10k", "renewing 10,000 leases each second", PERCENT, {
            "lock-keeper": lambda: bench.renewals(10000, 1000, options.window_ms // 2),
            "floor": lambda: bench.renewals_floor(10000, 1000, options.window_ms // 2),
        }, [Reach(None, "<=", 1), Reach(None, "<=", 0, "revoked")]),
        Row("memory-lease", f"memory a lease, from {leases // 10:,} to {leases:,}", BYTES, {
            "lock-keeper": lambda: bench.memory_of_leases(leases // 10, leases),
            "floor": lambda: bench.memory_floor("leases", leases),
        }, [Reach(None, "<=", 160)]),
        Row("memory-connection", f"memory an idle connection, {options.connections:,} held", BYTES, {
            "lock-keeper": lambda: bench.memory_of_connections(options.connections),
            "floor": lambda: bench.memory_floor("connections", options.connections),
        }, [Reach(None, "<=", 512)]),
    ]


def program_rows(bench):
    rows = [
        Row("ready", "from the start until it answers", MS, {
            "lock-keeper": lambda: bench.ready(5),
        }, [Reach(None, "<=", 20)]),
        Row("valid", "a look whether a lease is valid, by the library", NS, {
            "lock-keeper": lambda: bench.each("valid", bench.keeper.path, bench.ms),
            "floor": lambda: bench.each("floor-clock", bench.ms),
        }, [Reach(None, "<=", 50)]),
    ]
    lockctl = os.path.join(os.path.dirname(os.path.dirname(bench.stage.keeper_program)), "client",
                           "lockctl")
    if os.access(lockctl, os.X_OK):
        os.environ["LOCK_KEEPER_SOCKET"] = bench.keeper.path
        lock = bench.stage.name("flock")
        rows.insert(0, Row("lockctl", "a command under a lock (p50)", MS, {
            "lock-keeper": lambda: bench.spawn(lockctl, "run", "bench", "--", "true"),
            "floor": lambda: bench.spawn("flock", lock, "true"),
        }, [Reach("floor", "<=", 3)]))
    else:
        print(f"No row for lockctl: there is no {os.path.basename(lockctl)} in this build.")
    return rows


def all_rows(bench):
    return (throughput_rows(bench) + latency_rows(bench) + size_rows(bench) + program_rows(bench))
