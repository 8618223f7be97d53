"""How one setting is declared, and how its text becomes a value.

Each `read_...` takes a text and returns a value, or raises ValueError that says what is allowed.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


def option(parse: Callable[[str], Any], help_text: str, *, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field of `Settings` that reads its text with `parse` (which raises ValueError saying what is allowed)."""
    metadata = {"parse": parse, "help": help_text}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def words(text: str) -> tuple[str, ...]:
    """A list: separated by commas or white space."""
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def read_text(text: str) -> str:
    """A name."""
    if not text or len(text) > 253 or not text.isprintable():
        raise ValueError("1 to 253 printable characters")
    return text


def read_optional_text(text: str) -> str:
    """A name, or nothing."""
    return read_text(text) if text else ""


def read_port(text: str) -> int:
    """A port."""
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 65536:
        raise ValueError("a port, 1 to 65535")
    return int(text)


def read_address(text: str) -> str:
    """An IP address."""
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("an IPv4 or IPv6 address, such as 10.0.0.7 or ::1") from None


def read_loopback(text: str) -> str:
    """An IP address of this machine alone."""
    address = read_address(text)
    if not ip_address(address).is_loopback:
        raise ValueError("a loopback address (127.0.0.1 or ::1): pulls come from this machine alone")
    return address


def read_seconds(text: str) -> float:
    """A time in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError("seconds, 0 to 3600")
    return value


SIZE: Final = r"^([0-9]{1,15})\s*(|[KMGT]i?)B?$"
_FLAGS: Final = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
_UNITS: Final = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def read_size(text: str) -> int:
    """A number of bytes, with or without a unit."""
    match = re.fullmatch(SIZE, text)
    if match is None:
        raise ValueError("a number of bytes, such as 500000000, 10G or 10Gi")
    return int(match[1]) * _UNITS[match[2]]


def read_flag(text: str) -> bool:
    """Yes or no."""
    value = _FLAGS.get(text.lower())
    if value is None:
        raise ValueError("true or false")
    return value


def read_count(text: str) -> int:
    """A positive number."""
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 100_000:
        raise ValueError("a number, 1 to 99999")
    return int(text)


def read_path(text: str) -> Path:
    """An absolute path."""
    path = Path(text)
    if not text or not path.is_absolute():
        raise ValueError("an absolute path")
    return path


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words."""

    allowed: tuple[str, ...]

    def __call__(self, text: str) -> str:
        """Read one."""
        if text not in self.allowed:
            raise ValueError(f"one of {', '.join(self.allowed)}")
        return text
