"""What a manifest lists: the config, layers and blobs of an image, or the manifests of an index.

It is read from the manifest's own bytes; whether these are right is for whoever has them. What does not make sense is
left out.

Source: OCI image-spec 1.1, manifest.md, image-index.md and descriptor.md (`urls`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

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


class Described(NamedTuple):
    """Such an object with all that its descriptor says; `role` is config, layer, blob or manifest."""

    role: str
    digest: Digest
    size: int | None
    descriptor: Mapping[str, Any]

    @property
    def kind(self) -> Kind:
        """What it is asked for as."""
        return Kind.MANIFEST if self.role == "manifest" else Kind.BLOB


def listed(manifest: bytes) -> list[Listed]:
    """The objects that a manifest lists, in its order."""
    try:
        described = descriptors(manifest)
    except ValueError:
        return []
    return [
        Listed(each.kind, each.digest, each.size, elsewhere=bool(each.descriptor.get("urls"))) for each in described
    ]


def descriptors(manifest: bytes) -> list[Described]:
    """The same, with what their descriptors say. Raises ValueError for what is no JSON object."""
    document = orjson.loads(manifest)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    found = [("config", document.get("config"))]
    for name, role in _LISTS.items():
        entries = document.get(name)
        found += [(role, entry) for entry in entries] if isinstance(entries, list) else []
    described = []
    for role, descriptor in found:
        if not isinstance(descriptor, dict):
            continue
        try:
            digest = Digest.parse(str(descriptor.get("digest")))
        except InvalidReferenceError:
            continue
        size = descriptor.get("size")
        known = isinstance(size, int) and size > 0
        described.append(Described(role, digest, size if known else None, descriptor))
    return described


_LISTS: Final = {"manifests": "manifest", "layers": "layer", "blobs": "blob"}
