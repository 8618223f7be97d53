"""Which version this is: that of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version; words instead when the code runs from its source."""
    try:
        return version("skvaller")
    except PackageNotFoundError:
        return "(not installed: run from its source)"
