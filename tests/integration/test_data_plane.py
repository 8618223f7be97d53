"""The data plane in a process of its own, under clients that behave badly for a long time."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.oci import Digest
from tests.serving import HOST, free_port

ROOT = Path(__file__).parent.parent.parent
MEGABYTE = 10**6
DATA = random.Random(2).randbytes(12 * MEGABYTE)
DIGEST = Digest.of(DATA)
REQUEST = f"GET /v2/lib/app/blobs/{DIGEST}?ns=registry.test HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
AT_ONCE = 50
START_S = 20.0
SETTLE_S = 10.0
READER_BYTES_MAX = {"store": 50_000, "relay": 250_000}
"""What a client that reads next to nothing may cost. (Relays have only so many pipes; the others read their bytes.)"""


@dataclass
class Process:
    """A client face as a process, seen from outside."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 (a count)

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))  # noqa: PTH208 (a count)

    @property
    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def await_listening(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((HOST, port), 1).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "the process did not start"
            time.sleep(0.05)
        else:
            return


@contextmanager
def face(layout: Path, *peers: str) -> Iterator[Process]:
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmark.face", str(port), str(layout), *peers]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        await_listening(port)
        yield Process("relay" if peers else "store", port, process)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["store", "relay"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    """A node that has the blob, or one that relays it from a node that has it."""
    directory = tmp_path / "blobs" / "sha256"
    directory.mkdir(parents=True)
    (directory / DIGEST.hex).write_bytes(DATA)
    with face(tmp_path) as holder:
        if request.param == "store":
            yield holder
            return
        with face(tmp_path, f"http://{HOST}:{holder.port}") as relay:
            yield relay


@asynccontextmanager
async def connection(mirror: Process) -> AsyncGenerator[socket.socket]:
    """A connection with a small receive buffer and a request for the blob on its way."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        await loop.sock_connect(client, (HOST, mirror.port))
        await loop.sock_sendall(client, REQUEST)
        yield client


async def abort(mirror: Process, number: int) -> None:
    """Ask, take some bytes or none, and go: with FIN, or with RST."""
    async with connection(mirror) as client:
        if number % 3:
            await asyncio.get_running_loop().sock_recv(client, 1000 * (number % 7) + 1)
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def abort_many(mirror: Process, count: int) -> None:
    for start in range(0, count, AT_ONCE):
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for number in range(start, min(start + AT_ONCE, count)):
                tasks.create_task(abort(mirror, number))


async def whole(mirror: Process) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, mirror.port)
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    data = await reader.readexactly(len(DATA))
    writer.close()
    return data


@pytest.mark.timeout(180)
async def test_ten_thousand_aborted_requests_leave_nothing_behind(mirror: Process) -> None:
    await abort_many(mirror, 500)
    await asyncio.sleep(1)
    descriptors, threads, resident = mirror.descriptors, mirror.threads, mirror.resident_bytes
    await abort_many(mirror, 9_500)
    async with asyncio.timeout(SETTLE_S):
        while mirror.descriptors > descriptors:
            await asyncio.sleep(0.1)
    assert mirror.threads <= threads + 8, "a pool may still have been growing"
    assert mirror.resident_bytes < resident + 10 * MEGABYTE
    assert DIGEST.matches(await whole(mirror))


@pytest.mark.timeout(120)
async def test_a_thousand_slow_readers_cost_no_threads_and_little_memory(mirror: Process) -> None:
    assert DIGEST.matches(await whole(mirror))
    threads, resident = mirror.threads, mirror.resident_bytes
    readers = [connection(mirror) for _ in range(1000)]
    loop = asyncio.get_running_loop()
    try:
        for reader in readers:
            client = await reader.__aenter__()
            await loop.sock_recv(client, 1000)
        assert mirror.threads <= threads + 8
        assert mirror.resident_bytes < resident + len(readers) * READER_BYTES_MAX[mirror.kind]
        assert DIGEST.matches(await whole(mirror))
    finally:
        for reader in readers:
            await reader.__aexit__(None, None, None)
