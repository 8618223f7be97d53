"""`skvaller transfers`: what moves through this machine's agent now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.commands import Commands
from mirror.commands.asking import add_asking
from mirror.commands.tables import printable, size_text, table_lines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    add_asking(
        commands,
        "transfers",
        "what moves through this machine's agent now",
        "List the objects that this machine's agent is giving to its runtime and to other nodes, from where it takes "
        "them, how far they are and how fast; then those that it is fetching for whoever wants them.",
        transfer_lines,
    )


def transfer_lines(transfers: dict[str, Any]) -> Iterator[str]:
    """Transfers (`mirror.views.Views.transfers`) in lines for people."""
    answers, fetching = transfers["answers"], transfers["fetching"]
    if not answers and not fetching:
        yield "nothing moves"
        return
    if answers:
        rows = [
            [
                printable(each["repository"]),
                each["digest"][:19],
                printable(" ".join(filter(None, (each["source"].replace("_", " "), each["holder"])))),
                printable(each["reader"]) or ("runtime" if each["face"] == "client" else "peer"),
                progress_text(each["bytes"], each["size"]),
                f"{size_text(each['bytes'] / max(each['duration_s'] - each['seconds'], 0.001))}/s",
            ]
            for each in answers
        ]
        yield from table_lines(["image", "object", "from", "to", "done ", "rate "], rows)
    if fetching:
        rows = [
            [
                printable(each["registry"]),
                each["digest"][:19],
                printable(", ".join(each["givers"])),
                str(each["readers"]),
                progress_text(each["fetched"], each["size"]),
            ]
            for each in fetching
        ]
        yield ""
        yield from table_lines(["fetched for all", "object", "from", "readers ", "done "], rows)


def progress_text(done: int, size: int | None) -> str:
    """How far something is: 12.0 of 31.4 MB (38 %)."""
    return f"{size_text(done)} of {size_text(size)} ({done / size:.0%})" if size else size_text(done)
