# SPDX-License-Identifier: Apache-2.0
"""scripts/bench: measures, prints the table, writes the figures, and on request the document."""

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys

import document
from curves import measure_curves
from peers import add_peers
from rows import Bench, all_rows
from servers import Failed, Stage

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures lock-keeper, what Redis and the kernel alone can do (the floor), and "
        "other lock clients (peers), in turn, in short rounds.")
    parser.add_argument("--quick", action="store_true",
                        help="under three minutes: fewer rounds, a tenth of the leases, no peers")
    parser.add_argument("--curves", action="store_true", help="also how cost grows")
    parser.add_argument("--document", action="store_true",
                        help="put the figures into docs/: PERFORMANCE.md, its plots, "
                        "performance.json. For a whole run: all rows, with --curves")
    parser.add_argument("--document-only", action="store_true",
                        help="measure nothing, write the document from docs/performance.json")
    parser.add_argument("--no-peers", action="store_true", help="lock-keeper and floors alone")
    parser.add_argument("--rows", metavar="NAME,...", help="these rows alone")
    parser.add_argument("--rounds", type=int, help="rounds of each row (default 7; --quick: 3)")
    parser.add_argument("--ms", type=int, help="a measurement's length (default 1000; --quick: 500)")
    parser.add_argument("--leases", type=int, help="default 1,000,000; --quick: 100,000")
    parser.add_argument("--connections", type=int, help="idle ones (default 10,000)", default=10000)
    parser.add_argument("--json", metavar="FILE",
                        help="where the figures go (default: bench.json in the build folder)")
    parser.add_argument("--keeper", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--load", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.keeper = os.path.abspath(options.keeper)
    options.load = os.path.abspath(options.load)
    quick = options.quick
    options.rounds = options.rounds or (3 if quick else 7)
    options.ms = options.ms or (500 if quick else 1000)
    options.leases = options.leases or (100000 if quick else 1000000)
    options.period_ms = 1000 if options.leases <= 100000 else 10000
    options.window_ms = max(2 * options.period_ms, 4 * options.ms) if options.leases > 100000 \
        else 4 * options.ms
    return options


# ---- Measuring ----

def measure_round(row, turn):
    """Each contestant once, another one first in each round. Figures by contestant."""
    names = list(row.contestants)
    names = names[turn % len(names):] + names[:turn % len(names)]
    figures = {}
    for name in names:
        measured = row.contestants[name]()
        figures[name] = measured if isinstance(measured, dict) else {"value": measured}
    return figures


def ratios(row, rounds, against, value="value"):
    """lock-keeper's figure over the other's, round by round."""
    return [r["lock-keeper"][value] / r[against][value] for r in rounds
            if against in r and r[against].get(value)]


def judge(row, rounds):
    """Each reach: what was seen, and whether it holds."""
    verdicts = []
    for reach in row.reach:
        if reach.against is None:
            seen = statistics.median(r["lock-keeper"][reach.value] for r in rounds)
            words = f"{seen:.3g}"
        elif reach.against in row.contestants:
            seen = statistics.median(ratios(row, rounds, reach.against, reach.value))
            words = f"{seen:.2f} x {reach.against}"
        else:
            continue
        if reach.value != "value":
            words = f"{reach.name()} {words}"
        verdicts.append({"reach": reach.words(row.unit), "seen": words, "number": seen,
                         "holds": reach.holds(seen)})
    return verdicts


def measure_row(row, count):
    rounds = []
    for turn in range(count):
        rounds.append(measure_round(row, turn))
    medians = {name: statistics.median(r[name]["value"] for r in rounds)
               for name in row.contestants}
    others = [name for name in row.contestants if name != "lock-keeper"]
    compared = {}
    for name in others:
        of_rounds = ratios(row, rounds, name)
        if of_rounds:
            compared[name] = {"median": statistics.median(of_rounds), "least": min(of_rounds),
                              "most": max(of_rounds)}
    return {"name": row.name, "title": row.title, "unit": row.unit, "medians": medians,
            "ratios": compared, "verdicts": judge(row, rounds), "rounds": rounds}


# ---- What it ran on ----

def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).strip().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def machine(options):
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "kernel": platform.release().split("-")[0],
        "redis": first_line("redis-server", "--version").split("v=")[-1].split()[0],
        "commit": first_line("git", "-C", ROOT, "rev-parse", "--short", "HEAD"),
        "load_average_before": os.getloadavg()[0],
        "leases": options.leases,
        "period_ms": options.period_ms,
        "rounds": options.rounds,
        "ms": options.ms,
    }


def wanted_rows(bench, options):
    rows = all_rows(bench)
    if not options.quick and not options.no_peers:
        add_peers(rows, bench, os.path.join(ROOT, "build-bench", "peers"))
    if not options.rows:
        return rows
    names = options.rows.split(",")
    unknown = set(names) - {row.name for row in rows}
    if unknown:
        raise Failed(f"no such row: {', '.join(sorted(unknown))}; there are "
                     f"{', '.join(row.name for row in rows)}")
    return [row for row in rows if row.name in names]


def run(options):
    results = {"machine": machine(options), "rows": [], "curves": []}
    with Stage(options.keeper, options.load) as stage:
        bench = Bench(stage, options)
        for row in wanted_rows(bench, options):
            print(f"{row.title} ...", end="", flush=True)
            result = measure_row(row, options.rounds)
            print("\r\x1b[K" if sys.stdout.isatty() else "\n", end="")
            print(document.row_words(result), flush=True)
            results["rows"].append(result)
        if options.curves:
            results["curves"] = measure_curves(bench)
    return results


def write_figures(results, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


def main():
    options = parse_arguments()
    documents = os.path.join(ROOT, "docs")
    published = os.path.join(documents, "performance.json")
    # The stage is taken down by the way of an exception, also when this is told to stop.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not options.document_only:
        path = options.json or os.path.join(ROOT, "build-bench", "bench.json")
        results = run(options)
        write_figures(results, path)
        print(f"Figures: {path}")
        if options.document:
            write_figures(document.without_rounds(results), published)
    if options.document or options.document_only:
        with open(published, encoding="utf-8") as file:
            document.write(json.load(file), documents)
        print("Written: docs/PERFORMANCE.md and its plots")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"scripts/bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
