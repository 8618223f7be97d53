"""Upload slots: how many blobs a node gives to its peers at the same time. Pure-ASGI middleware of the peer face.

Beyond that many, each further upload would only slow the others down. The peer is told so at once (503), with the names
of others to ask: first those that this node gives the same blob to, since they can pass it on while it comes; so a herd
forms a tree, two children to a node, in which everybody gets the full rate of a half uplink. Where the network gives
more there are more slots (`mirror.capacity`), up to the number that the operator allows. Whoever this node itself
has the blob from gets a 404 at once, before it waits for what it would have to give itself. A 429 is never given:
runtimes repeat it at once. Manifests are small and need no slot.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from mirror.capacity import Capacity
from mirror.errors import Code
from mirror.extensions import SPLICE
from mirror.load import ALTERNATIVES_HEADER, ALTERNATIVES_MAX, LOAD_HEADER, Load, write_names
from mirror.oci import Digest, InvalidDigestError
from mirror.trail import READER_HEADER, read_member

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class UploadSlots:
    """Gives a few uploads way at a time, at most `slots`, and tells in each answer how many of how many there are."""

    def __init__(self, app: ASGIApp, observer: SlotsObserver, slots: int, surroundings: Surroundings) -> None:
        self._app = app
        self._observer = observer
        self._capacity = Capacity(slots)
        self._ended_bytes = 0
        self._surroundings = surroundings
        self._rng = random.Random()  # noqa: S311 - spreads load
        self._uploads: dict[_Upload, Digest] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when it needs no slot or gets one, else answer 503."""
        digest = _blob(scope)
        load = Load(len(self._uploads), self._capacity.uploads)
        if digest is None:
            await self._app(scope, receive, _telling(load, send))
            return
        child = _child(scope)
        children = [upload.child for upload, blob in self._uploads.items() if blob == digest]
        if child in self._surroundings.lineage(digest):
            await _refuse(send, Code.BLOB_UNKNOWN, "the blob comes from the member that asks for it", load)
            return
        if len(self._uploads) >= self._capacity.uploads or self._enough(children, child):
            self._capacity.wanted(self._sent(), time.monotonic())
            self._observer.refused("slots")
            others = self._others(digest, child, children)
            await _refuse(send, Code.UNAVAILABLE, "all upload slots are taken", load, others)
            return
        upload = _Upload(child, scope, _telling(load, send))
        self._uploads[upload] = digest
        self._observer.uploading(len(self._uploads))
        try:
            await self._app(scope, receive, upload.send)
        finally:
            del self._uploads[upload]
            self._observer.uploading(len(self._uploads))
            self._ended_bytes += upload.sent()
            if not self._uploads:
                self._capacity.idle()

    def _sent(self) -> int:
        return self._ended_bytes + sum(upload.sent() for upload in self._uploads)

    def _enough(self, children: Sequence[str], child: str) -> bool:
        near = self._surroundings.near
        far = not near(child) and sum(not near(each) for each in children) >= FAR_CHILDREN_MAX
        return len(children) >= self._capacity.children or far

    def _others(self, digest: Digest, child: str, children: Sequence[str]) -> list[str]:
        """Whom to ask instead: the children of this node in random order, so that their trees grow alike."""
        named = [name for name in dict.fromkeys(children) if name not in ("", child)]
        self._rng.shuffle(named)
        return [
            *named,
            *(name for name in self._surroundings.alternatives(digest) if name != child and name not in named),
        ]


class _Upload:
    """One blob on its way to a child; counts what goes out."""

    def __init__(self, child: str, scope: Scope, send: Send) -> None:
        self.child = child
        self._moved: Callable[[], int] = scope.get("extensions", {}).get(SPLICE, {}).get("moved", int)
        self._send = send
        self._sent = 0

    def sent(self) -> int:
        """How many bytes went out, those of the message under way included."""
        return self._sent + self._moved()

    async def send(self, message: Message) -> None:
        """Send a message of the answer."""
        await self._send(message)
        self._sent += message["count"] if "count" in message else len(message.get("body", b""))


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
