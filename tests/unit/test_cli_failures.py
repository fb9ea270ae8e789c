"""How a command's failure reaches the shell and the person at it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trackside.app.cli import main
from trackside.app.cli.failures import ExitCode, report
from trackside.app.settings.variables import DEBUG_VARIABLE


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_has_gone_hears_nothing_more(
    monkeypatch: pytest.MonkeyPatch, broken_pipe: int, name: str
) -> None:
    with open(broken_pipe, "w", closefd=False) as stream, Path(os.devnull).open("w") as other:
        monkeypatch.setattr("sys.stdout", other)
        monkeypatch.setattr(f"sys.{name}", stream)

        assert report(BrokenPipeError(32, "Broken pipe")) is ExitCode.reader_gone


@pytest.mark.parametrize("failure", [BrokenPipeError(32, "Broken pipe"), SystemExit(3)], ids=["a pipe", "an exit"])
def test_what_breaks_elsewhere_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failure: BaseException
) -> None:
    with Path(os.devnull).open("w") as stream:
        monkeypatch.setattr("sys.stdout", stream)

        assert report(failure) is ExitCode.error
    assert type(failure).__name__ in capfd.readouterr().err


def test_a_program_that_calls_the_command_again_has_each_line_of_the_log_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = logging.getLogger("trackside.app")
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    monkeypatch.setattr("trackside.app.cli.commands.parser.parser", lambda: lambda *_, **__: said.warning("said"))

    assert [main([]), main([])] == [0, 0]
    assert capfd.readouterr().err.splitlines() == ["said", "said"]
