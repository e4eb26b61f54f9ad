# SPDX-License-Identifier: Apache-2.0
"""Whether scripts/bench measures at all: every row once and briefly, whatever the figures are.

    smoke.py BENCH.PY LOCK-KEEPER LOAD"""

import json
import os
import subprocess
import sys
import tempfile


def main():
    bench, keeper, load = sys.argv[1:]
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
                 "memory-connection", "ready"):
        assert name in names, f"no row {name}"
    for row in results["rows"]:
        assert row["verdicts"], f"{row['name']}: nothing was compared"
        for contestant, figure in row["medians"].items():
            # A few leases may fit into memory that was there already.
            assert figure > 0 or row["unit"] == "B", f"{row['name']}: {contestant} is {figure}"
    print(f"ok: {len(names)} rows")


main()
