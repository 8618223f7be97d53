"""The dashboard that is checked in is that of its code; the alert rules do what they say, as promtool sees them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.requirements import require
from tests.observability.dashboard import FILE, dashboard

HERE = Path(__file__).parent
RULES = HERE.parent.parent / "k8s" / "chart" / "alerts" / "skvaller.yaml"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    require("promtool")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_dashboard_is_that_of_its_code() -> None:
    assert FILE.read_text() == dashboard(), "run `python -m tests.observability.dashboard`"


def test_the_rules_are_rules() -> None:
    result = promtool("check", "rules", RULES)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_fires_on_what_it_is_meant_for_and_not_on_what_is_usual() -> None:
    result = promtool("test", "rules", HERE / "alerts.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("line", "wrong"), [("> 0.1\n", "> 0.3\n"), ("for: 10m", "for: 1m"), ("0.9 *", "1.9 *")])
def test_a_rule_that_is_changed_fails_its_test(tmp_path: Path, line: str, wrong: str) -> None:
    rules, tests = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    text = RULES.read_text()
    assert line in text
    rules.write_text(text.replace(line, wrong))
    tests.write_text((HERE / "alerts.yaml").read_text().replace("../../k8s/chart/alerts/skvaller.yaml", str(rules)))
    assert promtool("test", "rules", tests).returncode != 0


def test_the_tests_name_every_alert() -> None:
    assert shutil.which("promtool"), "see above"
    names = [line.split()[-1] for line in RULES.read_text().splitlines() if "- alert:" in line]
    assert len(names) == len(set(names)) == 14, "the test of everything at once counts all but one, which has its own"
