"""Gets other generations of containerd than the machine's own, without installing them.

    python -m tests.lab.fetch_containerd [trixie] [forky] [newest]

Debian's packages of two other releases are downloaded and unpacked; the newest release is built from the Go module
proxy, which takes minutes. What was fetched is kept in the user's cache directory, and a second call does nothing;
to get a newer one, delete it there. Versions move with Debian and with containerd, so the names say where it is from.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Final

from tests.lab.cache import FetchError, cached, go_install, place, run

SUITES: Final = ("trixie", "forky")
"""The Debian releases; their containerd runs with the C library of the release before."""
NEWEST: Final = "newest"
NAMES: Final = (*SUITES, NEWEST)

PROGRAMS: Final = ("containerd", "ctr", "containerd-shim-runc-v2")
MODULE: Final = "github.com/containerd/containerd/v2"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def find(name_or_directory: str) -> Path:
    """The directory of the programs of one containerd: fetched before by name, or given as it is.

    Raises `FetchError` when it is not there.
    """
    fetched = name_or_directory in NAMES
    directory = (place(f"containerd/{name_or_directory}") if fetched else Path(name_or_directory)).resolve()
    missing = [program for program in PROGRAMS if not (directory / program).is_file()]
    if missing:
        advice = (
            f"run `python -m tests.lab.fetch_containerd {name_or_directory}`" if fetched else f"or name one of {NAMES}"
        )
        raise FetchError(f"{directory} lacks {', '.join(missing)}; {advice}")
    return directory


def fetch(name: str) -> Path:
    """Get one containerd, unless it is there already; returns the directory of its programs. Raises `FetchError`."""
    assert name in NAMES
    cached(f"containerd/{name}", _build if name == NEWEST else lambda work: _unpack(work, name))
    return find(name)


def version(directory: Path | None = None) -> str:
    """What a containerd says it is, `1.7.24`; None asks the one on PATH. Raises `FetchError`."""
    program = str(directory / "containerd") if directory else "containerd"
    # "containerd <module> <version, maybe with a suffix of the packager> <revision>"
    number = run(program, "--version").split()[2].lstrip("v")
    return number.partition("~")[0].partition("+")[0]


def main() -> int:
    """Fetch what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Gets other generations of containerd than the machine's own, without installing them.",
        epilog="Needs apt-get and dpkg for Debian's, and Go for the newest; what was fetched before is left alone.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones, of {', '.join(NAMES)}; default: all")
    names = parser.parse_args().names or NAMES
    if unknown := sorted({*names} - {*NAMES}):
        parser.error(f"{', '.join(unknown)}: there is only {', '.join(NAMES)}")
    for name in names:
        try:
            directory = fetch(name)
            sys.stdout.write(f"{name}: containerd {version(directory)} in {directory}\n")
        except FetchError as error:
            sys.stderr.write(f"{name}: {error}\n")
            return 1
    return 0


def _unpack(work: Path, suite: str) -> Path:
    """Download Debian's package of a release with lists of its own, so that the machine's stay as they are."""
    sources = work / "debian.sources"
    sources.write_text(
        f"Types: deb\nURIs: {_debian_archive()}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    (work / "lists").mkdir()
    options = [
        f"Dir::Etc::SourceList={sources}",
        "Dir::Etc::SourceParts=/dev/null",
        f"Dir::State::Lists={work}/lists",
        f"Dir::Cache::pkgcache={work}/packages.bin",
        f"Dir::Cache::srcpkgcache={work}/sources.bin",
        "Acquire::Languages=none",
        "APT::Sandbox::User=root",  # the unprivileged user may not write here
    ]
    apt = ("apt-get", "--quiet", *(f"--option={option}" for option in options))
    run(*apt, "update")
    run(*apt, "download", "containerd", directory=work)
    (package,) = work.glob("containerd_*.deb")
    run("dpkg", "--extract", package, work / "unpacked")
    return work / "unpacked" / "usr" / "bin"


def _debian_archive() -> str:
    """Where this machine gets its own packages from: the same place has the other releases."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    conditions = ("Created-By: Packages", "Component: main", f"Release: {release}")
    archives = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *conditions).split()
    if not archives:
        raise FetchError(f"apt has no source for {release or 'this release'}, or this is no Debian")
    return archives[0]


def _build(work: Path) -> Path:
    """Build the newest release; without cgo it lacks what the lab does not use (btrfs)."""
    return go_install(work / "bin", *(f"{MODULE}/cmd/{program}@latest" for program in PROGRAMS))


if __name__ == "__main__":
    sys.exit(main())
