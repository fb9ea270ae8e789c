"""`--help` has a group, exit codes and examples for every command; all examples are understood, and many are run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_parser import COMMANDS, of_trackside, understood

from trackside.app.cli.commands.manual import MANUAL

type Run = Callable[..., subprocess.CompletedProcess[str]]

AGENTS = "async def chat(input):\n    return 'nothing'\n"
SPENDER = "async def spender(question, run):\n    run.record_usage('model', input_tokens=100, output_tokens=20)\n"
EXAMPLES = [(name, example) for name, entry in MANUAL.items() for example in entry.examples]


def test_the_manual_has_all_commands_and_no_others() -> None:
    assert set(MANUAL) == set(COMMANDS)
    for name, entry in MANUAL.items():
        assert COMMANDS[name].epilog, name
        assert entry.group in {"Run", "Look", "Act", "Serve", "Data", "Upkeep"}
        assert 2 <= len(entry.examples) <= 4, name


def test_groups_are_in_the_order_in_which_they_are_needed(here: Run) -> None:
    shown = here("--help", COLUMNS="100").stdout
    places = [shown.index(f"─ {group} ─") for group in ("Run", "Look", "Act", "Serve", "Data", "Upkeep")]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown


@pytest.mark.parametrize("name", [*MANUAL])
def test_help_shows_what_the_manual_has(here: Run, name: str) -> None:
    shown = here(*name.split(), "--help", COLUMNS="200").stdout
    assert f"Exit codes: {MANUAL[name].exits}." in shown
    assert shown.casefold().count("exit code") == 1, "it is said once"
    for example in MANUAL[name].examples:
        assert example.line in shown
        assert example.what in shown


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=lambda value: getattr(value, "line", ""))
def test_every_example_is_one_of_its_command(name: str, example: Any) -> None:
    path = understood(of_trackside(example.line))
    assert path == name or name in {"auth", "db", "fleet"}


def test_examples_run(here: Run, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    for name, example in EXAMPLES:
        if example.runs:
            done = here(*of_trackside(example.line))
            assert done.returncode == 0, (name, example.line, done.stderr)


@pytest.mark.parametrize("line", [e.line for name, e in EXAMPLES if "--url" in e.line and name != "top"])
def test_what_an_example_asks_of_a_server_can_be_asked(here: Run, line: str) -> None:
    arguments = of_trackside(line)
    arguments[arguments.index("--url") + 1] = "http://127.0.0.1:1"

    refused = here(*arguments)

    assert refused.stderr.startswith("error: No server answers at http://127.0.0.1:1")


def test_the_manual_names_the_code_of_waiting_that_is_broken_off() -> None:
    waiting = [name for name, command in COMMANDS.items() if any("--wait" in one.opts for one in command.params)]

    assert waiting == [name for name in waiting if "; 130 " in MANUAL[name].exits]
    assert "cancel" in waiting


def test_an_error_is_explained_by_the_code_that_its_message_ends_with(here: Run) -> None:
    failed = here("run", "nowhere.py:agent", "hello")
    code = failed.stderr.split()[-1]
    assert code == "[agent-reference]"

    explained = here("explain", code)

    assert explained.returncode == 0
    assert explained.stdout.startswith("agent-reference\n")
    assert "**What to do:** write `path/file.py:name`" in explained.stdout


def test_what_a_run_failed_of_is_explained_by_the_word_that_its_message_begins_with(here: Run, tmp_path: Path) -> None:
    (tmp_path / "spender.py").write_text(SPENDER, encoding="utf-8")
    failed = here("run", "spender.py:spender", "hello", "--max-tokens", "10")
    (word,) = [word for word in failed.stdout.split() if word.startswith("budget")]

    explained = here("explain", word)

    assert explained.returncode == 0, explained.stderr
    assert explained.stdout.startswith("budget_exceeded\n")


def test_a_code_that_is_none_is_answered_with_the_one_that_is_meant(here: Run) -> None:
    mistyped = here("explain", "folder-mising")
    assert mistyped.returncode == 2
    assert "did you mean 'folder-missing'?" in mistyped.stderr


def test_all_codes_are_listed_with_a_sentence(here: Run) -> None:
    lines = here("explain").stdout.splitlines()
    assert len(lines) > 150
    assert next(line for line in lines if line.startswith("thread-busy ")).endswith("the strategy `reject`.")


def test_codes_are_explained_to_programs_an_object_a_line(here: Run) -> None:
    listed = [json.loads(line) for line in here("explain", "--json").stdout.splitlines()]
    assert [one["code"] for one in listed] == [line.split()[0] for line in here("explain").stdout.splitlines()]
    assert all(one.keys() == {"code", "explanation", "what_to_do"} and all(one.values()) for one in listed)

    one = here("explain", "[thread-busy]", "--json")
    assert [json.loads(line) for line in one.stdout.splitlines()] == [c for c in listed if c["code"] == "thread-busy"]


@pytest.mark.parametrize("arguments", [(), ("thread-busy",), ("--json",)], ids=["all", "one", "json"])
@pytest.mark.parametrize(
    ("output", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
    ids=["full", "closed"],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_cannot_be_written_is_not_explained(
    trackside: Run, output: str, why: str, arguments: tuple[str, ...]
) -> None:
    done = trackside("explain", *arguments, shell=f'exec "$0" "$@" {output}')

    assert done.returncode == 1
    assert done.stderr == f"error: standard output cannot be written: {why}. [output-not-writable]\n"


def test_a_reader_that_has_gone_needs_no_explanation(trackside: Run) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = trackside("explain", stdout=writing)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (141, "")
