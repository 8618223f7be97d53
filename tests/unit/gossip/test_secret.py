"""The cluster secret and its keys."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
import zmq
from zmq.utils import z85

from gossip import ClusterSecret, ConfigError
from gossip.secret import SECRET_BYTES_MAX, SECRETS_MAX, hkdf

if TYPE_CHECKING:
    from pathlib import Path

MATERIAL = b"32 random bytes, or what passes as such in a test"
OLDER = b"the secret that was the current one before, in this test"
BINARY = bytes(range(0xE0, 0x100))

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
    assert secret.derive_all(b"a") == ClusterSecret(MATERIAL).derive_all(b"a")
    keys = [secret.derive_all(b"a"), secret.derive_all(b"b"), ClusterSecret(MATERIAL + b".").derive_all(b"a")]
    assert len({key for [key] in keys}) == 3
    assert [len(key) for key in secret.derive_all(b"a", 100)] == [100]


def test_keys_come_from_each_secret_the_current_one_first() -> None:
    both = ClusterSecret(MATERIAL, OLDER)
    assert both.derive_all(b"a") == ClusterSecret(MATERIAL).derive_all(b"a") + ClusterSecret(OLDER).derive_all(b"a")
    assert both.curve_keys() == ClusterSecret(MATERIAL).curve_keys() + ClusterSecret(OLDER).curve_keys()


def test_the_curve_keys_are_a_pair() -> None:
    [(public, private)] = ClusterSecret(MATERIAL).curve_keys()
    assert zmq.curve_public(z85.encode(private)) == z85.encode(public)


@pytest.mark.parametrize("size", [0, 31, SECRET_BYTES_MAX + 1])
def test_a_secret_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"{size} bytes.*32 to 4096"):
        ClusterSecret(bytes(size))


def test_every_secret_is_checked_and_their_number() -> None:
    with pytest.raises(ConfigError, match=r"5 lines.*at most 4"):
        ClusterSecret(*[MATERIAL] * (SECRETS_MAX + 1))
    with pytest.raises(ConfigError, match="5 bytes"):
        ClusterSecret(MATERIAL, b"short")


@pytest.mark.parametrize(
    ("content", "materials"),
    [
        pytest.param(MATERIAL, [MATERIAL], id="one"),
        pytest.param(MATERIAL + b"\n", [MATERIAL], id="an editor's newline"),
        pytest.param(MATERIAL + b"\n" + OLDER + b"\n", [MATERIAL, OLDER], id="the current and the one before"),
        pytest.param(b"\r\n  " + MATERIAL + b"\r\n\r\n" + OLDER + b" ", [MATERIAL, OLDER], id="white space"),
        pytest.param(b"\n\xff" + bytes(29) + b"\n", [b"\n\xff" + bytes(29) + b"\n"], id="not text"),
        pytest.param(MATERIAL + b"\nbase64:" + b64encode(BINARY), [MATERIAL, BINARY], id="not text, in a list"),
    ],
)
def test_secrets_are_read_from_a_file(tmp_path: Path, content: bytes, materials: list[bytes]) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert ClusterSecret.from_file(path).derive_all(b"a") == ClusterSecret(*materials).derive_all(b"a")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b" \n\n", "0 bytes"),
        (MATERIAL + b"\nshort", "5 bytes"),
        (b"base64:!!!", "not base64"),
        (b"\n".join([MATERIAL] * 5), "5 lines"),
        (b"x" * 100_000, "bytes"),
        (b"\xff" * 100_000, "bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        ClusterSecret.from_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        ClusterSecret.from_file(tmp_path / "nowhere")


def test_a_secret_does_not_show_itself() -> None:
    assert MATERIAL.decode() not in repr(ClusterSecret(MATERIAL))
