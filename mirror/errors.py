"""What can go wrong between a request and its bytes, and the one table that says it in OCI's words.

A *source* raises one of the `SourceError` family; `mirror.registry` turns it into a status and the JSON error
body of the distribution specification. Which answer makes a runtime go on elsewhere, and which makes its pull
fail, was measured on real containerd: 404 and 503 send it to the registry itself for this object, while a 429 is
repeated six times at once, so a 429 is never given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Code(Enum):
    """Error codes of the distribution specification ("Error Codes") that this mirror uses."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    DIGEST_INVALID = "DIGEST_INVALID"
    DENIED = "DENIED"
    UNSUPPORTED = "UNSUPPORTED"
    RANGE_INVALID = "RANGE_INVALID"
    UNAVAILABLE = "UNAVAILABLE"

    @property
    def status(self) -> int:
        """The HTTP status that goes with this code."""
        return _STATUS[self]


_STATUS = {
    Code.BLOB_UNKNOWN: 404,
    Code.MANIFEST_UNKNOWN: 404,
    Code.NAME_UNKNOWN: 404,
    Code.NAME_INVALID: 400,
    Code.DIGEST_INVALID: 400,
    Code.DENIED: 403,
    Code.UNSUPPORTED: 405,
    Code.RANGE_INVALID: 416,
    Code.UNAVAILABLE: 503,
}


class RequestError(Exception):
    """The request itself cannot be answered by any source; says why in OCI's words. Nothing was changed."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class SourceError(Exception):
    """A source could not give what was asked. Nothing was changed; another source may do better."""


class NotFoundError(SourceError):
    """The source answered, and does not have the object."""


class UnavailableError(SourceError):
    """The source did not answer in time, broke off, or answered what cannot be used.

    `retry_s` is how long the source wants to be left alone; 0 when it said nothing of the kind.
    """

    def __init__(self, message: str = "", retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class NotYetError(UnavailableError):
    """The object is on its way, and its first bytes have not come yet: it is worth asking again at once."""


class FullError(UnavailableError):
    """All upload slots of a peer are taken, which is no fault of it; it names others."""

    def __init__(self, alternatives: tuple[str, ...]) -> None:
        super().__init__("all its upload slots are taken")
        self.alternatives = alternatives


class OverQuotaError(UnavailableError):
    """The registry has had enough for now (429, or 503 with a time to come back)."""


class NoSourceLeftError(UnavailableError):
    """Bytes broke off, and no source goes on with them: trying again at once is of no use."""


class LeftBehindError(UnavailableError):
    """Others went on without this reader, for whom they waited too long; who gives the bytes did nothing wrong."""


class CorruptError(UnavailableError):
    """The source gave bytes that do not have the digest they were asked by."""


@dataclass(eq=False)
class RefusedError(SourceError):
    """The registry said no to this client: its answer goes back as it came, and to nobody else.

    `headers` are those that the client needs to act on it (the whole WWW-Authenticate challenge, say).
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def __str__(self) -> str:
        return f"the registry answered {self.status}"
