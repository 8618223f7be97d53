"""Pins: keeping content that containerd would throw away, such as layers that are unpacked.

With `discard_unpacked_layers`, as many operators set it, containerd drops a layer some 200 ms after its image is
there, and the node could serve nothing. Garbage collection spares what a *lease* holds. So every object that
arrives is put into one lease of each namespace, until their sizes pass a limit: then the oldest are released.
In a namespace that does not have the object, the lease's entry holds nothing.

Which objects are to be held is plain bookkeeping (`Newest`). `Pins` makes the leases equal to it, and starts over
from what containerd says whenever a call fails; so it does not matter when containerd is away, or for how long.
The lease outlives the agent: a restart of either loses no layer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.errors import NotFoundError, UnavailableError
from mirror.stores import ContentAdded, ContentRemoved
from mirror.stores.containerd.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import NoReturn

    from mirror.oci import Digest
    from mirror.stores import StoreEvent
    from mirror.stores.containerd.client import Absence, Containerd
    from mirror.stores.containerd.content import ContentDirectory

LEASE: Final = "skvaller"
"""The name of the lease; `ctr leases rm` of it releases everything."""


class Pins:
    """The content that is held in the lease of each namespace. `note` says what happens; `keep` does the work."""

    def __init__(
        self, socket: Path, namespaces: Sequence[str], bytes_max: int, content: ContentDirectory, absence: Absence
    ) -> None:
        self._socket = socket
        self._namespaces = tuple(namespaces)
        self._content = content
        self._absence = absence
        self._pinned = Newest(bytes_max)
        self._news: deque[StoreEvent] = deque()
        self._woken = asyncio.Event()

    def note(self, batch: Sequence[StoreEvent]) -> None:
        """Take note of what arrived and what vanished, in order; the listing at the start is no arrival."""
        self._news.extend(event for event in batch if isinstance(event, ContentAdded | ContentRemoved))
        if self._news:
            self._woken.set()

    async def keep(self) -> NoReturn:
        """Hold what is to be held, until cancelled. Waits for a containerd that is away."""
        while True:
            await self._reckon()
            try:
                async with connect(self._socket) as containerd:
                    await self._hold(containerd)
            except UnavailableError as reason:
                await self._absence.wait(reason)

    async def _hold(self, containerd: Containerd) -> NoReturn:
        """Count what the leases hold already, then make and keep them equal to the bookkeeping.

        What is listed and gone, or too old, is thereby released, whether an earlier run left it or a call failed.
        Raises `UnavailableError`, after which to start over.
        """
        held: dict[str, set[Digest]] = {}
        for namespace in self._namespaces:
            await containerd.create_lease(namespace, LEASE)
            held[namespace] = await containerd.leased(namespace, LEASE)
        pins = [await self._pin(digest) for digest in set().union(*held.values())]
        self._pinned.add(pin for pin in pins if pin is not None)
        self._absence.over()
        while True:
            self._woken.clear()
            await self._reckon()
            wanted = self._pinned.digests()
            for namespace, digests in held.items():
                for digest in sorted(wanted - digests):
                    await containerd.hold(namespace, LEASE, digest)
                    digests.add(digest)
                for digest in sorted(digests - wanted):
                    await containerd.release(namespace, LEASE, digest)
                    digests.remove(digest)
            await self._woken.wait()

    async def _reckon(self) -> None:
        """Bring the bookkeeping up to date, without containerd."""
        while self._news:
            match self._news.popleft():
                case ContentAdded(digest):
                    with suppress(UnavailableError):  # what the disk will not even tell of cannot be served either
                        pin = await self._pin(digest)
                        self._pinned.add([pin] if pin else [])
                case ContentRemoved(digest):
                    self._pinned.discard(digest)

    async def _pin(self, digest: Digest) -> Pin | None:
        """The pin of an object; None when it is gone. Raises `UnavailableError`."""
        try:
            status = await self._content.status(digest)
        except NotFoundError:
            return None
        return Pin(digest, status.st_size, status.st_mtime)


@dataclass(frozen=True, slots=True)
class Pin:
    """An object that may be held: its size in bytes, and when it was committed in seconds of Unix time."""

    digest: Digest
    size: int
    committed_at: float


class Newest:
    """The newest objects whose sizes together are at most `bytes_max`; an object larger than that is none of them."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pins: dict[Digest, Pin] = {}

    def digests(self) -> set[Digest]:
        """The objects."""
        return set(self._pins)

    def size(self) -> int:
        """Their bytes together."""
        return sum(pin.size for pin in self._pins.values())

    def add(self, pins: Iterable[Pin]) -> None:
        """Count objects in, in whatever order; the oldest of all leave until the others are within the limit."""
        self._pins.update({pin.digest: pin for pin in pins if pin.size <= self._bytes_max})
        excess = self.size() - self._bytes_max
        if excess <= 0:
            return
        for pin in sorted(self._pins.values(), key=lambda pin: (pin.committed_at, pin.digest)):
            if excess <= 0:
                return
            del self._pins[pin.digest]
            excess -= pin.size

    def discard(self, digest: Digest) -> None:
        """Count an object out, if it is counted."""
        self._pins.pop(digest, None)

    def check(self) -> None:
        """Raise `AssertionError` when the limit is passed."""
        assert self.size() <= self._bytes_max
