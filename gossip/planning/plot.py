"""A report as a picture: three charts above each other over one axis of time, as SVG.

It is written by hand rather than with a plotting library: three charts of one kind are all there is to draw, and a
library would be larger than all else that is installed with this package. Every browser shows SVG.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gossip.planning.report import Report

WIDTH: Final = 860
LEFT: Final = 90
RIGHT: Final = 30
TOP: Final = 60
CHART_HEIGHT: Final = 150
GAP: Final = 60
TICKS: Final = 4
COLOURS: Final = ("#0b62a4", "#c4501b", "#3b7d23")


@dataclass(frozen=True, slots=True)
class _Chart:
    """A title and a value for each second, None where there is none. `decades`: each grid line is ten times the one
    below, and the lowest is 1; otherwise they are equally far apart."""

    title: str
    values: Sequence[float | None]
    decades: bool = False

    @property
    def most(self) -> float:
        """The value of the highest grid line."""
        highest = max((value for value in self.values if value is not None), default=0.0)
        return 10.0**TICKS * max(1.0, _round_up(highest / 10**TICKS)) if self.decades else _round_up(highest)

    def height(self, value: float) -> float:
        """How high a value stands, from 0 to 1."""
        if self.decades:
            return math.log10(max(1.0, value)) / math.log10(self.most)
        return value / self.most

    def grid(self) -> list[float]:
        """The values that have a line."""
        if self.decades:
            return [10.0**power for power in range(math.floor(math.log10(self.most)) + 1)]
        return [self.most * tick / TICKS for tick in range(TICKS + 1)]


def to_svg(report: Report) -> str:
    """The picture, an SVG document."""
    seconds = report.timeline
    charts = (
        _Chart(
            "What 99 % of changes take to a node at most (ms), by the second in which they were made",
            [None if at.p99_s is None else at.p99_s * 1000 for at in seconds],
            decades=True,
        ),
        _Chart("Bytes to a node (KB/s)", [at.bytes_in / 1000 for at in seconds]),
        _Chart("Pairs of running nodes of which one does not see the other", [at.hidden_pairs for at in seconds]),
    )
    height = TOP + len(charts) * (CHART_HEIGHT + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"',
        f' font-size="12" fill="#222"><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(_title(report))}</text>',
    ]
    length_s = max(1, len(seconds))
    for number, chart in enumerate(charts):
        top = TOP + number * (CHART_HEIGHT + GAP)
        lines.extend(_marks(report, top, length_s, named=number == 0))
        lines.extend(_draw(chart, top, length_s, COLOURS[number]))
    lines.append(f'<text x="{WIDTH // 2}" y="{height - 8}" text-anchor="middle">simulated time (s)</text></svg>')
    return "\n".join(lines) + "\n"


def _title(report: Report) -> str:
    scenario = report.scenario
    return f"{scenario.nodes} nodes, {scenario.digests} digests each, {report.model} model, seed {scenario.seed}"


def _draw(chart: _Chart, top: int, length_s: int, colour: str) -> Iterator[str]:
    bottom = top + CHART_HEIGHT
    yield f'<text x="{LEFT}" y="{top - 8}">{escape(chart.title)}</text>'
    for value in chart.grid():
        y = bottom - CHART_HEIGHT * chart.height(value)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,.10g}</text>'
    for tick in range(TICKS + 1):
        at_s = length_s * tick / TICKS
        yield f'<text x="{_x(at_s, length_s):.1f}" y="{bottom + 18}" text-anchor="middle">{at_s:,.10g}</text>'
    path: list[str] = []
    pen_down = False
    for second, there in enumerate(chart.values):
        if there is not None:
            y = bottom - CHART_HEIGHT * chart.height(there)
            path.append(f"{'L' if pen_down else 'M'}{_x(second + 0.5, length_s):.1f} {y:.1f}")
            yield f'<circle cx="{_x(second + 0.5, length_s):.1f}" cy="{y:.1f}" r="1.5" fill="{colour}"/>'
        pen_down = there is not None
    yield f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _marks(report: Report, top: int, length_s: int, *, named: bool) -> Iterator[str]:
    """Grey bands where something lasts, lines where something happens."""
    scenario = report.scenario
    spans = [("partition", event.at_s, event.for_s) for event in scenario.partitions]
    spans.extend(("pause", event.at_s, event.for_s) for event in scenario.pauses)
    spans.extend(("power loss" if event.silently else "crash", event.at_s, 0.0) for event in scenario.deaths)
    if scenario.rollout_rate:
        spans.append(("roll-out", scenario.rollout_at_s, scenario.rollout_for_s))
    for name, at_s, for_s in spans:
        if at_s >= length_s:
            continue
        left, right = _x(at_s, length_s), _x(min(at_s + for_s, length_s), length_s)
        yield (
            f'<rect x="{left:.1f}" y="{top}" width="{max(1.0, right - left):.1f}" height="{CHART_HEIGHT}" '
            f'fill="#999" fill-opacity="{0.2 if for_s else 1}"/>'
        )
        if named:
            yield f'<text x="{left + 3:.1f}" y="{top + 12}" font-size="10" fill="#666">{name}</text>'


def _x(at_s: float, length_s: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at_s / length_s


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ...; at least 1."""
    unit = 1.0
    while True:
        for step in (1, 2, 5):
            if value <= step * unit:
                return step * unit
        unit *= 10
