"""`skvaller schema`: what can stand in the configuration file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mirror.commands import Commands

if TYPE_CHECKING:
    import argparse


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    schema = commands.add_parser(
        "schema",
        help="what can stand in the configuration file, as a JSON schema",
        description="Print the JSON schema of the configuration file (serve --config), with what each key means.",
    )
    schema.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from mirror.schema import settings_schema

    print(json.dumps(settings_schema(), indent=2))
    return 0
