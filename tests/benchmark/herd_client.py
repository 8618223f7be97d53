"""A client that pulls an image as a runtime does, for nodes of a benchmark that have no containerd.

    python -m tests.benchmark.herd_client URL REGISTRY REPOSITORY TAG START [USER:PASSWORD]

Resolves the tag by HEAD, reads the manifest by digest, then the config and all layers, three at a time; checks every
digest, and keeps nothing. A body that breaks off is asked for again from where it ended, as containerd does. Begins at
START (seconds of Unix time); prints one line of JSON: how long it took, and how many bodies broke off. What the mirror
does not give (404, 503, broken connections) is asked of the registry itself, at the address in `HERD_REGISTRY`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
import time

import aiohttp
import orjson

PARALLEL = 3
TRIES_MAX = 5
ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"


class Client:
    def __init__(
        self, session: aiohttp.ClientSession, mirror: str, registry: str, repository: str, login: str | None
    ) -> None:
        self._session = session
        self._mirror = f"{mirror}/v2/{repository}", {"ns": registry}
        self._direct = f"{os.environ['HERD_REGISTRY']}/v2/{repository}", dict[str, str]()
        self._login = login
        self._token = ""
        self.broken = 0
        self.aside = 0

    async def resolve(self, tag: str) -> str:
        async with await self._ask("HEAD", f"manifests/{tag}", 0) as response:
            return response.headers["Docker-Content-Digest"]

    async def fetch(self, kind: str, digest: str) -> bytes:
        """The object's bytes if it is small; its digest was right."""
        hasher, position, kept, tries = hashlib.sha256(), 0, b"", 0
        while True:
            async with await self._ask("GET", f"{kind}/{digest}", position, direct=tries >= TRIES_MAX) as response:
                total = position + (response.content_length or 0)
                try:
                    async for chunk in response.content.iter_any():
                        hasher.update(chunk)
                        position += len(chunk)
                        if len(kept) < 1_000_000:
                            kept += chunk
                except aiohttp.ClientError:
                    self.broken += 1
                    tries += 1
            if position >= total:
                assert f"sha256:{hasher.hexdigest()}" == digest, f"{digest}: {position} wrong bytes"
                return kept

    async def _ask(self, method: str, path: str, position: int, *, direct: bool = False) -> aiohttp.ClientResponse:
        for (url, parameters), last in ((self._mirror, False), (self._direct, True)):
            if direct and not last:
                continue
            for _ in range(2):
                headers = {"Accept": ACCEPT}
                if position:
                    headers["Range"] = f"bytes={position}-"
                if self._token:
                    headers["Authorization"] = f"Bearer {self._token}"
                try:
                    response = await self._session.request(method, f"{url}/{path}", params=parameters, headers=headers)
                except aiohttp.ClientError:
                    break
                if response.status == 401 and self._login:
                    await self._authenticate(response)
                    continue
                if response.status in (200, 206):
                    return response
                response.close()
                break
            self.aside += not last
        raise RuntimeError(f"{method} {path}: nobody gives it")

    async def _authenticate(self, response: aiohttp.ClientResponse) -> None:
        challenge = dict(re.findall(r'(\w+)="([^"]*)"', response.headers["WWW-Authenticate"]))
        response.close()
        realm = challenge.pop("realm")
        user, _, password = (self._login or "").partition(":")
        async with self._session.get(realm, params=challenge, auth=aiohttp.BasicAuth(user, password)) as answer:
            self._token = (await answer.json())["token"]


async def main(mirror: str, registry: str, repository: str, tag: str, start: str, login: str | None = None) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_read=60)) as session:
        client = Client(session, mirror, registry, repository, login)
        await asyncio.sleep(float(start) - time.time())
        started = time.monotonic()
        document = orjson.loads(await client.fetch("manifests", await client.resolve(tag)))
        if "manifests" in document:
            document = orjson.loads(await client.fetch("manifests", document["manifests"][0]["digest"]))
        slots = asyncio.Semaphore(PARALLEL)

        async def fetch(digest: str) -> None:
            async with slots:
                await client.fetch("blobs", digest)

        await asyncio.gather(*(fetch(each["digest"]) for each in [document["config"], *document["layers"]]))
        took = time.monotonic() - started
        print(orjson.dumps({"took_s": took, "broken": client.broken, "aside": client.aside}).decode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
