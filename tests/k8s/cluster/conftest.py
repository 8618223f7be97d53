"""A control plane as a fixture, on the lab's network; the report of a run in which all was green."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.k8s.cluster.build import kubernetes
from tests.k8s.cluster.control_plane import ControlPlane
from tests.k8s.cluster.report import write_report
from tests.k8s.tools import require
from tests.lab.cache import FetchError
from tests.lab.fetch_containerd import NEWEST, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.lab import Lab


@pytest.fixture(scope="session")
def kubernetes_programs() -> Iterator[Path]:
    """The programs of Kubernetes, and on PATH a containerd that its kubelet accepts; built when they are not there."""
    require(etcd="apt-get install etcd-server", kubectl="apt-get install kubernetes-client", go="Go, https://go.dev/dl")
    try:
        programs, containerd = kubernetes(), fetch(NEWEST)
    except FetchError as error:
        pytest.fail(str(error), pytrace=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(containerd), prepend=os.pathsep)
        yield programs


@pytest.fixture
async def control_plane(lab: Lab, kubernetes_programs: Path, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """A running API server at the address of the lab's machine."""
    async with ControlPlane(tmp_path / "control-plane", lab.gateway, kubernetes_programs) as plane:
        yield plane


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the report when the whole of this directory ran, and passed."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    assert terminal is not None
    whole = {Path(__file__).parent, *Path(__file__).parent.parents}
    asked = {Path(argument).resolve() for argument in session.config.args}
    passed = [report for report in terminal.stats.get("passed", []) if report.when == "call"]
    mine = [report for report in passed if report.fspath.startswith("tests/k8s/cluster/")]
    chosen = "deselected" in terminal.stats or not asked <= whole
    if exitstatus == pytest.ExitCode.OK and not chosen and len(passed) == len(session.items):
        write_report({report.location[2]: report.duration for report in mine})
