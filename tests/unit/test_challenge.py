"""A challenge is understood as far as it has to be, whatever a registry makes of it."""

from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.challenge import Challenge, expires_at, is_basic, read_token


def find(value: str) -> Challenge | None:
    return Challenge.find([("Content-Type", "x"), ("WWW-Authenticate", value)])


def test_a_bearer_challenge_says_where_tokens_are_and_for_what() -> None:
    challenge = find('Bearer realm="https://auth.test/token",service="a b",scope="repository:team/app:pull",error="x"')
    assert challenge == Challenge("https://auth.test/token", "a b", "repository:team/app:pull")
    assert challenge.url == "https://auth.test/token?service=a+b&scope=repository%3Ateam%2Fapp%3Apull"


def test_a_realm_may_have_a_query_and_be_unquoted() -> None:
    challenge = find("bearer realm=https://auth.test/token?x=1, scope=s")
    assert challenge is not None
    assert challenge.url == "https://auth.test/token?x=1&scope=s"


@pytest.mark.parametrize(
    "value",
    [
        'Basic realm="x"',
        "Bearer",
        'Bearer realm="/token"',
        'Bearer realm="file:///etc"',
        'Bearer realm="https://[x"',
        'Bearer realm="https://auth.test/\udcff"',
        'Bearer realm="https://auth.test/token",service="\udcff"',
    ],
)
def test_other_challenges_are_of_no_use(value: str) -> None:
    assert find(value) is None


@given(st.text(max_size=200))
def test_any_challenge_can_be_read(text: str) -> None:
    find(f"Bearer {text}")


@pytest.mark.parametrize(
    ("answer", "token"),
    [
        ({"token": "a"}, "a"),
        ({"access_token": "b"}, "b"),
        ({"token": "", "access_token": "b"}, "b"),
        ({"token": "a\r\nX: y"}, None),
        ({"token": 5}, None),
        ([], None),
    ],
)
def test_a_token_is_a_line_of_text_under_either_name(answer: object, token: str | None) -> None:
    assert read_token(orjson.dumps(answer)) == token


@given(st.binary(max_size=50))
def test_any_answer_of_a_token_server_can_be_read(body: bytes) -> None:
    read_token(body)


def test_a_password_is_told_from_a_token() -> None:
    assert is_basic("Basic eDp5")
    assert is_basic("basic eDp5")
    assert not is_basic("Bearer x")
    assert not is_basic(None)


def jwt(claims: object) -> str:
    return "Bearer a." + base64.urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=").decode() + ".c"


def test_the_end_of_a_token_is_read_where_it_says_so() -> None:
    assert expires_at(jwt({"exp": 12})) == 12.0
    assert expires_at(jwt({"exp": "12"})) is None
    assert expires_at(jwt([])) is None
    assert expires_at("Bearer opaque") is None


@given(st.text(max_size=50))
def test_any_header_can_be_looked_into(text: str) -> None:
    expires_at(text)
    expires_at(f"Bearer a.{text}.c")
