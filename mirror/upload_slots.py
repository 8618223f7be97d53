"""Upload slots: how many blobs a node gives to its peers at the same time. Pure-ASGI middleware of the peer face.

Beyond that many, each further upload would only slow the others down. The peer is told so at once (503), with the names
of others to ask: first those that this node gives the same blob to, since they can pass it on while it comes; so a herd
forms a tree, two children to a node and blob, and the slots of a node for all its blobs together spread it over all
nodes. A node of which each reader gets all that there is has one slot more every few seconds; for the same blob only
when it has that from no other node. In the middle of a tree a reader more would get nothing that it does not get below,
and when the node gets more itself, all its readers would share that. Who has waited gets a slot beyond that too: nobody
starves because others are slow. Whoever this node itself has the blob from gets a 404 at once, before it waits for what
it would have to give itself. A 429 is never given: runtimes repeat it at once. Manifests are small and need no slot.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from mirror.errors import Code
from mirror.extensions import SPLICE
from mirror.load import ALTERNATIVES_HEADER, ALTERNATIVES_MAX, LOAD_HEADER, WAITED_HEADER, Load, write_names
from mirror.oci import Digest, InvalidDigestError
from mirror.trail import READER_HEADER, read_member

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHILDREN_MAX: Final = 2
"""How many peers are given the same blob at a time. More make the tree flatter and each upload slower: with `k`
children a large herd takes about `k` times as long as one upload."""
WAIT_S: Final = 3.0
"""Who has waited so long may have one slot more than others, after twice that two, and so on. Shorter waits make the
slots mean less in a slow network; longer ones bring its nodes nearer to the time when they go upstream on their own."""
RAISE_S: Final = 3.0
"""So long after the last newcomer it is known how much the readers get beside each other."""
ANSWERS_MAX: Final = 64
"""More than this, or than there are slots, are not given at a time, however long the wait and in however many parts."""
FAR_CHILDREN_MAX: Final = 1
"""How many of them may be in other zones: the nodes of this one have no other source."""

WAITED_DIGITS_MAX: Final = 4
"""Nobody waits for hours; what is longer is nonsense."""

_READER: Final = READER_HEADER.lower().encode()
_WAITED: Final = WAITED_HEADER.lower().encode()


class SlotsObserver(Protocol):
    """Is told how busy the node is, for metrics."""

    def refused(self, reason: str) -> None:
        """A request was refused; `reason` is one word."""
        ...

    def uploading(self, uploads: int) -> None:
        """So many slots are taken now."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a node knows of others."""

    alternatives: Callable[[Digest], Sequence[str]]
    """The names of the other members that have a digest, best first."""
    lineage: Callable[[Digest], Collection[str]]
    """Those through whom this node gets it at the moment."""
    near: Callable[[str], bool]
    """Whether a member is in this node's zone."""
    slow: Callable[[], bool]
    """Whether this node was found too slow of late: newcomers are sent to others, if there are any, and come back."""


class UploadSlots:
    """Gives `slots` uploads way at a time, and tells in each answer how many there are."""

    def __init__(self, app: ASGIApp, observer: SlotsObserver, slots: int, surroundings: Surroundings) -> None:
        self._app = app
        self._observer = observer
        self._slots = slots
        self._surroundings = surroundings
        self._rng = random.Random()  # noqa: S311 - spreads load
        self._answers: list[Callable[[], bool]] = []  # whether each reader keeps up
        self._admitted_at = float("-inf")
        self._children: dict[Digest, list[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when it needs no slot or gets one, else answer 503."""
        digest = _blob(scope)
        uploads = self._uploads()
        load = Load(uploads, self._slots)
        if digest is None:
            await self._app(scope, receive, _telling(load, send))
            return
        child, beyond = _child(scope), int(_waited_s(scope) / WAIT_S)
        children = self._children.get(digest, [])
        lineage = self._surroundings.lineage(digest)
        if child in lineage:
            await _refuse(send, Code.BLOB_UNKNOWN, "the blob comes from the member that asks for it", load)
            return
        others = self._others(digest, child, children)
        further = child != "" and child in children  # a part, of a blob that it is given already
        spare = self._has_room()
        full = not further and uploads >= self._slots + beyond and not spare
        full |= len(self._answers) >= max(ANSWERS_MAX, self._slots)
        spared = not beyond and others and self._surroundings.slow()
        if full or spared or self._enough(children, child, beyond, spare=spare and not lineage):
            self._observer.refused("slots")
            await _refuse(send, Code.UNAVAILABLE, "all upload slots are taken", load, others)
            return
        keeps_up = scope.get("extensions", {}).get(SPLICE, {}).get("keeps_up", _unknown)
        self._answers.append(keeps_up)
        self._admitted_at = asyncio.get_running_loop().time()
        self._children.setdefault(digest, []).append(child)
        self._observer.uploading(self._uploads())
        try:
            await self._app(scope, receive, _telling(load, send))
        finally:
            self._answers.remove(keeps_up)
            self._children[digest].remove(child)
            if not self._children[digest]:
                del self._children[digest]
            self._observer.uploading(self._uploads())

    def _uploads(self) -> int:
        """How many slots are taken: one for each blob and member that has it, in however many parts."""
        return sum(len({*children} - {""}) + children.count("") for children in self._children.values())

    def _has_room(self) -> bool:
        """Whether each reader still gets all that there is to give, some time after the last newcomer.

        Under TLS that is not known, and there is never room beyond the slots.
        """
        since_s = asyncio.get_running_loop().time() - self._admitted_at
        return since_s >= RAISE_S and all(keeps_up() for keeps_up in self._answers)

    def _enough(self, children: Sequence[str], child: str, beyond: int, *, spare: bool) -> bool:
        """Whether a blob has as many readers as it may. Who is one already may have further parts of it."""
        if child in children:
            return False
        near, members = self._surroundings.near, set(children)
        far = not near(child) and sum(not near(each) for each in members) >= FAR_CHILDREN_MAX
        return far or (len(members) >= CHILDREN_MAX + beyond and not spare)

    def _others(self, digest: Digest, child: str, children: Sequence[str]) -> list[str]:
        """Whom to ask instead: the children of this node in random order, so that their trees grow alike."""
        named = [name for name in dict.fromkeys(children) if name not in ("", child)]
        self._rng.shuffle(named)
        return [
            *named,
            *(name for name in self._surroundings.alternatives(digest) if name != child and name not in named),
        ]


def _unknown() -> bool:
    """Whether a reader keeps up of whom the server does not tell: as if it did not."""
    return False


def _blob(scope: Scope) -> Digest | None:
    """The digest of the blob that is asked for; None for anything else (the registry says what is wrong with it)."""
    before, _, last = scope.get("path", "").rpartition("/")
    if scope.get("method") != "GET" or not before.endswith("/blobs"):
        return None
    try:
        return Digest.parse(last)
    except InvalidDigestError:
        return None


def _child(scope: Scope) -> str:
    """The name of the member that asks; "" when it does not say."""
    return next((read_member(value.decode("latin-1")) for name, value in scope["headers"] if name == _READER), "")


def _waited_s(scope: Scope) -> int:
    """How long the member has waited, as it says; 0 when it does not say."""
    told = next((value for name, value in scope["headers"] if name == _WAITED), b"")
    return int(told) if told.isdigit() and len(told) <= WAITED_DIGITS_MAX else 0


def _telling(load: Load, send: Send) -> Send:
    header = (LOAD_HEADER.lower().encode(), str(load).encode())

    async def send_with_load(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), header]
        await send(message)

    return send_with_load


async def _refuse(send: Send, code: Code, why: str, load: Load, alternatives: Sequence[str] = ()) -> None:
    body = orjson.dumps({"errors": [{"code": code.value, "message": why}]})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (LOAD_HEADER.lower().encode(), str(load).encode()),
    ]
    if code is Code.UNAVAILABLE:
        headers.append((ALTERNATIVES_HEADER.lower().encode(), write_names(alternatives[:ALTERNATIVES_MAX]).encode()))
    await send({"type": "http.response.start", "status": code.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
