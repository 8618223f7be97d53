"""The content directory on a real file system: what is told is what is there, whatever happened in between."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import shutil
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asyncinotify import Mask

from mirror.errors import NotFoundError, UnavailableError
from mirror.oci import Digest
from mirror.stores import ContentAdded, ContentRemoved
from mirror.stores.containerd import content
from mirror.stores.containerd.content import ContentDirectory

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mirror.stores import StoreEvent

TOLD_WITHIN_S = 1.0


def add(root: Path, data: bytes, algorithm: str = "sha256") -> Digest:
    """Commit an object as containerd does: written elsewhere, then renamed into place."""
    digest = Digest.of(data, algorithm)
    (root / "ingest").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
    (root / "ingest" / "data").write_bytes(data)
    (root / "ingest" / "data").rename(root / "blobs" / algorithm / digest.hex)
    return digest


def remove(root: Path, digest: Digest) -> None:
    """Delete an object as a garbage collection does."""
    (root / "blobs" / digest.algorithm / digest.hex).unlink()


async def told_until(
    changes: AsyncGenerator[list[StoreEvent], None], last: StoreEvent, within_s: float = TOLD_WITHIN_S
) -> list[StoreEvent]:
    """Everything told up to and including `last`; fails when it is not told in time."""
    told: list[StoreEvent] = []
    async with asyncio.timeout(within_s):
        while last not in told:
            told += await anext(changes)
    return told


async def test_the_first_batch_is_the_listing_of_all_algorithms_without_foreign_files(tmp_path: Path) -> None:
    digests = [add(tmp_path, b"a"), add(tmp_path, b"b"), add(tmp_path, b"c", "sha512")]
    (tmp_path / "blobs" / "sha256" / "not-a-digest").touch()
    async with aclosing(ContentDirectory(tmp_path, 60).changes()) as changes:
        assert await anext(changes) == [ContentAdded(digest) for digest in sorted(digests)]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_an_object_is_told_once_when_it_comes_and_once_when_it_goes(tmp_path: Path, algorithm: str) -> None:
    add(tmp_path, b"before", algorithm)
    async with aclosing(ContentDirectory(tmp_path, 60).changes()) as changes:
        assert len(await anext(changes)) == 1
        digest = add(tmp_path, b"a", algorithm)
        assert await told_until(changes, ContentAdded(digest)) == [ContentAdded(digest)]
        add(tmp_path, b"a", algorithm)
        remove(tmp_path, digest)
        assert await told_until(changes, ContentRemoved(digest)) == [ContentRemoved(digest)]


async def test_a_download_under_way_is_not_told(tmp_path: Path) -> None:
    add(tmp_path, b"before")
    async with aclosing(ContentDirectory(tmp_path, 60).changes()) as changes:
        await anext(changes)
        (tmp_path / "ingest" / "half").write_bytes(b"half")
        (tmp_path / "blobs" / "sha256" / Digest.of(b"written in place").hex).write_bytes(b"writt")
        digest = add(tmp_path, b"whole")
        assert await told_until(changes, ContentAdded(digest)) == [ContentAdded(digest)]


@pytest.mark.parametrize(
    "existing", ["", "above/it", "above/it/root", "above/it/root/blobs", "above/it/root/blobs/sha512"]
)
async def test_directories_that_do_not_exist_yet_are_followed_once_they_do(tmp_path: Path, existing: str) -> None:
    root = tmp_path / "above" / "it" / "root"
    (tmp_path / existing).mkdir(parents=True, exist_ok=True)
    async with aclosing(ContentDirectory(root, 60).changes()) as changes:
        assert await anext(changes) == []
        following = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.05)
        first = add(root, b"first")
        assert ContentAdded(first) in await asyncio.wait_for(following, TOLD_WITHIN_S)
        second = add(root, b"second", "sha512")
        assert await told_until(changes, ContentAdded(second)) == [ContentAdded(second)]


@pytest.mark.parametrize(("path", "warnings"), [("root/content", 1), ("content", 0)])
async def test_one_warning_names_containerds_root_when_it_is_not_there_and_none_is_given_before_the_first_pull(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, warnings: int
) -> None:
    async with aclosing(ContentDirectory(tmp_path / path, 0.05).changes()) as changes:
        assert await anext(changes) == []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(changes), 0.3)
    assert [str(tmp_path / "root") in record.getMessage() for record in caplog.records] == [True] * warnings


async def test_a_directory_that_cannot_be_listed_loses_nothing_that_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(content, "POLL_INTERVAL_S", 0.02)
    first = add(tmp_path, b"first")
    async with aclosing(ContentDirectory(tmp_path, 0.05).changes()) as changes:
        assert await anext(changes) == [ContentAdded(first)]
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            following = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.3)
            second = add(tmp_path, b"second")
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(following, TOLD_WITHIN_S) == [ContentAdded(second)]
    assert len(caplog.records) == 1
    assert "run the agent as a user who may read it" in caplog.text


async def test_a_directory_that_is_removed_and_made_anew_is_followed_again(tmp_path: Path) -> None:
    old = [add(tmp_path, b"old 1"), add(tmp_path, b"old 2", "sha512")]
    async with aclosing(ContentDirectory(tmp_path, 60).changes()) as changes:
        await anext(changes)
        shutil.rmtree(tmp_path / "blobs")
        told: list[StoreEvent] = []
        async with asyncio.timeout(TOLD_WITHIN_S):
            while len(told) < len(old):
                told += await anext(changes)
        assert sorted(event.digest for event in told if isinstance(event, ContentRemoved)) == sorted(old)
        for data in (b"new", b"newer"):
            digest = add(tmp_path, data)
            assert await told_until(changes, ContentAdded(digest)) == [ContentAdded(digest)]


async def test_after_an_overflow_of_the_queue_the_difference_is_told(tmp_path: Path) -> None:
    queued_max = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    doomed = add(tmp_path, b"doomed")
    async with aclosing(ContentDirectory(tmp_path, 60).changes()) as changes:
        await anext(changes)
        noise = tmp_path / "blobs" / "sha256" / "noise"
        noise.touch()
        for _ in range(queued_max // 4 + 1):  # four events each; nobody reads them meanwhile
            noise.rename(noise.with_suffix(".moved"))
            noise.with_suffix(".moved").rename(noise)
        remove(tmp_path, doomed)
        fresh = add(tmp_path, b"fresh")
        told = await told_until(changes, ContentAdded(fresh), within_s=5)
        assert told == [ContentRemoved(doomed), ContentAdded(fresh)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
async def test_without_inotify_the_directory_is_polled_and_one_warning_says_what_to_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(content, "Inotify", refuse)
    monkeypatch.setattr(content, "POLL_INTERVAL_S", 0.02)
    first = add(tmp_path, b"first")
    with caplog.at_level(logging.WARNING):
        async with aclosing(ContentDirectory(tmp_path, 60).changes()) as changes:
            assert await anext(changes) == [ContentAdded(first)]
            for data in (b"second", b"third"):
                digest = add(tmp_path, data)
                assert await told_until(changes, ContentAdded(digest)) == [ContentAdded(digest)]
            remove(tmp_path, first)
            assert await told_until(changes, ContentRemoved(first)) == [ContentRemoved(first)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "fs.inotify.max_user_watches" in caplog.text


async def test_what_inotify_missed_is_told_after_the_rescan_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_ARRIVED", Mask(0))
    add(tmp_path, b"before")
    async with aclosing(ContentDirectory(tmp_path, 0.1).changes()) as changes:
        await anext(changes)
        digest = add(tmp_path, b"missed")
        assert await told_until(changes, ContentAdded(digest)) == [ContentAdded(digest)]


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_told_adds_up_to_what_is_there(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    present: dict[Digest, None] = {}
    told: set[Digest] = set()
    async with aclosing(ContentDirectory(tmp_path, 60).changes()) as changes:
        for _ in range(150):
            action = chance.random()
            if action < 0.5:
                present[add(tmp_path, chance.randbytes(2), chance.choice(content.ALGORITHMS))] = None
            elif action < 0.9 and present:
                digest = chance.choice(list(present))
                del present[digest]
                remove(tmp_path, digest)
            elif action < 0.93:
                shutil.rmtree(tmp_path / "blobs", ignore_errors=True)
                present.clear()
            else:
                await asyncio.sleep(0.001)
        last = add(tmp_path, b"the last")
        present[last] = None
        async with asyncio.timeout(5):
            while told != set(present):
                for event in await anext(changes):
                    if isinstance(event, ContentAdded):
                        assert event.digest not in told
                        told.add(event.digest)
                    else:
                        assert isinstance(event, ContentRemoved)
                        told.remove(event.digest)


async def test_an_object_that_vanished_is_not_found(tmp_path: Path) -> None:
    directory = ContentDirectory(tmp_path, 60)
    digest = add(tmp_path, b"a")
    remove(tmp_path, digest)
    for attempt in (directory.open(digest), directory.size(digest), directory.read(digest, 10)):
        with pytest.raises(NotFoundError):
            await attempt


async def test_an_object_that_is_open_outlives_its_deletion(tmp_path: Path) -> None:
    digest = add(tmp_path, b"still here")
    descriptor, size = await ContentDirectory(tmp_path, 60).open(digest)
    remove(tmp_path, digest)
    assert os.pread(descriptor, size, 0) == b"still here"
    os.close(descriptor)


async def test_a_disk_that_fails_makes_the_store_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = add(tmp_path, b"a")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(content, "open_cached", lambda _: None)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(UnavailableError, match="the disk is broken"):
        await ContentDirectory(tmp_path, 60).open(digest)


async def test_a_descriptor_is_not_lost_when_its_reader_is_cancelled_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "open_cached", lambda _: None)
    digest = add(tmp_path, b"a")
    directory = ContentDirectory(tmp_path, 60)
    await directory.size(digest)  # the thread pool is up
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        opening = asyncio.create_task(directory.open(digest))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await asyncio.sleep(0.1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
