"""`trackside run` and `resume`: the real executable on agents in files, through pipes."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trackside.app.cli.actions import running
from trackside.app.wiring.agents import load_agent

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]
Piped = Callable[..., "subprocess.Popen[str]"]

AGENTS = '''
"""Agents of every kind of end."""
import asyncio
import sys
from dataclasses import dataclass

async def echo(input):
    return {"answer": input}

async def talk(input, run):
    run.record_usage("gpt-5-mini", input_tokens=1200, output_tokens=34, cost_usd=0.0123)
    run.record_tool_call("search")
    run.send({"step": 1})
    run.message({"type": "ai", "content": "Nothing was found.\\nSorry."})
    run.set_title("Looking for nothing")

async def fail(input):
    return look_up(input)

def look_up(input):
    raise LookupError("no such thing")

async def sleep(input):
    await asyncio.Event().wait()

async def ask(input, run):
    return f"You said {run.interrupt('May I?')!r} to {input!r}"

async def refund(input, run):
    return {order: run.interrupt(f"Refund order {order}?") for order in (7, 8)}

async def sign(input, run):
    run.interrupt("May I?")
    await asyncio.Event().wait()

async def loud(input):
    print("printed")
    sys.stdout.write("written\\n")
    import os
    os.system("echo from a child")
    return "quiet"

async def verbose(input, run):
    for _ in range(30):
        run.send("more than a pipe holds " * 500)

@dataclass
class Numbers:
    def __call__(self, input):
        return {"sum": sum(input)}

total = Numbers()
'''


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def without_times(text: str) -> list[str]:
    """The rows of a timeline without their times."""
    return [line[9:] if line[:9].strip().endswith("s") else line for line in text.splitlines()]


def test_a_run_is_shown_as_plain_lines_in_a_pipe(trackside: Trackside) -> None:
    done = trackside("run", "agents.py:talk", "What is there?\nAnything?")

    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    rows = without_times(done.stdout)
    assert rows[:9] == [
        "▸ started      agents.py:talk",
        "· thread       busy",
        "◆ human        What is there?",
        "                        Anything?",
        '· custom       {"step": 1}',
        "◇ agent        Nothing was found.",
        "                        Sorry.",
        "✓ completed    1,234 tokens (1,200 in, 34 out) · 1 model call · 1 tool call · $0.0123",
        "· thread       idle",
    ]
    assert [row.split()[0] for row in rows[9:]] == ["run", "thread", "recorded"]
    assert rows[-1].endswith("sqlite:///trackside.db")


def test_what_was_run_is_in_the_database_of_the_folder_right_after(trackside: Trackside, here: Trackside) -> None:
    ran = trackside("run", "agents.py:talk", "hello", "--thread", "t-1", "--metadata", "team=search", "-m", "tries=2")
    listed = here("runs", "--json")

    assert ran.returncode == listed.returncode == 0
    (run,) = json_lines(listed.stdout)
    assert run["thread_id"] == "t-1"
    assert run["agent"] == "agents.py:talk"
    assert run["status"] == "success"
    assert run["metadata"] == {"team": "search", "tries": 2}
    assert run["title"] == "Looking for nothing"


def test_json_has_every_event_on_a_line_and_the_result_last(trackside: Trackside) -> None:
    done = trackside("run", "agents.py:talk", "hello", "--json")

    *events, last = json_lines(done.stdout)
    assert [event["event_type"] for event in events] == [
        "run_started",
        "thread_status_updated",
        "human_message",
        "run_completed",
        "thread_status_updated",
    ]
    assert [event["sequence"] for event in events] == [1, 2, 3, 4, 5]
    assert all(
        list(event) == ["event_id", "event_type", "run_id", "thread_id", "sequence", "occurred_at", "payload"]
        for event in events
    )
    assert list(last) == ["result"]
    assert last["result"]["status"] == "success"
    assert last["result"]["run_id"] == events[0]["run_id"]
    assert last["result"]["completion_data"]["total_tokens"] == 1234
    assert last["result"]["title"] == "Looking for nothing"
    assert last["result"]["output"] is None


def test_json_has_what_the_agent_returned(trackside: Trackside) -> None:
    returned = trackside("run", "agents.py:echo", "hello", "--json")
    failed = trackside("run", "agents.py:fail", "hello", "--json")

    assert json_lines(returned.stdout)[-1]["result"]["output"] == {"answer": "hello"}
    assert json_lines(failed.stdout)[-1]["result"]["output"] is None


def test_what_an_agent_prints_never_gets_between_json_lines(trackside: Trackside) -> None:
    done = trackside("run", "agents.py:loud", "hello", "--json")

    assert json_lines(done.stdout)[-1]["result"]["status"] == "success"
    assert sorted(done.stderr.splitlines()) == ["from a child", "printed", "written"]


@pytest.mark.parametrize(
    ("agent", "options", "code", "status"),
    [
        ("echo", [], 0, "success"),
        ("fail", [], 1, "error"),
        ("ask", [], 75, "interrupted"),
        ("sleep", ["--timeout", "50ms"], 124, "timeout"),
    ],
)
def test_the_exit_code_says_how_the_run_ended(
    trackside: Trackside, here: Trackside, agent: str, options: list[str], code: int, status: str
) -> None:
    done = trackside("run", f"agents.py:{agent}", "hello", "--json", *options)

    assert done.returncode == code
    assert json_lines(done.stdout)[-1]["result"]["status"] == status
    (recorded,) = json_lines(here("runs", "--json").stdout)
    assert recorded["status"] == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_run_and_its_end_is_recorded(
    here: Trackside, piped: Piped, number: signal.Signals
) -> None:
    process = piped("run", "agents.py:sleep", "hello", "--json")
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline()) for _ in range(3)]

    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert errors == ""
    *events, last = json_lines(rest)
    assert [event["event_type"] for event in seen + events][-2:] == ["run_cancelled", "thread_status_updated"]
    assert last["result"]["status"] == "cancelled"
    (recorded,) = json_lines(here("runs", "--json").stdout)
    assert recorded["status"] == "cancelled"


def test_a_failure_is_shown_with_the_agents_own_traceback_and_without_ours(
    trackside: Trackside, tmp_path: Path
) -> None:
    done = trackside("run", "agents.py:fail", "hello")

    assert "✗ failed       LookupError: no such thing" in done.stdout
    frames = [line.split('"')[1] for line in done.stdout.splitlines() if line.lstrip().startswith("File ")]
    assert [Path(frame).name for frame in frames] == ["agents.py", "agents.py"]
    assert "in look_up" in done.stdout


def test_an_interrupt_says_what_is_asked_and_how_to_answer_and_the_answer_resumes(
    trackside: Trackside, here: Trackside
) -> None:
    asked = trackside("run", "agents.py:ask", "hello", "--thread", "t-1")
    command = asked.stdout.splitlines()[-1].strip()
    shown = here("threads", "t-1")
    answered = trackside("resume", "t-1", "yes")

    assert asked.returncode == 75
    assert "? waiting      May I?" in asked.stdout
    assert command == "trackside resume t-1 'ANSWER'"
    assert command in shown.stdout
    assert "May I?" in shown.stdout
    assert answered.returncode == 0
    assert "You said 'yes' to 'hello'" in answered.stdout
    (thread,) = json_lines(here("threads", "--json").stdout)
    assert thread["status"] == "idle"
    statuses = [event["payload"]["previous"] for event in changes_of_status(here)]
    assert statuses == ["idle", "busy", "interrupted", "busy"]


def changes_of_status(here: Trackside) -> list[dict[str, Any]]:
    return json_lines(here("events", "--json", "--type", "thread_status_updated").stdout)


def test_an_answer_can_be_json(trackside: Trackside) -> None:
    trackside("run", "agents.py:ask", "hello", "--thread", "t-1")

    done = trackside("resume", "t-1", '{"approved": true}')

    assert done.returncode == 0
    assert "You said {'approved': True} to 'hello'" in done.stdout


def test_an_imported_question_is_not_answered_where_nobody_remembers_it(here: Trackside) -> None:
    here("run", "agents.py:ask", "hello", "--thread", "t-1")
    here("export", "log.jsonl")
    here("import", "log.jsonl", "-d", "sqlite:///other.db")

    lost = here("resume", "t-1", "yes", "-d", "sqlite:///other.db")

    assert lost.returncode == 2
    assert (lost.stdout, lost.stderr.count("\n")) == ("", 1)
    assert lost.stderr.startswith("error: Thread 't-1' does not wait for an answer, nor remember what it asked: ")
    assert len(json_lines(here("runs", "--json", "-d", "sqlite:///other.db").stdout)) == 1
    assert here("resume", "t-1", "yes").returncode == 0


@pytest.mark.parametrize(("agent", "standing"), [("sign", "it is busy"), ("ask", "it is idle")])
def test_who_answers_when_somebody_has_just_answered_is_told_so(
    here: Trackside, piped: Piped, monkeypatch: pytest.MonkeyPatch, agent: str, standing: str
) -> None:
    """Between reading the question and the run that brings the answer the agent is imported, which takes a while."""
    here("run", f"agents.py:{agent}", "hello", "--thread", "t-1")

    def load(*args: Any, **options: Any) -> Any:
        first = piped("resume", "t-1", "yes", "--json")
        assert first.stdout is not None
        assert "run_started" in first.stdout.readline()
        if agent == "ask":
            assert first.wait() == 0
        return load_agent(*args, **options)

    monkeypatch.setattr(running, "load_agent", load)
    late = here("resume", "t-1", "no")
    monkeypatch.undo()

    assert (late.returncode, late.stdout, late.stderr.count("\n")) == (2, "", 1)
    assert late.stderr.startswith(f"error: Thread 't-1' does not wait for an answer, {standing}; ")


def test_an_answer_is_none_to_what_is_asked_after_somebody_has_answered(
    here: Trackside, piped: Piped, monkeypatch: pytest.MonkeyPatch
) -> None:
    here("run", "agents.py:refund", "hello", "--thread", "t-1")

    def load(*args: Any, **options: Any) -> Any:
        assert piped("resume", "t-1", "yes", "--json").wait() == 75
        return load_agent(*args, **options)

    with monkeypatch.context() as changes:
        changes.setattr(running, "load_agent", load)
        late = here("resume", "t-1", "yes")

    assert (late.returncode, late.stdout, late.stderr.count("\n")) == (2, "", 1)
    assert late.stderr.startswith("error: Thread 't-1' waits for ")
    assert len(json_lines(here("runs", "--json").stdout)) == 2, "no run was started for nothing"
    assert "Refund order 8?" in here("threads", "t-1").stdout
    read = here("resume", "t-1", "no", "--json")
    assert json_lines(read.stdout)[-1]["result"]["output"] == {"7": "yes", "8": "no"}


def test_an_agent_that_has_moved_is_named_for_the_answer(trackside: Trackside, tmp_path: Path) -> None:
    trackside("run", "agents.py:ask", "hello", "--thread", "t-1")
    (tmp_path / "agents.py").rename(tmp_path / "moved.py")

    lost = trackside("resume", "t-1", "yes")
    found = trackside("resume", "t-1", "yes", "--agent", "moved.py:ask")

    assert lost.returncode == 2
    assert "there is no file agents.py" in lost.stderr
    assert found.returncode == 0


def test_the_database_that_was_chosen_is_part_of_the_command_to_type_next(trackside: Trackside) -> None:
    asked = trackside("run", "agents.py:ask", "hello", "--thread", "t 1", "--database", "sqlite:///my runs.db")

    assert asked.stdout.splitlines()[-1].strip() == (
        "trackside resume 't 1' 'ANSWER' --database 'sqlite:///my runs.db'"
    )


def test_a_thread_whose_id_begins_like_an_option_is_answered_by_the_command_that_is_shown(trackside: Trackside) -> None:
    there = ("--database", "sqlite:///my runs.db")
    asked = trackside("run", "agents.py:ask", "hello", "--thread", "-1001234567890", *there)
    shown = asked.stdout.splitlines()[-1].strip()
    answered = trackside(*shlex.split(shown)[1:])

    assert shown == "trackside resume --database 'sqlite:///my runs.db' -- -1001234567890 'ANSWER'"
    assert answered.returncode == 0, answered.stderr


def test_an_input_comes_from_standard_input_or_a_file(trackside: Trackside, tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text("[1, 2, 3]")

    from_file = trackside("run", "agents.py:total", "@numbers.json")
    from_pipe = trackside("run", "agents.py:echo", "-", stdin="piped text\n")
    quoted = trackside("run", "agents.py:echo", '"[URGENT] text"')

    assert '= output       {"sum": 6}' in from_file.stdout
    assert '= output       {"answer": "piped text"}' in from_pipe.stdout
    assert "◆ human        [URGENT] text" in quoted.stdout


def test_a_name_from_the_settings_file_runs_its_agent(trackside: Trackside, here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text('[agents]\nchat = "agents:talk"\n[database]\nurl = "sqlite:///named.db"\n')

    done = trackside("run", "chat", "hello")

    assert done.returncode == 0
    assert "▸ started      chat" in done.stdout
    assert (tmp_path / "named.db").exists()
    (run,) = json_lines(here("runs", "--json").stdout)
    assert run["agent"] == "chat"


def test_a_reader_that_goes_away_neither_stops_the_run_nor_makes_a_traceback(here: Trackside, piped: Piped) -> None:
    process = piped("run", "agents.py:verbose", "hello")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()

    assert process.wait(timeout=60) == 0
    assert errors == ""
    (run,) = json_lines(here("runs", "--json").stdout)
    assert run["status"] == "success"


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["rows", "json"])
@pytest.mark.parametrize(
    ("output", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
    ids=["full", "closed"],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_that_cannot_be_written_is_said_in_one_line_and_the_run_recorded(
    trackside: Trackside, here: Trackside, output: str, why: str, options: list[str]
) -> None:
    ran = trackside("run", "agents.py:talk", "hello", *options, shell=f'exec "$0" "$@" {output}')
    looked = trackside("runs", *options, shell=f'exec "$0" "$@" {output}')

    assert (ran.returncode, looked.returncode) == (1, 1)
    assert ran.stderr == looked.stderr == f"error: standard output cannot be written: {why}. [output-not-writable]\n"
    assert [run["status"] for run in json_lines(here("runs", "--json").stdout)] == ["success"]


@pytest.mark.parametrize("agent", ["interrupted", "interrupted_in_a_thread"])
def test_an_agent_that_raises_keyboardinterrupt_has_failed_and_that_is_all(
    trackside: Trackside, tmp_path: Path, agent: str
) -> None:
    (tmp_path / "own.py").write_text(
        "async def interrupted(input): raise KeyboardInterrupt('by whom?')\n"
        "def interrupted_in_a_thread(input): raise KeyboardInterrupt('by whom?')\n"
    )

    done = trackside("run", f"own.py:{agent}", "hello")

    assert done.returncode == 1
    assert done.stderr == ""
    rows = without_times(done.stdout)
    assert "✗ failed       KeyboardInterrupt: by whom?" in rows
    assert "· thread       error" in rows
    assert done.stdout.count("Traceback") == 1


def test_ctrl_c_before_there_is_a_run_ends_the_command(trackside: Trackside, here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "import os, signal, sys\n"
        "class PressedWhileStorageIsImported:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'trackside.app.storage':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, PressedWhileStorageIsImported())\n"
        "async def echo(input): return input\n"
    )

    done = trackside("run", "early.py:echo", "hello", shell='exec "$0" "$@"')

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert here("runs", "--json").stdout == ""
