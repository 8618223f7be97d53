"""Fetching a 1 GB blob as a transfer, for one reader and for eight, against Go's reverse proxy.

    python -m tests.benchmark.transfers [--rounds N]

A transfer spools what it fetches, so that its source is asked once; Go fetches once for each reader. Needs root, gcc,
go and nginx.
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

PEER, UPSTREAM, GO = "transfer from a peer", "transfer from upstream", "Go ReverseProxy"
SOURCE = "http://127.0.0.1:9001"
CASES = [  # name, readers, downloads a round, throughput and CPU per byte as shares of Go's
    ("1 GB, one reader", 1, 1, 1.1, 1.0),
    ("1 GB, eight readers", 8, 8, 2.5, 0.4),
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
        face = (sys.executable, "-m", "tests.benchmark.transfer_face")
        with (
            nginx("source", 9001, directory, f"root {directory};"),
            server(PEER, 9002, *face, "9002", directory, SOURCE, "peer") as from_peer,
            server(UPSTREAM, 9003, *face, "9003", directory, SOURCE, "upstream") as from_upstream,
            server(GO, 9004, proxy, "127.0.0.1:9004", SOURCE) as go,
        ):
            for name, connections, downloads, rate, cpu in CASES:

                def run(each: Server) -> tuple[float, float]:
                    return download(client, each, path, connections, downloads)  # noqa: B023 (called here)

                figures = compare([go, from_peer, from_upstream], rounds, run)
                report.figures(name, figures)
                ours, theirs = figures[PEER], figures[GO]
                report.at_least("throughput, of Go's", ours.gb_per_s / theirs.gb_per_s, rate)
                report.at_most("CPU per byte, of Go's", ours.cpu_s_per_gb / theirs.cpu_s_per_gb, cpu)
    report.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    in_quiet_network("tests.benchmark.transfers")
    main(options.rounds)
