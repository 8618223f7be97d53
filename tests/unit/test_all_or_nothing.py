"""Who takes a whole image from one place gets its manifest only where all of its blobs can be had."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace

import aiohttp
import pytest

from mirror import all_or_nothing
from mirror.all_or_nothing import AllOrNothing
from mirror.errors import NotFoundError, RefusedError, SourceError, UnavailableError
from mirror.metrics import Metrics
from mirror.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, Kind, Repository, Tag
from mirror.registry import create_registry
from mirror.source import Content, MemoryBody, Request, read_all
from tests.serving import serving

REPOSITORY = Repository("registry.test", "lib/app")
CONFIG = Digest.of(b"config")
LAYERS = [Digest.of(bytes([number])) for number in range(20)]


def manifest(media_type: str = OCI_MANIFEST, **more: object) -> bytes:
    layers = [{"digest": str(digest), "size": 1} for digest in LAYERS]
    document = {"mediaType": media_type, "config": {"digest": str(CONFIG)}, "layers": layers, **more}
    return json.dumps(document).encode()


@dataclass
class Scene:
    """Gives one manifest under every reference, and knows some blobs."""

    data: bytes
    blobs: set[Digest] = field(default_factory=lambda: {CONFIG, *LAYERS})
    failure: SourceError = field(default_factory=lambda: NotFoundError("not here"))
    asked: list[Digest] = field(default_factory=list)
    running: int = 0
    running_most: int = 0

    async def resolve(self, request: Request) -> Descriptor:
        assert request.kind is Kind.BLOB
        self.asked.append(request.digest)
        self.running += 1
        self.running_most = max(self.running, self.running_most)
        await asyncio.sleep(0)
        self.running -= 1
        if request.digest not in self.blobs:
            raise self.failure
        return Descriptor("b/b", request.digest, 1)

    async def open(self, request: Request) -> Content:
        digest = Digest.of(self.data)
        part = request.range.resolve(len(self.data)) if request.range else range(len(self.data))
        body = MemoryBody(self.data[part.start : part.stop])
        return Content(Descriptor(OCI_MANIFEST, digest, len(self.data)), part, body, "peer", "n2")


WANTED = Request(REPOSITORY, Kind.MANIFEST, Tag("v1"), all_or_nothing=True, authorization="Bearer x")


async def test_a_manifest_comes_when_all_of_its_blobs_can_be_had() -> None:
    scene = Scene(manifest())
    content = await AllOrNothing(scene).open(WANTED)
    assert await read_all(content.body, 10_000) == scene.data
    assert (content.origin, content.holder) == ("peer", "n2")
    assert sorted(scene.asked) == sorted([CONFIG, *LAYERS])
    assert 1 < scene.running_most <= all_or_nothing.ASKED_AT_ONCE_MAX


@pytest.mark.parametrize("missing", [CONFIG, LAYERS[-1]])
@pytest.mark.parametrize("failure", [NotFoundError("not here"), UnavailableError("away"), RefusedError(401)])
async def test_a_manifest_is_not_there_when_one_of_its_blobs_is_not(missing: Digest, failure: SourceError) -> None:
    scene = Scene(manifest(), failure=failure)
    scene.blobs.discard(missing)
    with pytest.raises(NotFoundError, match="not all of its blobs"):
        await AllOrNothing(scene).open(WANTED)


async def test_others_get_it_in_any_case_for_they_go_elsewhere_for_the_rest() -> None:
    scene = Scene(manifest(), blobs=set())
    content = await AllOrNothing(scene).open(replace(WANTED, all_or_nothing=False))
    assert await read_all(content.body, 10_000) == scene.data
    assert scene.asked == []


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
async def test_an_index_passes_for_it_names_manifests_and_no_blobs(media_type: str) -> None:
    scene = Scene(manifest(media_type, manifests=[{"digest": str(CONFIG)}]), blobs=set())
    await AllOrNothing(scene).open(WANTED)
    assert scene.asked == []


async def test_layers_that_lie_elsewhere_are_nobody_s_business_here() -> None:
    layers = [{"digest": str(LAYERS[0]), "urls": ["https://elsewhere.example"]}]
    scene = Scene(manifest(layers=layers), blobs={CONFIG})
    await AllOrNothing(scene).open(WANTED)
    assert scene.asked == [CONFIG]


@pytest.mark.parametrize(
    ("path", "status"), [("lib/app/manifests/v1?ns=registry.test", 200), ("registry.test/lib/app/manifests/v1", 404)]
)
async def test_who_names_the_registry_in_the_path_is_one_who_cannot_go_elsewhere(path: str, status: int) -> None:
    app = create_registry(AllOrNothing(Scene(manifest(), blobs=set())), Metrics().face("client"))
    async with serving(app) as url, aiohttp.ClientSession(url) as session:
        async with session.get(f"/v2/{path}") as response:
            assert response.status == status
            assert status == 200 or "not all of its blobs" in await response.text()
