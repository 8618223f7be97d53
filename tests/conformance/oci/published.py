"""What the conformance run publishes: images and artifacts by sha256 and by sha512, small and large."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any, Final

from mirror.oci import OCI_INDEX, OCI_MANIFEST, Digest

EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
ARTIFACT_TYPE: Final = "application/vnd.example.sbom.v1+json"
LAYER_BYTES: Final = (100_000, 9_000_000)
"""One that is verified before it is given, and one that is too large for that."""

Json = dict[str, Any]


@dataclass
class Published:
    """Objects in the order of their pushes, manifests with their media type; `subjects` are what others refer to."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    manifests: dict[Digest, tuple[str, bytes]] = field(default_factory=dict)
    subjects: list[Digest] = field(default_factory=list)

    def add_blob(self, data: bytes, media_type: str, algorithm: str) -> Json:
        """Returns its descriptor."""
        digest = Digest.of(data, algorithm)
        self.blobs[digest] = data
        return _descriptor(media_type, digest, data)

    def add_manifest(self, document: Json, algorithm: str) -> Json:
        """Returns its descriptor."""
        data = json.dumps(document).encode()
        digest, media_type = Digest.of(data, algorithm), document["mediaType"]
        self.manifests[digest] = media_type, data
        return _descriptor(media_type, digest, data)

    def add_image(self, architecture: str, algorithm: str) -> Json:
        """An image with layers of random bytes: nobody unpacks them."""
        chance = random.Random(f"{architecture} {algorithm}")
        layers = [self.add_blob(chance.randbytes(size), LAYER_TYPE, algorithm) for size in LAYER_BYTES]
        config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.add_blob(config, CONFIG_TYPE, algorithm),
            "layers": layers,
        }
        return self.add_manifest(document, algorithm) | {"platform": {"architecture": architecture, "os": "linux"}}

    def add_index(self, manifests: list[Json], algorithm: str) -> Json:
        """An index of images."""
        return self.add_manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}, algorithm)

    def add_artifact(self, subject: Json, algorithm: str) -> None:
        """An artifact without an image, that refers to `subject`: its layer is JSON, its config empty."""
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": self.add_blob(b"{}", EMPTY_TYPE, algorithm),
            "layers": [self.add_blob(b'{"packages": []}', ARTIFACT_TYPE, algorithm)],
            "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
        }
        self.add_manifest(document, algorithm)
        self.subjects.append(Digest.parse(subject["digest"]))


def published() -> tuple[Published, Digest]:
    """An index of two images and an artifact that refers to it, by either algorithm; and the index by sha256."""
    things = Published()
    indexes = []
    for algorithm in ("sha256", "sha512"):
        images = [things.add_image(architecture, algorithm) for architecture in ("amd64", "arm64")]
        indexes.append(things.add_index(images, algorithm))
        things.add_artifact(indexes[-1], algorithm)
    return things, Digest.parse(indexes[0]["digest"])


def _descriptor(media_type: str, digest: Digest, data: bytes) -> Json:
    return {"mediaType": media_type, "digest": str(digest), "size": len(data)}
