"""Ports that stand for one registry: what an operator may write, and what a client is told there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from mirror import upstream as upstream_module
from mirror.errors import RefusedError
from mirror.metrics import Metrics
from mirror.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, Repository
from mirror.registries import Endpoint, Registries
from mirror.registry import create_registry
from mirror.registry_ports import REGISTRY_PORTS_MAX, RegistryPort, read_registry_ports
from mirror.settings import Settings, SettingsError
from mirror.source import Content, Request
from mirror.upstream import Upstream
from tests.serving import Heard, Script, answering, free_port, scripted, serving

REGISTRY = "registry.test"
CHALLENGE = 'Bearer realm="https://auth.test/token",service="registry"'


def test_ports_are_read_with_the_registries_that_they_stand_for() -> None:
    ports = read_registry_ports("docker.io=29996, reg.example:5000=29997 [::1]:5000=29998")
    assert ports == (
        RegistryPort("docker.io", 29996),
        RegistryPort("reg.example:5000", 29997),
        RegistryPort("[::1]:5000", 29998),
    )
    assert read_registry_ports(",".join(map(str, ports))) == ports
    assert read_registry_ports("") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("docker.io", "NAME=PORT"),
        ("29996", "NAME=PORT"),
        ("=29996", "NAME=PORT"),
        ("docker.io=x", "65535"),
        ("docker.io=0", "65535"),
        ("a/b=1", "NAME=PORT"),
        ("a.io=1,a.io=2", "one port for each"),
        (",".join(f"r{number}.io={number + 1}" for number in range(REGISTRY_PORTS_MAX + 1)), "at most"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_registry_ports(text)


@pytest.mark.parametrize("ports", [(29991,), (30001, 30001)])
def test_they_differ_from_all_other_ports(ports: tuple[int, ...]) -> None:
    each = tuple(RegistryPort(f"r{number}.io", port) for number, port in enumerate(ports))
    with pytest.raises(SettingsError, match="must differ"):
        Settings(registry_ports=each)


class Asked:
    """A source that keeps what it is asked for, and has nothing."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def resolve(self, request: Request) -> Descriptor:
        self.requests.append(request)
        raise RefusedError(404)

    async def open(self, request: Request) -> Content:
        self.requests.append(request)
        raise RefusedError(404)


async def get(
    source: Asked, path: str, greet: Callable[[str | None], Awaitable[None]] | None = None
) -> tuple[int, str]:
    """The status and the challenge that the port of `REGISTRY` answers."""
    app = create_registry(source, Metrics().face("client"), itself=REGISTRY, greet=greet)
    async with serving(app) as base, aiohttp.ClientSession() as session:
        async with session.get(f"{base}{path}", headers={"Authorization": "Bearer x"}) as response:
            return response.status, response.headers.get("WWW-Authenticate", "")


async def test_what_is_asked_there_is_asked_of_that_registry_for_a_client_that_cannot_go_elsewhere() -> None:
    asked = Asked()
    await get(asked, "/v2/library/nginx/manifests/v1")
    await get(asked, f"/v2/docker.io/app/blobs/{Digest.of(b'x')}")
    repositories = [request.repository for request in asked.requests]
    assert repositories == [Repository(REGISTRY, "library/nginx"), Repository(REGISTRY, "docker.io/app")]
    assert [(request.all_or_nothing, request.authorization) for request in asked.requests] == [(True, "Bearer x")] * 2


async def test_what_a_client_accepts_in_several_lines_is_asked_for_in_one() -> None:
    asked = Asked()
    kinds = [OCI_MANIFEST, DOCKER_MANIFEST, f"{DOCKER_MANIFEST.replace('v2', 'v1')}", DOCKER_LIST, OCI_INDEX, "*/*"]
    app = create_registry(asked, Metrics().face("client"), itself=REGISTRY)
    async with serving(app) as base, aiohttp.ClientSession() as session:
        headers = [("Accept", kind) for kind in kinds]
        async with session.get(f"{base}/v2/library/nginx/manifests/v1", headers=headers) as response:
            assert response.status == 404
    assert [request.accept for request in asked.requests] == [", ".join(kinds)]


async def test_the_greeting_there_is_the_registrys_own_challenge() -> None:
    heard = []

    async def greet(authorization: str | None) -> None:
        heard.append(authorization)
        raise RefusedError(401, (("WWW-Authenticate", CHALLENGE),), b"no")

    assert await get(Asked(), "/v2/", greet) == (401, CHALLENGE)
    assert heard == ["Bearer x"]
    assert await get(Asked(), "/v2/") == (200, "")


@pytest.mark.parametrize(
    ("answer", "challenge"),
    [
        (answering("401 Unauthorized", [f"WWW-Authenticate: {CHALLENGE}", "Content-Length: 0"]), CHALLENGE),
        (answering("200 OK", ["Content-Length: 2"], b"{}"), None),
        (answering("404 Not Found", ["Content-Length: 0"]), None),
        (answering("500 Oh", ["Content-Length: 0"]), None),
    ],
)
async def test_a_registry_is_asked_for_its_challenge_with_the_clients_own_header(
    answer: Script, challenge: str | None
) -> None:
    async with scripted(answer) as server:
        async with Upstream(Registries({REGISTRY: (Endpoint(server.url),)})) as upstream:
            found = None
            try:
                await upstream.greet(REGISTRY, "Bearer x")
            except RefusedError as refusal:
                found = dict(refusal.headers)["WWW-Authenticate"]
    assert found == challenge
    assert (server.heard[0].path, server.heard[0].headers["authorization"]) == ("/v2/", "Bearer x")


async def test_a_registry_that_does_not_answer_wants_nobody_to_say_who_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silent(_: Heard, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(upstream_module, "GREETING_S_MAX", 0.1)
    async with scripted(silent) as server:
        for url in (server.url, f"http://127.0.0.1:{free_port()}"):
            async with Upstream(Registries({REGISTRY: (Endpoint(url),)})) as upstream:
                await upstream.greet(REGISTRY, None)
