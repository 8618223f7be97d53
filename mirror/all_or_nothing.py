"""For clients that cannot go elsewhere for a blob: they get a manifest only when all of its blobs can be had here.

podman, skopeo and their kin, which name the registry in the path, take an image from the host that gave its manifest:
when that does not give a blob, their pull fails, though the registry would have it. So before such a client gets a
manifest, each blob is asked for as by a HEAD; where one is missing, there is no manifest here either, and the client
goes to the registry for the whole image. An index names no blobs, and passes.

Why a blob cannot be had makes no difference: one that the registry refuses (401, 403), or does not answer for, turns
the manifest into a 404 too. That a refusal goes back as the registry gave it, with its challenge, holds for the
manifest itself, and for all that clients with `ns` ask for. Clients like podman read challenges at `/v2/` alone
(`mirror.registry_ports`), and go to the registry with credentials that are not for us.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mirror.errors import NotFoundError, SourceError
from mirror.listed import Listed, listed
from mirror.oci import DOCKER_LIST, MANIFEST_BYTES_MAX, OCI_INDEX, Kind, manifest_media_type
from mirror.source import Content, MemoryBody, read_all

if TYPE_CHECKING:
    from mirror.oci import Descriptor
    from mirror.source import Request, Source

ASKED_AT_ONCE_MAX: Final = 8


class AllOrNothing:
    """A `Source` in front of another one, for the requests that say so (`Request.all_or_nothing`)."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def resolve(self, request: Request) -> Descriptor:
        """As the source does: these clients ask for the manifest itself, by GET."""
        return await self._source.resolve(request)

    async def open(self, request: Request) -> Content:
        """Open an object; a manifest with all its blobs, or not at all."""
        content = await self._source.open(request)
        if not request.all_or_nothing or request.kind is not Kind.MANIFEST or content.partial:
            return content
        data = await read_all(content.body, MANIFEST_BYTES_MAX)
        if manifest_media_type(data) not in {OCI_INDEX, DOCKER_LIST}:
            await self._check(request, [each for each in listed(data) if not each.elsewhere])
        content.body = MemoryBody(data)
        return content

    async def _check(self, request: Request, objects: list[Listed]) -> None:
        slots = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

        async def check(wanted: Listed) -> None:
            async with slots:
                await self._source.resolve(replace(request, kind=wanted.kind, reference=wanted.digest, range=None))

        try:
            async with asyncio.TaskGroup() as tasks:
                for each in objects:
                    tasks.create_task(check(each))
        except* SourceError as group:
            reason = group.exceptions[0]
            raise NotFoundError(f"not all of its blobs can be had here: {reason}") from group
