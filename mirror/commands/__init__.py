"""The commands of `skvaller`, each in a module of its own: `add(commands)` declares it, and `run` is what it does.

What a command needs is imported when it runs, so that `--help` answers at once. A command returns its exit code:
0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys

Commands = argparse._SubParsersAction  # noqa: SLF001 (argparse has no public name for what add_subparsers returns)


def complain(error: BaseException | str) -> None:
    """Tell the user what went wrong."""
    print(f"skvaller: {error}", file=sys.stderr)
