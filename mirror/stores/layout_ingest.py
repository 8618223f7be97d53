"""An object on its way into an image layout: `layout_files.PartialBlob`, whose blocking calls are made in threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from mirror.stores.layout_files import PartialBlob


class LayoutIngest:
    """An object on its way into the directory; see `mirror.stores.Ingest`."""

    keeps = True
    verifies = True

    def __init__(self, blob: PartialBlob, end: Callable[..., Awaitable[bool]]) -> None:
        self._blob = blob
        self._end = end
        self._ended = False

    async def write(self, chunks: Sequence[bytes]) -> bool:
        """Hash and write bytes, in a thread."""
        return not self._ended and await asyncio.to_thread(self._blob.write, chunks)

    async def write_from(self, connection: socket.socket, wanted: int) -> int:
        """Hash and write what has come on a connection, in a thread."""
        return await asyncio.to_thread(self._blob.write_from, connection, wanted)

    def reader(self) -> int:
        """A descriptor that reads what was written, also after the object was kept or given up."""
        return self._blob.reader()

    async def commit(self) -> bool:
        """Keep the object if its bytes have its digest; false when the disk was full, or after `abort`."""
        if self._ended:
            return False
        self._ended = True
        return await self._end(self._blob, keep=True)

    async def abort(self) -> None:
        """Give the object up."""
        if not self._ended:
            self._ended = True
            await self._end(self._blob, keep=False)
