"""`skvaller simulate`: its flags, its output, and how it ends."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from gossip.planning.reduced import ReducedRun
from mirror.cli import main
from mirror.commands import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUICK = ("simulate", "--nodes", "5", "--digests", "2", "--duration", "6", "--rollout", "2:1")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_report_goes_to_standard_output_and_progress_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "--crash", "1:1") == 0
    out, err = capsys.readouterr()
    assert out.startswith("5 nodes, 2 digests each, for 6 s (full model, seed 1).\n")
    assert "crash at 1 s" in out
    assert "this may take about" in err
    assert "this may take" not in out


def test_json_is_all_that_is_printed_and_one_seed_gives_one_report(capsys: pytest.CaptureFixture[str]) -> None:
    reports = []
    for _ in range(2):
        assert run(*QUICK, "--json", "--zones", "2", "--loss", "0.1", "--seed", "7") == 0
        reports.append(capsys.readouterr().out)
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    assert (report["scenario"]["zones"], report["scenario"]["seed"], report["complete"]) == (2, 7, True)


def test_events_are_read_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    events = ("--power-loss", "1:1", "--pause", "2:0.5:2", "--partition", "3:1:0.4", "--latency-ms", "1-2")
    assert run(*QUICK, *events, "--json") == 0
    scenario = json.loads(capsys.readouterr().out)["scenario"]
    assert scenario["deaths"] == [{"at_s": 1.0, "nodes": 1, "silently": True}]
    assert scenario["pauses"] == [{"at_s": 2.0, "nodes": 2, "for_s": 0.5}]
    assert scenario["partitions"] == [{"at_s": 3.0, "for_s": 1.0, "share": 0.4}]
    assert scenario["latency_s"] == [0.001, 0.002]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--nodes", "20000"), "nodes is 20000, but must be from 2 to 10,000"),
        (("--crash", "1"), "'1' must be 2 numbers with a colon between them"),
        (("--crash", "1:1.5"), "a number of nodes is 1.5, but must be a whole number"),
        (("--pause", "1:x:1"), "'1:x:1' must be 3 numbers"),
        (("--latency-ms", "fast"), "'fast' must be two numbers of milliseconds"),
        (("--latency-ms", "5-1"), "latency is 5 to 1 ms, but must be"),
        (("--nodes", "2000", "--partition", "1:1:0.5"), "the reduced model does not have them"),
        (("--plot", "plot.png"), "plot.png must be an .svg file"),
        (("--plot", "nowhere/plot.svg"), "in a directory that exists"),
    ],
)
def test_what_cannot_be_played_is_wrong_usage_and_says_what_can(
    wrong: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*QUICK, *wrong) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert out == ""


def test_the_plot_is_written_beside_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plot.svg"
    assert run(*QUICK, "--plot", str(path)) == 0
    assert path.read_text().startswith("<svg ")
    assert capsys.readouterr().out.startswith("5 nodes")


def test_who_interrupts_it_gets_what_there_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(ReducedRun):
        def steps(self) -> Iterator[float]:
            for elapsed_s in super().steps():
                if elapsed_s > 4.0:
                    raise KeyboardInterrupt
                yield elapsed_s

    monkeypatch.setattr("gossip.planning.begin", Interrupted)
    assert run(*QUICK) == 130
    assert "ENDED EARLY, planned for 6 s." in capsys.readouterr().out


def test_progress_is_one_line_on_a_terminal_and_some_lines_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    shown = []
    for stream in (Terminal(), io.StringIO()):
        now = 100.0
        progress = simulate._Progress(stream, 120.0)
        for second in range(31):
            now = 100.0 + second
            progress.show(f"{second} of 60 s", 4.0 * second)
        progress.close()
        shown.append(stream.getvalue())
    live, log = shown
    assert live.count("\n") == 1
    assert live.count("\r") > 20
    assert (
        log
        == "this may take about 2 min\nsimulated 15 of 60 s, about 15 s left\nsimulated 30 of 60 s, about 0 s left\n"
    )
