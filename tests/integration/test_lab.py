"""The lab itself: what the other tests build on does what its words say."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, get_args

import pytest

from mirror.image_builder import build_image
from tests.lab import Lab, Login, PullError, require
from tests.lab.images import HERE
from tests.lab.node import Client
from tests.lab.process import run

if TYPE_CHECKING:
    from pathlib import Path

ALICE = Login("alice", "correct horse")


async def test_two_nodes_pull_from_the_registry_by_ctr_and_by_cri(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    image = await registry.publish("lib/app:v1", layer_bytes=[1_000, 3_000_000])
    one, two = await lab.add_nodes(2)
    await one.pull(image.name, via="ctr")
    await two.pull(image.pinned, via="cri")
    assert one.content() == two.content() == image.objects()
    assert [registry.requests_for(layer) for layer in image.layers()] == [2, 2]
    assert [registry.bytes_sent(layer) for layer in image.layers()] == [2 * size for size in image.layers().values()]
    assert image.pinned in await two.images()
    await two.remove(image.pinned)
    assert await two.images() == {}


@pytest.mark.parametrize("via", get_args(Client))
@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_a_private_image_is_pulled_with_the_right_credentials_only(lab: Lab, via: Client, scheme: str) -> None:
    require("podman")
    login = Login(ALICE.username, ALICE.password, "basic" if scheme == "basic" else "bearer")
    registry = await lab.add_registry("private.test", login)
    image = await registry.publish("team/app:v1")
    (node,) = await lab.add_nodes(1)
    for auth in (None, (login.username, "wrong")):
        with pytest.raises(PullError):
            await node.pull(image.name, via, auth)
    answers = [exchange.status for exchange in registry.exchanges if exchange.path.startswith("/v2/team/")]
    assert set(answers) == {401}
    await node.pull(image.name, via, (login.username, login.password))
    assert [registry.requests_for(layer) for layer in image.layers()] == [1]


async def test_an_image_of_several_architectures_is_pulled_for_this_one(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/multi:v1", architectures=["amd64", "arm64"])
    (node,) = await lab.add_nodes(1)
    await node.pull(image.name)
    assert node.content() == image.objects()
    assert len(image.objects("amd64") & image.objects("arm64")) == 1


async def test_a_registry_that_is_stopped_gives_nothing_until_it_is_started(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1")
    (node,) = await lab.add_nodes(1)
    await registry.stop()
    with pytest.raises(PullError):
        await node.pull(image.name)
    await registry.start()
    await node.pull(image.name)


async def test_containerd_can_be_restarted_killed_and_paused(lab: Lab) -> None:
    (node,) = await lab.add_nodes(1)
    await node.containerd.restart()
    await node.ready()
    await node.containerd.kill()
    assert not node.containerd.running
    await node.start()
    node.containerd.pause()
    with pytest.raises(TimeoutError):
        await node.ready(timeout_s=0.5)
    node.containerd.resume()
    await node.ready()


async def test_nodes_have_addresses_of_their_own_and_reach_each_other(lab: Lab) -> None:
    one, two = await lab.add_nodes(2)
    assert one.address != two.address
    assert one.address in await one.run("ip", "addr")
    listen = f"import socket; socket.create_server(({one.address!r}, 8000)).accept()[0].send(b'hello')"
    await one.process("listener", [sys.executable, "-c", listen]).start()
    connect = f"import socket; print(socket.create_connection(({one.address!r}, 8000), 5).recv(9))"
    async with asyncio.timeout(10):
        while "hello" not in await two.run(sys.executable, "-c", f"try: {connect}\nexcept OSError: pass"):
            await asyncio.sleep(0.05)


async def test_an_image_that_was_built_is_understood_by_skopeo(tmp_path: Path) -> None:
    require("skopeo")
    image = build_image(tmp_path, "v1", {HERE: [[("a", b"a" * 5000)], [("b", b"b")]]})
    inspected = json.loads(await run("skopeo", "--insecure-policy", "inspect", f"oci:{tmp_path}:v1"))
    assert inspected["Digest"] == str(image.digest)
    assert inspected["Architecture"] == HERE
    assert len(inspected["Layers"]) == 2


async def test_two_labs_live_side_by_side_and_leave_nothing_behind(lab: Lab) -> None:
    async with Lab.open() as other:
        assert lab.gateway != other.gateway
        (node,) = await other.add_nodes(1)
        namespace = node.namespace
        assert namespace in await run("ip", "netns", "list")
        directory = node.directory
    assert namespace not in await run("ip", "netns", "list")
    assert not directory.exists()
