"""Neither a registry's name nor a redirect leads the agent to what only its node should reach."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_address

import pytest
from aiohttp.resolver import DefaultResolver
from hypothesis import assume, given
from hypothesis import strategies as st

from mirror.address_guard import AddressGuard, is_refused
from mirror.errors import UnavailableError
from mirror.oci import Digest, Kind, Repository
from mirror.registries import Endpoint, Registries
from mirror.source import Request, read_all
from mirror.upstream import Upstream
from tests.serving import HOST, Heard, Scripted, answering, free_port, scripted

BLOB = b"content"
DIGEST = Digest.of(BLOB)
SERVED = answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)


def asked_of(registry: str) -> Request:
    return Request(Repository(registry, "lib/app"), Kind.BLOB, DIGEST, authorization="Bearer secret")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "fe80::1%eth0", "224.0.0.1"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("::127.0.0.1", "::ffff:0:127.0.0.1", "2001:0:102:304::5601:5601", "64:ff9b:1::a9fe:a9fe"),
        *("64:ff9b:1:fffe::a9fe:a9fe", "::ffff:0.0.0.0"),
    ],
)
def test_what_only_the_node_should_reach_is_refused_in_every_form(address: str) -> None:
    assert is_refused(address)


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "203.0.113.9", "fd00::1", "2001:db8::1"),
        *("::10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "64:ff9b:1:fffe::192.168.1.1", "2002:a00:1::"),
    ],
)
def test_private_and_public_networks_are_allowed_for_registries_live_there(address: str) -> None:
    assert not is_refused(address)


@given(st.ip_addresses(network="127.0.0.0/8") | st.ip_addresses(network="169.254.0.0/16"))
def test_no_address_of_a_refused_network_is_let_through_in_the_clothes_of_ipv6(address: object) -> None:
    assert is_refused(str(address))
    for prefix in ("::ffff:", "::", "::ffff:0:", "64:ff9b::", "64:ff9b:1::"):
        assert is_refused(f"{prefix}{address}")


@given(
    st.sampled_from([48, 56, 64, 96]),
    st.ip_addresses(v=4)
    | st.sampled_from(["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4"]).flatmap(
        lambda net: st.ip_addresses(network=net)
    )
    | st.sampled_from([IPv4Address("168.63.129.16"), IPv4Address("198.51.100.127"), IPv4Address("198.127.224.20")]),
)
def test_nat64_of_a_site_leads_where_the_address_that_it_carries_does(bits: int, address: IPv4Address) -> None:
    assume(address.packed[3])  # one that ends with 0 looks like another of a shorter prefix
    octets = bytearray(ip_address("64:ff9b:1::").packed)
    place = bits // 8
    for octet in address.packed:  # RFC 6052, section 2.2
        place += place == 8
        octets[place] = octet
        place += 1
    assert is_refused(str(ip_address(bytes(octets)))) == is_refused(str(address))


@asynccontextmanager
async def resolving(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> AsyncGenerator[None]:
    """DNS says what it is told to."""

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
        if host not in names:
            raise OSError(f"no {host}")
        kind = socket.AF_INET6 if ":" in names[host] else socket.AF_INET
        return [{"hostname": host, "host": names[host], "port": port, "family": kind, "proto": 0, "flags": 0}]

    monkeypatch.setattr(DefaultResolver, "resolve", resolve)
    yield


async def test_a_registrys_name_that_means_loopback_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(SERVED) as victim, resolving(monkeypatch, {"evil.example": HOST}):
        port = victim.url.rpartition(":")[2]
        async with Upstream(Registries({})) as upstream:
            for name in (f"evil.example:{port}", f"{HOST}:{port}", f"[::1]:{port}", "169.254.169.254"):
                with pytest.raises(UnavailableError, match="for this node alone"):
                    await upstream.open(asked_of(name))
    assert victim.heard == []


@pytest.mark.parametrize("target", ["127.0.0.1", "evil.example", "[::ffff:127.0.0.1]", "0.0.0.0"])
async def test_a_redirect_to_loopback_is_not_followed(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    async with scripted(SERVED) as victim, resolving(monkeypatch, {"evil.example": HOST}):
        location = f"http://{target}:{victim.url.rpartition(':')[2]}/latest/meta-data"
        redirect = answering("307 Temporary Redirect", [f"Location: {location}", "Content-Length: 0"])
        async with scripted(redirect) as registry:
            async with Upstream(Registries({"reg.example": (Endpoint(registry.url),)})) as upstream:
                with pytest.raises(UnavailableError, match="for this node alone"):
                    await upstream.open(asked_of("reg.example"))
        assert len(registry.heard) == 1
    assert victim.heard == []


async def test_names_that_never_exist_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with resolving(monkeypatch, {"some.invalid": HOST}), Upstream(Registries({})) as upstream:
        with pytest.raises(UnavailableError, match="RFC 6761"):
            await upstream.open(asked_of("some.invalid"))


@pytest.mark.parametrize("name", ["cache.example", "CACHE.example"])
async def test_what_is_configured_by_name_is_allowed_where_its_name_leads(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with scripted(SERVED) as registry, resolving(monkeypatch, {name: HOST}):
        url = f"http://{name}:{registry.url.rpartition(':')[2]}"
        async with Upstream(Registries({"reg.example": (Endpoint(url),)})) as upstream:
            content = await upstream.open(asked_of("reg.example"))
            assert await read_all(content.body, 1000) == BLOB


async def test_a_proxy_of_the_operators_may_be_on_loopback_and_is_not_asked_for_addresses_of_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await answering("502 Bad Gateway", ["Content-Length: 0"])(heard, writer)

    async with scripted(refuse) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        async with Upstream(Registries({})) as upstream:
            with pytest.raises(UnavailableError, match="502"):
                await upstream.open(asked_of("reg.example"))
            assert _lines(proxy) == ["CONNECT reg.example:443 HTTP/1.1"]
            with pytest.raises(UnavailableError, match="for this node alone"):
                await upstream.open(asked_of("169.254.169.254"))
            assert len(proxy.heard) == 1


@pytest.mark.parametrize("target", ["169.254.169.254", "0xa9fea9fe", "2852039166", "[::ffff:a9fe:a9fe]"])
async def test_a_redirect_to_an_address_of_the_node_goes_to_no_proxy_either(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    redirect = answering("307 Temporary Redirect", [f"Location: http://{target}/latest/", "Content-Length: 0"])
    async with scripted(redirect) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with Upstream(Registries({"reg.example": (Endpoint("http://reg.example"),)})) as upstream:
            with pytest.raises(UnavailableError, match="for this node alone"):
                await upstream.open(asked_of("reg.example"))
    assert len(proxy.heard) == 1


@pytest.mark.parametrize(
    ("host", "address"),
    [
        *(("127.1", HOST), ("0x7f000001", HOST), ("[0:0:0:0:0:0:0:1]", "::1"), ("[::1]", "0:0:0:0:0:0:0:1")),
        *(("[0::1]", "0::1"), ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"), ("[::ffff:7f00:1]", "::ffff:127.0.0.1")),
    ],
)
def test_what_is_configured_is_allowed_however_its_address_is_written(host: str, address: str) -> None:
    guard = AddressGuard(lambda: [f"http://{host}:5000"])
    guard.check_url(f"http://{host}:5000")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    guard.open_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 5000))).close()
    with pytest.raises(PermissionError):
        guard.check_url(f"http://{host}:5001")


def test_another_port_of_a_configured_address_stays_refused() -> None:
    port = free_port()
    guard = AddressGuard(lambda: [f"http://{HOST}:{port}"])
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, port))
    guard.open_socket(info).close()
    with pytest.raises(PermissionError):
        guard.open_socket((*info[:4], (HOST, port + 1)))


def _lines(server: Scripted) -> list[str]:
    return [heard.line for heard in server.heard]
