"""The lab itself: what the other tests build on does what its words say."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import get_args

import pytest

from mirror.image_builder import build_image
from tests.lab import Lab, Login, PullError, require
from tests.lab.images import HERE
from tests.lab.node import Client
from tests.lab.process import run

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


@pytest.mark.parametrize("via", ["podman", "skopeo"])
async def test_podman_and_skopeo_ask_a_mirror_first_and_the_registry_when_it_has_nothing(lab: Lab, via: Client) -> None:
    registry = await lab.add_registry("registry.test")
    mirror = await lab.add_registry("mirror.test")
    mirrored = await registry.publish("lib/mirrored:v1")
    await mirror.push(mirrored.layout, "lib-mirrored-v1", "lib/mirrored:v1")
    other = await registry.publish("lib/other:v1")
    (node,) = await lab.add_nodes(1)
    node.use_mirror("registry.test", mirror.address)
    await node.pull(mirrored.name, via)
    assert registry.exchanges == []
    assert mirror.bytes_sent() > mirrored.size()
    await node.pull(other.name, via)
    assert registry.bytes_sent() > other.size()


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


async def test_a_run_that_is_killed_leaves_no_process_and_the_next_one_cleans_up(lab: Lab) -> None:
    script = """if True:
        import asyncio, os, signal
        from tests.lab import Lab
        async def crash():
            async with Lab.open() as lab:
                registry = await lab.add_registry()
                node, = await lab.add_nodes(1)
                print(node.namespace, node.containerd.pid, registry.process.pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(crash())
    """
    crashed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    output, _ = await asyncio.wait_for(crashed.communicate(), 60)
    assert crashed.returncode == -signal.SIGKILL
    namespace, *pids = output.decode().split()
    async with asyncio.timeout(5):
        while any(is_running(int(pid)) for pid in pids):
            await asyncio.sleep(0.01)
    assert namespace in await run("ip", "netns", "list")
    async with Lab.open() as other:
        assert lab.gateway != other.gateway
        assert namespace not in await run("ip", "netns", "list")


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_missing_program_skips_a_test_but_fails_it_on_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install podman skopeo"):
        require("skopeo", "podman")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install podman skopeo"):
        require("skopeo", "podman")


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
