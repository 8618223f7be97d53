"""How busy a peer is, and where its bytes come from, in the words that peers use: headers of their answers.

- `Skvaller-Load: 3/4`, in every answer: of 4 upload slots 3 are taken by other uploads than this answer.
- `Skvaller-Waited: 6`, in a request: how many seconds its client has waited for a slot, wherever that was.
- `Skvaller-Alternatives: node-b,node-c`, with a 503 when there is no slot for it: members that are given the object by
  this one at the moment, and others that have it. They are names and never addresses, so that nobody can be sent to a
  place outside the cluster. (Names are percent-encoded: a member's name can have any character.)
- `Skvaller-Lineage: node-b,node-a`, when the object is in flight: through whom its bytes come, the nearest first.
  Nobody takes bytes that come through itself.
- `Skvaller-Givers: upstream`, likewise: who gave the bytes so far. Others may come later; are they wrong, then it is
  asked once more (`mirror.suspicion`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOTS: Final = 4
"""Upload slots of a node, unless it is set otherwise. With two children to a blob and three layers at a time, so few
spread a herd's uploads over all nodes."""
LOAD_HEADER: Final = "Skvaller-Load"
WAITED_HEADER: Final = "Skvaller-Waited"
ALTERNATIVES_HEADER: Final = "Skvaller-Alternatives"
ALTERNATIVES_MAX: Final = 8
LINEAGE_HEADER: Final = "Skvaller-Lineage"
GIVERS_HEADER: Final = "Skvaller-Givers"
LINEAGE_MAX: Final = 32

_LOAD = re.compile(r"(\d{1,6})/([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Load:
    """How many of a node's upload slots are taken by uploads other than the one that tells it."""

    uploads: int
    slots: int

    def __str__(self) -> str:
        return f"{self.uploads}/{self.slots}"

    @classmethod
    def parse(cls, text: str | None) -> Load | None:
        """Read the header; None when it is missing or makes no sense (it is advice and nothing more)."""
        match = _LOAD.fullmatch(text or "")
        return cls(int(match[1]), int(match[2])) if match else None


def write_names(names: Iterable[str]) -> str:
    """The value of a header of names."""
    return ",".join(quote(name, safe="") for name in names)


def read_names(text: str | None, names_max: int) -> tuple[str, ...]:
    """The names in a header, at most so many."""
    return tuple(unquote(name) for name in (text or "").split(",")[:names_max] if name)
