"""The journal keeps what was answered, and the log has a line of each."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from mirror import journal as journal_module
from mirror.journal import Journal
from mirror.logs import WARNINGS_MAX, WINDOW_S, JsonFormatter, RateLimit
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest
from mirror.pieces import Piece
from mirror.registry import create_registry
from mirror.source import Content, MemoryBody, Request
from mirror.trail import ID_HEADER, READER_HEADER, What
from tests.serving import serving

DATA = b"x" * 3000
DIGEST = Digest.of(DATA)


class Held(MemoryBody):
    """Gives the first bytes, and the rest when it may."""

    def __init__(self) -> None:
        super().__init__(DATA)
        self.may_end = asyncio.Event()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        yield DATA[:1000]
        await self.may_end.wait()
        yield DATA[1000:]


class Giving:
    """A source that a peer gave the object to, after another one did not have it."""

    def __init__(self, body: MemoryBody | None = None) -> None:
        self.body = body or MemoryBody(DATA)

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, DIGEST, len(DATA))

    async def open(self, request: Request) -> Content:
        request.trail.note(What.ABSENT, "store")
        request.trail.note(What.STALE, "peer", "node-b")
        return Content(Descriptor(OCTET_STREAM, DIGEST, len(DATA)), range(len(DATA)), self.body, "peer", "node-c")


@asynccontextmanager
async def journalled(
    face: str, body: MemoryBody | None = None
) -> AsyncGenerator[tuple[Journal, aiohttp.ClientSession]]:
    journal = Journal()
    observer = journal.face(face, Metrics().face(face))
    async with serving(create_registry(Giving(body), observer)) as url, aiohttp.ClientSession(url) as session:
        yield journal, session


async def fetch(session: aiohttp.ClientSession, name: str = "lib/app", **headers: str) -> None:
    async with session.get(f"/v2/{name}/blobs/{DIGEST}?ns=registry.test", headers=headers) as response:
        await response.read()


async def test_a_pull_is_one_entry_and_one_line_with_source_bytes_time_steps_and_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mirror.journal")
    async with journalled("client") as (journal, session):
        await fetch(session, **{ID_HEADER: "pull-7"})
    (entry,) = journal.recent()
    assert (entry.source, entry.holder, entry.bytes, entry.size, entry.status) == ("peer", "node-c", 3000, 3000, 200)
    assert entry.steps == ("not in the store", "node-b no longer has it")
    assert entry.complete
    assert 0 <= entry.seconds <= entry.duration_s < 5
    (line,) = caplog.messages
    left = "(not in the store, node-b no longer has it)"
    for part in ("registry.test/lib/app blob", str(DIGEST), "3,000 bytes", "peer node-c", left, "[pull-7]"):
        assert part in line
    (record,) = caplog.records
    written = json.loads(JsonFormatter().format(record))
    assert written["message"] == line
    assert (written["id"], written["bytes"], written["source"], written["level"]) == ("pull-7", 3000, "peer", "info")


async def test_what_a_peer_is_given_is_told_with_its_name_and_is_not_the_last_answer_of_the_runtime(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mirror.journal")
    async with journalled("peer") as (journal, session):
        await fetch(session, **{READER_HEADER: "node%20z"})
        await fetch(session, **{READER_HEADER: "x%0AERROR"})
    assert [entry.reader for entry in journal.recent()] == ["", "node z"], "a name never begins another line"
    assert "3,000 bytes to node z from peer" in caplog.messages[0]
    assert journal.last("registry.test", f"lib/app/blobs/{DIGEST}") is None


async def test_an_answer_is_seen_while_it_is_given() -> None:
    body = Held()
    async with journalled("client", body) as (journal, session), asyncio.timeout(5):
        fetching = asyncio.create_task(fetch(session))
        while [entry.bytes for entry in journal.running()] != [1000]:
            await asyncio.sleep(0.01)
        assert journal.recent() == []
        body.may_end.set()
        await fetching
        while list(journal.running()):
            await asyncio.sleep(0.01)
        assert [entry.bytes for entry in journal.recent()] == [3000]


async def test_only_so_much_is_kept_and_the_latest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ENTRIES_MAX", 2)
    async with journalled("client") as (journal, session):
        for name in ("a", "b", "c"):
            await fetch(session, name)
    assert journal.last("registry.test", f"a/blobs/{DIGEST}") is None
    assert journal.last("registry.test", f"c/blobs/{DIGEST}") is not None
    assert [entry.repository for entry in journal.recent(after=1)] == ["registry.test/c", "registry.test/b"]
    assert len(journal.recent(limit=1)) == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_same_warning_is_not_written_without_end_and_what_was_left_out_is_told() -> None:
    clock = Clock()
    limit = RateLimit(clock)

    def written(text: str, level: int = logging.WARNING) -> str | None:
        record = logging.LogRecord("mirror", level, "", 0, text, ("x",), None)
        return record.getMessage() if limit.filter(record) else None

    assert [written("peer %s fails") for _ in range(WARNINGS_MAX + 3)].count(None) == 3
    assert written("disk %s is full") == "disk x is full"
    assert all(written("pull %s", logging.INFO) for _ in range(3 * WARNINGS_MAX))
    clock.now = WINDOW_S
    assert written("peer %s fails") == "peer x fails (3 more like this were left out)"
    assert written("peer %s fails") == "peer x fails"
