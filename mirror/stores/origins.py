"""Whose an object is: the repositories under whose names it came, noted beside its bytes as an extended attribute.

A file system that keeps no such attributes (an old tmpfs) keeps none of these notes either. Then an object counts as
nobody's, and is not given in the name of a protected registry: safe, and slower.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mirror.oci import InvalidReferenceError, Repository

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ATTRIBUTE: Final = "user.skvaller.origins"
ORIGINS_BYTES_MAX: Final = 2048
"""What fits beside a file everywhere; of more, the names that sort last are left out."""


def read_origins(file: Path) -> frozenset[Repository]:
    """The repositories that were noted for a file; none when there is no file, or no note."""
    try:
        noted = os.getxattr(file, ATTRIBUTE, follow_symlinks=False)
    except OSError:
        return frozenset()
    return frozenset(read_names(noted.decode(errors="replace").split("\n")))


def note_origins(file: Path, origins: Iterable[Repository]) -> None:
    """Note whose a file is, in place of what was noted before."""
    text = b""
    for name in sorted(map(str, origins)):
        more = text + b"\n" * bool(text) + name.encode()
        if len(more) <= ORIGINS_BYTES_MAX:
            text = more
    with suppress(OSError):
        os.setxattr(file, ATTRIBUTE, text, follow_symlinks=False)


def read_names(names: Iterable[str]) -> Iterable[Repository]:
    """The repositories that `registry/name` texts stand for; what is no such text is passed over."""
    for name in names:
        registry, _, path = name.partition("/")
        with suppress(InvalidReferenceError):
            yield Repository.parse(registry, path)
