"""`trackside` on a terminal: what a person sees at the end, and what Ctrl-C does."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]
OpenTerminal = Callable[..., Any]

AGENTS = """
import asyncio
import threading
import time

async def talk(input, run):
    words = "The answer has more words than fit on one line of a narrow terminal.\\n\\nAnd a second paragraph."
    for word in words.split(" "):
        run.send({"type": "AIMessageChunk", "id": "m1", "content": word + " "}, "messages")
        await asyncio.sleep(0)
    run.send({"type": "AIMessageChunk", "id": "m1", "content": "", "chunk_position": "last"}, "messages")
    print("printed by the agent")

async def rule(input, run):
    words = "all:\\n\\tgcc -O2 -Wall -o build/program src/main.c src/util.c src/parse.c src/print.c\\n\\tstrip build/program"
    for word in words.split(" "):
        run.send({"type": "AIMessageChunk", "id": "m1", "content": word + " "}, "messages")
        await asyncio.sleep(0)

async def count(input, run):
    run.record_usage("model", input_tokens=12, output_tokens=1)

async def sleep(input):
    await asyncio.Event().wait()

async def stubborn(input):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("not yet", flush=True)

async def stubborn_after_asking(input, run):
    run.interrupt("May I?")
    await stubborn(input)

async def blocking(input):
    print("about to block", flush=True)
    while True:  # a signal that came just before one long sleep would be seen only when that ends
        time.sleep(0.01)

def thread(input):
    print("in a thread", flush=True)
    threading.Event().wait()

def leave_threads(input):
    for _ in range(2):
        threading.Thread(target=threading.Event().wait).start()
    return "done"

def plain(input):
    return "done"

async def leave_a_call(input):
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    return "done"

async def fail(input):
    raise ValueError("\\x1b[2Jbad \\x1b]0;title\\x07news")
"""


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")


def recorded_statuses(here: Trackside) -> list[str]:
    return [json.loads(line)["status"] for line in here("runs", "--json").stdout.splitlines()]


def test_where_there_is_only_ascii_each_character_of_ours_has_one_that_takes_its_place(terminal: Any) -> None:
    shown = terminal("run", "agents.py:count", "Grüße", PYTHONUTF8="0", PYTHONIOENCODING="ascii", TERM="dumb")

    assert shown.wait() == 0
    assert shown.output.isascii()
    assert "13 tokens (12 in, 1 out) . 1 model call" in shown.text
    assert "Gr??e" in shown.text, "those of others are others'"


def rows(terminal: Any) -> list[str]:
    """The lines left on the screen, without their times."""
    return [line[9:] if line[:9].strip().endswith("s") else line for line in terminal.lines]


def test_in_the_end_the_screen_has_each_event_once_and_the_streamed_text_in_full(terminal: OpenTerminal) -> None:
    shown = terminal("run", "agents.py:talk", "What is it?", columns=80)

    assert shown.wait() == 0
    text = [row for row in rows(shown) if "printed by the agent" not in row]
    assert text[:8] == [
        "▸ started      agents.py:talk",
        "· thread       busy",
        "◆ human        What is it?",
        "◇ agent        The answer has more words than fit on one line of a",
        "                        narrow terminal.",
        "",
        "                        And a second paragraph.",
        "✓ completed",
    ]
    assert text[8] == "· thread       idle"
    assert len(text) == 12
    assert rows(shown).count("printed by the agent") == 1


def test_streamed_text_with_tabs_is_shown_in_full(terminal: OpenTerminal) -> None:
    shown = terminal("run", "agents.py:rule", "Write a Makefile", columns=80)

    assert shown.wait() == 0
    text = rows(shown)
    begin = text.index("◇ agent        all:")
    assert [line.rstrip() for line in text[begin + 1 : begin + 5]] == [
        "                            gcc -O2 -Wall -o build/program src/main.c src/util.c",
        "                        src/parse.c src/print.c",
        "                            strip build/program",
        "✓ completed",
    ]


def test_a_spinner_turns_while_the_agent_thinks_and_is_gone_in_the_end(terminal: OpenTerminal) -> None:
    shown = terminal("run", "agents.py:sleep", "hello")
    shown.wait_for("thinking")
    shown.press(b"\x03")

    assert shown.wait() == 130
    assert "thinking" not in "\n".join(shown.lines)
    assert shown.output.count(b"\x1b[?25l") == shown.output.count(b"\x1b[?25h") == 1, "the cursor comes back"


@pytest.mark.parametrize("columns", [40, 200])
def test_no_row_is_wider_than_the_terminal(terminal: OpenTerminal, columns: int) -> None:
    shown = terminal("run", "agents.py:talk", "What is it? " * 12, columns=columns)

    assert shown.wait() == 0
    beyond = [line for line in shown.lines if len(line) > columns]
    assert beyond == []
    words = " ".join(" ".join(line.split()) for line in shown.lines)
    assert "And a second paragraph." in words


def test_no_colour_means_no_colour(terminal: OpenTerminal) -> None:
    plain = terminal("run", "agents.py:talk", "hello", NO_COLOR="1")
    assert plain.wait() == 0
    coloured = terminal("run", "agents.py:talk", "hello")
    assert coloured.wait() == 0

    assert b"\x1b[36m" in coloured.output
    assert b"\x1b[36m" not in plain.output


def test_a_dumb_terminal_gets_lines_and_no_spinner(terminal: OpenTerminal) -> None:
    shown = terminal("run", "agents.py:talk", "hello", TERM="dumb")

    assert shown.wait() == 0
    assert b"\x1b" not in shown.output
    assert "✓ completed" in shown.text


def test_text_from_an_agent_cannot_steer_the_terminal(terminal: OpenTerminal) -> None:
    shown = terminal("run", "agents.py:fail", "\x1b[31mred")

    assert shown.wait() == 1
    assert b"\x1b[2J" not in shown.output
    assert b"\x1b]0;" not in shown.output
    assert b"\x1b[31mred" not in shown.output
    assert "bad" in shown.text


def test_ctrl_c_cancels_the_run_and_its_end_is_shown_and_recorded(terminal: OpenTerminal, here: Trackside) -> None:
    shown = terminal("run", "agents.py:sleep", "hello")
    shown.wait_for("thinking")
    shown.press(b"\x03")

    assert shown.wait() == 130
    assert "■ cancelled    on request" in rows(shown)
    assert "Traceback" not in shown.text
    assert recorded_statuses(here) == ["cancelled"]


def test_a_second_ctrl_c_leaves_an_agent_behind_that_does_not_stop_and_records_its_end(
    terminal: OpenTerminal, here: Trackside
) -> None:
    shown = terminal("run", "agents.py:stubborn", "hello")
    shown.wait_for("thinking")
    shown.press(b"\x03")
    shown.wait_for("not yet")
    shown.wait_for("once more to stop at once")
    shown.press(b"\x03")

    assert shown.wait() == 130
    assert "■ cancelled    left behind: it did not stop" in rows(shown)
    assert "the agent did not stop and was left behind" in " ".join(shown.text.split())
    assert b"\x1b[?25h" in shown.output
    assert "Traceback" not in shown.text
    assert recorded_statuses(here) == ["cancelled"]
    (thread,) = here("threads", "--json").stdout.splitlines()
    assert json.loads(thread)["status"] == "idle"
    ends = [json.loads(line)["payload"] for line in here("events", "--json").stdout.splitlines()][-2:]
    assert (ends[0]["cancel_mode"], ends[0]["reason"]) == ("shutdown", "left behind: it did not stop")
    assert ends[1] == {"status": "idle", "previous": "busy"}


def test_a_second_ctrl_c_breaks_into_an_agent_that_blocks_the_event_loop(
    terminal: OpenTerminal, here: Trackside
) -> None:
    shown = terminal("run", "agents.py:blocking", "hello")
    shown.wait_for("about to block")
    shown.press(b"\x03")
    shown.wait_for("the agent blocks; once more to break it off")
    shown.press(b"\x03")

    assert shown.wait() == 130
    assert recorded_statuses(here) == ["cancelled"]


def test_a_second_ctrl_c_does_not_wait_for_an_agents_thread(terminal: OpenTerminal) -> None:
    shown = terminal("run", "agents.py:thread", "hello")
    shown.wait_for("in a thread")
    shown.press(b"\x03")
    shown.wait_for("once more to stop at once")
    shown.press(b"\x03")

    assert shown.wait() == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_to_stop_are_as_ctrl_c(terminal: OpenTerminal, here: Trackside, number: signal.Signals) -> None:
    shown = terminal("run", "agents.py:sleep", "hello")
    shown.wait_for("thinking")
    shown.signal(number)

    assert shown.wait() == 130
    assert recorded_statuses(here) == ["cancelled"]


def test_a_run_whose_terminal_is_closed_is_cancelled_and_recorded(terminal: OpenTerminal, here: Trackside) -> None:
    shown = terminal("run", "agents.py:sleep", "hello")
    shown.wait_for("thinking")
    shown.hang_up()

    assert recorded_statuses(here) == ["cancelled"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_agent_is_imported_a_signal_ends_the_command_without_noise(
    terminal: OpenTerminal, tmp_path: Path, number: signal.Signals
) -> None:
    # A signal that came just before one long sleep would be seen only when that ends.
    (tmp_path / "slow.py").write_text(
        "import time\nprint('importing', flush=True)\nwhile True:\n    time.sleep(0.01)\n"
    )
    shown = terminal("run", "slow.py:agent", "hello")
    shown.wait_for("importing")
    shown.signal(number)

    assert shown.wait() == 130
    assert "Traceback" not in shown.text
    assert b"\x1b[?25h" in shown.output, "the cursor comes back"
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize("columns", [60, 160])
def test_tables_fit_the_terminal(terminal: OpenTerminal, here: Trackside, columns: int) -> None:
    here("run", "agents.py:fail", "a question that is longer than would fit " * 4)

    for command in ("runs", "threads", "events", "stats"):
        shown = terminal(command, columns=columns)
        assert shown.wait() == 0
        assert max(map(len, shown.lines)) <= columns
        assert len(shown.lines) > 1


def test_a_start_that_waits_for_the_database_says_so(terminal: OpenTerminal, here: Trackside, tmp_path: Path) -> None:
    here("run", "agents.py:talk", "hello")
    with closing(sqlite3.connect(tmp_path / "trackside.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        shown = terminal("run", "agents.py:talk", "hello")
        shown.wait_for("for the database")
        other.execute("ROLLBACK")

    assert shown.wait() == 0
    assert "waiting" not in "\n".join(shown.lines)
    assert recorded_statuses(here) == ["success", "success"]


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        ("leave_threads", "waiting for 2 threads of the agent or an observer; Ctrl-C leaves them"),
        ("leave_a_call", "waiting for 1 thread of the agent or an observer; Ctrl-C leaves it"),
    ],
)
def test_threads_that_an_agent_left_are_waited_for_aloud_and_ctrl_c_leaves_them(
    terminal: OpenTerminal, here: Trackside, agent: str, says: str
) -> None:
    shown = terminal("run", f"agents.py:{agent}", "hello")
    shown.wait_for(says)
    shown.press(b"\x03")

    assert shown.wait() == 0
    assert "Traceback" not in shown.text
    assert shown.lines[-1].startswith(says) or says in shown.lines[-2]
    assert recorded_statuses(here) == ["success"]


ON_A_BUSY_MACHINE = """
import gc, sys, threading, time

from trackside.app.cli import main

def take_longer_than_whoever_waits():
    while any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
        time.sleep(0.01)

gc.freeze = take_longer_than_whoever_waits
sys.exit(main())
"""
"""What a command has to do at its end takes as long as its threads are given to finish."""


def test_threads_that_wait_for_work_are_none_that_anybody_waits_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_A_BUSY_MACHINE, "run", "agents.py:plain", "hello"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert "waiting for" not in done.stderr


def test_the_live_row_is_no_wider_than_what_it_says(terminal: OpenTerminal) -> None:
    shown = terminal("run", "agents.py:sleep", "hello", columns=120)
    shown.wait_for("thinking")
    shown.press(b"\x03")

    assert shown.wait() == 130
    live = [row for row in shown.text.replace("\r", "\n").splitlines() if "thinking" in row]
    assert live
    assert max(map(len, live)) < 60


def test_a_question_stays_open_when_the_run_that_was_answered_is_left_behind(
    terminal: OpenTerminal, here: Trackside
) -> None:
    here("run", "agents.py:stubborn_after_asking", "hello", "--thread", "t-1")
    shown = terminal("resume", "t-1", "yes")
    shown.wait_for("thinking")
    shown.press(b"\x03")
    shown.wait_for("not yet")
    shown.press(b"\x03")

    assert shown.wait() == 130
    (thread,) = here("threads", "--json").stdout.splitlines()
    assert json.loads(thread)["status"] == "interrupted"
    assert "trackside resume t-1 'ANSWER'" in here("threads", "t-1").stdout
