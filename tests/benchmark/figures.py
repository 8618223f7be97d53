"""What a benchmark prints: each figure beside its budget. A figure over its budget is shown as such, and no error:
the machine may be slow or busy."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def figure(what: str, value: float, unit: str, budget: float | None = None) -> None:
    """Print one line: what was measured, the value, and whether it is within its budget, which is a maximum."""
    line = f"{what:<66} {value:>12,.3f} {unit:<8}"
    if budget is not None:
        line += f" budget {budget:,g} {unit}: {'ok' if value <= budget else 'OVER'}"
    print(line.rstrip(), flush=True)


def quantile(values: Sequence[float], part: float) -> float:
    """The value that `part` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def memory_bytes() -> int:
    """The resident set of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
