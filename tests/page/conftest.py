"""Where the pictures go."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--screenshots`."""
    parser.addoption("--screenshots", metavar="DIRECTORY", help="keep pictures of the page, to be looked at")


@pytest.fixture
def screenshots(pytestconfig: pytest.Config) -> Path | None:
    """The directory for pictures; None when nobody wants them."""
    directory = pytestconfig.getoption("screenshots")
    return Path(directory) if directory else None
