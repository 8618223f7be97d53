"""`skvaller demo`: see it work on one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.commands import Commands

if TYPE_CHECKING:
    import argparse


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    demo = commands.add_parser(
        "demo",
        help="see it work: a registry and three agents on this machine",
        description="Start a registry with a new image and three agents on loopback; pull on each; stop the registry "
        "before the last one. Nothing but Python is needed.",
    )
    demo.add_argument("--once", action="store_true", help="exit when all pulls are done: 0 if every digest was right")
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from mirror.demo import run_demo

    return run_demo(once=options.once)
