"""Commands that ask the agent say plainly when nobody, or somebody else, answers."""

from __future__ import annotations

import asyncio

import pytest

from mirror.cli import main
from mirror.local_client import AgentError, NoAgentError, ask_agent
from tests.serving import HOST, answering, free_port, scripted


def test_no_agent_is_an_error_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://{HOST}:{free_port()}"
    with pytest.raises(NoAgentError, match="skvaller serve"):
        ask_agent(url, "node")
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "nginx", "--agent", url])
    assert exit_.value.code == 1
    assert "no agent answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["nonsense", "127.0.0.1:29990", "file:///etc/passwd", "http://[", "http://a:b", "http://"]
)
def test_what_cannot_be_an_agent_is_wrong_usage(capsys: pytest.CaptureFixture[str], url: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["status", "--agent", url])
    assert exit_.value.code == 2
    assert "is not like http://127.0.0.1:29990" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        ("404 Not Found", b'{"error": "there is none"}', "there is none"),
        ("404 Not Found", b"<html>", "answered 404"),
        ("500 Oops", b'{"error"', "answered 500"),
        ("200 OK", b"<html>", "no agent"),
    ],
)
async def test_what_is_no_answer_is_an_error(status: str, body: bytes, said: str) -> None:
    async with scripted(answering(status, [f"Content-Length: {len(body)}"], body)) as server:
        with pytest.raises(AgentError, match=said):
            await asyncio.to_thread(ask_agent, server.url, "node")


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{HOST}:{free_port()}")
    async with scripted(answering("200 OK", ["Content-Length: 2"], b"{}")) as server:
        assert await asyncio.to_thread(ask_agent, server.url, "explain", image="a b&c") == {}
    assert server.heard[0].path == "/-/api/explain?image=a+b%26c"
