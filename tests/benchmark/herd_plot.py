"""How many nodes have the image when: one line for each scene, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 160, 40, 50
TICKS = 5
COLOURS = ("#0b62a4", "#c4501b", "#3b7d23", "#7a3ea1", "#8a6d00", "#008080", "#b0306a")


def to_svg(times: Mapping[str, Sequence[float]]) -> str:
    """The picture, an SVG document; `times` are those of each scene, ascending, in F/u."""
    longest = max(each[-1] for each in times.values())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"',
        f' font-size="12" fill="#222"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">Nodes that have the image (%)</text>',
        *_axes(longest),
    ]
    for number, (name, ended) in enumerate(times.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [f"{_x(0, longest):.1f} {_y(0):.1f}"]
        for done, at in enumerate(ended):
            points.append(f"H{_x(at, longest):.1f}V{_y((done + 1) / len(ended)):.1f}")
        lines.append(f'<path d="M{"".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = TOP + 16 * number
        lines.append(f'<text x="{WIDTH - RIGHT + 12}" y="{y + 10}" fill="{colour}">{name}</text>')
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _axes(longest: float) -> Iterator[str]:
    for tick in range(TICKS + 1):
        part = tick / TICKS
        x, y = _x(longest * part, longest), _y(part)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * part:.0f}</text>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{longest * part:.2f}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) // 2}" y="{HEIGHT - 8}" text-anchor="middle">time (F/u)</text>'


def _x(at: float, longest: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at / longest


def _y(part: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
