"""Nodes of a real Kubernetes on the lab's: to each containerd a kubelet, and a mount namespace for both.

A DaemonSet names one path for all nodes, and these share one file system. So in each node's mount namespace `ROOT` is
the node's own directory, and the chart is told paths below it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirror.image_builder import build_image
from tests.integration.agents import eventually
from tests.k8s.cluster.control_plane import API_PORT, SERVICE_ADDRESS
from tests.lab.images import HERE, Image
from tests.lab.process import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.k8s.cluster.control_plane import ControlPlane
    from tests.lab import Node, Registry
    from tests.lab.process import Process

ROOT: Final = Path("/mnt")
"""An empty directory that every machine has."""
CERTS_D: Final = ROOT / "certs.d"

PAUSE: Final = "lib/pause:1"
"""The image of the container that holds a pod together; the registry must have it."""
SLEEP: Final = Path("/bin/sleep")
READY_S_MAX: Final = 120

VALUES: Final[dict[str, object]] = {
    "containerd.socket": ROOT / "containerd.sock",
    "containerd.contentDir": ROOT / "root" / "io.containerd.content.v1.content",
    "hosts.certsDir": CERTS_D,
    "stateDir": ROOT / "agent",
}
"""The chart's values for these nodes."""


class KubeNode:
    """A node of the lab that a kubelet has joined to the cluster."""

    def __init__(self, node: Node, plane: ControlPlane, kubelet: Path, registry: Registry, dns: str) -> None:
        self.node = node
        self.name = node.name
        self._plane = plane
        mounts: list[str | Path] = [
            "unshare",
            "--mount",
            "--propagation=slave",
            "sh",
            "-c",
            _MOUNTS,
            "sh",
            node.directory,
            ROOT,
        ]
        self._holder = node.process("mounts", mounts)
        self._kubelet_program = kubelet
        self._registry = registry
        self._dns = dns
        self.kubelet: Process

    async def start(self) -> None:
        """Restart containerd in a mount namespace, and start a kubelet beside it."""
        node, directory = self.node, self.node.directory
        await node.containerd.stop()
        await self._holder.start()
        await eventually(self._mounted, 10)
        inside = self._enter()
        network = directory / "cni"
        network.mkdir()
        (network / "none.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "loopback"}]})
        )
        with (directory / "config.toml").open("a") as config:
            config.write(_MORE_OF_CONTAINERD.format(network=network, sandbox=f"{self._registry.name}/{PAUSE}"))
        node.containerd = node.process("containerd-of-pods", [*inside, "containerd", "-c", directory / "config.toml"])
        await node.start()
        node.content_dir.mkdir(parents=True, exist_ok=True)
        configuration = directory / "kubelet.json"
        configuration.write_text(json.dumps(self._configuration()))
        kubeconfig = self._plane.make_kubeconfig(f"system:node:{self.name}", "system:nodes")
        self.kubelet = node.process(
            "kubelet",
            [
                *inside,
                self._kubelet_program,
                f"--config={configuration}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--node-ip={node.address}",
                f"--root-dir={directory}/kubelet",
                f"--cert-dir={directory}/kubelet-certificates",
                f"--node-labels=topology.kubernetes.io/zone=zone-{self.name}",
            ],
        )
        # What kube-proxy does for the one service that pods need.
        await node.run(
            *("iptables", "-t", "nat", "-A", "OUTPUT", "-d", SERVICE_ADDRESS, "-p", "tcp", "--dport", "443"),
            *("-j", "DNAT", "--to-destination", f"{self._plane.address}:{API_PORT}"),
        )
        await self.kubelet.start()

    async def inside(self, *command: str | Path) -> str:
        """What a command prints that is run in the node's mount namespace."""
        return await run(*self._enter(), *command)

    async def processes_of(self, word: str) -> list[int]:
        """The processes in containers of this node whose command line has a word."""
        tasks = (await self.node.ctr("tasks", "ls")).splitlines()[1:]
        pids = [int(task.split()[1]) for task in tasks]
        return [pid for pid in pids if word in Path(f"/proc/{pid}/cmdline").read_text()]

    def _enter(self) -> list[str | Path]:
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]

    async def _mounted(self) -> bool:
        return Path(f"/proc/{self._holder.pid}/root{ROOT}/config.toml").exists()

    def _configuration(self) -> dict[str, object]:
        resolver = self.node.directory / "resolv.conf"
        resolver.write_text(f"nameserver {self._dns}\n")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.node.socket}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self._plane.authority)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [self._dns],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolver),
            # What a container of tests has: cgroups of the first version, which belong to somebody else.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "localStorageCapacityIsolation": False,
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            # Events of a test are awaited, so they should come soon.
            "nodeStatusUpdateFrequency": "4s",
            "volumePluginDir": str(self.node.directory / "plugins"),
        }


async def publish_pause(registry: Registry, directory: Path) -> None:
    """Give the registry the image that holds pods together."""
    container = (await run("buildah", "from", "scratch")).strip()
    try:
        for path, file in _sleep():
            await run("buildah", "copy", "--quiet", container, file, f"/{path}")
        await run("buildah", "config", "--entrypoint", json.dumps([str(SLEEP), "infinity"]), container)
        await run("buildah", "commit", "--quiet", container, f"oci:{directory}:pause")
    finally:
        await run("buildah", "rm", container)
    await registry.push(directory, "pause", PAUSE)


async def publish_runnable(registry: Registry, name: str, layer_bytes: Sequence[int], directory: Path) -> Image:
    """Give the registry an image of layers of these sizes in which `SLEEP` can be run."""
    files = [
        [(f"layer{number}", random.Random(f"{name} {number}").randbytes(size))]
        for number, size in enumerate(layer_bytes)
    ]
    root = await asyncio.to_thread(build_image, directory, "runnable", {HERE: [_sleep(), *files]})
    await registry.push(directory, "runnable", name)
    return Image(f"{registry.name}/{name}", root, directory)


def _sleep() -> list[tuple[str, Path]]:
    """This machine's `SLEEP` with the libraries that it needs: paths in an image, and files."""
    listing = subprocess.run(["ldd", SLEEP], capture_output=True, text=True, timeout=10, check=True).stdout
    paths = [str(SLEEP), *re.findall(r"(/\S+) \(0x", listing)]
    return [(path.lstrip("/"), Path(path).resolve()) for path in paths]


_MOUNTS: Final = 'mount --bind "$1" "$2" && mount --make-rshared / && exec sleep infinity'

_MORE_OF_CONTAINERD: Final = """\
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "{network}"
  bin_dir = "{network}"
[plugins."io.containerd.cri.v1.runtime".cni]
  conf_dir = "{network}"
  bin_dir = "{network}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{sandbox}"
"""
