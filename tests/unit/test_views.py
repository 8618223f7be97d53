"""What an agent shows of itself, and what the commands make of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gossip import Config, Node
from mirror import feed as feed_module
from mirror.cli import main
from mirror.cluster import Cluster
from mirror.elements import TagElement, Word, content_key, group_of, tag_group
from mirror.feed import Feed
from mirror.journal import Journal
from mirror.local_api import PREFIX, create_local_api
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest, Repository, Tag
from mirror.registry import create_registry
from mirror.settings import load
from mirror.single_flight import Transfers
from mirror.source import Content, MemoryBody, Request
from mirror.spool import Spool
from mirror.stores.oci_layout import OciLayout
from mirror.trail import What
from mirror.views import Views
from tests.serving import HOST, free_port, serving

DATA = b"x" * 3000
DIGEST = Digest.of(DATA)
NGINX = "docker.io/library/nginx"


class Giving:
    """A source that a peer gave the object to."""

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, DIGEST, len(DATA))

    async def open(self, request: Request) -> Content:
        request.trail.note(What.ABSENT, "store")
        descriptor = Descriptor(OCTET_STREAM, DIGEST, len(DATA))
        return Content(descriptor, range(len(DATA)), MemoryBody(DATA), "peer", "node-b")


@dataclass
class Shown:
    """An agent's local API on a client face, and what a member of the cluster put into the index."""

    url: str
    node: Node
    stopping: bool = False

    async def ask(self, question: str, status: int = 200) -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}{PREFIX}/{question}") as response:
            assert response.status == status
            return await response.json()

    async def pull(self) -> None:
        blob = f"{self.url}/v2/library/nginx/blobs/{DIGEST}?ns=docker.io"
        async with aiohttp.ClientSession() as session, session.get(blob) as response:
            assert await response.read() == DATA


@asynccontextmanager
async def shown(tmp_path: Path) -> AsyncGenerator[Shown]:
    flags = {"name": "node-a", "zone": "z1", "layout_dir": str(tmp_path), "seeds": "10.0.0.9:29993"}
    settings = load(flags, {}, None)
    node = Node(Config(name="node-a", zone="z1"), group_of=group_of)
    metrics, journal = Metrics("z1"), Journal()
    transfers = Transfers(Spool(tmp_path, 0), OciLayout(tmp_path, 1000), lambda _digest, _givers, _relays: None)
    views = Views(node, Cluster(node), settings, metrics, journal, transfers, lambda: None, time.monotonic())
    app = create_registry(Giving(), journal.face("client", metrics.face("client")))
    agent = Shown("", node)
    app.mount(PREFIX, create_local_api(views.answers(), Feed(views, lambda: agent.stopping)))
    async with serving(app) as url:
        agent.url = url
        yield agent


def hold(node: Node, tag: str, data: bytes = DATA) -> None:
    """The node has an object, by this tag of nginx."""
    digest = Digest.of(data)
    node.add(content_key(digest))
    group = tag_group(Repository.parse("docker.io", "library/nginx"), Tag.parse(tag))
    node.add(TagElement(Word.STORED, int(time.time()), digest, group).key)


async def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command; its exit code and what it printed."""
    with pytest.raises(SystemExit) as exit_:
        await asyncio.to_thread(main, arguments)
    printed = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, printed.out, printed.err


async def test_the_status_tells_where_content_came_from(tmp_path: Path) -> None:
    async with shown(tmp_path) as agent:
        await agent.pull()
        status = await agent.ask("status")
    assert status["client_bytes"] == {"peer": 3000}
    assert status["upstream_bytes"] == 0
    assert status["members"] == {"alive": 1}
    assert status["runtime_answers"] is None, "a layout has no runtime"


@pytest.mark.parametrize("what", ["nginx:1.27", f"{NGINX}:1.27", f"{NGINX}@{DIGEST}", str(DIGEST), "nginx:1.2"])
async def test_an_image_is_found_by_name_digest_and_a_part_that_only_it_has(tmp_path: Path, what: str) -> None:
    async with shown(tmp_path) as agent:
        hold(agent.node, "1.27")
        found = await agent.ask(f"find?what={what}")
    assert found["digest"] == str(DIGEST)
    assert found["holders"] == [{"name": "node-a", "zone": "z1", "suspect": False}]
    assert found["zones"] == {"z1": 1}


async def test_a_part_of_several_names_lists_them(tmp_path: Path) -> None:
    async with shown(tmp_path) as agent:
        hold(agent.node, "1.27")
        hold(agent.node, "1.28", b"other")
        found = await agent.ask("find?what=ngin")
    assert [(each["name"], each["holders"]) for each in found["images"]] == [(f"{NGINX}:1.27", 1), (f"{NGINX}:1.28", 1)]
    assert found["holders"] == []


@pytest.mark.parametrize("question", ["find", "find?what=%20", "find?what=sha256:x", "pulls?after=x", "pulls?limit=-1"])
async def test_a_question_that_makes_no_sense_is_refused_in_a_sentence(tmp_path: Path, question: str) -> None:
    async with shown(tmp_path) as agent:
        assert (await agent.ask(question, 400))["error"]


async def test_settings_are_shown_with_their_meaning_and_without_secrets(tmp_path: Path) -> None:
    async with shown(tmp_path) as agent:
        settings = {each["name"]: each for each in await agent.ask("settings")}
    assert settings["seeds"]["value"] == ["10.0.0.9:29993"]
    assert settings["secret_file"]["value"] == "not set"
    assert settings["zone"]["help"]


async def test_the_feed_begins_with_everything_and_goes_on_with_what_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "TURN_S", 0.05)
    names: list[str] = []
    async with shown(tmp_path) as agent, aiohttp.ClientSession() as session, asyncio.timeout(10):
        async with session.get(f"{agent.url}{PREFIX}/events") as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            async for line in response.content:
                if line.startswith(b"event: "):
                    names.append(line.split()[1].decode())
                elif line.startswith(b"data: "):
                    json.loads(line[6:])
                if names == ["status", "members", "transfers"]:
                    await agent.pull()
                if "pulls" in names:
                    agent.stopping = True
    assert names[:3] == ["status", "members", "transfers"]
    assert names[3:].count("members") == 0, "no member changed"


async def test_only_so_many_may_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LISTENERS_MAX", 1)
    async with shown(tmp_path) as agent, aiohttp.ClientSession() as session:
        async with session.get(f"{agent.url}{PREFIX}/events") as first:
            await first.content.readline()
            assert (await session.get(f"{agent.url}{PREFIX}/events")).status == 503
        async with asyncio.timeout(5):
            while (again := await session.get(f"{agent.url}{PREFIX}/events")).status != 200:
                await asyncio.sleep(0.05)
        again.close()
        agent.stopping = True


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["status"], "not from registries"),
        (["members"], "node-a*"),
        (["find", "nginx:1.27"], f"{DIGEST} is on 1 nodes"),
        (["find", "nosuchimage"], "no node is known to have nosuchimage"),
        (["transfers"], "nothing moves"),
        (["top"], "from peer node-b (not in the store)"),
    ],
)
async def test_commands_show_what_the_agent_tells_and_without_a_terminal_in_no_colour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], said: str
) -> None:
    async with shown(tmp_path) as agent:
        hold(agent.node, "1.27")
        await agent.pull()
        code, out, _ = await run(*command, "--agent", agent.url, capsys=capsys)
        assert code == 0
        assert said in out
        assert "\x1b" not in out
        code, out, _ = await run(*command, "--json", "--agent", agent.url, capsys=capsys)
        json.loads(out)


@pytest.mark.parametrize("command", [["status"], ["members"], ["find", "x"], ["transfers"], ["top"]])
async def test_commands_say_what_to_do_when_no_agent_answers(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    code, _, error = await run(*command, "--agent", f"http://{HOST}:{free_port()}", capsys=capsys)
    assert code == 1
    assert "is `skvaller serve` running" in error


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_knows_every_command_and_its_flags(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = await run("completion", shell, capsys=capsys)
    assert code == 0
    for word in ("transfers", "client-port", "certs-dir"):
        assert word in out


async def test_what_bash_is_given_completes(capsys: pytest.CaptureFixture[str]) -> None:
    _, script, _ = await run("completion", "bash", capsys=capsys)
    for words, expected in ((["skvaller", "memb"], ["members"]), (["skvaller", "find", "--js"], ["--json"])):
        asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _skvaller; echo ${{COMPREPLY[@]}}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", f"{script}\n{asked}", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert out.decode().split() == expected
