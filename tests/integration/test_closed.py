"""What a stranger and a wrong request get from a running agent: the right answer or a counted drop, and it lives."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.integration.agents import SECRET, Agent, eventually, observer, start_agents
from tests.lab import Lab, Node

LARGE_MANIFEST_BYTES = 10_000_000


@pytest.fixture
async def pair(lab: Lab) -> AsyncGenerator[tuple[Lab, list[Agent]]]:
    registry = await lab.add_registry("registry.test")
    agents = await start_agents(await lab.add_nodes(2), registry)
    yield lab, agents
    for agent in agents:
        assert agent.process.running
        assert await agent.probe("livez") == "ok\n200"


async def ask(node: Node, path: str, *options: str) -> int:
    """The status that a client on the node gets at the client face."""
    url = f"http://127.0.0.1:29990{path}"
    output = await node.run("curl", "--silent", "--max-time", "20", "--path-as-is", "-o", "/dev/null", *options,
                            "-w", "%{http_code}", url)  # fmt: skip
    return int(output)


async def test_wrong_requests_get_the_right_status(pair: tuple[Lab, list[Agent]]) -> None:
    lab, agents = pair
    node = lab.node(1)
    digest = "sha256:" + "0" * 64
    wrong = [
        ("/v2/lib/app/blobs/sha256:short?ns=registry.test", [], 400),
        ("/v2/lib/app/blobs/../../../etc/passwd?ns=registry.test", [], 404),
        ("/v2/lib/../../etc/manifests/v1?ns=registry.test", [], 400),
        ("/v2/lib/%2e%2e/%2e%2e/etc/manifests/v1?ns=registry.test", [], 400),
        (f"/v2/lib/app/blobs/{digest}?ns=registry.test", ["-H", "Range: bytes=nonsense"], 404),
        ("/v2/lib/app/manifests/v1?ns=no/registry", [], 400),
        ("/v2/lib/app/manifests/v1?ns=registry.invalid", [], 503),
        ("/v2/lib/app/manifests/v1", [], 404),
        ("/v2/lib/app/manifests/v1?ns=registry.test", ["-X", "DELETE"], 405),
        ("/v2/lib/app/manifests/v1?ns=registry.test", ["-X", "PUT", "--data-binary", "@/bin/bash"], 405),
        ("/v2/lib/app/blobs/uploads/?ns=registry.test", ["-X", "POST"], 405),
        ("/", [], 404),
        ("/v2/", ["-H", "Host: attacker.example"], 403),
        ("/v2/", ["-H", "Host:"], 403),
    ]  # fmt: skip
    answers = [await ask(node, path, *options) for path, options, _ in wrong]
    assert answers == [status for _, _, status in wrong]
    assert await agents[0].metric("skvaller_refused_requests_total", face="client", reason="host") == 2


async def test_the_client_face_is_not_there_for_other_machines(pair: tuple[Lab, list[Agent]]) -> None:
    lab, _ = pair
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(lab.node(1).address, 29990)


async def test_probes_are_answered_without_peers_and_to_nobody_but_this_machine(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    [node] = await lab.add_nodes(1)
    agent = Agent(node, "", [registry])
    await agent.start()
    assert [await agent.probe("livez"), await agent.probe("readyz")] == ["ok\n200", "ok\n200"]
    for page in ("/livez", "/readyz"):
        assert await ask(node, page, "-H", "Host: attacker.example") == 403
        assert await agent.fetch(page[1:]) == "Not Found"
    await registry.stop()
    assert await agent.probe("readyz") == "ok\n200"
    await agent.process.stop()


async def test_a_manifest_of_ten_megabytes_sends_the_runtime_on(pair: tuple[Lab, list[Agent]]) -> None:
    lab, agents = pair

    async def huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n"
        writer.write(f"{head}Content-Length: {LARGE_MANIFEST_BYTES}\r\n\r\n".encode())
        writer.write(b"x" * LARGE_MANIFEST_BYTES)
        writer.close()

    server = await asyncio.start_server(huge, lab.gateway, 6000)
    async with server:
        path = f"/v2/lib/app/manifests/sha256:{'0' * 64}?ns={lab.gateway}:6000"
        # Registries are spoken to over TLS unless the operator says otherwise: here nobody did.
        assert await ask(lab.node(1), path) == 503
        await agents[0].process.stop()
        agent = Agent(lab.node(1), "", (), extra=("--registries", f"{lab.gateway}:6000=http://{lab.gateway}:6000"))
        await agent.start()
        assert await ask(lab.node(1), path) == 503
        assert await agent.probe("livez") == "ok\n200"
        await agent.process.stop()
    await agents[0].start()


async def test_garbage_on_the_gossip_and_peer_ports_is_dropped(pair: tuple[Lab, list[Agent]]) -> None:
    lab, agents = pair
    chance = random.Random(5)
    greeting = bytes([255, 0, 0, 0, 0, 0, 0, 0, 1, 127, 3])
    for port in (29991, 29992, 29993):
        for start in (b"", b"GET / HTTP/1.1\r\n\r\n", greeting, greeting + bytes(53)):
            reader, writer = await asyncio.open_connection(lab.node(1).address, port)
            writer.write(start + chance.randbytes(50_000))
            with suppress(TimeoutError, ConnectionError):
                await writer.drain()
                async with asyncio.timeout(0.3):
                    await reader.read()
            writer.close()
    assert await agents[0].metric("skvaller_gossip_members_normal") == 1


@asynccontextmanager
async def peer_face(node: Node) -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{node.address}:29991") as session:
        yield session


async def test_the_peer_face_serves_members_only(pair: tuple[Lab, list[Agent]]) -> None:
    lab, agents = pair
    for headers in ({}, {"Skvaller-Mac": "0" * 64}, {"Skvaller-Mac": "x"}):
        async with peer_face(lab.node(1)) as session, session.get(URL("/v2/"), headers=headers) as response:
            assert response.status == 403
    assert await agents[0].metric("skvaller_refused_requests_total", face="peer") == 3


async def test_agents_with_another_secret_or_none_stay_out(pair: tuple[Lab, list[Agent]]) -> None:
    lab, agents = pair
    async with observer(lab, secret=os.urandom(32)) as stranger:
        await asyncio.sleep(2)
        assert stranger.members() == []
    assert await agents[0].metric("skvaller_gossip_members_normal") == 1

    async def refused() -> bool:
        return await agents[0].metric("skvaller_gossip_refused_connections_total") > 0

    await eventually(refused, 5)
    async with observer(lab, secret=SECRET) as member:

        async def let_in() -> bool:
            return len(member.members()) == 2

        await eventually(let_in, 10)


async def test_an_agent_without_a_secret_is_refused_any_address_but_loopback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mirror", "serve", "--address", "0.0.0.0", "--layout-dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert b"secret_file" in said
