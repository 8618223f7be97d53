"""containerd's hosts.toml files: the mirror goes in first, everything else stays, and cleanup leaves no trace."""

from __future__ import annotations

import os
import stat
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.atomic_files import FILE_BYTES_MAX, Action, Change
from mirror.hosts import ConfigureOptions, Mode, cleanup, configure
from mirror.hosts_toml import HostsTextError, Made, Mirror, with_block, without_block
from mirror.settings import SettingsError

MIRROR = "http://127.0.0.1:29990"
BLOCK = f"""\
# >>> skvaller{{}} >>>
# Written by `skvaller configure` and taken out by `skvaller cleanup`. What stands between the marks is
# replaced; what stands outside of them is not touched.
[host."{MIRROR}"]
  capabilities = ["pull", "resolve"]
# <<< skvaller <<<
"""
IN_OPERATORS_FILE = BLOCK.format("")
AFTER_LINE_END = BLOCK.format(" added-line-end")
IN_OUR_FILE = BLOCK.format(" made-file")
IN_OUR_DIRECTORY = BLOCK.format(" made-file made-directories=1")

Tree = dict[str, tuple[str, int, bytes]]


def put(root: Path, name: str, text: str | bytes) -> Path:
    """Write a file below `root`, as an operator would."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def tree(root: Path) -> Tree:
    """Everything below `root`: kind, mode, and bytes or the link's target."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[str(path.relative_to(root))] = "link", mode, os.fsencode(path.readlink())
        elif path.is_dir():
            found[str(path.relative_to(root))] = "directory", mode, b""
        else:
            found[str(path.relative_to(root))] = "file", mode, path.read_bytes()
    return found


def outcome(changes: list[Change], root: Path) -> dict[str, Action]:
    return {str(change.path.relative_to(root)): change.action for change in changes}


def hosts_in_order(file: Path) -> list[str]:
    return list(tomllib.loads(file.read_text())["host"])


# One file. The @ shows where the block goes in; before, and after cleanup, it is not there.

SITUATIONS = {
    "a server and a host": 'server = "https://reg.example"\n\n@[host."https://c.example"]\n  capabilities = ["pull"]\n',
    "a comment belongs to the table below it": '# ours\n\n@# the cache\n# in rack 4\n[host."https://c.example"]\n',
    "only a server": 'server = "https://reg.example"\n@',
    "an empty file": "@",
    "only a comment": "# nothing yet\n@",
    "the table comes first": '@[host."https://c.example"]\n',
    "no line end at the end of a table": '@[host."https://c.example"]',
    "two hosts": '@[host."https://c.example"]\n[host."https://d.example"]\n',
    "windows line ends": 'server = "https://r.example"\r\n@[host."https://c.example"]\r\n',
    "a list whose lines start with brackets": 'client = [\n["/b.cert", "/b.key"]\n]\n@[host."https://c.example"]\n',
    "a string that looks like a table": 'note = """\n[host."x"]\n# no\n"""\n@[host."https://c.example"]\n',
    "indented tables": '@  [host."https://c.example"]\n    [host."https://c.example".header]\n      x = "y"\n',
    "an IPv6 address": '@[host."http://[::1]:5000"]\n',
    "an explicit host table": '@[host]\n[host."https://c.example"]\n',
    "settings for the registry itself": 'ca = "/etc/ca.crt"\nskip_verify = false\n@[host."https://c.example"]\n',
    "a table that containerd does not know": '@[[future]]\nx = 1\n[host."https://c.example"]\n',
}


@pytest.mark.parametrize("text", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_the_mirror_comes_first_and_all_else_stays(tmp_path: Path, text: str) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", text.replace("@", ""))
    original = tree(tmp_path)
    assert outcome(configure(ConfigureOptions(tmp_path)), tmp_path)["reg.example/hosts.toml"] is Action.CHANGED
    assert file.read_bytes().decode() == text.replace("@", IN_OPERATORS_FILE)
    assert hosts_in_order(file)[0] == MIRROR
    assert {change.action for change in configure(ConfigureOptions(tmp_path))} == {Action.UNCHANGED}
    assert outcome(cleanup(tmp_path), tmp_path)["reg.example/hosts.toml"] is Action.RESTORED
    assert tree(tmp_path) == original
    assert cleanup(tmp_path) == []


def test_a_last_line_without_an_end_gets_one_for_as_long_as_the_block_stays(tmp_path: Path) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", 'server = "https://r.example"')
    configure(ConfigureOptions(tmp_path))
    assert file.read_text() == f'server = "https://r.example"\n{AFTER_LINE_END}'
    assert {change.action for change in configure(ConfigureOptions(tmp_path))} == {Action.UNCHANGED}
    cleanup(tmp_path)
    assert file.read_text() == 'server = "https://r.example"'


REFUSED = {
    "not TOML": b"server = \n",
    "not UTF-8": b'server = "\xff"\n',
    "a byte order mark": b'\xef\xbb\xbf[host."https://c.example"]\n',
    "brackets without end": b"x = " + b"[" * 5000 + b"\n",
    "a number of thousands of digits": b"x = " + b"1" * 5000 + b"\n",
    "hosts that are no tables": b"host = 1\n",
    "hosts in one line, to which TOML allows no addition": b'host = {"https://c.example" = {}}\n[x]\n',
    "a host that would be asked before ours": b'host."https://c.example".capabilities = ["pull"]\n[x]\n',
    "a block without its end": b'# >>> skvaller >>>\n[host."http://127.0.0.1:29990"]\n',
    "a block without its beginning": b"# <<< skvaller <<<\n",
    "too large": b"# \n" * (FILE_BYTES_MAX // 3 + 1),
}


@pytest.mark.parametrize("before", REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_cannot_take_the_mirror_is_told_and_left_alone(tmp_path: Path, before: bytes) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", before)
    put(tmp_path, "other.example/hosts.toml", 'server = "https://other.example"\n')
    original = tree(tmp_path)
    changes = {str(change.path.relative_to(tmp_path)): change for change in configure(ConfigureOptions(tmp_path))}
    assert changes["reg.example/hosts.toml"].failed
    assert changes["reg.example/hosts.toml"].detail
    assert file.read_bytes() == before
    assert changes["other.example/hosts.toml"].action is Action.CHANGED, "the others go on"
    cleanup(tmp_path)
    assert tree(tmp_path) == original


# Where the mirror goes when there are others: what stands for each mode, with @ for the block.

MODES = {
    "a host": {
        Mode.PREPEND: '@[host."https://c.example"]\n',
        Mode.APPEND: '[host."https://c.example"]\n@',
        Mode.KEEP: '[host."https://c.example"]\n',
    },
    "a server, two hosts and a header": {
        Mode.PREPEND: 'server = "https://r"\n@[host."https://c"]\n[host."https://c".header]\n  x = ["y"]\n[host."https://d"]\n',
        Mode.APPEND: 'server = "https://r"\n[host."https://c"]\n[host."https://c".header]\n  x = ["y"]\n[host."https://d"]\n@',
        Mode.KEEP: 'server = "https://r"\n[host."https://c"]\n[host."https://c".header]\n  x = ["y"]\n[host."https://d"]\n',
    },
    "no host": dict.fromkeys(Mode, 'server = "https://r.example"\n@'),
    "nothing": dict.fromkeys(Mode, "@"),
}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("texts", MODES.values(), ids=MODES.keys())
def test_the_mode_says_where_the_mirror_goes(tmp_path: Path, texts: dict[Mode, str], mode: Mode) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", texts[mode].replace("@", ""))
    original = tree(tmp_path)
    for other in Mode:  # from whatever there was before
        configure(ConfigureOptions(tmp_path, mode=other))
        configure(ConfigureOptions(tmp_path, mode=mode))
        assert file.read_text() == texts[mode].replace("@", IN_OPERATORS_FILE)
        assert {change.action for change in configure(ConfigureOptions(tmp_path, mode=mode))} <= {
            Action.UNCHANGED,
            Action.SKIPPED,
        }
    cleanup(tmp_path)
    assert tree(tmp_path) == original


def test_only_named_registries_are_mirrored_when_that_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "a.example/hosts.toml", 'server = "https://a.example"\n')
    put(tmp_path, "b.example/hosts.toml", 'server = "https://b.example"\n')
    original = tree(tmp_path)
    configure(ConfigureOptions(tmp_path))
    changes = configure(ConfigureOptions(tmp_path, registries={"a.example": None, "c.example": None}, only_named=True))
    assert outcome(changes, tmp_path) == {
        "a.example/hosts.toml": Action.UNCHANGED,
        "c.example/hosts.toml": Action.CREATED,
        "b.example/hosts.toml": Action.RESTORED,
        "_default/hosts.toml": Action.REMOVED,
    }
    assert not (tmp_path / "_default").exists()
    cleanup(tmp_path)
    assert tree(tmp_path) == original
    with pytest.raises(SettingsError, match="none is named"):
        ConfigureOptions(tmp_path, only_named=True)


@pytest.mark.parametrize("registry", ["[::1]:5000", "[2001:db8::1]:443"])
def test_a_registry_on_an_ipv6_address_has_the_directory_that_containerd_reads(tmp_path: Path, registry: str) -> None:
    configure(ConfigureOptions(tmp_path, "http://[::1]:29990", {registry: f"http://{registry}"}))
    document = tomllib.loads((tmp_path / registry / "hosts.toml").read_text())
    assert document == {
        "server": f"http://{registry}",
        "host": {"http://[::1]:29990": {"capabilities": ["pull", "resolve"]}},
    }
    cleanup(tmp_path)
    host, _, port = registry.rpartition(":")
    (tmp_path / f"{host}_{port}_").mkdir()
    configure(ConfigureOptions(tmp_path, registries={registry: None}))
    assert not (tmp_path / registry).exists()


# The tree


def test_every_registry_without_a_directory_is_led_to_the_mirror(tmp_path: Path) -> None:
    changes = configure(ConfigureOptions(tmp_path))
    assert outcome(changes, tmp_path) == {"_default/hosts.toml": Action.CREATED}
    assert (tmp_path / "_default/hosts.toml").read_text() == IN_OUR_DIRECTORY
    assert outcome(cleanup(tmp_path), tmp_path) == {"_default/hosts.toml": Action.REMOVED}
    assert tree(tmp_path) == {}


def test_directories_above_are_made_and_removed(tmp_path: Path) -> None:
    root = tmp_path / "etc" / "containerd" / "certs.d"
    configure(ConfigureOptions(root, registries={"docker.io": None, "reg.example:5000": None}))
    assert sorted(path.name for path in root.iterdir()) == ["_default", "docker.io", "reg.example:5000"]
    cleanup(root)
    assert tree(tmp_path) == {}


def test_a_registry_elsewhere_gets_its_server_line(tmp_path: Path) -> None:
    registries = {"reg.example": "http://10.0.0.1:5000", "docker.io": None}
    configure(ConfigureOptions(tmp_path, registries=registries))
    assert tomllib.loads((tmp_path / "reg.example/hosts.toml").read_text()) == {
        "server": "http://10.0.0.1:5000",
        "host": {MIRROR: {"capabilities": ["pull", "resolve"]}},
    }
    assert "server" not in tomllib.loads((tmp_path / "docker.io/hosts.toml").read_text())
    assert {change.action for change in configure(ConfigureOptions(tmp_path))} != {Action.FAILED}


def test_an_operators_file_keeps_its_own_server(tmp_path: Path) -> None:
    for name, text in {"a.example": 'server = "https://mine"\n', "b.example": "# no server\n"}.items():
        file = put(tmp_path, f"{name}/hosts.toml", text)
        configure(ConfigureOptions(tmp_path, registries={name: "https://theirs"}))
        assert file.read_text() == text + IN_OPERATORS_FILE


def test_an_empty_directory_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "reg.example").mkdir()
    original = tree(tmp_path)
    configure(ConfigureOptions(tmp_path))
    assert (tmp_path / "reg.example/hosts.toml").read_text() == IN_OUR_FILE
    cleanup(tmp_path)
    assert tree(tmp_path) == original


def test_the_directory_that_containerd_reads_for_a_port_is_used(tmp_path: Path) -> None:
    put(tmp_path, "reg.example_5000_/hosts.toml", 'server = "http://reg.example:5000"\n')
    configure(ConfigureOptions(tmp_path, registries={"reg.example:5000": None}))
    assert not (tmp_path / "reg.example:5000").exists()


def test_another_mirror_url_replaces_the_block(tmp_path: Path) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", '[host."https://c.example"]\n')
    original = tree(tmp_path)
    configure(ConfigureOptions(tmp_path))
    changes = configure(ConfigureOptions(tmp_path, "http://[::1]:1234"))
    assert {change.action for change in changes} == {Action.CHANGED}
    assert hosts_in_order(file) == ["http://[::1]:1234", "https://c.example"]
    cleanup(tmp_path)
    assert tree(tmp_path) == original


def test_a_mirror_that_the_operator_wrote_is_left_as_it_is(tmp_path: Path) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", f'[host."https://c.example"]\n[host."{MIRROR}"]\n')
    original = file.read_bytes()
    assert outcome(configure(ConfigureOptions(tmp_path)), tmp_path)["reg.example/hosts.toml"] is Action.UNCHANGED
    assert file.read_bytes() == original


def test_lines_added_to_our_file_stay_at_cleanup(tmp_path: Path) -> None:
    configure(ConfigureOptions(tmp_path))
    file = tmp_path / "_default/hosts.toml"
    file.write_text(file.read_text() + '[host."https://c.example"]\n')
    assert outcome(cleanup(tmp_path), tmp_path) == {"_default/hosts.toml": Action.RESTORED}
    assert file.read_text() == '[host."https://c.example"]\n'


def test_lines_added_behind_the_block_are_not_joined_to_those_before_it(tmp_path: Path) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", 'server = "https://r.example"')
    configure(ConfigureOptions(tmp_path))
    file.write_text(file.read_text() + '[host."https://c.example"]\n')
    cleanup(tmp_path)
    assert file.read_text() == 'server = "https://r.example"\n[host."https://c.example"]\n'


def test_files_added_to_our_directory_stay_at_cleanup(tmp_path: Path) -> None:
    configure(ConfigureOptions(tmp_path))
    put(tmp_path, "_default/notes", "mine")
    cleanup(tmp_path)
    assert list(tree(tmp_path)) == ["_default", "_default/notes"]


@pytest.mark.parametrize("name", ["ca.crt", "client.cert"])
@pytest.mark.parametrize("text", [None, "", "# nothing\n", 'server = "https://r.example"\n'])
def test_certificates_that_containerd_would_stop_using_are_left_in_use(
    tmp_path: Path, name: str, text: str | None
) -> None:
    put(tmp_path, f"reg.example/{name}", "PEM")
    if text is not None:
        put(tmp_path, "reg.example/hosts.toml", text)
    original = tree(tmp_path)
    for _ in range(2):
        changes = configure(ConfigureOptions(tmp_path))
        assert outcome(changes, tmp_path)["reg.example/hosts.toml"] is Action.SKIPPED
        assert not any(change.failed for change in changes)
    cleanup(tmp_path)
    assert tree(tmp_path) == original


@pytest.mark.parametrize(
    ("text", "hosts"),
    [('[host."https://c.example"]\n  ca = "ca.crt"\n', ["https://c.example"]), ('ca = "ca.crt"\n[host]\n', [])],
)
def test_certificates_beside_a_file_with_hosts_are_named_in_it_and_no_hindrance(
    tmp_path: Path, text: str, hosts: list[str]
) -> None:
    put(tmp_path, "reg.example/ca.crt", "PEM")
    file = put(tmp_path, "reg.example/hosts.toml", text)
    configure(ConfigureOptions(tmp_path))
    assert hosts_in_order(file) == [MIRROR, *hosts]


def test_our_file_makes_way_for_certificates_that_came_later(tmp_path: Path) -> None:
    (tmp_path / "reg.example").mkdir()
    configure(ConfigureOptions(tmp_path))
    put(tmp_path, "reg.example/ca.crt", "PEM")
    configure(ConfigureOptions(tmp_path))
    assert not (tmp_path / "reg.example/hosts.toml").exists()


def test_links_are_followed_and_stay_links(tmp_path: Path) -> None:
    root = tmp_path / "certs.d"
    shared = put(tmp_path, "shared.toml", 'server = "https://r.example"\n')
    put(tmp_path, "elsewhere/hosts.toml", 'server = "https://e.example"\n')
    for name in ("a.example", "b.example"):
        (root / name).mkdir(parents=True)
        (root / name / "hosts.toml").symlink_to(shared)
    (root / "e.example").symlink_to(tmp_path / "elsewhere")
    original = tree(tmp_path)
    configure(ConfigureOptions(root))
    assert hosts_in_order(shared) == [MIRROR]
    assert hosts_in_order(tmp_path / "elsewhere/hosts.toml") == [MIRROR]
    assert {change.action for change in configure(ConfigureOptions(root))} == {Action.UNCHANGED}
    cleanup(root)
    assert tree(tmp_path) == original


def test_a_link_to_nothing_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "reg.example").mkdir()
    (tmp_path / "reg.example/hosts.toml").symlink_to("nothing.toml")
    original = tree(tmp_path)
    assert outcome(configure(ConfigureOptions(tmp_path)), tmp_path)["reg.example/hosts.toml"] is Action.FAILED
    cleanup(tmp_path)
    assert tree(tmp_path) == original


def test_hidden_directories_are_no_registries(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    assert outcome(configure(ConfigureOptions(tmp_path)), tmp_path) == {"_default/hosts.toml": Action.CREATED}


def test_mode_and_owner_stay(tmp_path: Path) -> None:
    file = put(tmp_path, "reg.example/hosts.toml", 'server = "https://r.example"\n')
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 1234, 5678)
    before = file.stat()
    configure(ConfigureOptions(tmp_path))
    changed = file.stat()
    cleanup(tmp_path)
    restored = file.stat()
    for after in (changed, restored):
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert changed.st_size > restored.st_size == before.st_size


@pytest.mark.parametrize("again", ["configure", "cleanup"])
def test_what_an_interrupted_run_left_is_removed(tmp_path: Path, again: str) -> None:
    root = tmp_path / "certs.d"
    put(root, "reg.example/.skvaller-new-1234", "half")
    put(root, ".skvaller-new-1234/hosts.toml", "half")
    put(tmp_path, ".skvaller-new-1234/_default/hosts.toml", "half")
    changes = configure(ConfigureOptions(root)) if again == "configure" else cleanup(root)
    assert sum(change.action is Action.REMOVED for change in changes) == 3
    assert not list(tmp_path.rglob(".skvaller-new-*"))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "reg.example/hosts.toml", 'server = "https://r.example"\n')
    original = tree(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    changes = configure(ConfigureOptions(tmp_path))
    assert {(change.action, change.detail) for change in changes} == {(Action.FAILED, "No space left on device")}
    assert tree(tmp_path) == original


def test_a_root_that_is_no_directory_is_a_result_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert [change.failed for change in configure(ConfigureOptions(tmp_path / "file"))] == [True]
    assert [change.failed for change in cleanup(tmp_path / "file")] == [True]
    assert cleanup(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("mirror", "registries"),
    [
        ("127.0.0.1:29990", {}),
        ("ftp://127.0.0.1", {}),
        ('http://127.0.0.1/"', {}),
        ("http://127.0.0.1/\n", {}),
        ("http://user:secret@127.0.0.1", {}),
        (MIRROR, {"../etc": None}),
        (MIRROR, {"_default": None}),
        (MIRROR, {"reg.example": "reg.example"}),
    ],
)
def test_options_that_cannot_be_written_are_refused(mirror: str, registries: dict[str, str | None]) -> None:
    with pytest.raises(SettingsError, match="not allowed"):
        ConfigureOptions(Path("/nowhere"), mirror, registries)


def test_a_change_reads_as_a_line() -> None:
    assert str(Change(Path("/a/hosts.toml"), Action.CREATED)) == "created: /a/hosts.toml"
    assert str(Change(Path("/a/hosts.toml"), Action.FAILED, "why")) == "failed: /a/hosts.toml (why)"


# Laws

LINES = st.sampled_from(
    [
        'server = "https://r.example"',
        "# a comment",
        "",
        "  ",
        'ca = ["/a.crt",\n"/b.crt"]',
        'client = [\n["/a.cert", "/a.key"]\n]',
        '[host."https://c.example"]',
        '[host."https://d.example"]  # the other',
        '[host."https://d.example".header]',
        'capabilities = ["pull"]',
        'note = """\n# >>>\n[x]\n"""',
        "# <<< skvaller <<",
        f'[host."{MIRROR}"]',
        "[",
        "\r",
    ]
)
texts = st.builds(lambda lines, end: "\n".join(lines) + end, st.lists(LINES, max_size=7), st.sampled_from(["", "\n"]))
trees = st.dictionaries(
    st.sampled_from(["_default", "docker.io", "reg.example:5000", "reg.example_5000_", ".hidden"]),
    st.dictionaries(
        st.sampled_from(["hosts.toml", "hosts.toml", "ca.crt", "client.cert", "notes"]), texts | st.text(), max_size=3
    ),
    max_size=4,
)
registries = st.dictionaries(
    st.sampled_from(["docker.io", "ghcr.io", "reg.example:5000"]), st.sampled_from([None, "http://10.0.0.1:5000"])
)


@given(texts | st.text())
def test_the_block_can_be_taken_out_of_any_text_it_was_put_into(text: str) -> None:
    try:
        changed = with_block(text, Mirror(MIRROR), Made())
    except HostsTextError:
        return
    assert without_block(changed) == (text, Made())


@given(trees, registries, st.booleans())
@settings(deadline=None)
def test_cleanup_undoes_configure_byte_for_byte(
    files: dict[str, dict[str, str]], registries: dict[str, str | None], twice: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "certs.d"
        for name, texts in files.items():
            (root / name).mkdir(parents=True)
            for file, text in texts.items():
                put(root, f"{name}/{file}", text.encode("utf-8", "surrogatepass"))
        original = tree(Path(directory))
        first = configure(ConfigureOptions(root, registries=registries))
        after = tree(Path(directory))
        second = configure(ConfigureOptions(root, registries=registries))
        assert tree(Path(directory)) == after
        assert not {change.action for change in second} & {Action.CREATED, Action.CHANGED}
        assert {change.path for change in first if change.failed} == {c.path for c in second if c.failed}
        if twice:
            configure(ConfigureOptions(root, "http://[::1]:1234", registries))
        cleanup(root)
        assert tree(Path(directory)) == original
        assert not [change for change in cleanup(root) if not change.failed]
