"""The image of k8s/Dockerfile, built by buildah on a Debian of its own, since no registry is needed for that.

The base is made once by debootstrap and stays in buildah's storage; the image goes when the tests end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.k8s.tools import ROOT, require

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE: Final = "localhost/skvaller-tests/python:bookworm"
IMAGE: Final = "localhost/skvaller-tests/skvaller"
PACKAGES: Final = "ca-certificates,python3,python3-venv"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
STEP_S_MAX: Final = 900


@dataclass(frozen=True)
class Image:
    """A built image, mounted at `root`, with what its configuration says."""

    root: Path
    entrypoint: list[str]
    environment: list[str]


@contextmanager
def built_image() -> Iterator[Image]:
    """Build the image and mount it."""
    require(buildah="apt-get install buildah", debootstrap="apt-get install debootstrap")
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True, check=False).returncode:
        _build_base()
    dockerfile = ROOT / "k8s" / "Dockerfile"
    # Without systemd and cgroups of its own, buildah can only change the root directory.
    options = ("--isolation", "chroot", "--quiet", "--build-arg", f"BASE={BASE}")
    _run("buildah", "build", *options, "--file", str(dockerfile), "--tag", IMAGE, str(ROOT))
    configuration = json.loads(_run("buildah", "inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
    container = _run("buildah", "from", "--pull-never", IMAGE)
    try:
        root = Path(_run("buildah", "mount", container))
        yield Image(root, configuration["Entrypoint"], configuration["Env"])
    finally:
        _run("buildah", "rm", container)
        _run("buildah", "rmi", IMAGE)


def _build_base() -> None:
    """A Debian with Python, in which pip trusts what this machine trusts."""
    directory = Path(tempfile.mkdtemp(prefix="skvaller-base-"))
    try:
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(directory))
        shutil.copy(CERTIFICATES, directory / CERTIFICATES.relative_to("/"))
        (directory / "etc" / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
        container = _run("buildah", "from", "scratch")
        _run("buildah", "copy", "--quiet", container, str(directory), "/")
        _run("buildah", "config", "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", container)
        _run("buildah", "commit", "--quiet", "--rm", container, BASE)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(*command: str) -> str:
    """What a command prints, run with patience beside whatever else is going on."""
    done = subprocess.run(
        ["nice", "-n", "15", *command], capture_output=True, text=True, timeout=STEP_S_MAX, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()
