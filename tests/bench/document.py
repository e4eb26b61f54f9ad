# SPDX-License-Identifier: Apache-2.0
"""Figures as words."""


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def row_words(row):
    """A row for the terminal."""
    medians = row["medians"]
    words = [f"{row['title']}: {number(medians['lock-keeper'])} {row['unit']}"]
    for name, ratio in row["ratios"].items():
        words.append(f"  {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}) "
                     f"x {name}, {number(medians[name])}")
    for verdict in row["verdicts"]:
        words.append(f"  {'reached' if verdict['holds'] else 'MISSED '}: {verdict['reach']} "
                     f"(seen {verdict['seen']})")
    return "\n".join(words)
