"""IPv4, IPv6 and both on one socket."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from gossip import ClusterSecret, Config, ConfigError
from tests.integration.gossip.nodes import SECRET, cluster, configs, names, until


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


def settings(addresses: list[tuple[str, str]], secret: ClusterSecret | None) -> list[Config]:
    """Nodes with these bind and advertised addresses; the first is the seed of all."""
    bare = configs(len(addresses), secret)
    host = f"[{addresses[0][1]}]" if ":" in addresses[0][1] else addresses[0][1]
    return [
        replace(
            config,
            bind_address=bind,
            advertise_address=advertise,
            seeds=(f"{host}:{bare[0].router_port}",),
        )
        for config, (bind, advertise) in zip(bare, addresses, strict=True)
    ]


@ipv6
@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param([("::1", "::1"), ("::1", "::1"), ("::1", "::1")], id="IPv6 alone"),
        pytest.param([("::", "::1"), ("::", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")], id="dual stack and IPv4"),
        pytest.param([("::", "localhost"), ("::1", "::1"), ("0.0.0.0", "127.0.0.1")], id="a name, IPv6 and IPv4"),
        pytest.param([("::", "::ffff:127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1")], id="a mapped address"),
    ],
)
async def test_nodes_of_either_family_and_of_both_meet(addresses: list[tuple[str, str]]) -> None:
    async with cluster(settings(addresses, SECRET)) as nodes:
        for node in nodes:
            node.add(b"key")
        for node in nodes:
            others = sorted(other.me.name for other in nodes if other is not node)
            await until(lambda node=node, others=others: names(node, b"key") == others, within_s=3.0)  # type: ignore[misc]
        assert not any(node.counters.refused_connections for node in nodes)


@ipv6
async def test_without_a_secret_nodes_meet_on_either_loopback() -> None:
    async with cluster(settings([("::1", "::1"), ("::1", "::1")], None)) as (one, two):
        one.add(b"key")
        await until(lambda: names(two, b"key") == [one.me.name])


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])
def test_without_a_secret_a_node_binds_loopback_only(address: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        Config(name="node", bind_address=address, secret=None)
    assert Config(name="node", bind_address=address, secret=SECRET).bind_address == address
