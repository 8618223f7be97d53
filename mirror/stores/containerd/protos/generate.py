"""Generates the message classes in the `api` directories from the `.proto` files in `protos` beside them.

    python mirror/stores/containerd/protos/generate.py            writes them
    python mirror/stores/containerd/protos/generate.py --check    exits with 1 when they are not up to date

It needs grpcio-tools of exactly `TOOLS_VERSION`: its code says that it was made by protobuf 6.30.0, which is
the oldest that pyproject.toml allows; protobuf accepts generated code of its own age or older, and of the major
version before.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS_VERSION = "1.72.2"
ROOT = Path(__file__).parents[4]
HEADER = b"# ruff: noqa\n# fmt: off\n# mypy: ignore-errors\n"
PACKAGES = [Path("mirror/stores/containerd"), Path("tests/lab")]


def generate(package: Path, out: Path) -> list[Path]:
    """Write the code of `package` (relative to the root) below `out`; returns its files relative to `out`."""
    protos, api = package / "protos", package / "api"
    names = sorted(path.name for path in (ROOT / protos).glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{api}={protos}"]
    command += [f"--python_out={out}", f"--pyi_out={out}", *(str(api / name) for name in names)]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - our own arguments
    written = sorted((out / api).glob("*_pb2.py*"))
    for path in written:
        path.write_bytes(HEADER + path.read_bytes())
    return [path.relative_to(out) for path in written]


def is_current(package: Path) -> bool:
    """Whether the files of `package`'s `api` are exactly what would be written now."""
    with tempfile.TemporaryDirectory() as directory:
        wanted = {path: (Path(directory) / path).read_bytes() for path in generate(package, Path(directory))}
    found = {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / package / "api").glob("*_pb2.py*")}
    return wanted == found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Generate message classes from .proto files.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when out of date")
    arguments = parser.parse_args()
    if importlib.metadata.version("grpcio-tools") != TOOLS_VERSION:
        parser.error(f"this needs grpcio-tools=={TOOLS_VERSION}")
    if arguments.check:
        stale = [str(package) for package in PACKAGES if not is_current(package)]
        if stale:
            parser.exit(1, f"run {Path(__file__).relative_to(ROOT)}: out of date in {', '.join(stale)}\n")
    else:
        for package in PACKAGES:
            generate(package, ROOT)


if __name__ == "__main__":
    main()
