"""The image layout store: what it keeps, what it lets go, and what it says of both."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import resource
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import CorruptError, NotFoundError
from mirror.image_builder import build_image
from mirror.oci import OCI_MANIFEST, OCTET_STREAM, ByteRange, Digest, Kind, Repository, Tag
from mirror.source import Request, read_all
from mirror.stores import ContentAdded, ContentRemoved, TagRemoved, TagSet, layout_files, oci_layout
from mirror.stores.layout_files import LayoutError
from mirror.stores.oci_layout import AWAITED_TAGS_MAX, INGESTS_MAX, TAG_REFRESH_S, OciLayout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mirror.oci import Reference
    from mirror.stores import StoreEvent

REPOSITORY = Repository.parse("registry.example:5000", "team/app")
PATIENCE_S = 10.0
MEBIBYTE = 1024 * 1024


def manifest(text: str = "") -> bytes:
    """A small image manifest; `text` makes it differ."""
    return json.dumps({"mediaType": OCI_MANIFEST, "config": {}, "layers": [], "annotations": {"is": text}}).encode()


def asked(reference: Reference, kind: Kind = Kind.BLOB, part: ByteRange | None = None) -> Request:
    return Request(REPOSITORY, kind, reference, range=part)


def path_of(root: Path, digest: Digest) -> Path:
    return root / "blobs" / digest.algorithm / digest.hex


def blobs_on_disk(root: Path) -> set[Digest]:
    return {Digest.parse(f"{path.parent.name}:{path.name}") for path in root.glob("blobs/*/*")}


def tags_on_disk(root: Path) -> dict[str, str]:
    entries = json.loads((root / "index.json").read_bytes())["manifests"]
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}


def unfinished(root: Path) -> list[Path]:
    return list((root / ".skvaller-unfinished").iterdir())


async def keep(store: OciLayout, data: bytes, digest: Digest | None = None) -> bool:
    """Put an object through the store in two pieces; whether it was kept."""
    ingest = await store.ingest(asked(digest or Digest.of(data)), len(data))
    assert ingest is not None
    if not await ingest.write([data[:3], data[3:]]):
        await ingest.abort()
        return False
    return await ingest.commit()


async def read(store: OciLayout, request: Request) -> bytes:
    return await read_all((await store.open(request)).body, 1 << 20)


async def known(store: OciLayout) -> set[Digest]:
    """The listing that a watcher is given first."""
    events = store.watch()
    listing = await anext(events)
    await events.aclose()
    return {event.digest for event in listing if isinstance(event, ContentAdded)}


class Watcher:
    """Somebody who follows a store and holds each event against what was told before."""

    def __init__(self) -> None:
        self.digests: set[Digest] = set()
        self.tags: dict[tuple[Repository, Tag], Digest] = {}
        self.changed = asyncio.Event()

    def take(self, events: list[StoreEvent]) -> None:
        for event in events:
            match event:
                case ContentAdded(digest):
                    assert digest not in self.digests, "told twice that it came"
                    self.digests.add(digest)
                case ContentRemoved(digest):
                    self.digests.remove(digest)
                case TagSet(repository, tag, digest):
                    assert digest in self.digests
                    self.tags[repository, tag] = digest
                case TagRemoved(repository, tag):
                    del self.tags[repository, tag]
        self.changed.set()

    def meanings(self) -> set[str]:
        return {str(digest) for digest in self.tags.values()}

    async def sees(self, digests: set[Digest], tags: set[Digest] | None = None) -> None:
        """Wait until exactly these digests, and tags that mean exactly those, are known."""
        async with asyncio.timeout(PATIENCE_S):
            while self.digests != digests or (tags is not None and set(self.tags.values()) != tags):
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def watching(store: OciLayout) -> AsyncIterator[Watcher]:
    watcher = Watcher()

    async def follow() -> None:
        async for events in store.watch():
            watcher.take(events)

    task = asyncio.create_task(follow())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond `size` bytes of a file, as it does when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Keeping and giving


async def test_what_was_kept_is_given_by_digest(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    assert await keep(store, b"a layer")
    digest = Digest.of(b"a layer")
    content = await store.open(asked(digest))
    assert (content.descriptor.media_type, content.descriptor.size) == (OCTET_STREAM, 7)
    assert (content.origin, content.positions) == ("store", range(7))
    assert await read_all(content.body, 100) == b"a layer"
    assert path_of(tmp_path, digest).read_bytes() == b"a layer"
    assert await store.resolve(asked(digest)) == content.descriptor


async def test_an_object_of_many_chunks_is_kept_whole(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 8 * MEBIBYTE)
    data = os.urandom(2 * MEBIBYTE + 17)
    ingest = await store.ingest(asked(Digest.of(data)), len(data))
    assert ingest is not None
    for start in range(0, len(data), 65_537):
        assert await ingest.write([data[start : start + 65_537]])
    assert await ingest.commit()
    assert path_of(tmp_path, Digest.of(data)).read_bytes() == data


async def test_sha512_is_kept_like_sha256(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    digest = Digest.of(b"a layer", "sha512")
    assert await keep(store, b"a layer", digest)
    assert await read(store, asked(digest)) == b"a layer"


async def test_a_store_of_no_bytes_keeps_nothing(tmp_path: Path) -> None:
    assert await OciLayout(tmp_path, 0).ingest(asked(Digest.of(b"a layer")), 7) is None


async def test_an_object_without_bytes_is_kept(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    assert await keep(store, b"")
    assert await read(store, asked(Digest.of(b""))) == b""


@pytest.mark.parametrize(
    ("header", "expected"), [("bytes=2-", b"layer"), ("bytes=0-0", b"a"), ("bytes=-2", b"er"), ("bytes=9-", b"")]
)
async def test_a_range_gives_just_these_bytes(tmp_path: Path, header: str, expected: bytes) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, b"a layer")
    request = asked(Digest.of(b"a layer"), part=ByteRange.parse(header))
    assert await read(store, request) == expected


async def test_a_manifest_gets_its_media_type_from_its_bytes(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    request = asked(Digest.of(manifest()), Kind.MANIFEST)
    assert (await store.resolve(request)).media_type == OCI_MANIFEST
    assert (await store.open(request)).descriptor.media_type == OCI_MANIFEST


async def test_a_blob_is_not_given_as_a_manifest(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, b"a layer")
    request = asked(Digest.of(b"a layer"), Kind.MANIFEST)
    with pytest.raises(NotFoundError):
        await store.resolve(request)
    with pytest.raises(NotFoundError):
        await store.open(request)
    assert await read(store, asked(request.digest)) == b"a layer"


async def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    for request in (asked(Digest.of(b"x")), asked(Tag.parse("v1"), Kind.MANIFEST)):
        with pytest.raises(NotFoundError):
            await store.resolve(request)
        with pytest.raises(NotFoundError):
            await store.open(request)


async def test_content_and_tags_survive_a_restart(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    tagged = asked(Tag.parse("v1"), Kind.MANIFEST)
    await store.remember(tagged, Digest.of(manifest()))
    assert await read(OciLayout(tmp_path, 1000), tagged) == manifest()


# Ingesting


async def test_wrong_bytes_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = OciLayout(tmp_path, 1000)
    with pytest.raises(CorruptError):
        await keep(store, b"wrong", Digest.of(b"right"))
    assert blobs_on_disk(tmp_path) == set()
    assert unfinished(tmp_path) == []
    assert "do not have this digest" in caplog.text
    assert await keep(store, b"right"), "the next try is welcome"


async def test_an_aborted_ingest_leaves_nothing(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    request = asked(Digest.of(b"abc"))
    ingest = await store.ingest(request, 3)
    assert ingest is not None
    assert await ingest.write([b"ab"])
    await ingest.abort()
    assert not await ingest.write([b"c"])
    assert not await ingest.commit()
    assert unfinished(tmp_path) == []
    assert await keep(store, b"abc")


async def test_abort_after_commit_does_nothing(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    ingest = await store.ingest(asked(Digest.of(b"abc")), 3)
    assert ingest is not None
    await ingest.write([b"abc"])
    assert await ingest.commit()
    await ingest.abort()
    assert await read(store, asked(Digest.of(b"abc"))) == b"abc"


async def test_the_same_digest_is_ingested_once_at_a_time(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    request = asked(Digest.of(b"abc"))
    first = await store.ingest(request, 3)
    assert first is not None
    assert await store.ingest(request, 3) is None
    await first.write([b"abc"])
    assert await first.commit()
    assert await store.ingest(request, 3) is None


async def test_ingests_beyond_the_limit_are_declined(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    begun = [await store.ingest(asked(Digest.of(bytes([number]))), 1) for number in range(INGESTS_MAX)]
    assert None not in begun
    assert await store.ingest(asked(Digest.of(b"one more")), 8) is None
    for ingest in begun:
        assert ingest is not None
        await ingest.abort()
    assert await keep(store, b"one more")
    store.check()


async def test_a_full_disk_ends_the_ingest_quietly_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = OciLayout(tmp_path, 8 * MEBIBYTE)
    await keep(store, b"before")
    large = bytes(3 * MEBIBYTE)
    with files_limited_to(MEBIBYTE):
        assert not await keep(store, large)
    assert caplog.text.count(os.strerror(errno.EFBIG)) == 1
    assert unfinished(tmp_path) == []
    assert await read(store, asked(Digest.of(b"before"))) == b"before"
    assert await keep(store, large), "there is room again"


async def test_a_commit_whose_caller_is_cancelled_is_finished(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    ingest = await store.ingest(asked(Digest.of(b"abc")), 3)
    assert ingest is not None
    await ingest.write([b"abc"])
    async with watching(store) as watcher:
        commit = asyncio.create_task(ingest.commit())
        await asyncio.sleep(0)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        await ingest.abort()
        await watcher.sees({Digest.of(b"abc")})
    store.check()


async def test_what_a_crash_left_behind_is_removed_at_the_start(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 2 * MEBIBYTE)
    ingest = await store.ingest(asked(Digest.of(b"abc")), 3)
    assert ingest is not None
    await ingest.write([bytes(MEBIBYTE)])
    assert len(unfinished(tmp_path)) == 1
    OciLayout(tmp_path, 1000)
    assert unfinished(tmp_path) == []
    await ingest.abort()


async def test_an_early_hang_up_costs_no_file_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_files, "open_cached", lambda _: None)
    store = OciLayout(tmp_path, 1000)
    await keep(store, b"abc")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        opening = asyncio.create_task(store.open(asked(Digest.of(b"abc"))))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
    async with asyncio.timeout(PATIENCE_S):
        while len(list(Path("/proc/self/fd").iterdir())) > before:
            await asyncio.sleep(0.01)


# Making room


async def test_the_least_recently_used_blob_goes_first(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 10)
    for data in (b"aaaa", b"bbbb"):
        await keep(store, data)
    await read(store, asked(Digest.of(b"aaaa")))
    await keep(store, b"cccc")
    assert blobs_on_disk(tmp_path) == {Digest.of(b"aaaa"), Digest.of(b"cccc")}
    store.check()


async def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 10)
    for data in (b"aaaa", b"bbbb"):
        await keep(store, data)
        await asyncio.sleep(0.02)  # coarser than the clock of any file system
    await read(store, asked(Digest.of(b"aaaa")))
    store = OciLayout(tmp_path, 10)
    await keep(store, b"cccc")
    assert blobs_on_disk(tmp_path) == {Digest.of(b"aaaa"), Digest.of(b"cccc")}


async def test_an_object_larger_than_the_limit_is_never_kept(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 10)
    await keep(store, b"small")
    large = Digest.of(b"much too large")
    assert await store.ingest(asked(large), 14) is None
    ingest = await store.ingest(asked(large), 1)
    assert ingest is not None
    assert not await ingest.write([b"much too large"]), "it was said to be smaller"
    await ingest.abort()
    assert blobs_on_disk(tmp_path) == {Digest.of(b"small")}
    assert unfinished(tmp_path) == []


async def test_a_smaller_limit_holds_from_the_start(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 100)
    for data in (b"aaaa", b"bbbb", b"12345678"):
        await keep(store, data)
        await asyncio.sleep(0.02)
    store = OciLayout(tmp_path, 5)
    store.check()
    assert blobs_on_disk(tmp_path) == {Digest.of(b"bbbb")}


async def test_an_open_blob_is_read_to_its_end_after_it_went(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 10)
    await keep(store, b"aaaaaaaa")
    content = await store.open(asked(Digest.of(b"aaaaaaaa")))
    await keep(store, b"bbbbbbbb")
    assert blobs_on_disk(tmp_path) == {Digest.of(b"bbbbbbbb")}
    assert await read_all(content.body, 100) == b"aaaaaaaa"


async def test_a_tag_goes_with_its_manifest(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, len(manifest()))
    await keep(store, manifest())
    tagged = asked(Tag.parse("v1"), Kind.MANIFEST)
    await store.remember(tagged, Digest.of(manifest()))
    async with watching(store) as watcher:
        await watcher.sees({Digest.of(manifest())}, {Digest.of(manifest())})
        await keep(store, b"something else")
        await watcher.sees({Digest.of(b"something else")}, set())
    assert tags_on_disk(tmp_path) == {}
    with pytest.raises(NotFoundError):
        await store.resolve(tagged)


# Tags


async def test_a_remembered_tag_is_the_whole_name_in_the_index(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    tagged = asked(Tag.parse("v1"), Kind.MANIFEST)
    await store.remember(tagged, Digest.of(manifest()))
    assert tags_on_disk(tmp_path) == {"registry.example:5000/team/app:v1": str(Digest.of(manifest()))}
    assert (await store.resolve(tagged)).digest == Digest.of(manifest())
    assert await read(store, tagged) == manifest()


async def test_a_tag_may_be_remembered_before_its_manifest_comes(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    tagged = asked(Tag.parse("v1"), Kind.MANIFEST)
    await store.remember(tagged, Digest.of(manifest()))
    with pytest.raises(NotFoundError):
        await store.resolve(tagged)
    await keep(store, manifest())
    assert await read(store, tagged) == manifest()


async def test_a_moved_tag_means_the_new_manifest(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    tagged = asked(Tag.parse("v1"), Kind.MANIFEST)
    for text in ("old", "new"):
        await keep(store, manifest(text))
        await store.remember(tagged, Digest.of(manifest(text)))
    assert await read(store, tagged) == manifest("new")
    assert len(tags_on_disk(tmp_path)) == 1


async def test_a_tag_that_means_the_same_is_written_again_only_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time())
    monkeypatch.setattr(time, "time", lambda: now)
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    tagged = asked(Tag.parse("v1"), Kind.MANIFEST)
    written = []
    for passed in (0, TAG_REFRESH_S - 1, TAG_REFRESH_S):
        monkeypatch.setattr(time, "time", lambda passed=passed: now + passed)
        await store.remember(tagged, Digest.of(manifest()))
        written.append((tmp_path / "index.json").read_bytes())
    assert written[0] == written[1] != written[2]


async def test_tags_whose_manifests_never_come_are_bounded(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    for number in range(AWAITED_TAGS_MAX + 5):
        await store.remember(asked(Tag.parse(f"v{number}"), Kind.MANIFEST), Digest.of(b"never"))
    store.check()


# Layouts and programs of others


async def test_an_image_that_another_program_built_is_served(tmp_path: Path) -> None:
    name = f"{REPOSITORY}:v1"
    described = build_image(tmp_path, name, {"amd64": [[("etc/motd", b"hello")]]})
    store = OciLayout(tmp_path, 1 << 20)
    data = await read(store, asked(Tag.parse("v1"), Kind.MANIFEST))
    assert Digest.of(data) == described.digest
    for layer in json.loads(data)["layers"]:
        blob = await read(store, asked(Digest.parse(layer["digest"])))
        assert Digest.of(blob) == Digest.parse(layer["digest"])


@pytest.mark.parametrize(
    ("annotations", "found"),
    [
        ({"org.opencontainers.image.ref.name": "registry.example:5000/team/app:v1"}, True),
        (
            {
                "org.opencontainers.image.ref.name": "v1",
                "io.containerd.image.name": "registry.example:5000/team/app:v1",
            },
            True,
        ),
        ({"org.opencontainers.image.ref.name": "v1"}, False),
        ({"org.opencontainers.image.ref.name": "team/app:v1"}, False),
        ({"org.opencontainers.image.ref.name": ["v1"]}, False),
        ([], False),
    ],
)
async def test_names_of_other_programs_count_when_they_are_whole(
    tmp_path: Path, annotations: object, found: bool
) -> None:
    digest = Digest.of(manifest())
    OciLayout(tmp_path, 1000)
    path_of(tmp_path, digest).write_bytes(manifest())
    entry = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": 1, "annotations": annotations}
    index = {"schemaVersion": 2, "manifests": [entry], "extra": "kept"}
    (tmp_path / "index.json").write_text(json.dumps(index))
    store = OciLayout(tmp_path, 1000)
    assert json.loads((tmp_path / "index.json").read_bytes()) == index, "nothing of theirs is touched"
    tagged = asked(Tag.parse("v1"), Kind.MANIFEST)
    if found:
        assert (await store.resolve(tagged)).digest == digest
    else:
        with pytest.raises(NotFoundError):
            await store.resolve(tagged)


async def test_what_others_wrote_into_the_index_stays_when_a_tag_is_added(tmp_path: Path) -> None:
    theirs = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 1, "platform": {"os": "linux"}}
    index = {"schemaVersion": 2, "annotations": {"by": "hand"}, "manifests": [theirs]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    await store.remember(asked(Tag.parse("v1"), Kind.MANIFEST), Digest.of(manifest()))
    written = json.loads((tmp_path / "index.json").read_bytes())
    assert written["annotations"] == {"by": "hand"}
    assert written["manifests"][0] == theirs
    assert len(written["manifests"]) == 2


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"manifests": 1}', b'{"manifests": [1]}', b"\xff"])
async def test_a_broken_index_is_set_aside_and_not_lost(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "index.json").write_bytes(broken)
    store = OciLayout(tmp_path, 1000)
    assert [path.read_bytes() for path in tmp_path.glob("index.json.broken-*")] == [broken]
    await keep(store, manifest())
    await store.remember(asked(Tag.parse("v1"), Kind.MANIFEST), Digest.of(manifest()))
    assert len(tags_on_disk(tmp_path)) == 1


@pytest.mark.parametrize("marker", [b"{", b"[]", b'{"imageLayoutVersion": "2.0.0"}'])
def test_a_layout_of_another_version_is_refused(tmp_path: Path, marker: bytes) -> None:
    (tmp_path / "oci-layout").write_bytes(marker)
    with pytest.raises(LayoutError, match="layout"):
        OciLayout(tmp_path, 1000)
    assert (tmp_path / "oci-layout").read_bytes() == marker


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LayoutError, match="cannot be used"):
        OciLayout(tmp_path / "file" / "layout", 1000)


async def test_foreign_files_among_the_blobs_are_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    OciLayout(tmp_path, 1000)
    directory = tmp_path / "blobs" / "sha256"
    (directory / "README").write_text("mine")
    (directory / ("a" * 64)).symlink_to("/etc/passwd")
    (directory / ("b" * 64)).mkdir()
    assert await known(OciLayout(tmp_path, 1000)) == set()
    assert caplog.text.count("is not a blob") >= 3
    assert (directory / "README").read_text() == "mine"


async def test_bytes_that_a_power_cut_may_have_spoilt_are_hashed_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = OciLayout(tmp_path, 1000)
    before_boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1000
    for number, data in enumerate((b"long on the disk", b"good", b"spoilt")):
        await keep(store, data)
        written = before_boot - (0 if number else 10_000)
        os.utime(path_of(tmp_path, Digest.of(data)), (written, written))
    spoilt = path_of(tmp_path, Digest.of(b"spoilt"))
    spoilt.write_bytes(b"\0" * 6)
    os.utime(spoilt, (before_boot, before_boot))
    assert await known(OciLayout(tmp_path, 1000)) == {Digest.of(b"good"), Digest.of(b"long on the disk")}
    assert f"{spoilt} does not have the bytes of its name" in caplog.text


async def test_a_file_that_went_unseen_is_found_missing_when_it_is_asked_for(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    await store.remember(asked(Tag.parse("v1"), Kind.MANIFEST), Digest.of(manifest()))
    path_of(tmp_path, Digest.of(manifest())).unlink()
    for _ in range(2):
        with pytest.raises(NotFoundError):
            await store.open(asked(Digest.of(manifest())))
    assert tags_on_disk(tmp_path) == {}
    assert await keep(store, manifest())
    store.check()


# Watching


async def test_the_first_batch_is_the_whole_listing(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    await store.remember(asked(Tag.parse("v1"), Kind.MANIFEST), Digest.of(manifest()))
    events = store.watch()
    added, tagged = await anext(events)
    assert added == ContentAdded(Digest.of(manifest()))
    assert isinstance(tagged, TagSet)
    assert (tagged.repository, tagged.tag, tagged.digest) == (REPOSITORY, Tag("v1"), Digest.of(manifest()))
    assert abs(tagged.at - time.time()) < 60
    await events.aclose()


async def test_an_empty_store_says_so_at_once(tmp_path: Path) -> None:
    events = OciLayout(tmp_path, 1000).watch()
    assert await anext(events) == []
    await events.aclose()


async def test_what_another_program_copies_in_and_removes_is_seen(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1 << 20)
    async with watching(store) as watcher:
        await watcher.sees(set())
        described = await asyncio.to_thread(
            build_image, tmp_path, f"{REPOSITORY}:v1", {"amd64": [[("etc/motd", b"hello")]]}
        )
        await watcher.sees(blobs_on_disk(tmp_path), {described.digest})
        path_of(tmp_path, described.digest).unlink()
        await watcher.sees(blobs_on_disk(tmp_path), set())
    assert len(watcher.digests) == 2


async def test_corrupt_bytes_that_are_copied_in_are_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = OciLayout(tmp_path, 1000)
    async with watching(store) as watcher:
        await watcher.sees(set())
        path_of(tmp_path, Digest.of(b"right")).write_bytes(b"wrong")
        path_of(tmp_path, Digest.of(b"good")).write_bytes(b"good")
        await watcher.sees({Digest.of(b"good")})
    assert "does not have the bytes of its name" in caplog.text


async def test_changes_between_the_start_and_the_watch_are_found(tmp_path: Path) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, b"goes")
    path_of(tmp_path, Digest.of(b"goes")).unlink()
    path_of(tmp_path, Digest.of(b"comes")).write_bytes(b"comes")
    async with watching(store) as watcher:
        await watcher.sees({Digest.of(b"comes")})


async def test_without_inotify_the_directory_is_listed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(oci_layout, "Inotify", refuse)
    monkeypatch.setattr(oci_layout, "RESCAN_INTERVAL_S", 0.05)
    store = OciLayout(tmp_path, 1000)
    async with watching(store) as watcher:
        await watcher.sees(set())
        path_of(tmp_path, Digest.of(b"comes")).write_bytes(b"comes")
        await watcher.sees({Digest.of(b"comes")})


async def test_a_broken_index_of_another_program_changes_nothing_that_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = OciLayout(tmp_path, 1000)
    await keep(store, manifest())
    await store.remember(asked(Tag.parse("v1"), Kind.MANIFEST), Digest.of(manifest()))
    digests = {Digest.of(manifest())}
    async with watching(store) as watcher:
        await watcher.sees(digests, digests)
        (tmp_path / "index.json").write_bytes(b"{")
        path_of(tmp_path, Digest.of(b"later")).write_bytes(b"later")
        await watcher.sees(digests | {Digest.of(b"later")}, digests)
    assert "is not read" in caplog.text


# What holds after every operation

OBJECTS = [manifest(str(number)) + b" " * (17 * number) for number in range(8)]
LIMIT = 4 * len(OBJECTS[0])
operations = st.lists(
    st.tuples(
        st.sampled_from(["keep", "open", "remember", "unlink", "put", "restart", "spoil"]),
        st.integers(0, len(OBJECTS) - 1),
    ),
    max_size=25,
)


async def perform(store: OciLayout, root: Path, operation: str, number: int) -> None:
    """One operation of the store, or of another program in its directory."""
    data = OBJECTS[number]
    request = asked(Digest.of(data), Kind.MANIFEST)
    match operation:
        case "keep" | "spoil":
            ingest = await store.ingest(request, len(data))
            if ingest is not None:
                await ingest.write([data if operation == "keep" else data[:-1]])
                with suppress(CorruptError) if operation == "spoil" else nullcontext():
                    assert await ingest.commit() == (operation == "keep")
        case "open":
            with suppress(NotFoundError):
                assert await read(store, request) == data
        case "remember":
            await store.remember(asked(Tag.parse(f"v{number % 3}"), Kind.MANIFEST), request.digest)
        case "unlink":
            path_of(root, request.digest).unlink(missing_ok=True)
        case "put":
            path_of(root, request.digest).write_bytes(data)


@given(operations)
@settings(max_examples=40, deadline=None)
def test_the_limit_holds_and_what_is_watched_is_what_is_on_the_disk(steps: list[tuple[str, int]]) -> None:
    logging.disable(logging.WARNING)

    async def run(root: Path) -> None:
        store = OciLayout(root, LIMIT)
        pending = list(steps)
        while pending or store is not None:
            async with watching(store) as watcher:
                while pending and pending[0][0] != "restart":
                    operation, number = pending.pop(0)
                    await perform(store, root, operation, number)
                    store.check()
                    if operation in {"unlink", "put"}:
                        await settled(store, watcher, root)
                await settled(store, watcher, root)
                assert sum(path.stat().st_size for path in root.glob("blobs/*/*")) <= LIMIT
            if not pending:
                return
            pending.pop(0)
            store = OciLayout(root, LIMIT)

    try:
        with tempfile.TemporaryDirectory() as root:
            asyncio.run(run(Path(root)))
    finally:
        logging.disable(logging.NOTSET)


async def settled(store: OciLayout, watcher: Watcher, root: Path) -> None:
    """Wait until what the watcher was told is what is on the disk."""
    async with asyncio.timeout(PATIENCE_S):
        while watcher.digests != blobs_on_disk(root) or watcher.meanings() != set(tags_on_disk(root).values()):
            await asyncio.sleep(0.001)
    store.check()
