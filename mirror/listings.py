"""Content discovery: the tags of a repository, and the manifests that refer to one of its manifests.

Only the registry knows all of them, so it is asked each time, as the client asked, with the client's own credentials,
and what it says is passed on. Nothing is remembered. The way to the next page is changed, so that it leads through
the mirror again. When the registry does not answer, `mirror.known_lists` does.

Source: OCI distribution-spec 1.1, "Content Discovery" ("Listing Tags", "Listing Referrers").
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from mirror.oci import Digest, Repository

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multidict import MultiMapping

LISTING_BYTES_MAX: Final = 4 * 1024 * 1024
"""One page; the specification's recommended limit for manifests, which a list of referrers is too."""

_VALUE = r'"((?:[^"\\]|\\.)*)"|([^\s;,"]+)'
_LINK = re.compile(rf'<([^<>]*)>((?:\s*;\s*[^\s;=,"]+(?:\s*=\s*(?:{_VALUE}))?)*)')
_PARAMETER = re.compile(rf';\s*([^\s;=,"]+)\s*=\s*(?:{_VALUE})')


@dataclass(frozen=True, slots=True)
class ListingRequest:
    """Which list a client wants. `query` is the client's own (`n`, `last`, `artifactType`), less the registry's name.

    `subject` is the digest that is referred to; None asks for the tags. `authorization` is kept out of every
    representation, as in `mirror.source.Request`.
    """

    repository: Repository
    subject: Digest | None = None
    query: tuple[tuple[str, str], ...] = ()
    authorization: str | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """The path of the list at its registry, with the query."""
        path = f"/v2/{self.repository.name}/" + (f"referrers/{self.subject}" if self.subject else "tags/list")
        return f"{path}?{urlencode(self.query)}" if self.query else path


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list; `filters` are those that were applied, `next_query` leads on, `warning` is for people."""

    media_type: str
    body: bytes
    filters: str = ""
    next_query: tuple[tuple[str, str], ...] = ()
    warning: str = ""

    @classmethod
    def read(cls, headers: MultiMapping[str], body: bytes) -> Listing:
        """Read an answer. What does not parse is as good as left out."""
        return cls(
            headers.get("Content-Type", "application/json"),
            body,
            headers.get("OCI-Filters-Applied", ""),
            _next_query(headers.getall("Link", ())),
        )

    def headers(self, path: str, query: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The headers to pass on to a client that asked at `path`, and named the registry in `query` if at all."""
        headers = {"Content-Type": self.media_type}
        if self.filters:
            headers["OCI-Filters-Applied"] = self.filters
        if self.warning:
            headers["Warning"] = f'299 - "{self.warning}"'
        if self.next_query:
            following = urlencode([*self.next_query, *query], errors="surrogateescape")
            headers["Link"] = f'<{path}?{following}>; rel="next"'
        return headers


def _next_query(links: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The query of the next page's address, if one of the headers has it (RFC 8288, section 3)."""
    for target, parameters, *_ in (match for link in links for match in _LINK.findall(link)):
        for name, quoted, plain in _PARAMETER.findall(parameters):
            if name.lower() == "rel" and "next" in (quoted or plain).lower().split():
                with suppress(ValueError):  # no URL
                    return tuple(parse_qsl(urlsplit(target).query))
    return ()


class Lists(Protocol):
    """Who can list."""

    async def list(self, request: ListingRequest) -> Listing:
        """Get one page of a list. Raises `SourceError`."""
        ...
