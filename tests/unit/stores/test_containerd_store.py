"""The containerd store on a directory of content, with no containerd behind its socket."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from mirror.errors import CorruptError, NotFoundError, UnavailableError
from mirror.oci import (
    MANIFEST_BYTES_MAX,
    OCI_MANIFEST,
    OCTET_STREAM,
    ByteRange,
    Descriptor,
    Digest,
    Kind,
    Reference,
    Repository,
    Tag,
)
from mirror.source import Request, read_all
from mirror.stores import ContentAdded
from mirror.stores.containerd import ContainerdSettings, ContainerdStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MANIFEST = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()


def add(root: Path, data: bytes) -> Digest:
    """Put an object into a content directory."""
    digest = Digest.of(data)
    (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / "sha256" / digest.hex).write_bytes(data)
    return digest


def wanted(kind: Kind, reference: Reference, part: ByteRange | None = None) -> Request:
    """A request for an object."""
    return Request(Repository("docker.io", "library/nginx"), kind, reference, part)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ContainerdStore]:
    """A store that is watched; its containerd is away."""
    (tmp_path / "blobs").mkdir()
    store = ContainerdStore(ContainerdSettings(tmp_path / "no.sock", content_dir=tmp_path))
    async with aclosing(store.watch()) as events:
        await anext(events)
        yield store


async def test_a_blob_is_served_whole_and_in_part(store: ContainerdStore, tmp_path: Path) -> None:
    digest = add(tmp_path, b"0123456789")
    descriptor = Descriptor(OCTET_STREAM, digest, 10)
    assert await store.resolve(wanted(Kind.BLOB, digest)) == descriptor
    whole = await store.open(wanted(Kind.BLOB, digest))
    assert (whole.descriptor, whole.positions, whole.origin) == (descriptor, range(10), "store")
    assert await read_all(whole.body, 100) == b"0123456789"
    part = await store.open(wanted(Kind.BLOB, digest, ByteRange(7)))
    assert part.positions == range(7, 10)
    assert await read_all(part.body, 100) == b"789"


async def test_a_manifest_has_its_media_type_and_can_be_had_in_part(store: ContainerdStore, tmp_path: Path) -> None:
    digest = add(tmp_path, MANIFEST)
    request = wanted(Kind.MANIFEST, digest, ByteRange(2))
    assert await store.resolve(request) == Descriptor(OCI_MANIFEST, digest, len(MANIFEST))
    content = await store.open(request)
    assert content.positions == range(2, len(MANIFEST))
    assert await read_all(content.body, 1000) == MANIFEST[2:]


async def test_a_range_outside_the_object_has_no_positions(store: ContainerdStore, tmp_path: Path) -> None:
    for kind, data in ((Kind.BLOB, b"0123456789"), (Kind.MANIFEST, MANIFEST)):
        content = await store.open(wanted(kind, add(tmp_path, data), ByteRange(5000)))
        assert content.positions is not None
        assert len(content.positions) == 0
        await content.body.aclose()


@pytest.mark.parametrize(
    "data",
    [b"\x1f\x8b not JSON", b"[]", b"{}", b"[" * 1_000_000, b'{"a":' * 100_000, b"9" * 100_000],
    ids=["binary", "list", "object", "deep list", "deep object", "long number"],
)
async def test_a_blob_that_is_no_manifest_is_not_found_as_one(
    store: ContainerdStore, tmp_path: Path, data: bytes
) -> None:
    digest = add(tmp_path, data)
    with pytest.raises(NotFoundError):
        await store.open(wanted(Kind.MANIFEST, digest))
    with pytest.raises(NotFoundError):
        await store.resolve(wanted(Kind.MANIFEST, digest))


async def test_a_manifest_larger_than_the_limit_is_not_found(store: ContainerdStore, tmp_path: Path) -> None:
    largest = add(tmp_path, MANIFEST.ljust(MANIFEST_BYTES_MAX))
    too_large = add(tmp_path, MANIFEST.ljust(MANIFEST_BYTES_MAX + 1))
    assert (await store.resolve(wanted(Kind.MANIFEST, largest))).size == MANIFEST_BYTES_MAX
    with pytest.raises(NotFoundError):
        await store.open(wanted(Kind.MANIFEST, too_large))


async def test_a_manifest_that_the_disk_spoiled_is_not_served(store: ContainerdStore, tmp_path: Path) -> None:
    digest = add(tmp_path, MANIFEST)
    (tmp_path / "blobs" / "sha256" / digest.hex).write_bytes(b"")
    with pytest.raises(CorruptError, match=digest.hex):
        await store.open(wanted(Kind.MANIFEST, digest))


async def test_what_is_not_there_is_not_found(store: ContainerdStore) -> None:
    for reference in (Digest.of(b"absent"), Tag("absent")):
        with pytest.raises(NotFoundError):
            await store.open(wanted(Kind.MANIFEST, reference))
    with pytest.raises(NotFoundError):
        await store.resolve(wanted(Kind.BLOB, Digest.of(b"absent")))


async def test_content_is_told_while_containerd_is_away_and_that_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.stores.containerd.client.RETRY_S_MAX", 0.02)
    first = add(tmp_path, b"first")
    store = ContainerdStore(ContainerdSettings(tmp_path / "no.sock", content_dir=tmp_path))
    with caplog.at_level(logging.INFO):
        async with aclosing(store.watch()) as events:
            assert await anext(events) == [ContentAdded(first)]
            (tmp_path / "new").write_bytes(b"second")
            (tmp_path / "new").rename(tmp_path / "blobs" / "sha256" / Digest.of(b"second").hex)
            assert await anext(events) == [ContentAdded(Digest.of(b"second"))]
            with pytest.raises(TimeoutError):  # a dozen more tries to reach containerd
                await asyncio.wait_for(anext(events), 0.3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no.sock" in caplog.text


async def test_before_the_content_is_found_the_store_is_unavailable(tmp_path: Path) -> None:
    store = ContainerdStore(ContainerdSettings(tmp_path / "no.sock"))
    with pytest.raises(UnavailableError):
        await store.open(wanted(Kind.BLOB, Digest.of(b"a")))


async def test_nothing_is_ingested(store: ContainerdStore) -> None:
    assert await store.ingest(wanted(Kind.BLOB, Digest.of(b"a")), 1) is None
