"""Whose an object is stays noted beside its bytes, within what fits there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirror.oci import Repository
from mirror.stores.origins import ATTRIBUTE, ORIGINS_BYTES_MAX, note_origins, read_origins
from tests.attributes import require_attributes

ONE, TWO = Repository("docker.io", "library/nginx"), Repository("10.0.0.1:5000", "lib/app")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    require_attributes(tmp_path)
    file = tmp_path / "blob"
    file.write_bytes(b"x")
    return file


def test_what_was_noted_is_read(file: Path) -> None:
    assert read_origins(file) == frozenset()
    note_origins(file, [ONE, TWO])
    assert read_origins(file) == {ONE, TWO}
    note_origins(file, [TWO])
    assert read_origins(file) == {TWO}


def test_more_than_fits_is_left_out(file: Path) -> None:
    many = {Repository("docker.io", f"library/{number:050}") for number in range(100)}
    note_origins(file, many)
    assert read_origins(file) < many
    assert 0 < len(os.getxattr(file, ATTRIBUTE)) <= ORIGINS_BYTES_MAX


def test_what_others_wrote_there_is_no_origin(file: Path) -> None:
    os.setxattr(file, ATTRIBUTE, b"\xff\xfe\nnonsense\ndocker.io/library/nginx\n")
    assert read_origins(file) == {ONE}


def test_a_file_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    note_origins(tmp_path / "nowhere", [ONE])
    assert read_origins(tmp_path / "nowhere") == frozenset()
