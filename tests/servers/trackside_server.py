"""`trackside serve` and `trackside worker` as processes of their own, for tests to kill, stop and start again."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self, override

from forking import ForkedProcess, Forkery
from strictness import WARNINGS

EXECUTABLE: Final = Path(sys.executable).with_name("trackside")
PATIENCE: Final = 60.0  # seconds after which something that does not come counts as hanging
_READY: Final = 2.5 * PATIENCE  # the same for what has to start first: a reload does so twice, to see whether it could

_GUARD: Final = 'read word || kill -KILL "$1"'
"""Kills the server when the process that started it goes away without a word."""


def wait_until(look: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Wait until there is something to be seen; `what` names it."""
    deadline = time.monotonic() + PATIENCE
    waiting = threading.Event()
    while not look():
        assert time.monotonic() < deadline, f"not in time: {what if isinstance(what, str) else what()}"
        waiting.wait(0.02)


class TracksideProcess:
    """A process that runs in a folder, from the beginning to the end of its `with` block.

    Its methods block, so that tests with an event loop call them through `asyncio.to_thread`.

    Args:
        folder: where it runs: agents, settings and an SQLite file are looked for there.
        arguments: those of the program; it says on one line of JSON when it can be used.
        name: the name of its log.
        env: further environment variables.
        within: what starts it, such as `ip netns exec …`; it has to become that process.
        forkery: forks it, where it matters little that it starts as users start it.
        program: a program other than `trackside` that also says when it can be used.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        name: str,
        env: dict[str, str] | None = None,
        within: Sequence[str] = (),
        forkery: Forkery | None = None,
        program: Sequence[str | Path] = (EXECUTABLE,),
    ) -> None:
        self.folder = folder
        self.name = name
        self.ready: dict[str, Any] = {}
        """What it said when it could first be used."""
        self.exit_code: int | None = None
        self._arguments = arguments
        self._within = within
        self._program = program
        self._env = {**_environment(), **(env or {})}
        self._forkery = None if "LD_PRELOAD" in self._env else forkery  # a library has to be there from the start
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._unread = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, by itself or because somebody has ended it."""
        return self._process is None or self._process.poll() is not None

    @property
    def log(self) -> str:
        """What it has written to standard error, in all its lives."""
        path = self._log_file
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def _log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    def arguments(self) -> Sequence[str]:
        """The arguments with which it is started."""
        return self._arguments

    def change_environment(self, name: str, value: str | None) -> None:
        """Set a variable of the environment from the next start on; None removes it."""
        self._env.pop(name, None)
        if value is not None:
            self._env[name] = value

    def start(self) -> Self:
        """Start it; returns when it can be used.

        Raises:
            RuntimeError: it ended, or did not say so in time.
        """
        self.begin()
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def begin(self) -> None:
        """Start it without waiting until it can be used."""
        with self._log_file.open("ab") as log:
            if self._forkery is None:
                self._process = subprocess.Popen(
                    [*self._within, *self._program, *self.arguments()],
                    cwd=self.folder,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            else:
                self._process = self._forkery.start(
                    self.arguments(), folder=self.folder, environment=self._env, log=log
                )
        self.exit_code, self._unread = None, b""
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Wait until it says that it can be used; after a reload it says so once more.

        Raises:
            RuntimeError: it ended, or did not say so in time.
        """
        line = self._next_line()
        if not line:
            self.wait()
            raise RuntimeError(f"{self.name} ended with {self.exit_code}:\n{self.log[-4_000:]}")
        self.ready = json.loads(line)

    def wait_until_said(self, text: str, *, times: int = 1) -> None:
        """Wait until its log has said this `times` times."""
        wait_until(lambda: self.log.count(text) >= times, lambda: f"{self.name} says {text!r}:\n{self.log[-4_000:]}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Freeze all its threads; returns when they stand still.

        Raises:
            RuntimeError: one still runs.
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while not all(_stands_still(thread) for thread in Path(f"/proc/{self.pid}/task").iterdir()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not stand still")
            time.sleep(0.001)

    def kill(self) -> None:
        """End it as a power cut would, for the process."""
        if self.exit_code is None and self._process is not None:
            self._process.kill()
            self.wait()

    def terminate(self) -> int:
        """Tell it to stop, and wait until it has; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def restart(self) -> Self:
        """Start it again, where it was: the same database and port."""
        self.kill()
        return self.start()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait until it has ended; returns its exit code, or the number of the signal that killed it, negative.

        Raises:
            RuntimeError: it still runs.
        """
        assert self._process is not None
        try:
            self.exit_code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.name} does not end:\n{self.log[-4_000:]}") from None
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._guard is not None:
            self._guard.communicate(b"done\n")
            self._guard = None
        return self.exit_code

    def memory(self) -> int:
        """Bytes of its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _next_line(self) -> bytes:
        """The next line of standard output; empty if that has been closed."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + _READY
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise RuntimeError(f"{self.name} does not answer:\n{self.log[-4_000:]}")
                if not (more := os.read(self._process.stdout.fileno(), 65_536)):
                    return b""
                self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _stands_still(thread: Path) -> bool:
    try:
        status = (thread / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has ended
    return status.rpartition(")")[2].split()[0] == "T"


class TracksideServer(TracksideProcess):
    """A server in a folder.

    Args:
        folder: where it runs: agents, settings and an SQLite file are looked for there.
        agents: what is served, as `agents.py:echo`; if there is none, what the settings name.
        database: its address; an SQLite file in the folder if left out.
        settings: the text of `trackside.toml`; None leaves the file as it is.
        options: further options of the command line.
        env: further environment variables.
        port: 0 is any free one. `restart` takes the port that it had, so that clients find it again.
        name: the name of its log.
        within: what starts it.
        forkery: forks it.
    """

    def __init__(
        self,
        folder: Path,
        *agents: str,
        database: str = "sqlite:///runs.db",
        settings: str | None = None,
        options: Sequence[str] = (),
        env: dict[str, str] | None = None,
        port: int = 0,
        name: str = "serve",
        within: Sequence[str] = (),
        forkery: Forkery | None = None,
    ) -> None:
        arguments = ["serve", *agents, "--json", "--database", database, *options]
        super().__init__(folder, arguments, name=name, env=env, within=within, forkery=forkery)
        self.port = port
        if settings is not None:
            (folder / "trackside.toml").write_text(settings, encoding="utf-8")

    @property
    def url(self) -> str:
        """Its address."""
        return str(self.ready["url"])

    @override
    def arguments(self) -> Sequence[str]:
        return [*super().arguments(), "--port", str(self.port)]

    @override
    def wait_until_ready(self) -> None:
        super().wait_until_ready()
        self.port = self.ready["port"]


def _environment() -> dict[str, str]:
    """This process's environment without the variables from which settings would be read."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKSIDE_", "LISTEN_"))}
    return {**own, "PYTHONWARNINGS": WARNINGS, "PYTHONUTF8": "1", "NO_COLOR": "1"}
