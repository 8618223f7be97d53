"""Opens and reads a file on the event loop when that needs nothing from the disk, which the kernel can tell.

openat2(2) with RESOLVE_CACHED (Linux 5.12) opens only what the kernel's cache of names has, preadv2(2) with RWF_NOWAIT
reads only what the page cache has. Both take some microseconds; a thread takes a hundred. Where the kernel refuses, is
too old, or a container's filter of system calls is, the answer is None and a thread has to do it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_OPENAT2: Final = 437
"""The number of the call, the same on all architectures that Linux has had since 2011."""
_AT_FDCWD: Final = -100
_RESOLVE_CACHED: Final = 0x20
_NOT_NOW: Final = frozenset({errno.EAGAIN, errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG})

# PyDLL keeps the interpreter's lock: the call never waits, and getting the lock back might.
_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW: Final = _OpenHow(os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE_CACHED)
_HOW_AT: Final = ctypes.addressof(_HOW)
_HOW_BYTES: Final = ctypes.sizeof(_HOW)


def open_cached(path: str) -> int | None:
    """A descriptor of a file, to read from, the caller's to close; None when opening it might wait.

    Raises `OSError` as `os.open` does.
    """
    descriptor = _syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), _HOW_AT, _HOW_BYTES)
    if descriptor >= 0:
        return int(descriptor)
    number = ctypes.get_errno()
    if number in _NOT_NOW:
        return None
    raise OSError(number, os.strerror(number), path)


def read_cached(descriptor: int, start: int, size: int) -> bytes | None:
    """`size` bytes of an open file from `start` on; None when they are not all in memory."""
    buffer = bytearray(size)
    try:
        read = os.preadv(descriptor, [buffer], start, os.RWF_NOWAIT) if size else 0
    except OSError:  # they are not, or this filesystem cannot tell
        return None
    return bytes(buffer) if read == size else None
