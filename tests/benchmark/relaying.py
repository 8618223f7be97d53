"""Relaying a 1 GB blob from a peer to the runtime, against Go's reverse proxy and nginx.

    python -m tests.benchmark.relaying [--rounds N]

All relays fetch from the same nginx. The product side is the whole client face: door, router, policy of a pull, choice
of a peer, its pooled connections. Needs root, gcc, go and nginx.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmark.measure import (
    GIGABYTE,
    Report,
    Server,
    compare,
    compile_c,
    compile_go,
    download,
    in_quiet_network,
    make_blob,
    nginx,
    server,
    workshop,
)

MIRROR, GO, NGINX = "skvaller", "Go ReverseProxy", "nginx proxy_pass"
SOURCE = "http://127.0.0.1:9001"
KEEP_ALIVE = 'proxy_http_version 1.1; proxy_set_header Connection "";'
BUFFERS = "proxy_buffers 16 64k; proxy_max_temp_file_size 0;"
CASES = [  # name, connections, downloads a round, least throughput, most CPU
    ("1 GB, one connection", 1, 2, 2.5, 0.35),
    ("1 GB, 4 connections (Go has both cores, the mirror one)", 4, 4, 2.5, 0.35),
]


def main(rounds: int) -> None:
    """Measure and report."""
    report = Report()
    with workshop() as directory:
        client, proxy = compile_c("download", directory), compile_go(directory)
        layout = directory / "layout"
        digest = make_blob(layout, GIGABYTE, 1)
        (directory / "v2/lib/app").mkdir(parents=True)
        (directory / "v2/lib/app/blobs").symlink_to(layout / "blobs" / "sha256")
        (layout / "blobs" / "sha256" / str(digest)).symlink_to(digest.hex)
        path = f"/v2/lib/app/blobs/{digest}?ns=registry.test"
        upstream = "upstream source { server 127.0.0.1:9001; keepalive 16; }"
        face = (sys.executable, "-m", "tests.benchmark.face", "9002", layout, SOURCE)
        with (
            nginx("source", 9001, directory, f"root {directory};"),
            server(MIRROR, 9002, *face) as mirror,
            server(GO, 9003, proxy, "127.0.0.1:9003", SOURCE) as go,
            nginx(NGINX, 9004, directory, f"proxy_pass http://source; {KEEP_ALIVE} {BUFFERS}", upstream) as reference,
        ):
            for name, connections, downloads, rate, cpu in CASES:

                def run(each: Server) -> tuple[float, float]:
                    return download(client, each, path, connections, downloads)  # noqa: B023 (called here)

                figures = compare([go, reference, mirror], rounds, run)
                report.figures(name, figures)
                ours, theirs = figures[MIRROR], figures[GO]
                report.at_least("throughput, of Go's", ours.gb_per_s / theirs.gb_per_s, rate)
                report.at_most("CPU per byte, of Go's", ours.cpu_s_per_gb / theirs.cpu_s_per_gb, cpu)
    report.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    in_quiet_network("tests.benchmark.relaying")
    main(options.rounds)
