"""Real HTTP servers in the test's own process: the product's, and one that misbehaves as told."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from multidict import CIMultiDict
from starlette.types import ASGIApp, Receive, Scope, Send

from mirror.http_server import HttpServer
from mirror.request_limits import ConnectionObserver

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def pouring(ended: asyncio.Event) -> ASGIApp:
    """An app that gives 100 MB in chunks, more than all buffers on the way hold, and tells when it has."""

    async def pour(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100000000")]})
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
        ended.set()

    return pour


@asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    grace_s: float = 1,
    observer: ConnectionObserver | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[str]:
    """Serve an app as an agent does; gives its URL."""
    server = HttpServer(app, HOST, free_port(), grace_s, observer=observer, tls=tls)
    server.bind()
    task = asyncio.create_task(server.serve())
    try:
        yield f"http://{HOST}:{server.port}"
    finally:
        server.stop()
        await task


@dataclass
class Heard:
    """A request as a `scripted` server heard it."""

    line: str
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


Script = Callable[[Heard, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Scripted:
    """A server that hears requests and answers each with the script's raw bytes, one connection per request."""

    url: str
    heard: list[Heard]


@asynccontextmanager
async def scripted(script: Script) -> AsyncGenerator[Scripted]:
    """Serve a script: what no real registry can be made to answer."""
    heard: list[Heard] = []
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            lines = (line.partition(": ") for line in head[1:] if line)
            request = Heard(head[0], CIMultiDict((name, value) for name, _, value in lines))
            heard.append(request)
            await script(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    port = free_port()
    server = await asyncio.start_server(answer, HOST, port)
    try:
        yield Scripted(f"http://{HOST}:{port}", heard)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(status: str, headers: Sequence[str] = (), body: bytes = b"") -> Script:
    """A script that always answers the same."""

    async def script(_: Heard, writer: asyncio.StreamWriter) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""])
        writer.write(head.encode("latin-1") + body)
        await writer.drain()

    return script
