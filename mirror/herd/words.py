"""What a node says to a coordinator, and what it is told: JSON, carried by gossip's questions.

Anything that a member sends is read into these types or refused with a ValueError.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import orjson

from mirror.oci import SMALL_BYTES_MAX

if TYPE_CHECKING:
    from mirror.oci import Digest

NAME_CHARACTERS_MAX: Final = 4096
NAMES_MAX: Final = 256
"""Members named in one message."""


class Scope(StrEnum):
    """For whom a lease is."""

    ZONE = "zone"
    CLUSTER = "cluster"


class End(StrEnum):
    """How a lease ends."""

    DONE = "done"
    """The leader has the whole object, and goes on giving it."""
    LOST = "lost"
    """The leader stopped half-way, by its own fault or that of its source. Another may do better, at once."""
    REFUSED = "refused"
    """The registry said no to the leader's client. That is no answer for others."""
    CLOSED = "closed"
    """The registry has had enough (429), or is out of order."""


@dataclass(frozen=True, slots=True)
class Small:
    """A small object whole: its media type and its bytes, or what a tag means, and how many seconds ago that was said.

    Bytes that have a digest are as good whenever they came, and have no age before the coordinator gets them.
    """

    media_type: str
    data: bytes
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """I want this object: may I lead? `object` is (registry, digest) in one string; `offset` is how much I have.

    `lost` names members that broke off or do not answer, `absent` some that have it neither whole nor in flight.
    `known` says that my client has credentials, `waited_s` for how long it has waited, `second` that the coordinator in
    front did not answer. `age_max_s` is how old a small object may be that others got. `barren` is the leader that
    answers, and has nothing to give me. `got` says that I lead my zone, and have the first bytes in hand.
    """

    scope: Scope
    object: str
    offset: int = 0
    lost: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    known: bool = False
    waited_s: float = 0.0
    second: bool = False
    age_max_s: float = 60.0
    barren: tuple[str, ...] = ()
    got: bool = False


@dataclass(frozen=True, slots=True)
class Renewal:
    """I still lead, and have come so far."""

    scope: Scope
    object: str
    offset: int


@dataclass(frozen=True, slots=True)
class Release:
    """I do not lead any more.

    `retry_s` is how long the registry is to be left alone (0: it did not answer at all); `registry` says that it is so
    for whatever object.
    """

    scope: Scope
    object: str
    end: End
    retry_s: float = 0.0
    small: Small | None = None
    registry: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """To the member that gives me an object, of `rate` bytes a second: is it too slow? See `mirror.herd.pace`.

    `position` is how far I have come; `pace` is what members give me of late.
    """

    object: str
    position: int
    rate: float
    pace: float


Question = Claim | Renewal | Release
"""To a coordinator."""


@dataclass(frozen=True, slots=True)
class Lead:
    """Go upstream, or, with a zone's lease, beyond the zone. An `escape` has no lease: others do not follow it."""

    escape: bool = False


@dataclass(frozen=True, slots=True)
class Follow:
    """This member leads; when it is full it names whom it gives the object to."""

    leader: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Probe:
    """The registry refused others: ask it by HEAD whether it lets your client in, and claim again if it does."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The registry is not to be asked for so many seconds; for this object, or at all (`registry`)."""

    seconds: float
    registry: bool


@dataclass(frozen=True, slots=True)
class Given:
    """The object itself."""

    small: Small


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether I am too slow."""

    slow: bool


@dataclass(frozen=True, slots=True)
class Noted:
    """To a renewal or a release."""


@dataclass(slots=True)
class Part:
    """How a member takes part in an object's herd, for those who watch (`mirror.herd.watch`); not a verdict.

    `taking`: it has `done` bytes of it so far, from the member `giver` ("": from the registry). `held`: it has all.
    `readers` are the members that it gives it to, `leaders` those that lead, as far as it coordinates the object.
    `givers` gave what its runtime was given and did not commit (yet), and `relays` passed that on to it.
    `size` is 0 while that is not known.
    """

    taking: bool = False
    held: bool = False
    giver: str = ""
    done: int = 0
    size: int = 0
    readers: tuple[str, ...] = ()
    leaders: tuple[str, ...] = ()
    givers: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()


Verdict = Lead | Follow | Wait | Probe | Closed | Given | Seen | Noted

_QUESTIONS: Final = {kind.__name__: kind for kind in (Claim, Renewal, Release, Look)}
_VERDICTS: Final = {kind.__name__: kind for kind in (Lead, Follow, Wait, Probe, Closed, Given, Seen, Noted)}


def object_name(registry: str, digest: Digest) -> str:
    """What an object is called among members: what is in flight is shared in the name of one registry only."""
    return f"{registry} {digest}"


def write(message: Question | Look | Verdict) -> bytes:
    """A message as bytes."""
    return orjson.dumps([type(message).__name__, asdict(message)], default=_bytes_out)


def read_question(data: bytes) -> Question | Look:
    """Read what a member asks. Raises ValueError."""
    question: Question | Look = _read(data, _QUESTIONS)
    return question


def read_verdict(data: bytes) -> Verdict:
    """Read what a coordinator answers. Raises ValueError."""
    verdict: Verdict = _read(data, _VERDICTS)
    return verdict


def read_part(data: bytes) -> Part:
    """Read a member's part in a herd. Raises ValueError."""
    part: Part = _read_as(Part, orjson.loads(data))
    return part


def _bytes_out(value: object) -> str:
    assert isinstance(value, bytes)
    return b64encode(value).decode()


def _read(data: bytes, kinds: dict[str, Any]) -> Any:
    document = orjson.loads(data)
    if not (isinstance(document, list) and len(document) == 2 and isinstance(document[0], str)):
        raise ValueError("not a word of the herd's")
    if document[0] not in kinds:
        raise ValueError(f"an unknown word: {document[0][:40]!r}")
    return _read_as(kinds[document[0]], document[1])


def _read_as(kind: Any, value: object) -> Any:
    """The value as a dataclass; fields that are not known are ignored."""
    if not isinstance(value, dict):
        raise ValueError(f"{kind.__name__} is an object")
    hints = _hints(kind)
    read = {each.name: _field(hints[each.name], value[each.name]) for each in fields(kind) if each.name in value}
    try:
        return kind(**read)
    except TypeError:
        raise ValueError(f"a {kind.__name__} lacks a field") from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _field(hint: Any, value: Any) -> Any:  # noqa: PLR0911 - a table
    if hint == Small | None:
        return None if value is None else _read_as(Small, value)
    if hint is Small:
        return _read_as(Small, value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and type(value) is int and 0 <= value < 2**63:
        return value
    if hint is float and type(value) in (int, float) and 0 <= value < 1e12:
        return float(value)
    if hint in (Scope, End):
        return hint(value)
    if hint is bytes and isinstance(value, str) and len(value) <= 2 * SMALL_BYTES_MAX:
        return b64decode(value, validate=True)
    if hint is str and isinstance(value, str) and len(value) <= NAME_CHARACTERS_MAX:
        return value
    if hint == tuple[str, ...] and isinstance(value, list) and len(value) <= NAMES_MAX:
        return tuple(_field(str, name) for name in value)
    raise ValueError("a value that is not allowed")
