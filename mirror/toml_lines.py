"""What can be wrong with a TOML document, and where a key stands in it, for errors that name the line.

tomllib tells the line of what it cannot parse, and of nothing else. This finds the line of a key in a document that is
valid: by its table's header and its own line, as people write them. What is written in some rarer way (a table inside
braces) is found by its nearest key outside.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

TOML_ERRORS: Final = (ValueError, RecursionError)
"""What tomllib raises for a text that it cannot read: its own error, which is a ValueError, as a number of thousands of
digits gives and bytes that are no UTF-8; and for brackets in brackets without end the other one."""

_HEADER = re.compile(r"\s*\[\[?(?P<keys>[^\[\]]+)\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"""\s*(?P<keys>(?:"[^"]*"|'[^']*'|[A-Za-z0-9_.-]|\s*\.\s*)+)\s*=""")


def line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """The line, counted from 1, that comes nearest to where `keys` lead; None when not even the first is found."""
    table: tuple[str, ...] = ()
    best, length = None, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            here = table = _read(header["keys"])
        elif key := _KEY.match(line):
            here = (*table, *_read(key["keys"]))
        else:
            continue
        if len(here) > length and here == keys[: len(here)]:
            best, length = number, len(here)
    return best


def _read(dotted: str) -> tuple[str, ...]:
    """The parts of a dotted key; none when it is no key after all (a line inside of a string, say)."""
    try:
        value: object = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts = []
    while isinstance(value, dict):
        part, value = next(iter(value.items()))
        parts.append(part)
    return tuple(parts)
