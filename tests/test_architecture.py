"""The shape of the code, held by reading it: what may import what, and how large a module may grow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES_MAX = 400
GENERATED = ROOT / "mirror" / "stores" / "containerd" / "api"

PURE_GOSSIP = (
    "cell",
    "codec",
    "comparison",
    "config",
    "content",
    "counters",
    "detector",
    "dissemination",
    "encounter",
    "errors",
    "exchange",
    "fields",
    "gaps",
    "index",
    "listening",
    "lookup",
    "membership",
    "messages",
    "or_set",
    "outputs",
    "overlay",
    "payload",
    "planning/estimate",
    "planning/full",
    "planning/play",
    "planning/plot",
    "planning/record",
    "planning/reduced",
    "planning/reduced_deaths",
    "planning/report",
    "planning/scenario",
    "planning/sizes",
    "planning/text",
    "replica",
    "simulated_network",
    "simulation",
    "state",
    "transfer",
)
"""The protocol: no clock, no sockets, no chance of its own. Its inputs are arguments, its outputs return values."""
PURE_MIRROR = ("choice", "election", "elements", "errors", "load", "oci", "peer_mac", "policy", "toml_lines")
IMPURE = {"aiohttp", "aiozmq", "asyncio", "logging", "os", "socket", "subprocess", "threading", "time", "zmq"}
RANDOM_ALLOWED = {"Random"}


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if GENERATED not in path.parents)


def imports(path: Path) -> set[str]:
    """Top-level names of all modules imported at run time (imports under TYPE_CHECKING excluded)."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name.partition(".")[0] for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.level == 0, f"{path} has a relative import"
            found.add((node.module or "").partition(".")[0])

    Visitor().visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", modules("gossip"), ids=lambda path: path.stem)
def test_gossip_knows_nothing_of_the_mirror(path: Path) -> None:
    assert "mirror" not in imports(path)


@pytest.mark.parametrize(
    "path",
    [ROOT / "gossip" / f"{name}.py" for name in PURE_GOSSIP] + [ROOT / "mirror" / f"{name}.py" for name in PURE_MIRROR],
    ids=lambda path: f"{path.parent.name}.{path.stem}",
)
def test_the_core_is_pure(path: Path) -> None:
    assert not imports(path) & IMPURE


@pytest.mark.parametrize(
    "path", modules("gossip") + modules("mirror"), ids=lambda path: f"{path.parent.name}.{path.stem}"
)
def test_no_module_draws_from_the_global_random_generator(path: Path) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    }
    assert used <= RANDOM_ALLOWED


@pytest.mark.parametrize(
    "path", modules("gossip") + modules("mirror"), ids=lambda path: f"{path.parent.name}.{path.stem}"
)
def test_a_module_is_one_concept_of_bounded_size_with_a_docstring(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a file says what it is"
    assert len(text.splitlines()) <= LINES_MAX


def test_the_rules_above_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import time\nfrom mirror.app import run_agent\nif TYPE_CHECKING:\n    import zmq\n")
    assert imports(bad) == {"time", "mirror"}
