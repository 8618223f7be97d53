"""Upload slots: how many blobs a node gives to its peers at the same time. Pure-ASGI middleware of the peer face.

Beyond that many, each further upload would only slow the others down, while another holder may be free: the peer is
told so at once (503, with names of other holders), and asks there. A 429 is never given: runtimes repeat it at once.
Manifests are small and need no slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import orjson

from mirror.errors import Code
from mirror.load import ALTERNATIVES_HEADER, ALTERNATIVES_MAX, LOAD_HEADER, Load, write_names
from mirror.oci import Digest, InvalidDigestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SlotsObserver(Protocol):
    """Is told how busy the node is, for metrics."""

    def refused(self, reason: str) -> None:
        """A request was refused; `reason` is one word."""
        ...

    def uploading(self, uploads: int) -> None:
        """So many slots are taken now."""
        ...


class UploadSlots:
    """Gives `slots` uploads way at a time, and tells in each answer how many there are.

    `alternatives` names the other members that have a digest, best first.
    """

    def __init__(
        self, app: ASGIApp, observer: SlotsObserver, slots: int, alternatives: Callable[[Digest], Sequence[str]]
    ) -> None:
        self._app = app
        self._observer = observer
        self._slots = slots
        self._alternatives = alternatives
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when it needs no slot or gets one, else answer 503."""
        digest = _blob(scope)
        load = Load(self._uploads, self._slots)
        if digest is None:
            await self._app(scope, receive, _telling(load, send))
        elif self._uploads >= self._slots:
            self._observer.refused("slots")
            await _refuse(send, load, self._alternatives(digest))
        else:
            self._count(1)
            try:
                await self._app(scope, receive, _telling(load, send))
            finally:
                self._count(-1)

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


def _telling(load: Load, send: Send) -> Send:
    header = (LOAD_HEADER.lower().encode(), str(load).encode())

    async def send_with_load(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), header]
        await send(message)

    return send_with_load


async def _refuse(send: Send, load: Load, alternatives: Sequence[str]) -> None:
    message = f"all {load.slots} upload slots are taken"
    body = orjson.dumps({"errors": [{"code": Code.UNAVAILABLE.value, "message": message}]})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (LOAD_HEADER.lower().encode(), str(load).encode()),
        (ALTERNATIVES_HEADER.lower().encode(), write_names(alternatives[:ALTERNATIVES_MAX]).encode()),
    ]
    await send({"type": "http.response.start", "status": Code.UNAVAILABLE.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
