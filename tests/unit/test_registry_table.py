"""The tables of the configuration file are read whole, and refused with the place and what is allowed there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from mirror.oci import Tag
from mirror.policy import Authorize, RegistryPolicy, Tags, Unreachable
from mirror.registries import Endpoint
from mirror.registry_table import TableError, read_tables, read_words
from mirror.settings import SettingsError, load
from mirror.toml_lines import line_of


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A certificate and its key."""
    file = tmp_path / "ca.pem"
    trustme.CA().issue_cert("node-1").private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


@pytest.fixture
def locked(tmp_path: Path, pem: Path) -> Path:
    """The same key, with a password."""
    key = load_pem_private_key(pem.read_bytes(), None)
    file = tmp_path / "locked.pem"
    password = BestAvailableEncryption(b"password")
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password))
    return file


def test_every_key_is_read(pem: Path) -> None:
    settings = read_tables(
        {
            "registry.corp": {
                "url": "https://10.1.2.3/prefix/",
                "override_path": True,
                "ca_file": str(pem),
                "client_certificate_file": str(pem),
                "client_key_file": str(pem),
                "mirrors": [{"url": "http://cache.corp"}],
                "mirror": True,
                "include": ["team/*"],
                "exclude": ["*:latest"],
                "tags": "cluster",
                "tag_rules": {"*:v*": "never"},
                "tag_ttl_s": 60,
                "authorize": "upstream",
                "unreachable": "open",
            }
        }
    )["registry.corp"]
    assert settings.endpoints == (
        Endpoint("http://cache.corp"),
        Endpoint("https://10.1.2.3/prefix", True, ca_files=(pem,), client_certificates=((pem, pem),)),
    )
    assert settings.policy == RegistryPolicy(
        include=("team/*",),
        exclude=("*:latest",),
        tags=Tags.CLUSTER,
        tag_rules=(("*:v*", Tags.NEVER),),
        tag_ttl_s=60,
        authorize=Authorize.UPSTREAM,
        unreachable=Unreachable.OPEN,
    )


def test_what_a_table_leaves_out_is_taken_from_the_star() -> None:
    settings = read_tables({"*": {"tags": "cluster", "tag_ttl_s": 60}, "docker.io": {"tag_ttl_s": 30}})
    assert settings["docker.io"].policy.tag_ttl_s == 30
    assert settings["docker.io"].policy.tag_rule("library/nginx", Tag("v1")) is Tags.CLUSTER


def test_a_mirror_alone_is_asked_before_the_registry_where_it_usually_is() -> None:
    settings = read_tables({"docker.io": {"mirrors": [{"url": "http://cache.corp"}]}})
    assert [each.url for each in settings["docker.io"].endpoints] == [
        "http://cache.corp",
        "https://registry-1.docker.io",
    ]


def test_the_form_that_fits_on_a_line_takes_the_same_keys() -> None:
    settings = read_words("registry.corp=https://10.1.2.3,authorize=upstream,tag_ttl_s=60 docker.io=http://cache")
    assert settings["registry.corp"].policy.authorize is Authorize.UPSTREAM
    assert settings["docker.io"].endpoints == (Endpoint("http://cache"),)


@pytest.mark.parametrize(
    ("text", "line", "key", "allowed"),
    [
        ('[registries."docker.io"]\nurk = "https://x"\n', 2, "urk", "there are"),
        ('[registries."docker.io"]\nurl = "x"\n', 2, "url", "https://"),
        ('[registries."docker.io"]\nurl = "https://user:pw@x"\n', 2, "url", "credentials"),
        ('[registries."docker.io"]\nurl = "https://x:99999"\n', 2, "url", "URL"),
        ('[registries."docker.io"]\nurl = "https://x:y"\n', 2, "url", "URL"),
        ('[registries."docker.io"]\nurl = "https://x:0"\n', 2, "url", "URL"),
        ('[registries."docker.io"]\nurl = "https://[::1"\n', 2, "url", "URL"),
        ('[registries."docker.io"]\nmirror = true\nca_file = "/nowhere"\n', 3, "ca_file", "no file"),
        ('[registries."docker.io"]\nca_file = "/etc/passwd"\n', 2, "ca_file", "in PEM"),
        ('[registries."docker.io"]\n\nclient_key_file = "PEM"\n', 3, "client_key_file", "client_certificate_file"),
        ('[registries."docker.io"]\nclient_certificate_file = "/etc/passwd"\n', 2, "client_certificate_file", "PEM"),
        (
            '[registries."docker.io"]\nclient_key_file = "/etc/passwd"\nclient_certificate_file = "PEM"\n',
            3,
            "client_certificate_file",
            "its key",
        ),
        (
            '[registries."docker.io"]\nclient_certificate_file = "PEM"\nclient_key_file = "LOCKED"\n',
            2,
            "client_certificate_file",
            "without a password",
        ),
        (
            '[registries."docker.io"]\nmirrors = [{url = "https://x", client_key_file = "PEM"}]\n',
            2,
            "mirrors",
            "client_certificate_file",
        ),
        ('[registries."docker.io"]\ntags = "sometimes"\n', 2, "tags", "cluster, never"),
        ('[registries."docker.io"]\n\ntag_ttl_s = 1\n', 3, "tag_ttl_s", "10 to 86400"),
        ('[registries."docker.io"]\nauthorize = true\n', 2, "authorize", "open, upstream"),
        ('[registries."docker.io".tag_rules]\n"*" = "x"\n', 1, "tag_rules", "never"),
        ('[registries."docker.io"]\ninclude = "library/*"\n', 2, "include", "a list"),
        ('[registries."docker.io"]\nmirrors = [{ca_file = "/x"}]\n', 2, "mirrors", "no file"),
        ('[registries."docker.io"]\nmirrors = [{}]\n', 2, "mirrors", "url"),
        ('[registries."*.corp"]\nurl = "https://x"\n', 2, "url", "one registry"),
        ('[registries."a/b"]\ntags = "never"\n', 1, "a/b", "name of a registry"),
        ("x = 1\n", 1, "x", "no setting"),
        ("client_port = 29990\npeer_port = 70000\n", 2, "peer_port", "1 to 65535"),
        ('mirroring = "perhaps"\n', 1, "mirroring", "true or false"),
    ],
)
def test_a_wrong_key_is_refused_with_its_line_its_name_and_what_is_allowed(
    tmp_path: Path, pem: Path, locked: Path, text: str, line: int, key: str, allowed: str
) -> None:
    file = tmp_path / "skvaller.toml"
    file.write_text(text.replace('"PEM"', f'"{pem}"').replace('"LOCKED"', f'"{locked}"'))
    with pytest.raises(SettingsError) as refusal:
        load({}, {}, file)
    assert f"{file}, line {line}: " in str(refusal.value)
    assert key in str(refusal.value)
    assert allowed in str(refusal.value)


def test_the_example_of_the_documentation_is_accepted(tmp_path: Path, pem: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "registries.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    file = tmp_path / "skvaller.toml"
    file.write_text(example.replace("/etc/ssl/corp.pem", str(pem)))
    registries = load({}, {}, file).registries
    assert registries["registry.corp"].policy.authorize is Authorize.UPSTREAM
    assert registries["docker.io"].policy.tag_rule("library/nginx", Tag("1.27-rc1")) is Tags.UPSTREAM
    assert not registries["docker.io"].policy.mirrors("library/nginx", Tag("latest"))


def test_tables_that_are_no_tables_are_refused() -> None:
    for tables in ("x", {"docker.io": "https://x"}):
        with pytest.raises(TableError):
            read_tables(tables)


def test_the_line_of_a_key_is_found_as_people_write_them() -> None:
    text = 'a = 1\n[registries . "docker.io"] # here\nurl = """\n[x]\n"""\nb.c = 2\n[[list]]\nd = 3\n'
    assert line_of(text, ("a",)) == 1
    assert line_of(text, ("registries", "docker.io")) == 2
    assert line_of(text, ("registries", "docker.io", "url")) == 3
    assert line_of(text, ("list", "d")) == 8
    assert line_of(text, ("nowhere",)) is None
