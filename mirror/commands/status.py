"""`skvaller status`: how this machine's agent is, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.commands import Commands
from mirror.commands.asking import add_asking
from mirror.commands.tables import duration_text, size_text, table_lines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    add_asking(
        commands,
        "status",
        "how this machine's agent is",
        "Show who this machine's agent is, the cluster and its index in numbers, and where content came from.",
        status_lines,
    )


def status_lines(status: dict[str, Any]) -> Iterator[str]:
    """A status (`mirror.views.Views.status`) in lines for people."""
    zone = f" in zone {status['zone']}" if status["zone"] else ""
    yield f"{status['name']}{zone}, cluster {status['cluster']}, version {status['version']}"
    runtime = {True: ", which answers", False: ", WHICH DOES NOT ANSWER", None: ""}[status["runtime_answers"]]
    yield f"up for {duration_text(status['uptime_s'])}; its store is {status['store']}{runtime}"
    members = ", ".join(f"{count} {state}" for state, count in sorted(status["members"].items()))
    yield f"members: {members}"
    index = status["index"]
    behind = f", {index['owners_behind']} members behind by {index['lag_seconds']:.1f} s" * bool(index["owners_behind"])
    yield f"index: {index['keys']:,} objects and tags, {index['pairs']:,} with their holders{behind}"
    slots = f"{status['uploads']} of {status['upload_slots']} upload slots taken"
    yield f"in flight: {status['transfers']} objects; {slots}"
    total = sum(status["client_bytes"].values())
    if not total:
        yield "content given to this machine's runtime: none yet"
        return
    share = 1 - min(1, status["upstream_bytes"] / total)
    yield f"content given to this machine's runtime: {size_text(total)}, {share:.0%} of it not from registries"
    rows = [[source.replace("_", " "), size_text(size)] for source, size in sorted(status["client_bytes"].items())]
    yield from table_lines(["source", "bytes "], rows)
