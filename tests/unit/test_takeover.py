"""What an operator had set in hosts.toml is how the agent goes upstream, in every form that containerd knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.hosts import ConfigureOptions, configure
from mirror.registries import Endpoint, Registries, Taken
from mirror.takeover import read_hosts, take_over

PORT = 29990
CACHE = "https://cache.corp"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("ca.pem", "more.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("x")
    return tmp_path


def read(text: str, directory: Path, name: str = "registry.corp") -> Taken:
    return read_hosts(name, text, directory, PORT)


CASES = {
    "nothing": ("", Taken()),
    "server": ('server = "https://10.1.2.3"', Taken((), Endpoint("https://10.1.2.3"))),
    "server without scheme": ('server = "10.1.2.3:5000"', Taken((), Endpoint("https://10.1.2.3:5000"))),
    "docker.io as people write it": (
        'server = "https://docker.io"',
        Taken((), Endpoint("https://registry-1.docker.io")),
    ),
    "a cache": (f'[host."{CACHE}"]', Taken((Endpoint(CACHE),))),
    "two caches in their order": (
        f'[host."{CACHE}"]\n[host."http://b.corp/"]',
        Taken((Endpoint(CACHE), Endpoint("http://b.corp"))),
    ),
    "a cache that resolves no tags": (
        f'[host."{CACHE}"]\ncapabilities = ["pull"]',
        Taken((Endpoint(CACHE, resolves=False),)),
    ),
    "a cache whose capabilities are left empty": (f'[host."{CACHE}"]\ncapabilities = []', Taken((Endpoint(CACHE),))),
    "capabilities in capitals": (
        f'[host."{CACHE}"]\ncapabilities = ["Pull"]',
        Taken((Endpoint(CACHE, resolves=False),)),
    ),
    "a host to push to": (f'[host."{CACHE}"]\ncapabilities = ["push"]', Taken()),
    "override_path": (
        f'[host."{CACHE}/v2/proxy"]\noverride_path = true',
        Taken((Endpoint(f"{CACHE}/v2/proxy", override_path=True),)),
    ),
    "skip_verify": (f'[host."{CACHE}"]\nskip_verify = true', Taken((Endpoint(CACHE, skip_verify=True),))),
    "headers": (
        f'[host."{CACHE}"]\n[host."{CACHE}".header]\nX-A = "1"\nX-B = ["2", "3"]',
        Taken((Endpoint(CACHE, headers=(("X-A", "1"), ("X-B", "2"), ("X-B", "3"))),)),
    ),
    "the registry by plain HTTP": (
        '[host."http://registry.corp"]',
        Taken((), Endpoint("http://registry.corp")),
    ),
    "the server with more said of it as a host": (
        'server = "https://10.1.2.3"\n[host."https://10.1.2.3"]\nskip_verify = true',
        Taken((), Endpoint("https://10.1.2.3", skip_verify=True)),
    ),
    "a way back to the mirror": (f'[host."http://127.0.0.1:{PORT}"]\n[host."http://localhost:{PORT}"]', Taken()),
    "another mirror on this machine": (
        '[host."http://127.0.0.1:30020"]',
        Taken((Endpoint("http://127.0.0.1:30020"),)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hosts_toml_is_read_as_containerd_reads_it(case: str, directory: Path) -> None:
    text, taken = CASES[case]
    assert read(text, directory) == taken


@pytest.mark.parametrize(
    ("text", "ca_files", "client"),
    [
        ('ca = "ca.pem"', ["ca.pem"], []),
        ('ca = ["ca.pem", "more.pem"]', ["ca.pem", "more.pem"], []),
        ('client = "client.pem"', [], [("client.pem", None)]),
        ('client = ["client.pem", "more.pem"]', [], [("client.pem", None), ("more.pem", None)]),
        ('client = [["client.pem", "client.key"]]', [], [("client.pem", "client.key")]),
        ('ca = "/nowhere.pem"\nclient = []', [], []),
    ],
)
@pytest.mark.parametrize("place", ["server", "host"])
def test_certificates_are_found_beside_the_file(
    text: str, ca_files: list[str], client: list[tuple[str, str | None]], place: str, directory: Path
) -> None:
    head = f'server = "{CACHE}"' if place == "server" else f'[host."{CACHE}"]'
    taken = read(f"{head}\n{text}", directory)
    endpoint = taken.itself if place == "server" else taken.mirrors[0]
    assert endpoint is not None
    assert endpoint.ca_files == tuple(directory / each for each in ca_files)
    assert endpoint.client_certificates == tuple((directory / a, directory / b if b else None) for a, b in client)


def test_a_server_of_every_registry_is_a_mirror_of_each(directory: Path) -> None:
    taken = read(f'server = "https://all.corp"\n[host."{CACHE}"]', directory, "_default")
    assert taken == Taken((Endpoint(CACHE), Endpoint("https://all.corp")))
    registries = Registries({}, {"_default": taken})
    assert [each.url for each in registries.endpoints("ghcr.io")] == [CACHE, "https://all.corp", "https://ghcr.io"]


def test_after_configure_the_agent_asks_the_hosts_that_were_there_before(tmp_path: Path) -> None:
    for name, text in {
        "registry.corp": f'server = "https://10.1.2.3"\n\n[host."{CACHE}"]\n  capabilities = ["pull"]\n',
        "other.corp:5000": '[host."http://other.corp:5000"]\n',
        "third.corp_5000_": '[host."http://third.corp:5000"]\n',
        "_default": f'[host."{CACHE}"]\n',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "hosts.toml").write_text(text)
    configure(ConfigureOptions(tmp_path, f"http://127.0.0.1:{PORT}"))
    registries = Registries({"set.corp": (Endpoint("https://set"),)}, take_over(tmp_path, PORT))
    cache = Endpoint(CACHE)
    assert registries.endpoints("registry.corp") == (Endpoint(CACHE, resolves=False), Endpoint("https://10.1.2.3"))
    assert registries.endpoints("other.corp:5000") == (Endpoint("http://other.corp:5000"),)
    assert registries.endpoints("third.corp:5000") == (Endpoint("http://third.corp:5000"),)
    assert registries.endpoints("docker.io") == (cache, Endpoint("https://registry-1.docker.io"))
    assert registries.endpoints("set.corp") == (Endpoint("https://set"),), "what is set comes first"
    assert set(registries.configured_urls) == {
        "https://set",
        CACHE,
        "https://10.1.2.3",
        "http://other.corp:5000",
        "http://third.corp:5000",
    }


@pytest.mark.parametrize(
    "text",
    [
        "[",
        'host = "x"',
        'server = "ftp://x"',
        '[host."https://user:pw@x"]',
        "# <<< skvaller <<<\n",
        b"\xff",
        "x = " + "[" * 5000,
        'server = "https://x"\ncapabilities = true',
        f'[host."{CACHE}"]\ncapabilities = "pull"',
        f'[host."{CACHE}"]\ncapabilities = [1]',
    ],
)
def test_what_cannot_be_read_is_told_and_left_out(
    text: str | bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "registry.corp" / "hosts.toml"
    file.parent.mkdir()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert take_over(tmp_path, PORT) == {}
    assert str(file) in caplog.text


@pytest.mark.parametrize("key", ["capabilities", "ca", "client", "header", "override_path", "skip_verify", "server"])
@pytest.mark.parametrize("value", ["true", "1", "2.5", '"x"', "[]", "[1, [true, {}]]", "{a = [{}]}", "1979-05-27"])
def test_no_value_of_a_key_keeps_the_agent_from_the_other_files(key: str, value: str, tmp_path: Path) -> None:
    for name, text in {
        "a.corp": f'{key} = {value}\n[host."{CACHE}"]\n',
        "b.corp": f'[host."{CACHE}"]\n{key} = {value}\n',
        "c.corp": f'[host]\n"{CACHE}" = {value}\n',
        "good.corp": f'[host."{CACHE}"]\n',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "hosts.toml").write_text(text)
    assert take_over(tmp_path, PORT)["good.corp"] == Taken((Endpoint(CACHE),))


def test_without_the_directory_nothing_is_taken_over(tmp_path: Path) -> None:
    assert take_over(tmp_path / "nowhere", PORT) == {}
