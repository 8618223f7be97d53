"""Builds container images from files, with nothing but the standard library.

The demo and the tests need images of a known size that no registry has seen before. This writes them into an
OCI image layout directory, from where any tool can publish them. It is not a build system: no base images, no
commands, no ownership; every file belongs to root.

The same input gives the same digests: times are the epoch, owners are 0, entries keep the caller's order. (A
compressed layer also depends on the zlib at hand.) Layers are streamed: a layer of any size costs one file's
bytes of memory, and none when files are given as paths.

Source: OCI image-spec 1.1 (image-layout.md, manifest.md, config.md, layer.md).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from mirror.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
NAME_ANNOTATION: Final = "org.opencontainers.image.ref.name"

Layer = Iterable[tuple[str, bytes | Path]]
"""The files of a layer: a path in the image, and the file's bytes or a real file to copy."""

_CREATED = "1970-01-01T00:00:00Z"
_WRITE_BYTES = 1024 * 1024


def build_image(
    layout: Path,
    name: str,
    platforms: Mapping[str, Iterable[Layer]],
    *,
    gzip_level: int | None = 1,
) -> Descriptor:
    """Write an image into the layout directory `layout` (made when missing) and name it `name` in its index.

    `platforms` maps each architecture in Go's words (`amd64`) to its layers, lowest first. A layer may be a
    generator: it is read once, file by file. Real files keep their executable bit. `gzip_level` is 0 to 9, or
    None for layers that are not compressed.

    Returns what `name` now means: a manifest, or an image index when there are several architectures. An
    older image of that name loses it. Raises `OSError`; then `name` means what it did before, and the
    layers that were already written stay.
    """
    assert platforms, "an image has at least one architecture"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifests = {
        architecture: _write_manifest(blobs, architecture, layers, gzip_level)
        for architecture, layers in platforms.items()
    }
    if len(manifests) == 1:
        (image,) = manifests.values()
    else:
        image = _write_index(blobs, manifests)
    _write_name(layout, name, image)
    return image


def _write_manifest(
    blobs: Path,
    architecture: str,
    layers: Iterable[Layer],
    gzip_level: int | None,
) -> Descriptor:
    written = [_write_layer(blobs, entries, gzip_level) for entries in layers]
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": _CREATED,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for _, diff_id in written]},
        "history": [{"created": _CREATED, "created_by": f"layer {number}"} for number in range(1, len(written) + 1)],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _as_json(_write_document(blobs, CONFIG, config)),
        "layers": [_as_json(layer) for layer, _ in written],
    }
    return _write_document(blobs, OCI_MANIFEST, manifest)


def _write_index(blobs: Path, manifests: Mapping[str, Descriptor]) -> Descriptor:
    entries = [
        _as_json(manifest) | {"platform": {"architecture": architecture, "os": "linux"}}
        for architecture, manifest in manifests.items()
    ]
    return _write_document(blobs, OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _write_layer(blobs: Path, entries: Layer, gzip_level: int | None) -> tuple[Descriptor, Digest]:
    """Write one layer; returns its descriptor and its diff_id, the digest of the tar before compression."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(dir=blobs, prefix=".layer-", delete=False))
        stack.callback(Path(file.name).unlink, missing_ok=True)
        packed = _Measured(file)
        if gzip_level is None:
            unpacked = packed
            _write_tar(unpacked, entries)
        else:
            with gzip.GzipFile("", "wb", gzip_level, cast("IO[bytes]", packed), mtime=0) as compressor:
                unpacked = _Measured(compressor)
                _write_tar(unpacked, entries)
        file.flush()
        Path(file.name).chmod(0o644)
        Path(file.name).rename(blobs / packed.digest.hex)
    media_type = LAYER_TAR if gzip_level is None else LAYER_GZIP
    return Descriptor(media_type, packed.digest, packed.size), unpacked.digest


def _write_tar(out: _Measured, entries: Layer) -> None:
    with tarfile.open(
        fileobj=cast("IO[bytes]", out), mode="w|", bufsize=_WRITE_BYTES, format=tarfile.PAX_FORMAT
    ) as tar:
        for path, content in entries:
            entry = tarfile.TarInfo(path)
            if isinstance(content, Path):
                with content.open("rb") as source:
                    status = os.fstat(source.fileno())
                    entry.size = status.st_size
                    entry.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
                    tar.addfile(entry, source)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def _write_document(blobs: Path, media_type: str, document: dict[str, Any]) -> Descriptor:
    data = json.dumps(document, separators=(",", ":")).encode()
    digest = Digest.of(data)
    (blobs / digest.hex).write_bytes(data)
    return Descriptor(media_type, digest, len(data))


def _write_name(layout: Path, name: str, image: Descriptor) -> None:
    index = layout / "index.json"
    listed = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    kept = [entry for entry in listed if entry.get("annotations", {}).get(NAME_ANNOTATION) != name]
    entry = _as_json(image) | {"annotations": {NAME_ANNOTATION: name}}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*kept, entry]}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    replacement = layout / ".index.json.new"
    replacement.write_text(json.dumps(document, separators=(",", ":")))
    replacement.rename(index)


def _as_json(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


class _Measured:
    """A writer that passes bytes on, and counts and hashes what passes."""

    def __init__(self, out: IO[bytes] | gzip.GzipFile | tempfile._TemporaryFileWrapper[bytes]) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> Digest:
        """The digest of everything written so far."""
        return Digest("sha256", self._hash.hexdigest())

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        self._hash.update(data)
        self.size += len(data)
        return self._out.write(data)

    def flush(self) -> None:
        """Pass on what is held back (the compressor asks for it)."""
        self._out.flush()
