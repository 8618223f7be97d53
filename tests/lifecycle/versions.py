"""Other versions of the product, to update from and to: each is a wheel, unpacked into a directory for PYTHONPATH.

Nothing has been released, and the protocol has been version 1 from the start. So there are two stand-ins:

- `before`: the last commit whose agents ask each other no questions, so nodes have no leases and follow nobody. It is
  the oldest in that sense that today's can be updated from: what was said before it was another format.
- `following`: today's code with the protocol's number raised by one, so that today's and `before` are the version
  before.
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from typing import TYPE_CHECKING, Final

from tests.integration.agents import ROOT
from tests.lab.cache import FetchError, run

if TYPE_CHECKING:
    from pathlib import Path

BEFORE: Final = "1e8855fc270b8040612030a980540c61fc94aa7a"


def before(work: Path) -> Path:
    """Build it in an empty directory; returns where it is unpacked. Raises `FetchError`."""
    archive = work / "source.tar"
    try:
        run("git", "archive", f"--output={archive}", BEFORE, directory=ROOT)
    except FetchError as error:
        message = f"this clone has not the history that it takes (git fetch --unshallow): {error}"
        raise FetchError(message) from error
    shutil.unpack_archive(archive, work / "source")
    return _unpacked_wheel(work)


def following(work: Path) -> Path:
    """Build it in an empty directory; returns where it is unpacked. Raises `FetchError`."""
    source = work / "source"
    for package in ("gossip", "mirror"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    file = source / "gossip" / "membership.py"
    number = protocol(ROOT)
    text, replaced = re.subn(
        rf"^PROTOCOL: Final = {number}$", f"PROTOCOL: Final = {number + 1}", file.read_text(), flags=re.MULTILINE
    )
    assert replaced == 1
    file.write_text(text)
    return _unpacked_wheel(work)


def _unpacked_wheel(work: Path) -> Path:
    """Build the wheel of `work / "source"`; returns where it is unpacked."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work, work / "source")
    [wheel] = work.glob("*.whl")
    packages = work / "packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return packages


def protocol(packages: Path) -> int:
    """The version of the protocol that agents with these packages speak. Raises `FetchError`."""
    command = "from gossip.membership import PROTOCOL; print(PROTOCOL)"
    environment = {"PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    return int(run(sys.executable, "-c", command, environment=environment))
