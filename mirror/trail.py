"""What became of a request: told once, by the parts that act on it, to those who watch.

A *trail* goes with each request (`source.Request.trail`). Whoever leaves a source for another one, asks a second one,
or goes on from elsewhere, notes that as a *step*. An *answer* is what the client got: its status, the content, how
much of it and how fast. The HTTP edge tells of both (`Observer`); metrics, the log line of each pull
and the page of recent pulls are all made of them, and of nothing else.

A trail's id follows the pull from node to node, in the header `Skvaller-Request`. It is advice: whoever is let in may
choose it, so it is taken only if it is short and plain.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.source import Content, Request

ID_HEADER: Final = "Skvaller-Request"
READER_HEADER: Final = "Skvaller-Member"
"""Names the member that asks a peer, percent-encoded; for those who watch, and for nothing else."""
STEPS_MAX: Final = 32
"""Steps kept of one request. A pull tries a handful of sources; what exceeds this is still counted."""

MEMBER_CHARACTERS_MAX: Final = 253

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class What(StrEnum):
    """What a step was. The first part says why a source did not give the object; the rest how the pull went on."""

    ABSENT = "absent"
    """It does not have the object: not in the store, no holder in the index, a 404 of the registry."""
    STALE = "stale"
    """A peer that the index names as a holder no longer has it."""
    FULL = "full"
    """All upload slots of the peer are taken."""
    UNAVAILABLE = "unavailable"
    """It did not answer in time, broke off, or answered what cannot be used."""
    CORRUPT = "corrupt"
    """Its bytes do not have the digest."""
    REFUSED = "refused"
    """The registry said no to this client."""
    OVER_QUOTA = "over_quota"
    """The registry gives this client nothing for now (429)."""

    HEDGED = "hedged"
    """It was slow to answer, so another one was asked as well."""
    STALLED = "stalled"
    """It gave much less than others do, and was left."""
    RESUMED = "resumed"
    """The rest of an answer that broke off comes from here."""

    LED = "led"
    """This node fetched the object from upstream for all nodes (or, from another zone, for those of its zone)."""
    FOLLOWED = "followed"
    """The object comes from another node's transfer."""
    ESCAPED = "escaped"
    """No other node gave the object in time, or none said who has it: fetched from upstream without a lease."""


ASIDE: Final = frozenset({404, 503})
"""The answers after which a runtime asks the registry itself."""

MISSES: Final = frozenset(
    {What.ABSENT, What.STALE, What.FULL, What.UNAVAILABLE, What.CORRUPT, What.REFUSED, What.OVER_QUOTA}
)

HERD: Final = frozenset({What.LED, What.FOLLOWED, What.ESCAPED})


class Step(NamedTuple):
    """`source` is one of `store`, `peer`, `upstream`; `who` names the member, where there is one."""

    what: What
    source: str
    who: str = ""

    def __str__(self) -> str:
        """The step in words, as the log and the page tell it."""
        if self.what is What.ABSENT:
            return _ABSENT[self.source]
        if self.what is What.LED and self.source == "peer":
            return "this node led its zone"
        return _WORDS[self.what].format(self.who or _NAMES[self.source])


_NAMES: Final = {"store": "the store", "peer": "a peer", "upstream": "the registry"}
_ABSENT: Final = {"store": "not in the store", "peer": "no peer has it", "upstream": "the registry does not have it"}
_WORDS: Final = {
    What.STALE: "{} no longer has it",
    What.FULL: "{} has no upload slot free",
    What.UNAVAILABLE: "{} is unavailable",
    What.CORRUPT: "{} gave wrong bytes",
    What.REFUSED: "{} refused",
    What.OVER_QUOTA: "{} gives no more for now",
    What.HEDGED: "{} was slow to answer, so another one was asked",
    What.STALLED: "{} was too slow",
    What.RESUMED: "went on from {}",
    What.LED: "this node fetched it for others",
    What.FOLLOWED: "{} was fetching it",
    What.ESCAPED: "no other node gave it in time",
}


def read_member(header: str | None) -> str:
    """The member that the header names; "" when it is missing or makes no sense (it is shown, and nothing more)."""
    name = unquote(header or "")
    return name if len(name) <= MEMBER_CHARACTERS_MAX and name.isprintable() else ""


@dataclass(slots=True)
class Trail:
    """The id of a request and the steps that were taken for it; `watch` is told of each at once."""

    id: str = field(default_factory=lambda: os.urandom(8).hex())
    watch: Callable[[Step], None] | None = None
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def of(cls, header: str | None, watch: Callable[[Step], None]) -> Trail:
        """The trail of a request that came with this header; one without a usable id gets its own."""
        return cls(header, watch) if header and _ID.fullmatch(header) else cls(watch=watch)

    def note(self, what: What, source: str, who: str = "") -> None:
        """Add a step."""
        step = Step(what, source, who)
        if len(self.steps) < STEPS_MAX:
            self.steps.append(step)
        if self.watch is not None:
            self.watch(step)


@dataclass(slots=True, eq=False)
class Answer:
    """What the client got; it is filled in while the answer is given. Durations are in seconds from its beginning."""

    began_at: float
    """By the monotonic clock."""
    method: str = "GET"
    reader: str = ""
    """The member that asks, as it says; "" for the runtime."""
    request: Request | None = None
    """None when the client meant no object: a listing, nonsense."""
    status: int = 0
    content: Content | None = None
    """None when the client got none."""
    message: str = ""
    """Why it got none."""
    first_byte_s: float = 0.0
    """Until the status line, which goes out when the first bytes are at hand."""
    duration_s: float = 0.0
    """Until the last byte."""
    progress: Callable[[], int] = int
    """How many bytes of content went out, also while they do."""
    complete: bool = False
    """Whether all did."""

    @property
    def source(self) -> str:
        """Where the content comes from, as `Content.source` says.

        Without content: `aside` when the runtime is sent to the registry, else `none`.
        """
        if self.content is not None:
            return self.content.source
        return "aside" if self.request is not None and self.status in ASIDE else "none"


class Observer(Protocol):
    """Is told what becomes of requests."""

    def noted(self, step: Step) -> None:
        """A step was taken for a request."""
        ...

    def answered(self, answer: Answer) -> None:
        """A status line goes out. Is there content, then `ended` follows."""
        ...

    def ended(self, answer: Answer) -> None:
        """The content has been sent, or source or client broke off."""
        ...
