"""A pull by the demo's client that nobody looks at."""

from __future__ import annotations


class Unwatched:
    """Is told how a pull goes (a `mirror.demo.client.Progress`), and does not care."""

    def begin(self, name: str, size: int) -> None:
        """Nothing."""

    def advance(self, name: str, size: int) -> None:
        """Nothing."""

    def end(self, fetched: object) -> None:
        """Nothing."""
