"""Fuzzing what a client's request can do: path, query, reference, Range, Accept and other headers, under atheris.

    python -m tests.fuzz.requests [libFuzzer options]

Without options it runs for a minute. An input is a method, a path, a query and some headers: bytes as they are, or a
valid request in which something is replaced. `tests.fuzz.request_law` says what must hold. A failure prints the
input's file; with that file as the only option the failure is repeated.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, Final

# It is installed in the environment where this runs, and not where types are checked.
atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["mirror"]):
    from tests.fuzz.request_law import DIGEST, hold

DEFAULT_OPTIONS: Final = (
    "-max_total_time=60",
    "-timeout=5",
    "-rss_limit_mb=1024",
    "-max_len=2048",
    "-len_control=0",
    "-verbosity=0",
)
METHODS: Final = ["GET", "HEAD", "POST", "DELETE", "get", ""]
PATHS: Final = [
    b"/v2/",
    b"/v2/lib/app/manifests/v1",
    f"/v2/lib/app/manifests/{DIGEST}".encode(),
    f"/v2/lib/app/blobs/{DIGEST}".encode(),
    f"/v2/docker.io/lib/app/blobs/{DIGEST}".encode(),
    b"/v2/lib%2fapp/manifests/%2e%2e",
    b"/v2/lib/app/blobs/uploads/",
    b"/v2/lib/manifests/v1/manifests/v1",
]
QUERIES: Final = [b"", b"ns=docker.io", b"ns=%5B::1%5D:5000", b"ns=docker.io&ns=x", b"ns=docker.io%0d%0aX:y"]
HEADERS: Final = {
    b"range": [b"bytes=0-", b"bytes=5-9", b"bytes=-3", b"bytes=9-5", b"bytes=0-1,3-4", b"bytes=99999999999999999999-"],
    b"if-range": [f'"{DIGEST}"'.encode(), b"*", b'W/"x"'],
    b"if-none-match": [f'"{DIGEST}"'.encode(), b"*", b'W/"x", "y"', b'"'],
    b"accept": [b"*/*", b"application/json, */*;q=0.1", b"\xff"],
    b"authorization": [b"Bearer x", b"Basic"],
    b"skvaller-request": [b"abc", b"a b"],
}


def ascii_of(provider: Any, choices: list[bytes]) -> bytes:
    """One of the choices, maybe with something in it replaced; only what HTTP lets through in a request line."""
    data: bytes = provider.PickValueInList(choices)
    if provider.ConsumeBool() and data:
        at = provider.ConsumeIntInRange(0, len(data))
        data = data[:at] + provider.ConsumeBytes(8) + data[at + provider.ConsumeIntInRange(0, 8) :]
    return bytes(byte for byte in data if 0x20 < byte < 0x7F)


def fuzz(data: bytes) -> None:
    """One input."""
    provider = atheris.FuzzedDataProvider(data)
    method = provider.PickValueInList(METHODS)
    path, query = ascii_of(provider, PATHS), ascii_of(provider, QUERIES)
    headers = []
    for _ in range(provider.ConsumeIntInRange(0, 5)):
        name = provider.PickValueInList(list(HEADERS))
        value = provider.PickValueInList(HEADERS[name])
        if provider.ConsumeBool():
            value = provider.ConsumeBytes(40)
        headers.append((name, bytes(byte for byte in value if byte == 9 or 0x20 <= byte != 0x7F)))
    hold(method, path, query, headers)


def corpus(directory: Path) -> str:
    """Inputs to begin with: some bytes for each of the choices."""
    for number in range(32):
        (directory / str(number)).write_bytes(bytes((number * 37 + step * 11) % 256 for step in range(64)))
    return str(directory)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as seeds:
        options = sys.argv[1:] or [*DEFAULT_OPTIONS, f"-artifact_prefix={tempfile.gettempdir()}/", corpus(Path(seeds))]
        atheris.Setup([sys.argv[0], *options], fuzz)
        atheris.Fuzz()
