"""Under TLS bytes have to pass through the process: the same answers, in plain chunks."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from mirror.extensions import SPLICE, ZERO_COPY_SEND
from mirror.metrics import Metrics
from mirror.oci import Digest
from mirror.registry import create_registry
from mirror.stores.oci_layout import OciLayout
from mirror.zero_copy import ZeroCopy
from tests.serving import HOST, free_port

DATA = random.Random(5).randbytes(5_000_001)
DIGEST = Digest.of(DATA)


def overheard(app: ASGIApp, offered: list[set[str]], sent: list[str]) -> ASGIApp:
    """The app, and what the server offers it, and which messages it sends."""

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: dict[str, object]) -> None:
            sent.append(str(message["type"]))
            await send(message)

        offered.append(set(scope.get("extensions", {})))
        await app(scope, receive, send_on)  # type: ignore[arg-type]

    return listening


@pytest.mark.parametrize("tls", [True, False])
async def test_bytes_are_right_with_zero_copy_or_where_it_cannot_be(tmp_path: Path, *, tls: bool) -> None:
    blobs = tmp_path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / DIGEST.hex).write_bytes(DATA)
    offered: list[set[str]] = []
    sent: list[str] = []
    app = overheard(create_registry(OciLayout(tmp_path, 10**9), Metrics().face("client")), offered, sent)
    authority, context = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(context)
    with authority.issue_cert(HOST).private_key_and_cert_chain_pem.tempfile() as certificate:
        shared, port = ZeroCopy(), free_port()
        protocol: type[asyncio.Protocol] = shared.protocol  # type: ignore[assignment]
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=HOST,
                port=port,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                ssl_certfile=certificate if tls else None,
            )
        )
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(20):
                while not server.started:
                    await asyncio.sleep(0.01)
            url = f"{'https' if tls else 'http'}://{HOST}:{port}/v2/lib/app/blobs/{DIGEST}?ns=registry.test"
            async with aiohttp.ClientSession() as session:
                for headers, expected in (({}, DATA), ({"Range": "bytes=7-4000007"}, DATA[7:4000008])):
                    async with session.get(url, headers=headers, ssl=context) as response:
                        assert await response.read() == expected
                async with session.head(url, ssl=context) as response:
                    assert response.headers["Content-Length"] == str(len(DATA))
        finally:
            server.should_exit = True
            await serving
            shared.close()
    assert offered == [set() if tls else {ZERO_COPY_SEND, SPLICE}] * 3
    assert (ZERO_COPY_SEND in sent) is not tls
    assert sent.count("http.response.start") == 3
