"""An app that does nothing but open a blob and send it, behind the product's server, for the benchmarks to measure.

    python -m tests.benchmark.bare_face PORT LAYOUT

No doors, limits of time, sources, checks, metrics or trail: what uvicorn, Starlette and the moving of the bytes cost.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvloop
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mirror.extensions import ZERO_COPY_SEND
from mirror.http_server import HttpServer


class Blobs:
    """An endpoint, as an ASGI app."""

    def __init__(self, layout: Path) -> None:
        self._blobs = layout / "blobs" / "sha256"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with (self._blobs / scope["path_params"]["reference"].removeprefix("sha256:")).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            headers = [(b"content-length", str(size).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": ZERO_COPY_SEND, "file": file, "offset": 0, "count": size})


async def main(port: int, layout: Path) -> None:
    """Serve until the process is ended."""
    app = Starlette(routes=[Route("/v2/{name:path}/blobs/{reference}", Blobs(layout), methods=["GET"])])
    server = HttpServer(app, "127.0.0.1", port, 1)
    server.bind()
    await server.serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
