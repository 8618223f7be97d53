"""index.json of an OCI image layout, as a value: which names the layout gives to which manifests.

A change makes a new value, so that "did anything change?" is a comparison, and everything that other programs
wrote into the document stays in it. Nothing here does I/O.

Source: OCI image-spec 1.1, image-layout.md ("index.json file") and annotations.md. The specification leaves the
form of `org.opencontainers.image.ref.name` open; here it is the whole name, `registry/repository:tag`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import orjson

from mirror.oci import OCI_INDEX, Digest, InvalidReferenceError, Repository, Tag

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mirror.oci import Descriptor

TAGS_MAX: Final = 4096
"""Tags that this program keeps in one layout; the one learned longest ago goes first. Each costs about 400 bytes
of a document that is rewritten for every new tag."""

REF_NAME: Final = "org.opencontainers.image.ref.name"
CONTAINERD_NAME: Final = "io.containerd.image.name"
LEARNED_AT: Final = "io.skvaller.learned-at"

TagName = tuple[Repository, Tag]


class BrokenIndexError(ValueError):
    """The bytes are no index of a layout. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class TagRecord:
    """What a tag means, and when that was learned: seconds of Unix time, 0 when another program wrote it."""

    digest: Digest
    at: int


@dataclass(frozen=True)
class LayoutIndex:
    """One state of index.json. `document` is never changed in place."""

    document: Mapping[str, Any]

    @classmethod
    def empty(cls) -> LayoutIndex:
        """The index of a new layout."""
        return cls({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})

    @classmethod
    def parse(cls, data: bytes) -> LayoutIndex:
        """Read the file's bytes; anything but an object with a list of descriptors is a `BrokenIndexError`."""
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise BrokenIndexError(f"it is not JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
            raise BrokenIndexError("it is not an object with a list named manifests")
        if not all(isinstance(entry, dict) for entry in document["manifests"]):
            raise BrokenIndexError("its manifests are not all objects")
        return cls(document)

    def encode(self) -> bytes:
        """The bytes of the file."""
        return orjson.dumps(self.document)

    @cached_property
    def tags(self) -> Mapping[TagName, TagRecord]:
        """Every whole name in the index; entries without one are reached by their digest alone."""
        found: dict[TagName, TagRecord] = {}
        for entry in self.document["manifests"]:
            name, digest = _name_of(entry), _digest_of(entry)
            if name is not None and digest is not None:
                found[name] = TagRecord(digest, _learned_at(entry) or 0)
        return found

    @cached_property
    def digests(self) -> frozenset[Digest]:
        """Every digest in the index, named or not."""
        found = (_digest_of(entry) for entry in self.document["manifests"])
        return frozenset(digest for digest in found if digest is not None)

    def with_tag(self, name: TagName, at: int, descriptor: Descriptor) -> LayoutIndex:
        """The index in which `name` means `descriptor`, learned at `at`; beyond `TAGS_MAX` the oldest tag goes."""
        repository, tag = name
        kept: list[dict[str, Any]] = []
        entry: dict[str, Any] = {}
        for old in self.document["manifests"]:
            if _name_of(old) != name:
                kept.append(old)
            elif _digest_of(old) == descriptor.digest:
                entry = old  # what another program says of it (platform, annotations) stays
        annotations = {
            **_annotations(entry),
            REF_NAME: f"{repository}:{tag}",
            LEARNED_AT: str(at),
        }
        described = {
            "mediaType": descriptor.media_type,
            "digest": str(descriptor.digest),
            "size": descriptor.size,
        }
        kept.append({**entry, **described, "annotations": annotations})
        ours = [(learned, place) for place, old in enumerate(kept) if (learned := _learned_at(old)) is not None]
        surplus = {place for _, place in sorted(ours)[: max(0, len(ours) - TAGS_MAX)]}
        return self._of([old for place, old in enumerate(kept) if place not in surplus])

    def without(self, digests: Collection[Digest]) -> LayoutIndex:
        """The index without the entries of these digests."""
        return self._of([entry for entry in self.document["manifests"] if _digest_of(entry) not in digests])

    def _of(self, manifests: list[dict[str, Any]]) -> LayoutIndex:
        return LayoutIndex({**self.document, "manifests": manifests})


def _annotations(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    annotations = entry.get("annotations")
    return annotations if isinstance(annotations, dict) else {}


def _digest_of(entry: Mapping[str, Any]) -> Digest | None:
    try:
        return Digest.parse(str(entry.get("digest")))
    except InvalidReferenceError:
        return None


def _learned_at(entry: Mapping[str, Any]) -> int | None:
    """When this program learned the entry's tag; None for the entries of other programs."""
    text = str(_annotations(entry).get(LEARNED_AT, ""))
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def _name_of(entry: Mapping[str, Any]) -> TagName | None:
    """The whole name of an entry.

    Programs write all sorts of things into the annotation (`latest` alone, `nginx:1.27`), so their names count
    only when the first part is a registry beyond doubt, as Docker's rule has it: with a dot or a port, or
    `localhost`. containerd and BuildKit put the whole name into an annotation of their own.
    """
    annotations = _annotations(entry)
    for key in (REF_NAME, CONTAINERD_NAME):
        registry, _, rest = str(annotations.get(key, "")).partition("/")
        name, _, tag = rest.rpartition(":")
        if not (LEARNED_AT in annotations or registry == "localhost" or "." in registry or ":" in registry):
            continue
        try:
            return Repository.parse(registry, name), Tag.parse(tag)
        except InvalidReferenceError:
            continue
    return None
