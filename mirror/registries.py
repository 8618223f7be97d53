"""How upstream registries are reached: at `https://<name>`, except where it is known or set otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mirror.oci import InvalidReferenceError, parse_registry

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL and, for TLS, a file of CA certificates to trust beside the system's."""

    url: str
    ca_file: Path | None = None

    @classmethod
    def parse(cls, url: str, ca_file: str = "") -> Endpoint:
        """Check both; raises ValueError that says what is allowed."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an http:// or https:// URL without query or fragment")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL without credentials: the agent holds none")
        if ca_file and not Path(ca_file).is_file():
            raise ValueError(f"a ca_file with certificates in PEM ({ca_file} is no file)")
        return cls(url.rstrip("/"), Path(ca_file) if ca_file else None)


KNOWN: Final[Mapping[str, Endpoint]] = {"docker.io": Endpoint("https://registry-1.docker.io")}
"""Registries whose API lives under another name than theirs."""


class Registries:
    """Every registry by its name; `endpoints` has those that the operator set."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = {**KNOWN, **endpoints}
        self.configured_urls: Final = tuple(endpoint.url for endpoint in endpoints.values())
        """Where the operator wants us to go, whatever address that is."""

    def endpoint(self, name: str) -> Endpoint:
        """Where the registry is; names that nobody knows are reached by TLS under themselves."""
        return self._endpoints.get(name) or Endpoint(f"https://{name}")


def read_registry_name(text: str) -> str:
    """Check a registry's name; raises ValueError that says what is allowed."""
    try:
        return parse_registry(text)
    except InvalidReferenceError as error:
        raise ValueError(f"the name of a registry, such as docker.io ({error})") from error
