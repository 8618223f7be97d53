"""The schema says of a configuration file what the agent would say."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

from mirror.cli import main
from mirror.registry_table import PLACE_KEYS, POLICY_KEYS
from mirror.schema import settings_schema
from mirror.settings import Settings, SettingsError, load

VALIDATOR = jsonschema.Draft202012Validator(settings_schema())

EVERYTHING = """
name = "node-1"
client_port = 29990
seeds = ["10.0.0.7:29993", "[fd00::1]:29993"]
containerd_namespaces = "k8s.io,moby"
layout_bytes_max = "10Gi"
spool_bytes_max = 500000000
grace_s = 1.5
verify = "always"
mirroring = false
registries_dir = "/etc/containerd/certs.d"

[registries."*"]
tags = "cluster"
tag_ttl_s = 60
exclude = ["*:latest"]

[registries."docker.io"]
url = "https://cache.example.com/v2/proxy"
override_path = true
mirrors = [{url = "http://first.example.com"}]
include = ["library/*"]
authorize = "upstream"
unreachable = "open"
tag_rules = {"*:v*" = "never"}

[registries."*.corp"]
mirror = false
"""


def accepted(text: str, directory: Path) -> bool:
    """What the agent says of a file."""
    file = directory / "skvaller.toml"
    file.write_text(text)
    try:
        load({}, {}, file)
    except SettingsError:
        return False
    return True


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(settings_schema())


def test_a_file_with_everything_is_accepted_by_both(tmp_path: Path) -> None:
    assert accepted(EVERYTHING, tmp_path)
    VALIDATOR.validate(tomllib.loads(EVERYTHING))


@pytest.mark.parametrize(
    "text",
    [
        "nonsense = 1",
        "client_port = 0",
        "client_port = 70000",
        'layout_bytes_max = "ten"',
        "grace_s = -1",
        'store = "docker"',
        'layout_dir = "here"',
        'name = ""',
        'mirroring = "perhaps"',
        'registries = "docker.io"',
        '[registries."docker.io"]\nurk = "https://x"',
        '[registries."docker.io"]\nurl = "ftp://x"',
        '[registries."docker.io"]\ntags = "sometimes"',
        '[registries."docker.io"]\ntag_ttl_s = 1',
        '[registries."docker.io"]\ninclude = "library/*"',
        '[registries."docker.io"]\nauthorize = "everybody"',
        '[registries."docker.io"]\ntag_rules = {"*" = "perhaps"}',
        '[registries."docker.io"]\nmirrors = [{}]',
        '[registries."docker.io"]\nmirrors = [{url = "http://x", tags = "never"}]',
    ],
)
def test_a_wrong_file_is_refused_by_both(text: str, tmp_path: Path) -> None:
    assert not accepted(text, tmp_path)
    assert not VALIDATOR.is_valid(tomllib.loads(text))


def test_every_default_is_what_the_schema_allows() -> None:
    for setting in fields(Settings):
        default = str(setting.default) if isinstance(setting.default, Path) else setting.default
        if isinstance(default, str | int | float) and default != "":
            VALIDATOR.validate({setting.name: default})


def test_every_setting_and_every_key_is_in_the_schema_with_what_it_means() -> None:
    properties = settings_schema()["properties"]
    assert set(properties) == {setting.name for setting in fields(Settings)}
    table = properties["registries"]["additionalProperties"]["properties"]
    assert set(table) == {*POLICY_KEYS, *PLACE_KEYS}
    for each in (*properties.values(), *table.values()):
        assert each["description"].endswith(".")


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["schema"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == settings_schema()
