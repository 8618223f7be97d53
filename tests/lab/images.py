"""Images of random bytes, built for one test."""

from __future__ import annotations

import json
import platform
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.image_builder import build_image
from mirror.oci import OCI_INDEX, Descriptor, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FILE_BYTES_MAX = 4_000_000

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""The architecture of this machine, in Go's words: the one that its containerd pulls."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that a registry has.

    `name` is what a user types (`registry.test/lib/app:v1`); `root` is what it means: the manifest, or the index
    of several architectures.
    """

    name: str
    root: Descriptor
    layout: Path

    @property
    def pinned(self) -> str:
        """The name by digest: `registry.test/lib/app@sha256:...`."""
        return f"{self.name.rpartition(':')[0]}@{self.root.digest}"

    def manifest(self, architecture: str = HERE) -> Digest:
        """The digest of the manifest of one architecture."""
        if self.root.media_type != OCI_INDEX:
            return self.root.digest
        for entry in self._document(self.root.digest)["manifests"]:
            if entry["platform"]["architecture"] == architecture:
                return Digest.parse(entry["digest"])
        raise KeyError(architecture)

    def layers(self, architecture: str = HERE) -> dict[Digest, int]:
        """The layers of one architecture with their sizes in bytes, lowest first."""
        entries = self._document(self.manifest(architecture))["layers"]
        return {Digest.parse(entry["digest"]): entry["size"] for entry in entries}

    def objects(self, architecture: str = HERE) -> set[Digest]:
        """Everything that a node of this architecture pulls."""
        manifest = self.manifest(architecture)
        config = Digest.parse(self._document(manifest)["config"]["digest"])
        return {self.root.digest, manifest, config, *self.layers(architecture)}

    def size(self, architecture: str = HERE) -> int:
        """The bytes of the layers of one architecture."""
        return sum(self.layers(architecture).values())

    def _document(self, digest: Digest) -> dict[str, Any]:
        document = json.loads((self.layout / "blobs" / digest.algorithm / digest.hex).read_bytes())
        assert isinstance(document, dict)
        return document


def build(layout: Path, tag: str, seed: str, layer_bytes: Sequence[int], architectures: Sequence[str]) -> Descriptor:
    """Build an image with a layer of each size, not compressed; the same seed gives the same image."""
    return build_image(
        layout,
        tag,
        {
            architecture: [
                _files(random.Random(f"{seed} {architecture} {number}"), number, size)
                for number, size in enumerate(layer_bytes)
            ]
            for architecture in architectures
        },
        gzip_level=None,
    )


def _files(chance: random.Random, number: int, size: int) -> Iterator[tuple[str, bytes]]:
    for position in range(0, size, FILE_BYTES_MAX):
        yield f"layer{number}/{position}", chance.randbytes(min(FILE_BYTES_MAX, size - position))
