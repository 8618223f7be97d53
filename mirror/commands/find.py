"""`skvaller find`: which nodes have an image or a digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.commands import Commands
from mirror.commands.asking import add_asking
from mirror.commands.tables import printable, table_lines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    find = add_asking(
        commands,
        "find",
        "which nodes have an image or a digest",
        "Tell which nodes have an image (its manifest) or a digest, as far as this machine's agent knows. A part of an "
        "image's name lists the images that have it in theirs.",
        find_lines,
    )
    find.add_argument("what", metavar="DIGEST|IMAGE", help="such as sha256:..., nginx:1.27, or a part of a name")


def find_lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found (`mirror.views.Views.find`) in lines for people."""
    if found["images"]:
        rows = [[printable(each["name"]), each["digest"], str(each["holders"])] for each in found["images"]]
        yield from table_lines(["image", "manifest", "nodes "], rows)
    elif not found["holders"]:
        yield f"no node is known to have {printable(found['what'])}"
    if found["holders"]:
        yield ""
        yield f"{found['digest']} is on {len(found['holders'])} nodes"
        rows = [
            [printable(each["name"]), printable(each["zone"]) or "-", "suspect" if each["suspect"] else "alive"]
            for each in found["holders"]
        ]
        yield from table_lines(["name", "zone", "state"], rows)
