"""The live page in a real browser: ten real agents that pull, and a thousand simulated ones."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import aiohttp
import pytest
from starlette.middleware import Middleware

from mirror.demo import scene
from mirror.demo.client import pull
from mirror.demo.scene import REPOSITORY, TAG, Agent, DemoRegistry, build_demo_image, running_agents
from mirror.http_server import HttpServer
from mirror.metrics import Metrics
from mirror.oci import Digest
from mirror.registry import create_registry
from mirror.stores.oci_layout import OciLayout
from tests.page.browser import Visit, visiting
from tests.page.thousand import simulated_agent, thousand
from tests.serving import HOST, free_port, serving
from tests.unwatched import Unwatched

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


AGENTS = 10
ZONES = ("zone-a", "zone-b", "zone-c")
SLOW_BYTES, SLOW_S = 16 * 1024, 0.25
"""A client that reads so little at a time, so that there is something to see."""
LAYER_BYTES = 128 * 1024 * 1024
REGISTRY_S = 0.5
"""How long a slow registry waits after each piece of at most 1 MB: a layer takes a minute, and no peer is too slow."""
MANY = 1000
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


async def read_layer(agent: Agent, digest: str, pause_s: float = 0.0) -> None:
    """Pull a layer, as a runtime that is busy with other things if there is a pause after each piece."""
    path = f"{agent.url}/v2/{REPOSITORY.name}/blobs/{digest}?ns={REPOSITORY.registry}"
    async with aiohttp.ClientSession(read_bufsize=SLOW_BYTES) as session, session.get(path) as response:
        while await response.content.read(SLOW_BYTES):
            await asyncio.sleep(pause_s)


@pytest.mark.timeout(400)
async def test_ten_agents_that_pull_are_seen_in_every_view(
    tmp_path: Path, screenshots: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene, "START_TIMEOUT_S", 180.0)  # ten interpreters on a busy machine
    await asyncio.to_thread(build_demo_image, tmp_path / "registry")
    names = [f"node-{number}" for number in range(AGENTS)]
    async with (
        DemoRegistry(tmp_path / "registry") as registry,
        running_agents(names, tmp_path, registry.url, ZONES) as agents,
        asyncio.TaskGroup() as tasks,
    ):
        fetched = await pull(agents[0].url, REPOSITORY, TAG, Unwatched())
        layers = [each for each in fetched if each.size > 1_000_000]
        for agent in agents[1:4]:
            await pull(agent.url, REPOSITORY, TAG, Unwatched())
        await _see_cluster_and_find(agents[1].url, screenshots)
        slow = [tasks.create_task(read_layer(agents[4], str(layer.digest), SLOW_S)) for layer in layers[:3]]
        await _see_transfers(agents[4].url, screenshots)
        for task in slow:
            task.cancel()
        await _see_pulls_gossip_and_settings(agents[1].url, screenshots)


async def _see_cluster_and_find(url: str, screenshots: Path | None) -> None:
    async with visiting(url) as visit:
        assert "node-1" in await visit.text("#who")
        assert "all well" in await visit.text("#tiles")
        zones = await visit.text("#zones")
        assert all(zone in zones for zone in ZONES)
        await visit.page.keyboard.press("/")
        await visit.page.keyboard.type("demo")
        await visit.page.keyboard.press("Enter")
        await visit.until("document.getElementById('found').innerText.includes('nodes')")
        assert "4 nodes" in await visit.text("#found")
        await visit.page.click("text=Its objects")
        await visit.until("document.querySelectorAll('#explained tbody tr').length >= 8")
        assert "this node has it" in await visit.text("#explained")
        await visit.page.focus("#map")
        await visit.page.keyboard.press("ArrowRight")
        assert "this node" in await visit.text("#node-detail")
        await visit.page.keyboard.press("ArrowRight")
        assert "this node" not in await visit.text("#node-detail")
        await visit.look(screenshots, "ten-light-cluster")


async def _see_transfers(url: str, screenshots: Path | None) -> None:
    for scheme in SCHEMES:
        async with visiting(url, "transfers", scheme) as visit:
            await visit.until("document.querySelectorAll('#transfer-tree .tree').length >= 3")
            await visit.until("/[1-9][0-9.]* [kM]?B\\/s/.test(document.getElementById('transfer-tree').innerText)")
            tree = await visit.text("#transfer-tree")
            assert "runtime of this node" in tree
            assert "from node-" in tree
            await visit.look(screenshots, f"ten-{scheme}-transfers")


async def _see_pulls_gossip_and_settings(url: str, screenshots: Path | None) -> None:
    async with visiting(url, "pulls", "dark") as visit:
        await visit.until("document.querySelectorAll('#pull-list .badge').length >= 8")
        pulls = await visit.text("#pull-list")
        assert "not in the store" in pulls
        assert "node-0" in pulls
        await visit.look(screenshots, "ten-dark-pulls")
        await visit.page.fill("#pull-text", "no such thing")
        await visit.until("document.querySelectorAll('#pull-list .badge').length === 0")
        await visit.page.click("#tab-gossip")
        await visit.until("document.querySelectorAll('#counters tbody tr').length > 10")
        await visit.look(screenshots, "ten-dark-gossip")
        await visit.page.keyboard.press("5")
        await visit.until("document.getElementById('setting-list').innerText.includes('secret_file')")
        settings = (await visit.text("#setting-list")).splitlines()
        assert any(line.startswith("secret_file\tset\t") for line in settings)


@dataclass(frozen=True)
class Throttled:
    """A registry that gives its bytes slowly, so that there is time to look at a herd."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_slowly(message: Message) -> None:
            await send(message)
            if len(message.get("body", b"")) > SLOW_BYTES:
                await asyncio.sleep(REGISTRY_S)

        await self.app({**scope, "extensions": {}}, receive, send_slowly)


async def leader_of(agents: list[Agent]) -> Agent:
    """An agent that gives something to several others while it still fetches it from the registry."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            for agent in agents:
                async with session.get(f"{agent.url}/-/api/transfers") as response:
                    transfers = await response.json()
                readers = Counter(each["digest"] for each in transfers["answers"] if each["face"] == "peer")
                fetching = {each["digest"] for each in transfers["fetching"] if each["givers"] == ["upstream"]}
                if any(count >= 2 and digest in fetching for digest, count in readers.items()):
                    return agent


def make_layer(directory: Path) -> str:
    """A layout with one large blob; its digest."""
    data = bytes(LAYER_BYTES)
    digest = Digest.of(data)
    (directory / "blobs" / "sha256").mkdir(parents=True)
    (directory / "blobs" / "sha256" / digest.hex).write_bytes(data)
    return str(digest)


@pytest.mark.timeout(400)
async def test_a_herd_of_ten_is_watched_as_a_tree(
    tmp_path: Path, screenshots: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene, "START_TIMEOUT_S", 180.0)
    digest = await asyncio.to_thread(make_layer, tmp_path / "registry")
    layout = OciLayout(tmp_path / "registry", sys.maxsize)
    registry = create_registry(layout, Metrics().face("upstream"), [Middleware(Throttled)], itself=REPOSITORY.registry)
    names = [f"node-{number}" for number in range(AGENTS)]
    async with (
        serving(registry) as url,
        running_agents(names, tmp_path, url, ZONES) as agents,
        asyncio.TaskGroup() as tasks,
    ):
        pulls = [tasks.create_task(read_layer(agent, digest)) for agent in agents]
        leader = await leader_of(agents)
        for scheme in SCHEMES:
            async with visiting(leader.url, "transfers", scheme) as visit:
                await asyncio.sleep(3)  # until rates are known
                await visit.until("/node-\\d\\s+in flight/.test(document.getElementById('transfer-tree').innerText)")
                await visit.look(screenshots, f"herd-{scheme}-transfers")
                tree = await visit.text("#transfer-tree")
                assert "the registry" in tree
                assert f"{leader.name} fetches" in tree
                await _see_whole_herd(visit, names, digest)
                await visit.look(screenshots, f"herd-{scheme}-whole")
        for each in pulls:
            each.cancel()


async def _see_whole_herd(visit: Visit, names: list[str], digest: str) -> None:
    """All nodes are in one tree, whoever's page it is: one below the registry, each other one below its giver."""
    await visit.page.click(f"#transfer-tree [data-key='{digest}']")
    await visit.until(f"document.querySelectorAll('#herd li').length === {len(names)}")
    await asyncio.sleep(3)  # until rates are known
    assert sorted(await visit.page.locator("#herd li > .flow b").all_inner_texts()) == names
    assert await visit.page.locator("#herd .tree > ul > li").count() == 1
    assert await visit.page.locator("#herd .badge.upstream").count() == 1
    await visit.until("/[1-9][0-9.]* [kM]?B\\/s/.test(document.getElementById('herd').innerText)")
    await visit.page.focus("#herd [data-key='close']")
    await asyncio.sleep(2)  # it is drawn anew meanwhile
    assert await visit.page.evaluate("document.activeElement.dataset.key") == "close"


async def test_a_thousand_nodes_stay_usable(tmp_path: Path, screenshots: Path | None) -> None:
    async with thousand(tmp_path, MANY) as url:
        for scheme in SCHEMES:
            async with visiting(url, "", scheme) as visit:
                await visit.until("document.getElementById('zones').innerText.includes('of 334')")
                await visit.look(screenshots, f"thousand-{scheme}")
                await visit.page.fill("#what", "redis:7.4")
                await visit.page.press("#what", "Enter")
                await visit.until("document.getElementById('found').innerText.includes('nodes')")
                await visit.look(screenshots, f"thousand-{scheme}-found")
                await visit.page.focus("#map")
                took_ms = await visit.page.evaluate(
                    """() => {
                        const began = performance.now();
                        for (let turn = 0; turn < 20; turn += 1) {
                            const key = new KeyboardEvent("keydown", { key: turn % 2 ? "ArrowDown" : "ArrowRight" });
                            document.getElementById("map").dispatchEvent(key);
                        }
                        return (performance.now() - began) / 20;
                    }"""
                )
                assert took_ms < 100, "a step on the map is at once"
                assert "node-" in await visit.text("#node-detail")


async def test_names_that_others_chose_are_texts_and_never_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    monkeypatch.setattr("tests.page.thousand.ZONES", ("eu-west-1a", evil))
    async with thousand(tmp_path, 4) as url, visiting(url) as visit:
        await visit.until("document.getElementById('zones').innerText.includes('onerror')")
        assert await visit.page.title() != "owned"
        assert await visit.page.locator("#zones img").count() == 0


async def test_an_agent_that_is_gone_is_told_and_found_again(tmp_path: Path) -> None:
    app = simulated_agent(tmp_path, 3)
    first, second = (HttpServer(app, HOST, port, grace_s=1) for port in [free_port()] * 2)
    first.bind()
    running = asyncio.create_task(first.serve())
    async with visiting(f"http://{HOST}:{first.port}") as visit:
        await visit.until("document.getElementById('link').dataset.link === 'live'")
        first.stop()
        await running
        await visit.until("document.getElementById('link').dataset.link === 'lost'")
        assert "does not answer" in await visit.text("#link")
        second.bind()
        running = asyncio.create_task(second.serve())
        await visit.until("document.getElementById('link').dataset.link === 'live'")
        visit.complaints = [each for each in visit.complaints if "net::ERR" not in each]
    second.stop()
    await running


async def test_every_view_is_reached_by_keyboard_and_the_theme_by_its_button(tmp_path: Path) -> None:
    async with thousand(tmp_path, 3) as url, visiting(url) as visit:
        for key, view in enumerate(("cluster", "transfers", "pulls", "gossip", "settings"), 1):
            await visit.page.keyboard.press(str(key))
            assert await visit.page.locator(f"#{view}").is_visible()
            assert await visit.page.get_attribute(f"#tab-{view}", "aria-selected") == "true"
            assert await visit.page.locator("main > section:not([hidden])").count() == 1
        await visit.page.keyboard.press("ArrowRight")
        assert await visit.page.locator("#cluster").is_visible()
        ground = "getComputedStyle(document.body).backgroundColor"
        light = await visit.page.evaluate(ground)
        await visit.page.click("#theme")
        await visit.page.click("#theme")
        assert await visit.page.evaluate(ground) != light
        await visit.page.reload()
        assert "dark" in await visit.text("#theme")


async def test_the_page_forbids_what_is_not_its_own(tmp_path: Path) -> None:
    async with thousand(tmp_path, 1) as url, aiohttp.ClientSession() as session, session.get(f"{url}/-/") as response:
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "//" not in await response.text(), "nothing in it has another address"
