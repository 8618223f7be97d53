"""`skvaller members`: the cluster, as this machine's agent sees it."""

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
    add_asking(
        commands,
        "members",
        "the nodes of the cluster, as this machine's agent sees them",
        "List the nodes of the cluster as this machine's agent sees them, those that are gone included: alive, suspect "
        "(silent, or said to be failing), down or left; and how many objects each has. The asterisk is this one.",
        member_lines,
    )


def member_lines(members: list[dict[str, Any]]) -> Iterator[str]:
    """Members (`mirror.views.Views.members`) in lines for people."""
    rows = [
        [
            printable(each["name"]) + "*" * each["me"],
            each["state"],
            printable(each["zone"]) or "-",
            printable(each["address"]),
            f"{each['keys']:,}",
        ]
        for each in members
    ]
    return table_lines(["name", "state", "zone", "address", "objects "], rows)
