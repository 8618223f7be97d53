"""What a manifest lists: the config, layers and blobs of an image, or the manifests of an index.

It is read from the manifest's own bytes; whether these are right is for whoever has them. What does not make sense is
left out.

Source: OCI image-spec 1.1, manifest.md, image-index.md and descriptor.md (`urls`).
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from mirror.oci import Digest, InvalidReferenceError, Kind


class Listed(NamedTuple):
    """An object that a manifest lists; `size` in bytes, None where the manifest tells none that can be.

    One that is `elsewhere` need not be beside the manifest in its repository.
    """

    kind: Kind
    digest: Digest
    size: int | None
    elsewhere: bool


def listed(manifest: bytes) -> list[Listed]:
    """The objects that a manifest lists, in its order."""
    try:
        document = orjson.loads(manifest)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(document, dict):
        return []
    descriptors = [(Kind.BLOB, document.get("config"))]
    for name in ("manifests", "layers", "blobs"):
        entries = document.get(name)
        kind = Kind.MANIFEST if name == "manifests" else Kind.BLOB
        descriptors += [(kind, entry) for entry in entries] if isinstance(entries, list) else []
    objects = []
    for kind, descriptor in descriptors:
        if not isinstance(descriptor, dict):
            continue
        try:
            digest = Digest.parse(str(descriptor.get("digest")))
        except InvalidReferenceError:
            continue
        size = descriptor.get("size")
        known = isinstance(size, int) and size > 0
        objects.append(Listed(kind, digest, size if known else None, bool(descriptor.get("urls"))))
    return objects
