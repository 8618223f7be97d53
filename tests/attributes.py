"""Whether a directory keeps extended attributes, which some file systems do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def require_attributes(directory: Path) -> None:
    """Skip the test where there are none; fail it on CI, where whose an object is must be seen to be kept."""
    try:
        os.setxattr(directory, "user.skvaller.test", b"x")
    except OSError:
        reason = f"the file system of {directory} keeps no extended attributes"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
