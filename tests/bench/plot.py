# SPDX-License-Identifier: Apache-2.0
"""A curve as SVG: the x axis logarithmic, the y axis from 0 or logarithmic."""

import math

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 36, 46
COLOURS = ["#0b6e99", "#b3541e", "#5b7f2b", "#7a4fa3"]


def short(value):
    """A number as an axis has it."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def linear_ticks(most):
    """About five round steps from 0 to over `most`."""
    rough = most / 4 or 1
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [step * i for i in range(math.ceil(most / step) + 1)]


def log_ticks(least, most):
    return [10.0 ** power for power in range(math.floor(math.log10(least)),
                                             math.ceil(math.log10(most)) + 1)]


class Axis:
    def __init__(self, ticks, is_log, start, end):
        self.ticks = ticks
        self.is_log = is_log
        self.start = start
        self.end = end
        self.low, self.high = self.scale(ticks[0]), self.scale(ticks[-1])

    def scale(self, value):
        return math.log10(value) if self.is_log else value

    def at(self, value):
        share = (self.scale(value) - self.low) / (self.high - self.low or 1)
        return round(self.start + share * (self.end - self.start), 1)


def axes(curve):
    values = [value for series in curve["series"].values() for value in series]
    xs = curve["xs"]
    positive = [value for value in values if value > 0]
    y_ticks = (log_ticks(min(positive), max(positive)) if curve["log_y"]
               else linear_ticks(max(values)))
    x = Axis(xs, True, LEFT, WIDTH - RIGHT)
    return x, Axis(y_ticks, curve["log_y"], HEIGHT - BOTTOM, TOP)


def line(x1, y1, x2, y2, colour):
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"/>'


def text(x, y, words, anchor="middle", extra=""):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def grid(curve, x, y):
    parts = []
    for tick in y.ticks:
        parts.append(line(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick), "#ddd"))
        parts.append(text(LEFT - 8, y.at(tick) + 4, short(tick), "end"))
    for tick in x.ticks:
        parts.append(line(x.at(tick), HEIGHT - BOTTOM, x.at(tick), HEIGHT - BOTTOM + 4, "#888"))
        parts.append(text(x.at(tick), HEIGHT - BOTTOM + 17, short(tick)))
    parts.append(line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#888"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, curve["x"]))
    parts.append(text(LEFT - 60, TOP - 16, f"{curve['title']}, {curve['y']}", "start",
                      ' font-weight="bold"'))
    return parts


def labels(curve, y):
    """Where each series' name stands at its end, moved apart where they would touch."""
    ends = sorted(((y.at(values[-1] if not curve["log_y"] or values[-1] > 0 else y.ticks[0]), name)
                   for name, values in curve["series"].items()))
    places, lowest = {}, -100
    for place, name in ends:
        lowest = max(place, lowest + 15)
        places[name] = lowest
    return places


def svg(curve):
    x, y = axes(curve)
    parts = grid(curve, x, y)
    places = labels(curve, y)
    for (name, values), colour in zip(curve["series"].items(), COLOURS):
        points = [(x.at(at), y.at(value)) for at, value in zip(curve["xs"], values)
                  if value > 0 or not curve["log_y"]]
        path = " ".join(f"{px},{py}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px}" cy="{py}" r="3" fill="{colour}"/>' for px, py in points]
        parts.append(text(WIDTH - RIGHT + 10, places[name] + 4, name, "start",
                          f' fill="{colour}"'))
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" font-size="12" fill="#333">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n')
