"""How long a manifest takes while blobs are sent at full speed: one loop does both, so one must not hold up the other.

    python -m tests.benchmark.manifests [--rounds N]

500 requests a second over 200 open connections (an open loop); beside them nothing, a 1 GB blob from the disk cache, or
one that comes from the disk each time. All take turns. nginx is measured too, and the mirror while nginx sends the cold
blob: what that costs is the machine's share, since the mirror's process then has nothing to do with the disk.
The clients have a core of their own, so that what is measured is not their wait for a processor.
Needs root, gcc, nginx and two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from mirror.oci import Digest
from tests.benchmark.measure import (
    APART,
    BESIDE,
    GIGABYTE,
    RUN_S,
    Report,
    Server,
    compile_c,
    download_endlessly,
    in_quiet_network,
    make_blob,
    nginx,
    server,
    workshop,
)

MIRROR, NGINX = "skvaller", "nginx sendfile"
CONNECTIONS, REQUESTS_PER_S, SECONDS = 200, 500, 3
P99_MS = 5.0
MANIFEST = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"%s}' % (b" " * 1900)


class ColdDownloads:
    """Downloads a blob again and again, and drops it from the page cache before each time.

    Not while it is sent: a page that goes between the look at it and its sending makes any server wait for the disk.
    The kernel drops what nobody has used for long.
    """

    def __init__(self, client: Path, server: Server, path: str, file: Path) -> None:
        self._command: list[str | Path] = [*BESIDE, client, "1", "1", str(server.port), path]
        self._file = file
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._bytes = 0

    def __enter__(self) -> ColdDownloads:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()
        assert self._bytes > 0, "no download ended"

    def _run(self) -> None:
        descriptor = os.open(self._file, os.O_RDONLY)
        while not self._end.is_set():
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            output = subprocess.run(self._command, check=True, capture_output=True, text=True, timeout=RUN_S).stdout
            self._bytes += int(output.split()[0])
        os.close(descriptor)


@contextlib.contextmanager
def downloading(client: Path, server: Server, path: str) -> Iterator[None]:
    """Keep one connection of a server busy."""
    busy = download_endlessly(client, server, path)
    try:
        yield
        assert busy.poll() is None, "the download ended"
    finally:
        busy.kill()
        busy.wait()


def measure(client: Path, each: Server, path: str) -> tuple[float, float, float]:
    """The median, the 99th percentile and the maximum, in milliseconds."""
    numbers = map(str, (CONNECTIONS, REQUESTS_PER_S, SECONDS, each.port))
    command: list[str | Path] = [*APART, client, *numbers, path]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=RUN_S).stdout
    p50, p99, longest = map(float, output.split())
    return p50, p99, longest


def main(rounds: int) -> None:
    """Measure and report."""
    report = Report()
    with workshop() as directory:
        latency, download = compile_c("latency", directory), compile_c("download", directory)
        layout = directory / "layout"
        blob = make_blob(layout, GIGABYTE, 1)
        manifest = Digest.of(MANIFEST)
        blobs = layout / "blobs" / "sha256"
        (blobs / manifest.hex).write_bytes(MANIFEST)
        paths = {
            NGINX: (f"/blobs/sha256/{manifest.hex}", f"/blobs/sha256/{blob.hex}"),
            MIRROR: (
                f"/v2/lib/app/manifests/{manifest}?ns=registry.test",
                f"/v2/lib/app/blobs/{blob}?ns=registry.test",
            ),
        }
        with (
            nginx(NGINX, 9001, directory, f"root {layout};") as reference,
            server(MIRROR, 9002, sys.executable, "-m", "tests.benchmark.face", "9002", layout) as mirror,
        ):
            for beside in ("nothing", "a 1 GB blob", "a cold 1 GB blob"):
                print(f"\nbeside {beside}\n{'':24}{'p50':>8}{'p99':>8}{'max':>8}  ms, medians")
                turns = {NGINX: (reference, reference), MIRROR: (mirror, mirror)}
                if "cold" in beside:
                    turns["skvaller, nginx sends"] = (mirror, reference)
                figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in turns}
                for _ in range(rounds):
                    for name, (each, sender) in turns.items():
                        large = paths[sender.name][1]
                        with contextlib.ExitStack() as stack:
                            if "cold" in beside:
                                stack.enter_context(ColdDownloads(download, sender, large, blobs / blob.hex))
                            elif beside != "nothing":
                                stack.enter_context(downloading(download, sender, large))
                            figures[name].append(measure(latency, each, paths[each.name][0]))
                for name, rows in figures.items():
                    p50, p99, longest = (statistics.median(column) for column in zip(*rows, strict=True))
                    print(f"{name:24}{p50:8.2f}{p99:8.2f}{longest:8.2f}", flush=True)
                    if name == MIRROR:
                        report.at_most("99th percentile in ms", p99, P99_MS)
    report.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    in_quiet_network("tests.benchmark.manifests")
    main(options.rounds)
