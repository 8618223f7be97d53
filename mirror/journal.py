"""What became of the last requests of this node's runtime: so that it can be told afterwards why a pull missed.

A journal is middleware in front of the client face. It keeps one entry for each object or tag that was asked for, the
latest `ENTRIES_MAX` of them: no credentials, no bytes, no more than the head of the answer and, of a refusal, its text.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import orjson

from mirror.registry import HOLDER_HEADER, SOURCE_HEADER

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENTRIES_MAX: Final = 4096
"""About 2 MB. A pull of an image makes about ten."""
MESSAGE_CHARACTERS_MAX: Final = 500
PATH_CHARACTERS_MAX: Final = 512
"""A name and a digest fit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer: when (Unix time), what, after how many seconds it began, who gave the content, or why nobody did."""

    at: float
    method: str
    status: int
    seconds: float
    source: str = ""
    holder: str = ""
    message: str = ""


class Journal:
    """The entries, by what was asked for; the last parts of the path: `manifests/v1`, `blobs/sha256:...`."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()

    def last(self, registry: str, path: str) -> Entry | None:
        """The last answer about `<name>/manifests/<reference>` or `<name>/blobs/<digest>` of a registry."""
        return self._entries.get((registry, path))

    def note(self, registry: str, path: str, entry: Entry) -> None:
        """Remember an answer in the place of the one before."""
        self._entries[registry, path] = entry
        self._entries.move_to_end((registry, path))
        if len(self._entries) > ENTRIES_MAX:
            self._entries.popitem(last=False)


class Journalist:
    """Writes the journal: middleware that passes everything on unchanged."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; note its answer if it is about content."""
        wanted = _wanted(scope)
        if wanted is None:
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        refusal = 0
        entry = Entry(time.time(), scope["method"], 0, 0.0)

        async def listen(message: Message) -> None:
            nonlocal entry, refusal
            if message["type"] == "http.response.start":
                headers = {name.lower(): value.decode("latin-1") for name, value in message["headers"]}
                refusal = message["status"] if message["status"] >= 400 else 0
                entry = Entry(
                    entry.at,
                    entry.method,
                    message["status"],
                    time.monotonic() - started,
                    headers.get(SOURCE_HEADER.lower().encode(), ""),
                    headers.get(HOLDER_HEADER.lower().encode(), ""),
                )
                self._journal.note(*wanted, entry)
            elif refusal and message["type"] == "http.response.body":
                refusal = 0
                text = _message(message.get("body", b""))
                self._journal.note(*wanted, Entry(entry.at, entry.method, entry.status, entry.seconds, message=text))
            await send(message)

        await self._app(scope, receive, listen)


def _wanted(scope: Scope) -> tuple[str, str] | None:
    """The registry and the path of what is asked for; None for everything else."""
    path: str = scope.get("path", "")
    if scope["type"] != "http" or not path.startswith("/v2/") or not ("/manifests/" in path or "/blobs/" in path):
        return None
    path = path.removeprefix("/v2/")
    registry = parse_qs(scope["query_string"].decode("latin-1")).get("ns", [""])[-1]
    if not registry:
        registry, _, path = path.partition("/")
    return None if len(registry) + len(path) > PATH_CHARACTERS_MAX else (registry.lower(), path)


def _message(body: bytes) -> str:
    """The text of an OCI error body, else the beginning of the body."""
    try:
        return str(orjson.loads(body)["errors"][0]["message"])[:MESSAGE_CHARACTERS_MAX]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body[:MESSAGE_CHARACTERS_MAX].decode("utf-8", "replace")
