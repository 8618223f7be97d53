"""The JSON schema of the configuration file, made of the same declarations that read it.

An editor that knows it completes keys and shows what they mean: `skvaller schema > skvaller.schema.json`, and
`#:schema ./skvaller.schema.json` as the file's first line. It says what kind of value a key takes; whether a file is
there, or two ports differ, only the agent can say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Final

from mirror import options
from mirror.registry_table import PLACE_KEYS, POLICY_KEYS
from mirror.settings import Settings

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_TEXT: Final = {"type": "string"}
_KINDS: Final[Mapping[Callable[[str], Any], Mapping[str, Any]]] = {
    options.read_text: {"type": "string", "minLength": 1, "maxLength": 253},
    options.read_optional_text: {"type": "string", "maxLength": 253},
    options.read_port: {"type": "integer", "minimum": 1, "maximum": 65535},
    options.read_count: {"type": "integer", "minimum": 1, "maximum": 99_999},
    options.read_seconds: {"type": "number", "minimum": 0, "maximum": 3600},
    options.read_size: {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": options.SIZE}]},
    options.read_flag: {"type": "boolean"},
    options.read_path: {"type": "string", "pattern": "^/"},
}


def settings_schema() -> dict[str, Any]:
    """The schema, as a document."""
    return {
        "$schema": DIALECT,
        "title": "Settings of a skvaller agent",
        "type": "object",
        "properties": {setting.name: _described(setting) for setting in fields(Settings)},
        "additionalProperties": False,
    }


def _described(setting: Field[Any]) -> dict[str, Any]:
    schema = {"description": setting.metadata["help"], **_kind(setting)}
    if isinstance(setting.default, str | int | float) and setting.default != "":
        schema["default"] = setting.default
    elif isinstance(setting.default, Path):
        schema["default"] = str(setting.default)
    return schema


def _kind(setting: Field[Any]) -> Mapping[str, Any]:
    parse = setting.metadata["parse"]
    if setting.name == "registries":
        return {"type": "object", "additionalProperties": _table()}
    if isinstance(parse, options.Choice):
        return {"enum": list(parse.allowed)}
    if isinstance(setting.default, tuple):
        return {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
    return _KINDS.get(parse, _TEXT)


def _table() -> dict[str, Any]:
    keys = {**POLICY_KEYS, **PLACE_KEYS}
    return {
        "type": "object",
        "properties": {name: {"description": key.help, **key.schema} for name, key in keys.items()},
        "additionalProperties": False,
    }
