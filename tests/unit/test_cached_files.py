"""What the kernel has in memory is opened and read at once, and what it has not is left to a thread."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path

import pytest

from mirror import cached_files
from mirror.cached_files import open_cached, read_cached

DATA = os.urandom(100_000)
TRIES = 50


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "blob"
    file.write_bytes(DATA)
    return file


def test_what_was_just_written_is_opened_and_read_at_once(file: Path) -> None:
    descriptor = open_cached(str(file))
    if descriptor is None:
        old = tuple(int(part) for part in os.uname().release.split(".")[:2]) < (5, 12)
        assert old or ctypes.get_errno() in {errno.ENOSYS, errno.EPERM}, "its name is in the cache"
        pytest.skip("this kernel has no openat2 with RESOLVE_CACHED, or does not allow it")
    assert os.read(descriptor, 10) == DATA[:10]
    assert not os.get_inheritable(descriptor)
    assert read_cached(descriptor, 0, len(DATA)) in {DATA, None}  # a filesystem may not be able to tell
    assert read_cached(descriptor, 7, 100) in {DATA[7:107], None}
    assert read_cached(descriptor, 0, len(DATA) + 1) is None
    assert read_cached(descriptor, 5, 0) == b""
    os.close(descriptor)


def test_a_missing_file_and_a_link_are_errors_as_with_os_open(file: Path) -> None:
    missing, link = file.with_name("missing"), file.with_name("link")
    link.symlink_to(file)
    for path, number in ((missing, errno.ENOENT), (link, errno.ELOOP)):
        try:
            assert open_cached(str(path)) is None  # the name is not in the cache
        except OSError as error:
            assert error.errno == number  # noqa: PT017 - either is right


def test_pages_that_are_not_in_memory_are_not_waited_for(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        for _ in range(TRIES):  # a busy kernel may keep the pages, or have them again at once
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                if os.preadv(opened.fileno(), [bytearray(len(DATA))], 0, os.RWF_NOWAIT) < len(DATA):
                    break
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    pytest.skip("this filesystem does not tell what is in memory")
                break
            time.sleep(0.02)
        else:
            pytest.skip("this filesystem keeps everything in memory")
        assert read_cached(opened.fileno(), 0, len(DATA)) is None
        opened.read()
        assert read_cached(opened.fileno(), 0, len(DATA)) == DATA


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOSYS, errno.EPERM])
def test_a_kernel_that_cannot_or_may_not_leaves_it_to_a_thread(
    file: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(cached_files, "_syscall", refuse)
    assert open_cached(str(file)) is None
