"""A server of an image's objects that goes wrong as it is told: in the place of a registry, or of a peer.

What it is not told to spoil it answers well: an object by digest from the image's own layout, everything else as the
registry behind it does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp

from mirror.oci import Digest
from tests.lab import Image, Registry

CHUNK_BYTES = 64 * 1024
Fault = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Asked:
    """A GET for an object whose bytes are known; `start` is where the wanted range begins."""

    server: BadServer
    path: str
    digest: Digest
    data: bytes
    start: int
    ranged: bool

    def head(self, *, status: str = "", length: int | None = None) -> bytes:
        """The head of the right answer, or of one with another status or length."""
        size = len(self.data)
        lines = [f"HTTP/1.1 {status or ('206 Partial Content' if self.ranged else '200 OK')}"]
        if self.ranged and not status:
            lines.append(f"Content-Range: bytes {self.start}-{size - 1}/{size}")
        lines += [f"Content-Length: {size - self.start if length is None else length}", "Connection: close"]
        lines += ["Content-Type: application/octet-stream", f"Docker-Content-Digest: {self.digest}"]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class BadServer:
    """Does `fault` to every GET for the objects in `spoiled`; `asked` is what it was asked for of these."""

    host: str
    registry: Registry
    port: int = 0
    fault: Fault | None = None
    spoiled: set[Digest] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    dead: bool = False
    _layouts: list[Image] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{self.host}:{self.port}"

    def spoil(self, image: Image, fault: Fault, *digests: Digest) -> None:
        """From now on do this to these objects of the image (by default its layers), and to no others."""
        self._layouts = [image]
        self.spoiled = set(digests or image.layers())
        self.fault = fault
        self.asked = []
        self.dead = False

    def heal(self) -> None:
        """From now on answer well."""
        self.spoiled = set()
        self.dead = False

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        match = re.search(r"/(sha256):([0-9a-f]{64})", path)
        digest = Digest(match[1], match[2]) if match else None
        if self.dead:
            writer.transport.abort()
        elif digest in self.spoiled and method == "GET" and self.fault is not None:
            assert digest is not None
            data = (self._layouts[0].layout / "blobs" / digest.algorithm / digest.hex).read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-\d*", headers.get("range", ""))
            asked = Asked(self, path, digest, data, int(wanted[1]) if wanted else 0, wanted is not None)
            self.asked.append(asked)
            await self.fault(asked, writer)
        else:
            await self._pass_on(method, path, headers, writer)

    async def _pass_on(self, method: str, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        wanted = {name: value for name, value in headers.items() if name in {"accept", "range", "authorization"}}
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            async with session.request(
                method, self.registry.url + path, headers=wanted, allow_redirects=False
            ) as response:
                body = await response.read()
                lines = [f"HTTP/1.1 {response.status} {response.reason}", "Connection: close"]
                passed = {"content-type", "content-range", "docker-content-digest", "content-length", "location"}
                lines += [f"{name}: {value}" for name, value in response.headers.items() if name.lower() in passed]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()


@asynccontextmanager
async def bad_server(host: str, registry: Registry) -> AsyncGenerator[BadServer]:
    """A server at a free port of `host`, well-behaved until told otherwise."""
    server = BadServer(host, registry)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await server.answer(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async with AsyncExitStack() as stack:
        listening = await asyncio.start_server(serve, host, 0)
        server.port = listening.sockets[0].getsockname()[1]
        stack.callback(listening.close)
        yield server
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def well(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The right answer."""
    await send(writer, asked.head() + asked.data[asked.start :])


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """All of it, at the client's pace."""
    for position in range(0, len(data), CHUNK_BYTES):
        writer.write(data[position : position + CHUNK_BYTES])
        await writer.drain()


def killed_at(fraction: float) -> Fault:
    """A process that is killed when it has sent so much: nobody answers there any more."""

    async def fault(asked: Asked, writer: asyncio.StreamWriter) -> None:
        stop = int(len(asked.data) * fraction)
        await send(writer, asked.head() + asked.data[asked.start : stop])
        asked.server.dead = True

    return fault


async def reset(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A connection that is reset half way."""
    await send(writer, asked.head() + asked.data[asked.start : max(asked.start, len(asked.data) // 2)])
    await asyncio.sleep(0.1)
    writer.transport.abort()


async def stalled(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server that says no more half way."""
    await send(writer, asked.head() + asked.data[asked.start : max(asked.start, len(asked.data) // 2)])
    await asyncio.sleep(60)


async def throttled(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server that gives a hundredth of what the network could."""
    writer.write(asked.head())
    for position in range(asked.start, len(asked.data), 10_000):
        await send(writer, asked.data[position : position + 10_000])
        await asyncio.sleep(0.1)


async def truncated(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A file that lost its end, of which the answer says it is whole."""
    await send(writer, asked.head() + asked.data[asked.start : -1000])


async def too_short(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A Content-Length that says less than there is."""
    await send(writer, asked.head(status="200 OK", length=len(asked.data) - 1000) + asked.data)


async def too_long(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A Content-Length that says more than there is."""
    await send(writer, asked.head(status="200 OK", length=len(asked.data) + 1000) + asked.data)


async def whole_for_range(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server that breaks off, and then ignores that only the rest is wanted."""
    if asked.ranged:
        await send(writer, asked.head(status="200 OK", length=len(asked.data)) + asked.data)
    else:
        await send(writer, asked.head() + asked.data[: len(asked.data) // 2])


async def error_500(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """An internal error."""
    await send(writer, b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


async def redirect_loop(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A redirect to itself."""
    where = asked.server.url + asked.path
    await send(writer, f"HTTP/1.1 307 There\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())


async def redirect_away(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A redirect to where the object is, as registries on object storage do."""
    where = asked.server.registry.url + asked.path
    await send(writer, f"HTTP/1.1 307 There\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())


async def slow_head(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server that does not get beyond its first words."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.sleep(60)


def flipped(position: int) -> Fault:
    """A server with one wrong byte."""

    async def fault(asked: Asked, writer: asyncio.StreamWriter) -> None:
        data = bytearray(asked.data)
        data[position] ^= 1
        await send(writer, asked.head() + bytes(data[asked.start :]))

    return fault
