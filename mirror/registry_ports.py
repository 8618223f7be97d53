"""Ports of the client face that stand for one registry each, for clients that do not say which one they mean.

podman, skopeo and their kin can be led to a path that begins with the registry's name. But there they are never asked
who they are, since that is settled at `/v2/`, which is one for all; so registries that want a token, were it a public
one (Docker Hub), give them nothing. At a port of its own the registry's own challenge stands at `/v2/`, a registry may
have a port in its name, and credentials that are noted for the port are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirror.oci import InvalidReferenceError, parse_registry
from mirror.options import read_port, words

REGISTRY_PORTS_MAX: Final = 16
"""Each is a listening socket with connections of its own."""


@dataclass(frozen=True, slots=True)
class RegistryPort:
    """One port and the registry that it stands for."""

    registry: str
    port: int

    def __str__(self) -> str:
        return f"{self.registry}={self.port}"


def read_registry_ports(text: str) -> tuple[RegistryPort, ...]:
    """Read `NAME=PORT`, several with commas or white space. Raises ValueError that says what is allowed."""
    ports = []
    for word in words(text):
        name, _, port = word.rpartition("=")
        try:
            registry = parse_registry(name)
        except InvalidReferenceError as error:
            raise ValueError(f"NAME=PORT, such as docker.io=29996 ({error})") from error
        ports.append(RegistryPort(registry, read_port(port)))
    if len({each.registry for each in ports}) != len(ports):
        raise ValueError("one port for each registry")
    if len(ports) > REGISTRY_PORTS_MAX:
        raise ValueError(f"at most {REGISTRY_PORTS_MAX} of them")
    return tuple(ports)
