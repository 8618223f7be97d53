"""What the mirror puts into the gossiped set, as bytes that are opaque to gossip. Nothing here does I/O.

- *content*: `<algorithm><digest>`. Its owner can serve the object.
- *tag*: `<word><at><algorithm><digest><registry>/<name>:<tag>`, with `at` in seconds of Unix time (8 bytes,
  big-endian). The elements of one name form a *group*, through which they are found. There are three words:
  `T`, its owner's store has the object under this name since then, whoever gave it the name (a runtime also dates
  what it pulled long ago, imported or named itself); `V`, its owner *verified* the name: it asked the registry then,
  or was told by a node that did; `I`, what was verified until then is no longer to be believed (without a digest).
- *switch*: `K<at><1 or 0>`. Since then anything is mirrored, or nothing. All of them are one group; the latest counts.

`<algorithm>` is one byte, the digest its raw bytes, so a content element is 33 bytes for sha256.

What is known of a tag is `Known`: whether it is fresh, verified elements alone say; a node whose runtime holds an old
image cannot make it stale. When the registry is away the last verified meaning counts, and only without one what
stores have.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from mirror.oci import Digest

if TYPE_CHECKING:
    from mirror.oci import Repository, Tag

SKEW_S_MAX: Final = 60
"""What lies further in the future is not believed: the clock of whoever wrote it is wrong."""

SWITCH_GROUP: Final = b"K"
"""No tag's group: that has a slash and a colon."""

_ALGORITHMS: Final = {"sha256": b"\x01", "sha512": b"\x02"}
_LENGTHS: Final = {1: ("sha256", 32), 2: ("sha512", 64)}
_AT_BYTES: Final = 8


def content_key(digest: Digest) -> bytes:
    """The element that says that its owner has the object."""
    return _ALGORITHMS[digest.algorithm] + bytes.fromhex(digest.hex)


def tag_group(repository: Repository, tag: Tag) -> bytes:
    """The group of all elements about one tag."""
    return f"{repository}:{tag}".encode()


class Word(Enum):
    """What an element says of a tag; see above."""

    STORED = b"T"
    VERIFIED = b"V"
    INVALIDATED = b"I"


@dataclass(frozen=True, slots=True)
class TagElement:
    """One element about a tag; `digest` is None just for an invalidation."""

    word: Word
    at: int
    digest: Digest | None
    group: bytes

    @property
    def key(self) -> bytes:
        """The element's bytes."""
        digest = content_key(self.digest) if self.digest else b""
        return self.word.value + self.at.to_bytes(_AT_BYTES, "big") + digest + self.group

    @classmethod
    def parse(cls, key: bytes) -> TagElement | None:
        """Read an element; None for one that is no tag. (Any member can send anything.)"""
        word = _WORDS.get(key[:1])
        if word is None or len(key) < 2 + _AT_BYTES:
            return None
        at, rest = int.from_bytes(key[1 : 1 + _AT_BYTES], "big"), key[1 + _AT_BYTES :]
        if word is Word.INVALIDATED:
            return cls(word, at, None, rest)
        algorithm, length = _LENGTHS.get(rest[0], ("", 0))
        raw, group = rest[1 : 1 + length], rest[1 + length :]
        if not length or len(raw) != length or not group:
            return None
        return cls(word, at, Digest(algorithm, raw.hex()), group)


_WORDS: Final = {word.value: word for word in Word}


@dataclass(frozen=True, slots=True)
class Known:
    """What the cluster knows of a tag: when it was last verified, to mean which digest; what stores last had."""

    verified: Digest | None = None
    verified_at: int = 0
    stored: Digest | None = None
    invalidated_at: int = 0

    @property
    def last(self) -> Digest | None:
        """The last that it was known to mean."""
        return self.verified or self.stored

    def fresh(self, now: float, ttl_s: float) -> Digest | None:
        """What it means, if that was verified less than `ttl_s` ago and not invalidated since."""
        is_fresh = now - ttl_s < self.verified_at <= now + SKEW_S_MAX and self.verified_at > self.invalidated_at
        return self.verified if is_fresh else None


@dataclass(frozen=True, slots=True, order=True)
class SwitchElement:
    """One state of the kill switch of all nodes; the greatest counts."""

    at: int
    mirroring: bool

    @property
    def key(self) -> bytes:
        """The element's bytes."""
        return SWITCH_GROUP + self.at.to_bytes(_AT_BYTES, "big") + (b"1" if self.mirroring else b"0")

    @classmethod
    def parse(cls, key: bytes) -> SwitchElement | None:
        """Read an element; None for one that is no switch. (Any member can send anything.)"""
        if key[:1] != SWITCH_GROUP or len(key) != 2 + _AT_BYTES or key[-1:] not in b"10":
            return None
        return cls(int.from_bytes(key[1:-1], "big"), key[-1:] == b"1")


def group_of(key: bytes) -> bytes | None:
    """Tells gossip's index which elements to find by name."""
    if element := TagElement.parse(key):
        return element.group
    return SWITCH_GROUP if SwitchElement.parse(key) else None
