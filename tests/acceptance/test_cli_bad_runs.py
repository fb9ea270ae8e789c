"""Runs requested wrongly, as the command line reports them: one line that names the mistake and says what to do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Here = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
async def size(input): return {"characters": len(input) if isinstance(input, str) else -1}
async def ask(input, run): return {"said": run.interrupt("sure?")}
async def quiet(input): return None

class Odd:
    def __repr__(self): raise RuntimeError("not even a repr")

async def odd(input): return Odd()
async def huge(input): raise ValueError("x" * 3_000_000)
"""


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)


def the_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line on standard error, with nothing on standard output."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


def events_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--timeout=-5"], "--timeout"),
        (["x", "--timeout", "0"], "--timeout"),
        (["x", "--timeout", "nan"], "--timeout"),
        (["x", "--metadata", "=1"], "--metadata"),
        (["x", "--max-tokens", "0"], "--max-tokens"),
        (["x", "--max-tokens", "many"], "--max-tokens"),
        (["x", "--max-cost", "0"], "--max-cost"),
        (["x", "--max-llm-calls=-1"], "--max-llm-calls"),
        (["x", "--max-tool-calls", "2.5"], "--max-tool-calls"),
        (['{"a": '], "INPUT: it is not valid JSON"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_run_that_cannot_be_is_refused_by_the_name_of_its_option(
    here: Here, tmp_path: Path, arguments: list[str], says: str
) -> None:
    said = the_one_line(here("run", "agents.py:size", *arguments))

    assert says in said
    assert said.endswith((".", ")", "?")), said
    assert not list(tmp_path.glob("*.db*")), "nothing was made by a command that did nothing"


@pytest.mark.parametrize("thread", ["", "t" * 300, "two\nlines"], ids=["empty", "long", "lines"])
def test_a_thread_that_no_id_names_is_refused_by_its_option(here: Here, tmp_path: Path, thread: str) -> None:
    said = the_one_line(here("run", "agents.py:size", "x", "--thread", thread))

    assert said == "--thread: an id is a text of 1 to 255 printable characters."
    assert not list(tmp_path.glob("*.db*")), "nothing was made by a command that did nothing"


def test_an_answer_that_nobody_waits_for_is_refused_and_says_what_to_do(here: Here) -> None:
    assert here("run", "agents.py:quiet", "x", "--thread", "t-1").returncode == 0

    assert "does not wait for an answer" in (said := the_one_line(here("resume", "t-1", "yes")))
    assert "`trackside run AGENT INPUT --thread t-1`" in said
    assert "nobody" in the_one_line(here("resume", "nobody", "yes"))
    assert "nobody" in the_one_line(here("runs", "nobody"))
    assert here("run", "agents.py:ask", "x", "--thread", "t-2").returncode == 75
    assert here("resume", "t-2", "yes").returncode == 0
    assert "does not wait for an answer" in the_one_line(here("resume", "t-2", "yes")), "an answer is given once"


def test_an_answer_to_a_thread_that_is_gone_is_none_to_one_whose_id_is_longer(here: Here) -> None:
    assert here("run", "agents.py:ask", "x", "--thread", "order-71").returncode == 75

    for typed in ("order-7", "der-71", "…71"):
        said = the_one_line(here("resume", typed, "yes"))
        assert f"No thread here has the id {typed!r}; order-71 would fit" in said
    assert here("resume", "order-71", "no").returncode == 0, "nobody had answered it"


def test_ten_megabytes_of_input_reach_the_agent_whole_and_the_log_cut(here: Here, tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("x" * 10_000_000)

    done = here("run", "agents.py:size", "@large.txt", "--json")

    *events, result = events_of(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert result["result"]["output"] == {"characters": 10_000_000}
    assert all(len(json.dumps(event)) < 1_100_000 for event in events)
    assert "truncated" in done.stdout
    shown = here("run", "agents.py:size", "@large.txt")
    assert len(shown.stdout) < 5_000, "nobody's terminal is flooded"


def test_odd_characters_in_an_input_are_text(here: Here, tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("a\0b\x1b[31mc\u202e")

    done = here("run", "agents.py:size", "@odd.txt", "--json")

    assert done.returncode == 0, done.stderr
    assert "\0" not in done.stdout
    assert "\x1b" not in here("run", "agents.py:size", "@odd.txt").stdout
    assert here("run", "agents.py:size", "x", "-m", f"deep={'[' * 500}{']' * 500}").returncode == 0


@pytest.mark.parametrize("agent", ["odd", "huge"])
def test_an_agent_that_comes_to_nothing_that_can_be_kept_fails_in_words(here: Here, agent: str) -> None:
    done = here("run", f"agents.py:{agent}", "x")

    assert done.returncode == 1
    assert "trackside/harness" not in done.stdout + done.stderr, "no frame of ours"
    assert len(done.stdout + done.stderr) < 60_000
