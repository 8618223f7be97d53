"""What can go wrong between a request and its bytes, and the one table that says it in OCI's words.

A *source* raises one of the `SourceError` family; `mirror.registry` turns it into a status and the JSON error
body of the distribution specification. Which status tells a runtime to go on elsewhere, and which makes a pull
fail, was measured on real containerd; the rules are in the comments of the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Code(Enum):
    """Error codes of the distribution specification that this mirror uses, each with its HTTP status."""

    BLOB_UNKNOWN = 404
    MANIFEST_UNKNOWN = (404, "manifest")
    NAME_INVALID = 400
    DIGEST_INVALID = (400, "digest")
    MANIFEST_INVALID = (400, "manifest")
    DENIED = 403
    UNSUPPORTED = 405
    RANGE_INVALID = 416
    # A runtime that reads 503 (or 404) asks the registry itself for this object. Never 429: containerd repeats
    # a 429 six times at once instead of going on.
    UNAVAILABLE = 503

    @property
    def status(self) -> int:
        """The HTTP status that goes with this code."""
        value: int | tuple[int, str] = self.value
        return value if isinstance(value, int) else value[0]


class SourceError(Exception):
    """A source could not give what was asked. Nothing was changed; another source may do better."""


class NotFoundError(SourceError):
    """The source answered, and does not have the object."""


class UnavailableError(SourceError):
    """The source did not answer in time, broke off, or answered what cannot be used (wrong bytes, bad headers)."""


class CorruptError(UnavailableError):
    """The source gave bytes that do not have the digest they were asked by."""


@dataclass
class RefusedError(SourceError):
    """The registry said no to this client: its answer goes back as it came, to this client alone.

    `headers` holds what the client needs to act on it (the whole WWW-Authenticate challenge, Retry-After).
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __str__(self) -> str:
        return f"the registry answered {self.status}"
