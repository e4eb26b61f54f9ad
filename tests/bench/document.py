# SPDX-License-Identifier: Apache-2.0
"""Figures as words: for the terminal, and into docs/PERFORMANCE.md between its markers

    <!-- measured: NAME --> ... <!-- end -->
"""

import os
import re

import plot

REDIS_LOAD = 0.8  # of its core, at which one Redis is called full


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def row_words(row):
    """A row for the terminal."""
    medians = row["medians"]
    words = [f"{row['title']}: {number(medians['lock-keeper'])} {row['unit']}"]
    for name, ratio in row["ratios"].items():
        words.append(f"  {ratio['median']:.3g} ({ratio['least']:.3g} to {ratio['most']:.3g}) "
                     f"x {name}, {number(medians[name])}")
    for verdict in row["verdicts"]:
        words.append(f"  {'reached' if verdict['holds'] else 'MISSED '}: {verdict['reach']} "
                     f"(seen {verdict['seen']})")
    return "\n".join(words)


def without_rounds(results):
    """What is published: of the rounds, the medians of all that was measured."""
    rows = []
    for row in results["rows"]:
        kept = {key: value for key, value in row.items() if key != "rounds"}
        kept["measured"] = {
            name: {key: median([r[name][key] for r in row["rounds"]])
                   for key in row["rounds"][0][name]}
            for name in row["rounds"][0]}
        rows.append(kept)
    return {**results, "rows": rows}


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


# ---- The document's parts ----

def machine_part(results):
    machine = results["machine"]
    return (f"Measured on {machine['date']}: {machine['cores']} cores ({machine['processor']}), "
            f"Linux {machine['kernel']}, Redis {machine['redis']}; commit {machine['commit']}, {machine['rounds']} rounds of "
            f"{machine['ms']} ms. Load average before the run: "
            f"{machine['load_average_before']:.2f}.")


def ratio_words(row, name):
    if name not in row["ratios"]:
        return ""
    ratio = row["ratios"][name]
    return f"**{ratio['median']:.2f}** ({ratio['least']:.2f} to {ratio['most']:.2f})"


def table_part(results):
    lines = ["| property | lock-keeper | floor | lock-keeper / floor | to reach | seen |",
             "| --- | --- | --- | --- | --- | --- |"]
    for row in results["rows"]:
        medians = row["medians"]
        floor = f"{number(medians['floor'])}" if "floor" in medians else "-"
        reach = "<br>".join(verdict["reach"] for verdict in row["verdicts"])
        seen = "<br>".join(verdict["seen"] + ("" if verdict["holds"] else ": **missed**")
                           for verdict in row["verdicts"])
        lines.append(f"| {row['title']}, {row['unit']} | {number(medians['lock-keeper'])} | {floor} "
                     f"| {ratio_words(row, 'floor') or '-'} | {reach} | {seen} |")
    return "\n".join(lines)


def peers_part(results):
    lines = ["| property | peer | its figure | lock-keeper / peer |", "| --- | --- | --- | --- |"]
    for row in results["rows"]:
        for name, ratio in row["ratios"].items():
            if name != "floor":
                lines.append(f"| {row['title']} | {name} | {number(row['medians'][name])} "
                             f"{row['unit']} | {ratio['median']:.3g} |")
    return "\n".join(lines)


def curves_part(results):
    return "\n\n".join(f"![{curve['title']}, {curve['y']}, by {curve['x']}]"
                       f"(plots/{curve['name']}.svg)" for curve in results["curves"])


def find_row(results, name):
    return next(row for row in results["rows"] if row["name"] == name)


def rounded(value):
    """To two digits: these are estimates."""
    return float(f"{value:.2g}")


def capacity_part(results):
    """What one Redis carries, and a fleet on paper, from what was measured."""
    renewals = find_row(results, "renewals")["measured"]["lock-keeper"]
    pair_us = find_row(results, "connections")["measured"]["lock-keeper"]["redis_us_a_pair"]
    many_us = find_row(results, "connections")["measured"]["floor"]["redis_us_a_pair"]
    leases = results["machine"]["leases"]
    period_s = results["machine"]["period_ms"] / 1000
    each_us = renewals["redis_percent"] / 100 * 1e6 * period_s / leases
    carried = REDIS_LOAD * 10e6 / each_us
    alone_us = many_us / 2
    return f"""Of the {renewals['scripts']:,.0f} scripts that renewed {leases:,} leases, the mean took {renewals['script_us'] / 1000:.2f} ms; {renewals['scripts_over_half_ms']:.0f} took over 0.5 ms.

| what | costs Redis |
| --- | --- |
| a renewal, in a script of 100 keys | {each_us:.2g} us |
| a call of its own from one of 64 connections, half a pair | {alone_us:.2g} us |
| a pair that a sidecar batches with others | {pair_us:.2g} us |

One Redis at {REDIS_LOAD:.0%} of its core, with leases of 30 s that are renewed each 10 s:

| who holds them | leases |
| --- | --- |
| a few sidecars with many each, so that 100 are renewed in one call | {rounded(carried / 1e6):g} million |
| many sidecars with one or two each: each renewal is a call of its own | {rounded(REDIS_LOAD * 10e6 / alone_us / 1e6):g} million |

A fleet of 100,000 pods with a sidecar each, on paper:

| each pod | calls a second | of Redis' core |
| --- | --- | --- |
| holds one lease | 10,000 renewals | {rounded(1e4 * alone_us / 1e4):g} % |
| holds ten, which are renewed in one call | 10,000 renewals of ten | {rounded(1e4 * (alone_us + 9 * each_us) / 1e4):g} % |
| takes and frees one a minute besides | 3,333 scripts | {rounded(3333 * alone_us / 1e4):g} % |"""


PARTS = {"machine": machine_part, "table": table_part, "peers": peers_part, "curves": curves_part,
         "capacity": capacity_part}


def write(results, folder):
    """Into PERFORMANCE.md of the folder, and plots/ beside it."""
    path = os.path.join(folder, "PERFORMANCE.md")
    with open(path, encoding="utf-8") as file:
        words = file.read()
    for name, part in PARTS.items():
        pattern = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.S)
        words = pattern.sub(lambda found, part=part: f"{found[1]}{part(results)}\n{found[2]}", words)
    with open(path, "w", encoding="utf-8") as file:
        file.write(words)
    os.makedirs(os.path.join(folder, "plots"), exist_ok=True)
    for curve in results["curves"]:
        with open(os.path.join(folder, "plots", f"{curve['name']}.svg"), "w",
                  encoding="utf-8") as file:
            file.write(plot.svg(curve))
