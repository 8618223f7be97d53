"""`skvaller herd`: which nodes take an object from which now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.commands import Commands
from mirror.commands.asking import add_asking
from mirror.commands.tables import printable, size_text
from mirror.commands.transfers import progress_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    herd = add_asking(
        commands,
        "herd",
        "which nodes take an object from which now",
        "Show all nodes that are fetching an object at the moment, as a tree: each with how far it is, below the one "
        "that gives it the bytes. The agent asks the nodes themselves.",
        herd_lines,
    )
    herd.add_argument("digest", metavar="DIGEST", help="of a layer, as `skvaller explain IMAGE` lists it")
    herd.add_argument("--registry", default="docker.io", help="whose object it is [default: %(default)s]")


def herd_lines(herd: dict[str, Any]) -> Iterator[str]:
    """A herd (`mirror.herd.watch.HerdWatch.look`) in lines for people."""
    nodes = {each["name"]: each for each in herd["nodes"]}
    if not nodes:
        yield "no node is fetching it"
        return
    children: dict[str, list[str]] = {}
    for name, each in nodes.items():
        children.setdefault(each["giver"] if each["giver"] in nodes else "", []).append(name)
    taking = [each for each in nodes.values() if each["taking"]]
    done = sum(each["done"] for each in taking)
    yield f"{len(taking)} nodes are fetching it, of {size_text(herd['size'])} each; {size_text(done)} so far"
    shown: set[str] = set()

    def tree(name: str, depth: int) -> Iterator[str]:
        if name in shown:  # what nodes say of each other is of different moments
            return
        shown.add(name)
        each = nodes[name]
        yield f"{'  ' * depth}{printable(name)}  {_state(each, herd['size'])}"
        for child in children.get(name, []):
            yield from tree(child, depth + 1)

    roots = [*children.get("", []), *nodes]
    for root in roots:
        yield from tree(root, 0)
    if herd["unasked"]:
        yield f"{herd['unasked']} of these could not be asked in time"


def _state(node: dict[str, Any], size: int) -> str:
    if node["taking"]:
        source = "" if node["giver"] else " from the registry"
        return progress_text(node["done"], size) + source
    return "has it" if node["held"] else "no more is known" if node["answers"] else "was not asked, or does not answer"
