"""Programs that these tests need: found, or for helm, which no Debian package has, built once and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent.parent
CHART: Final = ROOT / "k8s" / "chart"
HELM_VERSION: Final = "v3.22.0"
KUBE_VERSION: Final = "1.35.0"
"""The Kubernetes that charts are rendered for and objects are validated against."""

CACHE: Final = Path.home() / ".cache" / "skvaller-tests"
BUILD_S_MAX: Final = 1800
COMMAND_S_MAX: Final = 60


class HelmError(Exception):
    """helm refused; the message is its own."""


def require(**packages: str) -> None:
    """Skip the test, or fail it on CI, unless all programs are there; each comes with what brings it."""
    missing = [source for program, source in packages.items() if shutil.which(program) is None]
    if missing:
        reason = f"this test needs {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def helm(*arguments: str | Path, timeout_s: float = COMMAND_S_MAX) -> str:
    """What a helm command prints. Raises `HelmError`."""
    done = subprocess.run([helm_program(), *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise HelmError(done.stdout + done.stderr)
    return done.stdout


def render(*arguments: str | Path) -> str:
    """The chart's objects as YAML, as the release `skvaller` in the namespace `skvaller`. Raises `HelmError`."""
    release = ("skvaller", CHART, "--namespace", "skvaller")
    # A helm built from its module believes in Kubernetes 1.20.
    return helm("template", *release, "--kube-version", KUBE_VERSION, *arguments)


def helm_program() -> Path:
    """Where helm is; built unless it is there already."""
    directory = CACHE / f"helm-{HELM_VERSION}"
    if not (directory / "helm").exists():
        require(go="Go, https://go.dev/dl")
        # Renamed into place, so that a build that was broken off leaves nothing that looks like helm.
        new = directory.with_suffix(".new")
        module = f"helm.sh/helm/v3/cmd/helm@{HELM_VERSION}"
        command = ["nice", "-n", "15", "go", "install", module]
        subprocess.run(command, env=os.environ | {"GOBIN": str(new)}, timeout=BUILD_S_MAX, check=True)
        new.replace(directory)
    return directory / "helm"
