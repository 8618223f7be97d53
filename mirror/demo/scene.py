"""What the demo starts, and ends again whatever happens: an image, a registry, and three agents.

The registry is the product's own HTTP edge over an image layout directory, in this process, so that its requests and
bytes can be counted and it can be stopped in the middle. The agents are processes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import sysconfig
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import aiohttp
from starlette.middleware import Middleware

from mirror.http_server import HttpServer
from mirror.image_builder import build_image
from mirror.oci import Repository, Tag
from mirror.registry import create_registry
from mirror.settings import ENVIRONMENT_PREFIX
from mirror.stores.oci_layout import OciLayout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import Self

    from starlette.types import ASGIApp, Receive, Scope, Send

    from mirror.trail import Answer, Step

REPOSITORY: Final = Repository.parse("registry.example", "demo/python")
TAG: Final = Tag.parse("{}.{}".format(*sys.version_info[:2]))
LOOPBACK: Final = "127.0.0.1"

LAYERS: Final = 6
IMAGE_BYTES_MAX: Final = 48_000_000
"""Files are taken up to this sum, none larger than a layer's share of it. Each of the four copies of the image takes
that much disk space while the demo runs."""

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0
SPREAD_TIMEOUT_S: Final = 10.0
POLL_INTERVAL_S: Final = 0.02
LOG_LINES_SHOWN: Final = 20


class SceneError(Exception):
    """Something did not start, or stopped on its own; says what, with the end of its log."""


def build_demo_image(layout: Path) -> int:
    """Build an image from the files of Python's standard library; how many bytes of files are in it."""
    root = Path(sysconfig.get_path("stdlib"))
    layers: list[list[tuple[str, bytes | Path]]] = [[] for _ in range(LAYERS)]
    sizes = [0] * LAYERS
    for file in _library_files(root):
        size = file.stat().st_size
        if size <= IMAGE_BYTES_MAX // LAYERS and sum(sizes) + size <= IMAGE_BYTES_MAX:
            smallest = sizes.index(min(sizes))
            sizes[smallest] += size
            layers[smallest].append((f"usr/lib/python/{file.relative_to(root)}", file))
    build_image(layout, f"{REPOSITORY}:{TAG}", {"amd64": layers}, gzip_level=None)
    return sum(sizes)


def _library_files(root: Path) -> list[Path]:
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    return sorted(
        file
        for file in root.rglob("*")
        if file.is_file() and not file.is_symlink() and skipped.isdisjoint(file.relative_to(root).parts)
    )


class DemoRegistry:
    """The upstream registry, in this process; counts what it is asked and what it sends."""

    def __init__(self, layout: Path) -> None:
        app = create_registry(OciLayout(layout, sys.maxsize), self, [Middleware(_AlwaysNamed)])
        self._server = HttpServer(app, LOOPBACK, 0, grace_s=STOP_TIMEOUT_S)
        self._serving: asyncio.Task[None] | None = None
        self.requests = 0
        self.bytes = 0

    def noted(self, step: Step) -> None:
        """A registry has one source (see `mirror.trail.Observer`)."""

    def answered(self, answer: Answer) -> None:
        """Count a request."""
        self.requests += 1

    def ended(self, answer: Answer) -> None:
        """Count the bytes of an answer."""
        self.bytes += answer.progress()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server.socket is not None
        return f"http://{LOOPBACK}:{self._server.socket.getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server.bind()
        self._serving = asyncio.create_task(self._server.serve())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close its port; from now on connections are refused."""
        if self._serving is not None:
            self._server.stop()
            await self._serving
            self._serving = None


class _AlwaysNamed:
    """Nobody tells a registry its own name, so the mirror's HTTP edge is told it here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._query = urlencode({"ns": REPOSITORY.registry}).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "query_string": self._query}, receive, send)


class Agent:
    """One agent: a process that runs `skvaller serve` with everything it keeps below `directory`."""

    def __init__(self, name: str, directory: Path, ports: Sequence[int], zone: str = "") -> None:
        self.name = name
        self.zone = zone
        self.client_port, self.peer_port, self.publish_port, self.router_port, self.metrics_port = ports
        self.url = f"http://{LOOPBACK}:{self.client_port}"
        self.metrics_url = f"http://{LOOPBACK}:{self.metrics_port}"
        self._layout = directory / f"{name}-layout"
        self._log = directory / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, seeds: str, secret_file: Path, registry_url: str) -> None:
        """Start the process; `ready` waits until it answers."""
        settings = {
            "name": self.name,
            "zone": self.zone,
            "client-port": self.client_port,
            "peer-port": self.peer_port,
            "publish-port": self.publish_port,
            "router-port": self.router_port,
            "metrics-port": self.metrics_port,
            "layout-dir": self._layout,
            "secret-file": secret_file,
            "registries": f"{REPOSITORY.registry}={registry_url}",
            "grace-s": 1,
        } | ({"seeds": seeds} if seeds else {})
        flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        # What the operator set for a real agent is not meant for these.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "mirror", "serve", *flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    @property
    def pid(self) -> int | None:
        """Its process, once started."""
        return self._process.pid if self._process else None

    async def gauge(self, session: aiohttp.ClientSession, name: str) -> float | None:
        """The value of one of its metrics, or None while it does not answer. Raises `SceneError` when it ended."""
        self.check_alive()
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{self.metrics_url}/metrics") as response:
                for line in (await response.text()).splitlines():
                    metric, _, value = line.rpartition(" ")
                    if metric == name:
                        return float(value)
        return None

    def check_alive(self) -> None:
        """Raise `SceneError` with the end of its log when the process has ended."""
        assert self._process is not None
        if self._process.returncode is not None:
            raise SceneError(f"{self.name} ended with {self._process.returncode}:\n{self.log_end()}")

    def log_end(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    async def stop(self) -> None:
        """End the process: by SIGTERM, and by SIGKILL if that takes too long."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running_agents(
    names: Sequence[str], directory: Path, registry_url: str, zones: Sequence[str] = ("",)
) -> AsyncIterator[list[Agent]]:
    """Agents of these names in one cluster, in these zones by turns, ended on the way out.

    Raises `SceneError` when one does not start.
    """
    secret_file = directory / "secret"
    secret_file.touch(mode=0o600)
    secret_file.write_text(secrets.token_hex(32))
    ports = _free_ports(5 * len(names))
    agents = [
        Agent(name, directory, ports[5 * place : 5 * place + 5], zones[place % len(zones)])
        for place, name in enumerate(names)
    ]
    async with AsyncExitStack() as stack:
        seeds = ""
        for agent in agents:
            stack.push_async_callback(agent.stop)
            await agent.start(seeds=seeds, secret_file=secret_file, registry_url=registry_url)
            seeds = seeds or f"{LOOPBACK}:{agent.router_port}"
        others = len(agents) - 1
        await _until(agents, "skvaller_gossip_members_normal", lambda value: value >= others, START_TIMEOUT_S)
        yield agents


async def known_everywhere(agents: Sequence[Agent], pairs: int) -> None:
    """Wait until every agent knows of `pairs` (object or tag, holder) pairs. Raises `SceneError`."""
    await _until(agents, "skvaller_gossip_pairs", lambda value: value >= pairs, SPREAD_TIMEOUT_S)


async def _until(agents: Sequence[Agent], name: str, enough: Callable[[float], bool], timeout_s: float) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
        for agent in agents:
            value: float | None = None
            try:
                async with asyncio.timeout(timeout_s):
                    while True:
                        value = await agent.gauge(session, name)
                        if value is not None and enough(value):
                            break
                        await asyncio.sleep(POLL_INTERVAL_S)
            except TimeoutError:
                raise SceneError(
                    f"{agent.name}: {name} is {value} after {timeout_s:.0f} s:\n{agent.log_end()}"
                ) from None


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. Somebody may take one before its agent does; then that one does not start."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind((LOOPBACK, 0))
        return [listener.getsockname()[1] for listener in listeners]
