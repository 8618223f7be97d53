"""The modules that the architecture guide names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "architecture.md"


def modules_named() -> set[str]:
    """The names in backquotes in the lines that begin with "Modules" and go on until an empty line."""
    paragraphs = re.findall(r"^Modules:.*?(?=\n\n|\Z)", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return {name for paragraph in paragraphs for name in re.findall(r"`([a-z_.]+)`", paragraph)}


def exists(name: str) -> bool:
    """Whether a package has this module; its own name may be left out."""
    path = name.replace(".", "/")
    places = [ROOT / path, ROOT / "mirror" / path, ROOT / "gossip" / path]
    return any(place.is_dir() or place.with_name(f"{place.name}.py").is_file() for place in places)


def test_every_module_that_is_named_exists() -> None:
    named = {re.sub(r"\.Node$", ".node", name) for name in modules_named()} - {"_seek"}
    assert len(named) > 60
    assert {name for name in named if not exists(name)} == set()


def test_each_of_the_nine_pictures_names_its_modules() -> None:
    text = GUIDE.read_text()
    assert len(re.findall(r"^## \d", text, re.MULTILINE)) == text.count("```mermaid") == text.count("\nModules:") == 9
