"""The manifests of a store that refer to another one are found, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirror.oci import OCI_MANIFEST, Digest, Repository
from mirror.stores import referring
from mirror.stores.containerd.content import ContentDirectory
from mirror.stores.oci_layout import OciLayout
from mirror.stores.referring import REFERRING_BYTES_MAX, find_referring

REPOSITORY = Repository("registry.test", "lib/app")
SUBJECT = Digest.of(b"subject")


def artifact(subject: object, **others: object) -> bytes:
    return json.dumps({"mediaType": OCI_MANIFEST, "subject": subject, **others}).encode()


def put(root: Path, data: bytes, digest: Digest | None = None, algorithm: str = "sha256") -> Digest:
    digest = digest or Digest.of(data, algorithm)
    file = root / "blobs" / digest.algorithm / digest.hex
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_with_this_subject_is_found_with_its_bytes(tmp_path: Path, algorithm: str) -> None:
    data = artifact({"digest": str(SUBJECT)})
    digest = put(tmp_path, data, algorithm=algorithm)
    assert find_referring(tmp_path / "blobs", SUBJECT) == {digest: data}


@pytest.mark.parametrize(
    "data",
    [
        artifact({"digest": str(Digest.of(b"other"))}, annotations={"is": str(SUBJECT)}),
        artifact(str(SUBJECT)),
        artifact([str(SUBJECT)]),
        json.dumps({"config": {"digest": str(SUBJECT)}}).encode(),
        json.dumps([str(SUBJECT)]).encode(),
        b'{"subject": {"digest": "' + str(SUBJECT).encode(),
        artifact({"digest": str(SUBJECT)}, annotations={"is": "x" * REFERRING_BYTES_MAX}),
    ],
)
def test_what_names_it_otherwise_or_is_too_large_is_not_found(tmp_path: Path, data: bytes) -> None:
    put(tmp_path, data)
    assert find_referring(tmp_path / "blobs", SUBJECT) == {}


def test_files_that_are_no_objects_or_have_other_bytes_are_passed_over(tmp_path: Path) -> None:
    data = artifact({"digest": str(SUBJECT)})
    put(tmp_path, data, Digest.of(b"spoiled"))
    (tmp_path / "blobs/sha256/notes").write_bytes(data)
    (tmp_path / "blobs/sha256" / Digest.of(b"link").hex).symlink_to("notes")
    assert find_referring(tmp_path / "blobs", SUBJECT) == {}
    assert find_referring(tmp_path / "nowhere", SUBJECT) == {}


def test_what_is_found_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = sorted(put(tmp_path, artifact({"digest": str(SUBJECT)}, number=number)) for number in range(5))
    monkeypatch.setattr(referring, "REFERRING_MAX", 3)
    assert list(find_referring(tmp_path / "blobs", SUBJECT)) == digests[:3]
    monkeypatch.setattr(referring, "FILES_MAX", 2)
    assert len(find_referring(tmp_path / "blobs", SUBJECT)) == 2


async def test_each_store_looks_among_its_objects(tmp_path: Path) -> None:
    data = artifact({"digest": str(SUBJECT)})
    digest = put(tmp_path, data)
    assert await OciLayout(tmp_path, 10**6).referring(SUBJECT) == {digest: data}
    assert await ContentDirectory(tmp_path, 60).referring(SUBJECT) == {digest: data}
