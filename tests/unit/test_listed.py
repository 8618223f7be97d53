"""What a manifest lists, and what is taken for nothing in it."""

from __future__ import annotations

import json

import pytest

from mirror.listed import Listed, listed
from mirror.oci import Digest, Kind

LAYER, CONFIG = Digest.of(b"layer"), Digest.of(b"config")


def test_an_image_lists_blobs_and_an_index_manifests() -> None:
    image = {"config": {"digest": str(CONFIG), "size": 7}, "layers": [{"digest": str(LAYER), "size": 9}]}
    assert listed(json.dumps(image).encode()) == [
        Listed(Kind.BLOB, CONFIG, 7, elsewhere=False),
        Listed(Kind.BLOB, LAYER, 9, elsewhere=False),
    ]
    index = {"manifests": [{"digest": str(LAYER), "size": 9}], "layers": 7}
    assert listed(json.dumps(index).encode()) == [Listed(Kind.MANIFEST, LAYER, 9, elsewhere=False)]


def test_what_is_said_to_be_elsewhere_is_marked() -> None:
    layers = [{"digest": str(LAYER), "urls": ["https://elsewhere"]}, {"digest": str(CONFIG)}, {"digest": 5}, None]
    assert [(each.digest, each.elsewhere) for each in listed(json.dumps({"layers": layers}).encode())] == [
        (LAYER, True),
        (CONFIG, False),
    ]


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[]", b'{"layers": 7}', b'{"layers": [7, {}]}', b'{"config": {"digest": "x", "size": 1}}']
)
def test_what_makes_no_sense_lists_nothing(document: bytes) -> None:
    assert listed(document) == []


@pytest.mark.parametrize("size", [-1, 0, "1", None, 1.5])
def test_a_size_that_cannot_be_is_none(size: object) -> None:
    document = json.dumps({"layers": [{"digest": str(LAYER), "size": size}]}).encode()
    assert [each.size for each in listed(document)] == [None]
