"""Which manifests in a directory of blobs refer to another one (`subject`), found by reading all that are small.

Nobody keeps a list of these: they are asked for when a registry is away, which is seldom. The cost is one read of every
small file, some 10 us each when the kernel has it in memory.

Source: OCI image-spec 1.1, manifest.md (`subject`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import orjson

from mirror.oci import Digest, InvalidReferenceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REFERRING_BYTES_MAX: Final = 64 * 1024
"""A larger manifest is not looked at: a signature has 1 kB, and an image's of 100 layers 20."""
REFERRING_MAX: Final = 64
"""Manifests that are found for one subject; those whose digests come later are left out."""
FILES_MAX: Final = 50_000
"""Small files that are read for one answer."""

_ALGORITHMS: Final = ("sha256", "sha512")


def find_referring(blobs: Path, subject: Digest) -> dict[Digest, bytes]:
    """The manifests below `blobs/<algorithm>/` whose subject this is, with their bytes, by digest. Blocks.

    What cannot be read, or has not the bytes of its name, is passed over.
    """
    found: dict[Digest, bytes] = {}
    named = str(subject).encode()
    for number, (digest, path) in enumerate(_small_files(blobs)):
        if number >= FILES_MAX:
            break
        with suppress(OSError), path.open("rb") as file:
            data = file.read(REFERRING_BYTES_MAX + 1)
            if data[:1] == b"{" and named in data and _subject(data) == str(subject) and digest.matches(data):
                found[digest] = data
    return {digest: found[digest] for digest in sorted(found)[:REFERRING_MAX]}


def _small_files(blobs: Path) -> Iterator[tuple[Digest, Path]]:
    for algorithm in _ALGORITHMS:
        with suppress(OSError), os.scandir(blobs / algorithm) as entries:
            for entry in entries:
                with suppress(OSError, InvalidReferenceError):
                    small = entry.stat(follow_symlinks=False).st_size <= REFERRING_BYTES_MAX
                    if small and entry.is_file(follow_symlinks=False):
                        yield Digest.parse(f"{algorithm}:{entry.name}"), blobs / algorithm / entry.name


def _subject(manifest: bytes) -> str | None:
    """The digest of what a manifest refers to, if anything."""
    try:
        subject = orjson.loads(manifest)["subject"]["digest"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return subject if isinstance(subject, str) else None
