"""While nothing is pinned: what an earlier run pinned is released, and the operator is told if layers are lost.

Layers that vanish soon after they came, while the manifest that names them stays, were thrown away on purpose: a
failed pull or a removed image takes its manifest along. This node can then serve no image whole, which nothing
else would show. It is said once, since it is a fact of containerd's configuration (`discard_unpacked_layers`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from mirror.errors import SourceError, UnavailableError
from mirror.oci import DOCKER_MANIFEST, OCI_MANIFEST, manifest_media_type
from mirror.stores import ContentAdded, ContentRemoved
from mirror.stores.containerd.client import connect
from mirror.stores.containerd.pins import LEASE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import NoReturn

    from mirror.oci import Digest
    from mirror.stores import StoreEvent
    from mirror.stores.containerd.client import Absence
    from mirror.stores.containerd.content import ContentDirectory

RECENT_S: Final = 600.0
"""How long after its arrival an object is remembered: a pull with its unpacking may take as long."""

SETTLE_S: Final = 5.0
"""How long a garbage collection may take to delete the manifest too, if it does."""

MANIFEST_BYTES_MAX: Final = 64 * 1024
"""What is larger is not looked at: a manifest of 100 layers has 20 kB."""

VANISHED_MAX: Final = 1000
"""How many vanished objects are remembered until they are looked at; more would say nothing new."""

_MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
_log = logging.getLogger(__name__)


class Unpinned:
    """Has what `mirror.stores.containerd.pins.Pins` has: `note` says what happens; `keep` does the work."""

    def __init__(self, socket: Path, namespaces: Sequence[str], content: ContentDirectory, absence: Absence) -> None:
        self._socket = socket
        self._namespaces = tuple(namespaces)
        self._content = content
        self._absence = absence
        self._arrived: dict[Digest, float] = {}
        self._vanished: set[Digest] = set()
        self._woken = asyncio.Event()

    def note(self, batch: Sequence[StoreEvent]) -> None:
        """Take note of what arrived and what vanished; the listing at the start is no arrival."""
        now = time.monotonic()
        self._arrived = {digest: at for digest, at in self._arrived.items() if now - at < RECENT_S}
        for event in batch:
            match event:
                case ContentAdded(digest):
                    self._arrived[digest] = now
                    self._vanished.discard(digest)
                case ContentRemoved(digest) if self._arrived.pop(digest, None) and len(self._vanished) < VANISHED_MAX:
                    self._vanished.add(digest)
                    self._woken.set()
                case _:
                    pass

    async def keep(self) -> NoReturn:
        """Release what an earlier run pinned, then look out for lost layers until cancelled."""
        await self._release()
        told = False
        while True:
            await self._woken.wait()
            await asyncio.sleep(SETTLE_S)
            self._woken.clear()
            vanished, self._vanished = self._vanished, set()
            if not told and await self._belong_to_an_image(vanished):
                told = True
                _log.warning(
                    "containerd throws layers away once they are unpacked (discard_unpacked_layers), so this node "
                    "cannot serve them to others; set containerd_pin_bytes_max to keep the newest, or have containerd "
                    "keep all"
                )

    async def _release(self) -> None:
        while True:
            try:
                async with connect(self._socket) as containerd:
                    for namespace in self._namespaces:
                        await containerd.delete_lease(namespace, LEASE)
            except UnavailableError as reason:
                await self._absence.wait(reason)
            else:
                self._absence.over()
                return

    async def _belong_to_an_image(self, vanished: set[Digest]) -> bool:
        """Whether a manifest that came with them, and is still there, names any of the vanished objects."""
        for digest in list(self._arrived):
            try:
                data = await self._content.read(digest, MANIFEST_BYTES_MAX)
            except SourceError:
                continue
            if any(str(gone).encode() in data for gone in vanished) and manifest_media_type(data) in _MANIFESTS:
                return True
        return False
