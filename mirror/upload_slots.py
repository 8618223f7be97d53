"""Upload slots: how many blobs a node gives to its peers at the same time. Pure-ASGI middleware of the peer face.

Beyond that many, each further upload would only slow the others down. The peer is told so at once (503), with the names
of others to ask: first those that this node gives the same blob to, since they can pass it on while it comes; so a herd
forms a tree, two children to a node, in which everybody gets the full rate of a half uplink. Whoever this node itself
has the blob from gets a 404 at once, before it waits for what it would have to give itself. A 429 is never given:
runtimes repeat it at once. Manifests are small and need no slot.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from mirror.errors import Code
from mirror.load import ALTERNATIVES_HEADER, ALTERNATIVES_MAX, LOAD_HEADER, Load, write_names
from mirror.oci import Digest, InvalidDigestError
from mirror.trail import READER_HEADER, read_member

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHILDREN_MAX: Final = 2
"""How many peers are given the same blob at a time. More make the tree flatter and each upload slower: with `k`
children a large herd takes about `k` times as long as one upload."""
FAR_CHILDREN_MAX: Final = 1
"""How many of them may be in other zones: the nodes of this one have no other source."""

_READER: Final = READER_HEADER.lower().encode()


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
    """Whether this node was found too slow of late: newcomers are sent to others, if there are any."""


class UploadSlots:
    """Gives `slots` uploads way at a time, and tells in each answer how many there are."""

    def __init__(self, app: ASGIApp, observer: SlotsObserver, slots: int, surroundings: Surroundings) -> None:
        self._app = app
        self._observer = observer
        self._slots = slots
        self._surroundings = surroundings
        self._rng = random.Random()  # noqa: S311 - spreads load
        self._uploads = 0
        self._children: dict[Digest, list[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when it needs no slot or gets one, else answer 503."""
        digest = _blob(scope)
        load = Load(self._uploads, self._slots)
        if digest is None:
            await self._app(scope, receive, _telling(load, send))
            return
        child = _child(scope)
        children = self._children.get(digest, [])
        if child in self._surroundings.lineage(digest):
            await _refuse(send, Code.BLOB_UNKNOWN, "the blob comes from the member that asks for it", load)
            return
        others = self._others(digest, child, children)
        if self._uploads >= self._slots or self._enough(children, child) or (others and self._surroundings.slow()):
            self._observer.refused("slots")
            await _refuse(send, Code.UNAVAILABLE, "all upload slots are taken", load, others)
            return
        self._count(1)
        self._children.setdefault(digest, []).append(child)
        try:
            await self._app(scope, receive, _telling(load, send))
        finally:
            self._count(-1)
            self._children[digest].remove(child)
            if not self._children[digest]:
                del self._children[digest]

    def _enough(self, children: Sequence[str], child: str) -> bool:
        """Whether a blob has as many readers as it may. Who is one already may have further parts of it."""
        if child in children:
            return False
        near, members = self._surroundings.near, set(children)
        far = not near(child) and sum(not near(each) for each in members) >= FAR_CHILDREN_MAX
        return len(members) >= CHILDREN_MAX or far

    def _others(self, digest: Digest, child: str, children: Sequence[str]) -> list[str]:
        """Whom to ask instead: the children of this node in random order, so that their trees grow alike."""
        named = [name for name in dict.fromkeys(children) if name not in ("", child)]
        self._rng.shuffle(named)
        return [
            *named,
            *(name for name in self._surroundings.alternatives(digest) if name != child and name not in named),
        ]

    def _count(self, change: int) -> None:
        self._uploads += change
        self._observer.uploading(self._uploads)


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
