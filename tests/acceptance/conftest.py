"""The command line as users have it: in a folder of its own, through pipes and on terminals.

Commands are forked, unless a test types them into a shell: then the executable itself runs.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from commands_here import commands_here
from forked_command import ForkedCommand
from forking import Forkery
from postgres_server import RunningServer
from served_project import ServedProject
from strictness import WARNINGS

from trackside.app.cli import main
from trackside.app.storage.subscriptions import Subscription
from trackside.app.wiring.delivering import Deliveries

EXECUTABLE = Path(sys.executable).with_name("trackside")
PATIENCE = 60.0  # seconds after which something that does not come counts as hanging


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what changes how things look or which database is used."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "TZ"}
        and not name.startswith("TRACKSIDE_")
    }
    return {**own, "PYTHONWARNINGS": WARNINGS, "TERM": "xterm-256color", "PYTHONUTF8": "1", **more}


@pytest.fixture
def trackside(tmp_path: Path, forkery: Forkery) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one command in `tmp_path` to its end, without a terminal; `shell` is a script, with the command as `$0`."""

    def run(
        *arguments: str, stdin: str = "", shell: str | None = None, stdout: int | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        if shell is not None:
            return subprocess.run(
                ["sh", "-c", shell, EXECUTABLE, *arguments],
                cwd=tmp_path,
                env=environment(**env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        command = ForkedCommand(
            forkery, arguments, folder=tmp_path, environment=environment(**env), stdin=stdin, stdout=stdout
        )
        out, err = command.communicate(PATIENCE)
        return subprocess.CompletedProcess(arguments, command.wait(0), out, err)

    return run


@pytest.fixture
def left_for_later_when(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Subscription]], bool]], None]:
    """`left_for_later_when(holds)`: what is not delivered has its last seconds only once this holds of the subscriptions.

    For commands `here`. If it never holds, the test's time limit ends the test.
    """
    drain = Deliveries.drain

    def begin(holds: Callable[[dict[str, Subscription]], bool]) -> None:
        async def drain_then(self: Deliveries, seconds: float) -> None:
            while not self._drained and not holds({one.name: one for one in await self._store.subscriptions.all()}):
                await asyncio.sleep(0.01)
            await drain(self, seconds)

        monkeypatch.setattr(Deliveries, "drain", drain_then)

    return begin


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """Commands start with the signals that their tests send at their defaults, even where `nohup` or a shell's `&` had
    these ignored for everything that the test run starts.
    """
    ignored = [n for n in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT) if signal.getsignal(n) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], blockbuster: BlockBuster
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """As `trackside`, but in this process: a tenth of the time, for tests of many commands.

    Importing what a command needs blocks its event loop, and here that is the first thing that happens in the loop.
    """
    blockbuster.deactivate()
    monkeypatch.chdir(tmp_path)
    kept = environment()
    for name in set(os.environ) - set(kept):
        monkeypatch.delenv(name)
    # A framework's package of this name, which other tests have imported, is not there when a command begins.
    hidden = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "agents"}
    modules, path = set(sys.modules), list(sys.path)

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as changes:
            for name, value in env.items():
                changes.setenv(name, value)
            code = main(list(arguments))
        shown = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, shown.out, shown.err)

    with commands_here():
        yield run
    sys.path[:] = path
    for name in {name for name in set(sys.modules) - modules if name.startswith(("_trackside_agent", "agents"))}:
        del sys.modules[name]
    sys.modules.update(hidden)


@pytest.fixture(scope="module")
def project(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_names: Iterator[str],
    forkery: Forkery,
) -> Iterator[ServedProject]:
    """A project made for LangGraph's server, served on either database for all tests of a module."""
    databases: list[tuple[RunningServer, str]] = []

    def postgres() -> str:
        server: RunningServer = request.getfixturevalue("postgres_server")
        databases.append((server, next(postgres_names)))
        return server.create_database(databases[-1][1])

    with ServedProject(tmp_path_factory.mktemp("project"), postgres, forkery) as served:
        yield served
    for server, name in databases:
        server.drop_database(name)


@pytest.fixture
def piped(tmp_path: Path, forkery: Forkery) -> Iterator[Callable[..., ForkedCommand]]:
    """Starts commands in `tmp_path` whose output is read while they run; at the end kills those that are left."""
    started: list[ForkedCommand] = []

    def start(*arguments: str) -> ForkedCommand:
        process = ForkedCommand(forkery, arguments, folder=tmp_path, environment=environment())
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Terminal:
    """A command on a pseudo-terminal of its own: what it shows, and the keys that a test presses."""

    def __init__(
        self, forkery: Forkery, arguments: Sequence[str], *, cwd: Path, columns: int, rows: int, env: dict[str, str]
    ) -> None:
        self.output = b""
        self._screen = Screen(columns)
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with os.fdopen(theirs, "wb", buffering=0) as screen:
            self._process = forkery.start_on((screen, screen, screen), arguments, folder=cwd, environment=env)

    def wait_for(self, text: str) -> None:
        """Wait until this has been written, anywhere on the terminal."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.text:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} never came; the terminal has:\n{self.text[-2_000:]}")

    def wait_for_more(self, times: int) -> None:
        """Wait until this many more writes have come; a live line makes them even while an agent blocks the loop."""
        deadline = time.monotonic() + PATIENCE
        for _ in range(times):
            if not self._read(deadline):
                raise AssertionError(f"nothing more came; the terminal has:\n{self.text[-2_000:]}")

    def press(self, keys: bytes) -> None:
        """Type; `b"\\x03"` is Ctrl-C."""
        os.write(self._fd, keys)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        """Wait for the end; gives the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self._process.wait(PATIENCE)

    @property
    def text(self) -> str:
        """Everything that was written, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output.decode(errors="replace"))

    @property
    def lines(self) -> list[str]:
        """What a person sees at the end."""
        return self._screen.show(self.output.decode(errors="replace"))

    def hang_up(self) -> None:
        """Close the terminal, as closing a window does, and wait for the end."""
        os.close(self._fd)
        self._fd = -1
        self._process.wait(PATIENCE)

    def close(self) -> None:
        self._process.kill()
        if self._fd >= 0:
            os.close(self._fd)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing happens any more; the terminal has:\n{self.text[-2_000:]}")
        try:
            data = os.read(self._fd, 65_536)
        except OSError:  # how Linux says that the other side is gone
            return False
        self.output += data
        return bool(data)


class Screen:
    """As much of a terminal as the command line uses: new lines, erasing a line, moving up, wrapping at the edge."""

    _TOKENS = re.compile(
        r"\x1b\[(?P<arguments>[0-9;?]*)(?P<command>[A-Za-z])|(?P<control>[\r\n\x07])|(?P<text>[^\x1b\r\n\x07]+)"
    )

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def show(self, output: str) -> list[str]:
        lines, row, column = [""], 0, 0
        for token in self._TOKENS.finditer(output):
            if token["control"] == "\r":
                column = 0
            elif token["control"] == "\n":
                row += 1
                lines += [""] * (row - len(lines) + 1)
            elif token["text"]:
                for character in token["text"]:
                    if column >= self._columns:
                        row, column = row + 1, 0
                        lines += [""] * (row - len(lines) + 1)
                    line = lines[row].ljust(column)
                    lines[row] = line[:column] + character + line[column + 1 :]
                    column += 1
            elif token["command"] == "A":
                row -= int(token["arguments"] or 1)
            elif token["command"] == "K":
                lines[row] = ""
            else:
                assert token["command"] in {"m", "h", "l", None}, f"unknown to this screen: {token[0]!r}"
        while lines and not lines[-1].strip():
            lines.pop()
        return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(tmp_path: Path, forkery: Forkery) -> Iterator[Callable[..., Terminal]]:
    """Starts commands in `tmp_path`, each on a terminal of its own; at the end kills those that are left."""
    opened: list[Terminal] = []

    def start(*arguments: str, columns: int = 80, rows: int = 50, **env: str) -> Terminal:
        opened.append(Terminal(forkery, arguments, cwd=tmp_path, columns=columns, rows=rows, env=environment(**env)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
