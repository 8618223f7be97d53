"""Three nodes with kubelets and the chart on them: from the installation to the last trace of it."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from mirror.election import LEASE_DURATION_S
from tests.integration.agents import eventually
from tests.k8s.cluster.build import coredns
from tests.k8s.cluster.nodes import CERTS_D, SLEEP, VALUES, KubeNode, publish_pause, publish_runnable
from tests.k8s.image import IMAGE, Image, built_image
from tests.k8s.tools import CHART, ROOT, helm, helm_program
from tests.lab.process import CommandError, Process, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.k8s.cluster.control_plane import ControlPlane
    from tests.lab import Lab, Registry

MEGABYTE: Final = 1_000_000
METRICS_PORT: Final = 29994
START_S_MAX: Final = 240
UNINSTALL_S_MAX: Final = 180
API_SERVER_AWAY_S: Final = 60
COPIES_MAX: Final = 1.05
TAINT: Final = "skvaller.example/starting"

pytestmark = pytest.mark.timeout(5400)  # the first test builds Kubernetes, CoreDNS, helm and the image


class Cluster:
    """Three nodes and a registry with the agent's image."""

    def __init__(self, plane: ControlPlane, registry: Registry, nodes: list[KubeNode]) -> None:
        self.plane = plane
        self.registry = registry
        self.nodes = nodes

    async def helm(self, *arguments: str | Path, timeout_s: float = START_S_MAX) -> None:
        """Run helm on the release's namespace."""
        flags = ("--namespace=skvaller", f"--kubeconfig={self.plane.kubeconfig}")
        await asyncio.to_thread(helm, *arguments, *flags, timeout_s=timeout_s)

    async def install(self, **values: object) -> None:
        """Install the chart, and wait for nothing."""
        everything = VALUES | {"image.repository": f"{self.registry.name}/skvaller"} | values
        everything |= {"registries[0].name": self.registry.name, "registries[0].url": self.registry.url}
        flags = [f"--set={name}={value}" for name, value in everything.items()]
        await self.helm("install", "skvaller", CHART, "--create-namespace", *flags)

    async def ready(self) -> None:
        """Wait until the DaemonSet is ready."""
        status = ("rollout", "status", "daemonset/skvaller", f"--timeout={START_S_MAX}s")
        await run("kubectl", f"--kubeconfig={self.plane.kubeconfig}", "-n=skvaller", *status, timeout_s=START_S_MAX + 5)

    async def rolled_out(self) -> None:
        """Wait until the DaemonSet is ready and all agents have met."""
        await self.ready()
        await eventually(self.all_met, START_S_MAX)

    async def all_met(self) -> bool:
        """Whether each agent sees all others."""
        return await self.members() == [len(self.nodes) - 1] * len(self.nodes)

    async def members(self) -> list[int]:
        """How many others each agent sees; -1 for one that does not answer."""
        numbers = []
        for node in self.nodes:
            try:
                url = f"http://{node.node.address}:{METRICS_PORT}/metrics"
                page = await run("curl", "--silent", "--max-time", "5", url)
            except CommandError:
                page = ""
            found = re.search(r"^skvaller_gossip_members_normal (\d+)", page, re.MULTILINE)
            numbers.append(int(found[1]) if found else -1)
        return numbers

    async def agents(self) -> dict[str, Any]:
        """The agents' pods by the names of their nodes."""
        pods = (await self.plane.get("pods"))["items"]
        return {pod["spec"]["nodeName"]: pod for pod in pods if pod["metadata"]["name"].startswith("skvaller-")}

    async def deploy(self, image: str, replicas: int) -> None:
        """Run a Deployment of an image, with a pod on each of as many nodes, and wait until they are there."""
        labels = {"app": "tests"}
        apart = [{"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}]
        pod = {
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart}},
            "containers": [{"name": "main", "image": image, "command": [str(SLEEP), "infinity"]}],
        }
        template = {"metadata": {"labels": labels}, "spec": pod}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        metadata = {"name": "tests", "namespace": "default"}
        await self.plane.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
        await self.deployed(replicas)

    async def deployed(self, replicas: int) -> None:
        """Wait until the Deployment has so many pods that run."""

        async def ready() -> bool:
            status = (await self.plane.get("deployment", "tests", "default"))["status"]
            return bool(status.get("readyReplicas", 0) == replicas)

        await eventually(ready, START_S_MAX)

    async def follow(self, heading: str, directory: Path, block: int = 0) -> str:
        """What the commands print that k8s/README.md has below a heading, run in a directory as they stand there."""
        section = (ROOT / "k8s" / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        environment = {
            "KUBECONFIG": str(self.plane.kubeconfig),
            "PATH": f"{helm_program().parent}:{os.environ['PATH']}",
        }
        script = f"set -e; cd '{directory}'\n{section.split('```')[2 * block + 1]}"
        return await run("bash", "-c", script, environment=environment, timeout_s=2 * START_S_MAX)

    def certs(self) -> dict[str, dict[str, tuple[bytes, int, int, int]]]:
        """For each node, what is in its certs.d: bytes, mode and owner of each path."""
        return {node.name: _tree(node.node.certs_d) for node in self.nodes}

    async def uninstall(self) -> None:
        """Uninstall the chart and wait until its pods are gone."""
        await self.helm("uninstall", "skvaller", timeout_s=UNINSTALL_S_MAX)

        async def gone() -> bool:
            return not await self.agents()

        await eventually(gone, UNINSTALL_S_MAX)


def _tree(root: Path) -> dict[str, tuple[bytes, int, int, int]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (content, status.st_mode, status.st_uid, status.st_gid)
    return found


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built_image() as image:
        yield image


@pytest.fixture
async def cluster(
    lab: Lab, image: Image, control_plane: ControlPlane, kubernetes_programs: Path, tmp_path: Path
) -> Cluster:
    """Nodes that are ready, and nothing installed. One of the registries of each node belongs to somebody else."""
    assert image.entrypoint == ["skvaller"]
    registry = await lab.add_registry()
    await publish_pause(registry, tmp_path / "pause")
    await run("buildah", "push", "--quiet", IMAGE, f"oci:{tmp_path / 'agent'}:agent")
    await registry.push(tmp_path / "agent", "agent", "skvaller:0.1.0")
    await control_plane.start_controllers()
    kubelet = kubernetes_programs / "kubelet"
    nodes = [KubeNode(node, control_plane, kubelet, registry, lab.gateway) for node in await lab.add_nodes(3)]
    for node in nodes:
        other = node.node.certs_d / "other.example"
        other.mkdir()
        (other / "hosts.toml").write_text('server = "https://other.example"\n[host."https://cache.example"]\n')
        os.chown(other / "hosts.toml", 1234, 1234)
        await node.start()

    async def ready() -> bool:
        listed = (await control_plane.get("nodes"))["items"]
        conditions = [condition for node in listed for condition in node["status"].get("conditions", [])]
        return [part["status"] for part in conditions if part["type"] == "Ready"] == ["True"] * len(nodes)

    try:
        await eventually(ready, START_S_MAX)
    except TimeoutError:
        control_plane.check()
        logs = "\n".join(process.log() for node in nodes for process in (node.kubelet, node.node.containerd))
        raise AssertionError(f"the nodes are not ready:\n{logs}") from None
    control_plane.check()
    return Cluster(control_plane, registry, nodes)


@pytest.fixture
async def dns(control_plane: ControlPlane) -> AsyncIterator[Process]:
    """CoreDNS at the lab's address, to be started; it answers from the API server, as in most clusters."""
    configuration = control_plane.directory / "Corefile"
    kubeconfig = control_plane.make_kubeconfig("coredns", "system:masters")
    zone = f"kubernetes cluster.local {{\n    kubeconfig {kubeconfig}\n  }}"
    configuration.write_text(f".:53 {{\n  bind {control_plane.address}\n  errors\n  {zone}\n}}\n")
    process = Process("coredns", [coredns(), "-conf", configuration], control_plane.directory / "coredns.log")
    yield process
    await process.stop()


async def test_pods_of_three_nodes_start_from_one_copy_and_from_none_and_the_nodes_are_left_as_they_were(
    cluster: Cluster, dns: Process, tmp_path: Path
) -> None:
    before = cluster.certs()
    # Agents that start before the cluster's DNS are ready, and find each other when it is there.
    await cluster.install()
    await cluster.ready()
    assert await cluster.members() == [0, 0, 0]
    led = cluster.certs()
    assert all(led[name].keys() > before[name].keys() for name in before)
    await dns.start()
    await cluster.rolled_out()
    app = await publish_runnable(cluster.registry, "lib/app:1", [20 * MEGABYTE], tmp_path / "app")

    # The kubelets of two nodes pull it at the same time, and the registry sends it once.
    third = cluster.nodes[2]
    await cluster.plane.kubectl("cordon", third.name)
    cluster.registry.forget()
    await cluster.deploy(app.name, replicas=2)
    sent = sum(cluster.registry.bytes_sent(digest) for digest in app.layers())
    assert app.size() <= sent <= COPIES_MAX * app.size()

    # The third one starts it without the registry.
    await cluster.registry.stop()
    await cluster.plane.kubectl("uncordon", third.name)
    await cluster.plane.kubectl("scale", "--replicas=3", "deployment/tests")
    await cluster.deployed(3)

    skvaller = ("--namespace=skvaller", "exec", "daemonset/skvaller", "--container=agent", "--", "skvaller")
    members = await cluster.plane.kubectl(*skvaller, "members")
    # Kubernetes copies the zone's label of a node to its pods, and the agent knows it from there.
    assert all(node.name in members and f"zone-{node.name}" in members for node in cluster.nodes)
    findings = await cluster.plane.kubectl(*skvaller, "doctor", "--certs-dir", str(CERTS_D))
    assert "A test pull went through the mirror" in findings

    # What the README says to type does what it says.
    assert "skvaller_gossip_members_normal 2.0" in await cluster.follow("Verify", tmp_path, block=1)
    await cluster.follow("Upgrade", ROOT)
    await cluster.rolled_out()
    secret = (await cluster.plane.get("secret", "skvaller"))["data"]["secret"]
    await cluster.follow("Rotate the secret", tmp_path)
    await cluster.rolled_out()
    rotated = (await cluster.plane.get("secret", "skvaller"))["data"]["secret"]
    assert rotated != secret
    assert len(base64.b64decode(rotated).split()) == 1

    # What a cluster that has formed does not need any more: its DNS. One that crashes then is found by the others.
    await dns.stop()
    await asyncio.sleep(15)
    assert await cluster.all_met()
    await kill_agent(third)
    await eventually(cluster.all_met, START_S_MAX)

    await cluster.uninstall()
    assert cluster.certs() == before
    await cluster.deployed(3)


async def test_a_node_whose_certs_d_cannot_be_written_says_so_and_pulls_as_ever(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = cluster.certs()
    app = await publish_runnable(cluster.registry, "lib/app:1", [MEGABYTE], tmp_path / "app")
    odd = cluster.nodes[2]
    await odd.inside("mount", "--bind", "--options=ro", CERTS_D, CERTS_D)
    await cluster.install(**{"seeding.service": False, "seeds[0]": f"{cluster.nodes[0].node.address}:29993"})

    async def said() -> bool:
        agents = await cluster.agents()
        steps = [step for agent in agents.values() for step in agent["status"].get("initContainerStatuses", [])]
        return any("cannot be written on this node" in str(step) for step in steps)

    await eventually(said, START_S_MAX)
    await cluster.deploy(app.name, replicas=3)
    assert _tree(odd.node.certs_d) == before[odd.name]
    assert (await cluster.agents())[odd.name]["status"]["phase"] == "Pending"

    await odd.inside("umount", CERTS_D)
    await cluster.rolled_out()
    await cluster.uninstall()
    assert cluster.certs() == before


async def test_agents_that_met_through_a_lease_survive_their_seed_and_the_api_server_and_a_crash_leaves_no_trace(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cluster.certs()
    plane = cluster.plane
    await plane.kubectl("taint", "node", "--all", f"{TAINT}:NoSchedule")
    await plane.kubectl("create", "namespace", "skvaller")
    secret = {"kind": "Secret", "metadata": {"name": "mine", "namespace": "skvaller"}}
    await plane.create(secret | {"stringData": {"secret": secrets.token_hex(32)}})
    values = {"seeding.service": False, "seeding.lease": True, "startupTaint": TAINT, "secret.existingSecret": "mine"}
    await cluster.install(**values)
    await cluster.rolled_out()

    async def untainted() -> bool:
        nodes = (await plane.get("nodes"))["items"]
        return not any(taint["key"] == TAINT for node in nodes for taint in node["spec"].get("taints", []))

    await eventually(untainted, 30)

    async def holder() -> str:
        spec = (await plane.get("lease", "skvaller"))["spec"]
        return str(spec.get("holderIdentity", "")).partition(":")[0]

    by_address = {node.node.address: node for node in cluster.nodes}
    seed = by_address[await holder()]
    await seed.kubelet.kill()  # or the same agent would be back within the Lease's duration, and hold it again
    await kill_agent(seed)
    crashed_at = time.monotonic()

    async def taken_over() -> bool:
        return await holder() not in {"", seed.node.address}

    await eventually(taken_over, 2 * LEASE_DURATION_S)
    with capsys.disabled():
        took_s = time.monotonic() - crashed_at
        sys.stdout.write(f"\na new seed {took_s:.1f} s after the crash of the old one (budget {LEASE_DURATION_S} s)\n")
    assert [number for number in await cluster.members() if number > 0] == [1, 1]
    await seed.kubelet.start()
    await cluster.rolled_out()

    await plane.api_server.stop()
    started = time.monotonic()
    while time.monotonic() - started < API_SERVER_AWAY_S:
        assert await cluster.all_met()
        await asyncio.sleep(2)
    await plane.api_server.start()
    await plane.ready()
    await cluster.rolled_out()
    assert await holder() in by_address

    # A node crashes: nothing on it is told that the release goes, and its files are as they were when it is back.
    crashed = cluster.nodes[0]
    await crashed.kubelet.kill()
    await kill_agent(crashed)
    uninstalling = asyncio.create_task(cluster.uninstall())
    await asyncio.sleep(5)
    assert _tree(crashed.node.certs_d) != before[crashed.name]
    await crashed.kubelet.start()
    await uninstalling

    async def as_before() -> bool:
        return cluster.certs() == before

    await eventually(as_before, 10)


async def kill_agent(node: KubeNode) -> None:
    """End all processes of the pod's containers, as a crash does."""
    for pid in await node.processes_of("skvaller"):
        os.kill(pid, signal.SIGKILL)
