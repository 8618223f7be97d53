"""What the environment can do wrong, as far as a caller is told. What peers do wrong is counted and dropped
(`DecodeError` never leaves this package)."""

from __future__ import annotations


class GossipError(Exception):
    """The family of this package's errors."""


class ConfigError(GossipError, ValueError):
    """A setting cannot be used. Raised before anything was started."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} is {value}, but must be {allowed}")
        self.name = name
        self.value = value
        self.allowed = allowed


class BindError(GossipError, OSError):
    """A port of this node cannot be had: it is in use, or the address is not of this machine. Nothing was started."""


class EpochFileError(GossipError, OSError):
    """The epoch file cannot be read or written."""


class DuplicateNameError(GossipError):
    """Another running node has this node's name. This one said nothing more to the others and must be stopped."""


class UnansweredError(GossipError):
    """A member was asked something, and did not answer in time."""


class DecodeError(GossipError, ValueError):
    """Bytes that are no message for this node. `reason` is one of malformed, oversized, cluster, version."""

    def __init__(self, detail: str, reason: str = "malformed") -> None:
        super().__init__(detail)
        self.reason = reason
