"""A server of an image's objects that goes wrong as it is told: in the place of a registry, or of a peer.

    python -m tests.integration.bad_server ADDRESS REGISTRY-URL DIRECTORY [SEED]

A program for a machine of the lab (`tests.integration.bad_machine`). It looks at each request what it is to do, in a
file of the directory (`Order`), and notes in another what it was asked for: so both outlive its death. With a seed it
is a member of the cluster as well, with the secret that is there, and claims what the order says.

What it is not told to spoil it answers well: an object by digest from the image's own layout, everything else as the
registry behind it does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from gossip import ClusterSecret, Config
from gossip import Node as GossipNode
from mirror.cluster import PEER_PORT
from mirror.elements import content_key, group_of
from mirror.oci import Digest

PORT = 5000
NAME = "bad"
"""Of the member."""
CHUNK_BYTES = 64 * 1024
POLL_S = 0.05
TOGETHER_S = 1.0
"""How long a death waits for the other objects to have come as far."""
PAUSE_S = 0.3
"""Before something breaks off, so that who asked beside the runtime is cut off with it."""
Fault = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Order:
    """Do the fault of this name to every GET for the objects `spoiled`, whose bytes are in `layout`; claim others."""

    fault: str = ""
    layout: str = ""
    spoiled: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Order:
        """The present one."""
        return cls(**json.loads((directory / "order").read_text()))

    def write(self, directory: Path) -> None:
        """From now on do this."""
        new = directory / "order.new"
        new.write_text(json.dumps(asdict(self)))
        new.replace(directory / "order")


def asked_file(directory: Path) -> Path:
    """Where a server notes what it was asked for of what it is to spoil: a digest a line."""
    return directory / "asked"


@dataclass
class Asked:
    """A GET for an object whose bytes are known; `start` is where the wanted range begins."""

    server: BadServer
    order: Order
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

    def until(self, fraction: float) -> bytes:
        """The right answer until so much of the object."""
        return self.head() + self.data[self.start : max(self.start, int(len(self.data) * fraction))]


@dataclass
class BadServer:
    """What runs here. `due` are the objects that were given as far as this process is to live for them."""

    address: str
    registry_url: str
    directory: Path
    due: set[str] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, of one request."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        match = re.search(r"/(sha256):([0-9a-f]{64})", path)
        digest = Digest(match[1], match[2]) if match else None
        order = Order.read(self.directory)
        if digest is None or str(digest) not in order.spoiled or method != "GET":
            await self._pass_on(method, path, headers, writer)
            return
        data = Path(order.layout, "blobs", digest.algorithm, digest.hex).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-\d*", headers.get("range", ""))
        with asked_file(self.directory).open("a") as asked:
            asked.write(f"{digest}\n")
        start = int(wanted[1]) if wanted else 0
        await FAULTS[order.fault](Asked(self, order, path, digest, data, start, wanted is not None), writer)

    async def _pass_on(self, method: str, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        wanted = {name: value for name, value in headers.items() if name in {"accept", "range", "authorization"}}
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            async with session.request(
                method, self.registry_url + path, headers=wanted, allow_redirects=False
            ) as response:
                body = await response.read()
                lines = [f"HTTP/1.1 {response.status} {response.reason}", "Connection: close"]
                passed = {"content-type", "content-range", "docker-content-digest", "content-length", "location"}
                lines += [f"{name}: {value}" for name, value in response.headers.items() if name.lower() in passed]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """All of it, at the client's pace."""
    for position in range(0, len(data), CHUNK_BYTES):
        writer.write(data[position : position + CHUNK_BYTES])
        await writer.drain()


def killed_at(fraction: float) -> Fault:
    """A process that is killed when it has sent so much of each object."""

    async def fault(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await send(writer, asked.until(fraction))
        due = asked.server.due
        due.add(str(asked.digest))
        with suppress(TimeoutError):
            async with asyncio.timeout(TOGETHER_S):
                while not due.issuperset(asked.order.spoiled):
                    await asyncio.sleep(0.01)
        await asyncio.sleep(PAUSE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    return fault


async def reset(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A connection that is reset half way: closing one that is not to linger does so."""
    await send(writer, asked.until(0.5))
    await asyncio.sleep(PAUSE_S)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def stalled(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server that says no more half way."""
    await send(writer, asked.until(0.5))
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
    await asyncio.sleep(PAUSE_S)


async def too_short(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A Content-Length that says less than there is."""
    await send(writer, asked.head(status="200 OK", length=len(asked.data) - 1000) + asked.data)


async def too_long(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A Content-Length that says more than there is."""
    await send(writer, asked.head(status="200 OK", length=len(asked.data) + 1000) + asked.data)
    await asyncio.sleep(PAUSE_S)


async def whole_for_range(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server that breaks off, and then ignores that only the rest is wanted."""
    if asked.ranged:
        await send(writer, asked.head(status="200 OK", length=len(asked.data)) + asked.data)
    else:
        await send(writer, asked.until(0.5))
        await asyncio.sleep(PAUSE_S)


async def error_500(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """An internal error."""
    await send(writer, b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


async def redirect_loop(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A redirect to itself."""
    where = f"http://{asked.server.address}:{PORT}{asked.path}"
    await send(writer, f"HTTP/1.1 307 There\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())


async def redirect_away(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A redirect to where the object is, as registries on object storage do."""
    where = asked.server.registry_url + asked.path
    await send(writer, f"HTTP/1.1 307 There\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())


async def slow_head(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server that does not get beyond its first words."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.sleep(60)


async def flipped(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A server with one wrong byte in the middle."""
    data = bytearray(asked.data)
    data[len(data) // 2] ^= 1
    await send(writer, asked.head() + bytes(data[asked.start :]))


FAULTS: dict[str, Fault] = {
    "killed at 10 %": killed_at(0.1),
    "killed at 50 %": killed_at(0.5),
    "killed at 99 %": killed_at(0.99),
    "reset": reset,
    "stalled": stalled,
    "throttled to a hundredth": throttled,
    "truncated": truncated,
    "Content-Length too long": too_long,
    "Content-Length too short": too_short,
    "200 to a Range request": whole_for_range,
    "500": error_500,
    "redirects to itself": redirect_loop,
    "redirects elsewhere": redirect_away,
    "slow headers": slow_head,
    "flipped byte": flipped,
}


async def claim(member: GossipNode, directory: Path) -> None:
    """Say to the cluster that this is held here which the order claims, and no more when it does no longer."""
    told: set[str] = set()
    while True:
        claimed = set(Order.read(directory).claimed)
        for digest in sorted(claimed - told):
            member.add(content_key(Digest.parse(digest)))
        for digest in sorted(told - claimed):
            member.remove(content_key(Digest.parse(digest)))
        told = claimed
        await asyncio.sleep(POLL_S)


async def main(address: str, registry_url: str, directory: Path, *seeds: str) -> None:
    """Serve without end; with a seed, as a member that has found others."""
    server = BadServer(address, registry_url, directory)
    if not seeds:
        await (await asyncio.start_server(server.serve, address, PORT)).serve_forever()
    config = Config(
        name=NAME,
        bind_address=address,
        advertise_address=address,
        seeds=seeds,
        secret=ClusterSecret.from_file(directory / "secret"),
        attributes={PEER_PORT: str(PORT)},
        epoch_file=directory / "epoch",
    )
    async with GossipNode(config, group_of=group_of) as member:
        while not member.members():
            await asyncio.sleep(POLL_S)
        async with await asyncio.start_server(server.serve, address, PORT):
            await claim(member, directory)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
