"""What must hold whatever a client sends: the law that Hypothesis and atheris try to break.

A request is given to the HTTP edge as uvicorn would give it, in front of a source with one object. What reaches the
source is valid, and what goes back is an answer of the specification: the right bytes, or a refusal in OCI's words.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest, Kind, Tag
from mirror.registry import create_registry
from mirror.source import Content, MemoryBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette
    from starlette.types import Message

    from mirror.source import Request

DATA: Final = bytes(range(256)) * 4
DIGEST: Final = Digest.of(DATA)

STATUSES: Final = frozenset({200, 206, 304, 400, 404, 405, 416})
ACCEPT_CHARACTERS: Final = re.compile(r"[\x09\x20-\x7e\x80-\xff]*")


class Checked:
    """A source that has one object under every name, and takes nothing but valid requests."""

    async def resolve(self, request: Request) -> Descriptor:
        """Describe the object."""
        self._check(request)
        return Descriptor(OCTET_STREAM, self._digest(request), len(DATA))

    async def open(self, request: Request) -> Content:
        """Open the object, or the part that is asked for."""
        self._check(request)
        part = request.range.resolve(len(DATA)) if request.range else range(len(DATA))
        descriptor = Descriptor(OCTET_STREAM, self._digest(request), len(DATA))
        return Content(descriptor, part, MemoryBody(DATA[part.start : part.stop]), "store")

    def _digest(self, request: Request) -> Digest:
        return DIGEST if isinstance(request.reference, Tag) else request.digest

    def _check(self, request: Request) -> None:
        name, registry, reference = request.repository.name, request.repository.registry, str(request.reference)
        assert re.fullmatch(r"[a-z0-9]+([./_-]+[a-z0-9]+)*", name)
        assert not {"", ".", ".."} & set(name.split("/"))
        assert len(name) <= 255
        assert re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]+)?", registry)
        assert re.fullmatch(r"\w[\w.-]{0,127}|sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", reference, re.ASCII)
        assert request.kind is Kind.MANIFEST or isinstance(request.reference, Digest)
        assert ACCEPT_CHARACTERS.fullmatch(request.accept)
        if request.range is not None:
            positions = request.range.resolve(len(DATA))
            assert positions.start >= 0
            assert positions.stop <= len(DATA)


def hold(method: str, raw_path: bytes, query: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Give the edge a request; returns the answer's status, having checked it against the law."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "root_path": "",
        "query_string": query,
        "headers": [(name.lower(), value) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 29990),
        "extensions": {},
    }
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody goes away")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(_edge()(scope, receive, send))
    status = int(sent[0]["status"])
    answer = {name.lower(): value for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    _check_answer(method, status, answer, body)
    return status


@cache
def _edge() -> Starlette:
    return create_registry(Checked(), Metrics().face("client"))


def _check_answer(method: str, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    assert status in STATUSES
    for name, value in headers.items():
        assert not re.search(rb"[\x00-\x1f\x7f]", name + value), "an answer that can be split"
    if status == 206:
        match = re.fullmatch(rb"bytes (\d+)-(\d+)/(\d+)", headers[b"content-range"])
        assert match is not None
        first, last, size = map(int, match.groups())
        assert size == len(DATA)
        assert body == DATA[first : last + 1]
    elif status == 200 and b"docker-content-digest" in headers and method == "GET":
        assert body == DATA
    elif status >= 400 and method != "HEAD":
        assert json.loads(body)["errors"][0]["code"]
    assert b"content-encoding" not in headers
