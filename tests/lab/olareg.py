"""olareg, a registry of the Go module proxy: it has what docker-registry lacks, referrers and digests by sha512.

It is built once and kept in the user's cache directory.
"""

from __future__ import annotations

import asyncio
import io
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp

from tests.lab.cache import cached, run
from tests.lab.process import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from mirror.oci import Digest

MODULE: Final = "github.com/olareg/olareg"
VERSION: Final = "v0.1.2"
START_TIMEOUT_S: Final = 20.0


def build() -> Path:
    """The program; built unless it is there. Raises `FetchError`."""
    return cached(f"olareg-{VERSION}", _build) / "olareg"


@asynccontextmanager
async def running(program: Path, host: str, port: int, log: Path) -> AsyncIterator[str]:
    """An empty registry in memory; gives its URL."""
    process = Process("olareg", [program, "serve", "--addr", host, "--port", str(port), "--store-type", "mem"], log)
    url = f"http://{host}:{port}"
    await process.start()
    try:
        async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
            while not await _answers(session, url):
                assert process.running, f"olareg ended: {process.log()}"
                await asyncio.sleep(0.02)
        yield url
    finally:
        await process.stop()


async def push(repository_url: str, blobs: Mapping[Digest, bytes], manifests: Mapping[str, tuple[str, bytes]]) -> None:
    """Push blobs, and then manifests in their order: by tag or digest, each with its media type.

    `repository_url` is `http://HOST:PORT/v2/NAME`.
    """
    async with aiohttp.ClientSession(f"{repository_url}/", raise_for_status=True) as session:
        for digest, data in blobs.items():
            await session.post("blobs/uploads/", params={"digest": str(digest)}, data=io.BytesIO(data))
        for reference, (media_type, data) in manifests.items():
            await session.put(f"manifests/{reference}", data=data, headers={"Content-Type": media_type})


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/v2/") as response:
            return response.ok
    except aiohttp.ClientConnectionError:
        return False


def _build(work: Path) -> Path:
    # Not `go install`, which wants the list of all versions to look for deprecations: not every proxy gives it.
    programs = work / "bin"
    run("go", "mod", "init", "programs", directory=work)
    run("go", "mod", "edit", f"-require={MODULE}@{VERSION}", directory=work)
    command = ("go", "build", "-mod=mod", "-o", f"{programs}/", f"{MODULE}/cmd/olareg")
    run("nice", "-n", "15", *command, directory=work, timeout_s=600, environment={"CGO_ENABLED": "0"})
    return programs
