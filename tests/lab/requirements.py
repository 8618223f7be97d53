"""What the lab needs of the machine: programs and root.

Where it is missing, a test is skipped and says what to install. With `CI` set in the environment it fails
instead: there a skipped test of the real thing would go unnoticed.
"""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "chromium": "chromium",
    "containerd": "containerd",
    "ctr": "containerd",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "podman": "podman",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "runc": "runc",
    "setpriv": "util-linux",
    "skopeo": "skopeo",
    "umount": "mount",
}
"""The Debian package of each program."""


def require(*programs: str, root: bool = False) -> None:
    """Skip the test, or fail it on CI, unless the programs are there (and we are root, when asked for)."""
    missing = sorted({PACKAGES[program] for program in programs if shutil.which(program) is None})
    reasons = [f"apt-get install {' '.join(missing)}"] if missing else []
    if root and os.geteuid() != 0:
        reasons.append("run the tests as root")
    if not reasons:
        return
    reason = f"this test needs more than the machine has: {'; '.join(reasons)}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
