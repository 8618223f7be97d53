"""How an agent writes its log: for people or as JSON, one line an event, and not the same warning without end.

What others say (names, reasons, paths) gets into messages, so what is not printable is escaped: nobody can write a line
of their own into the log, or speak to the terminal on which it is read.

A record may have `fields` (`extra={"fields": ...}`, a dataclass): facts beside its text, which the JSON has by name.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

WARNINGS_MAX: Final = 10
WINDOW_S: Final = 60.0
"""At most so many warnings and errors of one kind (one place in the code) are written within the window. The first one
after it says how many were left out."""
KINDS_MAX: Final = 256

_HUMAN: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logs(level: str, form: str) -> None:
    """Write records of `level` and above to standard error; `form` is `human` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter(_HUMAN))
    handler.addFilter(RateLimit(time.monotonic))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class HumanFormatter(logging.Formatter):
    """A line of text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging calls it so)
        """The record without its traceback."""
        if not record.message.isprintable():
            record.message = "".join(
                character if character.isprintable() else character.encode("unicode_escape").decode()
                for character in record.message
            )
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger and message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        facts = getattr(record, "fields", None)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **({each.name: getattr(facts, each.name) for each in fields(facts)} if facts else {}),
            "message": _text(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = _text(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


def _text(message: str) -> str:
    """The message in characters that JSON has: bytes that came in a header, and are no text, are escaped."""
    return message.encode(errors="backslashreplace").decode()


class RateLimit(logging.Filter):
    """Lets at most `WARNINGS_MAX` warnings of a kind pass within `WINDOW_S`; a kind is a text before its arguments."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, str(record.msg))
        now = self._clock()
        kind = self._kinds.get(key)
        if kind is None or now - kind.since >= WINDOW_S:
            self._kinds.pop(key, None)
            if len(self._kinds) >= KINDS_MAX:
                del self._kinds[next(iter(self._kinds))]
            if kind is not None and (left_out := kind.count - WARNINGS_MAX) > 0:
                record.msg = f"{record.msg} ({left_out} more like this were left out)"
            kind = self._kinds[key] = _Kind(now)
        kind.count += 1
        return kind.count <= WARNINGS_MAX


class _Kind:
    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
