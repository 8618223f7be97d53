"""A client that pulls an image as a runtime does, for nodes of a benchmark that have no containerd.

    python -m tests.benchmark.herd_client URL REGISTRY REPOSITORY TAG START [USER:PASSWORD]

Resolves the tag by HEAD, reads the manifest by digest, then the config and all layers, three at a time; checks every
digest, and keeps nothing. A body that breaks off is asked for again from where it ended, as containerd does. Begins at
START (seconds of Unix time); prints one line of JSON: how long it took, how many bodies broke off, and the longest that
the mirror took to answer or to fail. What it does not give (404, 503, broken connections) is asked of the registry
itself, at the address in `HERD_REGISTRY`.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

PARALLEL = 3
TRIES_MAX = 5
SILENCE_S = 60
READ_BYTES = 256 * 1024
KEPT_BYTES_MAX = 1_000_000
ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"


class Client:
    """Blocking, in few threads: thirty of these on two cores are to cost less than the agents."""

    def __init__(self, mirror: str, registry: str, repository: str, login: str | None) -> None:
        self._mirror = mirror, f"/v2/{repository}", f"?ns={registry}"
        self._direct = os.environ["HERD_REGISTRY"], f"/v2/{repository}", ""
        self._login = login
        self._token = ""
        self._lock = threading.Lock()
        self.broken = 0
        self.aside = 0
        self.waited_s = 0.0

    def resolve(self, tag: str) -> str:
        answer = self._ask("HEAD", f"manifests/{tag}", 0)
        answer.close()
        return answer.headers["Docker-Content-Digest"]

    def fetch(self, kind: str, digest: str) -> bytes:
        """The object's bytes if it is small; its digest was right."""
        hasher, position, kept, tries = hashlib.sha256(), 0, b"", 0
        buffer = memoryview(bytearray(READ_BYTES))
        while True:
            answer = self._ask("GET", f"{kind}/{digest}", position, direct=tries >= TRIES_MAX)
            total = position + (answer.length or 0)
            try:
                while size := answer.readinto(buffer):
                    hasher.update(buffer[:size])
                    position += size
                    if position <= KEPT_BYTES_MAX:
                        kept += buffer[:size]
            except OSError:
                pass
            answer.close()
            if position >= total:
                assert f"sha256:{hasher.hexdigest()}" == digest, f"{digest}: {position} wrong bytes"
                return kept
            tries += 1
            with self._lock:
                self.broken += 1

    def _ask(self, method: str, path: str, position: int, *, direct: bool = False) -> http.client.HTTPResponse:
        for (url, before, after), last in ((self._mirror, False), (self._direct, True)):
            if direct and not last:
                continue
            for _ in range(2):
                headers = {"Accept": ACCEPT}
                if position:
                    headers["Range"] = f"bytes={position}-"
                if self._token:
                    headers["Authorization"] = f"Bearer {self._token}"
                began = time.monotonic()
                try:
                    answer = send(method, url, f"{before}/{path}{after}", headers)
                except (OSError, http.client.HTTPException):
                    break
                finally:
                    with self._lock:
                        self.waited_s = max(self.waited_s, 0.0 if last else time.monotonic() - began)
                if answer.status == 401 and self._login:
                    self._authenticate(answer)
                    continue
                if answer.status in (200, 206):
                    return answer
                answer.close()
                break
            if not last:
                with self._lock:
                    self.aside += 1
        raise RuntimeError(f"{method} {path}: nobody gives it")

    def _authenticate(self, answer: http.client.HTTPResponse) -> None:
        challenge = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["WWW-Authenticate"]))
        answer.close()
        realm = urlsplit(challenge.pop("realm"))
        query = "&".join(f"{name}={value}" for name, value in challenge.items())
        basic = base64.b64encode((self._login or "").encode()).decode()
        given = send("GET", realm.netloc, f"{realm.path}?{query}", {"Authorization": f"Basic {basic}"})
        self._token = json.loads(given.read())["token"]


def send(method: str, url: str, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """A request on a connection of its own, which ends with its answer."""
    connection = http.client.HTTPConnection(url.rpartition("//")[2], timeout=SILENCE_S)
    connection.request(method, path, headers=headers | {"Connection": "close"})
    return connection.getresponse()


def main(mirror: str, registry: str, repository: str, tag: str, start: str, login: str | None = None) -> None:
    client = Client(mirror, registry, repository, login)
    time.sleep(max(0.0, float(start) - time.time()))
    started = time.monotonic()
    document = json.loads(client.fetch("manifests", client.resolve(tag)))
    if "manifests" in document:
        document = json.loads(client.fetch("manifests", document["manifests"][0]["digest"]))
    digests = [each["digest"] for each in (document["config"], *document["layers"])]
    with ThreadPoolExecutor(PARALLEL) as threads:
        list(threads.map(partial(client.fetch, "blobs"), digests))
    took = time.monotonic() - started
    print(json.dumps({"took_s": took, "broken": client.broken, "aside": client.aside, "waited_s": client.waited_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
