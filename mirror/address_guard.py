"""Where the agent may be led to by others: not to this machine itself, and not to a cloud's metadata service.

Which registry is asked is the client's choice (`ns`), and where that leads is the choice of the name's DNS and of
redirects. Whoever controls one of them could reach, through an agent on the host network, what only the node itself
should. So the decision is taken on the address, at the moment of connecting: nothing can change in between.

Refused are loopback, link-local (which holds most metadata services), multicast, the unspecified address, and the
metadata services that live elsewhere, also as an IPv6 address carries them: mapped, compatible, translated, by NAT64,
6to4 or Teredo. Private networks are allowed, since registries live there. What the operator configured is allowed
wherever it is: the endpoints of registries and a proxy from the environment. Behind a proxy it is the proxy that
connects, and only addresses that stand in the URL itself, the first or one that a redirect leads to, are checked.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import DefaultResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from aiohttp.abc import ResolveResult

METADATA_ADDRESSES: Final = frozenset(
    ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure, the host's own services
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
"""Those of the clouds' metadata services that no other rule covers."""

_LAST_32_BITS: Final = tuple(
    IPv6Network(text)
    for text in (
        "::/96",  # compatible, RFC 4291 section 2.5.5.1
        "::ffff:0:0/96",  # mapped, section 2.5.5.2
        "::ffff:0:0:0/96",  # translated, RFC 2765
        "64:ff9b::/96",  # NAT64, RFC 6052
    )
)
"""The networks whose addresses end with an IPv4 address."""
_SITE_NAT64: Final = IPv6Network("64:ff9b:1::/48")
"""NAT64 of a site's own, RFC 8215."""
_PORTS: Final = {"http": 80, "https": 443}


def is_refused(text: str) -> bool:
    """Whether an address is one that only the node itself should reach."""
    address = ip_address(text.partition("%")[0])
    return any(
        each.is_loopback or each.is_link_local or each.is_multicast or each.is_unspecified or each in METADATA_ADDRESSES
        for each in (address, *_carried(address))
    )


class AddressGuard:
    """Both ends of connecting, for aiohttp: `resolver` looks names up, `open_socket` decides on what they mean.

    `configured` gives the URLs that the operator set, at each decision anew.
    """

    def __init__(self, configured: Callable[[], Iterable[str]]) -> None:
        self._configured = configured
        self._resolved: dict[tuple[str, int], frozenset[str]] = {}
        self.resolver: AbstractResolver = _Resolver(self._note)

    def check_url(self, url: str) -> None:
        """Refuse an address that stands in the URL itself. Raises `OSError`."""
        host, port = _host_and_port(url)
        if (address := _address(host)) is not None:
            self._check(address, port)

    async def check_request(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """The same for each request and each redirect, as a middleware of aiohttp."""
        self.check_url(str(request.url))
        return await handler(request)

    def open_socket(self, info: Any) -> socket.socket:
        """A socket to connect to what aiohttp resolved. Raises `OSError` when it is refused."""
        family, kind, protocol, _, place = info
        self._check(str(place[0]), int(place[1]))
        return socket.socket(family, kind, protocol)

    def _check(self, address: str, port: int) -> None:
        address = _address(address) or address  # aiohttp passes on what stands in a URL as it is written there
        if is_refused(address) and (address, port) not in self._allowed():
            reason = f"{address} port {port} is for this node alone; configure the registry to allow it"
            raise PermissionError(errno.EACCES, reason)

    def _allowed(self) -> set[tuple[str, int]]:
        allowed = set()
        for host, port in self._places():
            address = _address(host)
            addresses = self._resolved.get((host, port), frozenset()) if address is None else {address}
            allowed |= {(each, port) for each in addresses}
        return allowed

    def _places(self) -> list[tuple[str, int]]:
        proxies = [url for scheme, url in getproxies().items() if scheme != "no"]
        return [_host_and_port(url) for url in (*self._configured(), *proxies)]

    def _note(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Remember where a configured name leads to; others are judged by their addresses alone."""
        place = host.lower(), port
        if place in self._places():
            self._resolved[place] = frozenset(_address(each) or each for each in addresses)


class _Resolver(AbstractResolver):
    """The system's resolver, whose answers are told on."""

    def __init__(self, note: Callable[[str, int, Iterable[str]], None]) -> None:
        self._note = note
        self._resolver: AbstractResolver | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host == "invalid" or host.endswith(".invalid"):
            raise OSError(errno.ENOENT, f"{host} does not exist, by RFC 6761 section 6.4")
        self._resolver = self._resolver or DefaultResolver()  # it wants a running loop
        results = await self._resolver.resolve(host, port, family)
        self._note(host, port, [result["host"] for result in results])
        return results

    async def close(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()


def _carried(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 one carries."""
    if isinstance(address, IPv4Address):
        return []
    carried = [address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _LAST_32_BITS):
        carried.append(IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _SITE_NAT64:
        carried += _carried_by_site_nat64(address.packed)
    return [each for each in carried if each is not None]


def _carried_by_site_nat64(octets: bytes) -> list[IPv4Address]:
    """The IPv4 addresses that can be meant: the site's prefix may have 48, 56, 64 or 96 bits, and nobody says which.

    Behind the IPv4 address all is 0, and the octet 8 is no part of it (RFC 6052, section 2.2). So one that ends with 0
    looks like another of a shorter prefix, and is taken for that.
    """
    carried = []
    if any(octets[13:]) or not any(octets[9:12]):
        carried.append(IPv4Address(octets[12:]))
    for prefix in (6, 7, 8):
        behind = octets[prefix:8] + octets[9:]
        if behind[3] and not any(behind[4:]):
            carried.append(IPv4Address(behind[:4]))
    return carried


def _address(host: str) -> str | None:
    """The address that a host is, also one that is written as only the C library reads it (`127.1`, `0x7f000001`)."""
    with suppress(ValueError):
        return str(ip_address(host))
    with suppress(OSError, ValueError):
        return socket.inet_ntoa(socket.inet_aton(host))
    return None


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "//" in url else f"//{url}")
    return (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 80)
