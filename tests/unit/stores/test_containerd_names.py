"""What image records mean, and what is told when they change."""

from __future__ import annotations

import pytest

from mirror.oci import Digest, Repository, Tag
from mirror.stores import TagRemoved, TagSet
from mirror.stores.containerd.api.images_pb2 import Image
from mirror.stores.containerd.names import Meaning, difference, meanings, read_sources

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
NGINX = Repository("docker.io", "library/nginx")


def record(name: str, digest: Digest | str = OLD, at: int = 1) -> Image:
    """An image record as containerd lists it."""
    return Image(name=name, target={"digest": str(digest)}, updated_at={"seconds": at})


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [
        ("docker.io/library/nginx:1.27", NGINX, "1.27"),
        ("10.77.0.1:5000/lib/app:v1", Repository("10.77.0.1:5000", "lib/app"), "v1"),
        ("[fd00::1]:5000/app:latest", Repository("[fd00::1]:5000", "app"), "latest"),
    ],
)
def test_a_record_with_a_tag_is_a_name(name: str, repository: Repository, tag: str) -> None:
    assert meanings([record(name, at=7)]) == {(repository, Tag(tag)): Meaning(OLD, 7)}


@pytest.mark.parametrize(
    "name",
    [
        f"sha256:{'0' * 64}",
        f"docker.io/library/nginx@sha256:{'0' * 64}",
        f"docker.io/library/nginx:1.27@sha256:{'0' * 64}",
        "10.77.0.1:5000/lib/app",
        "import-2026-11-24",
        "docker.io/../nginx:1",
        "",
    ],
)
def test_a_record_without_a_tag_of_a_registry_is_passed_over(name: str) -> None:
    assert meanings([record(name)]) == {}


@pytest.mark.parametrize("digest", ["", "sha256:short", "md5:00000000000000000000000000000000"])
def test_a_record_with_a_strange_target_is_passed_over(digest: str) -> None:
    assert meanings([record("docker.io/library/nginx:1.27", digest)]) == {}


def test_of_two_namespaces_that_disagree_the_last_one_written_wins() -> None:
    older, newer = record("docker.io/library/nginx:1", OLD, 1), record("docker.io/library/nginx:1", NEW, 2)
    assert meanings([older, newer]) == meanings([newer, older]) == {(NGINX, Tag("1")): Meaning(NEW, 2)}


def test_a_tag_is_told_when_it_comes_when_it_moves_and_when_it_goes() -> None:
    name = (NGINX, Tag("1"))
    assert difference({}, {name: Meaning(OLD, 1)}) == [TagSet(*name, OLD, 1)]
    assert difference({name: Meaning(OLD, 1)}, {name: Meaning(NEW, 2)}) == [TagSet(*name, NEW, 2)]
    assert difference({name: Meaning(NEW, 2)}, {}) == [TagRemoved(*name)]


def test_a_tag_that_was_pulled_again_is_told_again_with_its_new_time() -> None:
    name = (NGINX, Tag("1"))
    assert difference({name: Meaning(OLD, 1)}, {name: Meaning(OLD, 2)}) == [TagSet(*name, OLD, 2)]
    assert difference({name: Meaning(OLD, 1)}, {name: Meaning(OLD, 1)}) == []


def test_a_tag_that_one_of_two_namespaces_loses_is_still_there() -> None:
    both = meanings([record("docker.io/library/nginx:1"), record("docker.io/library/nginx:1")])
    one = meanings([record("docker.io/library/nginx:1")])
    assert difference(both, one) == []


def test_the_sources_of_an_object_are_read_from_its_labels() -> None:
    labels = {
        "containerd.io/distribution.source.docker.io": "library/nginx,library/debian",
        "containerd.io/distribution.source.10.77.0.1:5000": "lib/app",
        "containerd.io/distribution.source.": "x",
        "containerd.io/distribution.source.bad host": "x",
        "containerd.io/gc.ref.content.l.0": f"sha256:{'0' * 64}",
        "containerd.io/uncompressed": f"sha256:{'0' * 64}",
    }
    assert set(read_sources(labels)) == {
        NGINX,
        Repository("docker.io", "library/debian"),
        Repository("10.77.0.1:5000", "lib/app"),
    }
