"""The lab as a fixture, its logs in the report of a test that fails, and the choice of another containerd."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab import Lab
from tests.lab.cache import FetchError
from tests.lab.fetch_containerd import find

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--containerd`."""
    parser.addoption(
        "--containerd",
        metavar="NAME-OR-DIRECTORY",
        help="the containerd of the lab's nodes: what `python -m tests.lab.fetch_containerd` fetched under this name, "
        "or the directory of its programs; default: the one on PATH",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Put the chosen containerd first on PATH, where the lab finds its programs (and containerd finds its shim)."""
    chosen = config.getoption("containerd")
    if chosen is None:
        return
    try:
        directory = find(chosen)
    except FetchError as error:
        raise pytest.UsageError(f"--containerd: {error}") from error
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", str(directory), prepend=os.pathsep)
    config.add_cleanup(patch.undo)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """An empty lab; everything in it ends with the test."""
    async with Lab.open() as lab:
        yield lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the processes of the lab wrote to the report of a test that failed."""
    report = yield
    lab = item.funcargs.get("lab") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(lab, Lab):
        report.sections += [(f"log of {name}", text) for name, text in lab.logs().items() if text]
    return report
