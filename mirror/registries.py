"""How upstream registries are reached: at `https://<name>`, except where it is known or set otherwise.

A registry has a list of endpoints: other mirrors that are asked before it, and then itself. They come from the
configuration file (`mirror.registry_table`), else from the hosts.toml that led the runtime to them before
(`mirror.takeover`).

A protected registry says whom it lets in (`mirror.authorization`), so it is never asked with credentials that were set
for it: what it lets the operator have is not for everybody.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FOR_ALL: Final = "_default"
"""The name under which endpoints were taken over for every registry that has none of its own."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an API is, and how it is spoken to.

    `url` has no slash at its end. `override_path`: it has the whole path, so no /v2 comes after it. `ca_files` are
    trusted beside the system's certificates; `client_certificates` are pairs of a certificate and a key (None: both
    are in one file). `headers` go along with each request, and may be secret.
    """

    url: str
    override_path: bool = False
    ca_files: tuple[Path, ...] = ()
    client_certificates: tuple[tuple[Path, Path | None], ...] = ()
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    resolves: bool = True
    """Whether it may be asked what a tag means."""

    @staticmethod
    def read_url(text: object) -> str:
        """Check the URL of an endpoint; raises ValueError that says what is allowed."""
        allowed = "an http:// or https:// URL without query or fragment"
        try:
            parts = urlsplit(str(text))
            port = parts.port
        except ValueError:  # half an IPv6 address, or a port that is no port
            raise ValueError(allowed) from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or parts.query or parts.fragment:
            raise ValueError(allowed)
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL without credentials: the agent holds none")
        return str(text).rstrip("/")

    def address(self, path: str) -> str:
        """The URL of what a registry has at `path` (`/v2/...`)."""
        return self.url + (path.removeprefix("/v2") if self.override_path else path)

    def without_credentials(self) -> Endpoint:
        """The same place, which is told only what a client says of itself."""
        others = tuple((name, value) for name, value in self.headers if name.lower() != "authorization")
        return replace(self, headers=others)


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken over: mirrors, and the registry itself where its name does not say where it is."""

    mirrors: tuple[Endpoint, ...] = ()
    itself: Endpoint | None = None


KNOWN: Final[Mapping[str, Endpoint]] = {"docker.io": Endpoint("https://registry-1.docker.io")}
"""Registries whose API lives under another name than theirs."""


def usual_endpoint(name: str) -> Endpoint:
    """Where a registry is of which nothing is set."""
    return KNOWN.get(name) or Endpoint(f"https://{name}")


class Registries:
    """Every registry by its name. `configured` comes before what was `taken` over."""

    def __init__(
        self, configured: Mapping[str, tuple[Endpoint, ...]], taken: Mapping[str, Taken] | None = None
    ) -> None:
        self._contexts: dict[Endpoint, ssl.SSLContext] = {}
        self.replace(configured, taken or {})

    def replace(
        self,
        configured: Mapping[str, tuple[Endpoint, ...]],
        taken: Mapping[str, Taken],
        is_protected: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Set all anew. Requests under way end as they began; certificates are read again."""
        self._configured = configured
        self._taken = taken
        self._is_protected = is_protected
        self._contexts.clear()

    def endpoints(self, name: str) -> tuple[Endpoint, ...]:
        """Where to ask for a registry, in this order; the last one is the registry itself."""
        if configured := self._configured.get(name):
            return configured
        taken = self._taken.get(name) or self._taken.get(FOR_ALL, Taken())
        itself = taken.itself or usual_endpoint(name)
        if itself.headers and self._is_protected(name):
            itself = itself.without_credentials()
        return (*taken.mirrors, itself)

    @property
    def configured_urls(self) -> tuple[str, ...]:
        """Where the operator wants us to go, whatever address that is."""
        return tuple(endpoint.url for endpoint in self._all())

    @property
    def files(self) -> list[Path]:
        """The certificates and keys in use."""
        files: list[Path] = []
        for endpoint in self._all():
            files += endpoint.ca_files
            files += [file for pair in endpoint.client_certificates for file in pair if file]
        return files

    def context(self, endpoint: Endpoint) -> ssl.SSLContext | bool:
        """How TLS is spoken with an endpoint, as aiohttp takes it. Raises `OSError` for files that are of no use."""
        if not (endpoint.ca_files or endpoint.client_certificates):
            return not endpoint.skip_verify
        if endpoint not in self._contexts:
            self._contexts[endpoint] = _context(endpoint)
        return self._contexts[endpoint]

    def _all(self) -> Iterator[Endpoint]:
        for endpoints in self._configured.values():
            yield from endpoints
        for taken in self._taken.values():
            yield from taken.mirrors
            if taken.itself:
                yield taken.itself


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if endpoint.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for file in endpoint.ca_files:
        context.load_verify_locations(file)
    for certificate, key in endpoint.client_certificates:
        context.load_cert_chain(certificate, key)
    return context
