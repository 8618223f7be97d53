"""The live feed of the page and of `skvaller top`: server-sent events of what changes, once a second.

    event: status      every second
    event: members     at first, and when a member came, went, changed its state or the number of its keys
    event: transfers   while something moves, and once when nothing does any more
    event: pulls       at first the latest, then those that ended since

Each event's data is the JSON of the view of that name (`mirror.views`). Source: "Server-sent events", HTML standard.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import orjson
from starlette.responses import Response, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from mirror.views import Views

TURN_S: Final = 1.0
LISTENERS_MAX: Final = 16
"""Each costs about a millisecond a second at 1,000 members."""


class Feed:
    """Tells listeners what changes, until `stopping` says that the agent ends."""

    def __init__(self, views: Views, stopping: Callable[[], bool]) -> None:
        self._views = views
        self._stopping = stopping
        self._listeners = 0

    async def listen(self, _: Request) -> Response:
        """The endpoint; 503 when there are too many listeners."""
        if self._listeners >= LISTENERS_MAX:
            return Response(orjson.dumps({"error": f"{LISTENERS_MAX} are listening already"}), 503)
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=headers)

    async def _events(self) -> AsyncIterator[bytes]:
        self._listeners += 1
        told: dict[str, bytes] = {}
        number = -1
        try:
            while not self._stopping():
                news = {"status": self._views.status(), "members": self._views.members()}
                news["transfers"] = self._views.transfers()
                for name, value in news.items():
                    data = orjson.dumps(value)
                    if told.get(name) != data:
                        told[name] = data
                        yield _event(name, data)
                if pulls := self._views.pulls(number):
                    number = pulls[0]["number"]
                    yield _event("pulls", orjson.dumps(pulls))
                await asyncio.sleep(TURN_S)
        finally:
            self._listeners -= 1


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
