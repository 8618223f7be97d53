"""Settings are read from flags, environment and file, and refused with the reason."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import trustme

from mirror.registries import Endpoint, Registries
from mirror.settings import Settings, SettingsError, load


def test_flags_go_before_the_environment_before_the_file_before_the_default(tmp_path: Path) -> None:
    file = tmp_path / "skvaller.toml"
    file.write_text("client_port = 1001\npeer_port = 1002\nrouter_port = 1003\n")
    settings = load({"client_port": "3001"}, {"SKVALLER_CLIENT_PORT": "2001", "SKVALLER_PEER_PORT": "2002"}, file)
    assert (settings.client_port, settings.peer_port, settings.router_port) == (3001, 2002, 1003)
    assert settings.publish_port == 29992


def test_lists_and_registries_are_read_alike_from_everywhere(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    file = tmp_path / "skvaller.toml"
    file.write_text(
        'seeds = ["10.0.0.1:29993", "[fd00::1]:29993"]\ncontainerd_namespaces = ["k8s.io", "moby"]\n'
        f'[registries."docker.io"]\nurl = "https://cache.example.com/"\nca_file = "{ca}"\n'
    )
    from_file = load({}, {}, file)
    from_flags = load(
        {
            "seeds": "10.0.0.1:29993,[fd00::1]:29993",
            "containerd_namespaces": "k8s.io moby",
            "registries": f"docker.io=https://cache.example.com,ca_file={ca}",
        },
        {},
        None,
    )
    assert from_file.seeds == from_flags.seeds == ("10.0.0.1:29993", "[fd00::1]:29993")
    assert from_file.containerd_namespaces == from_flags.containerd_namespaces == ("k8s.io", "moby")
    assert from_file.registries == from_flags.registries
    assert from_file.registries["docker.io"].endpoints == (Endpoint("https://cache.example.com", ca_files=(ca,)),)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("client_port", "0", "1 to 65535"),
        ("client_port", "http", "1 to 65535"),
        ("client_address", "10.0.0.1", "loopback"),
        ("address", "node-1", "IPv4 or IPv6"),
        ("seeds", "10.0.0.1", "host:port"),
        ("seeds", "::1:29993", "host:port"),
        ("store", "docker", "oci-layout, containerd"),
        ("layout_bytes_max", "ten", "10Gi"),
        ("layout_dir", "images", "absolute path"),
        ("log_level", "loud", "debug, info"),
        ("grace_s", "-1", "0 to 3600"),
        ("grace_s", "nan", "0 to 3600"),
        ("name", "", "characters"),
        ("registries", "docker.io", "NAME=URL"),
        ("registries", "docker.io=ftp://x", "http"),
        ("registries", "a/b=https://x", "name of a registry"),
        ("registries", "docker.io=https://user:pw@x", "without credentials"),
        ("registries", "docker.io=https://x,ca_file=/nowhere", "no file"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_the_value_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load({name: value}, {}, None)
    assert f"--{name.replace('_', '-')}" in str(refusal.value)
    assert repr(value) in str(refusal.value)
    assert allowed in str(refusal.value)
    with pytest.raises(SettingsError, match=f"SKVALLER_{name.upper()}"):
        load({}, {f"SKVALLER_{name.upper()}": value}, None)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("client_prot = 1\n", "client_prot"),
        ("client_port = 70000\n", "client_port"),
        ("client_port =\n", "line 1"),
        ('registries = "x"\n', "registries"),
        ('[registries."docker.io"]\nurk = "https://x"\n', "docker.io"),
        ('[registries."docker.io"]\nurl = "x"\n', "docker.io"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "skvaller.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refusal:
        load({}, {}, file)
    assert str(file) in str(refusal.value)
    assert named in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        load({}, {}, tmp_path / "nowhere.toml")


def test_without_a_secret_an_agent_listens_on_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="secret_file"):
        load({"address": "10.0.0.7"}, {}, None)
    settings = load({"address": "10.0.0.7", "secret_file": str(tmp_path / "secret")}, {}, None)
    assert settings.advertise_address == "10.0.0.7"


def test_an_address_that_reaches_no_node_is_not_advertised(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="advertise_address"):
        load({"address": "0.0.0.0", "secret_file": str(tmp_path / "secret")}, {}, None)


def test_two_ports_that_are_one_are_refused() -> None:
    with pytest.raises(SettingsError, match="differ"):
        load({"client_port": "29991"}, {}, None)


def test_every_setting_says_what_it_means() -> None:
    for setting in fields(Settings):
        assert setting.metadata["help"].endswith("."), setting.name


def test_sizes_have_units() -> None:
    assert load({"layout_bytes_max": "10Gi"}, {}, None).layout_bytes_max == 10 * 2**30
    assert load({"layout_bytes_max": "5 GB"}, {}, None).layout_bytes_max == 5 * 10**9


def test_docker_io_is_reached_where_its_api_lives_unless_set_otherwise() -> None:
    assert Registries({}).endpoints("docker.io") == (Endpoint("https://registry-1.docker.io"),)
    assert Registries({}).endpoints("ghcr.io") == (Endpoint("https://ghcr.io"),)
    assert Registries({"docker.io": (Endpoint("http://cache"),)}).endpoints("docker.io") == (Endpoint("http://cache"),)


@pytest.mark.parametrize("text", ["[", "x = " + "[" * 5000, "x = " + "1" * 5000, b"\xff"], ids=range(4))
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "skvaller.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=str(file)):
        load({}, {}, file)
