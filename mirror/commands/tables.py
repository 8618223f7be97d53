"""What commands print: aligned columns, coloured on a terminal and nowhere else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COLOURS: Final = {"alive": "32", "suspect": "33", "down": "31", "left": "2"}
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table as lines; columns whose heading ends in a blank are aligned to the right."""
    cells = [[heading.strip() for heading in headings], *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for number, row in enumerate(cells):
        padded = [
            cell.rjust(width) if heading.endswith(" ") else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        if coloured:
            colours = ["1" if not number else _COLOURS.get(cell, "") for cell in row]
            padded = [f"\x1b[{c}m{p}\x1b[0m" if c else p for p, c in zip(padded, colours, strict=True)]
        yield "  ".join(padded).rstrip()


def size_text(size: float) -> str:
    """A number of bytes for people: 31.4 MB."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def duration_text(seconds: float) -> str:
    """A duration for people: 3 d 4 h, 5 min 2 s."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def printable(text: str) -> str:
    """A text that others chose, safe for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
