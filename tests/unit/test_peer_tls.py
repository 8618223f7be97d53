"""TLS between peers: only for holders of a certificate of the cluster's authority, and renewed without a restart."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from mirror import floor, peer_connection, request_limits
from mirror.errors import UnavailableError
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest, Kind, Repository
from mirror.peer_client import PeerClient
from mirror.peer_tls import PeerTls, TlsFiles, TlsFilesError
from mirror.pieces import read_piece
from mirror.registry import create_registry
from mirror.resuming import resuming
from mirror.settings import SettingsError, load
from mirror.source import Content, FileBody, Request, read_all
from mirror.trail import Trail, What
from tests.serving import HOST, free_port, pouring, serving

DATA = random.Random(3).randbytes(3_000_000)
DIGEST = Digest.of(DATA)
PATH = f"/v2/lib/app/blobs/{DIGEST}?ns=registry.test"


class One:
    """A source with one object, in a file."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(DATA)
        self._file = file

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, DIGEST, len(DATA))

    async def open(self, request: Request) -> Content:
        part = request.range.resolve(len(DATA)) if request.range else range(len(DATA))
        body = FileBody(os.open(self._file, os.O_RDONLY), part)
        return Content(Descriptor(OCTET_STREAM, DIGEST, len(DATA)), part, body, "store")


def write(directory: Path, authority: trustme.CA, trusted: trustme.CA | None = None) -> TlsFiles:
    """Certificate, key and authority of a node, as something that renews them writes them."""
    directory.mkdir(exist_ok=True)
    files = TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
    issued = authority.issue_cert("node.example")
    issued.private_key_pem.write_to_path(str(files.key))
    files.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    (trusted or authority).cert_pem.write_to_path(str(files.authority))
    return files


@asynccontextmanager
async def pair(tmp_path: Path, ours: TlsFiles | None, theirs: TlsFiles) -> AsyncGenerator[tuple[PeerClient, str]]:
    """A client with some files, and the URL of a peer with others."""
    app = create_registry(One(tmp_path / "blob"), Metrics().face("peer"))
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(app, tls=PeerTls(theirs).server_context()))
        client = PeerClient(PeerTls(ours) if ours else None)
        stack.push_async_callback(client.aclose)
        yield client, url.replace("http", "https")


async def fetch(client: PeerClient, url: str, headers: dict[str, str] | None = None) -> bytes:
    answer = await client.ask(url, "GET", PATH, headers or {})
    data = b""
    try:
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                async with aclosing(read_piece(piece)) as chunks:
                    async for chunk in chunks:
                        data += chunk
    finally:
        await answer.aclose()
    return data


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def test_members_exchange_bytes_whole_and_in_part_on_one_connection(
    tmp_path: Path, authority: trustme.CA
) -> None:
    one, other = write(tmp_path / "a", authority), write(tmp_path / "b", authority)
    async with pair(tmp_path, one, other) as (client, url):
        assert await fetch(client, url) == DATA
        assert await fetch(client, url, {"Range": "bytes=1000000-1999999"}) == DATA[1_000_000:2_000_000]
        assert len(client._idle) == 1


async def test_strangers_get_nothing(tmp_path: Path, authority: trustme.CA) -> None:
    ours = write(tmp_path / "a", authority)
    stranger = write(tmp_path / "b", trustme.CA(), trusted=authority)
    impostor = write(tmp_path / "c", trustme.CA())
    for client_files, server_files in ((stranger, ours), (ours, stranger), (impostor, ours), (None, ours)):
        async with pair(tmp_path, client_files, server_files) as (client, url):
            with pytest.raises(UnavailableError):
                await fetch(client, url)
    async with pair(tmp_path, ours, ours) as (client, url):
        with pytest.raises(UnavailableError):
            await fetch(client, url.replace("https", "http"))


async def test_new_files_are_used_from_the_next_connection_on(tmp_path: Path, authority: trustme.CA) -> None:
    one, other = write(tmp_path / "a", authority), write(tmp_path / "b", authority)
    async with pair(tmp_path, one, other) as (client, url):
        assert await fetch(client, url) == DATA
        renewed = trustme.CA()
        write(tmp_path / "b", renewed)
        assert await fetch(client, url) == DATA, "a connection that stands goes on"
        await client.aclose()
        with pytest.raises(UnavailableError):
            await fetch(client, url)
        write(tmp_path / "a", renewed)
        assert await fetch(client, url) == DATA


async def test_files_that_are_of_no_use_leave_the_last_good_ones_in_use(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = write(tmp_path / "a", authority), write(tmp_path / "b", authority)
    async with pair(tmp_path, one, other) as (client, url):
        for file in (other.certificate, one.key):
            file.write_text("half")
        one.authority.unlink()
        assert await fetch(client, url) == DATA
    assert "cannot be used" in caplog.text
    with pytest.raises(TlsFilesError):
        PeerTls(one)


async def test_a_peer_that_waits_for_bytes_itself_is_not_left(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path / "a", authority)

    async def serve(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b"67890"})

    async with serving(serve, tls=PeerTls(files).server_context()) as url:
        client = PeerClient(PeerTls(files))
        await fetch(client, url.replace("http", "https"))  # makes the connection
        monkeypatch.setattr(peer_connection, "SILENCE_S", 0.2)
        assert await fetch(client, url.replace("http", "https")) == b"1234567890"
        await client.aclose()


async def test_a_peer_that_falls_silent_or_breaks_off_is_given_up(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_connection, "BODY_SILENCE_S", 0.3)
    files = write(tmp_path / "a", authority)

    async def serve(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        await asyncio.sleep(1)

    async with serving(serve, tls=PeerTls(files).server_context()) as url:
        client = PeerClient(PeerTls(files))
        with pytest.raises(UnavailableError, match="silent"):
            await fetch(client, url.replace("http", "https"))
        assert not client._idle
        await client.aclose()


async def test_a_peer_that_gives_too_little_is_left_in_the_middle_of_a_body(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "LOOK_S", 0.3)
    monkeypatch.setattr(floor, "SAMPLE_S", 0.05)
    files, given = write(tmp_path / "a", authority), 0

    async def serve(_: Scope, __: Receive, send: Send) -> None:
        nonlocal given
        length = str(len(DATA)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        while given < len(DATA):
            await send({"type": "http.response.body", "body": DATA[given : given + 1000], "more_body": True})
            given += 1000
            await asyncio.sleep(0.02)

    async with serving(serve, tls=PeerTls(files).server_context()) as url:
        client = PeerClient(PeerTls(files))
        answer = await client.ask(url.replace("http", "https"), "GET", PATH, {})
        descriptor = Descriptor(OCTET_STREAM, DIGEST, len(DATA))
        content = Content(descriptor, range(len(DATA)), answer, "peer", "slow")
        request = Request(Repository("registry.test", "lib/app"), Kind.BLOB, DIGEST, trail=Trail())
        async with asyncio.timeout(5):
            assert await read_all(resuming(One(tmp_path / "blob"), request, content).body, len(DATA)) == DATA
        assert 0 < given < len(DATA) / 10
        assert (What.STALLED, "peer", "slow") in request.trail.steps
        await client.aclose()


async def test_a_member_that_takes_nothing_is_given_up(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "STALL_S", 0.2)
    files = write(tmp_path / "a", authority)
    ended = asyncio.Event()

    async with serving(pouring(ended), tls=PeerTls(files).server_context()) as url:
        client = PeerClient(PeerTls(files))
        answer = await client.ask(url.replace("http", "https"), "GET", PATH, {})
        async with asyncio.timeout(5):
            await ended.wait()
        await answer.aclose()
        await client.aclose()


async def test_nobody_there_is_unavailable(tmp_path: Path, authority: trustme.CA) -> None:
    client = PeerClient(PeerTls(write(tmp_path / "a", authority)))
    with pytest.raises(UnavailableError):
        await fetch(client, f"https://{HOST}:{free_port()}")


def test_nothing_older_than_tls_1_3_is_spoken(tmp_path: Path, authority: trustme.CA) -> None:
    tls = PeerTls(write(tmp_path / "a", authority))
    for context in (tls.server_context(), tls.client_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED


def test_the_three_files_go_together() -> None:
    with pytest.raises(SettingsError, match="go together"):
        load({"peer_certificate": "/tls.crt"}, {}, None)
