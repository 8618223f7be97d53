"""How large the objects of an image are, as its manifest says: a source that tells of another size is left at once.

A manifest passes through here before the runtime asks for what it lists, and is verified, while the size of a layer is
only what its source says. A registry or cache that has the beginning of a layer, and takes that for the whole, would
cost a pull: the runtime finds out when all has come.

What a manifest says counts in its own repository alone: others may list the same digest with a wrong size.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mirror.listed import listed
from mirror.oci import DOCKER_MANIFEST, MANIFEST_BYTES_MAX, OCI_MANIFEST, Digest, Kind
from mirror.source import MemoryBody, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirror.oci import Descriptor, Repository
    from mirror.source import Content, Request, Source

SIZES_MAX: Final = 16384
"""Sizes remembered, about 5 MB; the one that was learnt first goes first."""
_IMAGE_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)


class Sized:
    """A source whose requests say how large an object has to be, where that is known (`Request.size`).

    `expect` is told what a client will ask for next: what the manifest of an image lists.
    """

    def __init__(self, source: Source, expect: Callable[[Request, Iterable[Digest]], None]) -> None:
        self._source = source
        self._expect = expect
        self._sizes: OrderedDict[tuple[Repository, Digest], int] = OrderedDict()

    async def resolve(self, request: Request) -> Descriptor:
        """As the source does."""
        return await self._source.resolve(request)

    async def open(self, request: Request) -> Content:
        """As the source does. A manifest comes back in memory, and what it lists is remembered."""
        size = self._sizes.get((request.repository, request.digest))
        content = await self._source.open(replace(request, size=size))
        if request.kind is Kind.MANIFEST and content.positions and not content.partial and content.origin != "store":
            data = await read_all(content.body, MANIFEST_BYTES_MAX)
            sizes = {each.digest: each.size for each in listed(data) if each.size}
            self._learn(request.repository, sizes)
            if content.descriptor.media_type in _IMAGE_TYPES:
                self._expect(request, sizes)
            content.body = MemoryBody(data)
        return content

    def _learn(self, repository: Repository, sizes: dict[Digest, int]) -> None:
        for digest, size in sizes.items():
            self._sizes.pop((repository, digest), None)
            self._sizes[repository, digest] = size
        while len(self._sizes) > SIZES_MAX:
            self._sizes.popitem(last=False)
