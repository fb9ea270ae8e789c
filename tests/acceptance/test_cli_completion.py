"""Completion in a real shell: commands, options, and ids and names from the database; silent, and read-only."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from forking import Forkery
from trackside_server import TracksideServer

from trackside.app.storage import Store
from trackside.testing import make_run

TRIES = 20
PATIENT = """
from trackside.app.cli.commands import completing

completing.PATIENCE = 60.0
"""
"""A `sitecustomize` for shells, where a key is pressed once: on a busy machine it may take longer than a person waits."""
type Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    async def fill() -> None:
        async with Store.open(f"sqlite:///{tmp_path / 'trackside.db'}") as store:
            await store.append(make_run("run-alpha", thread_id="thread-alpha"))
            await store.append(make_run("run-beta", thread_id="thread-beta"))
            await store.subscriptions.open("mail", start="now")

    asyncio.run(fill())
    (tmp_path / "agents.py").write_text("async def echo(input):\n    return input\n", encoding="utf-8")
    return tmp_path


def offered(trackside: Run, line: str, **env: str) -> list[str]:
    words = line.split(" ")
    done = trackside(_TRACKSIDE_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def found(trackside: Run, line: str, **env: str) -> list[str]:
    """What is offered, where anything is: on a busy machine the first time may take longer than a person waits."""
    return next((names for _ in range(TRIES) if (names := offered(trackside, line, **env))), [])


def test_ids_and_names_are_offered_from_the_database(trackside: Run, filled: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in filled.iterdir()}
    assert found(trackside, "trackside runs run-b") == ["run-beta"]
    assert sorted(found(trackside, "trackside cancel ")) == ["run-alpha", "run-beta"]
    assert found(trackside, "trackside resume thread-a") == ["thread-alpha"]
    assert found(trackside, "trackside stats --agent ") == ["agent"]
    assert found(trackside, "trackside parked ") == ["mail"]
    assert found(trackside, "trackside db ") == ["current", "upgrade", "check", "compact"]
    assert {path.name: path.stat().st_mtime_ns for path in filled.iterdir()} == before, "it only reads"


@pytest.mark.parametrize(
    "env", [{"TRACKSIDE_DATABASE_URL": "nonsense://"}, {"TRACKSIDE_URL": "http://127.0.0.1:9"}, {}]
)
def test_what_fails_is_silent(trackside: Run, tmp_path: Path, env: dict[str, str]) -> None:
    assert offered(trackside, "trackside runs ", **env) == []
    assert not [*tmp_path.glob("*.db*")]


def test_a_server_is_asked_where_one_is_meant(trackside: Run, filled: Path, forkery: Forkery) -> None:
    with TracksideServer(filled, "agents.py:echo", database="sqlite:///trackside.db", forkery=forkery) as server:
        assert found(trackside, f"trackside runs --url {server.url} run-b") == ["run-beta"]
        from_variable = {"TRACKSIDE_URL": server.url, "TRACKSIDE_DATABASE_URL": "sqlite:///nowhere.db"}
        assert found(trackside, "trackside resume thread-a", **from_variable) == ["thread-alpha"]
        assert found(trackside, "trackside parked ", **from_variable) == ["mail"]
        assert found(trackside, "trackside runs -d sqlite:///trackside.db run-a", **from_variable) == ["run-alpha"]
        assert offered(trackside, f"trackside runs --url {server.url} -d sqlite:///trackside.db run-a") == []


def test_a_server_that_does_not_answer_is_left_alone(trackside: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert offered(trackside, f"trackside runs --url {url} run-b") == []


def shell_of(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def environment(folder: Path) -> dict[str, str]:
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(PATIENT, encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKSIDE_", "PS1"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    of_shells = {"PATH": path, "PS1": "ready> ", "TERM": "dumb", "HOME": str(folder)}
    return {**own, **of_shells, "PYTHONPATH": str(folder / "site")}


@pytest.fixture
def spawn(filled: Path) -> Iterator[Callable[..., pexpect.spawn]]:
    """Starts shells on a terminal, in a folder with records."""
    children: list[pexpect.spawn] = []

    def start(name: str, *arguments: str) -> pexpect.spawn:
        env = environment(filled)
        child = pexpect.spawn(shell_of(name), [*arguments], cwd=str(filled), env=env, encoding="utf-8", timeout=60)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


@pytest.mark.parametrize(
    ("name", "arguments", "prepare"),
    [
        ("bash", ("--norc", "--noprofile"), 'eval "$(trackside --show-completion bash)"'),
        ("zsh", ("-f", "-i"), 'autoload -U compinit && compinit -u -D && eval "$(trackside --show-completion zsh)"'),
    ],
)
def test_in_a_real_shell(
    spawn: Callable[..., pexpect.spawn], name: str, arguments: tuple[str, ...], prepare: str
) -> None:
    shell = spawn(name, *arguments)
    shell.expect_exact("ready> ")
    shell.sendline(f"{prepare}; echo installed-$?")
    shell.expect_exact("installed-0")
    shell.expect_exact("ready> ")
    shell.send("trackside runs run-al\t")
    shell.expect_exact("run-alpha")
    shell.send("\x15trackside subscr\t")
    shell.expect_exact("subscriptions ")
    shell.sendcontrol("u")
    shell.sendline("exit")
    shell.expect(pexpect.EOF)


def test_in_a_real_fish(filled: Path) -> None:
    def completed(line: str) -> list[str]:
        """What fish offers, one candidate a line; `complete -C` is how to ask fish without a terminal."""
        script = f"trackside --show-completion fish | source; complete -C '{line}'"
        command = [shell_of("fish"), "--no-config", "-c", script]
        done = subprocess.run(
            command, cwd=filled, env=environment(filled), capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == ""
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert completed("trackside runs run-al") == ["run-alpha"]
    assert completed("trackside subscr") == ["subscriptions"]
    assert "--status" in completed("trackside runs --st")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(trackside: Run, shell: str) -> None:
    done = trackside(_TRACKSIDE_COMPLETE=f"source_{shell}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_TRACKSIDE_COMPLETE=complete_" + shell in done.stdout


def test_it_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    command = [shell_of("bash"), "-c", "trackside --install-completion; exit $?"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "bash completion installed in" in done.stdout
    assert (tmp_path / ".bash_completions" / "trackside.sh").exists()
