"""Ctrl-C at many moments of a command, from its first step to its last."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.acceptance.conftest import EXECUTABLE, PATIENCE, environment

import trackside_command
from trackside.app.cli import INTERRUPTED
from trackside.app.cli.failures import ExitCode
from trackside.app.storage import Store

NOISE = re.compile(r"Traceback|Warning|Exception|\w+Error|never (awaited|retrieved)|destroyed")
IGNORED = """
import runpy, sys
script, program = sys.argv[1:]
sys.meta_path.insert(0, runpy.run_path(script)["Interrupter"](20, 1))
sys.argv = [program, "--version"]
runpy.run_path(program, run_name="__main__")
"""
"""A program in which Ctrl-C comes at an import, and nothing handles it."""
UNHURRIED = pytest.mark.timeout(280)
AGENTS = "async def echo(input):\n    return {'answer': input}\n"


def interrupted(
    folder: Path, *command: str | Path, steps: int, by: str = "interrupted.py"
) -> list[tuple[str, int, str]]:
    """Where Ctrl-C came, how the command ended and what it showed, for each step; the first without Ctrl-C."""
    script = Path(__file__).with_name(by)
    said = subprocess.run(
        [sys.executable, script, str(steps), *command],
        cwd=folder,
        env=environment() | {"PYTHONWARNINGS": ""},  # as users have it
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=PATIENCE * (4 + steps // 10),
        check=True,
    )
    return [tuple(json.loads(line)) for line in said.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    async def make() -> None:
        async with Store.open(f"sqlite:///{tmp_path}/trackside.db"):
            pass

    asyncio.run(make())
    (tmp_path / "agents.py").write_text(AGENTS)
    return tmp_path


@pytest.mark.parametrize("steps", [pytest.param(6, marks=UNHURRIED), pytest.param(1_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("command", [("runs",), ("run", "agents.py:echo", "hello")], ids=" ".join)
def test_ctrl_c_ends_a_command_without_a_word_whenever_it_comes(
    folder: Path, command: tuple[str, ...], steps: int
) -> None:
    (_, by_itself, whole), *others = interrupted(folder, *command, steps=steps)

    assert by_itself == 0, whole
    assert len(others) >= steps
    assert {code for _, code, _ in others} <= {130, by_itself}
    assert [(where, code, shown) for where, code, shown in others if NOISE.search(shown)] == []
    assert [code for _, code, _ in others[: len(others) // 4]] == [130] * (len(others) // 4), "it had hardly begun"


@pytest.mark.parametrize("command", [("cancel", "r"), ("run", "agents.py:echo", "hello")], ids=" ".join)
def test_who_waits_for_an_upgrade_is_told_so_and_leaves_with_ctrl_c(folder: Path, command: tuple[str, ...]) -> None:
    with closing(sqlite3.connect(folder / "trackside.db", isolation_level=None)) as other:
        other.execute("UPDATE alembic_version SET version_num = '0008'")
        other.execute("BEGIN IMMEDIATE")
        with subprocess.Popen(
            [EXECUTABLE, *command],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as waiting:
            try:
                assert waiting.stderr is not None
                assert any("trackside.db locked" in line for line in waiting.stderr)
                waiting.send_signal(signal.SIGINT)
                _, rest = waiting.communicate(timeout=PATIENCE)
            finally:
                waiting.kill()
    assert (waiting.returncode, NOISE.search(rest)) == (INTERRUPTED, None)


@pytest.mark.parametrize("steps", [pytest.param(5, marks=UNHURRIED), pytest.param(200, marks=pytest.mark.long)])
def test_ctrl_c_ends_a_program_without_a_word_while_it_imports(folder: Path, steps: int) -> None:
    (_, by_itself, whole), *others = interrupted(folder, EXECUTABLE, "runs", steps=steps, by="interrupted_importing.py")

    assert by_itself == 0, whole
    assert len({where for where, _, _ in others}) == steps
    assert [(where, code, shown) for where, code, shown in others if (code, shown) != (INTERRUPTED, "")] == []


def test_who_begins_a_program_with_ctrl_c_ignored_has_it_ignored(folder: Path) -> None:
    script = Path(__file__).with_name("interrupted_importing.py")
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", IGNORED, script, EXECUTABLE]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, "trackside " in done.stdout, done.stderr) == (0, True, "")


def test_the_program_and_the_command_line_agree_on_what_ctrl_c_is() -> None:
    assert trackside_command.INTERRUPTED == INTERRUPTED == ExitCode.cancelled
