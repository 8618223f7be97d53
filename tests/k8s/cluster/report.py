"""What is known of the last run of these tests that was green as a whole: a page that the run itself writes."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.k8s.cluster.build import COREDNS_VERSION, KUBERNETES_VERSION, PROGRAMS
from tests.k8s.tools import HELM_VERSION, ROOT
from tests.lab.fetch_containerd import NEWEST, fetch, version

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORT: Final = Path(__file__).with_name("REPORT.md")


def write_report(seconds: Mapping[str, float]) -> None:
    """Write the page; `seconds` tells how long each test took, by its name."""
    described = ("git", "describe", "--always", "--abbrev=12", "--dirty=, with changes that were not committed")
    commit = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    system = os.uname()
    facts = {
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit or "not known",
        "Kubernetes": f"{KUBERNETES_VERSION} ({', '.join(PROGRAMS)})",
        "containerd": version(fetch(NEWEST)),
        "CoreDNS, helm": f"{COREDNS_VERSION}, {HELM_VERSION.removeprefix('v')}",
        "machine": f"{system.sysname} {system.release.partition('-')[0]}, {os.cpu_count()} cores",
    }
    lines = [
        "# The last green run on a real Kubernetes",
        "",
        "`tox -e k8s-cluster` writes this page when all of its tests have passed, and leaves it alone otherwise.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {fact} |" for name, fact in facts.items()),
        "",
        "| what was shown | seconds |",
        "|---|---|",
        *(f"| {name.removeprefix('test_').replace('_', ' ')} | {took:.0f} |" for name, took in seconds.items()),
    ]
    REPORT.write_text("\n".join(lines) + "\n")
