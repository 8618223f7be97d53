"""podman's registries.conf: a drop-in of our own that repeats what is there with the mirror added, and no more."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.atomic_files import Action, FileTextError
from mirror.cli import main
from mirror.hosts import Mode
from mirror.registries_conf import (
    DROP_IN,
    MADE,
    WITH,
    RegistriesConf,
    cleanup,
    configure,
    review,
    text_with_mirror,
)
from mirror.registry_ports import RegistryPort
from tests.unit.test_hosts import put, tree

MIRROR = "http://127.0.0.1:29990"


def ours(registry: str) -> dict[str, Any]:
    return {"location": f"127.0.0.1:29990/{registry}", "insecure": True}


# What is configured before, which registries are named, and what the drop-in then says.

SITUATIONS: dict[str, tuple[str, list[str], list[dict[str, Any]]]] = {
    "nothing": (
        "",
        ["docker.io"],
        [{"prefix": "docker.io", "location": "docker.io", "mirror": [ours("docker.io")]}],
    ),
    "two registries": (
        "",
        ["quay.io", "docker.io"],
        [
            {"prefix": "docker.io", "location": "docker.io", "mirror": [ours("docker.io")]},
            {"prefix": "quay.io", "location": "quay.io", "mirror": [ours("quay.io")]},
        ],
    ),
    "one that is not named stays out": (
        '[[registry]]\nprefix = "ghcr.io"\nlocation = "ghcr.io"\ninsecure = true\n',
        ["docker.io"],
        [{"prefix": "docker.io", "location": "docker.io", "mirror": [ours("docker.io")]}],
    ),
    "settings of the registry": (
        '[[registry]]\nlocation = "reg.example"\ninsecure = true\nmirror-by-digest-only = true\n',
        ["reg.example"],
        [
            {
                "prefix": "reg.example",
                "location": "reg.example",
                "insecure": True,
                "mirror-by-digest-only": True,
                "mirror": [ours("reg.example")],
            }
        ],
    ),
    "a registry at a port, for which there is no path": ("", ["reg.example:5000"], []),
    "a location at a port": ('[[registry]]\nprefix = "a.example"\nlocation = "b.example:5000"\n', ["a.example"], []),
    "other mirrors come after ours": (
        (
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            '[[registry.mirror]]\nlocation = "cache.example"\npull-from-mirror = "digest-only"\n'
        ),
        ["docker.io"],
        [
            {
                "prefix": "docker.io",
                "location": "docker.io",
                "mirror": [ours("docker.io"), {"location": "cache.example", "pull-from-mirror": "digest-only"}],
            }
        ],
    ),
    "a registry that is somewhere else is asked for under that name": (
        '[[registry]]\nprefix = "docker.io"\nlocation = "cache.example/hub"\n',
        ["docker.io"],
        [{"prefix": "docker.io", "location": "cache.example/hub", "mirror": [ours("cache.example/hub")]}],
    ),
    "a longer prefix, which outranks the registry's": (
        '[[registry]]\nprefix = "docker.io/library"\nlocation = "reg.example/library"\n',
        ["docker.io"],
        [
            {"prefix": "docker.io", "location": "docker.io", "mirror": [ours("docker.io")]},
            {
                "prefix": "docker.io/library",
                "location": "reg.example/library",
                "mirror": [ours("reg.example/library")],
            },
        ],
    ),
    "a name that begins alike": (
        '[[registry]]\nprefix = "docker.io.example"\nlocation = "x.example"\n',
        ["docker.io"],
        [{"prefix": "docker.io", "location": "docker.io", "mirror": [ours("docker.io")]}],
    ),
    "blocked": ('[[registry]]\nprefix = "docker.io"\nblocked = true\n', ["docker.io"], []),
    "a slash at the end": (
        '[[registry]]\nprefix = "docker.io/"\nlocation = "docker.io"\ninsecure = true\n',
        ["docker.io"],
        [{"prefix": "docker.io/", "location": "docker.io", "insecure": True, "mirror": [ours("docker.io")]}],
    ),
    "a key and a value that need quotes": (
        '[[registry]]\nlocation = "docker.io"\n"a key" = "\\u007f"\n',
        ["docker.io"],
        [{"prefix": "docker.io", "location": "docker.io", "a key": "\x7f", "mirror": [ours("docker.io")]}],
    ),
    "a wildcard": ('[[registry]]\nprefix = "*.example"\ninsecure = true\n', ["reg.example"], []),
    "a mirror that the operator wrote is not doubled": (
        '[[registry]]\nprefix = "docker.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:29990/docker.io"\n',
        ["docker.io"],
        [{"prefix": "docker.io", "location": "docker.io", "mirror": [ours("docker.io")]}],
    ),
    "a quote in a value": (
        '[[registry]]\nprefix = "docker.io"\nlocation = "reg.example/\\"x\\\\"\n',
        ["docker.io"],
        [{"prefix": "docker.io", "location": 'reg.example/"x\\', "mirror": [ours('reg.example/"x\\')]}],
    ),
}


@pytest.mark.parametrize(("before", "registries", "after"), SITUATIONS.values(), ids=SITUATIONS.keys())
def test_the_drop_in_repeats_what_counts_with_the_mirror_first(
    tmp_path: Path, before: str, registries: list[str], after: list[dict[str, Any]]
) -> None:
    file = put(tmp_path, "containers/registries.conf", f'unqualified-search-registries = ["docker.io"]\n{before}')
    original = tree(tmp_path)
    options = RegistriesConf(file, MIRROR, registries)
    assert configure(options)[0].action is Action.CREATED
    drop_in = tmp_path / "containers/registries.conf.d" / DROP_IN
    assert tomllib.loads(drop_in.read_text()).get("registry", []) == after
    assert configure(options)[0].action is Action.UNCHANGED
    assert [change.action for change in cleanup(file)] == [Action.REMOVED]
    assert tree(tmp_path) == original
    assert cleanup(file) == []


def test_what_other_drop_ins_say_counts_in_their_order(tmp_path: Path) -> None:
    file = put(tmp_path, "registries.conf", '[[registry]]\nprefix = "docker.io"\nlocation = "a.example"\n')
    put(tmp_path, "registries.conf.d/50.conf", '[[registry]]\nprefix = "docker.io"\nlocation = "b.example"\n')
    put(tmp_path, "registries.conf.d/60.txt", '[[registry]]\nprefix = "docker.io"\nlocation = "c.example"\n')
    original = tree(tmp_path)
    configure(RegistriesConf(file, MIRROR, ["docker.io"]))
    (table,) = tomllib.loads((tmp_path / "registries.conf.d" / DROP_IN).read_text())["registry"]
    assert table["location"] == "b.example"
    cleanup(file)
    assert tree(tmp_path) == original


def test_what_a_later_file_has_is_told_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "registries.conf"
    put(
        tmp_path,
        "registries.conf.d/zzz.conf",
        '[[registry]]\nlocation = "docker.io"\n[[registry]]\nprefix = "a.io/x"\n',
    )
    changes = configure(RegistriesConf(file, MIRROR, ["docker.io", "a.io", "quay.io"]))
    assert [change.action for change in changes] == [Action.CREATED, Action.SKIPPED, Action.SKIPPED]
    assert [change.detail.partition(" has")[0] for change in changes[1:]] == ["a.io/x: zzz.conf", "docker.io: zzz.conf"]
    written = tomllib.loads((tmp_path / "registries.conf.d" / DROP_IN).read_text())["registry"]
    assert [table["prefix"] for table in written] == ["a.io", "quay.io"]


@pytest.mark.parametrize("ports", [(), (RegistryPort("docker.io", 29996),)], ids=["no ports", "a port"])
@pytest.mark.parametrize("mode", Mode)
def test_a_review_tells_when_the_other_files_have_changed(
    tmp_path: Path, mode: Mode, ports: tuple[RegistryPort, ...]
) -> None:
    file = put(tmp_path, "registries.conf", '[[registry]]\nprefix = "docker.io"\n')
    assert review(file) is None
    configure(RegistriesConf(file, MIRROR, ["docker.io", "quay.io"], mode, ports))
    found = review(file)
    assert found is not None
    assert not found.outdated
    put(tmp_path, "registries.conf", '[[registry]]\nprefix = "docker.io"\nblocked = true\n')
    original = tree(tmp_path)
    found = review(file)
    assert found is not None
    assert found.outdated
    assert found.skipped == {"docker.io": "it is blocked"}
    assert tree(tmp_path) == original
    with pytest.raises(SystemExit):
        main(found.command.split()[1:])
    assert review(file) == replace(found, outdated=False)


def test_a_review_says_what_it_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "registries.conf"
    configure(RegistriesConf(file, MIRROR, ["docker.io"]))
    put(tmp_path, "registries.conf", "[")
    found = review(file)
    assert found is not None
    assert "not valid TOML" in found.error


@pytest.mark.parametrize("options", ["", f"{WITH}--mirror\n", f"{WITH}--mirror {MIRROR} --mode x\n"])
def test_a_drop_in_that_does_not_say_how_it_was_made_is_outdated(tmp_path: Path, options: str) -> None:
    put(tmp_path, f"registries.conf.d/{DROP_IN}", f"{MADE}0.\n{options}")
    found = review(tmp_path / "registries.conf")
    assert found is not None
    assert found.outdated


@pytest.mark.parametrize(
    ("location", "registry", "mirror"),
    [
        ("docker.io", "docker.io", "127.0.0.1:29996"),
        ("docker.io/library", "docker.io", "127.0.0.1:29996/library"),
        ("reg.example:5000", "reg.example:5000", "127.0.0.1:29997"),
        ("reg.example:5000/team", "reg.example:5000", "127.0.0.1:29997/team"),
        ("quay.io", "quay.io", "127.0.0.1:29990/quay.io"),
    ],
)
def test_a_registry_that_has_a_port_is_asked_for_there(location: str, registry: str, mirror: str) -> None:
    ports = [RegistryPort("docker.io", 29996), RegistryPort("reg.example:5000", 29997)]
    document = {"registry": [{"prefix": registry, "location": location}]}
    text, skipped = text_with_mirror([document], MIRROR, [registry], Mode.PREPEND, ports)
    (table,) = tomllib.loads(text)["registry"]
    assert table == {
        "prefix": registry,
        "location": location,
        "mirror": [{"location": mirror, "insecure": True}],
    }
    assert not skipped


@pytest.mark.parametrize(("mode", "order"), [(Mode.PREPEND, [0, 1]), (Mode.APPEND, [1, 0]), (Mode.KEEP, [])], ids=str)
def test_the_mode_says_where_the_mirror_goes(mode: Mode, order: list[int]) -> None:
    mirrors = [ours("docker.io"), {"location": "cache.example"}]
    document = {"registry": [{"prefix": "docker.io", "mirror": [mirrors[1]]}]}
    text, skipped = text_with_mirror([document], MIRROR, ["docker.io"], mode)
    tables = tomllib.loads(text).get("registry", [])
    assert [table["mirror"] for table in tables] == ([[mirrors[each] for each in order]] if order else [])
    assert bool(skipped) == (mode is Mode.KEEP)


def test_a_mirror_over_tls_on_ipv6_is_written_as_podman_reads_it() -> None:
    text, _ = text_with_mirror([], "https://[::1]:29990/", ["docker.io"], Mode.PREPEND)
    assert tomllib.loads(text)["registry"][0]["mirror"] == [{"location": "[::1]:29990/docker.io"}]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("registries.conf", "[registries.search]\nregistries = []\n", "version 1"),
        ("registries.conf", "[", "not valid TOML"),
        ("registries.conf", "x = " + "[" * 5000, "not valid TOML"),
        ("registries.conf", "registry = [1]\n", "not a table"),
        ("registries.conf", '[[registry]]\nprefix = "docker.io"\nmirror = [1]\n', "not a table"),
        ("registries.conf", '[[registry]]\nprefix = "docker.io"\nmirror = "x"\n', "not a table"),
        ("registries.conf", '[[registry]]\nprefix = "docker.io"\nx = [1]\n', "cannot be repeated"),
        (f"registries.conf.d/{DROP_IN}", "# mine\n", "not by our hand"),
    ],
)
def test_what_cannot_be_repeated_is_told_and_nothing_is_touched(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    put(tmp_path, name, text)
    original = tree(tmp_path)
    (change,) = configure(RegistriesConf(tmp_path / "registries.conf", MIRROR, ["docker.io"]))
    assert change.failed
    assert said in change.detail
    cleanup(tmp_path / "registries.conf")
    assert tree(tmp_path) == original


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_the_command_configures_both_runtimes_and_cleans_up_after_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--certs-dir", str(tmp_path / "certs.d"), "--registries-conf", str(tmp_path / "c" / "registries.conf")]
    assert run(["configure", *places, "--runtime", "podman"]) == 2
    assert "name some" in capsys.readouterr().err
    assert run(["configure", *places, "--runtime", "podman", "--registry-ports", "docker.io"]) == 2
    assert "NAME=PORT" in capsys.readouterr().err
    podman = ["--runtime", "podman", "--registry-ports", "docker.io=29996"]
    assert run(["configure", *places, *podman, "--runtime", "containerd"]) == 0
    assert '"127.0.0.1:29996"' in (tmp_path / "c" / "registries.conf.d" / DROP_IN).read_text()
    assert run(["configure", *places, "--runtime", "podman", "--runtime", "containerd", "--registry", "docker.io"]) == 0
    assert sorted(path.name for path in tmp_path.rglob("*.*") if path.is_file()) == [
        "hosts.toml",
        "hosts.toml",
        DROP_IN,
    ]
    assert run(["cleanup", *places]) == 0
    assert tree(tmp_path) == {}


VALUES = st.one_of(
    st.booleans(), st.integers(-9, 9), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
)
TABLES = st.fixed_dictionaries(
    {"prefix": st.sampled_from(["docker.io", "docker.io/library", "*.io", "quay.io"])},
    optional={
        "location": st.text("abc./:", min_size=1, max_size=8),
        "blocked": st.booleans(),
        "insecure": st.booleans(),
        "other": VALUES,
        "mirror": st.lists(st.fixed_dictionaries({"location": st.text("abc.", min_size=1)}, optional={"x": VALUES})),
    },
)


@given(st.lists(TABLES, max_size=4), st.sampled_from(Mode))
def test_whatever_is_repeated_reads_as_it_was_but_for_the_mirror(tables: list[dict[str, Any]], mode: Mode) -> None:
    try:
        text, _ = text_with_mirror([{"registry": tables}], MIRROR, ["docker.io"], mode)
    except FileTextError:
        return
    last = {table["prefix"]: table for table in tables}
    for written in tomllib.loads(text).get("registry", []):
        before = last.get(written["prefix"], {})
        mirrors = [each for each in written.pop("mirror") if not each["location"].startswith("127.0.0.1:29990/")]
        assert mirrors == before.get("mirror", [])
        assert {key: written[key] for key in before if key != "mirror"} == {
            key: value for key, value in before.items() if key != "mirror"
        }
