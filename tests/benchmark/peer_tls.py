"""What TLS between peers costs: a blob from one agent's peer face to another's client, with and without.

    python -m tests.benchmark.peer_tls [--rounds N]

Both sides run in a process of their own, the serving one is asked in turns in the clear and under TLS. Printed are
throughput and the CPU of each side per byte (medians), and the ratios: what is paid for encryption. Both times the
bytes are read here; a relay in the clear does not even do that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Final

import trustme

from mirror.http_server import HttpServer
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest
from mirror.peer_client import PeerClient
from mirror.peer_tls import PeerTls, TlsFiles
from mirror.pieces import FilePiece, SocketPiece, read_piece
from mirror.registry import create_registry
from mirror.source import Content, FileBody, Request

HOST: Final = "127.0.0.1"
PORTS: Final = {"http": 9011, "https": 9012}
BLOB_BYTES: Final = 1_000_000_000
DIGEST: Final = Digest.of(b"a blob of zeros")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Zeros:
    """A source with one blob, which nobody verifies."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def resolve(self, _: Request) -> Descriptor:
        """Describe it."""
        return Descriptor(OCTET_STREAM, DIGEST, BLOB_BYTES)

    async def open(self, request: Request) -> Content:
        """Open it."""
        body = FileBody(os.open(self._file, os.O_RDONLY), range(BLOB_BYTES))
        return Content(await self.resolve(request), range(BLOB_BYTES), body, "store")


async def serve(directory: Path) -> None:
    """The peer that gives, on two ports."""
    app = create_registry(Zeros(directory / "blob"), Metrics().face("peer"))
    tls = PeerTls(files(directory)).server_context()
    servers = [HttpServer(app, HOST, PORTS["http"], 1), HttpServer(app, HOST, PORTS["https"], 1, tls=tls)]
    for server in servers:
        server.bind()
    await asyncio.gather(*(server.serve() for server in servers))


def files(directory: Path) -> TlsFiles:
    """What both sides use."""
    return TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")


async def fetch(client: PeerClient, scheme: str) -> None:
    """The peer that takes: what comes is moved to nowhere, as a relay moves it to the runtime."""
    path = f"/v2/lib/app/blobs/{DIGEST}?ns=registry.test"
    answer = await client.ask(f"{scheme}://{HOST}:{PORTS[scheme]}", "GET", path, {})
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            if isinstance(piece, SocketPiece | FilePiece):
                async with aclosing(read_piece(piece)) as chunks:
                    async for _ in chunks:
                        pass
    await answer.aclose()


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def measure(directory: Path, server: int, rounds: int) -> None:
    """Ask in turns, and print."""
    client = PeerClient(PeerTls(files(directory)))
    figures: dict[str, list[tuple[float, float, float]]] = {scheme: [] for scheme in PORTS}
    for _ in range(rounds):
        for scheme in PORTS:
            began, given, taken = time.monotonic(), cpu_s(server), time.process_time()
            await fetch(client, scheme)
            times = (time.monotonic() - began, cpu_s(server) - given, time.process_time() - taken)
            figures[scheme].append(times)
    await client.aclose()
    medians = {
        scheme: [statistics.median(column) for column in zip(*rows, strict=True)] for scheme, rows in figures.items()
    }
    for scheme, (took_s, giving_s, taking_s) in medians.items():
        rate = BLOB_BYTES / took_s / 1e9
        print(f"{scheme:6} {rate:6.2f} GB/s  {giving_s:6.2f} and {taking_s:6.2f} CPU-s/GB (giving, taking)")
    ratios = [after / before for before, after in zip(medians["http"], medians["https"], strict=True)]
    print(f"TLS takes {ratios[0]:.1f} times as long, {ratios[1]:.1f} and {ratios[2]:.1f} times the CPU")


def main(rounds: int) -> None:
    """Make certificates and a blob, start the server, measure."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = trustme.CA()
        issued, places = authority.issue_cert("peer"), files(directory)
        issued.private_key_pem.write_to_path(str(places.key))
        issued.cert_chain_pems[0].write_to_path(str(places.certificate))
        authority.cert_pem.write_to_path(str(places.authority))
        with (directory / "blob").open("wb") as blob:
            for _ in range(BLOB_BYTES // 1_000_000):
                blob.write(bytes(1_000_000))
        server = subprocess.Popen([sys.executable, "-m", "tests.benchmark.peer_tls", "--serve", directory])
        try:
            time.sleep(2)
            asyncio.run(measure(directory, server.pid, rounds))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
    else:
        main(options.rounds)
