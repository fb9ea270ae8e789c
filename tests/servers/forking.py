"""Processes of `trackside` that are forked from one that has imported everything: the same program without start-up.

Python's start and a server's imports are most of the CPU time of a short life, and all tests together start hundreds.
The tests that start the executable see that it does the same: `tests/acceptance/test_serve*.py` and `test_worker*.py`,
and those that type into shells there.

    with Forkery() as forkery, log.open("ab") as said:
        process = forkery.start(["serve", "--json"], folder=folder, environment={}, log=said)
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final, NoReturn, Self

from strictness import STRICT

_ROOMS: Final = tuple(
    f"trackside.app.{room}" for room in ("cli", "dashboard", "engine", "server", "storage", "streams")
)
_USED_BY_AGENTS: Final = (
    "trackside.harness.adapters.langgraph",
    "langgraph.graph",
    "langgraph.types",
    "langchain_core.messages",
)
_USED_BY_SERVERS: Final = ("asyncpg", "genai_prices.data", "sqlalchemy.ext.asyncio", "structlog.dev", "uvloop")
_USED_BY_TERMINALS: Final = ("rich._emoji_codes", "typer._adapters")
_EXECUTABLE: Final = str(Path(sys.executable).with_name("trackside"))
_MOST: Final = 1_000_000  # bytes of an order


class Forkery:
    """A process that forks one process for each order, until it is closed; the processes that it has forked go on."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)  # so that no two orders arrive as one
        with theirs:
            command = [sys.executable, *STRICT, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def start(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Any
    ) -> ForkedProcess:
        """Start the program in a folder, with nothing to read; its standard error goes to the log."""
        output, theirs = os.pipe()
        with Path(os.devnull).open("rb") as nothing, os.fdopen(theirs, "wb") as written:
            streams = (nothing, written, log)
            return self.start_on(
                streams, arguments, folder=folder, environment=environment, output=os.fdopen(output, "rb", buffering=0)
            )

    def start_on(
        self,
        streams: tuple[Any, Any, Any],
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        output: IO[bytes] | None = None,
    ) -> ForkedProcess:
        """Start the program on these standard streams; a terminal becomes its own. The second is read from `output`."""
        order = {"arguments": [*arguments], "folder": str(folder), "environment": {**environment}}
        said, tells = socket.socketpair()
        with said, tells:
            files = [stream.fileno() for stream in (*streams, tells)]
            socket.send_fds(self._orders, [json.dumps(order).encode()], files)
            tells.close()
            return ForkedProcess(said.dup(), output)

    def close(self) -> None:
        """End the process that forks."""
        self._orders.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ForkedProcess:
    """A forked process, with those methods of `subprocess.Popen` that `TracksideProcess` uses."""

    def __init__(self, said: socket.socket, output: IO[bytes] | None) -> None:
        self._said = said
        self._code: int | None = None
        self.stdout = output
        self.pid = self._heard()

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self._code is None and select.select([self._said], [], [], 0)[0]:
            self._end()
        return self._code

    def wait(self, seconds: float) -> int:
        """Wait for its end; returns the exit code, or the number of the signal that killed it, negative.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self._code is None:
            if not select.select([self._said], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired("trackside", seconds)
            self._end()
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        """Kill it, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _end(self) -> None:
        self._code = self._heard()
        self._said.close()

    def _heard(self) -> int:
        return int.from_bytes(self._said.recv(8, socket.MSG_WAITALL), "big", signed=True)


def main() -> None:
    """Fork for each order that comes."""
    code = [1]  # for a program that fails in a way nobody has foreseen
    atexit.register(leave, code)  # registered first, and so called last
    import_everything()
    gc.freeze()  # shared memory stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for the processes in between
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        while True:
            order, files, _, _ = socket.recv_fds(orders, _MOST, 4)
            if not order:
                return
            if not os.fork():
                orders.close()
                *streams, tells = files
                watch(json.loads(order), streams, tells, code)
            for file in files:
                os.close(file)


def import_everything() -> None:
    """Import everything that commands, servers and workers import in the course of time."""
    for name in (*_USED_BY_AGENTS, *_USED_BY_SERVERS, *_USED_BY_TERMINALS):
        importlib.import_module(name)
    for name in _ROOMS:
        import_all_in(importlib.import_module(name))
    importlib.import_module("trackside.app.cli.commands.parser").parser()


def import_all_in(room: ModuleType) -> None:
    for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        if ".migrations." not in module.name:
            importlib.import_module(module.name)


def leave(code: list[int]) -> None:
    """End without tearing down everything that was imported: that would be most of the time of a short life."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code[0])


def watch(order: dict[str, Any], streams: list[int], tells: int, code: list[int]) -> NoReturn:
    """Fork the program, and report its process id and how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if not child:
        os.close(tells)
        become(order, streams)
        code[0] = run()
        sys.exit()
    for stream in streams:
        os.close(stream)
    with socket.socket(fileno=tells) as teller:
        tell(teller, child)
        _, status = os.waitpid(child, 0)
        tell(teller, os.waitstatus_to_exitcode(status))
    os._exit(0)


def tell(teller: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # whoever started it may be gone
        teller.sendall(number.to_bytes(8, "big", signed=True))


def become(order: dict[str, Any], streams: list[int]) -> None:
    """Become what a shell's `trackside …` is after its imports."""
    os.setsid()
    for target, file in enumerate(streams):
        os.dup2(file, target)
        os.close(file)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):  # the tests' `nohup` may have had them ignored
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    encoding = order["environment"].get("PYTHONIOENCODING", "utf-8")
    sys.stdin = os.fdopen(0, encoding=encoding, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [str(Path(_EXECUTABLE).parent), *added]
    sys.argv = [_EXECUTABLE, *order["arguments"]]
    sys.orig_argv = [sys.executable, *sys.argv]


def run() -> int:
    """Run the program; returns its exit code."""
    from trackside.app.cli import main as program

    return program()


if __name__ == "__main__":
    main()
