"""A client face on which every blob is a transfer, as a process of its own, for the benchmark to measure.

    python -m tests.benchmark.transfer_face PORT SPOOL_DIRECTORY SOURCE_URL peer|upstream

The source is asked as a peer is (the body stays in the socket) or as a registry is (through aiohttp). Transfers do not
linger, so that each download is fetched anew.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import uvloop

from mirror import transfer
from mirror.choice import Holder, Standing
from mirror.http_server import HttpServer
from mirror.metrics import Metrics
from mirror.peer_mac import Target
from mirror.peers import Peers
from mirror.registries import Endpoint, Registries
from mirror.registry import create_registry
from mirror.single_flight import Shared, Transfers
from mirror.source import Source
from mirror.spool import Spool
from mirror.upstream import Upstream
from tests.benchmark.face import Nothing
from tests.herds import Listed

SPOOL_BYTES_MAX = 10**10


async def main(port: int, directory: Path, url: str, role: str) -> None:
    """Serve until the process is ended."""
    transfer.LINGER_S = 0.0  # type: ignore[misc]
    metrics = Metrics()
    index = Listed([Holder(Target(url, "1"), url, "")])
    standing = Standing("", random.Random(), time.monotonic)
    async with (
        Peers(index, None, standing) as peers,
        Upstream(Registries({"registry.test": (Endpoint(url),)})) as upstream,
        Transfers(Spool(directory, SPOOL_BYTES_MAX), Nothing(), lambda _digest, _givers, _relays: None) as transfers,
    ):
        source: Source = peers if role == "peer" else upstream
        app = create_registry(Shared(transfers, source, source), metrics.face("client"))
        server = HttpServer(app, "127.0.0.1", port, 1)
        server.bind()
        await server.serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5]))
