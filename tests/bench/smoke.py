# SPDX-License-Identifier: Apache-2.0
"""Whether scripts/bench measures at all: every row once and briefly, whatever the figures are. And
whether docs/PERFORMANCE.md and its plots are what docs/performance.json says.

    smoke.py BENCH.PY LOCK-KEEPER LOAD"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import document

DOCUMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs")


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def check_document():
    """Written anew from its figures, it is the same."""
    figures = json.loads(read(DOCUMENTS, "performance.json"))
    with tempfile.TemporaryDirectory(prefix="lock-keeper-bench.") as folder:
        shutil.copy(os.path.join(DOCUMENTS, "PERFORMANCE.md"), folder)
        document.write(figures, folder)
        plots = sorted(os.listdir(os.path.join(folder, "plots")))
        assert plots and plots == sorted(os.listdir(os.path.join(DOCUMENTS, "plots"))), plots
        for name in ["PERFORMANCE.md"] + [os.path.join("plots", name) for name in plots]:
            assert read(folder, name) == read(DOCUMENTS, name), \
                f"docs/{name} is not what docs/performance.json says: scripts/bench --document-only"
    for name in (curve["name"] for curve in figures["curves"]):
        assert f"plots/{name}.svg" in read(DOCUMENTS, "PERFORMANCE.md"), name


def main():
    bench, keeper, load = sys.argv[1:]
    check_document()
    # The load generators leave their memory to the kernel.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    with tempfile.TemporaryDirectory(prefix="lock-keeper-bench.") as folder:
        path = os.path.join(folder, "bench.json")
        subprocess.run(
            [sys.executable, "-B", bench, "--keeper", keeper, "--load", load, "--quick",
             "--rounds", "1", "--ms", "40", "--leases", "2000", "--connections", "50", "--json",
             path], check=True, timeout=100, env=environment)
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    names = [row["name"] for row in results["rows"]]
    for name in ("pairs", "connections", "processes", "latency", "handover", "handover-50",
                 "handover-between", "renewals", "renewals-10k", "memory-lease",
                 "memory-connection", "ready", "valid"):
        assert name in names, f"no row {name}"
    for row in results["rows"]:
        assert row["verdicts"], f"{row['name']}: nothing was compared"
        for contestant, figure in row["medians"].items():
            # A few leases may fit into memory that was there already.
            assert figure > 0 or row["unit"] == "B", f"{row['name']}: {contestant} is {figure}"
    print(f"ok: {len(names)} rows")


main()
