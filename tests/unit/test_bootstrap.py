"""Seeds that have to be asked for: pages, and Leases in a Kubernetes API that does as it is told.

`tests/k8s/test_api_server.py` has the same on a real API server.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

from gossip.config import SEEDS_MAX
from mirror import bootstrap, election
from mirror.bootstrap import ASKERS_MAX, Bootstrap, LeaseSeed, Page, SeedError
from mirror.kubernetes import KubernetesApi
from mirror.settings import SettingsError
from tests.serving import answering, free_port, scripted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

PATH = "/apis/coordination.k8s.io/v1/namespaces/mirrors/leases/seed"


@dataclass
class Api:
    """A Kubernetes API with one Lease, `seed` in the namespace `mirrors`. It writes nothing that was overtaken."""

    account: Path
    environment: dict[str, str]
    spec: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    status: int = 200
    calls: list[str] = field(default_factory=list)

    def candidate(self, me: str) -> LeaseSeed:
        return LeaseSeed(KubernetesApi(self.environment, self.account), "seed", me)

    async def answer(self, request: web.Request) -> web.Response:
        self.calls.append(request.method)
        if request.headers.get("Authorization") != f"Bearer {(self.account / 'token').read_text().strip()}":
            return web.Response(status=401)
        if self.status != 200 or request.path != PATH:
            return web.Response(status=self.status if self.status != 200 else 404)
        if request.method == "PUT":
            document = await request.json()
            if document["metadata"]["resourceVersion"] != str(self.version):
                return web.Response(status=409)
            self.spec, self.version = document["spec"], self.version + 1
        metadata = {"name": "seed", "namespace": "mirrors", "resourceVersion": str(self.version)}
        return web.json_response({"kind": "Lease", "metadata": metadata, "spec": self.spec})


@asynccontextmanager
async def api_server(directory: Path) -> AsyncGenerator[Api]:
    """Serve such an API over TLS, with a service account for it in `directory`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    (directory / "token").write_text("first\n")
    (directory / "namespace").write_text("mirrors")
    port = free_port()
    api = Api(directory, {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        yield api
    finally:
        await runner.cleanup()


async def test_a_page_tells_seeds_separated_by_commas_and_white_space() -> None:
    body = b"10.0.0.1:29993, 10.0.0.2:29993\n[fd00::3]:29993\nnode.example:1\n"
    async with scripted(answering("200 OK", [f"Content-Length: {len(body)}"], body)) as server:
        page = Page(server.url)
        await page.ask(0)
    assert page.seeds == ("10.0.0.1:29993", "10.0.0.2:29993", "[fd00::3]:29993", "node.example:1")


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        ("404 Not Found", b"", "404"),
        ("200 OK", b"<html>welcome</html>", "host:port"),
        ("200 OK", b"\xff\xfe", "decode"),
        ("200 OK", b" " * (bootstrap.PAGE_BYTES_MAX + 1), "more than"),
    ],
    ids=["missing", "something else", "not text", "too large"],
)
async def test_a_page_that_is_no_list_of_seeds_is_an_error_and_what_it_said_before_counts(
    status: str, body: bytes, why: str
) -> None:
    async with scripted(answering(status, [f"Content-Length: {len(body)}"], body)) as server:
        page = Page(server.url)
        page.seeds = ("10.0.0.1:29993",)
        with pytest.raises(SeedError, match=why):
            await page.ask(0)
    assert page.seeds == ("10.0.0.1:29993",)


async def test_of_a_page_with_very_many_seeds_some_count() -> None:
    body = " ".join(f"10.0.{number}.1:29993" for number in range(SEEDS_MAX + 1)).encode()
    async with scripted(answering("200 OK", [f"Content-Length: {len(body)}"], body)) as server:
        page = Page(server.url)
        await page.ask(0)
    assert len(page.seeds) == SEEDS_MAX


async def test_of_two_that_find_no_holder_one_becomes_it_and_both_know(tmp_path: Path) -> None:
    async with api_server(tmp_path) as api:
        one, two = api.candidate("10.0.0.1:29993"), api.candidate("10.0.0.2:29993")
        await asyncio.gather(one.ask(0), two.ask(0))
        await asyncio.gather(one.ask(3), two.ask(3))
        assert [one.must, two.must].count(True) == 1
        assert one.seeds == two.seeds == (api.spec["holderIdentity"],)
        assert api.spec["leaseTransitions"] == 1
        assert api.spec["leaseDurationSeconds"] == election.LEASE_DURATION_S


async def test_a_renewal_changes_the_time_alone(tmp_path: Path) -> None:
    async with api_server(tmp_path) as api:
        one = api.candidate("10.0.0.1:29993")
        await one.ask(0)
        before = dict(api.spec)
        await one.ask(3)
        assert {key for key in before if before[key] != api.spec[key]} == {"renewTime"}


async def test_a_holder_that_leaves_is_followed_at_once(tmp_path: Path) -> None:
    async with api_server(tmp_path) as api:
        one, two = api.candidate("10.0.0.1:29993"), api.candidate("10.0.0.2:29993")
        await one.ask(0)
        await one.leave()
        await two.ask(1)
        assert two.must
        await one.leave()
        assert api.spec["holderIdentity"] == "10.0.0.2:29993"


async def test_a_token_that_was_renewed_is_used(tmp_path: Path) -> None:
    async with api_server(tmp_path) as api:
        one = api.candidate("10.0.0.1:29993")
        await one.ask(0)
        (tmp_path / "token").write_text("second")
        await one.ask(3)


@pytest.mark.parametrize(("status", "why"), [(403, "does not allow"), (404, "no such object"), (500, "500")])
async def test_an_api_that_refuses_is_an_error_and_the_holder_stays_the_seed(
    status: int, why: str, tmp_path: Path
) -> None:
    async with api_server(tmp_path) as api:
        one, two = api.candidate("10.0.0.1:29993"), api.candidate("10.0.0.2:29993")
        await one.ask(0)
        await two.ask(0)
        api.status = status
        with pytest.raises(SeedError, match=why):
            await two.ask(3)
        assert two.seeds == ("10.0.0.1:29993",)


@pytest.mark.parametrize("holder", ["skvaller-7d9f_uid", "host:70000", "a:1 b"])
async def test_a_holder_that_is_no_address_is_no_seed(holder: str, tmp_path: Path) -> None:
    async with api_server(tmp_path) as api:
        api.spec = {"holderIdentity": holder, "leaseDurationSeconds": 15}
        one = api.candidate("10.0.0.1:29993")
        await one.ask(0)
        assert one.seeds == ()


def test_a_lease_outside_a_pod_is_refused() -> None:
    with pytest.raises(SettingsError, match="no pod with a service account"):
        Bootstrap(["lease:seed"], "10.0.0.1:29993", {})


def test_addresses_and_names_are_left_to_gossip() -> None:
    seeds = Bootstrap(["10.0.0.2:29993", "https://x.example/seeds", "agents.svc:29993"], "10.0.0.1:29993", {})
    assert seeds.fixed == ("10.0.0.2:29993", "agents.svc:29993")
    assert seeds.seeds() == []


@pytest.mark.parametrize(
    ("before", "asked"), [([], True), (["a"] * (ASKERS_MAX - 1) + ["z"], True), (["a"] * ASKERS_MAX, False)]
)
async def test_who_is_alone_or_among_the_first_asks_and_the_others_do_not(
    before: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "ASK_S", 0.01)
    body = b"10.0.0.2:29993"
    async with scripted(answering("200 OK", [f"Content-Length: {len(body)}"], body)) as server:
        seeds = Bootstrap([server.url], "10.0.0.1:29993", {})
        task = asyncio.create_task(seeds.run("m", lambda: before))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait({task})
        assert bool(server.heard) == asked
        assert seeds.seeds() == (["10.0.0.2:29993"] if asked else [])


async def test_an_agent_that_stops_gives_its_lease_up(tmp_path: Path) -> None:
    async with api_server(tmp_path) as api:
        seeds = Bootstrap(["lease:seed"], "10.0.0.1:29993", api.environment, tmp_path)
        task = asyncio.create_task(seeds.run("m", list))
        async with asyncio.timeout(5):
            while seeds.seeds() != ["10.0.0.1:29993"]:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait({task})
        assert not api.spec["holderIdentity"]
