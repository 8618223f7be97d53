"""The cluster secret and its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zmq

from gossip import ClusterSecret, ConfigError
from gossip.secret import SECRET_BYTES_MAX, hkdf

if TYPE_CHECKING:
    from pathlib import Path

MATERIAL = b"32 random bytes, or what passes as such in a test"

# RFC 5869, appendix A.1 to A.3: input key material, salt, info, output key material.
VECTORS = [
    (
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        b"\x0b" * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("material", "salt", "info", "expected"), VECTORS)
def test_hkdf_gives_what_the_rfc_gives(material: bytes, salt: bytes, info: bytes, expected: str) -> None:
    output = bytes.fromhex(expected)
    assert hkdf(material, salt, info, len(output)) == output


def test_keys_of_different_labels_and_secrets_differ_and_of_the_same_are_the_same() -> None:
    secret = ClusterSecret(MATERIAL)
    assert secret.derive(b"a") == ClusterSecret(MATERIAL).derive(b"a")
    assert len({secret.derive(b"a"), secret.derive(b"b"), ClusterSecret(MATERIAL + b".").derive(b"a")}) == 3
    assert len(secret.derive(b"a", 100)) == 100


def test_the_curve_keys_are_a_pair() -> None:
    public, private = ClusterSecret(MATERIAL).curve_keys()
    assert zmq.curve_public(private) == public


@pytest.mark.parametrize("size", [0, 31, SECRET_BYTES_MAX + 1])
def test_a_secret_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"{size} bytes.*32 to 4096"):
        ClusterSecret(bytes(size))


def test_a_secret_is_read_from_a_file_and_an_editors_newline_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(MATERIAL + b"\n")
    assert ClusterSecret.from_file(path).derive(b"a") == ClusterSecret(MATERIAL).derive(b"a")


def test_binary_secrets_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\n\xff" + bytes(29) + b"\n")
    assert ClusterSecret.from_file(path).derive(b"a") == ClusterSecret(path.read_bytes()).derive(b"a")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        ClusterSecret.from_file(tmp_path / "nowhere")


def test_a_secret_does_not_show_itself() -> None:
    assert MATERIAL.decode() not in repr(ClusterSecret(MATERIAL))
