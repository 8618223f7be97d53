"""The chart's values, their schema, their table and their use, as far as that can be told without helm."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest
import yaml

from mirror.settings import Settings
from tests.k8s.render_manifests import MANIFESTS, VALUES
from tests.k8s.tools import CHART, ROOT

if TYPE_CHECKING:
    from pathlib import Path

README: Final = ROOT / "k8s" / "README.md"
VALUES_FILES: Final = sorted((ROOT / "k8s" / "values").glob("*.yaml"))
DEFAULTS: Final[dict[str, Any]] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text())


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Values with more of them laid over, as helm does it."""
    both = {name: merged(value, more.get(name, {})) for name, value in values.items() if isinstance(value, dict)}
    return values | more | both


def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    """The values' names; a list and an empty table is one value."""
    found: set[str] = set()
    for name, value in values.items():
        nested = isinstance(value, dict) and value and name not in {"resources", "nodeSelector", "labels"}
        found |= leaves(value, f"{prefix}{name}.") if nested else {prefix + name}
    return found


@pytest.mark.parametrize("file", [*VALUES_FILES, VALUES], ids=lambda file: file.stem)
def test_every_values_file_has_only_values_that_there_are_and_the_schema_takes_them(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    assert leaves(values) <= leaves(DEFAULTS)
    jsonschema.validate(merged(DEFAULTS, values), SCHEMA)


def test_the_readme_has_a_row_for_every_value_and_the_schema_knows_them_all() -> None:
    table = README.read_text().partition("## Values")[2]
    assert set(re.findall(r"^\| `([A-Za-z.]+)` \|", table, re.MULTILINE)) == leaves(DEFAULTS)
    assert SCHEMA["properties"].keys() - {"global"} == DEFAULTS.keys()


def test_the_readme_names_every_values_file() -> None:
    rows = re.findall(r"^\| (`[a-z0-9]+\.yaml`.*?) \|", README.read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(.+?)`", "".join(rows))) == [file.name for file in VALUES_FILES]


def test_every_value_is_used_by_a_template_and_no_template_uses_another() -> None:
    templates = "".join(file.read_text() for file in sorted((CHART / "templates").iterdir()))
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", templates))
    names = leaves(DEFAULTS)
    # `ports` and `registries` are gone through whole.
    assert {name for name in names if not any(f"{name}.".startswith(f"{part}.") for part in used)} == set()
    assert {part for part in used if not any(f"{name}.".startswith(f"{part}.") for name in names)} == set()


def test_the_manifests_have_no_rights_in_the_api_and_the_ports_of_the_settings() -> None:
    parts = {part["kind"]: part for part in yaml.safe_load_all(MANIFESTS.read_text())}
    assert parts.keys() == {"DaemonSet", "Service", "ServiceAccount"}
    pod = parts["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    [agent] = [part for part in pod["containers"] if part["name"] == "agent"]
    defaults = {setting.name: setting.default for setting in fields(Settings)}
    ports = {part["name"]: part["containerPort"] for part in agent["ports"]}
    assert ports == {name: defaults[f"{name}_port"] for name in ("peer", "publish", "router", "metrics")}
