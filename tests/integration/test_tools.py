"""What an operator uses, on real nodes: explain, and TLS between peers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import trustme

from tests.integration.agents import PEER_PORT, observer, seen, start_agents
from tests.lab import Lab

MEGABYTE = 1_000_000


async def test_explain_names_every_object_its_holders_and_what_became_of_the_last_request(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    nodes = await lab.add_nodes(2)
    one, two = await start_agents(nodes, registry)
    image = await registry.publish("lib/app:v1", [MEGABYTE, 9 * MEGABYTE])

    answer = json.loads(await one.command("explain", "--json", image.name))
    assert {part["source"] for part in answer["parts"]} == {"upstream"}

    await nodes[0].pull(image.name)
    async with observer(lab) as node:
        for digest in image.objects():
            await seen(node, digest, {"n1"}, 3)
    answer = json.loads(await two.command("explain", "--json", image.name))
    assert answer["digest"] == str(image.root.digest)
    assert {part["digest"] for part in answer["parts"]} == set(map(str, image.objects()))
    assert {(part["source"], part["candidates"][0]["name"]) for part in answer["parts"]} == {("peer", "n1")}
    assert all(part["last"] is None for part in answer["parts"])

    await nodes[1].pull(image.name)
    answer = json.loads(await two.command("explain", "--json", image.name))
    assert {part["source"] for part in answer["parts"]} == {"store"}
    layers = [part for part in answer["parts"] if part["role"] == "layer"]
    assert {(part["last"]["status"], part["last"]["holder"]) for part in layers} == {(200, "n1")}
    assert "held by n1" in await two.command("explain", image.name)


async def test_nodes_exchange_images_under_tls_and_nothing_in_the_clear(lab: Lab, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("node")
    files = {"certificate": tmp_path / "tls.crt", "key": tmp_path / "tls.key", "authority": tmp_path / "ca.crt"}
    issued.private_key_pem.write_to_path(str(files["key"]))
    issued.cert_chain_pems[0].write_to_path(str(files["certificate"]))
    authority.cert_pem.write_to_path(str(files["authority"]))
    flags = [word for name, file in files.items() for word in (f"--peer-{name}", str(file))]

    registry = await lab.add_registry("registry.test")
    nodes = await lab.add_nodes(2)
    _, two = await start_agents(nodes, registry, extra=flags)
    image = await registry.publish("lib/app:v1", [MEGABYTE, 20 * MEGABYTE])
    await nodes[0].pull(image.name)
    async with observer(lab) as node:
        for digest in image.objects():
            await seen(node, digest, {"n1"}, 3)
    await registry.stop()
    await nodes[1].pull(image.pinned)
    assert nodes[1].content() == image.objects()
    assert await two.metric("skvaller_content_bytes_total", face="client", source="peer") > 20 * MEGABYTE

    reader, writer = await asyncio.open_connection(nodes[0].address, PEER_PORT)
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        assert not (await reader.read()).startswith(b"HTTP")
    writer.close()
