"""Transfers: fetched once, read by many, and never the reason that a pull fails."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from mirror import spool, transfer, window
from mirror.errors import (
    CorruptError,
    LeftBehindError,
    NoSourceLeftError,
    NotFoundError,
    OverQuotaError,
    RefusedError,
    SourceError,
    UnavailableError,
)
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, ByteRange, Descriptor, Digest, Kind, Repository
from mirror.pieces import FilePiece, Piece, moved, read_piece
from mirror.registry import create_registry
from mirror.resuming import resuming
from mirror.single_flight import InFlight, Shared, Transfers
from mirror.source import Content, FirstOf, Request, read_all
from mirror.spool import PUNCH_BYTES, Spool
from mirror.stores import Ingest, StoreEvent
from tests.serving import serving
from tests.simulated_time import run

DATA = random.Random(9).randbytes(12_000_000)
DIGEST = Digest.of(DATA)
BLOB = Request(Repository("registry.test", "lib/app"), Kind.BLOB, DIGEST)
SMALL = DATA[:1_000_000]
SMALL_BLOB = BLOB.by_digest(Digest.of(SMALL))
CHUNK_BYTES = 100_000
SOON_S = 5.0


@dataclass
class Tap:
    """A source that gives as much as the test lets it, and can fail."""

    data: bytes = DATA
    open_until: int = len(DATA)
    given: int = 0
    fails_at: int | None = None
    failures: list[SourceError] = field(default_factory=list)
    opened: list[Request] = field(default_factory=list)
    closed: int = 0
    unshared: int = 0
    origin: str = "upstream"
    relays: list[str] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        raise NotImplementedError

    async def open(self, request: Request) -> Content:
        self.opened.append(request)
        await asyncio.sleep(0.01)
        if self.failures:
            raise self.failures.pop(0)
        positions = request.range.resolve(len(self.data)) if request.range else range(len(self.data))
        descriptor = Descriptor(OCTET_STREAM, request.digest, len(self.data))
        flow, relays = Flow(self, positions), [*self.relays]
        return Content(descriptor, positions, flow, self.origin, relays=relays, unshared=self.count_unshared)

    def count_unshared(self) -> None:
        self.unshared += 1


@dataclass
class Flow:
    tap: Tap
    positions: range

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        position = self.positions.start
        while position < self.positions.stop:
            if self.tap.fails_at is not None and position >= self.tap.fails_at:
                raise UnavailableError("the tap burst")
            while position >= self.tap.open_until:
                await asyncio.sleep(0.005)
            chunk = self.tap.data[position : min(position + CHUNK_BYTES, self.positions.stop, self.tap.open_until)]
            await asyncio.sleep(0)
            position += len(chunk)
            self.tap.given = max(self.tap.given, position)
            yield chunk

    async def aclose(self) -> None:
        self.tap.closed += 1


class Nothing:
    """A store that has nothing and keeps nothing."""

    keeps = False
    answering_since = None

    async def resolve(self, request: Request) -> Descriptor:
        raise NotFoundError("nothing")

    async def open(self, request: Request) -> Content:
        raise NotFoundError("nothing")

    async def ingest(self, request: Request, size: int) -> Ingest | None:
        return None

    async def origins(self, digest: Digest) -> frozenset[Repository]:
        return frozenset()

    async def referring(self, subject: Digest) -> dict[Digest, bytes]:
        return {}

    async def remember(self, request: Request, digest: Digest) -> None:
        """Nothing."""

    def watch(self) -> AsyncGenerator[list[StoreEvent], None]:
        raise NotImplementedError


@dataclass
class Place:
    transfers: Transfers
    corrupt: list[tuple[Digest, list[str], list[str]]]

    async def open(self, tap: Tap, request: Request = BLOB, *, verify: bool = False) -> Content:
        return await self.transfers.open(request, tap, tap, verify=verify)

    async def read(self, tap: Tap, request: Request = BLOB, *, verify: bool = False) -> bytes:
        return await read_all((await self.open(tap, request, verify=verify)).body, len(tap.data))

    async def over(self) -> None:
        """Wait until no transfer is left."""
        async with asyncio.timeout(SOON_S):
            while self.transfers._running:
                for each in self.transfers._running:
                    each.check()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def place(directory: Path, bytes_max: int = 10**9) -> AsyncGenerator[Place]:
    corrupt: list[tuple[Digest, list[str], list[str]]] = []
    async with Transfers(
        Spool(directory, bytes_max), Nothing(), lambda digest, *who: corrupt.append((digest, *who))
    ) as transfers:
        yield Place(transfers, corrupt)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """As on a full disk, no file grows beyond `size`."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(tap: Tap, given: int) -> None:
    async with asyncio.timeout(SOON_S):
        while tap.given < given:
            await asyncio.sleep(0.005)


async def test_an_object_is_fetched_once_for_all_who_want_it(tmp_path: Path) -> None:
    tap = Tap(SMALL, len(SMALL))
    async with place(tmp_path) as here:
        bodies = await asyncio.gather(*(here.read(tap, SMALL_BLOB) for _ in range(200)))
        assert bodies == [SMALL] * 200
        assert len(tap.opened) == 1


async def test_a_small_blob_comes_to_a_peer_as_it_grows_and_to_the_client_when_all_of_it_is_right(
    tmp_path: Path,
) -> None:
    tap = Tap(SMALL, open_until=500_000)
    async with place(tmp_path) as here:
        client = asyncio.create_task(here.open(tap, SMALL_BLOB))
        await until(tap, 500_000)
        content = await InFlight(here.transfers).open(SMALL_BLOB)
        async with aclosing(content.body.pieces()) as pieces:
            piece = await anext(pieces)
            assert isinstance(piece, FilePiece)
        assert not client.done()
        tap.open_until = len(SMALL)
        assert await read_all((await client).body, len(SMALL)) == SMALL
        assert len(tap.opened) == 1


async def test_a_small_blob_that_comes_wrong_is_opened_again_and_no_client_gets_a_byte_of_it(tmp_path: Path) -> None:
    wrong = Tap(bytes(1) + SMALL[1:], open_until=500_000)
    right = Tap(SMALL, len(SMALL))
    async with place(tmp_path) as here:
        client = asyncio.create_task(here.transfers.open(SMALL_BLOB, wrong, right, verify=False))
        await until(wrong, 500_000)
        follower = await InFlight(here.transfers).open(SMALL_BLOB)
        wrong.open_until = len(SMALL)
        with pytest.raises(UnavailableError):
            await read_all(follower.body, len(SMALL))
        assert await read_all((await client).body, len(SMALL)) == SMALL
        assert here.corrupt == [(SMALL_BLOB.digest, ["upstream"], [])]
        assert not right.opened[0].hashes


async def test_a_reader_begins_where_it_wants_while_the_object_grows(tmp_path: Path) -> None:
    tap = Tap(open_until=5_000_000)
    async with place(tmp_path) as here:
        first = asyncio.create_task(here.read(tap))
        await until(tap, 5_000_000)
        late = asyncio.create_task(here.read(tap, BLOB.in_part(ByteRange.starting_at(4_000_000))))
        early = asyncio.create_task(here.read(tap, BLOB.in_part(ByteRange.starting_at(6_000_000))))
        part = asyncio.create_task(here.read(tap, BLOB.in_part(ByteRange(100, 199))))
        await asyncio.sleep(0.05)
        assert part.done()
        assert not early.done()
        tap.open_until = len(DATA)
        assert await first == DATA
        assert await late == DATA[4_000_000:]
        assert await early == DATA[6_000_000:]
        assert await part == DATA[100:200]
        assert len(tap.opened) == 1


async def test_a_part_that_nobody_fetches_does_not_fetch_the_whole(tmp_path: Path) -> None:
    tap = Tap()
    async with place(tmp_path) as here:
        part = ByteRange.starting_at(11_999_000)
        assert await here.read(tap, BLOB.in_part(part)) == DATA[11_999_000:]
        assert tap.opened == [BLOB.in_part(part)]


async def test_from_the_first_byte_on_is_the_whole(tmp_path: Path) -> None:
    tap = Tap()
    async with place(tmp_path) as here:
        bodies = await asyncio.gather(
            here.read(tap, BLOB.in_part(ByteRange.starting_at(0))),
            *(here.read(tap, BLOB.in_part(ByteRange.starting_at(start))) for start in (4_000_000, 8_000_000)),
        )
        assert bodies == [DATA, DATA[4_000_000:], DATA[8_000_000:]]
        assert len(tap.opened) == 1


async def test_a_range_beyond_the_end_of_an_object_in_flight_is_empty(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        tap = Tap()
        content = await here.open(tap)
        assert (await here.open(tap, BLOB.in_part(ByteRange.starting_at(len(DATA))))).positions == range(0)
        await content.body.aclose()


@pytest.mark.parametrize("failure", [RefusedError(401), RefusedError(404), OverQuotaError("slow down")])
async def test_a_no_belongs_to_the_request_that_got_it_and_the_next_asks_for_itself(
    tmp_path: Path, failure: SourceError
) -> None:
    tap = Tap(failures=[failure])
    async with place(tmp_path) as here:
        bodies = await asyncio.gather(*(here.read(tap) for _ in range(5)), return_exceptions=True)
    assert bodies[0] is failure
    assert bodies[1:] == [DATA] * 4
    assert len(tap.opened) == 2


async def test_each_request_asks_with_its_own_credentials(tmp_path: Path) -> None:
    tap = Tap(failures=[RefusedError(401), RefusedError(403)])
    requests = [
        Request(BLOB.repository, Kind.BLOB, DIGEST, authorization=who) for who in (None, "Basic bob", "Basic alice")
    ]
    async with place(tmp_path) as here:
        await asyncio.gather(*(here.read(tap, request) for request in requests), return_exceptions=True)
    assert [request.authorization for request in tap.opened] == [None, "Basic bob", "Basic alice"]


async def test_a_registry_that_does_not_answer_is_asked_once_for_all_who_wait(tmp_path: Path) -> None:
    tap = Tap(failures=[UnavailableError("down")] * 5)
    async with place(tmp_path) as here:
        outcomes = await asyncio.gather(*(here.read(tap) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(outcome, UnavailableError) for outcome in outcomes)
        assert len(tap.opened) == 1
        tap.failures.clear()
        assert await here.read(tap) == DATA


async def test_one_who_hangs_up_while_the_source_is_opened_leaves_the_others_a_chance(tmp_path: Path) -> None:
    tap = Tap()
    async with place(tmp_path) as here:
        first, second = (asyncio.create_task(here.read(tap)) for _ in range(2))
        await asyncio.sleep(0.005)
        first.cancel()
        assert await second == DATA


async def test_readers_that_leave_do_not_stop_it_while_another_reads(tmp_path: Path) -> None:
    tap = Tap(open_until=1_000_000)
    async with place(tmp_path) as here:
        contents = [await here.open(tap) for _ in range(5)]
        for content in contents[1:]:
            await content.body.aclose()
        tap.open_until = len(DATA)
        assert await read_all(contents[0].body, len(DATA)) == DATA


async def test_it_lingers_for_a_client_that_comes_back_and_then_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LINGER_S", 0.2)
    before = descriptors()
    tap = Tap(open_until=1_000_000)
    async with place(tmp_path) as here:
        await (await here.open(tap)).body.aclose()
        content = await here.open(tap, BLOB.in_part(ByteRange.starting_at(500_000)))
        await asyncio.sleep(0.4)
        assert here.transfers._running, "somebody reads it"
        await content.body.aclose()
        await here.over()
        assert len(tap.opened) == tap.closed == 1
        tap.open_until = len(DATA)
        assert await here.read(tap) == DATA
        assert len(tap.opened) == 2
        await here.over()
    assert descriptors() == before


async def test_it_runs_only_so_far_ahead_of_its_foremost_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "AHEAD_BYTES_MAX", 2_000_000)
    monkeypatch.setattr(transfer, "WINDOW_PIECE_BYTES", 1_000_000)
    tap = Tap()
    async with place(tmp_path) as here:
        content = await here.open(tap)
        await asyncio.sleep(0.2)
        assert tap.given <= 2_000_000 + 2 * CHUNK_BYTES
        assert await read_all(content.body, len(DATA)) == DATA


async def test_when_the_source_is_lost_it_goes_on_where_the_file_ends(tmp_path: Path) -> None:
    tap, other = Tap(fails_at=5_000_000), Tap(origin="peer", relays=["rae"])
    async with place(tmp_path) as here:
        content = await here.transfers.open(BLOB, FirstOf([tap, other]), tap, verify=True)
        tap.failures.append(UnavailableError("gone"))
        assert await read_all(content.body, len(DATA)) == DATA
        assert [request.range for request in other.opened] == [ByteRange(5_000_000)]
        assert (content.givers, content.relays) == (["upstream", "peer"], ["rae"])


async def test_a_source_that_takes_too_long_to_go_on_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.resuming.REOPEN_S_MAX", 0.1)

    class Hanging(Missing):
        async def open(self, request: Request) -> Content:
            await asyncio.Event().wait()
            raise NotFoundError

    content = resuming(Hanging(), BLOB, await Tap(fails_at=3_000_000).open(BLOB))
    with pytest.raises(NoSourceLeftError):
        await read_all(content.body, len(DATA))


async def test_when_every_source_is_lost_readers_get_what_there_is_and_newcomers_begin_anew(tmp_path: Path) -> None:
    tap = Tap(fails_at=3_000_000)
    async with place(tmp_path) as here:
        content = await here.open(tap)
        received = bytearray()

        async def receive() -> None:
            async for piece in content.body.pieces():
                async for chunk in read_piece(piece):
                    received.extend(chunk)

        with pytest.raises(UnavailableError):
            await receive()
        assert received == DATA[:3_000_000]
        await content.body.aclose()
        assert len(tap.opened) > 1
        tap.fails_at = None
        assert await here.read(tap) == DATA


@pytest.mark.parametrize("limit", [0, 3_000_000])
async def test_on_a_full_disk_readers_go_on_from_elsewhere(tmp_path: Path, limit: int) -> None:
    tap = Tap()
    async with place(tmp_path) as here:
        with files_limited_to(limit):
            content = resuming(tap, BLOB, await here.open(tap))
            assert await read_all(content.body, len(DATA)) == DATA
        await here.over()


async def test_beyond_the_limit_of_the_spool_objects_are_relayed(tmp_path: Path) -> None:
    tap = Tap()
    async with place(tmp_path, bytes_max=len(DATA) - 1) as here:
        assert await asyncio.gather(*(here.read(tap) for _ in range(3))) == [DATA] * 3
        assert len(tap.opened) == tap.unshared == 3
        with pytest.raises(UnavailableError):
            await here.open(tap, verify=True)


async def test_the_room_of_a_transfer_that_is_over_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LINGER_S", 0.0)
    async with place(tmp_path, bytes_max=len(DATA)) as here:
        for number in range(1, 4):
            tap = Tap()
            assert await here.read(tap, verify=True) == DATA, number
            await here.over()


MEBIBYTE = 2**20
METADATA_BYTES = 64 * 1024
"""What a filesystem takes of its own for a file."""


async def test_a_window_holds_a_part_of_a_large_object_and_every_byte_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "WINDOW_BYTES", 4 * PUNCH_BYTES)
    monkeypatch.setattr(transfer, "AHEAD_BYTES_MAX", PUNCH_BYTES)
    monkeypatch.setattr(transfer, "WINDOW_PIECE_BYTES", 1_000_000)
    data = random.Random(3).randbytes(80_000_000)
    tap = Tap(data, len(data))
    request = BLOB.by_digest(Digest.of(data))
    async with place(tmp_path, bytes_max=5 * PUNCH_BYTES) as here:
        app = create_registry(Shared(here.transfers, tap, tap), Metrics().face("client"))
        async with serving(app) as url, aiohttp.ClientSession() as session:
            hashed, size = request.digest.hasher(), 0
            async with session.get(f"{url}/v2/lib/app/blobs/{request.digest}?ns=registry.test") as response:
                async for chunk in response.content.iter_any():
                    hashed.update(chunk)
                    size += len(chunk)
                    for each in here.transfers._running:
                        assert os.fstat(each.descriptor).st_blocks * 512 <= 4 * PUNCH_BYTES + METADATA_BYTES
            assert (size, hashed.hexdigest()) == (len(data), request.digest.hex)
        assert len(tap.opened) == 1


@pytest.mark.parametrize("size", [5_000_000, 50_000_000])
async def test_a_file_asks_for_blocks_ahead_of_what_is_written_but_not_beyond_its_room(
    tmp_path: Path, size: int
) -> None:
    file = Spool(tmp_path, 10**9).take(Digest.of(b""), size, verify=False)
    assert file is not None
    ahead = []
    for written in range(1_000_000, size + 1, 1_000_000):
        assert await file.write([bytes(1_000_000)])
        reader = file.reader()
        held = os.fstat(reader).st_blocks * 512
        os.close(reader)
        assert written <= held <= min(written + spool.RESERVED_BYTES, size) + METADATA_BYTES
        ahead.append(held - written)
    assert max(ahead) >= min(spool.RESERVED_BYTES, size) / 2, "else each page is asked for by itself"
    await file.abort()


async def test_a_window_asks_for_blocks_again_in_the_room_that_was_punched(tmp_path: Path) -> None:
    file = Spool(tmp_path, spool.WINDOW_BYTES_MIN).take(Digest.of(b""), 10**9, verify=False)
    assert file is not None
    assert file.room == spool.WINDOW_BYTES_MIN == 4 * PUNCH_BYTES
    theirs, ours = socket.socketpair()
    with theirs, ours:
        ours.setblocking(False)
        for written in range(MEBIBYTE, 4 * PUNCH_BYTES + MEBIBYTE + 1, MEBIBYTE):
            sending = asyncio.create_task(asyncio.to_thread(theirs.sendall, bytes(MEBIBYTE)))
            left = MEBIBYTE
            while left:
                with suppress(BlockingIOError):
                    left -= await file.write_from(ours, left)
            await sending
            if written == 3 * PUNCH_BYTES:
                assert await file.punch(0, 2 * PUNCH_BYTES)
    reader = file.reader()
    held = os.fstat(reader).st_blocks * 512
    os.close(reader)
    assert 2 * PUNCH_BYTES + MEBIBYTE + spool.RESERVED_BYTES / 2 < held <= file.room + METADATA_BYTES
    await file.abort()


async def test_a_few_large_objects_leave_room_for_others(tmp_path: Path) -> None:
    """Three layers at a time, each larger than what the others leave: all can be shared."""
    room = Spool(tmp_path, 400_000_000)
    files = [room.take(Digest.of(b"%d" % size), size, verify=False) for size in (540_000_000, 200_000_000, 150_000_000)]
    assert all(file and file.room >= spool.WINDOW_BYTES_MIN for file in files)
    small = room.take(Digest.of(b"small"), 5_000_000, verify=False)
    assert small is not None
    assert small.room == 5_000_000, "what is small is kept whole"


async def test_nobody_joins_where_a_window_has_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "WINDOW_BYTES", 4 * PUNCH_BYTES)
    monkeypatch.setattr(transfer, "AHEAD_BYTES_MAX", PUNCH_BYTES)
    monkeypatch.setattr(transfer, "WINDOW_PIECE_BYTES", 1_000_000)
    data = random.Random(4).randbytes(60_000_000)
    tap = Tap(data, len(data))
    request = BLOB.by_digest(Digest.of(data))
    async with place(tmp_path, bytes_max=5 * PUNCH_BYTES) as here:
        content = await here.open(tap, request)
        received = 0
        async for piece in content.body.pieces():
            async for chunk in read_piece(piece):
                received += len(chunk)
            if received > 50_000_000:
                break
        assert await here.read(tap, request) == data
        assert len(tap.opened) == 2
        await content.body.aclose()


LARGE = random.Random(5).randbytes(60_000_000)
LARGE_BLOB = BLOB.by_digest(Digest.of(LARGE))


@asynccontextmanager
async def windows(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Place]:
    """A place where a large blob gets a window, which is full long before its source is as far ahead as it may be."""
    monkeypatch.setattr(spool, "WINDOW_BYTES", 4 * PUNCH_BYTES)
    monkeypatch.setattr(window, "HELD_UP_S", 0.2)
    async with place(directory, bytes_max=5 * PUNCH_BYTES) as here:
        yield here


async def test_a_full_window_that_nobody_reads_waits_for_who_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(LARGE, len(LARGE))
    async with windows(tmp_path, monkeypatch) as here:
        await (await here.open(tap, LARGE_BLOB)).body.aclose()
        await until(tap, 4 * PUNCH_BYTES)
        await asyncio.sleep(0.1)
        rest = LARGE_BLOB.in_part(ByteRange.starting_at(1_000_000))
        assert await here.read(tap, rest) == LARGE[1_000_000:]
        assert len(tap.opened) == 1


async def test_a_full_window_whose_only_reader_leaves_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LINGER_S", 0.1)
    tap = Tap(LARGE, len(LARGE))
    async with windows(tmp_path, monkeypatch) as here:
        content = await here.open(tap, LARGE_BLOB)
        await until(tap, 4 * PUNCH_BYTES)
        await asyncio.sleep(0.1)
        await content.body.aclose()
        await here.over()
        assert tap.closed == 1


async def test_a_reader_for_whom_others_waited_too_long_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(LARGE, len(LARGE))
    async with windows(tmp_path, monkeypatch) as here:
        slow = (await here.open(tap, LARGE_BLOB)).body
        pieces = slow.pieces()
        piece = await anext(pieces)
        assert await here.read(tap, LARGE_BLOB) == LARGE
        assert [chunk async for chunk in read_piece(piece)] == [], "there is a hole now"
        with pytest.raises(LeftBehindError):
            await anext(pieces)
        await slow.aclose()
        assert len(tap.opened) == 1


@pytest.mark.parametrize("broken", [False, True], ids=["left behind", "broken"])
async def test_only_a_giver_that_breaks_off_is_not_asked_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    tap, elsewhere = Tap(LARGE, len(LARGE), fails_at=PUNCH_BYTES if broken else None), Tap(LARGE, len(LARGE))
    async with windows(tmp_path, monkeypatch) as here:
        content = await tap.open(LARGE_BLOB) if broken else await here.open(tap, LARGE_BLOB)
        content.holder = "giver"
        body = resuming(elsewhere, LARGE_BLOB, content).body
        async with aclosing(body.pieces()) as pieces:
            received = bytearray(b"".join([chunk async for chunk in read_piece(await anext(pieces))]))
            if not broken:
                assert await here.read(tap, LARGE_BLOB) == LARGE
            async for piece in pieces:
                received += b"".join([chunk async for chunk in read_piece(piece)])
        assert received == LARGE
        await body.aclose()
        assert [request.left_out for request in elsewhere.opened] == [frozenset({"giver"} if broken else ())]


async def test_a_reader_that_moves_is_waited_for_however_slow_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(LARGE, len(LARGE))
    async with windows(tmp_path, monkeypatch) as here:
        monkeypatch.setattr(window, "HELD_UP_S", 0.5)
        slow = (await here.open(tap, LARGE_BLOB)).body
        fast = asyncio.create_task(here.read(tap, LARGE_BLOB))
        received = bytearray()
        async for piece in slow.pieces():
            await asyncio.sleep(0.02)
            async for chunk in read_piece(piece):
                received += chunk
        assert received == LARGE
        assert await fast == LARGE
        await slow.aclose()
        assert len(tap.opened) == 1


@dataclass(eq=False)
class Somebody:
    """A reader that the test moves."""

    position: int
    moves: int = 0
    left_behind: bool = False

    def take(self, length: int) -> None:
        """Go on by so much; not even to the end of the piece, if that is 0."""
        self.moves += 1
        self.position += length


class Paper:
    """A file without bytes."""

    room = 4 * PUNCH_BYTES

    async def punch(self, _start: int, _stop: int) -> bool:
        return True


@contextmanager
def full_window(*readers: Somebody) -> Iterator[tuple[set[window.Reader], transfer.Bell]]:
    """A window that has no room until somebody moves, who reads it, and what is to be rung when that changes."""
    present: set[window.Reader] = {*readers}
    stirred = transfer.Bell()
    each = window.Window(cast("spool.SpoolFile", Paper()), present, stirred.wait)
    waiting = asyncio.create_task(each.make_room(Paper.room, PUNCH_BYTES))
    yield present, stirred
    waiting.cancel()


def test_who_comes_while_another_stands_still_is_not_left_behind_in_its_place() -> None:
    async def scene() -> None:
        stalled, newcomer = Somebody(3 * transfer.WINDOW_PIECE_BYTES), Somebody(0)
        with full_window(Somebody(Paper.room), stalled) as (present, stirred):
            await asyncio.sleep(window.HELD_UP_S - 0.1)
            present.add(newcomer)
            stirred.ring()
            await asyncio.sleep(0.2)
            assert (stalled.left_behind, newcomer.left_behind) == (True, False)
            await asyncio.sleep(window.HELD_UP_S)
            assert newcomer.left_behind, "it stood still as well"

    run(scene())


def test_who_comes_when_another_moves_in_time_gets_time_of_its_own() -> None:
    async def scene() -> None:
        slow, newcomer = Somebody(3 * transfer.WINDOW_PIECE_BYTES), Somebody(0)
        with full_window(Somebody(Paper.room), slow) as (present, stirred):
            await asyncio.sleep(window.HELD_UP_S - 0.2)
            present.add(newcomer)
            stirred.ring()
            await asyncio.sleep(0.1)
            slow.take(transfer.WINDOW_PIECE_BYTES)
            stirred.ring()
            await asyncio.sleep(0.2)
            assert (slow.left_behind, newcomer.left_behind) == (False, False)

    run(scene())


def test_who_takes_long_for_a_step_but_moves_is_waited_for_until_it_stands_still() -> None:
    async def scene() -> None:
        slow = Somebody(0)
        with full_window(Somebody(Paper.room), slow):
            for _ in range(10):
                await asyncio.sleep(0.9 * window.HELD_UP_S)
                assert not slow.left_behind
                slow.take(0)
            await asyncio.sleep(2.1 * window.HELD_UP_S)
            assert slow.left_behind

    run(scene())


async def test_what_is_taken_of_a_piece_shows_that_its_reader_moves(tmp_path: Path) -> None:
    tap = Tap()
    async with place(tmp_path) as here:
        body = (await here.open(tap)).body
        (reader,) = next(iter(here.transfers._running))._readers
        async with aclosing(body.pieces()) as pieces:
            piece = await anext(pieces)
            chunks = read_piece(piece)
            before = reader.moves
            await anext(chunks)
            await chunks.aclose()
            assert reader.moves > before
        await body.aclose()


@pytest.mark.parametrize("readers", [1, 2])
async def test_readers_who_are_as_slow_as_each_other_are_all_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readers: int
) -> None:
    tap = Tap(LARGE, len(LARGE))
    async with windows(tmp_path, monkeypatch) as here:
        bodies = [(await here.open(tap, LARGE_BLOB)).body for _ in range(readers)]
        pauses = [await anext(body.pieces()) for body in bodies]
        await until(tap, 4 * PUNCH_BYTES)
        await asyncio.sleep(3 * window.HELD_UP_S)
        assert [moved(piece) for piece in pauses] == [0] * readers
        assert await asyncio.gather(*(read_all(body, len(LARGE)) for body in bodies)) == [LARGE] * readers
        assert len(tap.opened) == 1


async def test_a_client_that_is_left_behind_sees_right_bytes_and_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(LARGE, len(LARGE))
    path = f"/v2/lib/app/blobs/{LARGE_BLOB.digest}?ns=registry.test"
    async with windows(tmp_path, monkeypatch) as here:
        app = create_registry(Shared(here.transfers, tap, tap), Metrics().face("client"))
        async with serving(app) as url:
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            async with aiohttp.ClientSession() as session, session.get(url + path) as response:
                assert await response.read() == LARGE
            received = await reader.read()
            assert len(received) < len(LARGE)
            assert LARGE.startswith(received)
            writer.close()
        assert len(tap.opened) == 1


async def test_hashed_bytes_that_are_right_are_given_to_the_end(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        assert await here.read(Tap(), verify=True) == DATA
        assert here.corrupt == []


async def test_the_end_of_wrong_bytes_is_given_to_nobody_and_their_giver_is_named(tmp_path: Path) -> None:
    tap = Tap(DATA[:-1] + b"x")
    async with place(tmp_path) as here:
        content = await here.open(tap, verify=True)
        with pytest.raises(CorruptError):
            await read_all(content.body, len(DATA))
        assert here.corrupt == [(DIGEST, ["upstream"], [])]
        assert await here.read(Tap(), verify=True) == DATA, "wrong bytes are not shared with those who come later"


async def test_relays_of_wrong_bytes_are_named_as_well(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        content = await here.open(Tap(DATA[:-1] + b"x", relays=["rae"]), verify=True)
        with pytest.raises(CorruptError):
            await read_all(content.body, len(DATA))
        assert here.corrupt == [(DIGEST, ["upstream"], ["rae"])]


async def test_a_small_blob_that_comes_wrong_through_a_relay_is_for_that_to_blame(tmp_path: Path) -> None:
    wrong = Tap(bytes(1) + SMALL[1:], relays=["rae"])
    async with place(tmp_path) as here:
        content = await here.transfers.open(SMALL_BLOB, wrong, Tap(SMALL), verify=False)
        assert await read_all(content.body, len(SMALL)) == SMALL
        assert len(wrong.opened) == 1
        assert here.corrupt == []


async def test_a_transfer_that_is_not_hashed_is_not_shared_with_who_wants_it_verified(tmp_path: Path) -> None:
    wrong, right = Tap(b"x" + DATA[1:]), Tap()
    async with place(tmp_path) as here:
        assert await here.read(wrong) != DATA
        assert await here.read(right, verify=True) == DATA
        assert await here.read(wrong) == DATA


async def test_what_is_in_flight_is_given_to_peers_in_the_name_of_the_same_registry_alone(tmp_path: Path) -> None:
    tap = Tap(open_until=1_000_000)
    async with place(tmp_path) as here:
        peers = InFlight(here.transfers)
        with pytest.raises(NotFoundError):
            await peers.open(BLOB)
        content = await here.open(tap)
        follower = await peers.open(BLOB)
        assert (await peers.resolve(BLOB)).size == len(DATA)
        elsewhere = Request(Repository("other.test", "lib/app"), Kind.BLOB, DIGEST)
        for ask in (peers.open, peers.resolve):
            with pytest.raises(NotFoundError):
                await ask(elsewhere)
        tap.open_until = len(DATA)
        assert await read_all(follower.body, len(DATA)) == DATA
        await content.body.aclose()
        assert len(tap.opened) == 1


@pytest.mark.timeout(60)
async def test_a_thousand_slow_readers_cost_neither_threads_nor_memory(tmp_path: Path) -> None:
    tap = Tap()
    request = f"GET /v2/lib/app/blobs/{DIGEST}?ns=registry.test HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    async with place(tmp_path) as here, AsyncExitStack() as stack:
        app = create_registry(Shared(here.transfers, tap, tap), Metrics().face("client"))
        url = await stack.enter_async_context(serving(app))
        host, port = url.removeprefix("http://").split(":")

        async def slow_reader() -> socket.socket:
            reader = stack.enter_context(socket.socket())
            reader.setblocking(False)
            await loop.sock_connect(reader, (host, int(port)))
            await loop.sock_sendall(reader, request)
            assert await loop.sock_recv(reader, 15) == b"HTTP/1.1 200 OK"
            return reader

        for _ in range(10):
            await slow_reader()
        await asyncio.sleep(0.3)
        threads, memory = threading.active_count(), resident_bytes()
        readers = [await slow_reader() for _ in range(990)]
        assert threading.active_count() <= threads
        assert resident_bytes() - memory < 990 * 30_000
        assert len(tap.opened) == 1
        received = b""
        while len(received.partition(b"\r\n\r\n")[2]) < len(DATA):
            received += await loop.sock_recv(readers[-1], 2**22)
        assert DIGEST.matches(received.partition(b"\r\n\r\n")[2])
        for reader in readers:
            reader.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_ten_thousand_requests_that_are_given_up_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LINGER_S", 0.05)
    tap = Tap(DATA[:300_000], 200_000)
    request = BLOB.by_digest(Digest.of(tap.data))
    before = descriptors()
    async with place(tmp_path) as here:

        async def give_up(number: int) -> None:
            opening = asyncio.create_task(here.open(tap, request))
            for _ in range(number % 7):
                await asyncio.sleep(0.002)
            opening.cancel()
            try:
                content = await opening
            except asyncio.CancelledError:
                return
            async for piece in content.body.pieces():
                assert moved(piece) == 0
                break
            await content.body.aclose()

        for batch in range(50):
            await asyncio.gather(*(give_up(batch + number) for number in range(200)))
        await here.over()
        assert not here.transfers._openings
        assert len(asyncio.all_tasks()) == 1
    assert descriptors() == before


async def test_a_transfer_that_lost_its_sources_goes_on_where_it_is_when_a_client_comes_back(tmp_path: Path) -> None:
    tap = Tap(fails_at=5_000_000)

    class Lost:
        """No other source goes on, so what came is kept for whoever brings one."""

        async def resolve(self, request: Request) -> Descriptor:
            return await tap.resolve(request)

        async def open(self, request: Request) -> Content:
            return resuming(Missing(), request, await tap.open(request))

    async with place(tmp_path) as here:
        content = await here.transfers.open(BLOB, Lost(), Lost(), verify=False)
        with pytest.raises(UnavailableError):
            await read_all(content.body, len(DATA))
        ((_, paused),) = list(here.transfers)
        assert paused.paused
        assert paused.written == 5_000_000
        with pytest.raises(NotFoundError):
            await InFlight(here.transfers).open(BLOB)
        tap.fails_at, tap.origin, tap.relays = None, "peer", ["rae"]
        rest = await here.open(tap, BLOB.in_part(ByteRange.starting_at(4_000_000)))
        assert await read_all(rest.body, len(DATA)) == DATA[4_000_000:]
        for each in (content, rest):
            assert (each.givers, each.relays) == (["upstream", "peer"], ["rae"])
        assert tap.opened[-1] == BLOB.in_part(ByteRange.starting_at(5_000_000))
        assert await here.read(tap) == DATA
        assert len(tap.opened) == 2


class Missing:
    """Has nothing."""

    async def resolve(self, request: Request) -> Descriptor:
        raise NotFoundError("nothing")

    async def open(self, request: Request) -> Content:
        raise NotFoundError("nothing")
