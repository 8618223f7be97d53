"""Serving blobs from the disk cache, against nginx with sendfile.

    python -m tests.benchmark.serving [--rounds N]

The product side is the client face: door, router, policy of a pull, store. An app that only opens the file and sends it
(`bare_face`) shows what of that is the server's and Starlette's. Needs root, gcc and nginx.

Where the time of a 1 MB blob goes, in microseconds of CPU: nginx 94 to 101, the bare app 179 to 195, the mirror 240 to
265 (two runs on two cores that had nothing else to do at this priority); on another machine, which has the faster
interpreter and the slower network, 137, 178 and 212. A request takes ten system calls, and all its bytes leave in one
of them, as nginx's do. The rest is the interpreter's, 130 without the kernel's part: uvicorn's parsing, task and answer
46, Starlette and the door 7, to read the request 16, to find the blob and open it 16, the response 20, what surrounds
sendfile 16, metrics 11. Debian's interpreter took a tenth less than one that was built without profile-guided
optimization.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmark.measure import (
    GIGABYTE,
    MEGABYTE,
    Report,
    Server,
    compare,
    compile_c,
    download,
    in_quiet_network,
    make_blob,
    nginx,
    server,
    workshop,
)

MIRROR, BARE, NGINX = "skvaller", "bare app", "nginx sendfile"
CASES = [  # name, size, connections, downloads a round, least throughput, most CPU
    ("1 GB, one connection", GIGABYTE, 1, 2, 0.9, 1.15),
    ("64 MB, 8 connections", 64 * MEGABYTE, 8, 32, 0.85, None),
    ("1 MB, 8 connections", MEGABYTE, 8, 1000, 0.65, None),
]


def main(rounds: int) -> None:
    """Measure and report."""
    report = Report()
    with workshop() as directory:
        client = compile_c("download", directory)
        layout = directory / "layout"
        digests = [make_blob(layout, size, size) for _, size, *_ in CASES]
        with (
            nginx(NGINX, 9001, directory, f"root {layout};") as reference,
            server(MIRROR, 9002, sys.executable, "-m", "tests.benchmark.face", "9002", layout) as mirror,
            server(BARE, 9003, sys.executable, "-m", "tests.benchmark.bare_face", "9003", layout) as bare,
        ):
            for (name, _, connections, downloads, rate, cpu), digest in zip(CASES, digests, strict=True):
                paths = {
                    NGINX: f"/blobs/sha256/{digest.hex}",
                    MIRROR: (blob := f"/v2/lib/app/blobs/{digest}?ns=registry.test"),
                    BARE: blob,
                }

                def run(each: Server) -> tuple[float, float]:
                    return download(client, each, paths[each.name], connections, downloads)  # noqa: B023 (called here)

                figures = compare([reference, mirror, bare], rounds, run)
                report.figures(name, figures)
                ours, theirs = figures[MIRROR], figures[NGINX]
                report.at_least("throughput, of nginx's", ours.gb_per_s / theirs.gb_per_s, rate)
                if cpu is not None:
                    report.at_most("CPU per byte, of nginx's", ours.cpu_s_per_gb / theirs.cpu_s_per_gb, cpu)
    report.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    in_quiet_network("tests.benchmark.serving")
    main(options.rounds)
