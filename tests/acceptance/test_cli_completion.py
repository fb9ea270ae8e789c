"""Completion in a real shell: commands, options, and ids and names out of the database; silent, and only reading."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from trackside.app.storage import Store
from trackside.testing import make_run

type Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    async def fill() -> None:
        async with Store.open(f"sqlite:///{tmp_path / 'trackside.db'}") as store:
            await store.append(make_run("run-alpha", thread_id="thread-alpha"))
            await store.append(make_run("run-beta", thread_id="thread-beta"))
            await store.subscriptions.open("mail", start="now")

    asyncio.run(fill())
    return tmp_path


def offered(trackside: Run, line: str, **env: str) -> list[str]:
    words = line.split(" ")
    done = trackside(_TRACKSIDE_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_ids_and_names_are_offered_from_the_database(trackside: Run, filled: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in filled.iterdir()}
    assert offered(trackside, "trackside runs run-b") == ["run-beta"]
    assert sorted(offered(trackside, "trackside cancel ")) == ["run-alpha", "run-beta"]
    assert offered(trackside, "trackside resume thread-a") == ["thread-alpha"]
    assert offered(trackside, "trackside stats --agent ") == ["agent"]
    assert offered(trackside, "trackside parked ") == ["mail"]
    assert offered(trackside, "trackside db ") == ["current", "upgrade", "check", "compact"]
    assert {path.name: path.stat().st_mtime_ns for path in filled.iterdir()} == before, "it only reads"


@pytest.mark.parametrize(
    "env", [{"TRACKSIDE_DATABASE_URL": "nonsense://"}, {"TRACKSIDE_URL": "http://127.0.0.1:9"}, {}]
)
def test_what_fails_is_silent(trackside: Run, tmp_path: Path, env: dict[str, str]) -> None:
    assert offered(trackside, "trackside runs ", **env) == []
    assert not [*tmp_path.glob("*.db*")]


@pytest.fixture
def bash(filled: Path) -> Iterator[pexpect.spawn]:
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("there is no bash here")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKSIDE_", "PS1"))}
    env = {**own, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PS1": "ready> ", "TERM": "dumb"}
    child = pexpect.spawn(shell, ["--norc", "--noprofile"], cwd=str(filled), env=env, encoding="utf-8", timeout=60)
    yield child
    child.close(force=True)


def test_in_a_real_bash(bash: pexpect.spawn) -> None:
    bash.expect_exact("ready> ")
    bash.sendline('eval "$(trackside --show-completion bash)"; echo installed-$?')
    bash.expect_exact("installed-0")
    bash.expect_exact("ready> ")
    bash.send("trackside runs run-al\t")
    bash.expect_exact("run-alpha")
    bash.send("\x15trackside subscr\t")
    bash.expect_exact("subscriptions ")
    bash.sendcontrol("u")
    bash.sendline("exit")
    bash.expect(pexpect.EOF)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(trackside: Run, shell: str) -> None:
    done = trackside(_TRACKSIDE_COMPLETE=f"source_{shell}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_TRACKSIDE_COMPLETE=complete_" + shell in done.stdout


def test_it_is_installed_for_a_shell(trackside: Run, tmp_path: Path) -> None:
    done = trackside("--install-completion", "bash", HOME=str(tmp_path))
    assert done.returncode == 0
    assert "bash completion installed in" in done.stdout
    assert (tmp_path / ".bash_completions" / "trackside.sh").exists()
