"""The order of sources, and a pull that outlives them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mirror.errors import NotFoundError, RefusedError, SourceError, UnavailableError
from mirror.oci import OCTET_STREAM, ByteRange, Descriptor, Digest, Kind, Repository, Tag
from mirror.pieces import Piece, moved
from mirror.pull import RESUMES_MAX, Pull
from mirror.source import Content, MemoryBody, Request, read_all
from mirror.stores.oci_layout import OciLayout

REPOSITORY = Repository("registry.test", "lib/app")
DATA = random.Random(7).randbytes(1000)
DIGEST = Digest.of(DATA)
BLOB = Request(REPOSITORY, Kind.BLOB, DIGEST)
TAG = Request(REPOSITORY, Kind.MANIFEST, Tag("v1"))


class Broken(MemoryBody):
    """Gives some bytes, then breaks off."""

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        yield self.data
        raise UnavailableError("broke off")


@dataclass
class Scene:
    """A source that does as told: holds objects, breaks off after some bytes, or fails with an error."""

    origin: str
    objects: dict[Digest, bytes] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    failure: SourceError | None = None
    breaks_after: int | None = None
    asked: list[str] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        self.asked.append(f"HEAD {request.reference}")
        if self.failure:
            raise self.failure
        if isinstance(request.reference, Tag):
            if request.reference.name not in self.tags:
                raise NotFoundError("no such tag")
            return Descriptor("m/t", self.tags[request.reference.name], 1)
        return Descriptor("m/t", request.digest, len(self._data(request)))

    async def open(self, request: Request) -> Content:
        self.asked.append(f"GET {request.range or 'all'}")
        if self.failure:
            raise self.failure
        data = self._data(request)
        positions = request.range.resolve(len(data)) if request.range else range(len(data))
        part = data[positions.start : positions.stop]
        body = MemoryBody(part) if self.breaks_after is None else Broken(part[: self.breaks_after])
        return Content(Descriptor(OCTET_STREAM, request.digest, len(data)), positions, body, self.origin)

    def _data(self, request: Request) -> bytes:
        if request.digest not in self.objects:
            raise NotFoundError("not here")
        return self.objects[request.digest]


@dataclass
class Known:
    tags: dict[Tag, Digest] = field(default_factory=dict)

    def last_known(self, repository: Repository, tag: Tag) -> Digest | None:
        assert repository == REPOSITORY
        return self.tags.get(tag)


@dataclass
class Stage:
    store: OciLayout
    peers: Scene
    upstream: Scene
    known: Known

    @property
    def pull(self) -> Pull:
        return Pull(self.store, self.peers, self.upstream, self.known)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(OciLayout(tmp_path, 10**6), Scene("peer"), Scene("upstream"), Known())


async def read(content: Content) -> bytes:
    return await read_all(content.body, len(DATA))


async def test_a_peer_is_asked_before_upstream(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = stage.upstream.objects[DIGEST] = DATA
    content = await stage.pull.open(BLOB)
    assert (content.origin, await read(content)) == ("peer", DATA)
    assert stage.upstream.asked == []


async def test_what_passed_through_whole_is_given_by_the_store_next_time(stage: Stage) -> None:
    stage.upstream.objects[DIGEST] = DATA
    assert (await read(await stage.pull.open(BLOB))) == DATA
    content = await stage.pull.open(BLOB)
    assert (content.origin, await read(content)) == ("store", DATA)
    assert len(stage.upstream.asked) == 1


async def test_what_passed_through_in_part_is_not_kept(stage: Stage) -> None:
    stage.upstream.objects[DIGEST] = DATA
    assert await read(await stage.pull.open(BLOB.in_part(ByteRange(10, 19)))) == DATA[10:20]
    assert (await stage.pull.open(BLOB)).origin == "upstream"


@pytest.mark.parametrize("failure", [NotFoundError("stale"), UnavailableError("down")])
async def test_peers_that_fail_are_made_good_by_upstream(stage: Stage, failure: SourceError) -> None:
    stage.peers.failure = failure
    stage.upstream.objects[DIGEST] = DATA
    assert (await stage.pull.open(BLOB)).origin == "upstream"


async def test_when_a_source_did_not_answer_the_object_is_not_called_unknown(stage: Stage) -> None:
    stage.peers.failure = UnavailableError("down")
    with pytest.raises(UnavailableError):
        await stage.pull.open(BLOB)
    stage.peers.failure = None
    with pytest.raises(NotFoundError):
        await stage.pull.open(BLOB)


async def test_a_no_of_the_registry_is_passed_on(stage: Stage) -> None:
    stage.upstream.failure = RefusedError(401, (("WWW-Authenticate", "Basic"),))
    with pytest.raises(RefusedError):
        await stage.pull.open(BLOB)
    stage.known.tags[Tag("v1")] = DIGEST
    with pytest.raises(RefusedError):
        await stage.pull.resolve(TAG)


async def test_an_object_that_breaks_off_goes_on_from_another_source_in_the_same_answer(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = stage.upstream.objects[DIGEST] = DATA
    stage.peers.breaks_after = 300
    content = await stage.pull.open(BLOB)
    reading = asyncio.create_task(read(content))
    assert await reading == DATA
    assert stage.peers.asked == ["GET all", "GET bytes=300-999", "GET bytes=600-999", "GET bytes=900-999"]


async def test_an_object_that_breaks_off_goes_on_upstream_when_the_peers_are_gone(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = stage.upstream.objects[DIGEST] = DATA
    stage.peers.breaks_after = 300
    content = await stage.pull.open(BLOB)
    stage.peers.failure = UnavailableError("gone")
    assert await read(content) == DATA
    assert stage.upstream.asked == ["GET bytes=300-999"]


async def test_an_object_that_keeps_breaking_off_is_given_up(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = DATA
    stage.peers.breaks_after = 1
    content = await stage.pull.open(BLOB)
    with pytest.raises(UnavailableError):
        await read(content)
    assert len(stage.peers.asked) == 1 + RESUMES_MAX


async def test_a_reader_that_leaves_half_way_leaves_nothing_in_the_store(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = DATA
    stage.peers.breaks_after = 300
    content = await stage.pull.open(BLOB)
    async with aclosing(content.body.pieces()) as pieces:
        assert moved(await anext(pieces)) == 300
    await content.body.aclose()
    stage.peers.breaks_after = None
    assert (await stage.pull.open(BLOB)).origin == "peer"


async def test_wrong_bytes_are_never_kept(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = DATA[:-1] + b"x"
    await read(await stage.pull.open(BLOB))
    with pytest.raises(NotFoundError):
        await stage.store.open(BLOB)


async def test_a_tag_is_upstreams_to_explain(stage: Stage) -> None:
    stage.upstream.tags["v1"] = DIGEST
    stage.known.tags[Tag("v1")] = Digest.of(b"older")
    assert (await stage.pull.resolve(TAG)).digest == DIGEST


async def test_the_bytes_of_a_tag_come_from_the_nearest_holder_of_its_digest(stage: Stage) -> None:
    stage.upstream.tags["v1"] = DIGEST
    stage.peers.objects[DIGEST] = DATA
    content = await stage.pull.open(TAG)
    assert content.origin == "peer"
    assert stage.upstream.asked == ["HEAD v1"]


async def test_without_upstream_a_tag_means_what_the_cluster_last_knew(stage: Stage) -> None:
    stage.upstream.failure = UnavailableError("down")
    stage.peers.objects[DIGEST] = DATA
    with pytest.raises(UnavailableError):
        await stage.pull.open(TAG)
    stage.known.tags[Tag("v1")] = DIGEST
    assert await read(await stage.pull.open(TAG)) == DATA
