"""Settings are refused with their name, their value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from gossip import ClusterSecret, Config, ConfigError
from gossip.config import parse_seed

SECRET = ClusterSecret(bytes(range(32)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""),
        ("name", "x" * 254),
        ("name", "line\nbreak"),
        ("cluster", ""),
        ("bind_address", "localhost"),
        ("bind_address", "0.0.0.0"),
        ("bind_address", "::"),
        ("bind_address", "192.0.2.1"),
        ("advertise_address", ""),
        ("publish_port", 0),
        ("router_port", 65536),
        ("router_port", 29992),
        ("zone", "x" * 254),
        ("attributes", {str(number): "" for number in range(17)}),
        ("attributes", {"key": "x" * 257}),
        ("seeds", ("host",)),
        ("seeds", ("host:0",)),
        ("seeds", (":1",)),
        ("seeds", ("host:1",) * 65),
        ("heartbeat_s", 0),
        ("coalesce_s", float("nan")),
        ("sync_s", 61),
        ("silence_s", 1.9),
        ("probe_timeout_s", 0),
        ("suspicion_min_s", 0),
        ("suspicion_max_s", 4.9),
        ("forget_s", 159),
        ("forget_s", float("inf")),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name: str, value: object) -> None:
    settings: dict[str, Any] = {"name": "a", name: value}
    with pytest.raises(ConfigError, match=f"{name} is .*, but must be") as refused:
        Config(**settings)
    assert refused.value.name == name


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_without_a_secret_loopback_is_allowed(address: str) -> None:
    assert Config("a", bind_address=address).secret is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_with_a_secret_any_address_is_allowed(address: str) -> None:
    assert Config("a", bind_address=address, secret=SECRET).bind_address == address


@pytest.mark.parametrize(
    ("seed", "host", "port"),
    [("host:1", "host", 1), ("192.0.2.1:65535", "192.0.2.1", 65535), ("[2001:db8::1]:80", "2001:db8::1", 80)],
)
def test_a_seed_is_a_host_and_a_port(seed: str, host: str, port: int) -> None:
    assert parse_seed(seed) == (host, port)
