"""A machine of the cluster: a network namespace, a containerd, and the clients that pull images on it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import grpc
import grpc.aio

from mirror.oci import Digest
from tests.lab.api.cri_pb2 import (
    AuthConfig,
    ImageSpec,
    ListImagesRequest,
    ListImagesResponse,
    PullImageRequest,
    PullImageResponse,
    RemoveImageRequest,
    RemoveImageResponse,
)
from tests.lab.process import CommandError, Process, run
from tests.lab.requirements import require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from google.protobuf.message import Message

START_TIMEOUT_S = 20.0
PULL_TIMEOUT_S = 100.0
CALL_TIMEOUT_S = 20.0

Answer = TypeVar("Answer", bound="Message")
Client = Literal["ctr", "cri", "podman", "skopeo"]


class PullError(Exception):
    """A pull failed; the message is the client's own."""


class Node:
    """One node. `containerd` is its process: stop, restart, kill or pause it. Made by `Lab`."""

    def __init__(self, name: str, namespace: str, address: str, directory: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.address = address
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self.certs_d = directory / "certs.d"
        self.content_dir = directory / "root" / "io.containerd.content.v1.content"
        self.processes: list[Process] = []
        self.login_at = ""
        """Where podman and skopeo give their credentials, if not to the registry: the place of a mirror."""
        self.registries_conf = directory / "home" / ".config" / "containers" / "registries.conf"
        self._registries: dict[str, tuple[str, list[str]]] = {}
        self.certs_d.mkdir(parents=True)
        self.configure()
        self.containerd = self.process("containerd", ["containerd", "-c", directory / "config.toml"])

    @property
    def link(self) -> str:
        """The name of the machine's end of this node's link, for traffic control."""
        return self.namespace.replace("-", "")

    def process(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> Process:
        """A program on this node, yet to be started. It ends with the node; its log goes to the report."""
        log = self.directory / f"{name}.log"
        process = Process(f"{self.name} {name}", command, log, namespace=self.namespace, environment=environment)
        self.processes.append(process)
        return process

    def configure(self, *, discard_unpacked_layers: bool = False, concurrent_layer_fetch_buffer: int = 0) -> None:
        """Write containerd's configuration, which is read when it starts; 1.6 and all after it understand it.

        `concurrent_layer_fetch_buffer` is in bytes; since 2.1, layers larger than it are fetched in parallel ranges.
        """
        # What 2.x calls by other names is said twice: versions before it ignore these tables, and 2.1 loses
        # discard_unpacked_layers when it migrates the older one. restrict_oom_score_adj lets pods start where root
        # lacks CAP_SYS_RESOURCE, as in many containers.
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        discard = f"discard_unpacked_layers = {str(discard_unpacked_layers).lower()}"
        buffer = f"concurrent_layer_fetch_buffer = {concurrent_layer_fetch_buffer}"
        (self.directory / "config.toml").write_text(f"""\
version = 2
root = "{self.directory}/root"
state = "{self.directory}/state"
[grpc]
  address = "{self.socket}"
[{cri}]
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [{cri}.containerd]
    {discard}
  [{cri}.registry]
    config_path = "{self.certs_d}"
[plugins."io.containerd.cri.v1.images"]
  {discard}
  {buffer}
[plugins."io.containerd.transfer.v1.local"]
  {buffer}
""")

    async def start(self) -> None:
        """Start containerd; returns when it answers."""
        await self.containerd.start()
        await self.ready()

    async def ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until containerd and its CRI plugin answer, after a start or restart. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    await self.images()
                except grpc.aio.AioRpcError:
                    assert self.containerd.running, f"containerd ended: {self.containerd.log()}"
                    await asyncio.sleep(0.02)
                else:
                    return

    def add_registry(self, name: str, url: str, mirrors: Sequence[str] = ()) -> None:
        """Tell podman and skopeo, and containerd's certs.d, where the registry `name` is.

        `mirrors` are locations (host:port, maybe with a path) that podman and skopeo try first; containerd's
        mirrors are not made here: that is the product's own `configure`.
        """
        self._registries[name] = (url.removeprefix("http://"), list(mirrors))
        host_directory = self.certs_d / name
        host_directory.mkdir(exist_ok=True)
        # Without a [host] table, containerd 1.6 and 1.7 refuse the file and speak https.
        (host_directory / "hosts.toml").write_text(
            f'server = "{url}"\n\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'
        )
        self._write_registries_conf()

    def use_mirror(self, registry: str, location: str) -> None:
        """Let podman and skopeo on this node ask `location` before the registry itself."""
        self._registries[registry][1].append(location)
        self._write_registries_conf()

    async def pull(
        self, image: str, via: Client = "cri", auth: tuple[str, str] | None = None, timeout_s: float = PULL_TIMEOUT_S
    ) -> float:
        """Pull an image as one of the clients does; returns the seconds it took. Raises `PullError`.

        `timeout_s` is for a pull via CRI; the others have `PULL_TIMEOUT_S`.
        """
        cri = partial(self._pull_cri, timeout_s=timeout_s)
        pull: dict[str, Callable[[str, tuple[str, str] | None], Awaitable[None]]]
        pull = {"ctr": self._pull_ctr, "cri": cri, "podman": self._podman, "skopeo": self._skopeo}
        started = time.monotonic()
        try:
            await pull[via](image, auth)
        except CommandError as error:
            raise PullError(str(error)) from error
        except grpc.aio.AioRpcError as error:
            raise PullError(error.details() or str(error)) from error
        return time.monotonic() - started

    async def images(self) -> dict[str, str]:
        """The names (by tag and by digest) that CRI lists, each with the image's id."""
        response = await self._cri("ListImages", ListImagesRequest(), ListImagesResponse)
        return {name: image.id for image in response.images for name in (*image.repo_tags, *image.repo_digests)}

    async def remove(self, image: str) -> None:
        """Remove an image as a kubelet does (all its names), and collect the garbage."""
        await self._cri("RemoveImage", RemoveImageRequest(image=ImageSpec(image=image)), RemoveImageResponse)
        await self.collect_garbage()

    async def collect_garbage(self) -> None:
        """Have containerd collect its garbage now; returns when it has.

        Its own schedule pauses for 49 times as long as a collection takes, and does not see what is removed while one
        runs: on a busy disk that may be never.
        """
        await self.ctr("leases", "create", "--id", "for-a-moment")
        await self.ctr("leases", "rm", "--sync", "for-a-moment")

    async def ctr(self, *arguments: str, containerd_namespace: str = "k8s.io") -> str:
        """Run `ctr` against this node's containerd, in the node's network; returns what it printed."""
        return await self.run("ctr", "--address", self.socket, "--namespace", containerd_namespace, *arguments)

    async def run(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> str:
        """Run a command on the node, to its end; returns what it printed. Raises `CommandError`."""
        return await run(*command, namespace=self.namespace, environment=environment, timeout_s=PULL_TIMEOUT_S)

    def content(self) -> set[Digest]:
        """What is in containerd's content directory now."""
        blobs = self.content_dir / "blobs"
        return {Digest(path.parent.name, path.name) for path in blobs.glob("*/*")}

    async def close(self) -> None:
        """End everything on the node."""
        for process in reversed(self.processes):
            await process.stop()

    async def _pull_ctr(self, image: str, auth: tuple[str, str] | None) -> None:
        user = ("--user", ":".join(auth)) if auth else ()
        await self.ctr("images", "pull", "--hosts-dir", str(self.certs_d), *user, image)

    async def _pull_cri(self, image: str, auth: tuple[str, str] | None, timeout_s: float) -> None:
        request = PullImageRequest(image=ImageSpec(image=image))
        if auth:
            request.auth.CopyFrom(AuthConfig(username=auth[0], password=auth[1]))
        await self._cri("PullImage", request, PullImageResponse, timeout_s)

    async def _podman(self, image: str, auth: tuple[str, str] | None) -> None:
        require("podman")
        storage = self.directory / "podman"
        await self.run(
            *("podman", f"--root={storage}/root", f"--runroot={storage}/run", "pull", "--quiet", image),
            environment=self._login(image, auth),
        )

    async def _skopeo(self, image: str, auth: tuple[str, str] | None) -> None:
        layout = self.directory / "skopeo"
        shutil.rmtree(layout, ignore_errors=True)
        await self.run(
            *("skopeo", "--insecure-policy", "copy", "--quiet", f"docker://{image}", f"oci:{layout}:pulled"),
            environment=self._login(image, auth),
        )

    async def _cri(
        self, method: str, request: Message, answer: type[Answer], timeout_s: float = CALL_TIMEOUT_S
    ) -> Answer:
        async with grpc.aio.insecure_channel(
            f"unix:{self.socket}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = channel.unary_unary(
                f"/runtime.v1.ImageService/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            response: Answer = await call(request, timeout=timeout_s)
            return response

    def _login(self, image: str, auth: tuple[str, str] | None) -> dict[str, str]:
        """The environment in which podman and skopeo read this node's registries.conf, and know these credentials.

        The credentials are for `login_at`, or else the registry's location: these clients look there once
        registries.conf has led them elsewhere than the image's name says, and never send them to a mirror.
        """
        encoded = base64.b64encode(":".join(auth or ()).encode()).decode()
        auths = {}
        if auth:
            auths[self.login_at or self._registries[image.partition("/")[0]][0]] = {"auth": encoded}
        auth_file = self.directory / "auth.json"
        auth_file.write_text(json.dumps({"auths": auths}))
        return {"REGISTRY_AUTH_FILE": str(auth_file), "HOME": str(self.directory / "home")}

    def _write_registries_conf(self) -> None:
        lines = []
        for name, (location, mirrors) in self._registries.items():
            lines += ["[[registry]]", f'prefix = "{name}"', f'location = "{location}"', "insecure = true"]
            for mirror in mirrors:
                lines += ["[[registry.mirror]]", f'location = "{mirror}"', "insecure = true"]
        self.registries_conf.parent.mkdir(parents=True, exist_ok=True)
        self.registries_conf.write_text("\n".join([*lines, ""]))
