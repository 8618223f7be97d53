"""What can be set for one registry: a table `[registries."docker.io"]` of the configuration file, key by key.

`POLICY_KEYS` and `PLACE_KEYS` say what each key means and takes; tables are read with them, and their JSON schema is
made of them. The name of a table is a registry's or a pattern (`*.corp.example`, `*`); where a registry is can be set
under a name alone.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from mirror.oci import InvalidReferenceError, parse_registry
from mirror.options import read_flag
from mirror.policy import Authorize, RegistryPolicy, Tags, Unreachable
from mirror.registries import Endpoint, usual_endpoint

TAG_TTL_S_MIN: Final = 10
TAG_TTL_S_MAX: Final = 24 * 3600


class TableError(ValueError):
    """A table that cannot be used; `keys` lead to what is wrong in it, and the message says what is allowed."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What is set for a registry. Without `endpoints` it is where its hosts.toml, or else its name, says."""

    policy: RegistryPolicy = RegistryPolicy()
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how it is read (ValueError says what is allowed), its JSON schema, and what it means."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    help: str


def is_pattern(name: str) -> bool:
    """Whether the name of a table stands for many registries."""
    return "*" in name or "?" in name


def read_tables(tables: object) -> Mapping[str, RegistrySettings]:
    """Read all tables, by name. Raises `TableError`."""
    if not isinstance(tables, Mapping):
        raise TableError((), 'tables, such as [registries."docker.io"]')
    values = {name: _read_table((name,), table, {**POLICY_KEYS, **PLACE_KEYS}) for name, table in tables.items()}
    shared = values.get("*", {})
    return {_read_name(name): _settings(name, {**shared, **own}) for name, own in values.items()}


def read_words(text: str) -> Mapping[str, RegistrySettings]:
    """Read the form that fits on a line: `NAME=URL` or `NAME=URL,KEY=VALUE`, several with spaces."""
    tables = {}
    for word in text.split():
        name, equals, rest = word.partition("=")
        url, *pairs = rest.split(",")
        if not equals or not all("=" in pair for pair in pairs):
            raise ValueError("NAME=URL or NAME=URL,KEY=VALUE, such as docker.io=https://cache.example.com")
        tables[name] = {"url": url, **dict(pair.split("=", 1) for pair in pairs)}
    return read_tables(tables)


def _read_name(name: str) -> str:
    if is_pattern(name):
        return name.lower()
    try:
        return parse_registry(name)
    except InvalidReferenceError as error:
        raise TableError((name,), f"the name of a registry, such as docker.io, or a pattern ({error})") from error


def _read_table(place: tuple[str, ...], table: object, keys: Mapping[str, Key]) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise TableError(place, f"a table with some of {', '.join(keys)}")
    values = {}
    for name, value in table.items():
        if name not in keys:
            raise TableError((*place, name), f"no such key: there are {', '.join(keys)}")
        try:
            values[name] = keys[name].read(value)
        except ValueError as error:
            raise TableError((*place, name), str(error)) from error
    return values


def _settings(name: str, values: Mapping[str, Any]) -> RegistrySettings:
    policy = replace(RegistryPolicy(), **{key: value for key, value in values.items() if key in POLICY_KEYS})
    place = {key: value for key, value in values.items() if key in PLACE_KEYS}
    if not place:
        return RegistrySettings(policy)
    if is_pattern(name):
        raise TableError((name, next(iter(place))), "the name of one registry: a pattern has no place of its own")
    mirrors = place.pop("mirrors", ())
    try:
        itself = _endpoint({"url": usual_endpoint(name).url, **place})
    except TableError as error:
        raise TableError((name, *error.keys), str(error)) from error
    return RegistrySettings(policy, (*mirrors, itself))


def _endpoint(values: Mapping[str, Any]) -> Endpoint:
    """Raises `TableError` for keys that do not fit each other."""
    certificate, key = values.get("client_certificate_file"), values.get("client_key_file")
    if key and not certificate:
        raise TableError(("client_key_file",), "a client_certificate_file beside it, whose key it is")
    if certificate:
        try:  # with a password, for OpenSSL would ask for one at the terminal
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
        except OSError as error:
            allowed = f"a certificate and its key in PEM, without a password ({error})"
            raise TableError(("client_certificate_file",), allowed) from error
    return Endpoint(
        values["url"],
        ca_files=(values["ca_file"],) if "ca_file" in values else (),
        client_certificates=((certificate, key),) if certificate else (),
        override_path=values.get("override_path", False),
    )


def _read_mirrors(value: object) -> tuple[Endpoint, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of tables, each with a url")
    tables = [_read_table((), table, ENDPOINT_KEYS) for table in value]
    if not all("url" in table for table in tables):
        raise ValueError("tables that have a url each")
    return tuple(map(_endpoint, tables))


def _read_file(value: object) -> Path:
    path = Path(str(value))
    if not path.is_file():
        raise ValueError(f"a file in PEM ({path} is no file)")
    return path


def _read_certificates(value: object) -> Path:
    path = _read_file(value)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise ValueError(f"certificates in PEM ({path}: {error})") from error
    return path


def _read_flag(value: object) -> bool:
    return read_flag(str(value))


def _read_patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValueError('a list of patterns, such as ["library/*", "*:latest"]')
    return tuple(value)


def _read_ttl(value: object) -> float:
    try:
        ttl_s = float(str(value))
    except ValueError:
        ttl_s = 0.0
    if not TAG_TTL_S_MIN <= ttl_s <= TAG_TTL_S_MAX:
        raise ValueError(f"seconds, {TAG_TTL_S_MIN} to {TAG_TTL_S_MAX}")
    return ttl_s


def _read_rules(value: object) -> tuple[tuple[str, Tags], ...]:
    if not isinstance(value, Mapping):
        raise ValueError('a table of patterns, such as {"*:latest" = "upstream", "*" = "cluster"}')
    return tuple((pattern, _member_of(Tags)(rule)) for pattern, rule in value.items())


def _member_of(choices: type[Enum]) -> Callable[[object], Any]:
    def read(value: object) -> Enum:
        for choice in choices:
            if choice.value == value:
                return choice
        raise ValueError(f"one of {', '.join(_values(choices))}")

    return read


def _values(choices: type[Enum]) -> list[str]:
    return [choice.value for choice in choices]


_FLAG: Final = {"type": "boolean"}
_FILE: Final = {"type": "string", "minLength": 1}
_PATTERNS: Final = {"type": "array", "items": {"type": "string", "minLength": 1}}

ENDPOINT_KEYS: Final[Mapping[str, Key]] = {
    "url": Key(Endpoint.read_url, {"type": "string", "pattern": "^https?://"}, "Where it is, as http:// or https://."),
    "override_path": Key(
        _read_flag, _FLAG, "Whether `url` has the whole path up to a repository's name, so that no /v2 is put after it."
    ),
    "ca_file": Key(_read_certificates, _FILE, "Certificates (PEM) to trust beside the system's."),
    "client_certificate_file": Key(_read_file, _FILE, "The certificate (PEM) that this node shows."),
    "client_key_file": Key(_read_file, _FILE, "Its key (PEM), if that is not in the same file."),
}

PLACE_KEYS: Final[Mapping[str, Key]] = {
    **ENDPOINT_KEYS,
    "mirrors": Key(
        _read_mirrors,
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {**key.schema, "description": key.help} for name, key in ENDPOINT_KEYS.items()},
                "required": ["url"],
                "additionalProperties": False,
            },
        },
        "Other mirrors to ask before `url`, in this order: tables with the keys of a place. They get no credentials; "
        "what one refuses or does not have, the next is asked for.",
    ),
}

POLICY_KEYS: Final[Mapping[str, Key]] = {
    "mirror": Key(_read_flag, _FLAG, "Whether this registry is mirrored at all. Default: true."),
    "include": Key(
        _read_patterns, _PATTERNS, 'Patterns of the repositories, or `repository:tag`, that are. Default: ["*"].'
    ),
    "exclude": Key(_read_patterns, _PATTERNS, "Patterns of those that are not, although included. Default: none."),
    "tags": Key(
        _member_of(Tags),
        {"enum": _values(Tags)},
        "Who says what a tag means. upstream: the registry, each time; nodes that ask at the same moment share its "
        "answer. cluster: any node that asked the registry less than tag_ttl_s ago, else the registry. Both: the last "
        "known when it does not answer. never: nobody, so that tags are not mirrored. Default: upstream.",
    ),
    "tag_rules": Key(
        _read_rules,
        {"type": "object", "additionalProperties": {"enum": _values(Tags)}},
        "The same for patterns of `repository:tag`; the first one that matches counts.",
    ),
    "tag_ttl_s": Key(
        _read_ttl,
        {"type": "number", "minimum": TAG_TTL_S_MIN, "maximum": TAG_TTL_S_MAX},
        "How old what the cluster knows may be with `cluster`, in seconds: a new push is seen everywhere after that. "
        "Default: 300.",
    ),
    "authorize": Key(
        _member_of(Authorize),
        {"enum": _values(Authorize)},
        "open: what any node holds is given to every runtime by its digest. upstream: only to those whom the registry "
        "lets in. Default: open.",
    ),
    "unreachable": Key(
        _member_of(Unreachable),
        {"enum": _values(Unreachable)},
        "With authorize = upstream, when the registry does not answer. closed: those who were let in some minutes ago. "
        "open: everybody. Default: closed.",
    ),
}
