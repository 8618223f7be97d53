"""The words of the OCI distribution specification, as types that prove they were checked.

Every value here is made by `parse`, which refuses what the grammar of the specification refuses, so code
behind it never checks again. Nothing here does I/O.

Sources: OCI distribution-spec 1.1 ("Pull", grammar of <name> and <reference>), OCI image-spec 1.1
(descriptor.md, "Digests"), RFC 9110 section 14 (Range).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
"""The specification's recommended limit; a larger manifest is refused wherever it comes from."""

SMALL_BYTES_MAX: Final = 64 * 1024
"""Objects up to this size travel in a coordinator's answer itself: manifests and configs, for the most part."""
NAME_CHARACTERS_MAX: Final = 255
RANGE_DIGITS_MAX: Final = 18

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
OCTET_STREAM: Final = "application/octet-stream"

_HEX_LENGTHS: Final[Mapping[str, int]] = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]{{2,45}}\])(?::[0-9]{{1,5}})?")


class InvalidReferenceError(ValueError):
    """A name, tag, digest or registry that the grammar refuses. Nothing was changed."""


class InvalidDigestError(InvalidReferenceError):
    """A digest that the grammar refuses."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The content address of an object: an algorithm and its lower-case hexadecimal hash."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `sha256:<64 hex>` or `sha512:<128 hex>`; anything else is an `InvalidDigestError`."""
        algorithm, _, hexadecimal = text.partition(":")
        length = _HEX_LENGTHS.get(algorithm)
        if length is None:
            raise InvalidDigestError(f"digest algorithm {algorithm[:32]!r} is none of sha256, sha512")
        if len(hexadecimal) != length or not _HEX.fullmatch(hexadecimal):
            raise InvalidDigestError(f"a {algorithm} digest has {length} lower-case hexadecimal digits")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> hashlib._Hash:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Whether `data` has this digest."""
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex

    def __hash__(self) -> int:
        return hash(self.hex)  # which is itself one, and remembers its own

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A name that a repository gives to a manifest and may move to another one."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read a tag of at most 128 characters."""
        if not _TAG.fullmatch(text):
            raise InvalidReferenceError("a tag is 1 to 128 of A-Z a-z 0-9 _ . - and starts with none of . -")
        return cls(text)

    def __str__(self) -> str:
        return self.name


Reference = Digest | Tag


def parse_reference(text: str) -> Reference:
    """Read the last part of a manifest's path: a digest when it has a colon, else a tag."""
    return Digest.parse(text) if ":" in text else Tag.parse(text)


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository of a registry: `docker.io`, `library/nginx`."""

    registry: str
    name: str

    @classmethod
    def parse(cls, registry: str, name: str) -> Repository:
        """Check both parts; the registry is a host name or address with an optional port, in lower case."""
        return cls(parse_registry(registry), parse_name(name))

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


def parse_registry(text: str) -> str:
    """Read `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; the result is in lower case."""
    if len(text) > NAME_CHARACTERS_MAX or not _REGISTRY.fullmatch(text):
        raise InvalidReferenceError("a registry is a host name or an address with an optional port")
    port = text.rpartition(":")[2]
    if port.isdecimal() and ":" in text.rpartition("]")[2] and not 0 < int(port) < 65536:
        raise InvalidReferenceError("the port of a registry is 1 to 65535")
    return text.lower()


def parse_name(text: str) -> str:
    """Read a repository's name: lower-case path components, none of them `.` or `..`."""
    if len(text) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(text):
        raise InvalidReferenceError("a repository name is lower-case path components of a-z 0-9 . _ -")
    return text


def parse_image_name(text: str) -> tuple[Repository, Reference]:
    """Read an image's name as people write it: `nginx` is `docker.io/library/nginx:latest`. A digest outranks a tag.

    The first component is a registry when it has a dot or a colon or is `localhost`, as everywhere since Docker.
    """
    name, at, digest = text.partition("@")
    tag = "latest"
    if ":" in name.rpartition("/")[2]:
        name, _, tag = name.rpartition(":")
    registry, slash, rest = name.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        registry, rest = "docker.io", name
    if registry in {"docker.io", "index.docker.io"}:
        registry, rest = "docker.io", rest if "/" in rest else f"library/{rest}"
    repository = Repository.parse(registry, rest)
    meant = Tag.parse(tag)
    return repository, Digest.parse(digest) if at else meant


class Kind(Enum):
    """The two kinds of object that a registry serves, as they stand in its paths."""

    MANIFEST = "manifests"
    BLOB = "blobs"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What is known of an object before its bytes: type, digest, and size in bytes (None: not told)."""

    media_type: str
    digest: Digest
    size: int | None


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One byte range as asked for: `first-last`, `first-` (last is None) or the last `suffix` bytes."""

    first: int = 0
    last: int | None = None
    suffix: int | None = None

    @classmethod
    def parse(cls, header: str | None) -> ByteRange | None:
        """Read a Range header; what RFC 9110 lets a server ignore (several ranges, other units) is None."""
        unit, separator, spec = (header or "").partition("=")
        if unit.strip().lower() != "bytes" or not separator:
            return None
        first, dash, last = spec.strip().partition("-")
        if not dash or any(len(part) > RANGE_DIGITS_MAX for part in (first, last)):
            return None
        if any(part and not (part.isascii() and part.isdecimal()) for part in (first, last)):
            return None
        if not first:
            return cls(suffix=int(last)) if last else None
        if last and int(last) < int(first):
            return None
        return cls(int(first), int(last) if last else None)

    @classmethod
    def starting_at(cls, offset: int) -> ByteRange:
        """Everything from `offset` on."""
        return cls(first=offset)

    def resolve(self, size: int) -> range:
        """The positions meant in an object of `size` bytes; empty when none of them exists (416)."""
        if self.suffix is not None:
            return range(max(0, size - self.suffix), size)
        return range(self.first, size if self.last is None else min(self.last + 1, size))

    def __str__(self) -> str:
        if self.suffix is not None:
            return f"bytes=-{self.suffix}"
        return f"bytes={self.first}-{'' if self.last is None else self.last}"


def manifest_media_type(data: bytes) -> str | None:
    """The media type of a manifest from its own bytes, or None when they are no manifest.

    Content stores keep no media types, so it is read back: from `mediaType` where the manifest has one, else
    from its shape, as image-spec's "Compatibility" notes tell the two apart.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    media_type = document.get("mediaType")
    if isinstance(media_type, str) and media_type.isascii() and media_type.isprintable():
        return media_type
    if isinstance(document.get("manifests"), list):
        return OCI_INDEX
    if isinstance(document.get("layers"), list) and isinstance(document.get("config"), dict):
        return OCI_MANIFEST
    return None
