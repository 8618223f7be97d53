"""A client that pulls an image as a container runtime does, and notes where each object came from.

The order is containerd's: HEAD for the tag, then by digest the manifest, the configuration, and the layers, three at
a time. Every object is hashed as it comes.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote

import aiohttp

from mirror.content_response import HOLDER_HEADER, SOURCE_HEADER
from mirror.http_client import reason
from mirror.oci import MANIFEST_BYTES_MAX, OCI_MANIFEST, Digest, Kind

if TYPE_CHECKING:
    from mirror.oci import Repository, Tag

LAYERS_AT_ONCE: Final = 3
SILENCE_MAX_S: Final = 30.0
"""The longest wait for an answer, and between its bytes."""


class PullError(Exception):
    """An object did not come. What came before it stays where the agents keep it."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object that came: its place in the image, size in bytes, time in seconds, and who served it.

    `right` tells whether its bytes have the digest that they were asked by.
    """

    name: str
    digest: Digest
    size: int
    duration_s: float
    source: str
    holder: str
    right: bool

    @property
    def server(self) -> str:
        """Who served it, in words: `upstream`, `peer node-a`, `store`."""
        return f"{self.source} {self.holder}".strip()


class Progress(Protocol):
    """Is told how a pull goes."""

    def begin(self, name: str, size: int) -> None:
        """An object of `size` bytes is asked for."""
        ...

    def advance(self, name: str, size: int) -> None:
        """`size` more bytes of it came."""
        ...

    def end(self, fetched: Fetched) -> None:
        """All of it came."""
        ...


async def pull(agent_url: str, repository: Repository, tag: Tag, progress: Progress) -> list[Fetched]:
    """Pull an image through the agent at `agent_url`: its manifest, configuration and layers. Raises `PullError`."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_MAX_S, sock_read=SILENCE_MAX_S)
    async with aiohttp.ClientSession(agent_url, timeout=timeout, auto_decompress=False) as session:
        try:
            return await _Pull(session, repository, progress).run(tag)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PullError(f"{agent_url}: {reason(error)}") from error
        except ExceptionGroup as group:
            raise PullError(f"{agent_url}: {group.exceptions[0]}") from group


class _Pull:
    def __init__(self, session: aiohttp.ClientSession, repository: Repository, progress: Progress) -> None:
        self._session = session
        self._repository = repository
        self._progress = progress
        self._slots = asyncio.Semaphore(LAYERS_AT_ONCE)

    async def run(self, tag: Tag) -> list[Fetched]:
        digest, size = await self._resolve(tag)
        if size > MANIFEST_BYTES_MAX:
            raise PullError(f"the manifest has {size} bytes, more than {MANIFEST_BYTES_MAX}")
        data = bytearray()
        manifest = await self._fetch("manifest", Kind.MANIFEST, digest, size, data)
        document = json.loads(data)
        config = await self._fetch_described("config", document["config"])
        async with asyncio.TaskGroup() as tasks:
            layers = [
                tasks.create_task(self._fetch_described(f"layer {number}", descriptor))
                for number, descriptor in enumerate(document["layers"], 1)
            ]
        return [manifest, config, *(layer.result() for layer in layers)]

    async def _resolve(self, tag: Tag) -> tuple[Digest, int]:
        async with self._session.head(self._path(Kind.MANIFEST, tag), headers={"Accept": OCI_MANIFEST}) as response:
            if response.status != 200:
                raise PullError(f"tag {tag}: the agent answered {response.status}")
            return Digest.parse(response.headers["Docker-Content-Digest"]), int(response.headers["Content-Length"])

    async def _fetch_described(self, name: str, descriptor: dict[str, str | int]) -> Fetched:
        async with self._slots:
            return await self._fetch(name, Kind.BLOB, Digest.parse(str(descriptor["digest"])), int(descriptor["size"]))

    async def _fetch(self, name: str, kind: Kind, digest: Digest, size: int, into: bytearray | None = None) -> Fetched:
        """Fetch one object and hash it; its bytes are appended to `into`, or thrown away."""
        self._progress.begin(name, size)
        started = time.perf_counter()
        hasher = digest.hasher()
        received = 0
        async with self._session.get(self._path(kind, digest), headers={"Accept": f"{OCI_MANIFEST}, */*"}) as response:
            if response.status != 200:
                raise PullError(f"{name}: the agent answered {response.status}: {(await response.text())[:200]}")
            async for chunk in response.content.iter_any():
                received += len(chunk)
                hasher.update(chunk)
                if into is not None:
                    into += chunk
                self._progress.advance(name, len(chunk))
        fetched = Fetched(
            name,
            digest,
            received,
            time.perf_counter() - started,
            response.headers.get(SOURCE_HEADER, "unknown"),
            unquote(response.headers.get(HOLDER_HEADER, "")),
            hasher.hexdigest() == digest.hex and received == size,
        )
        self._progress.end(fetched)
        return fetched

    def _path(self, kind: Kind, reference: Digest | Tag) -> str:
        return f"/v2/{self._repository.name}/{kind.value}/{reference}?ns={self._repository.registry}"
