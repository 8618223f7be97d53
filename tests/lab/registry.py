"""A real docker-registry, public or private, behind a front that counts what it sends."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import bcrypt

from tests.lab.front import Exchange, Front, TokenIssuer
from tests.lab.images import HERE, Image, build
from tests.lab.process import Process, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.oci import Digest

START_TIMEOUT_S = 10.0


Scheme = Literal["basic", "bearer"]


@dataclass(frozen=True, slots=True)
class Login:
    """Who may use a private registry, and how it asks: HTTP Basic, or Bearer tokens from a token server.

    With `public`, whoever names nobody gets tokens too, and they open pulls: as at Docker Hub.
    """

    username: str
    password: str
    scheme: Scheme = "bearer"
    public: bool = False


class Registry:
    """A registry that images call `name` (`registry.test`) and that listens at `url`. Made by `Lab`."""

    def __init__(self, name: str, directory: Path, host: str, port: int, login: Login | None) -> None:
        self.name = name
        self.login = login
        self.url = f"http://{host}:{port}"
        self.address = f"{host}:{port}"
        self._directory = directory
        self._backend = (host, port + 1)
        issuer = None
        if login and login.scheme == "bearer":
            issuer = TokenIssuer(login.username, login.password, public=login.public)
        self._front = Front(host, port, f"http://{host}:{port + 1}", issuer)
        directory.mkdir()
        configuration = directory / "config.yml"
        configuration.write_text(json.dumps(self._configuration(issuer)))
        self.process = Process(f"registry {name}", ["docker-registry", "serve", configuration], directory / "log")

    async def start(self) -> None:
        """Start it, or start it again where it was, with what it had; returns when it listens."""
        await self.process.start()
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await _listens(*self._backend):
                assert self.process.running, f"docker-registry ended: {self.process.log()}"
                await asyncio.sleep(0.02)
        await self._front.start()

    async def stop(self) -> None:
        """From now on connections are refused. What it has stays."""
        await self._front.stop()
        await self.process.stop()

    async def publish(
        self,
        repository_and_tag: str,
        layer_bytes: Sequence[int] = (1_000_000,),
        architectures: Sequence[str] = (HERE,),
    ) -> Image:
        """Build an image of random layers of these sizes and push it past the counting front.

        The same arguments give the same image, in every registry of that name.
        """
        layout = self._directory / "images"
        name = f"{self.name}/{repository_and_tag}"
        tag = repository_and_tag.replace("/", "-").replace(":", "-")
        root = await asyncio.to_thread(build, layout, tag, name, layer_bytes, architectures)
        await self.push(layout, tag, repository_and_tag)
        return Image(name, root, layout)

    async def push(self, layout: Path, tag: str, repository_and_tag: str, *, docker_format: bool = False) -> None:
        """Push what `tag` means in an OCI image layout past the counting front, byte for byte or in Docker's format."""
        credentials = [f"--dest-creds={self.login.username}:{self.login.password}"] if self.login else []
        await run(
            *("skopeo", "--insecure-policy", "copy", "--quiet", "--all"),
            "--format=v2s2" if docker_format else "--preserve-digests",
            *("--dest-tls-verify=false", *credentials),
            *(f"oci:{layout}:{tag}", f"docker://{_join(self._backend)}/{repository_and_tag}"),
        )

    @property
    def exchanges(self) -> list[Exchange]:
        """What was asked and sent since the start or the last `forget`, in the order in which it ended."""
        return list(self._front.exchanges)

    def requests_for(self, digest: Digest, method: str = "GET") -> int:
        """How often an object was asked for by digest, whatever the answer."""
        return sum(
            exchange.method == method and exchange.path.endswith(f"/{digest}") for exchange in self._front.exchanges
        )

    def bytes_sent(self, digest: Digest | None = None) -> int:
        """How many bytes of an object (by default: of everything) left the registry."""
        return sum(
            exchange.body_bytes
            for exchange in self._front.exchanges
            if digest is None or exchange.path.endswith(f"/{digest}")
        )

    @contextmanager
    def refusing(self, status: int, headers: Mapping[str, str]) -> Iterator[None]:
        """Answer everything so, whoever asks for whatever."""
        self._front.refusal = status, dict(headers)
        try:
            yield
        finally:
            self._front.refusal = None

    def forget(self) -> None:
        """Count from zero."""
        self._front.exchanges.clear()

    def _configuration(self, issuer: TokenIssuer | None) -> dict[str, object]:
        """docker-registry's configuration; YAML reads JSON."""
        configuration: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._directory / "storage")}},
            "http": {"addr": _join(self._backend), "relativeurls": True},
        }
        if issuer is not None:
            certificate = self._directory / "issuer.pem"
            certificate.write_bytes(issuer.certificate_pem)
            configuration["auth"] = {
                "token": {
                    "realm": f"{self.url}/token",
                    "service": issuer.service,
                    "issuer": issuer.issuer,
                    "rootcertbundle": str(certificate),
                }
            }
        elif self.login is not None:
            passwords = self._directory / "htpasswd"
            hashed = bcrypt.hashpw(self.login.password.encode(), bcrypt.gensalt(4)).decode()
            passwords.write_text(f"{self.login.username}:{hashed}\n")
            configuration["auth"] = {"htpasswd": {"realm": self.name, "path": str(passwords)}}
        return configuration


def _join(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
