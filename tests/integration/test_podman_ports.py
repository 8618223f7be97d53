"""podman and skopeo at ports that stand for one registry each: public images that want a token, and private ones."""

from __future__ import annotations

import pytest

from tests.integration.agents import Agent, observer, seen, start_agents
from tests.lab import Lab, Login, Node, PullError, Registry
from tests.lab.node import Client
from tests.lab.registry import Scheme
from tests.lab.requirements import require

MEGABYTE = 1_000_000
PORT = 29996
ALICE = ("alice", "correct horse")


async def led_to_the_port(lab: Lab, registry: Registry, rules: str = "") -> tuple[list[Node], list[Agent]]:
    """Two nodes whose agents stand for the registry at a port; podman and skopeo of the second one are led there.

    They know no other place of the registry, so what they pull comes through the agent.
    """
    nodes = await lab.add_nodes(2)
    ports = ("--registry-ports", f"{registry.name}={PORT}")
    agents = await start_agents(
        nodes, registry, extra=(*ports, "--registries", f"{registry.name}={registry.url}{rules}")
    )
    nodes[1].registries_conf.write_text('unqualified-search-registries = ["docker.io"]\n')
    await agents[1].configure_podman(registry.name, PORT)
    return nodes, agents


@pytest.mark.parametrize("via", ["skopeo", "podman"])
async def test_a_short_name_of_docker_hub_comes_by_tag_from_upstream_and_from_a_peer(lab: Lab, via: Client) -> None:
    require("podman")
    hub = await lab.add_registry("docker.io", Login(*ALICE, public=True))
    (one, two), agents = await led_to_the_port(lab, hub)
    image = await hub.publish("library/nginx:1.27", [MEGABYTE, 9 * MEGABYTE])
    short = "nginx:1.27" if via == "podman" else image.name  # skopeo takes no short names from a file
    await two.pull(short, via)
    assert await agents[1].metric("skvaller_content_bytes_total", face="client", source="upstream") > 10 * MEGABYTE

    other = await hub.publish("library/redis:7", [9 * MEGABYTE])
    await one.pull(other.name)
    async with observer(lab) as node:
        for digest in other.objects():
            await seen(node, digest, {"n1"}, 5)
    hub.forget()
    await two.pull("redis:7" if via == "podman" else other.name, via)
    assert [hub.requests_for(layer) for layer in other.layers()] == [0], "from the peer"
    await hub.stop()
    await two.pull(other.pinned, via)


@pytest.mark.parametrize(
    ("via", "scheme", "rules"),
    [("skopeo", "bearer", ",authorize=upstream"), ("skopeo", "basic", ""), ("podman", "bearer", "")],
)
async def test_a_private_image_comes_through_the_port_for_those_who_are_logged_in_there(
    lab: Lab, via: Client, scheme: Scheme, rules: str
) -> None:
    require("podman")
    # No TLS is spoken where these names lead, so past the mirror these clients get nothing. (containerd notes whose an
    # object is without the port, so what is protected at a port is not shared.)
    name = lab.gateway if rules else f"{lab.gateway}:5000"
    registry = await lab.add_registry(name, Login(*ALICE, scheme))
    (one, two), agents = await led_to_the_port(lab, registry, rules)
    image = await registry.publish("team/app:v1", [MEGABYTE, 9 * MEGABYTE])
    await one.pull(image.name, auth=ALICE)
    async with observer(lab) as node:
        for digest in image.objects():
            await seen(node, digest, {"n1"}, 5)
    two.login_at = f"127.0.0.1:{PORT}"
    for auth in (None, ("alice", "wrong")):
        with pytest.raises(PullError):
            await two.pull(image.name, via, auth)
    registry.forget()
    await two.pull(image.name, via, ALICE)
    assert await agents[1].metric("skvaller_content_bytes_total", face="client", source="peer") > 10 * MEGABYTE
    assert registry.bytes_sent() < MEGABYTE, "the layers came from the peer"


async def test_the_doctor_sees_where_podman_is_led(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    (_, two), agents = await led_to_the_port(lab, registry)
    files = ("--certs-dir", str(two.certs_d), "--containerd-config", str(two.directory / "config.toml"))
    said = await agents[1].command("doctor", *files, "--registries-conf", str(two.registries_conf))
    assert "podman asks the mirror for registry.test" in said
