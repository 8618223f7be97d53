"""The tags that a containerd knows, from its image records.

A record is named like `docker.io/library/nginx:1.27`; those with a digest in their name (`...@sha256:...`, and
`sha256:...`, which the CRI plugin makes beside them) say nothing new and are passed over. An event tells that a
namespace changed; what it has now is listed afresh. A listing of every namespace costs a millisecond, needs no
order among events, and makes up for any that was missed.

While containerd is away the last known names stay: the content they mean is still on the disk.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.errors import UnavailableError
from mirror.oci import Digest, InvalidReferenceError, Repository, Tag
from mirror.stores import TagRemoved, TagSet
from mirror.stores.containerd.client import connect
from mirror.stores.origins import read_names

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.stores import StoreEvent
    from mirror.stores.containerd.api.images_pb2 import Image
    from mirror.stores.containerd.client import Absence, Containerd

SETTLE_S: Final = 1.0
"""After subscribing, when to list again: containerd does not tell from when on it sends events."""

SOURCE_LABEL: Final = "containerd.io/distribution.source."
"""On what it pulled, containerd (1.3 and later) notes the registry in a label's name, the repositories in its value."""

GATHER_S: Final = 0.05
"""How long events are gathered before one listing answers them: one pull makes four within 10 ms."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a tag means, and since when, in seconds of Unix time."""

    digest: Digest
    at: int


Meanings = dict[tuple[Repository, Tag], Meaning]


class ImageNames:
    """The names in some namespaces of the containerd behind a socket, kept up to date by `changes`."""

    def __init__(self, socket: Path, namespaces: Sequence[str], reconcile_interval_s: float, absence: Absence) -> None:
        self._socket = socket
        self._namespaces = tuple(namespaces)
        self._reconcile_interval_s = reconcile_interval_s
        self._absence = absence
        self._known: Meanings = {}
        self.answering_since: float | None = None
        """Since when containerd answers (`time.monotonic`); None while it is away."""

    def digest(self, repository: Repository, tag: Tag) -> Digest | None:
        """What a tag meant when containerd was last listed."""
        meaning = self._known.get((repository, tag))
        return None if meaning is None else meaning.digest

    async def changes(self) -> AsyncGenerator[list[StoreEvent], None]:
        """All names (none when containerd is away), then every change. Never ends, and never raises."""
        first = True
        while True:
            try:
                async with connect(self._socket) as containerd, aclosing(self._listings(containerd)) as listings:
                    async for known in listings:
                        self._absence.over()
                        self.answering_since = self.answering_since or time.monotonic()
                        batch = difference(self._known, known)
                        self._known = known
                        if batch or first:
                            first = False
                            yield batch
            except UnavailableError as reason:
                self.answering_since = None
                if first:
                    first = False
                    yield []
                await self._absence.wait(reason)

    async def _listings(self, containerd: Containerd) -> AsyncGenerator[Meanings, None]:
        """What every namespace has: now, after events, and at intervals. Raises `UnavailableError`."""
        changed = asyncio.Event()
        events = asyncio.create_task(self._note_events(containerd, changed))
        events.add_done_callback(lambda _: changed.set())
        interval_s = SETTLE_S
        try:
            while True:
                changed.clear()
                if events.done():
                    await events
                yield meanings(
                    [image for namespace in self._namespaces for image in await containerd.images(namespace)]
                )
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), interval_s)
                await asyncio.sleep(GATHER_S)
                interval_s = self._reconcile_interval_s
        finally:
            events.cancel()
            await asyncio.gather(events, return_exceptions=True)

    async def _note_events(self, containerd: Containerd, changed: asyncio.Event) -> None:
        async with aclosing(containerd.image_events(self._namespaces)) as events:
            async for _ in events:
                changed.set()


def meanings(images: Iterable[Image]) -> Meanings:
    """What each tag means. Of records that disagree (of two namespaces) the last one written wins."""
    known: Meanings = {}
    for image in images:
        name = _parse(image.name)
        if name is None:
            continue
        try:
            meaning = Meaning(Digest.parse(image.target.digest), image.updated_at.seconds)
        except InvalidReferenceError:
            continue
        if name not in known or known[name].at < meaning.at:
            known[name] = meaning
    return known


def difference(before: Meanings, after: Meanings) -> list[StoreEvent]:
    """What changed: tags that are gone, then tags that are new, mean something else, or were confirmed later."""
    batch: list[StoreEvent] = [TagRemoved(*name) for name in before if name not in after]
    for name, meaning in after.items():
        if before.get(name) != meaning:
            batch.append(TagSet(*name, meaning.digest, meaning.at))
    return batch


def read_sources(labels: Mapping[str, str]) -> Iterator[Repository]:
    """The repositories that the labels of an object say it was pulled from: one label for each registry."""
    for label, value in labels.items():
        registry = label.removeprefix(SOURCE_LABEL)
        if registry != label:
            yield from read_names(f"{registry}/{name}" for name in value.split(","))


def _parse(name: str) -> tuple[Repository, Tag] | None:
    registry, _, path = name.partition("/")
    repository, _, tag = path.rpartition(":")
    try:
        return Repository.parse(registry, repository), Tag.parse(tag)
    except InvalidReferenceError:
        return None
