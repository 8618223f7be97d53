"""The image and the chart's pod, run by real containerds."""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.integration.agents import METRICS_PORT, ROUTER_PORT, eventually
from tests.k8s.image import IMAGE, Image, built_image
from tests.k8s.pod import Pod
from tests.k8s.tools import ROOT, render
from tests.lab.process import CommandError, Process, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Lab, Node, Registry

yaml: Any = pytest.importorskip("yaml")

MEGABYTE: Final = 1_000_000
START_S_MAX: Final = 30
SECRET: Final = "a secret for this test, of more than 32 bytes\n"
OTHER_OWNER: Final = 4321

pytestmark = pytest.mark.timeout(2400)  # the first test builds the image, and maybe its base and helm


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built_image() as image:
        yield image


def pod(node: Node, image: Image, lab: Lab, *registries: Registry) -> Pod:
    """The pod that the chart makes for a node whose paths are those of the lab."""
    values = {
        "containerd.socket": node.socket,
        "containerd.contentDir": node.content_dir,
        "hosts.certsDir": node.certs_d,
        "hosts.intervalSeconds": 3600,
        "stateDir": node.directory / "state-of-the-agent",
    }
    arguments = [f"--set={name}={value}" for name, value in values.items()]
    for number, registry in enumerate(registries):
        arguments.append(f"--set=registries[{number}].name={registry.name},registries[{number}].url={registry.url}")
    node.content_dir.mkdir(parents=True, exist_ok=True)  # containerd 1.7 and later make it at the first pull
    (node.directory / "state-of-the-agent").mkdir()
    objects = {part["kind"]: part for part in yaml.safe_load_all(render("--no-hooks", *arguments))}
    seeds = ",".join(f"{other.address}:{ROUTER_PORT}" for other in lab.nodes)
    return Pod(node, objects["DaemonSet"], image, SECRET, {"SKVALLER_SEEDS": seeds})


async def fetch(node: Node, page: str) -> str:
    """A page of the agent's port for Prometheus, empty when it does not answer."""
    try:
        return await run("curl", "--silent", "--max-time", "5", f"http://{node.address}:{METRICS_PORT}/{page}")
    except CommandError:
        return ""


async def until_ready(pods: list[Pod], nodes: list[Node]) -> None:
    """Wait until the agents answer their readiness probes and have met."""

    async def ready() -> bool:
        metrics = [await fetch(node, "metrics") for node in nodes]
        met = f"skvaller_gossip_members_normal {len(nodes) - 1}.0"
        return all([await pod.ready() for pod in pods]) and all(met in text for text in metrics)

    await eventually(ready, START_S_MAX)


async def test_the_commands_answer_with_no_capability_on_a_root_that_cannot_be_written(image: Image, lab: Lab) -> None:
    [node] = await lab.add_nodes(1)
    script = "skvaller --version && skvaller serve --help && grep CapEff /proc/self/status && ! touch /new"
    async with pod(node, image, lab) as one:
        await one.start("agent", ["sh", "-c", script])
        await one.ended("agent", START_S_MAX)
    log = one.log("agent")  # complete, since the container is gone
    assert "skvaller 0." in log
    assert "--containerd-socket" in log
    assert "CapEff:\t0000000000000000" in log
    assert "Read-only file system" in log


async def test_podman_runs_an_agent_with_no_capability_on_a_root_that_cannot_be_written(
    image: Image, tmp_path: Path
) -> None:
    assert image.entrypoint == ["skvaller"]
    # A root without CAP_SYS_RESOURCE may not raise limits, which podman does unless it is told some.
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
    rights = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=none")
    serve = (IMAGE, "serve", "--layout-dir=/tmp/images")
    container = f"skvaller-tests-{secrets.token_hex(4)}"
    words = ("podman", "run", f"--name={container}", "--pull=never", *limits, *rights, *serve)
    process = Process("podman", words, tmp_path / "log")
    await process.start()
    try:

        async def answers() -> bool:
            try:
                return "1 alive" in await run("podman", "exec", container, "skvaller", "status")
            except CommandError:
                return False

        await eventually(answers, START_S_MAX)
        await run("podman", "stop", "--time=30", container)
        assert (await run("podman", "inspect", "--format={{.State.ExitCode}}", container)).strip() == "0"
    finally:
        await run("podman", "rm", "--force", container)
        await process.stop()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
async def test_everything_that_is_locked_is_there_for_both_architectures_with_its_hash(
    machine: str, tmp_path: Path
) -> None:
    dockerfile = (ROOT / "k8s" / "Dockerfile").read_text()
    [python] = re.findall(r"^ARG BASE=.*/python:([0-9.]+)-slim$", dockerfile, re.MULTILINE)
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in ("2_17", "2_28")] + [
        f"--platform=manylinux2014_{machine}"
    ]
    how = ("--dry-run", "--no-deps", "--only-binary=:all:", "--require-hashes", f"--python-version={python}")
    for file in ("requirements.txt", "requirements-build.txt"):
        words = (*how, *platforms, f"--target={tmp_path}", f"--requirement={ROOT / 'k8s' / file}")
        await run(sys.executable, "-m", "pip", "install", "--quiet", *words)


async def test_the_pods_share_images_and_leave_the_nodes_as_they_were(image: Image, lab: Lab) -> None:
    registry = await lab.add_registry()
    published = await registry.publish("lib/app:v1", [MEGABYTE, 40 * MEGABYTE])
    first, second = nodes = await lab.add_nodes(2)
    hosts = first.certs_d / registry.name / "hosts.toml"
    os.chown(hosts, OTHER_OWNER, OTHER_OWNER)
    before, listing = hosts.read_bytes(), sorted(first.certs_d.rglob("*"))
    async with pod(first, image, lab, registry) as one, pod(second, image, lab, registry) as two:
        for each in (one, two):
            await each.initialize()
            await each.start("agent")
            await each.start("hosts")
        await until_ready([one, two], nodes)

        async def led() -> bool:
            return all((node.certs_d / "_default" / "hosts.toml").exists() for node in nodes) and (
                hosts.read_bytes() != before
            )

        await eventually(led, START_S_MAX)

        await first.pull(published.name)
        # containerd makes its socket anew, which the agent sees because the directory is what is mounted.
        await first.containerd.restart()
        await first.ready()
        late = await registry.publish("lib/late:v1", [MEGABYTE])
        await first.pull(late.name)
        registry.forget()
        await second.pull(published.name)
        await second.pull(late.name)
        assert second.content() == published.objects() | late.objects()
        assert sum(registry.bytes_sent(digest) for digest in second.content()) == 0
    assert "containerd answers" in one.log("agent")
    assert hosts.read_bytes() == before
    assert (hosts.stat().st_uid, hosts.stat().st_gid) == (OTHER_OWNER, OTHER_OWNER)
    assert sorted(first.certs_d.rglob("*")) == listing


def tree(root: Path) -> dict[Path, bytes]:
    """What is in a directory, with the bytes of files."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in sorted(root.rglob("*"))}


async def test_containerd_is_led_before_the_agent_runs_and_what_dies_early_is_cleaned_up_by_the_next_pod(
    image: Image, lab: Lab
) -> None:
    registry = await lab.add_registry()
    [node] = await lab.add_nodes(1)
    broken = node.certs_d / "broken.example" / "hosts.toml"
    broken.parent.mkdir()
    broken.write_text("what no parser takes [")
    before = tree(node.certs_d)
    async with pod(node, image, lab, registry) as one:
        said = await one.initialize()
        led = tree(node.certs_d)
        assert led.keys() > before.keys()
        assert led[broken] == before[broken]
        assert str(broken.relative_to(node.certs_d)) in said
        # The pod is deleted just now, and nobody undoes it. Pulls go on at the registry.
        await node.pull((await registry.publish("lib/app:v1", [MEGABYTE])).name)
        await one.initialize()
        await one.start("hosts")
        assert tree(node.certs_d) == led
    assert tree(node.certs_d) == before


async def test_a_certs_d_that_cannot_be_written_ends_the_first_step_with_a_word_about_it(
    image: Image, lab: Lab
) -> None:
    [node] = await lab.add_nodes(1)
    await run("mount", "--bind", "--options", "ro", node.certs_d, node.certs_d)
    try:
        async with pod(node, image, lab) as one:
            with pytest.raises(CommandError, match=r"hosts\.certsDir cannot be written on this node"):
                await one.initialize()
    finally:
        await run("umount", node.certs_d)
