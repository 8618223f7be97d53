"""The product's client face as a process of its own, for the benchmarks to measure.

    python -m tests.benchmark.face PORT LAYOUT [PEER_URL]

Answers from the image layout in the directory; with a peer's URL everything comes from that peer, and is not kept.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import uvloop
from starlette.middleware import Middleware

from mirror.choice import Holder, Standing
from mirror.doors import LoopbackDoor
from mirror.errors import NotFoundError
from mirror.http_server import HttpServer
from mirror.metrics import Metrics
from mirror.oci import Descriptor, Digest, Repository
from mirror.peer_mac import Target
from mirror.peers import Peers
from mirror.pull import Pull
from mirror.registry import create_registry
from mirror.single_flight import Transfers
from mirror.source import Content, Request
from mirror.spool import Spool
from mirror.stores import Ingest, Store, StoreEvent
from mirror.stores.oci_layout import OciLayout
from mirror.suspicion import Suspicion
from tests.herds import Listed, lone_herd, nobody_says


class Nothing:
    """A store that has nothing and keeps nothing, as containerd's keeps nothing; and an upstream that has nothing."""

    async def resolve(self, request: Request) -> Descriptor:
        """Raises `NotFoundError`."""
        raise NotFoundError("nothing here")

    async def open(self, request: Request) -> Content:
        """Raises `NotFoundError`."""
        raise NotFoundError("nothing here")

    async def watch(self) -> AsyncGenerator[list[StoreEvent], None]:
        """An empty listing."""
        yield []

    keeps = False
    answering_since = None

    async def ingest(self, request: Request, size: int) -> Ingest | None:
        """None."""
        return None

    async def origins(self, digest: Digest) -> frozenset[Repository]:
        """None."""
        return frozenset()

    async def referring(self, subject: Digest) -> dict[Digest, bytes]:
        return {}

    async def remember(self, request: Request, digest: Digest) -> None:
        """Nothing."""


async def main(port: int, layout: Path, *peers_urls: str) -> None:
    """Serve until the process is ended."""
    metrics = Metrics()
    face = metrics.face("client")
    index = Listed([Holder(Target(url, "1"), url, "") for url in peers_urls])
    store: Store = Nothing() if peers_urls else OciLayout(layout, 10**12)
    standing = Standing("", random.Random(), time.monotonic)
    async with Peers(index, None, standing) as peers:
        suspicion = Suspicion(time.monotonic, lambda: None, metrics.suspicion())
        transfers = Transfers(Spool(layout, 0), store, suspicion.blame)
        herd = lone_herd(peers, Nothing(), index)
        pull = Pull(store, peers, Nothing(), herd, transfers=transfers, suspicion=suspicion, relayed=nobody_says)
        app = create_registry(pull, face, [Middleware(LoopbackDoor, observer=face)])
        server = HttpServer(app, "127.0.0.1", port, 1)
        server.bind()
        gc.freeze()  # as an agent does
        await server.serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
