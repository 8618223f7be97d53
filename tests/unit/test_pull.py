"""The order of sources, and a pull that outlives them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mirror import pull as pull_module
from mirror import suspicion as suspicion_module
from mirror.choice import Holder
from mirror.errors import CorruptError, NotFoundError, RefusedError, SourceError, UnavailableError
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, ByteRange, Descriptor, Digest, Kind, Repository
from mirror.peer_mac import Target
from mirror.pieces import Piece, read_piece
from mirror.pull import Pull
from mirror.resuming import RESUMES_MAX
from mirror.single_flight import Transfers
from mirror.source import Content, MemoryBody, Request, read_all
from mirror.spool import Spool
from mirror.stores import ContentAdded, Ingest, Store, StoreEvent
from mirror.stores.oci_layout import OciLayout
from mirror.suspicion import Suspicion
from mirror.trail import Trail, What
from mirror.transfer import HELD_BACK_BYTES
from tests.herds import Listed, lone_herd

REPOSITORY = Repository("registry.test", "lib/app")
DATA = random.Random(7).randbytes(1000)
DIGEST = Digest.of(DATA)
LARGE = random.Random(8).randbytes(10_000_000)
"""Too large to be verified before its first byte goes out."""
BLOB = Request(REPOSITORY, Kind.BLOB, DIGEST)


HOLDER = Holder(Target("peer", "1.1"), "http://127.0.0.1:1", "")


class Streamed(MemoryBody):
    """Comes in pieces of a megabyte."""

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        for start in range(0, len(self.data), 10**6):
            yield self.data[start : start + 10**6]


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
    failure: SourceError | None = None
    breaks_after: int | None = None
    asked: list[str] = field(default_factory=list)
    relays: list[str] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        self.asked.append(f"HEAD {request.reference}")
        if self.failure:
            raise self.failure
        return Descriptor("m/t", request.digest, len(self._data(request)))

    async def open(self, request: Request) -> Content:
        self.asked.append(f"GET {request.range or 'all'}")
        if self.failure:
            raise self.failure
        data = self._data(request)
        positions = request.range.resolve(len(data)) if request.range else range(len(data))
        part = data[positions.start : positions.stop]
        body = Streamed(part) if self.breaks_after is None else Broken(part[: self.breaks_after])
        descriptor = Descriptor(OCTET_STREAM, request.digest, len(data))
        return Content(descriptor, positions, body, self.origin, relays=[*self.relays])

    def _data(self, request: Request) -> bytes:
        if request.digest not in self.objects:
            raise NotFoundError("not here")
        return self.objects[request.digest]


class Runtime(Scene):
    """The store of a runtime that pulls for itself: it keeps nothing of what passes through."""

    keeps = False
    answering_since: float | None = 0.0

    async def ingest(self, request: Request, size: int) -> Ingest | None:
        return None

    async def origins(self, digest: Digest) -> frozenset[Repository]:
        return frozenset()

    async def referring(self, subject: Digest) -> dict[Digest, bytes]:
        return {}

    async def remember(self, request: Request, digest: Digest) -> None:
        """containerd has its own names."""

    def watch(self) -> AsyncGenerator[list[StoreEvent], None]:
        raise NotImplementedError


class Holding(Listed):
    """An index that knows what the peers have, and those that fail as well."""

    def __init__(self, peers: Scene) -> None:
        super().__init__()
        self._peers = peers

    def holders(self, digest: Digest) -> list[Holder]:
        return [HOLDER] if digest in self._peers.objects or self._peers.failure else []


@dataclass
class Stage:
    store: Store
    peers: Scene
    upstream: Scene
    suspicion: Suspicion
    transfers: Transfers
    says: set[str] = field(default_factory=set)
    """What relays answer that are asked who gave an object."""
    asked: list[tuple[str, Digest, set[str]]] = field(default_factory=list)

    async def relayed(self, registry: str, digest: Digest, relays: set[str]) -> tuple[set[str], bool]:
        self.asked.append((registry, digest, relays))
        opened = len(self.peers.asked), len(self.upstream.asked)
        await asyncio.sleep(0.05)
        assert opened == (len(self.peers.asked), len(self.upstream.asked)), "it is opened afterwards"
        return self.says, True

    @property
    def pull(self) -> Pull:
        return self._pull(verify_all=False)

    @property
    def verifying_pull(self) -> Pull:
        return self._pull(verify_all=True)

    def _pull(self, *, verify_all: bool) -> Pull:
        return Pull(
            self.store,
            self.peers,
            self.upstream,
            lone_herd(self.peers, self.upstream, Holding(self.peers)),
            transfers=self.transfers,
            suspicion=self.suspicion,
            relayed=self.relayed,
            verify_all=verify_all,
        )


@asynccontextmanager
async def staged(store: Store, directory: Path) -> AsyncGenerator[Stage]:
    suspicion = Suspicion(time.monotonic, lambda: store.answering_since, Metrics().suspicion())
    async with Transfers(Spool(directory, 10**9), store, suspicion.blame) as transfers:
        yield Stage(store, Scene("peer"), Scene("upstream"), suspicion, transfers)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncGenerator[Stage]:
    """With a store that keeps what passes through."""
    async with staged(OciLayout(tmp_path, 10**8), tmp_path) as stage:
        yield stage


@pytest.fixture
async def relaying(tmp_path: Path) -> AsyncGenerator[Stage]:
    """With a runtime that keeps its own."""
    async with staged(Runtime("store"), tmp_path) as stage:
        yield stage


async def read(content: Content) -> bytes:
    return await read_all(content.body, len(LARGE))


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
    with pytest.raises(RefusedError):
        await stage.pull.resolve(BLOB)


async def test_an_object_that_breaks_off_goes_on_from_another_source_in_the_same_answer(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = stage.upstream.objects[DIGEST] = DATA
    stage.peers.breaks_after = 300
    content = await stage.pull.open(BLOB)
    assert await read(content) == DATA
    assert stage.peers.asked == ["GET all", "GET bytes=300-", "GET bytes=600-", "GET bytes=900-"]


async def test_an_object_that_breaks_off_goes_on_upstream_when_the_peers_are_gone(relaying: Stage) -> None:
    relaying.peers.objects[DIGEST] = relaying.upstream.objects[DIGEST] = DATA
    relaying.peers.breaks_after = 300
    content = await relaying.pull.open(BLOB)
    relaying.peers.failure = UnavailableError("gone")
    assert await read(content) == DATA
    assert relaying.upstream.asked == ["GET bytes=300-"]
    assert content.givers == ["peer", "upstream"]


@pytest.mark.parametrize("held_s", [60.0, 0.0])
async def test_a_file_of_the_store_that_breaks_off_goes_on_from_a_peer_and_is_held_against_the_store_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_s: float
) -> None:
    monkeypatch.setattr(pull_module, "UNREADABLE_S", held_s)
    store = Runtime("store", {DIGEST: DATA}, breaks_after=300)
    async with staged(store, tmp_path) as stage:
        stage.peers.objects[DIGEST] = DATA
        pull = stage.pull
        assert await read(await pull.open(BLOB)) == DATA
        assert stage.peers.asked == ["GET bytes=300-"]
        assert (await pull.open(BLOB)).origin == ("peer" if held_s else "store")


async def test_a_file_of_a_layout_that_loses_its_end_while_it_is_read_costs_no_answer(
    stage: Stage, tmp_path: Path
) -> None:
    stage.upstream.objects[DIGEST] = DATA
    assert await read(await stage.pull.open(BLOB)) == DATA
    pull = stage.pull
    content = await pull.open(BLOB)
    assert content.origin == "store"
    os.truncate(tmp_path / "blobs" / "sha256" / DIGEST.hex, 300)
    assert await read(content) == DATA
    rest = await pull.open(BLOB.in_part(ByteRange.starting_at(300)))
    assert (rest.origin, await read(rest)) == ("upstream", DATA[300:])


async def test_a_transfer_that_breaks_off_goes_on_from_a_peer(relaying: Stage) -> None:
    class Slow(Scene):
        """A registry from which a peer has the object as well by the time that it breaks off."""

        async def open(self, request: Request) -> Content:
            relaying.peers.objects[DIGEST] = DATA
            return await super().open(request)

    relaying.upstream = Slow("upstream", {DIGEST: DATA}, breaks_after=300)
    content = await relaying.pull.open(BLOB)
    assert await read(content) == DATA
    assert relaying.upstream.asked == ["GET all"]
    assert relaying.peers.asked == ["GET bytes=300-"]


async def test_an_object_that_keeps_breaking_off_is_given_up(relaying: Stage) -> None:
    relaying.peers.objects[DIGEST] = DATA
    relaying.peers.breaks_after = 1
    content = await relaying.pull.open(BLOB)
    with pytest.raises(UnavailableError):
        await read(content)
    assert len(relaying.peers.asked) == 1 + RESUMES_MAX


async def test_what_a_reader_leaves_half_way_is_kept_whole_by_a_store_that_keeps_things(stage: Stage) -> None:
    stage.peers.objects[DIGEST] = DATA
    content = await stage.pull.open(BLOB)
    await content.body.aclose()
    async with asyncio.timeout(5):
        while (await stage.pull.open(BLOB)).origin != "store":
            await asyncio.sleep(0.01)


async def test_wrong_bytes_are_never_kept_nor_given_whole_where_they_are_hashed(stage: Stage) -> None:
    wrong = LARGE[:-1] + b"x"
    stage.peers.objects[Digest.of(LARGE)] = wrong
    content = await stage.pull.open(BLOB.by_digest(Digest.of(LARGE)))
    with pytest.raises(CorruptError):
        await read(content)
    with pytest.raises(NotFoundError):
        await stage.store.open(BLOB.by_digest(Digest.of(LARGE)))


async def test_what_a_peer_has_whole_is_relayed_and_not_shared(relaying: Stage) -> None:
    relaying.peers.objects[DIGEST] = DATA
    for _ in range(2):
        assert await read(await relaying.pull.open(BLOB)) == DATA
    assert relaying.peers.asked == ["GET all"] * 2


async def test_what_is_verified_before_its_first_byte_is_fetched_from_a_peer_once_for_all_who_want_it(
    relaying: Stage,
) -> None:
    data = LARGE[:1_000_000]
    relaying.peers.objects[Digest.of(data)] = data
    request = replace(BLOB.by_digest(Digest.of(data)), size=len(data))
    contents = await asyncio.gather(*(relaying.pull.open(request) for _ in range(20)))
    assert await asyncio.gather(*map(read, contents)) == [data] * 20
    assert relaying.peers.asked == ["GET all"]


async def test_what_comes_from_upstream_is_asked_for_once_by_many(relaying: Stage) -> None:
    relaying.upstream.objects[DIGEST] = DATA
    contents = await asyncio.gather(*(relaying.pull.open(BLOB) for _ in range(20)))
    assert await asyncio.gather(*map(read, contents)) == [DATA] * 20
    assert relaying.upstream.asked == ["GET all"]


async def deliver_wrong(stage: Stage) -> tuple[Request, Digest]:
    """A peer gives wrong bytes of a large object, and leaves the index; the registry has the right ones."""
    digest = Digest.of(LARGE)
    stage.peers.objects[digest] = b"x" + LARGE[1:]
    stage.upstream.objects[digest] = LARGE
    assert await read(await stage.pull.open(BLOB.by_digest(digest))) != LARGE
    stage.peers.objects.clear()
    return BLOB.by_digest(digest), digest


async def test_a_retry_after_a_delivery_that_was_not_committed_is_hashed_and_settles_the_blame(
    relaying: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspicion_module, "COMMIT_S", 0.0)
    request, digest = await deliver_wrong(relaying)
    bad = Holder(Target("peer", "1.1"), "", "")
    assert relaying.suspicion.trusted(digest, [bad]) == [bad]
    content = await relaying.pull.open(request)
    assert relaying.suspicion.trusted(digest, [bad]) == []
    assert (await read(content), content.origin) == (LARGE, "upstream")
    relaying.suspicion.heard(ContentAdded(digest))
    assert relaying.suspicion.trusted(digest, [bad]) == []
    assert relaying.suspicion.trusted(DIGEST, [bad]) == [bad], "one wrong digest is held against it for that digest"


async def test_before_a_retry_the_relays_of_what_was_not_committed_are_asked_who_gave_it(
    relaying: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspicion_module, "COMMIT_S", 0.0)
    relaying.peers.relays, relaying.says = ["relay"], {"bob"}
    request, digest = await deliver_wrong(relaying)
    assert relaying.asked == []
    bob, pull = Holder(Target("bob", "1.1"), "", ""), relaying.pull
    contents = await asyncio.gather(pull.open(request), pull.open(request))
    assert relaying.suspicion.trusted(digest, [bob]) == []
    assert [await read(content) for content in contents] == [LARGE] * 2
    assert relaying.asked == [(REPOSITORY.registry, digest, {"relay"})]


async def test_parallel_ranges_are_one_delivery_in_whatever_order_they_end(
    relaying: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspicion_module, "COMMIT_S", 0.0)
    digest = Digest.of(LARGE)
    request = BLOB.by_digest(digest)
    relaying.peers.objects[digest] = b"x" + LARGE[1:]
    parts = [request.in_part(ByteRange.starting_at(start)) for start in (0, 4_000_000, 8_000_000)]
    contents = [await relaying.pull.open(part) for part in parts]
    await read(contents.pop())
    for content in contents:  # the client hangs up when it has its part
        async with aclosing(content.body.pieces()) as pieces:
            await anext(pieces)
        await content.body.aclose()
    assert relaying.suspicion.doubted(digest, from_start=True)


async def test_a_client_that_keeps_images_elsewhere_makes_nobody_suspect(
    relaying: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspicion_module, "COMMIT_S", 0.0)
    digest = Digest.of(LARGE)
    request = replace(BLOB.by_digest(digest), all_or_nothing=True)
    relaying.peers.objects[digest] = LARGE
    holder = Holder(Target("peer", "1.1"), "", "")
    for asked in (request, request, BLOB.by_digest(digest)):
        assert await read(await relaying.pull.open(asked)) == LARGE
        assert relaying.suspicion.trusted(digest, [holder]) == [holder]


async def test_with_verify_always_nobody_gets_the_end_of_wrong_bytes(relaying: Stage) -> None:
    digest = Digest.of(LARGE)
    relaying.peers.objects[digest] = b"x" + LARGE[1:]
    content = await relaying.verifying_pull.open(BLOB.by_digest(digest))
    received = bytearray()

    async def receive() -> None:
        async for piece in content.body.pieces():
            async for chunk in read_piece(piece):
                received.extend(chunk)

    with pytest.raises(CorruptError):
        await receive()
    await content.body.aclose()
    assert len(received) == len(LARGE) - HELD_BACK_BYTES
    assert relaying.suspicion.trusted(digest, [Holder(Target("peer", "1.1"), "", "")]) == []


async def test_with_verify_always_nodes_come_together_as_ever_but_not_for_what_is_in_doubt(relaying: Stage) -> None:
    doubted = Digest.of(LARGE)
    relaying.upstream.objects = {DIGEST: DATA, doubted: LARGE}
    relaying.suspicion.blame(doubted, ["ann", "bob"])
    for digest, leads in ((DIGEST, True), (doubted, False)):
        request = replace(BLOB.by_digest(digest), trail=Trail())
        await read(await relaying.verifying_pull.open(request))
        assert (What.LED in [step.what for step in request.trail.steps]) == leads


async def test_with_verify_always_a_part_is_given_of_an_object_that_is_hashed_whole(relaying: Stage) -> None:
    relaying.upstream.objects[Digest.of(LARGE)] = LARGE
    request = BLOB.by_digest(Digest.of(LARGE)).in_part(ByteRange.starting_at(9_000_000))
    assert await read(await relaying.verifying_pull.open(request)) == LARGE[9_000_000:]
    assert relaying.upstream.asked == ["GET all"]
