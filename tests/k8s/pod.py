"""A pod of the chart on a node of the lab: a kubelet's part, as far as the chart needs one.

Its containers are run by the node's own containerd, with the mounts, the environment and the rights that the rendered
DaemonSet names, and no others. What only a cluster has is put in its place: the Secret's file, the fields of the
downward API, the seeds' addresses for a name in its DNS.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from tests.lab.process import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.k8s.image import Image
    from tests.lab import Node

POLL_S: Final = 0.1
KILL_S_MAX: Final = 10

DEFAULT_CAPABILITIES: Final = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
"""What containerd gives a container when nothing is said."""


class Pod:
    """The pod of a DaemonSet on one node. Its containers are started and stopped by name; all end with the block."""

    def __init__(
        self, node: Node, daemon_set: Mapping[str, Any], image: Image, secret: str, environment: Mapping[str, str]
    ) -> None:
        self._spec: Mapping[str, Any] = daemon_set["spec"]["template"]["spec"]
        self._node = node
        self._image = image
        self._environment = environment
        self._fields = {
            "spec.nodeName": node.name,
            "status.hostIP": node.address,
            "metadata.labels['topology.kubernetes.io/zone']": "",
        }
        self._volumes = {volume["name"]: self._volume(volume, secret) for volume in self._spec["volumes"]}
        self._run = secrets.token_hex(4)
        self._running: set[str] = set()
        assert self._spec["hostNetwork"] is True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in sorted(self._running):
            await self.stop(name)

    async def initialize(self) -> str:
        """Run those that come before the containers; returns what they print. Raises `CommandError`."""
        return "".join([await self._run_one(container, "--rm") for container in self._spec["initContainers"]])

    async def start(self, name: str, command: list[str] | None = None) -> None:
        """Start the container of that name, with `command` when one is given instead of its own."""
        container = next(container for container in self._spec["containers"] if container["name"] == name)
        await self._run_one(container, "--detach", "--log-uri", f"file://{self._log(name)}", command=command)
        self._running.add(name)

    async def ready(self) -> bool:
        """Whether the agent's readiness probe succeeds, made on the node as its kubelet makes it."""
        [agent] = [container for container in self._spec["containers"] if container["name"] == "agent"]
        get = agent["readinessProbe"]["httpGet"]
        url = f"http://{get['host']}:{get['port']}{get['path']}"
        limit = str(agent["readinessProbe"]["timeoutSeconds"])
        try:
            await self._node.run("curl", "--silent", "--fail", "--max-time", limit, url)
        except CommandError:
            return False
        return True

    async def _run_one(self, container: Mapping[str, Any], *how: str, command: list[str] | None = None) -> str:
        own = container.get("command", self._image.entrypoint) + container.get("args", [])
        words = ["run", *how, "--net-host", "--seccomp", *self._rights(container["securityContext"])]
        words += [word for entry in self._variables(container) for word in ("--env", entry)]
        words += [word for mount in container["volumeMounts"] for word in ("--mount", self._mount(mount))]
        root = str(self._image.root)
        return await self._ctr(*words, "--rootfs", root, self._id(container["name"]), *(command or own))

    async def stop(self, name: str) -> None:
        """Let a container end as a kubelet does: SIGTERM, and SIGKILL when the grace period is over."""
        with suppress(CommandError):  # it has ended by itself
            await self._ctr("tasks", "kill", "--signal", "SIGTERM", self._id(name))
        try:
            await self.ended(name, self._spec["terminationGracePeriodSeconds"])
        except TimeoutError:
            await self._ctr("tasks", "kill", "--signal", "SIGKILL", self._id(name))
            await self.ended(name, KILL_S_MAX)
        await self._ctr("tasks", "rm", self._id(name))
        await self._ctr("containers", "rm", self._id(name))
        self._running.remove(name)

    async def ended(self, name: str, timeout_s: float) -> None:
        """Wait until a container ends by itself. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while re.search(rf"^{self._id(name)} .*RUNNING", await self._ctr("tasks", "ls"), re.MULTILINE):
                await asyncio.sleep(POLL_S)

    def log(self, name: str) -> str:
        """What a container wrote."""
        return self._log(name).read_text()

    async def _ctr(self, *arguments: str) -> str:
        return await self._node.ctr(*arguments, containerd_namespace="pods")

    def _log(self, name: str) -> Path:
        return self._node.directory / f"container-{name}.log"

    def _id(self, name: str) -> str:
        """The container's name for runc, which keeps those of all containerds of the machine in one place."""
        return f"{self._node.namespace}-{self._run}-{name}"

    def _volume(self, volume: Mapping[str, Any], secret: str) -> str:
        if "hostPath" in volume:
            path = volume["hostPath"]["path"]
            assert isinstance(path, str)
            return path
        directory = self._node.directory / f"volume-{volume['name']}"
        directory.mkdir()
        if "secret" in volume:
            (directory / "secret").write_text(secret)
        return str(directory)

    def _variables(self, container: Mapping[str, Any]) -> list[str]:
        variables = dict(entry.split("=", 1) for entry in self._image.environment)
        for entry in container.get("env", []):
            value = entry.get("value")
            variables[entry["name"]] = (
                self._fields[entry["valueFrom"]["fieldRef"]["fieldPath"]] if value is None else value
            )
        return [f"{name}={value}" for name, value in {**variables, **self._environment}.items()]

    def _mount(self, mount: Mapping[str, Any]) -> str:
        propagation = {"HostToContainer": "rslave", None: "rprivate"}[mount.get("mountPropagation")]
        options = f"rbind:{propagation}:{'ro' if mount.get('readOnly') else 'rw'}"
        return f"type=bind,src={self._volumes[mount['name']]},dst={mount['mountPath']},options={options}"

    def _rights(self, context: Mapping[str, Any]) -> list[str]:
        """The flags for a security context of the form that the chart has; `ctr` always sets no_new_privs."""
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        kept = context["capabilities"].get("add", [])
        return ["--read-only", *(f"--cap-drop=CAP_{name}" for name in DEFAULT_CAPABILITIES if name not in kept)]
