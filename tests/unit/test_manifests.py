"""The settings and flags in what is deployed are the product's own. `tests/k8s` tests the rest of it, with helm."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Final

import pytest

from mirror.cli import make_parser
from mirror.settings import ENVIRONMENT_PREFIX, Settings, load

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOYED: Final = sorted(
    path
    for path in (ROOT / "k8s").rglob("*")
    if path.suffix in {".md", ".service", ".yaml"} or path.name == "Dockerfile"
)
MANIFESTS: Final = ROOT / "k8s" / "manifests" / "skvaller.yaml"
UNIT: Final = ROOT / "k8s" / "systemd" / "skvaller.service"

FROM_THE_NODE: Final = {"SKVALLER_NAME": "node-1", "SKVALLER_ADDRESS": "10.0.0.7", "SKVALLER_ZONE": ""}
"""What Kubernetes fills in; a label that the pod lacks is an empty text."""


def parse(command: str) -> None:
    """Parse a `skvaller` command line with the product's own parser."""
    try:
        make_parser().parse_args(shlex.split(command)[1:])
    except SystemExit:
        pytest.fail(f"wrong usage: {command}", pytrace=False)


@pytest.mark.parametrize("path", DEPLOYED, ids=lambda path: str(path.relative_to(ROOT / "k8s")))
def test_every_variable_is_a_setting(path: Path) -> None:
    known = {ENVIRONMENT_PREFIX + setting.name.upper() for setting in fields(Settings)} | {"SKVALLER_CONFIG"}
    # In the chart, the names of the five ports are put in; the manifests have them.
    assert set(re.findall(rf"{ENVIRONMENT_PREFIX}[A-Z_]*[A-Z]\b", path.read_text())) <= known


def test_the_manifests_environment_makes_settings() -> None:
    text = MANIFESTS.read_text()
    given = dict(re.findall(r'- name: (SKVALLER_\w+)\n +value: "?([^"\n]*)"?\n', text))
    assert given.keys() | FROM_THE_NODE.keys() == set(re.findall(r"SKVALLER_\w+", text))
    settings = load({}, given | FROM_THE_NODE, None)
    assert (settings.name, settings.address, settings.zone, settings.store) == ("node-1", "10.0.0.7", "", "containerd")


def test_the_manifests_commands_are_right() -> None:
    commands = set(re.findall(r"skvaller (?:configure|cleanup)[^;'\n]*", MANIFESTS.read_text()))
    assert len(commands) == 2
    for command in sorted(commands):
        parse(command)


def test_the_units_commands_are_right() -> None:
    commands = re.findall(r"^Exec\w+=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        parse(command)


def test_the_image_builds_the_wheel_with_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = (ROOT / "k8s" / "requirements-build.in").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["build-system"]["requires"]


def test_the_image_has_what_the_project_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {re.split(r"[<>=]", requirement)[0] for requirement in project["project"]["dependencies"]}
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "k8s" / "requirements.txt").read_text(), re.MULTILINE)
    assert names <= set(locked)


def test_the_versions_are_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = (ROOT / "k8s" / "chart" / "Chart.yaml").read_text()
    assert re.findall(r"^(?:version|appVersion): (.*)$", chart, re.MULTILINE) == [version, version]
