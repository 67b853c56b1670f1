"""Draws lines over logarithmic axes as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[Point]  # positive
    is_peer: bool = False  # it is dashed


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Sequence[Line]
    unit: Callable[[float], str]  # a label of the upright axis


# Colours that keep apart for the colour-blind, and show on white and on black.
COLOURS = ("#2f81f7", "#d55e00", "#009e73", "#8a8f98", "#cc79a7", "#b58900")
WIDTH, HEIGHT = 400, 280  # pixels of a panel's axes
LEFT, TOP, GAP, BOTTOM = 72, 44, 100, 46  # pixels around them
STEP = 20  # pixels of a legend's line
STYLE = """
.page { fill: #ffffff; } text { fill: #24292f; font: 12px sans-serif; }
text.title { font-weight: bold; }
.grid { stroke: #d0d7de; stroke-width: 1; } .line { fill: none; stroke-width: 2; }
.peer { stroke-dasharray: 6 4; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } text { fill: #e6edf3; } .grid { stroke: #30363d; }
}
"""


def drawn(panels: Sequence[Panel], along: str) -> str:
    """Return the panels side by side, above one legend. `along` names the level axis."""
    names = {line.name: line.is_peer for panel in panels for line in panel.lines}
    colours = dict(zip(names, COLOURS, strict=False))
    width = LEFT + len(panels) * (WIDTH + GAP)
    legend = TOP + HEIGHT + BOTTOM + STEP
    height = legend + STEP * math.ceil(len(names) / 2)
    body = [f"<style>{STYLE}</style>", '<rect class="page" width="100%" height="100%"/>']
    for number, panel in enumerate(panels):
        body += _panel(panel, LEFT + number * (WIDTH + GAP), along, colours)
    for number, (name, is_peer) in enumerate(names.items()):
        x, y = LEFT + number % 2 * (WIDTH + GAP), legend + number // 2 * STEP
        body.append(_path([(x, y), (x + 36, y)], colours[name], is_peer))
        body.append(_text(x + 44, y + 4, name, "start"))
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    lines = "\n".join(body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>\n{lines}\n</svg>\n'


def _panel(panel: Panel, left: float, along: str, colours: dict[str, str]) -> Iterator[str]:
    points = [point for line in panel.lines for point in line.points]
    across = _decades(x for x, _ in points)
    upright = _decades(y for _, y in points)

    def place(point: Point) -> Point:
        x, y = (math.log10(value) for value in point)
        return (
            left + WIDTH * (x - across[0]) / (across[-1] - across[0]),
            TOP + HEIGHT * (upright[-1] - y) / (upright[-1] - upright[0]),
        )

    yield _text(left, TOP - 20, panel.title, "start", "title")
    for power in across:
        x, _ = place((10**power, 10 ** upright[0]))
        yield _grid(x, TOP, x, TOP + HEIGHT)
        yield _text(x, TOP + HEIGHT + 18, f"{10**power:,}", "middle")
    for power in upright:
        _, y = place((10 ** across[0], 10.0**power))
        yield _grid(left, y, left + WIDTH, y)
        yield _text(left - 8, y + 4, panel.unit(10.0**power), "end")
    yield _text(left + WIDTH / 2, TOP + HEIGHT + 38, along, "middle")
    for line in panel.lines:
        yield _path([place(point) for point in line.points], colours[line.name], line.is_peer)


def _decades(values: Iterator[float]) -> range:
    """Return the powers of ten from below all values to above them: two at least."""
    logarithms = [math.log10(value) for value in values]
    lowest = math.floor(min(logarithms))
    return range(lowest, max(math.ceil(max(logarithms)), lowest + 1) + 1)


def _path(points: Sequence[Point], colour: str, is_peer: bool) -> str:
    kind = "line peer" if is_peer else "line"
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
    line = f'<polyline class="{kind}" stroke="{colour}" points="{places}"/>'
    return f'{line}<g fill="{colour}">{dots}</g>'


def _grid(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'
