"""What a client means: path, query and headers of HTTP, read into types that cannot be wrong.

A mirror stands for many registries, and `?ns=` says which. podman and skopeo send none: there it is the first component
of the path, or goes with the port (`mirror.registry_ports`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl

from mirror.errors import Code, RequestError
from mirror.listings import ListingRequest
from mirror.oci import ByteRange, Digest, InvalidDigestError, InvalidReferenceError, Kind, Repository, parse_reference
from mirror.source import Request
from mirror.trail import ID_HEADER, Trail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request as HttpRequest
    from starlette.types import Scope

    from mirror.oci import Reference
    from mirror.trail import Step


_ID: Final = ID_HEADER.lower()
_KINDS: Final = {kind.value: kind for kind in Kind}
NAMES_MAX: Final = 1024
"""Repositories whose names were found valid, and queries that were read: each pull repeats them for each object."""


class AskedObject(NamedTuple):
    """An object as the path names it; nothing of it is checked yet. `name` is that of a repository."""

    name: str
    kind: Kind
    reference: str


def read_path(path: str) -> AskedObject | None:
    """What `/v2/<name>/blobs/<digest>` and `/v2/<name>/manifests/<reference>` ask for; None for any other path."""
    before, _, reference = path.rpartition("/")
    before, _, kind = before.rpartition("/")
    if kind not in _KINDS or not reference or not before.startswith("/v2/"):
        return None
    return AskedObject(before[4:], _KINDS[kind], reference)


def read_headers(scope: Scope) -> dict[str, str]:
    """The headers by their names in lower case; one that is there several times is a list (RFC 9110 section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def read_request(
    asked: AskedObject, query: bytes, headers: Mapping[str, str], itself: str, watch: Callable[[Step], None]
) -> Request:
    """Read path, query and headers into a request that is known to be valid. Raises `RequestError`.

    `watch` is told of the steps that are taken for it.
    """
    registry = _named_registry(query)
    try:
        repository = _read_repository(asked.name, itself or registry)
        reference = Digest.parse(asked.reference) if asked.kind is Kind.BLOB else parse_reference(asked.reference)
    except InvalidReferenceError as error:
        raise _refusal(error) from error
    return Request(
        repository=repository,
        kind=asked.kind,
        reference=reference,
        range=_read_range(headers, reference),
        accept=headers.get("accept", ""),
        authorization=headers.get("authorization"),
        all_or_nothing=registry is None,
        trail=Trail.of(headers.get(_ID), watch),
    )


def read_listing(http: HttpRequest, headers: Mapping[str, str], itself: str) -> ListingRequest:
    """Read a request for tags or referrers. Raises `RequestError`."""
    subject = http.path_params.get("subject")
    try:
        return ListingRequest(
            _read_repository(http.path_params["name"], itself or _named_registry(http.scope["query_string"])),
            Digest.parse(subject) if subject is not None else None,
            tuple((name, value) for name, value in http.query_params.multi_items() if name != "ns"),
            headers.get("authorization"),
        )
    except InvalidReferenceError as error:
        raise _refusal(error) from error


def _read_repository(name: str, registry: str | None) -> Repository:
    if registry is None:
        registry, _, name = name.partition("/")
        if not name or not ("." in registry or ":" in registry or registry == "localhost"):
            raise RequestError(Code.NAME_UNKNOWN, "name the registry: ?ns=<registry> or /v2/<registry>/<name>/...")
    return _repository(registry, name)


_repository = lru_cache(NAMES_MAX)(Repository.parse)


@lru_cache(NAMES_MAX)
def _named_registry(query: bytes) -> str | None:
    """The last `ns` of a query."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)).get("ns")


def _refusal(error: InvalidReferenceError) -> RequestError:
    """What the grammar refuses, in OCI's words."""
    code = Code.DIGEST_INVALID if isinstance(error, InvalidDigestError) else Code.NAME_INVALID
    return RequestError(code, str(error))


def _read_range(headers: Mapping[str, str], reference: Reference) -> ByteRange | None:
    """The part that is asked for; the whole when the client has a part of another object (RFC 9110, "If-Range")."""
    condition = headers.get("if-range")
    if condition is not None and condition != entity_tag(reference):
        return None
    return ByteRange.parse(headers.get("range"))


def has_already(headers: Mapping[str, str], digest: Digest) -> bool:
    """Whether the client says that it has the object of this digest (RFC 9110, "If-None-Match")."""
    tags = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return "*" in tags or entity_tag(digest) in tags


def entity_tag(reference: Reference) -> str:
    """The ETag of an object is its digest. What a tag means is not known yet, so it is no entity's tag."""
    return f'"{reference}"'
