"""The lab as a fixture, and its logs in the report of a test that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab import Lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator


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
