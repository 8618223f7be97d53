"""A control plane as a fixture, on the lab's network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.k8s.cluster.build import kubernetes
from tests.k8s.cluster.control_plane import ControlPlane
from tests.k8s.tools import require
from tests.lab.cache import FetchError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.lab import Lab


@pytest.fixture(scope="session")
def kubernetes_programs() -> Path:
    """The programs of Kubernetes, which are built when they are not there."""
    require(etcd="apt-get install etcd-server", kubectl="apt-get install kubernetes-client", go="Go, https://go.dev/dl")
    try:
        return kubernetes()
    except FetchError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
async def control_plane(lab: Lab, kubernetes_programs: Path, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """A running API server at the address of the lab's machine."""
    async with ControlPlane(tmp_path / "control-plane", lab.gateway, kubernetes_programs) as plane:
        yield plane
