"""What a server logs while it runs: as JSON or for people, in order, and without holding up whoever logs."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from trackside.app.server import log as server_log
from trackside.app.server.log import ServerLog


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_come_in_order_with_their_time_and_level(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as file, ServerLog(file) as log:
        log.say("begins", {"number": 1})
        log.say("fails", {"number": 2, "odd": {1}}, level="warning")

    first, second = lines_of(tmp_path / "log")
    assert (first["event"], first["level"], first["number"]) == ("begins", "info", 1)
    assert (second["event"], second["level"], second["odd"]) == ("fails", "warning", [1])
    assert first["timestamp"].endswith("+00:00")


def test_many_lines_are_all_written(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as file, ServerLog(file) as log:
        for number in range(5_000):
            log.say("much", {"number": number})

    assert [line["number"] for line in lines_of(tmp_path / "log")] == list(range(5_000))


def test_half_a_character_does_not_end_the_log(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as file, ServerLog(file) as log:
        log.say("half \ud83d of one", {"why": ["\udfff"], "odd": {1}})
        log.say("goes on", {})

    half, after = lines_of(tmp_path / "log")
    assert (half["event"], half["why"], half["level"]) == ("half � of one", ["�"], "info")
    assert after["event"] == "goes on"


def test_lines_are_for_people_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with (tmp_path / "log").open("w", encoding="utf-8") as file, ServerLog(file, as_json=False) as log:
        log.say("request", {"path": "/ok"})

    assert (tmp_path / "log").read_text(encoding="utf-8").split()[1:] == ["[info", "]", "request", "path=/ok"]


def test_warnings_of_tracksides_own_parts_come_here_too(tmp_path: Path) -> None:
    quiet, part = logging.getLogger("elsewhere"), logging.getLogger("trackside.part")
    with (tmp_path / "log").open("w", encoding="utf-8") as file, ServerLog(file):
        part.info("nobody needs to know")
        part.warning("it is %s", "slow")
        quiet.warning("of somebody else")
        try:
            raise ValueError("why")
        except ValueError:
            part.exception("it failed")
    part.warning("after the end")

    slow, failed = lines_of(tmp_path / "log")
    assert (slow["event"], slow["level"], slow["logger"]) == ("it is slow", "warning", "trackside.part")
    assert (failed["event"], failed["level"]) == ("it failed", "error")
    assert "ValueError: why" in failed["exception"]


def test_a_reader_that_reads_nothing_holds_up_nobody_and_costs_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "_MOST", 100)
    monkeypatch.setattr(server_log, "_PATIENCE", 0.01)
    reading, writing = os.pipe()
    said = threading.Event()

    def say_much(log: ServerLog) -> None:
        for number in range(5_000):
            log.say("much", {"number": number, "text": "x" * 1_000})
        said.set()

    with os.fdopen(writing, "w", encoding="utf-8") as file:
        log = ServerLog(file)
        with log:
            saying = threading.Thread(target=say_much, args=(log,))
            saying.start()
            assert said.wait(30)
            saying.join()
        os.close(reading)  # this releases the thread that writes


def test_a_reader_that_has_gone_is_no_trouble() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as file, ServerLog(file) as log:
        log.say("anything", {})
