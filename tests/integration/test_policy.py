"""What the operator wants of registries, on real parts: who gets a private image, how fresh a tag is, what is off."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from mirror.oci import OCI_MANIFEST, Digest
from tests.integration.agents import Agent, eventually, observer, seen, start_agents
from tests.lab import Image, Lab, Login, Node, PullError, Registry

MEGABYTE = 1_000_000
ALICE = Login("alice", "correct horse")
RIGHT = (ALICE.username, ALICE.password)
WRONG = (ALICE.username, "wrong")
TTL_S = 15
"""Longer than a push and a few questions take."""


def set_for(registry: Registry, rules: str) -> tuple[str, str]:
    """The flags that set rules for a registry."""
    return ("--registries", f"{registry.name}={registry.url},{rules}")


async def held(lab: Lab, image: Image, *names: str) -> None:
    """Wait until just these nodes are known to hold the image."""
    async with observer(lab) as node:
        for digest in image.objects():
            await seen(node, digest, set(names), 5)


async def ask(node: Node, path: str, registry: str, *options: str) -> tuple[int, str]:
    """Ask a node's agent as its runtime would; the status and the head of the answer."""
    url = f"http://127.0.0.1:29990/v2/{path}?ns={registry}"
    accept = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
    curl = ("curl", "--silent", "--max-time", "20", "--header", accept, "--dump-header", "-", "--output", "/dev/null")
    head = await node.run(*curl, *options, url)
    return int(re.findall(r"^HTTP/\S+ (\d+)", head, re.MULTILINE)[-1]), head


async def test_a_private_image_is_for_those_whom_the_registry_lets_in_wherever_it_is_held(lab: Lab) -> None:
    registry = await lab.add_registry("private.test", ALICE)
    image = await registry.publish("team/app:v1", [MEGABYTE, 9 * MEGABYTE])
    one, two, three = nodes = await lab.add_nodes(3)
    agents = await start_agents(nodes, registry, extra=set_for(registry, "authorize=upstream"))
    await one.pull(image.name, via="cri", auth=RIGHT)
    assert one.content() == image.objects()
    await held(lab, image, "n1")

    for node in (one, three):
        for digest in image.objects():
            for kind in ("manifests", "blobs"):
                status, head = await ask(node, f"team/app/{kind}/{digest}", registry.name)
                assert status == 401, f"{kind}/{digest} without credentials on {node.name}: {head}"
                assert "repository:team/app:pull" in head, "the challenge comes whole"
    for name in (image.name, image.pinned):
        for auth in (None, WRONG):
            with pytest.raises(PullError):
                await three.pull(name, via="cri", auth=auth)
    assert three.content() == set()

    registry.forget()
    await two.pull(image.name, via="cri", auth=RIGHT)
    await three.pull(image.pinned, via="cri", auth=RIGHT)
    assert two.content() == three.content() == image.objects()
    asked = [each.path for each in registry.exchanges]
    assert asked
    assert not any("/blobs/" in path for path in asked), (
        "what a checked manifest lists needs no question; a peer has it"
    )
    for agent in agents[1:]:
        assert await agent.metric("skvaller_content_bytes_total", face="client", source="peer") > 10 * MEGABYTE


async def test_a_private_image_pulled_by_all_at_once_leaves_the_registry_about_once(lab: Lab) -> None:
    registry = await lab.add_registry("private.test", ALICE)
    image = await registry.publish("team/app:v1", [9 * MEGABYTE, 30 * MEGABYTE])
    nodes = await lab.add_nodes(4)
    await start_agents(nodes, registry, extra=set_for(registry, "authorize=upstream"))
    await asyncio.gather(*(node.pull(image.name, via="cri", auth=RIGHT) for node in nodes))
    for node in nodes:
        assert node.content() == image.objects()
    size = sum(image.layers().values())
    assert sum(registry.bytes_sent(layer) for layer in image.layers()) < 1.5 * size
    status, _ = await ask(nodes[3], f"team/app/blobs/{next(iter(image.layers()))}", registry.name)
    assert status == 401


async def test_a_private_image_of_a_registry_with_passwords_is_asked_for_once_with_a_wrong_one(lab: Lab) -> None:
    registry = await lab.add_registry("private.test", Login(*RIGHT, scheme="basic"))
    image = await registry.publish("team/app:v1", [MEGABYTE])
    one, two = nodes = await lab.add_nodes(2)
    agents = await start_agents(nodes, registry, extra=set_for(registry, "authorize=upstream"))
    await one.pull(image.name, via="cri", auth=RIGHT)
    await held(lab, image, "n1")
    with pytest.raises(PullError):
        await two.pull(image.name, via="cri", auth=WRONG)
    refused = await agents[1].metric("skvaller_requests_total", face="client", status="4xx")
    assert refused == 2, "once without and once with the password, which containerd would repeat four times"
    registry.forget()
    await two.pull(image.name, via="cri", auth=RIGHT)
    assert two.content() == image.objects()
    assert sum(registry.bytes_sent(layer) for layer in image.layers()) == 0


@asynccontextmanager
async def registry_that_says_yes(host: str, port: int, image: dict[str, bytes]) -> AsyncGenerator[list[str]]:
    """Says to everybody that it has whatever they ask for, and gives one image's own objects, by tag or digest."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        reference = request.path.rpartition("/")[2]
        body = image.get(reference)
        if request.method != "HEAD" and body is None:
            return web.Response(status=404)
        digest = reference if body is None else str(Digest.of(body))
        return web.Response(body=body, headers={"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield asked
    finally:
        await runner.cleanup()


def listing(layer: Digest, size: int) -> dict[str, bytes]:
    """An image, by tag and digest, that lists a layer which its registry does not have."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": str(Digest.of(config)),
            "size": len(config),
        },
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(layer), "size": size}],
    }
    data = json.dumps(manifest).encode()
    return {"v1": data, str(Digest.of(data)): data, str(Digest.of(config)): config}


@pytest.mark.parametrize("rules", ["authorize=open", "authorize=upstream"])
@pytest.mark.parametrize("name", ["private.test", "private.test:5000"])
async def test_a_private_digest_in_another_registrys_name_is_refused_whatever_that_registry_says(
    lab: Lab, name: str, rules: str
) -> None:
    registry = await lab.add_registry(name, ALICE)
    image = await registry.publish("team/app:v1", [MEGABYTE, 9 * MEGABYTE])
    nodes = await lab.add_nodes(2)
    places = f"{registry.name}={registry.url},authorize=upstream evil.test=http://{lab.gateway}:7000,{rules}"
    places += f" {registry.address}={registry.url},{rules}"
    agents = await start_agents(nodes, extra=("--registries", places))
    await nodes[0].pull(image.name, via="cri", auth=RIGHT)
    await held(lab, image, "n1")
    (layer, size), *_ = image.layers().items()
    async with registry_that_says_yes(lab.gateway, 7000, listing(layer, size)) as asked:
        await nodes[0].ctr("content", "fetch", "--hosts-dir", str(nodes[0].certs_d), "evil.test/x/y:v1")
        assert "distribution.source.evil.test=x/y" in await nodes[0].ctr("content", "ls", f"digest=={layer}")
        assert not any(str(layer) in each for each in asked), "it was there already, and is noted all the same"
        for node in nodes:
            for digest in image.objects():
                for kind in ("manifests", "blobs"):
                    status, head = await ask(node, f"x/y/{kind}/{digest}", "evil.test")
                    assert status == 404, f"{kind}/{digest} on {node.name}: {head}"
        assert any(each.startswith("GET") for each in asked), "nobody but that registry itself was left to ask"
        status, _ = await ask(nodes[0], f"team/app/blobs/{next(iter(image.layers()))}", registry.address)
        assert status == 401, "another name of the same registry is another registry"
    for agent in agents:
        assert await agent.metric("skvaller_content_bytes_total", face="peer") == 0


@pytest.mark.parametrize(("login", "questions"), [(None, 1), (Login(*RIGHT, public=True), 2)], ids=["plain", "token"])
async def test_a_public_image_of_a_protected_registry_needs_no_credentials_and_few_questions(
    lab: Lab, login: Login | None, questions: int
) -> None:
    registry = await lab.add_registry("registry.test", login)
    image = await registry.publish("lib/app:v1", [MEGABYTE] * 5)
    one, two = nodes = await lab.add_nodes(2)
    agents = await start_agents(nodes, registry, extra=set_for(registry, "authorize=upstream"))
    await one.pull(image.name, via="cri")
    await held(lab, image, "n1")
    registry.forget()
    await two.pull(image.name, via="cri")
    assert two.content() == image.objects()
    asked = [(each.method, each.path) for each in registry.exchanges]
    assert asked == [("HEAD", "/v2/lib/app/manifests/v1")] * questions, (
        "as nobody in particular, if need be with a token"
    )
    assert await agents[1].metric("skvaller_requests_total", face="client", status="4xx") == 0


async def test_with_the_registry_away_a_protected_image_is_closed_to_strangers(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    image = await registry.publish("lib/app:v1", [MEGABYTE])
    one, two, three = nodes = await lab.add_nodes(3)
    await start_agents(nodes[:2], registry, extra=set_for(registry, "authorize=upstream"))
    await one.pull(image.name, via="cri")
    await held(lab, image, "n1")
    await registry.stop()
    with pytest.raises(PullError):
        await two.pull(image.name, via="cri")
    seeds = ("--seeds", f"{one.address}:29993")
    rules = set_for(registry, "authorize=upstream,unreachable=open")
    await start_agents_beside(three, registry, *seeds, *rules)
    await three.pull(image.name, via="cri")
    assert three.content() == image.objects()


async def start_agents_beside(node: Node, registry: Registry, *extra: str) -> Agent:
    """One more agent, when there are others."""
    agent = Agent(node, "", (registry,), extra)
    await agent.start()
    await agent.configure_containerd()

    async def has_met() -> bool:
        return await agent.metric("skvaller_gossip_members_normal") == 2

    await eventually(has_met, 20)
    return agent


async def means(node: Node, image: Image) -> Digest:
    """What the image's tag means on a node: its HEAD, as a runtime asks."""
    _, repository = image.name.split("/", 1)
    name, _, tag = repository.rpartition(":")
    _, head = await ask(node, f"{name}/manifests/{tag}", image.name.split("/")[0], "--head")
    return Digest.parse(re.findall(r"^docker-content-digest: (\S+)", head, re.MULTILINE | re.IGNORECASE)[0])


async def test_a_push_is_seen_everywhere_within_the_ttl_and_at_once_after_an_invalidation(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    old = await registry.publish("lib/app:v1", [MEGABYTE])
    one, two, three = nodes = await lab.add_nodes(3)
    agents = await start_agents(nodes, registry, extra=set_for(registry, f"tags=cluster,tag_ttl_s={TTL_S}"))
    await one.pull(old.name, via="cri")
    await held(lab, old, "n1")
    new = await registry.publish("lib/app:v1", [2 * MEGABYTE])
    assert new.root.digest != old.root.digest
    registry.forget()
    assert [await means(node, old) for node in nodes] == [old.root.digest] * 3
    assert registry.exchanges == [], "the registry is not asked while the cluster knows"
    await asyncio.sleep(TTL_S)
    await three.pull(new.name, via="cri")
    assert three.content() == new.objects()
    assert sum(each.path.endswith("/v1") for each in registry.exchanges) == 1, "one question, and all know"
    assert [await means(node, new) for node in nodes] == [new.root.digest] * 3
    assert sum(each.path.endswith("/v1") for each in registry.exchanges) == 1

    newest = await registry.publish("lib/app:v1", [3 * MEGABYTE])
    assert await means(two, newest) == new.root.digest
    assert "registry.test/lib/app:v1" in await agents[0].command("invalidate", "registry.test/lib/app:v1")
    await asyncio.sleep(1)
    assert [await means(node, newest) for node in nodes] == [newest.root.digest] * 3


async def test_a_runtime_that_dates_its_old_image_anew_does_not_make_the_cluster_stale(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    one, two, three = nodes = await lab.add_nodes(3)
    await start_agents(nodes, registry)
    old = await registry.publish("lib/app:v1", [MEGABYTE])
    await one.pull(old.name, via="cri")
    new = await registry.publish("lib/app:v1", [2 * MEGABYTE])
    await two.pull(new.name, via="cri")
    await held(lab, new, "n2")
    await asyncio.sleep(1)
    await one.ctr("images", "label", old.name, "looked=at")
    await asyncio.sleep(1)
    await registry.stop()
    assert [await means(node, new) for node in nodes] == [new.root.digest] * 3
    await three.pull(new.name, via="cri")
    assert three.content() == new.objects()


async def test_what_is_filtered_or_switched_off_goes_past_the_mirror(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    image = await registry.publish("lib/app:v1", [MEGABYTE])
    one, two = nodes = await lab.add_nodes(2)
    agents = await start_agents(nodes, registry)
    await one.pull(image.name, via="cri")
    await held(lab, image, "n1")
    await agents[1].command("mirroring", "off")
    registry.forget()
    await two.pull(image.name, via="cri")
    assert two.content() == image.objects()
    assert registry.bytes_sent() > MEGABYTE
    assert await agents[1].probe("readyz") == "ok\n200"
    assert await agents[1].metric("skvaller_mirroring") == 0
    assert await agents[1].metric("skvaller_content_bytes_total") == 0


async def test_the_kill_switch_of_all_nodes_is_thrown_on_one_and_holds_without_it(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    image = await registry.publish("lib/app:v1", [MEGABYTE])
    nodes = await lab.add_nodes(3)
    agents = await start_agents(nodes, registry)
    await nodes[0].pull(image.name, via="cri")
    await held(lab, image, "n1")

    async def all_are(state: int) -> bool:
        return [await agent.metric("skvaller_mirroring") for agent in agents if agent.process.running] == [state] * sum(
            agent.process.running for agent in agents
        )

    await agents[0].command("mirroring", "off", "--everywhere")
    await eventually(lambda: all_are(0), 5)
    assert (await ask(nodes[1], f"lib/app/manifests/{image.root.digest}", registry.name))[0] == 404
    await asyncio.sleep(11)  # by now the others have taken it up
    await agents[0].process.stop()
    await asyncio.sleep(1)
    assert await all_are(0)
    await agents[0].start()
    await eventually(lambda: all_are(0), 5)
    await agents[2].command("mirroring", "on", "--everywhere")
    await eventually(lambda: all_are(1), 5)


async def test_settings_change_under_a_pull_that_goes_on(lab: Lab, tmp_path: Path) -> None:
    registry = await lab.add_registry("registry.test")
    image = await registry.publish("lib/app:v1", [200 * MEGABYTE])
    one, two = nodes = await lab.add_nodes(2)
    file = tmp_path / "skvaller.toml"
    file.write_text("")
    agents = await start_agents(nodes, registry, extra=("--config", str(file)))
    await one.pull(image.name, via="cri")
    await held(lab, image, "n1")
    registry.forget()
    pulling = asyncio.create_task(two.pull(image.name, via="cri"))
    for number in range(4):
        file.write_text('log_level = "info"\n' + "\n" * number + f"mirroring = {str(number < 3).lower()}\n")
        await asyncio.sleep(0.3)

    async def switched_off() -> bool:
        return await agents[1].metric("skvaller_mirroring") == 0

    await eventually(switched_off, 10)
    await pulling
    reloads = await agents[1].metric("skvaller_reloads_total", result="done")

    async def read_again() -> bool:
        return await agents[1].metric("skvaller_reloads_total", result="done") == reloads + 1

    await two.run("kill", "-HUP", str(agents[1].process.pid))
    await eventually(read_again, 5)
    assert two.content() == image.objects()
    assert await agents[0].metric("skvaller_incomplete_answers_total") == 0
    assert await agents[1].metric("skvaller_incomplete_answers_total") == 0


async def test_an_agent_goes_where_containerds_own_files_led_before(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    image = await registry.publish("lib/app:v1", [MEGABYTE])
    (node,) = await lab.add_nodes(1)
    agent = Agent(node, "", (), ("--registries-dir", str(node.certs_d)))
    await agent.start()
    await agent.configure_containerd()
    await node.pull(image.name, via="cri")
    assert node.content() == image.objects()
    assert await agent.metric("skvaller_content_bytes_total", face="client", source="upstream") > MEGABYTE
