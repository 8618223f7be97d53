"""A source that gives another size than the manifest does is left for the next one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest

from mirror import sizes
from mirror.errors import UnavailableError
from mirror.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    ByteRange,
    Descriptor,
    Digest,
    Kind,
    Repository,
)
from mirror.registries import Endpoint, Registries
from mirror.sizes import Sized
from mirror.source import Content, MemoryBody, Request, read_all
from mirror.upstream import Upstream
from tests.serving import answering, scripted

LAYER, CONFIG = Digest.of(b"layer"), Digest.of(b"config")
SIZE = 20_000_000
MANIFEST = json.dumps(
    {
        "mediaType": OCI_MANIFEST,
        "config": {"digest": str(CONFIG), "size": 7},
        "layers": [{"digest": str(LAYER), "size": SIZE}],
    }
).encode()
REPOSITORY, OTHER = Repository("registry.test", "lib/app"), Repository("registry.test", "lib/other")


def asked(digest: Digest, kind: Kind = Kind.BLOB, repository: Repository = REPOSITORY) -> Request:
    return Request(repository, kind, digest)


@dataclass
class Source:
    """Has a manifest, and notes of which size the objects have to be that it is asked for."""

    origin: str = "upstream"
    media_type: str = OCI_MANIFEST
    sizes: list[int | None] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, request.digest, None)

    async def open(self, request: Request) -> Content:
        self.sizes.append(request.size)
        data = MANIFEST if request.kind is Kind.MANIFEST else b"some bytes"
        positions = request.range.resolve(len(data)) if request.range else range(len(data))
        body = MemoryBody(data[positions.start : positions.stop])
        return Content(Descriptor(self.media_type, request.digest, len(data)), positions, body, self.origin)


def ignore(request: Request, digests: Iterable[Digest]) -> None:
    """What is asked for next is nobody's business here."""


async def test_what_a_manifest_lists_has_to_have_that_size_in_its_repository() -> None:
    source = Source()
    sized = Sized(source, ignore)
    await sized.open(asked(LAYER))
    manifest = await sized.open(asked(Digest.of(MANIFEST), Kind.MANIFEST))
    assert await read_all(manifest.body, len(MANIFEST)) == MANIFEST
    for request in (asked(LAYER), asked(CONFIG), asked(LAYER, repository=OTHER)):
        await sized.open(request)
    assert source.sizes == [None, None, SIZE, 7, None]


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST])
async def test_what_an_image_lists_is_expected_next(media_type: str) -> None:
    expected: list[tuple[Request, list[Digest]]] = []
    sized = Sized(Source(media_type=media_type), lambda request, digests: expected.append((request, list(digests))))
    request = asked(Digest.of(MANIFEST), Kind.MANIFEST)
    await sized.open(request)
    is_image = media_type in (OCI_MANIFEST, DOCKER_MANIFEST)
    assert expected == ([(replace(request, size=None), [CONFIG, LAYER])] if is_image else [])


async def test_a_part_of_a_manifest_says_nothing() -> None:
    source = Source()
    sized = Sized(source, ignore)
    await sized.open(asked(Digest.of(MANIFEST), Kind.MANIFEST).in_part(ByteRange(0, 9)))
    await sized.open(asked(LAYER))
    assert source.sizes == [None, None]


async def test_only_so_many_sizes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SIZES_MAX", 1)
    source = Source()
    sized = Sized(source, ignore)
    await sized.open(asked(Digest.of(MANIFEST), Kind.MANIFEST))
    await sized.open(asked(CONFIG))
    await sized.open(asked(LAYER))
    assert source.sizes == [None, None, SIZE]


@pytest.mark.parametrize("length", [SIZE - 1, SIZE + 1])
async def test_a_registry_that_tells_another_size_is_not_read(length: int) -> None:
    head = [f"Content-Length: {length}"]
    async with scripted(answering("200 OK", head, b"x" * 100)) as server:
        async with Upstream(Registries({"registry.test": (Endpoint(server.url),)})) as upstream:
            request = Request(REPOSITORY, Kind.BLOB, LAYER, size=SIZE)
            with pytest.raises(UnavailableError, match=f"{length} bytes"):
                await upstream.open(request)
