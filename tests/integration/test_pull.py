"""The whole path of a pull, on real parts: three nodes, each with its containerd and its agent, and a registry."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest

from gossip import Node as GossipNode
from mirror.oci import DOCKER_LIST, DOCKER_MANIFEST, manifest_media_type
from tests.integration.agents import CLIENT_PORT, ROOT, Agent, eventually, observer, seen, start_agents, tag_seen
from tests.lab import Image, Lab, Login, Node, PullError, Registry, require
from tests.lab.images import HERE
from tests.lab.node import Client

MEGABYTE = 1_000_000
FRESH_S = 1.0
"""The promise for the whole cluster, commit to visible; here with the observer in a process of its own."""
ALICE = Login("alice", "correct horse")


@dataclass
class Cluster:
    lab: Lab
    registry: Registry
    nodes: list[Node]
    agents: list[Agent]
    observer: GossipNode

    async def holds(self, image: Image, *names: str, timeout_s: float = 3.0) -> None:
        """Wait until every object of the image is held by just these nodes, and its tag known if there are any."""
        for digest in image.objects():
            await seen(self.observer, digest, set(names), timeout_s)
        if names:
            await tag_seen(self.observer, image.name, image.root.digest, timeout_s)


@pytest.fixture
async def cluster(lab: Lab) -> AsyncGenerator[Cluster]:
    registry = await lab.add_registry("registry.test")
    nodes = await lab.add_nodes(3)
    agents = await start_agents(nodes, registry)
    async with observer(lab) as node:
        yield Cluster(lab, registry, nodes, agents, node)


async def test_two_hundred_pulls_of_a_blob_on_one_node_are_one_request_to_the_registry(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    (node,) = await lab.add_nodes(1)
    await start_agents([node], registry)
    image = await registry.publish("lib/app:v1", [MEGABYTE, 10 * MEGABYTE])
    for digest in image.layers():
        path = f"/v2/lib/app/blobs/{digest}?ns={registry.name}"
        readers = ("-m", "tests.integration.readers", str(CLIENT_PORT), path, "200")
        hashes = await node.run(sys.executable, *readers, environment={"PYTHONPATH": str(ROOT)})
        assert hashes.split() == [digest.hex] * 200
        assert registry.requests_for(digest) == 1


@pytest.mark.timeout(300)
async def test_one_node_pulls_from_upstream_and_the_others_from_it_also_when_upstream_is_gone(cluster: Cluster) -> None:
    sizes = [5 * MEGABYTE, 60 * MEGABYTE, 300 * MEGABYTE]
    image = await cluster.registry.publish("lib/app:v1", sizes, architectures=["amd64", "arm64"])
    one, two, three = cluster.nodes

    await one.pull(image.name, via="cri")
    assert one.content() == image.objects()
    assert [cluster.registry.requests_for(digest) for digest in image.objects()] == [1] * len(image.objects())
    await cluster.holds(image, "n1")

    cluster.registry.forget()
    await two.pull(image.name, via="ctr")
    # Since containerd 2, ctr also fetches the manifests and configs of the other architectures.
    assert two.content() >= image.objects()
    assert not two.content() & set(image.layers("arm64" if HERE == "amd64" else "amd64"))
    assert [cluster.registry.bytes_sent(digest) for digest in image.objects()] == [0] * len(image.objects())
    await cluster.holds(image, "n1", "n2")

    await cluster.registry.stop()
    await three.pull(image.name, via="cri")
    assert three.content() == image.objects()
    assert await cluster.agents[2].metric("skvaller_content_bytes_total", face="client", source="peer") > sum(sizes)


async def test_a_pull_by_digest_needs_no_registry_once_one_node_has_the_image(cluster: Cluster) -> None:
    image = await cluster.registry.publish("lib/app:v1", [MEGABYTE, 9 * MEGABYTE])
    one, two, three = cluster.nodes
    await one.pull(image.pinned, via="cri")
    for digest in image.objects():
        await seen(cluster.observer, digest, {"n1"}, FRESH_S)
    await cluster.registry.stop()
    await two.pull(image.pinned, via="ctr")
    await three.pull(image.pinned, via="cri")
    assert two.content() == three.content() == image.objects()


async def test_an_image_in_dockers_format_comes_from_upstream_and_then_from_the_peer(cluster: Cluster) -> None:
    image = await cluster.registry.publish("lib/app:v1", [MEGABYTE, 9 * MEGABYTE], architectures=["amd64", "arm64"])
    await cluster.registry.push(image.layout, "lib-app-v1", "lib/docker:v1", docker_format=True)
    one, two, _ = cluster.nodes
    name = "registry.test/lib/docker:v1"
    await one.pull(name, via="cri")
    content = one.content()
    files = {digest: one.content_dir / "blobs" / digest.algorithm / digest.hex for digest in content}
    kinds = {manifest_media_type(file.read_bytes()): digest for digest, file in files.items()}
    assert kinds.keys() >= {DOCKER_LIST, DOCKER_MANIFEST}
    for digest in content:
        await seen(cluster.observer, digest, {"n1"}, 3)
    await tag_seen(cluster.observer, name, kinds[DOCKER_LIST], 3)
    await cluster.registry.stop()
    await two.pull(name, via="cri")
    assert two.content() == content


async def test_a_layer_is_named_within_a_second_and_forgotten_within_a_second(cluster: Cluster) -> None:
    image = await cluster.registry.publish("lib/app:v1", [MEGABYTE])
    one, two, _ = cluster.nodes
    await one.pull(image.name)
    await cluster.holds(image, "n1", timeout_s=FRESH_S)
    await two.pull(image.name)
    await cluster.holds(image, "n1", "n2", timeout_s=FRESH_S)
    await one.remove(image.name)
    assert one.content() == set()
    await cluster.holds(image, "n2", timeout_s=FRESH_S)


async def test_pulls_go_on_when_an_agent_dies_and_when_one_hangs(cluster: Cluster) -> None:
    first = await cluster.registry.publish("lib/first:v1", [MEGABYTE, 20 * MEGABYTE])
    second = await cluster.registry.publish("lib/second:v1", [MEGABYTE, 20 * MEGABYTE])
    one, two, three = cluster.nodes
    for image in (first, second):
        await one.pull(image.name)
        await two.pull(image.name)
        await cluster.holds(image, "n1", "n2")
    await cluster.registry.stop()

    cluster.agents[0].process.pause()
    assert await three.pull(first.name) < 25
    assert three.content() == first.objects()
    cluster.agents[0].process.resume()

    await cluster.agents[0].process.kill()
    assert await three.pull(second.name) < 25
    assert three.content() == first.objects() | second.objects()
    await cluster.holds(first, "n2", "n3", timeout_s=13)


async def test_a_node_without_its_agent_pulls_from_the_registry(cluster: Cluster) -> None:
    image = await cluster.registry.publish("lib/app:v1", [MEGABYTE])
    await cluster.agents[0].process.kill()
    await cluster.nodes[0].pull(image.name)
    assert cluster.nodes[0].content() == image.objects()


async def test_an_agent_that_comes_back_is_known_for_what_it_has(cluster: Cluster) -> None:
    image = await cluster.registry.publish("lib/app:v1", [MEGABYTE, 9 * MEGABYTE])
    await cluster.nodes[0].pull(image.name)
    await cluster.holds(image, "n1")
    await cluster.agents[0].process.stop()
    await cluster.holds(image, timeout_s=FRESH_S)
    await cluster.agents[0].start()
    await cluster.holds(image, "n1")
    await cluster.registry.stop()
    await cluster.nodes[1].pull(image.name)
    assert cluster.nodes[1].content() == image.objects()


async def test_an_agent_carries_on_when_containerd_restarts(cluster: Cluster) -> None:
    before = await cluster.registry.publish("lib/before:v1", [MEGABYTE])
    after = await cluster.registry.publish("lib/after:v1", [MEGABYTE])
    one, two, _ = cluster.nodes
    await one.pull(before.name)
    await cluster.holds(before, "n1")
    await one.containerd.restart()
    await one.ready()
    await cluster.holds(before, "n1")
    await one.pull(after.name)
    await cluster.holds(after, "n1")
    assert cluster.agents[0].process.running
    await cluster.registry.stop()
    await two.pull(after.name)
    await two.pull(before.name)
    assert two.content() == before.objects() | after.objects()


async def test_an_image_that_was_imported_is_shared_like_one_that_was_pulled(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    image = await registry.publish("lib/app:v1", [MEGABYTE, 9 * MEGABYTE])
    one, two, builder = await lab.add_nodes(3)
    archive = builder.directory / "image.tar"
    await builder.pull(image.name, via="ctr")
    await builder.ctr("images", "export", str(archive), image.name)
    await registry.stop()
    agents = await start_agents([one, two], registry)
    await one.ctr("images", "import", str(archive))

    async def known() -> bool:
        return await agents[1].metric("skvaller_gossip_pairs") == len(image.objects()) + 1  # the tag

    await eventually(known, 3)
    await two.pull(image.name, via="cri")
    assert two.content() == image.objects()


@pytest.mark.parametrize("via", ["skopeo", "podman"])
async def test_skopeo_and_podman_pull_through_the_mirror(cluster: Cluster, via: str) -> None:
    require("podman")
    assert via in {"skopeo", "podman"}
    image = await cluster.registry.publish("lib/app:v1", [MEGABYTE, 9 * MEGABYTE])
    one, two, _ = cluster.nodes
    await one.pull(image.name)
    await cluster.holds(image, "n1")
    # Without the lab's own words on where the registry is: a port cannot stand in the path that leads to it.
    before = "# Nothing special.\n"
    two.registries_conf.write_text(before)
    await cluster.agents[1].configure_podman("registry.test")
    cluster.registry.forget()
    await two.pull(image.name, via="skopeo" if via == "skopeo" else "podman")
    assert cluster.registry.bytes_sent() == 0
    assert await cluster.agents[1].metric("skvaller_content_bytes_total", face="client", source="peer") > 10 * MEGABYTE
    await cluster.agents[1].command(
        *("cleanup", "--certs-dir", str(two.certs_d), "--registries-conf", str(two.registries_conf))
    )
    assert two.registries_conf.read_text() == before
    assert [path.name for path in two.registries_conf.parent.iterdir()] == ["registries.conf"]


async def test_a_private_image_comes_through_the_mirror_for_those_whom_the_registry_lets_in(lab: Lab) -> None:
    registry = await lab.add_registry("private.test", ALICE)
    image = await registry.publish("team/app:v1", [MEGABYTE, 9 * MEGABYTE])
    one, two, three = await lab.add_nodes(3)
    agents = await start_agents([one, two, three], registry)
    right = (ALICE.username, ALICE.password)
    await one.pull(image.name, via="cri", auth=right)
    assert one.content() == image.objects()
    assert await agents[0].metric("skvaller_content_bytes_total", face="client", source="upstream") > 10 * MEGABYTE
    for layer in image.layers():
        assert registry.requests_for(layer) == 1, "the credentials went along at the first request"
    async with observer(lab) as node:
        for digest in image.objects():
            await seen(node, digest, {"n1"}, 3)
    for auth in (None, (ALICE.username, "wrong")):
        with pytest.raises(PullError):
            await three.pull(image.name, via="cri", auth=auth)
    assert three.content() == set()
    registry.forget()
    await two.pull(image.name, via="cri", auth=right)
    assert two.content() == image.objects()
    assert sum(registry.bytes_sent(layer) for layer in image.layers()) == 0


@pytest.mark.parametrize("via", ["skopeo", "podman"])
async def test_skopeo_and_podman_go_to_the_registry_for_what_the_mirror_has_only_in_part(lab: Lab, via: Client) -> None:
    require("podman")
    registry = await lab.add_registry("registry.test")
    nodes = await lab.add_nodes(2)
    agents = await start_agents(nodes, registry)
    image = await registry.publish("lib/app:v1", [MEGABYTE, 9 * MEGABYTE])
    await nodes[0].pull(image.name)
    async with observer(lab) as node:
        for digest in image.objects():
            await seen(node, digest, {"n1"}, 3)
        # As with discarded layers: the node has the manifest, but not what it names. And the agents cannot help.
        for layer in image.layers():
            await nodes[0].ctr("content", "rm", str(layer))
            await seen(node, layer, set(), 3)
    for agent in agents:
        await agent.process.stop()
    for agent in [
        Agent(each, f"{nodes[0].address}:29993", (), ("--registries", f"registry.test=http://{lab.gateway}:9"))
        for each in nodes
    ]:
        await agent.start()
    nodes[1].use_mirror("registry.test", "127.0.0.1:29990/registry.test")
    await nodes[1].pull(image.pinned, via)
    assert registry.bytes_sent() > 10 * MEGABYTE
