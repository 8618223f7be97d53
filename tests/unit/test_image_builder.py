"""Images that were built are read back by other means: `json`, `tarfile` and `hashlib`."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.image_builder import LAYER_GZIP, LAYER_TAR, NAME_ANNOTATION, build_image
from mirror.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, manifest_media_type

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_blob(layout: Path, digest: str) -> bytes:
    """A blob of the layout, once its name was seen to be its digest."""
    data = (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    return data


def read_document(layout: Path, descriptor: Descriptor | dict[str, Any]) -> dict[str, Any]:
    """The JSON object behind a descriptor, once its size was seen to be right."""
    if isinstance(descriptor, Descriptor):
        digest, size = str(descriptor.digest), descriptor.size
    else:
        digest, size = descriptor["digest"], descriptor["size"]
    data = read_blob(layout, digest)
    assert len(data) == size
    document = json.loads(data)
    assert isinstance(document, dict)
    return document


def test_layers_hold_the_files_in_the_order_given(tmp_path: Path) -> None:
    image = build_image(tmp_path, "v1", {"amd64": [[("etc/motd", b"hello"), ("data/a", b"")], [("data/b", b"beta")]]})
    assert image.media_type == OCI_MANIFEST
    manifest = read_document(tmp_path, image)
    layers = [gzip.decompress(read_blob(tmp_path, layer["digest"])) for layer in manifest["layers"]]
    files = []
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                files.append((member.name, content.read(), member.mode, member.mtime))
    assert files == [
        ("etc/motd", b"hello", 0o644, 0),
        ("data/a", b"", 0o644, 0),
        ("data/b", b"beta", 0o644, 0),
    ]
    assert [layer["size"] for layer in manifest["layers"]] == [
        (tmp_path / "blobs" / "sha256" / layer["digest"][7:]).stat().st_size for layer in manifest["layers"]
    ]


@pytest.mark.parametrize(("gzip_level", "media_type"), [(None, LAYER_TAR), (0, LAYER_GZIP), (9, LAYER_GZIP)])
def test_the_config_names_the_digests_of_the_unpacked_layers(
    tmp_path: Path, gzip_level: int | None, media_type: str
) -> None:
    image = build_image(tmp_path, "v1", {"arm64": [[("a", b"a" * 5000)], [("b", b"b")]]}, gzip_level=gzip_level)
    manifest = read_document(tmp_path, image)
    config = read_document(tmp_path, manifest["config"])
    blobs = [read_blob(tmp_path, layer["digest"]) for layer in manifest["layers"]]
    unpacked = blobs if gzip_level is None else [gzip.decompress(blob) for blob in blobs]
    assert config["rootfs"]["diff_ids"] == [str(Digest.of(layer)) for layer in unpacked]
    assert [layer["mediaType"] for layer in manifest["layers"]] == [media_type] * 2
    assert config["architecture"] == "arm64"
    assert len(config["history"]) == 2


def test_several_architectures_make_an_image_index(tmp_path: Path) -> None:
    image = build_image(tmp_path, "v1", {"amd64": [[("a", b"1")]], "s390x": [[("a", b"2")]]})
    assert image.media_type == OCI_INDEX
    index = read_document(tmp_path, image)
    configs = {
        entry["platform"]["architecture"]: read_document(tmp_path, read_document(tmp_path, entry)["config"])[
            "architecture"
        ]
        for entry in index["manifests"]
    }
    assert configs == {"amd64": "amd64", "s390x": "s390x"}
    assert manifest_media_type(read_blob(tmp_path, str(image.digest))) == OCI_INDEX


def test_the_same_input_gives_the_same_digest(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x" * 100_000)
    entries: list[tuple[str, bytes | Path]] = [("f", source), ("g", b"g")]
    first = build_image(tmp_path / "1", "v1", {"amd64": [entries]})
    source.touch()
    second = build_image(tmp_path / "2", "other", {"amd64": [(entry for entry in entries)]})
    assert first == second


def test_a_name_moves_to_the_newer_image_and_other_names_stay(tmp_path: Path) -> None:
    other = build_image(tmp_path, "other", {"amd64": [[("a", b"0")]]})
    build_image(tmp_path, "v1", {"amd64": [[("a", b"1")]]})
    newer = build_image(tmp_path, "v1", {"amd64": [[("a", b"2")]]})
    index = json.loads((tmp_path / "index.json").read_bytes())
    named = {entry["annotations"][NAME_ANNOTATION]: entry["digest"] for entry in index["manifests"]}
    assert named == {"other": str(other.digest), "v1": str(newer.digest)}
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_a_real_file_keeps_its_executable_bit(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o700)
    layout = tmp_path / "layout"
    image = build_image(layout, "v1", {"amd64": [[("bin/program", program)]]}, gzip_level=None)
    layer = read_document(layout, image)["layers"][0]
    with tarfile.open(fileobj=io.BytesIO(read_blob(layout, layer["digest"]))) as tar:
        assert tar.getmember("bin/program").mode == 0o755


def test_a_large_layer_is_streamed(tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        build_image(tmp_path / "layout", "v1", {"amd64": [[("large", source)]]}, gzip_level=None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 1024 * 1024


def test_a_layer_that_fails_leaves_no_file_behind_and_no_name(tmp_path: Path) -> None:
    def entries() -> Iterator[tuple[str, bytes | Path]]:
        yield "a", b"a"
        yield "b", tmp_path / "missing"

    with pytest.raises(FileNotFoundError):
        build_image(tmp_path / "layout", "v1", {"amd64": [entries()]})
    assert list((tmp_path / "layout" / "blobs" / "sha256").iterdir()) == []
    assert not (tmp_path / "layout" / "index.json").exists()
