"""Runs the tests that meet a containerd on each of several, and prints a matrix: `python -m tests.lab.runtimes`.

The generations are the one on PATH and those of `tests.lab.fetch_containerd`, which are fetched first where they are
not there yet. Arguments are passed on to pytest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab import fetch_containerd
from tests.lab.cache import FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping

INTEGRATION: Final = Path(__file__).parent.parent / "integration"
TESTS: Final = tuple(
    INTEGRATION / f"test_{name}.py"
    for name in ("pull", "policy", "containerd_store", "containerd_pins", "parallel_ranges", "sha512", "doctor")
)
RUN_TIMEOUT_S: Final = 1800


def main() -> int:
    """Fetch, run and print; returns the exit code: 0 when nothing failed."""
    try:
        fetched = [fetch_containerd.fetch(name) for name in fetch_containerd.NAMES]
    except FetchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    outcomes: dict[str, dict[str, str]] = {}
    failed = False
    for directory in (None, *fetched):
        version = fetch_containerd.version(directory)
        sys.stdout.write(f"\ncontainerd {version}\n")
        sys.stdout.flush()
        exit_code, outcomes[version] = _run(directory)
        failed |= exit_code != 0
    sys.stdout.write(_matrix(outcomes))
    return 1 if failed else 0


def _run(containerd: Path | None) -> tuple[int, dict[str, str]]:
    """Run the tests on one containerd; returns pytest's exit code, and what became of each test."""
    with tempfile.TemporaryDirectory() as work:
        report = Path(work, "report.xml")
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *(str(test) for test in TESTS)]
        command += [f"--containerd={containerd}"] if containerd else []
        command += sys.argv[1:]
        completed = subprocess.run(command, check=False, timeout=RUN_TIMEOUT_S)
        return completed.returncode, _outcomes(report) if report.exists() else {}


def _outcomes(report: Path) -> dict[str, str]:
    outcomes = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}: {case.get('name', '')}"
        parts = {part.tag for part in case}
        outcomes[name] = "FAIL" if parts & {"failure", "error"} else "skip" if "skipped" in parts else "ok"
    return outcomes


def _matrix(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """A line for each test and a column for each version; a dash where the test did not run."""
    tests = dict.fromkeys(test for column in outcomes.values() for test in column)
    lines = [[*outcomes, "containerd"]]
    lines += [[*(column.get(test, "-") for column in outcomes.values()), _words(test)] for test in tests]
    return "\n" + "".join("  ".join([*(f"{cell:7}" for cell in cells), test]) + "\n" for *cells, test in lines)


def _words(test: str) -> str:
    return test.replace("test_", "").replace("_", " ")


if __name__ == "__main__":
    sys.exit(main())
