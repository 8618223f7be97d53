"""Images whose digests are by sha512: what a containerd can do with them, it can do through the mirror.

docker-registry has no such images, so the registry is olareg. containerd commits them since 2.3.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from mirror.image_builder import CONFIG, LAYER_TAR
from mirror.oci import OCI_MANIFEST, Digest, Repository
from tests.integration.agents import observer, seen, start_agents
from tests.lab import PullError, olareg
from tests.lab.fetch_containerd import version
from tests.lab.images import HERE
from tests.lab.lab import FIRST_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.lab import Lab

REPOSITORY = Repository.parse("registry.test", "lib/app")
LAYER_BYTES = (100_000, 9_000_000)
"""One that is verified before it is given, and one that is too large for that."""


def build() -> tuple[dict[Digest, bytes], bytes]:
    """An image's blobs, and its manifest."""
    layers = [_layer(size) for size in LAYER_BYTES]
    diff_ids = [str(Digest.of(layer)) for layer in layers]
    config = json.dumps({"architecture": HERE, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(CONFIG, config.encode()),
        "layers": [_descriptor(LAYER_TAR, layer) for layer in layers],
    }
    return {Digest.of(data, "sha512"): data for data in (config.encode(), *layers)}, json.dumps(document).encode()


def _layer(size: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo(f"data/{size}")
        entry.size = size
        tar.addfile(entry, io.BytesIO(bytes(size)))
    return file.getvalue()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data, "sha512")), "size": len(data)}


@pytest.fixture
async def registry_url(lab: Lab, tmp_path: Path) -> AsyncIterator[str]:
    program = await asyncio.to_thread(olareg.build)
    async with olareg.running(program, lab.gateway, FIRST_PORT, tmp_path / "olareg.log") as url:
        yield url


@pytest.mark.timeout(900)  # olareg is built at the first run
async def test_what_a_containerd_takes_by_sha512_it_takes_through_the_mirror_too(lab: Lab, registry_url: str) -> None:
    blobs, manifest = build()
    digest = Digest.of(manifest, "sha512")
    await olareg.push(f"{registry_url}/v2/{REPOSITORY.name}", blobs, {str(digest): (OCI_MANIFEST, manifest)})
    image = f"{REPOSITORY}@{digest}"
    one, two, alone = nodes = await lab.add_nodes(3)
    for node in nodes:
        node.add_registry(REPOSITORY.registry, registry_url)
    agents = await start_agents([one, two], extra=("--registries", f"{REPOSITORY.registry}={registry_url}"))

    running = await asyncio.to_thread(version)
    if tuple(int(part) for part in running.split(".")[:2]) < (2, 3):
        for node in (alone, one):
            with pytest.raises(PullError, match="unexpected commit digest sha256"):
                await node.pull(image, via="ctr")
        return
    for node in (alone, one):
        await node.pull(image, via="ctr")
        assert node.content() == {digest, *blobs}
    async with observer(lab) as cluster:
        for each in one.content():
            await seen(cluster, each, {"n1"}, 3)
    await two.pull(image, via="ctr")
    assert two.content() == {digest, *blobs}
    assert await agents[1].metric("skvaller_content_bytes_total", face="client", source="upstream") == 0
    assert await agents[1].metric("skvaller_content_bytes_total", face="client", source="peer") > sum(LAYER_BYTES)
